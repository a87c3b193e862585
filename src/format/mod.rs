//! The bytes of every on-disk record: pure functions, no I/O.
//!
//! Integers are little-endian and fixed width; reserved bytes are zero and checked. Each decoder
//! takes arbitrary bytes and answers with the record or a [`DecodeError`]; it never panics and never
//! allocates more than a fixed bound. docs/on-disk-format.md is the normative description.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bytes;
mod catalog;
mod dirent;
mod edit;
mod extent;
mod frame;
mod ids;
mod inode;
mod key;
mod node;
mod record;
mod region;
mod superblock;
mod time;
mod xattr;

pub use bytes::{DecodeError, Decoder, Encoder};
pub use catalog::{
    ChainRecord, ChunkRecord, DeadRef, MAX_CHUNK_REFS, MAX_LABELS, MAX_NAME, MemberKind,
    MemberRecord, RootRecord, SharedRecord, VolumeRecord,
};
pub use dirent::{Dirent, DirentChain, MAX_SLOT, dirent_chain, name_hash};
pub use edit::{Edit, MAX_CONTENT_BYTES};
pub use extent::{Extent, ExtentKind, MAX_EXTENT_BLOCKS};
pub use frame::{
    FRAME_ALIGN, FRAME_HEADER, FRAME_MAGIC, FrameHeader, MAX_RECORD, frame_bytes, frame_salt,
};
pub use ids::{BlockNo, Epoch, Hash, InodeNo, MAX_INODE, MemberId, ROOT_INODE, Run, Seq, VolumeId};
pub use inode::{
    FileKind, INODE_LEN, Inode, InodeFlags, MAX_FILE_SIZE, MAX_INLINE, MAX_TARGET, OrphanKind,
};
pub use key::{FIRST_OBJECT, Key, KeyKind, MAX_SUB, SUB_BITS};
pub use node::{
    INTERNAL_ENTRY, LEAF_CAPACITY, LEAF_ENTRY, Leaf, MAX_CHILDREN, MAX_LEVEL, NODE_HEADER,
    NODE_MAGIC, NodePtr, Page, decode_internal, decode_ptr, empty_page, encode_internal,
    page_level,
};
pub use record::{
    Answer, Entry, MAX_ANSWERS, MAX_COPY_BYTES, NewSnapshot, Record, RequestId, encode_answers,
    encode_commit,
};
pub use region::{
    Bitmap, MAX_REGION_RECORD, REGION_BLOCKS, REGION_WORDS, RegionClass, RegionImage, region_of,
};
pub use superblock::{
    MAGIC as SUPERBLOCK_MAGIC, SLOT_OFFSETS, SLOT_SIZE, SUPERBLOCK_BYTES, SlotError, Superblock,
    VERSION,
};
pub use time::Timestamp;
pub use xattr::{
    MAX_CHUNK_ID, MAX_XATTR_INLINE, MAX_XATTR_VALUE, XATTR_CHUNK, Xattr, XattrChain, XattrValue,
    xattr_chain, xattr_chunk_sub, xattr_hash,
};

/// Unit of addressing and of data checksums.
pub const BLOCK_SIZE: usize = 4096;
/// Blocks in a B+tree node.
pub const NODE_BLOCKS: u32 = 4;
/// Bytes in a B+tree node.
pub const NODE_SIZE: usize = BLOCK_SIZE * NODE_BLOCKS as usize;
/// Longest value of a tree key: a leaf holds at least three.
pub const MAX_VALUE: usize = 4096 + 256;
/// Largest block number: 2^51 blocks are 8 EiB.
pub const MAX_BLOCKS: u64 = 1 << 51;
