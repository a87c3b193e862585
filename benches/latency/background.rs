//! What goes on beside the foreground: a writer whose changes checkpoints write, snapshots that are deleted,
//! scrubs. Each says what it did, and fails if that is not what was to be measured.

use std::fs::File;
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use crate::amber::{Amber, number};
use crate::content::Content;
use crate::drivers::Random;
use crate::failure::{Failure, Result};
use crate::span::Span;

/// The writer's rate: after each tick 1000 small files and 4000 blocks in a second.
const TICK: Duration = Duration::from_millis(10);
const FILES_PER_TICK: u64 = 10;
const BLOCKS_PER_TICK: u64 = 40;
/// Time between two syncs of the writer on a filesystem without checkpoints, and the mount option that
/// makes one in that time on the other.
const COMMIT: Duration = Duration::from_secs(1);
pub(crate) const COMMIT_OPTIONS: &[&str] = &["-o", "commit=1000"];
/// Seconds in which there is at least one checkpoint, with what one takes on a slow disk.
const SECONDS_PER_CHECKPOINT: u64 = 5;

/// Snapshots that are deleted.
const SNAPSHOTS: u64 = 4;
/// Time between two questions to the pool.
const POLL: Duration = Duration::from_millis(100);
/// Freed bytes that wait for a checkpoint without a deletion, from what the foreground replaces.
const HELD_BYTES: u64 = 64 << 20;

/// What leaves the host's cache at once, and the rest behind it: for a whole file the host's locks are held so
/// long that it is a stall of its own.
const UNCACHE_BYTES: NonZeroU64 = NonZeroU64::new(4 << 20).unwrap();
const UNCACHE_REST: Duration = Duration::from_millis(1);

/// Names and amounts of what was done.
pub(crate) type Done = Vec<(&'static str, u64)>;

/// Nothing.
pub(crate) fn nothing(span: &Span) -> Result<Done> {
    while span.sleep_until(span.clock.now() + TICK) {}
    Ok(Done::new())
}

/// Changes files at a bounded rate. With `syncs` it makes the large file durable now and then, as
/// checkpoints do by themselves.
pub(crate) fn write(content: &Content, syncs: bool, span: &Span) -> Result<Done> {
    let mut random = Random::new(5);
    let mut ticks = 0;
    let (mut due, mut synced) = (span.clock.now(), span.clock.now());
    while span.sleep_until(due) {
        content.change_files(FILES_PER_TICK, &mut random)?;
        content.overwrite_blocks(BLOCKS_PER_TICK, &mut random)?;
        ticks += 1;
        if syncs && span.clock.now() >= synced + COMMIT {
            synced = span.clock.now();
            let path = content.large();
            let file = File::open(&path).map_err(Failure::io("open", &path))?;
            file.sync_data().map_err(Failure::io("sync", &path))?;
        }
        // What was missed is not made up for.
        due = (due + TICK).max(span.clock.now());
    }
    Ok(vec![("files", ticks * FILES_PER_TICK), ("blocks", ticks * BLOCKS_PER_TICK)])
}

/// As [`write`], on a pool that makes a checkpoint each second.
pub(crate) fn checkpoint(amber: &Amber, content: &Content, span: &Span) -> Result<Done> {
    let (begun, before) = (span.clock.now(), amber.status("checkpoint")?);
    let mut done = write(content, false, span)?;
    let checkpoints = amber.status("checkpoint")? - before;
    let seconds = (span.clock.now() - begun).as_secs();
    if checkpoints == 0 || checkpoints < seconds / SECONDS_PER_CHECKPOINT {
        let what = format!("{checkpoints} checkpoints in {seconds} seconds are not enough");
        return Err(Failure::Idle(what));
    }
    done.push(("checkpoints", checkpoints));
    Ok(done)
}

fn snapshot(number: u64) -> String {
    format!("snapshot-{number}")
}

/// Makes the snapshots, each the only one to have what is in it.
pub(crate) fn prepare_snapshots(amber: &Amber, content: &Content) -> Result<()> {
    content.make()?;
    for number in 0..SNAPSHOTS {
        amber.make_snapshot(&snapshot(number))?;
        content.replace(2 + number)?;
    }
    Ok(())
}

/// Deletes the snapshots, the next when the space of the one before has come back.
pub(crate) fn delete_snapshots(amber: &Amber, span: &Span) -> Result<Done> {
    let before = amber.status("used_bytes")?;
    let (mut deleted, mut pending) = (0, 0);
    while deleted < SNAPSHOTS && span.lasts() {
        amber.delete_snapshot(&snapshot(deleted))?;
        deleted += 1;
        while span.lasts() {
            let status = amber.ask(&["pool", "status"])?;
            let reclaim = number(&status, "reclaim_pending")?;
            pending = reclaim.max(pending);
            if reclaim == 0 && number(&status, "held_bytes")? < HELD_BYTES {
                break;
            }
            span.sleep_until(span.clock.now() + POLL);
        }
    }
    let freed = before.saturating_sub(amber.status("used_bytes")?);
    if pending == 0 || freed == 0 {
        let what = format!("{deleted} snapshots were deleted, and {freed} bytes came back");
        return Err(Failure::Idle(what));
    }
    Ok(vec![("snapshots", deleted), ("freed MiB", freed >> 20)])
}

/// Has the host forget the pool's data, piece by piece.
fn uncache(amber: &Amber, span: &Span) -> Result<()> {
    let path = amber.pool().join("data");
    let file = File::open(&path).map_err(Failure::io("open", &path))?;
    let len_bytes = file.metadata().map_err(Failure::io("look at", &path))?.len();
    for offset in (0..len_bytes).step_by(UNCACHE_BYTES.get() as usize) {
        let forgotten = fadvise(&file, offset, Some(UNCACHE_BYTES), Advice::DontNeed);
        forgotten.map_err(Failure::io("uncache", &path))?;
        if !span.sleep_until(span.clock.now() + UNCACHE_REST) {
            break;
        }
    }
    Ok(())
}

/// Scrubs the pool again and again, from the disk.
pub(crate) fn scrub(amber: &Amber, span: &Span) -> Result<Done> {
    let (mut passes, mut bytes) = (0, 0);
    while span.lasts() {
        uncache(amber, span)?;
        let mut scrub = amber.ask(&["scrub", "--background"])?;
        while scrub["progress"] == "running" {
            let lasts = span.sleep_until(span.clock.now() + POLL);
            scrub = amber.ask(&["scrub", if lasts { "--status" } else { "--cancel" }])?;
        }
        passes += u64::from(scrub["progress"] == "done");
        bytes += number(&scrub, "done_bytes")?;
    }
    if bytes == 0 {
        return Err(Failure::Idle("the scrub has read nothing".into()));
    }
    Ok(vec![("whole passes", passes), ("verified MiB", bytes >> 20)])
}
