//! Frames, records and edits of the journal.

use amberfs::format::*;

use crate::document::Table;
use crate::{text, time, u8, u32, u64, zeros};

#[test]
fn frame() {
    let salt = [0x51; 16];
    let payload = b"payload".to_vec();
    let header = FrameHeader { payload_bytes: 7, seq: Seq(0x52), nonce: 0x53, chain: 0x54 };
    let (sealed, _) = header.seal(frame_salt(&salt), &payload);
    let mut frame = [sealed.as_slice(), &payload].concat();
    frame.resize(frame_bytes(payload.len()), 0);
    let checksum = crc32c::crc32c(&[&salt[..], &frame[..28], &payload].concat());
    let table = Table::find("Journal frame");
    table.describes(
        &frame,
        &[
            ("magic", b"AmJr".to_vec()),
            ("payload length", u32(7)),
            ("sequence", u64(0x52)),
            ("nonce", u64(0x53)),
            ("chain", u32(0x54)),
            ("checksum", u32(checksum)),
            ("payload", payload),
            ("padding", zeros(1)),
        ],
    );
    assert_eq!(table.cell("field", "payload length", "meaning"), format!("at most {MAX_RECORD}"));
}

/// Fields of a record as its row names them, with their bytes. A number behind a name is the field's length.
type Fields = Vec<(&'static str, Vec<u8>)>;

/// Fails unless the row says what the encoding is.
fn compare(table: &Table, kind: u8, name: &str, fields: &Fields, encoded: &[u8]) {
    assert_eq!(table.cell("kind", &kind.to_string(), "name"), name);
    let mut row = table.cell("name", name, "fields").to_owned();
    while let (Some(open), Some(close)) = (row.find(" ("), row.find(')')) {
        row.replace_range(open..=close, "");
    }
    let named: Vec<_> = fields.iter().map(|field| field.0).collect();
    assert_eq!(row, named.join(", "), "fields of {name}");
    for (field, bytes) in fields {
        if let Some(len) = field.rsplit(' ').next().and_then(|len| len.parse::<usize>().ok()) {
            assert_eq!(bytes.len(), len, "{field} of {name}");
        }
    }
    let bytes: Vec<u8> = fields.iter().flat_map(|field| field.1.clone()).collect();
    assert_eq!(encoded, [u8(kind), bytes].concat(), "bytes of {name}");
}

/// What the document says of each edit. The match has no other arm, so that a new kind does not compile
/// before it is here; the same below.
fn edit_row(edit: &Edit) -> (u8, &'static str, Fields) {
    match edit {
        Edit::Put { key, value } => (
            1,
            "Put",
            vec![
                ("key 16", key.0.to_le_bytes().to_vec()),
                ("length 4", u32(value.len() as u32)),
                ("value", value.clone()),
            ],
        ),
        Edit::Delete { key } => (2, "Delete", vec![("key 16", key.0.to_le_bytes().to_vec())]),
        Edit::Map { ino, block, extent, shared } => (
            if *shared { 4 } else { 3 },
            if *shared { "Map shared" } else { "Map" },
            vec![
                ("inode 8", u64(ino.0)),
                ("block index 8", u64(*block)),
                ("extent", extent.to_bytes()),
            ],
        ),
        Edit::Unmap { ino, block, len_blocks } => (
            5,
            "Unmap",
            vec![
                ("inode 8", u64(ino.0)),
                ("block index 8", u64(*block)),
                ("number of blocks 8", u64(*len_blocks)),
            ],
        ),
        Edit::DeleteInode { ino } => (6, "DeleteInode", vec![("inode 8", u64(ino.0))]),
        Edit::Content { addr, bytes } => (
            7,
            "Content",
            vec![
                ("first block 8", u64(addr.0)),
                ("length 4", u32(bytes.len() as u32)),
                ("bytes", bytes.clone()),
            ],
        ),
    }
}

fn sample_edits() -> Vec<Edit> {
    let (ino, key) = (InodeNo(0x61), Key::new(0x61, KeyKind::Inode, 0));
    let extent = Extent {
        addr: BlockNo(0x62),
        birth: Epoch(0x63),
        len_blocks: 1,
        kind: ExtentKind::Written,
        checksums: vec![0x64],
    };
    vec![
        Edit::Put { key, value: b"value".to_vec() },
        Edit::Delete { key },
        Edit::Map { ino, block: 0x65, extent: extent.clone(), shared: false },
        Edit::Map { ino, block: 0x66, extent, shared: true },
        Edit::Unmap { ino, block: 0x67, len_blocks: 0x68 },
        Edit::DeleteInode { ino },
        Edit::Content { addr: BlockNo(0x69), bytes: vec![0x6a; BLOCK_SIZE] },
    ]
}

fn bytes_of(edit: &Edit) -> Vec<u8> {
    let mut out = Encoder::new();
    edit.encode(&mut out);
    out.0
}

#[test]
fn edits() {
    let table = Table::find("Edits");
    let edits = sample_edits();
    assert_eq!(table.columns(["kind"]).len(), edits.len());
    for edit in &edits {
        let (kind, name, fields) = edit_row(edit);
        compare(&table, kind, name, &fields, &bytes_of(edit));
    }
    let limits = [("Put", MAX_VALUE), ("Content", MAX_CONTENT_BYTES)];
    for (name, limit) in limits {
        let row = table.cell("name", name, "fields");
        assert!(row.contains(&format!("at most {limit})")), "{row}");
    }
}

fn edits_field(edits: &[Edit]) -> (&'static str, Vec<u8>) {
    let bytes = edits.iter().flat_map(bytes_of);
    ("edits", u32(edits.len() as u32).into_iter().chain(bytes).collect())
}

fn record_row(record: &Record) -> (u8, &'static str, Fields) {
    let when = |at: &Timestamp| ("time", time(at.sec).1);
    let volume = |id: &VolumeId| ("volume 8", u64(id.0));
    let member = |name, id: &MemberId| (name, u64(id.0));
    let named = |name: &str| ("name text", text(name));
    match record {
        Record::Commit { volume: id, edits } => (1, "Commit", vec![volume(id), edits_field(edits)]),
        Record::Copy { addr, bytes } => {
            let length = ("length 4", u32(bytes.len() as u32));
            (2, "Copy", vec![("first block 8", u64(addr.0)), length, ("bytes", bytes.clone())])
        }
        Record::CreateVolume { volume: id, head, created, name, edits } => {
            let head = member("head 8", head);
            let fields = vec![volume(id), head, when(created), named(name), edits_field(edits)];
            (3, "CreateVolume", fields)
        }
        Record::DeleteVolume { volume: id } => (4, "DeleteVolume", vec![volume(id)]),
        Record::SetVolume { volume: id, quota_bytes, labels } => {
            let mut fields = vec![volume(id), ("quota 8", u64(*quota_bytes))];
            fields.push(("label count 1", u8(labels.len() as u8)));
            for (key, value) in labels {
                fields.extend([("label key text", text(key)), ("label value text", text(value))]);
            }
            (5, "SetVolume", fields)
        }
        Record::Snapshot { created, name, snapshots } => {
            let mut fields = vec![when(created), named(name)];
            fields.push(("count 4", u32(snapshots.len() as u32)));
            for new in snapshots {
                fields.extend([volume(&new.volume), member("member 8", &new.member)]);
            }
            (6, "Snapshot", fields)
        }
        Record::DeleteSnapshot { member: id } => {
            (7, "DeleteSnapshot", vec![member("member 8", id)])
        }
        Record::RenameSnapshot { member: id, name } => {
            (8, "RenameSnapshot", vec![member("member 8", id), named(name)])
        }
        Record::Clone { origin, volume: id, head, created, name } => {
            let (origin, head) = (member("origin 8", origin), member("head 8", head));
            (9, "Clone", vec![origin, volume(id), head, when(created), named(name)])
        }
        Record::Restore { volume: id, origin, kept, head, created, name } => {
            let mut fields = vec![volume(id), member("origin 8", origin), member("kept 8", kept)];
            fields.extend([member("head 8", head), when(created), named(name)]);
            (10, "Restore", fields)
        }
        Record::Answers { answers } => {
            let mut fields = vec![("count 4", u32(answers.len() as u32))];
            for answer in answers {
                let RequestId { session, unique } = answer.request;
                fields.extend([("session 8", u64(session)), ("request 8", u64(unique))]);
                fields.push(("result 8", u64(answer.result)));
            }
            (11, "Answers", fields)
        }
    }
}

fn sample_records() -> Vec<Record> {
    let (volume, created, name) = (VolumeId(0x71), time(9).0, "monday".to_owned());
    let [origin, kept, head] = [0x72, 0x73, 0x74].map(MemberId);
    vec![
        Record::Commit { volume, edits: sample_edits() },
        Record::Copy { addr: BlockNo(0x75), bytes: vec![0x76; 2 * BLOCK_SIZE] },
        Record::CreateVolume { volume, head, created, name: name.clone(), edits: sample_edits() },
        Record::DeleteVolume { volume },
        Record::SetVolume {
            volume,
            quota_bytes: 0x77,
            labels: vec![("app".to_owned(), "db".to_owned())],
        },
        Record::Snapshot {
            created,
            name: name.clone(),
            snapshots: vec![NewSnapshot { volume, member: kept }],
        },
        Record::DeleteSnapshot { member: kept },
        Record::RenameSnapshot { member: kept, name: name.clone() },
        Record::Clone { origin, volume, head, created, name: name.clone() },
        Record::Restore { volume, origin, kept, head, created, name },
        Record::Answers {
            answers: vec![Answer {
                request: RequestId { session: 0x78, unique: 0x79 },
                result: 0x7a,
            }],
        },
    ]
}

#[test]
fn records() {
    let table = Table::find("Journal records");
    let records = sample_records();
    assert_eq!(table.columns(["kind"]).len(), records.len());
    for record in &records {
        let (kind, name, fields) = record_row(record);
        compare(&table, kind, name, &fields, &record.to_bytes());
    }
    for (name, limit) in [("Copy", MAX_COPY_BYTES), ("SetVolume", MAX_LABELS)] {
        let row = table.cell("name", name, "fields");
        assert!(row.contains(&format!("at most {limit})")), "{row}");
    }
    assert!(table.cell("name", "Answers", "fields").contains(&format!("1 to {MAX_ANSWERS})")));
}
