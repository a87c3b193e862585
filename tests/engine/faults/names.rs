//! Operations on names, and on files that have none: what each does to the pool, and to the model.

use amberfs::fs::{Caller, Error, FileKind};

use super::found::Mounted;
use super::tree::{Node, Tree, split};

#[derive(Debug, Clone)]
pub(super) enum OnNames {
    Create(&'static str),
    Mkdir(&'static str),
    Symlink(&'static str, &'static str),
    /// Gives a file another name, or one that has none its first.
    Link(&'static str, &'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    /// What has the new name is replaced.
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    /// Opens a file and keeps it open, under a name that begins with a slash.
    Hold(&'static str, &'static str),
    /// Makes a file without a name, in a directory, and keeps it open.
    Tmpfile(&'static str, &'static str),
    /// Closes what is held: without a name it is gone.
    Release(&'static str),
}

use OnNames::*;

impl OnNames {
    pub(super) fn carry_out(&self, on: &mut Mounted) -> Result<(), Error> {
        let (fs, root) = (&on.fs, Caller::root());
        let rename = |from, to, flags| {
            on.within(from, |dir, name| {
                on.within(to, |to, new| fs.rename(&root, dir, name, to, new, flags))
            })
        };
        let made = match *self {
            Create(path) => on.within(path, |dir, name| fs.mknod(&root, dir, name, 0o100_644, 0)),
            Mkdir(path) => on.within(path, |dir, name| fs.mkdir(&root, dir, name, 0o755)),
            Symlink(path, target) => {
                on.within(path, |dir, name| fs.symlink(&root, dir, name, target.as_bytes()))
            }
            Link(from, to) => {
                on.with(from, |node| on.within(to, |dir, name| fs.link(node, dir, name)))
            }
            Unlink(path) => return on.within(path, |dir, name| fs.unlink(&root, dir, name)),
            Rmdir(path) => return on.within(path, |dir, name| fs.rmdir(&root, dir, name)),
            Rename(from, to) => return rename(from, to, 0),
            Exchange(one, other) => return rename(one, other, libc::RENAME_EXCHANGE),
            Hold(path, held) => {
                let opened = on.within(path, |dir, name| {
                    let node = fs.lookup(&root, dir, name)?.node;
                    let opened = fs.open(node, libc::O_RDWR);
                    opened.inspect_err(|_| fs.forget(node, 1)).map(|handle| (node, handle))
                });
                let (node, handle) = opened?;
                on.hold(held, node, handle);
                return Ok(());
            }
            Tmpfile(dir, held) => {
                let (entry, handle) =
                    on.with(dir, |dir| fs.tmpfile(&root, dir, 0o600, libc::O_RDWR))?;
                on.hold(held, entry.node, handle);
                return Ok(());
            }
            Release(held) => return on.release(held),
        };
        fs.forget(made?.node, 1);
        Ok(())
    }

    /// The directory in which it makes a name, or a file without one.
    fn makes_in(&self) -> Option<&'static str> {
        match *self {
            Create(path) | Mkdir(path) | Symlink(path, _) => Some(split(path).0),
            Link(_, path) | Rename(_, path) => Some(split(path).0),
            Tmpfile(dir, _) => Some(dir),
            Unlink(_) | Rmdir(_) | Exchange(..) | Hold(..) | Release(_) => None,
        }
    }

    /// The same on the model; nothing if there is nothing to do it to.
    pub(super) fn model(&self, tree: &mut Tree, nth: usize) -> Option<()> {
        if let Some(dir) = self.makes_in() {
            tree.at(dir).filter(|node| node.kind == FileKind::Directory)?;
        }
        let id = nth as u64 + 2;
        let mut make = |path: &str, node: Node| {
            tree.nodes.insert(id, node);
            tree.put(path, (id, Vec::new()));
        };
        match *self {
            Create(path) => make(path, Node::new(FileKind::Regular, 0o644)),
            Mkdir(path) => make(path, Node::new(FileKind::Directory, 0o755)),
            Symlink(path, target) => {
                let content = target.as_bytes().to_vec();
                make(path, Node { content, ..Node::new(FileKind::Symlink, 0o777) });
            }
            Link(from, to) => {
                tree.at(from)?.links += 1;
                tree.names.insert(to.to_owned(), tree.names[from]);
            }
            Unlink(path) => {
                tree.at(path)?.links -= 1;
                tree.names.remove(path)?;
            }
            Rmdir(path) => drop(tree.take(path)?),
            Rename(from, to) => {
                if let Some((id, _)) = tree.take(to) {
                    tree.nodes.get_mut(&id)?.links -= 1;
                }
                let moved = tree.take(from)?;
                tree.put(to, moved);
            }
            Exchange(one, other) => {
                let (first, second) = (tree.take(one)?, tree.take(other)?);
                tree.put(one, second);
                tree.put(other, first);
            }
            Hold(path, held) => drop(tree.names.insert(held.to_owned(), *tree.names.get(path)?)),
            Tmpfile(_, held) => {
                tree.nodes.insert(id, Node { links: 0, ..Node::new(FileKind::Regular, 0o600) });
                tree.names.insert(held.to_owned(), id);
            }
            Release(held) => drop(tree.names.remove(held)?),
        }
        tree.prune();
        Some(())
    }
}
