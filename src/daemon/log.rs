//! Log messages: to standard error in the foreground, to the file `log` in the pool's directory in
//! the background.
//!
//! The file is kept below [`MAX_LOG_BYTES`]: when it is full it becomes `log.old`, and the one that
//! was called so before is gone. Messages from before the pool is open are kept in memory, and
//! written when it is; if it never is, whoever started the daemon is told why, and they are dropped.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::device::open_regular;

/// Name of the log file in the pool's directory.
pub const LOG_FILE: &str = "log";
/// Name of the full log file before it.
const OLD_LOG_FILE: &str = "log.old";
/// Some ten thousand lines, twice: enough to see what went before a failure.
const MAX_LOG_BYTES: u64 = 4 << 20;
/// Most bytes of messages that wait for the file.
const MAX_PENDING_BYTES: usize = 64 << 10;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// What an administrator wants to know later.
    Normal,
    /// What helps to find a fault.
    Verbose,
    /// Every request.
    Everything,
}

impl Verbosity {
    fn filter(self) -> &'static str {
        match self {
            Verbosity::Quiet => "error",
            Verbosity::Normal => "info",
            Verbosity::Verbose => "debug",
            Verbosity::Everything => "trace",
        }
    }
}

impl fmt::Display for Verbosity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.filter())
    }
}

impl FromStr for Verbosity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Verbosity::Quiet, Verbosity::Normal, Verbosity::Verbose, Verbosity::Everything];
        let found = all.into_iter().find(|verbosity| verbosity.filter() == text);
        found.ok_or_else(|| format!("`{text}` is not error, info, debug or trace"))
    }
}

fn filter(wanted: Option<&str>, verbosity: Verbosity) -> EnvFilter {
    let wanted = wanted.filter(|wanted| !wanted.is_empty());
    let parsed = wanted.and_then(|wanted| EnvFilter::try_new(wanted).ok());
    parsed.unwrap_or_else(|| EnvFilter::new(verbosity.filter()))
}

/// Sends log messages to `writer` (standard error) from now on; `wanted` is a filter of tracing's
/// that overrides the verbosity. Without effect when messages go somewhere already.
pub fn to_writer<W>(writer: W, wanted: Option<&str>, verbosity: Verbosity)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(wanted, verbosity));
    let _ = builder.with_writer(writer).with_ansi(false).try_init();
}

/// Sends log messages to a file that is named later.
pub(super) fn to_file(wanted: Option<&str>, verbosity: Verbosity) -> LogFile {
    let log = LogFile(Arc::new(Mutex::new(Target::Pending(Vec::new()))));
    let builder = tracing_subscriber::fmt().with_env_filter(filter(wanted, verbosity));
    let _ = builder.with_writer(log.clone()).with_ansi(false).try_init();
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("a thread panicked: {panic}");
        previous(panic);
    }));
    log
}

/// The log of a daemon.
#[derive(Debug, Clone)]
pub(super) struct LogFile(Arc<Mutex<Target>>);

#[derive(Debug)]
enum Target {
    Pending(Vec<u8>),
    File { dir: PathBuf, file: File, len_bytes: u64 },
}

fn open(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    open_regular(options.create(true).append(true).mode(0o600), &dir.join(LOG_FILE))
}

impl LogFile {
    /// Opens the file in the pool's directory and writes what was kept; returns the file, for
    /// standard error.
    pub(super) fn attach(&self, dir: &Path) -> io::Result<File> {
        let file = open(dir)?;
        let copy = file.try_clone()?;
        let len_bytes = file.metadata()?.len();
        let target = Target::File { dir: dir.to_owned(), file, len_bytes };
        let before = std::mem::replace(&mut *self.0.lock(), target);
        if let Target::Pending(bytes) = before {
            (&*self).write_all(&bytes)?;
        }
        Ok(copy)
    }
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock() {
            Target::Pending(pending) => {
                if pending.len() + bytes.len() <= MAX_PENDING_BYTES {
                    pending.extend_from_slice(bytes);
                }
            }
            Target::File { dir, file, len_bytes } => {
                if *len_bytes + bytes.len() as u64 > MAX_LOG_BYTES {
                    std::fs::rename(dir.join(LOG_FILE), dir.join(OLD_LOG_FILE))?;
                    *file = open(dir)?;
                    *len_bytes = 0;
                }
                file.write_all(bytes)?;
                *len_bytes += bytes.len() as u64;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = LogFile;

    fn make_writer(&'a self) -> LogFile {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_wait_for_the_file_and_a_full_one_moves_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile(Arc::new(Mutex::new(Target::Pending(Vec::new()))));
        (&log).write_all(b"early\n").unwrap();
        log.attach(dir.path()).unwrap();
        (&log).write_all(b"late\n").unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read(LOG_FILE), b"early\nlate\n");
        let mebibyte = vec![b'x'; 1 << 20];
        for _ in 0..4 {
            (&log).write_all(&mebibyte).unwrap();
        }
        assert!(read(OLD_LOG_FILE).starts_with(b"early\n"));
        assert_eq!(read(LOG_FILE).len(), 1 << 20);
    }

    #[test]
    fn verbosity_survives_the_command_line() {
        for verbosity in [Verbosity::Quiet, Verbosity::Normal, Verbosity::Everything] {
            assert_eq!(verbosity.to_string().parse(), Ok(verbosity));
        }
        assert!("loud".parse::<Verbosity>().is_err());
    }
}
