//! From what was typed to a pool and a volume: an address, or a path inside a mounted volume.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::daemon::mountinfo::{self, MountEntry};

use super::address::{Address, AddressError, DEFAULT_VOLUME};
use super::failure::Failure;

/// What an argument means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The pool's directory, absolute where it exists.
    pub pool: PathBuf,
    /// The volume.
    pub volume: String,
    /// The snapshot, if one was named.
    pub snapshot: Option<String>,
}

impl Target {
    /// Returns `POOL:VOLUME` for messages.
    pub(super) fn volume_address(&self) -> String {
        format!("{}:{}", self.pool.display(), self.volume)
    }

    /// Returns the snapshot's name, or a failure that says how to write one.
    pub(super) fn require_snapshot(&self, attempt: &str) -> Result<&str, Failure> {
        self.snapshot.as_deref().ok_or_else(|| {
            Failure::usage(
                format!("{attempt} of {}", self.volume_address()),
                "no snapshot is named",
            )
            .hint("Write POOL:VOLUME@NAME, or PATH@NAME with a path inside the mounted volume.")
        })
    }

    /// Fails if a snapshot was named where a volume is wanted.
    pub(super) fn refuse_snapshot(self, attempt: &str) -> Result<Target, Failure> {
        match &self.snapshot {
            None => Ok(self),
            Some(name) => {
                let cause = format!("it names the snapshot `{name}`, and a volume is wanted");
                Err(Failure::usage(format!("{attempt} {}", self.volume_address()), cause)
                    .hint("Leave away what stands from the @ on."))
            }
        }
    }
}

/// Returns whether `path` looks like a pool: a directory with a superblock, or one we may not look into.
pub(super) fn is_pool(path: &Path) -> bool {
    match fs::symlink_metadata(path.join("superblock")) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// Finds out what `text` means; `attempt` is for the message ("list the snapshots of").
///
/// An address whose pool exists comes first, then a path inside a mounted volume, with or without
/// `@NAME` behind it; a path through `.snapshots/NAME` names that snapshot.
pub(super) fn locate(text: &OsStr, attempt: &str) -> Result<Target, Failure> {
    let address = Address::choose(text, is_pool);
    if let Ok(address) = &address
        && is_pool(&address.pool)
    {
        return Ok(target_of(address));
    }
    let table = mountinfo::read().unwrap_or_default();
    if let Some(target) = mounted_path(text, &table) {
        return Ok(target);
    }
    match address {
        Ok(address) => {
            let shown = text.display();
            if address.volume.is_none() && fs::symlink_metadata(&address.pool).is_ok() {
                let cause = "it is neither a pool nor inside a mounted AmberFS volume";
                return Err(Failure::new(format!("{attempt} {shown}"), cause)
                    .hint("`amberfs status` lists the mounts; a pool is written POOL:VOLUME."));
            }
            Ok(target_of(&address))
        }
        Err(error) => Err(bad_address(text, attempt, &error)),
    }
}

/// Reads `text` as an address and nothing else; its pool need not exist.
pub(super) fn address(text: &OsStr, attempt: &str) -> Result<Target, Failure> {
    let address = Address::choose(text, is_pool);
    address.map(|address| target_of(&address)).map_err(|error| bad_address(text, attempt, &error))
}

fn bad_address(text: &OsStr, attempt: &str, error: &AddressError) -> Failure {
    Failure::usage(format!("{attempt} `{}`", text.display()), error)
        .hint("An address is POOL, POOL:VOLUME or POOL:VOLUME@SNAPSHOT.")
}

fn target_of(address: &Address) -> Target {
    Target {
        pool: absolute_pool(&address.pool),
        volume: address.volume().to_owned(),
        snapshot: address.snapshot.clone(),
    }
}

/// Makes a pool's path absolute: the daemon runs in `/`. A pool to be created has a parent at least.
pub(super) fn absolute_pool(pool: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(pool) {
        return path;
    }
    let parent = pool.parent().filter(|parent| !parent.as_os_str().is_empty());
    match (fs::canonicalize(parent.unwrap_or(Path::new("."))), pool.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => std::path::absolute(pool).unwrap_or_else(|_| pool.to_owned()),
    }
}

/// Reads `text` as `PATH` or `PATH@NAME` with a path that exists inside a mount of AmberFS.
fn mounted_path(text: &OsStr, table: &[MountEntry]) -> Option<Target> {
    if let Some(target) = target_of_path(Path::new(text), table) {
        return Some(target);
    }
    let bytes = text.as_bytes();
    let tail = bytes.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    let mut ats = bytes.iter().enumerate().skip(tail).filter(|&(_, &b)| b == b'@');
    ats.find_map(|(at, _)| {
        let path = bytes.get(..at).filter(|path| !path.is_empty()).unwrap_or(b".");
        let name =
            std::str::from_utf8(bytes.get(at + 1..)?).ok().filter(|name| !name.is_empty())?;
        let target = target_of_path(Path::new(OsStr::from_bytes(path)), table)?;
        Some(Target { snapshot: Some(name.to_owned()), ..target })
    })
}

fn target_of_path(path: &Path, table: &[MountEntry]) -> Option<Target> {
    let path = mountinfo::absolute(path).ok()?;
    let entry = mountinfo::containing(table, &path).filter(|entry| entry.is_amberfs())?;
    let mut target = target_of_source(&entry.source)?;
    if target.snapshot.is_none() {
        let inside = path.strip_prefix(&entry.dir).ok()?;
        target.snapshot =
            snapshot_in(&entry.root, ".snapshots").or_else(|| snapshot_in(inside, ".snapshots"));
    }
    Some(target)
}

/// Returns the component behind `snapdir`.
fn snapshot_in(path: &Path, snapdir: &str) -> Option<String> {
    let mut components = path.components().map(|component| component.as_os_str());
    components.find(|component| *component == snapdir)?;
    components.next()?.to_str().map(str::to_owned)
}

/// Reads a mount's source, which always has the volume in it.
pub(super) fn target_of_source(source: &OsStr) -> Option<Target> {
    let address = Address::choose(source, is_pool).ok()?;
    let volume = address.volume.unwrap_or_else(|| DEFAULT_VOLUME.to_owned());
    Some(Target { pool: address.pool, volume, snapshot: address.snapshot })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dir: &Path, source: &str) -> MountEntry {
        let (root, fs_type) = (PathBuf::from("/"), mountinfo::FS_TYPE.to_owned());
        MountEntry { dir: dir.to_owned(), root, fs_type, source: source.into() }
    }

    #[test]
    fn paths_inside_a_mount_name_its_volume_and_snapshots() {
        let home = tempfile::tempdir().unwrap();
        let mount = home.path().canonicalize().unwrap().join("m@1:x");
        fs::create_dir_all(mount.join(".snapshots/mon/sub")).unwrap();
        let table = [entry(&mount, "/p:vol")];
        let find = |tail: &str| {
            let text = format!("{}{tail}", mount.display());
            mounted_path(OsStr::new(&text), &table).map(|target| (target.volume, target.snapshot))
        };
        let with = |name: &str| Some(("vol".to_owned(), Some(name.to_owned())));
        assert_eq!(find(""), Some(("vol".to_owned(), None)));
        assert_eq!(find("@new"), with("new"));
        assert_eq!(find("@a@b:c"), with("a@b:c"));
        assert_eq!(find("/.snapshots/mon"), with("mon"));
        assert_eq!(find("/.snapshots/mon/sub"), with("mon"));
        assert_eq!(find("/.snapshots"), Some(("vol".to_owned(), None)));
        assert_eq!(find("/missing"), None);
        assert_eq!(mounted_path(OsStr::new("/"), &table), None);
    }

    #[test]
    fn what_is_neither_is_said_to_be_neither() {
        let home = tempfile::tempdir().unwrap();
        let failure = locate(home.path().as_os_str(), "list the snapshots of").unwrap_err();
        assert!(failure.to_string().contains("neither a pool nor inside"), "{failure}");
        assert_eq!(failure.code(), 1);
        let failure = locate(OsStr::new("x:"), "list the snapshots of").unwrap_err();
        assert_eq!(failure.code(), 2);
    }
}
