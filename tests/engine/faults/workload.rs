//! The operations that are carried out while the device fails: every kind of them.

use amberfs::fs::Error;

use super::files::OnFile::{self, *};
use super::found::Mounted;
use super::names::OnNames::{self, *};
use super::tree::Model;
use super::volumes::OnPool::{self, *};

/// An operation.
#[derive(Debug, Clone)]
pub(super) enum Do {
    File(OnFile),
    Names(OnNames),
    Pool(OnPool),
}

impl From<OnFile> for Do {
    fn from(op: OnFile) -> Do {
        Do::File(op)
    }
}

impl From<OnNames> for Do {
    fn from(op: OnNames) -> Do {
        Do::Names(op)
    }
}

impl From<OnPool> for Do {
    fn from(op: OnPool) -> Do {
        Do::Pool(op)
    }
}

impl Do {
    pub(super) fn is_sync(&self) -> bool {
        matches!(self, Do::Pool(op) if op.is_sync())
    }

    /// Whether it makes a change and then goes on: waits for the disk, or sets space aside. The change stays if
    /// that fails.
    pub(super) fn may_stay(&self) -> bool {
        matches!(self, Do::Pool(Snapshot(_) | Group(..)) | Do::File(Zero(..)))
    }

    pub(super) fn carry_out(&self, on: &mut Mounted, nth: usize) -> Result<(), Error> {
        match self {
            Do::File(op) => op.carry_out(on, nth),
            Do::Names(op) => op.carry_out(on),
            Do::Pool(op) => op.carry_out(on),
        }
    }

    /// The same on the model; false if there is nothing to do it to.
    pub(super) fn model(&self, model: &mut Model, nth: usize) -> bool {
        let live = model.get_mut("main");
        let done = match self {
            Do::File(op) => live.and_then(|live| op.model(live, nth)),
            Do::Names(op) => live.and_then(|live| op.model(live, nth)),
            Do::Pool(op) => op.model(model),
        };
        done.is_some()
    }
}

macro_rules! operations {
    ($($op:expr),* $(,)?) => { vec![$(Do::from($op)),*] };
}

/// What happens to the content of files, and to volumes.
pub(super) fn contents() -> Vec<Do> {
    operations![
        Create("a"),
        Write("a", 0, 12288),
        Create("b"),
        Write("b", 0, 100),
        Fsync("a"),
        Write("a", 5000, 3000),
        Snapshot("s0"),
        Write("a", 12288, 9000),
        Truncate("a", 15000),
        Truncate("a", 16384),
        Checkpoint,
        Read("a"),
        Xattr("b", 9000),
        Copy("a", "b"),
        Write("a", 0, 4096),
        Write("b", 0, 4096),
        Snapshot("s1"),
        Rename("b", "c"),
        DeleteSnapshot("s0"),
        Reclaim,
        Checkpoint,
        Create("e"),
        Write("e", 0, 70 * 4096),
        Fsync("e"),
        Punch("e", 6000, 20000),
        Reserve("e", 300 << 20),
        Unlink("a"),
        Syncfs,
        Clone("s1", "copy"),
        Read("c"),
        Restore("s1", "kept"),
        Write("b", 300, 5000),
        Read("b"),
        DeleteSnapshot("kept"),
        DeleteVolume("copy"),
        Reclaim,
        Checkpoint,
        Write("a", 100, 8192),
        Fsync("a"),
        Create("f"),
        Checkpoint,
        Unlink("f"),
    ]
}

/// What happens to names, to attributes, to files that are held open, and to what is known of volumes.
pub(super) fn names() -> Vec<Do> {
    operations![
        Mkdir("d"),
        Create("a"),
        Write("a", 0, 9000),
        Symlink("d/s", "../a"),
        Link("a", "d/a"),
        Chmod("a", 0o4750),
        Chown("d/a", 7, 8),
        Snapshot("s0"),
        Create("b"),
        Write("b", 0, 3000),
        Xattr("b", 20),
        Checkpoint,
        Zero("a", 1000, 7000),
        // From the leaf to blocks, and behind the end.
        Zero("b", 2000, 6000),
        Rename("b", "d/a"),
        RemoveXattr("d/a"),
        Chown("d", 9, 9),
        Tmpfile("d", "/t"),
        Write("/t", 0, 5000),
        Fsync("/t"),
        Link("/t", "d/t"),
        Release("/t"),
        Exchange("d/t", "a"),
        Clone("s0", "copy"),
        Quota("main", Some(600 << 20)),
        Label("main", "app", Some("one")),
        Label("copy", "app", Some("two")),
        Hold("d/a", "/a"),
        Unlink("d/a"),
        Write("/a", 4000, 6000),
        Group("copy", "g"),
        Checkpoint,
        Truncate("/a", 5000),
        RenameSnapshot("g", "h"),
        Mkdir("d/e"),
        Exchange("d", "a"),
        Rmdir("a/e"),
        Hold("a/t", "/t"),
        Create("c"),
        Rename("c", "a/t"),
        Read("/t"),
        Release("/a"),
        Label("main", "app", None),
        Quota("main", None),
        Clone("h", "other"),
        Mkdir("x"),
        Mkdir("y"),
        Rename("x", "y"),
        Rmdir("y"),
        Syncfs,
        DeleteSnapshot("h"),
        DeleteVolume("copy"),
        Reclaim,
        Checkpoint,
        Release("/t"),
        Tmpfile("", "/u"),
        Release("/u"),
        Unlink("a/s"),
    ]
}

/// The same with each file in a node of its own, and with nothing in memory when an operation begins: it reads what
/// it needs in the midst of it.
pub(super) fn cold_names() -> Vec<Do> {
    let mut all = Vec::new();
    for op in names() {
        let made = match op {
            Do::Names(Create(path) | Mkdir(path) | Tmpfile(_, path)) => Some(path),
            _ => None,
        };
        all.push(op);
        all.extend(made.map(|path| Do::from(Xattr(path, 9000))));
        all.extend(operations![Checkpoint, DropCache]);
    }
    all
}
