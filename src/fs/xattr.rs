//! Extended attributes in the namespaces user, trusted, security and system (ACLs).

use std::ops::ControlFlow;

use super::acl::{self, Acl};
use super::error::Error;
use super::records::Records;
use super::transaction::Transaction;
use super::types::Caller;
use super::{Filesystem, NodeId, NodeKind};
use crate::format::{
    Inode, InodeFlags, InodeNo, Key, KeyKind, MAX_CHUNK_ID, MAX_NAME, MAX_SUB, MAX_VALUE,
    MAX_XATTR_INLINE, MAX_XATTR_VALUE, XATTR_CHUNK, Xattr, XattrValue, xattr_chain,
    xattr_chunk_sub, xattr_hash,
};
use crate::pool::Intent;
use crate::pool::Reader;

/// Longest list of names: what `listxattr` can return.
const MAX_LIST: usize = 65536;
/// File capabilities.
const CAPABILITY: &[u8] = b"security.capability";

const CREATE: u32 = libc::XATTR_CREATE as u32;
const REPLACE: u32 = libc::XATTR_REPLACE as u32;

impl Filesystem {
    /// Returns an attribute's value; [`Error::NoData`] when it is not there.
    ///
    /// A snapshot's root has `user.amberfs.created` and the like. A `.snapshots` has its directory's ACL.
    pub fn getxattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>, Error> {
        let result = check_name(name).and_then(|()| match node.kind() {
            NodeKind::SnapshotDir(dir) if name == acl::ACCESS => {
                self.stored_xattr(NodeId::live(dir), name)
            }
            NodeKind::SnapshotDir(_) => Err(Error::NoData),
            NodeKind::View { snapshot, ino } => match self.snapshot_xattr(snapshot, ino, name)? {
                Some(value) => Ok(value),
                None => self.stored_xattr(node, name),
            },
            NodeKind::Live(_) => self.stored_xattr(node, name),
        });
        self.report(node, result)
    }

    fn stored_xattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>, Error> {
        let (source, ino) = self.source_of(node)?;
        let guard = source.read()?;
        let reader = guard.reader();
        if !reader.inode(ino)?.flags.has(InodeFlags::XATTRS) {
            return Err(Error::NoData);
        }
        load(&reader, &reader, ino, name)?.ok_or(Error::NoData)
    }

    /// Sets an attribute. `flags` may demand that it is not there (1) or is there (2); `kill_sgid` clears
    /// the setgid bit when an access ACL is set.
    pub fn setxattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<(), Error> {
        let _ = caller;
        let result = self.writable(node).and_then(|ino| {
            check_name(name)?;
            if value.len() > MAX_XATTR_VALUE {
                return Err(Error::TooBig);
            }
            let list = if is_acl(name) && !value.is_empty() { Acl::decode(value)? } else { None };
            let mut tx = self.begin(Intent::Grow)?;
            let mut inode = tx.inode(ino)?;
            let exists = load(&tx, &tx.reader(), ino, name)?.is_some();
            if flags & CREATE != 0 && exists {
                return Err(Error::Exists);
            }
            if flags & REPLACE != 0 && !exists {
                return Err(Error::NoData);
            }
            match name {
                acl::ACCESS => acl::set_access(&mut tx, ino, &mut inode, list.as_ref(), kill_sgid)?,
                acl::DEFAULT => acl::set_default(&mut tx, ino, &mut inode, list.as_ref())?,
                _ => {
                    if !exists {
                        list_has_room(&tx, ino, name)?;
                    }
                    store(&mut tx, ino, &mut inode, name, Some(value))?;
                }
            }
            inode.ctime = tx.now();
            tx.put_inode(ino, &inode);
            tx.complete(0)
        });
        self.report(node, result)
    }

    /// Returns the names of all attributes, each followed by a NUL; `trusted` ones for the superuser only.
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>, Error> {
        let result = self.list_xattrs(caller, node);
        self.report(node, result)
    }

    fn list_xattrs(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        if node.is_snapshot_dir() {
            return Ok(out);
        }
        let (source, ino) = self.source_of(node)?;
        let guard = source.read()?;
        let reader = guard.reader();
        if reader.inode(ino)?.flags.has(InodeFlags::XATTRS) {
            for_each_name(&reader, ino, &mut |_, name| {
                if caller.uid == 0 || !name.starts_with(b"trusted.") {
                    out.extend_from_slice(name);
                    out.push(0);
                }
            })?;
        }
        drop(guard);
        if let NodeKind::View { snapshot, ino } = node.kind() {
            self.list_snapshot_xattrs(snapshot, ino, &mut out)?;
        }
        Ok(out)
    }

    /// Removes an attribute; [`Error::NoData`] when it is not there.
    pub fn removexattr(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<(), Error> {
        let _ = caller;
        let result = self.writable(node).and_then(|ino| {
            check_name(name)?;
            let mut tx = self.begin(Intent::Shrink)?;
            let mut inode = tx.inode(ino)?;
            if load(&tx, &tx.reader(), ino, name)?.is_none() {
                // Removing an ACL that is not stored changes nothing, as on ext4.
                return if is_acl(name) { Ok(()) } else { Err(Error::NoData) };
            }
            store(&mut tx, ino, &mut inode, name, None)?;
            inode.ctime = tx.now();
            tx.put_inode(ino, &inode);
            tx.complete(0)
        });
        self.report(node, result)
    }
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

/// Checks an attribute's name: a known namespace, and something behind it.
fn check_name(name: &[u8]) -> Result<(), Error> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::Range);
    }
    if is_acl(name) {
        return Ok(());
    }
    let spaces = [&b"user."[..], b"trusted.", b"security."];
    match spaces.iter().find_map(|space| name.strip_prefix(*space)) {
        Some([]) => Err(Error::Invalid),
        Some(rest) if rest.contains(&0) => Err(Error::Invalid),
        Some(_) => Ok(()),
        None => Err(Error::NotSupported),
    }
}

fn chain_key(ino: InodeNo, name: &[u8]) -> Key {
    Key::inode(ino, KeyKind::Xattr, xattr_hash(name))
}

fn chunk_key(ino: InodeNo, id: u64, n: usize) -> Key {
    Key::inode(ino, KeyKind::XattrChunk, xattr_chunk_sub(id, n))
}

/// Returns an attribute's value. `at_rest` is the state without the operation's own changes: no operation
/// reads a large value that it has written itself.
pub(super) fn load(
    records: &impl Records,
    at_rest: &Reader<'_>,
    ino: InodeNo,
    name: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    enum Place {
        Here(Vec<u8>),
        Chunks(u64, usize),
    }
    let search = |chain: &[u8]| {
        for entry in xattr_chain(chain) {
            let entry = entry?;
            if entry.name == name {
                return Ok(Some(match entry.value {
                    XattrValue::Inline(bytes) => Place::Here(bytes.to_vec()),
                    XattrValue::Chunked { id, len } => Place::Chunks(id, len as usize),
                }));
            }
        }
        Ok::<_, Error>(None)
    };
    match records.get(chain_key(ino, name), search)?.transpose()?.flatten() {
        None => Ok(None),
        Some(Place::Here(value)) => Ok(Some(value)),
        Some(Place::Chunks(id, len)) => {
            let mut value = Vec::with_capacity(len);
            for n in 0..len.div_ceil(XATTR_CHUNK) {
                at_rest.get(chunk_key(ino, id, n), |chunk| value.extend_from_slice(chunk))?;
            }
            let damaged = || Error::Io(format!("an attribute of inode {ino} is incomplete"));
            if value.len() == len { Ok(Some(value)) } else { Err(damaged()) }
        }
    }
}

/// Stores or removes an attribute, and notes in the inode what there is; the caller puts the inode.
pub(super) fn store(
    tx: &mut Transaction<'_>,
    ino: InodeNo,
    inode: &mut Inode,
    name: &[u8],
    value: Option<&[u8]>,
) -> Result<(), Error> {
    let key = chain_key(ino, name);
    let chain = tx.get_vec(key)?.unwrap_or_default();
    let mut changed = Vec::with_capacity(chain.len());
    for entry in xattr_chain(&chain) {
        let entry = entry?;
        if entry.name != name {
            entry.encode(&mut changed);
        } else if let XattrValue::Chunked { id, len } = entry.value {
            for n in 0..(len as usize).div_ceil(XATTR_CHUNK) {
                tx.set(chunk_key(ino, id, n), None);
            }
        }
    }
    match value {
        None => {}
        Some(bytes) if bytes.len() <= MAX_XATTR_INLINE => {
            Xattr { name, value: XattrValue::Inline(bytes) }.encode(&mut changed);
        }
        Some(bytes) => {
            let id = next_chunk_id(tx, ino)?;
            for (n, chunk) in bytes.chunks(XATTR_CHUNK).enumerate() {
                tx.set(chunk_key(ino, id, n), Some(chunk.to_vec()));
            }
            let value = XattrValue::Chunked { id, len: bytes.len() as u32 };
            Xattr { name, value }.encode(&mut changed);
        }
    }
    if changed.len() > MAX_VALUE {
        return Err(Error::NoSpace);
    }
    tx.set(key, if changed.is_empty() { None } else { Some(changed) });
    let any = value.is_some() || has_any(tx, ino)?;
    inode.flags.set(InodeFlags::XATTRS, any);
    let marks = [
        (acl::ACCESS, InodeFlags::ACCESS_ACL),
        (acl::DEFAULT, InodeFlags::DEFAULT_ACL),
        (CAPABILITY, InodeFlags::CAPABILITY),
    ];
    if let Some((_, mark)) = marks.iter().find(|mark| mark.0 == name) {
        inode.flags.set(*mark, value.is_some());
    }
    Ok(())
}

/// Removes file capabilities, which do not outlive a change of content or owner.
pub(super) fn drop_capability(
    tx: &mut Transaction<'_>,
    ino: InodeNo,
    inode: &mut Inode,
) -> Result<(), Error> {
    if inode.flags.has(InodeFlags::CAPABILITY) {
        store(tx, ino, inode, CAPABILITY, None)?;
    }
    Ok(())
}

/// Returns a number that no chunk of the inode has.
fn next_chunk_id(tx: &Transaction<'_>, ino: InodeNo) -> Result<u64, Error> {
    let is_chunk = |key: &Key| key.id() == ino.0 && key.is(KeyKind::XattrChunk);
    let last = Key::inode(ino, KeyKind::XattrChunk, MAX_SUB);
    let stored = tx.reader().last_at_or_before(last)?.map(|found| found.0);
    let new = tx.changes().map(|change| change.0);
    let highest = stored.into_iter().chain(new).filter(is_chunk).map(|key| key.sub() >> 8).max();
    match highest {
        Some(id) if id >= MAX_CHUNK_ID => Err(Error::NoSpace),
        Some(id) => Ok(id + 1),
        None => Ok(0),
    }
}

/// Calls `f` with the key and the name of every stored attribute.
fn for_each_name(
    reader: &Reader<'_>,
    ino: InodeNo,
    f: &mut dyn FnMut(Key, &[u8]),
) -> Result<(), Error> {
    let first = Key::inode(ino, KeyKind::Xattr, 0);
    let last = Key::inode(ino, KeyKind::Xattr, MAX_SUB);
    let mut outcome = Ok(());
    reader.range(first, last, &mut |key, chain| {
        for entry in xattr_chain(chain) {
            match entry {
                Ok(entry) => f(key, entry.name),
                Err(error) => {
                    outcome = Err(error.into());
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    outcome
}

/// Whether an inode has attributes after the operation's changes.
fn has_any(tx: &Transaction<'_>, ino: InodeNo) -> Result<bool, Error> {
    let mut any = tx
        .changes()
        .any(|(key, value)| key.id() == ino.0 && key.is(KeyKind::Xattr) && value.is_some());
    for_each_name(&tx.reader(), ino, &mut |key, _| any |= tx.pending(key).is_none())?;
    Ok(any)
}

/// Fails with [`Error::NoSpace`] if the list of names would grow longer than can be listed.
fn list_has_room(tx: &Transaction<'_>, ino: InodeNo, name: &[u8]) -> Result<(), Error> {
    let mut len = name.len() + 1;
    for_each_name(&tx.reader(), ino, &mut |_, name| len += name.len() + 1)?;
    if len > MAX_LIST { Err(Error::NoSpace) } else { Ok(()) }
}
