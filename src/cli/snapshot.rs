//! `amberfs snapshot`.

use std::ffi::OsString;

use serde::Serialize;

use crate::daemon;
use crate::daemon::protocol::{Reply, Request, SnapshotList, SnapshotRow};

use super::locate::{Target, locate};
use super::output::{Listing, local_time, print, print_json, print_table};
use super::{Context, Failure, failure};

/// Make, list, rename and delete snapshots.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Snapshot {
    /// Freeze a volume as it is now; the snapshot survives a power cut when this returns.
    Create {
        /// POOL:VOLUME@NAME, or PATH@NAME with a path inside the mounted volume. Without @NAME the
        /// name is made of the time.
        #[arg(value_name = "ADDRESS[@NAME]")]
        address: OsString,
    },
    /// List a volume's snapshots by creation, behind a line for the volume itself.
    List {
        /// The volume, or a path inside it.
        address: OsString,
        #[command(flatten)]
        listing: Listing,
    },
    /// Delete a snapshot; its space comes back in the background.
    Delete {
        /// The snapshot.
        #[arg(value_name = "ADDRESS@NAME")]
        address: OsString,
    },
    /// Give a snapshot another name.
    Rename {
        /// The snapshot.
        #[arg(value_name = "ADDRESS@NAME")]
        address: OsString,
        /// The name it gets.
        new_name: String,
    },
    /// Show all that is known of a snapshot.
    Show {
        /// The snapshot.
        #[arg(value_name = "ADDRESS@NAME")]
        address: OsString,
        #[command(flatten)]
        listing: Listing,
    },
}

#[derive(Serialize)]
struct ListJson<'a> {
    pool: String,
    #[serde(flatten)]
    list: &'a SnapshotList,
}

#[derive(Serialize)]
struct ShowJson<'a> {
    pool: String,
    volume: &'a str,
    snapshot: &'a SnapshotRow,
}

/// The name of a snapshot for which none was given: a template that makes one of the time.
const UNNAMED: &str = "@manual";

impl Snapshot {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Snapshot::Create { address } => create(context, address),
            Snapshot::List { address, listing } => list(address, *listing),
            Snapshot::Delete { address } => delete(context, address),
            Snapshot::Rename { address, new_name } => rename(address, new_name),
            Snapshot::Show { address, listing } => show(address, *listing),
        }
    }
}

/// Names a snapshot for messages.
fn called(name: &str, target: &Target) -> String {
    format!("the snapshot `{name}` of {}", target.volume_address())
}

fn create(context: &Context, address: &OsString) -> Result<(), Failure> {
    let target = locate(address, "create a snapshot of")?;
    let name = target.snapshot.clone().unwrap_or_else(|| UNNAMED.to_owned());
    let attempt = format!("create {}", called(&name, &target));
    let request = Request::SnapshotCreate { volume: target.volume.clone(), name };
    match daemon::call(&target.pool, &request) {
        Ok(Reply::Snapshot(row)) => {
            context.note(&format!("created {}", called(&row.name, &target)));
            Ok(())
        }
        Ok(_) => Err(failure::odd_reply(attempt)),
        Err(error) => Err(Failure::from_daemon(attempt, error)),
    }
}

fn list(address: &OsString, listing: Listing) -> Result<(), Failure> {
    let target = locate(address, "list the snapshots of")?;
    let attempt = format!("list the snapshots of {}", target.volume_address());
    let request = Request::SnapshotList { volume: target.volume.clone() };
    let list = match daemon::call(&target.pool, &request) {
        Ok(Reply::Snapshots(list)) => list,
        Ok(_) => return Err(failure::odd_reply(attempt)),
        Err(error) => return Err(Failure::from_daemon(attempt, error)),
    };
    if listing.json {
        return print_json(&ListJson { pool: target.pool.display().to_string(), list: &list });
    }
    let line = |name: &str, created: &str, ready: bool, referenced: u64, exclusive: u64| {
        let ready = if ready { "yes" } else { "no" };
        vec![
            name.to_owned(),
            local_time(created),
            ready.to_owned(),
            listing.size(referenced),
            listing.size(exclusive),
        ]
    };
    let volume = list
        .volume
        .iter()
        .map(|row| line(&row.name, &row.created, true, row.referenced_bytes, row.exclusive_bytes));
    let snapshots = list.snapshots.iter().map(|row| {
        let name = format!("@{}", row.name);
        line(&name, &row.created, row.ready, row.referenced_bytes, row.exclusive_bytes)
    });
    let header = ["NAME", "CREATED", "READY", "REFERENCED", "EXCLUSIVE"];
    print_table(&header, volume.chain(snapshots).collect(), &[3, 4])
}

fn delete(context: &Context, address: &OsString) -> Result<(), Failure> {
    let target = locate(address, "delete a snapshot of")?;
    let name = target.require_snapshot("delete a snapshot")?.to_owned();
    let request = Request::SnapshotDelete { volume: target.volume.clone(), name: name.clone() };
    daemon::call(&target.pool, &request).map_err(|error| {
        Failure::from_daemon(format!("delete {}", called(&name, &target)), error)
    })?;
    context.note(&format!(
        "deleted {}; its space comes back in the background",
        called(&name, &target)
    ));
    Ok(())
}

fn rename(address: &OsString, new_name: &str) -> Result<(), Failure> {
    let target = locate(address, "rename a snapshot of")?;
    let name = target.require_snapshot("rename a snapshot")?;
    let attempt = format!("rename {} to `{new_name}`", called(name, &target));
    let request = Request::SnapshotRename {
        volume: target.volume.clone(),
        from: name.to_owned(),
        to: new_name.to_owned(),
    };
    daemon::call(&target.pool, &request).map_err(|error| Failure::from_daemon(attempt, error))?;
    Ok(())
}

fn show(address: &OsString, listing: Listing) -> Result<(), Failure> {
    let target = locate(address, "show a snapshot of")?;
    let name = target.require_snapshot("show a snapshot")?;
    let attempt = format!("show {}", called(name, &target));
    let request = Request::SnapshotShow { volume: target.volume.clone(), name: name.to_owned() };
    let row = match daemon::call(&target.pool, &request) {
        Ok(Reply::Snapshot(row)) => row,
        Ok(_) => return Err(failure::odd_reply(attempt)),
        Err(error) => return Err(Failure::from_daemon(attempt, error)),
    };
    if listing.json {
        let pool = target.pool.display().to_string();
        return print_json(&ShowJson { pool, volume: &target.volume, snapshot: &row });
    }
    let lines = [
        ("snapshot", row.name.clone()),
        ("volume", target.volume_address()),
        ("number", row.number.to_string()),
        ("created", local_time(&row.created)),
        ("ready", if row.ready { "yes" } else { "no" }.to_owned()),
        ("referenced", listing.size(row.referenced_bytes)),
        ("exclusive", listing.size(row.exclusive_bytes)),
        ("epoch", row.epoch.to_string()),
        ("root", row.root.clone().unwrap_or_else(|| "not yet written by a checkpoint".to_owned())),
    ];
    let text: String = lines.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect();
    print(&text)
}
