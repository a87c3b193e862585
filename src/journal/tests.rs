//! Unit tests of the journal.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::device::{BlockDevice, MemoryDevice};
use crate::format::{FRAME_HEADER, frame_bytes};

const SALT: [u8; 16] = [7; 16];

fn formatted(len_bytes: u64) -> Arc<MemoryDevice> {
    let device = Arc::new(MemoryDevice::new());
    assert_eq!(Journal::format(&*device, len_bytes).unwrap(), Position::START);
    device
}

fn open(device: &Arc<MemoryDevice>, nonce: u64, tail: Position) -> (Journal, Records) {
    Journal::open(device.clone(), SALT, nonce, tail).unwrap()
}

fn fresh(len_bytes: u64) -> (Arc<MemoryDevice>, Journal) {
    let device = formatted(len_bytes);
    let (journal, records) = open(&device, 1, Position::START);
    assert!(records.is_empty());
    (device, journal)
}

/// A payload that says which record it belongs to.
fn payload(seq: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seq as usize * 31 + i) as u8).collect()
}

#[test]
fn what_was_written_out_is_found_again() {
    let (device, journal) = fresh(64 * 1024);
    let tail = journal.position();
    let payloads: Vec<_> = (1..=20).map(|seq| payload(seq, seq as usize * 13)).collect();
    for (i, bytes) in payloads.iter().enumerate() {
        let (a, b) = bytes.split_at(bytes.len() / 3);
        assert_eq!(journal.append_parts(&[a, b]).unwrap(), Seq(i as u64 + 1));
    }
    assert_eq!(journal.written_seq(), Seq(0));
    let (_, none) = open(&device, 2, tail);
    assert!(none.is_empty(), "append does no I/O");
    journal.write_out(Seq(20)).unwrap();
    assert_eq!((journal.written_seq(), journal.synced_seq()), (Seq(20), Seq(0)));
    journal.sync(Seq(20)).unwrap();
    assert_eq!(journal.synced_seq(), Seq(20));

    let (again, records) = open(&device, 2, tail);
    assert_eq!(again.position(), journal.position());
    assert_eq!(again.used_bytes(), journal.used_bytes());
    assert_eq!(again.synced_seq(), Seq(0));
    assert!(records.iter().map(|(_, bytes)| bytes).eq(&payloads));
    assert!(records.iter().map(|(seq, _)| seq.0).eq(1..=20));
    let middle = Journal::open(device, [8; 16], 2, tail).unwrap().1;
    assert!(middle.is_empty(), "another pool's records don't match");
}

#[test]
fn goes_round_and_never_overwrites_what_is_not_released() {
    let (device, journal) = fresh(16 * 1024);
    let mut tail = journal.position();
    let mut kept: Records = Vec::new();
    let mut full = 0;
    for seq in 1..=2000u64 {
        let bytes = payload(seq, (seq * 37 % 2500) as usize);
        let appended = match journal.append(&bytes) {
            Err(Error::Full { needed_bytes, free_bytes }) => {
                assert!(needed_bytes > free_bytes);
                full += 1;
                journal.write_out(journal.last_seq()).unwrap();
                assert_eq!(open(&device, 2, tail).1, kept);
                tail = journal.position();
                journal.release(tail);
                assert_eq!(journal.used_bytes(), 0);
                kept.clear();
                journal.append(&bytes).unwrap()
            }
            other => other.unwrap(),
        };
        assert_eq!(appended, Seq(seq));
        kept.push((appended, bytes));
        if seq % 3 == 0 {
            journal.write_out(appended).unwrap();
        }
        assert!(journal.used_bytes() <= journal.capacity_bytes());
    }
    assert!(full > 50);
    assert_eq!(device.len_bytes().unwrap(), 16 * 1024);
}

#[test]
fn every_length_fits_an_empty_journal_wherever_it_ends() {
    let (_device, journal) = fresh(MIN_LENGTH);
    let max = journal.max_payload_bytes();
    assert_eq!(max, MIN_LENGTH as usize / 2 - FRAME_HEADER);
    let error = journal.append(&vec![0; max + 1]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    for step in 0..1200 {
        for len in [max, step % max] {
            let seq = journal.append(&vec![1; len]).unwrap();
            journal.write_out(seq).unwrap();
            journal.release(journal.position());
        }
    }
}

#[test]
fn the_longest_record_fits_and_is_found() {
    let (device, journal) = fresh(4 << 20);
    let bytes = payload(1, MAX_RECORD);
    assert_eq!(journal.max_payload_bytes(), MAX_RECORD);
    journal.append(&bytes).unwrap();
    journal.append(&[]).unwrap();
    journal.write_out(Seq(2)).unwrap();
    let records = open(&device, 2, Position::START).1;
    assert_eq!(records, [(Seq(1), bytes), (Seq(2), Vec::new())]);
}

#[test]
fn any_damaged_byte_ends_the_log_there() {
    let (device, journal) = fresh(MIN_LENGTH);
    (1..=3).for_each(|seq| assert_eq!(journal.append(&payload(seq, 16)).unwrap(), Seq(seq)));
    journal.write_out(Seq(3)).unwrap();
    let second = frame_bytes(16) as u64;
    for at in second..2 * second {
        let copy = Arc::new(MemoryDevice::with_contents(device.contents()));
        let mut byte = [0];
        copy.read_at(at, &mut byte).unwrap();
        copy.write_at(at, &[byte[0] ^ 0x10]).unwrap();
        assert_eq!(open(&copy, 2, Position::START).1.len(), 1, "byte {at}");
    }
}

/// Record 2 is lost, record 3 survives; then the pool goes on with a new record 2 of equal length.
#[test]
fn a_record_behind_a_lost_one_does_not_come_back() {
    let (device, journal) = fresh(MIN_LENGTH);
    let old = [1, 2, 3].map(|seq| payload(seq, 16));
    old.iter().for_each(|bytes| assert!(journal.append(bytes).is_ok()));
    journal.write_out(Seq(3)).unwrap();
    let second = frame_bytes(16) as u64;
    device.write_at(second, &[0; 48]).unwrap();

    for (nonce, new) in [(2, payload(9, 16)), (3, old[1].clone())] {
        let copy = Arc::new(MemoryDevice::with_contents(device.contents()));
        let (journal, records) = open(&copy, nonce, Position::START);
        assert_eq!(records.len(), 1);
        assert_eq!(journal.append(&new).unwrap(), Seq(2));
        // Without the padding that clears the rest of the page.
        let mut third = [0; 48];
        copy.read_at(2 * second, &mut third).unwrap();
        journal.write_out(Seq(2)).unwrap();
        copy.write_at(2 * second, &third).unwrap();
        let records = open(&copy, nonce + 10, Position::START).1;
        assert_eq!(records, [(Seq(1), old[0].clone()), (Seq(2), new)]);
        // Nor when the tail has moved on to its very place.
        assert!(open(&copy, nonce + 10, journal.position()).1.is_empty());
    }
}

#[test]
fn a_torn_record_is_not_made_whole_by_what_is_written_over_it() {
    // The record stands where the last one ends, or does not fit there, and stands at 0.
    for (before, at) in [([16, 16], 96), ([3500, 3500], 0)] {
        let (device, journal) = fresh(8192);
        let [_, last] = before.map(|len| journal.append(&payload(1, len)).unwrap());
        journal.write_out(last).unwrap();
        let tail = journal.position();
        journal.release(tail);
        let seq = journal.append(&[5; 1500]).unwrap();
        journal.write_out(seq).unwrap();
        // A power cut keeps its second sector from the disk.
        device.write_at(at + 512, &[0; 512]).unwrap();
        let (journal, records) = open(&device, 2, tail);
        assert!(records.is_empty());
        // The next one is longer and has the same bytes; a power cut keeps only that sector of it.
        let before = device.contents();
        let seq = journal.append(&[5; 1700]).unwrap();
        journal.write_out(seq).unwrap();
        let mut sector = [0; 512];
        device.read_at(at + 512, &mut sector).unwrap();
        let torn = Arc::new(MemoryDevice::with_contents(before));
        torn.write_at(at + 512, &sector).unwrap();
        let (_, records) = open(&torn, 3, tail);
        assert!(records.is_empty(), "{} bytes have come back", records[0].1.len());
    }
}

#[test]
fn a_page_is_padded_only_with_free_bytes() {
    let (device, journal) = fresh(MIN_LENGTH);
    // The tail comes to lie in the first page, and the log goes round until just before it.
    journal.append(&payload(1, 100)).unwrap();
    journal.write_out(Seq(1)).unwrap();
    let tail = journal.position();
    journal.release(tail);
    let mut kept = Vec::new();
    while let Ok(seq) = journal.append(&payload(kept.len() as u64, 60)) {
        kept.push((seq, payload(kept.len() as u64, 60)));
        journal.write_out(seq).unwrap();
        assert_eq!(open(&device, 2, tail).1, kept);
    }
    assert!(journal.position().offset < tail.offset, "went round");
    assert_eq!(device.len_bytes().unwrap(), MIN_LENGTH);
}

#[test]
fn refuses_lengths_and_tails_that_cannot_be() {
    let device = MemoryDevice::new();
    for len in [0, 4096, 3 * 4096 + 8] {
        assert!(matches!(Journal::format(&device, len), Err(Error::Length(_))));
    }
    let device = formatted(MIN_LENGTH);
    assert!(matches!(Journal::format(&*device, 0), Err(Error::Length(_))));
    for (offset, seq) in [(MIN_LENGTH, 1), (u64::MAX, 1), (4, 1), (0, 0), (0, u64::MAX)] {
        let tail = Position { offset, seq: Seq(seq), chain: 0 };
        let result = Journal::open(device.clone(), SALT, 1, tail);
        assert!(matches!(result, Err(Error::Tail { .. })));
    }
    device.write_at(MIN_LENGTH, &[0]).unwrap();
    let result = Journal::open(device, SALT, 1, Position::START);
    assert!(matches!(result, Err(Error::Length(_))));
}

#[test]
#[should_panic(expected = "released unwritten records")]
fn unwritten_records_are_not_released() {
    let (_device, journal) = fresh(MIN_LENGTH);
    journal.append(&[1]).unwrap();
    journal.release(journal.position());
}

/// Counts syncs, makes each slow, and fails on demand.
#[derive(Debug, Default)]
struct SlowDevice {
    inner: MemoryDevice,
    syncs: AtomicU64,
    fail_write: AtomicBool,
    fail_sync: AtomicBool,
}

impl BlockDevice for SlowDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let fails = self.fail_write.swap(false, Ordering::Relaxed);
        if fails { Err(io::Error::other("torn")) } else { self.inner.write_at(offset, bytes) }
    }
    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        let fails = self.fail_sync.swap(false, Ordering::Relaxed);
        if fails { Err(io::Error::other("lost")) } else { Ok(()) }
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.inner.punch(offset, len_bytes)
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }
    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.grow(len_bytes)
    }
    fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes()
    }
}

fn slow() -> (Arc<SlowDevice>, Journal) {
    let device = Arc::new(SlowDevice::default());
    Journal::format(&*device, 1 << 20).unwrap();
    device.syncs.store(0, Ordering::Relaxed);
    let journal = Journal::open(device.clone(), SALT, 1, Position::START).unwrap().0;
    (device, journal)
}

#[test]
fn waiting_callers_share_a_sync() {
    const THREADS: u64 = 8;
    const EACH: u64 = 25;
    let (device, journal) = slow();
    let start = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..EACH {
                    let seq = journal.append(b"record").unwrap();
                    journal.write_out(seq).unwrap();
                    assert!(journal.written_seq() >= seq);
                    journal.sync(seq).unwrap();
                    assert!(journal.synced_seq() >= seq);
                }
            });
        }
    });
    assert_eq!(journal.synced_seq(), Seq(THREADS * EACH));
    let syncs = device.syncs.load(Ordering::Relaxed);
    assert!(syncs <= THREADS * EACH / 2, "{syncs} syncs for {} commits", THREADS * EACH);
    let before = device.syncs.load(Ordering::Relaxed);
    journal.sync(Seq(1)).unwrap();
    assert_eq!(device.syncs.load(Ordering::Relaxed), before, "what is durable costs nothing");
}

#[test]
fn a_failed_sync_is_never_made_good() {
    let (device, journal) = slow();
    let first = journal.append(b"durable").unwrap();
    journal.sync(first).unwrap();
    let second = journal.append(b"lost").unwrap();
    device.fail_sync.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let error = journal.sync(second).unwrap_err();
                assert!(error.to_string().contains("failed to sync: lost"), "{error}");
            });
        }
    });
    assert_eq!(device.syncs.load(Ordering::Relaxed), 2, "not tried again");
    assert!(matches!(journal.append(b"more"), Err(Error::Failed { op: "sync", .. })));
    assert!(matches!(journal.sync(second), Err(Error::Failed { .. })));
    journal.sync(first).unwrap();
    assert_eq!(journal.synced_seq(), first);
}

#[test]
fn a_failed_write_ends_the_journal() {
    let (device, journal) = slow();
    let first = journal.append(b"lost").unwrap();
    device.fail_write.store(true, Ordering::Relaxed);
    let error = journal.write_out(first).unwrap_err();
    assert!(error.to_string().contains("failed to write: torn"), "{error}");
    assert!(matches!(journal.write_out(first), Err(Error::Failed { op: "write", .. })));
    assert!(matches!(journal.sync(first), Err(Error::Failed { .. })));
    assert!(matches!(journal.append(b"more"), Err(Error::Failed { .. })));
    assert_eq!(journal.written_seq(), Seq(0));
}

#[test]
fn many_threads_append_and_write_at_once() {
    let (device, journal) = fresh(1 << 20);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let journal = &journal;
            scope.spawn(move || {
                for i in 0..500u32 {
                    let seq = journal.append_parts(&[&[thread], &i.to_le_bytes()]).unwrap();
                    journal.write_out(seq).unwrap();
                }
            });
        }
    });
    let records = open(&device, 2, Position::START).1;
    assert_eq!(records.len(), 2000);
    for thread in 0..4u8 {
        let own = records.iter().filter(|(_, bytes)| bytes[0] == thread);
        assert!(own.map(|(_, bytes)| bytes[1..].to_vec()).eq((0..500u32).map(|i| i.to_le_bytes())));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_in_the_device_do_no_harm(
        pieces in prop::collection::vec((0..1024u64, prop::collection::vec(any::<u8>(), 0..80)), 0..20),
        offset in 0..1024u64, seq: u64, chain: u32, frames: bool,
    ) {
        let device = formatted(MIN_LENGTH);
        for (at, bytes) in &pieces {
            let mut bytes = bytes.clone();
            if frames && bytes.len() > 8 {
                bytes[..8].copy_from_slice(b"AmJr\x20\0\0\0");
            }
            let at = (at * 8).min(MIN_LENGTH - bytes.len() as u64);
            device.write_at(at, &bytes).unwrap();
        }
        let tail = Position { offset: offset * 8, seq: Seq(seq), chain };
        match Journal::open(device, SALT, 1, tail) {
            Ok((_, records)) => prop_assert!(records.is_empty()),
            Err(error) => prop_assert!(matches!(error, Error::Tail { .. }), "{}", error),
        }
    }
}
