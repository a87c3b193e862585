//! Records of the catalog.

use amberfs::format::*;

use crate::document::Table;
use crate::{text, time, u8, u32, u64};

#[test]
fn volume_record() {
    let (created, created_bytes) = time(1);
    let record = VolumeRecord {
        head: Some(MemberId(5)),
        created,
        quota_bytes: None,
        next_snapshot: 0x1234,
        name: "main".into(),
        labels: vec![("app".into(), "db".into())],
    };
    let table = Table::find("Volume record");
    table.describes(
        &record.to_bytes(),
        &[
            ("head", u64(5 + 1)),
            ("created", created_bytes),
            ("quota", u64(0)),
            ("next snapshot", u32(0x1234)),
            ("name", text("main")),
            ("label count", u8(1)),
            ("label key", text("app")),
            ("label value", text("db")),
        ],
    );
    assert_eq!(table.cell("field", "label count", "meaning"), format!("at most {MAX_LABELS}"));
}

#[test]
fn member_record() {
    let (created, created_bytes) = time(2);
    let record = MemberRecord {
        volume: VolumeId(0x11),
        kind: MemberKind::Zombie,
        parent: Some(MemberId(0x12)),
        epoch: Epoch(0x13),
        deadlist: 0x14,
        number: 0x15,
        created,
        keep_birth: Epoch(0x16),
        cursor: Key::new(0x17, KeyKind::Extent, 0x18),
        name: "monday".into(),
    };
    let table = Table::find("Member record");
    table.describes(
        &record.to_bytes(),
        &[
            ("volume", u64(0x11)),
            ("kind", u8(2)),
            ("parent", u64(0x12 + 1)),
            ("epoch", u64(0x13)),
            ("deadlist", u64(0x14)),
            ("number", u32(0x15)),
            ("created", created_bytes),
            ("keep birth", u64(0x16)),
            ("cursor", record.cursor.0.to_le_bytes().to_vec()),
            ("name", text("monday")),
        ],
    );
    let kinds = [
        (MemberKind::Head, "head"),
        (MemberKind::Snapshot, "snapshot"),
        (MemberKind::Zombie, "zombie"),
        (MemberKind::Freeing, "freeing"),
    ];
    let kinds = kinds.map(|(kind, name)| format!("{} {name}", kind as u8)).join(", ");
    assert_eq!(table.cell("field", "kind", "meaning"), kinds);
}

#[test]
fn chain_record() {
    let record = ChainRecord { first: 0x21, last: 0x22, blocks: 0x23, forget: true };
    Table::find("Chain record").describes(
        &record.to_bytes(),
        &[("first", u64(0x21)), ("last", u64(0x22)), ("blocks", u64(0x23)), ("forget", u8(1))],
    );
}

#[test]
fn chunk_record() {
    let dead = DeadRef { run: Run::new(BlockNo(0x32), 0x33), birth: Epoch(0x34) };
    let record = ChunkRecord { next: 0x31, refs: vec![dead] };
    Table::find("Chunk record").describes(
        &record.to_bytes(),
        &[("next", u64(0x31)), ("start", u64(0x32)), ("length", u32(0x33)), ("birth", u64(0x34))],
    );
    let phrase = format!("Up to {MAX_CHUNK_REFS} references follow the first field.");
    assert!(crate::document::text().contains(&phrase), "{phrase}");
    let two = ChunkRecord { next: 0x31, refs: vec![dead, dead] }.to_bytes();
    assert_eq!(two[28..], two[8..28]);
}

#[test]
fn shared_record() {
    let record = SharedRecord { len_blocks: 0x41, extra: 0x42 };
    Table::find("Shared record")
        .describes(&record.to_bytes(), &[("length", u32(0x41)), ("extra", u32(0x42))]);
}
