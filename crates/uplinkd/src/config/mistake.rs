//! What can be wrong with a configuration, and how it is shown.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use thiserror::Error;

/// How much of a mistake is told in one line: names and values in a file may be as long as that.
const BRIEF_MAX: usize = 500;

/// Why there is no policy.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file cannot be opened or read.
    #[error("failed to read {}: {error}\n  = help: check the path and who may read it", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said. Not called the source: the message says it where it belongs.
        error: io::Error,
    },
    /// The file is larger than any configuration.
    #[error("{file} is larger than 1 MiB\n  = help: this is not a configuration of uplinkd; check the path")]
    TooLarge {
        /// The file.
        file: String,
    },
    /// The text has a mistake; rendered with file, line, column, source, caret and remedy.
    #[error("{0}")]
    Mistake(String),
}

impl ConfigError {
    /// What is wrong and where, in one line of at most [`BRIEF_MAX`] characters.
    pub(crate) fn brief(&self) -> String {
        let lines: Vec<String> =
            self.to_string().lines().take(2).map(|line| line.trim().to_owned()).collect();
        lines.join(" ").chars().take(BRIEF_MAX).collect()
    }
}

/// A mistake in the text, not yet rendered.
#[derive(Debug)]
pub(super) struct Mistake {
    /// The bytes of the text it is about.
    span: Range<usize>,
    /// What is wrong.
    message: String,
    /// What to do about it.
    remedy: String,
}

impl Mistake {
    /// A mistake in these bytes of the text.
    pub(super) fn new(span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { span, message: message.into(), remedy: remedy.into() }
    }

    /// The same mistake with another remedy.
    pub(super) fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }

    /// The mistake as people see it.
    pub(super) fn at(&self, file_name: &str, text: &str) -> ConfigError {
        let place = Place::of(text, &self.span);
        let gutter = " ".repeat(place.line.to_string().len());
        let mut shown = format!(
            "{}\n{gutter}--> {file_name}:{}:{}\n{gutter} |\n{} | {}\n{gutter} | {}{}\n",
            self.message, place.line, place.column, place.line, place.source, place.indent, place.carets
        );
        // Writing to a string does not fail.
        let _ = write!(shown, "{gutter} = help: {}", self.remedy);
        ConfigError::Mistake(shown)
    }
}

/// A span in terms of lines.
struct Place<'a> {
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// The whole line.
    source: &'a str,
    /// As wide as what stands before the span.
    indent: String,
    /// As wide as the span within this line, at least one.
    carets: String,
}

impl<'a> Place<'a> {
    /// The place of `span` in `text`. A span past the end is at the end.
    fn of(text: &'a str, span: &Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let head = before.get(line_start..).unwrap_or_default();
        let tail = after.lines().next().unwrap_or_default();
        let marked = span.end.saturating_sub(start).min(tail.len());
        let marked = tail.get(..tail.floor_char_boundary(marked)).unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: head.chars().count() + 1,
            source: text.get(line_start..start + tail.len()).unwrap_or_default(),
            indent: head.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect(),
            carets: "^".repeat(marked.chars().count().max(1)),
        }
    }
}
