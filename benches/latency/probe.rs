//! The disk by itself: what a small durable write takes while others are measured.
//!
//! The file is written whole before, so that a write changes nothing but its block and the file's times, and
//! fdatasync leaves the host filesystem's journal alone. What the journal imposes is seen on the host's own
//! rows only.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::drivers::{BLOCK, write_whole};
use crate::failure::{Failure, Result};
use crate::samples::{Probe, Sample};
use crate::span::Span;

/// From the beginning of one write to that of the next: none is missed by a stall.
const INTERVAL: Duration = crate::samples::STALL;
const FILE_BYTES: u64 = 1 << 20;

/// Writes to a new file at `path`, one block after the other, as long as `span` lasts.
pub(crate) fn run(path: &Path, span: &Span) -> Result<Probe> {
    write_whole(path, FILE_BYTES)?;
    let file = File::options().write(true).open(path).map_err(Failure::io("open", path))?;
    let block = [7; BLOCK];
    let mut probe = Probe::default();
    let mut due = span.clock.now();
    for offset in (0..FILE_BYTES).step_by(BLOCK).cycle() {
        let write = || file.write_all_at(&block, offset).and_then(|()| file.sync_data());
        let (sample, outcome) = span.clock.time(write);
        outcome.map_err(Failure::io("write to", path))?;
        probe.writes.push(sample);
        probe.waits.push(Sample { begun: due, took: sample.begun - due });
        due = (sample.begun + INTERVAL).max(span.clock.now());
        if !span.sleep_until(due) {
            break;
        }
    }
    Ok(probe)
}
