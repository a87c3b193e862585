//! `amberfs clone` and `amberfs restore`: going on from a snapshot.

use std::ffi::OsString;

use crate::daemon;
use crate::daemon::protocol::{Reply, Request};

use super::locate::locate;
use super::{Context, Failure, failure};

/// Make a volume that begins as a snapshot; nothing is copied, and neither sees the other's changes.
#[derive(Debug, clap::Args)]
pub(super) struct Clone {
    /// The snapshot.
    #[arg(value_name = "POOL:VOLUME@SNAPSHOT")]
    address: OsString,
    /// The new volume's name, in the same pool.
    #[arg(value_name = "NEWVOLUME")]
    name: String,
}

impl Clone {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let target = locate(&self.address, "clone a snapshot of")?;
        let snapshot = target.require_snapshot("clone a snapshot")?.to_owned();
        let from = format!("{}@{snapshot}", target.volume_address());
        let attempt = format!("clone {from} as `{}`", self.name);
        let (volume, name) = (target.volume.clone(), self.name.clone());
        let request = Request::Clone { volume, snapshot, name };
        daemon::call(&target.pool, &request)
            .map_err(|error| Failure::from_daemon(attempt, error))?;
        let pool = target.pool.display();
        context.note(&format!("created the volume {pool}:{} from {from}", self.name));
        Ok(())
    }
}

/// Make a volume that is not mounted what it was in a snapshot.
///
/// What it is now is kept as the snapshot `before-restore-TIME`, so that restoring can be undone. Snapshots
/// and clones stay as they are.
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// The snapshot.
    #[arg(value_name = "POOL:VOLUME@SNAPSHOT")]
    address: OsString,
}

impl Restore {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let target = locate(&self.address, "restore a snapshot of")?;
        let snapshot = target.require_snapshot("restore a snapshot")?.to_owned();
        let address = target.volume_address();
        let attempt = format!("restore {address}@{snapshot}");
        let request =
            Request::Restore { volume: target.volume.clone(), snapshot: snapshot.clone() };
        match daemon::call(&target.pool, &request) {
            Ok(Reply::Snapshot(kept)) => {
                context.note(&format!(
                    "{address} is as in the snapshot `{snapshot}`; what it was is kept as `{}`",
                    kept.name
                ));
                Ok(())
            }
            Ok(_) => Err(failure::odd_reply(attempt)),
            Err(error) => Err(Failure::from_daemon(attempt, error)),
        }
    }
}
