//! A mount: made, served by worker threads, unmounted.
//!
//! Shape: [`Mount`] owns the session; workers and lanes share a [`Context`]. The session ends when
//! the kernel says so (the last mount of it is gone, or it was aborted), never before: then the
//! last worker tells the file system that every lookup and open is over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::backing::Backing;
use super::device::Device;
use super::dispatch::Context;
use super::flush::Flusher;
use super::in_flight::{InFlight, Inbox};
use super::lane::Lanes;
use super::notify::Notifier;
use super::room::{Neighbours, Room};
use super::snapshot_dirs::SnapshotDirs;
use super::{handshake, sys, worker};
use crate::fs::{Filesystem, NodeId};

/// Workers that a mount has unless told otherwise.
pub const DEFAULT_WORKERS: usize = 3;
/// How long `unmount` waits for the kernel to end the session, which it does not do at all while
/// another mount namespace holds a copy of the mount.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Lets other users than the mounting one in; permissions are checked either way.
    pub allow_other: bool,
    /// Mounts without a way to change anything.
    pub read_only: bool,
    /// What the mount table gives as the source.
    pub fs_name: String,
    /// Ignores device files.
    pub nodev: bool,
    /// Ignores set-user-id and set-group-id bits.
    pub nosuid: bool,
    /// Forbids to run programs.
    pub noexec: bool,
    /// Shows `noatime` in the mount table.
    pub noatime: bool,
    /// Further options for the kernel, such as `context=...`.
    pub extra: Vec<String>,
    /// Worker threads, at least one.
    pub workers: usize,
    /// Names the session in the journal: a number that no other mount of the pool ever had.
    pub session: u64,
    /// The mounts that take from the same space.
    pub neighbours: Neighbours,
    /// A program that runs [`super::flush_helper`] when its argument is [`super::FLUSH_HELPER`].
    /// Without one the flush before a snapshot is done by a thread of this process, which then
    /// cannot be killed while it lasts.
    pub flush_program: Option<PathBuf>,
}

impl Default for MountOptions {
    /// For root everybody may enter; device files and set-user-id programs work for root's mounts
    /// alone, as with any filesystem.
    fn default() -> Self {
        let root = rustix::process::geteuid().is_root();
        MountOptions {
            allow_other: root,
            read_only: false,
            fs_name: "amberfs".into(),
            nodev: !root,
            nosuid: !root,
            noexec: false,
            noatime: false,
            extra: Vec::new(),
            workers: DEFAULT_WORKERS,
            session: 0,
            neighbours: Neighbours::default(),
            flush_program: None,
        }
    }
}

/// Why a mount could not be made or taken away.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel has no FUSE.
    #[error("there is no usable /dev/fuse: {source} (try `modprobe fuse`)")]
    NoDevice {
        /// What opening it gave.
        source: io::Error,
    },
    /// The caller may not mount.
    #[error("no permission to mount at {}: {source}", dir.display())]
    Permission {
        /// The mount point.
        dir: PathBuf,
        /// What was refused.
        source: io::Error,
    },
    /// The mount point is not there.
    #[error("the mount point {} does not exist", dir.display())]
    MissingMountPoint {
        /// The mount point.
        dir: PathBuf,
    },
    /// The mount point is a file.
    #[error("the mount point {} is not a directory", dir.display())]
    NotADirectory {
        /// The mount point.
        dir: PathBuf,
    },
    /// The mount point is a mount whose daemon is gone.
    #[error("at {} is a mount without a daemon (`umount` it first)", dir.display())]
    DeadMount {
        /// The mount point.
        dir: PathBuf,
    },
    /// The kernel lacks features.
    #[error("this kernel's FUSE is too old (Linux 5.14 is needed): no {missing}")]
    KernelTooOld {
        /// Names of the flags that it does not offer.
        missing: String,
    },
    /// Files on the mount are in use.
    #[error("{} is busy: files are open on it, or it is some process's directory", dir.display())]
    Busy {
        /// The mount point.
        dir: PathBuf,
    },
    /// Another filesystem was mounted on top of this one.
    #[error("another filesystem is mounted on {}", dir.display())]
    Covered {
        /// The mount point.
        dir: PathBuf,
    },
    /// Anything else.
    #[error("{action} {} failed: {source}", dir.display())]
    Io {
        /// `mounting` or `unmounting`, or what was done for it.
        action: &'static str,
        /// The mount point.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl MountError {
    /// For an error of mounting.
    pub(crate) fn refused(dir: &Path, source: io::Error) -> Self {
        let dir = dir.to_path_buf();
        match source.kind() {
            io::ErrorKind::PermissionDenied => MountError::Permission { dir, source },
            // The unprivileged way is a program, and it is not there.
            io::ErrorKind::NotFound => {
                let source = io::Error::other("not root, and there is no fusermount3");
                MountError::Permission { dir, source }
            }
            _ => MountError::Io { action: "mounting at", dir, source },
        }
    }
}

/// Counts workers.
#[derive(Debug, Default)]
struct Alive {
    counts: Mutex<Counts>,
    none_left: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    /// Workers that read requests.
    serving: usize,
    /// Workers that hold the session's parts.
    present: usize,
}

impl Alive {
    fn enter(&self) {
        let mut counts = self.counts.lock();
        counts.serving += 1;
        counts.present += 1;
    }

    /// One worker goes and gives up what it holds; the last one ends the session before anybody
    /// is told.
    fn leave(&self, held: Option<(Arc<Context>, Arc<Lanes>)>) {
        let last = {
            let mut counts = self.counts.lock();
            counts.serving -= 1;
            counts.serving == 0
        };
        if let (true, Some((context, lanes))) = (last, &held) {
            end_session(context, lanes);
        }
        drop(held);
        self.counts.lock().present -= 1;
        self.none_left.notify_all();
    }

    /// Waits until no worker is there, until `deadline` at most; whether that came about.
    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let mut counts = self.counts.lock();
        while counts.present > 0 {
            match deadline {
                None => self.none_left.wait(&mut counts),
                Some(at) if self.none_left.wait_until(&mut counts, at).timed_out() => break,
                Some(_) => {}
            }
        }
        counts.present == 0
    }
}

/// A mounted volume. Dropping it unmounts, in the end lazily.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    device_number: u64,
    /// What its process has not replied to will come again to another one.
    lasts: bool,
    alive: Arc<Alive>,
    context: Arc<Context>,
}

impl Mount {
    /// Mounts `fs` at the directory `dir` and serves it; usable when this returns.
    ///
    /// # Errors
    /// See [`MountError`]; nothing stays mounted then.
    pub fn new(
        fs: Arc<Filesystem>,
        dir: &Path,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let dir = check_mount_point(dir)?;
        check_device(&dir)?;
        let (fd, resends) = handshake::mount(&dir, options)?;
        let in_flight =
            if resends { Ok(None) } else { InFlight::new(options.workers.max(1)).map(Some) };
        let in_flight = in_flight.unwrap_or_else(|error| {
            tracing::warn!(%error, "this mount ends with its process");
            None
        });
        let lasts = resends || in_flight.is_some();
        let mut mount = Self::serve(fs, dir, fd, in_flight, options)?;
        mount.lasts = lasts;
        Ok(mount)
    }

    /// Goes on with a session that another process has served on `fd` and that is mounted at `dir`: what it
    /// had not replied to comes again, from the kernel or from `requests`, its [`Self::requests`]. `fs` is made by
    /// [`Filesystem::inherit`].
    ///
    /// # Errors
    /// [`MountError::Io`]; the mount stays, and nobody serves it.
    pub fn take_over(
        fs: Arc<Filesystem>,
        dir: &Path,
        fd: OwnedFd,
        requests: Option<OwnedFd>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let io = |source| MountError::Io { action: "taking over", dir: dir.to_path_buf(), source };
        let in_flight = requests.map(InFlight::open).transpose().map_err(io)?;
        let sent_again = in_flight.is_none();
        let mount = Self::prepare(fs, dir.to_path_buf(), fd, in_flight, options);
        if sent_again {
            // Before anything is read, so that what comes again comes first.
            match Notifier::new(Arc::clone(&mount.context.device)).resend() {
                // The session has ended meanwhile: the first read will tell.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                other => other.map_err(io)?,
            }
        }
        mount.spawn_workers(options.workers.max(1)).map_err(io)?;
        let mut mount = mount;
        // Its mount point may be covered, or unmounted already.
        if let Err(error) = mount.identify() {
            tracing::info!(dir = %dir.display(), %error, "a mount that is taken over is not in sight");
        }
        mount.spawn_settling();
        Ok(mount)
    }

    /// From time to time asks the kernel what it still has of what an earlier process left, until the end.
    fn spawn_settling(&self) {
        /// Between two questions: how long an unlinked file's space may stay taken.
        const PAUSE: Duration = Duration::from_secs(1);
        /// Inodes that one question is about. The mount is busy while it lasts, and is not for so many times as long.
        const BATCH: usize = 64;
        const REST: u32 = 4;
        /// After which every request that comes again has been read, if none waits: they come first, at once.
        const ALL_CAME: Duration = Duration::from_secs(60);
        let (alive, context) = (Arc::clone(&self.alive), Arc::downgrade(&self.context));
        let since = Instant::now();
        let kept = self.context.fs.volume().pool().earlier_answers();
        let mut earlier = Some(Arc::clone(&kept));
        let settle = move || {
            while !alive.wait_until(Some(Instant::now() + PAUSE)) {
                let Some(context) = context.upgrade() else { return };
                for batch in context.fs.doubtful().chunks(BATCH) {
                    let begun = Instant::now();
                    let absent = context.flusher.absent(batch);
                    let rest = begun.elapsed() * REST;
                    absent.iter().for_each(|node| context.fs.gone(*node));
                    if alive.wait_until(Some(Instant::now() + rest)) {
                        return;
                    }
                }
                if since.elapsed() > ALL_CAME && !context.device.has_more() {
                    drop(earlier.take());
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("fuse-settle".into()).spawn(settle) {
            tracing::warn!(%error, "space of unlinked files comes back when the volume is unmounted");
            // Nobody would say when they are not needed any more.
            std::mem::forget(kept);
        }
    }

    /// Whether another process can go on with it after this one's death.
    pub fn survives_its_process(&self) -> bool {
        self.lasts
    }

    /// The requests that have no reply yet, for a process that keeps them beyond this one's death; none where the
    /// kernel sends them again (Linux 6.9 and later).
    pub fn requests(&self) -> Option<BorrowedFd<'_>> {
        self.context.in_flight.as_ref().map(|in_flight| in_flight.descriptor())
    }

    /// The descriptor of the session, for a process that keeps it beyond this one's death.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.context.device.as_fd()
    }

    /// Serves a session on whose descriptor INIT has been answered with what
    /// [`handshake`] negotiates.
    fn serve(
        fs: Arc<Filesystem>,
        dir: PathBuf,
        fd: OwnedFd,
        in_flight: Option<Arc<InFlight>>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let mut mount = Self::prepare(fs, dir, fd, in_flight, options);
        let prepared = mount.spawn_workers(options.workers.max(1)).and_then(|()| mount.identify());
        if let Err(source) = prepared {
            // Without a worker the drop below would find nobody to wait for.
            let dir = mount.dir.clone();
            let _ = sys::unmount(&dir, true);
            return Err(MountError::Io { action: "serving", dir, source });
        }
        Ok(mount)
    }

    /// Serves a session that is mounted nowhere.
    pub(super) fn unseen(fs: Arc<Filesystem>, fd: OwnedFd) -> io::Result<Self> {
        let options = MountOptions::default();
        let mount = Self::prepare(fs, PathBuf::new(), fd, None, &options);
        mount.spawn_workers(options.workers)?;
        Ok(mount)
    }

    /// Puts the parts of a session together, without serving it yet.
    fn prepare(
        fs: Arc<Filesystem>,
        dir: PathBuf,
        fd: OwnedFd,
        in_flight: Option<Arc<InFlight>>,
        options: &MountOptions,
    ) -> Self {
        let device = Arc::new(Device::new(fd));
        let notifier = Notifier::new(Arc::clone(&device));
        let flusher =
            Arc::new(Flusher::new(dir.clone(), notifier.clone(), options.flush_program.clone()));
        let snapshot_dirs = SnapshotDirs::new(notifier.clone());
        let session = options.session;
        let context = Arc::new(Context {
            fs,
            device,
            crew: Arc::default(),
            notifier,
            flusher,
            room: Room::default(),
            backing: Backing::default(),
            neighbours: options.neighbours.clone(),
            session,
            snapshot_dirs,
            in_flight,
        });
        options.neighbours.add(&context);
        // The file system holds the hook, so the hook must not hold the file system.
        let weak = Arc::downgrade(&context);
        let flush = move |_: &Filesystem| {
            if let Some(context) = weak.upgrade() {
                context.flush();
            }
        };
        context.fs.set_flush_hook(Some(Box::new(flush)));
        let alive = Arc::new(Alive::default());
        Mount { dir, device_number: 0, lasts: true, alive, context }
    }

    /// Starts the workers, `count` of them unless an earlier process had another number.
    fn spawn_workers(&self, count: usize) -> io::Result<()> {
        let lanes = Arc::new(Lanes::new(Arc::clone(&self.context)));
        let in_flight = self.context.in_flight.as_ref();
        let count = in_flight.map_or(count, |in_flight| in_flight.workers());
        let shared = |number| in_flight.map(|all| Inbox::shared(all, number)).transpose();
        let mut inboxes: Vec<_> = (0..count).map(shared).collect::<io::Result<_>>()?;
        let left = in_flight.map(InFlight::left).unwrap_or_default();
        inboxes.iter_mut().flatten().for_each(|inbox| inbox.forget(&left));
        worker::take_up(&self.context, &lanes, left);
        for (number, inbox) in inboxes.into_iter().enumerate() {
            // Nobody else would carry out what is in it.
            let needed = number == 0 || inbox.is_some();
            let (context, lanes) = (Arc::clone(&self.context), Arc::clone(&lanes));
            let alive = Arc::clone(&self.alive);
            self.alive.enter();
            let work = move || {
                let mut inbox = inbox.unwrap_or_else(Inbox::own);
                worker::serve(&context, &lanes, &mut inbox);
                alive.leave(Some((context, lanes)));
            };
            let spawned = thread::Builder::new().name(format!("fuse-{number}")).spawn(work);
            if let Err(error) = spawned {
                self.alive.leave(None);
                // Fewer will do, as long as there is one.
                if needed {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Finds out the mount's `st_dev`, and tunes its backing device.
    fn identify(&mut self) -> io::Result<()> {
        self.device_number = device_number(&self.dir)?;
        self.context.flusher.set_device_number(self.device_number);
        self.context.backing.found(self.device_number);
        self.context.look_at_room(0);
        Ok(())
    }

    /// The mount point, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the kernel has ended the session.
    pub fn session_ended(&self) -> bool {
        self.alive.counts.lock().present == 0
    }

    /// Waits until the kernel has ended the session: somebody unmounted it.
    pub fn wait(&self) {
        self.alive.wait_until(None);
    }

    /// As [`Self::wait`], for so long at most; whether the session has ended.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.alive.wait_until(Some(Instant::now() + timeout))
    }

    /// Unmounts, and waits a while for the session's end. No error if it has ended already.
    ///
    /// # Errors
    /// [`MountError::Busy`] and [`MountError::Covered`]: the mount stays and is served.
    pub fn unmount(&self) -> Result<(), MountError> {
        if self.session_ended() {
            return Ok(());
        }
        let failed =
            |source| MountError::Io { action: "unmounting", dir: self.dir.clone(), source };
        match device_number(&self.dir) {
            Ok(number) if number != self.device_number => {
                return if self.wait_timeout(Duration::from_millis(100)) {
                    Ok(())
                } else {
                    Err(MountError::Covered { dir: self.dir.clone() })
                };
            }
            _ => {}
        }
        let not_asking = self.context.flusher.without_asking();
        match sys::unmount(&self.dir, false) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(MountError::Busy { dir: self.dir.clone() });
            }
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                fusermount(&self.dir).map_err(|error| match error.kind() {
                    io::ErrorKind::ResourceBusy => MountError::Busy { dir: self.dir.clone() },
                    _ => failed(error),
                })?;
            }
            // Not a mount point any more: somebody was faster.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => other.map_err(failed)?,
        }
        drop(not_asking);
        if !self.wait_timeout(END_TIMEOUT) {
            tracing::info!(dir = %self.dir.display(), "unmounted here, still mounted elsewhere");
        }
        Ok(())
    }

    /// Makes the kernel ask again about a snapshot that was deleted by other means than the mount;
    /// `view` is any node inside it.
    pub fn snapshot_deleted(&self, view: NodeId) {
        self.context.snapshot_dirs.drop_snapshot(view);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::warn!(%error, "detaching the mount instead");
            if matches!(error, MountError::Busy { .. }) {
                let _ = sys::unmount(&self.dir, true);
            }
        }
    }
}

/// Runs once, when the last worker has left: no request comes any more.
fn end_session(context: &Context, lanes: &Lanes) {
    lanes.close();
    context.fs.set_flush_hook(None);
    context.promises_end();
    context.fs.forget_all();
}

fn check_mount_point(dir: &Path) -> Result<PathBuf, MountError> {
    let metadata = std::fs::metadata(dir).map_err(|source| {
        let dir = dir.to_path_buf();
        match source.raw_os_error() {
            Some(libc::ENOENT) => MountError::MissingMountPoint { dir },
            Some(libc::ENOTDIR) => MountError::NotADirectory { dir },
            Some(libc::ENOTCONN) => MountError::DeadMount { dir },
            Some(libc::EACCES) => MountError::Permission { dir, source },
            _ => MountError::Io { action: "looking at", dir, source },
        }
    })?;
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory { dir: dir.to_path_buf() });
    }
    let wrap = |source| MountError::Io { action: "looking at", dir: dir.to_path_buf(), source };
    dir.canonicalize().map_err(wrap)
}

/// The device must be there; that it may be opened is asked by mounting.
fn check_device(dir: &Path) -> Result<(), MountError> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(MountError::Permission { dir: dir.to_path_buf(), source })
        }
        Err(source) => Err(MountError::NoDevice { source }),
    }
}

/// `st_dev` of a directory, without asking its filesystem.
fn device_number(dir: &Path) -> io::Result<u64> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(CWD, dir, flags, StatxFlags::TYPE)?;
    Ok(rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor))
}

/// Unmounts with the help of the set-user-id program.
fn fusermount(dir: &Path) -> io::Result<()> {
    let output =
        Command::new("fusermount3").args(["-u", "--"]).arg(dir).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // It has one exit code for all that can go wrong, and the C library's words for the error.
    let busy = said.contains("Device or resource busy");
    let kind = if busy { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, said))
}
