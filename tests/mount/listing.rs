//! Positions in a listing, listings under change, and directories with a hundred thousand entries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, RawDir, SeekFrom, mknodat, seek, statat, unlinkat};

use crate::random::Random;
use crate::support::TestMount;

/// Name, and the position behind it.
type Listed = (String, u64);

/// Lists on from where the descriptor stands, some bytes of entries a call; `limit` entries at most.
fn list(dir: &File, bytes: usize, limit: usize) -> Vec<Listed> {
    let mut buffer = vec![MaybeUninit::uninit(); bytes];
    let mut found = Vec::new();
    let mut raw = RawDir::new(dir, &mut buffer);
    while found.len() < limit
        && let Some(entry) = raw.next()
    {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        found.push((name, entry.next_entry_cookie()));
    }
    found
}

fn make(root: &Path, name: &str) {
    let dir = File::open(root).unwrap();
    mknodat(&dir, name, FileType::RegularFile, Mode::RUSR, 0).unwrap();
}

#[test]
fn a_listing_goes_on_from_every_position() {
    let m = TestMount::new();
    for n in 0..700 {
        make(m.root(), &format!("{n}-{}", "x".repeat(n % 200)));
    }
    let dir = File::open(m.root()).unwrap();
    let all = list(&dir, 32_768, usize::MAX);
    assert_eq!(all.len(), 702);
    let positions: BTreeSet<u64> = all.iter().map(|(_, behind)| *behind).collect();
    assert_eq!(positions.len(), all.len(), "each position is there once");
    assert!(positions.iter().all(|behind| i64::try_from(*behind).is_ok()));
    let mut random = Random::new(3);
    // Another open, with a cache of its own, and small buffers.
    for dir in [dir, File::open(m.root()).unwrap()] {
        for bytes in [600, 4096, 32_768] {
            for _ in 0..60 {
                let at = random.below(all.len());
                seek(&dir, SeekFrom::Start(all[at].1)).unwrap();
                let rest = list(&dir, bytes, 20);
                assert!(all[at + 1..].starts_with(&rest), "from entry {at}, {bytes} bytes");
                assert!(!rest.is_empty() || at == all.len() - 1);
            }
        }
        // rewinddir: everything again, and what is new.
        seek(&dir, SeekFrom::Start(0)).unwrap();
        assert_eq!(list(&dir, 4096, usize::MAX), all);
    }
    make(m.root(), "new");
    let dir = File::open(m.root()).unwrap();
    list(&dir, 4096, 10);
    make(m.root(), "newer");
    seek(&dir, SeekFrom::Start(0)).unwrap();
    let names: BTreeSet<String> =
        list(&dir, 4096, usize::MAX).into_iter().map(|found| found.0).collect();
    assert!(names.contains("new") && names.contains("newer"));
}

#[test]
fn positions_stay_right_when_others_come_and_go_and_after_a_remount() {
    let mut m = TestMount::new();
    for n in 0..2000 {
        make(m.root(), &format!("stay-{n}"));
    }
    let stays = |found: &[Listed]| -> Vec<Listed> {
        found.iter().filter(|(name, _)| name.starts_with("stay-")).cloned().collect()
    };
    let before = stays(&list(&File::open(m.root()).unwrap(), 32_768, usize::MAX));
    for n in 0..3000 {
        make(m.root(), &format!("come-{n}"));
    }
    for _ in 0..2 {
        let dir = File::open(m.root()).unwrap();
        assert_eq!(stays(&list(&dir, 4096, usize::MAX)), before);
        for (at, (_, behind)) in before.iter().enumerate().step_by(191) {
            seek(&dir, SeekFrom::Start(*behind)).unwrap();
            assert_eq!(stays(&list(&dir, 4096, usize::MAX)), before[at + 1..]);
        }
        drop(dir);
        m.remount();
    }
}

#[test]
fn what_stays_is_listed_once_while_threads_change_the_rest() {
    const STAY: usize = 3000;
    let m = TestMount::new();
    for n in 0..STAY {
        make(m.root(), &format!("stay-{n}"));
    }
    let (stop, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (m, stop, changes) = (&m, &stop, &changes);
            scope.spawn(move || {
                let dir = File::open(m.root()).unwrap();
                let mut random = Random::new(thread + 10);
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("come-{thread}-{}", random.below(500));
                    match random.below(3) {
                        0 => drop(mknodat(&dir, &name, FileType::RegularFile, Mode::RUSR, 0)),
                        1 => drop(unlinkat(&dir, &name, AtFlags::empty())),
                        _ => {
                            let other = format!("come-{thread}-{}", random.below(500));
                            let _ = rustix::fs::renameat(&dir, &name, &dir, &other);
                        }
                    }
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let listed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..40 {
                let dir = File::open(m.root()).unwrap();
                let bytes = [600, 4096, 32_768][round % 3];
                let mut seen = BTreeMap::new();
                for (name, _) in list(&dir, bytes, usize::MAX) {
                    *seen.entry(name).or_insert(0) += 1;
                }
                let stays = seen.iter().filter(|(name, _)| name.starts_with("stay-"));
                assert_eq!(stays.clone().count(), STAY, "round {round}: something is missing");
                assert!(stays.clone().all(|(_, count)| *count == 1), "round {round}: twice");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        listed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(changes.load(Ordering::Relaxed) > 100, "nothing went on meanwhile");
}

#[test]
fn a_hundred_thousand_entries() {
    const ENTRIES: usize = 100_000;
    let mut m = TestMount::new();
    fs::create_dir(m.path("d")).unwrap();
    let dir = File::open(m.path("d")).unwrap();
    let name = |n: usize| format!("entry-number-{n}");
    for n in 0..ENTRIES {
        mknodat(&dir, name(n), FileType::RegularFile, Mode::RUSR, 0).unwrap();
    }
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    for n in (0..ENTRIES).step_by(2) {
        unlinkat(&dir, name(n), AtFlags::empty()).unwrap();
    }
    drop(dir);
    m.remount();
    for (path, expected) in [("d", ENTRIES / 2), (".snapshots/s/d", ENTRIES)] {
        let dir = File::open(m.path(path)).unwrap();
        let all: BTreeSet<String> =
            list(&dir, 1 << 20, usize::MAX).into_iter().map(|found| found.0).collect();
        assert_eq!(all.len(), expected + 2, "{path}");
        for n in (0..ENTRIES).step_by(997) {
            let there = n % 2 == 1 || expected == ENTRIES;
            assert_eq!(all.contains(&name(n)), there);
            assert_eq!(statat(&dir, name(n), AtFlags::empty()).is_ok(), there);
        }
    }
    fs::remove_dir_all(m.path("d")).unwrap();
    assert_eq!(fs::read_dir(m.path(".snapshots/s/d")).unwrap().count(), ENTRIES);
}
