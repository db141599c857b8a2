//! Serves the status over Varlink (<https://varlink.org>).
//!
//! Any user may ask, so no client can cost much: at most [`MAX_CLIENTS`] are connected, a request has
//! at most [`MAX_REQUEST`] bytes, and a client's next request is read after its last reply was taken.
//! No clock is needed for that: a client that neither asks nor reads keeps only its own small task
//! waiting, and is the first to go when a new one needs the place.

mod call;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use uplink_core::status::Status;

/// Where clients look for us.
pub(crate) const DEFAULT_PATH: &str = "/run/uplinkd/io.uplinkd";

/// The most clients at one time: a person, a few collectors, and some to spare.
const MAX_CLIENTS: usize = 16;

/// The length of a process's number and a line's end.
const MAX_HOLDER: u64 = 16;

/// The largest request, in bytes. Ours have less than a hundred.
const MAX_REQUEST: u64 = 64 * 1024;

/// Why the socket cannot be served.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    /// Another process serves it.
    #[error("another uplinkd is running{}: it holds {}; stop it first",
        process.map(|id| format!(" as process {id}")).unwrap_or_default(), path.display())]
    Running {
        /// The socket.
        path: PathBuf,
        /// The process, if it has written its number down already.
        process: Option<u32>,
    },
    /// Whether another process serves it cannot be seen.
    #[error("failed to see by {} whether uplinkd is running: {source}; run it as root", path.display())]
    Unseen {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that is not a socket stands in its place.
    #[error("{} is not a socket; remove it", .0.display())]
    Taken(PathBuf),
    /// The system refused.
    #[error("failed to listen at {}: {source}; the folder must exist and be writable", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that clients can connect to. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as we live, and released by the kernel however we end: so a socket whose lock is
    /// free was left behind.
    _lock: File,
}

impl Server {
    /// Listens at `path`, in a folder that is made if need be; a socket left by a process that died
    /// is replaced. To be called within a tokio runtime.
    ///
    /// # Errors
    /// Another daemon serves it, or the system refuses.
    pub(crate) fn bind(path: &Path) -> Result<Self, ServeError> {
        let refused = |source| ServeError::Refused { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(refused)?;
        }
        let lock = lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(refused)?,
            Ok(_) => return Err(ServeError::Taken(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused(error)),
        }
        let listener = UnixListener::bind(path).map_err(refused)?;
        // Everybody may read the status; there is nothing else that could be asked.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(refused)?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// Answers clients from the status last published, until it is published no more and no client
    /// can be accepted. Dropping the future closes all connections.
    pub(crate) async fn serve(self, mut status: watch::Receiver<Arc<Status>>) {
        let mut clients = Clients::default();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => clients.admit(stream, status.clone()),
                Err(error) => {
                    tracing::warn!("failed to accept a client: {error}");
                    clients.make_room(0);
                    // Most likely we have no descriptor left: look again when something happened.
                    if status.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it does not go, the next process replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether no daemon serves the socket at `path`. Nothing is made, and nothing kept: a daemon may begin
/// right after.
///
/// # Errors
/// One does, or that cannot be seen.
pub(crate) fn nobody_serves(path: &Path) -> Result<(), ServeError> {
    let unseen = |source| ServeError::Unseen { path: lock_of(path), source };
    let lock = match File::open(lock_of(path)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unseen(error)),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(running(path, lock)),
        Err(TryLockError::Error(error)) => Err(unseen(error)),
    }
}

/// The lock beside the socket, with the number of who holds it; only we can open it.
fn lock(path: &Path) -> Result<File, ServeError> {
    let refused = |source| ServeError::Refused { path: path.to_owned(), source };
    let mut lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(lock_of(path))
        .map_err(refused)?;
    match lock.try_lock() {
        Ok(()) => {
            // Where there is no room for it, whoever is refused hears no number.
            let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", process::id()));
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => Err(running(path, lock)),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

/// Where the lock is.
fn lock_of(path: &Path) -> PathBuf {
    path.with_added_extension("lock")
}

/// Somebody holds the lock.
fn running(path: &Path, lock: File) -> ServeError {
    let mut holder = String::new();
    // Whoever cannot be named holds it all the same.
    let _ = lock.take(MAX_HOLDER).read_to_string(&mut holder);
    ServeError::Running { path: path.to_owned(), process: holder.trim().parse().ok() }
}

/// The connected clients.
#[derive(Default)]
struct Clients {
    tasks: JoinSet<()>,
    connected: Vec<Client>,
    /// Counts connections and requests: tells which client was heard of last.
    turn: Arc<AtomicU64>,
}

/// One of them.
struct Client {
    task: AbortHandle,
    /// The turn of its last request.
    last: Arc<AtomicU64>,
}

impl Clients {
    /// Takes in a client.
    fn admit(&mut self, stream: UnixStream, status: watch::Receiver<Arc<Status>>) {
        self.make_room(MAX_CLIENTS - 1);
        let turn = Arc::clone(&self.turn);
        let last = Arc::new(AtomicU64::new(turn.fetch_add(1, Ordering::Relaxed)));
        let heard = {
            let last = Arc::clone(&last);
            move || last.store(turn.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed)
        };
        let task = self.tasks.spawn(attend(stream, status, heard));
        self.connected.push(Client { task, last });
    }

    /// Closes the connections of those not heard of for longest, until at most `left` are left.
    fn make_room(&mut self, left: usize) {
        while self.tasks.try_join_next().is_some() {}
        self.connected.retain(|client| !client.task.is_finished());
        self.connected.sort_by_key(|client| client.last.load(Ordering::Relaxed));
        let surplus = self.connected.len().saturating_sub(left);
        for client in self.connected.drain(..surplus) {
            client.task.abort();
        }
    }
}

/// Answers one client until it leaves or sends something that is no call. `heard` is called for each
/// request.
async fn attend(stream: UnixStream, status: watch::Receiver<Arc<Status>>, heard: impl Fn() + Send) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = Vec::new();
        let mut bounded = (&mut stream).take(MAX_REQUEST + 1);
        let whole = bounded.read_until(0, &mut request).await.is_ok() && request.pop() == Some(0);
        if !whole {
            return;
        }
        heard();
        let now = Arc::clone(&status.borrow());
        let Ok(reply) = call::answer(&request, &now) else {
            return;
        };
        if stream.get_mut().write_all(&reply).await.is_err() {
            return;
        }
        // The loop that steers shares this thread: a client that asks without pause waits its turn.
        tokio::task::yield_now().await;
    }
}

/// The reply to a request, if it is a call, for tests with arbitrary bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_request(request: &[u8], status: &Status) -> Option<Vec<u8>> {
    call::answer(request, status).ok()
}
