//! A pool and a mount of it in temporary directories, taken away when dropped.
use amberfs::fs::Filesystem;
use amberfs::fuse::{Mount, MountOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A mounted volume.
pub(crate) struct TestMount {
    mount: Option<Mount>,
    fs: Arc<Filesystem>,
    dir: tempfile::TempDir,
}

impl TestMount {
    pub(crate) fn new() -> Self {
        Self::with(MountOptions::default())
    }
    pub(crate) fn with(options: MountOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fs = Arc::new(Filesystem::stub());
        let mount = Mount::new(Arc::clone(&fs), dir.path(), &options).unwrap();
        TestMount { mount: Some(mount), fs, dir }
    }
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }
    pub(crate) fn fs(&self) -> Arc<Filesystem> {
        Arc::clone(&self.fs)
    }
    pub(crate) fn mount(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }
    pub(crate) fn remount(&mut self) {
        self.mount.take().unwrap().unmount().unwrap();
        self.mount = Some(
            Mount::new(Arc::clone(&self.fs), self.dir.path(), &MountOptions::default()).unwrap(),
        );
    }
}
