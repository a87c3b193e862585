//! Several WRITEs of the kernel's page cache, carried out as one: one piece of data, one record in the journal.
//!
//! The kernel sends what was written at random block by block. So the worker that has received a small write reads on
//! without waiting, while what comes is the same file's, and carries all of it out together
//! ([`crate::fs::Filesystem::write_together`]). Where that is not possible, or fails, each is carried out by itself.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::abi::opcode;
use super::decode::{Header, Operation, Request};
use super::device::Device;
use super::dispatch::Context;
use super::encode::count;
use super::reply::Reply;
use super::worker::{PAGE, PageBuffer, REQUEST_BYTES, WRITE_PAYLOAD_AT};
use crate::format::{Answer, BLOCK_SIZE};
use crate::fs::{NodeId, Part};

/// Most requests that are carried out together, and the largest one.
const MAX_TOGETHER: usize = 32;
const LARGEST_BYTES: usize = 16 << 10;
/// Room for the largest request behind as many as there may be.
const BUFFER_BYTES: usize = REQUEST_BYTES + MAX_TOGETHER * (LARGEST_BYTES + PAGE);

/// What a worker reads behind a small write.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    buffer: Option<PageBuffer>,
}

/// Requests that were read behind a small write.
#[derive(Debug, Default)]
pub(crate) struct Behind<'a> {
    /// Small writes to the same file.
    pub(crate) small_writes: Vec<&'a [u8]>,
    /// The last one, if it is something else.
    pub(crate) other: Option<&'a [u8]>,
}

impl Ahead {
    /// Reads what is there behind a request, if that is a small write: small writes to the same file, up to the first
    /// request that is none. Nobody else may receive meanwhile.
    pub(crate) fn read(&mut self, device: &Device, first: &[u8]) -> Behind<'_> {
        let Some(node) = small_write(first).map(|(header, _)| header.node) else {
            return Behind::default();
        };
        if !device.has_more() {
            return Behind::default();
        }
        let buffer =
            self.buffer.get_or_insert_with(|| PageBuffer::new(BUFFER_BYTES, WRITE_PAYLOAD_AT));
        let bytes = buffer.bytes();
        let mut found: Vec<Range<usize>> = Vec::with_capacity(MAX_TOGETHER);
        let joins = |request: &[u8]| small_write(request).is_some_and(|(it, _)| it.node == node);
        let received = device.receive_present(|receive| {
            let mut at = 0;
            while found.len() + 1 < MAX_TOGETHER
                && let Some(len) = bytes.get_mut(at..).and_then(receive)
            {
                found.push(at..at + len);
                if !bytes.get(at..at + len).is_some_and(joins) {
                    break;
                }
                at = (at + len).next_multiple_of(PAGE);
            }
        });
        if let Err(error) = received {
            tracing::debug!(%error, "/dev/fuse can't be read without waiting");
        }
        let bytes: &[u8] = bytes;
        let mut requests: Vec<_> = found.into_iter().filter_map(|it| bytes.get(it)).collect();
        let other = requests.pop_if(|last| !joins(last));
        Behind { small_writes: requests, other }
    }
}

/// What is written by a request that may be carried out together with others.
fn small_write(request: &[u8]) -> Option<(Header, (u64, &[u8]))> {
    let (header, body, extensions) = Header::decode(request).ok()?;
    if header.opcode != opcode::WRITE || header.again {
        return None;
    }
    match Request::decode_body(header, body, extensions).ok()?.operation {
        Operation::Write { offset, data, cached: true, kill_suidgid: false, .. }
            if data.len() <= LARGEST_BYTES && data.len().is_multiple_of(BLOCK_SIZE) =>
        {
            Some((header, (offset, data)))
        }
        _ => None,
    }
}

impl Context {
    /// Carries small writes to one file out together and replies; false if they are to be carried out one by one.
    pub(crate) fn write_together(&self, requests: &[&[u8]]) -> bool {
        let writes: Vec<_> = requests.iter().filter_map(|request| small_write(request)).collect();
        let part = |&(header, (offset, data)): &(Header, (u64, _))| Part {
            request: self.request_id(&header),
            offset,
            data,
        };
        let parts: Vec<Part<'_>> = writes.iter().map(part).collect();
        let Some((Header { node, .. }, _)) = writes.first() else { return true };
        let answer = |it: &Part<'_>| Answer { request: it.request, result: it.data.len() as u64 };
        let answers: Vec<_> = parts.iter().map(answer).collect();
        let pool = self.fs.volume().pool();
        let done = pool.carry_out_together(&answers, || {
            let written = || self.fs.write_together(NodeId(*node), &parts);
            if !matches!(catch_unwind(AssertUnwindSafe(written)), Ok(Ok(true))) {
                return false;
            }
            for (header, (_, data)) in &writes {
                let reply = Reply::new(Arc::clone(&self.device), header.unique, true);
                reply.data(count(data.len() as u64).bytes());
            }
            true
        });
        if done {
            self.look_at_room(writes.iter().map(|(_, (_, data))| data.len() as u64).sum());
        }
        done
    }
}
