//! The tables that people read, made from the records and nothing else.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::record::{Measure, Record, Round};

/// The rows of one scenario.
pub fn table(record: &Record) -> String {
    let mut text = String::from(
        "| what | unit | measured | spread (rounds) | at least | aim | verdict |\n| --- | --- | ---: | --- | ---: | ---: | --- |\n",
    );
    for measure in &record.measures {
        row(&mut text, measure);
    }
    text
}

fn row(text: &mut String, measure: &Measure) {
    let Measure {
        what,
        unit,
        measured,
        spread: (low, high),
        rounds,
        ..
    } = measure;
    let asked = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let verdict = measure.verdict().words();
    let void = measure
        .void
        .as_deref()
        .map_or_else(String::new, |void| format!("; {void}"));
    push(
        text,
        format_args!(
            "| {what} | {unit} | {} | {}–{} ({rounds}) | {} | {} | {verdict}{void} |\n",
            number(*measured),
            number(*low),
            number(*high),
            asked(measure.at_least),
            asked(measure.aim),
        ),
    );
}

/// Three significant digits, and no more: a fourth is noise in every measurement here.
fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "–".to_owned(),
        _ if value.fract() == 0.0 => format!("{value}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The report.
pub fn whole(records: &[Record]) -> String {
    let mut text = String::from(
        "# What was measured\n\nWritten by `make bench` from the files in `results/`, which hold the raw samples. Every \
         row is the median of its rounds; the spread is the smallest and the largest of them. Ratios are taken within \
         one round, beside the reference server or the rival that ran right before or after. A round in which the load \
         client was the limit (more than 90 % of its core, or sends that were late) is void and left out.\n\n",
    );
    for record in records {
        push(&mut text, format_args!("- [{0}](#{0})\n", record.scenario));
    }
    for record in records {
        section(&mut text, record);
    }
    text
}

fn section(text: &mut String, record: &Record) {
    let Record {
        scenario,
        about,
        date,
        machine,
        ..
    } = record;
    push(text, format_args!("\n## {scenario}\n\n{about}\n\n{}\n", table(record)));
    if record.quick {
        text.push_str("A try-out with small numbers, not a measurement.\n\n");
    }
    for note in &record.notes {
        push(text, format_args!("- {note}\n"));
    }
    push(
        text,
        format_args!(
            "\n{date}, commit {}, {}, {} cores, {} MiB, Linux {}, {}; release build. Samples: \
             [`results/{scenario}.json`](results/{scenario}.json).\n\n```\n{}\n```\n\n",
            machine.commit,
            machine.processor,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            machine.rustc,
            record.commands.join("\n"),
        ),
    );
    rounds(text, &record.rounds);
}

/// Every round with its figures: subjects have figures of their own, so each subject is a table.
fn rounds(text: &mut String, rounds: &[Round]) {
    let mut seen = BTreeSet::new();
    for subject in rounds.iter().map(|round| &round.subject) {
        if !seen.insert(subject) {
            continue;
        }
        let of_subject: Vec<&Round> = rounds.iter().filter(|round| round.subject == *subject).collect();
        let names: BTreeSet<&String> = of_subject.iter().flat_map(|round| round.figures.keys()).collect();
        let heads: String = names.iter().map(|name| format!(" {name} |")).collect();
        let lines: String = names.iter().map(|_| " ---: |").collect();
        push(
            text,
            format_args!(
                "| {subject} |{heads} seconds | client % | foreign % | steal % |\n| --- |{lines} ---: | ---: | ---: | ---: |\n"
            ),
        );
        for (index, round) in of_subject.iter().enumerate() {
            let figure = |name: &&String| {
                let value = round.figures.get(*name).copied();
                format!(" {} |", value.map_or_else(|| "–".to_owned(), number))
            };
            let figures: String = names.iter().map(figure).collect();
            let void = round
                .void
                .as_deref()
                .map_or_else(String::new, |void| format!(" void: {void}"));
            let seen = round.machine;
            push(
                text,
                format_args!(
                    "| {}{void} |{figures} {:.1} | {:.0} | {:.0} | {:.0} |\n",
                    index + 1,
                    seen.seconds,
                    seen.client_percent,
                    seen.foreign_percent,
                    seen.steal_percent
                ),
            );
        }
        text.push('\n');
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Better;

    #[test]
    fn a_row_says_what_was_measured_what_was_asked_and_how_it_stands() {
        let mut record = Record::default();
        record
            .measures
            .push(Measure::new("memory", "KiB", Better::Less, &[2.5, 2.0, 3.75]).asked(3.5, 2.2));
        assert_eq!(
            table(&record).lines().last(),
            Some("| memory | KiB | 2.50 | 2–3.75 (3) | 3.50 | 2.20 | reached |")
        );
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let numbers = [0.012_345, 1.234_5, 12.345, 1234.5, 5.0, f64::NAN];
        assert_eq!(numbers.map(number), ["0.012", "1.23", "12.3", "1234", "5", "–"]);
    }
}
