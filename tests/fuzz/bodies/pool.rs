//! Whole pools, changed so that hashes, checksums and the journal's chain are right again: checked, opened,
//! read and worked on. Nothing panics, and what it costs is bounded.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use amberfs::check::{Options, check};
use amberfs::device::Image;
use amberfs::format::{
    BlockNo, Epoch, FRAME_HEADER, Hash, Key, KeyKind, Leaf, NODE_SIZE, NodePtr, RootRecord,
    SLOT_OFFSETS, SLOT_SIZE, empty_page, encode_internal,
};
use amberfs::fs::{
    Caller, FileKind, Filesystem, NodeId, SetAttr, Whence, WriteFlags, path_of_damage,
};
use amberfs::pool::{Pool, ScrubHooks};

use super::limits::{Calls, within_bounds};
use super::{EDGES, Input};
use crate::anatomy::{Anatomy, In, children, entries, field, level, page, seal_slot};
use crate::patient::{go_on, mount, open_options, small};

const BLOCK: u64 = 4096;
/// Files that are looked at, in each state.
const MAX_FILES: usize = 60;
/// States that are looked at.
const MAX_STATES: usize = 6;
const KINDS: [KeyKind; 15] = [
    KeyKind::Inode,
    KeyKind::Inline,
    KeyKind::Xattr,
    KeyKind::XattrChunk,
    KeyKind::Dirent,
    KeyKind::Extent,
    KeyKind::Orphan,
    KeyKind::Volume,
    KeyKind::Member,
    KeyKind::Bucket,
    KeyKind::Chunk,
    KeyKind::Reclaim,
    KeyKind::Shared,
    KeyKind::Root,
    KeyKind::Region,
];

/// A pool at rest, and one with a journal.
fn patients() -> &'static [(Image, Anatomy); 2] {
    static PATIENTS: OnceLock<[(Image, Anatomy); 2]> = OnceLock::new();
    PATIENTS.get_or_init(|| {
        let rest = small();
        rest.pool.close().expect("it closes");
        let mut busy = small();
        let mut step = 0;
        while go_on(&mut busy, step) {
            step += 1;
        }
        busy.pool.abandon();
        [rest, busy].map(|patient| {
            let image = patient.image();
            let anatomy = Anatomy::of(&image);
            (image, anatomy)
        })
    })
}

/// Changes a pool as the input says, and uses it.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (image, anatomy) = &patients()[usize::from(input.u8() % 2)];
    let mut image = image.clone();
    let mut changes = 0;
    while !input.is_empty() && changes < 32 {
        mutate(&mut input, &mut image, anatomy);
        changes += 1;
    }
    anatomy.repair(&mut image);
    keep_small(&mut image);
    within_bounds(|| exercise(&image));
}

/// A pool's size costs memory, about 200 bytes for each 128 MiB: none here claims more than 4 TiB.
fn keep_small(image: &mut Image) {
    for offset in SLOT_OFFSETS {
        let mut slot = vec![0; SLOT_SIZE];
        image.superblock.read(offset, &mut slot).expect("it is there");
        let total = u64::from_le_bytes(field(&slot, 96)).min(1 << 30);
        slot[96..104].copy_from_slice(&total.to_le_bytes());
        seal_slot(&mut slot);
        image.superblock.write(offset, &slot).expect("memory takes it");
    }
}

/// A member whose tree has levels of nodes, all of whose pointers lead to the same node below.
pub(crate) fn many_ways() {
    const LEVELS: u8 = 12;
    let (image, anatomy) = &patients()[0];
    let mut image = image.clone();
    let leaf = anatomy
        .nodes
        .iter()
        .find(|node| node.level == 0 && matches!(node.places[0].tree, In::Member(_)));
    let leaf = page(&image, leaf.expect("there is a leaf").addr);
    let [addr, birth]: [u64; 2] = [8, 16].map(|at| u64::from_le_bytes(field(&leaf, at)));
    let mut below = NodePtr {
        addr: BlockNo(addr),
        birth: Epoch(birth),
        hash: Hash(*blake3::hash(&leaf).as_bytes()),
    };
    for level in 1..=LEVELS {
        let addr = BlockNo(1500 + 4 * u64::from(level));
        let entries: Vec<_> = (0..255u128).map(|at| (Key(at << 60), below)).collect();
        let mut node = empty_page();
        encode_internal(level, entries.into_iter(), addr, below.birth, &mut node);
        write_page(&mut image, addr.0, node.as_slice());
        below = NodePtr { addr, hash: Hash(*blake3::hash(node.as_slice()).as_bytes()), ..below };
    }
    for node in &anatomy.nodes {
        let mut bytes = page(&image, node.addr);
        if node.places[0].tree == In::Checkpoint && node.level == 0 {
            for (key, _, value) in entries(&bytes) {
                if key.is(KeyKind::Root) && key.sub() > 0 {
                    let mut root = RootRecord::decode(&bytes[value.clone()]).expect("a root");
                    (root.ptr, root.level) = (below, LEVELS);
                    bytes[value].copy_from_slice(&root.to_bytes());
                }
            }
            write_page(&mut image, node.addr, &bytes);
        }
    }
    anatomy.repair(&mut image);
    within_bounds(|| exercise(&image));
}

/// A walk that never ends.
pub(crate) fn planted_endless(_: &[u8]) {
    let (calls, storage) = Calls::wrap(&patients()[0].0.storage());
    while storage.data.read_at(0, &mut [0]).is_ok() {}
    calls.check();
}

fn write_page(image: &mut Image, addr: u64, page: &[u8]) {
    image.data.write(addr * BLOCK, page).expect("memory takes it");
}

/// Sets a field of 1, 2, 4 or 8 bytes to a number, or moves it by a little.
fn set_field(input: &mut Input<'_>, bytes: &mut [u8], at: usize) {
    let width = 1 << input.below(4);
    let Some(field) = bytes.get_mut(at..at + width) else { return };
    let mut old = [0; 8];
    old[..width].copy_from_slice(field);
    let old = u64::from_le_bytes(old);
    let new = match input.u8() % 8 {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old ^ 1 << (input.u8() % 64),
        _ => input.edge(),
    };
    field.copy_from_slice(&new.to_le_bytes()[..width]);
}

#[expect(clippy::too_many_lines, reason = "one arm for each kind of damage")]
fn mutate(input: &mut Input<'_>, image: &mut Image, anatomy: &Anatomy) {
    let kind = input.u8() % 14;
    let node = &anatomy.nodes[input.below(anatomy.nodes.len())];
    let mut bytes = page(image, node.addr);
    match kind {
        0 => {
            let at = input.u16() % NODE_SIZE;
            bytes[at] ^= input.u8();
        }
        1..4 => {
            let entries = entries(&bytes);
            if level(&bytes) == 0 && !entries.is_empty() {
                let (_, _, value) = entries[input.below(entries.len())].clone();
                let at = value.start + input.below(value.len().max(1));
                set_field(input, &mut bytes, at);
            }
        }
        4 => {
            let entries = entries(&bytes);
            if level(&bytes) == 0 && !entries.is_empty() {
                let (_, at, _) = entries[input.below(entries.len())].clone();
                let part = [0, 7, 8][input.below(3)];
                set_field(input, &mut bytes, at + part);
            }
        }
        5 => {
            let slots = children(&bytes);
            if level(&bytes) > 0 && !slots.is_empty() {
                let other = &anatomy.nodes[input.below(anatomy.nodes.len())];
                let birth: [u8; 8] = field(&page(image, other.addr), 16);
                let at = slots[input.below(slots.len())];
                bytes[at + 16..at + 24].copy_from_slice(&other.addr.to_le_bytes());
                bytes[at + 24..at + 32].copy_from_slice(&birth);
            }
        }
        6 => {
            let at = [4, 6, 8, 16, 24, 26, 28][input.below(7)];
            set_field(input, &mut bytes, at);
        }
        7 => {
            let slots = children(&bytes);
            if level(&bytes) > 0 && !slots.is_empty() {
                let at = slots[input.below(slots.len())] + input.below(32);
                set_field(input, &mut bytes, at);
            }
        }
        8 | 9 => change_entries(input, image, anatomy, node.addr, &mut bytes),
        10 => {
            for offset in SLOT_OFFSETS {
                let mut slot = vec![0; SLOT_SIZE];
                image.superblock.read(offset, &mut slot).expect("it is there");
                let at = 88 + input.below(170);
                set_field(input, &mut slot, at);
                image.superblock.write(offset, &slot).expect("memory takes it");
            }
        }
        11 if !anatomy.blocks.is_empty() => {
            let nth = input.below(anatomy.blocks.len());
            let block = *anatomy.blocks.keys().nth(nth).expect("there is one");
            image.data.write(block * BLOCK + input.u16() as u64 % BLOCK, b"!").expect("in memory");
            anatomy.bless(image, block);
            return;
        }
        _ if !anatomy.frames.is_empty() => {
            let (offset, len) = anatomy.frames[input.below(anatomy.frames.len())];
            let mut payload = vec![0; len];
            image.journal.read(offset + FRAME_HEADER as u64, &mut payload).expect("it is there");
            let at = input.below(len);
            set_field(input, &mut payload, at);
            image.journal.write(offset + FRAME_HEADER as u64, &payload).expect("in memory");
            anatomy.reseal_journal(image);
            return;
        }
        _ => {}
    }
    write_page(image, node.addr, &bytes);
}

/// Adds, removes or replaces an entry of a leaf as a writer of the format would.
fn change_entries(
    input: &mut Input<'_>,
    image: &Image,
    anatomy: &Anatomy,
    addr: u64,
    bytes: &mut [u8],
) {
    let birth = Epoch(u64::from_le_bytes(field(bytes, 16)));
    let mut copy = empty_page();
    copy.copy_from_slice(bytes);
    let Ok(mut leaf) = Leaf::decode(copy, BlockNo(addr), birth) else { return };
    let other = &anatomy.nodes[input.below(anatomy.nodes.len())];
    let theirs = page(image, other.addr);
    let values = entries(&theirs);
    let value = match values.len() {
        0 => vec![0; input.below(100)],
        count => theirs[values[input.below(count)].2.clone()].to_vec(),
    };
    let value = &value[..value.len() - value.len().min(input.below(4))];
    match input.u8() % 4 {
        0 if !leaf.is_empty() => leaf.remove(input.below(leaf.len())),
        1 if !leaf.is_empty() => {
            let at = input.below(leaf.len());
            if leaf.fits_replaced(at, value.len()) {
                leaf.replace(at, value);
            }
        }
        _ => {
            let near = leaf.key(input.below(leaf.len().max(1)));
            let id = if input.u8().is_multiple_of(2) { near.id() } else { input.edge() };
            let kind = KINDS[input.below(KINDS.len())] as u8;
            let sub = if input.u8().is_multiple_of(2) { near.sub() + 1 } else { input.edge() };
            let sub = u128::from(sub & ((1 << 56) - 1));
            let key = Key(u128::from(id) << 64 | u128::from(kind) << 56 | sub);
            if let Err(at) = leaf.search(key)
                && leaf.fits(value.len())
            {
                leaf.insert(at, key, value);
            }
        }
    }
    let mut out = empty_page();
    leaf.encode(BlockNo(addr), birth, &mut out);
    bytes.copy_from_slice(out.as_slice());
}

/// Checks a pool, opens it, and does with it what a mount does.
pub(crate) fn exercise(image: &Image) {
    let (calls, storage) = Calls::wrap(&image.storage());
    drop(check(&storage, &Options { data: true, ..Options::default() }, &mut |_| {}));
    calls.check();
    let (calls, storage) = Calls::wrap(&image.storage());
    let Ok(pool) = Pool::open(storage.clone(), open_options()) else { return calls.check() };
    let volumes = pool.volumes();
    for info in volumes.iter().take(MAX_STATES) {
        for snapshot in pool.snapshots(info.id).into_iter().take(MAX_STATES) {
            drop(pool.exclusive_bytes(snapshot.member));
            if let Ok(fs) = mount(&pool, &info.name, Some(&snapshot.name)) {
                read_all(&fs);
            }
        }
        if let Ok(fs) = mount(&pool, &info.name, None) {
            read_all(&fs);
            change_all(&fs);
        }
    }
    work(&pool);
    drop(pool.status());
    let hooks = ScrubHooks { save: Box::new(|_| {}), path: path_of_damage };
    drop(pool.run_scrub(None, &hooks));
    drop(pool.close());
    if let Ok(pool) = Pool::open(storage, open_options()) {
        work(&pool);
        pool.abandon();
    }
    calls.check();
}

/// Nodes of a tree of files, as far as they are looked at.
fn nodes(fs: &Filesystem) -> Vec<(NodeId, NodeId, Vec<u8>)> {
    let mut seen = HashSet::from([NodeId::ROOT]);
    let mut found = vec![(NodeId::ROOT, NodeId::ROOT, b".".to_vec())];
    let mut at = 0;
    while at < found.len() && found.len() < MAX_FILES {
        let dir = found[at].1;
        at += 1;
        for plus in [true, false] {
            let mut names = Vec::new();
            let listed = fs.readdir(&Caller::root(), dir, 0, plus, &mut |entry| {
                names.push(entry.name.to_vec());
                names.len() < MAX_FILES
            });
            drop(listed);
            for name in names {
                if let Ok(entry) = fs.lookup(&Caller::root(), dir, &name)
                    && seen.insert(entry.node)
                {
                    found.push((dir, entry.node, name));
                }
            }
        }
    }
    found
}

fn read_all(fs: &Filesystem) {
    let mut buf = vec![0; 3 * BLOCK as usize + 5];
    drop(fs.statfs(NodeId::ROOT));
    for (_, node, _) in nodes(fs) {
        let Ok(attr) = fs.getattr(node) else { continue };
        drop(fs.readlink(node));
        let names = fs.listxattr(&Caller::root(), node).unwrap_or_default();
        for name in names.split(|byte| *byte == 0).take(20) {
            drop(fs.getxattr(node, name));
        }
        let Ok(handle) = fs.open(node, libc::O_RDONLY) else { continue };
        let size = attr.size;
        for at in [0, 1, 4096, 40 * 4096, size / 2, size.saturating_sub(9000), size] {
            drop(fs.read(node, handle, at, &mut buf));
            drop(fs.lseek(node, at, Whence::Data));
            drop(fs.lseek(node, at, Whence::Hole));
        }
        fs.release(node, handle);
    }
}

fn change_all(fs: &Filesystem) {
    let root = Caller::root();
    let bytes: Vec<u8> = (0..9000).map(|at| at as u8).collect();
    let all = nodes(fs);
    for (nth, (dir, node, name)) in all.iter().enumerate() {
        let (dir, node) = (*dir, *node);
        let Ok(attr) = fs.getattr(node) else { continue };
        let size = attr.size;
        if attr.kind() == FileKind::Regular
            && let Ok(handle) = fs.open(node, libc::O_RDWR)
        {
            for at in [0, 4000, size.saturating_sub(10), size] {
                drop(fs.write(node, handle, at, &bytes[..5000], WriteFlags::default()));
            }
            drop(fs.fallocate(node, 4096, 8192, [0, 1, 3, 0x10][nth % 4]));
            drop(fs.copy_file_range(node, 0, all[nth / 2].1, 4096, 3 * 4096));
            drop(fs.fsync(node, false));
            fs.release(node, handle);
        }
        for cut in [size.saturating_add(1), size / 2 + 1, 10] {
            let set = SetAttr { size: Some(cut), mode: Some(0o4755), ..SetAttr::default() };
            drop(fs.setattr(&root, node, &set));
        }
        drop(fs.setxattr(&root, node, b"user.new", &bytes[..3000], 0, false));
        drop(fs.setxattr(&root, node, b"system.posix_acl_access", &bytes[..44], 0, false));
        drop(fs.removexattr(&root, node, b"user.long"));
        drop(fs.link(node, NodeId::ROOT, format!("link {nth}").as_bytes()));
        drop(fs.mkdir(&root, node, b"sub", 0o755));
        drop(fs.create(&root, node, b"made", 0o644, libc::O_RDWR));
        drop(fs.symlink(&root, node, b"symlink", b"to"));
        let other = all[(nth * 7 + 3) % all.len()].1;
        drop(fs.rename(&root, dir, name, other, name, 0));
        drop(fs.rename(&root, dir, name, other, &all[nth / 2].2, 2));
        if nth % 3 == 0 {
            drop(fs.unlink(&root, dir, name));
            drop(fs.rmdir(&root, dir, name));
        }
        fs.forget(node, 1);
    }
    drop(fs.syncfs());
    fs.forget_all();
}

/// Changes of the lineage, and what runs in the background.
fn work(pool: &Arc<Pool>) {
    let volumes = pool.volumes();
    for (nth, info) in volumes.iter().take(MAX_STATES).enumerate() {
        drop(pool.create_snapshot(info.id, "new"));
        let snapshots = pool.snapshots(info.id);
        if let Some(last) = snapshots.last() {
            drop(pool.clone_volume(last.member, &format!("clone {nth}")));
        }
        if let Some(first) = snapshots.first() {
            drop(pool.restore(info.id, &first.name, "kept"));
            drop(pool.rename_snapshot(info.id, &first.name, "renamed"));
            drop(pool.delete_snapshot(info.id, "renamed"));
        }
        drop(pool.set_volume(&info.name, Some(Some(EDGES[nth + 20])), &[]));
    }
    drop(pool.checkpoint());
    if let Some(last) = volumes.last() {
        drop(pool.delete_volume(&last.name));
    }
    for _ in 0..500 {
        if !matches!(pool.run_reclaim(), Ok(true)) {
            break;
        }
    }
    drop(pool.checkpoint());
}
