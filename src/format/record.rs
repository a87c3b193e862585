//! Journal records: what happened, in an order that replay repeats.
//!
//! A frame's payload ([`Entry`]) is a record, and before it, where a mount asked for the operation, the
//! request's [`Answer`]: both are there or neither is.

use super::bytes::{DecodeError, Decoder, Encoder};
use super::catalog::{MAX_LABELS, MAX_NAME};
use super::edit::Edit;
use super::ids::{BlockNo, InodeNo, MemberId, VolumeId};
use super::time::Timestamp;
use super::{BLOCK_SIZE, MAX_BLOCKS};

/// Most bytes of file data in one [`Record::Copy`].
pub const MAX_COPY_BYTES: usize = 256 * 1024;

/// Most answers in one [`Record::Answers`]: 1.5 MiB.
pub const MAX_ANSWERS: usize = 65536;

/// A request of a mount, which the kernel may send again to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// Names the mount's session with the kernel.
    pub session: u64,
    /// Names the request in it.
    pub unique: u64,
}

/// A request that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The request.
    pub request: RequestId,
    /// What its reply is made of: an inode or the number of a snapshot that it made, or bytes.
    pub result: u64,
}

/// What a frame of the journal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Requests that the record carries out.
    pub answers: Vec<Answer>,
    /// What happened; none where answers alone are kept.
    pub record: Option<Record>,
}

impl Entry {
    /// Decodes a payload.
    pub fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
        let mut d = Decoder::new("journal record", bytes);
        let mut entry = Entry { answers: Vec::new(), record: None };
        match Record::decode_from(&mut d)? {
            Record::Answers { answers } => entry.answers = answers,
            other => entry.record = Some(other),
        }
        if entry.record.is_none() && d.remaining() > 0 {
            match Record::decode_from(&mut d)? {
                Record::Answers { .. } => return Err(d.error("kind")),
                other => entry.record = Some(other),
            }
        }
        d.finish()?;
        Ok(entry)
    }
}

/// A snapshot that a record creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Volume whose head is frozen.
    pub volume: VolumeId,
    /// Member that the snapshot becomes.
    pub member: MemberId,
}

/// One journal record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// One operation on a volume's head.
    Commit {
        /// Volume.
        volume: VolumeId,
        /// What it changed, in order.
        edits: Vec<Edit>,
    },
    /// File data that an fsync put into the journal instead of syncing it in place.
    Copy {
        /// First block in the data file.
        addr: BlockNo,
        /// Whole blocks, at most [`MAX_COPY_BYTES`].
        bytes: Vec<u8>,
    },
    /// A new volume, empty but for `edits`.
    CreateVolume {
        /// The new volume.
        volume: VolumeId,
        /// Its head.
        head: MemberId,
        /// When.
        created: Timestamp,
        /// Its name.
        name: String,
        /// Its first content.
        edits: Vec<Edit>,
    },
    /// A volume's head is gone; its snapshots stay.
    DeleteVolume {
        /// Volume.
        volume: VolumeId,
    },
    /// A volume's quota and labels, whole.
    SetVolume {
        /// Volume.
        volume: VolumeId,
        /// Quota in bytes, 0 for none.
        quota_bytes: u64,
        /// All labels.
        labels: Vec<(String, String)>,
    },
    /// Snapshots of several volumes at one instant, all with one name.
    Snapshot {
        /// When.
        created: Timestamp,
        /// Name in each volume.
        name: String,
        /// One for each volume.
        snapshots: Vec<NewSnapshot>,
    },
    /// A snapshot's name is gone.
    DeleteSnapshot {
        /// Member.
        member: MemberId,
    },
    /// A snapshot has another name.
    RenameSnapshot {
        /// Member.
        member: MemberId,
        /// New name.
        name: String,
    },
    /// A new volume whose head grows from a snapshot.
    Clone {
        /// Snapshot.
        origin: MemberId,
        /// The new volume.
        volume: VolumeId,
        /// Its head.
        head: MemberId,
        /// When.
        created: Timestamp,
        /// Its name.
        name: String,
    },
    /// A volume's head becomes a snapshot, and its new head grows from `origin`.
    Restore {
        /// Volume.
        volume: VolumeId,
        /// Snapshot restored.
        origin: MemberId,
        /// Member that the old head's frozen state becomes.
        kept: MemberId,
        /// New head.
        head: MemberId,
        /// When.
        created: Timestamp,
        /// Name of the snapshot that keeps the old state.
        name: String,
    },
    /// Requests of mounts that were carried out.
    Answers {
        /// At most [`MAX_ANSWERS`].
        answers: Vec<Answer>,
    },
}

fn put_text(out: &mut Encoder, text: &str) {
    out.u16(text.len() as u16).bytes(text.as_bytes());
}

fn text(d: &mut Decoder<'_>) -> Result<String, DecodeError> {
    let len = usize::from(d.u16("text length")?);
    if len > MAX_NAME {
        return Err(d.error("text length"));
    }
    let raw = d.take(len, "text")?;
    std::str::from_utf8(raw).map(str::to_owned).map_err(|_| d.error("text"))
}

fn put_edits(out: &mut Encoder, edits: &[Edit]) {
    out.u32(edits.len() as u32);
    for edit in edits {
        edit.encode(out);
    }
}

fn edits(d: &mut Decoder<'_>) -> Result<Vec<Edit>, DecodeError> {
    // The count is not trusted for an allocation: each edit takes at least nine bytes.
    let count = d.u32("edit count")?;
    let mut edits = Vec::with_capacity((count as usize).min(d.remaining() / 9));
    for _ in 0..count {
        edits.push(Edit::decode(d)?);
    }
    Ok(edits)
}

/// Appends a [`Record::Commit`] to `out` without building one: the hot path.
pub fn encode_commit(volume: VolumeId, edits: &[Edit], out: &mut Encoder) {
    out.u8(1).u64(volume.0);
    put_edits(out, edits);
}

/// Appends a [`Record::Answers`] to `out`, nothing when there are none.
pub fn encode_answers(answers: &[Answer], out: &mut Encoder) {
    if answers.is_empty() {
        return;
    }
    out.u8(11).u32(answers.len() as u32);
    for answer in answers {
        out.u64(answer.request.session).u64(answer.request.unique).u64(answer.result);
    }
}

impl Record {
    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Encoder) {
        match self {
            Record::Commit { volume, edits } => encode_commit(*volume, edits, out),
            Record::Copy { addr, bytes } => {
                out.u8(2).u64(addr.0).u32(bytes.len() as u32).bytes(bytes);
            }
            Record::CreateVolume { volume, head, created, name, edits } => {
                out.u8(3).u64(volume.0).u64(head.0);
                created.encode(out);
                put_text(out, name);
                put_edits(out, edits);
            }
            Record::DeleteVolume { volume } => {
                out.u8(4).u64(volume.0);
            }
            Record::SetVolume { volume, quota_bytes, labels } => {
                out.u8(5).u64(volume.0).u64(*quota_bytes).u8(labels.len() as u8);
                for (key, value) in labels {
                    put_text(out, key);
                    put_text(out, value);
                }
            }
            Record::Snapshot { created, name, snapshots } => {
                out.u8(6);
                created.encode(out);
                put_text(out, name);
                out.u32(snapshots.len() as u32);
                for new in snapshots {
                    out.u64(new.volume.0).u64(new.member.0);
                }
            }
            Record::DeleteSnapshot { member } => {
                out.u8(7).u64(member.0);
            }
            Record::RenameSnapshot { member, name } => {
                out.u8(8).u64(member.0);
                put_text(out, name);
            }
            Record::Clone { origin, volume, head, created, name } => {
                out.u8(9).u64(origin.0).u64(volume.0).u64(head.0);
                created.encode(out);
                put_text(out, name);
            }
            Record::Restore { volume, origin, kept, head, created, name } => {
                out.u8(10).u64(volume.0).u64(origin.0).u64(kept.0).u64(head.0);
                created.encode(out);
                put_text(out, name);
            }
            Record::Answers { answers } => encode_answers(answers, out),
        }
    }

    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        self.encode(&mut out);
        out.0
    }

    /// Decodes a record that takes all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
        let mut d = Decoder::new("journal record", bytes);
        let record = Record::decode_from(&mut d)?;
        d.finish()?;
        Ok(record)
    }

    fn decode_from(d: &mut Decoder<'_>) -> Result<Record, DecodeError> {
        let kind = d.u8("kind")?;
        let record = match kind {
            1 => Record::Commit { volume: VolumeId(d.number("volume")?), edits: edits(d)? },
            2 => decode_copy(d)?,
            3 => Record::CreateVolume {
                volume: VolumeId(d.number("volume")?),
                head: MemberId(d.number("head")?),
                created: Timestamp::decode(d)?,
                name: text(d)?,
                edits: edits(d)?,
            },
            4 => Record::DeleteVolume { volume: VolumeId(d.number("volume")?) },
            5 => Record::SetVolume {
                volume: VolumeId(d.number("volume")?),
                quota_bytes: d.u64("quota")?,
                labels: {
                    let count = d.u8("labels")?;
                    if usize::from(count) > MAX_LABELS {
                        return Err(d.error("labels"));
                    }
                    (0..count)
                        .map(|_| Ok((text(d)?, text(d)?)))
                        .collect::<Result<_, DecodeError>>()?
                },
            },
            6 => decode_snapshot(d)?,
            7 => Record::DeleteSnapshot { member: MemberId(d.number("member")?) },
            8 => Record::RenameSnapshot { member: MemberId(d.number("member")?), name: text(d)? },
            9 => Record::Clone {
                origin: MemberId(d.number("origin")?),
                volume: VolumeId(d.number("volume")?),
                head: MemberId(d.number("head")?),
                created: Timestamp::decode(d)?,
                name: text(d)?,
            },
            10 => Record::Restore {
                volume: VolumeId(d.number("volume")?),
                origin: MemberId(d.number("origin")?),
                kept: MemberId(d.number("kept")?),
                head: MemberId(d.number("head")?),
                created: Timestamp::decode(d)?,
                name: text(d)?,
            },
            11 => decode_answers(d)?,
            _ => return Err(d.error("kind")),
        };
        Ok(record)
    }

    /// Calls `f` with every edit in the record.
    pub fn edits(&self) -> &[Edit] {
        match self {
            Record::Commit { edits, .. } | Record::CreateVolume { edits, .. } => edits,
            _ => &[],
        }
    }

    /// Largest inode number that the record's edits put, or 0.
    pub fn max_inode(edits: &[Edit]) -> InodeNo {
        let inodes = edits.iter().map(|edit| match edit {
            Edit::Put { key, .. } if key.is(super::KeyKind::Inode) => key.id(),
            _ => 0,
        });
        InodeNo(inodes.max().unwrap_or(0))
    }
}

fn decode_copy(d: &mut Decoder<'_>) -> Result<Record, DecodeError> {
    let addr = BlockNo(d.u64("address")?);
    let len = d.u32("length")? as usize;
    if len > MAX_COPY_BYTES || !len.is_multiple_of(BLOCK_SIZE) || addr.0 > MAX_BLOCKS {
        return Err(d.error("length"));
    }
    Ok(Record::Copy { addr, bytes: d.take(len, "data")?.to_vec() })
}

fn decode_answers(d: &mut Decoder<'_>) -> Result<Record, DecodeError> {
    let count = d.u32("answer count")? as usize;
    if count == 0 || count > MAX_ANSWERS || count * 24 > d.remaining() {
        return Err(d.error("answer count"));
    }
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        let request = RequestId { session: d.u64("session")?, unique: d.u64("request")? };
        answers.push(Answer { request, result: d.u64("result")? });
    }
    Ok(Record::Answers { answers })
}

fn decode_snapshot(d: &mut Decoder<'_>) -> Result<Record, DecodeError> {
    let created = Timestamp::decode(d)?;
    let name = text(d)?;
    let count = d.u32("snapshot count")? as usize;
    if count.checked_mul(16) != Some(d.remaining()) {
        return Err(d.error("snapshot count"));
    }
    let mut snapshots = Vec::with_capacity(count);
    for _ in 0..count {
        let volume = VolumeId(d.number("volume")?);
        snapshots.push(NewSnapshot { volume, member: MemberId(d.number("member")?) });
    }
    Ok(Record::Snapshot { created, name, snapshots })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Epoch, Extent, ExtentKind, Key, KeyKind, MAX_SUB};
    use proptest::prelude::*;

    fn any_edit() -> BoxedStrategy<Edit> {
        let ino = (1u64..1 << 42).prop_map(InodeNo);
        prop_oneof![
            (any::<u128>(), prop::collection::vec(any::<u8>(), 0..64))
                .prop_map(|(key, value)| Edit::Put { key: Key(key), value }),
            any::<u128>().prop_map(|key| Edit::Delete { key: Key(key) }),
            (ino.clone(), 0u64..1 << 40, 0u64..1 << 40, any::<bool>(), 1u32..257).prop_map(
                |(ino, block, addr, shared, len_blocks)| Edit::Map {
                    ino,
                    block,
                    shared,
                    extent: Extent {
                        addr: BlockNo(addr),
                        birth: Epoch(addr ^ block),
                        len_blocks,
                        kind: ExtentKind::Written,
                        checksums: (0..len_blocks).collect(),
                    },
                }
            ),
            (ino.clone(), any::<u64>(), any::<u64>())
                .prop_map(|(ino, block, len_blocks)| Edit::Unmap { ino, block, len_blocks }),
            ino.prop_map(|ino| Edit::DeleteInode { ino }),
            (0u64..1 << 50, 0usize..4)
                .prop_map(|(a, n)| Edit::Content { addr: BlockNo(a), bytes: vec![3; n * 4096] }),
        ]
        .boxed()
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        any::<(u64, u64, u64)>().prop_map(|(session, unique, result)| Answer {
            request: RequestId { session, unique },
            result,
        })
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let id = any::<u64>();
        let at =
            (any::<i64>(), 0u32..1_000_000_000).prop_map(|(sec, nsec)| Timestamp { sec, nsec });
        let edits = prop::collection::vec(any_edit(), 0..8);
        prop_oneof![
            (id, edits.clone())
                .prop_map(|(v, edits)| Record::Commit { volume: VolumeId(v & MAX_SUB), edits }),
            (0u64..1 << 50, 0usize..3)
                .prop_map(|(a, n)| Record::Copy { addr: BlockNo(a), bytes: vec![7; n * 4096] }),
            (id, id, at.clone(), "[a-z]{1,9}", edits).prop_map(|(v, h, created, name, edits)| {
                Record::CreateVolume {
                    volume: VolumeId(v & MAX_SUB),
                    head: MemberId(h & MAX_SUB),
                    created,
                    name,
                    edits,
                }
            }),
            (at.clone(), "\\PC{1,9}", prop::collection::vec((id, id), 0..4)).prop_map(
                |(created, name, pairs)| Record::Snapshot {
                    created,
                    name,
                    snapshots: pairs
                        .into_iter()
                        .map(|(v, m)| NewSnapshot {
                            volume: VolumeId(v & MAX_SUB),
                            member: MemberId(m & MAX_SUB)
                        })
                        .collect(),
                }
            ),
            prop::collection::vec(any_answer(), 1..4)
                .prop_map(|answers| Record::Answers { answers }),
            (id, id, id, id, at, "[a-z]{1,9}").prop_map(|(v, o, k, h, created, name)| {
                Record::Restore {
                    volume: VolumeId(v & MAX_SUB),
                    origin: MemberId(o & MAX_SUB),
                    kept: MemberId(k & MAX_SUB),
                    head: MemberId(h & MAX_SUB),
                    created,
                    name,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back(record in any_record()) {
            prop_assert_eq!(Record::decode(&record.to_bytes()), Ok(record));
        }

        #[test]
        fn entries_come_back(answers in prop::collection::vec(any_answer(), 0..3), record in any_record()) {
            let mut out = Encoder::new();
            encode_answers(&answers, &mut out);
            let two = matches!(record, Record::Answers { .. });
            record.encode(&mut out);
            let decoded = Entry::decode(&out.0);
            match (two, answers.is_empty()) {
                (false, _) => prop_assert_eq!(decoded, Ok(Entry { answers, record: Some(record) })),
                (true, true) => prop_assert!(decoded.is_ok_and(|entry| entry.record.is_none())),
                (true, false) => prop_assert!(decoded.is_err()),
            }
        }

        #[test]
        fn any_bytes_decode_or_fail(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..12) {
            if let Some(first) = bytes.first_mut() { *first = kind; }
            let _ = Record::decode(&bytes);
            let _ = Entry::decode(&bytes);
        }

        #[test]
        fn cut_or_changed_records_do_not_panic(record in any_record(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = record.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = Record::decode(&bytes);
            let _ = Record::decode(&bytes[..at]);
        }
    }

    #[test]
    fn the_largest_inode_is_found() {
        let put = |id| Edit::Put { key: Key::new(id, KeyKind::Inode, 0), value: vec![] };
        assert_eq!(Record::max_inode(&[put(3), put(9), put(4)]), InodeNo(9));
    }
}
