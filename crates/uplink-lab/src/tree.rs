//! A Debian of this machine's own release, built once and kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

use crate::clock::now;
use crate::error::{Doing, Error, Result};
use crate::host::tool;

/// What nobody reads in a laboratory, half of what Debian's smallest system is.
const NOT_KEPT: [&str; 5] =
    ["usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt/archives", "var/lib/apt/lists"];

/// The files of a small Debian, which nobody changes: see [`Container`](crate::Container).
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
}

impl Tree {
    /// Finds the tree with these packages in a folder, or builds it there from the mirror that this
    /// machine installs from, which takes a minute and is told. It may be asked for by several
    /// programs at once. Needs root and the network, so it comes before [`enter`](crate::enter()).
    ///
    /// # Errors
    /// If it must be built, and this machine is no Debian, or `debootstrap` fails.
    pub fn debian(folder: &Path, packages: &[&str]) -> Result<Self> {
        if !geteuid().is_root() {
            return Err(Error::NeedsRoot);
        }
        fs::create_dir_all(folder).doing(format!("make {}", folder.display()))?;
        // Held until the end, and let go by the kernel if we die.
        let lock = folder.join("debian.lock");
        let lock = File::create(&lock).doing(format!("open {}", lock.display()))?;
        lock.lock().doing("wait for whoever else builds the tree")?;
        let suite = suite()?;
        let path = folder.join(format!("debian-{suite}-{}", packages.join("-")));
        // It gets its name when it is finished.
        if !path.exists() {
            build(&path, &suite, packages)?;
        }
        Ok(Self { path })
    }

    /// Its root.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[allow(clippy::disallowed_macros, reason = "who waits for a minute wants to know for what")]
fn build(path: &Path, suite: &str, packages: &[&str]) -> Result<()> {
    let begun = now();
    let (mirror, named) = (mirror(suite)?, packages.join(" "));
    println!("building a Debian tree ({suite} with {named}), once: {}", path.display());
    let part = path.with_extension("part");
    remove(&part)?;
    let log = path.with_extension("log");
    let output = File::create(&log).doing(format!("write {}", log.display()))?;
    let mut debootstrap = tool("debootstrap");
    debootstrap
        .args(["--variant=minbase", &format!("--include={}", packages.join(",")), suite])
        .arg(&part)
        .arg(mirror)
        .stderr(output.try_clone().doing("share the log")?)
        .stdout(output);
    let status = debootstrap.status().doing("start debootstrap; is it installed?")?;
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        let said = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        return Err(Error::Command { command: format!("{debootstrap:?}"), said });
    }
    NOT_KEPT.iter().try_for_each(|folder| remove(&part.join(folder)))?;
    fs::rename(&part, path).doing(format!("name {}", path.display()))?;
    println!("built in {:.0} s", now().since(begun).as_secs_f64());
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).doing(format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// What this machine's release is called (os-release(5)).
fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").doing("read /etc/os-release")?;
    let named = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let named = named.map(|name| name.trim_matches('"').to_owned());
    named.ok_or_else(|| {
        Error::Unexpected("/etc/os-release names no VERSION_CODENAME; is this a Debian?".into())
    })
}

/// Where this machine gets the packages of its release from.
fn mirror(suite: &str) -> Result<String> {
    let mut command = Command::new("apt-get");
    let format = ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"];
    let output = command.args(format).output().doing("start apt-get; is this a Debian?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fits = |line: &str| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        [address, release, "main"] if *release == suite => Some((*address).to_owned()),
        _ => None,
    };
    text.lines().find_map(fits).ok_or_else(|| {
        Error::Unexpected(format!("apt's sources have no `main` of {suite}, which this machine says it is"))
    })
}
