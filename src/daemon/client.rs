//! The client's end of a control socket.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{Answer, Envelope, MAX_LINE_BYTES, Outcome, Reply, Request, VERSION};
use super::{Error, ErrorKind, Result};

/// Name of the control socket in the pool's directory.
pub(super) const SOCKET: &str = "control.sock";
/// Longest path that `sun_path` holds, its NUL aside.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Runs `f` with a path for the socket that is short enough, however long the pool's own is.
fn with_socket_path<T>(pool: &Path, f: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = pool.join(SOCKET);
    if path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
        return f(&path);
    }
    let dir = File::open(pool)?;
    f(&PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())))
}

/// Makes the socket of the pool, which this process has locked; one that a dead daemon left goes.
pub(super) fn bind(pool: &Path) -> io::Result<UnixListener> {
    remove(pool)?;
    // Nobody but the owner ever gets to connect, not even between bind and chmod.
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = with_socket_path(pool, |path| UnixListener::bind(path));
    rustix::process::umask(umask);
    listener
}

/// Removes the pool's socket.
pub(super) fn remove(pool: &Path) -> io::Result<()> {
    match std::fs::remove_file(pool.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Asks the pool's daemon; none when there is no daemon.
pub(super) fn ask(pool: &Path, request: &Request) -> Result<Option<Reply>> {
    // A stranger's pool must not lead a privileged client to somebody else's socket.
    if std::fs::symlink_metadata(pool.join(SOCKET)).is_ok_and(|meta| meta.is_symlink()) {
        return Ok(None);
    }
    let stream = match with_socket_path(pool, |path| UnixStream::connect(path)) {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::NotADirectory => Ok(None),
                io::ErrorKind::PermissionDenied => {
                    let message = format!("no permission to ask the daemon of {}", pool.display());
                    Err(Error::new(ErrorKind::Permission, message)
                        .with_hint("Use the account that mounted the pool, or root."))
                }
                _ => Err(Error::io(format_args!("reach the daemon of {}", pool.display()), &error)),
            };
        }
    };
    converse(&stream, request).map(Some)
}

fn converse(stream: &UnixStream, request: &Request) -> Result<Reply> {
    let lost = || Error::new(ErrorKind::Lost, "the pool's daemon ended before it answered");
    let envelope = Envelope { version: VERSION, request: request.clone() };
    let mut line =
        serde_json::to_vec(&envelope).map_err(|error| Error::new(ErrorKind::Io, error))?;
    line.push(b'\n');
    let mut to = stream;
    to.write_all(&line).map_err(|_| lost())?;
    let mut reader = BufReader::new(stream).take(MAX_LINE_BYTES);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).map_err(|_| lost())?;
    if line.last() != Some(&b'\n') {
        return Err(lost());
    }
    let answer: Answer = serde_json::from_slice(&line).map_err(|error| {
        Error::new(ErrorKind::Unsupported, format!("the pool's daemon gave an odd answer: {error}"))
            .with_hint("It may be of another version: unmount the pool, and mount it again.")
    })?;
    match answer.outcome {
        Outcome::Done(reply) => {
            if matches!(reply, Reply::Unmounted { closed: true }) {
                // The daemon ends now; when it has, nothing holds the pool any more.
                let _ = reader.read_until(b'\n', &mut Vec::new());
            }
            Ok(reply)
        }
        Outcome::Failed(error) => Err(error),
    }
}

/// How long a client waits for a pool that is between two processes.
#[derive(Debug)]
pub(super) struct Patience {
    since: Instant,
}

impl Patience {
    /// A closing daemon writes its dirty nodes out.
    const STOPPING: Duration = Duration::from_secs(120);
    /// Another command, or a daemon between locking the pool and listening.
    const IN_USE: Duration = Duration::from_secs(3);
    /// A daemon that takes over replays the journal.
    const TAKING_OVER: Duration = Duration::from_secs(10);
    /// Who only looks, as `df` does, keeps a mount busy for a moment, and so does a program's close of a file. A
    /// mount that another one covers is busy, too, and waits in vain.
    const BUSY: Duration = Duration::from_millis(200);
    const PAUSE: Duration = Duration::from_millis(20);

    pub(super) fn new() -> Self {
        Patience { since: Instant::now() }
    }

    /// Returns whether to try again to find a daemon that takes over, having waited a little.
    pub(super) fn between_daemons(&self) -> bool {
        self.wait(Self::TAKING_OVER)
    }

    /// Returns whether to try again to unmount what is busy, having waited a little.
    pub(super) fn while_busy(&self, error: &Error) -> bool {
        error.kind == ErrorKind::Busy && self.wait(Self::BUSY)
    }

    /// Returns whether to try again after this error, having waited a little.
    pub(super) fn again(&self, error: &Error, idempotent: bool) -> bool {
        let limit = match error.kind {
            ErrorKind::Stopping => Self::STOPPING,
            ErrorKind::InUse => Self::IN_USE,
            ErrorKind::Lost if idempotent => Self::IN_USE,
            _ => return false,
        };
        self.wait(limit)
    }

    fn wait(&self, limit: Duration) -> bool {
        let again = self.since.elapsed() < limit;
        if again {
            thread::sleep(Self::PAUSE);
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_or_stale_socket_means_no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ask(dir.path(), &Request::Status).unwrap().is_none());
        drop(bind(dir.path()).unwrap());
        assert!(dir.path().join(SOCKET).exists());
        assert!(ask(dir.path(), &Request::Status).unwrap().is_none());
        drop(bind(dir.path()).unwrap());
    }

    #[test]
    fn long_paths_work_and_the_socket_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let pool = dir.path().join("p".repeat(120));
        std::fs::create_dir(&pool).unwrap();
        let listener = bind(&pool).unwrap();
        let mode = pool.join(SOCKET).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(b"{\"version\":1,\"done\":{\"type\":\"ok\"}}\n").unwrap();
            line
        });
        assert!(matches!(ask(&pool, &Request::Status), Ok(Some(Reply::Ok))));
        assert_eq!(server.join().unwrap(), "{\"version\":1,\"request\":{\"op\":\"status\"}}\n");
    }

    #[test]
    fn a_daemon_that_goes_away_is_told_from_one_that_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let listener = bind(dir.path()).unwrap();
        let server = thread::spawn(move || drop(listener.accept().unwrap()));
        let error = ask(dir.path(), &Request::Status).unwrap_err();
        server.join().unwrap();
        assert_eq!(error.kind, ErrorKind::Lost);
        let patience = Patience::new();
        assert!(patience.again(&error, true));
        assert!(!patience.again(&error, false));
    }

    #[test]
    fn an_unmount_waits_for_who_only_looks_and_for_nobody_else() {
        let busy = Error::new(ErrorKind::Busy, "it is in use");
        let patience = Patience::new();
        let mut tries = 0;
        while patience.while_busy(&busy) {
            tries += 1;
        }
        assert!(tries > 0 && patience.since.elapsed() >= Patience::BUSY);
        let not_there = Error::new(ErrorKind::NotFound, "it is not mounted");
        assert!(!Patience::new().while_busy(&not_there));
    }
}
