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
use super::batch::{Ahead, Behind};
use super::decode::{Header, Request};
use super::device::Received;
use super::dispatch::{Context, Scratch, finish};
use super::in_flight::{Inbox, Left, Noted};
use super::lane::{Job, Lane, Lanes};
use super::patience::Patience;
use super::reply::Reply;
use super::sys::{self, SharedMemory};
use crate::device::{Wait, watch_waits};

/// Room for the largest request: its payload, and headers, names and extensions.
pub(crate) const REQUEST_BYTES: usize = MAX_PAYLOAD_BYTES + (64 << 10);
/// Where a WRITE's payload begins: behind `fuse_in_header` and `fuse_write_in`.
pub(crate) const WRITE_PAYLOAD_AT: usize = IN_HEADER_BYTES + 40;
pub(crate) const PAGE: usize = 4096;
/// What takes so long to copy and to verify that another worker is better called to the next request.
const LARGE_BYTES: usize = 32 << 10;

/// A buffer that lies such that byte `aligned_at` begins a page, with every page of it in memory.
#[derive(Debug)]
pub(crate) struct PageBuffer {
    memory: Memory,
    start: usize,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    Own(Vec<u8>),
    Shared(SharedMemory),
}

impl PageBuffer {
    pub(crate) fn new(len: usize, aligned_at: usize) -> Self {
        let mut memory = vec![0u8; len + PAGE];
        memory.fill(1);
        sys::lock_in_memory(&memory);
        Self::within(Memory::Own(memory), len, aligned_at)
    }

    /// In memory that is a page longer than `len`, and keeps its content.
    pub(crate) fn shared(memory: SharedMemory, len: usize, aligned_at: usize) -> Self {
        Self::within(Memory::Shared(memory), len, aligned_at)
    }

    fn within(mut memory: Memory, len: usize, aligned_at: usize) -> Self {
        let address = memory.bytes().as_ptr().addr() + aligned_at;
        let start = address.next_multiple_of(PAGE) - address;
        PageBuffer { memory, start, len }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.memory.bytes().get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl Memory {
    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Memory::Own(memory) => memory,
            Memory::Shared(memory) => memory.bytes(),
        }
    }
}

/// Serves requests until the kernel ends the session, that first which an earlier process has left in `inbox`.
pub(crate) fn serve(context: &Context, lanes: &Lanes, inbox: &mut Inbox) {
    if !sys::become_io_flusher() {
        tracing::debug!("the worker stays subject to write-back throttling");
    }
    let mut scratch = Scratch::new();
    let (crew, device) = (Arc::clone(&context.crew), Arc::clone(&context.device));
    watch_waits(move |wait| match wait {
        Wait::Begins => {
            // Where nobody is there, the others wait for this one.
            crew.may_wait(&crew.reads, || device.has_more());
        }
        Wait::Lasted(time) => crew.reads.took(time, device.has_more()),
    });
    let noted = inbox.noted();
    if let Some(bytes) = inbox.left() {
        take_on(context, lanes, Arrived { bytes, again: true, noted }, &mut scratch);
    }
    let (mut patience, mut ahead) = (Patience::new(), Ahead::default());
    loop {
        context.crew.wait_for_turn();
        patience.look(|| context.device.has_more());
        match context.device.receive(inbox.open()) {
            Ok(Received::Request(len)) => {
                patience.ends();
                let noted = inbox.noted();
                let bytes = inbox.request(len).unwrap_or_default();
                let behind = match &context.in_flight {
                    // There is a place for one.
                    Some(_) => Behind::default(),
                    None => ahead.read(&context.device, bytes),
                };
                context.crew.received();
                let mut take_on = |bytes, noted| {
                    take_on(context, lanes, Arrived { bytes, again: false, noted }, &mut scratch);
                };
                if behind.small_writes.is_empty() {
                    take_on(bytes, noted);
                } else {
                    let all = [&[bytes], &behind.small_writes[..]].concat();
                    if !context.write_together(&all) {
                        all.into_iter().for_each(|bytes| take_on(bytes, None));
                    }
                }
                behind.other.into_iter().for_each(|bytes| take_on(bytes, None));
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

/// A request that is to be carried out.
struct Arrived<'a> {
    bytes: &'a [u8],
    /// An earlier process may have carried it out.
    again: bool,
    /// Where it is kept until its reply has been sent.
    noted: Option<Noted>,
}

/// Carries a request out, or hands it to the lane that it belongs to.
fn take_on(context: &Context, lanes: &Lanes, arrived: Arrived<'_>, scratch: &mut Scratch) {
    let Arrived { bytes, again, noted } = arrived;
    let (mut header, body, extensions) = match Header::decode(bytes) {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!(%error, len = bytes.len(), "a request without a usable header");
            return;
        }
    };
    // As from kernels that send again what they wait for, and nothing else.
    if again && !(header.wants_reply() && context.device.waits_for(header.unique)) {
        return;
    }
    header.again |= again;
    let mut reply = Reply::new(Arc::clone(&context.device), header.unique, header.wants_reply());
    reply.noted(noted);
    if header.again {
        reply.comes_again(context.fs.volume().pool());
    }
    match Request::decode_body(header, body, extensions) {
        Ok(request) => match context.lane_of(&request) {
            // It waits for the disk, and for nothing else: a worker can do so while another one goes on.
            Some(Lane::Sync) if request.operation.is_fsync() && may_fsync(context) => {
                let begun = Instant::now();
                carry_out(context, request, reply, scratch);
                context.crew.fsyncs.took(begun.elapsed(), false);
            }
            Some(lane) => hand_over(context, lanes, lane, bytes, reply, header.again),
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

/// Puts a request into a lane, where the worker's next one does not overwrite it.
fn hand_over(
    context: &Context,
    lanes: &Lanes,
    lane: Lane,
    bytes: &[u8],
    mut reply: Reply,
    again: bool,
) {
    if let Some(in_flight) = &context.in_flight {
        let Some(noted) = in_flight.note(bytes) else {
            tracing::error!(len = bytes.len(), "a request can't be kept while it waits");
            return reply.error(libc::ENOMEM);
        };
        reply.noted(Some(noted));
    }
    lanes.submit(lane, Job { bytes: bytes.to_vec(), reply, again });
}

/// Takes up what an earlier process had in its lanes.
pub(crate) fn take_up(context: &Context, lanes: &Lanes, left: Vec<Left>) {
    for Left { bytes, noted } in left {
        let Ok((header, ..)) = Header::decode(&bytes) else { continue };
        if !header.wants_reply() || !context.device.waits_for(header.unique) {
            continue;
        }
        let lane = Request::decode(&bytes).ok().and_then(|request| context.lane_of(&request));
        let mut reply = Reply::new(Arc::clone(&context.device), header.unique, true);
        reply.noted(Some(noted));
        reply.comes_again(context.fs.volume().pool());
        lanes.submit(lane.unwrap_or(Lane::Sync), Job { bytes, reply, again: true });
    }
}

/// Whether the worker that has read an fsync may carry it out: others are not kept waiting.
fn may_fsync(context: &Context) -> bool {
    let crew = &context.crew;
    crew.may_wait(&crew.fsyncs, || context.device.has_more())
}

/// Runs a job that a worker put off; returns one that has to wait in [`Lane::Room`].
pub(crate) fn run_job(
    context: &Context,
    lane: Lane,
    job: Job,
    scratch: &mut Scratch,
) -> Option<Job> {
    let mut request = match Request::decode(&job.bytes) {
        Ok(request) => request,
        Err(_) => {
            job.reply.error(libc::EIO);
            return None;
        }
    };
    request.header.again |= job.again;
    let thread = request.header.pid;
    let asks = context.asks_before_writing(&request);
    match lane {
        Lane::Room => {
            if let Err(error) = context.admit(thread) {
                finish(job.reply, Err::<(), _>(error), |reply, ()| reply.ok());
                return None;
            }
        }
        _ if context.waits_for_room(&request) => context.make_room(),
        _ if asks && !context.admits_at_once(thread) => return Some(job),
        _ => {}
    }
    carry_out(context, request, job.reply, scratch);
    None
}

/// Runs the handler; a panic in it is logged, and the dropped [`Reply`] answers EIO.
fn carry_out(context: &Context, request: Request<'_>, reply: Reply, scratch: &mut Scratch) {
    let (opcode, node) = (request.header.opcode, request.header.node);
    let handler = AssertUnwindSafe(|| context.dispatch(request, reply, scratch));
    if catch_unwind(handler).is_err() {
        tracing::error!(opcode, node, "a handler panicked; its caller got EIO");
    }
}
