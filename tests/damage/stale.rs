//! Older content of the same place in the superblock and in the journal.
//!
//! A slot carries a number, and the newer one counts. Where both are older, nothing in the pool says so: it is
//! refused, or it is a state that there was, as far as its blocks have not been used again; those are errors,
//! and `check` finds them. A frame of the journal carries its number and the checksum of the one before, so that
//! one of an earlier lap ends the replay.

use std::collections::BTreeSet;

use amberfs::check::{Options, check};
use amberfs::device::{Contents, Image};
use amberfs::format::{FRAME_HEADER, FrameHeader, SLOT_OFFSETS, SLOT_SIZE, Timestamp};
use amberfs::fs::{NodeId, SetAttr, SetTime};

use crate::anatomy::{Anatomy, superblock_of};
use crate::examine::{Hurt, Seen, check_finds, examine};
use crate::patient::{Model, Patient, go_on, model_of, small, write};
use crate::{each, is_a_prefix, log, look, model_states, names};

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// A pool that was worked on, its superblock after each checkpoint, and what it held.
struct Past {
    superblocks: Vec<Contents>,
    history: Vec<Model>,
    image: Image,
}

fn past() -> Past {
    let mut patient = small();
    let mut history = vec![model_of(&patient.pool)];
    let mut superblocks = vec![patient.image().superblock];
    for step in 0.. {
        if !go_on(&mut patient, step) {
            break;
        }
        history.push(model_of(&patient.pool));
        patient.pool.checkpoint().expect("a checkpoint");
        superblocks.push(patient.image().superblock);
    }
    patient.pool.close().expect("it closes");
    Past { superblocks, history, image: patient.image() }
}

fn copy(from: &Contents, to: &mut Contents, at: u64, len: u64) {
    let mut bytes = vec![0; len as usize];
    from.read(at, &mut bytes).expect("it is there");
    to.write(at, &bytes).expect("memory takes it");
}

#[test]
fn an_older_slot_costs_nothing() {
    let Past { superblocks, history, image } = past();
    let model = history.last().expect("there is one");
    let now = superblock_of(&image).generation;
    let older = superblocks.iter().filter(|old| {
        superblock_of(&Image { superblock: (*old).clone(), ..image.clone() }).generation < now
    });
    let cases: Vec<_> = older.flat_map(|old| SLOT_OFFSETS.map(|offset| (old, offset))).collect();
    assert!(cases.len() > 10, "{}", cases.len());
    let name = |(_, offset): &(&Contents, u64)| format!("the slot at {offset}");
    each("an older slot", &cases, &name, &|nth, (old, offset)| {
        let mut image = image.clone();
        copy(old, &mut image.superblock, *offset, SLOT_SIZE as u64);
        let mut seen = look(nth, &image, model, &Hurt::default());
        check_finds(&image, &Hurt::default(), &mut seen);
        seen
    });
}

#[test]
fn two_older_slots_are_refused_or_lead_to_a_state_that_there_was() {
    let Past { superblocks, history, image } = past();
    let cases: Vec<usize> = (0..superblocks.len()).collect();
    each("two older slots", &cases, &|at| format!("both slots of checkpoint {at}"), &|_, at| {
        let image = Image { superblock: superblocks[*at].clone(), ..image.clone() };
        is_a_state(&image, &history)
    });
    // A state that is none of those is found.
    let newest = Image { superblock: superblocks[superblocks.len() - 1].clone(), ..image };
    let seen = is_a_state(&newest, &history[..1]);
    assert!(seen.wrong.iter().any(|wrong| wrong.contains("no state")), "{:?}", seen.wrong);
}

/// Whether a pool is refused, or all that can be read of it is of one moment; and whether `check` says so where
/// something can't be.
fn is_a_state(image: &Image, history: &[Model]) -> Seen {
    let hurt = Hurt::anywhere();
    let options = Options { data: true, ..Options::default() };
    let is_clean = check(&image.storage(), &options, &mut |_| {}).is_ok_and(|it| it.is_clean());
    let mut nearest: Option<Seen> = None;
    for model in history.iter().rev() {
        let mut seen = Seen::default();
        let pool = examine(image, model, &hurt, &mut seen);
        let others = pool.as_ref().is_some_and(|pool| model_states(pool) != names(model));
        if let Some(pool) = pool {
            pool.abandon();
        }
        if others {
            seen.wrong.push("other volumes and snapshots".into());
        }
        if seen.wrong.is_empty() {
            if seen.errors > 0 && is_clean {
                seen.wrong.push(format!("{} errors, and check finds nothing", seen.errors));
            }
            return seen;
        }
        if nearest.as_ref().is_none_or(|nearest| seen.wrong.len() < nearest.wrong.len()) {
            nearest = Some(seen);
        }
    }
    let wrong = nearest.map(|seen| seen.wrong);
    Seen { wrong: vec![format!("no state that there was: {wrong:?}")], errors: 0 }
}

/// A pool whose journal was gone round several times, in frames of one length, so that they stand in the same
/// places each time.
struct Laps {
    /// The journal at the last checkpoints, when what the tail has replaced was still there.
    older: Vec<Contents>,
    /// The state of the last checkpoint, and after each operation since.
    history: Vec<Model>,
    image: Image,
}

fn laps() -> Laps {
    const OPERATIONS: i64 = 399;
    const BETWEEN: i64 = 20;
    let patient = Patient::new(8 << 20, 8192);
    let fs = patient.volume("main");
    let node = write(&fs, NodeId::ROOT, "f", 0, b"x");
    let (mut older, mut history) = (Vec::new(), Vec::new());
    for n in 0..OPERATIONS {
        if n % BETWEEN == 0 {
            patient.pool.checkpoint().expect("a checkpoint");
            older.push(patient.image().journal);
            history = vec![model_of(&patient.pool)];
        }
        let mtime = Some(SetTime::At(Timestamp { sec: n, nsec: 0 }));
        let set = SetAttr { mtime, ..SetAttr::default() };
        fs.setattr(&amberfs::fs::Caller::root(), node, &set).expect("set");
        if n >= OPERATIONS - BETWEEN {
            history.push(model_of(&patient.pool));
        }
    }
    drop(fs);
    patient.pool.abandon();
    older.drain(..older.len() - 6);
    Laps { older, history, image: patient.image() }
}

/// A part of the journal as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    older: usize,
    at: u64,
    len: u64,
}

#[test]
fn what_the_journal_held_a_lap_before_is_not_replayed() {
    let Laps { older, history, image } = laps();
    let anatomy = Anatomy::of(&image);
    let frames = &anatomy.frames;
    assert_eq!(frames.len() + 1, history.len());
    let len = frames[0].1;
    assert!(frames.iter().all(|frame| frame.1 == len), "{frames:?}");
    // Most frames stand where a frame stood.
    let stood = frames.iter().filter(|(at, _)| {
        let mut bytes = [0; FRAME_HEADER];
        let last = &older[older.len() - 1];
        last.read(*at, &mut bytes).is_ok() && FrameHeader::decode(&bytes).is_ok()
    });
    assert!(stood.count() * 2 > frames.len());

    let total = image.journal.len_bytes();
    let header = FRAME_HEADER as u64;
    let mut places: BTreeSet<(u64, u64)> = BTreeSet::from([(0, total)]);
    for (at, len) in frames {
        let len = *len as u64;
        places.extend([(*at, header + len), (*at, header), (at + header, len), (*at, total - at)]);
    }
    for sector in 0..total / SECTOR {
        places.extend([(sector * SECTOR, SECTOR), (sector * SECTOR, total - sector * SECTOR)]);
    }
    let part = |older| places.iter().map(move |(at, len)| Part { older, at: *at, len: *len });
    let cases: Vec<Part> = (0..older.len()).flat_map(part).collect();
    each("a lap before", &cases, &|case| format!("{case:?}"), &|nth, case| {
        let mut image = image.clone();
        copy(&older[case.older], &mut image.journal, case.at, case.len);
        is_a_prefix(&image, &history, nth)
    });

    // An old record that is made to fit is carried out, and found.
    let (last, _) = frames[frames.len() - 1];
    let mut planted = image.clone();
    copy(&older[older.len() - 1], &mut planted.journal, last + header, len as u64);
    anatomy.reseal_journal(&mut planted);
    log::start();
    let seen = is_a_prefix(&planted, &history, 1);
    assert!(seen.wrong.iter().any(|wrong| wrong.contains("no state")), "{:?}", seen.wrong);
}
