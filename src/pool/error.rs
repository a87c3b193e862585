//! Why an operation on a pool failed.

use std::io;

use crate::format::{DecodeError, SlotError};
use crate::{btree, cache, journal, snapshot};

/// Why an operation on a pool failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host could not read or write.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// What was read is not what was written.
    #[error("the pool is damaged: {0}")]
    Corrupt(String),
    /// There is no room.
    #[error("the pool is full")]
    NoSpace,
    /// The volume would exceed its quota.
    #[error("the volume's quota is used up")]
    Quota,
    /// An earlier failure made the pool read-only until it is opened again.
    #[error("the pool is read-only since an error: {0}")]
    ReadOnly(String),
    /// No volume or snapshot has that name.
    #[error("there is no {0}")]
    NotFound(String),
    /// The name is taken.
    #[error("there is already a {0}")]
    Exists(String),
    /// The name is not allowed.
    #[error("{0}")]
    InvalidName(String),
    /// The snapshot has been deleted.
    #[error("the snapshot has been deleted")]
    Stale,
    /// A limit of the format is reached.
    #[error("{0}")]
    Limit(String),
    /// The superblock can't be used.
    #[error("the pool's superblock can't be used: {0}")]
    Superblock(SlotError),
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull => Error::NoSpace,
            _ => Error::Io { what, source },
        }
    }
}

impl From<cache::Error> for Error {
    fn from(error: cache::Error) -> Self {
        match error {
            cache::Error::Io { source, .. } => Error::Io { what: "reading a node", source },
            damaged => Error::Corrupt(damaged.to_string()),
        }
    }
}

impl From<btree::Error> for Error {
    fn from(error: btree::Error) -> Self {
        match error {
            btree::Error::Read(error) => error.into(),
            btree::Error::Malformed(why) => Error::Corrupt(why),
            btree::Error::NoSpace => Error::NoSpace,
        }
    }
}

impl From<snapshot::Error> for Error {
    fn from(error: snapshot::Error) -> Self {
        match error {
            snapshot::Error::Tree(error) => error.into(),
            other => Error::Corrupt(other.to_string()),
        }
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Error::Corrupt(error.to_string())
    }
}

impl From<journal::Error> for Error {
    fn from(error: journal::Error) -> Self {
        match error {
            journal::Error::Failed { cause, .. } | journal::Error::Io { cause, .. } => {
                let source = io::Error::new(cause.kind(), cause.to_string());
                Error::io("writing the journal")(source)
            }
            journal::Error::Full { .. } => Error::NoSpace,
            too_large @ journal::Error::TooLarge { .. } => Error::Limit(too_large.to_string()),
            other => Error::Corrupt(other.to_string()),
        }
    }
}
