//! Ten thousand snapshots of one volume, without a mount: each costs the same, and deleting them in any order
//! leaves a clean pool that holds what its live tree needs and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use amberfs::check::{self, check};
use amberfs::device::Storage;
use amberfs::format::Timestamp;
use amberfs::fs::{Caller, Filesystem, FsOptions, NodeId, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

const SNAPSHOTS: usize = 10_000;
const FILES: usize = 200;

/// A clock that ticks a microsecond with every look at it.
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        let micros = self.0.fetch_add(1, Ordering::Relaxed);
        Timestamp { sec: micros / 1_000_000, nsec: (micros % 1_000_000) as u32 * 1000 }
    }
}

fn options(nonce: u64) -> OpenOptions {
    let clock = Arc::new(Ticks(AtomicI64::new(1_700_000_000_000_000)));
    OpenOptions { background: false, nonce, ..OpenOptions::new(clock) }
}

fn assert_clean(storage: &Storage) {
    let all = check::Options { data: true, ..check::Options::default() };
    let report = check(storage, &all, &mut |_| {}).expect("check");
    assert!(report.is_clean(), "{:?}", report.problems);
}

/// Takes up what reclaim has left, and makes it durable.
fn settle(pool: &Pool) {
    pool.checkpoint().expect("checkpoint");
    while pool.run_reclaim().expect("reclaim") {}
    pool.checkpoint().expect("checkpoint");
}

/// Bytes in use beyond what the head refers to: the pool's own trees.
fn overhead(pool: &Pool) -> u64 {
    pool.status().used_bytes - pool.volumes()[0].referenced_bytes
}

fn content(round: usize) -> Vec<u8> {
    (0..5000).map(|at| (at * 7 + round) as u8).collect()
}

struct Files {
    fs: Filesystem,
    nodes: Vec<NodeId>,
}

impl Files {
    fn write(&self, file: usize, round: usize) {
        let (node, handle) = (self.nodes[file], self.fs.open(self.nodes[file], 2).expect("open"));
        let data = content(round);
        let written = self.fs.write(node, handle, 0, &data, WriteFlags::default()).expect("write");
        assert_eq!(written, data.len());
        self.fs.release(node, handle);
    }
}

fn make_files(pool: &Arc<Pool>) -> Files {
    let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
    let volume = pool.create_volume("main", &root).expect("volume");
    let fs = Filesystem::new(volume, FsOptions::default()).expect("filesystem");
    let caller = Caller::root();
    let mut nodes = Vec::new();
    for file in 0..FILES {
        let name = format!("file-{file}");
        let made = fs.create(&caller, NodeId::ROOT, name.as_bytes(), 0o644, 2).expect("create");
        fs.release(made.0.node, made.1);
        nodes.push(made.0.node);
    }
    let files = Files { fs, nodes };
    (0..FILES).for_each(|file| files.write(file, file));
    files
}

/// A permutation of 0..n that is the same in every run.
fn shuffled(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for at in (1..n).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(at, (state % (at as u64 + 1)) as usize);
    }
    order
}

#[test]
fn ten_thousand_snapshots_come_at_one_cost_and_go_in_any_order() {
    let storage = Storage::memory();
    let create = CreateOptions {
        size_bytes: Some(8 << 30),
        journal_bytes: 16 << 20,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let pool = Pool::create(storage.clone(), &create, options(1)).expect("create");
    let files = make_files(&pool);
    let volume = Arc::clone(files.fs.volume());

    let mut dirtied = Vec::new();
    for round in 0..SNAPSHOTS {
        files.write(round % FILES, round);
        pool.checkpoint().expect("checkpoint");
        let before = pool.status().dirty_bytes;
        pool.create_snapshot(volume.id(), &format!("s{round}")).expect("snapshot");
        dirtied.push(pool.status().dirty_bytes - before);
    }
    // Work, not time: what a snapshot makes dirty is its path in the catalog, which grows by a level at
    // most between the first and the last.
    let (first, last) = (dirtied[10], dirtied[SNAPSHOTS - 1]);
    assert!(
        first > 0 && last <= first + 4 * 16384,
        "the first snapshot dirties {first} bytes, the last {last}"
    );
    let begun = pool.status().used_bytes;
    pool.close().expect("close");
    drop(files);
    assert_clean(&storage);

    let pool = Pool::open(storage.clone(), options(2)).expect("open");
    let volume = pool.volume("main").expect("volume");
    for (step, round) in shuffled(SNAPSHOTS).into_iter().enumerate() {
        pool.delete_snapshot(volume.id(), &format!("s{round}")).expect("delete");
        if step % 64 == 0 {
            pool.run_reclaim().expect("reclaim");
        }
        if step == SNAPSHOTS / 2 {
            settle(&pool);
            assert!(pool.status().used_bytes < begun);
        }
    }
    settle(&pool);
    assert!(overhead(&pool) <= 8 * 16384, "{} bytes belong to nothing", overhead(&pool));
    let fs = Filesystem::new(volume, FsOptions::default()).expect("filesystem");
    for file in 0..FILES {
        let name = format!("file-{file}");
        let entry = fs.lookup(&Caller::root(), NodeId::ROOT, name.as_bytes()).expect("lookup");
        let handle = fs.open(entry.node, 0).expect("open");
        let mut found = vec![0; 6000];
        let len = fs.read(entry.node, handle, 0, &mut found).expect("read");
        let last_round = SNAPSHOTS - FILES + file;
        assert_eq!(found[..len], content(last_round), "{name}");
    }
    fs.forget_all();
    pool.close().expect("close");
    assert_clean(&storage);
}
