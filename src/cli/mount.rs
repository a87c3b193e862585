//! `amberfs mount`, and the hidden command that its background half runs.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::daemon::launch;
use crate::daemon::log::{self, Verbosity};
use crate::daemon::protocol::{MountRequest, Reply};

use super::locate::{self, Target};
use super::options::parse_options;
use super::{Context, Failure, remount};

/// Mount a volume, in the background once it is usable.
#[derive(Debug, clap::Args)]
#[command(after_help = "Options for -o:
  ro, rw                  read-only; read-write (default)
  snapshot=NAME           this snapshot by itself, with the original inode numbers
  snapdir=MODE            .snapshots is hidden (default), visible in listings, or disabled
  snapdir_name=NAME       another name than .snapshots
  allow_other             other users may use the mount (default for root)
  no_allow_other          only the user who mounts
  default_permissions     always on
  noatime, relatime       access times: never; when older than the last change or a day (default)
  nodev, nosuid, noexec   as for any filesystem
  context=CONTEXT         SELinux context of all files
  cache_size=SIZE         memory for the pool's cache (default 256M)
  commit=SECONDS          time between checkpoints of the pool (default 5)
  remount                 change ro, rw, noatime, nodev, nosuid, noexec of a mount in place
and the generic ones of mount(8) and fstab(5): defaults, _netdev, nofail, user, x-*.")]
pub(super) struct Mount {
    /// The volume: POOL or POOL:VOLUME.
    #[arg(value_name = "POOL[:VOLUME]")]
    source: OsString,
    /// The mount point, a directory that exists.
    dir: PathBuf,
    /// Mount options, separated by commas.
    #[arg(short, value_name = "OPTS")]
    options: Vec<String>,
    /// Stay in the foreground, and log to standard error.
    #[arg(short, long)]
    foreground: bool,
    /// Make the pool and the volume if they are not there.
    #[arg(long)]
    create: bool,
}

/// How to mount, from either command line.
#[derive(Debug)]
pub(super) struct Mode {
    /// Options that are not known are passed over.
    pub(super) sloppy: bool,
    /// Everything is checked, nothing is mounted.
    pub(super) fake: bool,
    /// Stay in the foreground.
    pub(super) foreground: bool,
    /// Make what is not there.
    pub(super) create: bool,
}

impl Mount {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let mode =
            Mode { sloppy: false, fake: false, foreground: self.foreground, create: self.create };
        mount(context, &self.source, &self.dir, &self.options, &mode)
    }
}

/// Mounts `source` on `dir`, the common end of all ways to ask for it.
pub(super) fn mount(
    context: &Context,
    source: &OsStr,
    dir: &Path,
    options: &[String],
    mode: &Mode,
) -> Result<(), Failure> {
    if remount::is_wanted(options) {
        return remount::run(dir, options, mode.fake);
    }
    let attempt = format!("mount {} on {}", source.display(), dir.display());
    let mut settings = parse_options(options, mode.sloppy)
        .map_err(|error| Failure::usage(&attempt, error.message).hint(error.hint))?;
    let Target { pool, volume, snapshot } = locate::address(source, "mount")?;
    if let Some(named) = snapshot {
        match &settings.snapshot {
            Some(other) if *other != named => {
                let cause = format!("the address names `{named}`, and -o snapshot= `{other}`");
                return Err(Failure::usage(attempt, cause).hint("Name the snapshot once."));
            }
            _ => settings.snapshot = Some(named),
        }
    }
    let fail = |error| Failure::from_daemon(&attempt, error);
    let dir = launch::check_mount_point(dir, &pool).map_err(fail)?;
    launch::check_fuse().map_err(fail)?;
    let request = MountRequest {
        pool: pool.into(),
        volume,
        dir: dir.into(),
        create: mode.create,
        options: settings,
    };
    if mode.fake {
        return Ok(());
    }
    if mode.foreground {
        context.log_to_stderr();
        let filter = context.log_filter.as_deref();
        return launch::foreground(&request, filter, context.verbosity).map_err(fail);
    }
    let reply = launch::background(&request, context.log_filter.as_deref(), context.verbosity);
    if let Reply::Mounted { notes } = reply.map_err(fail)? {
        for note in notes {
            context.note(&note);
        }
    }
    Ok(())
}

/// Start a pool's daemon, and another when it dies. Started by `amberfs mount`, which passes the first
/// mount on standard input and reads the outcome from standard output.
#[derive(Debug, clap::Args)]
pub(super) struct Supervise {
    /// The pool, to be seen in lists of processes.
    #[arg(value_name = "POOL")]
    _pool: PathBuf,
    /// How much to log.
    #[arg(long, value_enum, default_value = "normal")]
    log: Verbosity,
}

impl Supervise {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let (from, to) = (std::io::stdin().lock(), std::io::stdout().lock());
        launch::supervise(from, to, context.log_filter.as_deref(), self.log)
            .map_err(|error| Failure::from_daemon("supervise a daemon", error))
    }
}

/// Serve a pool. Started by a supervisor, which is at the other end of standard input.
#[derive(Debug, clap::Args)]
pub(super) struct Daemon {
    /// The pool, to be seen in lists of processes.
    #[arg(value_name = "POOL")]
    _pool: PathBuf,
    /// How much to log.
    #[arg(long, value_enum, default_value = "normal")]
    log: Verbosity,
    /// Log to standard error.
    #[arg(long)]
    foreground: bool,
}

impl Daemon {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let filter = context.log_filter.as_deref();
        if self.foreground {
            log::to_writer(std::io::stderr, filter, self.log);
        }
        launch::serve(filter, self.log, self.foreground)
            .map_err(|error| Failure::from_daemon("serve a pool", error))
    }
}
