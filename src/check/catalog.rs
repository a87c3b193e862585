//! The checkpoint tree and the catalog: C1 to C3, L1, and L4 to L6.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Checker;
use super::space::Counted;
use super::tree::stored;
use crate::btree::Reader;
use crate::format::{
    ChainRecord, ChunkRecord, DeadRef, DecodeError, Epoch, Key, KeyKind, MAX_BLOCKS, MemberId,
    MemberKind, MemberRecord, REGION_BLOCKS, RegionImage, RootRecord, SharedRecord, VolumeId,
    VolumeRecord,
};

/// Largest region of a pool of the largest size.
const MAX_REGION: u64 = MAX_BLOCKS / REGION_BLOCKS as u64;

/// What the checkpoint tree says.
pub(super) struct Roots {
    pub(super) catalog: RootRecord,
    pub(super) members: BTreeMap<MemberId, RootRecord>,
    /// Blocks in use by the space map.
    pub(super) used: Vec<Counted>,
}

/// What is kept of a chunk of dead references.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    next: u64,
    blocks: u64,
}

/// What the catalog says.
#[derive(Default)]
pub(super) struct Catalog {
    pub(super) volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub(super) members: BTreeMap<MemberId, MemberRecord>,
    pub(super) children: BTreeMap<MemberId, BTreeSet<MemberId>>,
    /// Buckets of each deadlist by epoch.
    pub(super) buckets: BTreeMap<u64, Vec<(Epoch, ChainRecord)>>,
    pub(super) work: BTreeMap<u64, ChainRecord>,
    pub(super) shared: Vec<Counted>,
    chunks: HashMap<u64, Chunk>,
}

impl Checker<'_> {
    /// Verifies the checkpoint tree; `None` when there is no catalog to go on with.
    pub(super) fn check_checkpoint_tree(&mut self) -> Option<Roots> {
        self.report.place = "checkpoint tree".into();
        let mut roots = BTreeMap::new();
        let mut used = Vec::new();
        let record = self.superblock.root;
        self.whole_tree(&record, &mut |checker, key, value| {
            if key.id() == 1 && key.is(KeyKind::Root) {
                let root = checker.decoded("C1", key, RootRecord::decode(value));
                roots.extend(root.map(|root| (MemberId(key.sub()), root)));
            } else if key.id() == 2 && key.is(KeyKind::Region) && key.sub() <= MAX_REGION {
                if let Some(image) = checker.decoded("C1", key, RegionImage::decode(value)) {
                    add_used(&mut used, key.sub(), &image);
                }
            } else {
                checker.report.problem("C1", format!("key {key:?} is of no known kind"));
            }
        });
        let catalog = roots.remove(&MemberId(0));
        self.report.expect(catalog.is_some(), "C2", || "the catalog has no root".into());
        Some(Roots { catalog: catalog?, members: roots, used })
    }

    /// Verifies a tree that shares no node with another, and calls `f` with its entries.
    fn whole_tree(&mut self, root: &RootRecord, f: &mut dyn FnMut(&mut Self, Key, &[u8])) {
        let difference = self.diff(root, None);
        let found = difference.nodes.len() as u64;
        self.report
            .expect(found == root.nodes, "T6", || format!("{found} nodes, not {}", root.nodes));
        self.entries(&difference, &mut |_, _, _, _| {}, &mut |checker, key, _, new| {
            f(checker, key, new.unwrap_or_default());
        });
    }

    pub(super) fn decoded<T>(
        &mut self,
        invariant: &'static str,
        key: Key,
        record: Result<T, DecodeError>,
    ) -> Option<T> {
        match record {
            Ok(record) => Some(record),
            Err(error) => {
                self.report.problem(invariant, format!("key {key:?}: {error}"));
                None
            }
        }
    }

    /// Verifies the catalog tree and reads its tables; `None` when they are not whole.
    pub(super) fn check_catalog(&mut self, roots: &Roots) -> Option<Catalog> {
        self.report.place = "catalog".into();
        let mut catalog = Catalog::default();
        self.whole_tree(&roots.catalog, &mut |checker, key, value| {
            checker.catalog_entry(&mut catalog, key, value);
        });
        if self.incomplete {
            return None;
        }
        for (id, member) in &catalog.members {
            if let (Some(parent), true) = (member.parent, member.kind != MemberKind::Freeing) {
                catalog.children.entry(parent).or_default().insert(*id);
            }
        }
        self.report.counts.volumes = catalog.volumes.len() as u64;
        self.report.counts.members_total = catalog.members.len() as u64;
        let kinds = catalog.members.values().map(|member| member.kind);
        let snapshots = kinds.filter(|kind| *kind == MemberKind::Snapshot).count();
        self.report.counts.snapshots = snapshots as u64;
        Some(catalog)
    }

    fn catalog_entry(&mut self, catalog: &mut Catalog, key: Key, value: &[u8]) {
        let (id, sub) = (key.id(), key.sub());
        let table = |number, kind| id == number && key.is(kind);
        if table(1, KeyKind::Volume) {
            let record = self.decoded("C1", key, VolumeRecord::decode(value));
            catalog.volumes.extend(record.map(|record| (VolumeId(sub), record)));
        } else if table(2, KeyKind::Member) {
            let record = self.decoded("C1", key, MemberRecord::decode(value));
            catalog.members.extend(record.map(|record| (MemberId(sub), record)));
        } else if table(3, KeyKind::Reclaim) {
            let record = self.decoded("C1", key, ChainRecord::decode(value));
            catalog.work.extend(record.map(|record| (sub, record)));
        } else if table(4, KeyKind::Shared) {
            if let Some(record) = self.decoded("C1", key, SharedRecord::decode(value)) {
                let end = sub + u64::from(record.len_blocks);
                let overlaps = catalog.shared.last().is_some_and(|last| last.1 > sub);
                self.report.expect(!overlaps, "P3", || format!("shared ranges overlap at {sub}"));
                catalog.shared.push((sub, end, record.extra));
            }
        } else if key.is(KeyKind::Bucket) {
            let record = self.decoded("C1", key, ChainRecord::decode(value));
            let list = catalog.buckets.entry(id).or_default();
            list.extend(record.map(|record| (Epoch(sub), record)));
        } else if key.is(KeyKind::Chunk) && sub == 0 {
            if let Some(record) = self.decoded("C1", key, ChunkRecord::decode(value)) {
                let blocks = record.refs.iter().map(|dead| u64::from(dead.run.len_blocks)).sum();
                catalog.chunks.insert(id, Chunk { next: record.next, blocks });
            }
        } else {
            self.report.problem("C1", format!("key {key:?} is of no known kind"));
        }
    }

    /// L1, L6, C2 and C3.
    pub(super) fn check_lineage(&mut self, catalog: &Catalog, roots: &Roots) {
        let next = self.superblock.next_member;
        for id in roots.members.keys().filter(|id| !catalog.members.contains_key(id)) {
            self.report.problem("C2", format!("there is a root, but no member {id}"));
        }
        for (id, member) in &catalog.members {
            self.report.place = format!("member {id}");
            let report = &mut self.report;
            report.expect(roots.members.contains_key(id), "C2", || "it has no root".into());
            report.expect(id.0 < next, "C2", || format!("the next member is {next}"));
            let epoch = self.superblock.epoch;
            report.expect(member.epoch < epoch, "L1", || {
                format!("epoch {} is not over", member.epoch)
            });
            let children = catalog.children.get(id).map_or(0, BTreeSet::len);
            let fits = match member.kind {
                MemberKind::Zombie => children >= 2,
                MemberKind::Freeing => {
                    children == 0 && member.parent.is_none() && member.deadlist == 0
                }
                MemberKind::Head => children == 0,
                MemberKind::Snapshot => true,
            };
            let invariant = if member.kind == MemberKind::Head { "L1" } else { "L6" };
            report.expect(fits, invariant, || {
                format!("{:?}, with {children} members that grew from it", member.kind)
            });
            self.check_parent(catalog, member);
            self.check_owner(catalog, *id, member);
        }
        self.check_volumes(catalog);
    }

    fn check_parent(&mut self, catalog: &Catalog, member: &MemberRecord) {
        let Some(id) = member.parent else { return };
        let Some(parent) = catalog.members.get(&id) else {
            self.report.problem("L1", format!("its parent {id} does not exist"));
            return;
        };
        let frozen = matches!(parent.kind, MemberKind::Snapshot | MemberKind::Zombie);
        self.report.expect(frozen, "L1", || format!("its parent {id} is {:?}", parent.kind));
        let rises = member.kind == MemberKind::Head || parent.epoch < member.epoch;
        self.report.expect(rises, "L1", || format!("its parent {id} has no smaller epoch"));
    }

    fn check_owner(&mut self, catalog: &Catalog, id: MemberId, member: &MemberRecord) {
        let volume = catalog.volumes.get(&member.volume);
        let right = match member.kind {
            MemberKind::Head => volume.is_some_and(|volume| volume.head == Some(id)),
            MemberKind::Snapshot => {
                volume.is_some_and(|volume| member.number < volume.next_snapshot)
                    && !member.name.is_empty()
            }
            MemberKind::Zombie | MemberKind::Freeing => true,
        };
        self.report.expect(right, "C3", || format!("volume {} does not have it", member.volume));
    }

    fn check_volumes(&mut self, catalog: &Catalog) {
        let mut names = BTreeSet::new();
        let next = self.superblock.next_volume;
        for (id, volume) in &catalog.volumes {
            self.report.place = format!("volume '{}'", volume.name);
            let report = &mut self.report;
            report.expect(names.insert(&volume.name), "C3", || "its name is taken twice".into());
            report.expect(id.0 < next, "C2", || format!("the next volume is {next}"));
            if let Some(head) = volume.head {
                let member = catalog.members.get(&head);
                let right = member.is_some_and(|m| m.kind == MemberKind::Head && m.volume == *id);
                report.expect(right, "C3", || format!("member {head} is not its head"));
            }
        }
        let mut labels = BTreeSet::new();
        for (id, member) in &catalog.members {
            if member.kind == MemberKind::Snapshot {
                let fresh = labels.insert((member.volume, Ok(&member.name)))
                    & labels.insert((member.volume, Err(member.number)));
                self.report.expect(fresh, "C3", || {
                    format!(
                        "the name or the number of snapshot '{}' ({id}) is taken twice",
                        member.name
                    )
                });
            }
        }
    }

    /// L4 and L5: every chunk is in one chain, and every chain belongs to somebody.
    pub(super) fn check_chains(&mut self, catalog: &Catalog) {
        self.report.place = "catalog".into();
        let mut left = catalog.chunks.clone();
        let lists: BTreeMap<u64, MemberId> = catalog
            .members
            .iter()
            .filter(|(_, member)| member.kind != MemberKind::Freeing)
            .map(|(id, member)| (member.deadlist, *id))
            .collect();
        for (list, buckets) in &catalog.buckets {
            let owned = lists.contains_key(list);
            self.report.expect(owned, "L5", || format!("deadlist {list} is nobody's"));
            for (epoch, chain) in buckets {
                self.check_chain(&format!("bucket {epoch} of deadlist {list}"), chain, &mut left);
            }
        }
        for (number, chain) in &catalog.work {
            self.check_chain(&format!("reclaim item {number}"), chain, &mut left);
        }
        for number in left.keys() {
            self.report.problem("L5", format!("chunk {number} is in no chain"));
        }
        let next = self.superblock.next_object;
        let members = catalog.members.values().map(|member| member.deadlist);
        let numbers = members.chain(catalog.work.keys().copied());
        let largest = numbers.chain(catalog.chunks.keys().copied()).max().unwrap_or(0);
        self.report.expect(largest < next, "C2", || {
            format!("object {largest} exists, and the next is {next}")
        });
    }

    fn check_chain(&mut self, what: &str, chain: &ChainRecord, left: &mut HashMap<u64, Chunk>) {
        let (mut next, mut last, mut blocks) = (chain.first, 0, 0);
        while next != 0 {
            let Some(chunk) = left.remove(&next) else {
                let message = format!("{what}: chunk {next} is missing, or in two chains");
                self.report.problem("L4", message);
                return;
            };
            blocks += chunk.blocks;
            (last, next) = (next, chunk.next);
        }
        self.report
            .expect(chain.last == last, "L4", || format!("{what}: its last chunk is {last}"));
        self.report.expect(chain.blocks == blocks, "L4", || {
            format!("{what}: {blocks} blocks, not {}", chain.blocks)
        });
    }

    /// Calls `f` with every dead reference of a chain whose chunks have been seen to be there.
    pub(super) fn for_each_dead(
        &mut self,
        roots: &Roots,
        chain: &ChainRecord,
        f: &mut dyn FnMut(&mut Self, DeadRef),
    ) {
        let tree = stored(&roots.catalog);
        let mut next = chain.first;
        // A chain in a circle has been reported; it has no more chunks than there are objects.
        let mut left = self.superblock.next_object;
        while next != 0 && left > 0 {
            let found = Reader::new(&tree, &self.cache).get(Key::chunk(next), ChunkRecord::decode);
            let Ok(Some(Ok(chunk))) = found else { return };
            for dead in chunk.refs {
                self.report.counts.dead_blocks += u64::from(dead.run.len_blocks);
                f(self, dead);
            }
            next = chunk.next;
            left -= 1;
        }
    }
}

/// Adds the runs of a region's blocks that are in use.
fn add_used(used: &mut Vec<Counted>, region: u64, image: &RegionImage) {
    let base = region * u64::from(REGION_BLOCKS);
    let mut add = |start: u64, end: u64| match used.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => used.push((start, end, 1)),
    };
    for (word, bits) in image.bitmap().words().iter().enumerate() {
        let base = base + word as u64 * 64;
        let mut bits = *bits;
        while bits != 0 {
            let skip = bits.trailing_zeros();
            let len = (bits >> skip).trailing_ones();
            add(base + u64::from(skip), base + u64::from(skip + len));
            bits &= (u64::MAX << skip).checked_shl(len).unwrap_or(0);
        }
    }
}
