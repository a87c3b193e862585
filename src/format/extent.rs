//! The extent record: where a run of a file's blocks lies, and the checksum of each.
//!
//! Value of a key (inode, Extent, first block index):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | address: first block in the data file |
//! | 8 | 8 | birth epoch |
//! | 16 | 4 | length in blocks, 1 to [`MAX_EXTENT_BLOCKS`] |
//! | 20 | 1 | kind: 0 written, 1 preallocated (reads as zeros, no checksums) |
//! | 21 | 3 | zero |
//! | 24 | 4 x length | CRC32C of each 4 KiB block, for kind 0 |

use super::bytes::{DecodeError, Decoder, Encoder};
use super::ids::{BlockNo, Epoch, Run};

/// Longest extent: 1 MiB, the largest FUSE request; its checksums then take 1 KiB of a leaf.
pub const MAX_EXTENT_BLOCKS: u32 = 256;

/// How an extent's blocks are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExtentKind {
    /// Data, with a checksum for each block.
    Written = 0,
    /// Space that is set aside; reads as zeros.
    Preallocated = 1,
}

/// A run of a file's blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// First block in the data file.
    pub addr: BlockNo,
    /// Epoch in which this reference came to be.
    pub birth: Epoch,
    /// Length, 1 to [`MAX_EXTENT_BLOCKS`].
    pub len_blocks: u32,
    /// Written or preallocated.
    pub kind: ExtentKind,
    /// CRC32C of each block; empty for a preallocated extent.
    pub checksums: Vec<u32>,
}

impl Extent {
    /// The blocks in the data file.
    pub fn run(&self) -> Run {
        Run::new(self.addr, self.len_blocks)
    }

    /// The blocks in the data file of the part that begins `skip` blocks in and is `len_blocks` long.
    pub fn sub_run(&self, skip: u32, len_blocks: u32) -> Run {
        Run::new(BlockNo(self.addr.0 + u64::from(skip)), len_blocks)
    }

    /// Returns the part that begins `skip` blocks in and is `len_blocks` long.
    ///
    /// The part must lie inside: anything beyond the end is cut off.
    pub fn part(&self, skip: u32, len_blocks: u32) -> Extent {
        debug_assert!(skip + len_blocks <= self.len_blocks);
        let sums = self.checksums.iter().copied();
        Extent {
            addr: BlockNo(self.addr.0 + u64::from(skip)),
            len_blocks,
            checksums: sums.skip(skip as usize).take(len_blocks as usize).collect(),
            ..*self
        }
    }

    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Encoder) {
        out.u64(self.addr.0).u64(self.birth.0).u32(self.len_blocks);
        out.u8(self.kind as u8).bytes(&[0; 3]);
        for sum in &self.checksums {
            out.u32(*sum);
        }
    }

    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        self.encode(&mut out);
        out.0
    }

    /// Decodes one record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Extent, DecodeError> {
        let mut d = Decoder::new("extent", bytes);
        let extent = Extent::decode_from(&mut d)?;
        d.finish()?;
        Ok(extent)
    }

    /// Decodes one record from `d`, which may hold more.
    pub fn decode_from(d: &mut Decoder<'_>) -> Result<Extent, DecodeError> {
        let addr = BlockNo(d.u64("address")?);
        let birth = Epoch(d.u64("birth")?);
        let len_blocks = d.u32("length")?;
        if len_blocks == 0 || len_blocks > MAX_EXTENT_BLOCKS || addr.0 > super::MAX_BLOCKS {
            return Err(d.error("length"));
        }
        let kind = match d.u8("kind")? {
            0 => ExtentKind::Written,
            1 => ExtentKind::Preallocated,
            _ => return Err(d.error("kind")),
        };
        if d.array::<3>("reserved")? != [0; 3] {
            return Err(d.error("reserved"));
        }
        let count = if kind == ExtentKind::Written { len_blocks } else { 0 };
        let checksums = (0..count).map(|_| d.u32("checksum")).collect::<Result<_, _>>()?;
        Ok(Extent { addr, birth, len_blocks, kind, checksums })
    }
}
