//! Comparing what a power cut has left with what was promised.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cells::Random;
use crate::host::{
    Found, FoundFile, Place, Tree, before_restores, directory, in_snapshot, snapshots,
};
use crate::model::{File, Node, State};
use crate::record::Record;

/// What is on a volume of one thread.
struct OnDisk {
    live: Tree,
    snapshots: BTreeMap<String, Tree>,
    /// The snapshots that restoring made, oldest first.
    before: Vec<Tree>,
    /// By their volumes' names.
    clones: BTreeMap<String, OnDisk>,
}

impl OnDisk {
    /// Reads a volume.
    fn read_volume(mount: &Path, state: &State) -> Result<OnDisk, String> {
        let live =
            Tree::read(&directory(mount, state))?.ok_or("the thread's directory is missing")?;
        let names = snapshots(mount).map_err(|error| format!("the list of snapshots: {error}"))?;
        let read = |name: &String| {
            Tree::read(&in_snapshot(mount, name, state)).map(Option::unwrap_or_default)
        };
        let own = names.iter().filter(|name| name.starts_with(&state.prefix()));
        let frozen = own.map(|name| Ok((name.clone(), read(name)?)));
        let snapshots = frozen.collect::<Result<_, String>>()?;
        let before = before_restores(&names).map(read).collect::<Result<_, _>>()?;
        Ok(OnDisk { live, snapshots, before, clones: BTreeMap::new() })
    }

    /// Reads a volume and the clones of one thread.
    fn read(place: Place<'_>, state: &State) -> Result<OnDisk, String> {
        let mut found = OnDisk::read_volume(place.mount, state)?;
        let Some(amberfs) = place.amberfs else { return Ok(found) };
        for name in amberfs.volumes().map_err(|error| error.to_string())? {
            if name.starts_with(&state.prefix()) {
                let failed = |error| format!("the clone {name}: {error}");
                let io = |error: std::io::Error| failed(error.to_string());
                let dir = amberfs.mount(place.mount, &name).map_err(io)?;
                let clone = OnDisk::read_volume(&dir, state).map_err(failed)?;
                amberfs.umount(&dir).map_err(io)?;
                found.clones.insert(name, clone);
            }
        }
        Ok(found)
    }
}

/// Returns the operation up to which everything of a thread is there.
///
/// That is one not before the last that promised something and had returned, and not after the first that
/// had not; of a thread that was verified before, the one that was found then.
pub(crate) fn verify(place: Place<'_>, record: &Record) -> Result<u32, String> {
    let mut state = State::new(record.round, record.thread);
    let found = OnDisk::read(place, &state)?;
    let mut random = Random(record.seed());
    let mut candidates = vec![(0, state.clone())];
    for seq in 1..=record.done + 1 {
        let op = state.next(&mut random, seq, record.snapshots);
        state.apply(&op, seq);
        if seq <= record.done && op.promises() {
            state.settle(&op);
            candidates.clear();
        }
        candidates.push((seq, state.clone()));
    }
    if let Some(settled) = record.settled {
        candidates.retain(|(seq, _)| *seq == settled);
    }
    let mut why = Vec::new();
    for (seq, state) in candidates.iter().rev() {
        match compare(&found, state) {
            Ok(()) => return Ok(*seq),
            Err(error) => why.push(format!("after operation {seq}: {error}")),
        }
    }
    Err(format!(
        "round {} thread {} of run {}, {} operations returned: what is there was never so:\n  {}",
        record.round,
        record.thread,
        record.run,
        record.done,
        why.join("\n  ")
    ))
}

fn compare(found: &OnDisk, state: &State) -> Result<(), String> {
    compare_tree(&found.live, state)?;
    if !found.snapshots.keys().eq(state.snapshots.keys()) {
        let there: Vec<_> = found.snapshots.keys().collect();
        return Err(format!("snapshots {there:?}, not {:?}", state.snapshots.keys()));
    }
    for (name, frozen) in &state.snapshots {
        let same = compare_tree(&found.snapshots[name], frozen);
        same.map_err(|error| format!("snapshot {name}: {error}"))?;
    }
    let clones = state.clone.iter().map(|clone| &clone.name);
    if !found.clones.keys().eq(clones) {
        let there: Vec<_> = found.clones.keys().collect();
        return Err(format!("clones {there:?}, not {:?}", state.clone.as_ref().map(|c| &c.name)));
    }
    for (found, clone) in found.clones.values().zip(&state.clone) {
        let failed = |error| format!("clone {}: {error}", clone.name);
        compare(found, &clone.live).map_err(failed)?;
        if found.before.len() != clone.before.len() {
            let (there, expected) = (found.before.len(), clone.before.len());
            return Err(failed(format!("was restored {there} times, not {expected}")));
        }
        for (found, before) in found.before.iter().zip(&clone.before) {
            let same = compare_tree(found, before);
            same.map_err(|error| failed(format!("before a restore: {error}")))?;
        }
    }
    Ok(())
}

fn compare_tree(tree: &Tree, state: &State) -> Result<(), String> {
    let missing = state.names.keys().find(|path| !tree.names.contains_key(*path));
    let more = tree.names.keys().find(|path| !state.names.contains_key(*path));
    if let Some(path) = missing {
        return Err(format!("'{path}' is missing"));
    }
    if let Some(path) = more {
        return Err(format!("'{path}' is there"));
    }
    let mut numbers = BTreeMap::new();
    for (path, node) in &state.names {
        let wrong = |what: &str| Err(format!("'{path}' {what}"));
        match (node, &tree.names[path]) {
            (Node::Dir, Found::Dir) => {}
            (Node::Symlink(target), Found::Symlink(found)) if target == found => {}
            (Node::File(number), Found::File(ino)) => {
                if numbers.insert(number, ino).is_some_and(|other| other != ino) {
                    return wrong("is not the same file as its other name");
                }
                let links = state.names.values().filter(|other| *other == node).count() as u64;
                let same = compare_file(&tree.files[ino], &state.files[number], links);
                same.map_err(|error| format!("'{path}' {error}"))?;
            }
            (node, found) => return wrong(&format!("is {found:?}, not {node:?}")),
        }
    }
    Ok(())
}

fn compare_file(found: &FoundFile, file: &File, links: u64) -> Result<(), String> {
    let attributes = (found.links, found.mode, &found.xattr);
    if attributes != (links, file.mode, &file.xattr) {
        let expected = (links, file.mode, &file.xattr);
        return Err(format!("has links, mode and attribute {attributes:?}, not {expected:?}"));
    }
    let (len, most) = (found.cells.len(), file.cells.len());
    if !(file.least.min(most)..=most).contains(&len) {
        return Err(format!("has {len} cells, not {} to {most}", file.least));
    }
    for (at, (found, cell)) in found.cells.iter().zip(&file.cells).enumerate() {
        if *found != cell.now && !cell.maybe.contains(found) {
            return Err(format!("has {found:?} in cell {at}, not one of {cell:?}"));
        }
    }
    Ok(())
}
