//! What came of it all: as text, as JSON, as SVG.

use std::fmt;

use serde_json::{Value, json};

use crate::chart;
use crate::contenders::Contender;
use crate::readings::{Measure, Readings};
use crate::scenes::Scene;
use crate::table;

/// Everything there is to tell.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    /// The machine and the date.
    pub(crate) machine: String,
    /// Those who took part, ours first.
    pub(crate) contenders: &'a [Contender],
    /// What was played.
    pub(crate) scenes: &'a [Scene],
    /// What was measured.
    pub(crate) readings: &'a Readings,
    /// What else is to be known.
    pub(crate) remarks: Vec<String>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "median (min–max), and how many times as much as uplinkd; less is better\n")?;
        write!(f, "{}", table::tables(self.contenders, self.scenes, self.readings))?;
        if self.contenders.iter().any(Contender::needs_gateway) {
            writeln!(f, "* needs a gateway that cooperates: it runs the other end of BFD")?;
        }
        writeln!(f, "{}", self.machine)?;
        self.remarks.iter().try_for_each(|remark| writeln!(f, "- {remark}"))?;
        let behind = table::behind(self.contenders, self.scenes, self.readings);
        let whom = "behind one that needs no help of the gateway";
        match behind.as_slice() {
            [] => writeln!(f, "uplinkd is nowhere {whom}"),
            rows => {
                writeln!(f, "uplinkd is {whom} in:")?;
                rows.iter().try_for_each(|row| writeln!(f, "- {row}"))
            }
        }
    }
}

impl Report<'_> {
    /// All samples; `null` where something never happened.
    pub(crate) fn json(&self) -> String {
        let mut figures = Vec::new();
        for contender in self.contenders {
            for scene in self.scenes {
                for measure in Measure::SHOWN.into_iter().chain([Measure::Overruns]) {
                    let samples = self.readings.samples(contender.name(), scene, measure);
                    if !samples.is_empty() {
                        figures.push(figure(contender, scene, measure, &samples));
                    }
                }
            }
        }
        let contenders = self.contenders.iter().map(|contender| {
            json!({
                "name": contender.name(),
                "about": contender.about(),
                "needs a gateway that cooperates": contender.needs_gateway(),
            })
        });
        let all = json!({
            "machine": self.machine,
            "contenders": contenders.collect::<Value>(),
            "remarks": self.remarks,
            "behind": table::behind(self.contenders, self.scenes, self.readings),
            "figures": figures,
        });
        format!("{all:#}\n")
    }

    /// The figures that matter most.
    pub(crate) fn svg(&self) -> String {
        chart::svg(self.contenders, self.scenes, self.readings, &self.machine)
    }
}

fn figure(contender: &Contender, scene: &Scene, measure: Measure, samples: &[f64]) -> Value {
    json!({
        "contender": contender.name(),
        "scene": scene.title,
        "measure": measure.label(),
        // What is infinite has no number in JSON and becomes null.
        "samples": samples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::{NEVER, Sample};
    use crate::scenes::SCENES;

    #[test]
    fn json_has_every_sample_and_null_for_what_never_happened() {
        let contenders = [Contender::Uplinkd("uplinkd".into(), ""), Contender::KeepalivedBfd];
        let mut readings = Readings::default();
        for switch in [NEVER, 900.5] {
            readings.add("uplinkd", &SCENES[0], vec![Sample(Measure::Switch, switch)]);
        }
        let remarks = vec!["quiet".to_owned()];
        let (machine, scenes) = ("a machine".to_owned(), SCENES.as_slice());
        let report = Report { machine, contenders: &contenders, scenes, readings: &readings, remarks };
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["machine"], "a machine");
        assert_eq!(json["remarks"], json!(["quiet"]));
        assert_eq!(json["contenders"][1]["needs a gateway that cooperates"], true);
        let expected = json!([{
            "contender": "uplinkd",
            "scene": "silent gateway",
            "measure": "time to switch, ms",
            "samples": [900.5, null],
        }]);
        assert_eq!(json["figures"], expected);
    }
}
