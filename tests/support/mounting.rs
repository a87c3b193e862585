//! A volume as the file system that a mount would serve, without one.

use std::sync::Arc;

use amberfs::fs::{Atime, Error, Filesystem, FsOptions};
use amberfs::pool::Pool;

/// A volume, or one of its snapshots by itself. Reading it changes nothing.
pub(crate) fn mount(
    pool: &Arc<Pool>,
    volume: &str,
    snapshot: Option<&str>,
) -> Result<Filesystem, Error> {
    let options = FsOptions {
        only_snapshot: snapshot.map(str::to_owned),
        atime: Atime::Noatime,
        ..FsOptions::default()
    };
    Filesystem::new(pool.volume(volume)?, options)
}
