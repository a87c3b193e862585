//! `amberfs volume`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

use crate::daemon;
use crate::daemon::protocol::{Reply, Request, VolumeChanges, VolumeRow};

use super::locate::{self, absolute_pool};
use super::output::{Listing, local_time, print_json, print_table};
use super::size::parse_size;
use super::{Context, Failure, failure};

/// Make, list, change and delete volumes.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Volume {
    /// Make an empty volume.
    Create {
        /// The new volume.
        #[arg(value_name = "POOL:VOLUME")]
        address: OsString,
        /// Most bytes that the volume's files may take, such as 10G.
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        quota: Option<u64>,
        /// A label for selectors; may be given several times.
        #[arg(long, value_name = "K=V", value_parser = parse_label)]
        label: Vec<(String, String)>,
    },
    /// List a pool's volumes.
    List {
        /// The pool's directory.
        pool: PathBuf,
        #[command(flatten)]
        listing: Listing,
    },
    /// Delete a volume that is not mounted; its snapshots stay until they are deleted.
    Delete {
        /// The volume.
        #[arg(value_name = "POOL:VOLUME")]
        address: OsString,
    },
    /// Set labels and the quota; `K=` takes a label away, `quota=none` the quota.
    Set {
        /// The volume, or a path inside it.
        #[arg(value_name = "POOL:VOLUME")]
        address: OsString,
        /// What to set.
        #[arg(required = true, value_name = "quota=SIZE|K=V", value_parser = parse_setting)]
        changes: Vec<(String, String)>,
    },
}

#[derive(Serialize)]
struct Volumes {
    pool: String,
    volumes: Vec<VolumeRow>,
}

/// Splits `K=V`; both must be there.
fn parse_label(text: &str) -> Result<(String, String), String> {
    match parse_setting(text)? {
        (_, value) if value.is_empty() => Err("the value behind `=` is missing".to_owned()),
        label => Ok(label),
    }
}

/// Splits `K=V`; the value may be empty.
fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it has to be KEY=VALUE".to_owned()),
    }
}

impl Volume {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Volume::Create { address, quota, label } => create(context, address, *quota, label),
            Volume::List { pool, listing } => list(&absolute_pool(pool), *listing),
            Volume::Delete { address } => delete(context, address),
            Volume::Set { address, changes } => set(address, changes),
        }
    }
}

fn create(
    context: &Context,
    address: &OsString,
    quota_bytes: Option<u64>,
    labels: &[(String, String)],
) -> Result<(), Failure> {
    let target = locate::address(address, "create the volume")?.refuse_snapshot("create")?;
    let labels: BTreeMap<String, String> = labels.iter().cloned().collect();
    let request = Request::VolumeCreate { volume: target.volume.clone(), quota_bytes, labels };
    daemon::call(&target.pool, &request).map_err(|error| {
        Failure::from_daemon(format!("create the volume {}", target.volume_address()), error)
    })?;
    context.note(&format!("created the volume {}", target.volume_address()));
    Ok(())
}

fn list(pool: &std::path::Path, listing: Listing) -> Result<(), Failure> {
    let attempt = || format!("list the volumes of {}", pool.display());
    let volumes = match daemon::call(pool, &Request::VolumeList) {
        Ok(Reply::Volumes { volumes }) => volumes,
        Ok(_) => return Err(failure::odd_reply(attempt())),
        Err(error) => return Err(Failure::from_daemon(attempt(), error)),
    };
    if listing.json {
        return print_json(&Volumes { pool: pool.display().to_string(), volumes });
    }
    let rows = volumes.iter().map(|volume| {
        let labels: Vec<String> =
            volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            volume.name.clone(),
            local_time(&volume.created),
            listing.size(volume.referenced_bytes),
            listing.size(volume.exclusive_bytes),
            volume.snapshots.to_string(),
            volume.quota_bytes.map_or("-".to_owned(), |bytes| listing.size(bytes)),
            labels.join(","),
        ]
    });
    let header = ["NAME", "CREATED", "REFERENCED", "EXCLUSIVE", "SNAPSHOTS", "QUOTA", "LABELS"];
    print_table(&header, rows.collect(), &[2, 3, 4, 5])
}

fn delete(context: &Context, address: &OsString) -> Result<(), Failure> {
    let target = locate::address(address, "delete the volume")?.refuse_snapshot("delete")?;
    let request = Request::VolumeDelete { volume: target.volume.clone() };
    daemon::call(&target.pool, &request).map_err(|error| {
        Failure::from_daemon(format!("delete the volume {}", target.volume_address()), error)
    })?;
    context.note(&format!(
        "deleted the volume {}; its space comes back in the background",
        target.volume_address()
    ));
    Ok(())
}

fn set(address: &OsString, settings: &[(String, String)]) -> Result<(), Failure> {
    let target = locate::locate(address, "change the volume")?.refuse_snapshot("change")?;
    let attempt = format!("change the volume {}", target.volume_address());
    let mut changes = VolumeChanges::default();
    for (key, value) in settings {
        if key == "quota" {
            let none = value.is_empty() || value == "none";
            let bytes = if none {
                None
            } else {
                Some(parse_size(value).map_err(|cause| Failure::usage(&attempt, cause))?)
            };
            changes.quota_bytes = Some(bytes);
        } else {
            let label = (!value.is_empty()).then(|| value.clone());
            changes.labels.insert(key.clone(), label);
        }
    }
    let request = Request::VolumeSet { volume: target.volume.clone(), changes };
    daemon::call(&target.pool, &request).map_err(|error| Failure::from_daemon(attempt, error))?;
    Ok(())
}
