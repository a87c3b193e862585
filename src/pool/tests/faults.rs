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
        let fresh = volume.write_blocks(&filled(3, 1)).unwrap().remove(0);
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
fn deletes_in_a_full_pool_that_a_snapshot_holds_are_refused_before_they_break_it() {
    for size in [8 << 20, 16 << 20] {
        let (storage, pool, volume) = new_pool(size);
        // A third of the pool is metadata, which deletes under a snapshot copy.
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
