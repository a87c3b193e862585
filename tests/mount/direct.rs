//! O_DIRECT together with buffered access and mappings; the flags that make a write synchronous.

use std::fs::{self, File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::{ReadWriteFlags, pwritev2};

use crate::mapping::Mapping;
use crate::random::Random;
use crate::support::TestMount;
use crate::sys;
use crate::twin::alike;

const BYTES: usize = 1 << 20;
const PAGE: usize = 4096;

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .unwrap()
}

/// Memory whose first byte begins a page.
pub(crate) struct Aligned(Vec<u8>);

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        Aligned(vec![0; len + PAGE])
    }

    pub(crate) fn bytes(&mut self, len: usize) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(PAGE);
        &mut self.0[start..start + len]
    }
}

/// Reads and writes one file by all ways in turn, and compares each read with a model.
fn mix(m: &TestMount, seed: u64, aligned_only: bool) {
    let mut random = Random::new(seed);
    let path = m.path("f");
    let (cached, direct) = (open(&path, 0), open(&path, libc::O_DIRECT));
    cached.set_len(BYTES as u64).unwrap();
    let mut mapping = Mapping::new(&cached, BYTES);
    let mut model = vec![0; BYTES];
    let mut memory = Aligned::new(64 << 10);
    for step in 0..1500 {
        let unit = if aligned_only || random.below(2) == 0 { PAGE } else { 1 };
        let len = (1 + random.below((48 << 10) / unit)) * unit;
        let at = random.below((BYTES - len) / unit + 1) * unit;
        let buffer = memory.bytes(len);
        match random.below(7) {
            0 => {
                let bytes = random.bytes(len);
                cached.write_all_at(&bytes, at as u64).unwrap();
                model[at..at + len].copy_from_slice(&bytes);
            }
            1 | 2 => {
                buffer.copy_from_slice(&random.bytes(len));
                direct.write_all_at(buffer, at as u64).unwrap();
                model[at..at + len].copy_from_slice(buffer);
            }
            3 => {
                let bytes = random.bytes(len);
                mapping.store(at, &bytes);
                model[at..at + len].copy_from_slice(&bytes);
            }
            4 => {
                cached.read_exact_at(buffer, at as u64).unwrap();
                assert!(buffer == &model[at..at + len], "seed {seed}, step {step}: cached read");
            }
            5 => {
                direct.read_exact_at(buffer, at as u64).unwrap();
                assert!(buffer == &model[at..at + len], "seed {seed}, step {step}: direct read");
            }
            _ => {
                let seen = mapping.load(at, len);
                assert!(seen == model[at..at + len], "seed {seed}, step {step}: load");
            }
        }
    }
    drop((mapping, cached, direct));
    assert!(fs::read(&path).unwrap() == model, "seed {seed}");
}

#[test]
fn direct_cached_and_mapped_access_see_each_other() {
    mix(&TestMount::new(), 1, true);
}

#[test]
fn and_so_at_any_offset() {
    let mut m = TestMount::new();
    mix(&m, 2, false);
    let before = fs::read(m.path("f")).unwrap();
    m.remount();
    assert!(fs::read(m.path("f")).unwrap() == before);
}

#[test]
fn direct_writes_beyond_the_end_and_reads_across_it() {
    alike(|root, log| {
        let file = open(&root.join("f"), libc::O_DIRECT);
        let mut memory = Aligned::new(4 * PAGE);
        memory.bytes(PAGE).fill(7);
        log.note("behind the end", file.write_at(memory.bytes(PAGE), 8 * PAGE as u64).ok());
        log.note("size", file.metadata().unwrap().size());
        log.note("across", file.read_at(memory.bytes(4 * PAGE), 7 * PAGE as u64).ok());
        log.note("at the end", file.read_at(memory.bytes(PAGE), 9 * PAGE as u64).ok());
        log.note("behind it", file.read_at(memory.bytes(PAGE), 90 * PAGE as u64).ok());
        file.set_len(8 * PAGE as u64 + 100).unwrap();
        log.note("short", file.read_at(memory.bytes(PAGE), 8 * PAGE as u64).ok());
        let append =
            OpenOptions::new().append(true).custom_flags(libc::O_DIRECT).open(root.join("f"));
        file.set_len(PAGE as u64).unwrap();
        log.note("append", append.unwrap().write_at(memory.bytes(PAGE), 0).ok());
        log.note("content", blake3::hash(&fs::read(root.join("f")).unwrap()));
    });
}

#[test]
fn every_flag_of_a_write_is_taken_as_on_the_host() {
    alike(|root, log| {
        for flags in [0, libc::O_SYNC, libc::O_DSYNC, libc::O_DIRECT | libc::O_SYNC] {
            let file = open(&root.join("f"), flags);
            for each in [
                ReadWriteFlags::empty(),
                ReadWriteFlags::DSYNC,
                ReadWriteFlags::SYNC,
                ReadWriteFlags::APPEND,
                ReadWriteFlags::HIPRI,
                ReadWriteFlags::APPEND | ReadWriteFlags::DSYNC,
            ] {
                let mut memory = Aligned::new(PAGE);
                memory.bytes(PAGE).fill(3);
                let written = pwritev2(&file, &[IoSlice::new(memory.bytes(PAGE))], 0, each);
                log.note(format!("{flags:o} {each:?}"), (written, file.metadata().unwrap().size()));
            }
            for flags in [0, 1, 2, 4, 7, 8] {
                log.note(format!("sync_file_range {flags}"), sys::sync_file_range(&file, flags));
            }
        }
        log.note("content", blake3::hash(&fs::read(root.join("f")).unwrap()));
    });
}

/// The kernel writes them back and has them synced; that a sync is durable is shown by the crash tests.
#[test]
fn synchronous_writes_are_with_the_daemon_when_they_return() {
    let m = TestMount::new();
    let node = |path: &Path| amberfs::fs::NodeId(fs::metadata(path).unwrap().ino());
    let seen = |path: &Path| {
        let fs = m.fs();
        let handle = fs.open(node(path), libc::O_RDONLY).unwrap();
        let mut bytes = vec![0; PAGE];
        let len = fs.read(node(path), handle, 0, &mut bytes).unwrap();
        fs.release(node(path), handle);
        bytes.truncate(len);
        bytes
    };
    for (number, flags) in [libc::O_SYNC, libc::O_DSYNC].into_iter().enumerate() {
        let path = m.path(&format!("f{number}"));
        let file = open(&path, flags);
        for round in 0..5 {
            file.write_all_at(&[round; 300], 0).unwrap();
            assert_eq!(seen(&path), [round; 300]);
        }
    }
    let path = m.path("g");
    let file = open(&path, 0);
    file.write_all_at(&[1; 300], 0).unwrap();
    for round in 0..5 {
        let bytes = [round; 300];
        pwritev2(&file, &[IoSlice::new(&bytes)], 0, ReadWriteFlags::DSYNC).unwrap();
        assert_eq!(seen(&path), [round; 300]);
    }
    file.write_all_at(&[77; 300], 0).unwrap();
    sys::sync_file_range(&file, 7).unwrap();
    assert_eq!(seen(&path), [77; 300]);
}
