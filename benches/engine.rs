//! Engine microbenchmarks: `cargo bench --bench engine [-- KEYS]`, by default ten million keys.
//!
//! One pool on files in a temporary directory (under `TMPDIR`), no mount: point look-ups in a warm tree,
//! inserts with their journal records, snapshot creation at several tree sizes, and resident memory.

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use amberfs::device::PoolDir;
use amberfs::format::{Edit, Key, KeyKind, Timestamp};
use amberfs::pool::{Clock, CreateOptions, Intent, OpenOptions, Pool, Volume};

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp { sec: now.as_secs() as i64, nsec: now.subsec_nanos() }
    }
}

const VALUE: [u8; 40] = [7; 40];
const CACHE_BYTES: u64 = 2 << 30;

/// Spreads 0, 1, 2... over all 64-bit numbers without meeting one twice.
fn spread(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn key(n: u64) -> Key {
    Key::new(n | 1 << 63, KeyKind::Xattr, 0)
}

fn put(n: u64) -> Edit {
    Edit::Put { key: key(n), value: VALUE.to_vec() }
}

fn fill(volume: &Volume, from: u64, to: u64) {
    // Rising order, as files are made: the tree ends up as full as it can be.
    let mut at = from;
    while at < to {
        let edits = (at..to.min(at + 500)).map(put).collect();
        volume.update(Intent::Grow).and_then(|update| update.commit(edits)).expect("fill");
        at += 500;
    }
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

/// Resident memory that is the process's own, in MiB.
fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

fn snapshot_times(pool: &Arc<Pool>, volume: &Volume, tag: &str) -> Duration {
    let mut times = Vec::new();
    for round in 0..201u64 {
        // Something has changed since the last one, as in use.
        let update = volume.update(Intent::Grow).expect("update");
        update.commit(vec![put(spread(round) >> 1)]).expect("commit");
        let begun = Instant::now();
        pool.create_snapshot(volume.id(), &format!("{tag}-{round}")).expect("snapshot");
        times.push(begun.elapsed());
    }
    median(times)
}

fn main() {
    let keys = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10_000_000u64);
    let dir = tempfile::tempdir().expect("temporary directory");
    let pool_dir = PoolDir::create(&dir.path().join("pool")).expect("pool directory");
    let create = CreateOptions {
        size_bytes: Some(64 << 30),
        journal_bytes: CreateOptions::JOURNAL_BYTES,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let mut open = OpenOptions::new(Arc::new(SystemClock));
    open.cache_bytes = CACHE_BYTES;
    let pool = Pool::create(pool_dir.storage(), &create, open).expect("pool");
    let volume = pool.create_volume("main", &[]).expect("volume");

    fill(&volume, 0, 1000);
    let small = snapshot_times(&pool, &volume, "small");
    fill(&volume, 1000, keys);
    pool.checkpoint().expect("checkpoint");
    let large = snapshot_times(&pool, &volume, "large");
    println!("snapshot creation, 1,000 keys        {small:>12.1?}  median of 201");
    println!("snapshot creation, {keys} keys    {large:>12.1?}  median of 201");
    pool.checkpoint().expect("checkpoint");

    let source = volume.source();
    let warm = source.read().expect("read");
    let mut seen = 0u64;
    let everything = (Key::MIN, Key::MAX);
    warm.reader()
        .range(everything.0, everything.1, &mut |_, _| {
            seen += 1;
            std::ops::ControlFlow::Continue(())
        })
        .expect("range");
    assert!(seen >= keys);
    drop(warm);
    let lookups = 2_000_000;
    for _ in 0..3 {
        let begun = Instant::now();
        for n in 0..lookups {
            let guard = source.read().expect("read");
            let found = guard.reader().get(key(spread(n) % keys), |value| value[0]);
            assert_eq!(black_box(found.expect("get")), Some(7));
        }
        let rate = per_second(lookups, begun.elapsed());
        println!("point look-ups, warm, random         {rate:>12.0} /s");
    }

    let inserts = 1_000_000;
    for (name, scattered) in [("rising", false), ("random", true)] {
        let begun = Instant::now();
        for n in 0..inserts {
            let number = if scattered { spread(n) >> 1 } else { keys + n };
            let update = volume.update(Intent::Grow).expect("update");
            update.commit(vec![put(number)]).expect("commit");
        }
        let rate = per_second(inserts, begun.elapsed());
        println!("inserts with journal, {name}         {rate:>12.0} /s");
    }
    let limit = CACHE_BYTES >> 20;
    println!(
        "resident memory                      {:>12.0} MiB, cache limit {limit} MiB",
        resident_mib()
    );
    pool.close().expect("close");
}
