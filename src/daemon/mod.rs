//! One process per pool: its mounts, its control socket, its signals.
//!
//! Shape: [`launch`] starts the process (or asks the one that runs) under a [`supervisor`], which keeps
//! the mounts if it dies ([`keep`] is what the two tell each other); [`server`] is its life, [`control`] answers its socket, [`mounts`] is its table of mounts, [`service`] carries requests out on an open pool, [`protocol`]
//! is what goes over the socket, [`client`] the other end of it. A command on a pool that no daemon
//! has open opens it itself and carries the same request out with the same code ([`call`]).
//!
//! Invariants:
//! 1. One process has a pool open: it holds the flock of [`crate::device::PoolDir`]. The socket is
//!    made and removed only by the process that holds it.
//! 2. A volume has at most one live mount: the kernel caches without a time limit, and two kernels'
//!    worth of caches for one tree would not know of each other's changes. Mounts of snapshots
//!    never change, and there may be any number.
//! 3. A request is answered when its effect is durable.
//! 4. When the last mount has ended the pool is closed, and only then is its unmounting answered.
//!
//! Lock order: `Server::changing` (mounts and unmounts, one at a time) -> the table of mounts ->
//! nothing; neither is held while the file system is called, but for `changing`.
//!
//! A crash at any point leaves a pool that replays its journal at the next open, and a socket on which
//! nobody listens, which the next daemon replaces. The supervisor has the lock and the mounts, and starts
//! that daemon; if it has died as well, the kernel has dropped the lock and ended the mounts.

mod client;
mod control;
mod error;
mod keep;
pub mod launch;
pub mod log;
pub mod mountinfo;
mod mounts;
mod open;
pub mod protocol;
mod refuse;
mod scrub;
mod server;
mod service;
mod supervisor;
mod sys;

use std::path::Path;

use crate::device::{PoolDir, PoolDirError};

use client::Patience;
pub use error::{Error, ErrorKind, Result};
pub use open::{create_pool, lock_pool};
use protocol::{DaemonRow, Reply, Request};

/// Carries a request out: the pool's daemon does, or this process when there is none.
///
/// Waits while another process is just closing the pool.
pub fn call(pool: &Path, request: &Request) -> Result<Reply> {
    let patience = Patience::new();
    loop {
        let outcome = match client::ask(pool, request) {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => open::execute(pool, request),
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if patience.again(&error, request.changes_nothing()) => {}
            other => return other,
        }
    }
}

/// Asks the pool's daemon; none when there is no daemon. Waits for one that is taking over.
pub fn ask_daemon(pool: &Path, request: &Request) -> Result<Option<Reply>> {
    let patience = Patience::new();
    loop {
        match client::ask(pool, request) {
            Ok(None) if is_held(pool) && patience.between_daemons() => {}
            Err(error) if patience.again(&error, request.changes_nothing()) => {}
            other => return other,
        }
    }
}

/// Whether a process has the pool locked.
fn is_held(pool: &Path) -> bool {
    matches!(PoolDir::open(pool), Err(PoolDirError::InUse { .. }))
}

/// Has another program serve a pool whose mounts stay, and waits until it does.
///
/// `program` is absolute. Returns what serves the pool then; none when it is not mounted.
pub fn upgrade(pool: &Path, program: &Path) -> Result<Option<DaemonRow>> {
    let daemon = |reply| match reply {
        Some(Reply::Status(row)) => row.daemon,
        _ => None,
    };
    let Some(before) = daemon(ask_daemon(pool, &Request::Status)?) else { return Ok(None) };
    match client::ask(pool, &Request::Upgrade { program: program.to_owned().into() }) {
        // It may be gone before its answer is.
        Err(error) if error.kind != ErrorKind::Lost => return Err(error),
        _ => {}
    }
    let patience = Patience::new();
    loop {
        // Until the one that answered is gone it may still answer.
        match ask_daemon(pool, &Request::Status).map(daemon) {
            Ok(Some(now)) if now.pid != before.pid => return Ok(Some(now)),
            Err(error) if error.kind != ErrorKind::Lost => return Err(error),
            _ if patience.between_daemons() => {}
            _ => {
                let message = "the new program does not serve the pool";
                return Err(Error::new(ErrorKind::Lost, message).with_hint(format!(
                    "See {}/{}.",
                    pool.display(),
                    log::LOG_FILE
                )));
            }
        }
    }
}

/// Who ended a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// The pool's daemon, in an orderly way.
    ByDaemon,
    /// This process: the daemon was gone.
    Orphan,
}

/// Ends a mount of the pool, whether or not its daemon still lives.
pub fn unmount(pool: &Path, dir: &Path) -> Result<Unmounted> {
    let request = Request::Umount { dir: dir.to_owned().into() };
    let patience = Patience::new();
    loop {
        match client::ask(pool, &request) {
            Ok(Some(_)) => return Ok(Unmounted::ByDaemon),
            Ok(None) if is_held(pool) && patience.between_daemons() => {}
            Ok(None) => {
                unmount_orphan(dir)?;
                return Ok(Unmounted::Orphan);
            }
            Err(error) if patience.while_busy(&error) => {}
            // It is closing the pool, or has just died: the next look tells.
            Err(error) if patience.again(&error, true) => {
                if !is_mounted(dir) {
                    return Ok(Unmounted::ByDaemon);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_mounted(dir: &Path) -> bool {
    let table = mountinfo::read().unwrap_or_default();
    table.iter().any(|entry| entry.dir == dir && entry.is_amberfs())
}

/// Takes away a mount that nobody serves.
fn unmount_orphan(dir: &Path) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    let unmounted = unmount(dir, UnmountFlags::NOFOLLOW);
    // Clients that are stuck in it must not keep it there: nobody will ever answer them.
    let unmounted =
        unmounted.or_else(|_| unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH));
    unmounted.map_err(|errno| Error::io(format_args!("unmount {}", dir.display()), &errno.into()))
}
