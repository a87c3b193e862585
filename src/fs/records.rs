//! Reading a volume's records: the same for a state at rest and for one in the middle of an operation.

use std::ops::ControlFlow;

use super::error::Error;
use super::transaction::Transaction;
use crate::format::{
    FileKind, Inode, InodeNo, Key, KeyKind, MAX_SUB, OrphanKind, dirent_chain, name_hash,
};
use crate::pool::Reader;

/// A directory entry that was found by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The file.
    pub(super) ino: InodeNo,
    /// Its type.
    pub(super) kind: FileKind,
}

/// Key of an inode's record.
pub(super) fn inode_key(ino: InodeNo) -> Key {
    Key::inode(ino, KeyKind::Inode, 0)
}

/// Key of a small file's content.
pub(super) fn inline_key(ino: InodeNo) -> Key {
    Key::inode(ino, KeyKind::Inline, 0)
}

/// Key that says what is to be done with an inode when nobody holds it.
pub(super) fn orphan_key(ino: InodeNo) -> Key {
    Key::new(0, KeyKind::Orphan, ino.0)
}

/// Key of the chain that a name is in.
pub(super) fn dirent_key(seed: &[u8; 32], dir: InodeNo, name: &[u8]) -> Key {
    Key::inode(dir, KeyKind::Dirent, name_hash(seed, name))
}

/// Looks records up.
pub(super) trait Records {
    /// Calls `f` with a key's value.
    fn get<R>(&self, key: Key, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, Error>;

    /// Returns a key's value.
    fn get_vec(&self, key: Key) -> Result<Option<Vec<u8>>, Error> {
        self.get(key, <[u8]>::to_vec)
    }

    /// Returns an inode; none when it is not there.
    fn find_inode(&self, ino: InodeNo) -> Result<Option<Inode>, Error> {
        Ok(self.get(inode_key(ino), Inode::decode)?.transpose()?)
    }

    /// Returns an inode that the kernel knows: [`Error::Stale`] when it is gone.
    fn inode(&self, ino: InodeNo) -> Result<Inode, Error> {
        self.find_inode(ino)?.ok_or(Error::Stale)
    }

    /// Returns an inode that must be a directory.
    fn directory(&self, ino: InodeNo) -> Result<Inode, Error> {
        let inode = self.inode(ino)?;
        if inode.is_dir() { Ok(inode) } else { Err(Error::NotDirectory) }
    }

    /// Finds a name in a directory.
    fn find(&self, seed: &[u8; 32], dir: InodeNo, name: &[u8]) -> Result<Option<Found>, Error> {
        let search = |chain: &[u8]| {
            for entry in dirent_chain(chain) {
                let entry = entry?;
                if entry.name == name {
                    return Ok(Some(Found { ino: entry.ino, kind: entry.kind }));
                }
            }
            Ok(None)
        };
        self.get(dirent_key(seed, dir, name), search)?.unwrap_or(Ok(None))
    }

    /// Finds a name that must be there.
    fn need(&self, seed: &[u8; 32], dir: InodeNo, name: &[u8]) -> Result<Found, Error> {
        self.find(seed, dir, name)?.ok_or(Error::NotFound)
    }

    /// Returns what is to be done with an inode.
    fn orphan(&self, ino: InodeNo) -> Result<Option<OrphanKind>, Error> {
        Ok(self.get(orphan_key(ino), OrphanKind::decode)?.transpose()?)
    }
}

impl Records for Reader<'_> {
    fn get<R>(&self, key: Key, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, Error> {
        Ok(Reader::get(self, key, f)?)
    }
}

impl Records for Transaction<'_> {
    fn get<R>(&self, key: Key, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, Error> {
        match self.pending(key) {
            Some(value) => Ok(value.map(f)),
            None => Records::get(&self.reader(), key, f),
        }
    }
}

/// Returns the inodes that await their end, with what is to be done.
pub(super) fn orphans(reader: &Reader<'_>) -> Result<Vec<(InodeNo, OrphanKind)>, Error> {
    let (first, last) = (Key::new(0, KeyKind::Orphan, 0), Key::new(0, KeyKind::Orphan, MAX_SUB));
    let mut found = Vec::new();
    let mut bad = None;
    reader.range(first, last, &mut |key, value| match OrphanKind::decode(value) {
        Ok(kind) => {
            found.push((InodeNo(key.sub()), kind));
            ControlFlow::Continue(())
        }
        Err(error) => {
            bad = Some(error);
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(found), |error| Err(error.into()))
}
