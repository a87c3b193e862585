//! Tests of the crash states that a recorded log could leave.

use std::collections::HashSet;

use super::super::{FaultOp, Faults, Recorder};
use super::*;

fn bytes(contents: &Contents) -> Vec<u8> {
    let mut bytes = vec![0xee; contents.len_bytes() as usize];
    contents.read(0, &mut bytes).unwrap();
    bytes
}

fn sectors(contents: &Contents) -> Vec<u8> {
    bytes(contents).chunks(512).map(|sector| sector[0]).collect()
}

/// Sixty random changes and syncs, and what the devices hold after each.
fn recorded(seed: u64) -> (Arc<Recorder>, Vec<[Vec<u8>; 2]>) {
    let (recorder, storage) = Recorder::new(Image::default());
    let mut random = Random::new(seed, 0);
    let mut seen = vec![[vec![], vec![]]];
    for step in 1..=60u8 {
        let device = if random.below(2) == 0 { &storage.data } else { &storage.journal };
        let (offset, len) = (random.below(5000), random.below(3000));
        match random.below(6) {
            0 => device.sync().unwrap(),
            1 => device.punch(offset, len).unwrap(),
            2 => device.grow(offset).unwrap(),
            _ => device.write_at(offset, &vec![step; len as usize]).unwrap(),
        }
        let image = [&storage.data, &storage.journal].map(|device| {
            let mut bytes = vec![0; device.len_bytes().unwrap() as usize];
            device.read_at(0, &mut bytes).unwrap();
            bytes
        });
        seen.push(image);
    }
    (recorder, seen)
}

#[test]
fn every_prefix_is_what_the_devices_held() {
    let (recorder, seen) = recorded(1);
    let mut states = recorder.states();
    for (at, [data, journal]) in seen.iter().enumerate() {
        assert_eq!(states.at(), at);
        let image = states.image();
        assert!(bytes(&image.data) == *data && bytes(&image.journal) == *journal, "after {at}");
        let kept = states.crash_with(|_, _| Fate::Kept);
        assert!(bytes(&kept.data) == *data && bytes(&kept.journal) == *journal, "after {at}");
        assert_eq!(states.step(), at + 1 < seen.len());
    }
}

#[test]
fn losing_all_leaves_the_last_sync_of_each_device() {
    let (recorder, seen) = recorded(2);
    let ops = recorder.ops();
    let mut states = recorder.states();
    for at in 0..=ops.len() {
        states.step_to(at);
        let image = states.crash_losing_all();
        for (i, name) in [DeviceName::Data, DeviceName::Journal].into_iter().enumerate() {
            let sync = DeviceOp::Sync { device: name };
            let synced = ops[..at].iter().rposition(|op| *op == sync).unwrap_or(0);
            assert!(bytes(image.device(name)) == seen[synced][i], "{name:?} after {at}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_state_and_others_differ() {
    let (recorder, _) = recorded(3);
    let mut states = recorder.states();
    states.step_to(60);
    let state = |seed| bytes(&states.crash(seed).data);
    assert_eq!(state(5), state(5));
    let different: HashSet<_> = (0..50).map(state).collect();
    assert!(different.len() > 10, "{}", different.len());
}

#[test]
fn each_sector_of_an_unsynced_write_is_old_or_new_in_every_combination() {
    let (recorder, storage) = Recorder::new(Image::default());
    storage.data.write_at(0, &[1; 4 * 512]).unwrap();
    storage.data.sync().unwrap();
    storage.data.write_at(100, &[2; 4 * 512 - 200]).unwrap();
    let mut states = recorder.states();
    states.step_to(recorder.len());
    assert_eq!(states.uncertain(), [2]);
    let mut found = HashSet::new();
    for seed in 0..500 {
        let image = states.crash_with(|_, _| Fate::Torn(seed));
        let bytes = bytes(&image.data);
        assert!(bytes[..100].iter().chain(&bytes[4 * 512 - 100..]).all(|&b| b == 1));
        let inner = &bytes[100..4 * 512 - 100];
        let cuts = [0, 412, 924, 1436, inner.len()];
        let sector = |i: usize| &inner[cuts[i]..cuts[i + 1]];
        found.insert([0, 1, 2, 3].map(|i| {
            assert!(sector(i).iter().all(|&b| b == sector(i)[0]), "sectors are whole");
            sector(i)[0]
        }));
    }
    assert_eq!(found.len(), 16, "{found:?}");
}

#[test]
fn a_torn_punch_and_a_lost_extension() {
    let (recorder, storage) = Recorder::new(Image::default());
    storage.data.write_at(0, &[1; 8 * 512]).unwrap();
    storage.data.sync().unwrap();
    storage.data.punch(0, 1 << 62).unwrap();
    storage.data.grow(1 << 40).unwrap();
    let mut states = recorder.states();
    states.step_to(3);
    let torn: HashSet<_> =
        (0..200).map(|seed| sectors(&states.crash_with(|_, _| Fate::Torn(seed)).data)).collect();
    assert!(torn.len() > 20 && torn.contains(&vec![0; 8]) && torn.contains(&vec![1; 8]));
    states.step();
    let lengths: HashSet<_> = (0..50).map(|seed| states.crash(seed).data.len_bytes()).collect();
    assert_eq!(lengths, HashSet::from([8 * 512, 1 << 40]));
}

#[test]
fn what_a_failed_sync_covered_stays_uncertain() {
    let faults = Faults::new();
    let (recorder, storage) = Recorder::wrap(&faults.wrap(&Storage::memory()), Image::default());
    storage.data.write_at(0, &[1; 512]).unwrap();
    storage.journal.write_at(0, &[1; 512]).unwrap();
    faults.fail_nth(FaultOp::Sync, 1, libc::EIO);
    storage.data.sync().unwrap_err();
    storage.data.write_at(512, &[2; 512]).unwrap();
    storage.data.write_at(512, &[3; 512]).unwrap();
    storage.data.sync().unwrap();
    storage.data.write_at(1024, &[4; 512]).unwrap();
    storage.journal.sync().unwrap();
    let mut states = recorder.states();
    states.step_to(recorder.len());
    assert_eq!(states.uncertain(), [0, 6]);
    assert_eq!(sectors(&states.crash_losing_all().data), [0, 3]);
    assert_eq!(sectors(&states.crash_losing_all().journal), [1]);
    assert_eq!(sectors(&states.image().data), [1, 3, 4]);
}

#[test]
fn a_failed_write_is_logged_as_what_it_left() {
    let faults = Faults::new();
    let (recorder, storage) = Recorder::wrap(&faults.wrap(&Storage::memory()), Image::default());
    storage.data.write_at(0, &[1; 2048]).unwrap();
    faults.fail_nth(FaultOp::Write, 1, libc::EIO);
    storage.data.write_at(0, &[2; 2048]).unwrap_err();
    let mut states = recorder.states();
    states.step_to(2);
    assert_eq!(sectors(&states.image().data), [2, 2, 1, 1]);
}

#[test]
fn a_killed_process_leaves_a_first_part_of_its_write() {
    let (recorder, storage) = Recorder::new(Image::default());
    storage.data.grow(5 * 4096).unwrap();
    storage.data.write_at(1000, &[1; 4 * 4096]).unwrap();
    let mut states = recorder.states();
    assert!(states.killed_in_next(0).is_none(), "an extension is done or not");
    states.step();
    let ends: HashSet<_> = (0..100)
        .map(|seed| {
            let bytes = bytes(&states.killed_in_next(seed).unwrap().data);
            let end = bytes.iter().rposition(|&b| b == 1).map_or(1000, |last| last + 1);
            assert!(bytes[1000..end].iter().all(|&b| b == 1));
            end
        })
        .collect();
    assert_eq!(ends, HashSet::from([1000, 4096, 2 * 4096, 3 * 4096, 4 * 4096]));
    states.step();
    assert!(states.killed_in_next(0).is_none());
}

#[test]
fn a_recovery_can_be_recorded_from_a_crash() {
    let (recorder, storage) = Recorder::new(Image::default());
    storage.data.write_at(0, &[1; 512]).unwrap();
    let mut states = recorder.states();
    states.step();
    let (second, storage) = Recorder::new(states.image());
    storage.data.write_at(512, &[2; 512]).unwrap();
    let mut after = second.states();
    after.step();
    assert_eq!(sectors(&after.image().data), [1, 2]);
    assert_eq!(sectors(&after.crash_losing_all().data), [1]);
    assert_eq!(sectors(&states.image().data), [1]);
}
