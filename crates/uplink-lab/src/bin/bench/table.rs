//! The figures as plain tables, one for each scene, with ratios to the first contender; and in which of
//! them the first is not the best.

use std::fmt::Write;

use crate::contenders::Contender;
use crate::readings::{Figure, Measure, NEVER, Readings};
use crate::scenes::Scene;

/// Width of the contender's name.
const LABEL: usize = 22;
/// Least width of a measure.
const COLUMN: usize = 18;
/// What is no more than this part worse is called equal: the machine itself differs by as much from
/// one minute to the next.
const EQUAL: f64 = 1.1;

/// All figures: a table for each scene, with a line for each contender and a column for each measure.
pub(crate) fn tables(contenders: &[Contender], scenes: &[Scene], readings: &Readings) -> String {
    let tables = scenes.iter().map(|scene| table(contenders, scene, readings));
    tables.collect::<Vec<_>>().concat()
}

/// Where a contender that needs no help of the gateway is better than ours.
pub(crate) fn behind(contenders: &[Contender], scenes: &[Scene], readings: &Readings) -> Vec<String> {
    let mut lines = Vec::new();
    let Some((ours, others)) = contenders.split_first() else { return lines };
    for scene in scenes {
        for measure in Measure::SHOWN.into_iter().filter(|measure| measure.is_judged()) {
            let median = |contender: &Contender| {
                readings.figure(contender.name(), scene, measure).map(|figure| figure.median)
            };
            let Some(own) = median(ours) else { continue };
            let better = others.iter().filter(|other| !other.needs_gateway()).filter_map(|other| {
                let value = median(other).filter(|value| is_worse(own, *value))?;
                Some(format!("{} {}", other.name(), number(value)))
            });
            let better: Vec<String> = better.collect();
            if !better.is_empty() {
                let (title, label) = (scene.title, measure.label());
                lines.push(format!(
                    "{title}, {label}: {} {}, {}",
                    ours.name(),
                    number(own),
                    better.join(", ")
                ));
            }
        }
    }
    lines
}

/// Whether a value is plainly worse than another.
fn is_worse(value: f64, other: f64) -> bool {
    value > other * EQUAL
}

/// A table; nothing if nobody played the scene.
fn table(contenders: &[Contender], scene: &Scene, readings: &Readings) -> String {
    let is_known = |measure: &Measure| {
        contenders.iter().any(|contender| readings.figure(contender.name(), scene, *measure).is_some())
    };
    let measures: Vec<Measure> = Measure::SHOWN.into_iter().filter(is_known).collect();
    let mut text = String::new();
    if measures.is_empty() {
        return text;
    }
    // Writing to a string does not fail, here and below.
    let _ = write!(text, "{}\n  {:LABEL$}", scene.title, "");
    for measure in &measures {
        let _ = write!(text, "  {:>COLUMN$}", measure.label());
    }
    text.push('\n');
    for contender in contenders {
        let figure = |measure: &Measure| readings.figure(contender.name(), scene, *measure);
        if !measures.iter().any(|measure| figure(measure).is_some()) {
            continue;
        }
        let star = if contender.needs_gateway() { " *" } else { "" };
        let _ = write!(text, "  {:LABEL$}", format!("{}{star}", contender.name()));
        for measure in &measures {
            let base =
                contenders.first().filter(|ours| measure.is_judged() && ours.name() != contender.name());
            let base = base.and_then(|ours| readings.figure(ours.name(), scene, *measure));
            let cell = figure(measure).map_or_else(|| "-".to_owned(), |figure| cell(figure, base));
            let _ = write!(text, "  {cell:>width$}", width = COLUMN.max(measure.label().chars().count()));
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

fn cell(figure: Figure, base: Option<Figure>) -> String {
    let mut text = number(figure.median);
    if figure.min < figure.max {
        let p95 = figure.p95.map_or_else(String::new, |p95| format!(", p95 {}", number(p95)));
        let _ = write!(text, " ({}–{}{p95})", number(figure.min), number(figure.max));
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
    use super::*;
    use crate::readings::Sample;
    use crate::scenes::SCENES;

    fn contenders() -> Vec<Contender> {
        vec![Contender::Uplinkd("uplinkd".into(), ""), Contender::Keepalived, Contender::Frr(300)]
    }

    /// Readings of the first scene: switch and packets lost of all three.
    fn readings(figures: [(f64, f64); 3]) -> Readings {
        let mut readings = Readings::default();
        for (contender, (switch, lost)) in contenders().iter().zip(figures) {
            let samples = vec![Sample(Measure::Switch, switch), Sample(Measure::Lost, lost)];
            readings.add(contender.name(), &SCENES[0], samples);
        }
        readings
    }

    #[test]
    fn a_cell_has_the_median_the_span_and_the_ratio() {
        let base = Figure { median: 2.0, min: 2.0, p95: None, max: 2.0 };
        let figure = Figure { median: 12.8, min: 11.0, p95: None, max: 120.4 };
        assert_eq!(cell(figure, Some(base)), "12.8 (11.0–120) 6.40x");
        assert_eq!(cell(base, None), "2.00");
        let many = Figure { p95: Some(80.0), ..figure };
        assert_eq!(cell(many, None), "12.8 (11.0–120, p95 80.0)");
    }

    #[test]
    fn what_never_happened_has_no_ratio() {
        let sometimes = Figure { median: NEVER, min: 3.0, p95: None, max: NEVER };
        assert_eq!(
            cell(sometimes, Some(Figure { median: 1.0, min: 1.0, p95: None, max: 1.0 })),
            "never (3.00–never)"
        );
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!([0.0, 0.25, 1500.0].map(number), ["0", "0.250", "1500"]);
    }

    #[test]
    fn a_table_has_a_line_for_each_who_played_and_a_column_for_each_measure_taken() {
        let readings = readings([(900.0, 850.0), (2700.0, 2500.0), (800.0, 790.0)]);
        let text = tables(&contenders(), &SCENES[..2], &readings);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert_eq!(lines[0], ["silent", "gateway"]);
        assert_eq!(lines[1].join(" "), "time to switch, ms packets lost");
        assert_eq!(lines[2], ["uplinkd", "900", "850"]);
        assert_eq!(lines[3], ["keepalived", "2700", "3.00x", "2500", "2.94x"]);
        assert_eq!(lines[4], ["FRR", "BGP+BFD", "*", "800", "0.889x", "790", "0.929x"]);
    }

    #[test]
    fn behind_names_who_is_better_without_help_and_by_more_than_a_tenth() {
        let better = readings([(900.0, 850.0), (700.0, 840.0), (100.0, 90.0)]);
        let lines = behind(&contenders(), &SCENES, &better);
        assert_eq!(lines, ["silent gateway, time to switch, ms: uplinkd 900, keepalived 700"]);
        let never = readings([(NEVER, 0.0), (700.0, 0.0), (100.0, 0.0)]);
        let lines = behind(&contenders(), &SCENES, &never);
        assert_eq!(lines, ["silent gateway, time to switch, ms: uplinkd never, keepalived 700"]);
        assert!(behind(&contenders(), &SCENES, &readings([(1.0, 0.0), (1.0, 0.0), (0.0, 0.0)])).is_empty());
    }
}
