//! Records of the catalog tree (volumes, lineage members, deadlists, reclaim work, shared counts) and of
//! the checkpoint tree (roots).

use super::bytes::{DecodeError, Decoder, Encoder};
use super::ids::{BlockNo, Epoch, MemberId, Run, VolumeId};
use super::key::{Key, MAX_SUB};
use super::node::{MAX_LEVEL, NodePtr, decode_ptr};
use super::time::Timestamp;

/// Longest name of a volume or a snapshot, in bytes.
pub const MAX_NAME: usize = 255;
/// Most labels of a volume; with [`MAX_NAME`]-byte keys and values a record stays below a value's limit.
pub const MAX_LABELS: usize = 7;
/// References in one deadlist chunk: 8 + 200 * 20 bytes are below a value's limit.
pub const MAX_CHUNK_REFS: usize = 200;

fn put_name(out: &mut Encoder, name: &str) {
    out.u16(name.len() as u16).bytes(name.as_bytes());
}

fn name(d: &mut Decoder<'_>) -> Result<String, DecodeError> {
    let len = usize::from(d.u16("name length")?);
    if len > MAX_NAME {
        return Err(d.error("name length"));
    }
    let raw = d.take(len, "name")?;
    std::str::from_utf8(raw).map(str::to_owned).map_err(|_| d.error("name"))
}

fn put_option(out: &mut Encoder, value: Option<u64>) {
    out.u64(value.map_or(0, |v| v.saturating_add(1)));
}

fn option(d: &mut Decoder<'_>, field: &'static str) -> Result<Option<u64>, DecodeError> {
    Ok(d.u64(field)?.checked_sub(1))
}

fn member(d: &mut Decoder<'_>, field: &'static str) -> Result<Option<MemberId>, DecodeError> {
    let error = d.error(field);
    match option(d, field)? {
        Some(number) if number > MAX_SUB => Err(error),
        number => Ok(number.map(MemberId)),
    }
}

/// A volume; key [`Key::volume`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Lineage member that is its live state; none once the volume is deleted but snapshots are left.
    pub head: Option<MemberId>,
    /// When it was made.
    pub created: Timestamp,
    /// Limit of the bytes it references.
    pub quota_bytes: Option<u64>,
    /// Number that the next snapshot gets.
    pub next_snapshot: u32,
    /// Name, unique in the pool.
    pub name: String,
    /// Labels, by key.
    pub labels: Vec<(String, String)>,
}

impl VolumeRecord {
    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        put_option(&mut out, self.head.map(|m| m.0));
        self.created.encode(&mut out);
        put_option(&mut out, self.quota_bytes);
        out.u32(self.next_snapshot);
        put_name(&mut out, &self.name);
        out.u8(self.labels.len() as u8);
        for (key, value) in &self.labels {
            put_name(&mut out, key);
            put_name(&mut out, value);
        }
        out.0
    }

    /// Decodes a record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new("volume", bytes);
        let record = VolumeRecord {
            head: member(&mut d, "head")?,
            created: Timestamp::decode(&mut d)?,
            quota_bytes: option(&mut d, "quota")?,
            next_snapshot: d.u32("next snapshot")?,
            name: name(&mut d)?,
            labels: {
                let count = usize::from(d.u8("labels")?);
                if count > MAX_LABELS {
                    return Err(d.error("labels"));
                }
                (0..count)
                    .map(|_| Ok((name(&mut d)?, name(&mut d)?)))
                    .collect::<Result<_, DecodeError>>()?
            },
        };
        d.finish()?;
        Ok(record)
    }
}

/// What a lineage member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MemberKind {
    /// A volume's live state.
    Head = 0,
    /// A frozen state with a name.
    Snapshot = 1,
    /// A deleted snapshot that several members still grow from.
    Zombie = 2,
    /// A deleted member without children: its tree is being freed.
    Freeing = 3,
}

/// A lineage member; key [`Key::member`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Volume that it belongs to.
    pub volume: VolumeId,
    /// Head, snapshot, or on its way out.
    pub kind: MemberKind,
    /// Snapshot that it grew from.
    pub parent: Option<MemberId>,
    /// Epoch that it froze; 0 for a head.
    pub epoch: Epoch,
    /// Number of its deadlist.
    pub deadlist: u64,
    /// Snapshot: number within the volume.
    pub number: u32,
    /// Snapshot: when it was made.
    pub created: Timestamp,
    /// Freeing: births up to this one belong to others.
    pub keep_birth: Epoch,
    /// Freeing: what lies before this key is freed already.
    pub cursor: Key,
    /// Snapshot: name, unique in the volume.
    pub name: String,
}

impl MemberRecord {
    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u64(self.volume.0).u8(self.kind as u8);
        put_option(&mut out, self.parent.map(|m| m.0));
        out.u64(self.epoch.0).u64(self.deadlist).u32(self.number);
        self.created.encode(&mut out);
        out.u64(self.keep_birth.0).u128(self.cursor.0);
        put_name(&mut out, &self.name);
        out.0
    }

    /// Decodes a record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new("member", bytes);
        let record = MemberRecord {
            volume: VolumeId(d.number("volume")?),
            kind: match d.u8("kind")? {
                0 => MemberKind::Head,
                1 => MemberKind::Snapshot,
                2 => MemberKind::Zombie,
                3 => MemberKind::Freeing,
                _ => return Err(d.error("kind")),
            },
            parent: member(&mut d, "parent")?,
            epoch: Epoch(d.number("epoch")?),
            deadlist: d.number("deadlist")?,
            number: d.u32("number")?,
            created: Timestamp::decode(&mut d)?,
            keep_birth: Epoch(d.number("keep birth")?),
            cursor: Key(d.u128("cursor")?),
            name: name(&mut d)?,
        };
        d.finish()?;
        Ok(record)
    }
}

/// A reference that a member dropped but that its parent still sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadRef {
    /// Blocks referred to.
    pub run: Run,
    /// Birth of the reference.
    pub birth: Epoch,
}

/// A chain of chunks of dead references and how many blocks they cover in all; a bucket of a deadlist
/// ([`Key::bucket`]), or reclaim work ([`Key::reclaim`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainRecord {
    /// First chunk; 0 for none.
    pub first: u64,
    /// Last chunk; 0 for none.
    pub last: u64,
    /// Blocks that the references cover.
    pub blocks: u64,
    /// Reclaim work: whether the references are to be freed, or only forgotten.
    pub forget: bool,
}

impl ChainRecord {
    /// The record as bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u64(self.first).u64(self.last).u64(self.blocks).u8(u8::from(self.forget));
        out.0
    }

    /// Decodes a record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new("chain", bytes);
        let (first, last) = (d.number("first")?, d.number("last")?);
        let blocks = d.number("blocks")?;
        let forget = match d.u8("forget")? {
            0 => false,
            1 => true,
            _ => return Err(d.error("forget")),
        };
        d.finish()?;
        Ok(ChainRecord { first, last, blocks, forget })
    }
}

/// Some dead references, and the chunk behind; key [`Key::chunk`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkRecord {
    /// Next chunk of the chain; 0 for none.
    pub next: u64,
    /// At most [`MAX_CHUNK_REFS`].
    pub refs: Vec<DeadRef>,
}

impl ChunkRecord {
    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u64(self.next);
        for dead in &self.refs {
            out.u64(dead.run.start.0).u32(dead.run.len_blocks).u64(dead.birth.0);
        }
        out.0
    }

    /// Decodes a record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new("chunk", bytes);
        let next = d.number("next")?;
        let mut refs = Vec::new();
        while d.remaining() > 0 {
            if refs.len() == MAX_CHUNK_REFS {
                return Err(d.error("references"));
            }
            let start = BlockNo(d.u64("start")?);
            let run = Run::new(start, d.u32("length")?);
            if start.0 > super::MAX_BLOCKS || run.len_blocks == 0 {
                return Err(d.error("start"));
            }
            refs.push(DeadRef { run, birth: Epoch(d.number("birth")?) });
        }
        Ok(ChunkRecord { next, refs })
    }
}

/// Extra references to a block range; key [`Key::shared`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedRecord {
    /// Length of the range, at least 1.
    pub len_blocks: u32,
    /// References beyond the first, at least 1.
    pub extra: u32,
}

impl SharedRecord {
    /// The record as bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u32(self.len_blocks).u32(self.extra);
        out.0
    }

    /// Decodes a record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new("shared", bytes);
        let (len_blocks, extra) = (d.u32("length")?, d.u32("extra")?);
        if len_blocks == 0 || extra == 0 {
            return Err(d.error("extra"));
        }
        d.finish()?;
        Ok(SharedRecord { len_blocks, extra })
    }
}

/// Root of a member's tree and its figures; checkpoint tree, key [`Key::root`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootRecord {
    /// Root node.
    pub ptr: NodePtr,
    /// Level of the root node.
    pub level: u8,
    /// Nodes in the tree.
    pub nodes: u64,
    /// Data blocks that its extents map.
    pub data_blocks: u64,
    /// Inode number that the next new inode gets.
    pub next_inode: u64,
}

impl RootRecord {
    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Encoder) {
        out.u64(self.ptr.addr.0).u64(self.ptr.birth.0).bytes(&self.ptr.hash.0);
        out.u8(self.level).u64(self.nodes).u64(self.data_blocks).u64(self.next_inode);
    }

    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        self.encode(&mut out);
        out.0
    }

    /// Reads a record.
    pub fn decode_from(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let ptr = decode_ptr(d)?;
        let level = d.u8("level")?;
        if level > MAX_LEVEL {
            return Err(d.error("level"));
        }
        Ok(RootRecord {
            ptr,
            level,
            nodes: d.number("nodes")?,
            data_blocks: d.number("data blocks")?,
            next_inode: d.number("next inode")?,
        })
    }

    /// Decodes a record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new("root", bytes);
        let record = Self::decode_from(&mut d)?;
        d.finish()?;
        Ok(record)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
