//! What is in a pool, as text: volumes, snapshots, and every file of every state that has a name.
//!
//! A file's line: path, inode, mode, links, owner and group, size and blocks, when its content and when its
//! inode was changed, and the beginning of the hash of its content, or its target or device.

use std::fmt::Write;
use std::sync::Arc;

use amberfs::fs::{Caller, FileKind, Filesystem, FsOptions, NodeId, Timestamp};
use amberfs::pool::{Pool, Volume, VolumeInfo};

/// Lists a whole pool.
pub(crate) fn list(pool: &Arc<Pool>) -> String {
    let mut out = String::new();
    for info in pool.volumes() {
        let VolumeInfo { id, name, created, quota_bytes, labels, .. } = &info;
        writeln!(out, "volume {name} number {id} created {} quota {quota_bytes:?}", created.sec)
            .unwrap();
        labels.iter().for_each(|(key, value)| writeln!(out, "  label {key}={value}").unwrap());
        for snapshot in pool.snapshots(*id) {
            let (number, created) = (snapshot.number, snapshot.created.sec);
            writeln!(
                out,
                "  snapshot {} number {number} created {created} epoch {}",
                snapshot.name, snapshot.epoch
            )
            .unwrap();
        }
        let Ok(volume) = pool.volume(name) else { continue };
        writeln!(out, "state {name}").unwrap();
        list_state(&mut out, &volume, None);
        for snapshot in pool.snapshots(*id) {
            writeln!(out, "state {name}@{}", snapshot.name).unwrap();
            list_state(&mut out, &volume, Some(snapshot.name));
        }
    }
    out
}

fn list_state(out: &mut String, volume: &Arc<Volume>, only_snapshot: Option<String>) {
    // Read-only: looking must not change what is looked at.
    let options = FsOptions { only_snapshot, read_only: true, ..FsOptions::default() };
    let fs = Filesystem::new(Arc::clone(volume), options).unwrap();
    list_file(out, &fs, NodeId::ROOT, "/");
}

fn list_file(out: &mut String, fs: &Filesystem, node: NodeId, path: &str) {
    let attr = fs.getattr(node).unwrap();
    let content = match attr.kind() {
        FileKind::Regular => hash(&read(fs, node, attr.size as usize)),
        FileKind::Symlink => format!("target {}", show(&fs.readlink(node).unwrap())),
        FileKind::CharDevice | FileKind::BlockDevice => format!("device {:x}", attr.rdev),
        _ => String::new(),
    };
    let time = |at: Timestamp| format!("{}.{:09}", at.sec, at.nsec);
    let changed = if attr.ctime == attr.mtime { "then".to_owned() } else { time(attr.ctime) };
    let (ino, mode, links, blocks) = (attr.ino, attr.mode, attr.nlink, attr.blocks_512 / 8);
    write!(out, "  {path} #{ino} {mode:o} x{links} {}:{} {}", attr.uid, attr.gid, attr.size)
        .unwrap();
    writeln!(out, "/{blocks} {} {changed} {content}", time(attr.mtime)).unwrap();
    let names = fs.listxattr(&Caller::root(), node).unwrap();
    let mut names: Vec<_> =
        names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    for name in names {
        let value = fs.getxattr(node, name).unwrap();
        writeln!(out, "    {} {} bytes {}", show(name), value.len(), hash(&value)).unwrap();
    }
    if attr.kind() == FileKind::Directory {
        for (name, child) in entries(fs, node) {
            let path = format!("{}/{name}", path.trim_end_matches('/'));
            list_file(out, fs, child, &path);
        }
    }
}

fn entries(fs: &Filesystem, dir: NodeId) -> Vec<(String, NodeId)> {
    let mut found = Vec::new();
    let mut each = |entry: &amberfs::fs::DirEntry<'_>| {
        if !matches!(entry.name, b"." | b"..") {
            found.push((show(entry.name), entry.node));
        }
        true
    };
    fs.readdir(&Caller::root(), dir, 0, false, &mut each).unwrap();
    found.sort();
    found
}

fn read(fs: &Filesystem, node: NodeId, size: usize) -> Vec<u8> {
    let handle = fs.open(node, libc::O_RDONLY).unwrap();
    let mut bytes = vec![0; size];
    assert_eq!(fs.read(node, handle, 0, &mut bytes).unwrap(), size);
    fs.release(node, handle);
    bytes
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}
