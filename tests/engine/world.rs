//! A pool in memory with one volume and its file system.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use amberfs::check;
use amberfs::device::Storage;
use amberfs::fs::{Filesystem, FsOptions, Timestamp};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

/// A clock that ticks with every look at it.
pub(crate) struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        let ns = self.0.fetch_add(1000, Ordering::SeqCst);
        Timestamp { sec: ns / 1_000_000_000, nsec: (ns % 1_000_000_000) as u32 }
    }
}

/// A clock that begins at some day.
pub(crate) fn clock() -> Arc<Ticks> {
    Arc::new(Ticks(AtomicI64::new(1_795_169_100_000_000_000)))
}

static NONCE: AtomicU64 = AtomicU64::new(1);

/// The real thing.
pub(crate) struct World {
    storage: Storage,
    clock: Arc<Ticks>,
    cache_bytes: u64,
    pub(crate) pool: Arc<Pool>,
    pub(crate) fs: Filesystem,
}

impl World {
    pub(crate) fn new(size_bytes: u64, journal_bytes: u64, cache_bytes: u64) -> World {
        let storage = Storage::memory();
        let clock = clock();
        let create = CreateOptions {
            size_bytes: Some(size_bytes),
            journal_bytes,
            uuid: [1; 16],
            seed: [2; 32],
        };
        let pool =
            Pool::create(storage.clone(), &create, open_options(&clock, cache_bytes)).unwrap();
        let root = Filesystem::format_root(clock.now(), 0, 0, 0o755);
        let volume = pool.create_volume("main", &root).unwrap();
        let fs = Filesystem::new(volume, FsOptions::default()).unwrap();
        World { storage, clock, cache_bytes, pool, fs }
    }

    /// Ends cleanly and begins again.
    pub(crate) fn remount(&mut self) {
        self.fs.forget_all();
        self.pool.close().unwrap();
        self.reopen();
    }

    /// Begins again on what is in the files, as after the death of the process. What is in them is checked.
    pub(crate) fn reopen(&mut self) {
        self.pool.abandon();
        self.check();
        self.pool =
            Pool::open(self.storage.clone(), open_options(&self.clock, self.cache_bytes)).unwrap();
        self.mount_again();
    }

    /// Verifies every invariant of what is in the files.
    pub(crate) fn check(&self) {
        let options = check::Options { data: true, ..check::Options::default() };
        let report = check::check(&self.storage, &options, &mut |_| ()).unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
    }

    /// A new file system on the same pool.
    pub(crate) fn mount_again(&mut self) {
        self.fs = self.mount("main");
    }

    pub(crate) fn mount(&self, volume: &str) -> Filesystem {
        Filesystem::new(self.pool.volume(volume).unwrap(), FsOptions::default()).unwrap()
    }
}

fn open_options(clock: &Arc<Ticks>, cache_bytes: u64) -> OpenOptions {
    let mut options = OpenOptions::new(Arc::clone(clock) as Arc<dyn Clock>);
    options.background = false;
    options.cache_bytes = cache_bytes;
    options.nonce = NONCE.fetch_add(1, Ordering::Relaxed);
    options
}

/// Bytes that look different everywhere.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
