//! Operations on volumes, on snapshots, and on the pool: what each does to the pool, and to the model.

use amberfs::fs::Error;

use super::found::Mounted;
use super::tree::{Model, Tree};

#[derive(Debug, Clone)]
pub(super) enum OnPool {
    Syncfs,
    Snapshot(&'static str),
    /// A snapshot of that name of `main` and of another volume.
    Group(&'static str, &'static str),
    RenameSnapshot(&'static str, &'static str),
    DeleteSnapshot(&'static str),
    Clone(&'static str, &'static str),
    Restore(&'static str, &'static str),
    DeleteVolume(&'static str),
    Quota(&'static str, Option<u64>),
    Label(&'static str, &'static str, Option<&'static str>),
    Reclaim,
    Checkpoint,
    DropCache,
}

use OnPool::*;

impl OnPool {
    pub(super) fn is_sync(&self) -> bool {
        matches!(self, Syncfs | Snapshot(_) | Group(..) | Checkpoint)
    }

    pub(super) fn carry_out(&self, on: &Mounted) -> Result<(), Error> {
        let (pool, main) = (&on.pool, on.fs.volume().id());
        match *self {
            Syncfs => on.fs.syncfs(),
            Snapshot(name) => on.fs.create_snapshot(name).map(drop),
            Group(other, name) => {
                pool.create_group(&[main, pool.volume(other)?.id()], name)?;
                Ok(pool.sync()?)
            }
            RenameSnapshot(from, to) => Ok(pool.rename_snapshot(main, from, to)?),
            DeleteSnapshot(name) => Ok(pool.delete_snapshot(main, name)?),
            Clone(snapshot, name) => {
                let origin = pool.snapshot(main, snapshot)?;
                Ok(pool.clone_volume(origin.member, name).map(drop)?)
            }
            Restore(snapshot, kept) => Ok(pool.restore(main, snapshot, kept)?),
            DeleteVolume(name) => Ok(pool.delete_volume(name)?),
            Quota(volume, quota) => Ok(pool.set_volume(volume, Some(quota), &[])?),
            Label(volume, key, value) => {
                let label = (key.to_owned(), value.map(str::to_owned));
                Ok(pool.set_volume(volume, None, &[label])?)
            }
            Reclaim => {
                while pool.run_reclaim()? {}
                Ok(())
            }
            Checkpoint => Ok(pool.checkpoint()?),
            DropCache => {
                pool.drop_cache();
                Ok(())
            }
        }
    }

    /// The same on the model; nothing if there is nothing to do it to.
    pub(super) fn model(&self, model: &mut Model) -> Option<()> {
        let of = |volume: &str, name: &str| format!("{volume}@{name}");
        match *self {
            Snapshot(name) => freeze(model, "main", name)?,
            Group(other, name) => {
                freeze(model, "main", name)?;
                freeze(model, other, name)?;
            }
            RenameSnapshot(from, to) => {
                let tree = model.remove(&of("main", from))?;
                model.insert(of("main", to), tree);
            }
            DeleteSnapshot(name) => drop(model.remove(&of("main", name))?),
            Clone(from, name) => {
                let tree = model.get(&of("main", from))?.clone();
                model.insert(name.into(), tree);
            }
            Restore(from, kept) => {
                freeze(model, "main", kept)?;
                let tree = model.get(&of("main", from))?.clone();
                let live = model.get_mut("main")?;
                (live.names, live.nodes) = (tree.names, tree.nodes);
            }
            DeleteVolume(name) => {
                model.remove(name)?;
                // Its snapshots are there still, but not to be read.
                model.retain(|other, _| !other.starts_with(&of(name, "")));
            }
            Quota(volume, quota) => model.get_mut(volume)?.quota = quota,
            Label(volume, key, Some(value)) => {
                model.get_mut(volume)?.labels.insert(key.into(), value.into());
            }
            Label(volume, key, None) => drop(model.get_mut(volume)?.labels.remove(key)?),
            Syncfs | Reclaim | Checkpoint | DropCache => {}
        }
        Some(())
    }
}

fn freeze(model: &mut Model, volume: &str, name: &str) -> Option<()> {
    let (quota, labels) = Default::default();
    let frozen = Tree { quota, labels, ..model.get(volume)?.released() };
    model.insert(format!("{volume}@{name}"), frozen);
    Some(())
}
