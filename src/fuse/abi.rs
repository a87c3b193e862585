//! Numbers of the FUSE wire protocol, ABI 7.45, as in the kernel's `include/uapi/linux/fuse.h`.
//!
//! Constants alone: requests are read in [`super::decode`], replies are built in
//! [`super::encode`]. Integers on the wire are in the host's byte order.

/// Bytes of a request's fixed header.
pub const IN_HEADER_BYTES: usize = 40;
/// Bytes of a reply's fixed header.
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// Largest payload of a WRITE and of a READ: 256 pages, the kernel's default `max_pages_limit`.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// What a request asks for.
#[expect(missing_docs, reason = "the names of fuse.h")]
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const BMAP: u32 = 37;
    pub const DESTROY: u32 = 38;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const STATX: u32 = 52;
    pub const COPY_FILE_RANGE_64: u32 = 53;
}

/// Bit of a request's number: the kernel sends it again, to the successor of the process that had it.
pub const RESENT: u64 = 1 << 63;

/// Codes of notifications, which travel as replies to nothing (`unique` is 0).
pub(crate) mod notify {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const RESEND: i32 = 7;
}

/// Bits of `fuse_setattr_in.valid`.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const CTIME: u32 = 1 << 10;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// Single flags of requests and replies.
pub(crate) mod flag {
    /// `fuse_getattr_in`: there is a handle.
    pub(crate) const GETATTR_FH: u32 = 1 << 0;
    /// `fuse_write_in`: written back from the page cache, the file handle is a guess.
    pub(crate) const WRITE_CACHE: u32 = 1 << 0;
    /// `fuse_write_in`: the write takes set-user-id and set-group-id away.
    pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
    /// `fuse_open_in`: the truncation takes set-user-id and set-group-id away.
    pub(crate) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
    /// `fuse_fsync_in`: `fdatasync`.
    pub(crate) const FSYNC_FDATASYNC: u32 = 1 << 0;
    /// `fuse_setxattr_in`: setting the access ACL takes set-group-id away.
    pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
    /// `fuse_open_out`: pages cached before this open stay valid.
    pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
    /// `fuse_open_out`: the listing may be cached.
    pub(crate) const FOPEN_CACHE_DIR: u32 = 1 << 3;
}

/// Type of the request extension that carries supplementary groups.
pub(crate) const EXT_GROUPS: u32 = 32;
/// Most supplementary groups that a request is taken to carry (the kernel sends one).
pub(crate) const MAX_GROUPS: usize = 32;

/// Bits of `statx` masks.
pub(crate) mod statx {
    pub(crate) const BASIC_STATS: u32 = 0x7ff;
    pub(crate) const BTIME: u32 = 0x800;
}
