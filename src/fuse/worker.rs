//! Threads that read requests and carry them out.
//!
//! A worker answers a request before it reads the next one, except for those that may wait long or
//! that wait for other requests of the same mount: they go to a [`Lane`], and the worker is free.
//!
//! Invariant 1: nothing that a worker does itself waits for another request to be served.
//! Invariant 2: the buffers are touched before the first request, and locked where that is allowed, so
//! that the kernel never has to fault one in while it copies. A process that is killed in such a fault ends
//! the copy, and its caller gets EIO: the only request that no successor could go on with.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::abi::{IN_HEADER_BYTES, MAX_PAYLOAD_BYTES};
use super::decode::{Header, Request};
use super::device::Received;
use super::dispatch::{Context, Scratch};
use super::lane::{Job, Lane, Lanes};
use super::patience::Patience;
use super::reply::Reply;
use super::sys;
use crate::device::{Wait, watch_waits};

/// Room for the largest request: its payload, and headers, names and extensions.
const REQUEST_BYTES: usize = MAX_PAYLOAD_BYTES + (64 << 10);
/// Where a WRITE's payload begins: behind `fuse_in_header` and `fuse_write_in`.
const WRITE_PAYLOAD_AT: usize = IN_HEADER_BYTES + 40;
const PAGE: usize = 4096;
/// What takes so long to copy and to verify that another worker is better called to the next request.
const LARGE_BYTES: usize = 32 << 10;

/// A buffer that lies such that byte `aligned_at` begins a page, with every page of it in memory.
#[derive(Debug)]
pub(crate) struct PageBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl PageBuffer {
    pub(crate) fn new(len: usize, aligned_at: usize) -> Self {
        let mut memory = vec![0u8; len + PAGE];
        memory.fill(1);
        sys::lock_in_memory(&memory);
        let address = memory.as_ptr().addr() + aligned_at;
        let start = address.next_multiple_of(PAGE) - address;
        PageBuffer { memory, start, len }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

/// Serves requests until the kernel ends the session.
pub(crate) fn serve(context: &Context, lanes: &Lanes) {
    if !sys::become_io_flusher() {
        tracing::debug!("the worker stays subject to write-back throttling");
    }
    let mut buffer = PageBuffer::new(REQUEST_BYTES, WRITE_PAYLOAD_AT);
    let mut scratch = Scratch::new();
    let (crew, device) = (Arc::clone(&context.crew), Arc::clone(&context.device));
    watch_waits(move |wait| match wait {
        Wait::Begins => {
            // Where nobody is there, the others wait for this one.
            crew.may_wait(&crew.reads, || device.has_more());
        }
        Wait::Lasted(time) => crew.reads.took(time, device.has_more()),
    });
    let mut patience = Patience::new();
    loop {
        context.crew.wait_for_turn();
        patience.look(|| context.device.has_more());
        match context.device.receive(buffer.bytes()) {
            Ok(Received::Request(len)) => {
                context.crew.received();
                patience.ends();
                if let Some(bytes) = buffer.bytes().get(..len) {
                    take_on(context, lanes, bytes, &mut scratch);
                }
            }
            Ok(Received::End) => {
                context.crew.end();
                return;
            }
            Err(error) => {
                context.crew.received();
                context.crew.call();
                tracing::error!(%error, "reading from /dev/fuse failed; this worker ends");
                return;
            }
        }
    }
}

/// Carries a request out, or hands it to the lane that it belongs to.
fn take_on(context: &Context, lanes: &Lanes, bytes: &[u8], scratch: &mut Scratch) {
    let (header, body, extensions) = match Header::decode(bytes) {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!(%error, len = bytes.len(), "a request without a usable header");
            return;
        }
    };
    let reply = Reply::new(Arc::clone(&context.device), header.unique, header.wants_reply());
    match Request::decode_body(header, body, extensions) {
        Ok(request) => match context.lane_of(&request) {
            // It waits for the disk, and for nothing else: a worker can do so while another one goes on.
            Some(Lane::Sync) if request.operation.is_fsync() && may_fsync(context) => {
                let begun = Instant::now();
                carry_out(context, request, reply, scratch);
                context.crew.fsyncs.took(begun.elapsed(), false);
            }
            Some(lane) => lanes.submit(lane, Job { bytes: bytes.to_vec(), reply }),
            None => {
                if request.operation.payload_bytes() >= LARGE_BYTES && context.device.has_more() {
                    context.crew.call();
                }
                carry_out(context, request, reply, scratch);
            }
        },
        Err(error) => {
            tracing::error!(%error, opcode = header.opcode, "a request that cannot be decoded");
            reply.error(libc::EIO);
        }
    }
}

/// Whether the worker that has read an fsync may carry it out: others are not kept waiting.
fn may_fsync(context: &Context) -> bool {
    let crew = &context.crew;
    crew.may_wait(&crew.fsyncs, || context.device.has_more())
}

/// Runs a job that a worker put off.
pub(crate) fn run_job(context: &Context, job: Job, scratch: &mut Scratch) {
    let decoded = Header::decode(&job.bytes)
        .and_then(|(header, body, extensions)| Request::decode_body(header, body, extensions));
    match decoded {
        Ok(request) => carry_out(context, request, job.reply, scratch),
        Err(_) => job.reply.error(libc::EIO),
    }
}

/// Runs the handler; a panic in it is logged, and the dropped [`Reply`] answers EIO.
fn carry_out(context: &Context, request: Request<'_>, reply: Reply, scratch: &mut Scratch) {
    let (opcode, node) = (request.header.opcode, request.header.node);
    let handler = AssertUnwindSafe(|| context.dispatch(request, reply, scratch));
    if catch_unwind(handler).is_err() {
        tracing::error!(opcode, node, "a handler panicked; its caller got EIO");
    }
}
