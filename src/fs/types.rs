//! What goes in and out of the file system: callers, attributes, entries, flags.

use super::node::NodeId;
use crate::format::{BLOCK_SIZE, FileKind, Inode, InodeFlags, Timestamp};

/// Bytes that an entry counts for in a directory's size.
const DIRENT_SIZE: u64 = 32;

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
    /// Bits that a new file does not get, unless its directory has a default ACL.
    pub umask: u32,
    /// Supplementary groups, as far as they are known.
    pub groups: Vec<u32>,
}

impl Caller {
    /// The superuser, with an empty umask.
    pub fn root() -> Caller {
        Caller::default()
    }

    /// Whether the ids are not known. Where idmapped mounts are possible, the kernel passes the caller's
    /// ids with what makes a file, and `u32::MAX` with everything else; it has then checked permissions
    /// itself.
    pub fn is_unknown(&self) -> bool {
        self.uid == u32::MAX
    }

    /// Whether the caller is a member of a group.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Number of the file: that of its node.
    pub ino: u64,
    /// Bytes of content.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks_512: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Type and permissions.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file, as `new_encode_dev` packs it.
    pub rdev: u32,
    /// Unit in which reading and writing is cheapest.
    pub block_size: u32,
}

impl Attr {
    /// The type.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).unwrap_or(FileKind::Regular)
    }

    pub(super) fn of(node: NodeId, inode: &Inode) -> Attr {
        let size = match inode.kind() {
            FileKind::Directory => (inode.size + 2).saturating_mul(DIRENT_SIZE),
            _ => inode.size,
        };
        // As on ext4: a file in the leaf must not look like one that is all hole.
        let in_leaf = inode.flags.has(InodeFlags::INLINE) && inode.kind() == FileKind::Regular;
        let leaf_512 = if in_leaf { inode.size.div_ceil(512) } else { 0 };
        Attr {
            ino: node.0,
            size,
            blocks_512: inode
                .blocks
                .saturating_mul(BLOCK_SIZE as u64 / 512)
                .saturating_add(leaf_512),
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            block_size: BLOCK_SIZE as u32,
        }
    }
}

/// The answer to a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub node: NodeId,
    /// Its attributes.
    pub attr: Attr,
    /// Whether the name keeps its meaning until an operation of this mount changes it.
    pub cacheable: bool,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the operation.
    Now,
    /// A given one.
    At(Timestamp),
}

/// Attributes to be set; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permissions; bits of the type are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
    /// Last change of the inode; without it the time of the operation.
    pub ctime: Option<Timestamp>,
    /// A change of size by somebody who may not keep setuid and setgid bits.
    pub kill_suidgid: bool,
    /// A new owner or size leaves setuid and setgid bits and capabilities: it is part of a copy.
    pub keep_privileges: bool,
    /// The setgid bit goes also where the group may not execute: the caller is not of that group.
    pub kill_setgid: bool,
}

/// An open file. It is made of its flags alone, so that another process can go on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

impl Handle {
    const WRITE: u64 = 1;
    const READ: u64 = 2;
    const NOATIME: u64 = 4;

    pub(super) fn from_flags(flags: i32) -> Handle {
        let access = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => Handle::READ,
            libc::O_WRONLY => Handle::WRITE,
            _ => Handle::READ | Handle::WRITE,
        };
        Handle(access | if flags & libc::O_NOATIME == 0 { 0 } else { Handle::NOATIME })
    }

    /// Whether reading through it may change the access time.
    pub(super) fn touches(self) -> bool {
        self.0 & (Handle::READ | Handle::NOATIME) == Handle::READ
    }

    /// Whether it is for reading and nothing else, and that may change the access time.
    pub(super) fn only_touches(self) -> bool {
        self.touches() && !self.writes()
    }

    /// Whether it was opened for writing.
    pub fn writes(self) -> bool {
        self.0 & Handle::WRITE != 0
    }
}

/// How a write came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteFlags {
    /// It is writeback from the kernel's page cache: times and permissions were dealt with there.
    pub cached: bool,
    /// Its room has been promised, as it always has to writeback.
    pub promised: bool,
    /// The writer may not keep setuid and setgid bits.
    pub kill_suidgid: bool,
}

/// One entry that `readdir` reports.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Name.
    pub name: &'a [u8],
    /// The file; its number is the `d_ino`.
    pub node: NodeId,
    /// Type.
    pub kind: FileKind,
    /// Where to go on behind this entry; positive as an `off_t`.
    pub cookie: u64,
    /// With `plus`, the answer to a lookup of it; never for "." and "..", nor for what can't be read.
    pub entry: Option<Entry>,
}

/// Figures for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Blocks that can be had.
    pub blocks_available: u64,
    /// Inodes; not a limit of their own.
    pub files: u64,
    /// Inodes that can be had.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u32,
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// The next byte of data.
    Data,
    /// The next byte of a hole; the end of the file is one.
    Hole,
}

/// How `.snapshots` appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapDir {
    /// By name only.
    #[default]
    Hidden,
    /// In listings too.
    Visible,
    /// Not at all.
    Disabled,
}

/// Whether reading changes the access time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Atime {
    /// When it is not behind the other times, or a day old.
    #[default]
    Relatime,
    /// Never.
    Noatime,
}

/// How a volume is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsOptions {
    /// How `.snapshots` appears.
    pub snapdir: SnapDir,
    /// What it is called.
    pub snapdir_name: String,
    /// Shows this snapshot alone, with the inode numbers of the volume.
    pub only_snapshot: Option<String>,
    /// Refuses every change.
    pub read_only: bool,
    /// Access times.
    pub atime: Atime,
}

impl Default for FsOptions {
    fn default() -> FsOptions {
        FsOptions {
            snapdir: SnapDir::default(),
            snapdir_name: ".snapshots".to_owned(),
            only_snapshot: None,
            read_only: false,
            atime: Atime::default(),
        }
    }
}
