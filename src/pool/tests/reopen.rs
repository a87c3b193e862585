//! Opening after a process died and left things in the host's page cache only, and then a power cut.

use super::*;
use crate::device::{DeviceName, Fault, FaultOp, Faults, Image, Recorder};
use crate::format::{SLOT_OFFSETS, SLOT_SIZE, SlotError, Superblock};

/// A pool with a volume, on a recorded storage.
fn recorded() -> (Arc<Recorder>, Storage, Arc<Pool>) {
    let (recorder, storage) = Recorder::new(Image::default());
    let pool = Pool::create(storage.clone(), &create_options(64 << 20), open_options()).unwrap();
    let root = Edit::Put { key: inode(ROOT_INODE), value: vec![0; 64] };
    pool.create_volume("main", &[root]).unwrap();
    (recorder, storage, pool)
}

/// What a power cut now leaves, if all is lost that can be.
fn power_cut(recorder: &Recorder) -> Storage {
    let mut states = recorder.states();
    states.step_to(recorder.len());
    states.crash_losing_all().storage()
}

#[test]
fn an_fsync_after_a_crash_covers_what_was_written_before_it() {
    let (recorder, storage, pool) = recorded();
    pool.checkpoint().unwrap();
    write(&pool.volume("main").unwrap(), InodeNo(5), 0, &filled(7, 3)).unwrap();
    pool.abandon();
    let pool = Pool::open(storage, open_options()).unwrap();
    let volume = pool.volume("main").unwrap();
    volume.sync_inode(InodeNo(5)).unwrap();
    let pool = Pool::open(power_cut(&recorder), open_options()).unwrap();
    assert_eq!(read(&pool.volume("main").unwrap().source(), InodeNo(5), 0, 3), filled(7, 3));
}

#[test]
fn a_checkpoint_that_was_cut_off_is_made_durable_before_its_space_is_used() {
    let (recorder, storage, pool) = recorded();
    write(&pool.volume("main").unwrap(), InodeNo(5), 0, &filled(1, 100)).unwrap();
    pool.close().unwrap();
    let faults = Faults::new();
    let pool = Pool::open(faults.wrap(&storage), open_options()).unwrap();
    write(&pool.volume("main").unwrap(), InodeNo(5), 0, &filled(2, 100)).unwrap();
    // The slot is written, and the process ends before it is synced.
    let device = Some(DeviceName::Superblock);
    faults.arm(Fault { op: FaultOp::Sync, device, nth: 1, lasting: true, errno: libc::EIO });
    pool.checkpoint().unwrap_err();
    pool.abandon();
    let pool = Pool::open(storage, open_options()).unwrap();
    let volume = pool.volume("main").unwrap();
    for byte in 3..9 {
        write(&volume, InodeNo(5), 0, &filled(byte, 100)).unwrap();
        pool.sync().unwrap();
    }
    let pool = Pool::open(power_cut(&recorder), open_options()).unwrap();
    assert_eq!(read(&pool.volume("main").unwrap().source(), InodeNo(5), 0, 100), filled(8, 100));
}

#[test]
fn a_slot_of_a_newer_program_is_not_passed_over() {
    let (storage, pool, _) = new_pool(64 << 20);
    pool.close().unwrap();
    for (slot, at) in SLOT_OFFSETS.into_iter().enumerate() {
        let mut bytes = vec![0; SLOT_SIZE];
        storage.superblock.read_at(at, &mut bytes).unwrap();
        let good = bytes.clone();
        bytes[16] |= 1;
        let (hashed, hash) = bytes.split_at_mut(SLOT_SIZE - 32);
        hash.copy_from_slice(blake3::hash(hashed).as_bytes());
        storage.superblock.write_at(at, &bytes).unwrap();
        let error = Pool::open(storage.clone(), open_options()).unwrap_err();
        let unsupported = SlotError::Unsupported { version: 1, features: 1 };
        assert!(
            matches!(&error, Error::Superblock(why) if *why == unsupported),
            "slot {slot}: {error}"
        );
        storage.superblock.write_at(at, &good).unwrap();
    }
    let pool = Pool::open(storage, open_options()).unwrap();
    assert!(!format!("{pool:?}").is_empty());
}

#[test]
fn either_slot_is_enough_and_opening_heals_the_other() {
    for lost in SLOT_OFFSETS {
        let (storage, pool, volume) = new_pool(64 << 20);
        put(&volume, 3, b"three");
        pool.close().unwrap();
        storage.superblock.write_at(lost, &[0xa5; SLOT_SIZE]).unwrap();
        let pool = Pool::open(storage.clone(), open_options()).unwrap();
        assert_eq!(get(&pool.volume("main").unwrap().source(), 3), Some(b"three".to_vec()));
        pool.abandon();
        let mut slots = [vec![0; SLOT_SIZE], vec![0; SLOT_SIZE]];
        for (at, slot) in SLOT_OFFSETS.into_iter().zip(&mut slots) {
            storage.superblock.read_at(at, slot).unwrap();
        }
        assert_eq!(slots[0], slots[1]);
        Superblock::decode(&slots[0]).unwrap();
    }
}

/// Hashes of the first bytes of each file.
fn beginnings(storage: &Storage) -> [blake3::Hash; 3] {
    [&storage.superblock, &storage.journal, &storage.data].map(|device| {
        let mut bytes = vec![0; device.len_bytes().unwrap().min(8 << 20) as usize];
        device.read_at(0, &mut bytes).unwrap();
        blake3::hash(&bytes)
    })
}

#[test]
fn a_journal_of_another_length_is_refused() {
    let (storage, pool, _) = new_pool(64 << 20);
    pool.close().unwrap();
    let longer = storage.journal.len_bytes().unwrap() + 4096;
    storage.journal.grow(longer).unwrap();
    let before = beginnings(&storage);
    let error = Pool::open(storage.clone(), open_options()).unwrap_err();
    assert!(error.to_string().contains("the journal has"), "{error}");
    let after = beginnings(&storage);
    assert_eq!(before, after, "a refused pool is left as it was");
}
