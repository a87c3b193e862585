//! One process per pool: its mounts, its control socket, its signals.
//!
//! Shape: [`launch`] starts the process (or asks the one that runs), [`server`] is its life,
//! [`control`] answers its socket, [`mounts`] is its table of mounts, [`service`] carries requests out on an open pool, [`protocol`]
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
//! A crash at any point leaves a pool that replays its journal at the next open, a lock that the
//! kernel has dropped, and a socket on which nobody listens, which the next daemon replaces.

mod client;
mod control;
mod error;
pub mod launch;
pub mod log;
pub mod mountinfo;
mod mounts;
mod open;
pub mod protocol;
mod server;
mod service;
mod sys;

use std::path::Path;

use client::Patience;
pub use error::{Error, ErrorKind, Result};
pub use launch::run_detached;
pub use open::{create_pool, lock_pool};
use protocol::{Reply, Request};

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

/// Asks the pool's daemon; none when there is no daemon.
pub fn ask_daemon(pool: &Path, request: &Request) -> Result<Option<Reply>> {
    client::ask(pool, request)
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
            Ok(None) => {
                unmount_orphan(dir)?;
                return Ok(Unmounted::Orphan);
            }
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
