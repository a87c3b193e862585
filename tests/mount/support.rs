//! A pool and a mount of it in temporary directories, taken away when dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use amberfs::check;
use amberfs::device::PoolDir;
use amberfs::fs::{Atime, Filesystem, FsOptions, SnapDir, Timestamp};
use amberfs::fuse::{Mount, MountOptions};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

/// The machine's time: what the kernel caches is measured by it too.
struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp { sec: since.as_secs().cast_signed(), nsec: since.subsec_nanos() }
    }
}

/// What is there while the volume is mounted; in the order in which it must go.
struct Mounted {
    mount: Mount,
    fs: Arc<Filesystem>,
    pool: Arc<Pool>,
    _lock: PoolDir,
}

/// A mounted volume.
pub(crate) struct TestMount {
    mounted: Option<Mounted>,
    mount_options: MountOptions,
    snapdir: SnapDir,
    dir: tempfile::TempDir,
    pool_dir: tempfile::TempDir,
}

impl TestMount {
    pub(crate) fn new() -> Self {
        Self::with(MountOptions::default())
    }

    /// With a helper process for the flush before a snapshot, as the daemon has it.
    pub(crate) fn with_helper() -> Self {
        let program = env!("CARGO_BIN_EXE_amberfs").into();
        Self::with(MountOptions { flush_program: Some(program), ..MountOptions::default() })
    }

    /// On a pool of so many bytes.
    pub(crate) fn of_size(size_bytes: u64) -> Self {
        Self::made(MountOptions::default(), size_bytes, SnapDir::Hidden)
    }

    pub(crate) fn with_snapdir(snapdir: SnapDir) -> Self {
        Self::made(MountOptions::default(), 2 << 30, snapdir)
    }

    pub(crate) fn with(mount_options: MountOptions) -> Self {
        Self::made(mount_options, 2 << 30, SnapDir::Hidden)
    }

    fn made(mount_options: MountOptions, size_bytes: u64, snapdir: SnapDir) -> Self {
        let (dir, pool_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let lock = PoolDir::create(&pool_dir.path().join("pool")).unwrap();
        let create = CreateOptions {
            size_bytes: Some(size_bytes),
            journal_bytes: 16 << 20,
            uuid: [1; 16],
            seed: [2; 32],
        };
        let pool = Pool::create(lock.storage(), &create, open_options()).unwrap();
        let root = Filesystem::format_root(RealClock.now(), 0, 0, 0o755);
        pool.create_volume("main", &root).unwrap();
        let mut made = TestMount { mounted: None, mount_options, snapdir, dir, pool_dir };
        made.mount_pool(pool, lock);
        made
    }

    fn mount_pool(&mut self, pool: Arc<Pool>, lock: PoolDir) {
        let volume = pool.volume("main").unwrap();
        let MountOptions { read_only, noatime, .. } = self.mount_options;
        let atime = if noatime { Atime::Noatime } else { Atime::Relatime };
        let options = FsOptions { read_only, atime, snapdir: self.snapdir, ..FsOptions::default() };
        let fs = Arc::new(Filesystem::new(volume, options).unwrap());
        let mount = Mount::new(Arc::clone(&fs), self.dir.path(), &self.mount_options).unwrap();
        self.mounted = Some(Mounted { mount, fs, pool, _lock: lock });
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn fs(&self) -> Arc<Filesystem> {
        Arc::clone(&self.mounted.as_ref().unwrap().fs)
    }

    pub(crate) fn set_quota(&self, bytes: u64) {
        let pool = &self.mounted.as_ref().unwrap().pool;
        pool.set_volume("main", Some(Some(bytes)), &[]).unwrap();
    }

    pub(crate) fn mount(&self) -> &Mount {
        &self.mounted.as_ref().unwrap().mount
    }

    /// Unmounts, closes the pool, opens it again and mounts.
    pub(crate) fn remount(&mut self) {
        self.unmount();
        let lock = eventually(|| PoolDir::open(&self.pool_dir.path().join("pool")));
        let pool = Pool::open(lock.storage(), open_options()).unwrap();
        self.mount_pool(pool, lock);
    }

    /// Unmounts, and proves that the pool is whole.
    pub(crate) fn check(mut self) {
        self.unmount();
        let lock = eventually(|| PoolDir::open(&self.pool_dir.path().join("pool")));
        let all = check::Options { data: true, ..check::Options::default() };
        let report = check::check(&lock.storage(), &all, &mut |_| {}).unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
    }

    fn unmount(&mut self) {
        let mounted = self.mounted.take().unwrap();
        eventually(|| mounted.mount.unmount());
        assert!(mounted.mount.session_ended());
        mounted.pool.close().unwrap();
    }
}

impl Drop for TestMount {
    /// Ends everything, also when the test has failed.
    fn drop(&mut self) {
        if let Some(Mounted { mount, fs, pool, _lock }) = self.mounted.take() {
            drop(mount);
            drop(fs);
            let closed = pool.close();
            assert!(closed.is_ok() || std::thread::panicking(), "{closed:?}");
        }
    }
}

/// Tries again for a while: a program that another test has just forked holds every descriptor of
/// this process until it runs, and with them the lock of a pool and files on a mount.
pub(crate) fn eventually<T, E: std::fmt::Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < end, "{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open_options() -> OpenOptions {
    OpenOptions { background: true, cache_bytes: 64 << 20, ..OpenOptions::new(Arc::new(RealClock)) }
}
