//! AmberFS, as a target.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Snapshots, Target, settled};
use crate::amber::{Amber, amberfs};
use crate::failure::{Failure, Result};
use crate::programs::run;

/// Returns the names in the directory `dir`.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(Failure::io("list", dir))?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.map_err(Failure::io("list", dir))?;
        Ok(entry.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

impl Target for Amber {
    fn name(&self) -> &'static str {
        "amberfs"
    }

    fn root(&self) -> PathBuf {
        Amber::root(self).to_owned()
    }

    fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn occupied(&mut self) -> Result<u64> {
        // A pool that is closed and opened has everything in its place.
        self.remount()?;
        settled(|| self.status("used_bytes"))
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl Snapshots for Amber {
    fn create(&self, name: &str) -> Result<()> {
        self.make_snapshot(name)
    }

    fn names(&self) -> Result<Vec<String>> {
        names_in(&self.snapshots_dir())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.delete_snapshot(name)
    }

    fn copy(&self, name: &str, copy: &str) -> Result<()> {
        run(&mut amberfs(&["clone", &self.address(&format!(":main@{name}")), copy])).map(drop)
    }

    fn discard(&self, copy: &str) -> Result<()> {
        run(&mut amberfs(&["volume", "delete", &self.address(&format!(":{copy}"))])).map(drop)
    }

    fn restore(&self, name: &str) -> Result<()> {
        // It can't be mounted meanwhile.
        self.unmount()?;
        run(&mut amberfs(&["restore", &self.address(&format!(":main@{name}"))]))?;
        self.mount()
    }
}
