//! The figures as a plain table, with ratios to the first contender.

use std::fmt::Write;

use crate::readings::{Figure, Measure, NEVER, Readings};
use crate::scenes::Scene;

/// Width of what is measured.
const LABEL: usize = 34;
/// Width of one contender.
const COLUMN: usize = 31;

/// All figures: a head for each scene, a line for each measure, a column for each contender.
pub(crate) fn table(contenders: &[&'static str], scenes: &[Scene], readings: &Readings) -> String {
    let mut text = format!("{:LABEL$}", "median (min–max) ratio");
    for name in contenders {
        // Writing to a string does not fail, here and below.
        let _ = write!(text, "{name:>COLUMN$}");
    }
    text.push('\n');
    for scene in scenes {
        let _ = writeln!(text, "{}", heading(scene));
        for measure in Measure::SHOWN {
            text.push_str(&row(contenders, scene, measure, readings));
        }
    }
    text
}

fn heading(scene: &Scene) -> String {
    let runs = if scene.runs == 1 { "1 run".to_owned() } else { format!("{} runs", scene.runs) };
    format!("{} ({runs})", scene.title)
}

/// A line; nothing if no contender has this figure.
fn row(contenders: &[&'static str], scene: &Scene, measure: Measure, readings: &Readings) -> String {
    let figures: Vec<_> = contenders.iter().map(|name| readings.figure(name, scene, measure)).collect();
    if figures.iter().all(Option::is_none) {
        return String::new();
    }
    let base = figures.first().copied().flatten().filter(|_| measure.is_judged());
    let mut line = format!("  {:<width$}", measure.label(), width = LABEL - 2);
    for (index, figure) in figures.iter().enumerate() {
        let base = base.filter(|_| index > 0);
        let cell = figure.map_or_else(|| "-".to_owned(), |figure| cell(figure, base));
        let _ = write!(line, "{cell:>COLUMN$}");
    }
    line.push('\n');
    line
}

fn cell(figure: Figure, base: Option<Figure>) -> String {
    let mut text = number(figure.median);
    if figure.min < figure.max {
        let _ = write!(text, " ({}–{})", number(figure.min), number(figure.max));
    }
    let ratio = base.and_then(|base| ratio(figure.median, base.median));
    ratio.map_or(text.clone(), |ratio| format!("{text} {ratio}"))
}

/// How many times as much; none where that means nothing.
fn ratio(value: f64, base: f64) -> Option<String> {
    let told = value.is_finite() && base.is_finite() && base > 0.0;
    told.then(|| format!("{}x", number(value / base)))
}

/// Three digits that count, and no more.
pub(crate) fn number(value: f64) -> String {
    match value {
        NEVER => "never".to_owned(),
        value if value == 0.0 || value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{cell, number, ratio};
    use crate::readings::{Figure, NEVER};

    #[test]
    fn a_cell_has_the_median_the_span_and_the_ratio() {
        let base = Figure { median: 2.0, min: 2.0, max: 2.0 };
        let figure = Figure { median: 12.8, min: 11.0, max: 120.4 };
        assert_eq!(cell(figure, Some(base)), "12.8 (11.0–120) 6.40x");
        assert_eq!(cell(base, None), "2.00");
    }

    #[test]
    fn what_never_happened_has_no_ratio() {
        let sometimes = Figure { median: NEVER, min: 3.0, max: NEVER };
        assert_eq!(cell(sometimes, Some(Figure { median: 1.0, min: 1.0, max: 1.0 })), "never (3.00–never)");
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!([0.0, 0.25, 1500.0].map(number), ["0", "0.250", "1500"]);
    }
}
