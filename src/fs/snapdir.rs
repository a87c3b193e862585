//! The virtual `.snapshots` of every live directory, and the snapshots that are made, renamed and
//! deleted in that of the root.
//!
//! `dir/.snapshots/NAME` is the directory with the same inode number in the snapshot: numbers are never
//! used again, so it is the same directory, whatever it was called. Names here are not cached by the
//! kernel: snapshots come and go by other ways too.

use super::error::Error;
use super::records::Records;
use super::template::{Query, calendar};
use super::types::{Attr, Caller, DirEntry, Entry};
use super::{Filesystem, NodeId, SnapDir};
use crate::format::{FileKind, Inode, InodeFlags, InodeNo, MemberId, ROOT_INODE, Timestamp};
use crate::pool::Reader;
use crate::pool::{Intent, SnapshotInfo};

/// Position behind "."; behind ".." it is one more, and then come the snapshots by their numbers.
const BEHIND_SELF: u64 = 1;
const BEHIND_PARENT: u64 = 2;
const FIRST_SNAPSHOT: u64 = 3;
/// Snapshots of one template in the same second.
const MAX_SAME_NAME: u32 = 100;
/// Names of a snapshot's own attributes begin with this.
const PREFIX: &[u8] = b"user.amberfs.";
const FIGURES: [&str; 7] =
    ["created", "referenced_bytes", "exclusive_bytes", "root", "epoch", "name", "consistency"];

impl Filesystem {
    /// Makes a snapshot that is durable when this returns, as `mkdir` in `.snapshots` does: brings in dirty
    /// pages, freezes the volume in one instant, and writes out the record. Templates are expanded.
    pub fn create_snapshot(&self, name: &str) -> Result<SnapshotInfo, Error> {
        let base = Filesystem::expand_template(name, self.now()?)?;
        let (pool, volume) = (self.volume.pool(), self.volume.id());
        let is_template = base != name;
        if !is_template && pool.snapshot(volume, &base).is_ok() {
            return Err(Error::Exists);
        }
        self.flush_dirty();
        let mut made = pool.create_snapshot(volume, &base).map_err(Error::from);
        let mut count = 2;
        while is_template && matches!(made, Err(Error::Exists)) && count < MAX_SAME_NAME {
            made = pool.create_snapshot(volume, &format!("{base}-{count}")).map_err(Error::from);
            count += 1;
        }
        let made = made?;
        pool.sync()?;
        Ok(made)
    }

    pub(super) fn make_snapshot(
        &self,
        caller: &Caller,
        dir: InodeNo,
        name: &[u8],
    ) -> Result<Entry, Error> {
        self.may_change_snapshots(caller, dir)?;
        if matches!(name, b"." | b"..") {
            return Err(Error::Exists);
        }
        let name = str::from_utf8(name).map_err(|_| Error::Invalid)?;
        let made = self.create_snapshot(name)?;
        self.snapshot_entry(&made, ROOT_INODE)
    }

    pub(super) fn remove_snapshot(
        &self,
        caller: &Caller,
        dir: InodeNo,
        name: &[u8],
    ) -> Result<(), Error> {
        self.may_change_snapshots(caller, dir)?;
        let name = str::from_utf8(name).map_err(|_| Error::NotFound)?;
        if matches!(name, "." | "..") || name.starts_with('@') {
            return Err(Error::Invalid);
        }
        let (pool, volume) = (self.volume.pool(), self.volume.id());
        let gone = pool.snapshot(volume, name)?;
        pool.delete_snapshot(volume, name)?;
        self.drop_view(gone.number);
        self.snapshots_have_changed()
    }

    pub(super) fn rename_snapshot(
        &self,
        caller: &Caller,
        (from, to): (InodeNo, InodeNo),
        name: &[u8],
        new_name: &[u8],
    ) -> Result<(), Error> {
        self.may_change_snapshots(caller, from)?;
        self.may_change_snapshots(caller, to)?;
        let name = str::from_utf8(name).map_err(|_| Error::NotFound)?;
        let new_name = str::from_utf8(new_name).map_err(|_| Error::Invalid)?;
        let (pool, volume) = (self.volume.pool(), self.volume.id());
        pool.snapshot(volume, name)?;
        if name == new_name {
            return Ok(());
        }
        pool.rename_snapshot(volume, name, new_name)?;
        self.snapshots_have_changed()
    }

    fn may_change_snapshots(&self, caller: &Caller, dir: InodeNo) -> Result<(), Error> {
        if self.options.read_only || self.only.is_some() {
            return Err(Error::ReadOnly);
        }
        if dir != ROOT_INODE {
            return Err(Error::NotPermitted);
        }
        self.may_snapshot(caller)
    }

    fn now(&self) -> Result<Timestamp, Error> {
        Ok(self.begin(Intent::Shrink)?.now())
    }

    fn snapshots_have_changed(&self) -> Result<(), Error> {
        let now = self.now()?;
        *self.snapshots_changed.lock() = Some(now);
        Ok(())
    }

    /// Finds a snapshot by name or query.
    fn find_snapshot(&self, name: &[u8]) -> Result<SnapshotInfo, Error> {
        let name = str::from_utf8(name).map_err(|_| Error::NotFound)?;
        let (pool, volume) = (self.volume.pool(), self.volume.id());
        match Query::parse(name) {
            Some(query) => {
                let now = self.now()?;
                query.pick(pool.snapshots(volume), now).ok_or(Error::NotFound)
            }
            None => match pool.snapshot(volume, name).map_err(Error::from) {
                Err(Error::Invalid) => Err(Error::NotFound),
                found => found,
            },
        }
    }

    pub(super) fn lookup_snapshot(&self, dir: InodeNo, name: &[u8]) -> Result<Entry, Error> {
        match name {
            b"." => self.snapshot_dir_entry(dir),
            b".." => {
                let guard = self.head.read()?;
                let inode = guard.reader().inode(dir)?;
                Ok(self.entry(dir, &inode))
            }
            _ => self.snapshot_entry(&self.find_snapshot(name)?, dir),
        }
    }

    pub(super) fn made_snapshot(&self, dir: InodeNo, member: MemberId) -> Result<Entry, Error> {
        let all = self.volume.pool().snapshots(self.volume.id());
        let made = all.iter().find(|snapshot| snapshot.member == member);
        self.snapshot_entry(made.ok_or(Error::NotFound)?, dir)
    }

    /// The directory `dir` as it is in a snapshot; [`Error::NotFound`] when it is not in there.
    fn snapshot_entry(&self, snapshot: &SnapshotInfo, dir: InodeNo) -> Result<Entry, Error> {
        let source = self.view_of(snapshot)?;
        let guard = match source.read().map_err(Error::from) {
            Err(Error::Stale) => {
                self.drop_view(snapshot.number);
                return Err(Error::NotFound);
            }
            guard => guard?,
        };
        let inode = guard.reader().find_inode(dir)?.ok_or(Error::NotFound)?;
        let node = NodeId::view(snapshot.number, dir);
        Ok(Entry { node, attr: Attr::of(node, &inode), cacheable: false })
    }

    /// The answer to a lookup of a live directory's `.snapshots`.
    pub(super) fn snapshot_dir_entry(&self, dir: InodeNo) -> Result<Entry, Error> {
        let guard = self.head.read()?;
        self.snapshot_dir_entry_in(&guard.reader(), dir)
    }

    pub(super) fn snapshot_dir_entry_in(
        &self,
        reader: &Reader<'_>,
        dir: InodeNo,
    ) -> Result<Entry, Error> {
        let inode = reader.directory(dir)?;
        let node = NodeId::snapshot_dir(dir);
        Ok(Entry { node, attr: self.virtual_attr(node, &inode), cacheable: false })
    }

    pub(super) fn snapshot_dir_attr(&self, dir: InodeNo) -> Result<Attr, Error> {
        Ok(self.snapshot_dir_entry(dir)?.attr)
    }

    /// A `.snapshots` has its directory's owner and permissions, so that the kernel lets those make and
    /// delete snapshots who may write there. It changes when snapshots do.
    fn virtual_attr(&self, node: NodeId, dir: &Inode) -> Attr {
        let newest = self.volume.pool().newest_snapshot(self.volume.id());
        let (count, newest) = match newest {
            Some((count, snapshot)) => (count, Some(snapshot.created)),
            None => (0, None),
        };
        let changed = (*self.snapshots_changed.lock()).max(newest).unwrap_or(dir.btime);
        let count = count as u64;
        let inode = Inode {
            blocks: 0,
            size: count,
            atime: changed,
            mtime: changed,
            ctime: changed,
            btime: dir.btime,
            mode: FileKind::Directory.to_mode() | dir.mode & 0o1777,
            nlink: u32::try_from(count + 2).unwrap_or(u32::MAX),
            flags: InodeFlags::default(),
            ..*dir
        };
        Attr::of(node, &inode)
    }

    pub(super) fn list_snapshots(
        &self,
        dir: InodeNo,
        cookie: u64,
        plus: bool,
        each: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        debug_assert!(self.options.snapdir != SnapDir::Disabled);
        let kind = FileKind::Directory;
        let dots = [
            (&b"."[..], NodeId::snapshot_dir(dir), BEHIND_SELF),
            (b"..", NodeId::live(dir), BEHIND_PARENT),
        ];
        for (name, node, behind) in dots {
            if cookie < behind && !each(&DirEntry { name, node, kind, cookie: behind, entry: None })
            {
                return Ok(());
            }
        }
        for snapshot in self.volume.pool().snapshots(self.volume.id()) {
            let behind = u64::from(snapshot.number) + FIRST_SNAPSHOT;
            if behind <= cookie {
                continue;
            }
            // The root is in every snapshot; another directory may be younger.
            let entry = if plus || dir != ROOT_INODE {
                match self.snapshot_entry(&snapshot, dir) {
                    Ok(entry) => Some(entry),
                    Err(Error::NotFound | Error::Stale) => continue,
                    Err(error) => return Err(error),
                }
            } else {
                None
            };
            let node = NodeId::view(snapshot.number, dir);
            let entry = entry.filter(|_| plus);
            let name = snapshot.name.as_bytes();
            if !each(&DirEntry { name, node, kind, cookie: behind, entry }) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// An attribute that a snapshot's root has of itself; none for other names and other inodes.
    pub(super) fn snapshot_xattr(
        &self,
        number: u32,
        ino: InodeNo,
        name: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(figure) = name.strip_prefix(PREFIX).filter(|_| ino == ROOT_INODE) else {
            return Ok(None);
        };
        let pool = self.volume.pool();
        let snapshot = pool.snapshot_by_number(self.volume.id(), number)?;
        Ok(Some(match figure {
            b"created" => calendar(snapshot.created, "%Y-%m-%dT%H:%M:%S.%9fZ")?.into_bytes(),
            b"referenced_bytes" => snapshot.referenced_bytes.to_string().into_bytes(),
            b"exclusive_bytes" => pool.exclusive_bytes(snapshot.member)?.to_string().into_bytes(),
            b"root" => match snapshot.root {
                Some(root) => root.to_string().into_bytes(),
                None => return Ok(None),
            },
            b"epoch" => snapshot.epoch.to_string().into_bytes(),
            b"name" => snapshot.name.into_bytes(),
            // Every file as after a power cut at that instant, but with all that had been written.
            b"consistency" => b"crash".to_vec(),
            _ => return Ok(None),
        }))
    }

    /// Appends the names of those attributes, each followed by a NUL.
    pub(super) fn list_snapshot_xattrs(
        &self,
        number: u32,
        ino: InodeNo,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if ino != ROOT_INODE {
            return Ok(());
        }
        let snapshot = self.volume.pool().snapshot_by_number(self.volume.id(), number)?;
        for figure in FIGURES {
            let mut name = PREFIX.to_vec();
            name.extend_from_slice(figure.as_bytes());
            let listed = out.split(|byte| *byte == 0).any(|other| other == name);
            if !listed && (figure != "root" || snapshot.root.is_some()) {
                out.extend_from_slice(&name);
                out.push(0);
            }
        }
        Ok(())
    }
}
