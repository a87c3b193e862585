//! Snapshots, clones and restores.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::space::bytes_of;
use super::store::CatalogStore;
use super::volumes::{check_name, check_volume_name, no_volume_named, origin_root, unknown};
use super::{Error, Intent, Pool, Result, SnapshotInfo, Volume};
use crate::format::{Epoch, MemberId, NewSnapshot, Record, Timestamp, VolumeId};
use crate::snapshot::{Lineage, Member};

/// Snapshots that a volume can have in its life: node ids of views keep 21 bits for the number.
pub(super) const MAX_SNAPSHOT_NUMBER: u32 = (1 << 21) - 1;

/// Checks a snapshot's name: besides what holds for all names, it has no leading `@`.
pub fn check_snapshot_name(name: &str) -> Result<()> {
    check_name("snapshot", name)?;
    if name.starts_with('@') {
        return Err(Error::InvalidName(format!("the snapshot name '{name}' begins with '@'")));
    }
    Ok(())
}

/// Nodes that a head of so many may share with the snapshot that it grew from.
pub(super) fn shared_nodes(lineage: &Lineage, head: MemberId, nodes: u64) -> u64 {
    let parent = lineage.member(head).and_then(|member| member.record.parent);
    let root = parent.and_then(|parent| lineage.member(parent)).and_then(|it| it.root.as_ref());
    root.map_or(0, |root| root.tree.nodes.min(nodes))
}

impl Pool {
    /// Freezes a volume as it is at this instant; durable after [`Pool::sync`].
    pub fn create_snapshot(self: &Arc<Self>, volume: VolumeId, name: &str) -> Result<SnapshotInfo> {
        let made = self.create_group(&[volume], name)?;
        made.into_iter().next().ok_or_else(|| unknown("volume", volume.0))
    }

    /// Freezes several volumes at one instant, each with a snapshot of that name: all or none.
    pub fn create_group(
        self: &Arc<Self>,
        volumes: &[VolumeId],
        name: &str,
    ) -> Result<Vec<SnapshotInfo>> {
        check_snapshot_name(name)?;
        let created = self.options.clock.now();
        let heads = self.head_nodes(volumes);
        self.change_lineage(Intent::Grow, |lineage| {
            let mut snapshots = Vec::new();
            for (volume, next) in volumes.iter().zip(lineage.next_member..) {
                can_snapshot(lineage, *volume, name)?;
                if snapshots.iter().any(|new: &NewSnapshot| new.volume == *volume) {
                    return Err(Error::Exists(format!("snapshot '{name}'")));
                }
                snapshots.push(NewSnapshot { volume: *volume, member: MemberId(next) });
            }
            let more =
                heads.iter().map(|(head, nodes)| nodes - shared_nodes(lineage, *head, *nodes));
            self.check_room_for_copies(more.sum())?;
            let members: Vec<_> = snapshots.iter().map(|new| new.member).collect();
            Ok((Record::Snapshot { created, name: name.to_owned(), snapshots }, members))
        })
        .and_then(|members| {
            let lineage = self.lineage.lock();
            members.into_iter().map(|id| self.info(&lineage, id)).collect()
        })
    }

    /// Deletes a snapshot. Its name is gone when this returns; its space comes back in the background.
    pub fn delete_snapshot(self: &Arc<Self>, volume: VolumeId, name: &str) -> Result<()> {
        self.change_lineage(Intent::Shrink, |lineage| {
            let member = find(lineage, volume, name)?;
            Ok((Record::DeleteSnapshot { member }, ()))
        })
    }

    /// Gives a snapshot another name.
    pub fn rename_snapshot(self: &Arc<Self>, volume: VolumeId, from: &str, to: &str) -> Result<()> {
        check_snapshot_name(to)?;
        self.change_lineage(Intent::Shrink, |lineage| {
            let member = find(lineage, volume, from)?;
            if from != to && find(lineage, volume, to).is_ok() {
                return Err(Error::Exists(format!("snapshot '{to}'")));
            }
            Ok((Record::RenameSnapshot { member, name: to.to_owned() }, ()))
        })
    }

    /// Makes a volume whose live state begins as a snapshot, without copying anything.
    pub fn clone_volume(self: &Arc<Self>, origin: MemberId, name: &str) -> Result<Arc<Volume>> {
        check_volume_name(name)?;
        let created = self.options.clock.now();
        let volume = self.change_lineage(Intent::Grow, |lineage| {
            no_volume_named(lineage, name)?;
            let origin_member = lineage.member(origin).filter(|member| member.is_snapshot());
            let origin_member = origin_member.ok_or(Error::Stale)?;
            let root = origin_member.root.as_ref();
            self.check_room_for_copies(root.map_or(0, |root| root.tree.nodes))?;
            let volume = VolumeId(lineage.next_volume);
            // The snapshot need not have been synced when it was made.
            self.unsynced.inherit(origin_member.record.volume, volume);
            let head = MemberId(lineage.next_member);
            let name = name.to_owned();
            Ok((Record::Clone { origin, volume, head, created, name }, volume))
        })?;
        self.volume_by_id(volume)
    }

    /// Makes a volume what it was in a snapshot. What it is now stays as the snapshot `keep_as`, so that
    /// the restore can be undone.
    pub fn restore(
        self: &Arc<Self>,
        volume: VolumeId,
        snapshot: &str,
        keep_as: &str,
    ) -> Result<()> {
        check_snapshot_name(keep_as)?;
        let created = self.options.clock.now();
        self.change_lineage(Intent::Grow, |lineage| {
            let origin = find(lineage, volume, snapshot)?;
            can_snapshot(lineage, volume, keep_as)?;
            let root = lineage.member(origin).and_then(|member| member.root.as_ref());
            self.check_room_for_copies(root.map_or(0, |root| root.tree.nodes))?;
            let (kept, head) = (MemberId(lineage.next_member), MemberId(lineage.next_member + 1));
            let name = keep_as.to_owned();
            Ok((Record::Restore { volume, origin, kept, head, created, name }, ()))
        })
    }

    /// Snapshots of a volume, by creation.
    pub fn snapshots(&self, volume: VolumeId) -> Vec<SnapshotInfo> {
        let lineage = self.lineage.lock();
        let Some(entry) = lineage.volume(volume) else { return Vec::new() };
        let infos = entry.snapshots.values().filter_map(|id| self.info(&lineage, *id).ok());
        let mut infos: Vec<_> = infos.collect();
        infos.sort_by_key(|info| info.number);
        infos
    }

    /// Number of a volume's snapshots, and the newest; at a cost that does not rise with their number.
    pub fn newest_snapshot(&self, volume: VolumeId) -> Option<(usize, SnapshotInfo)> {
        let lineage = self.lineage.lock();
        let (member, count) = lineage.newest_snapshot(volume)?;
        Some((count, self.info(&lineage, member).ok()?))
    }

    /// The snapshot of that name.
    pub fn snapshot(&self, volume: VolumeId, name: &str) -> Result<SnapshotInfo> {
        let lineage = self.lineage.lock();
        self.info(&lineage, find(&lineage, volume, name)?)
    }

    /// The snapshot of that number within its volume; [`Error::Stale`] if it has been deleted.
    pub fn snapshot_by_number(&self, volume: VolumeId, number: u32) -> Result<SnapshotInfo> {
        let lineage = self.lineage.lock();
        let id = lineage.snapshot_numbered(volume, number).ok_or(Error::Stale)?;
        self.info(&lineage, id)
    }

    /// Bytes that only this snapshot holds: what deleting it would give back.
    ///
    /// A snapshot that several others (clones, a restored head) grow from gives nothing back before one of
    /// them is left: 0.
    pub fn exclusive_bytes(&self, member: MemberId) -> Result<u64> {
        let _gate = self.gate.write();
        self.gather_dead();
        let lineage = self.lineage.lock();
        let blocks = lineage.exclusive_blocks(member, &CatalogStore { pool: self })?;
        Ok(bytes_of(blocks))
    }

    /// Hands what heads have gathered for their deadlists to the lineage. The gate is closed.
    pub(super) fn gather_dead(&self) {
        for volume in self.volumes.read().values() {
            let mut head = volume.head.write();
            let dead = std::mem::take(&mut head.dead);
            self.lineage.lock().buffer_dead(head.deadlist, dead);
        }
    }

    /// Counts the nodes that heads may share with the snapshots that they grew from. The gate is closed.
    pub(super) fn count_shared_nodes(&self) {
        let volumes = self.volumes.read();
        let shared = volumes.values().map(|volume| {
            let head = volume.head.read();
            shared_nodes(&self.lineage.lock(), head.member, head.root.tree.nodes)
        });
        self.shared_nodes.store(shared.sum(), Ordering::Relaxed);
    }

    /// Heads and the nodes that each has.
    fn head_nodes(&self, volumes: &[VolumeId]) -> Vec<(MemberId, u64)> {
        let heads = self.volumes.read();
        let heads = volumes.iter().filter_map(|volume| heads.get(volume));
        let nodes = heads.map(|volume| {
            let head = volume.head.read();
            (head.member, head.root.tree.nodes)
        });
        nodes.collect()
    }

    /// Tells heads what a member's end has made of their ancestors. The gate is closed.
    pub(super) fn refresh_heads(&self) {
        for volume in self.volumes.read().values() {
            let mut head = volume.head.write();
            let lineage = self.lineage.lock();
            head.parent_epoch = lineage.parent_epoch(head.member);
            // Epochs of ancestors that are gone stay until they are many: a bucket of such an epoch is as
            // good as one of the next that is left. The deleted one's can't be taken out by its number,
            // which in a group is that of another volume's snapshot too.
            if head.ancestors.len() > 2 * lineage.member_count() + 64 {
                head.ancestors = lineage.ancestor_epochs(head.member);
            }
        }
    }

    fn info(&self, lineage: &Lineage, id: MemberId) -> Result<SnapshotInfo> {
        let member = lineage.member(id).ok_or(Error::Stale)?;
        let Member { record, root, .. } = member;
        let blocks = root.as_ref().map_or(0, |root| root.referenced_blocks());
        Ok(SnapshotInfo {
            member: id,
            volume: record.volume,
            number: record.number,
            name: record.name.clone(),
            created: record.created,
            epoch: record.epoch,
            parent: record.parent,
            referenced_bytes: bytes_of(blocks),
            root: root.as_ref().and_then(|root| root.tree.root.ptr()).map(|ptr| ptr.hash),
        })
    }

    /// Carries out snapshots of several heads at one epoch. The gate is closed.
    pub(super) fn apply_snapshots(
        &self,
        created: Timestamp,
        name: &str,
        snapshots: &[(VolumeId, MemberId)],
    ) -> Result<()> {
        let epoch = self.epoch();
        for (volume, member) in snapshots {
            let volume = self.volume_by_id(*volume)?;
            let mut head = volume.head.write();
            let mut lineage = self.lineage.lock();
            lineage.buffer_dead(head.deadlist, std::mem::take(&mut head.dead));
            let (root, store) = (head.root.clone(), &mut CatalogStore { pool: self });
            lineage.snapshot(volume.id, *member, name, created, epoch, root, store)?;
            let record = lineage.member(head.member).map(|member| &member.record);
            head.deadlist = record.ok_or_else(|| unknown("member", head.member.0))?.deadlist;
            head.parent_epoch = epoch;
            head.ancestors.push(epoch);
        }
        self.epoch.store(epoch.0 + 1, Ordering::Release);
        Ok(())
    }

    /// Carries out the deletion of a snapshot. The gate is closed.
    pub(super) fn apply_delete_snapshot(&self, member: MemberId) -> Result<()> {
        self.gather_dead();
        let mut lineage = self.lineage.lock();
        let found = lineage.member(member).filter(|member| member.is_snapshot());
        found.ok_or_else(|| unknown("snapshot", member.0))?;
        lineage.delete_snapshot(member, &mut CatalogStore { pool: self })?;
        drop(lineage);
        // Its readers end before its blocks can be given to anybody.
        let view = self.views.lock().remove(&member).as_ref().and_then(Weak::upgrade);
        if let Some(view) = view {
            view.end();
        }
        self.refresh_heads();
        Ok(())
    }

    /// Carries out the second half of a restore: the head, just frozen, grows from `origin` instead.
    pub(super) fn apply_replace_head(
        &self,
        volume: VolumeId,
        origin: MemberId,
        member: MemberId,
    ) -> Result<()> {
        let volume = self.volume_by_id(volume)?;
        let mut head = volume.head.write();
        let mut lineage = self.lineage.lock();
        let mut root = origin_root(&lineage, origin)?;
        // Inode numbers given out since the snapshot are not given out again.
        root.next_inode = root.next_inode.max(head.root.next_inode);
        lineage.replace_head(volume.id, origin, member, &mut CatalogStore { pool: self })?;
        let record = lineage.member(member).map(|member| &member.record);
        head.deadlist = record.ok_or_else(|| unknown("member", member.0))?.deadlist;
        head.member = member;
        head.root = root;
        head.ancestors = lineage.ancestor_epochs(member);
        head.parent_epoch = head.ancestors.last().copied().unwrap_or(Epoch(0));
        Ok(())
    }
}

fn find(lineage: &Lineage, volume: VolumeId, name: &str) -> Result<MemberId> {
    let entry = lineage.volume(volume);
    let found = entry.and_then(|entry| entry.snapshots.get(name)).copied();
    found.ok_or_else(|| Error::NotFound(format!("snapshot '{name}'")))
}

fn can_snapshot(lineage: &Lineage, volume: VolumeId, name: &str) -> Result<()> {
    let entry = lineage.volume(volume).filter(|entry| entry.record.head.is_some());
    let entry = entry.ok_or_else(|| Error::NotFound(format!("volume {volume}")))?;
    if entry.snapshots.contains_key(name) {
        return Err(Error::Exists(format!("snapshot '{name}'")));
    }
    if entry.record.next_snapshot > MAX_SNAPSHOT_NUMBER {
        return Err(Error::Limit("the volume has had as many snapshots as it can have".into()));
    }
    Ok(())
}
