//! The log: to the journal with fields that can be filtered for, or in plain lines to a terminal.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use uplink_core::event::Outcome;
use uplink_core::status::{Health, Notice};
use uplink_core::time::Instant;
use uplink_core::wire::{Subject, micros};

use super::native::Journal;

/// A pause longer than this is worth a warning: the machine was suspended, or far too busy.
const LONG_SLEEP: Duration = Duration::from_secs(1);

/// Sends everything logged from now on to where it belongs. To be called once, first of all.
pub(crate) fn init() {
    let journal = stderr_is_journal().then(Journal::open).and_then(Result::ok);
    // It fails only if it was called before; then the log has its place already.
    let _ = match journal {
        Some(journal) => {
            set_global_default(tracing_subscriber::registry().with(LevelFilter::INFO).with(journal))
        }
        None => set_global_default(
            tracing_subscriber::fmt()
                .with_max_level(LevelFilter::INFO)
                .with_writer(io::stderr)
                .with_ansi(false)
                .with_target(false)
                .without_time()
                // The other fields repeat what the message says; they are for filters.
                .fmt_fields(format::debug_fn(|writer, field, value| match field.name() {
                    "message" => write!(writer, "{value:?}"),
                    _ => Ok(()),
                }))
                .finish(),
        ),
    };
}

/// Logs a notice: its sentence, and what it is about as fields, in the journal `NOTICE=`, `UPLINK=`,
/// `FAMILY=` and `AT_US=`.
pub(crate) fn notice(at: Instant, notice: &Notice) {
    let Subject { kind, uplink, family } = Subject::of(notice);
    let family = family.map(tracing::field::display);
    // The macros want the level to be constant.
    macro_rules! log {
        ($level:expr) => {
            tracing::event!($level, notice = kind, uplink, family, at_us = micros(at), "{notice}")
        };
    }
    if needs_attention(notice) {
        log!(Level::WARN);
    } else {
        log!(Level::INFO);
    }
}

/// Somebody may want to look: a path fell, or we cannot do what we should.
fn needs_attention(notice: &Notice) -> bool {
    match notice {
        Notice::Health { now, .. } => matches!(now, Health::Down(_)),
        Notice::Elected { now, .. } => now.is_empty(),
        Notice::Gateway { gateway, .. } => gateway.is_none(),
        Notice::LeavesGateway { health, .. } => matches!(health, Health::Down(_)),
        Notice::Interface { interface, .. } => interface.is_none(),
        Notice::Refused { outcome, .. } => *outcome != Outcome::Done,
        Notice::Left(_) | Notice::Stranger { .. } | Notice::CannotClose(_) => true,
        Notice::Aside { aside, .. } => aside.is_some(),
        Notice::PathRules { state, .. } => state.is_hindered(),
        Notice::Asleep(span) => *span >= LONG_SLEEP,
        Notice::SetAside { .. } | Notice::Closed { .. } | Notice::Wrote { .. } | Notice::Ready => false,
    }
}

/// systemd connected standard error to the journal: `JOURNAL_STREAM` names its device and inode
/// (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stderr| File::from(stderr).metadata())
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}
