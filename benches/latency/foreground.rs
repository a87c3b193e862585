//! What is measured: one thread that appends to a file and fsyncs it, and one that changes names in a large
//! directory. Both rest after each operation, so that they leave the processors to others.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::samples::Sample;
use crate::span::Span;

/// Rest after each operation.
const REST: Duration = Duration::from_millis(1);
/// Bytes that are appended at once.
const RECORD_BYTES: usize = 1024;
/// Files in the directory, and bytes in each.
const FILES: u64 = 4096;
const FILE_BYTES: usize = 64;

/// An operation that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A write to the end of a file, and fsync.
    Fsync,
    /// A new file, with some bytes in it, closed.
    Create,
    /// open, fstat, close.
    Open,
    Rename,
    Chmod,
    Unlink,
}

/// What the table tells apart.
pub(crate) const KINDS: [&str; 2] = ["fsync", "metadata"];

impl Operation {
    /// All of them.
    pub(crate) const ALL: [Operation; 6] = [
        Operation::Fsync,
        Operation::Create,
        Operation::Open,
        Operation::Rename,
        Operation::Chmod,
        Operation::Unlink,
    ];

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Fsync => "fsync",
            Operation::Create => "create",
            Operation::Open => "open",
            Operation::Rename => "rename",
            Operation::Chmod => "chmod",
            Operation::Unlink => "unlink",
        }
    }

    /// Returns the one of [`KINDS`] that it is of.
    pub(crate) fn kind(self) -> &'static str {
        if self == Operation::Fsync { "fsync" } else { "metadata" }
    }
}

/// Operations in the order in which they were made.
pub(crate) type Timed = Vec<(Operation, Sample)>;

/// One thread's operations in a span.
struct Timer<'a> {
    span: &'a Span,
    timed: Timed,
}

impl Timer<'_> {
    /// Makes an operation on `path`, and rests.
    fn time(
        &mut self,
        operation: Operation,
        path: &Path,
        work: impl FnOnce() -> io::Result<()>,
    ) -> Result<()> {
        let (sample, outcome) = self.span.clock.time(work);
        self.timed.push((operation, sample));
        thread::sleep(REST);
        outcome.map_err(Failure::io(operation.name(), path))
    }
}

fn names_dir(root: &Path) -> PathBuf {
    root.join("names")
}

fn create(path: &Path) -> io::Result<()> {
    File::create_new(path)?.write_all(&[7; FILE_BYTES])
}

/// Makes the directory of files below `root`.
pub(crate) fn prepare(root: &Path) -> Result<()> {
    let dir = names_dir(root);
    fs::create_dir(&dir).map_err(Failure::io("make the directory", &dir))?;
    for number in 0..FILES {
        let path = dir.join(number.to_string());
        create(&path).map_err(Failure::io("create", &path))?;
    }
    Ok(())
}

/// Appends to a new file below `root`, and fsyncs it each time.
pub(crate) fn append(root: &Path, span: &Span) -> Result<Timed> {
    let path = root.join("appended");
    let file = File::create_new(&path).map_err(Failure::io("create", &path))?;
    let mut timer = Timer { span, timed: Vec::new() };
    let record = [7; RECORD_BYTES];
    for offset in (0..).step_by(RECORD_BYTES) {
        if !span.lasts() {
            break;
        }
        let append = || file.write_all_at(&record, offset).and_then(|()| file.sync_all());
        timer.time(Operation::Fsync, &path, append)?;
    }
    Ok(timer.timed)
}

/// Makes a file below `root`, and looks at, renames, changes and removes the oldest, again and again.
pub(crate) fn change_names(root: &Path, span: &Span) -> Result<Timed> {
    let dir = names_dir(root);
    let mut timer = Timer { span, timed: Vec::new() };
    for number in 0.. {
        if !span.lasts() {
            break;
        }
        let new = dir.join((FILES + number).to_string());
        let (old, renamed) = (dir.join(number.to_string()), dir.join(format!("{number}-renamed")));
        timer.time(Operation::Create, &new, || create(&new))?;
        timer.time(Operation::Open, &old, || File::open(&old)?.metadata().map(drop))?;
        timer.time(Operation::Rename, &old, || fs::rename(&old, &renamed))?;
        let mode = Permissions::from_mode(0o600);
        timer.time(Operation::Chmod, &renamed, || fs::set_permissions(&renamed, mode))?;
        timer.time(Operation::Unlink, &renamed, || fs::remove_file(&renamed))?;
    }
    Ok(timer.timed)
}
