//! The superblock: two slots, written in turn, of which the valid one with the higher generation counts.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: `AmberFS` and a zero byte |
//! | 8 | 4 | format version |
//! | 12 | 4 | zero |
//! | 16 | 8 | features that a reader must know |
//! | 24 | 8 | features that a writer must know |
//! | 32 | 8 | features that may be ignored |
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
const HASHED: usize = SLOT_SIZE - 32;

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

    /// Decodes a slot.
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
        d.u32("reserved")?;
        let (read, write) = (d.u64("read features")?, d.u64("write features")?);
        d.u64("other features")?;
        if version != VERSION || read | write != 0 {
            return Err(SlotError::Unsupported { version, features: read | write });
        }
        let superblock = Superblock {
            uuid: d.array("uuid")?,
            seed: d.array("seed")?,
            generation: d.u64("generation")?,
            total_blocks: d.u64("size")?,
            journal_bytes: d.u64("journal length")?,
            tail_offset: d.u64("tail offset")?,
            tail_seq: d.u64("tail sequence")?,
            epoch: Epoch(d.u64("epoch")?),
            next_member: d.u64("next member")?,
            next_volume: d.u64("next volume")?,
            next_object: d.u64("next object")?,
            created: Timestamp::decode(&mut d)?,
            root: RootRecord::decode_from(&mut d)?,
            tail_chain: d.u32("tail chain")?,
        };
        if superblock.total_blocks > super::MAX_BLOCKS {
            return Err(DecodeError { record: "superblock", field: "size", offset: 96 }.into());
        }
        Ok(superblock)
    }
}
