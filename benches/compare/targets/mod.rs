//! The filesystems that are compared, each set up below one directory of the host's.
//!
//! A target undoes in `drop` what it set up: mounts, loop devices, daemons.

mod amber;
mod host;
mod loopback;
mod zfs;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::amber::Amber;
use crate::failure::{Failure, Result};
use crate::mount_point::MountPoint;
use crate::programs::{command, installed, run};

/// All names, in the order of the columns.
pub(crate) const NAMES: [&str; 6] = ["host", "btrfs", "xfs", "bindfs", "zfs-fuse", "amberfs"];

/// A filesystem under test.
pub(crate) trait Target {
    /// One of [`NAMES`].
    fn name(&self) -> &'static str;
    /// The directory in which workloads run.
    fn root(&self) -> PathBuf;
    /// Takes the filesystem down and puts it up again, so that it has nothing in its own caches.
    fn remount(&mut self) -> Result<()>;
    /// Returns the bytes that its content occupies on the disk, with its own overhead, when everything
    /// is written and what was deleted is free.
    fn occupied(&mut self) -> Result<u64>;
    /// Returns its snapshots, if it can make any.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }
}

/// What a filesystem can do with snapshots of [`Target::root`]. Each is durable when it returns,
/// but for deletions.
pub(crate) trait Snapshots {
    /// Makes the snapshot `name`.
    fn create(&self, name: &str) -> Result<()>;
    /// Lists the names of the snapshots.
    fn names(&self) -> Result<Vec<String>>;
    /// Deletes a snapshot; its space may come back later.
    fn delete(&self, name: &str) -> Result<()>;
    /// Makes a writable copy of the snapshot `name`, called `copy`.
    fn copy(&self, name: &str, copy: &str) -> Result<()>;
    /// Deletes a writable copy.
    fn discard(&self, copy: &str) -> Result<()>;
    /// Makes the live files what they were in the snapshot.
    fn restore(&self, name: &str) -> Result<()>;
}

/// Sets up the filesystem `name` below `base`, with `image_bytes` for one that needs a device.
pub(crate) fn set_up(name: &str, base: &Path, image_bytes: u64) -> Result<Box<dyn Target>> {
    let dir = base.join(name);
    fs::create_dir(&dir).map_err(Failure::io("make the directory", &dir))?;
    Ok(match name {
        "host" => Box::new(host::Host::new(dir)),
        "bindfs" => Box::new(host::Bindfs::new(&dir)?),
        "btrfs" => Box::new(loopback::Btrfs::new(&dir, image_bytes)?),
        "xfs" => Box::new(loopback::Xfs::new(&dir, image_bytes)?),
        "zfs-fuse" => Box::new(zfs::Zfs::new(&dir, image_bytes)?),
        "amberfs" => Box::new(Amber::new(&dir, &[])?),
        _ => return Err(Failure::Absent(format!("there is no filesystem called {name}"))),
    })
}

/// Removes all files and snapshots of a target.
pub(crate) fn empty(target: &dyn Target) -> Result<()> {
    if let Some(snapshots) = target.snapshots() {
        for name in snapshots.names()? {
            snapshots.delete(&name)?;
        }
    }
    let root = target.root();
    for entry in fs::read_dir(&root).map_err(Failure::io("list", &root))? {
        let path = entry.map_err(Failure::io("list", &root))?.path();
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Failure::io("remove", &path))?;
    }
    Ok(())
}

/// Fails when a program that a target needs is missing.
fn needs(programs: &[&str]) -> Result<()> {
    match programs.iter().find(|program| !installed(program)) {
        Some(program) => Err(Failure::Absent(format!("{program} is not installed"))),
        None => Ok(()),
    }
}

/// Asks again until what was deleted is free: while `figure` falls, for a while.
fn settled(mut figure: impl FnMut() -> Result<u64>) -> Result<u64> {
    let mut last = figure()?;
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(200));
        let now = figure()?;
        if now >= last {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// Mounts `device` with a filesystem of `kind`.
fn mount(kind: &str, options: &str, device: &str, at: &MountPoint) -> Result<()> {
    let args = ["-t", kind, "-o", options, device].map(std::ffi::OsString::from);
    run(command("mount", &args).arg(&at.0)).map(drop)
}

/// Returns the bytes of the blocks of all files below `dir`.
fn blocks_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(Failure::io("list", &dir))? {
            let entry = entry.map_err(Failure::io("list", &dir))?;
            let found = entry.metadata().map_err(Failure::io("look at", &entry.path()))?;
            bytes += found.blocks() * 512;
            if found.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(bytes)
}
