//! Edits: what an operation changes in a volume's tree, as pure data.
//!
//! An operation is a list of edits. The list is journaled as one record and applied to the tree; replay
//! applies the same list to the same state, so that memory and journal can't disagree.

use super::bytes::{DecodeError, Decoder, Encoder};
use super::extent::Extent;
use super::ids::InodeNo;
use super::key::{Key, MAX_SUB};
use super::{MAX_INODE, MAX_VALUE};

/// One change of a volume's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Sets a key's value, of at most [`MAX_VALUE`] bytes. Of an inode record the first eight bytes, the
    /// block count, are the engine's: the stored count is kept.
    Put {
        /// Key.
        key: Key,
        /// Value.
        value: Vec<u8>,
    },
    /// Removes a key; without effect where it is absent.
    Delete {
        /// Key.
        key: Key,
    },
    /// Maps an extent at a file's block index in place of whatever was mapped there.
    Map {
        /// File.
        ino: InodeNo,
        /// Block index in the file.
        block: u64,
        /// Where the data lies. Its birth is set to the current epoch when the edit is applied.
        extent: Extent,
        /// Whether the blocks are referenced elsewhere too: then a reference is added to the shared
        /// table, else the blocks are new.
        shared: bool,
    },
    /// Removes what is mapped in a range; `u64::MAX` blocks reach to the end.
    Unmap {
        /// File.
        ino: InodeNo,
        /// First block index.
        block: u64,
        /// Number of blocks.
        len_blocks: u64,
    },
    /// Removes every key of an inode and what its extents map.
    DeleteInode {
        /// Inode.
        ino: InodeNo,
    },
}

impl Edit {
    /// Appends the edit to `out`.
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            Edit::Put { key, value } => {
                out.u8(1).u128(key.0).u32(value.len() as u32).bytes(value);
            }
            Edit::Delete { key } => {
                out.u8(2).u128(key.0);
            }
            Edit::Map { ino, block, extent, shared } => {
                out.u8(if *shared { 4 } else { 3 }).u64(ino.0).u64(*block);
                extent.encode(out);
            }
            Edit::Unmap { ino, block, len_blocks } => {
                out.u8(5).u64(ino.0).u64(*block).u64(*len_blocks);
            }
            Edit::DeleteInode { ino } => {
                out.u8(6).u64(ino.0);
            }
        }
    }

    /// Decodes the next edit.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Edit, DecodeError> {
        let kind = d.u8("edit")?;
        match kind {
            1 => {
                let key = Key(d.u128("key")?);
                let len = d.u32("value length")? as usize;
                if len > MAX_VALUE {
                    return Err(d.error("value length"));
                }
                Ok(Edit::Put { key, value: d.take(len, "value")?.to_vec() })
            }
            2 => Ok(Edit::Delete { key: Key(d.u128("key")?) }),
            3 | 4 => {
                let (ino, block) = (inode(d)?, d.u64("block")?);
                let extent = Extent::decode_from(d)?;
                if block > MAX_SUB - u64::from(extent.len_blocks) {
                    return Err(d.error("block"));
                }
                Ok(Edit::Map { ino, block, extent, shared: kind == 4 })
            }
            5 => {
                let (ino, block) = (inode(d)?, d.u64("block")?);
                Ok(Edit::Unmap { ino, block, len_blocks: d.u64("length")? })
            }
            6 => Ok(Edit::DeleteInode { ino: inode(d)? }),
            _ => Err(d.error("edit")),
        }
    }
}

fn inode(d: &mut Decoder<'_>) -> Result<InodeNo, DecodeError> {
    let ino = d.u64("inode")?;
    if ino == 0 || ino > MAX_INODE { Err(d.error("inode")) } else { Ok(InodeNo(ino)) }
}
