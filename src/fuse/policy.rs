//! What the kernel may cache, and for how long.
//!
//! The daemon is the only writer, and every change by way of the mount goes through the kernel: so
//! names, absent names, attributes, listings and pages are cached without a limit. `.snapshots`
//! is the exception: snapshots come and go by other ways, and names like `@latest` mean another
//! snapshot tomorrow, so nothing about it is kept.

use crate::fs::{Entry, NodeId};

/// As good as for ever (136 years), and far from any overflow in the kernel's clock arithmetic.
pub(crate) const UNLIMITED_SECONDS: u64 = u32::MAX as u64;

/// How long a name stays valid.
pub(crate) fn entry_seconds(entry: &Entry) -> u64 {
    if entry.cacheable { UNLIMITED_SECONDS } else { 0 }
}

/// Whether the kernel keeps the attributes of live files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Attributes {
    /// Until they change.
    #[default]
    Kept,
    /// Not at all: it asks before it uses them.
    Asked,
}

/// How long a node's attributes stay valid.
pub(crate) fn attr_seconds(node: NodeId, attributes: Attributes) -> u64 {
    let asked = attributes == Attributes::Asked && node.is_live();
    if node.is_snapshot_dir() || asked { 0 } else { UNLIMITED_SECONDS }
}

/// Whether the kernel may remember that `parent` has no such name.
pub(crate) fn caches_absence(parent: NodeId) -> bool {
    !parent.is_snapshot_dir()
}
