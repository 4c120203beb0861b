//! `docs/operations.md` lists every setting and every metric: an operator need not read the source.

use std::fmt::Write as _;
use std::ops::Range;

use taskflow::config::KEYS;
use taskflow::telemetry::metrics;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");

fn page() -> String {
    std::fs::read_to_string(PATH).expect("docs/operations.md is there")
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

fn metrics_table() -> String {
    let mut table = "| metric | |\n| --- | --- |\n".to_owned();
    for (name, help) in metrics::ALL {
        writeln!(table, "| `{name}` | {} |", help.trim()).expect("writing into memory");
    }
    table
}

#[test]
fn the_page_lists_every_setting() {
    let (page, want) = (page(), settings_table());
    assert!(
        page[between(&page, "settings")] == want,
        "the table in {PATH} must be:\n\n{want}"
    );
}

#[test]
fn the_page_lists_every_metric() {
    let (page, want) = (page(), metrics_table());
    assert!(
        page[between(&page, "metrics")] == want,
        "the table in {PATH} must be:\n\n{want}"
    );
}

/// Not a test: writes the tables into the page. Asked for by hand only.
#[test]
#[ignore = "writes docs/operations.md; UPDATE_DOCS=1 asks for it"]
fn write_the_tables() {
    if std::env::var_os("UPDATE_DOCS").is_none() {
        return;
    }
    let mut page = page();
    for (name, table) in [("settings", settings_table()), ("metrics", metrics_table())] {
        let range = between(&page, name);
        page.replace_range(range, &table);
    }
    std::fs::write(PATH, page).expect("docs/operations.md can be written");
}
