//! What AmberFS has commands for: clones, and making them what they were.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The volume that the threads work on.
const VOLUME: &str = "main";
/// What the names of the snapshots begin with that restoring makes.
pub(crate) const BEFORE: &str = "before-restore-";

/// Where a clone is mounted: beside the volume.
pub(crate) fn clone_dir(mount: &Path, name: &str) -> PathBuf {
    mount.with_file_name(name)
}

/// The program, and the pool.
#[derive(Debug)]
pub(crate) struct Amberfs {
    pub program: PathBuf,
    pub pool: PathBuf,
}

impl Amberfs {
    fn run(&self, command: &[&str], arguments: &[&str]) -> io::Result<String> {
        let output = Command::new(&self.program).args(command).args(arguments).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("amberfs {}: {said}", command.join(" "))))
    }

    fn volume(&self, name: &str) -> String {
        format!("{}:{name}", self.pool.display())
    }

    /// The names of all volumes.
    pub(crate) fn volumes(&self) -> io::Result<Vec<String>> {
        let listed = self.run(&["volume", "list"], &[&self.pool.to_string_lossy()])?;
        let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
        Ok(listed.lines().skip(1).filter_map(name).collect())
    }

    /// Makes a volume of a snapshot, and mounts it.
    pub(crate) fn clone(&self, mount: &Path, snapshot: &str, name: &str) -> io::Result<()> {
        self.run(&["clone"], &[&format!("{}@{snapshot}", self.volume(VOLUME)), name])?;
        self.mount(mount, name).map(drop)
    }

    /// Mounts a clone; returns where.
    pub(crate) fn mount(&self, mount: &Path, name: &str) -> io::Result<PathBuf> {
        let dir = clone_dir(mount, name);
        fs::create_dir_all(&dir)?;
        self.run(&["mount"], &[&self.volume(name), &dir.to_string_lossy()])?;
        Ok(dir)
    }

    pub(crate) fn umount(&self, dir: &Path) -> io::Result<()> {
        self.run(&["umount"], &[&dir.to_string_lossy()]).map(drop)
    }

    /// Makes a clone what it was in one of its snapshots.
    pub(crate) fn restore(&self, mount: &Path, name: &str, snapshot: &str) -> io::Result<()> {
        self.umount(&clone_dir(mount, name))?;
        self.run(&["restore"], &[&format!("{}@{snapshot}", self.volume(name))])?;
        self.mount(mount, name).map(drop)
    }

    /// Deletes a clone that has no snapshot.
    pub(crate) fn delete(&self, mount: &Path, name: &str) -> io::Result<()> {
        self.umount(&clone_dir(mount, name))?;
        self.run(&["volume", "delete"], &[&self.volume(name)]).map(drop)
    }
}
