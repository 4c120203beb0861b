//! Lines over a horizontal axis, as SVG that needs nothing else.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
/// Room for the figures beside and below.
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 30.0;

/// As in the page of a run, without its variables.
const FILE_STYLE: &str = "text{font:12px sans-serif;fill:#444}line{stroke:#ddd}path,circle{fill:none;stroke-width:2}\
                          .c0{stroke:#222}.c1{stroke:#2a6fdb}.c2{stroke:#d9822b}.c3{stroke:#3a9d5d}";

/// A line. Where there is no value, it is broken.
pub struct Series {
    /// As it stands in the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, Option<f64>)>,
}

/// What stands below the axis: places and their names.
pub type Ticks = Vec<(f64, String)>;

/// A chart with a title and a legend, as a part of a page. Lines without any value are left out; without lines there is no chart.
pub fn lines(title: &str, unit: &str, ticks: &Ticks, all: Vec<Series>) -> String {
    let all: Vec<Series> = all
        .into_iter()
        .filter(|series| series.points.iter().any(|(_, value)| value.is_some()))
        .collect();
    if all.is_empty() {
        return String::new();
    }
    let mut page = format!("<figure><figcaption><b>{title}</b> {unit}<div>");
    for (index, series) in all.iter().enumerate() {
        add(
            &mut page,
            format_args!("<span><i class=\"c{}\"></i>{}</span> ", index % 4, escape(&series.name)),
        );
    }
    add(
        &mut page,
        format_args!(
            "</div></figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">{}</svg></figure>\n",
            drawn(ticks, &all)
        ),
    );
    page
}

/// The same as a file of its own, which is shown on white.
pub fn file(title: &str, unit: &str, ticks: &Ticks, all: &[Series]) -> String {
    let mut legend = String::new();
    let mut x = LEFT;
    for (index, series) in all.iter().enumerate() {
        add(
            &mut legend,
            format_args!(
                "<path class=\"c{index}\" d=\"M{x:.0} -14h16\"/><text x=\"{:.0}\" y=\"-10\">{}</text>",
                x + 22.0,
                escape(&series.name)
            ),
        );
        x += 110.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 -50 {WIDTH} {}\" role=\"img\" aria-label=\"{title}, {unit}\">\
         <style>{FILE_STYLE}</style><rect y=\"-50\" width=\"{WIDTH}\" height=\"{}\" fill=\"#fff\"/>\
         <text x=\"{LEFT}\" y=\"-32\"><tspan font-weight=\"bold\">{title}</tspan> {unit}</text>{legend}{}</svg>\n",
        HEIGHT + 50.0,
        HEIGHT + 50.0,
        drawn(ticks, all)
    )
}

/// Axes, grid and lines.
fn drawn(ticks: &Ticks, all: &[Series]) -> String {
    let values = || all.iter().flat_map(|series| series.points.iter());
    let highest = values().filter_map(|(_, value)| *value).fold(0.0, f64::max);
    let step = step(highest);
    let top = (highest / step).ceil().max(1.0) * step;
    let (first, last) = values().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let across = |x: f64| LEFT + (x - first) / (last - first).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let down = |y: f64| TOP + (1.0 - y / top) * (HEIGHT - TOP - BOTTOM);
    let mut svg = String::new();
    let mut at = 0.0;
    while at <= top * 1.0001 {
        let y = down(at);
        add(
            &mut svg,
            format_args!(
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                figure(at)
            ),
        );
        at += step;
    }
    for (x, name) in ticks.iter().filter(|(x, _)| (first..=last).contains(x)) {
        add(
            &mut svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                across(*x),
                HEIGHT - 8.0,
                escape(name)
            ),
        );
    }
    for (index, series) in all.iter().enumerate() {
        let mut path = String::new();
        for run in series.points.split(|(_, value)| value.is_none()) {
            let at = |(x, value): &(f64, Option<f64>)| (across(*x), down(value.unwrap_or(0.0)));
            match run {
                [] => {}
                [alone] => {
                    let (x, y) = at(alone);
                    add(
                        &mut svg,
                        format_args!("<circle class=\"c{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>", index % 4),
                    );
                }
                run => {
                    for (step, point) in run.iter().enumerate() {
                        let (x, y) = at(point);
                        add(
                            &mut path,
                            format_args!("{}{x:.1} {y:.1}", if step == 0 { 'M' } else { 'L' }),
                        );
                    }
                }
            }
        }
        add(&mut svg, format_args!("<path class=\"c{}\" d=\"{path}\"/>", index % 4));
    }
    svg
}

/// Between two lines of the grid: 1, 2 or 5 times a power of ten, of which four or so reach the top.
fn step(highest: f64) -> f64 {
    if highest <= 0.0 {
        return 1.0;
    }
    let rough = highest / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|times| times * power >= rough * 0.999);
    times.unwrap_or(10.0) * power
}

/// Places for seconds below the axis, eight or so.
pub fn seconds(count: usize) -> Ticks {
    let every = step(count as f64 / 2.0).max(1.0) as usize;
    (0..count)
        .step_by(every)
        .map(|second| (second as f64, format!("{second} s")))
        .collect()
}

fn figure(value: f64) -> String {
    match value {
        large if large >= 10_000.0 => format!("{:.0}k", large / 1e3),
        whole if whole.fract() == 0.0 => format!("{whole:.0}"),
        small => format!("{small:.2}").trim_end_matches('0').to_owned(),
    }
}

/// Text within HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_round_figures() {
        let steps = [0.0, 0.7, 3.0, 9.0, 100.0, 16_000.0].map(step);
        assert_eq!(steps, [1.0, 0.2, 1.0, 5.0, 50.0, 5_000.0]);
        assert_eq!([0.0, 0.2, 5.0, 15_000.0].map(figure), ["0", "0.2", "5", "15k"]);
    }

    #[test]
    fn a_line_is_broken_where_nothing_was_measured() {
        let values = [Some(1.0), Some(2.0), None, Some(2.0), None, Some(1.0), Some(1.0)];
        let points = values.into_iter().enumerate().map(|(x, value)| (x as f64, value));
        let series = Series {
            name: "a<b".to_owned(),
            points: points.collect(),
        };
        let svg = lines("Pushes", "ms", &seconds(7), vec![series]);
        assert_eq!(
            (svg.matches('M').count(), svg.matches("<circle").count()),
            (2, 1),
            "{svg}"
        );
        assert!(svg.contains("a&lt;b"), "{svg}");
    }

    #[test]
    fn without_a_value_there_is_no_chart() {
        let series = Series {
            name: "nothing".to_owned(),
            points: vec![(0.0, None)],
        };
        assert_eq!(lines("Pushes", "ms", &seconds(1), vec![series]), "");
    }
}
