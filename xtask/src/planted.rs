//! Shows that the core's tests find what they are for: plants a known bug at a time, and expects the
//! tests to fail.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{Failure, cargo, program, root};

/// Where the bugs are, as patches against the core.
const PATCHES: &str = "crates/uplink-core/tests/planted";
/// A work tree of its own, so that a bug never stands in the one that is worked in.
const TREE: &str = "target/planted";

/// Plants each bug in a copy of the last commit and runs the core's tests on it.
pub(crate) fn find() -> Result<(), Failure> {
    let tree = root().join(TREE);
    let place = tree.display().to_string();
    git(&["worktree", "add", "--force", "--detach", &place, "HEAD"])?;
    let found = patches().and_then(|patches| patches.iter().try_for_each(|patch| try_one(&tree, patch)));
    git(&["worktree", "remove", "--force", &place])?;
    found
}

fn patches() -> Result<Vec<PathBuf>, Failure> {
    let folder = root().join(PATCHES);
    let unreadable = |error| Failure::Other(format!("failed to read {}: {error}", folder.display()));
    let entries = fs::read_dir(&folder).map_err(unreadable)?;
    let mut patches: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    patches.sort();
    Ok(patches)
}

fn try_one(tree: &Path, patch: &Path) -> Result<(), Failure> {
    let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let path = patch.display().to_string();
    program("git", ["apply", &path]).within(tree).run()?;
    let built = root().join("target").display().to_string();
    let tests = cargo(["test", "--quiet", "--package", "uplink-core", "--test", "core"])
        .within(tree)
        .env("CARGO_TARGET_DIR", &built)
        .env("RUST_BACKTRACE", "0")
        .failing_output();
    program("git", ["checkout", "--quiet", "."]).within(tree).run()?;
    let printed = tests?.ok_or_else(|| Failure::Other(format!("{name}: no test found it")))?;
    // The closing list of libtest has each failed test alone on a line, four spaces in.
    let caught: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.contains("::") && !line.contains(' '))
        .collect();
    if caught.is_empty() {
        return Err(Failure::Other(format!("{name}: the tests did not run:\n{printed}")));
    }
    println!("{name}: found by {} tests", caught.len());
    caught.iter().for_each(|test| println!("    {test}"));
    Ok(())
}

fn git(arguments: &[&str]) -> Result<(), Failure> {
    program("git", arguments.iter().copied()).run()
}
