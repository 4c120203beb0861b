//! What is printed.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;

use super::inputs::{GROUPS, Inputs, MEASURED, PRICES_ARE, Source};
use super::plan::{FORMULA, Plan, plan};
use crate::load::chart::{self, Series};

/// The columns of the page.
pub const USERS: [u64; 3] = [100_000, 1_000_000, 100_000_000];

/// Points of the drawing: powers of ten of users, and thirds between them.
const DRAWN_FROM: i32 = 15;
const DRAWN_TO: i32 = 24;

/// A row: what, its unit, its value.
type Row = (&'static str, &'static str, fn(&Plan) -> String);

const ROWS: &[Row] = &[
    ("**users**", "", |plan| format!("**{}**", figure(plan.users))),
    ("connected in the busiest hour", "", |plan| figure(plan.connected)),
    ("connections", "", |plan| figure(plan.connections)),
    ("changes", "a second", |plan| figure(plan.changes_a_second)),
    ("pushes", "a second", |plan| figure(plan.pushes_a_second)),
    ("pages read", "a second", |plan| figure(plan.reads_a_second)),
    ("cores that are busy", "cores", |plan| figure(plan.cores)),
    ("feeds in memory", "", |plan| figure(plan.feeds)),
    ("memory", "GiB", |plan| figure(plan.memory_gib)),
    ("network, outwards", "Mbit/s", |plan| figure(plan.network_mbit)),
    ("**nodes**, the spare one included", "nodes", |plan| {
        format!("**{}**", figure(plan.nodes))
    }),
    ("what decides their number", "", |plan| plan.decided_by.to_owned()),
    ("CPU alone would want", "nodes", |plan| figure(plan.nodes_by.cpu)),
    ("memory alone", "nodes", |plan| figure(plan.nodes_by.memory)),
    ("connections alone", "nodes", |plan| figure(plan.nodes_by.connections)),
    ("network alone", "nodes", |plan| figure(plan.nodes_by.network)),
    (
        "a node fails: until all its clients are current again, at least",
        "s",
        |plan| plan.back_again_s.map_or_else(|| "–".to_owned(), figure),
    ),
    ("**nodes of the database**", "nodes", |plan| {
        format!("**{}**", figure(plan.database_nodes))
    }),
    ("cores of the database that are busy", "cores", |plan| {
        figure(plan.database_cores)
    }),
    ("disk of the database, all copies", "GiB", |plan| {
        figure(plan.database_gib)
    }),
    ("**Redis**, replicas included", "processes", |plan| {
        format!("**{}**", figure(plan.redis))
    }),
    ("nodes", "$ a month", |plan| figure(plan.cost.nodes)),
    ("database", "$ a month", |plan| figure(plan.cost.database)),
    ("Redis", "$ a month", |plan| figure(plan.cost.redis)),
    ("traffic", "$ a month", |plan| figure(plan.cost.traffic)),
    ("**all**", "$ a month", |plan| format!("**{}**", figure(plan.cost.all))),
    ("of each 1,000 users", "$ a month", |plan| {
        figure(plan.cost.all / plan.users * 1e3)
    }),
];

/// Three digits that count, thousands apart.
fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scale = 10f64.powi(2 - value.abs().log10().floor() as i32);
    let rounded = (value * scale).round() / scale;
    if rounded.abs() < 100.0 {
        let text = format!(
            "{rounded:.*}",
            (2 - rounded.abs().log10().floor() as i32).max(0) as usize
        );
        return match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        };
    }
    let digits = format!("{rounded:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number as it was given, thousands apart.
fn exact(value: f64) -> String {
    match value.fract() == 0.0 && value.abs() >= 1000.0 {
        true => figure(value),
        false => format!("{}", (value * 1e4).round() / 1e4),
    }
}

/// What so many users need.
fn needs(plans: &[Plan]) -> String {
    let mut text = String::from("| | |");
    text.push_str(&" |".repeat(plans.len()));
    text.push_str("\n| --- | --- |");
    text.push_str(&" ---: |".repeat(plans.len()));
    text.push('\n');
    for (what, unit, value) in ROWS {
        let values: Vec<String> = plans.iter().map(value).collect();
        add(
            &mut text,
            format_args!("| {what} | {unit} | {} |\n", values.join(" | ")),
        );
    }
    text
}

/// The inputs of a group.
fn group(name: &str, inputs: &Inputs) -> String {
    let mut text = String::from("| input | | | |\n| --- | ---: | --- | --- |\n");
    for input in inputs.0.iter().filter(|input| input.group == name) {
        let (value, from) = match &input.source {
            Source::Measured(place) => (figure(input.value), format!(" ({place})")),
            Source::Assumed => (exact(input.value), String::new()),
            Source::Given => (exact(input.value), " (given)".to_owned()),
        };
        add(
            &mut text,
            format_args!(
                "| `{}` | {value} | {} | {}{from} |\n",
                input.name, input.unit, input.what
            ),
        );
    }
    text
}

/// For a terminal.
pub fn table(plans: &[Plan], inputs: &Inputs) -> String {
    let mut text = needs(plans);
    for name in GROUPS {
        add(&mut text, format_args!("\n{name}\n\n{}", group(name, inputs)));
    }
    add(&mut text, format_args!("\nPrices are {PRICES_ARE}\n\n{FORMULA}"));
    text
}

/// For programs.
pub fn json(plans: &[Plan], inputs: &Inputs) -> Result<String> {
    let inputs: serde_json::Map<_, _> = inputs
        .0
        .iter()
        .map(|input| {
            let (source, place) = match &input.source {
                Source::Measured(place) => ("measured", Some(*place)),
                Source::Assumed => ("assumed", None),
                Source::Given => ("given", None),
            };
            let about =
                json!({"value": input.value, "unit": input.unit, "what": input.what, "source": source, "place": place});
            (input.name.to_owned(), about)
        })
        .collect();
    let formula: Vec<&str> = FORMULA.lines().collect();
    Ok(serde_json::to_string_pretty(
        &json!({"plans": plans, "inputs": inputs, "prices_are": PRICES_ARE, "formula": formula}),
    )?)
}

/// Dollars of 1,000 users a month, and where they go, over the number of users.
pub fn drawing(inputs: &Inputs) -> String {
    let plans: Vec<(f64, Plan)> = (DRAWN_FROM..=DRAWN_TO)
        .map(|third| f64::from(third) / 3.0)
        .map(|power| (power, plan(10f64.powf(power).round(), inputs)))
        .collect();
    let series = |name: &str, cost: fn(&Plan) -> f64| Series {
        name: name.to_owned(),
        points: plans
            .iter()
            .map(|(power, plan)| (*power, Some(cost(plan) / plan.users * 1e3)))
            .collect(),
    };
    let ticks = [
        (5.0, "100,000"),
        (6.0, "1 million"),
        (7.0, "10 million"),
        (8.0, "100 million"),
    ];
    chart::file(
        "Of each 1,000 users",
        "$ a month, by the number of users",
        &ticks.map(|(at, name)| (at, name.to_owned())).to_vec(),
        &[
            series("all", |plan| plan.cost.all),
            series("nodes", |plan| plan.cost.nodes),
            series("database", |plan| plan.cost.database),
            series("traffic", |plan| plan.cost.traffic),
        ],
    )
}

/// The page.
pub fn whole(plans: &[Plan], inputs: &Inputs) -> String {
    let mut text = String::from(
        "<!-- Generated from loadtest/results by taskflow-loadtest capacity: make docs-tables -->\n\
         # What so many users need\n\n\
         What was measured on one machine, times what is assumed of people, by a formula that is short enough to check. It plans a cluster \
         for its busiest hour. Put your own numbers in:\n\n\
         ```\n\
         taskflow-loadtest capacity --users 50000,2000000 --set changes_hour=40 --set price_core_hour=0.02\n\
         ```\n\n\
         `--format json` prints all of it for programs; `--results` names other measurements, such as those of `make bench` on a machine of \
         yours.\n\n",
    );
    text.push_str(&needs(plans));
    text.push_str(
        "\nCores, connections and network are planned for half of what there is, memory for 70 %, and there is a node more than that: one can \
         fail, or be updated, in the busiest hour. “Alone” are the nodes that each limit asks for, before that one and before rounding; the \
         largest decides.\n\n![Dollars a month of each 1,000 users](capacity.svg)\n\n\
         With few users it is the smallest cluster that costs, three nodes of the database above all; `mode: embedded` is one node without \
         database and Redis, and without a spare one.\n\n\
         ## The formula\n\n```\n",
    );
    text.push_str(FORMULA);
    text.push_str("\n```\n\n## The inputs\n");
    for name in GROUPS {
        let about = match name {
            MEASURED => {
                "Medians of the rounds that count in [REPORT.md](../loadtest/REPORT.md). µs are of one core of the machine that is named \
                 there: a cloud's core does more or less, and has to be measured."
            }
            "People" => "Assumed. Yours are on the dashboard “How is TaskFlow used?”.",
            "Machines" => "Chosen or assumed. A node's core is taken to be one like that which was measured.",
            _ => "",
        };
        let about = match about {
            "" => format!("Prices are {PRICES_ARE} What yours come to is on the dashboard “What does it cost?”."),
            about => about.to_owned(),
        };
        add(
            &mut text,
            format_args!("\n### {name}\n\n{about}\n\n{}", group(name, inputs)),
        );
    }
    text.push_str(
        "\n## What is not in it\n\n\
         - **Linear in everything.** Each cost is taken to be the same on a large cluster as on the small one that was measured: two nodes, \
         one database, one Redis, all on one machine. What grows with the number of nodes (members that tell each other of themselves, \
         notices of sign-outs) is not counted.\n\
         - **Connections of a node.** No more than 19,500 on one node were measured; the plan puts half of `connections_max` on each.\n\
         - **The database.** The conditional write was measured on one copy in memory; here it is paid on each copy. Reading (feeds that come \
         into memory, pages of feeds that are not) and compaction have to live in the half that is not planned for. The disk of a task is \
         that of the embedded store.\n\
         - **Redis.** What one carries is assumed, not measured.\n\
         - **Sign-ins with passwords.** Each takes a core for some tens of milliseconds (front-door in the report); people who stay signed in \
         need none.\n\
         - **TLS, proxies, logs, Prometheus.** Not counted.\n\
         - **All tasks of a feed at once.** A feed is taken to have 200 tasks in memory; a screen that comes for the first time reads all of \
         its feed, which is not counted.\n",
    );
    text
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results");

    /// Files of docs/ and what they must be.
    fn pages() -> [(&'static str, String); 2] {
        let inputs = Inputs::read(Path::new(RESULTS), &[]).unwrap();
        let plans: Vec<_> = USERS.iter().map(|users| plan(*users as f64, &inputs)).collect();
        [
            ("capacity.md", whole(&plans, &inputs)),
            ("capacity.svg", drawing(&inputs)),
        ]
    }

    fn path(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
    }

    #[test]
    fn the_page_is_what_the_kept_results_give() {
        for (name, expect) in pages() {
            let text = std::fs::read_to_string(path(name)).unwrap();
            assert!(
                text == expect,
                "docs/{name} is not what the results give: make docs-tables"
            );
        }
    }

    /// `make docs-tables`.
    #[test]
    #[ignore = "writes docs/capacity.md"]
    fn write_the_page() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            for (name, text) in pages() {
                std::fs::write(path(name), text).unwrap();
            }
        }
    }

    #[test]
    fn figures_have_three_digits_that_count_and_thousands_apart() {
        let figures = [0.0, 0.012_345, 1.5, 20.0, 99.95, 123.4, 15_000.0, 1_234_567.0].map(figure);
        assert_eq!(
            figures,
            ["0", "0.0123", "1.5", "20", "100", "123", "15,000", "1,230,000"]
        );
        assert_eq!([0.004, 0.5, 100_000.0].map(exact), ["0.004", "0.5", "100,000"]);
    }
}
