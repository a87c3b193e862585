//! Volumes of a pool, and the transitions that a journal record stands for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::space::bytes_of;
use super::store::{CatalogStore, HeadStore};
use super::volume::{Head, Volume};
use super::{Error, Intent, Pool, Result, VolumeInfo, answers};
use crate::btree::Tree;
use crate::format::{
    Answer, Edit, Encoder, MAX_LABELS, MAX_NAME, MemberId, ROOT_INODE, Record, VolumeId,
    encode_answers,
};
use crate::snapshot::{Lineage, Root};
use crate::threads::{Planted, planted};

/// Checks what every name must keep to: 1 to 255 bytes, no `/`, NUL or control character, no leading `.`.
pub(super) fn check_name(kind: &str, name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME {
        "is longer than 255 bytes"
    } else if name.starts_with('.') {
        "begins with a dot"
    } else if name.contains('/') {
        "holds a slash"
    } else if name.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName(format!("the {kind} name '{}' {why}", name.escape_debug())))
}

/// Checks a volume's name: besides what holds for all, it has no `:` and no `@`.
pub fn check_volume_name(name: &str) -> Result<()> {
    check_name("volume", name)?;
    if name.contains([':', '@']) {
        return Err(Error::InvalidName(format!("the volume name '{name}' holds a ':' or '@'")));
    }
    Ok(())
}

impl Pool {
    /// Makes a change of the lineage: the only change at that instant. `plan` checks that it can be made and
    /// says what it is; the record goes to the journal and is carried out, here as in replay.
    pub(super) fn change_lineage<T>(
        self: &Arc<Self>,
        intent: Intent,
        plan: impl FnOnce(&Lineage) -> Result<(Record, T)>,
    ) -> Result<T> {
        self.throttle(intent)?;
        let gate = (!planted(Planted::GateLeftOpen)).then(|| self.gate.write());
        let (record, answer) = plan(&self.lineage.lock())?;
        let mut payload = Encoder::new();
        // A snapshot that is made is known by its member's number; the others have nothing to tell.
        let result = match &record {
            Record::Snapshot { snapshots, .. } => snapshots.first().map_or(0, |new| new.member.0),
            _ => 0,
        };
        let completed = answers::current().map(|request| Answer { request, result });
        encode_answers(completed.as_slice(), &mut payload);
        record.encode(&mut payload);
        let seq = self.journal.append(&payload.0)?;
        completed.into_iter().for_each(|answer| self.answers.completed(answer));
        self.changed.store(true, Ordering::Relaxed);
        let changing = self.changing();
        let done = self.apply_lineage(&record);
        // With the gate still closed, or a checkpoint that waits for it would keep half a change.
        done.map_err(|error| self.fail("changing the lineage", error))?;
        self.count_shared_nodes();
        drop(changing);
        drop(gate);
        self.journal.write_out(seq).map_err(|e| self.fail("writing the journal", e.into()))?;
        Ok(answer)
    }

    /// Carries out a record that is no operation on a volume's head. The gate is closed.
    pub(super) fn apply_lineage(self: &Arc<Self>, record: &Record) -> Result<()> {
        let store = &mut CatalogStore { pool: self };
        match record {
            Record::Commit { .. } | Record::Copy { .. } | Record::Answers { .. } => Ok(()),
            Record::CreateVolume { volume, head, created, name, edits } => {
                let root = self.first_root(edits)?;
                let mut lineage = self.lineage.lock();
                lineage.create_volume(*volume, *head, name, *created, None, store)?;
                let state = Head::grown(&lineage, *volume, *head, root)?;
                drop(lineage);
                self.add_volume(*volume, state);
                Ok(())
            }
            Record::DeleteVolume { volume } => {
                let found = self.volumes.write().remove(volume);
                let found = found.ok_or_else(|| unknown("volume", volume.0))?;
                // A deleted snapshot that both this head and another grew from goes now.
                self.gather_dead();
                let mut head = found.head.write();
                head.deleted = true;
                let root = head.root.clone();
                self.lineage.lock().delete_volume(*volume, root, store)?;
                self.refresh_heads();
                Ok(())
            }
            Record::SetVolume { volume, quota_bytes, labels } => {
                let quota = (*quota_bytes > 0).then_some(*quota_bytes);
                // A volume that is deleted but for its snapshots has no head to limit.
                if let Some(volume) = self.volumes.read().get(volume) {
                    volume.head.write().quota_bytes = quota;
                }
                Ok(self.lineage.lock().set_volume(*volume, quota, labels.clone(), store)?)
            }
            Record::Snapshot { created, name, snapshots } => {
                let pairs: Vec<_> = snapshots.iter().map(|new| (new.volume, new.member)).collect();
                self.apply_snapshots(*created, name, &pairs)
            }
            Record::DeleteSnapshot { member } => self.apply_delete_snapshot(*member),
            Record::RenameSnapshot { member, name } => {
                Ok(self.lineage.lock().rename_snapshot(*member, name, store)?)
            }
            Record::Clone { origin, volume, head, created, name } => {
                let mut lineage = self.lineage.lock();
                let root = origin_root(&lineage, *origin)?;
                lineage.create_volume(*volume, *head, name, *created, Some(*origin), store)?;
                let state = Head::grown(&lineage, *volume, *head, root)?;
                drop(lineage);
                self.add_volume(*volume, state);
                Ok(())
            }
            Record::Restore { volume, origin, kept, head, created, name } => {
                self.apply_snapshots(*created, name, &[(*volume, *kept)])?;
                self.apply_replace_head(*volume, *origin, *head)
            }
        }
    }

    /// The state that a new volume begins with.
    fn first_root(&self, edits: &[Edit]) -> Result<Root> {
        let mut store = HeadStore::new(self, self.epoch());
        let tree = Tree::new(&mut store)?;
        let mut root = Root { tree, data_blocks: 0, next_inode: ROOT_INODE.0 + 1 };
        let mut dropped = Vec::new();
        self.apply_edits(edits, &mut root, &mut store, &mut dropped)?;
        // Nothing of a new tree was there before: what it let go is nobody else's.
        let runs = store
            .retired
            .iter()
            .map(|(addr, _)| crate::format::Run::new(*addr, crate::format::NODE_BLOCKS));
        self.free_runs(&runs.collect::<Vec<_>>());
        Ok(root)
    }

    /// Opens a head. The lineage is not locked.
    pub(super) fn add_volume(self: &Arc<Self>, id: VolumeId, head: Head) {
        let volume = Volume::new(Arc::clone(self), id, head);
        self.volumes.write().insert(id, Arc::new(volume));
    }

    /// Returns a volume by its number.
    pub(crate) fn volume_by_id(&self, id: VolumeId) -> Result<Arc<Volume>> {
        self.volumes.read().get(&id).cloned().ok_or_else(|| unknown("volume", id.0))
    }

    /// Makes a volume whose tree holds what `initial` puts; acknowledged when this returns, durable after
    /// [`Pool::sync`].
    pub fn create_volume(self: &Arc<Self>, name: &str, initial: &[Edit]) -> Result<Arc<Volume>> {
        check_volume_name(name)?;
        let created = self.options.clock.now();
        let volume = self.change_lineage(Intent::Grow, |lineage| {
            no_volume_named(lineage, name)?;
            let (volume, head) = (VolumeId(lineage.next_volume), MemberId(lineage.next_member));
            let (name, edits) = (name.to_owned(), initial.to_vec());
            Ok((Record::CreateVolume { volume, head, created, name, edits }, volume))
        })?;
        self.volume_by_id(volume)
    }

    /// Opens the volume of that name.
    pub fn volume(&self, name: &str) -> Result<Arc<Volume>> {
        let id = self.lineage.lock().volume_named(name);
        let found = id.and_then(|id| self.volumes.read().get(&id).cloned());
        found.ok_or_else(|| Error::NotFound(format!("volume '{name}'")))
    }

    /// Deletes a volume's live state; its snapshots stay until they are deleted themselves.
    ///
    /// Its space comes back in the background. Open handles of the volume get [`Error::Stale`].
    pub fn delete_volume(self: &Arc<Self>, name: &str) -> Result<()> {
        self.change_lineage(Intent::Shrink, |lineage| {
            let volume = lineage.volume_named(name);
            let living = volume
                .filter(|id| lineage.volume(*id).is_some_and(|entry| entry.record.head.is_some()));
            let volume = living.ok_or_else(|| Error::NotFound(format!("volume '{name}'")))?;
            Ok((Record::DeleteVolume { volume }, ()))
        })
    }

    /// Sets a volume's quota, where `quota` says one (or none), and labels; a label without a value is
    /// removed.
    pub fn set_volume(
        self: &Arc<Self>,
        name: &str,
        quota: Option<Option<u64>>,
        labels: &[(String, Option<String>)],
    ) -> Result<()> {
        self.change_lineage(Intent::Grow, |lineage| {
            let volume = lineage.volume_named(name);
            let volume = volume.ok_or_else(|| Error::NotFound(format!("volume '{name}'")))?;
            let record = lineage.volume(volume).map(|entry| &entry.record);
            let record = record.ok_or_else(|| unknown("volume", volume.0))?;
            let mut all: BTreeMap<_, _> = record.labels.iter().cloned().collect();
            for (key, value) in labels {
                match value {
                    Some(value) => drop(all.insert(key.clone(), value.clone())),
                    None => drop(all.remove(key)),
                }
            }
            check_labels(&all)?;
            let quota_bytes = quota.unwrap_or(record.quota_bytes).unwrap_or(0);
            let labels = all.into_iter().collect();
            Ok((Record::SetVolume { volume, quota_bytes, labels }, ()))
        })
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let heads: BTreeMap<_, _> =
            self.volumes.read().iter().map(|(id, volume)| (*id, Arc::clone(volume))).collect();
        let mut figures = BTreeMap::new();
        for (id, volume) in heads {
            let head = volume.head.read();
            figures.insert(id, (head.root.referenced_blocks(), head.dead.blocks_all()));
        }
        let lineage = self.lineage.lock();
        let mut listed: Vec<_> = lineage
            .volumes()
            .map(|(id, entry)| {
                let record = &entry.record;
                let (referenced, buffered) = figures.get(&id).copied().unwrap_or_default();
                VolumeInfo {
                    id,
                    name: record.name.clone(),
                    created: record.created,
                    head: record.head,
                    referenced_bytes: bytes_of(referenced),
                    exclusive_bytes: record.head.map_or(0, |head| {
                        self.head_exclusive(&lineage, head, referenced, buffered)
                    }),
                    labels: record.labels.iter().cloned().collect(),
                    quota_bytes: record.quota_bytes,
                    snapshots: entry.snapshots.len(),
                }
            })
            .collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        listed
    }

    /// Bytes of a head that its parent does not have.
    fn head_exclusive(
        &self,
        lineage: &Lineage,
        head: MemberId,
        referenced: u64,
        buffered: u64,
    ) -> u64 {
        let Some(member) = lineage.member(head) else { return 0 };
        let parent = member.record.parent.and_then(|parent| lineage.member(parent));
        let Some(parent) = parent.and_then(|parent| parent.root.as_ref()) else {
            return bytes_of(referenced);
        };
        let all = crate::format::Epoch(crate::format::MAX_SUB);
        let store = CatalogStore { pool: self };
        let dropped = lineage.dead_blocks(member.record.deadlist, Default::default(), all, &store);
        let shared = parent.referenced_blocks().saturating_sub(dropped.unwrap_or(0) + buffered);
        bytes_of(referenced.saturating_sub(shared))
    }
}

pub(super) fn unknown(what: &str, number: u64) -> Error {
    Error::Corrupt(format!("there is no {what} {number}"))
}

pub(super) fn no_volume_named(lineage: &Lineage, name: &str) -> Result<()> {
    match lineage.volume_named(name) {
        Some(_) => Err(Error::Exists(format!("volume '{name}'"))),
        None => Ok(()),
    }
}

pub(super) fn origin_root(lineage: &Lineage, origin: MemberId) -> Result<Root> {
    let root = lineage.member(origin).and_then(|member| member.root.clone());
    root.ok_or_else(|| unknown("snapshot", origin.0))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(Error::Limit(format!("a volume has at most {MAX_LABELS} labels")));
    }
    for (key, value) in labels {
        check_name("label", key)?;
        if value.len() > MAX_NAME {
            return Err(Error::Limit(format!(
                "the value of label '{key}' is longer than 255 bytes"
            )));
        }
    }
    Ok(())
}
