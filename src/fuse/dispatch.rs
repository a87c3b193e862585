//! From a decoded request to a call of the file system, and back to a reply.
//!
//! The operations on names are in [`super::names`], those on open files and directories in
//! [`super::files`]; here is what they share, and everything about one node.

use std::sync::Arc;

use super::abi::MAX_PAYLOAD_BYTES;
use super::backing::Backing;
use super::credentials::Credentials;
use super::crew::Crew;
use super::decode::{Header, Operation, Request};
use super::device::Device;
use super::encode::Out;
use super::flush::Flusher;
use super::in_flight::InFlight;
use super::lane::Lane;
use super::notify::Notifier;
use super::policy::Attributes;
use super::reply::Reply;
use super::room::{Neighbours, Room};
use super::snapshot_dirs::SnapshotDirs;
use super::worker::PageBuffer;
use crate::format::NODE_SIZE;
use crate::fs::{Caller, Entry, Error, Filesystem, Handle, NodeId};

/// What every thread that serves a mount shares.
pub(crate) struct Context {
    pub(crate) fs: Arc<Filesystem>,
    pub(crate) device: Arc<Device>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) notifier: Notifier,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) room: Room,
    pub(crate) backing: Backing,
    pub(crate) neighbours: Neighbours,
    /// Names the kernel's connection, in the journal too.
    pub(crate) session: u64,
    pub(crate) snapshot_dirs: SnapshotDirs,
    /// For a kernel that can't send requests again.
    pub(crate) in_flight: Option<Arc<InFlight>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("device", &self.device).finish_non_exhaustive()
    }
}

/// A thread's buffer for payloads of replies: as large as the largest, page-aligned.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    buffer: Option<PageBuffer>,
}

impl Scratch {
    /// Allocates nothing until the first use.
    pub(crate) fn new() -> Self {
        Scratch::default()
    }

    /// The first `len` bytes, at most [`MAX_PAYLOAD_BYTES`].
    pub(crate) fn take(&mut self, len: u32) -> &mut [u8] {
        let buffer = self.buffer.get_or_insert_with(|| PageBuffer::new(MAX_PAYLOAD_BYTES, 0));
        let len = (len as usize).min(MAX_PAYLOAD_BYTES);
        buffer.bytes().get_mut(..len).unwrap_or_default()
    }
}

impl Context {
    /// Says which lane a request belongs to, if it must not hold up a worker.
    pub(crate) fn lane_of(&self, request: &Request<'_>) -> Option<Lane> {
        let node = NodeId(request.header.node);
        match &request.operation {
            _ if self.waits_for_room(request) => Some(Lane::Sync),
            // The flush before a snapshot waits for its own FSYNCs, which have nothing to do.
            Operation::Fsync { .. } if self.flusher.is_flushing(request.header.pid) => None,
            Operation::Fsync { .. }
            | Operation::FsyncDir { .. }
            | Operation::SyncFs
            | Operation::Fallocate { .. }
            | Operation::CopyFileRange(_) => Some(Lane::Sync),
            // Its caller may not have got to sleep, by which is seen what it does.
            Operation::GetAttr { .. } => self.asks_before_writing(request).then_some(Lane::Sync),
            Operation::Lseek { .. } => self.is_open_for_write(node).then_some(Lane::Sync),
            Operation::MkDir { .. } | Operation::RmDir { .. } => {
                node.is_snapshot_dir().then_some(Lane::Snapshot)
            }
            Operation::Rename { new_parent, .. } => {
                // One between a `.snapshots` and a live directory is refused at once: queued behind a
                // flush, it would hold the lock of a directory that the flush may have to look into.
                let within = node.is_snapshot_dir() && NodeId(*new_parent).is_snapshot_dir();
                within.then_some(Lane::Snapshot)
            }
            _ => None,
        }
    }

    /// Whether the kernel may hold pages of the node that have not come here.
    pub(crate) fn is_open_for_write(&self, node: NodeId) -> bool {
        node.is_live() && self.fs.open_for_write().contains(&node)
    }

    /// Carries out a request and replies.
    pub(super) fn carry_out(&self, request: Request<'_>, reply: Reply, scratch: &mut Scratch) {
        let Request { header, groups, operation } = request;
        let caller = |umask| caller(&header, groups, umask);
        let node = NodeId(header.node);
        if operation.most_bytes_taken().is_some() {
            self.look_at_room(NODE_SIZE as u64);
        }
        match operation {
            Operation::Lookup { name } => self.lookup(&caller(0), node, name, reply),
            Operation::Forget { count } => self.forget(node, count, reply),
            Operation::BatchForget { forgets } => self.batch_forget(forgets, reply),
            Operation::GetAttr { .. } => self.getattr(node, reply),
            Operation::Statx => self.statx(node, reply),
            Operation::SetAttr(set) => {
                let attr = self.setattr(&header, &caller(0), node, set);
                finish(reply, attr, |reply, attr| {
                    reply.data(self.out().attr_out(node, &attr).bytes());
                });
            }
            Operation::ReadLink => {
                finish(reply, self.fs.readlink(node), |reply, target| reply.data(&target));
            }
            Operation::Symlink { .. }
            | Operation::MkNod { .. }
            | Operation::MkDir { .. }
            | Operation::Unlink { .. }
            | Operation::RmDir { .. }
            | Operation::Rename { .. }
            | Operation::Link { .. } => self.change_names(operation, &header, caller, reply),
            Operation::SetXattr { name, value, flags, kill_sgid } => {
                let caller = caller(0);
                done(reply, self.fs.setxattr(&caller, node, name, value, flags, kill_sgid));
            }
            Operation::GetXattr { name, size } => {
                sized(reply, self.fs.getxattr(node, name), size);
            }
            Operation::ListXattr { size } => {
                sized(reply, self.listxattr(&caller(0), node), size);
            }
            Operation::RemoveXattr { name } => {
                done(reply, self.fs.removexattr(&caller(0), node, name));
            }
            Operation::StatFs => finish(reply, self.fs.statfs(node), |reply, s| {
                reply.data(Out::new().statfs(&s).bytes());
            }),
            Operation::SyncFs => done(reply, self.fs.syncfs()),
            Operation::Destroy => reply.ok(),
            // Nothing here waits for long but what must: an interrupted caller gets its reply.
            Operation::Interrupt | Operation::NotifyReply => reply.none(),
            // Answered so once, and never asked again.
            Operation::Flush | Operation::Access | Operation::Bmap | Operation::Unknown => {
                reply.error(libc::ENOSYS);
            }
            operation => self.use_file(operation, &header, caller, reply, scratch),
        }
    }

    /// Who may see `trusted.*` names must be found out where the kernel does not say who asks.
    fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>, Error> {
        if !caller.is_unknown() {
            return self.fs.listxattr(caller, node);
        }
        let names = self.fs.listxattr(&Caller::root(), node)?;
        let trusted = names.split(|&byte| byte == 0).any(|name| name.starts_with(b"trusted."));
        if trusted && !Credentials::of(caller.pid).has_sys_admin() {
            return self.fs.listxattr(caller, node);
        }
        Ok(names)
    }

    /// Begins a reply with attributes.
    pub(crate) fn out(&self) -> Out {
        Out::with(self.attributes())
    }

    /// Whether the kernel keeps attributes now.
    pub(crate) fn attributes(&self) -> Attributes {
        if self.room.is_short() { Attributes::Asked } else { Attributes::Kept }
    }

    fn getattr(&self, node: NodeId, reply: Reply) {
        finish(reply, self.fs.getattr(node), |reply, attr| {
            reply.data(self.out().attr_out(node, &attr).bytes());
        });
    }

    /// Whether the kernel may ask for a file's size because it is about to write.
    pub(crate) fn asks_before_writing(&self, request: &Request<'_>) -> bool {
        let Operation::GetAttr { handle: Some(handle) } = request.operation else { return false };
        self.room.is_short() && NodeId(request.header.node).is_live() && Handle(handle).writes()
    }

    fn statx(&self, node: NodeId, reply: Reply) {
        finish(reply, self.fs.getattr(node), |reply, attr| {
            reply.data(self.out().statx(node, &attr).bytes());
        });
    }

    /// Replies with an entry. Its lookup is taken back if the kernel did not get it.
    pub(crate) fn entry(&self, reply: Reply, result: Result<Entry, Error>) {
        finish(reply, result, |reply, entry| {
            self.snapshot_dirs.looked_up(entry.node);
            if !reply.deliver(self.out().entry(&entry).bytes()) {
                self.take_back(entry.node, 1);
            }
        });
    }

    /// Takes lookups back.
    pub(crate) fn take_back(&self, node: NodeId, count: u64) {
        self.snapshot_dirs.forgotten(node, count);
        self.fs.forget(node, count);
    }
}

/// Who calls, in the file system's terms.
fn caller(header: &Header, groups: Vec<u32>, umask: u32) -> Caller {
    Caller { uid: header.uid, gid: header.gid, pid: header.pid, umask, groups }
}

/// Replies with the error, or with what `success` sends.
pub(crate) fn finish<T>(reply: Reply, result: Result<T, Error>, success: impl FnOnce(Reply, T)) {
    match result {
        Ok(value) => success(reply, value),
        Err(error) => reply.error(error.errno()),
    }
}

/// Replies without a payload.
pub(crate) fn done(reply: Reply, result: Result<(), Error>) {
    finish(reply, result, |reply, ()| reply.ok());
}

/// Replies to GETXATTR and LISTXATTR: the value, or its size where the caller asks with size 0.
fn sized(reply: Reply, result: Result<Vec<u8>, Error>, size: u32) {
    finish(reply, result, |reply, value| {
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        match size {
            0 => reply.data(Out::new().u32(len).u32(0).bytes()),
            size if len > size => reply.error(libc::ERANGE),
            _ => reply.data(&value),
        }
    });
}
