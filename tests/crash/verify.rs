//! What a pool must hold after a crash, by its history.

use std::collections::BTreeMap;
use std::sync::Arc;

use amberfs::check::{Options, check};
use amberfs::device::Storage;
use amberfs::fs::Filesystem;
use amberfs::pool::Pool;

use crate::state::{State, Tree, mount};
use crate::workload::{Durable, World, open_options};

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
    pub mounts: BTreeMap<String, Filesystem>,
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
        State::of(&self.pool, &self.mounts)
    }
}

/// Checks the pool that a crash at a point of the log has left, and returns the step whose metadata it has.
/// In the midst of an operation of several parts that is the operation's own.
///
/// # Panics
/// If a promise is broken; `what` says which crash it was.
pub(crate) fn verify(
    world: &World,
    storage: &Storage,
    at: usize,
    crash: Crash,
    what: &str,
) -> usize {
    let options = Options { data: true, files: true };
    let report = check(storage, &options, &mut |_| {}).expect("it is a pool");
    assert!(report.is_clean(), "{what}: {:#?}", report.problems);
    let reopened = Reopened::new(storage.clone());
    let state = reopened.state();
    let step = find_step(world, &state, at, crash, what);
    let whole = world.steps[step].state.same_metadata(&state);
    for (name, volume) in &state.volumes {
        let history = History { world, at, crash, name, step, whole };
        history.verify_tree(&volume.live, None, what);
        for (snapshot, number) in &volume.snapshots {
            let base = Arc::clone(reopened.mounts[name].volume());
            let tree = Tree::of(&mount(base, Some(snapshot)));
            history.verify_tree(&tree, Some(*number), &format!("{what}, snapshot {snapshot}"));
        }
    }
    reopened.pool.abandon();
    step
}

/// Finds the step after which the metadata was what it is now; it is one that may be.
fn find_step(world: &World, state: &State, at: usize, crash: Crash, what: &str) -> usize {
    let acknowledged = world.steps.iter().rposition(|step| step.done <= at).unwrap_or(0);
    let synced = |step: &crate::workload::Step| step.done <= at && step.durable != Durable::Nothing;
    let durable = world.steps.iter().rposition(synced).unwrap_or(0);
    let first = if crash == Crash::Kill { acknowledged } else { durable };
    let last = world.steps.iter().rposition(|step| step.begun <= at).unwrap_or(0);
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

/// What may be in a volume's files.
struct History<'a> {
    world: &'a World,
    at: usize,
    crash: Crash,
    name: &'a str,
    /// Step whose metadata was found.
    step: usize,
    /// Whether that step is done, and not only begun.
    whole: bool,
}

impl History<'_> {
    fn verify_tree(&self, tree: &Tree, snapshot: Option<u32>, what: &str) {
        // A snapshot's content is that of its making, and whole as soon as anything synced all since.
        let frozen = snapshot.map(|number| &self.world.frozen[&(self.name.to_owned(), number)]);
        if let Some(frozen) = frozen {
            assert!(tree.files == frozen.tree.files, "{what}: the metadata has changed");
        }
        let step = frozen.map_or(self.step, |frozen| frozen.step);
        for (ino, content) in &tree.content {
            let now = frozen.map(|frozen| &*frozen.tree.content[ino]);
            self.verify_content(*ino, content, step, now, what);
        }
    }

    /// The first step from which on a file's data may be found, if its state is that of `step`.
    fn durable(&self, ino: u64, step: usize) -> usize {
        if self.crash == Crash::Kill {
            return step;
        }
        let synced = self.world.steps.iter().enumerate().filter(|(_, s)| s.done <= self.at);
        let synced = synced.filter(|(at, s)| match &s.durable {
            Durable::Everything => true,
            // Of a snapshot, only what was synced until it was made.
            Durable::File(name, file) => *at <= step && name == self.name && *file == ino,
            Durable::Nothing => false,
        });
        synced.map(|(at, _)| at.min(step)).max().unwrap_or(0)
    }

    fn verify_content(
        &self,
        ino: u64,
        content: &[u8],
        step: usize,
        now: Option<&Vec<u8>>,
        what: &str,
    ) {
        let begun = if self.whole || now.is_some() { step } else { step - 1 };
        let first = self.durable(ino, step).min(begun);
        let empty = Vec::new();
        let versions: Vec<&[u8]> = self.world.steps[first..=step]
            .iter()
            .map(|step| {
                let volume = step.state.volumes.get(self.name);
                let content = volume.and_then(|volume| volume.live.content.get(&ino));
                content.map_or(empty.as_slice(), |content| content.as_slice())
            })
            .collect();
        // A clone's files begin as the snapshot's; a restored volume's too.
        let last = now.map_or(*versions.last().expect("at least one"), |now| now.as_slice());
        for (index, block) in content.chunks(BLOCK).enumerate() {
            let is = |version: &[u8]| same_block(version, index, block);
            if is(last) || (first < step && versions.iter().any(|version| is(version))) {
                continue;
            }
            panic!(
                "{what}: inode {ino} of '{}', block {index}: its bytes {:?}.. are none that were \
                 written from step {first} to {step}",
                self.name,
                &block[..block.len().min(16)],
            );
        }
    }
}

/// Whether a block's bytes are those of a version, which is followed by zeros.
fn same_block(version: &[u8], index: usize, block: &[u8]) -> bool {
    let start = (index * BLOCK).min(version.len());
    let there = &version[start..(start + block.len()).min(version.len())];
    there == &block[..there.len()] && block[there.len()..].iter().all(|byte| *byte == 0)
}
