//! What a scrub has found: in which states it is, and which file it hurts there.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{ScrubDamage, ScrubHooks, ScrubPhase};
use crate::btree::{Reader, Tree};
use crate::format::{InodeNo, Key, MemberId, MemberKind};
use crate::pool::Pool;
use crate::pool::extents::for_each_extent;

/// Damage in the tree that is being walked.
pub(super) struct Finding {
    pub(super) key: Key,
    /// Last inode whose records it may hit.
    pub(super) last: u64,
    /// First block in the file, number of blocks, and first block in the pool.
    pub(super) blocks: Option<(u64, u64, u64)>,
    pub(super) what: String,
}

impl Finding {
    /// Records from a key on, up to another one, that can't be read.
    pub(super) fn records(key: Key, end: Option<Key>, error: &dyn std::error::Error) -> Finding {
        let last = end.map_or(u64::MAX, |end| Key(end.0.saturating_sub(1)).id());
        Finding { key, last, blocks: None, what: error.to_string() }
    }

    /// What is wrong in a volume's tree.
    fn what_of_volume(&self) -> String {
        let (what, first, last) = (&self.what, self.key.id(), self.last);
        match (self.blocks, last) {
            (Some(_), _) => what.clone(),
            (None, u64::MAX) => format!("{what} (records from inode {first} on)"),
            (None, last) if last == first => format!("{what} (records of inode {first})"),
            (None, last) => format!("{what} (records of inodes {first} to {last})"),
        }
    }
}

impl Pool {
    /// Says in which states damage is: where it was found, and where what grew from that still has it. Beside
    /// each the last inode that it may hit.
    pub(super) fn states_with(
        &self,
        owner: Option<MemberId>,
        phase: ScrubPhase,
        finding: &Finding,
    ) -> Vec<(ScrubDamage, u64)> {
        let Some(owner) = owner else {
            let tree = if phase == ScrubPhase::Catalog { "catalog" } else { "checkpoint tree" };
            let piece = ScrubDamage {
                member: None,
                volume: None,
                volume_name: String::new(),
                snapshot: None,
                inode: InodeNo(0),
                path: None,
                blocks: None,
                what: format!("the pool's own records, the {tree}: {}", finding.what),
            };
            return vec![(piece, 0)];
        };
        let mut states = vec![owner];
        let mut at = 0;
        while let Some(member) = states.get(at).copied() {
            at += 1;
            let children: Vec<MemberId> = {
                let lineage = self.lineage.lock();
                let member = lineage.member(member);
                member.map_or(Vec::new(), |member| member.children.iter().copied().collect())
            };
            states.extend(children.into_iter().filter(|child| self.has_damage(*child, finding)));
        }
        let named = states.into_iter().filter_map(|member| self.damage_in(member, finding));
        named.map(|piece| (piece, finding.last)).collect()
    }

    /// Finds the path of what is damaged, and logs it. The caller holds nothing of the pool.
    pub(super) fn named(
        self: &Arc<Self>,
        mut piece: ScrubDamage,
        last: u64,
        hooks: &ScrubHooks,
    ) -> ScrubDamage {
        if let Some((inode, path)) = (hooks.path)(self, &piece, last) {
            (piece.inode, piece.path) = (inode, Some(path));
        }
        tracing::error!(
            volume = piece.volume.map(|_| &piece.volume_name),
            snapshot = piece.snapshot,
            path = piece.path,
            inode = piece.volume.map(|_| piece.inode.0),
            "scrub: {}",
            piece.what
        );
        piece
    }

    /// Whether a state reads what is damaged.
    fn has_damage(&self, member: MemberId, finding: &Finding) -> bool {
        let Some(tree) = self.tree_of(member) else { return false };
        let reader = Reader::new(&tree, &self.cache);
        let Some((block, len, addr)) = finding.blocks else {
            return reader.get(finding.key, |_| ()).is_err();
        };
        let mut same = false;
        let ino = InodeNo(finding.key.id());
        let read = for_each_extent(&reader, ino, block, block + len, &mut |at, extent| {
            same |= at + addr == extent.addr.0 + block;
            ControlFlow::Continue(())
        });
        read.is_ok() && same
    }

    fn tree_of(&self, member: MemberId) -> Option<Tree> {
        let volume = {
            let lineage = self.lineage.lock();
            let found = lineage.member(member)?;
            if let Some(root) = &found.root {
                return Some(root.tree.clone());
            }
            found.record.volume
        };
        let volume = self.volume_by_id(volume).ok()?;
        let head = volume.head.read();
        (head.member == member).then(|| head.root.tree.clone())
    }

    fn damage_in(&self, member: MemberId, finding: &Finding) -> Option<ScrubDamage> {
        let lineage = self.lineage.lock();
        let record = &lineage.member(member)?.record;
        let volume = lineage.volume(record.volume);
        // A deleted snapshot has no name; what is left of it is read by those that grew from it.
        let named = record.kind != MemberKind::Zombie;
        named.then(|| ScrubDamage {
            member: Some(member),
            volume: Some(record.volume),
            volume_name: volume.map(|entry| entry.record.name.clone()).unwrap_or_default(),
            snapshot: (record.kind == MemberKind::Snapshot).then(|| record.name.clone()),
            inode: InodeNo(finding.key.id()),
            path: None,
            blocks: finding.blocks.map(|(block, len, _)| (block, len)),
            what: finding.what_of_volume(),
        })
    }
}
