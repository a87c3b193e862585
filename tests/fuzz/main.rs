//! The bodies of the fuzz targets, without a fuzzer: over the corpus in the tree, and over seeded inputs.
//!
//! `AMBERFS_FUZZ_SECONDS` says for how long each body runs (`make soak`); without it a fixed number of inputs
//! is tried. A failure prints its input in hex; a file with these bytes in `tests/fuzz/corpus/TARGET` makes it
//! part of every run. The same bodies under libFuzzer: `cargo +nightly fuzz run TARGET --fuzz-dir tests/fuzz`.

#[path = "../support/anatomy.rs"]
mod anatomy;
mod bodies;
#[path = "../support/patient.rs"]
mod patient;
#[path = "../support/random.rs"]
mod random;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bodies::limits::Counting;
use random::Random;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Longest time that one input may take, in a debug build on a busy machine.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Different failures that a run lists.
const MAX_LISTED: usize = 40;

thread_local! {
    static WHERE: RefCell<String> = const { RefCell::new(String::new()) };
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let Ok(files) = std::fs::read_dir(&dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// An input of the corpus with some bytes changed, or one of random bytes.
fn input(random: &mut Random, corpus: &[Vec<u8>], longest: usize) -> Vec<u8> {
    if corpus.is_empty() || random.below(3) == 0 {
        let len = 1 + random.below(longest);
        return random.bytes(len);
    }
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len().max(1));
        match random.below(4) {
            0 if bytes.len() > 1 => drop(bytes.remove(at)),
            1 => bytes.insert(at, random.next() as u8),
            _ if bytes.is_empty() => bytes.push(0),
            _ => bytes[at] = random.next() as u8,
        }
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a body over its corpus and over `few` other inputs of at most `longest` bytes, or others for as long as
/// `AMBERFS_FUZZ_SECONDS` says.
fn fuzz(target: &str, body: fn(&[u8]), few: u64, longest: usize) {
    assert!(!corpus(target).is_empty(), "the corpus is gone");
    let seconds = std::env::var("AMBERFS_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let failures = failures(target, body, (few, seconds.map(Duration::from_secs)), longest);
    // The hook keeps what a panic says to itself.
    println!("{}", failures.join("\n"));
    assert!(failures.is_empty());
}

/// Runs a body over its corpus and over other inputs, so many or for so long; returns what failed, and how.
fn failures(
    target: &str,
    body: fn(&[u8]),
    (few, time): (u64, Option<Duration>),
    longest: usize,
) -> Vec<String> {
    std::panic::set_hook(Box::new(|info| {
        let line = format!("{info}").replace('\n', " ");
        bodies::limits::panicked(&line);
        WHERE.with_borrow_mut(|place| *place = line);
        if std::env::var_os("AMBERFS_FUZZ_TRACE").is_some() {
            println!("{}", std::backtrace::Backtrace::force_capture());
        }
    }));
    let corpus = corpus(target);
    let seed = std::env::var("AMBERFS_FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let begun = Instant::now();
    let done = |at: u64| match time {
        Some(time) => begun.elapsed() >= time,
        None => at >= few,
    };
    let next = AtomicU64::new(0);
    let failures: Mutex<BTreeMap<String, (u64, Vec<u8>)>> = Mutex::default();
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let bytes = match corpus.get(at as usize) {
                Some(bytes) => bytes.clone(),
                None if done(at - corpus.len() as u64) => return,
                None => input(&mut Random::new(seed << 32 ^ at), &corpus, longest),
            };
            let started = Instant::now();
            let failed = catch_unwind(|| body(&bytes)).is_err();
            let why = match failed {
                true => WHERE.with_borrow(String::clone),
                false if started.elapsed() > MAX_TIME => "it took too long".into(),
                false => continue,
            };
            let mut failures = failures.lock().unwrap();
            let failure = failures.entry(why).or_insert((0, bytes.clone()));
            failure.0 += 1;
            if bytes.len() < failure.1.len() {
                failure.1 = bytes;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failures = failures.into_inner().unwrap();
    let tried = next.into_inner() - threads as u64;
    println!("{target}: {tried} executions, {:.1} s", begun.elapsed().as_secs_f32());
    let list = failures.iter().take(MAX_LISTED);
    list.map(|(why, (times, bytes))| format!("{times} x {why}\n    {}", hex(bytes))).collect()
}

#[test]
fn records() {
    fuzz("records", bodies::records::run, 60_000, 400);
}

#[test]
fn pools() {
    fuzz("pool", bodies::pool::run, 400, 60);
}

#[test]
fn operations() {
    fuzz("operations", bodies::operations::run, 4000, 600);
}

#[test]
fn requests() {
    fuzz("requests", bodies::requests::run, 700, 600);
}

/// Trees in which each pointer of a node leads to the same node below: 255^12 ways to one leaf.
#[test]
fn a_tree_with_many_ways_to_one_leaf_costs_no_more_than_its_nodes() {
    let begun = Instant::now();
    bodies::pool::many_ways();
    assert!(begun.elapsed() < MAX_TIME, "{:?}", begun.elapsed());
}

// Each kind of body must be able to fail.

fn found_in(target: &str, body: fn(&[u8]), few: u64, longest: usize) -> Vec<String> {
    failures(target, body, (few, None), longest)
}

#[test]
fn planted_a_decoder_without_a_bound_is_found() {
    let found = found_in("planted", bodies::records::planted_without_bound, 2000, 40);
    assert!(found.iter().any(|why| why.contains("were held at once")), "{found:?}");
}

#[test]
fn planted_a_decoder_that_leaves_bytes_out_is_found() {
    let found = found_in("planted", bodies::records::planted_reserved, 2000, 40);
    assert!(found.iter().any(|why| why.contains("does not encode")), "{found:?}");
}

#[test]
fn planted_a_walk_without_an_end_is_found() {
    let found = found_in("planted", bodies::pool::planted_endless, 1, 4);
    assert!(found.iter().any(|why| why.contains("the device was called")), "{found:?}");
}

#[test]
fn planted_a_lost_write_is_found() {
    let found = found_in("operations", bodies::operations::planted_lost_write, 400, 600);
    assert!(!found.is_empty());
}

fn is_found_in_requests(body: fn(&[u8]), few: u64, what: &str) {
    let found = found_in("planted", body, few, 600);
    assert!(found.iter().any(|why| why.contains(what)), "{found:?}");
}

#[test]
fn planted_replies_that_the_kernel_does_not_take_are_found() {
    use bodies::requests::{planted_longer_reply, planted_other_number, planted_second_reply};
    is_found_in_requests(planted_other_number, 20, "nobody waits for a reply");
    is_found_in_requests(planted_second_reply, 20, "nobody waits for a reply");
    is_found_in_requests(planted_longer_reply, 20, ": the payload");
}

#[test]
fn planted_a_reply_that_does_not_come_is_found() {
    is_found_in_requests(bodies::requests::planted_lost_reply, 6, "no reply comes");
}

#[test]
fn planted_threads_of_a_session_that_go_wrong_are_found() {
    use bodies::requests::{planted_panic, planted_without_bound};
    is_found_in_requests(planted_without_bound, 20, "held at once by a thread that serves");
    is_found_in_requests(planted_panic, 20, "a thread that serves panicked");
}
