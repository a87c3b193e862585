//! The engine by itself: keys and file data through volumes, snapshots, checkpoints and reopening.

mod answers;
mod faults;
mod reopen;

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::format::{Edit, InodeNo, Key, KeyKind, ROOT_INODE};

#[derive(Default)]
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp { sec: self.0.fetch_add(1, Ordering::Relaxed), nsec: 0 }
    }
}

static NONCE: AtomicU64 = AtomicU64::new(1);

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new(Arc::new(Ticks::default()));
    options.background = false;
    options.nonce = NONCE.fetch_add(1, Ordering::Relaxed);
    options
}

fn create_options(size_bytes: u64) -> CreateOptions {
    let journal_bytes = 4 << 20;
    CreateOptions { size_bytes: Some(size_bytes), journal_bytes, uuid: [1; 16], seed: [2; 32] }
}

fn new_pool(size_bytes: u64) -> (Storage, Arc<Pool>, Arc<Volume>) {
    let storage = Storage::memory();
    let pool = Pool::create(storage.clone(), &create_options(size_bytes), open_options()).unwrap();
    let root = Edit::Put { key: inode(ROOT_INODE), value: vec![0; 64] };
    let volume = pool.create_volume("main", &[root]).unwrap();
    (storage, pool, volume)
}

fn inode(ino: InodeNo) -> Key {
    Key::inode(ino, KeyKind::Inode, 0)
}

fn put(volume: &Volume, number: u64, value: &[u8]) {
    let key = Key::new(number, KeyKind::Xattr, 0);
    let update = volume.update(Intent::Grow).unwrap();
    update.commit(vec![Edit::Put { key, value: value.to_vec() }]).unwrap();
}

fn get(source: &Source, number: u64) -> Option<Vec<u8>> {
    let guard = source.read().unwrap();
    guard.reader().get_vec(Key::new(number, KeyKind::Xattr, 0)).unwrap()
}

fn write(volume: &Volume, ino: InodeNo, block: u64, bytes: &[u8]) -> Result<()> {
    write_as(Intent::Grow, volume, ino, block, bytes)
}

fn write_as(intent: Intent, volume: &Volume, ino: InodeNo, block: u64, bytes: &[u8]) -> Result<()> {
    let fresh = volume.write_blocks(bytes, intent)?;
    let mut update = volume.update(intent)?;
    let mut edits = Vec::new();
    if update.reader().get(inode(ino), |_| ())?.is_none() {
        edits.push(Edit::Put { key: inode(ino), value: vec![0; 64] });
    }
    let mut at = block;
    for part in fresh {
        let len = u64::from(part.len_blocks());
        edits.push(update.map(ino, at, part));
        at += len;
    }
    update.commit(edits)
}

fn read(source: &Source, ino: InodeNo, block: u64, blocks: usize) -> Vec<u8> {
    let mut buf = vec![0xee; blocks * BLOCK_SIZE];
    source.read_file(ino, block, &mut buf).unwrap();
    buf
}

fn blocks_of(source: &Source, ino: InodeNo) -> u64 {
    let guard = source.read().unwrap();
    let field = |record: &[u8]| u64::from_le_bytes(record[..8].try_into().unwrap());
    guard.reader().get(inode(ino), field).unwrap().unwrap()
}

fn filled(byte: u8, blocks: usize) -> Vec<u8> {
    vec![byte; blocks * BLOCK_SIZE]
}

fn settle(pool: &Arc<Pool>) {
    pool.checkpoint().unwrap();
    while pool.run_reclaim().unwrap() {}
    pool.checkpoint().unwrap();
}

#[test]
fn what_is_acknowledged_is_there_after_a_crash_and_after_a_checkpoint() {
    let (storage, pool, volume) = new_pool(64 << 20);
    for number in 100..1100 {
        put(&volume, number, &number.to_le_bytes());
    }
    write(&volume, InodeNo(5), 3, &filled(7, 2)).unwrap();
    pool.abandon();
    for round in 0..3 {
        let pool = Pool::open(storage.clone(), open_options()).unwrap();
        let source = pool.volume("main").unwrap().source();
        for number in 100..1100 {
            assert_eq!(get(&source, number).unwrap(), number.to_le_bytes(), "round {round}");
        }
        let mut expected = filled(0, 3);
        expected.extend(filled(7, 2));
        expected.extend(filled(0, 1));
        assert_eq!(read(&source, InodeNo(5), 0, 6), expected, "round {round}");
        assert_eq!(blocks_of(&source, InodeNo(5)), 2);
        if round == 1 { pool.close().unwrap() } else { pool.abandon() }
    }
}

#[test]
fn a_snapshot_keeps_what_was_and_deleting_it_gives_back_what_only_it_had() {
    let (storage, pool, volume) = new_pool(64 << 20);
    let file = InodeNo(9);
    write(&volume, file, 0, &filled(1, 300)).unwrap();
    put(&volume, 50, b"before");
    settle(&pool);
    let used_before = pool.status().used_bytes;

    let snapshot = pool.create_snapshot(volume.id(), "monday").unwrap();
    write(&volume, file, 10, &filled(2, 100)).unwrap();
    put(&volume, 50, b"after");
    pool.checkpoint().unwrap();
    let view = pool.view(snapshot.member).unwrap();
    assert_eq!(read(&view, file, 0, 300), filled(1, 300));
    assert_eq!(get(&view, 50).unwrap(), b"before");
    assert_eq!(get(&volume.source(), 50).unwrap(), b"after");
    assert!(pool.exclusive_bytes(snapshot.member).unwrap() >= 100 * 4096);
    pool.abandon();

    let pool = Pool::open(storage, open_options()).unwrap();
    let volume = pool.volume("main").unwrap();
    let view = pool.view(snapshot.member).unwrap();
    assert_eq!(read(&view, file, 0, 300), filled(1, 300));
    let mut expected = filled(1, 10);
    expected.extend(filled(2, 100));
    expected.extend(filled(1, 190));
    assert_eq!(read(&volume.source(), file, 0, 300), expected);
    pool.delete_snapshot(volume.id(), "monday").unwrap();
    assert!(matches!(view.read(), Err(Error::Stale)));
    settle(&pool);
    assert_eq!(pool.status().used_bytes, used_before);
    assert_eq!(read(&volume.source(), file, 0, 300), expected);
}

#[test]
fn clones_and_restores_are_volumes_of_their_own() {
    let (storage, pool, volume) = new_pool(64 << 20);
    let file = InodeNo(9);
    write(&volume, file, 0, &filled(1, 4)).unwrap();
    let first = pool.create_snapshot(volume.id(), "first").unwrap();
    write(&volume, file, 0, &filled(2, 1)).unwrap();
    let clone = pool.clone_volume(first.member, "clone").unwrap();
    write(&clone, file, 1, &filled(3, 1)).unwrap();
    pool.restore(volume.id(), "first", "kept").unwrap();
    assert_eq!(read(&volume.source(), file, 0, 4), filled(1, 4));
    pool.delete_snapshot(volume.id(), "first").unwrap();
    pool.abandon();
    let pool = Pool::open(storage.clone(), open_options()).unwrap();
    let volume = pool.volume("main").unwrap();
    let clone = pool.volume("clone").unwrap();
    let kept = pool.snapshot(volume.id(), "kept").unwrap();
    let check = |pool: &Arc<Pool>| {
        assert_eq!(read(&volume.source(), file, 0, 4), filled(1, 4));
        assert_eq!(read(&clone.source(), file, 1, 1), filled(3, 1));
        assert_eq!(read(&clone.source(), file, 2, 2), filled(1, 2));
        let kept = pool.view(kept.member).unwrap();
        assert_eq!(read(&kept, file, 0, 1), filled(2, 1));
        assert_eq!(read(&kept, file, 1, 3), filled(1, 3));
    };
    check(&pool);
    settle(&pool);
    check(&pool);
    pool.delete_snapshot(volume.id(), "kept").unwrap();
    pool.delete_volume("clone").unwrap();
    settle(&pool);
    assert_eq!(read(&volume.source(), file, 0, 4), filled(1, 4));
    // One head is left and nothing else: what is in use is what it refers to, and the pool's own trees.
    let referenced = pool.volumes()[0].referenced_bytes;
    let used = pool.status().used_bytes;
    assert!(used - referenced <= 4 * 16384, "{used} in use, {referenced} referred to");
}

#[test]
fn a_full_pool_says_so_and_deletes_go_on() {
    let (_, pool, volume) = new_pool(16 << 20);
    let mut written = 0;
    let full = loop {
        match write(&volume, InodeNo(7), written, &filled(1, 16)) {
            Ok(()) => written += 16,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::NoSpace), "{full}");
    assert!(written * 4096 > 12 << 20, "{written} blocks fit");
    assert!(matches!(write(&volume, InodeNo(8), 0, &filled(1, 16)), Err(Error::NoSpace)));
    for block in (0..written).step_by(16) {
        let update = volume.update(Intent::Shrink).unwrap();
        update.commit(vec![Edit::Unmap { ino: InodeNo(7), block, len_blocks: 16 }]).unwrap();
    }
    assert_eq!(blocks_of(&volume.source(), InodeNo(7)), 0);
    write(&volume, InodeNo(7), 0, &filled(1, 16)).unwrap();
    pool.create_snapshot(volume.id(), "s").unwrap();
}

#[test]
fn what_was_promised_is_there_whoever_else_takes_room() {
    const PROMISED_BLOCKS: u64 = 256;
    let (_, pool, volume) = new_pool(16 << 20);
    let root = Edit::Put { key: inode(ROOT_INODE), value: vec![0; 64] };
    let other = pool.create_volume("other", &[root]).unwrap();
    assert!(!other.is_any_promised());
    volume.change_promised(0, PROMISED_BLOCKS * 4096);
    assert!(other.is_any_promised());
    // Both take what they can, data and nodes.
    for (taker, ino) in [(&other, 7), (&volume, 8)] {
        for len in [16, 1] {
            let full = (0..)
                .step_by(len)
                .find_map(|block| write(taker, InodeNo(ino), block, &filled(1, len)).err());
            assert!(matches!(full, Some(Error::NoSpace)), "{full:?}");
        }
        let put = |number| {
            let key = Key::new(number, KeyKind::Xattr, 0);
            let edit = Edit::Put { key, value: vec![1; 2000] };
            taker.update(Intent::Grow).and_then(|update| update.commit(vec![edit])).err()
        };
        let full = (1000..).find_map(put);
        assert!(matches!(full, Some(Error::NoSpace)), "{full:?}");
        let space = taker.space();
        // The last one's nodes may go beyond it: hence the part of the reserve.
        assert!(space.free_bytes >= PROMISED_BLOCKS * 4096 - (64 << 10), "{space:?}");
        assert!(space.unpromised_bytes < 64 << 10, "{space:?}");
    }
    // Alone in their leaves as they may be, the promised blocks fit.
    for block in 0..PROMISED_BLOCKS {
        let at = (block * 77 % PROMISED_BLOCKS) * 1000;
        write_as(Intent::Promised, &volume, InodeNo(9), at, &filled(2, 1)).unwrap();
    }
    volume.change_promised(PROMISED_BLOCKS * 4096, 0);
    assert!(!other.is_any_promised());
    assert!(matches!(write(&volume, InodeNo(8), 0, &filled(1, 16)), Err(Error::NoSpace)));
}

#[test]
fn a_snapshot_leaves_what_was_promised() {
    let (_, pool, volume) = new_pool(16 << 20);
    (0..2000).for_each(|number| put(&volume, number, &[1; 1000]));
    let most = volume.space().free_bytes - (1 << 20);
    volume.change_promised(0, most);
    let made = pool.create_snapshot(volume.id(), "s");
    assert!(matches!(made, Err(Error::NoSpace)), "{made:?}");
    volume.change_promised(most, most - (2 << 20));
    let made = pool.create_snapshot(volume.id(), "s").unwrap();
    let refused = pool.clone_volume(made.member, "clone").err();
    assert!(matches!(refused, Some(Error::NoSpace)), "{refused:?}");
    volume.change_promised(most - (2 << 20), 0);
    pool.clone_volume(made.member, "clone").unwrap();
}

#[test]
fn what_was_promised_within_a_quota_is_left_to_it() {
    let (_, pool, volume) = new_pool(64 << 20);
    pool.set_volume("main", Some(Some(4 << 20)), &[]).unwrap();
    volume.change_promised(0, 1 << 20);
    let full =
        (0..).step_by(16).find_map(|block| write(&volume, InodeNo(8), block, &filled(1, 16)).err());
    assert!(matches!(full, Some(Error::Quota)), "{full:?}");
    for block in (0..256 - 16).step_by(16) {
        write_as(Intent::Promised, &volume, InodeNo(9), block, &filled(2, 16)).unwrap();
    }
    assert!(matches!(volume.update(Intent::Grow), Err(Error::Quota)));
}

#[test]
fn a_pool_full_of_single_blocks_lets_deletes_go_on() {
    let (_, pool, volume) = new_pool(16 << 20);
    // Gives each file one block in turn; returns how many each has when no more fit.
    let fill = |files: &[u64]| {
        for block in 0.. {
            for ino in files {
                match write(&volume, InodeNo(*ino), block, &filled(1, 1)) {
                    Ok(()) => {}
                    Err(Error::NoSpace) => return block,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        unreachable!()
    };
    let unmap = |ino: u64, block: u64| {
        let update = volume.update(Intent::Shrink).unwrap();
        update.commit(vec![Edit::Unmap { ino: InodeNo(ino), block, len_blocks: 1 }]).unwrap();
    };
    // Two files take turns, and one is deleted: what comes free are single blocks.
    let blocks = fill(&[7, 8]);
    assert!(blocks > 1000, "{blocks} blocks fit");
    (0..blocks).for_each(|block| unmap(8, block));
    settle(&pool);
    // These can be used again, and are, to the last; then the deletes still have room for their nodes.
    let more = fill(&[9]);
    assert!(more > blocks * 8 / 10, "{more} of {blocks} single blocks were used");
    (0..=blocks).rev().for_each(|block| unmap(7, block));
    assert_eq!(blocks_of(&volume.source(), InodeNo(7)), 0);
    settle(&pool);
    write(&volume, InodeNo(7), 0, &filled(1, 16)).unwrap();
}

#[test]
fn many_snapshots_come_and_go_in_any_order() {
    let (storage, pool, volume) = new_pool(256 << 20);
    for round in 0..200u64 {
        write(&volume, InodeNo(5 + round % 7), round % 11, &filled(round as u8, 3)).unwrap();
        put(&volume, 1000 + round, b"x");
        pool.create_snapshot(volume.id(), &format!("s{round}")).unwrap();
        if round % 37 == 0 {
            pool.checkpoint().unwrap();
        }
    }
    for step in 0..200u64 {
        let round = step * 73 % 200;
        let name = format!("s{round}");
        let view = pool.view(pool.snapshot(volume.id(), &name).unwrap().member).unwrap();
        let found = read(&view, InodeNo(5 + round % 7), round % 11, 3);
        assert_eq!(found, filled(round as u8, 3));
        pool.delete_snapshot(volume.id(), &name).unwrap();
        if step % 41 == 0 {
            pool.run_reclaim().unwrap();
            pool.checkpoint().unwrap();
        }
    }
    settle(&pool);
    let referenced = pool.volumes()[0].referenced_bytes;
    let used = pool.status().used_bytes;
    assert!(used - referenced <= 4 * 16384, "{used} in use, {referenced} referred to");
    pool.abandon();
    let pool = Pool::open(storage, open_options()).unwrap();
    assert_eq!(pool.status().used_bytes, used);
}

#[test]
fn damage_is_an_error_and_not_other_data() {
    let (storage, pool, volume) = new_pool(64 << 20);
    write(&volume, InodeNo(5), 0, &filled(1, 4)).unwrap();
    pool.checkpoint().unwrap();
    let mut at = None;
    let guard = volume.source();
    guard
        .read()
        .unwrap()
        .reader()
        .extents(InodeNo(5), 2, 3, &mut |_, extent| {
            at = Some(extent.addr);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    storage.data.write_at(at.unwrap().offset_bytes() + 100, b"?").unwrap();
    let mut buf = filled(0, 4);
    let error = volume.source().read_file(InodeNo(5), 0, &mut buf).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    assert_eq!(read(&volume.source(), InodeNo(5), 0, 2), filled(1, 2));
    assert_eq!(read(&volume.source(), InodeNo(5), 3, 1), filled(1, 1));
}

#[test]
fn what_shares_blocks_that_a_power_cut_lost_has_lost_them_too() {
    let (storage, pool, volume) = new_pool(64 << 20);
    pool.checkpoint().unwrap();
    write(&volume, InodeNo(5), 0, &filled(1, 6)).unwrap();
    let mut shared = Vec::new();
    let source = volume.source();
    source
        .read()
        .unwrap()
        .reader()
        .extents(InodeNo(5), 0, 6, &mut |block, extent| {
            shared.push((block, extent));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let update = volume.update(Intent::Grow).unwrap();
    let mut edits = vec![Edit::Put { key: inode(InodeNo(6)), value: vec![0; 64] }];
    let copy = |(block, extent): &(u64, crate::format::Extent)| Edit::Map {
        ino: InodeNo(6),
        block: *block,
        extent: extent.clone(),
        shared: true,
    };
    edits.extend(shared.iter().map(copy));
    update.commit(edits).unwrap();
    pool.abandon();
    // Two of the blocks never reached the disk.
    for block in [1, 4] {
        let at = shared[0].1.addr.0 + block;
        storage.data.write_at(at * 4096, &[9; 4096]).unwrap();
    }
    let pool = Pool::open(storage.clone(), open_options()).unwrap();
    let source = pool.volume("main").unwrap().source();
    let mut expected = filled(1, 6);
    expected[4096..2 * 4096].fill(0);
    expected[4 * 4096..5 * 4096].fill(0);
    for ino in [InodeNo(5), InodeNo(6)] {
        assert_eq!(read(&source, ino, 0, 6), expected);
        assert_eq!(blocks_of(&source, ino), 4);
    }
    let used = pool.status().used_bytes;
    settle(&pool);
    assert_eq!(read(&source, InodeNo(6), 0, 6), expected);
    assert!(pool.status().used_bytes <= used);
}

#[test]
fn journaled_content_outlives_a_power_cut_without_an_fsync() {
    let (storage, pool, volume) = new_pool(64 << 20);
    let fresh = volume.write_blocks_journaled(&filled(3, 1), Intent::Grow).unwrap();
    let mut update = volume.update(Intent::Grow).unwrap();
    let mut edits = vec![Edit::Put { key: inode(InodeNo(5)), value: vec![0; 64] }];
    for part in fresh {
        edits.push(update.map(InodeNo(5), 0, part));
    }
    update.commit(edits).unwrap();
    let mut addr = None;
    let source = volume.source();
    let guard = source.read().unwrap();
    guard
        .reader()
        .extents(InodeNo(5), 0, 1, &mut |_, extent| {
            addr = Some(extent.addr);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    drop(guard);
    pool.abandon();
    storage.data.write_at(addr.unwrap().offset_bytes(), &[0; 4096]).unwrap();
    let pool = Pool::open(storage, open_options()).unwrap();
    let source = pool.volume("main").unwrap().source();
    assert_eq!(read(&source, InodeNo(5), 0, 1), filled(3, 1));
}
