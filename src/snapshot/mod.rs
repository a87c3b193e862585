//! Snapshots without reference counts: a tree of lineage members, and deadlists.
//!
//! A *member* is a head or a snapshot; its *parent* is the snapshot that it grew from. Every reference to
//! blocks (a node pointer, an extent) has a *birth*, the epoch in which it came to be. When a head drops a
//! reference whose birth is after its parent's epoch, nobody else can see it and it is freed. Otherwise the
//! parent still sees it, and it goes on the head's *deadlist*. When a snapshot with one child goes, what
//! only it could see is exactly the part of the child's deadlist that was born after the parent's epoch.
//!
//! A deadlist is kept in *buckets*, by the oldest ancestor that a reference was visible in, so that this
//! part is a set of whole buckets: they are unlinked and freed in the background, the others are relinked
//! without touching an entry. A bucket is a chain of chunks, and joining two chains is one change of a
//! pointer. Each bucket knows how many blocks its references cover, so what a snapshot alone holds is a
//! sum. The idea is that of OpenZFS's `dsl_deadlist`, here over a tree of members instead of a chain.
//!
//! All of this is state in the catalog tree, changed by the transitions of [`Lineage`]. They are the same
//! whether an operation runs or is replayed, which is why this layer stands below the pool: the pool gives
//! each transition an instant (no operation runs beside it) and a place in the journal.
//!
//! Invariants, verified by [`crate::check`] under these numbers:
//! - L1. A member's parent exists, is no head, and has a smaller epoch; children and parents agree.
//! - L2. A member's deadlist holds exactly the references that are in its parent and not in itself.
//! - L3. Every reference in bucket `e` has a birth of at most `e`, and a birth after every ancestor
//!   epoch below `e`.
//! - L4. A bucket's block count is the sum over its references; chains end, and share no chunk.
//! - L5. Every catalog object belongs to one deadlist or one item of reclaim work.
//! - L6. A zombie has at least two children, a freeing member none.
//!
//! Crash safety: transitions change the catalog tree in memory; a checkpoint makes them durable together
//! with the trees and the space map of the same instant, and the journal repeats those after it. Background
//! reclaim is not journaled: its progress and the space it freed become durable in one checkpoint, or
//! neither does, and then it is done again.

mod deadlist;
mod lineage;
mod reclaim;
mod shared;
#[cfg(test)]
mod tests;

pub use deadlist::DeadBuffer;
pub use lineage::{Lineage, Member, Root, VolumeEntry};
pub use reclaim::Progress;

use crate::btree;
use crate::format::DecodeError;

/// Why a transition failed. What it changed until then is undefined: the pool goes read-only.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The catalog tree could not be read or changed.
    #[error(transparent)]
    Tree(#[from] btree::Error),
    /// A record in the catalog is malformed.
    #[error("the catalog is damaged: {0}")]
    Decode(#[from] DecodeError),
    /// A record that must be there is not.
    #[error("the catalog is damaged: {0}")]
    Missing(String),
}
