//! One Varlink call (<https://varlink.org>) over the daemon's socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;

/// How long to wait for the daemon, which answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest reply that is read, in bytes.
const MAX_REPLY: u64 = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// Nobody listens.
    #[error(
        "uplinkd is not running: nobody listens at {}\n\
         Start it with `systemctl start uplinkd`, or name its socket with --socket.",
        .0.display()
    )]
    NotRunning(PathBuf),
    /// We may not ask.
    #[error("you may not ask uplinkd at {}: permission denied", .0.display())]
    Denied(PathBuf),
    /// The daemon does not answer in time.
    #[error(
        "uplinkd at {} did not answer within {} s; see `systemctl status uplinkd`",
        .0.display(),
        PATIENCE.as_secs()
    )]
    Silent(PathBuf),
    /// Anything else the system says.
    #[error("failed to ask uplinkd at {}: {source}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The reply is not what we understand.
    #[error("uplinkd sent something that is not understood ({0}); are both of the same version?")]
    Strange(String),
    /// The daemon refused the call.
    #[error("uplinkd refused the call: {0}; are both of the same version?")]
    Refused(String),
}

/// A reply.
#[derive(Deserialize)]
struct Reply {
    error: Option<String>,
    #[serde(default)]
    parameters: Value,
}

/// Calls a method without parameters and returns the parameters of the reply.
///
/// # Errors
/// The daemon cannot be reached, does not answer, or refuses.
pub(crate) fn call(socket: &Path, method: &str) -> Result<Value, ClientError> {
    parameters(&exchange(socket, method).map_err(|error| explain(socket, error))?)
}

/// The parameters of a reply, which comes without its NUL.
///
/// # Errors
/// It is none, or says that the call is refused.
pub(crate) fn parameters(reply: &[u8]) -> Result<Value, ClientError> {
    let reply: Reply = serde_json::from_slice(reply).map_err(strange)?;
    match reply.error {
        Some(error) => Err(ClientError::Refused(format!("{error} {}", reply.parameters))),
        None => Ok(reply.parameters),
    }
}

/// The parameters of a reply as a record.
///
/// # Errors
/// They are something else.
pub(crate) fn decode<T: DeserializeOwned>(parameters: Value) -> Result<T, ClientError> {
    serde_json::from_value(parameters).map_err(strange)
}

/// Sends the call, and receives the reply without its NUL.
fn exchange(socket: &Path, method: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{}\0", json!({ "method": method })).as_bytes())?;
    let mut reply = Vec::new();
    BufReader::new(stream).take(MAX_REPLY).read_until(0, &mut reply)?;
    match reply.pop() {
        Some(0) => Ok(reply),
        Some(_) | None => {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the reply ends early or is too large"))
        }
    }
}

/// What a failure of the system means here.
fn explain(socket: &Path, source: io::Error) -> ClientError {
    let path = socket.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(path),
        io::ErrorKind::PermissionDenied => ClientError::Denied(path),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent(path),
        _ => ClientError::Failed { path, source },
    }
}

fn strange(error: serde_json::Error) -> ClientError {
    ClientError::Strange(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// What the client says to a daemon that reads one call and sends these bytes.
    fn said(name: &str, reply: &'static [u8]) -> Result<Value, ClientError> {
        let path = std::env::temp_dir().join(format!("uplinkctl-{}-{name}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut call = Vec::new();
            stream.read_until(0, &mut call).unwrap();
            assert_eq!(call, b"{\"method\":\"io.uplinkd.GetStatus\"}\0");
            // The client may be gone before it has read everything.
            let _ = stream.get_mut().write_all(reply);
        });
        let result = call(&path, "io.uplinkd.GetStatus");
        daemon.join().unwrap();
        std::fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn a_reply_is_returned() {
        let reply = said("reply", b"{\"parameters\":{\"status\":1}}\0").unwrap();
        assert_eq!(reply, json!({ "status": 1 }));
    }

    #[test]
    fn failures_are_explained() {
        let nobody = call(Path::new("/nonexistent/io.uplinkd"), "a.b").unwrap_err();
        assert!(nobody.to_string().starts_with("uplinkd is not running: nobody listens at"));

        let refused = said(
            "refused",
            b"{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"method\":\"x\"}}\0",
        );
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("org.varlink.service.MethodNotFound {\"method\":\"x\"}"), "{refused}");

        let strange = said("strange", b"HTTP/1.1 200 OK\0").unwrap_err();
        assert!(matches!(strange, ClientError::Strange(_)), "{strange}");
        let wrong: Result<bool, _> = decode(json!(3));
        assert!(matches!(wrong, Err(ClientError::Strange(_))));

        let short = said("short", b"{\"parameters\":").unwrap_err().to_string();
        assert!(short.contains("ends early or is too large"), "{short}");

        static LARGE: [u8; 1024 * 1024 + 1] = [b' '; 1024 * 1024 + 1];
        let large = said("large", &LARGE).unwrap_err().to_string();
        assert!(large.contains("ends early or is too large"), "{large}");
    }
}
