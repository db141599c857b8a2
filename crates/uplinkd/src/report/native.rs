//! Hands log lines to the journal, and never waits for it.
//!
//! The native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>): a datagram is an entry. The
//! journal writes to a disk; when that hangs its queue fills up, at the very moment in which the
//! uplinks may need us. So what it does not take at once is dropped, counted, and told with the next
//! line that it takes.

use std::fmt::{Debug, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The longest value of a field, in bytes; what is longer is cut, because a datagram has its limits
/// (`net.core.wmem_default`) and a line that nobody reads to its end is better than none.
const MAX_VALUE: usize = 32 * 1024;

/// The journal, as a place for log lines.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Lines that it did not take, and was not told of.
    lost: AtomicU64,
}

impl Journal {
    /// The journal of this machine.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) fn open() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // Connected to no one: a journal that is started again listens at the same place.
        match socket.send_to(&[], path) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(_) | Err(_) => Ok(Self { socket, path: path.to_owned(), lost: AtomicU64::new(0) }),
        }
    }

    fn log(&self, entry: &Entry) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let told = lost == 0 || self.takes(&lost_lines(lost));
        if !told || !self.takes(entry) {
            let again = if told { 0 } else { lost };
            self.lost.fetch_add(again + 1, Ordering::Relaxed);
        }
    }

    /// Whether it took the entry. What went wrong is nothing that could be told anywhere.
    fn takes(&self, entry: &Entry) -> bool {
        self.socket.send_to(&entry.0, &self.path).is_ok()
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::new(*event.metadata().level());
        event.record(&mut entry);
        self.log(&entry);
    }
}

/// That so many lines are missing before this one.
fn lost_lines(count: u64) -> Entry {
    let mut entry = Entry::new(Level::WARN);
    entry.put(
        "MESSAGE",
        &format!("the journal did not take what came before: {count} lines of this log are lost"),
    );
    entry.put("LOST", &count.to_string());
    entry
}

/// A line with its fields, as it is sent.
struct Entry(Vec<u8>);

impl Entry {
    fn new(level: Level) -> Self {
        // syslog(3). What happens in the usual course of things is worth a notice: little is logged.
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        let mut entry = Self(Vec::with_capacity(512));
        entry.put("PRIORITY", priority);
        entry.put("SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
        entry
    }

    /// Adds a field in the form that allows any value: name, newline, length in 64 bits from the
    /// least significant byte, value, newline.
    fn put(&mut self, name: &str, value: &str) {
        let value = value.get(..value.floor_char_boundary(MAX_VALUE)).unwrap_or(value);
        self.0.extend(name.bytes().map(|byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => byte.to_ascii_uppercase(),
            _ => b'_',
        }));
        self.0.push(b'\n');
        self.0.extend((value.len() as u64).to_le_bytes());
        self.0.extend(value.bytes());
        self.0.push(b'\n');
    }
}

/// The fields of an event: `message` is what people read.
impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(text, "{value:?}");
        self.put(field.name(), &text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::report::{journal, sample};
    use uplink_core::time::Instant;

    /// A socket where the journal's would be.
    fn listen(name: &str) -> (UnixDatagram, PathBuf) {
        let path = std::env::temp_dir().join(format!("uplinkd-journal-{}-{name}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, path)
    }

    /// The fields of the next entry; none if there is none.
    fn next(socket: &UnixDatagram) -> Option<BTreeMap<String, String>> {
        let mut buffer = [0; 65536];
        let length = socket.recv(&mut buffer).ok()?;
        let mut rest = &buffer[..length];
        let mut fields = BTreeMap::new();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (name, value) = (&rest[..end], &rest[end + 1..]);
            let (size, value) = value.split_first_chunk().unwrap();
            let size = usize::try_from(u64::from_le_bytes(*size)).unwrap();
            assert_eq!(value[size], b'\n');
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.insert(text(name), text(&value[..size]));
            rest = &value[size + 1..];
        }
        Some(fields)
    }

    #[test]
    fn a_line_has_its_fields() {
        let (socket, path) = listen("fields");
        let layer = Journal::at(&path).unwrap();
        assert_eq!(next(&socket).unwrap(), BTreeMap::new(), "whether somebody listens");
        let mut entries = Vec::new();
        // Read as they come: a socket holds few.
        let mut read = || entries.extend(std::iter::from_fn(|| next(&socket)));
        with_default(tracing_subscriber::registry().with(layer), || {
            for notice in sample::notices() {
                journal::notice(Instant::from_nanos(7_000), &notice);
                read();
            }
            tracing::error!("two\nlines");
            read();
        });
        let down = entries.iter().find(|entry| entry.get("NOTICE").is_some_and(|kind| kind == "health"));
        let expected = [
            ("AT_US", "7"),
            ("FAMILY", "ipv6"),
            ("MESSAGE", "dpu ipv6: up → down (gateway), last sign of life 1003 ms ago"),
            ("NOTICE", "health"),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "uplinkd"),
            ("UPLINK", "dpu"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(down, Some(&BTreeMap::from(expected)));
        let last = entries.last().unwrap();
        assert_eq!((last["MESSAGE"].as_str(), last["PRIORITY"].as_str()), ("two\nlines", "3"));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_journal_that_is_full_is_not_waited_for_and_told_what_it_missed() {
        let (socket, path) = listen("full");
        let journal = Journal::at(&path).unwrap();
        while journal.takes(&Entry::new(Level::INFO)) {}
        for _ in 0..5 {
            journal.log(&Entry::new(Level::INFO));
        }
        while next(&socket).is_some() {}
        journal.log(&Entry::new(Level::ERROR));
        journal.log(&Entry::new(Level::ERROR));
        let told = std::iter::from_fn(|| next(&socket)).collect::<Vec<_>>();
        let priorities: Vec<&str> = told.iter().map(|entry| entry["PRIORITY"].as_str()).collect();
        assert_eq!(priorities, ["4", "3", "3"]);
        assert_eq!(told[0]["LOST"], "5");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn without_a_journal_there_is_none_and_one_that_is_full_is_one() {
        assert!(Journal::at(Path::new("/nowhere")).is_err());
        let (_socket, path) = listen("late");
        while Journal::at(&path).unwrap().takes(&Entry::new(Level::INFO)) {}
        assert!(Journal::at(&path).is_ok());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_value_without_end_is_cut() {
        let (socket, path) = listen("long");
        let journal = Journal::at(&path).unwrap();
        next(&socket);
        let mut entry = Entry::new(Level::INFO);
        entry.put("MESSAGE", &"ä".repeat(1_000_000));
        journal.log(&entry);
        assert_eq!(next(&socket).unwrap()["MESSAGE"].len(), MAX_VALUE);
        std::fs::remove_file(path).unwrap();
    }
}
