//! Filesystems of the kernel on a file of the host's, through a loop device without a cache of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, syncfs};

use super::{MountPoint, Snapshots, Target, mount, needs, settled};
use crate::failure::{Failure, Result};
use crate::programs::{command, run};
use crate::sys;

/// A loop device, detached in `drop`.
struct Device {
    path: String,
}

impl Device {
    /// Attaches a new file of `bytes`, whose blocks the host has set aside, as those of a disk are.
    fn new(image: &Path, bytes: u64) -> Result<Device> {
        let file = File::create_new(image).map_err(Failure::io("create", image))?;
        file.set_len(bytes).map_err(Failure::io("grow", image))?;
        // A host without fallocate gets a sparse file.
        let _ = fallocate(&file, FallocateFlags::empty(), 0, bytes);
        let with = |direct: &str| run(command("losetup", &["--find", "--show", direct]).arg(image));
        let path = with("--direct-io=on").or_else(|_| with("--direct-io=off"))?;
        Ok(Device { path: path.trim().to_owned() })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = run(&mut command("losetup", &["--detach", &self.path]));
    }
}

/// Returns the bytes in use by the filesystem at `root`.
fn in_use(root: &Path) -> Result<u64> {
    let dir = File::open(root).map_err(Failure::io("open", root))?;
    syncfs(&dir).map_err(Failure::io("sync", root))?;
    let found = rustix::fs::fstatvfs(&dir).map_err(Failure::io("ask for the space of", root))?;
    Ok((found.f_blocks - found.f_bfree) * found.f_frsize)
}

/// XFS. The fields are dropped in their order: first the mount, then the device.
pub(super) struct Xfs {
    mount: MountPoint,
    device: Device,
}

impl Xfs {
    pub(super) fn new(dir: &Path, bytes: u64) -> Result<Xfs> {
        needs(&["mkfs.xfs", "losetup"])?;
        let made = Xfs {
            mount: MountPoint::new(dir.join("mnt"))?,
            device: Device::new(&dir.join("image"), bytes)?,
        };
        run(&mut command("mkfs.xfs", &["-q", "-K", &made.device.path]))?;
        made.mount()?;
        Ok(made)
    }

    fn mount(&self) -> Result<()> {
        mount("xfs", "defaults", &self.device.path, &self.mount)
    }
}

impl Target for Xfs {
    fn name(&self) -> &'static str {
        "xfs"
    }

    fn root(&self) -> PathBuf {
        self.mount.0.clone()
    }

    fn remount(&mut self) -> Result<()> {
        self.mount.unmount()?;
        self.mount()
    }

    fn occupied(&mut self) -> Result<u64> {
        settled(|| in_use(&self.mount.0))
    }
}

/// btrfs, with the subvolume `live` for the workloads and its snapshots in `snapshots` beside it.
pub(super) struct Btrfs {
    mount: MountPoint,
    device: Device,
}

impl Btrfs {
    pub(super) fn new(dir: &Path, bytes: u64) -> Result<Btrfs> {
        needs(&["mkfs.btrfs", "btrfs", "losetup"])?;
        let made = Btrfs {
            mount: MountPoint::new(dir.join("mnt"))?,
            device: Device::new(&dir.join("image"), bytes)?,
        };
        run(&mut command("mkfs.btrfs", &["-q", "-K", &made.device.path]))?;
        made.mount()?;
        run(command("btrfs", &["subvolume", "create"]).arg(made.root()))?;
        let snapshots = made.mount.0.join("snapshots");
        fs::create_dir(&snapshots).map_err(Failure::io("make the directory", &snapshots))?;
        Ok(made)
    }

    // Discards would make holes in the file, and writes the host's allocations, which a disk has not.
    fn mount(&self) -> Result<()> {
        mount("btrfs", "nodiscard", &self.device.path, &self.mount)
    }

    fn open(&self, below: &str) -> Result<File> {
        let path = self.mount.0.join(below);
        File::open(&path).map_err(Failure::io("open", &path))
    }

    /// Makes a snapshot of the subvolume `source`, and has it on disk.
    fn snapshot(&self, source: &str, dir: &str, name: &str, read_only: bool) -> Result<()> {
        let dir = self.open(dir)?;
        sys::btrfs_snapshot(&self.open(source)?, &dir, name, read_only)
            .map_err(Failure::io("snapshot", Path::new(source)))?;
        syncfs(&dir).map_err(Failure::io("sync", Path::new(name)))
    }

    fn remove(&self, dir: &str, name: &str) -> Result<()> {
        sys::btrfs_delete(&self.open(dir)?, name).map_err(Failure::io("delete", Path::new(name)))
    }
}

impl Target for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn root(&self) -> PathBuf {
        self.mount.0.join("live")
    }

    fn remount(&mut self) -> Result<()> {
        self.mount.unmount()?;
        self.mount()
    }

    fn occupied(&mut self) -> Result<u64> {
        run(command("btrfs", &["subvolume", "sync"]).arg(&self.mount.0))?;
        settled(|| in_use(&self.mount.0))
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl Snapshots for Btrfs {
    fn create(&self, name: &str) -> Result<()> {
        self.snapshot("live", "snapshots", name, true)
    }

    fn names(&self) -> Result<Vec<String>> {
        super::amber::names_in(&self.mount.0.join("snapshots"))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.remove("snapshots", name)
    }

    fn copy(&self, name: &str, copy: &str) -> Result<()> {
        self.snapshot(&format!("snapshots/{name}"), ".", copy, false)
    }

    fn discard(&self, copy: &str) -> Result<()> {
        self.remove(".", copy)
    }

    // The usual way: the live subvolume makes room for a writable snapshot of the snapshot.
    fn restore(&self, name: &str) -> Result<()> {
        let (live, before) = (self.root(), self.mount.0.join("before"));
        fs::rename(&live, &before).map_err(Failure::io("rename", &live))?;
        self.snapshot(&format!("snapshots/{name}"), ".", "live", false)?;
        self.remove(".", "before")
    }
}
