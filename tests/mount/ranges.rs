//! `fallocate` in all its modes, data and holes, compared with the host's filesystem.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use crate::random::Random;
use crate::support::TestMount;
use crate::twin::{Log, alike};

const MODES: [FallocateFlags; 6] = [
    FallocateFlags::empty(),
    FallocateFlags::KEEP_SIZE,
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::PUNCH_HOLE,
    FallocateFlags::ZERO_RANGE,
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
];

fn new_file(root: &Path, content: &[u8]) -> File {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(root.join("f"));
    let file = file.unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

fn describe(root: &Path) -> String {
    let bytes = fs::read(root.join("f")).unwrap();
    format!("{} bytes, {}", bytes.len(), blake3::hash(&bytes))
}

#[test]
fn every_mode_at_every_edge() {
    alike(|root, log| {
        let edges = [0, 1, 100, 4095, 4096, 4097, 8192, 10_000, 12_288, 20_000];
        for size in [0, 50, 4096, 10_000] {
            for mode in MODES {
                for from in edges {
                    for len in [0, 1, 4096, 5000, 8192] {
                        let file = new_file(root, &vec![5; size]);
                        let done = fallocate(&file, mode, from, len);
                        let what = format!("{size} bytes, {mode:?}, {from}+{len}");
                        log.note(what, (done, describe(root)));
                    }
                }
            }
        }
    });
}

#[test]
fn what_cannot_be_is_refused_alike() {
    alike(|root, log| {
        let file = new_file(root, b"x");
        let far = i64::MAX as u64;
        for mode in MODES {
            log.note(format!("{mode:?} beyond the largest offset"), fallocate(&file, mode, far, 1));
            log.note(format!("{mode:?} without end"), fallocate(&file, mode, 4096, far));
            let reading = File::open(root.join("f")).unwrap();
            log.note(format!("{mode:?} read only"), fallocate(&reading, mode, 0, 1));
            let dir = File::open(root).unwrap();
            log.note(format!("{mode:?} of a directory"), fallocate(&dir, mode, 0, 1));
            let append = OpenOptions::new().append(true).open(root.join("f")).unwrap();
            log.note(
                format!("{mode:?} of one that is appended to"),
                fallocate(&append, mode, 0, 10),
            );
        }
        log.note("then", describe(root));
    });
}

/// The kernel passes neither to FUSE: see docs/semantics.md.
#[test]
fn collapsing_and_inserting_are_refused_cleanly() {
    let m = TestMount::new();
    let file = new_file(m.root(), &[1; 20_000]);
    for mode in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
    ] {
        assert_eq!(
            fallocate(&file, mode, 4096, 4096),
            Err(rustix::io::Errno::OPNOTSUPP),
            "{mode:?}"
        );
    }
    assert_eq!(fs::read(m.path("f")).unwrap(), [1; 20_000]);
}

#[test]
fn space_that_is_set_aside_is_taken_and_comes_back() {
    let m = TestMount::new();
    let free = || rustix::fs::statvfs(m.root()).unwrap().f_bfree * 4096;
    let before = free();
    let file = new_file(m.root(), b"");
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 64 << 20).unwrap();
    let stat = file.metadata().unwrap();
    assert_eq!((stat.size(), stat.blocks()), (0, (64 << 20) / 512));
    assert!(free() <= before - (64 << 20), "{} of {before}", free());
    let more = fallocate(&file, FallocateFlags::empty(), 0, 1 << 40);
    assert_eq!(more, Err(rustix::io::Errno::NOSPC));
    assert_eq!(file.metadata().unwrap().size(), 0, "nothing of it was done");
    file.set_len(0).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 0);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while free() < before - (1 << 20) {
        assert!(std::time::Instant::now() < end, "{} of {before}", free());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Where data and holes begin, from offset 0 on.
fn map(file: &File) -> Vec<(char, u64)> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        match seek(file, SeekFrom::Data(at)) {
            Ok(data) => found.push(('d', data)),
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => panic!("{error}"),
        }
        at = seek(file, SeekFrom::Hole(found[found.len() - 1].1)).unwrap();
        found.push(('h', at));
    }
    found
}

#[test]
fn data_and_holes_in_whole_blocks_are_where_they_were_made() {
    alike(|root, log| {
        let mut random = Random::new(7);
        let file = new_file(root, b"");
        for step in 0..200 {
            let (at, len) = (random.below(64) as u64 * 4096, (1 + random.below(8)) as u64 * 4096);
            match random.below(4) {
                0 | 1 => file.write_all_at(&vec![step as u8 + 1; len as usize], at).unwrap(),
                2 => {
                    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(&file, punch, at, len).unwrap();
                }
                _ => file.set_len(at).unwrap(),
            }
            if random.below(3) == 0 {
                file.sync_all().unwrap();
            }
            log.note(format!("step {step}"), map(&file));
        }
        log.note("content", describe(root));
    });
}

fn offsets(root: &Path, log: &mut Log) {
    let file = new_file(root, &[1; 10_000]);
    file.set_len(30_000).unwrap();
    file.sync_all().unwrap();
    for at in [0, 1, 4096, 9_999, 10_000, 12_288, 20_000, 29_999, 30_000, 40_000] {
        log.note(format!("data from {at}"), seek(&file, SeekFrom::Data(at)));
        log.note(format!("hole from {at}"), seek(&file, SeekFrom::Hole(at)));
    }
    for at in [-1, -30_000, 0, 5] {
        log.note(format!("end {at}"), seek(&file, SeekFrom::End(at)));
        log.note(format!("current {at}"), seek(&file, SeekFrom::Current(at)));
    }
    log.note("before the start", seek(&file, SeekFrom::Current(-1 << 40)));
    let dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(root).unwrap();
    log.note("of a directory", seek(&dir, SeekFrom::Start(0)));
}

#[test]
fn seeking_from_every_place() {
    alike(offsets);
}
