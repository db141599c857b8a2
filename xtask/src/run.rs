//! Steps and the programs they run.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Instant;

/// Why a step failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A program could not be started.
    Start(String, io::Error),
    /// A program ended with an error, which it has told itself.
    Program(String, ExitStatus),
    /// Something else, said whole.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(program, error) => write!(f, "failed to start `{program}`: {error}"),
            Self::Program(program, status) => write!(f, "`{program}` failed: {status}"),
            Self::Other(message) => f.write_str(message),
        }
    }
}

/// Runs a step, says that it begins and how long it took.
pub(crate) fn step(name: &str, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    println!("==> {name}");
    let start = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    println!("==> {name}: {verdict} in {:.1} s", start.elapsed().as_secs_f64());
    result
}

/// Where programs built with `--release` are: beside the folder that this program is in, wherever
/// cargo is told to build.
pub(crate) fn release() -> Result<PathBuf, Failure> {
    let own =
        std::env::current_exe().map_err(|error| Failure::Other(format!("failed to find myself: {error}")))?;
    own.parent()
        .map(|folder| folder.with_file_name("release"))
        .ok_or_else(|| Failure::Other(format!("{} is in no folder", own.display())))
}

/// A program and its arguments.
pub(crate) struct Program(Command);

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.parent().unwrap_or(folder).to_owned()
}

/// The cargo that runs us.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Program {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    program(&cargo, arguments)
}

/// A program in the root of the repository.
pub(crate) fn program<'a>(name: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = &'a str>) -> Program {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root());
    Program(command)
}

impl Program {
    /// With these further arguments.
    pub(crate) fn args<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.0.args(arguments);
        self
    }

    /// With this variable in its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// In this folder.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    /// Runs it and returns what it printed if it failed; none if it did not.
    pub(crate) fn failing_output(mut self) -> Result<Option<String>, Failure> {
        let name = self.name();
        let output = self.0.output().map_err(|error| Failure::Start(name, error))?;
        let printed = [output.stdout, output.stderr].concat();
        Ok((!output.status.success()).then(|| String::from_utf8_lossy(&printed).into_owned()))
    }

    /// Runs it in sight of the user.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let name = self.name();
        match self.0.status() {
            Err(error) => Err(Failure::Start(name, error)),
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Program(name, status)),
        }
    }

    /// Runs it and returns what it printed.
    pub(crate) fn output(mut self) -> Result<String, Failure> {
        let name = self.name();
        match self.0.output() {
            Err(error) => Err(Failure::Start(name, error)),
            Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => Err(Failure::Other(format!(
                "`{name}` failed: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    }

    /// As it would be typed.
    fn name(&self) -> String {
        std::iter::once(self.0.get_program())
            .chain(self.0.get_args())
            .map(|part| part.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }
}
