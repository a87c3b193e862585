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
        let birth = Epoch(d.number("birth")?);
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
        let (sums, _) = d.take(count as usize * 4, "checksum")?.as_chunks::<4>();
        let checksums = sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        Ok(Extent { addr, birth, len_blocks, kind, checksums })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{MAX_BLOCKS, MAX_SUB, MAX_VALUE};

    fn extent() -> impl Strategy<Value = Extent> {
        let checksums = prop::collection::vec(any::<u32>(), 1..=MAX_EXTENT_BLOCKS as usize);
        (0..=MAX_BLOCKS, 0..=MAX_SUB, checksums, any::<bool>()).prop_map(
            |(addr, birth, checksums, written)| Extent {
                addr: BlockNo(addr),
                birth: Epoch(birth),
                len_blocks: checksums.len() as u32,
                kind: if written { ExtentKind::Written } else { ExtentKind::Preallocated },
                checksums: if written { checksums } else { Vec::new() },
            },
        )
    }

    proptest! {
        #[test]
        fn extents_come_back(
            extent in extent(), at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let mut bytes = extent.to_bytes();
            prop_assert!(bytes.len() <= MAX_VALUE);
            prop_assert_eq!(Extent::decode(&bytes), Ok(extent));
            let at = at.index(bytes.len());
            prop_assert!(Extent::decode(&bytes[..at]).is_err());
            prop_assert!(Extent::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
            bytes[at] = byte;
            if let Ok(changed) = Extent::decode(&bytes) {
                prop_assert_eq!(changed.to_bytes(), bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_decode_to_themselves_or_fail(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                prop::collection::vec(0u8..3, 0..60),
            ],
        ) {
            if let Ok(extent) = Extent::decode(&bytes) {
                prop_assert_eq!(extent.to_bytes(), bytes);
            }
        }

        #[test]
        fn a_part_is_what_is_in_its_place(
            extent in extent(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(),
        ) {
            let skip = from.index(extent.len_blocks as usize);
            let len = 1 + to.index(extent.len_blocks as usize - skip);
            let part = extent.part(skip as u32, len as u32);
            prop_assert_eq!(part.run(), extent.sub_run(skip as u32, len as u32));
            prop_assert_eq!((part.kind, part.birth), (extent.kind, extent.birth));
            let sums = if extent.checksums.is_empty() { &[][..] } else { &extent.checksums[skip..skip + len] };
            prop_assert_eq!(&part.checksums, sums);
        }
    }

    #[test]
    fn fields_out_of_range_are_refused() {
        let good = Extent {
            addr: BlockNo(MAX_BLOCKS),
            birth: Epoch(1),
            len_blocks: 1,
            kind: ExtentKind::Written,
            checksums: vec![5],
        };
        assert_eq!(Extent::decode(&good.to_bytes()), Ok(good.clone()));
        let changes = [
            (0, 1, "length"),
            (16, 0, "length"),
            (17, 2, "length"),
            (20, 2, "kind"),
            (22, 1, "reserved"),
        ];
        for (at, byte, field) in changes {
            let mut bad = good.to_bytes();
            bad[at] = byte;
            assert_eq!(Extent::decode(&bad).unwrap_err().field, field, "byte {at}");
        }
        let mut sums = good.to_bytes();
        sums[20] = ExtentKind::Preallocated as u8;
        assert_eq!(Extent::decode(&sums).unwrap_err().field, "trailing bytes");
    }
}
