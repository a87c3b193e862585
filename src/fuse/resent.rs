//! Requests that come again, to a daemon that has taken a mount over from a dead one: the kernel sends them, with a
//! mark in their number, or they are found where the dead one had them ([`super::in_flight`]).
//!
//! One that the dead daemon had carried out is in the pool's journal ([`crate::pool::Pool::answer_to`]): its reply
//! is made again, and it is not carried out a second time. All others are carried out as if they had come for
//! the first time: they had changed nothing.

use super::abi::RESENT;
use super::decode::{Header, Operation, Request};
use super::dispatch::{Context, Scratch, finish};
use super::encode::{Out, count};
use super::reply::Reply;
use crate::format::RequestId;
use crate::fs::NodeId;

impl Context {
    /// What the journal knows a request by.
    pub(crate) fn request_id(&self, header: &Header) -> RequestId {
        RequestId { session: self.session, unique: header.unique & !RESENT }
    }

    /// Carries a request out and replies, or only replies if it has been carried out.
    pub(crate) fn dispatch(&self, request: Request<'_>, reply: Reply, scratch: &mut Scratch) {
        let id = self.request_id(&request.header);
        let pool = self.fs.volume().pool();
        if request.header.again
            && let Some(result) = pool.answer_to(id)
        {
            return self.reply_again(&request, result, reply);
        }
        pool.carry_out(id, || self.carry_out(request, reply, scratch));
    }

    /// Makes the reply to a request that has been carried out.
    fn reply_again(&self, request: &Request<'_>, result: u64, reply: Reply) {
        /// Flags of an open that have had their effect.
        const DONE: i32 = libc::O_TRUNC | libc::O_CREAT | libc::O_EXCL;
        let node = NodeId(request.header.node);
        match request.operation {
            Operation::MkNod { .. }
            | Operation::MkDir { .. }
            | Operation::Symlink { .. }
            | Operation::Link { .. } => self.entry(reply, self.fs.made(node, result)),
            Operation::Create { flags, .. } | Operation::TmpFile { flags, .. } => {
                let created = self.fs.made(node, result).and_then(|entry| {
                    let handle = self.fs.open(entry.node, flags.cast_signed() & !DONE);
                    handle
                        .map(|handle| (entry, handle))
                        .inspect_err(|_| self.take_back(entry.node, 1))
                });
                self.created(reply, created);
            }
            Operation::Open { flags, .. } => {
                self.opened(node, self.fs.open(node, flags.cast_signed() & !DONE), reply);
            }
            Operation::SetAttr(_) => finish(reply, self.fs.getattr(node), |reply, attr| {
                reply.data(self.out().attr_out(node, &attr).bytes());
            }),
            Operation::Write { .. } => reply.data(count(result).bytes()),
            Operation::CopyFileRange(copy) => reply.data(copied(copy.wide, result).bytes()),
            // A snapshot's deletion or new name must be durable, as the first time.
            Operation::RmDir { .. } | Operation::Rename { .. } => {
                finish(reply, self.fs.syncfs(), |reply, ()| reply.ok());
            }
            _ => reply.ok(),
        }
    }
}

/// The reply to COPY_FILE_RANGE, or to its wider form.
pub(crate) fn copied(wide: bool, len: u64) -> Out {
    if wide {
        let mut out = Out::new();
        out.u64(len);
        out
    } else {
        count(len)
    }
}

#[cfg(test)]
mod tests;
