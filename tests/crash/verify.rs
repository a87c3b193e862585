//! What a pool must hold after a crash, by its history.

use std::collections::BTreeMap;
use std::sync::Arc;

use amberfs::check::{Options, check};
use amberfs::device::Storage;
use amberfs::pool::Pool;

use crate::state::{Mounts, State, Tree, mount};
use crate::workload::{Durable, Moment, Past, Step, World, open_options};

const BLOCK: usize = 4096;

/// How the pool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process died: nothing that was acknowledged may be missing.
    Kill,
    /// The power went.
    Power,
}

/// A pool opened again, with all its volumes mounted.
pub(crate) struct Reopened {
    pub pool: Arc<Pool>,
    pub mounts: Mounts,
}

/// All that a pool holds: its state, and its snapshots by their volumes and numbers.
#[derive(Clone)]
pub(crate) struct Found {
    pub state: State,
    pub snapshots: BTreeMap<(String, u32), Tree>,
}

impl Reopened {
    pub(crate) fn new(storage: Storage) -> Reopened {
        let pool = Pool::open(storage, open_options()).expect("the pool opens");
        let living = pool.volumes().into_iter().filter(|volume| volume.head.is_some());
        let mounts = living.map(|info| {
            let volume = pool.volume(&info.name).expect("it is listed");
            (info.name, mount(volume, None))
        });
        let mounts = mounts.collect();
        Reopened { pool, mounts }
    }

    pub(crate) fn state(&self) -> State {
        State::of(&self.pool, &self.mounts, "")
    }

    /// Reads everything. The snapshots of a deleted volume are read through a clone: this pool is not used
    /// any more afterwards.
    pub(crate) fn read(self) -> Found {
        let state = self.state();
        let mut snapshots = BTreeMap::new();
        for info in self.pool.volumes() {
            for snapshot in self.pool.snapshots(info.id) {
                let fs = match self.mounts.get(&info.name) {
                    Some(fs) => mount(Arc::clone(fs.volume()), Some(&snapshot.name)),
                    None => {
                        let name = format!("clone of {}", snapshot.name);
                        let clone = self.pool.clone_volume(snapshot.member, &name);
                        mount(clone.expect("what is there can be cloned"), None)
                    }
                };
                snapshots.insert((info.name.clone(), snapshot.number), Tree::of(&fs));
            }
        }
        self.pool.abandon();
        Found { state, snapshots }
    }
}

/// Where and how a history was cut off.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    /// Point of the log.
    pub at: usize,
    pub crash: Crash,
    /// Which crash it was, for messages.
    pub what: String,
}

/// Checks the pool that a crash has left, and returns the step whose metadata it has. In the midst of an
/// operation of several parts that is the operation's own.
///
/// # Panics
/// If a promise is broken.
pub(crate) fn verify(world: &World, storage: &Storage, cut: &Cut) -> usize {
    verify_found(world, &open_and_read(storage, &cut.what), cut)
}

/// Checks a pool's structure, opens it, and reads everything.
pub(crate) fn open_and_read(storage: &Storage, what: &str) -> Found {
    let options = Options { data: true, files: true };
    let report = check(storage, &options, &mut |_| {}).expect("it is a pool");
    assert!(report.is_clean(), "{what}: {:#?}", report.problems);
    Reopened::new(storage.clone()).read()
}

/// Compares what a pool holds after a crash with what was promised.
pub(crate) fn verify_found(world: &World, found: &Found, cut: &Cut) -> usize {
    let what = &cut.what;
    let state = &found.state;
    let step = find_step(world, state, cut);
    let then = &world.steps[step];
    let whole = then.state.same_metadata(state);
    let content = Contents { world, cut };
    for (name, volume) in &state.volumes {
        if let Some(past) = then.pasts.get(name) {
            content.verify(&volume.live, past, whole, what);
        }
    }
    for (key, tree) in &found.snapshots {
        let frozen = &world.frozen[key];
        let what = format!("{what}, snapshot {} of '{}'", key.1, key.0);
        assert!(tree.files == frozen.tree.files, "{what}: the metadata has changed");
        content.verify(tree, &frozen.past, true, &what);
    }
    step
}

/// Finds the step after which the metadata was what it is now; it is one that may be.
fn find_step(world: &World, state: &State, cut: &Cut) -> usize {
    let Cut { at, crash, what } = cut;
    let acknowledged = world.steps.iter().rposition(|step| step.done <= *at).unwrap_or(0);
    let promised = world.promises.iter().filter(|promise| promise.at <= *at);
    let durable = promised.map(|promise| promise.step).max().unwrap_or(0);
    let first = if *crash == Crash::Kill { acknowledged } else { durable };
    let last = world.steps.iter().rposition(|step| step.begun <= *at).unwrap_or(0);
    let found = (first..=last).rev().find(|step| world.steps[*step].state.same_metadata(state));
    if let Some(found) = found {
        return found;
    }
    let half = (first.max(1)..=last).rev().find(|step| {
        world.steps[*step].op.has_parts() && world.steps[step - 1].state.same_but_for_a_file(state)
    });
    if let Some(half) = half {
        return half;
    }
    let elsewhere = world.steps.iter().position(|step| step.state.same_metadata(state));
    let expected = world.steps[first..=last].iter().map(|step| (step.op, &step.state));
    panic!(
        "{what}: the metadata is that of step {elsewhere:?}, not of one from {first} to {last}\n\
         found {:#?}\nexpected one of {:#?}",
        metadata(state),
        expected.map(|(op, state)| (op, metadata(state))).collect::<Vec<_>>(),
    );
}

fn metadata(state: &State) -> Vec<String> {
    let volumes = state.volumes.iter().flat_map(|(name, volume)| {
        let files =
            volume.live.files.iter().map(move |(path, meta)| format!("{name}{path} {meta:?}"));
        files.chain([format!("{name} snapshots {:?}", volume.snapshots)])
    });
    volumes.collect()
}

/// What may be in files.
struct Contents<'a> {
    world: &'a World,
    cut: &'a Cut,
}

impl Contents<'_> {
    /// Compares the files of a state that has this past. If it is not `whole`, the last moment of that may
    /// have come to pass in part.
    fn verify(&self, tree: &Tree, past: &Past, whole: bool, what: &str) {
        for (ino, content) in &tree.content {
            let last = past.len() - 1;
            let durable = self.durable(*ino, past).min(if whole { last } else { last - 1 });
            for (index, block) in content.chunks(BLOCK).enumerate() {
                let allowed = self.allowed(*ino, index, &past[durable..], whole);
                let is = |version: &&[u8]| same_block(version, block);
                assert!(
                    allowed.iter().any(is),
                    "{what}: inode {ino} in the past of {:?}, block {index}: its bytes {:?}.. are none of \
                     those that may be there since step {}",
                    past[last],
                    &block[..block.len().min(16)],
                    past[durable].step,
                );
            }
        }
    }

    /// The last of a past's moments whose data in a file must be there.
    fn durable(&self, ino: u64, past: &Past) -> usize {
        if self.cut.crash == Crash::Kill {
            return past.len() - 1;
        }
        let promised = self.world.promises.iter().filter(|promise| promise.at <= self.cut.at);
        let moments = promised.filter_map(|promise| match &promise.what {
            Durable::Everything => past.iter().rposition(|moment| moment.step <= promise.step),
            Durable::File(volume, file) if *file == ino => past
                .iter()
                .position(|moment| moment.step == promise.step && *moment.volume == **volume),
            Durable::File(..) => None,
        });
        moments.max().unwrap_or(0)
    }

    /// What may be in a block after the first of `moments`, which is durable, and the others, whose metadata
    /// is there: the data of a write that was lost leaves what was there before.
    fn allowed(&self, ino: u64, index: usize, moments: &[Moment], whole: bool) -> Vec<&[u8]> {
        let mut allowed: Vec<&[u8]> = Vec::new();
        for (nth, moment) in moments.iter().enumerate() {
            let step = &self.world.steps[moment.step];
            let block = block_of(step, &moment.volume, ino, index);
            let last = allowed.last();
            if last.is_some_and(|last| trimmed(last) == trimmed(block)) {
                continue;
            }
            let half = !whole && nth + 1 == moments.len();
            // Blocks that are zeroed in part are data as any.
            let edge = step.zeroed.is_some_and(|(from, to)| {
                let start = (index * BLOCK) as u64;
                from > start || to < start + BLOCK as u64
            });
            if !step.op.writes_data() && !edge && !half {
                allowed.clear();
            }
            allowed.push(block);
        }
        allowed
    }
}

/// A block of a file after a step; what is behind the file's end is left out.
fn block_of<'a>(step: &'a Step, volume: &str, ino: u64, index: usize) -> &'a [u8] {
    let content = step.state.volumes.get(volume).and_then(|volume| volume.live.content.get(&ino));
    let content = content.map_or(&[][..], |content| content.as_slice());
    let start = (index * BLOCK).min(content.len());
    &content[start..(start + BLOCK).min(content.len())]
}

/// Bytes without the zeros at their end.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..len]
}

/// Whether a block's bytes are those of a version, which is followed by zeros.
fn same_block(version: &[u8], block: &[u8]) -> bool {
    let there = &version[..version.len().min(block.len())];
    there == &block[..there.len()] && block[there.len()..].iter().all(|byte| *byte == 0)
}
