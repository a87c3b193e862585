//! Records of a volume's tree.

use amberfs::format::*;

use crate::document::Table;
use crate::{time, u8, u32, u64, zeros};

/// An inode in which every field has another value.
pub(crate) fn inode() -> Inode {
    Inode {
        blocks: 0x11,
        size: 0x12,
        atime: time(1).0,
        mtime: time(2).0,
        ctime: time(3).0,
        btime: time(4).0,
        mode: FileKind::Regular.to_mode() | 0o644,
        nlink: 0x13,
        uid: 0x14,
        gid: 0x15,
        rdev: 0x16,
        flags: InodeFlags(0x17 & 31),
        parent: InodeNo(0x18),
    }
}

#[test]
fn inode_record() {
    Table::find("Inode").describes(
        &inode().to_bytes(),
        &[
            ("blocks", u64(0x11)),
            ("size", u64(0x12)),
            ("access time", time(1).1),
            ("modification time", time(2).1),
            ("change time", time(3).1),
            ("birth time", time(4).1),
            ("mode", u32(0o100_644)),
            ("links", u32(0x13)),
            ("owner", u32(0x14)),
            ("group", u32(0x15)),
            ("device", u32(0x16)),
            ("flags", u32(0x17)),
            ("parent", u64(0x18)),
        ],
    );
}

#[test]
fn directory_entry() {
    let name: &[u8] = b"file";
    let mut chain = Vec::new();
    Dirent { slot: 3, kind: FileKind::Symlink, ino: InodeNo(0x21), name }.encode(&mut chain);
    let table = Table::find("Directory entry");
    table.describes(
        &chain,
        &[
            ("slot", u8(3)),
            ("type", u8(10)),
            ("name length", u8(4)),
            ("inode", u64(0x21)),
            ("name", name.to_vec()),
        ],
    );
    let slots = format!("0 to {MAX_SLOT}; stays while the entry exists");
    assert_eq!(table.cell("field", "slot", "meaning"), slots);
}

#[test]
fn attribute_entry() {
    let name: &[u8] = b"user.a";
    let table = Table::find("Attribute entry");
    for (value, place, bytes) in [
        (XattrValue::Inline(b"value"), 0, b"value".to_vec()),
        (XattrValue::Chunked { id: 0x31, len: 5000 }, 1, u64(0x31)),
    ] {
        let mut chain = Vec::new();
        Xattr { name, value }.encode(&mut chain);
        table.describes(
            &chain,
            &[
                ("name length", u8(6)),
                ("place", u8(place)),
                ("value length", u32(value.len() as u32)),
                ("name", name.to_vec()),
                ("value", bytes),
            ],
        );
    }
    let lengths = format!(
        "at most {MAX_XATTR_INLINE} here, {} to {MAX_XATTR_VALUE} in chunks",
        MAX_XATTR_INLINE + 1
    );
    assert_eq!(table.cell("field", "value length", "meaning"), lengths);
}

#[test]
fn extent() {
    let written = Extent {
        addr: BlockNo(0x41),
        birth: Epoch(0x42),
        len_blocks: 2,
        kind: ExtentKind::Written,
        checksums: vec![0x43, 0x44],
    };
    let fields = |kind, checksums| {
        [
            ("address", u64(0x41)),
            ("birth", u64(0x42)),
            ("length", u32(2)),
            ("kind", u8(kind)),
            ("reserved", zeros(3)),
            ("checksums", checksums),
        ]
    };
    let table = Table::find("Extent");
    table.describes(&written.to_bytes(), &fields(0, [u32(0x43), u32(0x44)].concat()));
    let preallocated = Extent { kind: ExtentKind::Preallocated, checksums: Vec::new(), ..written };
    table.describes(&preallocated.to_bytes(), &fields(1, Vec::new()));
    assert_eq!(
        table.cell("field", "length", "meaning"),
        format!("in blocks, 1 to {MAX_EXTENT_BLOCKS}")
    );
    let kinds = [ExtentKind::Written as u8, ExtentKind::Preallocated as u8];
    let kinds = format!("{} written, {} preallocated:", kinds[0], kinds[1]);
    assert!(table.cell("field", "kind", "meaning").starts_with(&kinds), "{kinds}");
}

#[test]
fn orphan() {
    let table = Table::find("Orphan");
    for (kind, number) in [(OrphanKind::Delete, 0), (OrphanKind::Truncate, 1)] {
        table.describes(&kind.to_bytes(), &[("kind", u8(number))]);
    }
    let meaning = table.cell("field", "kind", "meaning");
    assert!(
        meaning.starts_with("0 no name is left") && meaning.contains("; 1 it was cut"),
        "{meaning}"
    );
}
