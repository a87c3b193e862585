//! Comparing a tree with the model, whole: listings, attributes, content, extended attributes.

use std::collections::BTreeMap;

use amberfs::fs::{Attr, Caller, FileKind, Filesystem, Handle, NodeId, NodeKind};

use crate::model::{Id, Node, State};

/// The same inode in the state that `like` is of.
fn in_same(like: NodeId, id: Id) -> NodeId {
    match like.kind() {
        NodeKind::View { snapshot, .. } => NodeId::view(snapshot, amberfs::format::InodeNo(id)),
        _ => NodeId(id),
    }
}

/// Compares all that can be reached from a root. `root` is that of the live state or of a snapshot.
pub(crate) fn tree(fs: &Filesystem, root: NodeId, state: &State, what: &str) {
    let mut pending = vec![crate::model::ROOT];
    while let Some(id) = pending.pop() {
        let node = state.node(id);
        one(fs, in_same(root, id), node, what);
        if node.is_dir() {
            listing(fs, in_same(root, id), state, node, what);
            pending.extend(node.entries.values());
        }
    }
}

/// Compares one file's attributes and content.
pub(crate) fn one(fs: &Filesystem, at: NodeId, node: &Node, what: &str) {
    let attr = fs.getattr(at).unwrap_or_else(|error| panic!("{what} {at:?}: {error}"));
    attributes(&attr, at, node, what);
    match node.kind {
        FileKind::Regular => {
            let mut content = vec![0xee; node.content.len() + 100];
            let len = fs.read(at, Handle(0), 0, &mut content).unwrap();
            content.truncate(len);
            if content != node.content {
                let differs = content.iter().zip(&node.content).position(|(a, b)| a != b);
                panic!(
                    "{what} {at:?}: {len} bytes of {}, first difference at {differs:?}",
                    node.content.len()
                );
            }
        }
        FileKind::Symlink => assert_eq!(fs.readlink(at).unwrap(), node.content, "{what} {at:?}"),
        _ => {}
    }
    let mut found = BTreeMap::new();
    for name in fs.listxattr(&Caller::root(), at).unwrap().split(|byte| *byte == 0) {
        if !name.is_empty() && !name.starts_with(b"user.amberfs.") {
            found.insert(name.to_vec(), fs.getxattr(at, name).unwrap());
        }
    }
    assert!(found == node.xattrs, "{what} {at:?}: attributes {:?}", found.keys());
}

fn attributes(attr: &Attr, at: NodeId, node: &Node, what: &str) {
    let got = (attr.kind(), attr.mode & 0o7777, attr.nlink, attr.uid, attr.gid, attr.ino);
    let want = (node.kind, node.perm, node.nlink, node.uid, node.gid, at.0);
    assert_eq!(got, want, "{what} {at:?}");
    if !node.is_dir() {
        assert_eq!(attr.size, node.content.len() as u64, "{what} {at:?}");
    }
    let got = (attr.mtime, attr.ctime, attr.btime);
    assert_eq!(got, (node.mtime, node.ctime, node.btime), "{what} {at:?}: times");
}

fn listing(fs: &Filesystem, at: NodeId, state: &State, node: &Node, what: &str) {
    let mut found = BTreeMap::new();
    let mut cookie = 0;
    loop {
        // In two pieces at least, so that going on is tried all the time.
        let mut taken = 0;
        fs.readdir(&Caller::root(), at, cookie, false, &mut |entry| {
            if taken == 3 {
                return false;
            }
            taken += 1;
            cookie = entry.cookie;
            let kept = (entry.node, entry.kind);
            assert!(found.insert(entry.name.to_vec(), kept).is_none(), "{what} {at:?}: twice");
            true
        })
        .unwrap();
        if taken == 0 {
            break;
        }
    }
    let own = found.remove(&b"."[..]).unwrap();
    assert_eq!(own, (at, FileKind::Directory), "{what}");
    let up = found.remove(&b".."[..]).unwrap().0;
    if at.is_live() || at.kind() != in_same(at, 1).kind() {
        assert_eq!(up, in_same(at, node.parent), "{what} {at:?}: parent");
    }
    let want: BTreeMap<_, _> = node
        .entries
        .iter()
        .map(|(name, id)| (name.clone(), (in_same(at, *id), state.node(*id).kind)))
        .collect();
    assert_eq!(found, want, "{what} {at:?}");
    for (name, (child, _)) in &want {
        let entry = fs.lookup(&Caller::root(), at, name).unwrap();
        assert_eq!(entry.node, *child, "{what} {at:?}");
        fs.forget(entry.node, 1);
    }
}
