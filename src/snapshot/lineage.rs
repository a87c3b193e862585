//! The tree of lineage members and its transitions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use super::deadlist::DeadBuffer;
use super::{Error, reclaim};
use crate::btree::{Load, Reader, Store, Tree};
use crate::format::{
    ChainRecord, Epoch, FIRST_OBJECT, Key, MemberId, MemberKind, MemberRecord, Timestamp, VolumeId,
    VolumeRecord,
};

/// A state: its tree and its figures.
#[derive(Debug, Clone)]
pub struct Root {
    /// The tree.
    pub tree: Tree,
    /// Data blocks that its extents map.
    pub data_blocks: u64,
    /// Inode number that the next new inode gets.
    pub next_inode: u64,
}

impl Root {
    /// Blocks that the state refers to, nodes included.
    pub fn referenced_blocks(&self) -> u64 {
        self.data_blocks + self.tree.nodes * u64::from(crate::format::NODE_BLOCKS)
    }
}

/// A lineage member in memory.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its record in the catalog.
    pub record: MemberRecord,
    /// Members that grew from it.
    pub children: BTreeSet<MemberId>,
    /// Its state; a head's is with the pool.
    pub root: Option<Root>,
}

impl Member {
    /// Whether it is a snapshot with a name.
    pub fn is_snapshot(&self) -> bool {
        self.record.kind == MemberKind::Snapshot
    }
}

/// A volume in memory.
#[derive(Debug, Clone)]
pub struct VolumeEntry {
    /// Its record in the catalog.
    pub record: VolumeRecord,
    /// Its snapshots by name.
    pub snapshots: BTreeMap<String, MemberId>,
    /// The same by number.
    numbers: BTreeMap<u32, MemberId>,
}

impl VolumeEntry {
    fn new(record: VolumeRecord) -> Self {
        VolumeEntry { record, snapshots: BTreeMap::new(), numbers: BTreeMap::new() }
    }
}

/// Catalog of a pool: volumes, members, deadlists, reclaim work, shared counts.
#[derive(Debug)]
pub struct Lineage {
    /// The catalog tree.
    pub tree: Tree,
    pub(super) members: BTreeMap<MemberId, Member>,
    volumes: BTreeMap<VolumeId, VolumeEntry>,
    names: BTreeMap<String, VolumeId>,
    pub(super) work: BTreeMap<u64, ChainRecord>,
    pub(super) buffers: HashMap<u64, DeadBuffer>,
    pub(super) has_shared: bool,
    /// Members whose state no checkpoint has stored yet.
    pub unstored: BTreeSet<MemberId>,
    /// Members that a checkpoint has stored and that are gone since.
    pub gone: BTreeSet<MemberId>,
    /// Number of the next member.
    pub next_member: u64,
    /// Number of the next volume.
    pub next_volume: u64,
    /// Number of the next deadlist, chunk or item of work.
    pub next_object: u64,
}

impl Lineage {
    /// Makes the catalog of an empty pool over an empty tree.
    pub fn new(tree: Tree) -> Self {
        Lineage {
            tree,
            members: BTreeMap::new(),
            volumes: BTreeMap::new(),
            names: BTreeMap::new(),
            work: BTreeMap::new(),
            buffers: HashMap::new(),
            has_shared: false,
            unstored: BTreeSet::new(),
            gone: BTreeSet::new(),
            next_member: 1,
            next_volume: 1,
            next_object: FIRST_OBJECT,
        }
    }

    /// Reads the catalog's tables; `root` gives a member's state. The numbers that come next are the
    /// caller's to set.
    pub fn load(
        tree: Tree,
        load: &dyn Load,
        root: &mut dyn FnMut(MemberId) -> Result<Root, Error>,
    ) -> Result<Self, Error> {
        let mut lineage = Lineage::new(tree);
        let last = |key: Key| Key::last_of(key.id());
        let from = Key::volume(VolumeId(0));
        for (key, value) in entries(&lineage.tree, load, from, last(from))? {
            let record = VolumeRecord::decode(&value)?;
            let volume = VolumeId(key.sub());
            lineage.names.insert(record.name.clone(), volume);
            lineage.volumes.insert(volume, VolumeEntry::new(record));
        }
        let from = Key::member(MemberId(0));
        for (key, value) in entries(&lineage.tree, load, from, last(from))? {
            let record = MemberRecord::decode(&value)?;
            let id = MemberId(key.sub());
            if record.kind == MemberKind::Snapshot {
                let entry = lineage.volumes.get_mut(&record.volume);
                let entry = entry.ok_or_else(|| missing("volume", record.volume.0))?;
                entry.snapshots.insert(record.name.clone(), id);
                entry.numbers.insert(record.number, id);
            }
            let root = Some(root(id)?);
            lineage.members.insert(id, Member { record, children: BTreeSet::new(), root });
        }
        for (id, parent) in lineage.parents() {
            lineage.member_mut(parent)?.children.insert(id);
        }
        let from = Key::reclaim(0);
        for (key, value) in entries(&lineage.tree, load, from, last(from))? {
            lineage.work.insert(key.sub(), ChainRecord::decode(&value)?);
        }
        let from = Key::shared(crate::format::BlockNo(0));
        Reader::new(&lineage.tree, load).range(from, last(from), &mut |_, _| {
            lineage.has_shared = true;
            ControlFlow::Break(())
        })?;
        Ok(lineage)
    }

    /// Members that count as children, with their parents.
    fn parents(&self) -> Vec<(MemberId, MemberId)> {
        let living = self.members.iter().filter(|(_, m)| m.record.kind != MemberKind::Freeing);
        living.filter_map(|(id, m)| Some((*id, m.record.parent?))).collect()
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// Number of members.
    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// A member.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(super) fn member_mut(&mut self, id: MemberId) -> Result<&mut Member, Error> {
        self.members.get_mut(&id).ok_or_else(|| missing("member", id.0))
    }

    /// Takes a head's state out: from then on it is the caller's.
    pub fn take_root(&mut self, id: MemberId) -> Option<Root> {
        self.members.get_mut(&id)?.root.take()
    }

    /// The snapshot of that number within its volume.
    pub fn snapshot_numbered(&self, volume: VolumeId, number: u32) -> Option<MemberId> {
        self.volumes.get(&volume)?.numbers.get(&number).copied()
    }

    /// The newest of a volume's snapshots, and how many there are.
    pub fn newest_snapshot(&self, volume: VolumeId) -> Option<(MemberId, usize)> {
        let numbers = &self.volumes.get(&volume)?.numbers;
        numbers.last_key_value().map(|(_, member)| (*member, numbers.len()))
    }

    /// A member's state, to be swept or set.
    pub fn root_mut(&mut self, id: MemberId) -> Option<&mut Root> {
        self.members.get_mut(&id)?.root.as_mut()
    }

    /// All volumes.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, &VolumeEntry)> {
        self.volumes.iter().map(|(id, entry)| (*id, entry))
    }

    /// A volume.
    pub fn volume(&self, id: VolumeId) -> Option<&VolumeEntry> {
        self.volumes.get(&id)
    }

    /// The volume of that name.
    pub fn volume_named(&self, name: &str) -> Option<VolumeId> {
        self.names.get(name).copied()
    }

    /// Whether blocks may have more than one reference.
    pub fn has_shared(&self) -> bool {
        self.has_shared
    }

    /// Epoch of a member's parent; 0 where it has none.
    pub fn parent_epoch(&self, id: MemberId) -> Epoch {
        let parent = self.members.get(&id).and_then(|m| m.record.parent);
        parent.and_then(|p| self.members.get(&p)).map_or(Epoch(0), |p| p.record.epoch)
    }

    /// Epochs of a member's ancestors, rising.
    pub fn ancestor_epochs(&self, id: MemberId) -> Vec<Epoch> {
        let parent = |id: &MemberId| self.members.get(id).and_then(|m| m.record.parent);
        let chain = std::iter::successors(parent(&id), parent).take(self.members.len());
        let mut epochs: Vec<_> =
            chain.filter_map(|id| self.members.get(&id)).map(|m| m.record.epoch).collect();
        epochs.reverse();
        epochs
    }

    pub(super) fn new_object(&mut self) -> u64 {
        self.next_object += 1;
        self.next_object - 1
    }

    fn put_volume(&mut self, id: VolumeId, store: &mut dyn Store) -> Result<(), Error> {
        let entry = self.volumes.get(&id).ok_or_else(|| missing("volume", id.0))?;
        Ok(self.tree.insert(store, Key::volume(id), &entry.record.to_bytes())?)
    }

    pub(super) fn put_member(&mut self, id: MemberId, store: &mut dyn Store) -> Result<(), Error> {
        let member = self.members.get(&id).ok_or_else(|| missing("member", id.0))?;
        Ok(self.tree.insert(store, Key::member(id), &member.record.to_bytes())?)
    }

    fn add_member(
        &mut self,
        id: MemberId,
        record: MemberRecord,
        root: Option<Root>,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        if let Some(parent) = record.parent {
            self.member_mut(parent)?.children.insert(id);
        }
        self.next_member = self.next_member.max(id.0 + 1);
        self.unstored.insert(id);
        self.members.insert(id, Member { record, children: BTreeSet::new(), root });
        self.put_member(id, store)
    }

    fn new_head(&mut self, volume: VolumeId, parent: Option<MemberId>) -> MemberRecord {
        MemberRecord { deadlist: self.new_object(), ..member_record(volume, parent) }
    }

    /// Adds a volume whose head grows from `origin`, or from nothing.
    pub fn create_volume(
        &mut self,
        volume: VolumeId,
        head: MemberId,
        name: &str,
        created: Timestamp,
        origin: Option<MemberId>,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let record = VolumeRecord {
            head: Some(head),
            created,
            quota_bytes: None,
            next_snapshot: 1,
            name: name.to_owned(),
            labels: Vec::new(),
        };
        self.next_volume = self.next_volume.max(volume.0 + 1);
        self.names.insert(name.to_owned(), volume);
        self.volumes.insert(volume, VolumeEntry::new(record));
        self.put_volume(volume, store)?;
        let head_record = self.new_head(volume, origin);
        self.add_member(head, head_record, None, store)
    }

    /// Ends a volume's head, whose state is `root`; its snapshots stay.
    pub fn delete_volume(
        &mut self,
        volume: VolumeId,
        root: Root,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let entry = self.volumes.get_mut(&volume).ok_or_else(|| missing("volume", volume.0))?;
        let head = entry.record.head.take().ok_or_else(|| missing("head of volume", volume.0))?;
        self.put_volume(volume, store)?;
        self.member_mut(head)?.root = Some(root);
        self.unstored.insert(head);
        self.settle(head, store)?;
        self.forget_empty_volume(volume, store)
    }

    fn forget_empty_volume(
        &mut self,
        volume: VolumeId,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let Some(entry) = self.volumes.get(&volume) else { return Ok(()) };
        if entry.record.head.is_none() && entry.snapshots.is_empty() {
            self.names.remove(&entry.record.name);
            self.volumes.remove(&volume);
            self.tree.remove(store, Key::volume(volume))?;
        }
        Ok(())
    }

    /// Sets a volume's quota and labels.
    pub fn set_volume(
        &mut self,
        volume: VolumeId,
        quota_bytes: Option<u64>,
        labels: Vec<(String, String)>,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let entry = self.volumes.get_mut(&volume).ok_or_else(|| missing("volume", volume.0))?;
        entry.record.quota_bytes = quota_bytes;
        entry.record.labels = labels;
        self.put_volume(volume, store)
    }

    /// Freezes a volume's head, whose state is `root`, as the snapshot `member` of epoch `epoch`.
    ///
    /// The snapshot takes the head's parent and deadlist; the head grows from it with an empty one. What
    /// the head has gathered for its deadlist has been buffered before.
    pub fn snapshot(
        &mut self,
        volume: VolumeId,
        member: MemberId,
        name: &str,
        created: Timestamp,
        epoch: Epoch,
        root: Root,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let entry = self.volumes.get_mut(&volume).ok_or_else(|| missing("volume", volume.0))?;
        let head = entry.record.head.ok_or_else(|| missing("head of volume", volume.0))?;
        let number = entry.record.next_snapshot;
        entry.record.next_snapshot += 1;
        entry.snapshots.insert(name.to_owned(), member);
        entry.numbers.insert(number, member);
        self.put_volume(volume, store)?;

        let fresh_deadlist = self.new_object();
        let record = &mut self.member_mut(head)?.record;
        let parent = record.parent.replace(member);
        let deadlist = std::mem::replace(&mut record.deadlist, fresh_deadlist);
        self.put_member(head, store)?;
        if let Some(parent) = parent {
            self.member_mut(parent)?.children.remove(&head);
        }
        let record = MemberRecord {
            kind: MemberKind::Snapshot,
            epoch,
            deadlist,
            number,
            created,
            name: name.to_owned(),
            ..member_record(volume, parent)
        };
        self.add_member(member, record, Some(root), store)?;
        self.member_mut(member)?.children.insert(head);
        Ok(())
    }

    /// Deletes a snapshot: its name is gone when this returns, its space comes back by reclaim.
    pub fn delete_snapshot(
        &mut self,
        member: MemberId,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let record = &mut self.member_mut(member)?.record;
        record.kind = MemberKind::Zombie;
        let (volume, number) = (record.volume, record.number);
        let name = std::mem::take(&mut record.name);
        self.put_member(member, store)?;
        if let Some(entry) = self.volumes.get_mut(&volume) {
            entry.snapshots.remove(&name);
            entry.numbers.remove(&number);
        }
        self.settle(member, store)?;
        self.forget_empty_volume(volume, store)
    }

    /// Gives a snapshot another name.
    pub fn rename_snapshot(
        &mut self,
        member: MemberId,
        name: &str,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let record = &mut self.member_mut(member)?.record;
        let (volume, old) = (record.volume, std::mem::replace(&mut record.name, name.to_owned()));
        self.put_member(member, store)?;
        let entry = self.volumes.get_mut(&volume).ok_or_else(|| missing("volume", volume.0))?;
        entry.snapshots.remove(&old);
        entry.snapshots.insert(name.to_owned(), member);
        Ok(())
    }

    /// Replaces a volume's head, which was just frozen and has changed nothing since, by the new member
    /// `head` that grows from `origin`.
    pub fn replace_head(
        &mut self,
        volume: VolumeId,
        origin: MemberId,
        head: MemberId,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let entry = self.volumes.get_mut(&volume).ok_or_else(|| missing("volume", volume.0))?;
        let old = entry.record.head.replace(head);
        let old = old.ok_or_else(|| missing("head of volume", volume.0))?;
        self.put_volume(volume, store)?;
        self.forget_member(old, store)?;
        let record = self.new_head(volume, Some(origin));
        self.add_member(head, record, None, store)
    }

    /// Removes a member's record and its place among its parent's children.
    pub(super) fn forget_member(
        &mut self,
        id: MemberId,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        self.tree.remove(store, Key::member(id))?;
        let member = self.members.remove(&id).ok_or_else(|| missing("member", id.0))?;
        self.unstored.remove(&id);
        self.gone.insert(id);
        if let Some(parent) = member.record.parent.and_then(|p| self.members.get_mut(&p)) {
            parent.children.remove(&id);
        }
        Ok(())
    }

    /// Ends members that nothing needs: `id` if it is a zombie or a head without a volume, and zombies
    /// above it that its end leaves with one child or none.
    fn settle(&mut self, id: MemberId, store: &mut dyn Store) -> Result<(), Error> {
        let mut next = Some(id);
        while let Some(id) = next.take() {
            let member = self.members.get(&id).ok_or_else(|| missing("member", id.0))?;
            let parent = member.record.parent;
            match (member.children.len(), member.children.first().copied()) {
                (0, _) => self.free_tip(id, store)?,
                (1, Some(child)) => self.merge_into_child(id, child, store)?,
                _ => return Ok(()),
            }
            let zombie = |p: &MemberId| {
                self.members.get(p).is_some_and(|m| m.record.kind == MemberKind::Zombie)
            };
            next = parent.filter(zombie);
        }
        Ok(())
    }

    /// A member without children: what was born in it is its alone. Its tree is walked in the background;
    /// its deadlist named what its parent has, which is of no interest any more.
    fn free_tip(&mut self, id: MemberId, store: &mut dyn Store) -> Result<(), Error> {
        let keep_birth = self.parent_epoch(id);
        let member = self.member_mut(id)?;
        let (parent, deadlist) = (member.record.parent.take(), member.record.deadlist);
        member.record.kind = MemberKind::Freeing;
        member.record.keep_birth = keep_birth;
        member.record.deadlist = 0;
        self.put_member(id, store)?;
        if let Some(parent) = parent {
            self.member_mut(parent)?.children.remove(&id);
        }
        self.buffers.remove(&deadlist);
        for (epoch, chain) in self.buckets(deadlist, Epoch(0), reclaim::ALL, store)? {
            self.tree.remove(store, Key::bucket(deadlist, epoch))?;
            self.add_work(ChainRecord { forget: true, ..chain }, store)?;
        }
        Ok(())
    }

    /// A member with one child: the references that the child dropped and that were born after the
    /// parent's epoch were this member's alone. The rest of its lists becomes the child's.
    fn merge_into_child(
        &mut self,
        id: MemberId,
        child: MemberId,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let record = self.member_mut(id)?.record.clone();
        let child_list = self.member_mut(child)?.record.deadlist;
        self.flush_deadlist(record.deadlist, store)?;
        self.flush_deadlist(child_list, store)?;
        let alone = self.buckets(child_list, self.parent_epoch(id), record.epoch, store)?;
        for (epoch, chain) in alone {
            self.tree.remove(store, Key::bucket(child_list, epoch))?;
            self.add_work(chain, store)?;
        }
        for (epoch, chain) in self.buckets(record.deadlist, Epoch(0), reclaim::ALL, store)? {
            self.tree.remove(store, Key::bucket(record.deadlist, epoch))?;
            let key = Key::bucket(child_list, epoch);
            let mut joined = self.chain(key, store)?.unwrap_or_default();
            self.join(&mut joined, chain, store)?;
            self.tree.insert(store, key, &joined.to_bytes())?;
        }
        self.member_mut(child)?.record.parent = record.parent;
        self.put_member(child, store)?;
        self.forget_member(id, store)?;
        if let Some(parent) = record.parent {
            self.member_mut(parent)?.children.insert(child);
        }
        Ok(())
    }

    fn add_work(&mut self, chain: ChainRecord, store: &mut dyn Store) -> Result<(), Error> {
        let number = self.new_object();
        self.work.insert(number, chain);
        Ok(self.tree.insert(store, Key::reclaim(number), &chain.to_bytes())?)
    }

    /// Blocks that only this snapshot holds: what deleting it would free.
    ///
    /// A snapshot that several members grow from frees nothing until one of them is left, and counts 0.
    pub fn exclusive_blocks(&self, id: MemberId, store: &dyn Store) -> Result<u64, Error> {
        let member = self.members.get(&id).ok_or_else(|| missing("member", id.0))?;
        let record = &member.record;
        match (member.children.len(), member.children.first()) {
            (0, _) => {
                let own = member.root.as_ref().map_or(0, Root::referenced_blocks);
                let Some(parent) = record.parent.and_then(|p| self.members.get(&p)) else {
                    return Ok(own);
                };
                let above = parent.root.as_ref().map_or(0, Root::referenced_blocks);
                let dropped = self.dead_blocks(record.deadlist, Epoch(0), reclaim::ALL, store)?;
                Ok((own + dropped).saturating_sub(above))
            }
            (1, Some(child)) => {
                let child = self.members.get(child).ok_or_else(|| missing("member", child.0))?;
                let low = self.parent_epoch(id);
                self.dead_blocks(child.record.deadlist, low, record.epoch, store)
            }
            _ => Ok(0),
        }
    }
}

/// The record of a head without a deadlist; a snapshot's has more.
fn member_record(volume: VolumeId, parent: Option<MemberId>) -> MemberRecord {
    MemberRecord {
        volume,
        kind: MemberKind::Head,
        parent,
        epoch: Epoch(0),
        deadlist: 0,
        number: 0,
        created: Timestamp::default(),
        keep_birth: Epoch(0),
        cursor: Key::MIN,
        name: String::new(),
    }
}

fn missing(what: &str, number: u64) -> Error {
    Error::Missing(format!("{what} {number} is missing"))
}

fn entries(tree: &Tree, load: &dyn Load, from: Key, to: Key) -> Result<Vec<(Key, Vec<u8>)>, Error> {
    let mut found = Vec::new();
    Reader::new(tree, load).range(from, to, &mut |key, value| {
        found.push((key, value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
