//! One operation on the live volume: what it has changed so far is seen by what it reads next, and all
//! of it is committed as one record, or none.
//!
//! A transaction holds the volume's head exclusively. Data is written before it begins.

use super::error::Error;
use super::records::{Records, dirent_key, inode_key, orphan_key};
use crate::format::{
    Answer, BLOCK_SIZE, Dirent, Edit, FileKind, Inode, InodeNo, Key, MAX_SLOT, MAX_VALUE,
    OrphanKind, Timestamp, dirent_chain,
};
use crate::pool::Reader;
use crate::pool::{Fresh, Intent, Update, Volume};

/// An operation in the making.
#[derive(Debug)]
pub(super) struct Transaction<'v> {
    update: Update<'v>,
    now: Timestamp,
    /// Changed keys, each once: the new value, or none for a deleted one.
    puts: Vec<(Key, Option<Vec<u8>>)>,
    /// What follows them, in order.
    edits: Vec<Edit>,
}

impl<'v> Transaction<'v> {
    /// Takes the volume. The caller holds no read guard of it.
    pub(super) fn begin(volume: &'v Volume, intent: Intent) -> Result<Transaction<'v>, Error> {
        let update = volume.update(intent)?;
        let now = update.now();
        Ok(Transaction { update, now, puts: Vec::with_capacity(4), edits: Vec::new() })
    }

    /// The time of the operation.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Reads the state from before the operation.
    pub(super) fn reader(&self) -> Reader<'_> {
        self.update.reader()
    }

    /// What the operation has made of a key; outer none when it has not touched it.
    pub(super) fn pending(&self, key: Key) -> Option<Option<&[u8]>> {
        self.puts.iter().find(|put| put.0 == key).map(|put| put.1.as_deref())
    }

    /// Sets a key, or removes it.
    pub(super) fn set(&mut self, key: Key, value: Option<Vec<u8>>) {
        debug_assert!(value.as_ref().is_none_or(|value| value.len() <= MAX_VALUE));
        match self.puts.iter_mut().find(|put| put.0 == key) {
            Some(put) => put.1 = value,
            None => self.puts.push((key, value)),
        }
    }

    /// Keys that the operation has set or removed, with the new values.
    pub(super) fn changes(&self) -> impl Iterator<Item = (Key, Option<&[u8]>)> {
        self.puts.iter().map(|put| (put.0, put.1.as_deref()))
    }

    /// Writes an inode's record.
    pub(super) fn put_inode(&mut self, ino: InodeNo, inode: &Inode) {
        self.set(inode_key(ino), Some(inode.to_bytes()));
    }

    /// Returns a new inode number.
    pub(super) fn allocate_inode(&mut self) -> Result<InodeNo, Error> {
        Ok(self.update.allocate_inode()?)
    }

    /// Maps new blocks one after the other, from a block index of a file on.
    pub(super) fn map(&mut self, ino: InodeNo, mut block: u64, fresh: Vec<Fresh>) {
        for fresh in fresh {
            let len = u64::from(fresh.len_blocks());
            self.edits.push(self.update.map(ino, block, fresh));
            block += len;
        }
    }

    /// Adds an edit behind those of the keys.
    pub(super) fn push(&mut self, edit: Edit) {
        self.edits.push(edit);
    }

    /// Removes what is mapped from a block on; `len_blocks` may be `u64::MAX`.
    pub(super) fn unmap(&mut self, ino: InodeNo, block: u64, len_blocks: u64) {
        self.edits.push(Edit::Unmap { ino, block, len_blocks });
    }

    /// Removes all there is of an inode, and what the operation has noted for it.
    pub(super) fn delete_inode(&mut self, ino: InodeNo) {
        self.puts.retain(|put| put.0.id() != ino.0);
        self.edits.push(Edit::DeleteInode { ino });
    }

    /// Notes what is to be done with an inode later.
    pub(super) fn put_orphan(&mut self, ino: InodeNo, kind: OrphanKind) {
        self.set(orphan_key(ino), Some(kind.to_bytes()));
    }

    /// As [`Transaction::commit`], and completes the request that this thread carries out; see
    /// [`Update::completes`] for `result`.
    pub(super) fn complete(mut self, result: u64) -> Result<(), Error> {
        self.update.completes(result);
        self.commit()
    }

    /// As [`Transaction::commit`], and completes these requests.
    pub(super) fn complete_together(mut self, answers: &[Answer]) -> Result<(), Error> {
        self.update.completes_together(answers);
        self.commit()
    }

    /// Makes it all happen: on an error nothing has changed.
    pub(super) fn commit(self) -> Result<(), Error> {
        let Transaction { update, puts, mut edits, .. } = self;
        let mut all = Vec::with_capacity(puts.len() + edits.len());
        all.extend(puts.into_iter().map(|(key, value)| match value {
            Some(value) => Edit::Put { key, value },
            None => Edit::Delete { key },
        }));
        all.append(&mut edits);
        Ok(update.commit(all)?)
    }

    /// Enters a name that is not there into a directory, which counts it.
    pub(super) fn add_name(
        &mut self,
        seed: &[u8; 32],
        dir: InodeNo,
        name: &[u8],
        ino: InodeNo,
        kind: FileKind,
    ) -> Result<(), Error> {
        let key = dirent_key(seed, dir, name);
        let chain = self.get_vec(key)?.unwrap_or_default();
        let mut slots = 0u128;
        for entry in dirent_chain(&chain) {
            slots |= 1 << entry?.slot;
        }
        let slot = slots.trailing_ones() as u8;
        let added = Dirent { slot, kind, ino, name };
        if slot > MAX_SLOT || chain.len() + added.encoded_len() > MAX_VALUE {
            return Err(Error::NoSpace);
        }
        let mut longer = Vec::with_capacity(chain.len() + added.encoded_len());
        let mut pending = Some(added);
        for entry in dirent_chain(&chain) {
            let entry = entry?;
            if entry.slot > slot
                && let Some(added) = pending.take()
            {
                added.encode(&mut longer);
            }
            entry.encode(&mut longer);
        }
        if let Some(added) = pending {
            added.encode(&mut longer);
        }
        self.set(key, Some(longer));
        self.count_name(dir, kind, true)
    }

    /// Removes a name that is there from a directory.
    pub(super) fn remove_name(
        &mut self,
        seed: &[u8; 32],
        dir: InodeNo,
        name: &[u8],
    ) -> Result<(), Error> {
        let key = dirent_key(seed, dir, name);
        let chain = self.get_vec(key)?.unwrap_or_default();
        let mut shorter = Vec::with_capacity(chain.len());
        let mut removed = None;
        for entry in dirent_chain(&chain) {
            let entry = entry?;
            if entry.name == name {
                removed = Some(entry.kind);
            } else {
                entry.encode(&mut shorter);
            }
        }
        let kind = removed.ok_or(Error::NotFound)?;
        self.set(key, if shorter.is_empty() { None } else { Some(shorter) });
        self.count_name(dir, kind, false)
    }

    /// Lets a name that is there mean another file; it keeps its place in listings.
    pub(super) fn replace_name(
        &mut self,
        seed: &[u8; 32],
        dir: InodeNo,
        name: &[u8],
        ino: InodeNo,
        kind: FileKind,
    ) -> Result<(), Error> {
        let key = dirent_key(seed, dir, name);
        let chain = self.get_vec(key)?.unwrap_or_default();
        let mut changed = Vec::with_capacity(chain.len());
        let mut before = None;
        for entry in dirent_chain(&chain) {
            let entry = entry?;
            if entry.name == name {
                before = Some(entry.kind);
                Dirent { ino, kind, ..entry }.encode(&mut changed);
            } else {
                entry.encode(&mut changed);
            }
        }
        let before = before.ok_or(Error::NotFound)?;
        self.set(key, Some(changed));
        self.count_name(dir, before, false)?;
        self.count_name(dir, kind, true)
    }

    /// Counts an entry in its directory's size, links and times.
    fn count_name(&mut self, dir: InodeNo, kind: FileKind, added: bool) -> Result<(), Error> {
        let mut inode = self.inode(dir)?;
        let links = u32::from(kind == FileKind::Directory);
        let counted = if added {
            inode.size.checked_add(1).zip(inode.nlink.checked_add(links))
        } else {
            inode.size.checked_sub(1).zip(inode.nlink.checked_sub(links))
        };
        let damaged = || Error::Io(format!("directory {dir} does not hold what it counts"));
        (inode.size, inode.nlink) = counted.ok_or_else(damaged)?;
        inode.mtime = self.now;
        inode.ctime = self.now;
        self.put_inode(dir, &inode);
        Ok(())
    }
}

/// Number of blocks that `len_bytes` bytes take.
pub(super) fn blocks_for(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(BLOCK_SIZE as u64)
}
