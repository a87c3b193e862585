//! Random runs of a journal, cut short anywhere: what is found is a prefix of what was appended,
//! with all that was promised; and again after the next run has gone on from there.

use proptest::prelude::*;

use super::*;
use crate::device::{BlockDevice, Image, Recorder, Storage};

const SALT: [u8; 16] = [3; 16];

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    WriteOut,
    Sync,
    /// The superblock takes the position as the tail, and the journal's space is released.
    Checkpoint,
}

/// One opening of the journal, ended by a crash.
#[derive(Debug, Clone)]
struct Run {
    steps: Vec<Step>,
    /// Where in the log of the run it is cut, as a part of 1000.
    cut: usize,
    seed: u64,
    /// The process dies, but the machine goes on.
    killed: bool,
    /// Equal payloads in all such runs make the records of a lost history hardest to tell.
    payload: u8,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Append(88)),
        3 => (0..1500usize).prop_map(Step::Append),
        3 => Just(Step::WriteOut),
        1 => Just(Step::Sync),
        1 => Just(Step::Checkpoint),
    ]
}

fn run() -> impl Strategy<Value = Run> {
    let steps = prop::collection::vec(step(), 1..80);
    let cut = prop_oneof![Just(1000usize), 0..=1000usize];
    (steps, cut, any::<u64>(), prop::bool::weighted(0.3), 0..2u8)
        .prop_map(|(steps, cut, seed, killed, payload)| Run { steps, cut, seed, killed, payload })
}

/// What was promised when the log of the devices had a certain length.
#[derive(Debug, Clone, Copy)]
struct Promise {
    log_len: usize,
    written: Seq,
    synced: Seq,
}

/// The tail in a single sector, as the superblock's slots make it: old or new, never torn.
fn write_tail(device: &dyn BlockDevice, tail: Position) {
    let mut sector = [0; 512];
    sector[..8].copy_from_slice(&tail.offset.to_le_bytes());
    sector[8..16].copy_from_slice(&tail.seq.0.to_le_bytes());
    sector[16..20].copy_from_slice(&tail.chain.to_le_bytes());
    device.write_at(0, &sector).unwrap();
    device.sync().unwrap();
}

fn read_tail(device: &dyn BlockDevice) -> Position {
    let mut sector = [0; 512];
    device.read_at(0, &mut sector).unwrap();
    let long = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().unwrap());
    let chain = u32::from_le_bytes(sector[16..20].try_into().unwrap());
    Position { offset: long(0), seq: Seq(long(8)), chain }
}

fn formatted() -> Image {
    let (recorder, storage) = Recorder::new(Image::default());
    let start = Journal::format(&*storage.journal, MIN_LENGTH).unwrap();
    write_tail(&*storage.superblock, start);
    let mut states = recorder.states();
    states.step_to(recorder.len());
    states.crash_losing_all()
}

/// All records of the history that counts; index 0 is record 1.
type History = Vec<Vec<u8>>;

/// Opens what a crash has left, and checks it against the history and what was promised.
fn verify(storage: &Storage, nonce: u64, history: &History, least: Seq) -> (Journal, u64) {
    let tail = read_tail(&*storage.superblock);
    let (journal, records) =
        Journal::open(storage.journal.clone(), SALT, nonce, tail).expect("opens");
    for (seq, payload) in &records {
        let appended = history.get(seq.0 as usize - 1);
        assert_eq!(appended, Some(payload), "record {seq} of {} appended", history.len());
    }
    let last = journal.last_seq();
    assert_eq!(last.0, tail.seq.0 - 1 + records.len() as u64, "numbers rise by one");
    assert!(last >= least, "record {least} was promised, {last} is the last");
    (journal, last.0)
}

fn do_step(step: &Step, journal: &Journal, storage: &Storage, payload: u8, history: &mut History) {
    let checkpoint = || {
        journal.write_out(journal.last_seq()).unwrap();
        let tail = journal.position();
        write_tail(&*storage.superblock, tail);
        journal.release(tail);
    };
    match step {
        Step::Append(len) => {
            let seq = history.len() as u64 + 1;
            let record: Vec<u8> = (0..*len).map(|i| payload ^ (seq as usize + i) as u8).collect();
            match journal.append(&record) {
                Err(Error::Full { .. }) => checkpoint(),
                appended => {
                    assert_eq!(appended.unwrap(), Seq(seq));
                    history.push(record);
                }
            }
        }
        Step::WriteOut => journal.write_out(journal.last_seq()).unwrap(),
        Step::Sync => journal.sync(journal.last_seq()).unwrap(),
        Step::Checkpoint => checkpoint(),
    }
}

/// Does a run on `base`, checks the states at every point of it, and returns the one it ends in.
fn do_run(
    run: &Run,
    base: Image,
    nonce: &mut u64,
    history: &mut History,
    least: Seq,
) -> (Image, Seq) {
    let (recorder, storage) = Recorder::new(base);
    *nonce += 1;
    let (journal, last) = verify(&storage, *nonce, history, least);
    // What was lost is no part of the history any more.
    history.truncate(last as usize);
    let found = Promise { log_len: 0, written: Seq(last), synced: Seq(0) };
    let mut promises = vec![found];
    for step in &run.steps {
        do_step(step, &journal, &storage, run.payload, history);
        let (written, synced) = (journal.written_seq(), journal.synced_seq());
        promises.push(Promise { log_len: recorder.len(), written, synced });
    }
    // Those found at first came through a crash: what a power cut has left is on the medium, but
    // after a kill it may have been in the page cache, where the recorder's base does not tell. So
    // the base counts as durable.
    let promised = |at: usize| {
        let promise = promises.iter().rev().find(|promise| promise.log_len <= at).unwrap();
        (promise.written, promise.synced.max(Seq(last)))
    };

    let cut = recorder.len() * run.cut / 1000;
    let mut states = recorder.states();
    for at in 0..=recorder.len() {
        states.step_to(at);
        let (written, synced) = promised(at);
        let other_nonce = u64::MAX - at as u64;
        verify(&states.image().storage(), other_nonce, history, written);
        if let Some(image) = states.killed_in_next(run.seed) {
            verify(&image.storage(), other_nonce, history, written);
        }
        for seed in 0..3 {
            verify(&states.crash(run.seed ^ seed).storage(), other_nonce, history, synced);
        }
        verify(&states.crash_losing_all().storage(), other_nonce, history, synced);
        if at == cut {
            let (image, least) = if run.killed {
                (states.image(), written)
            } else {
                (states.crash(run.seed), synced)
            };
            return (image, least);
        }
    }
    unreachable!("the cut lies within the log")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn a_crash_leaves_a_prefix_with_all_that_was_promised(
        runs in prop::collection::vec(run(), 1..6),
    ) {
        let (mut image, mut least) = (formatted(), Seq(0));
        let (mut nonce, mut history) = (0, History::new());
        for run in &runs {
            (image, least) = do_run(run, image, &mut nonce, &mut history, least);
        }
        verify(&image.storage(), u64::MAX, &history, least);
    }
}
