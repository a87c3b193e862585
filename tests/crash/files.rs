//! Operations on files.

use std::sync::Arc;

use amberfs::format::RequestId;
use amberfs::fs::{Caller, Error, FileKind, Filesystem, NodeId, Part, SetAttr, WriteFlags};

use crate::ops::Op;
use crate::state::Tree;
use crate::workload::{Durable, World};

pub(crate) const REGULAR: FileKind = FileKind::Regular;
/// Directories beyond which none are made.
const MAX_DIRECTORIES: usize = 5;

/// Paths of a tree's files of a kind.
pub(crate) fn of_kind(tree: &Tree, kind: FileKind) -> Vec<String> {
    let files = tree.files.iter().filter(|(_, meta)| meta.kind == kind);
    files.map(|(path, _)| path.clone()).collect()
}

/// What came of a call, or nothing if there was no space for it.
pub(crate) fn unless_full<T>(done: Result<T, Error>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(Error::NoSpace) => None,
        Err(error) => panic!("{error}"),
    }
}

/// What an operation is done to.
struct Targets {
    dirs: Vec<String>,
    /// A path at which there is nothing.
    fresh: String,
    /// A regular file, and another.
    file: Option<String>,
    second: Option<String>,
    /// Anything but the root, and something else.
    any: Option<String>,
    other: Option<String>,
}

impl World {
    fn targets(&mut self, tree: &Tree) -> Targets {
        let dirs = of_kind(tree, FileKind::Directory);
        let files = of_kind(tree, REGULAR);
        let all: Vec<String> = tree.files.keys().filter(|path| *path != "/").cloned().collect();
        let dir = self.random.pick(&dirs).expect("there is a root");
        Targets {
            fresh: format!("{dir}{}", self.new_name("f")),
            dirs,
            file: self.random.pick(&files),
            second: self.random.pick(&files),
            any: self.random.pick(&all),
            other: self.random.pick(&all),
        }
    }

    pub(crate) fn file_op(&mut self, op: Op, volume: &str) -> Option<Durable> {
        let state = Arc::clone(self.last());
        let tree = &state.volumes[volume].live;
        let at = self.targets(tree);
        let fs = Arc::clone(&self.mounts[volume]);
        let root = Caller::root();
        match (op, at.file, at.any) {
            (Op::Create, ..) => make(&fs, &at.fresh, |fs, dir, name| {
                let made = fs.create(&root, dir, name, 0o644, libc::O_RDWR)?;
                fs.release(made.0.node, made.1);
                Ok(Some(made.0.node))
            }),
            (Op::Mkdir, ..) if at.dirs.len() < MAX_DIRECTORIES => {
                make(&fs, &at.fresh, |fs, dir, name| {
                    Ok(Some(fs.mkdir(&root, dir, name, 0o755)?.node))
                });
            }
            (Op::Symlink, ..) => make(&fs, &at.fresh, |fs, dir, name| {
                Ok(Some(fs.symlink(&root, dir, name, b"some/where")?.node))
            }),
            (Op::Link, Some(file), _) => make(&fs, &at.fresh, |fs, dir, name| {
                with(fs, &file, |node| fs.link(node, dir, name)).map(|entry| Some(entry.node))
            }),
            (Op::Unlink, Some(file), Some(any)) => {
                let path = if any.ends_with('/') { file } else { any };
                make(&fs, &path, |fs, dir, name| fs.unlink(&root, dir, name).map(|()| None));
            }
            (Op::UnlinkOpen, Some(file), _) => self.unlink_open(volume, &file),
            (Op::CloseUnlinked, ..) => {
                for (volume, node, handle) in self.unlinked.drain(..) {
                    self.mounts[&volume].release(node, handle);
                    self.mounts[&volume].forget(node, 1);
                }
            }
            (Op::Rmdir, ..) => {
                let full = |dir: &str| tree.files.keys().any(|path| in_directory(path, dir));
                let empty: Vec<_> = at.dirs.into_iter().filter(|dir| !full(dir)).collect();
                let dir = self.random.pick(&empty)?;
                make(&fs, dir.trim_end_matches('/'), |fs, parent, name| {
                    fs.rmdir(&root, parent, name).map(|()| None)
                });
            }
            (Op::Rename, _, Some(any)) => rename(&fs, &any, &at.fresh, 0),
            (Op::RenameOver, Some(file), _) => {
                at.second.iter().for_each(|to| rename(&fs, &file, to, 0));
            }
            (Op::Exchange, _, Some(any)) => {
                at.other.iter().for_each(|to| rename(&fs, &any, to, libc::RENAME_EXCHANGE));
            }
            (_, Some(file), Some(any)) => {
                let second = at.second.unwrap_or_else(|| file.clone());
                return self.content(op, volume, [&file, &second, &any]);
            }
            _ => {}
        }
        None
    }

    /// Takes a file's name away, and writes to it.
    fn unlink_open(&mut self, volume: &str, file: &str) {
        let fs = Arc::clone(&self.mounts[volume]);
        let (parent, name) = split(file);
        with(&fs, parent, |dir| {
            let root = Caller::root();
            let node = fs.lookup(&root, dir, name.as_bytes())?.node;
            let handle = fs.open(node, libc::O_RDWR)?;
            self.unlinked.push((volume.to_owned(), node, handle));
            fs.unlink(&root, dir, name.as_bytes())?;
            if fs.getattr(node)?.nlink > 0 {
                return Ok(());
            }
            fs.write(node, handle, 4096, &pattern(9, 9000), WriteFlags::default()).map(drop)
        })
        .or_else(|error| if error == Error::NoSpace { Ok(()) } else { Err(error) })
        .expect("a file's name can be taken away");
    }

    /// An operation on a file that is there, mostly on its content.
    fn content(&mut self, op: Op, volume: &str, paths: [&str; 3]) -> Option<Durable> {
        let [file, second, any] = paths;
        let block = self.random.below(8);
        let byte = self.random.below(255) as u8 + 1;
        let short = self.random.below(4000);
        let len = 4096 * (1 + self.random.below(5)) as usize;
        if matches!(op, Op::Punch | Op::ZeroRange) {
            self.zeroed = Some((short, short + len as u64));
        }
        let fs = &self.mounts[volume];
        let size = with(fs, file, |node| fs.getattr(node)).expect("it is there").size;
        let root = Caller::root();
        let user = format!("user.{}", byte % 2);
        let set = |size| SetAttr { size: Some(size), ..SetAttr::default() };
        let mode = SetAttr { mode: Some(0o600 | u32::from(byte % 8)), ..SetAttr::default() };
        let offset = block * 4096;
        let done: Result<(), Error> = match op {
            Op::Chmod => with(fs, any, |node| fs.setattr(&root, node, &mode)).map(drop),
            Op::SetXattr => with(fs, any, |node| {
                let value = vec![byte; if block == 0 { 9000 } else { 20 }];
                fs.setxattr(&root, node, user.as_bytes(), &value, 0, false)
            }),
            Op::RemoveXattr => with(fs, any, |node| fs.removexattr(&root, node, user.as_bytes())),
            Op::WriteSmall => write(fs, file, short / 4, &vec![byte; 300]),
            // It leaves the times alone: by another size it can be told whether it was done.
            Op::WriteBlocks if byte.is_multiple_of(2) && offset + len as u64 > size => {
                with(fs, file, |node| write_together(fs, node, offset, &pattern(byte, len)))
            }
            Op::WriteBlocks => write(fs, file, offset, &pattern(byte, len)),
            Op::Overwrite => write(fs, file, short, &pattern(byte, len + 777)),
            Op::Append => write(fs, file, size, &pattern(byte, short as usize + 1)),
            Op::Truncate => {
                with(fs, file, |node| fs.setattr(&root, node, &set(size / 3 + short % 5))).map(drop)
            }
            Op::Extend => {
                with(fs, file, |node| fs.setattr(&root, node, &set(size + short))).map(drop)
            }
            Op::Fallocate => {
                with(fs, file, |node| fs.fallocate(node, offset, len as u64, u32::from(byte % 2)))
            }
            Op::Punch => with(fs, file, |node| fs.fallocate(node, short, len as u64, 3)),
            Op::ZeroRange => with(fs, file, |node| fs.fallocate(node, short, len as u64, 0x10)),
            Op::CopyRange => with(fs, file, |from| {
                let to = if fs.getattr(from)?.size > 8192 { second } else { file };
                with(fs, to, |to| fs.copy_file_range(from, 0, to, offset, len as u64)).map(drop)
            }),
            Op::Reflink => with(fs, file, |from| {
                with(fs, second, |to| fs.copy_file_range(from, 0, to, 0, size)).map(drop)
            }),
            Op::Fsync => {
                let ino = with(fs, file, |node| fs.fsync(node, false).map(|()| node.0));
                let ino = ino.expect("a file can be synced");
                return Some(Durable::File(volume.to_owned(), ino));
            }
            Op::Syncfs => {
                fs.syncfs().expect("all can be synced");
                return Some(Durable::Everything);
            }
            _ => Ok(()),
        };
        // What is not possible (a copy of a file onto itself) has changed nothing.
        drop(done);
        None
    }
}

fn in_directory(path: &str, dir: &str) -> bool {
    path.len() > dir.len() && path.starts_with(dir)
}

pub(crate) fn pattern(byte: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| byte ^ (at / 1000) as u8).collect()
}

fn split(path: &str) -> (&str, &str) {
    let at = path.rfind('/').map_or(0, |at| at + 1);
    path.split_at(at)
}

/// Calls `f` with the node at a path, which is looked up and forgotten again.
pub(crate) fn with<T>(
    fs: &Filesystem,
    path: &str,
    f: impl FnOnce(NodeId) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut held = vec![NodeId::ROOT];
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let parent = held.last().copied().unwrap_or(NodeId::ROOT);
        match fs.lookup(&Caller::root(), parent, name.as_bytes()) {
            Ok(entry) => held.push(entry.node),
            Err(error) => {
                held.iter().skip(1).for_each(|node| fs.forget(*node, 1));
                return Err(error);
            }
        }
    }
    let done = f(held.last().copied().unwrap_or(NodeId::ROOT));
    held.iter().skip(1).for_each(|node| fs.forget(*node, 1));
    done
}

/// Calls `f` with the directory and the name of a path; what it returns is forgotten.
fn make(
    fs: &Filesystem,
    path: &str,
    f: impl FnOnce(&Filesystem, NodeId, &[u8]) -> Result<Option<NodeId>, Error>,
) {
    let (parent, name) = split(path);
    let made = with(fs, parent, |dir| f(fs, dir, name.as_bytes()));
    if let Ok(Some(node)) = made {
        fs.forget(node, 1);
    }
}

fn rename(fs: &Filesystem, from: &str, to: &str, flags: u32) {
    make(fs, from.trim_end_matches('/'), |fs, dir, name| {
        let (parent, new) = split(to.trim_end_matches('/'));
        with(fs, parent, |to| {
            fs.rename(&Caller::root(), dir, name, to, new.as_bytes(), flags).map(|()| None)
        })
    });
}

fn write(fs: &Filesystem, path: &str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    with(fs, path, |node| write_to(fs, node, offset, bytes))
}

/// As the kernel's page cache writes what has changed here and there: the blocks one by one, the last one first.
fn write_together(fs: &Filesystem, node: NodeId, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let request = RequestId { session: 0, unique: 2 };
    let blocks = bytes.chunks(4096).zip((offset..).step_by(4096));
    let mut parts: Vec<_> = blocks.map(|(data, offset)| Part { request, offset, data }).collect();
    parts.reverse();
    match fs.write_together(node, &parts)? {
        true => Ok(()),
        false => write_to(fs, node, offset, bytes),
    }
}

/// Writes through a handle of its own.
pub(crate) fn write_to(
    fs: &Filesystem,
    node: NodeId,
    offset: u64,
    bytes: &[u8],
) -> Result<(), Error> {
    let handle = fs.open(node, libc::O_RDWR)?;
    let written = fs.write(node, handle, offset, bytes, WriteFlags::default());
    fs.release(node, handle);
    written.map(drop)
}
