//! `amberfs umount`.

use std::path::PathBuf;

use crate::daemon::{self, Unmounted, mountinfo};

use super::{Context, Failure, locate};

/// Unmount a volume; the last mount's end closes the pool and stops its daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Umount {
    /// The mount point.
    dir: PathBuf,
}

impl Umount {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let attempt = format!("unmount {}", self.dir.display());
        let dir = mountinfo::absolute(&self.dir).map_err(|error| Failure::new(&attempt, error))?;
        let table = mountinfo::read()
            .map_err(|error| Failure::new(&attempt, format!("the table of mounts: {error}")))?;
        let entry = table.iter().rfind(|entry| entry.dir == dir);
        let Some(entry) = entry.filter(|entry| entry.is_amberfs()) else {
            let inside = mountinfo::containing(&table, &dir).filter(|entry| entry.is_amberfs());
            let failure = Failure::new(&attempt, "it is not a mount point of AmberFS");
            return Err(match inside {
                Some(entry) => failure.hint(format!(
                    "It is inside the mount {}: give that one.",
                    entry.dir.display()
                )),
                None => failure.hint("`amberfs status` lists the mounts."),
            });
        };
        let target = locate::target_of_source(&entry.source)
            .ok_or_else(|| Failure::new(&attempt, "its source names no pool"))?;
        match daemon::unmount(&target.pool, &dir) {
            Ok(Unmounted::ByDaemon) => Ok(()),
            Ok(Unmounted::Orphan) => {
                context.note(
                    "the mount's daemon was gone; the pool replays its journal when it is opened again",
                );
                Ok(())
            }
            Err(error) => Err(Failure::from_daemon(&attempt, error)),
        }
    }
}
