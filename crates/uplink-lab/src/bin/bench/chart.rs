//! The figures that matter most as bars, in SVG, on light and on dark ground.

use std::fmt::Write;

use crate::contenders::Contender;
use crate::readings::{Measure, Readings};
use crate::scenes::Scene;
use crate::table::number;

/// What is drawn: a block of bars each, on a scale of its own.
const DRAWN: [(&str, Measure, Unit); 6] = [
    ("silent gateway", Measure::Outage, Unit::Millis),
    ("carrier loss", Measure::Outage, Unit::Millis),
    ("30 % loss", Measure::Lost, Unit::None),
    ("flapping gateway", Measure::Lost, Unit::None),
    ("own route deleted", Measure::Restored, Unit::Millis),
    ("steady state", Measure::Cpu, Unit::None),
];

/// What stands behind a figure.
#[derive(Debug, Clone, Copy)]
enum Unit {
    /// Milliseconds, or seconds where that reads better.
    Millis,
    /// Nothing: the heading tells it.
    None,
}

/// In pixels: the whole width, where bars begin, how long the longest is, how high a line is.
const WIDTH: u32 = 720;
const BAR_X: u32 = 170;
const BAR_MAX: f64 = 440.0;
const LINE: u32 = 22;

/// Colours by class, for both grounds: the reader's program chooses.
const STYLE: &str = "<style>\n\
    .ground{fill:#fff} text{fill:#1f2328} .note{fill:#59636e}\n\
    .ours{fill:#1a7f37} .other{fill:#8c959f} .never{fill:#cf222e}\n\
    @media (prefers-color-scheme: dark){\n\
    .ground{fill:#0d1117} text{fill:#f0f6fc} .note{fill:#9198a1}\n\
    .ours{fill:#3fb950} .other{fill:#656c76} .never{fill:#f85149}}\n\
    </style>\n";

/// Draws bars for all contenders; `machine` tells the machine and the date.
pub(crate) fn svg(contenders: &[Contender], scenes: &[Scene], readings: &Readings, machine: &str) -> String {
    let mut body = String::new();
    let mut y = LINE + LINE / 2;
    for (title, measure, unit) in DRAWN {
        let Some(scene) = scenes.iter().find(|scene| scene.title == title) else { continue };
        let median = |contender: &Contender| Some(readings.figure(contender.name(), scene, measure)?.median);
        let known: Vec<_> = contenders.iter().filter_map(|who| Some((who, median(who)?))).collect();
        if known.is_empty() {
            continue;
        }
        let heading = escaped(&format!("{title}: {}", heading(measure, unit)));
        // Writing to a string does not fail, here and below.
        let _ = writeln!(body, "<text x=\"12\" y=\"{y}\" font-weight=\"bold\">{heading}</text>");
        y += LINE;
        y = bars(&mut body, y, &known, unit);
        y += LINE / 2;
    }
    let mut notes = vec!["Less is better. Medians; each block has a scale of its own.".to_owned()];
    if contenders.iter().any(Contender::needs_gateway) {
        notes.push("* needs a gateway that cooperates: it runs the other end of BFD.".to_owned());
    }
    notes.push(machine.to_owned());
    for note in notes {
        let _ = writeln!(
            body,
            "<text x=\"12\" y=\"{y}\" font-size=\"11\" class=\"note\">{}</text>",
            escaped(&note)
        );
        y += LINE * 3 / 4;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
         height=\"{y}\" font-family=\"sans-serif\" font-size=\"13\">\n{STYLE}\
         <rect width=\"{WIDTH}\" height=\"{y}\" class=\"ground\"/>\n{body}</svg>\n"
    )
}

/// A measure in words, without its unit where that stands at each bar.
fn heading(measure: Measure, unit: Unit) -> &'static str {
    let label = measure.label();
    match unit {
        Unit::Millis => label.split_once(',').map_or(label, |(words, _)| words),
        Unit::None => label,
    }
}

/// A bar for each; gives where the next line goes.
fn bars(body: &mut String, mut y: u32, known: &[(&Contender, f64)], unit: Unit) -> u32 {
    let longest = known.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    for (contender, value) in known {
        let share = match *value {
            value if value.is_infinite() => 1.0,
            value if longest > 0.0 => value / longest,
            _ => 0.0,
        };
        let class = match (contender, value.is_infinite()) {
            (_, true) => "never",
            (Contender::Uplinkd(..), false) => "ours",
            (_, false) => "other",
        };
        let star = if contender.needs_gateway() { " *" } else { "" };
        let name = escaped(&format!("{}{star}", contender.name()));
        let (length, top, name_x) = ((share * BAR_MAX).max(1.0), y - 13, BAR_X - 8);
        let _ = writeln!(
            body,
            "<text x=\"{name_x}\" y=\"{y}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{BAR_X}\" y=\"{top}\" width=\"{length:.1}\" height=\"16\" class=\"{class}\"/>\
             <text x=\"{:.1}\" y=\"{y}\">{}</text>",
            f64::from(BAR_X) + length + 6.0,
            told(*value, unit)
        );
        y += LINE;
    }
    y
}

/// A value with its unit.
fn told(value: f64, unit: Unit) -> String {
    match unit {
        _ if value.is_infinite() => "never".to_owned(),
        Unit::Millis if value >= 1000.0 => format!("{} s", number(value / 1000.0)),
        Unit::Millis => format!("{} ms", number(value)),
        Unit::None => number(value),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::{NEVER, Sample};
    use crate::scenes::SCENES;

    #[test]
    fn a_value_has_the_unit_that_it_is_read_best_in() {
        assert_eq!(told(870.4, Unit::Millis), "870 ms");
        assert_eq!(told(12_800.0, Unit::Millis), "12.8 s");
        assert_eq!(told(NEVER, Unit::Millis), "never");
        assert_eq!(told(3.0, Unit::None), "3.00");
        assert_eq!(heading(Measure::Outage, Unit::Millis), "longest outage");
    }

    #[test]
    fn each_who_was_measured_has_a_bar() {
        let contenders = [Contender::Uplinkd("uplinkd".into(), ""), Contender::Fping, Contender::Frr(300)];
        let mut readings = Readings::default();
        readings.add("uplinkd", &SCENES[0], vec![Sample(Measure::Outage, 900.0)]);
        readings.add("FRR BGP+BFD", &SCENES[0], vec![Sample(Measure::Outage, NEVER)]);
        let drawn = svg(&contenders, &SCENES, &readings, "a <machine> & more");
        assert_eq!(drawn.matches("<rect x=").count(), 2);
        assert!(drawn.contains("class=\"never\"") && drawn.contains("class=\"ours\""), "{drawn}");
        assert!(drawn.contains("FRR BGP+BFD *") && drawn.contains("a &lt;machine> &amp; more"), "{drawn}");
        assert!(!drawn.contains("steady state"), "{drawn}");
    }
}
