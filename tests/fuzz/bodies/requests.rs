//! The whole FUSE adapter with the fuzzer in the kernel's place: requests of every kind, sound and not, and what
//! the kernel would say to the replies. The volume stays sound, and goes on being served.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amberfs::check::{Options, check};
use amberfs::device::Storage;
use amberfs::fs::Filesystem;
use amberfs::fuse::fuzzing::{IN_HEADER_BYTES, Session, decodes, opcode};

use super::Input;
use super::limits::{Calls, MAX_SERVING_BYTES, begin_serving, check_serving, within_bounds};
use super::operations::volume;
use super::wire::Known;

/// Requests of one input.
const MAX_STEPS: usize = 60;
/// Requests that are on their way at the same time, and fit into the socket.
const MAX_BURST: usize = 4;
/// Longest time until a reply comes, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of `fuse_out_header`.
const OUT: usize = 16;
/// More than any reply has.
const MAX_REPLY: usize = (1 << 20) + 4096;
/// Payloads from which on a socket of somebody who is not root may be too small.
const LARGE: usize = 64 << 10;
/// Sizes of `fuse_entry_out`, `fuse_attr_out` and `fuse_open_out`.
const ENTRY: usize = 128;
const ATTR: usize = 104;
const OPEN: usize = 16;
const DIRENT: usize = 24;

/// Longest time once a reply has not come: where one is missing, many are.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// A reply has not come, and nobody had planted that.
static OVERDUE: AtomicBool = AtomicBool::new(false);
/// One session at a time, so that what its threads do is known to be its doing.
static SERVING: Mutex<()> = Mutex::new(());

/// What becomes of a reply on its way to the kernel.
type Way = fn(u64, Vec<u8>) -> Vec<Vec<u8>>;

/// Serves what the input says.
pub(crate) fn run(data: &[u8]) {
    run_by(data, PATIENCE, |_, reply| vec![reply]);
}

/// The fifth reply has the number of another request.
pub(crate) fn planted_other_number(data: &[u8]) {
    run_by(data, PATIENCE, |nth, mut reply| {
        reply[8] ^= u8::from(nth == 4) << 1;
        vec![reply]
    });
}

/// The fifth reply does not come.
pub(crate) fn planted_lost_reply(data: &[u8]) {
    let patience = Duration::from_millis(300);
    run_by(data, patience, |nth, reply| vec![reply; usize::from(nth != 4)]);
}

/// The fifth reply comes twice.
pub(crate) fn planted_second_reply(data: &[u8]) {
    run_by(data, PATIENCE, |nth, reply| vec![reply; 1 + usize::from(nth == 4)]);
}

/// Replies with a payload are eight bytes longer, and say so.
pub(crate) fn planted_longer_reply(data: &[u8]) {
    run_by(data, PATIENCE, |_, mut reply| {
        if reply.len() > OUT {
            reply.extend([0; 8]);
            let len = reply.len() as u32;
            reply[..4].copy_from_slice(&len.to_ne_bytes());
        }
        vec![reply]
    });
}

/// A thread allocates what a request says.
pub(crate) fn planted_without_bound(data: &[u8]) {
    run_by(data, PATIENCE, |nth, reply| {
        if nth == 4 {
            let serve = || drop(std::hint::black_box(vec![0u8; 2 * MAX_SERVING_BYTES]));
            std::thread::spawn(serve).join().expect("there is so much");
        }
        vec![reply]
    });
}

/// A thread that serves panics, and answers.
pub(crate) fn planted_panic(data: &[u8]) {
    run_by(data, PATIENCE, |nth, reply| {
        if nth == 4 {
            let serve = || panic!("on purpose");
            let thread = std::thread::Builder::new().name("fuse-planted".into());
            drop(thread.spawn(serve).expect("a thread").join());
        }
        vec![reply]
    });
}

fn run_by(data: &[u8], patience: Duration, way: Way) {
    within_bounds(|| {
        let mut input = Input::new(data);
        let shape = input.u8();
        let memory = Storage::memory();
        let (calls, storage) = Calls::wrap(&memory);
        // Little room makes the kernel ask before it writes.
        let (pool, fs) = volume(storage, if shape & 1 == 0 { 8 << 20 } else { 512 << 20 });
        let fs = Arc::new(fs);
        {
            let _alone = SERVING.lock().unwrap_or_else(PoisonError::into_inner);
            let burst = if shape & 2 == 0 { 1 } else { MAX_BURST };
            begin_serving();
            serve(&mut input, fs, burst, (patience, way));
            check_serving();
        }
        assert!(pool.status().read_only.is_none(), "{:?}", pool.status().read_only);
        pool.close().expect("it closes");
        calls.check();
        let options = Options { data: true, ..Options::default() };
        let report = check(&memory, &options, &mut |_| {}).expect("it is a pool");
        assert!(report.is_clean(), "{:#?}", report.problems);
    });
}

fn serve(input: &mut Input<'_>, fs: Arc<Filesystem>, burst: usize, how: (Duration, Way)) {
    let session = Session::new(fs).expect("it is served");
    let known = Known { nodes: vec![1, 1 << 62 | 1], handles: vec![3, 1, 2] };
    let (buffer, (patience, way)) = (vec![0; MAX_REPLY], how);
    let waiting = HashMap::new();
    let mut kernel = Kernel { session, known, waiting, replies: 0, buffer, patience, way };
    for step in 1..=MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let request = kernel.known.request(input, 2 * step as u64);
        kernel.send(&request);
        if kernel.waiting.len() >= burst {
            kernel.wait();
        }
    }
    kernel.wait();
    kernel.end();
}

/// A request that is to be answered.
struct Asked {
    code: u32,
    body: Vec<u8>,
    /// Not by EIO: the pool is sound.
    whole: bool,
}

/// The other end of the session.
struct Kernel {
    session: Session,
    known: Known,
    waiting: HashMap<u64, Asked>,
    replies: u64,
    buffer: Vec<u8>,
    patience: Duration,
    way: Way,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |field| u32::from_ne_bytes(field.try_into().expect("four")))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |field| u64::from_ne_bytes(field.try_into().expect("eight")))
}

/// Whether a request is one that is answered: the others have no number that can be relied on, or want none.
fn is_answered(bytes: &[u8]) -> bool {
    let extensions = u32_at(bytes, 36) as usize % (1 << 16) * 8;
    let lone = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT, opcode::NOTIFY_REPLY];
    bytes.len() >= IN_HEADER_BYTES + extensions
        && u32_at(bytes, 0) as usize == bytes.len()
        && !lone.contains(&u32_at(bytes, 4))
}

impl Kernel {
    fn send(&mut self, request: &[u8]) {
        loop {
            match self.session.send(request) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.waiting.is_empty() => {
                    self.wait();
                }
                // Larger than the socket takes.
                Err(error) if request.len() > LARGE => return drop(error),
                Err(error) => panic!("a request can't be sent: {error}"),
            }
        }
        if is_answered(request) {
            let asked = Asked {
                code: u32_at(request, 4),
                body: request[IN_HEADER_BYTES..].to_vec(),
                whole: decodes(request),
            };
            self.waiting.insert(u64_at(request, 8), asked);
        }
    }

    /// Waits for all replies.
    fn wait(&mut self) {
        while !self.waiting.is_empty() {
            let overdue = OVERDUE.load(Ordering::Relaxed);
            let came = self.receive(if overdue { IMPATIENCE } else { self.patience });
            OVERDUE.fetch_or(!came && self.patience == PATIENCE, Ordering::Relaxed);
            let mut codes: Vec<_> = self.waiting.values().map(|asked| asked.code).collect();
            codes.sort_unstable();
            assert!(came, "no reply comes to the opcodes {codes:?}");
        }
    }

    /// Takes what comes in time, a reply or a notification; false if there is nothing.
    fn receive(&mut self, timeout: Duration) -> bool {
        let received =
            self.session.receive(&mut self.buffer, timeout).expect("the socket is there");
        let Some(len) = received else { return false };
        let reply = self.buffer.get(..len).expect("a reply is not so long").to_vec();
        assert!(len >= OUT && u32_at(&reply, 0) as usize == len, "a reply's length: {reply:x?}");
        if u64_at(&reply, 8) == 0 {
            // FUSE_NOTIFY_INVAL_INODE.
            assert!(u32_at(&reply, 4) == 2 && len == OUT + 24, "a notification: {reply:x?}");
            return true;
        }
        for reply in (self.way)(self.replies, reply) {
            self.judge(&reply);
        }
        self.replies += 1;
        true
    }

    /// What the kernel does with a reply.
    fn judge(&mut self, reply: &[u8]) {
        let unique = u64_at(reply, 8);
        let asked = self.waiting.remove(&unique);
        let asked = asked.unwrap_or_else(|| panic!("nobody waits for a reply to {unique:x}"));
        let Asked { code, body, whole } = asked;
        let (error, payload) = (u32_at(reply, 4).cast_signed(), &reply[OUT..]);
        assert!((-511..=0).contains(&error), "opcode {code}: error {error}");
        if error != 0 {
            assert!(payload.is_empty(), "opcode {code}: an error with a payload");
            let refused = most(code, &body).is_some_and(|most| most > LARGE);
            assert!(error != -libc::EIO || !whole || refused, "opcode {code}: EIO on a sound pool");
            return;
        }
        match most(code, &body) {
            Some(most) => {
                assert!(payload.len() <= most, "opcode {code}: {} of {most} bytes", payload.len());
            }
            None => assert_eq!(payload.len(), exactly(code), "opcode {code}: the payload"),
        }
        self.look_at(code, &body, payload);
    }

    /// What a payload says can be, and is known from now on.
    fn look_at(&mut self, code: u32, body: &[u8], payload: &[u8]) {
        match code {
            opcode::LOOKUP if u64_at(payload, 0) == 0 => {}
            opcode::LOOKUP | opcode::MKNOD | opcode::MKDIR | opcode::SYMLINK | opcode::LINK => {
                self.entry(payload);
            }
            opcode::CREATE | opcode::TMPFILE => {
                self.entry(payload);
                self.known.handles.push(u64_at(payload, ENTRY));
            }
            opcode::OPEN | opcode::OPENDIR => self.known.handles.push(u64_at(payload, 0)),
            opcode::GETATTR | opcode::SETATTR => attributes(&payload[16..]),
            opcode::READDIR => {
                self.listing(payload, false);
            }
            opcode::READDIRPLUS => self.listing(payload, true),
            opcode::WRITE => assert!(u32_at(payload, 0) <= u32_at(body, 16), "more is written"),
            opcode::COPY_FILE_RANGE => {
                assert!(u64::from(u32_at(payload, 0)) <= u64_at(body, 40), "more is copied");
            }
            opcode::COPY_FILE_RANGE_64 => {
                assert!(u64_at(payload, 0) <= u64_at(body, 40), "more is copied");
            }
            opcode::LSEEK => {
                let (from, to) = (u64_at(body, 8), u64_at(payload, 0));
                assert!((from..=i64::MAX as u64).contains(&to), "sought from {from} to {to}");
            }
            _ => {}
        }
    }

    fn entry(&mut self, entry: &[u8]) {
        let node = u64_at(entry, 0);
        assert!(node != 0, "an entry without a node");
        attributes(&entry[ENTRY - 88..]);
        self.known.nodes.push(node);
    }

    /// The entries of a directory, one behind the other.
    fn listing(&mut self, mut rest: &[u8], plus: bool) {
        let prefix = if plus { ENTRY } else { 0 };
        while !rest.is_empty() {
            assert!(rest.len() >= prefix + DIRENT, "a listing ends within an entry");
            let len = u32_at(rest, prefix + 16) as usize;
            let name = rest.get(prefix + DIRENT..prefix + DIRENT + len);
            let name = name.expect("a listing ends within a name");
            assert!((1..=255).contains(&len) && !name.contains(&b'/') && !name.contains(&0));
            if plus && u64_at(rest, 0) != 0 {
                self.entry(&rest[..ENTRY]);
            }
            let whole = (prefix + DIRENT + len).next_multiple_of(8);
            rest = rest.get(whole..).expect("a listing ends within an entry");
        }
    }

    /// The session still answers, and ends.
    fn end(mut self) {
        for (unique, code, len) in [(1 << 20, opcode::GETATTR, 16), (1 << 21, opcode::STATFS, 0)] {
            let mut request =
                [(IN_HEADER_BYTES as u32 + len).to_ne_bytes(), code.to_ne_bytes()].concat();
            for field in [unique, 1, 0, u64::from(std::process::id())] {
                request.extend(field.to_ne_bytes());
            }
            request.extend(vec![0; len as usize]);
            self.send(&request);
            self.wait();
        }
        assert!(self.session.end(PATIENCE).expect("the socket is there"), "a thread does not end");
        while self.receive(Duration::ZERO) {}
    }
}

/// Attributes that the kernel takes: of a file of some type, and not longer than files can be.
fn attributes(attr: &[u8]) {
    let (size, kind) = (u64_at(attr, 8), u32_at(attr, 60) & libc::S_IFMT);
    assert!(size <= i64::MAX as u64, "a size of {size}");
    let kinds = [
        libc::S_IFREG,
        libc::S_IFDIR,
        libc::S_IFLNK,
        libc::S_IFIFO,
        libc::S_IFSOCK,
        libc::S_IFCHR,
        libc::S_IFBLK,
    ];
    assert!(kinds.contains(&kind), "a file of the type {kind:o}");
}

/// The most bytes of a reply whose length is not fixed.
fn most(code: u32, body: &[u8]) -> Option<usize> {
    match code {
        opcode::READ | opcode::READDIR | opcode::READDIRPLUS => Some(u32_at(body, 16) as usize),
        opcode::GETXATTR | opcode::LISTXATTR => match u32_at(body, 0) {
            0 => None,
            size => Some(size as usize),
        },
        // A page, with a NUL that is added.
        opcode::READLINK => Some(4095),
        _ => None,
    }
}

/// The bytes of a reply whose length is fixed.
fn exactly(code: u32) -> usize {
    match code {
        opcode::LOOKUP | opcode::MKNOD | opcode::MKDIR | opcode::SYMLINK | opcode::LINK => ENTRY,
        opcode::CREATE | opcode::TMPFILE => ENTRY + OPEN,
        opcode::OPEN | opcode::OPENDIR => OPEN,
        opcode::GETATTR | opcode::SETATTR => ATTR,
        opcode::STATX => 288,
        opcode::STATFS => 80,
        opcode::WRITE | opcode::LSEEK | opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => 8,
        opcode::GETXATTR | opcode::LISTXATTR => 8,
        _ => 0,
    }
}
