//! Opening and making pools, and carrying a request out on a pool that no daemon has open.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::device::{PoolDir, PoolDirError};
use crate::format::Timestamp;
use crate::pool::{Clock, CreateOptions, OpenOptions, Pool};

use super::client::Patience;
use super::mounts::Mounts;
use super::protocol::{MountSettings, Reply, Request};
use super::{Error, ErrorKind, Result, client, log, service};

/// The system's clock.
#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp { sec: now.as_secs().cast_signed(), nsec: now.subsec_nanos() }
    }
}

/// Returns the time.
pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

/// A pool that this process has open. The lock goes last.
#[derive(Debug)]
pub(super) struct OpenPool {
    /// The pool.
    pub(super) pool: Arc<Pool>,
    /// Its directory, locked.
    dir: PoolDir,
    /// This process has just made it.
    created: bool,
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(rest, flags)
            .map_err(|errno| Error::io("get random bytes", &errno.into()))?;
    }
    Ok(bytes)
}

fn create_options(size_bytes: Option<u64>) -> Result<CreateOptions> {
    let mut uuid: [u8; 16] = random()?;
    // RFC 9562: version 4, variant 10.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let journal_bytes = CreateOptions::JOURNAL_BYTES;
    Ok(CreateOptions { size_bytes, journal_bytes, uuid, seed: random()? })
}

/// A number that no other process gets.
pub(super) fn new_session() -> Result<u64> {
    Ok(u64::from_ne_bytes(random()?))
}

fn open_options(settings: &MountSettings, background: bool) -> OpenOptions {
    let mut options = OpenOptions::new(Arc::new(SystemClock));
    options.background = background;
    if let Some(bytes) = settings.cache_bytes {
        options.cache_bytes = bytes;
    }
    if let Some(seconds) = settings.commit_seconds {
        options.commit_interval = Duration::from_secs(seconds);
    }
    options
}

/// A pool's directory, locked, before the pool in it is opened.
#[derive(Debug)]
pub(super) struct LockedDir {
    dir: PoolDir,
    created: bool,
    /// An earlier process has served mounts of it.
    inherited: bool,
}

impl LockedDir {
    /// Locks the pool at `path`, or with `create` makes an empty directory into one to be.
    pub(super) fn take(path: &Path, create: bool) -> Result<LockedDir> {
        match PoolDir::open(path) {
            Ok(dir) => Ok(LockedDir { dir, created: false, inherited: false }),
            Err(error @ (PoolDirError::NotFound(_) | PoolDirError::NotAPool { .. })) if create => {
                match PoolDir::create(path) {
                    Ok(dir) => Ok(LockedDir { dir, created: true, inherited: false }),
                    // What stands in the way says less than what is missing for a pool.
                    Err(PoolDirError::Exists { .. }) => Err(error.into()),
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes over the lock that an earlier process had.
    pub(super) fn inherit(path: &Path, lock: OwnedFd) -> Result<LockedDir> {
        let dir = PoolDir::take_over(path, lock)?;
        Ok(LockedDir { dir, created: false, inherited: true })
    }

    /// Opens the pool, having formatted it if it is new.
    pub(super) fn open(self, settings: &MountSettings, background: bool) -> Result<OpenPool> {
        let LockedDir { dir, created, inherited } = self;
        let mut options = open_options(settings, background);
        options.keep_answers = inherited;
        if !created {
            return match Pool::open(dir.storage(), options) {
                Ok(pool) => Ok(OpenPool { pool, dir, created }),
                Err(error) => {
                    if inherited {
                        // Dropped, it would let the lock go: it is the next daemon's.
                        std::mem::forget(dir);
                    }
                    Err(error.into())
                }
            };
        }
        let made = create_options(None)
            .and_then(|create| Ok(Pool::create(dir.storage(), &create, options)?));
        match made {
            Ok(pool) => Ok(OpenPool { pool, dir, created }),
            Err(error) => Err(given_up(dir, error)),
        }
    }

    /// Returns the directory's path.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Ends the attempt: a directory that was made for it goes again.
    pub(super) fn abandon(self, error: Error) -> Error {
        if self.created { given_up(self.dir, error) } else { error }
    }
}

/// Removes the files of a pool that could not be finished; the error stays the one to tell.
fn given_up(dir: PoolDir, error: Error) -> Error {
    let path = dir.path().to_owned();
    let _ = client::remove(&path);
    let _ = fs::remove_file(path.join(log::LOG_FILE));
    if let Err(left) = dir.discard() {
        tracing::warn!(%left, "the pool that was being made is not removed");
    }
    error
}

impl OpenPool {
    /// Closes the pool. The lock is let go when everything that holds the pool has ended.
    pub(super) fn close(self) -> Result<()> {
        let closed = self.pool.close();
        drop(self.pool);
        drop(self.dir);
        Ok(closed?)
    }

    /// Closes the pool after a failure; one that was made for this attempt goes again.
    pub(super) fn abandon(self, error: Error) -> Error {
        if let Err(close) = self.pool.close() {
            tracing::warn!(%close, "closing the pool failed, too");
        }
        drop(self.pool);
        if self.created { given_up(self.dir, error) } else { error }
    }

    /// Returns the directory's path.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the open file that has the lock.
    pub(super) fn lock_file(&self) -> BorrowedFd<'_> {
        self.dir.lock_file()
    }
}

/// Makes a pool without volumes in a directory that is missing or empty.
///
/// `size_bytes` bounds what it takes of the host. Nothing is left behind on failure.
pub fn create_pool(path: &Path, size_bytes: Option<u64>) -> Result<()> {
    let create = create_options(size_bytes)?;
    let dir = PoolDir::create(path)?;
    let options = open_options(&MountSettings::default(), false);
    let made = Pool::create(dir.storage(), &create, options).and_then(|pool| pool.close());
    made.map_err(|error| given_up(dir, error.into()))
}

/// Locks a pool that no daemon has open, without opening what is in it; waits for one that is closing.
pub fn lock_pool(path: &Path) -> Result<PoolDir> {
    let patience = Patience::new();
    loop {
        match PoolDir::open(path).map_err(Error::from) {
            Err(error) if patience.again(&error, true) => {}
            other => return other,
        }
    }
}

/// Carries a request out on a pool that no daemon has open.
pub(super) fn execute(path: &Path, request: &Request) -> Result<Reply> {
    if matches!(
        request,
        Request::Mount(_)
            | Request::Umount { .. }
            | Request::WaitUnmounted { .. }
            | Request::Upgrade { .. }
    ) {
        return Err(Error::new(ErrorKind::NotFound, "the pool is not mounted"));
    }
    let open = LockedDir::take(path, false)?.open(&MountSettings::default(), false)?;
    let reply = service::execute(&open.pool, &Mounts::default(), None, path, request);
    let closed = open.close();
    let reply = reply?;
    closed?;
    Ok(reply)
}
