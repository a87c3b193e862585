//! Every decoder of `format`: any bytes are a record or an error, and a record encodes to what it was.

use amberfs::format::{
    BlockNo, ChainRecord, ChunkRecord, Dirent, Epoch, Extent, FrameHeader, Inode, Key, Leaf,
    MemberRecord, NODE_SIZE, NodePtr, OrphanKind, Page, Record, RegionImage, RootRecord,
    SharedRecord, Superblock, VolumeRecord, Xattr, decode_internal, dirent_chain, empty_page,
    encode_internal, xattr_chain,
};

use super::Input;

macro_rules! same {
    ($bytes:expr, $decoded:expr, $encode:expr) => {
        if let Ok(record) = $decoded {
            assert!($encode(&record) == $bytes, "{record:?} does not encode to what it was");
        }
    };
}

/// Decodes the input, all but its first byte, as what that says.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.u8();
    let bytes = input.rest();
    match kind % 18 {
        0 => same!(bytes, VolumeRecord::decode(bytes), VolumeRecord::to_bytes),
        1 => same!(bytes, MemberRecord::decode(bytes), MemberRecord::to_bytes),
        2 => same!(bytes, ChainRecord::decode(bytes), |r: &ChainRecord| r.to_bytes()),
        3 => same!(bytes, ChunkRecord::decode(bytes), ChunkRecord::to_bytes),
        4 => same!(bytes, SharedRecord::decode(bytes), |r: &SharedRecord| r.to_bytes()),
        5 => same!(bytes, RootRecord::decode(bytes), RootRecord::to_bytes),
        6 => same!(bytes, Inode::decode(bytes), Inode::to_bytes),
        7 => same!(bytes, OrphanKind::decode(bytes), |r: &OrphanKind| r.to_bytes()),
        8 => same!(bytes, Extent::decode(bytes), Extent::to_bytes),
        9 => same!(bytes, RegionImage::decode(bytes), RegionImage::to_bytes),
        10 | 11 => same!(bytes, Record::decode(bytes), Record::to_bytes),
        12 => drop(FrameHeader::decode(bytes)),
        13 => superblock(bytes),
        14 => dirents(bytes),
        15 => xattrs(bytes),
        16 => leaf(bytes),
        _ => internal(bytes),
    }
}

fn superblock(bytes: &[u8]) {
    let mut slot = bytes.to_vec();
    slot.resize(4096, 0);
    slot[..8].copy_from_slice(b"AmberFS\0");
    let hash = blake3::hash(&slot[..4064]);
    slot[4064..].copy_from_slice(hash.as_bytes());
    if let Ok(found) = Superblock::decode(&slot) {
        assert_eq!(Superblock::decode(&found.to_bytes()), Ok(found));
    }
}

fn dirents(bytes: &[u8]) {
    let entries: Result<Vec<Dirent<'_>>, _> = dirent_chain(bytes).take(1 << 16).collect();
    if let Ok(entries) = entries {
        let mut chain = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut chain));
        assert!(chain == bytes, "{entries:?}");
    }
}

fn xattrs(bytes: &[u8]) {
    let entries: Result<Vec<Xattr<'_>>, _> = xattr_chain(bytes).take(1 << 16).collect();
    if let Ok(entries) = entries {
        let mut chain = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut chain));
        assert!(chain == bytes, "{entries:?}");
    }
}

const HERE: BlockNo = BlockNo(7);
const BORN: Epoch = Epoch(3);

/// A page whose header is right but for level, count and heap, which come from the input.
fn page(bytes: &[u8], level: u8) -> Page {
    let mut page = empty_page();
    let len = bytes.len().min(NODE_SIZE - 64);
    page[64..64 + len].copy_from_slice(&bytes[..len]);
    page[..4].copy_from_slice(&0x4e42_6d41u32.to_le_bytes());
    page[4] = level;
    page[8..16].copy_from_slice(&HERE.0.to_le_bytes());
    page[16..24].copy_from_slice(&BORN.0.to_le_bytes());
    page
}

/// The input: count, start of the heap, garbage, entries; then what is done with the leaf.
fn leaf(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let header = [input.u16() % 64, input.u16(), input.u16()];
    let mut page = page(input.take(1300), 0);
    for (at, field) in [6, 24, 26].into_iter().zip(header) {
        page[at..at + 2].copy_from_slice(&(field as u16).to_le_bytes());
    }
    let Ok(mut leaf) = Leaf::decode(page, HERE, BORN) else { return };
    for at in 0..leaf.len() + 1 {
        let key = leaf.key(at);
        if at < leaf.len() {
            assert_eq!(leaf.search(key), Ok(at));
            assert_eq!(leaf.search_within(key, Key::MIN, Key::MAX), Ok(at));
        }
        drop(leaf.value(at).to_vec());
    }
    while !input.is_empty() {
        let key = Key(u128::from(input.edge()) << 64 | u128::from(input.edge()));
        let value = vec![1; input.u16() % 4353];
        match (leaf.search(key), input.u8() % 4) {
            (Ok(at), 0) => leaf.remove(at),
            (Ok(at), _) if leaf.fits_replaced(at, value.len()) => leaf.replace(at, &value),
            (Err(at), _) if leaf.fits(value.len()) => leaf.insert(at, key, &value),
            (_, 1) if leaf.len() > 1 => {
                let right = leaf.split_off(leaf.len() / 2);
                leaf.append(&right);
            }
            _ => {}
        }
    }
    let mut again = empty_page();
    leaf.encode(HERE, BORN, &mut again);
    Leaf::decode(again, HERE, BORN).expect("what was changed decodes again");
}

fn internal(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (level, count) = (input.u8(), input.u16());
    let mut page = page(input.rest(), level);
    page[6..8].copy_from_slice(&(count as u16).to_le_bytes());
    let Ok((level, entries)) = decode_internal(&page, HERE, BORN) else { return };
    assert!((1..=16).contains(&level) && (1..=255).contains(&entries.len()));
    let mut again = empty_page();
    let parts: Vec<(Key, NodePtr)> = entries.clone();
    encode_internal(level, parts.into_iter(), HERE, BORN, &mut again);
    assert_eq!(decode_internal(&again, HERE, BORN), Ok((level, entries)));
}

/// A decoder that believes a length.
pub(crate) fn planted_without_bound(data: &[u8]) {
    super::limits::within_bounds(|| {
        let len = u32::from_le_bytes([data[0], 0, 0, data[data.len() - 1]]);
        drop(std::hint::black_box(vec![0u8; len as usize]));
    });
}

/// A decoder that does not look at a reserved byte.
pub(crate) fn planted_reserved(data: &[u8]) {
    let decode = |bytes: &[u8]| bytes.first().copied().ok_or(());
    same!(&data[..data.len().min(2)], decode(data), |first: &u8| vec![*first, 0]);
}
