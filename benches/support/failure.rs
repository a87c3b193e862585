//! Why a measurement did not come about, and the end on request.

use std::io;
use std::path::{Path, PathBuf};

/// What goes wrong while filesystems are measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A system call failed.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A program failed, or could not be run.
    #[error("{command}: {said}")]
    Program {
        /// The command line.
        command: String,
        /// Its exit code, if it ran to an end.
        code: Option<i32>,
        /// Its error output, or why it did not run.
        said: String,
    },
    /// This is not possible here, and no fault: a program is missing, or the filesystem can't do it.
    #[error("{0}")]
    Absent(String),
    /// What was to be measured did not come about.
    #[error("{0}")]
    Idle(String),
    /// The user wants the run to end.
    #[error("interrupted")]
    Interrupted,
}

/// The outcome of a part of a benchmark.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Makes a function from an error of `what` applied to `path`, for `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Failure {
        let path = path.to_owned();
        move |source| Failure::Io { what, path, source: source.into() }
    }
}
