//! The machine and the date, without which figures mean nothing.

use std::fs;
use std::thread::available_parallelism;

use uplink_lab::tool;

/// Processor, how many of them, kernel, date.
pub(crate) fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let cores = available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = tool("date").args(["-u", "+%F"]).output().map(|output| output.stdout).unwrap_or_default();
    let date = String::from_utf8_lossy(&date);
    format!("{model}, {cores} cores, Linux {}, {}", kernel.trim(), date.trim())
}
