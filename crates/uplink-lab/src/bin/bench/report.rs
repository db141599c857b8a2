//! What came of it all: as text, as JSON, as SVG.

use std::fmt;

use serde_json::{Value, json};

use crate::chart;
use crate::readings::{Measure, Readings};
use crate::scenes::Scene;
use crate::table::table;

/// Everything there is to tell.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    /// The machine and the date.
    pub(crate) machine: String,
    /// Those who took part, ours first.
    pub(crate) contenders: &'a [&'static str],
    /// What was played.
    pub(crate) scenes: &'a [Scene],
    /// What was measured.
    pub(crate) readings: &'a Readings,
    /// What else is to be known.
    pub(crate) remarks: Vec<String>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", table(self.contenders, self.scenes, self.readings))?;
        writeln!(f, "{}", self.machine)?;
        self.remarks.iter().try_for_each(|remark| writeln!(f, "- {remark}"))
    }
}

impl Report<'_> {
    /// All samples; `null` where something never happened.
    pub(crate) fn json(&self) -> String {
        let mut figures = Vec::new();
        for contender in self.contenders {
            for scene in self.scenes {
                for measure in Measure::SHOWN.into_iter().chain([Measure::Overruns]) {
                    let samples = self.readings.samples(contender, scene, measure);
                    if !samples.is_empty() {
                        figures.push(figure(contender, scene, measure, &samples));
                    }
                }
            }
        }
        let all = json!({ "machine": self.machine, "remarks": self.remarks, "figures": figures });
        format!("{all:#}\n")
    }

    /// The figures that matter most.
    pub(crate) fn svg(&self) -> String {
        let caption = format!("Less is better. Medians. {}", self.machine);
        chart::svg(self.contenders, self.scenes, self.readings, &caption)
    }
}

fn figure(contender: &str, scene: &Scene, measure: Measure, samples: &[f64]) -> Value {
    // What is infinite has no number in JSON and becomes null.
    json!({ "contender": contender, "scene": scene.title, "measure": measure.label(), "samples": samples })
}
