//! The status as metrics (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde_json::json;
use uplink_core::policy::Mode;
use uplink_core::undone::Program;
use uplink_core::wire::{Election, Path, Status, Uplink};

/// The whole status as a text that Prometheus reads; none where nobody listens: whoever collects would keep
/// what was true before that.
pub(crate) fn text(status: Option<Status>) -> String {
    let mut registry = Registry::with_prefix("uplinkd");
    registry.register_collector(Box::new(Metrics(status)));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut text, &registry);
    text
}

/// What is collected.
#[derive(Debug)]
struct Metrics(Option<Status>);

/// What a sample is about.
type Labels = Vec<(&'static str, String)>;

/// One number, and what it is about.
type Sample = (Labels, f64);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, samples: Vec<Sample>| {
            if samples.is_empty() {
                return Ok(());
            }
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        gauge("up", "The daemon answers", vec![(vec![], truth(self.0.is_some()))])?;
        let Some(status) = &self.0 else { return Ok(()) };
        gauge("steering", "Routes are written", vec![(vec![], truth(status.mode == Mode::Steer))])?;
        gauge(
            "misconfigured",
            "The configuration that was read last is refused",
            vec![(vec![], truth(status.misconfigured.is_some()))],
        )?;
        gauge("ready", "Every family is decided, or the wait is over", vec![(vec![], truth(status.ready))])?;
        gauge("family_up", "An elected path works", families(status, |family| works(family, status)))?;
        gauge("elected", "The path is elected", paths(status, |uplink, path| elected(uplink, path, status)))?;
        gauge("path_up", "The path works", paths(status, |_, path| one(truth(is_up(path)))))?;
        gauge("path_down", "The path does not work, and why", paths(status, |_, path| cause(path)))?;
        gauge("path_loss_ratio", "Questions without an answer", paths(status, |_, path| loss(path)))?;
        gauge("target_up", "The target answers", paths(status, |_, path| targets(path)))?;
        gauge(
            "pin",
            "A default route of ours stands",
            families(status, |family| one(truth(family.pin.is_some()))),
        )?;
        gauge("path_rules", "Whether answers keep to their uplink", families(status, path_rules))?;
        gauge("aside", "Nothing of ours is written, and why", families(status, aside))?;
        gauge(
            "undone",
            "A program keeps undoing our default route",
            families(status, |family| undone(family.undone_by.as_ref())),
        )?;
        gauge(
            "path_rules_undone",
            "A program keeps undoing path rules",
            families(status, |family| undone(family.path_rules_undone_by.as_ref())),
        )
    }
}

/// The samples of each family.
fn families(status: &Status, samples: impl Fn(&Election) -> Vec<Sample>) -> Vec<Sample> {
    let of = |family: &Election| about(&vec![("family", family.family.to_string())], samples(family));
    status.families.iter().flat_map(of).collect()
}

/// The samples of each path.
fn paths(status: &Status, samples: impl Fn(&Uplink, &Path) -> Vec<Sample>) -> Vec<Sample> {
    let of = |(uplink, path): (&Uplink, &Path)| {
        let labels = vec![("uplink", uplink.name.clone()), ("family", path.family.to_string())];
        about(&labels, samples(uplink, path))
    };
    let all = status.uplinks.iter().flat_map(|uplink| uplink.paths.iter().map(move |path| (uplink, path)));
    all.flat_map(of).collect()
}

/// Samples with what they are all about.
fn about(labels: &Labels, samples: Vec<Sample>) -> Vec<Sample> {
    let with = |(more, value)| (labels.iter().cloned().chain(more).collect(), value);
    samples.into_iter().map(with).collect()
}

fn works(family: &Election, status: &Status) -> Vec<Sample> {
    let mut members = status.uplinks.iter().filter(|uplink| family.members.contains(&uplink.name));
    let works = |path: &Path| path.family == family.family && is_up(path);
    one(truth(members.any(|uplink| uplink.paths.iter().any(works))))
}

fn elected(uplink: &Uplink, path: &Path, status: &Status) -> Vec<Sample> {
    let of = |family: &&Election| family.family == path.family;
    one(truth(status.families.iter().find(of).is_some_and(|family| family.members.contains(&uplink.name))))
}

fn is_up(path: &Path) -> bool {
    path.health == "up"
}

fn cause(path: &Path) -> Vec<Sample> {
    path.cause.map(|cause| (vec![("cause", cause.to_string())], 1.0)).into_iter().collect()
}

fn loss(path: &Path) -> Vec<Sample> {
    path.loss_percent.map(|percent| (vec![], f64::from(percent) / 100.0)).into_iter().collect()
}

fn targets(path: &Path) -> Vec<Sample> {
    let judged = path.targets.iter().filter_map(|target| Some((target, target.answers?)));
    judged
        .map(|(target, answers)| {
            (vec![("kind", target.kind.clone()), ("target", target.address.clone())], truth(answers))
        })
        .collect()
}

fn path_rules(family: &Election) -> Vec<Sample> {
    word(family.path_rules).map(|word| (vec![("state", word)], 1.0)).into_iter().collect()
}

fn aside(family: &Election) -> Vec<Sample> {
    family.aside.and_then(word).map(|word| (vec![("cause", word)], 1.0)).into_iter().collect()
}

/// The word that the status has for it, too.
fn word(state: impl Serialize) -> Option<String> {
    json!(state).as_str().map(str::to_owned)
}

fn undone(by: Option<&Program>) -> Vec<Sample> {
    let labels = |program: &Program| {
        vec![("process", program.process.to_string()), ("name", program.name.clone().unwrap_or_default())]
    };
    by.map(|program| (labels(program), 1.0)).into_iter().collect()
}

fn one(value: f64) -> Vec<Sample> {
    vec![(vec![], value)]
}

fn truth(so: bool) -> f64 {
    f64::from(u8::from(so))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::tests::sample;

    #[test]
    fn a_status_is_metrics() {
        let mut status = sample();
        status.families[1].aside = Some(uplink_core::status::Aside::Contest);
        status.families[1].undone_by = Some(Program { process: 713, name: Some("net\"d\n".to_owned()) });
        status.families[1].path_rules_undone_by = Some(Program { process: 715, name: None });
        assert_eq!(
            text(Some(status)),
            r#"# HELP uplinkd_up The daemon answers
# TYPE uplinkd_up gauge
uplinkd_up{} 1.0
# HELP uplinkd_steering Routes are written
# TYPE uplinkd_steering gauge
uplinkd_steering{} 1.0
# HELP uplinkd_misconfigured The configuration that was read last is refused
# TYPE uplinkd_misconfigured gauge
uplinkd_misconfigured{} 0.0
# HELP uplinkd_ready Every family is decided, or the wait is over
# TYPE uplinkd_ready gauge
uplinkd_ready{} 1.0
# HELP uplinkd_family_up An elected path works
# TYPE uplinkd_family_up gauge
uplinkd_family_up{family="ipv4"} 1.0
uplinkd_family_up{family="ipv6"} 0.0
# HELP uplinkd_elected The path is elected
# TYPE uplinkd_elected gauge
uplinkd_elected{uplink="dpu",family="ipv4"} 1.0
uplinkd_elected{uplink="dpu",family="ipv6"} 0.0
# HELP uplinkd_path_up The path works
# TYPE uplinkd_path_up gauge
uplinkd_path_up{uplink="dpu",family="ipv4"} 1.0
uplinkd_path_up{uplink="dpu",family="ipv6"} 0.0
# HELP uplinkd_path_down The path does not work, and why
# TYPE uplinkd_path_down gauge
uplinkd_path_down{uplink="dpu",family="ipv6",cause="gateway"} 1.0
# HELP uplinkd_path_loss_ratio Questions without an answer
# TYPE uplinkd_path_loss_ratio gauge
uplinkd_path_loss_ratio{uplink="dpu",family="ipv4"} 0.0
# HELP uplinkd_target_up The target answers
# TYPE uplinkd_target_up gauge
uplinkd_target_up{uplink="dpu",family="ipv4",kind="icmp",target="10.0.0.53"} 1.0
# HELP uplinkd_pin A default route of ours stands
# TYPE uplinkd_pin gauge
uplinkd_pin{family="ipv4"} 1.0
uplinkd_pin{family="ipv6"} 0.0
# HELP uplinkd_path_rules Whether answers keep to their uplink
# TYPE uplinkd_path_rules gauge
uplinkd_path_rules{family="ipv4",state="connections"} 1.0
uplinkd_path_rules{family="ipv6",state="needless"} 1.0
# HELP uplinkd_aside Nothing of ours is written, and why
# TYPE uplinkd_aside gauge
uplinkd_aside{family="ipv6",cause="contest"} 1.0
# HELP uplinkd_undone A program keeps undoing our default route
# TYPE uplinkd_undone gauge
uplinkd_undone{family="ipv6",process="713",name="net\"d\n"} 1.0
# HELP uplinkd_path_rules_undone A program keeps undoing path rules
# TYPE uplinkd_path_rules_undone gauge
uplinkd_path_rules_undone{family="ipv6",process="715",name=""} 1.0
# EOF
"#
        );
    }

    #[test]
    fn without_a_daemon_nothing_stale_is_told() {
        assert_eq!(
            text(None),
            "# HELP uplinkd_up The daemon answers\n# TYPE uplinkd_up gauge\nuplinkd_up{} 0.0\n# EOF\n"
        );
    }
}
