//! The host filesystem itself, and bindfs over it: plain passthrough, as fast as FUSE is without work.

use std::fs;
use std::path::{Path, PathBuf};

use super::{MountPoint, Target, blocks_below, needs};
use crate::failure::{Failure, Result};
use crate::programs::{command, run};

/// A directory of the host filesystem.
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) fn new(root: PathBuf) -> Host {
        Host { root }
    }
}

impl Target for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    // It can't be unmounted, and has no caches beside the kernel's, which are dropped for all.
    fn remount(&mut self) -> Result<()> {
        Ok(())
    }

    fn occupied(&mut self) -> Result<u64> {
        blocks_below(&self.root)
    }
}

/// bindfs with threads and O_DIRECT passed on, over a directory of the host filesystem.
pub(super) struct Bindfs {
    mount: MountPoint,
    behind: PathBuf,
}

impl Bindfs {
    pub(super) fn new(dir: &Path) -> Result<Bindfs> {
        needs(&["bindfs"])?;
        let behind = dir.join("behind");
        fs::create_dir(&behind).map_err(Failure::io("make the directory", &behind))?;
        let made = Bindfs { mount: MountPoint::new(dir.join("mnt"))?, behind };
        made.mount()?;
        Ok(made)
    }

    fn mount(&self) -> Result<()> {
        let mut command = command("bindfs", &["--multithreaded", "--forward-odirect=4096"]);
        run(command.arg(&self.behind).arg(&self.mount.0)).map(drop)
    }
}

impl Target for Bindfs {
    fn name(&self) -> &'static str {
        "bindfs"
    }

    fn root(&self) -> PathBuf {
        self.mount.0.clone()
    }

    fn remount(&mut self) -> Result<()> {
        self.mount.unmount()?;
        self.mount()
    }

    fn occupied(&mut self) -> Result<u64> {
        blocks_below(&self.behind)
    }
}
