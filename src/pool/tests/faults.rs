//! What goes wrong around the engine: damage, devices that fail, pools that are full.

use super::super::extents::{Apply, invalid_parts};
use super::super::store::HeadStore;
use super::*;
use crate::device::{DeviceName, Fault, FaultOp, Faults};
use crate::format::{Extent, ExtentKind};

fn extent_at(addr: u64, bytes: &[u8]) -> Extent {
    Extent {
        addr: crate::format::BlockNo(addr),
        birth: Epoch(1),
        len_blocks: (bytes.len() / BLOCK_SIZE) as u32,
        kind: ExtentKind::Written,
        checksums: bytes.chunks(BLOCK_SIZE).map(crc32c::crc32c).collect(),
    }
}

fn unmap(volume: &Volume, ino: u64, block: u64, len_blocks: u64) {
    let update = volume.update(Intent::Shrink).unwrap();
    update.commit(vec![Edit::Unmap { ino: InodeNo(ino), block, len_blocks }]).unwrap();
}

#[test]
fn a_volume_of_which_only_snapshots_are_left_can_be_labelled() {
    let (storage, pool, volume) = new_pool(64 << 20);
    pool.create_snapshot(volume.id(), "s").unwrap();
    pool.delete_volume("main").unwrap();
    let label = ("kept".to_owned(), Some("yes".to_owned()));
    pool.set_volume("main", Some(Some(1 << 20)), &[label]).unwrap();
    assert_eq!(pool.status().read_only, None);
    pool.abandon();
    let pool = Pool::open(storage, open_options()).unwrap();
    assert_eq!(pool.volumes()[0].labels["kept"], "yes");
}

#[test]
fn one_superblock_slot_that_can_not_be_read_is_no_reason_not_to_open() {
    let (storage, pool, volume) = new_pool(64 << 20);
    put(&volume, 3, b"three");
    pool.close().unwrap();
    for nth in [1, 2] {
        let faults = Faults::new();
        let device = Some(DeviceName::Superblock);
        faults.arm(Fault { op: FaultOp::Read, device, nth, lasting: false, errno: libc::EIO });
        let pool = Pool::open(faults.wrap(&storage), open_options()).unwrap();
        assert_eq!(faults.injected(), 1);
        assert_eq!(get(&pool.volume("main").unwrap().source(), 3).unwrap(), b"three");
    }
    let faults = Faults::new();
    let device = Some(DeviceName::Superblock);
    faults.arm(Fault { op: FaultOp::Read, device, nth: 1, lasting: true, errno: libc::EIO });
    let error = Pool::open(faults.wrap(&storage), open_options()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn a_mapping_dirties_nothing_any_more_once_it_is_prepared() {
    let (_, pool, volume) = new_pool(64 << 20);
    let file = InodeNo(5);
    // Single blocks with holes between them: many extents, in several leaves.
    for block in (0..2000).step_by(2) {
        write(&volume, file, block, &filled(1, 1)).unwrap();
    }
    // Whatever leaf the bound of which is this block, the one before it lies in the leaf to the left.
    for block in (2..2000).step_by(2) {
        unmap(&volume, 5, block, 1);
        write(&volume, file, block - 1, &filled(2, 1)).unwrap();
        pool.checkpoint().unwrap();
        let fresh = volume.write_blocks(&filled(3, 1), Intent::Grow).unwrap().remove(0);
        let mut edit = volume.update(Intent::Grow).unwrap().map(file, block, fresh);
        if let Edit::Map { extent, .. } = &mut edit {
            extent.birth = pool.epoch();
        }
        let mut head = volume.head.write();
        let mut store = HeadStore::new(&pool, pool.epoch());
        let mut apply = Apply { root: &mut head.root, store: &mut store, dropped: Vec::new() };
        apply.prepare(&edit).unwrap();
        let (made, nodes) = (pool.dirty_nodes.load(Ordering::Relaxed), apply.root.tree.nodes);
        apply.apply(&edit).unwrap();
        let split = apply.root.tree.nodes - nodes;
        assert_eq!(pool.dirty_nodes.load(Ordering::Relaxed) - made, split, "block {block}");
    }
}

#[test]
fn a_panic_in_the_middle_of_an_operation_is_not_made_durable() {
    let (storage, pool, volume) = new_pool(64 << 20);
    put(&volume, 3, b"three");
    let update = volume.update(Intent::Grow).unwrap();
    let too_long = Edit::Put { key: Key::new(5, KeyKind::Xattr, 0), value: vec![0; 5000] };
    let first = Edit::Put { key: Key::new(4, KeyKind::Xattr, 0), value: b"half".to_vec() };
    let commit = std::panic::AssertUnwindSafe(|| update.commit(vec![first, too_long]));
    assert!(std::panic::catch_unwind(commit).is_err());
    assert!(matches!(pool.checkpoint(), Err(Error::ReadOnly(_))));
    assert!(matches!(volume.update(Intent::Grow), Err(Error::ReadOnly(_))));
    pool.abandon();
    let pool = Pool::open(storage, open_options()).unwrap();
    let source = pool.volume("main").unwrap().source();
    assert_eq!(get(&source, 3).unwrap(), b"three");
    assert_eq!(get(&source, 4), None);
}

#[test]
fn extents_that_overlap_are_damage_and_no_panic() {
    let (_, _, volume) = new_pool(64 << 20);
    write(&volume, InodeNo(5), 0, &filled(1, 4)).unwrap();
    let extent = {
        let source = volume.source();
        let guard = source.read().unwrap();
        let key = Key::inode(InodeNo(5), KeyKind::Extent, 0);
        Extent::decode(&guard.reader().get_vec(key).unwrap().unwrap()).unwrap()
    };
    let update = volume.update(Intent::Grow).unwrap();
    let key = Key::inode(InodeNo(5), KeyKind::Extent, 2);
    update.commit(vec![Edit::Put { key, value: extent.to_bytes() }]).unwrap();
    let mut buf = filled(0, 8);
    let error = volume.source().read_file(InodeNo(5), 0, &mut buf).unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
}

#[test]
fn a_host_that_can_not_take_blocks_back_stops_nothing() {
    let storage = Storage::memory();
    let faults = Faults::new();
    let pool =
        Pool::create(faults.wrap(&storage), &create_options(64 << 20), open_options()).unwrap();
    let root = Edit::Put { key: inode(ROOT_INODE), value: vec![0; 64] };
    let volume = pool.create_volume("main", &[root]).unwrap();
    write(&volume, InodeNo(5), 0, &filled(1, 256)).unwrap();
    pool.checkpoint().unwrap();
    let used = pool.status().used_bytes;
    faults.arm(Fault {
        op: FaultOp::Punch,
        device: None,
        nth: 1,
        lasting: true,
        errno: libc::ENOSPC,
    });
    unmap(&volume, 5, 0, 256);
    pool.checkpoint().unwrap();
    assert!(faults.injected() > 0);
    assert_eq!(pool.status().read_only, None);
    assert!(pool.status().used_bytes <= used - (1 << 19));
    assert_eq!(pool.status().held_bytes, 0);
}

#[test]
fn a_block_that_can_not_be_read_is_not_taken_for_one_that_was_never_written() {
    let bytes: Vec<u8> = (0..4u8).flat_map(|byte| filled(byte, 1)).collect();
    let extent = extent_at(10, &bytes);
    let on_disk = [filled(0, 1), filled(9, 1), filled(2, 1), filled(3, 1)].concat();
    let mut read = |at: u64, buf: &mut [u8]| {
        let from = at as usize - 10 * BLOCK_SIZE;
        let bad = 2 * BLOCK_SIZE;
        if from <= bad && bad < from + buf.len() {
            return Err(std::io::Error::from_raw_os_error(libc::EIO));
        }
        buf.copy_from_slice(&on_disk[from..from + buf.len()]);
        Ok(())
    };
    assert_eq!(invalid_parts(&extent, &mut read), vec![extent.sub_run(1, 1)]);
}

#[test]
fn a_record_that_damage_keeps_from_being_replayed_leaves_the_rest_readable() {
    let (storage, pool, volume) = new_pool(64 << 20);
    let root = Edit::Put { key: inode(ROOT_INODE), value: vec![0; 64] };
    let other = pool.create_volume("other", &[root]).unwrap();
    for number in 100..200 {
        put(&volume, number, &[1; 1000]);
        put(&other, number, &[2; 1000]);
    }
    pool.checkpoint().unwrap();
    let addr = volume.head.read().root.tree.root.addr;
    put(&other, 300, b"replayed");
    put(&volume, 300, b"can't be");
    pool.abandon();
    storage.data.write_at(addr.offset_bytes() + 3000, b"damage").unwrap();
    let pool = Pool::open(storage, open_options()).unwrap();
    assert!(pool.status().read_only.unwrap().contains("damaged"));
    let other = pool.volume("other").unwrap();
    assert_eq!(get(&other.source(), 150).unwrap(), [2; 1000]);
    assert_eq!(get(&other.source(), 300).unwrap(), b"replayed");
    let source = pool.volume("main").unwrap().source();
    let guard = source.read().unwrap();
    let error = guard.reader().get_vec(Key::new(150, KeyKind::Xattr, 0)).unwrap_err();
    assert!(matches!(Error::from(error), Error::Corrupt(_)));
    assert!(matches!(other.update(Intent::Shrink), Err(Error::ReadOnly(_))));
}

#[test]
fn an_fsync_that_the_journal_has_no_room_for_syncs_in_place() {
    let storage = Storage::memory();
    let create = CreateOptions { journal_bytes: 128 << 10, ..create_options(64 << 20) };
    let pool = Pool::create(storage, &create, open_options()).unwrap();
    let root = Edit::Put { key: inode(ROOT_INODE), value: vec![0; 64] };
    let volume = pool.create_volume("main", &[root]).unwrap();
    for round in 0..20 {
        write(&volume, InodeNo(5), 0, &filled(round, 60)).unwrap();
        volume.sync_inode(InodeNo(5)).unwrap();
    }
    assert_eq!(pool.status().read_only, None);
}

/// All nodes are copied before one of the copies is empty, and nothing is freed.
#[test]
fn everything_in_a_full_pool_that_a_snapshot_holds_can_be_deleted() {
    for size in [8 << 20, 16 << 20, 96 << 20] {
        let (storage, pool, volume) = new_pool(size);
        let files = size / 6 / 1000;
        for number in 0..files {
            put(&volume, 100 + number, &[1; 980]);
        }
        settle(&pool);
        pool.create_snapshot(volume.id(), "s").unwrap();
        let mut block = 0;
        while write(&volume, InodeNo(7), block, &filled(1, 16)).is_ok() {
            block += 16;
        }
        let delete = |volume: &Volume, number: u64| {
            let key = Key::new(100 + number, KeyKind::Xattr, 0);
            let update = volume.update(Intent::Shrink).unwrap();
            let deleted = update.commit(vec![Edit::Delete { key }]);
            deleted.unwrap_or_else(|error| panic!("{number} of {files} in {size}: {error}"));
        };
        // What another snapshot would take to delete everything then is not there.
        (0..files / 10).for_each(|number| delete(&volume, number * 10));
        let again = pool.create_snapshot(volume.id(), "again").map(drop);
        assert!(matches!(again, Err(Error::NoSpace)), "{again:?} in {size}");
        drop(volume);
        pool.close().unwrap();
        let pool = Pool::open(storage, open_options()).unwrap();
        let volume = pool.volume("main").unwrap();
        (0..files).for_each(|number| delete(&volume, number * 7919 % files));
        settle(&pool);
        assert_eq!(pool.status().read_only, None);
        put(&volume, 5000, b"room again");
    }
}

#[test]
fn deletes_in_a_full_pool_that_a_snapshot_holds_are_refused_before_they_break_it() {
    for size in [8 << 20, 16 << 20] {
        let (storage, pool, volume) = new_pool(size);
        // A third of the pool is metadata, which deletes under a snapshot copy: more than is kept back for that.
        let files = size / 3 / 1000;
        for number in 0..files {
            put(&volume, 100 + number, &[1; 980]);
        }
        settle(&pool);
        pool.create_snapshot(volume.id(), "s").unwrap();
        let mut block = 0;
        while write(&volume, InodeNo(7), block, &filled(1, 16)).is_ok() {
            block += 16;
        }
        let mut refused = 0;
        let mut delete = |pool: &Arc<Pool>, volume: &Volume, number: u64| {
            let edits = vec![
                Edit::Delete { key: Key::new(100 + number, KeyKind::Xattr, 0) },
                Edit::Put { key: Key::new(100 + number, KeyKind::Orphan, 0), value: vec![1; 9] },
            ];
            match volume.update(Intent::Shrink).and_then(|update| update.commit(edits)) {
                Ok(()) => {}
                Err(Error::NoSpace) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            assert_eq!(pool.status().read_only, None, "delete {number} of {size}");
        };
        for number in (0..files).map(|number| number * 7919 % files) {
            delete(&pool, &volume, number);
            if number % 100 == 0 {
                pool.checkpoint().unwrap();
            }
        }
        pool.checkpoint().unwrap();
        pool.abandon();
        // It can be opened, the snapshot be deleted, and then everything else.
        let pool = Pool::open(storage, open_options()).unwrap();
        let volume = pool.volume("main").unwrap();
        pool.delete_snapshot(volume.id(), "s").unwrap();
        settle(&pool);
        assert_eq!(pool.status().read_only, None);
        assert!(refused > 0, "the pool of {size} had room for a whole copy");
        for number in 0..files {
            let key = Key::new(100 + number, KeyKind::Xattr, 0);
            let update = volume.update(Intent::Shrink).unwrap();
            update.commit(vec![Edit::Delete { key }]).unwrap();
        }
        settle(&pool);
        put(&volume, 5000, b"room again");
    }
}
