//! `amberfs status`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::daemon::mountinfo;
use crate::daemon::protocol::PoolStatusRow;

use super::locate::{absolute_pool, target_of_source};
use super::output::{Listing, print, print_json};
use super::pool::{daemon_status, describe, pool_status};
use super::{Context, Failure};

/// Show mounts, space, checkpoint and background work, of one pool or of all that are mounted.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// The pool; without it, every pool that is mounted here.
    pool: Option<PathBuf>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct Pools {
    pools: Vec<PoolStatusRow>,
}

impl Status {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let wanted = match &self.pool {
            Some(pool) => BTreeSet::from([absolute_pool(pool)]),
            None => mounted_pools()?,
        };
        let mut pools = Vec::new();
        let mut failed = None;
        for pool in &wanted {
            let row = if self.pool.is_some() { pool_status(pool) } else { daemon_status(pool) };
            match row {
                Ok(row) => pools.push(row),
                // It was unmounted after we had looked.
                Err(_) if self.pool.is_none() && !mounted_pools()?.contains(pool) => {}
                // One pool that does not answer must not hide the others.
                Err(failure) => failed = Some(failure),
            }
        }
        if self.listing.json {
            if !pools.is_empty() || failed.is_none() {
                print_json(&Pools { pools })?;
            }
        } else {
            let texts: Vec<String> = pools.iter().map(|row| describe(row, self.listing)).collect();
            print(&texts.join("\n"))?;
            if wanted.is_empty() {
                context.note("no pool is mounted here");
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Returns the pools that the mounts of this namespace come from.
fn mounted_pools() -> Result<BTreeSet<PathBuf>, Failure> {
    let table = mountinfo::read().map_err(|error| {
        Failure::new("list the mounts", format!("/proc/self/mountinfo: {error}"))
    })?;
    let amberfs = table.iter().filter(|entry| entry.is_amberfs());
    let pools = amberfs.filter_map(|entry| Some(target_of_source(&entry.source)?.pool));
    Ok(pools.filter(|pool| pool.is_absolute()).collect())
}
