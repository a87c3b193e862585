//! The life of a pool's daemon: from the first mount to the last one's end.
//!
//! Threads: this one waits for events; one waits for signals; one accepts connections; one for each
//! connection; one for each mount, which waits for its end. The pool and the mounts have their own.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::format::Timestamp;
use crate::fs::{Atime, Filesystem, FsOptions, SnapDir};
use crate::fuse::{Mount, MountOptions, Neighbours};
use crate::pool::Pool;

use super::keep::{self, Held, Keeper, Kept, Serve, ToSupervisor};
use super::mounts::{Mounted, Mounts};
use super::open::{self, LockedDir, OpenPool, now};
use super::protocol::{DaemonRow, MountRequest, MountSettings, Outcome, Reply, SnapdirMode};
use super::service::{self, rfc3339};
use super::{Error, ErrorKind, Result, client, refuse, supervisor, sys};

/// How long the process waits at its end for replies to be written.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the main thread waits for.
#[derive(Debug)]
enum Event {
    /// A mount has ended.
    Ended(u64),
    /// A request has ended the last mount.
    LastUnmounted,
    /// A signal asks the process to end.
    Terminate(i32),
}

/// The daemon's state.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) path: PathBuf,
    started: Timestamp,
    /// Of daemons before this one.
    deaths: u64,
    /// None when the pool is being closed.
    pool: Mutex<Option<Arc<Pool>>>,
    pub(super) mounts: Mounts,
    /// Serializes mounting and unmounting; true when no mount may be added any more.
    changing: Mutex<bool>,
    /// How closing went, when it is done.
    closed: Mutex<Option<Result<()>>>,
    closing: Condvar,
    neighbours: Neighbours,
    next_id: AtomicU64,
    /// Connections.
    pub(super) clients: AtomicUsize,
    /// Requests that are being answered.
    pub(super) answering: AtomicUsize,
    events: Mutex<Sender<Event>>,
    keeper: Arc<Keeper>,
}

/// What an earlier daemon of the pool has left.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// The pool's lock.
    pub(super) lock: Option<OwnedFd>,
    /// Mounts, each with what the supervisor holds of it.
    pub(super) mounts: Vec<(Kept, Held)>,
}

/// Opens the pool, makes the first mount or takes over those that an earlier daemon has left, and serves until
/// the last mount has ended or a signal comes. `ready` is called when the pool is open and mounted.
///
/// When this fails before that, nothing has changed.
pub(super) fn run(
    serve: &Serve,
    inherited: Inherited,
    keeper: Keeper,
    ready: impl FnOnce(),
) -> Result<()> {
    sys::block_signals().map_err(|error| Error::io("block signals", &error))?;
    if let Some(why) = &serve.refuse {
        ready();
        return refuse::run(serve, inherited, why);
    }
    let keeper = Arc::new(keeper);
    let started = start(serve, inherited, &keeper);
    let outcome = match &started {
        Ok(_) => {
            ready();
            Outcome::Done(Reply::Mounted { notes: Vec::new() })
        }
        Err(error) => Outcome::Failed(error.clone()),
    };
    keeper.tell(&ToSupervisor::Started(outcome), &[]);
    let (server, open, listener, events) = started?;
    server.serve(open, listener, &events)
}

type Started = (Arc<Server>, OpenPool, UnixListener, Receiver<Event>);

fn start(serve: &Serve, inherited: Inherited, keeper: &Arc<Keeper>) -> Result<Started> {
    let first = &serve.first;
    let (open, listener) = open_pool(first, inherited.lock)?;
    keeper.tell(&ToSupervisor::Lock, &[open.lock_file()]);
    let next_id = inherited.mounts.iter().map(|(kept, _)| kept.id).max().unwrap_or(0) + 1;
    let (sender, events) = channel();
    let server = Arc::new(Server {
        path: open.path().to_owned(),
        started: now(),
        deaths: serve.deaths,
        pool: Mutex::new(Some(Arc::clone(&open.pool))),
        mounts: Mounts::default(),
        changing: Mutex::new(false),
        closed: Mutex::new(None),
        closing: Condvar::new(),
        neighbours: Neighbours::default(),
        next_id: AtomicU64::new(next_id),
        clients: AtomicUsize::new(0),
        answering: AtomicUsize::new(0),
        events: Mutex::new(sender),
        keeper: Arc::clone(keeper),
    });
    if serve.kept > 0 {
        if let Err(error) = server.take_over(inherited.mounts) {
            tracing::error!(%error, "the mounts can't be taken over");
            // Dropped, it would unmount those that are taken over already. The process ends now, and the
            // next one tries again.
            std::mem::forget((server, open));
            return Err(error);
        }
    } else if let Err(error) = server.mount(first) {
        let _ = client::remove(&server.path);
        *server.pool.lock() = None;
        return Err(open.abandon(error));
    }
    Ok((server, open, listener, events))
}

/// Locks and opens the pool, and makes its socket.
fn open_pool(first: &MountRequest, lock: Option<OwnedFd>) -> Result<(OpenPool, UnixListener)> {
    let locked = match lock {
        Some(lock) => LockedDir::inherit(&first.pool.0, lock)?,
        None => LockedDir::take(&first.pool.0, first.create)?,
    };
    // From here on other clients queue up at the socket instead of finding the pool in use.
    let listener = match client::bind(locked.path()) {
        Ok(listener) => listener,
        Err(error) => {
            let error = Error::io(
                format_args!("make the socket {}/{}", locked.path().display(), client::SOCKET),
                &error,
            );
            return Err(locked.abandon(error));
        }
    };
    let open = locked.open(&first.options, true);
    let open = open.inspect_err(|_| drop(client::remove(&first.pool.0)))?;
    Ok((open, listener))
}

impl Server {
    /// Waits for the end, and closes the pool.
    fn serve(
        self: &Arc<Self>,
        open: OpenPool,
        listener: UnixListener,
        events: &Receiver<Event>,
    ) -> Result<()> {
        let server = Arc::clone(self);
        spawn("signals", move || match sys::wait_for_signal() {
            Ok(signal) => server.tell(Event::Terminate(signal)),
            Err(error) => tracing::error!(%error, "signals can't be waited for"),
        })?;
        let server = Arc::clone(self);
        spawn("control", move || server.accept(&listener))?;
        tracing::info!(pool = %self.path.display(), pid = std::process::id(), "serving");
        while let Ok(event) = events.recv() {
            match event {
                Event::Ended(id) => {
                    if self.forget(id) {
                        break;
                    }
                }
                Event::LastUnmounted => break,
                Event::Terminate(signal) => {
                    tracing::info!(signal, "asked to end: unmounting");
                    self.unmount_all();
                    break;
                }
            }
        }
        let closed = self.close(open);
        self.wait_for_answers();
        closed
    }

    fn tell(&self, event: Event) {
        // The receiver lives as long as the main thread, after which nobody needs to know.
        let _ = self.events.lock().send(event);
    }

    /// Closes the pool and says so to those who wait for it.
    fn close(&self, open: OpenPool) -> Result<()> {
        *self.pool.lock() = None;
        // While the lock is held, the path is ours: the next daemon has not made its socket yet.
        if let Err(error) = client::remove(&self.path) {
            tracing::warn!(%error, "the control socket stays behind");
        }
        let closed = open.close();
        match &closed {
            Ok(()) => tracing::info!(pool = %self.path.display(), "closed"),
            Err(error) => {
                tracing::error!(%error, "closing the pool failed; its journal is replayed at the next open");
            }
        }
        *self.closed.lock() = Some(closed.clone());
        self.closing.notify_all();
        closed
    }

    fn wait_for_answers(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        while self.answering.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn pool(&self) -> Result<Arc<Pool>> {
        self.pool.lock().clone().ok_or_else(stopping)
    }

    pub(super) fn row(&self) -> DaemonRow {
        DaemonRow {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: rfc3339(self.started),
            deaths: self.deaths,
        }
    }

    /// Adds a mount; returns what to tell the user.
    pub(super) fn mount(self: &Arc<Self>, request: &MountRequest) -> Result<Vec<String>> {
        let changing = self.changing.lock();
        if *changing {
            return Err(stopping());
        }
        let pool = self.pool()?;
        let (dir, volume, settings) = (&request.dir.0, &request.volume, &request.options);
        self.check_free(dir, volume, settings)?;
        let made = request.create && !pool.volumes().iter().any(|info| info.name == *volume);
        if made {
            service::with_room(&self.mounts, || service::create_volume(&pool, volume))?;
        }
        let mounted = self.make_mount(&pool, request);
        if let (Err(_), true) = (&mounted, made) {
            pool.delete_volume(volume)?;
            pool.sync()?;
        }
        let (mounted, writers) = mounted?;
        self.keep(&mounted, request, &writers);
        self.watch(mounted)?;
        drop(changing);
        tracing::info!(volume, snapshot = settings.snapshot, dir = %dir.display(), "mounted");
        Ok(self.ignored(&pool, settings))
    }

    /// Enters a mount into the table, and has its end reported.
    fn watch(self: &Arc<Self>, mounted: Mounted) -> Result<()> {
        let (id, mount) = (mounted.id, Arc::clone(&mounted.mount));
        self.mounts.add(mounted);
        let server = Arc::clone(self);
        spawn("mount", move || {
            mount.wait();
            drop(mount);
            server.tell(Event::Ended(id));
        })
    }

    /// Leaves a mount with the supervisor, for the case that this process dies.
    fn keep(&self, mounted: &Mounted, request: &MountRequest, writers: &File) {
        if !mounted.mount.survives_its_process() {
            return;
        }
        let kept = Kept {
            id: mounted.id,
            session: mounted.session,
            request: request.clone(),
            since: mounted.since.clone(),
        };
        let mut descriptors = vec![mounted.mount.descriptor(), writers.as_fd()];
        descriptors.extend(mounted.mount.requests());
        self.keeper.tell(&ToSupervisor::Keep(kept), &descriptors);
    }

    /// Goes on with the mounts of an earlier daemon.
    fn take_over(self: &Arc<Self>, mounts: Vec<(Kept, Held)>) -> Result<()> {
        let pool = self.pool()?;
        // Until all mounts are taken over, and keep them themselves.
        let _answers = pool.earlier_answers();
        for (kept, held) in mounts {
            let (request, settings) = (&kept.request, &kept.request.options);
            let volume = pool.volume(&request.volume)?;
            let fs = Arc::new(Filesystem::inherit(volume, fs_options(settings))?);
            let noted = fs.note_writers(held.writers.into());
            noted.map_err(|error| Error::io("read what is open for writing", &error))?;
            let options = MountOptions {
                session: kept.session,
                neighbours: self.neighbours.clone(),
                ..mount_options(request)
            };
            let (session, requests) = (held.session, held.requests);
            let dir = &request.dir.0;
            let mount = Mount::take_over(Arc::clone(&fs), dir, session, requests, &options)?;
            tracing::info!(volume = request.volume, dir = %request.dir.0.display(), "taken over");
            self.watch(Mounted {
                id: kept.id,
                session: kept.session,
                dir: request.dir.0.clone(),
                volume: request.volume.clone(),
                snapshot: settings.snapshot.clone(),
                read_only: settings.read_only,
                since: kept.since,
                fs,
                mount: Arc::new(mount),
            })?;
        }
        Ok(())
    }

    /// Has another program serve the pool. This process is then killed, and what it had under way is the
    /// successor's.
    pub(super) fn upgrade(&self, program: &Path) -> Result<()> {
        if !self.keeper.is_there() {
            return Err(Error::new(ErrorKind::Unsupported, "the daemon has no supervisor")
                .with_hint("Unmount the pool, and mount it again."));
        }
        supervisor::check_program(program)?;
        // So that little is left for the successor to repeat.
        self.pool()?.checkpoint()?;
        tracing::info!(program = %program.display(), "another program takes over");
        let keeper = &self.keeper;
        keeper.tell(&ToSupervisor::Replace(program.to_owned().into()), &[]);
        Ok(())
    }

    /// Fails if the directory or the volume has a mount already.
    fn check_free(&self, dir: &Path, volume: &str, settings: &MountSettings) -> Result<()> {
        if let Some(other) = self.mounts.on(dir) {
            let message = format!("the volume {} is already mounted there", other.volume);
            return Err(Error::new(ErrorKind::Busy, message)
                .with_hint("Unmount it first, or use another directory."));
        }
        match self.mounts.live(volume) {
            Some(other) if settings.snapshot.is_none() => {
                let message = format!("it is already mounted on {}", other.dir.display());
                let hint = "To have it in a second place: `mount --bind` from the first.";
                Err(Error::new(ErrorKind::Busy, message).with_hint(hint))
            }
            _ => Ok(()),
        }
    }

    /// Makes a mount; returns its note of writers too.
    fn make_mount(&self, pool: &Arc<Pool>, request: &MountRequest) -> Result<(Mounted, File)> {
        let (dir, settings) = (&request.dir.0, &request.options);
        let info = service::find_volume(pool, &request.volume)?;
        if let Some(name) = &settings.snapshot {
            service::find_snapshot(pool, info.id, name)?;
        }
        let volume = pool.volume(&request.volume)?;
        let fs = Arc::new(Filesystem::new(volume, fs_options(settings))?);
        let writers = keep::nameless_file();
        let writers = writers.map_err(|error| Error::io("make a file in memory", &error))?;
        let noted = writers.try_clone().and_then(|copy| fs.note_writers(copy));
        noted.map_err(|error| Error::io("note what is open for writing", &error))?;
        let session = open::new_session()?;
        let neighbours = self.neighbours.clone();
        let options = MountOptions { session, neighbours, ..mount_options(request) };
        let mount = Mount::new(Arc::clone(&fs), dir, &options)?;
        let mounted = Mounted {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            session,
            dir: dir.clone(),
            volume: request.volume.clone(),
            snapshot: settings.snapshot.clone(),
            read_only: settings.read_only,
            since: rfc3339(now()),
            fs,
            mount: Arc::new(mount),
        };
        Ok((mounted, writers))
    }

    /// Says which settings had no effect, because they are the pool's and it is open already.
    fn ignored(&self, pool: &Arc<Pool>, settings: &MountSettings) -> Vec<String> {
        let mut notes = Vec::new();
        let limit = pool.status().cache_limit_bytes;
        if settings.cache_bytes.is_some_and(|bytes| bytes != limit) {
            notes.push(format!("the pool is open already, with cache_size={limit}; that stays"));
        }
        if settings.commit_seconds.is_some() {
            notes.push(
                "the pool is open already, and commit= was set by its first mount".to_owned(),
            );
        }
        notes
    }

    /// Ends a mount; returns whether it was the last.
    pub(super) fn unmount(&self, dir: &Path) -> Result<bool> {
        let mut changing = self.changing.lock();
        let Some(mounted) = self.mounts.on(dir) else {
            let message = format!("this pool has no mount on {}", dir.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        mounted.mount.unmount()?;
        self.remove(mounted.id);
        drop(mounted);
        tracing::info!(dir = %dir.display(), "unmounted");
        if self.mounts.is_empty() {
            *changing = true;
            self.tell(Event::LastUnmounted);
            return Ok(true);
        }
        // As of any filesystem: what was written is on disk when umount returns.
        self.pool()?.sync()?;
        Ok(false)
    }

    /// Takes a mount that has ended by itself off the table; returns whether none is left.
    fn forget(&self, id: u64) -> bool {
        let mut changing = self.changing.lock();
        if !self.remove(id) {
            return false;
        }
        tracing::info!("a mount was ended from outside");
        *changing = self.mounts.is_empty();
        *changing
    }

    /// Ends every mount, busy ones by detaching them.
    fn unmount_all(&self) {
        *self.changing.lock() = true;
        for mounted in self.mounts.all().into_iter().rev() {
            if let Err(error) = mounted.mount.unmount() {
                tracing::warn!(dir = %mounted.dir.display(), "{error}; detaching it");
                if let Err(error) = detach(&mounted.dir) {
                    tracing::error!(%error, "a mount without a daemon stays behind");
                }
            }
            self.remove(mounted.id);
        }
    }

    /// Takes a mount off the table, and off the supervisor's hands.
    fn remove(&self, id: u64) -> bool {
        let removed = self.mounts.remove(id);
        if removed {
            self.keeper.tell(&ToSupervisor::Drop(id), &[]);
        }
        removed
    }

    pub(super) fn wait_until_closed(&self) -> Result<()> {
        let mut closed = self.closed.lock();
        loop {
            if let Some(outcome) = &*closed {
                return outcome.clone();
            }
            self.closing.wait(&mut closed);
        }
    }
}

fn stopping() -> Error {
    Error::new(ErrorKind::Stopping, "the pool is being closed")
}

/// Takes a busy mount out of the directory tree; it ends with its last user, or with this process.
fn detach(dir: &Path) -> std::io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    Ok(unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
}

pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map(drop).map_err(|error| Error::io("start a thread", &error))
}

fn fs_options(settings: &MountSettings) -> FsOptions {
    FsOptions {
        snapdir: match settings.snapdir {
            SnapdirMode::Hidden => SnapDir::Hidden,
            SnapdirMode::Visible => SnapDir::Visible,
            SnapdirMode::Disabled => SnapDir::Disabled,
        },
        snapdir_name: settings.snapdir_name.clone(),
        only_snapshot: settings.snapshot.clone(),
        read_only: settings.read_only,
        atime: if settings.noatime { Atime::Noatime } else { Atime::Relatime },
    }
}

fn mount_options(request: &MountRequest) -> MountOptions {
    let settings = &request.options;
    let defaults = MountOptions::default();
    let snapshot = settings.snapshot.as_ref().map(|name| format!("@{name}")).unwrap_or_default();
    MountOptions {
        allow_other: settings.allow_other.unwrap_or(defaults.allow_other),
        read_only: settings.read_only || settings.snapshot.is_some(),
        fs_name: format!("{}:{}{snapshot}", request.pool.0.display(), request.volume),
        nodev: settings.nodev || defaults.nodev,
        nosuid: settings.nosuid || defaults.nosuid,
        noexec: settings.noexec,
        noatime: settings.noatime,
        extra: settings.contexts.clone(),
        // A helper of the same build; the name holds when the program's file is replaced.
        flush_program: Some("/proc/self/exe".into()),
        ..defaults
    }
}
