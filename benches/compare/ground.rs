//! What a workload stands on: a filesystem, the sizes, the means to measure.
//!
//! 1. Nothing is dirty anywhere when a measurement begins ([`Ground::settle`]), so that nobody is
//!    charged for another's write-back.
//! 2. Cold means that the kernel's caches and the filesystem's own are empty ([`Ground::cool`]): it has
//!    been taken down and put up again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::failure::{Failure, Result};
use crate::rows::{Unit, row};
use crate::scale::Scale;
use crate::stage::Stage;
use crate::targets::{Snapshots, Target};

/// One target, as a step of a workload sees it.
pub(crate) struct Ground<'a> {
    pub target: &'a mut dyn Target,
    pub scale: &'a Scale,
    pub stage: &'a mut Stage,
    /// What earlier steps on the same target have noted.
    pub notes: &'a mut BTreeMap<&'static str, f64>,
    /// The figures of this step, by the names of their rows.
    pub figures: Vec<(&'static str, f64)>,
}

impl Ground<'_> {
    /// Returns the path of `name` on the filesystem.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.target.root().join(name)
    }

    /// Returns what the filesystem can do with snapshots.
    pub(crate) fn snapshots(&self) -> Result<&dyn Snapshots> {
        self.target.snapshots().ok_or_else(|| Failure::Absent("there are no snapshots".into()))
    }

    /// Has everything on disk, of all filesystems.
    pub(crate) fn settle(&self) {
        rustix::fs::sync();
    }

    /// Has this filesystem's content on disk, whatever it keeps it in.
    pub(crate) fn make_durable(&self) -> Result<()> {
        let root = self.target.root();
        for dir in [root.as_path(), self.stage.base()] {
            let open = File::open(dir).map_err(Failure::io("open", dir))?;
            rustix::fs::syncfs(&open).map_err(Failure::io("sync", dir))?;
        }
        Ok(())
    }

    /// Empties the kernel's caches and the filesystem's.
    pub(crate) fn cool(&mut self) -> Result<()> {
        self.settle();
        self.target.remount()?;
        let drop_caches = Path::new("/proc/sys/vm/drop_caches");
        fs::write(drop_caches, "3").map_err(Failure::io("write", drop_caches))
    }

    /// Returns the seconds that `work` takes.
    pub(crate) fn time(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<f64> {
        let begun = Instant::now();
        work(self)?;
        // A clock that did not move is no reason to divide by zero.
        Ok(begun.elapsed().as_secs_f64().max(1e-9))
    }

    /// Measures `work`, which does `amount` of what `name`'s row counts: bytes, or operations.
    pub(crate) fn rate(
        &mut self,
        name: &'static str,
        amount: u64,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.settle();
        let seconds = self.time(work)?;
        self.record_rate(name, amount, seconds);
        Ok(())
    }

    /// Remembers what is on the disk now, for [`Ground::space`].
    pub(crate) fn weigh(&mut self) -> Result<()> {
        let occupied = self.target.occupied()?;
        self.notes.insert("occupied", occupied as f64);
        Ok(())
    }

    /// Notes the bytes of content for each byte on disk: `amount` has been written since [`Ground::weigh`].
    pub(crate) fn space(&mut self, name: &'static str, amount: u64) -> Result<()> {
        let more = self.target.occupied()? as f64 - self.notes["occupied"];
        if more < amount as f64 / 100.0 {
            return Err(Failure::Absent("space of deleted files came back meanwhile".into()));
        }
        self.figures.push((name, amount as f64 / more));
        Ok(())
    }

    /// Notes that `amount` took so many seconds.
    pub(crate) fn record_rate(&mut self, name: &'static str, amount: u64, seconds: f64) {
        let amount = match row(name).unit {
            Unit::MibPerSecond => amount as f64 / 1048576.0,
            Unit::PerSecond | Unit::Share => amount as f64,
        };
        self.figures.push((name, amount / seconds));
    }
}
