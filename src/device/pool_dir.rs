//! The directory on the host that holds a pool.
//!
//! Files: `superblock`, `journal` and `data` are devices; `reserve` takes space of the host for the time
//! when it is full; `lock` is held with an exclusive flock for
//! as long as anything can write to them, so that exactly one process has the pool open (the kernel
//! drops it when that process dies, however it dies). The number of the process stands in it, for
//! messages only.
//!
//! A crash while a directory is created leaves files without a valid superblock, which no open
//! takes for a pool; a failed creation removes what it made.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::regular::open_regular;
use super::reserve::{RESERVE, Reserve};
use super::{FileDevice, Storage};

const LOCK: &str = "lock";
const SUPERBLOCK: &str = "superblock";
const JOURNAL: &str = "journal";
const DATA: &str = "data";
const DEVICES: [&str; 3] = [SUPERBLOCK, JOURNAL, DATA];

/// Why a pool's directory could not be created or opened.
#[derive(Debug, thiserror::Error)]
pub enum PoolDirError {
    /// There is nothing at the path, or its parent is missing.
    #[error("{} does not exist", .0.display())]
    NotFound(PathBuf),
    /// There is something, but no pool.
    #[error("{} is not an AmberFS pool: {reason}", path.display())]
    NotAPool {
        /// The path that was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process has it open.
    #[error("the pool {} is in use by another process{}", path.display(), owner(*.pid))]
    InUse {
        /// The pool.
        path: PathBuf,
        /// The number that the other process wrote down, in its own PID namespace.
        pid: Option<u32>,
    },
    /// A pool can't be created here: the path is taken.
    #[error("{} already exists and {what}", path.display())]
    Exists {
        /// The path that was given.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The host filesystem is mounted read-only.
    #[error("the filesystem that holds {} is read-only", .0.display())]
    ReadOnlyHost(PathBuf),
    /// The host denies access.
    #[error("no permission to {op} {}", path.display())]
    Permission {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
    },
    /// Any other failure of a system call.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
}

fn owner(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (PID {pid})")).unwrap_or_default()
}

/// Sorts a failed system call on `path` into the kinds that callers tell apart.
fn failure(op: &'static str, path: &Path, source: io::Error) -> PoolDirError {
    let path = path.to_owned();
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT) => PoolDirError::NotFound(path),
        Some(Errno::NOTDIR) => {
            PoolDirError::NotAPool { path, reason: "it is not a directory".to_owned() }
        }
        Some(Errno::ROFS) => PoolDirError::ReadOnlyHost(path),
        Some(Errno::ACCESS | Errno::PERM) => PoolDirError::Permission { op, path },
        _ => PoolDirError::Io { op, path, source },
    }
}

/// The flock on a pool. It belongs to the open file, so that it can be passed on: it ends when this is
/// dropped, in whichever process, or when the last process that has the file has died.
#[derive(Debug)]
pub(super) struct PoolLock(File);

impl Drop for PoolLock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "a pool's lock stays until this process ends");
        }
    }
}

/// A pool's directory, locked for this process; its files are open for reading and writing.
///
/// The lock is held until this and the last device of every [`Storage`] made from it are dropped.
#[derive(Debug)]
pub struct PoolDir {
    path: PathBuf,
    superblock: Arc<FileDevice>,
    journal: Arc<FileDevice>,
    data: Arc<FileDevice>,
    /// `create` made the directory itself, so [`PoolDir::discard`] removes it.
    made_directory: bool,
    /// Keeps the flock; each device holds it too.
    lock: Arc<PoolLock>,
}

impl PoolDir {
    /// Creates a pool's directory with empty files; `path` is missing or an empty directory.
    ///
    /// A `lost+found` does not count: the root of a disk's own filesystem will do. The parent must
    /// exist. The entries are durable when this returns. On failure nothing is left behind.
    pub fn create(path: &Path) -> Result<PoolDir, PoolDirError> {
        let made_directory = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                refuse_unless_empty(path)?;
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = parent_of(path);
                return Err(failure("create a directory in", parent, error));
            }
            Err(error) => return Err(failure("create the directory", path, error)),
        };
        let result = create_files(path, made_directory);
        if result.is_err() && made_directory {
            // Fails, rightly, if somebody else has put something there meanwhile.
            let _ = fs::remove_dir(path);
        }
        result
    }

    /// Opens the pool's directory that is at `path`, and locks it.
    ///
    /// Nothing is changed unless all the pool's files are there.
    pub fn open(path: &Path) -> Result<PoolDir, PoolDirError> {
        let meta = fs::metadata(path).map_err(|error| failure("open", path, error))?;
        if !meta.is_dir() {
            let reason = "it is not a directory".to_owned();
            return Err(PoolDirError::NotAPool { path: path.to_owned(), reason });
        }
        for name in DEVICES {
            require_file(path, name)?;
        }
        let lock = take_lock(path, OpenOptions::new().create(true).truncate(false))?;
        PoolDir::with_lock(path, lock)
    }

    /// Opens the pool's directory whose lock an earlier process has taken, and passed on.
    pub fn take_over(path: &Path, lock: OwnedFd) -> Result<PoolDir, PoolDirError> {
        let lock = PoolLock(File::from(lock));
        // Held already by this open file, as a rule.
        match lock.0.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&path.join(LOCK));
                return Err(PoolDirError::InUse { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(failure("lock", path, error)),
        }
        note_process(&lock.0);
        PoolDir::with_lock(path, Arc::new(lock))
    }

    fn with_lock(path: &Path, lock: Arc<PoolLock>) -> Result<PoolDir, PoolDirError> {
        let open = |name: &str| -> Result<Arc<FileDevice>, PoolDirError> {
            let path = path.join(name);
            let file = open_regular(OpenOptions::new().read(true).write(true), &path);
            device(file, "open", &path, &lock)
        };
        Ok(PoolDir {
            path: path.to_owned(),
            superblock: open(SUPERBLOCK)?,
            journal: open(JOURNAL)?,
            data: open(DATA)?,
            made_directory: false,
            lock,
        })
    }

    /// Returns the open file that has the lock, for a process that keeps it beyond this one's death.
    pub fn lock_file(&self) -> BorrowedFd<'_> {
        self.lock.0.as_fd()
    }

    /// Returns the pool's three devices.
    pub fn storage(&self) -> Storage {
        Storage {
            superblock: self.superblock.clone(),
            journal: self.journal.clone(),
            data: self.data.clone(),
        }
    }

    /// Returns the path that the pool was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what [`PoolDir::create`] made, for when formatting the new pool failed.
    ///
    /// Of a pool that was opened, this removes the files, too.
    pub fn discard(self) -> Result<(), PoolDirError> {
        // The lock goes last: while the other files are there, nobody else may take them over.
        for name in DEVICES.into_iter().chain([RESERVE, LOCK]) {
            let path = self.path.join(name);
            fs::remove_file(&path).map_err(|error| failure("remove", &path, error))?;
        }
        if self.made_directory {
            fs::remove_dir(&self.path).map_err(|error| failure("remove", &self.path, error))?;
        }
        Ok(())
    }
}

/// Makes the lock and the three files in an empty directory; removes them again on failure.
fn create_files(path: &Path, made_directory: bool) -> Result<PoolDir, PoolDirError> {
    // Only the creator of the lock goes on, so two creators never share a directory.
    let lock = take_lock(path, OpenOptions::new().create_new(true))?;
    let mut made = vec![path.join(LOCK), path.join(RESERVE)];
    let mut create = |name: &str| {
        let path = path.join(name);
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        if file.is_ok() {
            made.push(path.clone());
        }
        device(file, "create", &path, &lock)
    };
    let result = (|| {
        let (superblock, journal, data) = (create(SUPERBLOCK)?, create(JOURNAL)?, create(DATA)?);
        sync_directory(path)?;
        if made_directory {
            sync_directory(parent_of(path))?;
        }
        Ok((superblock, journal, data))
    })();
    match result {
        Ok((superblock, journal, data)) => {
            let path = path.to_owned();
            Ok(PoolDir { path, superblock, journal, data, made_directory, lock })
        }
        Err(error) => {
            for path in made.iter().rev() {
                let _ = fs::remove_file(path);
            }
            Err(error)
        }
    }
}

fn device(
    file: io::Result<File>,
    op: &'static str,
    path: &Path,
    lock: &Arc<PoolLock>,
) -> Result<Arc<FileDevice>, PoolDirError> {
    let result = file.and_then(|file| {
        let data = path.file_name().is_some_and(|name| name == DATA);
        let dir = path.parent().filter(|_| data);
        let reserve = dir.map(Reserve::open).transpose()?;
        FileDevice::new(file, path, reserve, Some(lock.clone()))
    });
    result.map(Arc::new).map_err(|error| failure(op, path, error))
}

/// Fails unless `path` is a directory with nothing in it (but perhaps `lost+found`).
fn refuse_unless_empty(path: &Path) -> Result<(), PoolDirError> {
    let exists = |what| PoolDirError::Exists { path: path.to_owned(), what };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(exists("is not a directory"));
        }
        other => other.map_err(|error| failure("list", path, error))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(|error| failure("list", path, error))?.file_name());
    }
    names.retain(|name| name != "lost+found");
    if names.is_empty() {
        return Ok(());
    }
    let pool = DEVICES.iter().all(|file| names.iter().any(|name| name == file));
    Err(exists(if pool { "holds a pool" } else { "is not empty" }))
}

fn require_file(pool: &Path, name: &str) -> Result<(), PoolDirError> {
    let path = pool.join(name);
    let not_a_pool = |reason| PoolDirError::NotAPool { path: pool.to_owned(), reason };
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => Err(not_a_pool(format!("its `{name}` is not a regular file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(not_a_pool(format!("it has no file `{name}`")))
        }
        Err(error) => Err(failure("open", &path, error)),
    }
}

/// Opens the lock file with `options`, takes the flock without waiting, and notes our PID in it.
fn take_lock(pool: &Path, options: &mut OpenOptions) -> Result<Arc<PoolLock>, PoolDirError> {
    let path = pool.join(LOCK);
    let file = match open_regular(options.read(true).write(true).mode(0o600), &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(PoolDirError::InUse { path: pool.to_owned(), pid: read_pid(&path) });
        }
        other => other.map_err(|error| failure("open", &path, error))?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(PoolDirError::InUse { path: pool.to_owned(), pid: read_pid(&path) });
        }
        Err(TryLockError::Error(error)) => return Err(failure("lock", &path, error)),
    }
    // A pool may have been removed, and another made, between our open and our flock: then this is
    // the lock of the one that is gone.
    if !is_same_file(&file, &path).map_err(|error| failure("lock", &path, error))? {
        return Err(PoolDirError::InUse { path: pool.to_owned(), pid: read_pid(&path) });
    }
    note_process(&file);
    Ok(Arc::new(PoolLock(file)))
}

/// Writes down who has the lock. Only a hint for messages: a host that is full must not keep a pool from
/// being opened.
fn note_process(lock: &File) {
    let _ = lock.set_len(0).and_then(|()| lock.write_all_at(process_line().as_bytes(), 0));
}

fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, there) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

fn process_line() -> String {
    format!("{}\n", std::process::id())
}

fn read_pid(path: &Path) -> Option<u32> {
    const MAX_LINE_BYTES: u64 = 32;
    let file = open_regular(OpenOptions::new().read(true), path).ok()?;
    let mut line = String::new();
    file.take(MAX_LINE_BYTES).read_to_string(&mut line).ok()?;
    line.trim().parse().ok()
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> Result<(), PoolDirError> {
    let result = File::open(path).and_then(|dir| dir.sync_all());
    result.map_err(|error| failure("sync the directory", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_created_pool_can_be_opened_again_and_by_one_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool");
        let created = PoolDir::create(&path).unwrap();
        assert_eq!(names(&path), ["data", "journal", "lock", "reserve", "superblock"]);
        created.storage().data.write_at(0, b"kept").unwrap();
        let error = PoolDir::open(&path).unwrap_err();
        let pid = Some(std::process::id());
        assert!(matches!(&error, PoolDirError::InUse { pid: p, .. } if *p == pid), "{error}");
        drop(created);
        let opened = PoolDir::open(&path).unwrap();
        let mut bytes = [0; 4];
        opened.storage().data.read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"kept");
    }

    #[test]
    fn the_lock_lives_as_long_as_the_last_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool");
        let storage = PoolDir::create(&path).unwrap().storage();
        let data = storage.data.clone();
        drop(storage);
        assert!(matches!(PoolDir::open(&path), Err(PoolDirError::InUse { .. })));
        drop(data);
        PoolDir::open(&path).unwrap();
    }

    #[test]
    fn create_refuses_what_is_taken_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let error = PoolDir::create(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("already exists and is not empty"), "{error}");
        assert_eq!(names(dir.path()), ["file"]);
        let error = PoolDir::create(&dir.path().join("file")).unwrap_err();
        assert!(error.to_string().ends_with("already exists and is not a directory"), "{error}");
        let error = PoolDir::create(&dir.path().join("no/pool")).unwrap_err();
        assert!(matches!(&error, PoolDirError::NotFound(at) if at.ends_with("no")), "{error}");
        let pool = dir.path().join("pool");
        drop(PoolDir::create(&pool).unwrap());
        let error = PoolDir::create(&pool).unwrap_err();
        assert!(error.to_string().ends_with("already exists and holds a pool"), "{error}");
    }

    #[test]
    fn create_takes_an_empty_directory_and_a_disk_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        let pool = PoolDir::create(dir.path()).unwrap();
        pool.discard().unwrap();
        assert_eq!(names(dir.path()), ["lost+found"]);
    }

    #[test]
    fn a_failed_creation_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool");
        fs::create_dir(&path).unwrap();
        // Something that a name check before cannot see: the file comes between check and creation.
        fs::write(path.join(DATA), "theirs").unwrap();
        let error = create_files(&path, false).unwrap_err();
        assert!(matches!(error, PoolDirError::Io { op: "create", .. }), "{error}");
        assert_eq!(names(&path), [DATA]);
        assert_eq!(fs::read(path.join(DATA)).unwrap(), b"theirs");
    }

    #[test]
    fn discard_removes_all_that_create_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool");
        PoolDir::create(&path).unwrap().discard().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn open_says_what_is_missing_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(PoolDir::open(&missing), Err(PoolDirError::NotFound(_))));
        let error = PoolDir::open(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("it has no file `superblock`"), "{error}");
        assert!(names(dir.path()).is_empty());
        fs::write(&missing, "x").unwrap();
        let error = PoolDir::open(&missing).unwrap_err();
        assert!(error.to_string().ends_with("it is not a directory"), "{error}");
        let pool = dir.path().join("pool");
        drop(PoolDir::create(&pool).unwrap());
        fs::remove_file(pool.join(JOURNAL)).unwrap();
        fs::create_dir(pool.join(JOURNAL)).unwrap();
        let error = PoolDir::open(&pool).unwrap_err();
        assert!(error.to_string().ends_with("its `journal` is not a regular file"), "{error}");
    }

    #[test]
    fn open_works_without_a_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool");
        drop(PoolDir::create(&path).unwrap());
        fs::remove_file(path.join(LOCK)).unwrap();
        PoolDir::open(&path).unwrap();
    }

    #[test]
    fn errors_of_the_host_are_told_apart() {
        let path = Path::new("/pool");
        let kind = |errno: Errno| failure("open", path, errno.into());
        assert!(matches!(kind(Errno::ROFS), PoolDirError::ReadOnlyHost(_)));
        assert!(matches!(kind(Errno::ACCESS), PoolDirError::Permission { .. }));
        assert!(matches!(kind(Errno::NOTDIR), PoolDirError::NotAPool { .. }));
        assert!(matches!(kind(Errno::NOENT), PoolDirError::NotFound(_)));
        let full = kind(Errno::NOSPC).to_string();
        assert!(full.starts_with("cannot open /pool: No space left on device"), "{full}");
    }
}
