//! AmberFS: the release binary, a pool on the host filesystem, its volume `main`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{MountPoint, Snapshots, Target, settled};
use crate::failure::{Failure, Result};
use crate::programs::{command, run};

/// A mounted pool. Its daemon ends with its last mount.
pub(super) struct Amber {
    mount: MountPoint,
    pool: PathBuf,
}

/// A command line of the program that was built with this benchmark.
fn amberfs(args: &[&str]) -> Command {
    command(env!("CARGO_BIN_EXE_amberfs"), args)
}

/// Returns the names in the directory `dir`.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(Failure::io("list", dir))?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.map_err(Failure::io("list", dir))?;
        Ok(entry.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

impl Amber {
    pub(super) fn new(dir: &Path) -> Result<Amber> {
        let made = Amber { mount: MountPoint::new(dir.join("mnt"))?, pool: dir.join("pool") };
        run(amberfs(&["mount", "--create"]).arg(&made.pool).arg(&made.mount.0))?;
        Ok(made)
    }

    fn mount(&self) -> Result<()> {
        run(amberfs(&["mount"]).arg(&self.pool).arg(&self.mount.0)).map(drop)
    }

    fn unmount(&self) -> Result<()> {
        run(amberfs(&["umount"]).arg(&self.mount.0)).map(drop)
    }

    fn snapshot_path(&self, name: &str) -> PathBuf {
        self.mount.0.join(".snapshots").join(name)
    }

    fn address(&self, behind: &str) -> String {
        format!("{}{behind}", self.pool.display())
    }
}

impl Drop for Amber {
    fn drop(&mut self) {
        // What is still mounted after this the mount point's own guard takes away.
        if self.mount.is_mounted() {
            let _ = self.unmount();
        }
    }
}

impl Target for Amber {
    fn name(&self) -> &'static str {
        "amberfs"
    }

    fn root(&self) -> PathBuf {
        self.mount.0.clone()
    }

    fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn occupied(&mut self) -> Result<u64> {
        // A pool that is closed and opened has everything in its place.
        self.remount()?;
        settled(|| {
            let said = run(amberfs(&["pool", "status", "--json"]).arg(&self.pool))?;
            let status: Option<serde_json::Value> = serde_json::from_str(&said).ok();
            status
                .and_then(|status| status["used_bytes"].as_u64())
                .ok_or_else(|| Failure::Absent("the pool's status has no used_bytes".into()))
        })
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl Snapshots for Amber {
    fn create(&self, name: &str) -> Result<()> {
        let path = self.snapshot_path(name);
        fs::create_dir(&path).map_err(Failure::io("make the snapshot", &path))
    }

    fn names(&self) -> Result<Vec<String>> {
        names_in(&self.mount.0.join(".snapshots"))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.snapshot_path(name);
        fs::remove_dir(&path).map_err(Failure::io("delete the snapshot", &path))
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
