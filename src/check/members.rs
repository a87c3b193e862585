//! Lineage members: each against its parent. T4, T6, E2, E3, L2 and L3.

use super::Checker;
use super::catalog::{Catalog, Roots};
use super::diff::Difference;
use super::extents::{Carried, Piece, difference};
use super::files::Files;
use super::space::{Counted, RunCounts};
use super::tree::{Place, stored};
use crate::btree::Tree;
use crate::cache::Body;
use crate::format::{
    Epoch, Extent, Key, KeyKind, MemberId, MemberKind, MemberRecord, NODE_BLOCKS, RootRecord, Run,
};

/// References of one birth.
type Dead = (Epoch, Run);

/// A member being compared with its parent.
pub(super) struct Member {
    pub(super) tree: Tree,
    /// Epoch of the parent: what is older is the parent's too.
    pub(super) parent_epoch: Epoch,
    /// Epoch that the member can't be younger than.
    epoch: Epoch,
    /// Inode whose keys come now.
    ino: u64,
    old: Vec<Piece>,
    new: Vec<Piece>,
    /// Block counts of the inode's record, before and now; 0 where there is none.
    blocks: (u64, u64),
    gone: Vec<Dead>,
    fresh_blocks: u64,
    gone_blocks: u64,
    largest_inode: u64,
    pub(super) files: Files,
}

impl Checker<'_> {
    pub(super) fn check_members(&mut self, catalog: &Catalog, roots: &Roots) {
        let parentless = |member: &MemberRecord| {
            member.parent.is_none_or(|parent| !catalog.members.contains_key(&parent))
        };
        let tops = catalog.members.iter().filter(|(_, member)| parentless(member));
        let mut todo: Vec<(MemberId, usize)> = tops.map(|(id, _)| (*id, 0)).collect();
        // Epochs of the ancestors of the member that is next.
        let mut ancestors: Vec<Epoch> = Vec::new();
        let mut done = 0;
        // Parents that lead in a circle are reached from no top, and have been reported.
        while let Some((id, depth)) = todo.pop() {
            let Some(member) = catalog.members.get(&id) else { continue };
            ancestors.truncate(depth);
            self.report.place = place_of(catalog, id, member);
            if let Some(root) = roots.members.get(&id) {
                match member.kind {
                    MemberKind::Freeing => self.check_freeing(member, root),
                    _ => self.check_member(catalog, roots, member, root, &ancestors),
                }
            }
            done += 1;
            self.report.counts.members = done;
            let children = catalog.children.get(&id).into_iter().flatten();
            todo.extend(children.map(|child| (*child, depth + 1)));
            ancestors.push(member.epoch);
        }
        self.report.place = String::new();
        let all = catalog.members.len() as u64;
        self.report.expect(done == all, "L1", || {
            format!("{} members are their own ancestors", all - done)
        });
        self.check_work(catalog, roots);
    }

    fn check_member(
        &mut self,
        catalog: &Catalog,
        roots: &Roots,
        record: &MemberRecord,
        root: &RootRecord,
        ancestors: &[Epoch],
    ) {
        let parent = record.parent.and_then(|parent| roots.members.get(&parent));
        let difference = self.diff(root, parent);
        let head = record.kind == MemberKind::Head;
        let mut member = Member {
            tree: stored(root),
            parent_epoch: parent.and(ancestors.last().copied()).unwrap_or_default(),
            epoch: if head { self.superblock.epoch } else { record.epoch },
            ino: 0,
            old: Vec::new(),
            new: Vec::new(),
            blocks: (0, 0),
            gone: Vec::new(),
            fresh_blocks: 0,
            gone_blocks: 0,
            largest_inode: 0,
            files: Files::default(),
        };
        self.check_nodes(&mut member, &difference, root, parent);
        let mut carried = Carried::default();
        let tree = member.tree.clone();
        self.entries(
            &difference,
            &mut |checker, place, node, behind| {
                checker.check_overlaps(&tree, &mut carried, place, node, behind);
            },
            &mut |checker, key, old, new| checker.entry(&mut member, key, old, new),
        );
        self.settle_inode(&mut member);
        if self.incomplete {
            return;
        }
        let before = parent.map_or(0, |parent| parent.data_blocks) + member.fresh_blocks;
        self.report.expect(before == root.data_blocks + member.gone_blocks, "E3", || {
            let blocks = before.saturating_sub(member.gone_blocks);
            format!("its extents map {blocks} blocks, not {}", root.data_blocks)
        });
        self.report.expect(member.largest_inode < root.next_inode, "C2", || {
            format!("inode {} exists, the next is {}", member.largest_inode, root.next_inode)
        });
        if self.options.files {
            self.check_files(&mut member);
        }
        self.check_deadlist(catalog, roots, record, &mut member, ancestors);
    }

    fn check_nodes(
        &mut self,
        member: &mut Member,
        difference: &Difference,
        root: &RootRecord,
        parent: Option<&RootRecord>,
    ) {
        for (addr, birth) in &difference.nodes {
            self.check_birth(member, *birth, &format!("the node at block {addr}"));
        }
        let nodes = difference.old_nodes.iter();
        member.gone.extend(nodes.map(|(addr, birth)| (*birth, Run::new(*addr, NODE_BLOCKS))));
        if self.incomplete {
            return;
        }
        let found = parent.map_or(0, |parent| parent.nodes) + difference.nodes.len() as u64;
        let found = found.saturating_sub(difference.old_nodes.len() as u64);
        self.report
            .expect(found == root.nodes, "T6", || format!("{found} nodes, not {}", root.nodes));
    }

    /// What the parent has not came to be after it, and before the member was frozen.
    fn check_birth(&mut self, member: &Member, birth: Epoch, what: &str) {
        self.report.expect(birth <= member.epoch, "T4", || {
            format!("{what} was born in epoch {birth}, after {}", member.epoch)
        });
        self.report.expect(birth > member.parent_epoch, "L2", || {
            format!("{what} was born in epoch {birth}, but its parent does not have it")
        });
    }

    fn entry(&mut self, member: &mut Member, key: Key, old: Option<&[u8]>, new: Option<&[u8]>) {
        if key.id() != member.ino {
            self.settle_inode(member);
            member.ino = key.id();
        }
        if key.is(KeyKind::Extent) {
            if let Some(extent) = old.and_then(|old| Extent::decode(old).ok()) {
                member.old.push(Piece::new(key.sub(), &extent));
            }
            if let Some(extent) = new.and_then(|new| self.new_extent(key, new)) {
                member.new.push(Piece::new(key.sub(), &extent));
            }
        } else if key.is(KeyKind::Inode) {
            let blocks = |record: Option<&[u8]>| {
                record.and_then(|record| record.first_chunk()).map_or(0, |f| u64::from_le_bytes(*f))
            };
            member.blocks = (blocks(old), blocks(new));
            member.largest_inode = member.largest_inode.max(new.map_or(0, |_| key.id()));
        }
        if self.options.files {
            self.file_entry(&mut member.files, key, old, new);
        }
    }

    /// All changes of an inode have been seen: E2, and what the extents refer to.
    fn settle_inode(&mut self, member: &mut Member) {
        let sum = |pieces: &[Piece]| pieces.iter().map(|piece| piece.len).sum::<u64>();
        let (old, new) = (sum(&member.old), sum(&member.new));
        let (before, now) = member.blocks;
        let ino = member.ino;
        self.report.expect(before + new == now + old, "E2", || {
            let blocks = (before + new).saturating_sub(old);
            format!("inode {ino}: extents of {blocks} blocks, and it counts {now}")
        });
        let (olds, news) = (std::mem::take(&mut member.old), std::mem::take(&mut member.new));
        let mut fresh: Vec<Piece> = Vec::new();
        difference(
            &olds,
            &news,
            &mut |piece| member.gone.push((Epoch(piece.birth), piece.run())),
            &mut |piece| fresh.push(piece),
        );
        for piece in fresh {
            self.references.add(piece.run());
            self.report.counts.data_blocks += piece.len;
            let what = format_args!("inode {ino}: the extent at block {}", piece.block).to_string();
            self.check_birth(member, Epoch(piece.birth), &what);
        }
        member.fresh_blocks += new;
        member.gone_blocks += old;
        member.blocks = (0, 0);
        if self.options.files {
            self.settle_file(&member.tree, &mut member.files, ino);
        }
    }

    /// L2 and L3: the deadlist is what the parent has and the member has not.
    fn check_deadlist(
        &mut self,
        catalog: &Catalog,
        roots: &Roots,
        record: &MemberRecord,
        member: &mut Member,
        ancestors: &[Epoch],
    ) {
        let mut listed: Vec<Dead> = Vec::new();
        for (bucket, chain) in catalog.buckets.get(&record.deadlist).into_iter().flatten() {
            let at = ancestors.partition_point(|epoch| epoch < bucket);
            let after = at.checked_sub(1).map_or(Epoch(0), |at| ancestors[at]);
            self.for_each_dead(roots, chain, &mut |checker, dead| {
                let right = after < dead.birth && dead.birth <= *bucket;
                checker.report.expect(right, "L3", || {
                    format!("bucket {bucket} holds a reference born in epoch {}", dead.birth)
                });
                listed.push((dead.birth, dead.run));
            });
        }
        let expected = counted(std::mem::take(&mut member.gone));
        let listed = counted(listed);
        for (birth, run, count) in only_in(&expected, &listed) {
            self.report.problem("L2", format!(
                "{count} x {run:?} born in epoch {birth} was dropped, but is not on the deadlist"
            ));
        }
        for (birth, run, count) in only_in(&listed, &expected) {
            self.report.problem("L2", format!(
                "{count} x {run:?} born in epoch {birth} is on the deadlist, but was not dropped"
            ));
        }
    }

    /// The part of a deleted member's tree that is still to be freed.
    fn check_freeing(&mut self, member: &MemberRecord, root: &RootRecord) {
        self.check_freeing_below(member, &Place::root(root));
    }

    fn check_freeing_below(&mut self, member: &MemberRecord, place: &Place) {
        let freed = place.high.is_some_and(|high| high <= member.cursor);
        if place.child.birth <= member.keep_birth || freed {
            return;
        }
        let Some(node) = self.load_new(place) else { return };
        if let Body::Leaf(leaf) = &node.body {
            for at in (0..leaf.len()).filter(|at| leaf.key(*at).is(KeyKind::Extent)) {
                let extent = self.decoded("E1", leaf.key(at), Extent::decode(leaf.value(at)));
                if let Some(extent) = extent.filter(|extent| extent.birth > member.keep_birth) {
                    self.references.add(extent.run());
                }
            }
        }
        place.children(&node).iter().for_each(|below| self.check_freeing_below(member, below));
    }

    /// What reclaim has still to free is still referred to.
    fn check_work(&mut self, catalog: &Catalog, roots: &Roots) {
        for chain in catalog.work.values().filter(|chain| !chain.forget) {
            self.for_each_dead(roots, chain, &mut |checker, dead| checker.references.add(dead.run));
        }
    }
}

fn place_of(catalog: &Catalog, id: MemberId, member: &MemberRecord) -> String {
    let volume = catalog.volumes.get(&member.volume).map_or("?", |volume| volume.name.as_str());
    match member.kind {
        MemberKind::Head => format!("volume '{volume}'"),
        MemberKind::Snapshot => format!("volume '{volume}', snapshot '{}'", member.name),
        MemberKind::Zombie | MemberKind::Freeing => format!("deleted member {id}"),
    }
}

/// References by birth, those that overlap or touch joined, with their number.
fn counted(mut dead: Vec<Dead>) -> Vec<(Epoch, Counted)> {
    dead.sort_unstable();
    let mut all = Vec::new();
    for same in dead.chunk_by(|a, b| a.0 == b.0) {
        let mut counts = RunCounts::default();
        same.iter().for_each(|(_, run)| counts.add(*run));
        all.extend(counts.finish().into_iter().map(|run| (same[0].0, run)));
    }
    all
}

/// The entries of a sorted list that the other has not.
fn only_in(list: &[(Epoch, Counted)], other: &[(Epoch, Counted)]) -> Vec<(Epoch, (u64, u64), u32)> {
    let missing = list.iter().filter(|entry| other.binary_search(entry).is_err());
    missing.map(|(birth, (start, end, count))| (*birth, (*start, *end), *count)).collect()
}
