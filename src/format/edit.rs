//! Edits: what an operation changes in a volume's tree, as pure data.
//!
//! An operation is a list of edits. The list is journaled as one record and applied to the tree; replay
//! applies the same list to the same state, so that memory and journal can't disagree.

use super::bytes::{DecodeError, Decoder, Encoder};
use super::extent::Extent;
use super::ids::{BlockNo, InodeNo};
use super::key::{Key, MAX_SUB};
use super::{BLOCK_SIZE, MAX_BLOCKS, MAX_INODE, MAX_VALUE};

/// Most bytes in one [`Edit::Content`].
pub const MAX_CONTENT_BYTES: usize = 4 * BLOCK_SIZE;

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
    /// Content of blocks that the same operation maps: replay writes it in place before anything else, so
    /// that a power cut that keeps the operation keeps the content, fsynced or not.
    Content {
        /// First block in the data file.
        addr: BlockNo,
        /// Whole blocks, at most [`MAX_CONTENT_BYTES`].
        bytes: Vec<u8>,
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
            Edit::Content { addr, bytes } => {
                out.u8(7).u64(addr.0).u32(bytes.len() as u32).bytes(bytes);
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
            7 => {
                let addr = BlockNo(d.u64("address")?);
                let len = d.u32("content length")? as usize;
                if len > MAX_CONTENT_BYTES || !len.is_multiple_of(BLOCK_SIZE) || addr.0 > MAX_BLOCKS
                {
                    return Err(d.error("content length"));
                }
                Ok(Edit::Content { addr, bytes: d.take(len, "content")?.to_vec() })
            }
            _ => Err(d.error("edit")),
        }
    }
}

fn inode(d: &mut Decoder<'_>) -> Result<InodeNo, DecodeError> {
    let ino = d.u64("inode")?;
    if ino == 0 || ino > MAX_INODE { Err(d.error("inode")) } else { Ok(InodeNo(ino)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{Epoch, ExtentKind, MAX_EXTENT_BLOCKS};

    fn bytes(edit: &Edit) -> Vec<u8> {
        let mut out = Encoder::new();
        edit.encode(&mut out);
        out.0
    }

    fn decode(bytes: &[u8]) -> Result<(Edit, usize), DecodeError> {
        let mut d = Decoder::new("edit", bytes);
        Ok((Edit::decode(&mut d)?, d.remaining()))
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let ino = || (1..=MAX_INODE).prop_map(InodeNo);
        let value = prop::collection::vec(any::<u8>(), 0..=MAX_VALUE);
        let map = (ino(), 0..=MAX_SUB - u64::from(MAX_EXTENT_BLOCKS), any::<(u32, u64, bool)>());
        prop_oneof![
            (any::<u128>(), value).prop_map(|(key, value)| Edit::Put { key: Key(key), value }),
            any::<u128>().prop_map(|key| Edit::Delete { key: Key(key) }),
            (map, 1..=MAX_EXTENT_BLOCKS, any::<bool>()).prop_map(
                |((ino, block, (addr, birth, written)), len_blocks, shared)| {
                    let kind = if written { ExtentKind::Written } else { ExtentKind::Preallocated };
                    let checksums = (0..if written { len_blocks } else { 0 }).collect();
                    let (addr, birth) = (BlockNo(addr.into()), Epoch(birth & MAX_SUB));
                    let extent = Extent { addr, birth, len_blocks, kind, checksums };
                    Edit::Map { ino, block, extent, shared }
                }
            ),
            (ino(), any::<(u64, u64)>()).prop_map(|(ino, (block, len_blocks))| Edit::Unmap {
                ino,
                block,
                len_blocks
            }),
            ino().prop_map(|ino| Edit::DeleteInode { ino }),
            (0..=MAX_BLOCKS, 0..=MAX_CONTENT_BYTES / BLOCK_SIZE).prop_map(|(addr, blocks)| {
                Edit::Content { addr: BlockNo(addr), bytes: vec![7; blocks * BLOCK_SIZE] }
            }),
        ]
    }

    proptest! {
        #[test]
        fn edits_come_back(edit in edit(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut whole = bytes(&edit);
            prop_assert_eq!(decode(&whole), Ok((edit.clone(), 0)));
            let at = at.index(whole.len());
            prop_assert!(decode(&whole[..at]).is_err());
            whole.push(byte);
            prop_assert_eq!(decode(&whole), Ok((edit, 1)));
            whole[at] = byte;
            if let Ok((changed, left)) = decode(&whole) {
                prop_assert_eq!(bytes(&changed), &whole[..whole.len() - left]);
            }
        }

        #[test]
        fn arbitrary_bytes_decode_to_themselves_or_fail(
            kind in 0u8..9, mut rest in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..80),
        ) {
            rest.insert(0, kind);
            if let Ok((edit, left)) = decode(&rest) {
                prop_assert_eq!(bytes(&edit), &rest[..rest.len() - left]);
            }
        }
    }

    #[test]
    fn fields_out_of_range_are_refused() {
        let field = |edit: &Edit| decode(&bytes(edit)).unwrap_err().field;
        let value = vec![0; MAX_VALUE + 1];
        assert_eq!(field(&Edit::Put { key: Key::MIN, value }), "value length");
        for ino in [InodeNo(0), InodeNo(MAX_INODE + 1)] {
            assert_eq!(field(&Edit::DeleteInode { ino }), "inode");
            assert_eq!(field(&Edit::Unmap { ino, block: 0, len_blocks: 1 }), "inode");
        }
        let extent = Extent {
            addr: BlockNo(1),
            birth: Epoch(1),
            len_blocks: 2,
            kind: ExtentKind::Preallocated,
            checksums: Vec::new(),
        };
        let map =
            |block| Edit::Map { ino: InodeNo(1), block, extent: extent.clone(), shared: false };
        assert!(decode(&bytes(&map(MAX_SUB - 2))).is_ok());
        assert_eq!(field(&map(MAX_SUB - 1)), "block");
        let content = |addr, len| Edit::Content { addr: BlockNo(addr), bytes: vec![0; len] };
        for bad in [
            content(1, MAX_CONTENT_BYTES + BLOCK_SIZE),
            content(1, BLOCK_SIZE - 1),
            content(MAX_BLOCKS + 1, BLOCK_SIZE),
        ] {
            assert_eq!(field(&bad), "content length");
        }
        assert_eq!(decode(&[0]).unwrap_err().field, "edit");
    }
}
