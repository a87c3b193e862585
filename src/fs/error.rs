//! Errors of the file system layer: one variant for each errno in use.

use crate::format::DecodeError;
use crate::{btree, pool};

/// Why an operation was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EIO: a device failed or damage was found. The text says what, for the log.
    #[error("input/output error: {0}")]
    Io(String),
    /// ENXIO.
    #[error("no such address")]
    NoSuchAddress,
    /// E2BIG.
    #[error("too big")]
    TooBig,
    /// EBADF.
    #[error("bad file descriptor")]
    BadHandle,
    /// EACCES.
    #[error("permission denied")]
    AccessDenied,
    /// EBUSY.
    #[error("busy")]
    Busy,
    /// EEXIST.
    #[error("exists")]
    Exists,
    /// EXDEV.
    #[error("cross-device link")]
    CrossDevice,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// EINVAL.
    #[error("invalid argument")]
    Invalid,
    /// EFBIG.
    #[error("file too large")]
    FileTooBig,
    /// ENOSPC.
    #[error("no space left")]
    NoSpace,
    /// EROFS.
    #[error("read-only file system")]
    ReadOnly,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// ERANGE.
    #[error("out of range")]
    Range,
    /// ENAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
    /// ENOTEMPTY.
    #[error("directory not empty")]
    NotEmpty,
    /// ENODATA.
    #[error("no such attribute")]
    NoData,
    /// EOPNOTSUPP.
    #[error("not supported")]
    NotSupported,
    /// ESTALE.
    #[error("stale file handle")]
    Stale,
    /// EDQUOT.
    #[error("quota exceeded")]
    Quota,
}

impl Error {
    /// Returns the errno that the kernel is told.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NotPermitted => libc::EPERM,
            Error::NotFound => libc::ENOENT,
            Error::Io(_) => libc::EIO,
            Error::NoSuchAddress => libc::ENXIO,
            Error::TooBig => libc::E2BIG,
            Error::BadHandle => libc::EBADF,
            Error::AccessDenied => libc::EACCES,
            Error::Busy => libc::EBUSY,
            Error::Exists => libc::EEXIST,
            Error::CrossDevice => libc::EXDEV,
            Error::NotDirectory => libc::ENOTDIR,
            Error::IsDirectory => libc::EISDIR,
            Error::Invalid => libc::EINVAL,
            Error::FileTooBig => libc::EFBIG,
            Error::NoSpace => libc::ENOSPC,
            Error::ReadOnly => libc::EROFS,
            Error::TooManyLinks => libc::EMLINK,
            Error::Range => libc::ERANGE,
            Error::NameTooLong => libc::ENAMETOOLONG,
            Error::NotEmpty => libc::ENOTEMPTY,
            Error::NoData => libc::ENODATA,
            Error::NotSupported => libc::EOPNOTSUPP,
            Error::Stale => libc::ESTALE,
            Error::Quota => libc::EDQUOT,
        }
    }
}

impl From<pool::Error> for Error {
    fn from(error: pool::Error) -> Error {
        match error {
            pool::Error::NoSpace | pool::Error::Limit(_) => Error::NoSpace,
            pool::Error::Quota => Error::Quota,
            pool::Error::ReadOnly(_) => Error::ReadOnly,
            pool::Error::NotFound(_) => Error::NotFound,
            pool::Error::Exists(_) => Error::Exists,
            pool::Error::InvalidName(_) => Error::Invalid,
            pool::Error::Stale => Error::Stale,
            other @ (pool::Error::Io { .. }
            | pool::Error::Corrupt(_)
            | pool::Error::Superblock(_)) => Error::Io(other.to_string()),
        }
    }
}

impl From<btree::Error> for Error {
    fn from(error: btree::Error) -> Error {
        pool::Error::from(error).into()
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Error {
        Error::Io(error.to_string())
    }
}
