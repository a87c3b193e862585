//! Numbers of the FUSE wire protocol, ABI 7.45, as in the kernel's `include/uapi/linux/fuse.h`.
//!
//! Constants alone: requests are read in [`super::decode`], replies are built in
//! [`super::encode`]. Integers on the wire are in the host's byte order.

/// Bytes of a request's fixed header.
pub(crate) const IN_HEADER_BYTES: usize = 40;
/// Bytes of a reply's fixed header.
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// Largest payload of a WRITE and of a READ: 256 pages, the kernel's default `max_pages_limit`.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// What a request asks for.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const BMAP: u32 = 37;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const NOTIFY_REPLY: u32 = 41;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const STATX: u32 = 52;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;
}

/// Bit of a request's number: the kernel sends it again, to the successor of the process that had it.
pub(crate) const RESENT: u64 = 1 << 63;

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
