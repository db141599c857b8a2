//! The status in one line, for `systemctl status`.

use std::fmt::Write as _;

use uplink_core::status::{FamilyStatus, Health, PathStatus, Status, names};

/// For example `ipv4 via dpu (up), ipv6 via mgmt (fallback: dpu down, gateway)`.
#[must_use]
pub(crate) fn line(status: &Status) -> String {
    let families: Vec<String> = status.families.iter().map(|family| decision(status, family)).collect();
    if families.is_empty() { "no default route and no gateway".to_owned() } else { families.join(", ") }
}

/// One family.
fn decision(status: &Status, family: &FamilyStatus) -> String {
    let mut line = family.family.to_string();
    // Writing to a string does not fail.
    let _ = match (&family.aside, family.elected.as_slice()) {
        (Some(aside), _) => write!(line, ": standing aside: {aside}"),
        (None, []) => write!(line, ": {}", family.reason),
        (None, [lead, ..]) => {
            write!(line, " via {} ({})", names(&family.elected), standing(status, family, lead))
        }
    };
    line
}

/// How the elected path is, of several one that is not well, and what a better one lacks.
fn standing(status: &Status, family: &FamilyStatus, lead: &str) -> String {
    let paths = status.uplinks.iter().filter_map(|uplink| {
        let of_family = |path: &&PathStatus| path.family == family.family;
        Some((uplink, uplink.paths.iter().find(of_family)?))
    });
    let tier = |name: &str| {
        let uplink = status.uplinks.iter().find(|uplink| uplink.name == name);
        uplink.map(|uplink| uplink.tier)
    };
    let better = paths
        .clone()
        .take_while(|(uplink, _)| uplink.name != lead)
        .find(|(uplink, _)| Some(uplink.tier) < tier(lead));
    let elected = paths.filter(|(uplink, _)| family.elected.contains(&uplink.name));
    let worst = elected.min_by_key(|(_, path)| path.health == Health::Up);
    match (better, worst) {
        (Some((uplink, path)), _) => format!("fallback: {} {}", uplink.name, health(path)),
        (None, Some((_, path))) => health(path),
        (None, None) => "gone".to_owned(),
    }
}

/// A path's health without brackets, which this line has already.
fn health(path: &PathStatus) -> String {
    match path.health {
        Health::Unknown => "unknown".to_owned(),
        Health::Up => "up".to_owned(),
        Health::Down(cause) => format!("down, {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_family_on_its_best_path_and_one_on_another() {
        assert_eq!(line(&sample::status()), "ipv4 via dpu (up), ipv6 via mgmt (fallback: dpu down, gateway)");
    }

    #[test]
    fn members_of_a_multipath_pin_are_all_named() {
        let mut status = sample::status();
        status.families.truncate(1);
        for family in &mut status.families {
            family.elected.push("spare".to_owned());
        }
        assert_eq!(line(&status), "ipv4 via dpu + spare (unknown)");
    }

    #[test]
    fn nothing_elected_and_nothing_at_all() {
        let mut status = sample::status();
        status.families.truncate(1);
        for family in &mut status.families {
            family.elected.clear();
            family.reason = uplink_core::status::Reason::NothingWorks;
        }
        assert_eq!(line(&status), "ipv4: no path is known to work");
        for family in &mut status.families {
            family.aside = Some(uplink_core::status::Aside::Tunnel);
        }
        assert_eq!(
            line(&status),
            "ipv4: standing aside: the best default route leads into a tunnel, somebody meant it"
        );
        status.families.clear();
        assert_eq!(line(&status), "no default route and no gateway");
    }
}
