//! Round trips and damage of the catalog's and the checkpoint tree's records.

use std::fmt::Debug;

use proptest::prelude::*;

use super::*;
use crate::format::{Hash, MAX_BLOCKS, MAX_VALUE};

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(sec, nsec)| Timestamp { sec, nsec })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,20}", "[a-z]{200,255}"]
        .prop_filter("bytes", |s: &String| s.len() <= MAX_NAME)
}

/// A number or none; the largest number can't be told from the one below it, and is never given out.
fn optional() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(0..u64::MAX)
}

fn volume() -> impl Strategy<Value = VolumeRecord> {
    let labels = prop::collection::vec((name(), name()), 0..=MAX_LABELS);
    (optional(), time(), optional(), any::<u32>(), name(), labels).prop_map(
        |(head, created, quota_bytes, next_snapshot, name, labels)| VolumeRecord {
            head: head.map(|head| MemberId(head & MAX_SUB)),
            created,
            quota_bytes,
            next_snapshot,
            name,
            labels,
        },
    )
}

fn member() -> impl Strategy<Value = MemberRecord> {
    let kind = prop::sample::select(vec![
        MemberKind::Head,
        MemberKind::Snapshot,
        MemberKind::Zombie,
        MemberKind::Freeing,
    ]);
    let numbers = any::<(u64, u64, u64, u32, u64, u128)>();
    (kind, optional(), time(), numbers, name()).prop_map(|(kind, parent, created, n, name)| {
        MemberRecord {
            volume: VolumeId(n.0 & MAX_SUB),
            kind,
            parent: parent.map(|parent| MemberId(parent & MAX_SUB)),
            epoch: Epoch(n.1 & MAX_SUB),
            deadlist: n.2 & MAX_SUB,
            number: n.3,
            created,
            keep_birth: Epoch(n.4 & MAX_SUB),
            cursor: Key(n.5),
            name,
        }
    })
}

fn chain() -> impl Strategy<Value = ChainRecord> {
    any::<(u64, u64, u64, bool)>().prop_map(|(first, last, blocks, forget)| ChainRecord {
        first: first & MAX_SUB,
        last: last & MAX_SUB,
        blocks: blocks & MAX_SUB,
        forget,
    })
}

fn chunk() -> impl Strategy<Value = ChunkRecord> {
    let dead = (0..=MAX_BLOCKS, 1..=u32::MAX, 0..=MAX_SUB).prop_map(|(start, len, birth)| {
        DeadRef { run: Run::new(BlockNo(start), len), birth: Epoch(birth) }
    });
    (0..=MAX_SUB, prop::collection::vec(dead, 0..=MAX_CHUNK_REFS))
        .prop_map(|(next, refs)| ChunkRecord { next, refs })
}

fn shared() -> impl Strategy<Value = SharedRecord> {
    (1..=u32::MAX, 1..=u32::MAX).prop_map(|(len_blocks, extra)| SharedRecord { len_blocks, extra })
}

fn root() -> impl Strategy<Value = RootRecord> {
    (0..=MAX_BLOCKS, any::<(u64, [u8; 32], u64, u64, u64)>(), 0..=MAX_LEVEL).prop_map(
        |(addr, (birth, hash, nodes, data_blocks, next_inode), level)| RootRecord {
            ptr: NodePtr { addr: BlockNo(addr), birth: Epoch(birth & MAX_SUB), hash: Hash(hash) },
            level,
            nodes: nodes & MAX_SUB,
            data_blocks: data_blocks & MAX_SUB,
            next_inode: next_inode & MAX_SUB,
        },
    )
}

/// What every record must do: come back, fill its bytes exactly, fit a leaf, and take damage.
fn check<T: Debug + PartialEq>(
    record: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    (at, byte): (prop::sample::Index, u8),
    cut_is_an_error: bool,
) {
    let bytes = encode(record);
    assert!(bytes.len() <= MAX_VALUE, "{} bytes", bytes.len());
    assert_eq!(decode(&bytes).as_ref(), Ok(record));
    let at = at.index(bytes.len());
    if cut_is_an_error {
        assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "a byte too many");
    let mut changed = bytes;
    changed[at] = byte;
    if let Ok(other) = decode(&changed) {
        assert_eq!(encode(&other), changed, "byte {at} is not in what was decoded");
    }
}

type Damage = (prop::sample::Index, u8);

proptest! {
    #[test]
    fn volumes_come_back(record in volume(), damage in any::<Damage>()) {
        check(&record, VolumeRecord::to_bytes, VolumeRecord::decode, damage, true);
    }

    #[test]
    fn members_come_back(record in member(), damage in any::<Damage>()) {
        check(&record, MemberRecord::to_bytes, MemberRecord::decode, damage, true);
    }

    #[test]
    fn chains_come_back(record in chain(), damage in any::<Damage>()) {
        check(&record, |r| r.to_bytes(), ChainRecord::decode, damage, true);
    }

    #[test]
    fn chunks_come_back(record in chunk(), damage in any::<Damage>()) {
        // A chunk that is cut behind a reference is a shorter chunk.
        check(&record, ChunkRecord::to_bytes, ChunkRecord::decode, damage, false);
    }

    #[test]
    fn shared_counts_come_back(record in shared(), damage in any::<Damage>()) {
        check(&record, |r| r.to_bytes(), SharedRecord::decode, damage, true);
    }

    #[test]
    fn roots_come_back(record in root(), damage in any::<Damage>()) {
        check(&record, RootRecord::to_bytes, RootRecord::decode, damage, true);
    }

    #[test]
    fn arbitrary_bytes_decode_to_themselves_or_fail(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            // Small bytes make small lengths and known kinds.
            prop::collection::vec(0u8..4, 0..200),
        ],
    ) {
        let check = |found: Option<Vec<u8>>| assert!(found.is_none_or(|found| found == bytes));
        check(VolumeRecord::decode(&bytes).ok().map(|r| r.to_bytes()));
        check(MemberRecord::decode(&bytes).ok().map(|r| r.to_bytes()));
        check(ChainRecord::decode(&bytes).ok().map(|r| r.to_bytes()));
        check(ChunkRecord::decode(&bytes).ok().map(|r| r.to_bytes()));
        check(SharedRecord::decode(&bytes).ok().map(|r| r.to_bytes()));
        check(RootRecord::decode(&bytes).ok().map(|r| r.to_bytes()));
    }
}

#[test]
fn the_largest_records_fit_a_leaf() {
    let long = "n".repeat(MAX_NAME);
    let volume = VolumeRecord {
        head: None,
        created: Timestamp::default(),
        quota_bytes: None,
        next_snapshot: 1,
        name: long.clone(),
        labels: vec![(long.clone(), long); MAX_LABELS],
    };
    assert!(volume.to_bytes().len() <= MAX_VALUE);
    assert_eq!(VolumeRecord::decode(&volume.to_bytes()), Ok(volume));
    let dead = DeadRef { run: Run::new(BlockNo(1), 1), birth: Epoch(1) };
    let chunk = ChunkRecord { next: 0, refs: vec![dead; MAX_CHUNK_REFS] };
    assert!(chunk.to_bytes().len() <= MAX_VALUE);
    let long = [chunk.to_bytes(), vec![1; 20]].concat();
    assert_eq!(ChunkRecord::decode(&long).unwrap_err().field, "references");
}

#[test]
fn fields_out_of_range_are_refused() {
    let field = |error: DecodeError| (error.record, error.field);
    let mut chain = ChainRecord::default().to_bytes();
    chain[24] = 2;
    assert_eq!(field(ChainRecord::decode(&chain).unwrap_err()), ("chain", "forget"));
    for zero in [SharedRecord { len_blocks: 0, extra: 1 }, SharedRecord { len_blocks: 1, extra: 0 }]
    {
        let error = SharedRecord::decode(&zero.to_bytes()).unwrap_err();
        assert_eq!(field(error), ("shared", "extra"));
    }
    for (start, len_blocks) in [(1, 0), (MAX_BLOCKS + 1, 1)] {
        let dead = DeadRef { run: Run::new(BlockNo(start), len_blocks), birth: Epoch(0) };
        let chunk = ChunkRecord { next: 0, refs: vec![dead] };
        let error = ChunkRecord::decode(&chunk.to_bytes()).unwrap_err();
        assert_eq!(field(error), ("chunk", "start"));
    }
    let ptr = NodePtr { addr: BlockNo(1), birth: Epoch(1), hash: Hash::default() };
    let level = MAX_LEVEL + 1;
    let root = RootRecord { ptr, level, nodes: 1, data_blocks: 0, next_inode: 0 };
    assert_eq!(field(RootRecord::decode(&root.to_bytes()).unwrap_err()), ("root", "level"));
}

#[test]
fn names_are_utf8_and_not_too_long() {
    let named = |name: &[u8], len: u16| {
        let mut bytes = vec![0; 32];
        bytes.extend(len.to_le_bytes());
        bytes.extend(name);
        bytes.push(0);
        VolumeRecord::decode(&bytes).map(|record| record.name)
    };
    assert_eq!(named("né".as_bytes(), 3), Ok("né".to_owned()));
    assert_eq!(named(&[0xff], 1).unwrap_err().field, "name");
    assert_eq!(named(&[b'n'; 256], 256).unwrap_err().field, "name length");
}
