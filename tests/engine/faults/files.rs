//! Operations on the content of files and on their attributes: what each does to the pool, and to the model.

use amberfs::fs::{Caller, Error, FileKind, Handle, SetAttr, WriteFlags};

use super::found::{Mounted, read};
use super::tree::Tree;
use crate::model::{SETUID, overwrite};
use crate::world::pattern;

const KEEP_SIZE: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
const PUNCH_HOLE: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32;
const ZERO_RANGE: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;
const XATTR: &[u8] = b"user.x";

#[derive(Debug, Clone)]
pub(super) enum OnFile {
    Write(&'static str, usize, usize),
    Truncate(&'static str, usize),
    Punch(&'static str, usize, usize),
    Zero(&'static str, usize, usize),
    /// Sets space aside behind the end, so much that the data file has to grow.
    Reserve(&'static str, u64),
    Copy(&'static str, &'static str),
    Xattr(&'static str, usize),
    RemoveXattr(&'static str),
    Chmod(&'static str, u32),
    Chown(&'static str, u32, u32),
    Read(&'static str),
    Fsync(&'static str),
}

use OnFile::*;

impl OnFile {
    fn path(&self) -> &'static str {
        match self {
            Write(path, ..) | Truncate(path, _) | Punch(path, ..) | Zero(path, ..) => path,
            Reserve(path, _) | Copy(path, _) | Xattr(path, _) | RemoveXattr(path) => path,
            Chmod(path, _) | Chown(path, ..) | Read(path) | Fsync(path) => path,
        }
    }

    pub(super) fn carry_out(&self, on: &Mounted, nth: usize) -> Result<(), Error> {
        let (fs, root) = (&on.fs, Caller::root());
        let set = |node, set: SetAttr| fs.setattr(&root, node, &set).map(drop);
        on.with(self.path(), |node| match *self {
            Write(_, offset, len) => {
                let (bytes, flags) = (pattern(nth as u64, len), WriteFlags::default());
                fs.write(node, Handle(0), offset as u64, &bytes, flags).map(drop)
            }
            Truncate(_, size) => {
                set(node, SetAttr { size: Some(size as u64), ..SetAttr::default() })
            }
            Punch(_, offset, len) => {
                fs.fallocate(node, offset as u64, len as u64, PUNCH_HOLE | KEEP_SIZE)
            }
            Zero(_, offset, len) => fs.fallocate(node, offset as u64, len as u64, ZERO_RANGE),
            Reserve(_, len) => fs.fallocate(node, 1 << 20, len, KEEP_SIZE),
            Copy(_, to) => {
                let len = fs.getattr(node)?.size;
                on.with(to, |to| fs.copy_file_range(node, 0, to, 0, len)).map(drop)
            }
            Xattr(_, len) => fs.setxattr(&root, node, XATTR, &pattern(nth as u64, len), 0, false),
            RemoveXattr(_) => fs.removexattr(&root, node, XATTR),
            Chmod(_, mode) => set(node, SetAttr { mode: Some(mode), ..SetAttr::default() }),
            Chown(_, uid, gid) => {
                set(node, SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() })
            }
            Read(_) => read(fs, node).map(drop),
            Fsync(_) => fs.fsync(node, false),
        })
    }

    /// The same on the model; nothing if there is nothing to do it to.
    pub(super) fn model(&self, tree: &mut Tree, nth: usize) -> Option<()> {
        let node = tree.at(self.path())?;
        let content = &mut node.content;
        match *self {
            Write(_, offset, len) => overwrite(content, offset, &pattern(nth as u64, len)),
            Truncate(_, size) => content.resize(size, 0),
            Punch(_, offset, len) => {
                content.iter_mut().skip(offset).take(len).for_each(|byte| *byte = 0);
            }
            Zero(_, offset, len) => overwrite(content, offset, &vec![0; len]),
            Copy(_, to) => {
                let bytes = content.clone();
                overwrite(tree.content(to)?, 0, &bytes);
            }
            Xattr(_, len) => drop(node.xattrs.insert(XATTR.to_vec(), pattern(nth as u64, len))),
            RemoveXattr(_) => drop(node.xattrs.remove(XATTR)?),
            Chmod(_, mode) => node.perm = mode,
            Chown(_, uid, gid) => {
                node.owner = (uid, gid);
                // A program does not get another owner's rights.
                node.perm &= if node.kind == FileKind::Directory { !0 } else { !SETUID };
            }
            Read(_) | Fsync(_) | Reserve(..) => {}
        }
        Some(())
    }
}
