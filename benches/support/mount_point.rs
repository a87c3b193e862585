//! A directory to mount on, and the end of what is mounted there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use super::failure::{Failure, Result};

/// A place where something may be mounted, and is not any more after `drop`.
pub(crate) struct MountPoint(pub(crate) PathBuf);

impl MountPoint {
    /// Makes the directory `dir`.
    pub(crate) fn new(dir: PathBuf) -> Result<MountPoint> {
        fs::create_dir(&dir).map_err(Failure::io("make the directory", &dir))?;
        Ok(MountPoint(dir))
    }

    /// Says whether something is mounted here: its device differs from its parent's.
    pub(crate) fn is_mounted(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
        device(&self.0) != self.0.parent().and_then(device)
    }

    /// Unmounts what is here; waits a while for those who still use it.
    pub(crate) fn unmount(&self) -> Result<()> {
        for _ in 0..100 {
            match unmount(&self.0, UnmountFlags::empty()) {
                Err(rustix::io::Errno::BUSY) => thread::sleep(Duration::from_millis(50)),
                other => return other.map_err(Failure::io("unmount", &self.0)),
            }
        }
        unmount(&self.0, UnmountFlags::empty()).map_err(Failure::io("unmount", &self.0))
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        if self.is_mounted() && self.unmount().is_err() {
            let _ = unmount(&self.0, UnmountFlags::DETACH);
        }
    }
}
