//! The report as one HTML file that asks nobody for anything.

use std::fmt::Write as _;

use super::chart::{Series, Ticks, escape, lines, seconds};
use super::outcome::{Outcome, Verdict};
use super::tally::{Count, Second, Timed};

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--c0:#2f6fde;--c1:#d9822b;--c2:#2a9d6f;--c3:#c2455a}
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em}
h1{font-size:1.4em;margin:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(500px,100%),1fr));gap:1em 2em}
figure{margin:0}figcaption div{font-size:.85em}figcaption span{white-space:nowrap;margin-right:.8em}
svg{width:100%;height:auto;font:11px system-ui,sans-serif}svg text{fill:currentColor;opacity:.7}
svg line{stroke:var(--line)}svg path{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
path.c0{stroke:var(--c0)}path.c1{stroke:var(--c1)}path.c2{stroke:var(--c2)}path.c3{stroke:var(--c3)}
circle.c0{fill:var(--c0)}circle.c1{fill:var(--c1)}circle.c2{fill:var(--c2)}circle.c3{fill:var(--c3)}
i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.3em}
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.15em .9em .15em 0;text-align:right;font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left}th{font-weight:600;border-bottom:1px solid var(--line)}
.verdict{padding:.6em 1em;border-left:5px solid;margin:1em 0}
.ok{border-color:#2a9d6f;background:#2a9d6f22}.failed{border-color:#c2455a;background:#c2455a22}
.void{border-color:#d9822b;background:#d9822b22}";

/// The report.
pub fn of(outcome: &Outcome) -> String {
    let class = match outcome.verdict {
        Verdict::Ok => "ok",
        Verdict::Failed => "failed",
        Verdict::Void => "void",
    };
    let began = jiff::Timestamp::from_second(outcome.began as i64).unwrap_or_default();
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style>\n<h1>{title}</h1>\n<p>{headline}. Began \
         {began}. taskflow-loadtest {version}.</p>\n<p class=\"verdict {class}\">{conclusion}</p>\n",
        title = escape(&format!("Load test: {}", outcome.scenario.name())),
        headline = escape(&outcome.headline()),
        version = escape(&outcome.versions.loadtest),
        conclusion = escape(&outcome.conclusion()),
    );
    thresholds(&mut html, outcome);
    html.push_str("<div class=\"charts\">\n");
    html.push_str(&charts(outcome));
    html.push_str("</div>\n");
    times(&mut html, outcome);
    counts(&mut html, outcome);
    html.push_str("</html>\n");
    html
}

fn charts(outcome: &Outcome) -> String {
    let all = &outcome.tally.seconds;
    let ticks = seconds(all.len());
    let over_time = |name: &str, value: &dyn Fn(&Second) -> Option<f64>| Series {
        name: name.to_owned(),
        points: all
            .iter()
            .enumerate()
            .map(|(second, values)| (second as f64, value(values)))
            .collect(),
    };
    let quantile = |timed: Timed, share: f64| {
        over_time(&format!("p{}", share * 100.0), &|second| {
            second.latency_us.get(&timed)?.quantile_of_second_ms(share)
        })
    };
    // What never happened is no line.
    let count = |count: Count| {
        let happened = all.iter().any(|second| second.count(count) > 0);
        over_time(&count.name().replace('_', " "), &|second| {
            happened.then(|| second.count(count) as f64)
        })
    };
    let both = |timed| vec![quantile(timed, 0.5), quantile(timed, 0.99)];
    let mut html = String::new();
    for (title, timed) in [
        ("From change to screen", Timed::Push),
        ("From change to slow screens", Timed::SlowPush),
        ("From change to acknowledgement, WebSocket", Timed::Write),
        ("From change to acknowledgement, REST", Timed::Rest),
        ("Pages and searches", Timed::Read),
        ("Sign-ins", Timed::SignIn),
        ("Connections anew, until current", Timed::Reconnect),
    ] {
        html.push_str(&lines(title, "ms, of each second", &ticks, both(timed)));
    }
    let (places, percentiles) = percentiles(outcome);
    html.push_str(&lines(
        "Latency percentiles",
        "ms, of the whole run",
        &places,
        percentiles,
    ));
    let rate = vec![
        count(Count::Changes),
        count(Count::Acknowledged),
        count(Count::Reads),
        count(Count::SignIns),
    ];
    html.push_str(&lines("Rate", "a second", &ticks, rate));
    html.push_str(&lines("Pushes", "a second", &ticks, vec![count(Count::Pushes)]));
    let connections = vec![over_time("current", &|second| Some(second.connections as f64))];
    html.push_str(&lines("Connections", "", &ticks, connections));
    let again = vec![count(Count::Reconnects), count(Count::Cut), count(Count::Evicted)];
    html.push_str(&lines("Connections made again, and ended", "a second", &ticks, again));
    let errors = vec![
        count(Count::Failed),
        count(Count::Limited),
        count(Count::Retried),
        count(Count::Refused),
    ];
    html.push_str(&lines("Errors", "a second", &ticks, errors));
    let checker = vec![count(Count::Lost), count(Count::Doubled), count(Count::Disordered)];
    html.push_str(&lines("What must not be", "a second", &ticks, checker));
    html.push_str(&lines(
        "How late this client was",
        "ms, of each second",
        &ticks,
        both(Timed::Late),
    ));
    html
}

/// Each nine is as wide as the one before.
fn percentiles(outcome: &Outcome) -> (Ticks, Vec<Series>) {
    let ticks = ["0", "90", "99", "99.9", "99.99"].iter().enumerate();
    let ticks = ticks.map(|(nines, name)| (nines as f64, format!("{name} %"))).collect();
    let wanted = [
        Timed::Push,
        Timed::Write,
        Timed::Rest,
        Timed::Read,
        Timed::SignIn,
        Timed::Reconnect,
    ];
    let all = wanted.iter().filter_map(|timed| {
        let histogram = outcome.tally.latency_us.get(timed)?.of_run();
        let points = (0..=80).map(|step| {
            let nines = f64::from(step) / 20.0;
            let micros = histogram.value_at_quantile(1.0 - 10f64.powf(-nines));
            (nines, Some(micros as f64 / 1e3))
        });
        Some(Series {
            name: timed.name().replace('_', " "),
            points: points.collect(),
        })
    });
    (ticks, all.take(4).collect())
}

fn thresholds(html: &mut String, outcome: &Outcome) {
    if outcome.thresholds.is_empty() {
        return;
    }
    html.push_str("<table><tr><th>threshold<th>value<th></tr>\n");
    for judged in &outcome.thresholds {
        let value = judged
            .value
            .map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2}"));
        let met = if judged.is_met { "met" } else { "not met" };
        let threshold = escape(&judged.threshold.to_string());
        add(html, format_args!("<tr><td>{threshold}<td>{value}<td>{met}</tr>\n"));
    }
    html.push_str("</table>\n");
}

fn times(html: &mut String, outcome: &Outcome) {
    html.push_str("<table><tr><th>ms<th>times<th>mean<th>p50<th>p90<th>p99<th>p99.9<th>max</tr>\n");
    for (timed, recorded) in &outcome.tally.latency_us {
        let histogram = recorded.of_run();
        let mean = histogram.mean() / 1e3;
        add(
            html,
            format_args!("<tr><td>{}<td>{}<td>{mean:.2}", timed.name(), histogram.len()),
        );
        for share in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let millis = histogram.value_at_quantile(share) as f64 / 1e3;
            add(html, format_args!("<td>{millis:.2}"));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

fn counts(html: &mut String, outcome: &Outcome) {
    html.push_str("<table><tr><th>counted<th></tr>\n");
    for count in Count::ALL {
        let (name, number) = (count.name().replace('_', " "), outcome.tally.count(count));
        add(html, format_args!("<tr><td>{name}<td>{number}</tr>\n"));
    }
    html.push_str("</table>\n");
    if !outcome.tally.errors.is_empty() {
        html.push_str("<table><tr><th>what went wrong<th>times</tr>\n");
        for (error, number) in &outcome.tally.errors {
            add(html, format_args!("<tr><td>{}<td>{number}</tr>\n", escape(error)));
        }
        html.push_str("</table>\n");
    }
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to memory does not fail");
}
