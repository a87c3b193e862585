//! Scrub: reads every node and every data block that the pool refers to, and verifies it, while the pool is
//! in use.
//!
//! It goes through the checkpoint tree, the catalog, the snapshots by rising epoch, and then the heads, each
//! from its smallest key on. What a member shares with its parent was born at or before the parent's epoch,
//! and was verified with the parent: whole subtrees of that age are left out, so that everything is read once
//! however many snapshots there are. Snapshots made after the beginning are left out; what they have that was
//! there at the beginning, their head has or had.
//!
//! A step does at most [`STEP_NODES`] nodes or [`STEP_BYTES`] of data. It holds `readers`, as a read of a file
//! does, so that no checkpoint gives freed blocks away meanwhile, and takes a clone of one root; neither the
//! gate nor a head is held while it reads. Between steps it rests for as long as the step took.
//!
//! What is damaged is logged and listed with the state and the path that it hurts ([`damage`]).
//!
//! The position is a key in a member: it means the same after a restart, so the state can be kept anywhere.
//! Memory: one path of nodes, one extent, and the damage found, of which [`MAX_DAMAGE`] pieces are listed.

mod damage;

use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use self::damage::Finding;
use super::{Error, Pool, Result};
use crate::btree::{Tree, check_bounds};
use crate::cache::{self, Body, Child, Node};
use crate::format::{
    BLOCK_SIZE, Epoch, Extent, ExtentKind, InodeNo, Key, KeyKind, MemberId, MemberKind, NODE_SIZE,
    Timestamp, VolumeId,
};
use crate::threads::{Condvar, Mutex, thread};

/// Nodes that one step reads at most, more than a tree is high, and bytes: a few milliseconds on a disk.
const STEP_NODES: u64 = 32;
const STEP_BYTES: u64 = 1 << 20;
/// Pieces of damage that are listed; further ones are counted.
const MAX_DAMAGE: usize = 1000;
/// Time between two calls that keep the state.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ScrubPhase {
    /// The checkpoint tree.
    #[default]
    Checkpoint,
    /// The catalog.
    Catalog,
    /// Snapshots, by epoch.
    Snapshots,
    /// Volumes' live states, by the volume's number.
    Heads,
    /// Nothing any more.
    Done,
}

/// How far a scrub has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubPosition {
    /// What is being read.
    pub phase: ScrubPhase,
    /// Epoch of the snapshot.
    pub epoch: Epoch,
    /// Number of the snapshot's member, or of the volume.
    pub number: u64,
    /// Keys below it are done.
    pub cursor: Key,
    /// Epoch at the beginning; later snapshots are left out.
    pub until: Epoch,
}

/// Something that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubDamage {
    /// State that it is in; none for the pool's own records.
    pub member: Option<MemberId>,
    /// Volume of that state.
    pub volume: Option<VolumeId>,
    /// The volume's name.
    pub volume_name: String,
    /// The snapshot's name, if it is one.
    pub snapshot: Option<String>,
    /// Inode whose block is damaged, or the first one whose records are; of those, one with a path.
    pub inode: InodeNo,
    /// A path that it had when the damage was found; none for the pool's own records.
    pub path: Option<String>,
    /// First damaged block of the file, and how many; none for a damaged node.
    pub blocks: Option<(u64, u64)>,
    /// What is wrong.
    pub what: String,
}

/// A scrub: done, under way, or cancelled.
#[derive(Debug, Clone, Default)]
pub struct ScrubState {
    /// Where it is; none before the first one.
    pub position: Option<ScrubPosition>,
    /// Whether it goes on by itself.
    pub running: bool,
    /// When it began.
    pub begun: Timestamp,
    /// When it was done.
    pub ended: Option<Timestamp>,
    /// Nodes verified.
    pub nodes: u64,
    /// Data blocks verified.
    pub blocks: u64,
    /// Bytes in use when it began: about what there is to read.
    pub total_bytes: u64,
    /// The first thousand pieces of damage.
    pub damage: Vec<ScrubDamage>,
    /// How many more there are.
    pub more_damage: u64,
}

impl ScrubState {
    /// Whether everything has been read.
    pub fn is_done(&self) -> bool {
        self.position.is_some_and(|position| position.phase == ScrubPhase::Done)
    }

    /// Bytes read so far.
    pub fn done_bytes(&self) -> u64 {
        self.nodes * NODE_SIZE as u64 + self.blocks * BLOCK_SIZE as u64
    }
}

/// Returns the path of what is damaged, with its inode: the one that the damage says, or another one from it up
/// to the last that may be hit.
pub type PathOfDamage = fn(&Arc<Pool>, &ScrubDamage, u64) -> Option<(InodeNo, String)>;

/// What a scrub asks of the layers above.
pub struct ScrubHooks {
    /// Keeps a state somewhere.
    pub save: Box<dyn Fn(&ScrubState) + Send>,
    /// Finds the path that the log and the report say.
    pub path: PathOfDamage,
}

impl std::fmt::Debug for ScrubHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScrubHooks").finish_non_exhaustive()
    }
}

/// The pool's scrub, and its thread.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    state: Mutex<ScrubState>,
    stop: Mutex<bool>,
    stopped: Condvar,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Scrub {
    /// Ends the thread, which can go on later, and waits for it.
    pub(super) fn stop(&self) {
        *self.stop.lock() = true;
        self.stopped.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic of the thread has been reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }

    /// Rests; false when the thread is to end.
    fn rest(&self, time: Duration) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.stopped.wait_for(&mut stop, time);
        }
        !*stop
    }
}

/// A tree to go on in.
struct Target {
    tree: Tree,
    /// References born up to then are an ancestor's too.
    keep: Option<Epoch>,
    member: Option<MemberId>,
}

/// What a step has found in its tree.
#[derive(Default)]
struct Found {
    nodes: u64,
    blocks: u64,
    damage: Vec<Finding>,
}

impl Pool {
    /// What the last scrub has found, or the one that runs.
    pub fn scrub_state(&self) -> ScrubState {
        self.scrub.state.lock().clone()
    }

    /// Begins a scrub in the background, or goes on with `state`; does nothing when one runs.
    pub fn start_scrub(
        self: &Arc<Self>,
        state: Option<ScrubState>,
        hooks: ScrubHooks,
    ) -> Result<()> {
        if self.scrub_state().running {
            return Ok(());
        }
        self.scrub.stop();
        self.begin_scrub(state);
        let pool: Weak<Pool> = Arc::downgrade(self);
        let run = move || {
            let mut saved = Instant::now();
            while let Some(pool) = pool.upgrade() {
                let begun = Instant::now();
                let more = pool.scrub_step(&hooks);
                if !more || saved.elapsed() >= SAVE_INTERVAL {
                    (hooks.save)(&pool.scrub_state());
                    saved = Instant::now();
                }
                if !more {
                    return;
                }
                if !pool.scrub.rest(begun.elapsed()) {
                    pool.scrub.state.lock().running = false;
                    (hooks.save)(&pool.scrub_state());
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("amberfs-scrub".into()).spawn(run);
        let thread = thread.map_err(|error| {
            self.scrub.state.lock().running = false;
            Error::io("starting the scrub's thread")(error)
        })?;
        *self.scrub.thread.lock() = Some(thread);
        Ok(())
    }

    /// Stops a scrub; it can go on later.
    pub fn cancel_scrub(&self) {
        self.scrub.stop();
    }

    /// Scrubs without a thread and without rest, for a pool that nobody else uses.
    pub fn run_scrub(
        self: &Arc<Self>,
        state: Option<ScrubState>,
        hooks: &ScrubHooks,
    ) -> ScrubState {
        self.begin_scrub(state);
        let mut saved = Instant::now();
        while self.scrub_step(hooks) {
            if saved.elapsed() >= SAVE_INTERVAL {
                (hooks.save)(&self.scrub_state());
                saved = Instant::now();
            }
        }
        let state = self.scrub_state();
        (hooks.save)(&state);
        state
    }

    fn begin_scrub(&self, state: Option<ScrubState>) {
        let fresh = || ScrubState {
            position: Some(ScrubPosition {
                phase: ScrubPhase::Checkpoint,
                epoch: Epoch(0),
                number: 0,
                cursor: Key::MIN,
                until: self.epoch(),
            }),
            begun: self.options.clock.now(),
            total_bytes: self.status().used_bytes,
            ..ScrubState::default()
        };
        let unfinished = |state: &ScrubState| state.position.is_some() && !state.is_done();
        let state = state.filter(unfinished).unwrap_or_else(fresh);
        *self.scrub.stop.lock() = false;
        *self.scrub.state.lock() = ScrubState { running: true, ended: None, ..state };
    }

    /// Does a bounded part of a scrub; false when it is done.
    fn scrub_step(self: &Arc<Self>, hooks: &ScrubHooks) -> bool {
        let Some(mut at) = self.scrub.state.lock().position else { return false };
        let mut found = Found::default();
        let mut damage = Vec::new();
        {
            // Taken in this order, as by a checkpoint.
            let checkpointing =
                (at.phase == ScrubPhase::Checkpoint).then(|| self.checkpointing.lock());
            let _readers = self.readers.read();
            let target = match &checkpointing {
                Some(state) => Some(Target { tree: state.tree.clone(), keep: None, member: None }),
                None => self.scrub_target(&mut at),
            };
            drop(checkpointing);
            if let Some(target) = target {
                let mut walk = Walk {
                    pool: self,
                    keep: target.keep,
                    cursor: at.cursor,
                    bytes: STEP_BYTES,
                    found: &mut found,
                };
                let (tree, phase) = (&target.tree, at.phase);
                let done = walk.verify(&tree.root, tree.level, None, None).is_continue();
                at.cursor = walk.cursor;
                for finding in std::mem::take(&mut found.damage) {
                    damage.extend(self.states_with(target.member, phase, &finding));
                }
                if done {
                    advance(&mut at);
                }
            }
        }
        // Nothing is held while directories are searched.
        let damage: Vec<_> =
            damage.into_iter().map(|(piece, last)| self.named(piece, last, hooks)).collect();
        let mut state = self.scrub.state.lock();
        state.nodes += found.nodes;
        state.blocks += found.blocks;
        for piece in damage {
            match state.damage.len() {
                MAX_DAMAGE => state.more_damage += 1,
                _ => state.damage.push(piece),
            }
        }
        state.position = Some(at);
        if at.phase == ScrubPhase::Done {
            state.running = false;
            state.ended = Some(self.options.clock.now());
        }
        at.phase != ScrubPhase::Done
    }

    /// The tree that the position is in; moves the position on where there is none any more.
    fn scrub_target(&self, at: &mut ScrubPosition) -> Option<Target> {
        match at.phase {
            ScrubPhase::Catalog => {
                let tree = self.lineage.lock().tree.clone();
                Some(Target { tree, keep: None, member: None })
            }
            ScrubPhase::Snapshots => {
                let lineage = self.lineage.lock();
                let frozen = lineage.members().filter(|(_, member)| {
                    matches!(member.record.kind, MemberKind::Snapshot | MemberKind::Zombie)
                        && member.record.epoch <= at.until
                });
                let places = frozen.map(|(id, member)| (member.record.epoch, id));
                let next = places.filter(|(epoch, id)| (*epoch, id.0) >= (at.epoch, at.number));
                let Some((epoch, id)) = next.min() else {
                    enter(at, ScrubPhase::Heads);
                    return None;
                };
                if (epoch, id.0) != (at.epoch, at.number) {
                    (at.epoch, at.number, at.cursor) = (epoch, id.0, Key::MIN);
                }
                let root = lineage.member(id).and_then(|member| member.root.as_ref());
                let Some(tree) = root.map(|root| root.tree.clone()) else {
                    advance(at);
                    return None;
                };
                Some(Target { tree, keep: Some(lineage.parent_epoch(id)), member: Some(id) })
            }
            ScrubPhase::Heads => {
                let volumes = self.volumes.read();
                let Some((id, volume)) = volumes.range(VolumeId(at.number)..).next() else {
                    enter(at, ScrubPhase::Done);
                    return None;
                };
                if id.0 != at.number {
                    (at.number, at.cursor) = (id.0, Key::MIN);
                }
                let volume = Arc::clone(volume);
                drop(volumes);
                let head = volume.head.read();
                let older = head.ancestors.partition_point(|epoch| *epoch <= at.until);
                let keep = older.checked_sub(1).and_then(|last| head.ancestors.get(last)).copied();
                let (tree, member) = (head.root.tree.clone(), Some(head.member));
                Some(Target { tree, keep: Some(keep.unwrap_or_default()), member })
            }
            ScrubPhase::Checkpoint | ScrubPhase::Done => None,
        }
    }
}

/// Begins a phase.
fn enter(at: &mut ScrubPosition, phase: ScrubPhase) {
    *at = ScrubPosition { phase, epoch: Epoch(0), number: 0, cursor: Key::MIN, ..*at };
}

/// Moves on behind a tree that is done.
fn advance(at: &mut ScrubPosition) {
    match at.phase {
        ScrubPhase::Checkpoint => enter(at, ScrubPhase::Catalog),
        ScrubPhase::Catalog => enter(at, ScrubPhase::Snapshots),
        ScrubPhase::Snapshots | ScrubPhase::Heads => {
            at.number += 1;
            at.cursor = Key::MIN;
        }
        ScrubPhase::Done => {}
    }
}

struct Walk<'a> {
    pool: &'a Pool,
    keep: Option<Epoch>,
    cursor: Key,
    /// Bytes that this step may still read.
    bytes: u64,
    found: &'a mut Found,
}

impl Walk<'_> {
    /// Whether a reference of that birth is an ancestor's, too.
    fn is_older(&self, birth: Epoch) -> bool {
        self.keep.is_some_and(|keep| birth <= keep)
    }

    /// Verifies what is behind the cursor below `child`, and breaks when the step is over.
    fn verify(
        &mut self,
        child: &Child,
        level: u8,
        low: Option<Key>,
        end: Option<Key>,
    ) -> ControlFlow<()> {
        if self.is_older(child.birth) || end.is_some_and(|end| end <= self.cursor) {
            return ControlFlow::Continue(());
        }
        if self.bytes == 0 || self.found.nodes >= STEP_NODES {
            return ControlFlow::Break(());
        }
        let first = low.unwrap_or(Key::MIN);
        let again = self.cursor > first;
        match self.load(child, level, low.map(|low| (low, end)), again) {
            Err(error) => {
                let finding = Finding::records(first.max(self.cursor), end, &error);
                self.found.damage.push(finding);
            }
            Ok(node) => match &node.body {
                Body::Leaf(leaf) => {
                    let start = leaf.search(self.cursor).unwrap_or_else(|at| at);
                    for at in (start..leaf.len()).filter(|at| leaf.key(*at).is(KeyKind::Extent)) {
                        if self.bytes == 0 {
                            return ControlFlow::Break(());
                        }
                        self.extent(leaf.key(at), leaf.value(at));
                        self.cursor = leaf.key(at).successor();
                    }
                }
                Body::Internal(internal) => {
                    for (at, below) in internal.children.iter().enumerate() {
                        let end = internal.keys.get(at + 1).copied().or(end);
                        self.verify(below, level - 1, internal.keys.get(at).copied(), end)?;
                    }
                }
            },
        }
        self.cursor = self.cursor.max(end.unwrap_or(Key::MAX));
        ControlFlow::Continue(())
    }

    /// Loads a node, past the cache unless an earlier step has read it.
    fn load(
        &mut self,
        child: &Child,
        level: u8,
        bounds: crate::btree::Bounds,
        again: bool,
    ) -> std::result::Result<Arc<Node>, cache::Error> {
        let cache = &self.pool.cache;
        let node = match &child.node {
            // Not written yet, or just now.
            Some(node) => return Ok(Arc::clone(node)),
            None if again => cache.load(child, level)?,
            None => {
                self.found.nodes += 1;
                self.bytes = self.bytes.saturating_sub(NODE_SIZE as u64);
                Arc::new(cache.read(child, level)?)
            }
        };
        check_bounds(&node, bounds)?;
        Ok(node)
    }

    fn extent(&mut self, key: Key, value: &[u8]) {
        // Those of the catalog and the checkpoint tree have no such keys.
        let extent = match Extent::decode(value) {
            Ok(extent) => extent,
            Err(error) => {
                self.found.damage.push(Finding::records(key, Some(key.successor()), &error));
                return;
            }
        };
        if self.is_older(extent.birth) || extent.kind == ExtentKind::Preallocated {
            return;
        }
        let mut bytes = vec![0; extent.len_blocks as usize * BLOCK_SIZE];
        self.bytes = self.bytes.saturating_sub(bytes.len() as u64);
        self.found.blocks += u64::from(extent.len_blocks);
        let data = &self.pool.storage.data;
        let whole = data.read_at(extent.addr.offset_bytes(), &mut bytes).is_ok();
        for (nth, (block, sum)) in bytes.chunks_mut(BLOCK_SIZE).zip(&extent.checksums).enumerate() {
            let addr = extent.addr.0 + nth as u64;
            let read = match whole {
                true => Ok(()),
                false => data.read_at(addr * BLOCK_SIZE as u64, block),
            };
            let what = match read {
                Ok(()) if crc32c::crc32c(block) == *sum => continue,
                Ok(()) => format!("block {addr} of the pool: its checksum does not match"),
                Err(error) => format!("block {addr} of the pool: {error}"),
            };
            let in_file = key.sub() + nth as u64;
            match self.found.damage.last_mut() {
                // One piece for blocks that follow each other.
                Some(Finding { key: before, blocks: Some((first, len, _)), .. })
                    if before.id() == key.id() && *first + *len == in_file =>
                {
                    *len += 1;
                }
                _ => {
                    let (last, blocks) = (key.id(), Some((in_file, 1, addr)));
                    self.found.damage.push(Finding { key, last, blocks, what });
                }
            }
        }
    }
}
