//! Rounds of work: each ends with a power cut, and begins with the verification of those before.

use std::fs;
use std::path::Path;

use crate::cells::Random;
use crate::host::{KeptOpen, Place, SNAPSHOTS, directory, perform, snapshots};
use crate::model::{Op, State};
use crate::record::{ROUNDS, Record, Records, THREADS};
use crate::verify::verify;

/// A round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub place: Place<'a>,
    pub records: &'a Path,
    pub run: u64,
    pub lie: bool,
    /// And clones of them.
    pub snapshots: bool,
    /// How many each thread carries out at most.
    pub operations: u32,
}

/// Verifies all rounds that there are records of, and notes what was found; returns how much that was.
pub(crate) fn verify_all(place: Place<'_>, records: &Path) -> Result<String, String> {
    let io = |error: std::io::Error| format!("records: {error}");
    let records = Records::open(records).map_err(io)?;
    let (mut rounds, mut operations) = (0, 0);
    for record in records.all().map_err(io)? {
        let found = verify(place, &record)?;
        operations += if record.settled.is_none() { found } else { 0 };
        rounds += u32::from(record.thread == 0);
        records.put(&Record { settled: Some(found), ..record }).map_err(io)?;
    }
    Ok(format!("{rounds} rounds, {operations} new operations"))
}

/// Begins a round, tells so, and works.
pub(crate) fn work(plan: &Plan<'_>, begun: impl FnOnce()) -> Result<(), String> {
    let io = |error: std::io::Error| format!("beginning a round: {error}");
    let records = Records::open(plan.records).map_err(io)?;
    let last = records.all().map_err(io)?.last().map_or(0, |record| record.round);
    if last >= ROUNDS {
        forget(plan, &records, last + 1 - ROUNDS).map_err(io)?;
    }
    let threads: Vec<Record> = (0..THREADS)
        .map(|thread| Record {
            round: last + 1,
            thread,
            run: plan.run,
            snapshots: plan.snapshots,
            done: 0,
            settled: None,
        })
        .collect();
    for record in &threads {
        let dir = directory(plan.place.mount, &State::new(record.round, record.thread));
        fs::create_dir_all(&dir).map_err(io)?;
        fs::File::open(&dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    }
    for record in &threads {
        records.put(record).map_err(io)?;
    }
    begun();
    std::thread::scope(|scope| {
        let threads: Vec<_> = threads
            .into_iter()
            .map(|record| scope.spawn(|| operate(plan, &records, record)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))
        })
    })
}

/// Deletes what rounds up to this one have left. Some of it may have come back with a power cut.
fn forget(plan: &Plan<'_>, records: &Records, round: u32) -> std::io::Result<()> {
    records.remove(round)?;
    let is_old = |name: &str| {
        let number = name.trim_start_matches('r').split('t').next().unwrap_or_default();
        number.parse::<u32>().is_ok_and(|number| number <= round)
    };
    let mount = plan.place.mount;
    for entry in fs::read_dir(mount)? {
        let entry = entry?;
        if is_old(&entry.file_name().to_string_lossy()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    for name in snapshots(mount)?.iter().filter(|name| is_old(name)) {
        fs::remove_dir(mount.join(SNAPSHOTS).join(name))?;
    }
    let Some(amberfs) = plan.place.amberfs else { return Ok(()) };
    for name in amberfs.volumes()?.iter().filter(|name| is_old(name)) {
        let clone = amberfs.mount(mount, name)?;
        for snapshot in snapshots(&clone)? {
            fs::remove_dir(clone.join(SNAPSHOTS).join(snapshot))?;
        }
        amberfs.delete(mount, name)?;
    }
    Ok(())
}

fn operate(plan: &Plan<'_>, records: &Records, mut record: Record) -> Result<(), String> {
    let mut state = State::new(record.round, record.thread);
    let mut random = Random(record.seed());
    let mut kept = KeptOpen::default();
    for seq in 1..=plan.operations {
        let op = state.next(&mut random, seq, record.snapshots);
        perform(plan.place, &state, &mut kept, (seq, &op), plan.lie)
            .map_err(|error| format!("operation {seq} {op:?}: {error}"))?;
        state.apply(&op, seq);
        record.done = seq;
        records.put(&record).map_err(|error| format!("records: {error}"))?;
    }
    Ok(())
}

/// The operations that a record says were carried out.
pub(crate) fn operations(record: &Record) -> Vec<(u32, Op)> {
    let mut state = State::new(record.round, record.thread);
    let mut random = Random(record.seed());
    let next = |seq| {
        let op = state.next(&mut random, seq, record.snapshots);
        state.apply(&op, seq);
        (seq, op)
    };
    (1..=record.done).map(next).collect()
}
