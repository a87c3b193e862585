//! The rows of the table: what is measured, in which unit, against what, and what AmberFS should reach.

/// What a figure counts. More is better for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// MiB in a second.
    MibPerSecond,
    /// Operations, files or transactions in a second.
    PerSecond,
    /// A share of one: bytes of content for each byte on disk, speed after for speed before.
    Share,
}

/// What the ratios in a row are to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// The host filesystem.
    Host,
    /// btrfs, where the host can't do it.
    Btrfs,
    /// Nothing: figures stand by themselves.
    None,
}

/// What AmberFS should reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// Nothing is asked.
    None,
    /// At least this, as the row's ratio, or as its figure if it has no base.
    AtLeast(f64),
    /// At least this ratio, and at most this time in milliseconds.
    RatioAndMillis(f64, f64),
    /// At most this time in milliseconds for one operation.
    Millis(f64),
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    /// What the table and the JSON file call it.
    pub name: &'static str,
    pub unit: Unit,
    pub base: Base,
    pub goal: Goal,
}

const fn host(name: &'static str, unit: Unit, goal: Goal) -> Row {
    Row { name, unit, base: Base::Host, goal }
}

const fn snapshot(name: &'static str, goal: Goal) -> Row {
    Row { name, unit: PerSecond, base: Base::Btrfs, goal }
}

const fn share(name: &'static str, goal: Goal) -> Row {
    Row { name, unit: Unit::Share, base: Base::None, goal }
}

use Goal::{AtLeast, Millis, RatioAndMillis};
use Unit::{MibPerSecond, PerSecond};

/// All rows, in the table's order.
pub(crate) const ROWS: &[Row] = &[
    host("seqwrite", MibPerSecond, AtLeast(0.95)),
    host("seqread-cold", MibPerSecond, AtLeast(0.95)),
    host("seqread-warm", MibPerSecond, AtLeast(0.95)),
    share("space-large", AtLeast(1.0 / 1.01)),
    host("randread-cold-1", PerSecond, AtLeast(0.8)),
    host("randread-cold-4", PerSecond, AtLeast(0.8)),
    host("randread-warm", PerSecond, AtLeast(0.95)),
    host("randwrite-fsync-end", PerSecond, AtLeast(2.0)),
    host("randwrite-fsync-each", PerSecond, AtLeast(1.0)),
    host("randwrite-direct", PerSecond, Goal::None),
    host("append-fsync", PerSecond, AtLeast(1.3)),
    host("aged-seqread-cold", MibPerSecond, Goal::None),
    host("aged-randread-cold-1", PerSecond, AtLeast(0.8)),
    host("aged-randread-cold-4", PerSecond, AtLeast(0.8)),
    host("aged-randread-warm", PerSecond, AtLeast(0.95)),
    host("small-create", PerSecond, AtLeast(0.5)),
    host("small-stat-cold", PerSecond, AtLeast(0.8)),
    host("small-stat-warm", PerSecond, AtLeast(0.95)),
    host("small-list", PerSecond, Goal::None),
    host("small-read-cold", PerSecond, AtLeast(1.0)),
    host("small-read-warm", PerSecond, Goal::None),
    host("small-rename", PerSecond, AtLeast(0.5)),
    host("small-unlink", PerSecond, AtLeast(2.0)),
    // A million files of 1 KiB in 1.5 GiB.
    share("space-small", AtLeast(1e6 / (1.5 * 1048576.0))),
    host("tree-unpack", PerSecond, AtLeast(0.7)),
    host("tree-unpack-sync", PerSecond, Goal::None),
    host("tree-du-cold", PerSecond, AtLeast(0.9)),
    host("tree-grep-cold", PerSecond, AtLeast(1.0)),
    host("tree-rm", PerSecond, AtLeast(2.0)),
    host("git-clone", PerSecond, AtLeast(0.8)),
    host("git-status", PerSecond, AtLeast(0.9)),
    host("sqlite-wal", PerSecond, AtLeast(1.0)),
    host("sqlite-delete", PerSecond, AtLeast(1.3)),
    host("pgbench", PerSecond, AtLeast(1.0)),
    snapshot("snap-create", RatioAndMillis(3.0, 3.0)),
    snapshot("snap-create-dirty", AtLeast(1.0)),
    snapshot("snap-create-files", RatioAndMillis(3.0, 3.0)),
    snapshot("snap-list", Goal::None),
    snapshot("snap-delete", Millis(2.0)),
    snapshot("snap-clone", Millis(10.0)),
    snapshot("snap-restore", Millis(10.0)),
    share("overwrite-after-snap", AtLeast(0.95)),
    snapshot("snap-create-many", RatioAndMillis(3.0, 3.0)),
    snapshot("snap-create-most", RatioAndMillis(3.0, 3.0)),
];

/// Returns the row called `name`, which has to be one.
pub(crate) fn row(name: &str) -> &'static Row {
    let found = ROWS.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("there is no row called {name}"))
}
