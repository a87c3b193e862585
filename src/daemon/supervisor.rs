//! The process that outlives a pool's daemon.
//!
//! It holds what the kernel would end with the daemon: the sessions of the mounts (`/dev/fuse`) and
//! the pool's lock. When the daemon dies it starts another, which takes them over; to programs on the
//! mounts that is a pause. It does nothing else, so that there is little that could end it.
//!
//! A daemon ends in an orderly way with exit code 0, and so does its supervisor then. After
//! [`MAX_DEATHS`] short lives in a row none is started any more: a last one answers everything with EIO, and
//! says why on the control socket.
//!
//! Signals that ask for an end are passed on to the daemon.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::keep::{self, Channel, Held, Kept, Serve, ToDaemon, ToSupervisor};
use super::log::Verbosity;
use super::protocol::{MountRequest, Outcome, Reply};
use super::server::spawn;
use super::{Error, ErrorKind, Result, sys};

/// A daemon that dies of itself sooner than this after its start will do so again.
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// One that was killed may have been well: so sooner only if it can hardly have begun.
const SHORT_LIFE_KILLED: Duration = Duration::from_millis(500);
/// So many short lives in a row are enough.
const MAX_DEATHS: u32 = 8;
/// Before the second and each further short life in a row.
const PAUSE: Duration = Duration::from_millis(200);

/// How daemons are started.
#[derive(Debug, Clone)]
pub(super) struct Starting {
    /// How much they log.
    pub(super) verbosity: Verbosity,
    /// `AMBERFS_LOG`.
    pub(super) filter: Option<String>,
    /// They log to standard error, for a supervisor in the foreground.
    pub(super) foreground: bool,
}

/// What is known of the daemon to the thread that passes signals on.
#[derive(Debug, Default)]
struct Current {
    daemon: Option<Pid>,
    /// A signal has asked for the end.
    ending: bool,
}

struct Supervisor {
    first: MountRequest,
    starting: Starting,
    program: PathBuf,
    /// What is held of each mount, and how to go on with it.
    mounts: BTreeMap<u64, (Kept, Held)>,
    lock: Option<OwnedFd>,
    current: Arc<Mutex<Current>>,
    deaths: u64,
    replaced: bool,
}

/// Supervises daemons of a pool until one ends in an orderly way. `started` is called with how the first
/// one's start went.
pub(super) fn run(
    first: &MountRequest,
    starting: Starting,
    started: impl FnOnce(Result<Reply>),
) -> Result<()> {
    sys::block_signals().map_err(|error| Error::io("block signals", &error))?;
    let current = Arc::new(Mutex::new(Current::default()));
    let shared = Arc::clone(&current);
    spawn("signals", move || pass_signals_on(&shared))?;
    let mut supervisor = Supervisor {
        first: first.clone(),
        starting,
        program: keep::this_program(),
        mounts: BTreeMap::new(),
        lock: None,
        current,
        deaths: 0,
        replaced: false,
    };
    supervisor.supervise(started)
}

fn pass_signals_on(current: &Mutex<Current>) {
    while let Ok(number) = sys::wait_for_signal() {
        let mut current = current.lock();
        current.ending = true;
        let signal = Signal::from_named_raw(number).unwrap_or(Signal::TERM);
        if let Some(daemon) = current.daemon {
            let _ = kill_process(daemon, signal);
        }
    }
}

impl Supervisor {
    fn supervise(&mut self, started: impl FnOnce(Result<Reply>)) -> Result<()> {
        let mut started = Some(started);
        let mut short_lives = 0;
        loop {
            let refuse = (short_lives >= MAX_DEATHS).then(|| {
                format!("its daemon died {short_lives} times, each time shortly after its start")
            });
            let refusing = refuse.is_some();
            let since = Instant::now();
            let (mut child, channel) = self.start(refuse)?;
            self.current.lock().daemon = Pid::from_child(&child).into();
            self.listen(&channel, &mut child, &mut started);
            let status = child.wait();
            let ending = {
                let mut current = self.current.lock();
                current.daemon = None;
                current.ending
            };
            let how = status.as_ref().map_or_else(ToString::to_string, ExitStatus::to_string);
            let killed = status.as_ref().is_ok_and(|status| status.signal() == Some(libc::SIGKILL));
            if status.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            if let Some(started) = started.take() {
                started(Err(ended_early(&how)));
            }
            if self.mounts.is_empty() || ending || refusing {
                let message = format!("the pool's daemon ended ({how})");
                return Err(Error::new(ErrorKind::Io, message));
            }
            if std::mem::take(&mut self.replaced) {
                continue;
            }
            self.deaths += 1;
            let short = if killed { SHORT_LIFE_KILLED } else { SHORT_LIFE };
            short_lives = if since.elapsed() < short { short_lives + 1 } else { 0 };
            tracing::error!(how, deaths = self.deaths, "the daemon died; another takes over");
            if short_lives > 1 {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Starts a daemon and gives it what there is to go on with.
    fn start(&self, refuse: Option<String>) -> Result<(Child, Channel)> {
        let failed = |error: &io::Error| Error::io("start the pool's daemon", error);
        let (channel, theirs) = Channel::pair().map_err(|error| failed(&error))?;
        let mut command = Command::new(&self.program);
        command.arg0("amberfs").arg("daemon").arg("--log").arg(self.starting.verbosity.to_string());
        if self.starting.foreground {
            command.arg("--foreground");
        }
        command.arg(&self.first.pool.0);
        if let Some(filter) = &self.starting.filter {
            command.env("AMBERFS_LOG", filter);
        }
        command.stdin(Stdio::from(theirs.into_socket())).stdout(Stdio::null());
        let child = command.spawn().map_err(|error| failed(&error))?;
        // The command holds a copy of the daemon's end: gone, so that the daemon's death shows here.
        drop(command);
        let serve = Serve {
            first: self.first.clone(),
            kept: self.mounts.len(),
            deaths: self.deaths,
            refuse,
        };
        let lock: Vec<_> = self.lock.iter().map(AsFd::as_fd).collect();
        let sent = channel.send(&ToDaemon::Serve(serve), &lock).and_then(|()| {
            self.mounts.values().try_for_each(|(kept, held)| {
                channel.send(&ToDaemon::Mount(kept.clone()), &held.descriptors())
            })
        });
        // One that has died already shows when it is waited for.
        if let Err(error) = sent {
            tracing::debug!(%error, "the daemon does not listen");
        }
        Ok((child, channel))
    }

    /// Keeps what the daemon has to keep, until it has closed its end.
    fn listen(
        &mut self,
        channel: &Channel,
        child: &mut Child,
        started: &mut Option<impl FnOnce(Result<Reply>)>,
    ) {
        loop {
            let (message, descriptors) = match channel.receive::<ToSupervisor>() {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a message of the daemon can't be read");
                    continue;
                }
            };
            match message {
                ToSupervisor::Started(outcome) => {
                    if let Some(started) = started.take() {
                        started(match outcome {
                            Outcome::Done(reply) => Ok(reply),
                            Outcome::Failed(error) => Err(error),
                        });
                    }
                }
                ToSupervisor::Lock => self.lock = descriptors.into_iter().next(),
                ToSupervisor::Keep(kept) => match Held::new(descriptors) {
                    Ok(held) => drop(self.mounts.insert(kept.id, (kept, held))),
                    Err(error) => tracing::warn!(%error, "a mount can't be kept"),
                },
                ToSupervisor::Drop(id) => drop(self.mounts.remove(&id)),
                ToSupervisor::Replace(program) => {
                    self.program = program.0;
                    self.replaced = true;
                    // The way of a crash, which the successor has to know anyway.
                    let _ = child.kill();
                }
            }
        }
    }
}

fn ended_early(how: &str) -> Error {
    let message = format!("the pool's daemon ended before the mount was usable ({how})");
    Error::new(ErrorKind::Io, message)
}

/// Whether the file is a program that could be started in place of a daemon.
pub(super) fn check_program(program: &Path) -> Result<()> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| Error::io(format_args!("run {}", program.display()), &error))?;
    if output.status.success() && output.stdout.starts_with(b"amberfs ") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("{} is not an amberfs program", program.display())))
}
