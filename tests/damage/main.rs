//! Damage: every byte of a small pool is flipped, one at a time; ranges of a larger one are zeroed, exchanged,
//! and replaced by what stood there before. Whatever is read is right or an error, the log names the file,
//! what is not damaged stays readable, nothing panics, and `check --data` finds it.
//!
//! What the log has to name: of damage in a volume the volume, the snapshot if it is one, and a path of the file
//! or directory that the operation was on, whether its data, its extents, its attributes, its names or its inode
//! are hurt. Where what leads to it is hurt, too, the number of its inode. Damage in the trees of the pool itself
//! belongs to no file: an error that keeps the pool from being opened, and a scrub, say which tree it is in.
//!
//! `AMBERFS_FLIP_EVERY` says which bytes: 1 for all of them (`make soak`); without it every byte of the
//! superblock's slots, of the headers of nodes and of the journal's tail, and every 997th of the rest.
//! `AMBERFS_FLIP_FROM` says with which byte they begin, so that all of them can be flipped in parts.
//! `AMBERFS_DAMAGE_RUNS` multiplies the number of damaged ranges.

#[path = "../support/anatomy.rs"]
mod anatomy;
mod examine;
mod log;
#[path = "../support/patient.rs"]
mod patient;
mod planted;
#[path = "../support/random.rs"]
mod random;
mod scrub;
mod stale;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use amberfs::device::{Contents, DeviceName, Image};
use amberfs::format::{FRAME_HEADER, NODE_HEADER, SLOT_OFFSETS, SLOT_SIZE};

use anatomy::{Anatomy, changed_blocks};
use examine::{Hurt, Seen, check_finds, examine, work_on};
use patient::{Model, go_on, large, model_of, small};
use random::Random;

const BLOCK: u64 = 4096;
/// Distance of the bytes that are flipped where not all are.
const STRIDE: u64 = 997;
/// One in so many damaged pools is worked on, too, and not only read.
const WORKED_ON: usize = 16;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Which bytes of a device are flipped: those in `dense` ranges, and some of the others.
fn chosen(len_bytes: u64, dense: &dyn Fn(u64) -> bool) -> Vec<u64> {
    match number("AMBERFS_FLIP_EVERY") {
        Some(every) => {
            let from = number("AMBERFS_FLIP_FROM").unwrap_or(0);
            (from..len_bytes).step_by(every.max(1) as usize).collect()
        }
        None => (0..len_bytes).filter(|at| at % STRIDE == 0 || dense(*at)).collect(),
    }
}

fn contents(image: &mut Image, device: DeviceName) -> &mut Contents {
    match device {
        DeviceName::Superblock => &mut image.superblock,
        DeviceName::Journal => &mut image.journal,
        DeviceName::Data => &mut image.data,
    }
}

/// Flips bits of a byte: one, several or all of them.
fn flip(image: &mut Image, device: DeviceName, at: u64) {
    let mut byte = [0];
    let bytes = contents(image, device);
    bytes.read(at, &mut byte).expect("the byte is there");
    let mask = [1 << (at % 8), 0xff, 0x81][(at / 8 % 3) as usize];
    bytes.write(at, &[byte[0] ^ mask]).expect("memory takes it");
}

/// Tries all cases on all processors; a failure names its case.
fn each<T: Sync>(
    what: &str,
    cases: &[T],
    name: &(dyn Fn(&T) -> String + Sync),
    run: &(dyn Fn(usize, &T) -> Seen + Sync),
) {
    log::start();
    let (next, errors) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = Mutex::new(Vec::new());
    let begun = std::time::Instant::now();
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(at) else { return };
            let seen = catch_unwind(AssertUnwindSafe(|| run(at, case)));
            let seen = seen.unwrap_or_else(|_| Seen { wrong: vec!["a panic".into()], errors: 0 });
            errors.fetch_add(seen.errors, Ordering::Relaxed);
            let mut wrong = wrong.lock().expect("no panic while it is held");
            wrong.extend(seen.wrong.into_iter().map(|wrong| format!("{}: {wrong}", name(case))));
            if wrong.len() > 100 {
                return;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (errors, seconds) = (errors.into_inner(), begun.elapsed().as_secs_f32());
    println!("{what}: {} cases, {errors} errors met, {seconds:.1} s", cases.len());
    let wrong = wrong.into_inner().expect("no panic while it is held");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A small pool at rest.
fn at_rest() -> (Image, Model, Anatomy) {
    let patient = small();
    let model = model_of(&patient.pool);
    patient.pool.close().expect("it closes");
    let image = patient.image();
    let anatomy = Anatomy::of(&image);
    (image, model, anatomy)
}

fn flipped(image: &Image, device: DeviceName, at: u64) -> Image {
    let mut image = image.clone();
    flip(&mut image, device, at);
    image
}

fn look(nth: usize, image: &Image, model: &Model, hurt: &Hurt) -> Seen {
    let mut seen = Seen::default();
    let pool = examine(image, model, hurt, &mut seen);
    if let Some(pool) = pool {
        if nth.is_multiple_of(WORKED_ON) {
            work_on(&pool, model, hurt, &mut seen);
        }
        pool.abandon();
    }
    seen
}

#[test]
fn a_flipped_byte_of_the_superblock_costs_nothing() {
    let (image, model, _) = at_rest();
    let slot = |at: u64| SLOT_OFFSETS.iter().any(|s| (*s..*s + SLOT_SIZE as u64).contains(&at));
    let cases = chosen(image.superblock.len_bytes(), &slot);
    let name = |at: &u64| format!("superblock byte {at}");
    each("superblock", &cases, &name, &|nth, at| {
        let image = flipped(&image, DeviceName::Superblock, *at);
        let mut seen = look(nth, &image, &model, &Hurt::default());
        if nth.is_multiple_of(4) {
            check_finds(&image, &Hurt::default(), &mut seen);
        }
        seen
    });
}

#[test]
fn a_flipped_byte_of_the_data_file_is_an_error_where_it_lies() {
    let (image, model, anatomy) = at_rest();
    let header = |at: u64| {
        let node = anatomy.node_at(at / BLOCK);
        node.is_some_and(|node| at - node.addr * BLOCK < NODE_HEADER as u64)
    };
    let mut cases = chosen(image.data.len_bytes(), &header);
    // Free blocks are all alike.
    let used = |at: &u64| {
        let block = at / BLOCK;
        anatomy.blocks.contains_key(&block)
            || anatomy.node_at(block).is_some()
            || block.is_multiple_of(64)
    };
    cases.retain(used);
    let name = |at: &u64| {
        let node = anatomy.node_at(at / BLOCK).map(|node| (node.addr, node.places[0].tree));
        format!("data byte {at} ({node:?})")
    };
    each("data file", &cases, &name, &|nth, at| {
        let image = flipped(&image, DeviceName::Data, *at);
        let hurt = Hurt::by_blocks(&anatomy, [at / BLOCK]);
        let mut seen = look(nth, &image, &model, &hurt);
        check_finds(&image, &hurt, &mut seen);
        seen
    });
}

/// Damage to the journal's tail looks like its end: what is there is a prefix of what happened.
#[test]
fn a_flipped_byte_of_the_journal_leaves_a_prefix_of_what_happened() {
    let mut patient = small();
    let mut history = vec![model_of(&patient.pool)];
    for step in 0.. {
        if !go_on(&mut patient, step) {
            break;
        }
        history.push(model_of(&patient.pool));
    }
    patient.pool.abandon();
    let image = patient.image();
    let anatomy = Anatomy::of(&image);
    assert!(anatomy.frames.len() >= 10, "{:?}", anatomy.frames);
    // Headers whole, and some of the payloads.
    let dense = |at: u64| {
        let frame = anatomy
            .frames
            .iter()
            .find(|(start, len)| (*start..start + FRAME_HEADER as u64 + *len as u64).contains(&at));
        frame.is_some_and(|(start, _)| at - start < FRAME_HEADER as u64 || at.is_multiple_of(61))
    };
    let cases = chosen(image.journal.len_bytes(), &dense);
    let name = |at: &u64| format!("journal byte {at}");
    each("journal", &cases, &name, &|nth, at| {
        let image = flipped(&image, DeviceName::Journal, *at);
        is_a_prefix(&image, &history, nth)
    });
}

/// Whether a pool holds one of the states that there were, whole.
fn is_a_prefix(image: &Image, history: &[Model], nth: usize) -> Seen {
    let mut tried: Vec<Seen> = Vec::new();
    // The last states are the likely ones.
    for model in history.iter().rev() {
        let mut seen = Seen::default();
        let pool = examine(image, model, &Hurt::default(), &mut seen).expect("it opens");
        let other_states = model_states(&pool) != names(model);
        if seen.wrong.is_empty() && !other_states {
            if nth.is_multiple_of(WORKED_ON) {
                work_on(&pool, model, &Hurt::default(), &mut seen);
            }
            pool.abandon();
            check_finds(image, &Hurt::default(), &mut seen);
            return seen;
        }
        pool.abandon();
        tried.push(seen);
    }
    let first = tried.into_iter().min_by_key(|seen| seen.wrong.len()).expect("there is one");
    let what = format!("no state that there was: {:?}", first.wrong);
    Seen { wrong: vec![what], errors: 0 }
}

fn names(model: &Model) -> Vec<u64> {
    let mut names: Vec<u64> = model.iter().map(|state| state.member).collect();
    names.sort_unstable();
    names
}

fn model_states(pool: &std::sync::Arc<amberfs::pool::Pool>) -> Vec<u64> {
    let mut names = Vec::new();
    for info in pool.volumes() {
        names.extend(info.head.map(|head| head.0));
        names.extend(pool.snapshots(info.id).into_iter().map(|snapshot| snapshot.member.0));
    }
    names.sort_unstable();
    names
}

/// What happens to a range of blocks.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Zeroed,
    Exchanged(u64),
    Stale,
    Noise,
}

#[test]
fn ranges_of_a_large_pool_are_zeroed_exchanged_and_stale() {
    let (before, image, model) = large(3);
    let anatomy = Anatomy::of(&image);
    let blocks = image.data.len_bytes() / BLOCK;
    let runs = 150 * number("AMBERFS_DAMAGE_RUNS").unwrap_or(1);
    let mut random = Random::new(11);
    let used: Vec<u64> = anatomy.blocks.keys().copied().collect();
    let stale: Vec<u64> = {
        let changed = changed_blocks(&before, &image);
        let mut stale: Vec<u64> = changed.into_iter().collect();
        stale.sort_unstable();
        stale
    };
    let mut case = |_| {
        let harms = 1 + random.below(3);
        let harm = |random: &mut Random| {
            let near = if random.below(3) == 0 { random.pick(&stale) } else { random.pick(&used) };
            let most = 1 << random.below(9);
            let len = 1 + random.below(most) as u64;
            let from = near.saturating_sub(random.below(len as usize) as u64).min(blocks - len);
            let other = *random.pick(&used);
            let harm = match random.below(4) {
                0 => Harm::Zeroed,
                1 => Harm::Exchanged(other.min(blocks - len)),
                2 => Harm::Stale,
                _ => Harm::Noise,
            };
            (harm, from, len)
        };
        (0..harms).map(|_| harm(&mut random)).collect::<Vec<_>>()
    };
    let cases: Vec<_> = (0..runs).map(&mut case).collect();
    each("ranges", &cases, &|case| format!("{case:?}"), &|nth, case| {
        let mut hurt_image = image.clone();
        for (harm, from, len) in case {
            inflict(&mut hurt_image, &before, *harm, *from, *len);
        }
        let hurt = Hurt::by_blocks(&anatomy, changed_blocks(&image, &hurt_image));
        let mut seen = look(nth, &hurt_image, &model, &hurt);
        check_finds(&hurt_image, &hurt, &mut seen);
        seen
    });
}

fn inflict(image: &mut Image, before: &Image, harm: Harm, from: u64, len: u64) {
    let bytes = |image: &Image, at: u64| {
        let mut bytes = vec![0; (len * BLOCK) as usize];
        // What lies behind the end is zeros.
        let there = image.data.len_bytes().saturating_sub(at * BLOCK).min(len * BLOCK);
        let _ = image.data.read(at * BLOCK, &mut bytes[..there as usize]);
        bytes
    };
    let mut put = |at: u64, bytes: &[u8]| image.data.write(at * BLOCK, bytes).expect("in memory");
    match harm {
        Harm::Zeroed => put(from, &vec![0; (len * BLOCK) as usize]),
        Harm::Stale => put(from, &bytes(before, from)),
        Harm::Noise => put(from, &Random::new(from).bytes((len * BLOCK) as usize)),
        Harm::Exchanged(other) => {
            let image_now = image.clone();
            let (a, b) = (bytes(&image_now, from), bytes(&image_now, other));
            image.data.write(from * BLOCK, &b).expect("in memory");
            image.data.write(other * BLOCK, &a).expect("in memory");
        }
    }
}
