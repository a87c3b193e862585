//! The superblock, nodes, and the records of the checkpoint tree.

use amberfs::format::*;

use crate::document::Table;
use crate::{time, u8, u16, u32, u64, zeros};

fn pointer() -> (NodePtr, Vec<u8>) {
    let (addr, birth, hash) = (BlockNo(0x0004_0506), Epoch(0x0708_090a), Hash([0xbb; 32]));
    (NodePtr { addr, birth, hash }, [u64(addr.0), u64(birth.0), hash.0.to_vec()].concat())
}

fn root() -> (RootRecord, Vec<u8>) {
    let (ptr, bytes) = pointer();
    let record = RootRecord { ptr, level: 3, nodes: 0x11, data_blocks: 0x22, next_inode: 0x33 };
    (record, [bytes, u8(3), u64(0x11), u64(0x22), u64(0x33)].concat())
}

#[test]
fn superblock() {
    let (created, created_bytes) = time(-5);
    let (root, root_bytes) = root();
    let superblock = Superblock {
        uuid: [0x31; 16],
        seed: [0x32; 32],
        generation: 0x33,
        total_blocks: 0x34,
        journal_bytes: 0x35,
        tail_offset: 0x36,
        tail_seq: 0x37,
        tail_chain: 0x38,
        epoch: Epoch(0x39),
        next_member: 0x3a,
        next_volume: 0x3b,
        next_object: 0x3c,
        created,
        root,
    };
    let encoded = superblock.to_bytes();
    let table = Table::find("Superblock slot");
    assert_eq!(table.cell("field", "version", "meaning"), VERSION.to_string());
    assert_eq!(SUPERBLOCK_MAGIC, *b"AmberFS\0");
    table.describes(
        &encoded,
        &[
            ("magic", SUPERBLOCK_MAGIC.to_vec()),
            ("version", u32(VERSION)),
            ("reserved", zeros(4)),
            ("read features", zeros(8)),
            ("write features", zeros(8)),
            ("other features", zeros(8)),
            ("uuid", vec![0x31; 16]),
            ("seed", vec![0x32; 32]),
            ("generation", u64(0x33)),
            ("total blocks", u64(0x34)),
            ("journal bytes", u64(0x35)),
            ("tail offset", u64(0x36)),
            ("tail sequence", u64(0x37)),
            ("epoch", u64(0x39)),
            ("next member", u64(0x3a)),
            ("next volume", u64(0x3b)),
            ("next object", u64(0x3c)),
            ("created", created_bytes),
            ("root", root_bytes),
            ("tail chain", u32(0x38)),
            ("unused", zeros(3815)),
            ("hash", blake3::hash(&encoded[..4064]).as_bytes().to_vec()),
        ],
    );
}

#[test]
fn root_record() {
    let (record, _) = root();
    Table::find("Root record").describes(
        &record.to_bytes(),
        &[
            ("pointer", pointer().1),
            ("level", u8(3)),
            ("nodes", u64(0x11)),
            ("data blocks", u64(0x22)),
            ("next inode", u64(0x33)),
        ],
    );
}

#[test]
fn region_record() {
    let table = Table::find("Region record");
    let mut image = RegionImage::from_bitmap(Some(RegionClass::Node), Box::new(Bitmap::EMPTY));
    assert_eq!(image.to_bytes()[..2], [0, 0]);
    let mut bits = Box::new(Bitmap::EMPTY);
    bits.write(64 * 2 + 9, 1, true);
    image = RegionImage::from_bitmap(Some(RegionClass::Node), bits);
    let mut bitmap = zeros(4096);
    bitmap[8 * 2 + 9 / 8] = 1 << (9 % 8);
    let fields = [
        ("kind", u8(2)),
        ("class", u8(2)),
        ("reserved", zeros(2)),
        ("count", u32(1)),
        ("reserved", zeros(8)),
        ("bitmap", bitmap),
    ];
    table.describes(&image.to_bytes(), &fields);
    let full = RegionImage::all_used(Some(RegionClass::Data)).to_bytes();
    assert_eq!((full.len(), &full[..2]), (16, &[1, 1][..]));
    assert_eq!(table.cell("field", "kind", "meaning"), "0 all free, 1 all in use, 2 bitmap");
    let classes =
        format!("0 none, {} data, {} nodes:", RegionClass::Data as u8, RegionClass::Node as u8);
    assert!(table.cell("field", "class", "meaning").starts_with(&classes), "{classes}");
}

#[test]
fn leaf() {
    let mut leaf = Leaf::default();
    let keys = [Key::new(1, KeyKind::Inode, 2), Key::new(3, KeyKind::Inode, 4)];
    leaf.insert(0, keys[0], &[0x61; 10]);
    leaf.insert(1, keys[1], &[0x62; 20]);
    leaf.replace(0, &[0x63; 7]);
    let mut page = empty_page();
    leaf.encode(BlockNo(0x71), Epoch(0x72), &mut page);
    let header = Table::find("Node header");
    let magic = NODE_MAGIC.to_le_bytes().map(|byte| format!("{byte:02x}")).join(" ");
    assert_eq!(header.cell("field", "magic", "meaning"), format!("bytes `{magic}`"));
    header.describes(
        &page[..NODE_HEADER],
        &[
            ("magic", u32(NODE_MAGIC)),
            ("level", u8(0)),
            ("reserved", zeros(1)),
            ("count", u16(2)),
            ("address", u64(0x71)),
            ("birth", u64(0x72)),
            ("heap start", u16(16384 - 30)),
            ("garbage", u16(3)),
            ("reserved", zeros(36)),
        ],
    );
    let entry = Table::find("Leaf entry");
    for (at, (key, offset, value)) in
        [(keys[0], 16384 - 10, [0x63; 7].as_slice()), (keys[1], 16384 - 30, &[0x62; 20])]
            .into_iter()
            .enumerate()
    {
        let from = NODE_HEADER + at * LEAF_ENTRY;
        let fields = [
            ("key", key.0.to_le_bytes().to_vec()),
            ("value offset", u16(offset)),
            ("value length", u16(value.len() as u16)),
        ];
        entry.describes(&page[from..from + LEAF_ENTRY], &fields);
        assert_eq!(&page[usize::from(offset)..][..value.len()], value);
    }
    let longest = format!("at most {MAX_VALUE}");
    assert_eq!(entry.cell("field", "value length", "meaning"), longest);
}

#[test]
fn internal_node() {
    let (ptr, pointer_bytes) = pointer();
    let keys = [Key::MIN, Key::new(9, KeyKind::Extent, 8)];
    let mut page = empty_page();
    let entries = keys.map(|key| (key, ptr));
    encode_internal(2, entries.into_iter(), BlockNo(0x71), Epoch(0x72), &mut page);
    Table::find("Node header").describes(
        &page[..NODE_HEADER],
        &[
            ("magic", u32(NODE_MAGIC)),
            ("level", u8(2)),
            ("reserved", zeros(1)),
            ("count", u16(2)),
            ("address", u64(0x71)),
            ("birth", u64(0x72)),
            ("heap start", zeros(2)),
            ("garbage", zeros(2)),
            ("reserved", zeros(36)),
        ],
    );
    let level = format!("0 for a leaf, else the height above the leaves, at most {MAX_LEVEL}");
    assert_eq!(Table::find("Node header").cell("field", "level", "meaning"), level);
    for (at, key) in keys.into_iter().enumerate() {
        let from = NODE_HEADER + at * INTERNAL_ENTRY;
        let fields =
            [("lower bound", key.0.to_le_bytes().to_vec()), ("pointer", pointer_bytes.clone())];
        Table::find("Internal entry").describes(&page[from..from + INTERNAL_ENTRY], &fields);
    }
    Table::find("Node pointer").describes(
        &page[NODE_HEADER + 16..][..48],
        &[("address", u64(ptr.addr.0)), ("birth", u64(ptr.birth.0)), ("hash", vec![0xbb; 32])],
    );
}
