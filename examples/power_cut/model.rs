//! What a thread's directory holds after each of its operations, and what a power cut may leave of it.
//!
//! Names and attributes are a prefix of the operations. Data that is not synced may be missing: a cell then
//! has what was there before. The kernel keeps written pages for a while, and a file's length with them, so
//! an unsynced length may be any between the one before and the one after.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cells::{Random, Token};

/// Cells of a block, which is what a hole is made of.
const BLOCK_CELLS: usize = 8;
const MAX_CELLS: usize = 96;
const MAX_NAMES: usize = 28;
const MAX_SNAPSHOTS: usize = 3;
const MAX_ORPHANS: usize = 2;

/// An operation: one system call that changes something, or makes it durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Create(String),
    Mkdir(String),
    Symlink(String, String),
    Link(String, String),
    Unlink(String),
    /// The only name of a file, which stays open: it is known by its number from then on.
    UnlinkOpen(String),
    WriteOrphan(u32, usize, usize),
    /// Ends it; what it held until then is compared.
    CloseOrphan(u32),
    Rmdir(String),
    Rename(String, String),
    Exchange(String, String),
    Chmod(String, u32),
    SetXattr(String, String),
    /// From this cell on, so many; synced when it returns, or not.
    Write(String, usize, usize, bool),
    Truncate(String, usize),
    Allocate(String, usize, usize),
    Punch(String, usize, usize),
    /// Zeroes a range, which makes the file longer if it reaches behind its end.
    Zero(String, usize, usize),
    Copy(String, String, usize),
    Fsync(String),
    FsyncDir(String),
    /// Has the kernel write back. It promises nothing: the kernel does not pass it on to FUSE, and does not wait.
    Syncfs,
    OnVolume(VolumeOp),
    /// In the clone, which holds a directory like the thread's own.
    InClone(Box<Op>),
}

/// An operation on a whole volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VolumeOp {
    Snapshot(String),
    DeleteSnapshot(String),
    /// Makes a volume of a snapshot, with that name, and mounts it.
    Clone(String, String),
    /// Makes the clone what it was in one of its own snapshots.
    Restore(String),
    /// Deletes the oldest of the snapshots that restoring made.
    ForgetBefore,
    /// Deletes a clone that has no snapshot.
    DeleteClone,
}

impl Op {
    /// Whether what it makes durable has been promised when it has returned: a prefix of the operations up
    /// to this one, at least.
    pub(crate) fn promises(&self) -> bool {
        match self {
            Op::Fsync(_) | Op::FsyncDir(_) | Op::Write(_, _, _, true) => true,
            Op::OnVolume(op) => !matches!(op, VolumeOp::DeleteSnapshot(_) | VolumeOp::ForgetBefore),
            Op::InClone(op) => op.promises(),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    pub now: Option<Token>,
    /// What else a power cut may leave.
    pub maybe: Vec<Option<Token>>,
}

impl Cell {
    fn write(&mut self, token: Option<Token>) {
        let before = std::mem::replace(&mut self.now, token);
        if before != token && !self.maybe.contains(&before) {
            self.maybe.push(before);
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    pub cells: Vec<Cell>,
    /// Least length that a power cut may leave.
    pub least: usize,
    pub mode: u32,
    pub xattr: Option<String>,
}

impl File {
    fn settle(&mut self) {
        self.least = self.cells.len();
        self.cells.iter_mut().for_each(|cell| cell.maybe.clear());
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Dir,
    Symlink(String),
    /// By its number; several names may have one.
    File(u32),
}

/// A volume that grew from a snapshot, as far as the thread's directory goes.
#[derive(Debug, Clone)]
pub(crate) struct CloneState {
    pub name: String,
    pub live: State,
    /// What it was before each restore, oldest first.
    pub before: Vec<Arc<State>>,
}

/// A thread's directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub round: u32,
    pub thread: u32,
    pub names: BTreeMap<String, Node>,
    pub files: BTreeMap<u32, File>,
    /// Files without a name that are open. A power cut ends them.
    pub orphans: BTreeMap<u32, File>,
    pub snapshots: BTreeMap<String, Arc<State>>,
    pub clone: Option<Box<CloneState>>,
}

impl State {
    pub(crate) fn new(round: u32, thread: u32) -> State {
        State { round, thread, ..State::default() }
    }

    /// What its snapshots' names begin with.
    pub(crate) fn prefix(&self) -> String {
        format!("r{}t{}-", self.round, self.thread)
    }

    pub(crate) fn number(&self, path: &str) -> Option<u32> {
        match self.names.get(path) {
            Some(Node::File(number)) => Some(*number),
            _ => None,
        }
    }

    fn cloned(&mut self) -> &mut CloneState {
        self.clone.as_mut().expect("operations on a clone are on one that is there")
    }

    fn file(&mut self, path: &str) -> &mut File {
        let number = self.number(path).expect("operations on files are on those that are there");
        self.files.entry(number).or_default()
    }

    /// Itself as a snapshot, or the beginning of a clone.
    fn frozen(&self) -> State {
        let (snapshots, orphans, clone) = Default::default();
        let (names, files) = (self.names.clone(), self.files.clone());
        State { names, files, orphans, snapshots, clone, ..*self }
    }

    fn tokens(
        &self,
        seq: u32,
        from: usize,
        count: usize,
    ) -> impl ExactSizeIterator<Item = Option<Token>> + use<> {
        let (round, thread) = (self.round, self.thread);
        (from..from + count).map(move |at| Some(Token { round, thread, seq, at: at as u32 }))
    }

    fn forget_unnamed(&mut self) {
        let names = &self.names;
        self.files.retain(|number, _| names.values().any(|node| *node == Node::File(*number)));
    }

    /// Carries out the operation number `seq`.
    pub(crate) fn apply(&mut self, op: &Op, seq: u32) {
        match op {
            Op::Create(path) => {
                self.names.insert(path.clone(), Node::File(seq));
                self.files.insert(seq, File { mode: 0o644, ..File::default() });
            }
            Op::Mkdir(path) => drop(self.names.insert(path.clone(), Node::Dir)),
            Op::Symlink(path, target) => {
                self.names.insert(path.clone(), Node::Symlink(target.clone()));
            }
            Op::Link(from, to) => {
                let node = self.names[from].clone();
                self.names.insert(to.clone(), node);
            }
            Op::Unlink(path) | Op::Rmdir(path) => drop(self.names.remove(path)),
            Op::UnlinkOpen(path) => {
                if let Some(Node::File(number)) = self.names.remove(path) {
                    self.orphans.extend(self.files.remove(&number).map(|file| (number, file)));
                }
            }
            Op::CloseOrphan(number) => drop(self.orphans.remove(number)),
            Op::Rename(from, to) => self.rename(from, to),
            Op::Exchange(one, other) => {
                let (a, b) = (self.names[one].clone(), self.names[other].clone());
                self.names.insert(one.clone(), b);
                self.names.insert(other.clone(), a);
            }
            Op::Chmod(path, mode) => self.file(path).mode = *mode,
            Op::SetXattr(path, value) => self.file(path).xattr = Some(value.clone()),
            Op::Write(path, from, count, _) => {
                let tokens = self.tokens(seq, *from, *count);
                write(self.file(path), *from, tokens);
            }
            Op::WriteOrphan(number, from, count) => {
                let tokens = self.tokens(seq, *from, *count);
                write(self.orphans.entry(*number).or_default(), *from, tokens);
            }
            Op::Truncate(path, len) => {
                let file = self.file(path);
                file.cells.resize_with(*len, Cell::default);
                file.least = *len;
            }
            Op::Punch(path, from, count) => punch(self.file(path), *from, from + count),
            Op::Zero(path, from, count) => {
                let (file, end) = (self.file(path), from + count);
                if file.cells.len() < end {
                    file.cells.resize_with(end, Cell::default);
                }
                // The new length is the daemon's, and not for the kernel to write back.
                file.least = file.least.max(end);
                punch(file, *from, end);
            }
            Op::Copy(from, to, count) => {
                let cells: Vec<_> =
                    self.file(from).cells.iter().take(*count).map(|cell| cell.now).collect();
                write(self.file(to), 0, cells.into_iter());
            }
            Op::OnVolume(op) => self.apply_on_volume(op),
            Op::InClone(op) => self.cloned().live.apply(op, seq),
            Op::Allocate(..) | Op::Fsync(_) | Op::FsyncDir(_) | Op::Syncfs => {}
        }
        self.forget_unnamed();
    }

    fn apply_on_volume(&mut self, op: &VolumeOp) {
        match op {
            VolumeOp::Snapshot(name) => {
                self.snapshots.insert(name.clone(), Arc::new(self.frozen()));
            }
            VolumeOp::DeleteSnapshot(name) => drop(self.snapshots.remove(name)),
            VolumeOp::Clone(snapshot, name) => {
                let (name, live) = (name.clone(), self.snapshots[snapshot].frozen());
                self.clone = Some(Box::new(CloneState { name, live, before: Vec::new() }));
            }
            VolumeOp::Restore(snapshot) => {
                let clone = self.cloned();
                let mut restored = clone.live.snapshots[snapshot].frozen();
                restored.snapshots = std::mem::take(&mut clone.live.snapshots);
                let before = std::mem::replace(&mut clone.live, restored);
                clone.before.push(Arc::new(before));
            }
            VolumeOp::ForgetBefore => drop(self.cloned().before.remove(0)),
            VolumeOp::DeleteClone => self.clone = None,
        }
    }

    /// The operation has returned: what it promised is durable.
    pub(crate) fn settle(&mut self, op: &Op) {
        match op {
            Op::Fsync(path) => self.file(path).settle(),
            // The kernel writes no more than this part of the file.
            Op::Write(path, from, count, true) => {
                let (file, end) = (self.file(path), from + count);
                file.least = file.least.max(end);
                file.cells[*from..end].iter_mut().for_each(|cell| cell.maybe.clear());
            }
            Op::InClone(op) => self.cloned().live.settle(op),
            // It was unmounted before.
            Op::OnVolume(VolumeOp::Restore(_)) => {
                if let Some(before) = self.cloned().before.last_mut() {
                    Arc::make_mut(before).files.values_mut().for_each(File::settle);
                }
            }
            Op::OnVolume(VolumeOp::Snapshot(name)) => {
                self.files.values_mut().for_each(File::settle);
                if let Some(frozen) = self.snapshots.get_mut(name) {
                    Arc::make_mut(frozen).files.values_mut().for_each(File::settle);
                }
            }
            _ => {}
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let Some(node) = self.names.remove(from) else { return };
        let below = format!("{from}/");
        let moved: Vec<_> =
            self.names.keys().filter(|path| path.starts_with(&below)).cloned().collect();
        for path in moved {
            if let Some(node) = self.names.remove(&path) {
                self.names.insert(format!("{to}/{}", &path[below.len()..]), node);
            }
        }
        self.names.insert(to.to_owned(), node);
    }

    fn of_kind(&self, is: impl Fn(&Node) -> bool) -> Vec<String> {
        self.names.iter().filter(|(_, node)| is(node)).map(|(path, _)| path.clone()).collect()
    }

    /// Chooses the next operation, one that succeeds.
    pub(crate) fn next(&self, random: &mut Random, seq: u32, snapshots: bool) -> Op {
        let files = self.of_kind(|node| matches!(node, Node::File(_)));
        let dirs = self.of_kind(|node| *node == Node::Dir);
        let parent = if random.below(2) == 0 { None } else { random.pick(&dirs) };
        let parent = parent.map(|dir| format!("{dir}/")).unwrap_or_default();
        let fresh = format!("{parent}n{seq}");
        let (Some(file), Some(other)) = (random.pick(&files), random.pick(&files)) else {
            return Op::Create(fresh);
        };
        let (file, other) = (file.clone(), other.clone());
        if self.names.len() >= MAX_NAMES {
            return Op::Unlink(file);
        }
        match random.below(43) {
            0..=2 => Op::Create(fresh),
            3 => Op::Mkdir(format!("d{seq}")),
            4 => Op::Symlink(fresh, format!("to {seq}")),
            5 => Op::Link(file, fresh),
            6 => Op::Unlink(file),
            7 => self.empty_dir(random, &dirs).map_or(Op::Mkdir(format!("d{seq}")), Op::Rmdir),
            8 => Op::Rename(file, fresh),
            9 if self.names[&file] != self.names[&other] => Op::Rename(file, other),
            10 if file != other => Op::Exchange(file, other),
            11 => random.pick(&dirs).map_or(Op::FsyncDir(String::new()), |dir| {
                Op::Rename(dir.clone(), format!("d{seq}"))
            }),
            12 => Op::Chmod(file, 0o600 + seq % 64),
            13 => Op::SetXattr(file, format!("value {seq}").repeat(1 + seq as usize % 40)),
            22 | 23 => Op::Fsync(file),
            24 => Op::FsyncDir(parent.trim_end_matches('/').to_owned()),
            25 if snapshots => Op::OnVolume(self.snapshot(random, seq)),
            34 => Op::Syncfs,
            35 if self.may_stay_open(&file) => Op::UnlinkOpen(file),
            36..=39 if !self.orphans.is_empty() => self.orphan(random),
            40..=42 if snapshots => self.cloning(random, seq),
            _ => self.content(random, file, other),
        }
    }

    /// Whether it has one name, and there is room among the orphans.
    fn may_stay_open(&self, file: &str) -> bool {
        let node = self.names.get(file);
        let links = self.names.values().filter(|other| Some(*other) == node).count();
        links == 1 && self.orphans.len() < MAX_ORPHANS
    }

    fn orphan(&self, random: &mut Random) -> Op {
        let numbers: Vec<_> = self.orphans.keys().copied().collect();
        let number = random.pick(&numbers).copied().unwrap_or_default();
        let count = 1 + random.below(8);
        match random.below(4) {
            0 => Op::CloseOrphan(number),
            _ => Op::WriteOrphan(number, random.below(MAX_CELLS - count), count),
        }
    }

    fn empty_dir(&self, random: &mut Random, dirs: &[String]) -> Option<String> {
        let full = |dir: &String| {
            let below = format!("{dir}/");
            self.names.keys().any(|path| path.starts_with(&below))
        };
        let empty: Vec<_> = dirs.iter().filter(|dir| !full(dir)).cloned().collect();
        random.pick(&empty).cloned()
    }

    fn snapshot_names(&self) -> Vec<String> {
        self.snapshots.keys().cloned().collect()
    }

    fn snapshot(&self, random: &mut Random, seq: u32) -> VolumeOp {
        let names = self.snapshot_names();
        match random.pick(&names) {
            Some(name) if names.len() >= MAX_SNAPSHOTS => VolumeOp::DeleteSnapshot(name.clone()),
            _ => VolumeOp::Snapshot(format!("{}{seq}", self.prefix())),
        }
    }

    fn cloning(&self, random: &mut Random, seq: u32) -> Op {
        let Some(clone) = &self.clone else {
            let name = format!("{}{seq}", self.prefix());
            return Op::OnVolume(match random.pick(&self.snapshot_names()) {
                Some(snapshot) => VolumeOp::Clone(snapshot.clone(), name),
                None => VolumeOp::Snapshot(name),
            });
        };
        let (live, has_before) = (&clone.live, !clone.before.is_empty());
        let picked = random.pick(&live.snapshot_names()).cloned();
        match (random.below(12), picked) {
            (0, Some(name)) if clone.before.len() < MAX_SNAPSHOTS => {
                Op::OnVolume(VolumeOp::Restore(name))
            }
            (1, _) if has_before => Op::OnVolume(VolumeOp::ForgetBefore),
            (2, Some(name)) => Op::InClone(Box::new(Op::OnVolume(VolumeOp::DeleteSnapshot(name)))),
            (3, None) if !has_before => Op::OnVolume(VolumeOp::DeleteClone),
            (4, _) => Op::InClone(Box::new(Op::OnVolume(live.snapshot(random, seq)))),
            _ => Op::InClone(Box::new(match live.next(random, seq, false) {
                // Nothing of it stays open, so that it can be unmounted.
                Op::UnlinkOpen(path) => Op::Unlink(path),
                op => op,
            })),
        }
    }

    fn content(&self, random: &mut Random, file: String, other: String) -> Op {
        let len = self.number(&file).map_or(0, |number| self.files[&number].cells.len());
        let most = if random.below(3) == 0 { 40 } else { 8 };
        let count = 1 + random.below(most);
        let from = random.below(MAX_CELLS - count);
        match random.below(13) {
            0 => Op::Truncate(file, random.below(len + 4)),
            1 => Op::Punch(file, from, count),
            2 => Op::Allocate(file, from, count),
            3 if self.names[&file] != self.names[&other] && len > 0 => Op::Copy(file, other, len),
            4 => Op::Write(file, 0, count.min(4), false),
            5 | 6 => Op::Write(file, from / BLOCK_CELLS * BLOCK_CELLS, BLOCK_CELLS, false),
            7 => Op::Write(file, from, count, true),
            12 => Op::Zero(file, from, count),
            8 | 9 if len + count < MAX_CELLS => Op::Write(file, len, count, false),
            _ => Op::Write(file, from.min(len), count, false),
        }
    }
}

fn write(file: &mut File, from: usize, tokens: impl ExactSizeIterator<Item = Option<Token>>) {
    let end = from + tokens.len();
    if file.cells.len() < end {
        file.cells.resize_with(end, Cell::default);
    }
    for (cell, token) in file.cells[from..end].iter_mut().zip(tokens) {
        cell.write(token);
    }
}

/// Whole blocks are holes at once; what is zeroed of the blocks at the edges is data, and may be missing.
fn punch(file: &mut File, from: usize, end: usize) {
    for at in from..end.min(file.cells.len()) {
        let block = at / BLOCK_CELLS * BLOCK_CELLS;
        if from <= block && block + BLOCK_CELLS <= end {
            file.cells[at] = Cell::default();
        } else {
            file.cells[at].write(None);
        }
    }
}
