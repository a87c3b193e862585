//! The inode record: everything `stat` shows of a file, and where its content is.
//!
//! Value of a key (inode, Inode, 0):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | blocks: allocated 4 KiB blocks; kept by the engine, not by the layer that writes inodes |
//! | 8 | 8 | size: bytes of a file or of a symlink's target; number of entries of a directory |
//! | 16 | 12 | access time |
//! | 28 | 12 | modification time |
//! | 40 | 12 | change time |
//! | 52 | 12 | birth time |
//! | 64 | 4 | mode: type and permissions, as in `st_mode` |
//! | 68 | 4 | number of links; a directory counts itself, its name and its subdirectories |
//! | 72 | 4 | owner |
//! | 76 | 4 | group |
//! | 80 | 4 | device number of a special file, as `new_encode_dev` packs it; else 0 |
//! | 84 | 4 | flags: see [`InodeFlags`] |
//! | 88 | 8 | parent: of a directory its parent; of others the directory they were made in (a hint for messages) |
//!
//! An orphan (key (0, Orphan, inode)) has one byte: see [`OrphanKind`].

use super::bytes::{DecodeError, Decoder, Encoder};
use super::ids::{InodeNo, MAX_INODE};
use super::time::Timestamp;

/// Bytes of an encoded inode.
pub const INODE_LEN: usize = 96;
/// Largest file size: what `off_t` can hold.
pub const MAX_FILE_SIZE: u64 = i64::MAX as u64;
/// Longest content that is kept in the leaf.
pub const MAX_INLINE: usize = 2048;
/// Longest target of a symbolic link: a path, without its terminating NUL. It always fits in the leaf.
pub const MAX_TARGET: usize = 4095;

/// The type of a file; the numbers are those of `d_type` and stand in directory entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileKind {
    /// Bits of a mode that hold the type.
    pub const MODE_MASK: u32 = 0o170_000;

    /// Returns the type with this `d_type` number.
    pub fn from_dtype(number: u8) -> Option<FileKind> {
        Some(match number {
            1 => FileKind::Fifo,
            2 => FileKind::CharDevice,
            4 => FileKind::Directory,
            6 => FileKind::BlockDevice,
            8 => FileKind::Regular,
            10 => FileKind::Symlink,
            12 => FileKind::Socket,
            _ => return None,
        })
    }

    /// Returns the type that a mode's upper bits name.
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        FileKind::from_dtype(((mode & Self::MODE_MASK) >> 12) as u8)
    }

    /// The number that `getdents` reports.
    pub fn to_dtype(self) -> u8 {
        self as u8
    }

    /// The bits of a mode that name the type.
    pub fn to_mode(self) -> u32 {
        u32::from(self as u8) << 12
    }
}

/// Bits that say what else there is of an inode, so that most lookups can be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InodeFlags(pub u32);

impl InodeFlags {
    /// The content is in the Inline key, and there is no written extent.
    pub const INLINE: InodeFlags = InodeFlags(1);
    /// There is at least one extended attribute (ACLs included).
    pub const XATTRS: InodeFlags = InodeFlags(2);
    /// There is an access ACL.
    pub const ACCESS_ACL: InodeFlags = InodeFlags(4);
    /// There is a default ACL.
    pub const DEFAULT_ACL: InodeFlags = InodeFlags(8);
    /// There are file capabilities.
    pub const CAPABILITY: InodeFlags = InodeFlags(16);
    /// All bits with a meaning.
    const KNOWN: u32 = 31;

    /// Whether all bits of `other` are set.
    pub fn has(self, other: InodeFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets or clears the bits of `other`.
    pub fn set(&mut self, other: InodeFlags, on: bool) {
        if on {
            self.0 |= other.0;
        } else {
            self.0 &= !other.0;
        }
    }
}

/// One inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Allocated 4 KiB blocks. The engine keeps it; what is encoded here is ignored when it is put.
    pub blocks: u64,
    /// Bytes of content; number of entries of a directory.
    pub size: u64,
    /// Time of the last access.
    pub atime: Timestamp,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Time of the last change of the inode.
    pub ctime: Timestamp,
    /// Time of creation.
    pub btime: Timestamp,
    /// Type and permissions.
    pub mode: u32,
    /// Number of links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file.
    pub rdev: u32,
    /// What else there is.
    pub flags: InodeFlags,
    /// Parent of a directory; a hint for other types.
    pub parent: InodeNo,
}

impl Inode {
    /// The type. The decoder and the constructors admit no mode without one.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).unwrap_or(FileKind::Regular)
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    /// The record as bytes, [`INODE_LEN`] long.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(INODE_LEN));
        out.u64(self.blocks).u64(self.size);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            time.encode(&mut out);
        }
        out.u32(self.mode).u32(self.nlink).u32(self.uid).u32(self.gid);
        out.u32(self.rdev).u32(self.flags.0).u64(self.parent.0);
        out.0
    }

    /// Decodes a record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Inode, DecodeError> {
        let mut d = Decoder::new("inode", bytes);
        let (blocks, size) = (d.number("blocks")?, d.u64("size")?);
        if size > MAX_FILE_SIZE {
            return Err(d.error("size"));
        }
        let atime = Timestamp::decode(&mut d)?;
        let mtime = Timestamp::decode(&mut d)?;
        let ctime = Timestamp::decode(&mut d)?;
        let btime = Timestamp::decode(&mut d)?;
        let mode = d.u32("mode")?;
        if FileKind::from_mode(mode).is_none() || mode > 0o177_777 {
            return Err(d.error("mode"));
        }
        let nlink = d.u32("links")?;
        let (uid, gid, rdev) = (d.u32("owner")?, d.u32("group")?, d.u32("device")?);
        let flags = InodeFlags(d.u32("flags")?);
        if flags.0 & !InodeFlags::KNOWN != 0 {
            return Err(d.error("flags"));
        }
        let longest = match FileKind::from_mode(mode) {
            Some(FileKind::Symlink) => MAX_TARGET,
            _ => MAX_INLINE,
        };
        if flags.has(InodeFlags::INLINE) && size > longest as u64 {
            return Err(d.error("size of inline content"));
        }
        let parent = InodeNo(d.u64("parent")?);
        if parent.0 > MAX_INODE {
            return Err(d.error("parent"));
        }
        d.finish()?;
        Ok(Inode {
            blocks,
            size,
            atime,
            mtime,
            ctime,
            btime,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            flags,
            parent,
        })
    }
}

/// What is to be done with an inode that an Orphan key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OrphanKind {
    /// It has no name left: it goes when nobody holds it any more.
    Delete = 0,
    /// It was cut: what is mapped behind its size goes.
    Truncate = 1,
}

impl OrphanKind {
    /// The value as bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        vec![self as u8]
    }

    /// Decodes a value that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<OrphanKind, DecodeError> {
        let mut d = Decoder::new("orphan", bytes);
        let kind = match d.u8("kind")? {
            0 => OrphanKind::Delete,
            1 => OrphanKind::Truncate,
            _ => return Err(d.error("kind")),
        };
        d.finish()?;
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::MAX_SUB;
    use proptest::prelude::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0u32..1_000_000_000).prop_map(|(sec, nsec)| Timestamp { sec, nsec })
    }

    fn kind() -> impl Strategy<Value = FileKind> {
        prop::sample::select(vec![1u8, 2, 4, 6, 8, 10, 12])
            .prop_filter_map("a type", FileKind::from_dtype)
    }

    prop_compose! {
        fn inode()(
            (blocks, size, nlink) in (0..=MAX_SUB, 0..=MAX_FILE_SIZE, any::<u32>()),
            (atime, mtime, ctime, btime) in (time(), time(), time(), time()),
            (kind, perm) in (kind(), 0u32..0o10_000),
            (uid, gid, rdev, flags) in (any::<u32>(), any::<u32>(), any::<u32>(), 0u32..32),
            parent in 0..=MAX_INODE,
        ) -> Inode {
            let (mode, flags, parent) = (kind.to_mode() | perm, InodeFlags(flags), InodeNo(parent));
            let size = if flags.has(InodeFlags::INLINE) { size % (MAX_INLINE as u64 + 1) } else { size };
            Inode { blocks, size, atime, mtime, ctime, btime, mode, nlink, uid, gid, rdev, flags, parent }
        }
    }

    proptest! {
        #[test]
        fn an_inode_decodes_to_itself(inode in inode()) {
            let bytes = inode.to_bytes();
            prop_assert_eq!(bytes.len(), INODE_LEN);
            prop_assert_eq!(Inode::decode(&bytes), Ok(inode));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(inode) = Inode::decode(&bytes) {
                prop_assert_eq!(inode.to_bytes(), bytes);
            }
        }

        #[test]
        fn a_mutated_inode_decodes_to_what_it_says(
            inode in inode(), at in 0usize..INODE_LEN, byte in any::<u8>(), cut in 0usize..INODE_LEN,
        ) {
            let mut bytes = inode.to_bytes();
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            if let Ok(changed) = Inode::decode(&bytes) {
                prop_assert_eq!(changed.to_bytes(), bytes.clone());
            }
            bytes.truncate(cut);
            prop_assert!(Inode::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_type_is_the_same_in_a_mode_and_in_a_directory_entry() {
        for number in 0..=255u8 {
            let Some(kind) = FileKind::from_dtype(number) else { continue };
            assert_eq!(FileKind::from_mode(kind.to_mode() | 0o4755), Some(kind));
            assert_eq!(kind.to_dtype(), number);
        }
        assert_eq!(FileKind::from_mode(0o644), None);
        assert_eq!(FileKind::Directory.to_mode(), libc::S_IFDIR);
        assert_eq!(FileKind::Socket.to_mode(), libc::S_IFSOCK);
    }

    #[test]
    fn an_orphan_is_one_known_byte() {
        for kind in [OrphanKind::Delete, OrphanKind::Truncate] {
            assert_eq!(OrphanKind::decode(&kind.to_bytes()), Ok(kind));
        }
        for bad in [&[][..], &[2], &[0, 0]] {
            assert!(OrphanKind::decode(bad).is_err(), "{bad:?}");
        }
    }
}
