//! Newtypes for the numbers that name things in a pool.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Index of a 4 KiB block in the pool's `data` file.
    BlockNo
);
id!(
    /// The pool-wide counter that every snapshot raises; births are epochs.
    Epoch
);
id!(
    /// Names a lineage member (a head or a snapshot); never reused within a pool.
    MemberId
);
id!(
    /// Names a volume; never reused within a pool.
    VolumeId
);
id!(
    /// Inode number within a volume; at most [`MAX_INODE`], never reused.
    InodeNo
);
id!(
    /// Sequence number of a journal record; starts at 1, rises by 1, never reused.
    Seq
);

/// Largest inode number: node ids of snapshot views keep 42 bits for it. At ten thousand files
/// created every second, without pause, it lasts 13 years.
pub const MAX_INODE: u64 = (1 << 42) - 1;
/// Inode number of a volume's root directory, the number FUSE gives to a mount's root.
pub const ROOT_INODE: InodeNo = InodeNo(1);

impl BlockNo {
    /// Byte offset of the block in the data file.
    pub fn offset_bytes(self) -> u64 {
        self.0 * super::BLOCK_SIZE as u64
    }
}

/// A run of consecutive blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// First block.
    pub start: BlockNo,
    /// Number of blocks.
    pub len_blocks: u32,
}

impl Run {
    /// Makes a run.
    pub fn new(start: BlockNo, len_blocks: u32) -> Self {
        Run { start, len_blocks }
    }
    /// First block behind the run.
    pub fn end(self) -> u64 {
        self.start.0 + u64::from(self.len_blocks)
    }
}

/// A BLAKE3 hash, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Hash(pub [u8; 32]);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
