//! The figures that matter most as bars, in SVG.

use std::fmt::Write;

use crate::readings::{Measure, Readings};
use crate::scenes::Scene;
use crate::table::number;

/// What is drawn: a block of bars each, on a scale of its own.
const DRAWN: [(&str, Measure); 5] = [
    ("silent gateway", Measure::Outage),
    ("carrier loss", Measure::Outage),
    ("flapping gateway", Measure::Lost),
    ("own route deleted", Measure::Restored),
    ("steady state", Measure::Cpu),
];

/// In pixels: the whole width, where bars begin, how long the longest is, how far lines are apart.
const WIDTH: u32 = 720;
const BAR_X: u32 = 130;
const BAR_MAX: f64 = 480.0;
const LINE: u32 = 22;

/// Draws bars for all contenders; `caption` tells the machine and the date.
pub(crate) fn svg(
    contenders: &[&'static str],
    scenes: &[Scene],
    readings: &Readings,
    caption: &str,
) -> String {
    let mut body = String::new();
    let mut y = LINE;
    for (title, measure) in DRAWN {
        let Some(scene) = scenes.iter().find(|scene| scene.title == title) else { continue };
        // Writing to a string does not fail, here and below.
        let _ = writeln!(
            body,
            "<text x=\"8\" y=\"{y}\" font-weight=\"bold\">{title}: {}</text>",
            measure.label()
        );
        y += LINE;
        y = bars(&mut body, y, contenders, |name| Some(readings.figure(name, scene, measure)?.median));
        y += LINE / 2;
    }
    let caption = caption.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, "<text x=\"8\" y=\"{y}\" font-size=\"11\" fill=\"#666\">{caption}</text>");
    let height = y + LINE / 2;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// A bar for each contender that has a figure; gives where the next line goes.
fn bars(body: &mut String, mut y: u32, contenders: &[&str], median: impl Fn(&str) -> Option<f64>) -> u32 {
    let known: Vec<(&str, f64)> = contenders.iter().filter_map(|name| Some((*name, median(name)?))).collect();
    let longest = known.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    for (index, (name, value)) in known.into_iter().enumerate() {
        let share = if value.is_infinite() {
            1.0
        } else if longest > 0.0 {
            value / longest
        } else {
            0.0
        };
        let length = (share * BAR_MAX).max(1.0);
        let colour = match (index, value.is_infinite()) {
            (_, true) => "#c44",
            (0, false) => "#2a7",
            (_, false) => "#89a",
        };
        let (top, text) = (y - 13, f64::from(BAR_X) + length + 6.0);
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{BAR_X}\" y=\"{top}\" width=\"{length:.1}\" height=\"16\" fill=\"{colour}\"/>\
             <text x=\"{text:.1}\" y=\"{y}\">{}</text>",
            BAR_X - 8,
            number(value)
        );
        y += LINE;
    }
    y
}
