//! `docs/operations.md` lists every setting and every field of log lines, and `docs/metrics.md` every metric: an operator need not read the source.

use std::fmt::Write as _;
use std::ops::Range;

use taskflow::config::KEYS;
use taskflow::telemetry::log::FIELDS;
use taskflow::telemetry::metrics::{self, Described};

const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
const METRICS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

fn read(path: &str) -> String {
    std::fs::read_to_string(path).expect("the page is there")
}

fn between(page: &str, name: &str) -> Range<usize> {
    let begin = page.find(&format!("<!-- {name}: begin")).expect("the marker is there");
    let begin = begin + page[begin..].find("-->\n").expect("the marker has an end") + 4;
    let end = page.find(&format!("<!-- {name}: end")).expect("the marker is there");
    begin..end
}

fn settings_table() -> String {
    let mut table = "| key | variable | |\n| --- | --- | --- |\n".to_owned();
    for (key, sentences) in KEYS {
        let meaning = sentences
            .iter()
            .map(|sentence| sentence.trim())
            .collect::<Vec<_>>()
            .join(" ");
        writeln!(table, "| `{key}` | `TASKFLOW_{}` | {meaning} |", key.to_uppercase()).expect("writing into memory");
    }
    table
}

/// Each metric with its kind, its help, and the values of its labels.
fn metrics_table() -> String {
    let mut table = "| metric | kind | |\n| --- | --- | --- |\n".to_owned();
    for Described {
        name,
        help,
        kind,
        labels,
    } in metrics::ALL
    {
        write!(table, "| `{name}` | {kind} | {help}").expect("writing into memory");
        for (label, values) in *labels {
            write!(table, " `{label}`: {}.", values.join(", ")).expect("writing into memory");
        }
        table += " |\n";
    }
    table
}

fn fields_table() -> String {
    let mut table = "| field | |\n| --- | --- |\n".to_owned();
    for (name, meaning) in FIELDS {
        writeln!(table, "| `{name}` | {meaning} |").expect("writing into memory");
    }
    table
}

fn is_current(path: &str, name: &str, want: &str) {
    let page = read(path);
    assert!(
        page[between(&page, name)] == *want,
        "the table in {path} must be:\n\n{want}"
    );
}

#[test]
fn the_page_lists_every_setting() {
    is_current(SETTINGS, "settings", &settings_table());
}

#[test]
fn the_page_lists_every_field_of_log_lines() {
    is_current(SETTINGS, "fields", &fields_table());
}

#[test]
fn the_page_lists_every_metric() {
    is_current(METRICS, "metrics", &metrics_table());
}

/// Not a test: writes the tables into the pages. Asked for by hand only.
#[test]
#[ignore = "writes docs/operations.md and docs/metrics.md; UPDATE_DOCS=1 asks for it"]
fn write_the_tables() {
    if std::env::var_os("UPDATE_DOCS").is_none() {
        return;
    }
    for (path, name, table) in [
        (SETTINGS, "settings", settings_table()),
        (SETTINGS, "fields", fields_table()),
        (METRICS, "metrics", metrics_table()),
    ] {
        let mut page = read(path);
        let range = between(&page, name);
        page.replace_range(range, &table);
        std::fs::write(path, page).expect("the page can be written");
    }
}
