//! Lineages against sets: every transition on real trees, compared with what a walk of all trees sees.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::btree::{Load, Reader, Store, Tree};
use crate::cache::{self, Body, Child, Node};
use crate::format::{
    BlockNo, ChainRecord, ChunkRecord, DeadRef, Epoch, Extent, ExtentKind, InodeNo, Key, KeyKind,
    MAX_CHUNK_REFS, MAX_SUB, MemberId, MemberKind, NODE_BLOCKS, Run, SharedRecord, Timestamp,
    VolumeId,
};

/// One reference as a walk sees it: what names it in the tree (zeros for a node), its block and
/// birth, and which mapping made it: two volumes can map a block at the same place in one epoch.
type Ref = (u64, u64, u64, u64, u32);

/// Every block of the toy pool; addresses are never given twice.
#[derive(Default)]
struct Blocks {
    next: u64,
    used: HashSet<u64>,
    epoch: Epoch,
}

impl Blocks {
    fn allocate(&mut self, len: u32) -> Run {
        let run = Run::new(BlockNo(self.next), len);
        self.next = run.end();
        self.used.extend(run.start.0..run.end());
        // A gap keeps runs apart, now and then, so that not all dead references join.
        self.next += self.next % 3 / 2;
        run
    }

    fn free(&mut self, run: Run) {
        for block in run.start.0..run.end() {
            assert!(self.used.remove(&block), "block {block} freed twice");
        }
    }
}

fn linked(child: &Child) -> Arc<Node> {
    Arc::clone(child.node.as_ref().expect("all nodes are in memory here"))
}

struct CatalogStore<'a>(&'a mut Blocks);

impl Load for CatalogStore<'_> {
    fn load(&self, child: &Child, _: u8) -> Result<Arc<Node>, cache::Error> {
        Ok(linked(child))
    }
}

impl Store for CatalogStore<'_> {
    fn epoch(&self) -> Epoch {
        self.0.epoch
    }
    fn allocate(&mut self) -> Result<BlockNo, btree::Error> {
        Ok(self.0.allocate(NODE_BLOCKS).start)
    }
    fn retire(&mut self, addr: BlockNo, _: Epoch) {
        self.0.free(Run::new(addr, NODE_BLOCKS));
    }
}

/// A head's store: what it drops is freed, or goes on the deadlist.
struct HeadStore<'a> {
    blocks: &'a mut Blocks,
    parent_epoch: Epoch,
    ancestors: &'a [Epoch],
    dead: &'a mut DeadBuffer,
    /// Data references that are gone for good.
    gone: Vec<Run>,
}

impl HeadStore<'_> {
    fn bury(&mut self, run: Run, birth: Epoch) {
        let bucket = self.ancestors.iter().find(|epoch| **epoch >= birth);
        self.dead.push(*bucket.expect("the parent sees it"), DeadRef { run, birth });
    }

    fn drop_data(&mut self, run: Run, birth: Epoch) {
        if birth > self.parent_epoch { self.gone.push(run) } else { self.bury(run, birth) }
    }
}

impl Load for HeadStore<'_> {
    fn load(&self, child: &Child, _: u8) -> Result<Arc<Node>, cache::Error> {
        Ok(linked(child))
    }
}

impl Store for HeadStore<'_> {
    fn epoch(&self) -> Epoch {
        self.blocks.epoch
    }
    fn allocate(&mut self) -> Result<BlockNo, btree::Error> {
        Ok(self.blocks.allocate(NODE_BLOCKS).start)
    }
    fn retire(&mut self, addr: BlockNo, birth: Epoch) {
        let run = Run::new(addr, NODE_BLOCKS);
        if birth > self.parent_epoch { self.blocks.free(run) } else { self.bury(run, birth) }
    }
}

/// Walks a tree: calls `node` for each node and `leaf_entry` for each entry.
fn walk(child: &Child, node: &mut dyn FnMut(&Child), leaf_entry: &mut dyn FnMut(Key, &[u8])) {
    node(child);
    match &linked(child).body {
        Body::Leaf(leaf) => {
            (0..leaf.len()).for_each(|at| leaf_entry(leaf.key(at), leaf.value(at)));
        }
        Body::Internal(internal) => {
            internal.children.iter().for_each(|below| walk(below, node, leaf_entry));
        }
    }
}

/// Every reference that a state holds, block by block.
fn references(tree: &Tree) -> BTreeSet<Ref> {
    let (mut nodes, mut data) = (BTreeSet::new(), BTreeSet::new());
    walk(
        &tree.root,
        &mut |child| {
            let blocks = child.addr.0..child.addr.0 + u64::from(NODE_BLOCKS);
            nodes.extend(blocks.map(|block| (0, 0, block, child.birth.0, 0)));
        },
        &mut |key, value| {
            if key.is(KeyKind::Extent) {
                let extent = Extent::decode(value).unwrap();
                for (at, mapping) in (0..).zip(&extent.checksums) {
                    let (sub, block) = (key.sub() + at, extent.addr.0 + at);
                    data.insert((key.id(), sub, block, extent.birth.0, *mapping));
                }
            }
        },
    );
    nodes.append(&mut data);
    nodes
}

/// A volume's live state.
struct Head {
    volume: VolumeId,
    member: MemberId,
    tree: Tree,
    dead: DeadBuffer,
}

impl Head {
    fn root(&self) -> Root {
        let data = references(&self.tree).iter().filter(|r| r.0 != 0).count();
        Root { tree: self.tree.clone(), data_blocks: data as u64, next_inode: 2 }
    }
}

struct World {
    blocks: Blocks,
    lineage: Lineage,
    heads: Vec<Head>,
    names: u32,
    mappings: u32,
}

/// What a volume's change is.
#[derive(Debug, Clone)]
enum Change {
    /// Writes new blocks in place of what is there.
    Write(u64, u64, u32),
    /// Unmaps.
    Punch(u64, u64, u32),
    /// Puts a value that takes room in leaves.
    Inline(u64, usize),
    /// Removes one.
    RemoveInline(u64),
    /// Maps blocks of any state at another place too.
    Share(Index, Index, u64, u64),
}

#[derive(Debug, Clone)]
enum Op {
    Change(Index, Change),
    CreateVolume,
    Snapshot(Vec<Index>),
    DeleteSnapshot(Index),
    DeleteVolume(Index),
    Clone(Index),
    Restore(Index, Index),
    Rename(Index),
    Flush,
    Reclaim(usize),
    Drain,
    Reload,
}

impl World {
    fn new() -> Self {
        let mut blocks = Blocks { epoch: Epoch(1), ..Blocks::default() };
        let tree = Tree::new(&mut CatalogStore(&mut blocks)).unwrap();
        let lineage = Lineage::new(tree);
        let mut world = World { blocks, lineage, heads: Vec::new(), names: 0, mappings: 0 };
        world.create_volume();
        world
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn head_store<'a>(
        lineage: &Lineage,
        blocks: &'a mut Blocks,
        ancestors: &'a [Epoch],
        member: MemberId,
        dead: &'a mut DeadBuffer,
    ) -> HeadStore<'a> {
        let parent_epoch = lineage.parent_epoch(member);
        HeadStore { blocks, parent_epoch, ancestors, dead, gone: Vec::new() }
    }

    fn add_volume(&mut self, origin: Option<MemberId>) {
        let volume = VolumeId(self.lineage.next_volume);
        let member = MemberId(self.lineage.next_member);
        let name = self.name();
        let store = &mut CatalogStore(&mut self.blocks);
        self.lineage
            .create_volume(volume, member, &name, Timestamp::default(), origin, store)
            .unwrap();
        let tree = match origin {
            Some(origin) => self.lineage.member(origin).unwrap().root.clone().unwrap().tree,
            None => Tree::new(store).unwrap(),
        };
        self.heads.push(Head { volume, member, tree, dead: DeadBuffer::default() });
    }

    fn create_volume(&mut self) {
        if self.heads.len() < 4 {
            self.add_volume(None);
        }
    }

    fn pick_head(&self, index: Index) -> Option<usize> {
        (!self.heads.is_empty()).then(|| index.index(self.heads.len()))
    }

    fn snapshots(&self) -> Vec<MemberId> {
        let members = self.lineage.members();
        members.filter(|(_, m)| m.record.kind == MemberKind::Snapshot).map(|(id, _)| id).collect()
    }

    fn pick_snapshot(&self, index: Index) -> Option<MemberId> {
        let all = self.snapshots();
        (!all.is_empty()).then(|| all[index.index(all.len())])
    }

    /// Gives what the heads have gathered to the lineage, as the pool does before each transition.
    fn buffer_all(&mut self) {
        for head in &mut self.heads {
            let deadlist = self.lineage.member(head.member).unwrap().record.deadlist;
            self.lineage.buffer_dead(deadlist, std::mem::take(&mut head.dead));
        }
    }

    fn change(&mut self, at: usize, change: &Change) {
        match change.clone() {
            Change::Write(file, block, len) => {
                self.unmap(at, file, block, u64::from(len));
                let run = self.blocks.allocate(len);
                self.map(at, file, block, run);
            }
            Change::Punch(file, block, len) => self.unmap(at, file, block, u64::from(len)),
            Change::Inline(file, len) => {
                let key = Key::new(file, KeyKind::Inline, 0);
                self.on_head(at, |tree, store| tree.insert(store, key, &vec![7; len]).unwrap());
            }
            Change::RemoveInline(file) => {
                let key = Key::new(file, KeyKind::Inline, 0);
                self.on_head(at, |tree, store| {
                    tree.remove(store, key).unwrap();
                });
            }
            Change::Share(source, which, file, block) => self.share(at, source, which, file, block),
        }
    }

    /// Changes a head's tree, and frees what it lets go of for good.
    fn on_head(&mut self, at: usize, f: impl FnOnce(&mut Tree, &mut HeadStore<'_>)) {
        let head = &mut self.heads[at];
        let ancestors = self.lineage.ancestor_epochs(head.member);
        let blocks = &mut self.blocks;
        let mut store =
            World::head_store(&self.lineage, blocks, &ancestors, head.member, &mut head.dead);
        f(&mut head.tree, &mut store);
        let gone = std::mem::take(&mut store.gone);
        self.release(&gone);
    }

    /// Maps a run; in place of checksums its extent carries what tells this mapping from all others.
    fn map(&mut self, at: usize, file: u64, block: u64, run: Run) {
        self.mappings += 1;
        let extent = Extent {
            addr: run.start,
            birth: self.blocks.epoch,
            len_blocks: run.len_blocks,
            kind: ExtentKind::Written,
            checksums: vec![self.mappings; run.len_blocks as usize],
        };
        let key = Key::inode(InodeNo(file), KeyKind::Extent, block);
        self.on_head(at, |tree, store| tree.insert(store, key, &extent.to_bytes()).unwrap());
    }

    fn unmap(&mut self, at: usize, file: u64, from: u64, len: u64) {
        let to = from + len;
        self.on_head(at, |tree, store| {
            let mut found = Vec::new();
            let all = |sub| Key::inode(InodeNo(file), KeyKind::Extent, sub);
            Reader::new(tree, store)
                .range(all(0), all(to - 1), &mut |key, value| {
                    found.push((key, Extent::decode(value).unwrap()));
                    ControlFlow::Continue(())
                })
                .unwrap();
            for (key, extent) in found {
                let (start, end) = (key.sub(), key.sub() + u64::from(extent.len_blocks));
                let (low, high) = (from.max(start), to.min(end));
                if low >= high {
                    continue;
                }
                tree.remove(store, key).unwrap();
                for (a, b) in [(start, low), (high, end)] {
                    if a < b {
                        let part = extent.part((a - start) as u32, (b - a) as u32);
                        tree.insert(store, all(a), &part.to_bytes()).unwrap();
                    }
                }
                let middle = extent.part((low - start) as u32, (high - low) as u32);
                store.drop_data(middle.run(), middle.birth);
            }
        });
    }

    /// Maps an extent that some state has, at a further place of a head.
    fn share(&mut self, at: usize, source: Index, which: Index, file: u64, block: u64) {
        let states = self.states();
        let refs = &states[source.index(states.len())].1;
        let data: Vec<_> = refs.iter().filter(|r| r.0 != 0).collect();
        if data.is_empty() {
            return;
        }
        let run = Run::new(BlockNo(data[which.index(data.len())].2), 1);
        self.share_run(at, run, file, block);
    }

    fn share_run(&mut self, at: usize, run: Run, file: u64, block: u64) {
        // The reference comes first: unmapping might free the very block.
        self.lineage.share(run, &mut CatalogStore(&mut self.blocks)).unwrap();
        self.unmap(at, file, block, 1);
        self.map(at, file, block, run);
    }

    fn release(&mut self, gone: &[Run]) {
        for run in gone {
            let free = self.lineage.unshare(*run, &mut CatalogStore(&mut self.blocks)).unwrap();
            free.into_iter().for_each(|run| self.blocks.free(run));
        }
    }

    fn freeze(&mut self, at: usize, name: &str, epoch: Epoch) -> MemberId {
        let member = MemberId(self.lineage.next_member);
        let head = &self.heads[at];
        let (volume, root) = (head.volume, head.root());
        let store = &mut CatalogStore(&mut self.blocks);
        let now = Timestamp::default();
        self.lineage.snapshot(volume, member, name, now, epoch, root, store).unwrap();
        member
    }

    fn group(&mut self, which: &[Index]) {
        let chosen: BTreeSet<_> = which.iter().filter_map(|at| self.pick_head(*at)).collect();
        let name = self.name();
        let epoch = self.blocks.epoch;
        for at in chosen {
            self.freeze(at, &name, epoch);
        }
        self.blocks.epoch.0 += 1;
    }

    fn restore(&mut self, at: usize, origin: MemberId) {
        let volume = self.heads[at].volume;
        let name = self.name();
        self.freeze(at, &name, self.blocks.epoch);
        self.blocks.epoch.0 += 1;
        let member = MemberId(self.lineage.next_member);
        let store = &mut CatalogStore(&mut self.blocks);
        self.lineage.replace_head(volume, origin, member, store).unwrap();
        let tree = self.lineage.member(origin).unwrap().root.clone().unwrap().tree;
        let dead = DeadBuffer::default();
        self.heads[at] = Head { volume, member, tree, dead };
    }

    fn rename(&mut self, member: MemberId) {
        let name = self.name();
        let store = &mut CatalogStore(&mut self.blocks);
        self.lineage.rename_snapshot(member, &name, store).unwrap();
        let volume = self.lineage.member(member).unwrap().record.volume;
        assert_eq!(self.lineage.volume(volume).unwrap().snapshots.get(&name), Some(&member));
    }

    /// One step of reclaim; what it frees nobody sees.
    fn reclaim(&mut self, budget: usize) -> bool {
        let seen: HashSet<Ref> = self.states().into_iter().flat_map(|(_, refs)| refs).collect();
        let seen_nodes: HashSet<_> = seen.iter().filter(|r| r.0 == 0).map(|r| r.2).collect();
        let seen_data: HashSet<_> = seen.iter().filter(|r| r.0 != 0).map(|r| r.2).collect();
        let store = &mut CatalogStore(&mut self.blocks);
        let Some(progress) = self.lineage.reclaim(budget, store).unwrap() else { return false };
        assert!(progress.unreadable.is_empty(), "{:?}", progress.unreadable);
        for run in progress.data {
            let free = self.lineage.unshare(run, &mut CatalogStore(&mut self.blocks)).unwrap();
            for run in free {
                let mut blocks = run.start.0..run.end();
                assert!(!blocks.any(|b| seen_data.contains(&b) || seen_nodes.contains(&b)));
                self.blocks.free(run);
            }
        }
        for run in progress.nodes {
            assert!(!(run.start.0..run.end()).any(|b| seen_nodes.contains(&b)));
            self.blocks.free(run);
        }
        true
    }

    fn reload(&mut self) {
        let store = &mut CatalogStore(&mut self.blocks);
        self.lineage.flush_dead(store).unwrap();
        let old = &self.lineage;
        let heads = &self.heads;
        let mut new = Lineage::load(old.tree.clone(), store, &mut |id| {
            let head = heads.iter().find(|head| head.member == id);
            let root = old.member(id).unwrap().root.clone();
            Ok(root.unwrap_or_else(|| head.expect("a head").root()))
        })
        .unwrap();
        assert_eq!(new.members.len(), old.members.len());
        for ((id, a), (other, b)) in new.members.iter().zip(&old.members) {
            assert_eq!((id, &a.record, &a.children), (other, &b.record, &b.children));
        }
        let entries = |lineage: &Lineage| -> Vec<_> {
            let all = lineage.volumes();
            all.map(|(id, v)| (id, v.record.clone(), v.snapshots.clone())).collect()
        };
        assert_eq!(entries(&new), entries(old));
        assert_eq!(new.work, old.work);
        assert!(!new.has_shared() || old.has_shared());
        (new.next_member, new.next_volume) = (old.next_member, old.next_volume);
        new.next_object = old.next_object;
        self.lineage = new;
    }

    fn apply(&mut self, op: &Op) {
        if !matches!(op, Op::Change(..)) {
            self.buffer_all();
        }
        match op {
            Op::Change(at, change) => {
                let Some(at) = self.pick_head(*at) else { return };
                self.change(at, change);
            }
            Op::CreateVolume => self.create_volume(),
            Op::Snapshot(which) => self.group(which),
            Op::DeleteSnapshot(at) => {
                let Some(member) = self.pick_snapshot(*at) else { return };
                let store = &mut CatalogStore(&mut self.blocks);
                self.lineage.delete_snapshot(member, store).unwrap();
            }
            Op::DeleteVolume(at) => {
                let Some(at) = self.pick_head(*at) else { return };
                let head = self.heads.remove(at);
                let store = &mut CatalogStore(&mut self.blocks);
                self.lineage.delete_volume(head.volume, head.root(), store).unwrap();
            }
            Op::Clone(at) => {
                let Some(member) = self.pick_snapshot(*at) else { return };
                if self.heads.len() < 5 {
                    self.add_volume(Some(member));
                }
            }
            Op::Restore(at, origin) => {
                let (Some(at), Some(origin)) = (self.pick_head(*at), self.pick_snapshot(*origin))
                else {
                    return;
                };
                self.restore(at, origin);
            }
            Op::Rename(at) => {
                let Some(member) = self.pick_snapshot(*at) else { return };
                self.rename(member);
            }
            Op::Flush => self.lineage.flush_dead(&mut CatalogStore(&mut self.blocks)).unwrap(),
            Op::Reclaim(budget) => drop(self.reclaim(*budget)),
            Op::Drain => {
                while self.reclaim(1) {}
                assert_eq!(self.lineage.work_left(), 0);
                self.verify_space();
            }
            Op::Reload => self.reload(),
        }
    }

    /// Members whose states count, with all that each sees.
    fn states(&self) -> Vec<(MemberId, BTreeSet<Ref>)> {
        let living = self.lineage.members().filter(|(_, m)| m.record.kind != MemberKind::Freeing);
        living
            .map(|(id, member)| {
                let head = self.heads.iter().find(|head| head.member == id);
                let tree = head.map(|head| &head.tree);
                (id, references(tree.unwrap_or_else(|| &member.root.as_ref().unwrap().tree)))
            })
            .collect()
    }

    /// With no reclaim left, exactly what is seen is used, and counted as often as it is referred to.
    fn verify_space(&mut self) {
        let seen: BTreeSet<Ref> = self.states().into_iter().flat_map(|(_, refs)| refs).collect();
        let mut expected: HashMap<u64, u32> = HashMap::new();
        seen.iter().for_each(|r| *expected.entry(r.2).or_default() += 1);
        let mut extra: HashMap<u64, u32> = HashMap::new();
        let mut used: HashSet<u64> = expected.keys().copied().collect();
        walk(
            &self.lineage.tree.root,
            &mut |child| used.extend(child.addr.0..child.addr.0 + u64::from(NODE_BLOCKS)),
            &mut |key, value| {
                if key.is(KeyKind::Shared) {
                    let record = SharedRecord::decode(value).unwrap();
                    for at in 0..u64::from(record.len_blocks) {
                        assert_eq!(extra.insert(key.sub() + at, record.extra), None);
                    }
                }
            },
        );
        assert_eq!(self.blocks.used, used, "used is what is seen");
        expected.retain(|_, count| {
            *count -= 1;
            *count > 0
        });
        assert_eq!(extra, expected, "shared counts");
    }

    /// L1 to L6 and exclusive figures against brute force.
    fn verify(&mut self) {
        self.buffer_all();
        let states: BTreeMap<_, _> = self.states().into_iter().collect();
        let members: BTreeMap<MemberId, Member> =
            self.lineage.members().map(|(id, member)| (id, member.clone())).collect();
        for (id, member) in &members {
            let record = &member.record;
            for child in &member.children {
                assert_eq!(members[child].record.parent, Some(*id), "L1");
            }
            match record.kind {
                MemberKind::Zombie => assert!(member.children.len() >= 2, "L6"),
                MemberKind::Freeing | MemberKind::Head => assert!(member.children.is_empty()),
                MemberKind::Snapshot => {}
            }
            if record.kind == MemberKind::Freeing {
                assert_eq!((record.parent, record.deadlist), (None, 0), "L6");
                continue;
            }
            let parent = record.parent.map(|parent| &members[&parent]);
            if let Some(parent) = parent {
                assert!(parent.children.contains(id), "L1");
                assert_ne!(parent.record.kind, MemberKind::Head, "L1");
                assert_ne!(parent.record.kind, MemberKind::Freeing, "L1");
                assert!(
                    record.kind == MemberKind::Head || parent.record.epoch < record.epoch,
                    "L1"
                );
            }
            self.verify_deadlist(*id, record.parent.map(|p| &states[&p]), &states[id]);
            if record.kind == MemberKind::Snapshot && member.children.len() < 2 {
                let others = states.iter().filter(|(other, _)| *other != id);
                let others: HashSet<&Ref> = others.flat_map(|(_, refs)| refs).collect();
                let alone = states[id].iter().filter(|r| !others.contains(r)).count() as u64;
                let store = CatalogStore(&mut self.blocks);
                assert_eq!(self.lineage.exclusive_blocks(*id, &store).unwrap(), alone);
            }
        }
        self.verify_objects();
    }

    fn verify_deadlist(
        &mut self,
        id: MemberId,
        above: Option<&BTreeSet<Ref>>,
        own: &BTreeSet<Ref>,
    ) {
        let deadlist = self.lineage.member(id).unwrap().record.deadlist;
        let ancestors = self.lineage.ancestor_epochs(id);
        let mut found: Vec<(u64, u64)> = Vec::new();
        let mut check = |epoch: Epoch, dead: DeadRef| {
            assert!(dead.birth <= epoch, "L3");
            let below = ancestors.iter().filter(|a| **a < epoch);
            below.for_each(|ancestor| assert!(dead.birth > *ancestor, "L3"));
            found.extend((dead.run.start.0..dead.run.end()).map(|block| (block, dead.birth.0)));
        };
        let store = CatalogStore(&mut self.blocks);
        let all = Epoch(MAX_SUB);
        self.lineage.for_each_dead(deadlist, Epoch(0), all, &store, &mut check).unwrap();
        if let Some(buffer) = self.lineage.buffers.get(&deadlist) {
            buffer.iter().for_each(|(epoch, dead)| check(epoch, dead));
        }
        let mut expected: Vec<_> = match above {
            Some(above) => above.difference(own).map(|r| (r.2, r.3)).collect(),
            None => Vec::new(),
        };
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "L2: deadlist of member {id}");
        let sum = self.lineage.dead_blocks(deadlist, Epoch(0), all, &store).unwrap();
        assert_eq!(sum, found.len() as u64, "L4");
    }

    /// L4 and L5: every chunk is in one chain, and every chain has an owner.
    fn verify_objects(&self) {
        let mut chunks: HashMap<u64, ChunkRecord> = HashMap::new();
        let mut chains: Vec<ChainRecord> = Vec::new();
        let lists: HashSet<u64> =
            self.lineage.members().map(|(_, member)| member.record.deadlist).collect();
        walk(&self.lineage.tree.root, &mut |_| {}, &mut |key, value| {
            if key.is(KeyKind::Chunk) {
                chunks.insert(key.id(), ChunkRecord::decode(value).unwrap());
            } else if key.is(KeyKind::Reclaim) {
                chains.push(ChainRecord::decode(value).unwrap());
            } else if key.is(KeyKind::Bucket) {
                assert!(lists.contains(&key.id()), "L5: deadlist {} is nobody's", key.id());
                chains.push(ChainRecord::decode(value).unwrap());
            }
            let is_object = key.is(KeyKind::Chunk) || key.is(KeyKind::Bucket);
            assert!(!is_object || key.id() < self.lineage.next_object);
        });
        for chain in chains {
            let (mut next, mut last, mut blocks) = (chain.first, 0, 0);
            while next != 0 {
                let chunk = chunks.remove(&next).expect("L4: a chunk is in one chain");
                blocks += chunk.refs.iter().map(|d| u64::from(d.run.len_blocks)).sum::<u64>();
                (last, next) = (next, chunk.next);
            }
            assert_eq!((chain.last, chain.blocks), (last, blocks), "L4");
        }
        assert!(chunks.is_empty(), "L5: chunks {:?}", chunks.keys());
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let (file, block, index) = (2u64..5, 0u64..40, any::<Index>);
    prop_oneof![
        6 => (file.clone(), block.clone(), 1u32..9).prop_map(|(f, b, n)| Change::Write(f, b, n)),
        2 => (file.clone(), block.clone(), 1u32..20).prop_map(|(f, b, n)| Change::Punch(f, b, n)),
        2 => (2u64..40, 0usize..4300).prop_map(|(f, n)| Change::Inline(f, n)),
        1 => (2u64..40).prop_map(Change::RemoveInline),
        2 => (index(), index(), file, block).prop_map(|(s, w, f, b)| Change::Share(s, w, f, b)),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    prop_oneof![
        12 => (index(), any_change()).prop_map(|(at, change)| Op::Change(at, change)),
        1 => Just(Op::CreateVolume),
        5 => prop::collection::vec(index(), 1..4).prop_map(Op::Snapshot),
        5 => index().prop_map(Op::DeleteSnapshot),
        1 => index().prop_map(Op::DeleteVolume),
        2 => index().prop_map(Op::Clone),
        2 => (index(), index()).prop_map(|(at, origin)| Op::Restore(at, origin)),
        1 => index().prop_map(Op::Rename),
        1 => Just(Op::Flush),
        3 => (1usize..4).prop_map(Op::Reclaim),
        1 => Just(Op::Drain),
        1 => Just(Op::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn random_lineages_agree_with_sets(ops in prop::collection::vec(any_op(), 1..90)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            world.verify();
        }
        world.apply(&Op::Drain);
        world.apply(&Op::Reload);
        world.verify();
        // With everything deleted nothing is left, whatever the order was.
        while !world.heads.is_empty() {
            world.buffer_all();
            let head = world.heads.pop().unwrap();
            let store = &mut CatalogStore(&mut world.blocks);
            world.lineage.delete_volume(head.volume, head.root(), store).unwrap();
        }
        while let Some(member) = world.snapshots().pop() {
            let store = &mut CatalogStore(&mut world.blocks);
            world.lineage.delete_snapshot(member, store).unwrap();
        }
        world.verify();
        world.apply(&Op::Drain);
        prop_assert_eq!(world.lineage.members().count(), 0);
        prop_assert_eq!(world.lineage.volumes().count(), 0);
        prop_assert_eq!(world.blocks.used.len() as u32, NODE_BLOCKS);
    }

    /// Deadlists of several chunks are cut, joined and freed like those of one.
    #[test]
    fn long_chains_agree_with_sets(order in prop::collection::vec(any::<Index>(), 4)) {
        let mut world = World::new();
        let many = MAX_CHUNK_REFS as u64 + 50;
        for round in 0..4 {
            for block in 0..many {
                // Every second block each time: no two dead references join.
                world.change(0, &Change::Write(2, block * 2, 1));
            }
            if round < 3 {
                world.apply(&Op::Snapshot(vec![order[0]]));
            }
        }
        world.apply(&Op::Flush);
        world.verify();
        for at in order {
            world.apply(&Op::DeleteSnapshot(at));
            world.verify();
            world.apply(&Op::Reclaim(1));
        }
        world.apply(&Op::Drain);
    }

    #[test]
    fn shared_counts_agree_with_a_map(
        ops in prop::collection::vec((any::<bool>(), 0u64..60, 1u32..20), 1..80),
    ) {
        let mut blocks = Blocks { epoch: Epoch(1), ..Blocks::default() };
        let tree = Tree::new(&mut CatalogStore(&mut blocks)).unwrap();
        let mut lineage = Lineage::new(tree);
        let mut model: HashMap<u64, u32> = HashMap::new();
        for (share, start, len) in ops {
            let run = Run::new(BlockNo(start), len);
            let range = start..run.end();
            if share {
                lineage.share(run, &mut CatalogStore(&mut blocks)).unwrap();
                range.for_each(|block| *model.entry(block).or_default() += 1);
            } else {
                let free = lineage.unshare(run, &mut CatalogStore(&mut blocks)).unwrap();
                let free: Vec<u64> = free.iter().flat_map(|r| r.start.0..r.end()).collect();
                let expected: Vec<u64> = range.clone().filter(|b| !model.contains_key(b)).collect();
                prop_assert_eq!(free, expected);
                model.retain(|block, count| {
                    *count -= u32::from(range.contains(block));
                    *count > 0
                });
            }
            let mut found = HashMap::new();
            walk(&lineage.tree.root, &mut |_| {}, &mut |key, value| {
                let record = SharedRecord::decode(value).unwrap();
                for at in 0..u64::from(record.len_blocks) {
                    assert_eq!(found.insert(key.sub() + at, record.extra), None);
                }
            });
            prop_assert_eq!(&found, &model);
        }
    }
}

#[test]
fn regression_a_block_at_the_same_place_of_two_volumes_has_two_references() {
    let mut world = World::new();
    world.create_volume();
    world.change(0, &Change::Write(2, 10, 1));
    let (_, _, block, ..) = *references(&world.heads[0].tree).last().expect("the block");
    world.share_run(1, Run::new(BlockNo(block), 1), 2, 10);
    world.apply(&Op::Snapshot(vec![]));
    world.verify();
    world.apply(&Op::Drain);
    world.change(0, &Change::Punch(2, 10, 1));
    assert!(world.blocks.used.contains(&block));
    world.change(1, &Change::Punch(2, 10, 1));
    assert!(!world.blocks.used.contains(&block));
    world.apply(&Op::Drain);
}

/// A tip of two levels above its leaves, half of which its parent has: the walk goes on where it stood.
#[test]
fn a_large_tree_is_freed_in_steps() {
    let mut world = World::new();
    let file = |n: u64| Change::Inline(2 + n * 7 % 1000, 4300);
    (0..1000).for_each(|n| world.change(0, &file(n)));
    assert!(world.heads[0].tree.level >= 2);
    let epoch = world.blocks.epoch;
    world.freeze(0, "monday", epoch);
    world.blocks.epoch.0 += 1;
    for n in 0..300 {
        world.change(0, &file(n));
        world.change(0, &Change::Write(2 + n, n, 2));
    }
    world.buffer_all();
    let head = world.heads.pop().unwrap();
    let store = &mut CatalogStore(&mut world.blocks);
    world.lineage.delete_volume(head.volume, head.root(), store).unwrap();
    let mut steps = 0;
    while world.reclaim(3) {
        world.reload();
        steps += 1;
    }
    assert!(steps > 60, "{steps} steps");
    world.verify_space();
}
