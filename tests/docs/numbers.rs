//! Constants, and the numbers of kinds.

use amberfs::format::*;
use amberfs::fs::MAX_SNAPSHOT_NUMBER;
use amberfs::journal::{LENGTH_STEP, MIN_LENGTH};
use amberfs::space::MAX_TOTAL_BLOCKS;

use crate::document::{Table, number, text};

macro_rules! named {
    ($($constant:ident),* $(,)?) => { [$((stringify!($constant), $constant as u128)),*] };
}

#[test]
fn constants_are_those_of_the_code() {
    let mut expected = named![
        BLOCK_SIZE,
        NODE_BLOCKS,
        NODE_SIZE,
        NODE_HEADER,
        LEAF_ENTRY,
        INTERNAL_ENTRY,
        MAX_CHILDREN,
        MAX_LEVEL,
        MAX_VALUE,
        MAX_BLOCKS,
        MAX_TOTAL_BLOCKS,
        REGION_BLOCKS,
        MAX_REGION_RECORD,
        SUPERBLOCK_BYTES,
        SLOT_SIZE,
        SUB_BITS,
        FIRST_OBJECT,
        MAX_INODE,
        MAX_NAME,
        MAX_LABELS,
        MAX_SNAPSHOT_NUMBER,
        MAX_CHUNK_REFS,
        INODE_LEN,
        MAX_FILE_SIZE,
        MAX_INLINE,
        MAX_SLOT,
        MAX_XATTR_VALUE,
        MAX_XATTR_INLINE,
        XATTR_CHUNK,
        MAX_EXTENT_BLOCKS,
        FRAME_HEADER,
        FRAME_ALIGN,
        MAX_RECORD,
        MAX_COPY_BYTES,
        MAX_CONTENT_BYTES,
        LENGTH_STEP,
        MIN_LENGTH,
    ]
    .to_vec();
    expected.push(("ROOT_INODE", ROOT_INODE.0.into()));
    let table = Table::find("Constants");
    let mut documented: Vec<_> = table
        .columns(["name", "value"])
        .into_iter()
        .map(|[name, value]| (name, number(value)))
        .collect();
    documented.sort_unstable();
    expected.sort_unstable();
    assert_eq!(documented, expected);
}

#[test]
fn slots_lie_where_the_document_says() {
    let [first, second] = SLOT_OFFSETS;
    let phrase = format!("Two slots, at bytes {first} and {second} of the file.");
    assert!(text().contains(&phrase), "{phrase}");
    let file = format!("`superblock` is {SUPERBLOCK_BYTES} bytes long.");
    assert!(text().contains(&file), "{file}");
    let title = format!("Normative description of format version {VERSION}:");
    assert!(text().contains(&title), "{title}");
}

/// A key of each kind. The match has no other arm, so that a new kind does not compile before it is here.
fn sample(kind: KeyKind) -> Key {
    let seven = 7;
    match kind {
        KeyKind::Inode
        | KeyKind::Inline
        | KeyKind::Xattr
        | KeyKind::XattrChunk
        | KeyKind::Dirent
        | KeyKind::Extent => Key::inode(InodeNo(99), kind, seven),
        KeyKind::Orphan => Key::new(0, kind, seven),
        KeyKind::Volume => Key::volume(VolumeId(seven)),
        KeyKind::Member => Key::member(MemberId(seven)),
        KeyKind::Bucket => Key::bucket(99, Epoch(seven)),
        KeyKind::Chunk => Key::chunk(99),
        KeyKind::Reclaim => Key::reclaim(seven),
        KeyKind::Shared => Key::shared(BlockNo(seven)),
        KeyKind::Root => Key::root(MemberId(seven)),
        KeyKind::Region => Key::region(7),
    }
}

#[test]
fn key_kinds_are_those_of_the_code() {
    use KeyKind::*;
    let kinds = [
        Inode, Inline, Xattr, XattrChunk, Dirent, Extent, Orphan, Volume, Member, Bucket, Chunk,
        Reclaim, Shared, Root, Region,
    ];
    let table = Table::find("Key kinds");
    let rows = table.columns(["kind", "name", "id", "sub"]);
    assert_eq!(rows.len(), kinds.len());
    for ([number, name, id, sub], kind) in rows.into_iter().zip(kinds) {
        assert_eq!(
            (number, name),
            ((kind as u8).to_string().as_str(), format!("{kind:?}").as_str())
        );
        let key = sample(kind);
        assert_eq!(key.kind(), kind as u8);
        assert_eq!(key.id(), id.parse().unwrap_or(99), "id of {name}");
        if name == "Chunk" {
            assert_eq!((sub, key.sub()), ("0", 0));
        } else if sub != "0" {
            assert_eq!(key.sub(), 7, "sub of {name}");
        }
    }
}

#[test]
fn a_key_is_one_number() {
    let key = Key::new(0x0102_0304_0506_0708, KeyKind::Extent, 0x000a_0b0c_0d0e_0f10);
    let table = Table::find("Keys");
    let (mut packed, mut bits_left) = (0u128, 128);
    for [bits, field] in table.columns(["bits", "field"]) {
        let (from, to) = bits.split_once(" to ").unwrap();
        let (from, to): (u32, u32) = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(to + 1, bits_left, "{field} follows the one before");
        bits_left = from;
        let value: u128 = match field {
            "id" => key.id().into(),
            "kind" => key.kind().into(),
            "sub" => key.sub().into(),
            other => panic!("{other}"),
        };
        assert!(value < 1 << (to + 1 - from), "{field} has room");
        packed |= value << from;
    }
    assert_eq!((packed, bits_left), (key.0, 0));
    assert_eq!(
        (key.id(), key.kind(), key.sub()),
        (0x0102_0304_0506_0708, 6, 0x000a_0b0c_0d0e_0f10)
    );
}

#[test]
fn file_types_are_those_of_the_code() {
    let table = Table::find("File types");
    let documented: Vec<_> = table
        .columns(["number", "name"])
        .into_iter()
        .map(|[number, name]| (number.parse::<u8>().unwrap(), name.to_owned()))
        .collect();
    let known = (0..=255u8).filter_map(|number| Some((number, FileKind::from_dtype(number)?)));
    let known: Vec<_> = known.map(|(number, kind)| (number, format!("{kind:?}"))).collect();
    assert_eq!(documented, known);
    assert_eq!(FileKind::Regular.to_mode(), u32::from(FileKind::Regular.to_dtype()) << 12);
}

#[test]
fn inode_flags_are_those_of_the_code() {
    let table = Table::find("Inode flags");
    let documented: Vec<_> = table
        .columns(["bit", "name"])
        .into_iter()
        .map(|[bit, name]| (bit.parse::<u32>().unwrap(), name))
        .collect();
    let expected = [
        (InodeFlags::INLINE.0, "INLINE"),
        (InodeFlags::XATTRS.0, "XATTRS"),
        (InodeFlags::ACCESS_ACL.0, "ACCESS_ACL"),
        (InodeFlags::DEFAULT_ACL.0, "DEFAULT_ACL"),
        (InodeFlags::CAPABILITY.0, "CAPABILITY"),
    ];
    assert_eq!(documented, expected);
    // No other bit is taken.
    let all: u32 = expected.iter().map(|(bit, _)| bit).sum();
    for bit in 0..32 {
        let mut record = crate::volume::inode().to_bytes();
        record[84..88].copy_from_slice(&(1u32 << bit).to_le_bytes());
        assert_eq!(Inode::decode(&record).is_ok(), all & 1 << bit != 0, "bit {bit}");
    }
}

#[test]
fn hashes_of_names_are_made_as_the_document_says() {
    let expected = |key: [u8; 32], name: &[u8]| {
        let hash = blake3::keyed_hash(&key, name);
        let first = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
        (first & ((1 << 56) - 1)).min((1 << 56) - 2)
    };
    assert_eq!(name_hash(&[3; 32], b"a name"), expected([3; 32], b"a name"));
    let mut key = [0; 32];
    let phrase = "amberfs: names of attributes";
    key[..phrase.len()].copy_from_slice(phrase.as_bytes());
    assert!(text().contains(&format!("`{phrase}` and four zeros")));
    assert_eq!(xattr_hash(b"user.a"), expected(key, b"user.a"));
    assert_eq!(xattr_chunk_sub(5, 3), 256 * 5 + 3);
}
