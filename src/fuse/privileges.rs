//! What a change of a file takes of its set-user-id and set-group-id bits, where the kernel does not say.
//!
//! With HANDLE_KILLPRIV_V2 the kernel tells with WRITE, OPEN and SETATTR that the caller lacks CAP_FSETID.
//! Left to the daemon are:
//! - FALLOCATE and COPY_FILE_RANGE, which come without a word about it;
//! - a set-group-id bit without execution by the group: it goes when the caller is not of that group;
//! - `chown(path, -1, -1)`, which takes the bits and is the owner's to do: it comes as a SETATTR of the
//!   change time alone, as nothing else does (times that the kernel kept come with the modification time);
//! - owner and size that the kernel itself sets (overlayfs, when it copies a file up with all that it has),
//!   which takes nothing. An owner comes without the change time then, which chown(2) of a regular file always
//!   has. A size comes as from truncate(2), so of a file with capabilities the caller's system call is looked
//!   up.
//!
//! All this is asked of /proc, for files that have such bits; so others pay for looking at the mode alone.

use super::credentials::Credentials;
use super::decode::Header;
use super::dispatch::Context;
use super::syscall;
use crate::fs::{Attr, Caller, Error, FileKind, NodeId, SetAttr};

const SETUID: u32 = libc::S_ISUID;
const SETGID: u32 = libc::S_ISGID;
const GROUP_EXECUTE: u32 = libc::S_IXGRP;

/// The bits of a file that a change by a caller without CAP_FSETID takes.
fn lost(attr: &Attr, caller: &Credentials) -> u32 {
    let group = attr.mode & GROUP_EXECUTE != 0 || !caller.counts_as_member(attr.gid);
    attr.mode & (SETUID | if group { SETGID } else { 0 })
}

impl Context {
    /// Sets attributes, as SETATTR asks for.
    pub(crate) fn setattr(
        &self,
        header: &Header,
        caller: &Caller,
        node: NodeId,
        set: SetAttr,
    ) -> Result<Attr, Error> {
        let mut set = set;
        if set.ctime.is_none() && (set.uid.is_some() || set.gid.is_some()) {
            set.keep_privileges = self.is_regular(node);
        } else if set.size.is_some() && !set.kill_suidgid {
            set.keep_privileges = self.is_capable(node) && !syscall::truncates(header.pid);
        }
        let ctime_alone = SetAttr { ctime: set.ctime, ..SetAttr::default() };
        if set.ctime.is_some() && set == ctime_alone {
            if let Some(attr) = self.privileged(node) {
                let caller = Credentials::of(header.pid);
                if lost(&attr, &caller) != 0 && !caller.owns(attr.uid) {
                    return Err(Error::NotPermitted);
                }
                set.kill_suidgid = true;
                set.kill_setgid = !caller.counts_as_member(attr.gid);
            }
        } else if set.kill_suidgid {
            set.kill_setgid = self.is_stranger(header, node);
        }
        self.fs.setattr(caller, node, &set)
    }

    /// Takes the bits away before a change of the content about which the kernel says nothing.
    pub(crate) fn strip(&self, header: &Header, node: NodeId) -> Result<(), Error> {
        let Some(attr) = self.privileged(node) else { return Ok(()) };
        let caller = Credentials::of(header.pid);
        if caller.keeps_bits() { Ok(()) } else { self.strip_from(&attr, &caller, node) }
    }

    /// Takes the bits away before a write by a caller of whom the kernel says that it may not keep them.
    ///
    /// A caller that does not wait for the reply, as with asynchronous direct writes, is not looked at: it may
    /// be about to end, and whoever reads its /proc then may have to end it, which waits for this very write.
    /// It counts as a member of the group that it acts as alone.
    pub(crate) fn strip_for_write(
        &self,
        header: &Header,
        node: NodeId,
        direct: bool,
    ) -> Result<(), Error> {
        let Some(attr) = self.privileged(node) else { return Ok(()) };
        let waits = !direct || syscall::writes(header.pid);
        let caller =
            if waits { Credentials::of(header.pid) } else { Credentials::member_of(header.gid) };
        self.strip_from(&attr, &caller, node)
    }

    /// The kernel does not expect that these operations change a file's mode, and would go by what it has
    /// in its cache when the file is executed.
    fn strip_from(&self, attr: &Attr, caller: &Credentials, node: NodeId) -> Result<(), Error> {
        if lost(attr, caller) == 0 {
            return Ok(());
        }
        let kill_setgid = !caller.counts_as_member(attr.gid);
        let set = SetAttr { kill_suidgid: true, kill_setgid, ..SetAttr::default() };
        // The request itself is still to be carried out.
        self.fs.volume().pool().aside(|| self.fs.setattr(&Caller::root(), node, &set))?;
        self.notifier.inval_attributes(node.0).map_err(|error| Error::Io(error.to_string()))
    }

    fn is_regular(&self, node: NodeId) -> bool {
        node.is_live() && self.fs.getattr(node).is_ok_and(|attr| attr.kind() == FileKind::Regular)
    }

    fn is_capable(&self, node: NodeId) -> bool {
        node.is_live() && self.fs.getxattr(node, b"security.capability").is_ok()
    }

    /// Whether the file has a set-group-id bit that only members of its group keep, and the caller is none.
    fn is_stranger(&self, header: &Header, node: NodeId) -> bool {
        self.privileged(node).is_some_and(|attr| {
            attr.mode & (SETGID | GROUP_EXECUTE) == SETGID
                && !Credentials::of(header.pid).counts_as_member(attr.gid)
        })
    }

    /// The attributes of a file that has a set-user-id or set-group-id bit. What else there is to say
    /// about the node, the operation itself will say.
    fn privileged(&self, node: NodeId) -> Option<Attr> {
        let attr = self.fs.getattr(node).ok()?;
        let bits = attr.mode & (SETUID | SETGID) != 0;
        (bits && attr.kind() == FileKind::Regular && node.is_live()).then_some(attr)
    }
}
