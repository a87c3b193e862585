//! Finding files by their paths, and reading everything that a pool holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use amberfs::fs::{Caller, Error, FileKind, Filesystem, Handle, NodeId};
use amberfs::pool::Pool;

use super::tree::{HELD, Model, Node, Tree, split};
use crate::mounting::mount;

/// The pool, the file system that the workload uses, and the files that it holds open there.
pub(super) struct Mounted {
    pub(super) pool: Arc<Pool>,
    pub(super) fs: Filesystem,
    pub(super) held: BTreeMap<String, (NodeId, Handle)>,
}

impl Mounted {
    pub(super) fn new(pool: &Arc<Pool>) -> Mounted {
        let fs = mount(pool, "main", None).expect("nothing fails yet");
        Mounted { pool: Arc::clone(pool), fs, held: BTreeMap::new() }
    }

    /// Does something to the file of a path.
    pub(super) fn with<T>(
        &self,
        path: &str,
        f: impl FnOnce(NodeId) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if path.starts_with(HELD) {
            return f(self.held.get(path).ok_or(Error::NotFound)?.0);
        }
        let (mut node, mut found) = (NodeId::ROOT, Vec::new());
        let mut names = path.split('/').filter(|name| !name.is_empty());
        let looked_up = names.try_for_each(|name| {
            node = self.fs.lookup(&Caller::root(), node, name.as_bytes())?.node;
            found.push((node, 1));
            Ok(())
        });
        let done = looked_up.and_then(|()| f(node));
        self.fs.forget_many(&found);
        done
    }

    /// Does something to a name in the directory that a path says.
    pub(super) fn within<T>(
        &self,
        path: &str,
        f: impl FnOnce(NodeId, &[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (dir, name) = split(path);
        self.with(dir, |dir| f(dir, name.as_bytes()))
    }

    pub(super) fn hold(&mut self, name: &str, node: NodeId, handle: Handle) {
        self.held.insert(name.to_owned(), (node, handle));
    }

    pub(super) fn release(&mut self, name: &str) -> Result<(), Error> {
        let (node, handle) = self.held.remove(name).ok_or(Error::NotFound)?;
        self.fs.release(node, handle);
        self.fs.forget(node, 1);
        Ok(())
    }
}

pub(super) fn read(fs: &Filesystem, node: NodeId) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; fs.getattr(node)?.size as usize];
    fs.read(node, Handle(0), 0, &mut bytes)?;
    Ok(bytes)
}

fn read_node(fs: &Filesystem, node: NodeId) -> Result<(u64, Node), Error> {
    let attr = fs.getattr(node)?;
    let content = match attr.kind() {
        FileKind::Regular => read(fs, node)?,
        FileKind::Symlink => fs.readlink(node)?,
        _ => Vec::new(),
    };
    let mut xattrs = BTreeMap::new();
    let listed = fs.listxattr(&Caller::root(), node)?;
    for name in listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // A snapshot's root tells of the snapshot.
        if !name.starts_with(b"user.amberfs.") {
            xattrs.insert(name.to_vec(), fs.getxattr(node, name)?);
        }
    }
    let (perm, owner, links) = (attr.mode & 0o7777, (attr.uid, attr.gid), attr.nlink);
    Ok((attr.ino, Node { kind: attr.kind(), perm, owner, links, xattrs, content }))
}

fn walk(fs: &Filesystem, node: NodeId, path: &str, tree: &mut Tree) -> Result<(), Error> {
    let (id, found) = read_node(fs, node)?;
    let kind = found.kind;
    tree.names.insert(path.to_owned(), id);
    tree.nodes.insert(id, found);
    if kind != FileKind::Directory {
        return Ok(());
    }
    let mut names = Vec::new();
    fs.readdir(&Caller::root(), node, 0, false, &mut |entry| {
        names.push(String::from_utf8(entry.name.to_vec()).expect("names here are text"));
        true
    })?;
    for name in names.into_iter().filter(|name| !name.starts_with('.')) {
        let entry = fs.lookup(&Caller::root(), node, name.as_bytes())?;
        let below = if path.is_empty() { name } else { format!("{path}/{name}") };
        let done = walk(fs, entry.node, &below, tree);
        fs.forget(entry.node, 1);
        done?;
    }
    Ok(())
}

fn read_tree(fs: &Filesystem) -> Tree {
    let mut tree = Tree::default();
    walk(fs, NodeId::ROOT, "", &mut tree).expect("what is there can be read");
    tree
}

/// Everything that a pool holds and that can be read: not snapshots of volumes that are deleted. Of `main` what
/// the mounted one shows, if it is mounted.
pub(super) fn read_all(pool: &Arc<Pool>, mounted: Option<&Mounted>) -> Model {
    let mut found = Model::new();
    let read_only = pool.status().read_only.is_some();
    for info in pool.volumes().into_iter().filter(|info| info.head.is_some()) {
        // A change that was cut off, so that the pool has stopped, leaves what it was about by half.
        if read_only && pool.volume(&info.name).is_err() {
            continue;
        }
        let (volume, snapshots) = (&info.name, pool.snapshots(info.id));
        for snapshot in snapshots {
            if read_only && pool.snapshot(info.id, &snapshot.name).is_err() {
                continue;
            }
            let fs = mount(pool, volume, Some(&snapshot.name));
            let fs = fs.expect("what is there can be mounted");
            found.insert(format!("{volume}@{}", snapshot.name), read_tree(&fs));
        }
        let mut tree = match mounted.filter(|_| volume == "main") {
            // Another file system would end what this one holds.
            Some(mounted) => {
                let mut tree = read_tree(&mounted.fs);
                for (name, (node, _)) in &mounted.held {
                    let held = read_node(&mounted.fs, *node);
                    let (id, node) = held.expect("what is held can be read");
                    tree.names.insert(name.clone(), id);
                    tree.nodes.insert(id, node);
                }
                tree
            }
            None => read_tree(&mount(pool, volume, None).expect("what is there can be mounted")),
        };
        (tree.quota, tree.labels) = (info.quota_bytes, info.labels);
        found.insert(info.name, tree);
    }
    found
}
