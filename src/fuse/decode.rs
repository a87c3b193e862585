//! Requests: from the kernel's bytes to an [`Operation`].
//!
//! Any bytes decode to a request or to an error, without a panic and without an allocation beyond
//! [`abi::MAX_GROUPS`] numbers. Names and payloads borrow from the buffer that was read into.

use super::abi::{self, fattr, flag, opcode};
use super::cursor::{Cursor, Malformed};
use crate::format::Timestamp;
use crate::fs::{SetAttr, SetTime};

/// Who asks, about which node, and how the reply finds its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the whole request.
    pub(crate) len_bytes: u32,
    pub(crate) opcode: u32,
    /// Repeated in the reply.
    pub(crate) unique: u64,
    pub(crate) node: u64,
    /// `u32::MAX` where the caller's id has no meaning in the mount's user namespace.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The calling thread; 0 for what the kernel does by itself.
    pub(crate) pid: u32,
    /// An earlier process has read it, and may have carried it out.
    pub(crate) again: bool,
    /// Length of the extensions at the request's end, in units of 8 bytes.
    extensions: u16,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) header: Header,
    /// Supplementary groups, as far as the kernel sent any (those that decide over a new file).
    pub(crate) groups: Vec<u32>,
    pub(crate) operation: Operation<'a>,
}

/// One request's parameters; the node is in the header.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        count: u64,
    },
    BatchForget {
        forgets: Forgets<'a>,
    },
    GetAttr {
        /// What the file is used through: the kernel needs its size to read or write.
        handle: Option<u64>,
    },
    SetAttr(SetAttr),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MkNod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    MkDir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RmDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        node: u64,
        new_name: &'a [u8],
    },
    Open {
        flags: u32,
        kill_suidgid: bool,
    },
    Create {
        name: &'a [u8],
        flags: u32,
        mode: u32,
        umask: u32,
    },
    TmpFile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        cached: bool,
        kill_suidgid: bool,
        /// Its caller may be gone by now: asynchronous writes are direct ones.
        direct: bool,
    },
    StatFs,
    Release {
        handle: u64,
    },
    Fsync {
        datasync: bool,
    },
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
        kill_sgid: bool,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Flush,
    OpenDir,
    ReadDir {
        offset: u64,
        size: u32,
        plus: bool,
    },
    ReleaseDir {
        handle: u64,
    },
    FsyncDir {
        datasync: bool,
    },
    Access,
    Interrupt,
    Bmap,
    Destroy,
    NotifyReply,
    Fallocate {
        offset: u64,
        len: u64,
        mode: u32,
    },
    Lseek {
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyIn),
    SyncFs,
    Statx,
    /// An opcode that this adapter does not know: ENOSYS.
    Unknown,
}

/// Source, target and length of a copy within the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CopyIn {
    pub(crate) offset_in: u64,
    pub(crate) node_out: u64,
    pub(crate) offset_out: u64,
    pub(crate) len: u64,
    pub(crate) flags: u64,
    /// The reply counts in 64 bits (opcode COPY_FILE_RANGE_64).
    pub(crate) wide: bool,
}

/// The pairs (node, count) of a BATCH_FORGET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgets<'a>(&'a [u8]);

impl Forgets<'_> {
    /// Calls `each` with every node and the number of lookups to take back.
    pub(crate) fn for_each(self, mut each: impl FnMut(u64, u64)) {
        let mut cursor = Cursor::new(self.0);
        while let (Ok(node), Ok(count)) = (cursor.u64(), cursor.u64()) {
            each(node, count);
        }
    }
}

impl Header {
    /// Reads the header and returns it with the request's body and its extensions.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Header, &[u8], &[u8]), Malformed> {
        let mut c = Cursor::new(bytes);
        let mut header = Header {
            len_bytes: c.u32()?,
            opcode: c.u32()?,
            unique: c.u64()?,
            node: c.u64()?,
            uid: c.u32()?,
            gid: c.u32()?,
            pid: c.u32()?,
            again: false,
            extensions: c.u16()?,
        };
        c.skip(2)?;
        header.again = header.unique & abi::RESENT != 0;
        if header.len_bytes as usize != bytes.len() {
            return Err(Malformed("length differs from what was read"));
        }
        let body = c.remaining();
        let at = body.len().checked_sub(usize::from(header.extensions) * 8);
        let (body, extensions) = at
            .and_then(|at| body.split_at_checked(at))
            .ok_or(Malformed("extensions longer than the request"))?;
        Ok((header, body, extensions))
    }

    /// Whether the kernel waits for a reply to it.
    pub(crate) fn wants_reply(&self) -> bool {
        !matches!(
            self.opcode,
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT | opcode::NOTIFY_REPLY
        )
    }
}

impl<'a> Request<'a> {
    /// Decodes a whole request.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body, extensions) = Header::decode(bytes)?;
        Self::decode_body(header, body, extensions)
    }

    /// Decodes what follows a header.
    pub(crate) fn decode_body(
        header: Header,
        body: &'a [u8],
        extensions: &[u8],
    ) -> Result<Self, Malformed> {
        let operation = Operation::decode(&header, Cursor::new(body))?;
        Ok(Request { header, groups: decode_groups(extensions)?, operation })
    }
}

/// Reads the supplementary groups out of a request's extensions; others are passed over.
fn decode_groups(extensions: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut groups = Vec::new();
    let mut c = Cursor::new(extensions);
    while !c.remaining().is_empty() {
        let size = c.u32()? as usize;
        let kind = c.u32()?;
        let payload = size.checked_sub(8).ok_or(Malformed("extension shorter than its header"))?;
        let mut inner = Cursor::new(c.take(payload)?);
        if kind == abi::EXT_GROUPS {
            let count = inner.u32()? as usize;
            if count > abi::MAX_GROUPS {
                return Err(Malformed("too many groups"));
            }
            for _ in 0..count {
                groups.push(inner.u32()?);
            }
        }
    }
    Ok(groups)
}

impl<'a> Operation<'a> {
    /// Whether it is a WRITE.
    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Operation::Write { .. })
    }

    /// Whether it makes a file or a directory durable.
    pub(crate) fn is_fsync(&self) -> bool {
        matches!(self, Operation::Fsync { .. } | Operation::FsyncDir { .. })
    }

    /// Bytes of files that it carries, here or in its reply.
    pub(crate) fn payload_bytes(&self) -> usize {
        match self {
            Operation::Read { size, .. } => *size as usize,
            Operation::Write { data, .. } => data.len(),
            _ => 0,
        }
    }

    /// Bytes that it may add to what is stored, beside what every change may; none if it takes no room, has been
    /// promised it, or makes room for itself ([`Context::with_room`](super::dispatch::Context::with_room)).
    pub(crate) fn most_bytes_taken(&self) -> Option<u64> {
        match self {
            Operation::MkNod { .. }
            | Operation::MkDir { .. }
            | Operation::Create { .. }
            | Operation::TmpFile { .. }
            | Operation::Rename { .. }
            | Operation::Link { .. } => Some(0),
            Operation::Symlink { target, .. } => Some(target.len() as u64),
            Operation::SetXattr { value, .. } => Some(value.len() as u64),
            // One that the kernel's cache passes on at once holds a page that all may wait for.
            Operation::Write { data, direct: true, .. } => Some(data.len() as u64),
            _ => None,
        }
    }

    fn decode(header: &Header, mut c: Cursor<'a>) -> Result<Self, Malformed> {
        Ok(match header.opcode {
            opcode::LOOKUP => Operation::Lookup { name: c.string()? },
            opcode::FORGET => Operation::Forget { count: c.u64()? },
            opcode::BATCH_FORGET => decode_batch_forget(c)?,
            opcode::GETATTR => {
                let flags = c.u32()?;
                c.skip(4)?;
                let handle = c.u64()?;
                let used = flags & flag::GETATTR_FH != 0;
                Operation::GetAttr { handle: used.then_some(handle) }
            }
            opcode::STATX => Operation::Statx,
            opcode::SETATTR => Operation::SetAttr(decode_setattr(c)?),
            opcode::READLINK => Operation::ReadLink,
            opcode::SYMLINK => Operation::Symlink { name: c.string()?, target: c.string()? },
            opcode::MKNOD => {
                let (mode, rdev, umask) = (c.u32()?, c.u32()?, c.u32()?);
                c.skip(4)?;
                Operation::MkNod { name: c.string()?, mode, rdev, umask }
            }
            opcode::MKDIR => {
                let (mode, umask) = (c.u32()?, c.u32()?);
                Operation::MkDir { name: c.string()?, mode, umask }
            }
            opcode::UNLINK => Operation::Unlink { name: c.string()? },
            opcode::RMDIR => Operation::RmDir { name: c.string()? },
            opcode::RENAME => {
                let new_parent = c.u64()?;
                let (name, new_name) = (c.string()?, c.string()?);
                Operation::Rename { name, new_parent, new_name, flags: 0 }
            }
            opcode::RENAME2 => {
                let (new_parent, flags) = (c.u64()?, c.u32()?);
                c.skip(4)?;
                let (name, new_name) = (c.string()?, c.string()?);
                Operation::Rename { name, new_parent, new_name, flags }
            }
            opcode::LINK => Operation::Link { node: c.u64()?, new_name: c.string()? },
            opcode::STATFS => Operation::StatFs,
            opcode::SETXATTR => decode_setxattr(c)?,
            opcode::GETXATTR => {
                let size = c.u32()?;
                c.skip(4)?;
                Operation::GetXattr { name: c.string()?, size }
            }
            opcode::LISTXATTR => Operation::ListXattr { size: c.u32()? },
            opcode::REMOVEXATTR => Operation::RemoveXattr { name: c.string()? },
            opcode::ACCESS => Operation::Access,
            opcode::INTERRUPT => Operation::Interrupt,
            opcode::BMAP => Operation::Bmap,
            opcode::DESTROY => Operation::Destroy,
            opcode::NOTIFY_REPLY => Operation::NotifyReply,
            opcode::SYNCFS => Operation::SyncFs,
            code => return decode_open_file(code, c),
        })
    }
}

/// Decodes the operations that make or use a handle.
fn decode_open_file(code: u32, mut c: Cursor<'_>) -> Result<Operation<'_>, Malformed> {
    Ok(match code {
        opcode::OPEN => decode_open(c)?,
        opcode::OPENDIR => Operation::OpenDir,
        opcode::CREATE | opcode::TMPFILE => {
            let (flags, mode, umask) = (c.u32()?, c.u32()?, c.u32()?);
            c.skip(4)?;
            if code == opcode::TMPFILE {
                Operation::TmpFile { flags, mode, umask }
            } else {
                Operation::Create { name: c.string()?, flags, mode, umask }
            }
        }
        opcode::READ | opcode::READDIR | opcode::READDIRPLUS => {
            let (handle, offset, size) = (c.u64()?, c.u64()?, c.u32()?);
            if code == opcode::READ {
                Operation::Read { handle, offset, size }
            } else {
                Operation::ReadDir { offset, size, plus: code == opcode::READDIRPLUS }
            }
        }
        opcode::WRITE => decode_write(c)?,
        opcode::RELEASE => Operation::Release { handle: c.u64()? },
        opcode::RELEASEDIR => Operation::ReleaseDir { handle: c.u64()? },
        opcode::FSYNC | opcode::FSYNCDIR => {
            c.skip(8)?;
            let flags = c.u32()?;
            let datasync = flags & flag::FSYNC_FDATASYNC != 0;
            if code == opcode::FSYNC {
                Operation::Fsync { datasync }
            } else {
                Operation::FsyncDir { datasync }
            }
        }
        opcode::FLUSH => Operation::Flush,
        opcode::FALLOCATE => {
            c.skip(8)?;
            let (offset, len, mode) = (c.u64()?, c.u64()?, c.u32()?);
            Operation::Fallocate { offset, len, mode }
        }
        opcode::LSEEK => {
            c.skip(8)?;
            Operation::Lseek { offset: c.u64()?, whence: c.u32()? }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
            Operation::CopyFileRange(decode_copy(c, code == opcode::COPY_FILE_RANGE_64)?)
        }
        _ => Operation::Unknown,
    })
}

fn decode_open(mut c: Cursor<'_>) -> Result<Operation<'_>, Malformed> {
    let (flags, open_flags) = (c.u32()?, c.u32()?);
    Ok(Operation::Open { flags, kill_suidgid: open_flags & flag::OPEN_KILL_SUIDGID != 0 })
}

fn decode_copy(mut c: Cursor<'_>, wide: bool) -> Result<CopyIn, Malformed> {
    c.skip(8)?;
    let (offset_in, node_out) = (c.u64()?, c.u64()?);
    c.skip(8)?;
    let (offset_out, len, flags) = (c.u64()?, c.u64()?, c.u64()?);
    Ok(CopyIn { offset_in, node_out, offset_out, len, flags, wide })
}

fn decode_batch_forget(mut c: Cursor<'_>) -> Result<Operation<'_>, Malformed> {
    let count = c.u32()? as usize;
    c.skip(4)?;
    let len = count.checked_mul(16).ok_or(Malformed("too many forgets"))?;
    Ok(Operation::BatchForget { forgets: Forgets(c.take(len)?) })
}

fn decode_setattr(mut c: Cursor<'_>) -> Result<SetAttr, Malformed> {
    let valid = c.u32()?;
    c.skip(4)?;
    // The file handle: handles carry no state that would change the outcome.
    c.skip(8)?;
    let size = c.u64()?;
    c.skip(8)?;
    let secs = [c.u64()?, c.u64()?, c.u64()?].map(u64::cast_signed);
    let nsecs = [c.u32()?, c.u32()?, c.u32()?];
    let mode = c.u32()?;
    c.skip(4)?;
    let (uid, gid) = (c.u32()?, c.u32()?);
    let set = |bit: u32| valid & bit != 0;
    let at = |sec: i64, nsec: u32| Timestamp { sec, nsec: nsec.min(999_999_999) };
    let time = |sec: i64, nsec: u32, bit: u32, now: u32| match (set(bit), set(now)) {
        (false, _) => None,
        (true, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(at(sec, nsec))),
    };
    let [atime, mtime, ctime] = secs;
    let [atime_nsec, mtime_nsec, ctime_nsec] = nsecs;
    Ok(SetAttr {
        mode: set(fattr::MODE).then_some(mode),
        uid: set(fattr::UID).then_some(uid),
        gid: set(fattr::GID).then_some(gid),
        size: set(fattr::SIZE).then_some(size),
        atime: time(atime, atime_nsec, fattr::ATIME, fattr::ATIME_NOW),
        mtime: time(mtime, mtime_nsec, fattr::MTIME, fattr::MTIME_NOW),
        ctime: set(fattr::CTIME).then_some(at(ctime, ctime_nsec)),
        kill_suidgid: set(fattr::KILL_SUIDGID),
        kill_setgid: false,
        keep_privileges: false,
    })
}

/// The header is the extended one: SETXATTR_EXT is always negotiated.
fn decode_setxattr(mut c: Cursor<'_>) -> Result<Operation<'_>, Malformed> {
    let (size, flags, ext_flags) = (c.u32()?, c.u32()?, c.u32()?);
    c.skip(4)?;
    let name = c.string()?;
    let value = c.take(size as usize)?;
    let kill_sgid = ext_flags & flag::SETXATTR_ACL_KILL_SGID != 0;
    Ok(Operation::SetXattr { name, value, flags, kill_sgid })
}

fn decode_write(mut c: Cursor<'_>) -> Result<Operation<'_>, Malformed> {
    let (handle, offset, size, flags) = (c.u64()?, c.u64()?, c.u32()?, c.u32()?);
    c.skip(8)?;
    let open_flags = c.u32()?;
    c.skip(4)?;
    Ok(Operation::Write {
        handle,
        offset,
        data: c.take(size as usize)?,
        cached: flags & flag::WRITE_CACHE != 0,
        kill_suidgid: flags & flag::WRITE_KILL_SUIDGID != 0,
        direct: open_flags & libc::O_DIRECT.cast_unsigned() != 0,
    })
}

#[cfg(test)]
mod tests;
