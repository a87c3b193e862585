//! Carries requests out on an open pool, with or without mounts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::format::{Timestamp, VolumeId};
use crate::fs::Filesystem;
use crate::pool::{Pool, SnapshotInfo, VolumeInfo};

use super::mounts::{Mounted, Mounts};
use super::protocol::{
    DaemonRow, PoolStatusRow, Reply, Request, SnapshotList, SnapshotRow, VolumeChanges, VolumeRow,
};
use super::{Error, ErrorKind, Result, open, scrub};

/// Mode of a new volume's root directory.
const ROOT_MODE: u32 = 0o755;

/// Carries out a request that is not about mounts; what it changes is durable when it returns.
pub(super) fn execute(
    pool: &Arc<Pool>,
    mounts: &Mounts,
    daemon: Option<DaemonRow>,
    path: &Path,
    request: &Request,
) -> Result<Reply> {
    with_room(mounts, move || carry_out(pool, mounts, daemon.clone(), path, request))
}

/// Runs what may need room: again, once what was promised to writes has come, which may leave enough.
pub(super) fn with_room<T>(mounts: &Mounts, run: impl Fn() -> Result<T>) -> Result<T> {
    let done = run();
    match mounts.all().first() {
        Some(mounted) if done.as_ref().is_err_and(|error| error.kind == ErrorKind::NoSpace) => {
            mounted.fs.flush_dirty();
            run()
        }
        _ => done,
    }
}

fn carry_out(
    pool: &Arc<Pool>,
    mounts: &Mounts,
    daemon: Option<DaemonRow>,
    path: &Path,
    request: &Request,
) -> Result<Reply> {
    match request {
        Request::Mount(_)
        | Request::Umount { .. }
        | Request::WaitUnmounted { .. }
        | Request::Upgrade { .. } => {
            Err(Error::new(ErrorKind::Unsupported, "that is for the pool's daemon"))
        }
        Request::Status => Ok(Reply::Status(status(pool, mounts, daemon, path))),
        Request::VolumeCreate { volume, quota_bytes, labels } => {
            create_volume(pool, volume)?;
            let changes = VolumeChanges {
                quota_bytes: quota_bytes.map(Some),
                labels: labels.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect(),
            };
            if let Err(error) = set_volume(pool, volume, &changes) {
                pool.delete_volume(volume)?;
                pool.sync()?;
                return Err(error);
            }
            Ok(Reply::Ok)
        }
        Request::VolumeList => {
            let mut volumes = pool.volumes();
            volumes.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(Reply::Volumes { volumes: volumes.iter().map(volume_row).collect() })
        }
        Request::VolumeDelete { volume } => {
            delete_volume(pool, mounts, volume)?;
            Ok(Reply::Ok)
        }
        Request::VolumeSet { volume, changes } => {
            find_volume(pool, volume)?;
            set_volume(pool, volume, changes)?;
            Ok(Reply::Ok)
        }
        Request::Clone { volume, snapshot, name } => {
            let origin = find_snapshot(pool, find_volume(pool, volume)?.id, snapshot)?;
            pool.clone_volume(origin.member, name)?;
            pool.sync()?;
            Ok(Reply::Ok)
        }
        Request::Restore { volume, snapshot } => restore(pool, mounts, volume, snapshot),
        Request::ScrubStart => scrub::start(pool, path, daemon.is_some()),
        Request::ScrubStatus => Ok(scrub::status(pool, path)),
        Request::ScrubCancel => Ok(scrub::cancel(pool, path)),
        Request::SnapshotCreate { volume, name } => create_snapshot(pool, mounts, volume, name),
        Request::SnapshotList { volume } => list_snapshots(pool, volume),
        Request::SnapshotShow { volume, name } => {
            let info = find_snapshot(pool, find_volume(pool, volume)?.id, name)?;
            Ok(Reply::Snapshot(snapshot_row(pool, &info)?))
        }
        Request::SnapshotDelete { volume, name } => {
            delete_snapshot(pool, mounts, volume, name)?;
            Ok(Reply::Ok)
        }
        Request::SnapshotRename { volume, from, to } => {
            let id = find_volume(pool, volume)?.id;
            find_snapshot(pool, id, from)?;
            pool.rename_snapshot(id, from, to)?;
            pool.sync()?;
            Ok(Reply::Ok)
        }
    }
}

/// Makes a volume with an empty root directory that belongs to this process's user; durable.
pub(super) fn create_volume(pool: &Arc<Pool>, name: &str) -> Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let root = Filesystem::format_root(open::now(), uid, gid, ROOT_MODE);
    pool.create_volume(name, &root)?;
    pool.sync()?;
    Ok(())
}

fn delete_volume(pool: &Arc<Pool>, mounts: &Mounts, name: &str) -> Result<()> {
    not_mounted(mounts.any_of(name))?;
    find_volume(pool, name)?;
    pool.delete_volume(name)?;
    pool.sync()?;
    Ok(())
}

fn not_mounted(found: Option<Mounted>) -> Result<()> {
    let Some(mounted) = found else { return Ok(()) };
    let message = format!("it is mounted on {}", mounted.dir.display());
    Err(Error::new(ErrorKind::Busy, message).with_hint("Unmount it first."))
}

fn set_volume(pool: &Arc<Pool>, name: &str, changes: &VolumeChanges) -> Result<()> {
    if changes.quota_bytes.is_none() && changes.labels.is_empty() {
        return Ok(());
    }
    let labels: Vec<(String, Option<String>)> =
        changes.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    pool.set_volume(name, changes.quota_bytes, &labels)?;
    pool.sync()?;
    Ok(())
}

/// Makes a snapshot: through the mount, if there is one, whose dirty pages belong into it.
fn create_snapshot(pool: &Arc<Pool>, mounts: &Mounts, volume: &str, name: &str) -> Result<Reply> {
    let id = find_volume(pool, volume)?.id;
    let name = Filesystem::expand_template(name, open::now())?;
    let info = match mounts.live(volume) {
        Some(mounted) => {
            mounted.fs.flush_dirty();
            pool.create_snapshot(id, &name)?
        }
        None => pool.create_snapshot(id, &name)?,
    };
    pool.sync()?;
    Ok(Reply::Snapshot(snapshot_row(pool, &info)?))
}

fn delete_snapshot(pool: &Arc<Pool>, mounts: &Mounts, volume: &str, name: &str) -> Result<()> {
    let id = find_volume(pool, volume)?.id;
    let info = find_snapshot(pool, id, name)?;
    if let Some(mounted) = mounts.of_snapshot(volume, name) {
        let message = format!("it is mounted by itself on {}", mounted.dir.display());
        return Err(Error::new(ErrorKind::Busy, message).with_hint("Unmount it first."));
    }
    pool.delete_snapshot(id, name)?;
    pool.sync()?;
    mounts.snapshot_deleted(volume, info.number);
    Ok(())
}

/// Makes a volume what it was; what it is now stays as a snapshot, which is returned.
fn restore(pool: &Arc<Pool>, mounts: &Mounts, volume: &str, snapshot: &str) -> Result<Reply> {
    let id = find_volume(pool, volume)?.id;
    find_snapshot(pool, id, snapshot)?;
    not_mounted(mounts.live(volume))?;
    let stem = Filesystem::expand_template("@before-restore", open::now())?;
    let (mut kept, mut number) = (stem.clone(), 1);
    // Several may fall into one second.
    while pool.snapshot(id, &kept).is_ok() {
        number += 1;
        kept = format!("{stem}-{number}");
    }
    pool.restore(id, snapshot, &kept)?;
    pool.sync()?;
    Ok(Reply::Snapshot(snapshot_row(pool, &find_snapshot(pool, id, &kept)?)?))
}

fn list_snapshots(pool: &Arc<Pool>, volume: &str) -> Result<Reply> {
    let info = find_volume(pool, volume)?;
    let rows = pool.snapshots(info.id).iter().map(|info| snapshot_row(pool, info)).collect();
    let volume = info.head.is_some().then(|| volume_row(&info));
    Ok(Reply::Snapshots(SnapshotList { volume, snapshots: vanished_aside(rows)? }))
}

/// Collects rows, leaving out snapshots that were deleted while the list was made.
fn vanished_aside(rows: Vec<Result<SnapshotRow>>) -> Result<Vec<SnapshotRow>> {
    let there =
        |row: &Result<SnapshotRow>| !matches!(row, Err(error) if error.kind == ErrorKind::NotFound);
    rows.into_iter().filter(there).collect()
}

/// Finds a volume by name; the error says which there are.
pub(super) fn find_volume(pool: &Arc<Pool>, name: &str) -> Result<VolumeInfo> {
    /// Enough for a mistyped name to be recognised.
    const MAX_NAMES: usize = 8;
    let volumes = pool.volumes();
    if let Some(found) = volumes.iter().find(|info| info.name == name) {
        return Ok(found.clone());
    }
    let mut names: Vec<&str> = volumes.iter().map(|info| info.name.as_str()).collect();
    names.sort_unstable();
    let hint = match names.len() {
        0 => "The pool has no volume yet: make one with `amberfs volume create`, or add --create to a mount.".to_owned(),
        1..=MAX_NAMES => format!("The pool has: {}.", names.join(", ")),
        _ => "`amberfs volume list` lists the pool's volumes.".to_owned(),
    };
    Err(Error::new(ErrorKind::NotFound, format!("there is no volume `{name}`")).with_hint(hint))
}

pub(super) fn find_snapshot(
    pool: &Arc<Pool>,
    volume: VolumeId,
    name: &str,
) -> Result<SnapshotInfo> {
    pool.snapshot(volume, name).map_err(|error| {
        let error = Error::from(error);
        match error.kind {
            ErrorKind::NotFound => error.with_hint("`amberfs snapshot list` lists them."),
            _ => error,
        }
    })
}

/// Formats a time as RFC 3339 in UTC.
pub(super) fn rfc3339(time: Timestamp) -> String {
    let time = jiff::Timestamp::new(time.sec, i32::try_from(time.nsec).unwrap_or(0));
    time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

fn volume_row(info: &VolumeInfo) -> VolumeRow {
    VolumeRow {
        name: info.name.clone(),
        created: rfc3339(info.created),
        referenced_bytes: info.referenced_bytes,
        exclusive_bytes: info.exclusive_bytes,
        snapshots: info.snapshots as u64,
        quota_bytes: info.quota_bytes,
        labels: info.labels.clone().into_iter().collect::<BTreeMap<_, _>>(),
    }
}

fn snapshot_row(pool: &Arc<Pool>, info: &SnapshotInfo) -> Result<SnapshotRow> {
    Ok(SnapshotRow {
        name: info.name.clone(),
        number: info.number,
        created: rfc3339(info.created),
        ready: true,
        referenced_bytes: info.referenced_bytes,
        exclusive_bytes: pool.exclusive_bytes(info.member)?,
        root: info.root.map(|root| root.to_string()),
        epoch: info.epoch.0,
    })
}

fn status(
    pool: &Arc<Pool>,
    mounts: &Mounts,
    daemon: Option<DaemonRow>,
    path: &Path,
) -> PoolStatusRow {
    let status = pool.status();
    let mut rows: Vec<_> = mounts.all().iter().map(Mounted::row).collect();
    rows.sort_by(|a, b| a.dir.cmp(&b.dir));
    PoolStatusRow {
        pool: path.to_owned().into(),
        uuid: uuid_text(status.uuid),
        daemon,
        mounts: rows,
        total_bytes: status.total_bytes,
        used_bytes: status.used_bytes,
        free_bytes: status.free_bytes,
        held_bytes: status.held_bytes,
        reclaim_pending: status.reclaim_pending,
        journal_used_bytes: status.journal_used_bytes,
        journal_capacity_bytes: status.journal_capacity_bytes,
        dirty_bytes: status.dirty_bytes,
        epoch: status.epoch.0,
        checkpoint: status.checkpoint_generation,
        read_only: status.read_only,
    }
}

/// `01234567-89ab-cdef-0123-456789abcdef`
fn uuid_text(uuid: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_and_times_have_their_usual_form() {
        let uuid = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff];
        assert_eq!(uuid_text(uuid), "00010203-0405-0607-0809-0a0b0c0d0eff");
        assert_eq!(rfc3339(Timestamp { sec: 0, nsec: 0 }), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(Timestamp { sec: i64::MAX, nsec: 0 }), "1970-01-01T00:00:00Z");
    }
}
