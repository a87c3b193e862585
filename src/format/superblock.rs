//! The superblock: two slots, written in turn, of which the valid one with the higher generation counts.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: `AmberFS` and a zero byte |
//! | 8 | 4 | format version |
//! | 12 | 4 | zero |
//! | 16 | 8 | features that a reader must know |
//! | 24 | 8 | features that a writer must know |
//! | 32 | 8 | features that may be ignored; a writer that does not know one clears it |
//! | 40 | 16 | uuid |
//! | 56 | 32 | seed of name hashes and of the journal's salt |
//! | 88 | 8 | generation |
//! | 96 | 8 | size in blocks |
//! | 104 | 8 | journal length in bytes |
//! | 112 | 8 | journal tail: offset |
//! | 120 | 8 | journal tail: sequence number |
//! | 128 | 8 | epoch |
//! | 136 | 8 | next member |
//! | 144 | 8 | next volume |
//! | 152 | 8 | next catalog object |
//! | 160 | 12 | when the pool was made |
//! | 172 | 73 | root record of the checkpoint tree |
//! | 245 | 4 | journal tail: checksum of the record before |
//! | 249 | 3815 | zero |
//! | 4064 | 32 | BLAKE3 of the first 4064 bytes |

use super::BLOCK_SIZE;
use super::bytes::{DecodeError, Decoder, Encoder};
use super::catalog::RootRecord;
use super::ids::{Epoch, Hash};
use super::time::Timestamp;

/// First eight bytes of a slot.
pub const MAGIC: [u8; 8] = *b"AmberFS\0";
/// Version of the format that this code reads and writes.
pub const VERSION: u32 = 1;
/// Bytes of a slot.
pub const SLOT_SIZE: usize = BLOCK_SIZE;
/// Byte offsets of the two slots: far apart, so that one damaged stretch does not take both.
pub const SLOT_OFFSETS: [u64; 2] = [0, 64 * 1024];
/// Length of the superblock file.
pub const SUPERBLOCK_BYTES: u64 = 128 * 1024;
const HASH_LEN: usize = 32;
const HASHED: usize = SLOT_SIZE - HASH_LEN;

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Names the pool.
    pub uuid: [u8; 16],
    /// Keys the hashes of names, and the journal's salt.
    pub seed: [u8; 32],
    /// Rises with every checkpoint.
    pub generation: u64,
    /// Size of the data file's address space in blocks.
    pub total_blocks: u64,
    /// Length of the journal.
    pub journal_bytes: u64,
    /// Offset of the first journal record to replay.
    pub tail_offset: u64,
    /// Its sequence number.
    pub tail_seq: u64,
    /// The checksum of the record before it, which it continues.
    pub tail_chain: u32,
    /// Current epoch.
    pub epoch: Epoch,
    /// Number of the next lineage member.
    pub next_member: u64,
    /// Number of the next volume.
    pub next_volume: u64,
    /// Number of the next deadlist, chunk or work item.
    pub next_object: u64,
    /// When the pool was made.
    pub created: Timestamp,
    /// Root of the checkpoint tree.
    pub root: RootRecord,
}

/// Why a slot could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// It does not begin with the magic.
    #[error("it is not an AmberFS superblock")]
    Magic,
    /// Its hash does not match.
    #[error("its checksum does not match")]
    Checksum,
    /// It was written by a later version, or needs features unknown here.
    #[error(
        "it has format version {version} and features {features:#x}, which this program does not know"
    )]
    Unsupported {
        /// Version found.
        version: u32,
        /// Unknown feature bits.
        features: u64,
    },
    /// A field is out of range.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Superblock {
    /// The slot's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.bytes(&MAGIC).u32(VERSION).u32(0).u64(0).u64(0).u64(0);
        out.bytes(&self.uuid).bytes(&self.seed).u64(self.generation).u64(self.total_blocks);
        out.u64(self.journal_bytes).u64(self.tail_offset).u64(self.tail_seq);
        out.u64(self.epoch.0).u64(self.next_member).u64(self.next_volume).u64(self.next_object);
        self.created.encode(&mut out);
        self.root.encode(&mut out);
        out.u32(self.tail_chain);
        out.0.resize(HASHED, 0);
        let hash = blake3::hash(&out.0);
        out.bytes(hash.as_bytes());
        out.0
    }

    /// Decodes a slot that takes all of `bytes`.
    ///
    /// # Errors
    /// In this order: no magic, a hash that does not match, a version or feature that is not known here,
    /// a field that is out of range or not zero where it must be.
    pub fn decode(bytes: &[u8]) -> Result<Superblock, SlotError> {
        let mut d = Decoder::new("superblock", bytes);
        if d.array::<8>("magic")? != MAGIC {
            return Err(SlotError::Magic);
        }
        let hashed = bytes.get(..HASHED).ok_or_else(|| d.error("length"))?;
        if bytes.get(HASHED..) != Some(Hash(*blake3::hash(hashed).as_bytes()).0.as_slice()) {
            return Err(SlotError::Checksum);
        }
        let version = d.u32("version")?;
        let reserved = d.u32("reserved")?;
        let (read, write) = (d.u64("read features")?, d.u64("write features")?);
        d.u64("other features")?;
        if version != VERSION || read | write != 0 {
            return Err(SlotError::Unsupported { version, features: read | write });
        }
        if reserved != 0 {
            return Err(DecodeError { record: "superblock", field: "reserved", offset: 12 }.into());
        }
        let superblock = Superblock {
            uuid: d.array("uuid")?,
            seed: d.array("seed")?,
            generation: d.number("generation")?,
            total_blocks: d.u64("size")?,
            journal_bytes: d.number("journal length")?,
            tail_offset: d.number("tail offset")?,
            tail_seq: d.number("tail sequence")?,
            epoch: Epoch(d.number("epoch")?),
            next_member: d.number("next member")?,
            next_volume: d.number("next volume")?,
            next_object: d.number("next object")?,
            created: Timestamp::decode(&mut d)?,
            root: RootRecord::decode_from(&mut d)?,
            tail_chain: d.u32("tail chain")?,
        };
        if superblock.total_blocks > super::MAX_BLOCKS {
            return Err(DecodeError { record: "superblock", field: "size", offset: 96 }.into());
        }
        let unused = d.error("unused");
        if d.take(d.remaining() - HASH_LEN, "unused")?.iter().any(|byte| *byte != 0) {
            return Err(unused.into());
        }
        Ok(superblock)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{BlockNo, MAX_BLOCKS, MAX_SUB, NodePtr};

    fn superblock() -> impl Strategy<Value = Superblock> {
        let numbers = prop::array::uniform9(0..=MAX_SUB);
        let time = (any::<i64>(), 0u32..1_000_000_000);
        let root = (0..=MAX_BLOCKS, 0..=MAX_SUB, any::<[u8; 32]>(), 0u8..=16);
        (any::<([u8; 16], [u8; 32], u32)>(), 0..=MAX_BLOCKS, numbers, time, root).prop_map(
            |(
                (uuid, seed, tail_chain),
                total_blocks,
                n,
                (sec, nsec),
                (addr, birth, hash, level),
            )| {
                Superblock {
                    uuid,
                    seed,
                    generation: n[0],
                    total_blocks,
                    journal_bytes: n[1],
                    tail_offset: n[2],
                    tail_seq: n[3],
                    tail_chain,
                    epoch: Epoch(n[4]),
                    next_member: n[5],
                    next_volume: n[6],
                    next_object: n[7],
                    created: Timestamp { sec, nsec },
                    root: RootRecord {
                        ptr: NodePtr { addr: BlockNo(addr), birth: Epoch(birth), hash: Hash(hash) },
                        level,
                        nodes: n[8],
                        data_blocks: n[0] ^ n[8],
                        next_inode: n[1] ^ n[8],
                    },
                }
            },
        )
    }

    fn any_one() -> Superblock {
        let ptr = NodePtr { addr: BlockNo(4), birth: Epoch(0), hash: Hash([7; 32]) };
        Superblock {
            uuid: [1; 16],
            seed: [2; 32],
            generation: 3,
            total_blocks: 4096,
            journal_bytes: 1 << 20,
            tail_offset: 8,
            tail_seq: 9,
            tail_chain: 10,
            epoch: Epoch(11),
            next_member: 12,
            next_volume: 13,
            next_object: 14,
            created: Timestamp { sec: 15, nsec: 16 },
            root: RootRecord { ptr, level: 1, nodes: 2, data_blocks: 0, next_inode: 0 },
        }
    }

    /// Gives a changed slot the hash that it then needs.
    fn seal(bytes: &mut [u8]) {
        let hash = blake3::hash(&bytes[..HASHED]);
        bytes[HASHED..].copy_from_slice(hash.as_bytes());
    }

    /// The error of a slot with `value` at byte `at`, its hash put right.
    fn changed(at: usize, value: u8) -> SlotError {
        let mut bytes = any_one().to_bytes();
        bytes[at] = value;
        seal(&mut bytes);
        Superblock::decode(&bytes).unwrap_err()
    }

    #[test]
    fn another_version_or_an_unknown_feature_is_refused() {
        for (at, version, features) in [(8, 2, 0), (16, 1, 2), (24, 1, 2), (31, 1, 2 << 56)] {
            let expected = SlotError::Unsupported { version, features };
            assert_eq!(changed(at, 2), expected, "byte {at}");
        }
        assert_eq!(changed(8, 0), SlotError::Unsupported { version: 0, features: 0 });
    }

    #[test]
    fn a_feature_that_may_be_ignored_is_ignored_and_then_cleared() {
        let mut bytes = any_one().to_bytes();
        bytes[32..40].fill(0xff);
        seal(&mut bytes);
        let found = Superblock::decode(&bytes).unwrap();
        assert_eq!(found, any_one());
        assert_eq!(found.to_bytes()[32..40], [0; 8]);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let good = any_one().to_bytes();
        for at in 0..SLOT_SIZE {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            let expected = if at < 8 { SlotError::Magic } else { SlotError::Checksum };
            assert_eq!(Superblock::decode(&bad), Err(expected), "byte {at}");
        }
    }

    #[test]
    fn a_slot_has_its_length() {
        let good = any_one().to_bytes();
        assert_eq!(good.len(), SLOT_SIZE);
        for len in (0..SLOT_SIZE).step_by(61).chain([SLOT_SIZE - 1]) {
            assert!(Superblock::decode(&good[..len]).is_err(), "{len} bytes");
        }
        let long = [good.as_slice(), &[0]].concat();
        assert_eq!(Superblock::decode(&long), Err(SlotError::Checksum));
    }

    #[test]
    fn what_must_be_zero_is_checked() {
        for at in (12..16).chain([249, 1000, HASHED - 1]) {
            let SlotError::Decode(error) = changed(at, 1) else { panic!("byte {at}") };
            let expected = if at < 16 { ("reserved", 12) } else { ("unused", 249) };
            assert_eq!((error.field, error.offset), expected, "byte {at}");
        }
    }

    #[test]
    fn fields_out_of_range_are_refused() {
        let numbers = [(95, "generation"), (135, "epoch"), (143, "next member"), (228, "nodes")];
        let others = [(103, "size"), (171, "nanoseconds"), (179, "child address")];
        for (at, field) in numbers.into_iter().chain(others) {
            let SlotError::Decode(error) = changed(at, 0xff) else { panic!("byte {at}") };
            assert_eq!(error.field, field);
        }
    }

    proptest! {
        #[test]
        fn a_slot_decodes_to_itself(superblock in superblock()) {
            prop_assert_eq!(Superblock::decode(&superblock.to_bytes()), Ok(superblock));
        }

        #[test]
        fn any_sealed_bytes_decode_to_themselves_or_fail(
            superblock in superblock(),
            changes in prop::collection::vec((0..300usize, any::<u8>()), 0..6),
        ) {
            let mut bytes = superblock.to_bytes();
            changes.into_iter().for_each(|(at, value)| bytes[at] = value);
            seal(&mut bytes);
            if let Ok(found) = Superblock::decode(&bytes) {
                bytes[32..40].fill(0);
                seal(&mut bytes);
                prop_assert_eq!(found.to_bytes(), bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_are_no_superblock(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            prop_assert!(Superblock::decode(&bytes).is_err());
        }
    }
}
