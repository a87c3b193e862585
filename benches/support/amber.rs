//! AmberFS: the release binary, a pool on the host filesystem, its volume `main`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::failure::{Failure, Result};
use super::mount_point::MountPoint;
use super::programs::{command, run};

/// A mounted pool. Its daemon ends with its last mount.
pub(crate) struct Amber {
    mount: MountPoint,
    pool: PathBuf,
    /// Arguments of each `amberfs mount`.
    arguments: &'static [&'static str],
}

/// A command line of the program that was built with this benchmark.
pub(crate) fn amberfs(args: &[&str]) -> Command {
    command(env!("CARGO_BIN_EXE_amberfs"), args)
}

impl Amber {
    /// Makes a pool in `dir`, and mounts it there with these `arguments`.
    pub(crate) fn new(dir: &Path, arguments: &'static [&'static str]) -> Result<Amber> {
        let mount = MountPoint::new(dir.join("mnt"))?;
        let made = Amber { mount, pool: dir.join("pool"), arguments };
        made.mount_with(&["mount", "--create"])?;
        Ok(made)
    }

    /// Returns where it is mounted.
    pub(crate) fn root(&self) -> &Path {
        &self.mount.0
    }

    /// Returns the pool's directory.
    pub(crate) fn pool(&self) -> &Path {
        &self.pool
    }

    fn mount_with(&self, command: &[&str]) -> Result<()> {
        let args = [command, self.arguments].concat();
        run(amberfs(&args).arg(&self.pool).arg(&self.mount.0)).map(drop)
    }

    /// Mounts it again.
    pub(crate) fn mount(&self) -> Result<()> {
        self.mount_with(&["mount"])
    }

    /// Unmounts it, which closes the pool.
    pub(crate) fn unmount(&self) -> Result<()> {
        run(amberfs(&["umount"]).arg(&self.mount.0)).map(drop)
    }

    /// Returns an address in the pool: `behind` is `:VOLUME` or `:VOLUME@SNAPSHOT`.
    pub(crate) fn address(&self, behind: &str) -> String {
        format!("{}{behind}", self.pool.display())
    }

    /// Returns the directory of snapshots.
    pub(crate) fn snapshots_dir(&self) -> PathBuf {
        self.mount.0.join(".snapshots")
    }

    /// Makes the snapshot `name`.
    pub(crate) fn make_snapshot(&self, name: &str) -> Result<()> {
        let path = self.snapshots_dir().join(name);
        fs::create_dir(&path).map_err(Failure::io("make the snapshot", &path))
    }

    /// Deletes the snapshot `name`; its space comes back later.
    pub(crate) fn delete_snapshot(&self, name: &str) -> Result<()> {
        let path = self.snapshots_dir().join(name);
        fs::remove_dir(&path).map_err(Failure::io("delete the snapshot", &path))
    }

    /// Runs `amberfs` with `args` on the pool, and returns the object that it prints.
    pub(crate) fn ask(&self, args: &[&str]) -> Result<Value> {
        let said = run(amberfs(args).arg("--json").arg(&self.pool))?;
        let absent = |_| Failure::Absent(format!("amberfs {} says no JSON", args.join(" ")));
        serde_json::from_str(&said).map_err(absent)
    }

    /// Returns a figure of the pool's status.
    pub(crate) fn status(&self, name: &str) -> Result<u64> {
        number(&self.ask(&["pool", "status"])?, name)
    }
}

/// Returns the number that `object` has under `name`.
pub(crate) fn number(object: &Value, name: &str) -> Result<u64> {
    let absent = || Failure::Absent(format!("amberfs does not say {name}"));
    object[name].as_u64().ok_or_else(absent)
}

impl Drop for Amber {
    fn drop(&mut self) {
        // What is still mounted after this the mount point's own guard takes away.
        if self.mount.is_mounted() {
            let _ = self.unmount();
        }
    }
}
