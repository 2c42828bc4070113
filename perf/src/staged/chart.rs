//! Line charts as inline SVG: no script, no network. Pure.

use std::fmt::Write as _;

use super::outcome::number;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 26.0;
const COLORS: [&str; 4] = ["#1767aa", "#c4501b", "#2c8a4b", "#7a3fa0"];
const LINES: u32 = 4;

/// One line of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    /// Time in seconds and value; where there is no value the line is broken.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// A chart with its title and legend; `stages` are the times at which stages began. Empty if there
/// is nothing to show.
pub(crate) fn chart(title: &str, series: &[Series], stages: &[f64]) -> String {
    let values = series.iter().flat_map(|line| line.points.iter().filter_map(|point| point.1));
    let Some(most) = values.reduce(f64::max) else { return String::new() };
    let times = series.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let last = times.fold(1.0, f64::max);
    let top = round_up(most);
    let x = |time: f64| LEFT + time / last * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (1.0 - value / top) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
        escape(title)
    );
    for line in 0..=LINES {
        let value = top * f64::from(line) / f64::from(LINES);
        let (at, label) = (y(value), number(value));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for stage in stages {
        let at = x(*stage);
        let bottom = HEIGHT - BOTTOM;
        let _ = write!(
            svg,
            "<line class=\"stage\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.0}\">0 s</text>\
         <text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{} s</text>",
        HEIGHT - 8.0,
        WIDTH - RIGHT,
        HEIGHT - 8.0,
        number(last.round())
    );
    for (line, color) in series.iter().zip(COLORS.iter().cycle()) {
        let _ = write!(svg, "<path stroke=\"{color}\" d=\"{}\"/>", path(&line.points, x, y));
    }
    svg.push_str("</svg><p class=\"legend\">");
    for (line, color) in series.iter().zip(COLORS.iter().cycle()) {
        let _ = write!(svg, "<span style=\"color:{color}\">&#9644; {}</span> ", escape(line.name));
    }
    svg.push_str("</p></figure>\n");
    svg
}

fn path(points: &[(f64, Option<f64>)], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut pen_up = true;
    for (time, value) in points {
        if let Some(value) = value {
            let step = if pen_up { 'M' } else { 'L' };
            let _ = write!(path, "{step}{:.1} {:.1}", x(*time), y(*value));
        }
        pen_up = value.is_none();
    }
    path
}

/// 1, 2, 2.5 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    steps.iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(value)
}

/// A text that HTML takes as it is.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_line_by_series_that_breaks_where_nothing_is_known() {
        let points = vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(3.0)), (3.0, Some(2.0))];
        let series = [Series { name: "a<b", points: points.clone() }, Series { name: "c", points }];
        let svg = chart("Rate", &series, &[0.0, 2.0]);
        assert_eq!(svg.matches("<path").count(), 2);
        assert_eq!(svg.matches("class=\"stage\"").count(), 2);
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
        let (_, rest) = svg.split_once("d=\"M").unwrap();
        let path = rest.split('"').next().unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (1, 1), "{path}");
    }

    #[test]
    fn nothing_to_show_is_no_chart() {
        let series = [Series { name: "a", points: vec![(0.0, None)] }];
        assert_eq!(chart("Rate", &series, &[]), "");
    }

    #[test]
    fn scales_end_at_round_numbers() {
        assert_eq!([0.0, 0.7, 3.0, 21.0, 100.0].map(round_up), [1.0, 1.0, 5.0, 25.0, 100.0]);
    }
}
