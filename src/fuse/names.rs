//! Operations on names: lookup, forget, and everything that adds, moves or removes a name.

use super::decode::{Forgets, Header, Operation};
use super::dispatch::{Context, done, finish};
use super::encode::Out;
use super::policy;
use super::reply::Reply;
use crate::fs::{Caller, NodeId};

impl Context {
    pub(crate) fn lookup(&self, caller: &Caller, parent: NodeId, name: &[u8], reply: Reply) {
        // The flush opens by handles what the kernel has; that it asks means that it has not.
        if name == b"." && self.flusher.is_flushing(caller.pid) {
            return reply.error(libc::ESTALE);
        }
        match self.fs.lookup(caller, parent, name) {
            Err(error) if error.errno() == libc::ENOENT && policy::caches_absence(parent) => {
                reply.data(Out::new().no_entry().bytes());
            }
            result => self.entry(reply, result),
        }
    }

    pub(crate) fn forget(&self, node: NodeId, count: u64, reply: Reply) {
        reply.none();
        self.take_back(node, count);
    }

    pub(crate) fn batch_forget(&self, forgets: Forgets<'_>, reply: Reply) {
        reply.none();
        let mut nodes = Vec::new();
        forgets.for_each(|node, count| {
            self.snapshot_dirs.forgotten(NodeId(node), count);
            nodes.push((NodeId(node), count));
        });
        self.fs.forget_many(&nodes);
    }

    pub(crate) fn change_names(
        &self,
        operation: Operation<'_>,
        header: &Header,
        caller: impl FnOnce(u32) -> Caller,
        reply: Reply,
    ) {
        let parent = NodeId(header.node);
        match operation {
            Operation::MkNod { name, mode, rdev, umask } => {
                self.entry(reply, self.fs.mknod(&caller(umask), parent, name, mode, rdev));
            }
            Operation::MkDir { name, mode, umask } => {
                self.entry(reply, self.fs.mkdir(&caller(umask), parent, name, mode));
            }
            Operation::Symlink { name, target } => {
                self.entry(reply, self.fs.symlink(&caller(0), parent, name, target));
            }
            Operation::Link { node, new_name } => {
                self.entry(reply, self.fs.link(NodeId(node), parent, new_name));
            }
            Operation::Unlink { name } => {
                done(reply, self.fs.unlink(&caller(0), parent, name));
            }
            Operation::RmDir { name } if parent.is_snapshot_dir() => {
                self.remove_snapshot(&caller(0), parent, name, reply);
            }
            Operation::RmDir { name } => done(reply, self.fs.rmdir(&caller(0), parent, name)),
            Operation::Rename { name, new_parent, new_name, flags } => {
                let new_parent = NodeId(new_parent);
                let caller = caller(0);
                done(reply, self.fs.rename(&caller, parent, name, new_parent, new_name, flags));
            }
            _ => reply.error(libc::ENOSYS),
        }
    }

    /// Deletes a snapshot, then makes the kernel ask again about it wherever it was seen.
    fn remove_snapshot(&self, caller: &Caller, parent: NodeId, name: &[u8], reply: Reply) {
        let view = self.fs.lookup(caller, parent, name).map(|entry| entry.node);
        let result = self.fs.rmdir(caller, parent, name);
        let removed = result.is_ok();
        finish(reply, result, |reply, ()| reply.ok());
        if let (true, Ok(view)) = (removed, view) {
            self.snapshot_dirs.drop_snapshot(view);
        }
    }
}
