//! Failures as they go over the control socket: a kind for programs, a sentence and a hint for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::device::PoolDirError;
use crate::fuse::MountError;
use crate::{fs, pool};

/// What sort of failure it was; part of the control protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request can't be right in any state of the pool: a bad name, a bad option.
    Usage,
    /// The pool, volume, snapshot or directory does not exist.
    NotFound,
    /// The name is taken.
    Exists,
    /// It is in use: an open file, a mount.
    Busy,
    /// Another process has the pool open.
    InUse,
    /// The path holds no pool.
    NotAPool,
    /// The host denies access.
    Permission,
    /// The pool, or the filesystem it lies on, can't be written.
    ReadOnly,
    /// Pool or host are full, or a quota is reached.
    NoSpace,
    /// The pool is damaged.
    Corrupt,
    /// The pool was written by a newer AmberFS, or the kernel lacks something.
    Unsupported,
    /// The daemon is closing the pool: ask again when it is gone.
    Stopping,
    /// The daemon ended before it answered; whether the request was carried out is not known.
    Lost,
    /// Any other failure of the system.
    Io,
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The sort of failure.
    pub kind: ErrorKind,
    /// Why it failed, without saying what was attempted.
    pub message: String,
    /// What to do about it, as a whole sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error without a hint.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Error { kind, message: message.to_string(), hint: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Makes an error of kind [`ErrorKind::Io`] from a failed system call: "cannot OP: reason".
    pub fn io(op: impl fmt::Display, source: &std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("cannot {op}: {source}"))
    }
}

impl From<PoolDirError> for Error {
    fn from(error: PoolDirError) -> Self {
        let (kind, hint) = match &error {
            PoolDirError::NotFound(_) => (
                ErrorKind::NotFound,
                "Make a pool with `amberfs pool create`, or add --create to a mount.",
            ),
            PoolDirError::NotAPool { .. } => {
                (ErrorKind::NotAPool, "Give the directory that `amberfs pool create` made.")
            }
            PoolDirError::InUse { .. } => (
                ErrorKind::InUse,
                "One process at a time has a pool open: wait for it to end, or unmount the pool's volumes.",
            ),
            PoolDirError::Exists { .. } => {
                (ErrorKind::Exists, "A pool needs a directory that is missing or empty.")
            }
            PoolDirError::ReadOnlyHost(_) => (
                ErrorKind::ReadOnly,
                "A pool needs a filesystem that can be written, even for reading: its journal is replayed.",
            ),
            PoolDirError::Permission { .. } => (
                ErrorKind::Permission,
                "A pool belongs to the user who made it: use that account, or root.",
            ),
            PoolDirError::Io { source, .. } => {
                return Error {
                    kind: Error::io("", source).kind,
                    message: error.to_string(),
                    hint: None,
                };
            }
        };
        Error::new(kind, &error).with_hint(hint)
    }
}

impl From<pool::Error> for Error {
    fn from(error: pool::Error) -> Self {
        use pool::Error as E;
        let (kind, hint) = match &error {
            E::Io { .. } => (ErrorKind::Io, ""),
            E::Corrupt(_) => (
                ErrorKind::Corrupt,
                "`amberfs check POOL --data` tells what is damaged; the rest stays readable.",
            ),
            E::Superblock(_) => (
                ErrorKind::Corrupt,
                "Both copies of the superblock are unusable: this is no pool, or restore it from a backup.",
            ),
            E::NoSpace => (
                ErrorKind::NoSpace,
                "Delete snapshots or files, or give the host's filesystem more room.",
            ),
            E::Quota => {
                (ErrorKind::NoSpace, "Raise it with `amberfs volume set POOL:VOLUME quota=SIZE`.")
            }
            E::ReadOnly(_) => (
                ErrorKind::ReadOnly,
                "Unmount the pool's volumes and mount them again; its log tells more.",
            ),
            E::NotFound(_) | E::Stale => (ErrorKind::NotFound, ""),
            E::Exists(_) => (ErrorKind::Exists, "Choose another name, or delete that one first."),
            E::InvalidName(_) => (
                ErrorKind::Usage,
                "A name has 1 to 255 bytes without slashes and control characters, and no dot at its start.",
            ),
            E::Limit(_) => (ErrorKind::Unsupported, ""),
        };
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        Error { kind, message: error.to_string(), hint }
    }
}

impl From<fs::Error> for Error {
    fn from(error: fs::Error) -> Self {
        let source = std::io::Error::from_raw_os_error(error.errno());
        let kind = match error.errno() {
            libc::EEXIST => ErrorKind::Exists,
            libc::EINVAL | libc::ENAMETOOLONG => ErrorKind::Usage,
            _ => Error::io("", &source).kind,
        };
        Error::new(kind, error)
    }
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Self {
        use MountError as E;
        let (kind, hint) = match &error {
            E::NoDevice { .. } => (
                ErrorKind::Unsupported,
                "Load the module with `modprobe fuse`, or give the container /dev/fuse.",
            ),
            E::Permission { .. } => (
                ErrorKind::Permission,
                "Mount as root, or install the package fuse3 for fusermount3.",
            ),
            E::MissingMountPoint { .. } => (ErrorKind::NotFound, "Make the directory first."),
            E::NotADirectory { .. } => (ErrorKind::Usage, "Give a directory."),
            E::DeadMount { .. } => (ErrorKind::Busy, "Take it away with `amberfs umount DIR`."),
            E::KernelTooOld { .. } => (ErrorKind::Unsupported, ""),
            E::Busy { .. } => (ErrorKind::Busy, "`fuser -vm DIR` lists who uses it."),
            E::Covered { .. } => (ErrorKind::Busy, "Unmount that one first."),
            E::Io { .. } => (ErrorKind::Io, ""),
        };
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        Error { kind, message: error.to_string(), hint }
    }
}
