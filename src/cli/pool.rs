//! `amberfs pool`.

use std::path::{Path, PathBuf};

use crate::daemon;
use crate::daemon::protocol::{PoolStatusRow, Reply, Request};

use super::locate::absolute_pool;
use super::output::{Listing, local_time, print, print_json};
use super::size::parse_size;
use super::{Context, Failure, failure};

/// Make a pool, or look at one.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Pool {
    /// Make an empty pool in a directory that is missing or empty.
    Create {
        /// The pool's directory.
        pool: PathBuf,
        /// Most bytes that the pool takes of the host; without it, what the host has.
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
    },
    /// Show a pool's space, mounts and background work.
    Status {
        /// The pool's directory.
        pool: PathBuf,
        #[command(flatten)]
        listing: Listing,
    },
}

impl Pool {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Pool::Create { pool, size } => {
                let pool = absolute_pool(pool);
                daemon::create_pool(&pool, *size).map_err(|error| {
                    Failure::from_daemon(format!("create the pool {}", pool.display()), error)
                })?;
                context.note(&format!(
                    "created the pool {}; now make a volume with `amberfs volume create`, or mount with --create",
                    pool.display()
                ));
                Ok(())
            }
            Pool::Status { pool, listing } => {
                let pool = absolute_pool(pool);
                let row = pool_status(&pool)?;
                if listing.json { print_json(&row) } else { print(&describe(&row, *listing)) }
            }
        }
    }
}

/// Asks a pool's daemon, or the pool itself.
pub(super) fn pool_status(pool: &Path) -> Result<PoolStatusRow, Failure> {
    row_of(pool, daemon::call(pool, &Request::Status))
}

/// Asks a pool's daemon, which should be there: the pool is mounted.
pub(super) fn daemon_status(pool: &Path) -> Result<PoolStatusRow, Failure> {
    let gone = || {
        daemon::Error::new(daemon::ErrorKind::NotFound, "it is mounted, but its daemon is gone")
            .with_hint("Take the mount away with `amberfs umount DIR`, and mount again.")
    };
    row_of(
        pool,
        daemon::ask_daemon(pool, &Request::Status).and_then(|reply| reply.ok_or_else(gone)),
    )
}

fn row_of(pool: &Path, reply: daemon::Result<Reply>) -> Result<PoolStatusRow, Failure> {
    let attempt = format!("show the status of the pool {}", pool.display());
    match reply {
        Ok(Reply::Status(row)) => Ok(row),
        Ok(_) => Err(failure::odd_reply(attempt)),
        Err(error) => Err(Failure::from_daemon(attempt, error)),
    }
}

/// Formats a pool's state as lines of a name and a value.
pub(super) fn describe(row: &PoolStatusRow, listing: Listing) -> String {
    let size = |bytes| listing.size(bytes);
    let mut lines = vec![format!("pool        {}", row.pool.0.display())];
    let mut line = |name: &str, value: String| lines.push(format!("{name:<11} {value}"));
    line("uuid", row.uuid.clone());
    match &row.daemon {
        Some(daemon) => {
            let since = local_time(&daemon.started);
            let deaths = match daemon.deaths {
                0 => String::new(),
                deaths => format!(", after {deaths} that died"),
            };
            let (pid, version) = (daemon.pid, &daemon.version);
            line("daemon", format!("process {pid}, amberfs {version}, since {since}{deaths}"));
        }
        None => line("daemon", "none: the pool is not mounted".to_owned()),
    }
    for mount in &row.mounts {
        let snapshot = mount.snapshot.as_ref().map(|name| format!("@{name}")).unwrap_or_default();
        let mode = if mount.read_only { "read-only" } else { "read-write" };
        let since = local_time(&mount.since);
        line(
            "mount",
            format!(
                "{}{snapshot} on {}, {mode}, since {since}",
                mount.volume,
                mount.dir.0.display()
            ),
        );
    }
    line(
        "space",
        format!(
            "{} used, {} free of {}",
            size(row.used_bytes),
            size(row.free_bytes),
            size(row.total_bytes)
        ),
    );
    line(
        "checkpoint",
        format!(
            "number {}, {} changed since, {} to be freed by the next",
            row.checkpoint,
            size(row.dirty_bytes),
            size(row.held_bytes)
        ),
    );
    line(
        "journal",
        format!("{} used of {}", size(row.journal_used_bytes), size(row.journal_capacity_bytes)),
    );
    let work = match row.reclaim_pending {
        0 => "none".to_owned(),
        items => format!("{items} deleted snapshots or files being reclaimed"),
    };
    line("background", work);
    if let Some(reason) = &row.read_only {
        line("READ-ONLY", reason.clone());
    }
    lines.push(String::new());
    lines.join("\n")
}
