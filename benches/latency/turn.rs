//! One turn: a filesystem of its own in a situation, measured and taken down.

use std::fs;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::amber::Amber;
use crate::background::{self, COMMIT_OPTIONS, Done};
use crate::content::Content;
use crate::failure::{Failure, Result};
use crate::foreground::{self, Timed};
use crate::samples::Sample;
use crate::span::{Clock, Span};

/// What goes on beside the foreground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Situation {
    /// Nothing.
    Quiet,
    /// A writer, whose changes are made durable every second.
    Checkpoint,
    /// Snapshots are deleted, and their space is reclaimed.
    SnapshotDelete,
    /// Everything is read and verified.
    Scrub,
}

impl Situation {
    /// All of them.
    pub(crate) const ALL: [Situation; 4] =
        [Situation::Quiet, Situation::Checkpoint, Situation::SnapshotDelete, Situation::Scrub];

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Situation::Quiet => "quiet",
            Situation::Checkpoint => "checkpoint",
            Situation::SnapshotDelete => "snapshot-delete",
            Situation::Scrub => "scrub",
        }
    }
}

/// A filesystem that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// A directory of the host's, beside the pools.
    Host,
    /// A mounted pool.
    Amber,
}

impl On {
    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            On::Host => "host",
            On::Amber => "amberfs",
        }
    }
}

/// All turns, in order: where the host can be measured, just before AmberFS.
pub(crate) const TURNS: [(Situation, On); 6] = [
    (Situation::Quiet, On::Host),
    (Situation::Quiet, On::Amber),
    (Situation::Checkpoint, On::Host),
    (Situation::Checkpoint, On::Amber),
    (Situation::SnapshotDelete, On::Amber),
    (Situation::Scrub, On::Amber),
];

/// What was found in a turn.
pub(crate) struct Turn {
    pub situation: Situation,
    pub on: On,
    /// When it was measured.
    pub span: Sample,
    pub timed: Timed,
    /// What the background did.
    pub done: Done,
}

/// The filesystem of a turn. It is unmounted before the directory goes that it is in.
struct Ground {
    amber: Option<Amber>,
    dir: TempDir,
    seconds: u64,
}

impl Ground {
    fn new(situation: Situation, on: On, place: &Path, seconds: u64) -> Result<Ground> {
        let dir = tempfile::tempdir_in(place).map_err(Failure::io("make a directory in", place))?;
        let options = if situation == Situation::Checkpoint { COMMIT_OPTIONS } else { &[] };
        let amber = match on {
            On::Host => None,
            On::Amber => Some(Amber::new(dir.path(), options)?),
        };
        Ok(Ground { amber, dir, seconds })
    }

    fn root(&self) -> &Path {
        self.amber.as_ref().map_or(self.dir.path(), Amber::root)
    }

    fn content(&self) -> Content {
        Content::sized(self.root(), self.seconds)
    }

    fn amber(&self) -> Result<&Amber> {
        self.amber.as_ref().ok_or_else(|| Failure::Absent("the host can't do this".into()))
    }

    /// Makes what is needed, and has it on the disk.
    fn prepare(&self, situation: Situation) -> Result<()> {
        foreground::prepare(self.root())?;
        match situation {
            Situation::Quiet => {}
            Situation::Checkpoint | Situation::Scrub => self.content().make()?,
            Situation::SnapshotDelete => {
                background::prepare_snapshots(self.amber()?, &self.content())?;
            }
        }
        let root = fs::File::open(self.root()).map_err(Failure::io("open", self.root()))?;
        rustix::fs::syncfs(&root).map_err(Failure::io("sync", self.root()))?;
        rustix::fs::sync();
        Ok(())
    }

    fn background(&self, situation: Situation, span: &Span) -> Result<Done> {
        match (situation, &self.amber) {
            (Situation::Quiet, _) => background::nothing(span),
            (Situation::Checkpoint, None) => background::write(&self.content(), true, span),
            (Situation::Checkpoint, Some(amber)) => {
                background::checkpoint(amber, &self.content(), span)
            }
            (Situation::SnapshotDelete, _) => background::delete_snapshots(self.amber()?, span),
            (Situation::Scrub, _) => background::scrub(self.amber()?, span),
        }
    }
}

/// Measures one turn below the directory `place`.
pub(crate) fn measure(
    (situation, on): (Situation, On),
    place: &Path,
    clock: Clock,
    seconds: u64,
) -> Result<Turn> {
    let ground = Ground::new(situation, on, place, seconds)?;
    ground.prepare(situation)?;
    let span = Span::begin(clock, Duration::from_secs(seconds));
    let (measured, outcome) = clock.time(|| {
        thread::scope(|scope| {
            let fsyncs = scope.spawn(|| span.hold(|span| foreground::append(ground.root(), span)));
            let names =
                scope.spawn(|| span.hold(|span| foreground::change_names(ground.root(), span)));
            let done = span.hold(|span| ground.background(situation, span));
            (joined(fsyncs), joined(names), done)
        })
    });
    crate::programs::going()?;
    let (fsyncs, names, done) = outcome;
    let timed = [fsyncs?, names?].concat();
    Ok(Turn { situation, on, span: measured, timed, done: done? })
}

/// Waits for a thread; its panic is this one's.
pub(crate) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
