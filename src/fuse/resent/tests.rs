//! Every request that changes something: carried out, without a kernel, by a process that dies before its reply is
//! read, and again the next one's: sent once more, or found where the first one had it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};

use super::super::abi::{IN_HEADER_BYTES, OUT_HEADER_BYTES, fattr, opcode};
use super::super::backing::Backing;
use super::super::batch::Ahead;
use super::super::device::Device;
use super::super::flush::Flusher;
use super::super::in_flight::{InFlight, Inbox};
use super::super::notify::Notifier;
use super::super::room::{Neighbours, Room};
use super::super::snapshot_dirs::SnapshotDirs;
use super::*;
use crate::device::Storage;
use crate::format::{Key, ROOT_INODE, Timestamp};
use crate::fs::{Caller, Filesystem, FsOptions, WriteFlags};
use crate::pool::{Clock, CreateOptions, OpenOptions, Pool};

const ROOT: NodeId = NodeId::ROOT;

#[derive(Default)]
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp { sec: self.0.fetch_add(1, Ordering::Relaxed), nsec: 0 }
    }
}

fn options(keep_answers: bool) -> OpenOptions {
    static NONCE: AtomicU64 = AtomicU64::new(1);
    let nonce = NONCE.fetch_add(1, Ordering::Relaxed);
    let clock = Arc::new(Ticks(AtomicI64::new(nonce as i64 * 1_000_000)));
    OpenOptions { background: false, nonce, keep_answers, ..OpenOptions::new(clock) }
}

/// A process that serves the volume, and the kernel's end of its connection.
struct Served {
    pool: Arc<Pool>,
    context: Context,
    kernel: OwnedFd,
}

/// How a request comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// The kernel sends it.
    Sent,
    /// It is in the memory that the two processes share.
    Found,
}

impl Served {
    fn new(pool: Arc<Pool>, inherited: bool, in_flight: Option<Arc<InFlight>>) -> Served {
        let volume = pool.volume("main").unwrap();
        let fs = match inherited {
            true => Filesystem::inherit(volume, FsOptions::default()),
            false => Filesystem::new(volume, FsOptions::default()),
        };
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (kernel, ours) = socketpair(family, kind, SocketFlags::empty(), None).unwrap();
        sockopt::set_socket_send_buffer_size(&kernel, 1 << 20).unwrap();
        let device = Arc::new(Device::new(ours));
        let notifier = Notifier::new(Arc::clone(&device));
        let context = Context {
            fs: Arc::new(fs.unwrap()),
            device,
            crew: Arc::default(),
            flusher: Arc::new(Flusher::new("/nowhere".into(), notifier.clone(), None)),
            snapshot_dirs: SnapshotDirs::new(notifier.clone()),
            notifier,
            room: Room::default(),
            backing: Backing::default(),
            neighbours: Neighbours::default(),
            session: 9,
            in_flight,
        };
        Served { pool, context, kernel }
    }

    /// Carries a request out; returns the errno of the reply, and what it says of a new file.
    fn serve(&self, bytes: &[u8]) -> (i32, Option<u64>) {
        self.carry_out(Request::decode(bytes).unwrap())
    }

    /// The same, and leaves the request where the kernel has put it, as if the reply had not been sent.
    fn serve_first(&self, bytes: &[u8]) -> (i32, Option<u64>) {
        let Some(in_flight) = &self.context.in_flight else { return self.serve(bytes) };
        let mut inbox = Inbox::shared(in_flight, 0).unwrap();
        assert_eq!(inbox.left(), None);
        inbox.open()[..bytes.len()].copy_from_slice(bytes);
        self.serve(inbox.request(bytes.len()).unwrap())
    }

    /// Carries a request out that has come before.
    fn serve_again(&self, bytes: &[u8]) -> (i32, Option<u64>) {
        let Some(in_flight) = &self.context.in_flight else {
            let mut bytes = bytes.to_vec();
            let unique = u64::from_ne_bytes(bytes[8..16].try_into().unwrap()) | RESENT;
            bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
            return self.serve(&bytes);
        };
        let mut inbox = Inbox::shared(in_flight, 0).unwrap();
        let mut request = Request::decode(inbox.left().expect("it is found")).unwrap();
        request.header.again = true;
        let outcome = self.carry_out(request);
        drop(inbox.noted());
        assert_eq!(inbox.left(), None);
        outcome
    }

    fn carry_out(&self, request: Request<'_>) -> (i32, Option<u64>) {
        let unique = request.header.unique;
        let makes = makes_an_entry(&request.operation);
        let reply = Reply::new(Arc::clone(&self.context.device), unique, true);
        self.context.dispatch(request, reply, &mut Scratch::new());
        let mut received = [0; 4096];
        loop {
            let (len, _) = recv(&self.kernel, &mut received[..], RecvFlags::empty()).unwrap();
            let word = |at: usize| u64::from_ne_bytes(received[at..at + 8].try_into().unwrap());
            // Notifications have no number.
            if word(8) == unique {
                let error = i32::from_ne_bytes(received[4..8].try_into().unwrap());
                let entry = makes && len > OUT_HEADER_BYTES;
                return (-error, entry.then(|| word(OUT_HEADER_BYTES)));
            }
        }
    }

    /// All that the volume is made of, times included, and its snapshots' names.
    fn state(&self) -> (Vec<(Key, Vec<u8>)>, BTreeSet<String>) {
        let volume = self.context.fs.volume();
        let source = volume.source();
        let guard = source.read().unwrap();
        let mut records = Vec::new();
        let mut visit = |key: Key, value: &[u8]| {
            records.push((key, value.to_vec()));
            ControlFlow::Continue(())
        };
        guard.reader().range(Key::MIN, Key::MAX, &mut visit).unwrap();
        drop(guard);
        let snapshots = self.pool.snapshots(volume.id()).into_iter().map(|it| it.name);
        (records, snapshots.collect())
    }

    /// The process dies; the next one knows what was answered, or not.
    fn die(self, storage: &Storage, keep_answers: bool) -> Served {
        self.pool.abandon();
        let requests = self.context.in_flight.as_ref().map(|requests| {
            InFlight::open(requests.descriptor().try_clone_to_owned().unwrap()).unwrap()
        });
        drop(self);
        let pool = Pool::open(storage.clone(), options(keep_answers)).unwrap();
        Served::new(pool, true, requests)
    }
}

/// Names of nodes that every volume of these tests has.
struct Nodes {
    file: u64,
    other: u64,
}

/// A volume with files, an empty directory `dir`, and two snapshots.
fn volume(again: Again) -> (Storage, Served, Nodes) {
    let storage = Storage::memory();
    let create = CreateOptions {
        size_bytes: Some(512 << 20),
        journal_bytes: 4 << 20,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let pool = Pool::create(storage.clone(), &create, options(false)).unwrap();
    let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
    pool.create_volume("main", &root).unwrap();
    let in_flight = (again == Again::Found).then(|| InFlight::new(2).unwrap());
    let served = Served::new(pool, false, in_flight);
    let (fs, caller) = (&served.context.fs, Caller::root());
    let make = |name: &[u8], len: usize| {
        let (entry, handle) = fs.create(&caller, ROOT, name, 0o644, libc::O_RDWR).unwrap();
        fs.write(entry.node, handle, 0, &vec![name[0]; len], WriteFlags::default()).unwrap();
        fs.setxattr(&caller, entry.node, b"user.there", b"value", 0, false).unwrap();
        fs.release(entry.node, handle);
        entry.node.0
    };
    let nodes = Nodes { file: make(b"file", 20_000), other: make(b"other", 300) };
    fs.mkdir(&caller, ROOT, b"dir", 0o755).unwrap();
    for name in ["first", "second"] {
        fs.create_snapshot(name).unwrap();
    }
    (storage, served, nodes)
}

fn request(code: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(IN_HEADER_BYTES + body.len()).unwrap();
    let mut bytes = words(&[len, code]);
    bytes.extend(longs(&[unique, node]));
    bytes.extend(words(&[0, 0, std::process::id(), 0]));
    bytes.extend(body);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

/// `fuse_setattr_in`: what is set, a size and a mode.
fn setattr(valid: u32, size: u64, mode: u32) -> Vec<u8> {
    let mut body = words(&[valid, 0]);
    body.extend(longs(&[0, size, 0, 11, 22, 33]));
    body.extend(words(&[0, 0, 0, mode, 0, 7, 8, 0]));
    body
}

fn renamed(flags: u32, names: &[u8]) -> Vec<u8> {
    [longs(&[ROOT.0]), words(&[flags, 0]), names.to_vec()].concat()
}

/// What a case sends: its name, opcode, node and body; and whether to do it twice is another thing than once.
type Case = (&'static str, u32, u64, Vec<u8>, bool);

fn cases(nodes: &Nodes) -> Vec<Case> {
    [attributes(nodes), names(nodes), snapshots(), content(nodes)].concat()
}

fn flags(flags: i32) -> u32 {
    flags.cast_unsigned()
}

fn named(front: &[u32], name: &[u8]) -> Vec<u8> {
    [words(front), name.to_vec()].concat()
}

fn attributes(nodes: &Nodes) -> Vec<Case> {
    let file = nodes.file;
    let xattr = named(&[3, flags(libc::XATTR_CREATE), 0, 0], b"user.new\0abc");
    vec![
        ("mode", opcode::SETATTR, file, setattr(fattr::MODE, 0, 0o100_600), true),
        ("owner", opcode::SETATTR, file, setattr(fattr::UID | fattr::GID, 0, 0), true),
        ("times", opcode::SETATTR, file, setattr(fattr::MTIME | fattr::ATIME_NOW, 0, 0), true),
        ("truncate", opcode::SETATTR, file, setattr(fattr::SIZE, 5000, 0), true),
        ("extend", opcode::SETATTR, file, setattr(fattr::SIZE, 50_000, 0), true),
        ("setxattr", opcode::SETXATTR, file, xattr, true),
        ("removexattr", opcode::REMOVEXATTR, file, b"user.there\0".to_vec(), true),
    ]
}

fn names(nodes: &Nodes) -> Vec<Case> {
    let (root, file) = (ROOT.0, nodes.file);
    let whiteout = renamed(libc::RENAME_WHITEOUT, b"file\0moved\0");
    vec![
        ("symlink", opcode::SYMLINK, root, b"new\0target\0".to_vec(), true),
        ("mknod", opcode::MKNOD, root, named(&[libc::S_IFIFO | 0o644, 0, 0, 0], b"new\0"), true),
        ("mkdir", opcode::MKDIR, root, named(&[0o755, 0], b"new\0"), true),
        ("unlink", opcode::UNLINK, root, b"file\0".to_vec(), true),
        ("rmdir", opcode::RMDIR, root, b"dir\0".to_vec(), true),
        (
            "rename",
            opcode::RENAME,
            root,
            [longs(&[root]), b"file\0moved\0".to_vec()].concat(),
            true,
        ),
        ("rename over", opcode::RENAME2, root, renamed(0, b"file\0other\0"), true),
        (
            "noreplace",
            opcode::RENAME2,
            root,
            renamed(libc::RENAME_NOREPLACE, b"file\0moved\0"),
            true,
        ),
        ("exchange", opcode::RENAME2, root, renamed(libc::RENAME_EXCHANGE, b"file\0other\0"), true),
        ("whiteout", opcode::RENAME2, root, whiteout, true),
        ("link", opcode::LINK, root, [longs(&[file]), b"hard\0".to_vec()].concat(), true),
    ]
}

fn snapshots() -> Vec<Case> {
    let snapshots = NodeId::snapshot_dir(ROOT_INODE).0;
    vec![
        ("snapshot", opcode::MKDIR, snapshots, named(&[0o755, 0], b"third\0"), true),
        ("delete a snapshot", opcode::RMDIR, snapshots, b"first\0".to_vec(), true),
        (
            "rename a snapshot",
            opcode::RENAME,
            snapshots,
            [longs(&[snapshots]), b"first\0last\0".to_vec()].concat(),
            true,
        ),
    ]
}

fn content(nodes: &Nodes) -> Vec<Case> {
    let (root, file) = (ROOT.0, nodes.file);
    let handle = libc::O_RDWR as u64 + 1;
    let create = |more: i32, name: &[u8]| {
        named(&[flags(libc::O_CREAT | libc::O_WRONLY | more), 0o100_644, 0, 0], name)
    };
    let copy = longs(&[handle, 100, nodes.other, handle, 50, 9000, 0]);
    let write = [
        longs(&[handle, 19_000]),
        words(&[5, 0]),
        longs(&[0]),
        words(&[flags(libc::O_RDWR), 0]),
        b"hello".to_vec(),
    ];
    let allocate = |mode: u32| [longs(&[handle, 4096, 40_000]), words(&[mode, 0])].concat();
    vec![
        ("open", opcode::OPEN, file, words(&[flags(libc::O_WRONLY | libc::O_TRUNC), 0]), true),
        ("create", opcode::CREATE, root, create(0, b"new\0"), false),
        ("create exclusively", opcode::CREATE, root, create(libc::O_EXCL, b"new\0"), true),
        ("create over", opcode::CREATE, root, create(libc::O_TRUNC, b"file\0"), true),
        ("tmpfile", opcode::TMPFILE, root, create(0, b"\0"), true),
        ("write", opcode::WRITE, file, write.concat(), true),
        ("allocate", opcode::FALLOCATE, file, allocate(0), true),
        ("punch", opcode::FALLOCATE, file, allocate(3), true),
        ("copy", opcode::COPY_FILE_RANGE, file, copy.clone(), true),
        ("copy, widely", opcode::COPY_FILE_RANGE_64, file, copy, true),
    ]
}

fn makes_an_entry(operation: &Operation<'_>) -> bool {
    matches!(
        operation,
        Operation::MkNod { .. }
            | Operation::MkDir { .. }
            | Operation::Symlink { .. }
            | Operation::Link { .. }
            | Operation::Create { .. }
            | Operation::TmpFile { .. }
    )
}

/// Whether an operation changes the volume. Reading, too, may set an access time: to any time, once or twice.
fn changes(operation: &Operation<'_>) -> Option<&'static str> {
    match operation {
        Operation::SetAttr(_) => Some("SetAttr"),
        Operation::Symlink { .. } => Some("Symlink"),
        Operation::MkNod { .. } => Some("MkNod"),
        Operation::MkDir { .. } => Some("MkDir"),
        Operation::Unlink { .. } => Some("Unlink"),
        Operation::RmDir { .. } => Some("RmDir"),
        Operation::Rename { .. } => Some("Rename"),
        Operation::Link { .. } => Some("Link"),
        Operation::Open { .. } => Some("Open"),
        Operation::Create { .. } => Some("Create"),
        Operation::TmpFile { .. } => Some("TmpFile"),
        Operation::Write { .. } => Some("Write"),
        Operation::SetXattr { .. } => Some("SetXattr"),
        Operation::RemoveXattr { .. } => Some("RemoveXattr"),
        Operation::Fallocate { .. } => Some("Fallocate"),
        Operation::CopyFileRange(_) => Some("CopyFileRange"),
        Operation::Lookup { .. }
        | Operation::Forget { .. }
        | Operation::BatchForget { .. }
        | Operation::GetAttr { .. }
        | Operation::ReadLink
        | Operation::Read { .. }
        | Operation::StatFs
        | Operation::Release { .. }
        | Operation::Fsync { .. }
        | Operation::GetXattr { .. }
        | Operation::ListXattr { .. }
        | Operation::Flush
        | Operation::OpenDir
        | Operation::ReadDir { .. }
        | Operation::ReleaseDir { .. }
        | Operation::FsyncDir { .. }
        | Operation::Access
        | Operation::Interrupt
        | Operation::Bmap
        | Operation::Destroy
        | Operation::NotifyReply
        | Operation::Lseek { .. }
        | Operation::SyncFs
        | Operation::Statx
        | Operation::Unknown => None,
    }
}

#[test]
fn there_is_a_case_for_every_operation_that_changes_something() {
    let (_, _, nodes) = volume(Again::Sent);
    let tried: BTreeSet<_> = cases(&nodes)
        .iter()
        .filter_map(|(_, code, node, body, _)| {
            changes(&Request::decode(&request(*code, 2, *node, body)).unwrap().operation)
        })
        .collect();
    // As many as `changes` names.
    assert_eq!(tried.len(), 16, "{tried:?}");
}

/// Carries a case out, lets the process die and has the request come again; returns what is wrong with that.
fn done_again(case: usize, again: Again, keep_answers: bool) -> Option<String> {
    let (storage, first, nodes) = volume(again);
    let (name, code, node, body, _) = cases(&nodes).swap_remove(case);
    let bytes = request(code, 2, node, &body);
    let before = first.state();
    let answer = first.serve_first(&bytes);
    assert_eq!(answer.0, 0, "{name} does not work");
    let once = first.state();
    assert_ne!(before, once, "{name} changes nothing");
    let next = first.die(&storage, keep_answers);
    assert_eq!(next.state(), once, "{name} has not survived");
    let reply = next.serve_again(&bytes);
    if reply != answer {
        return Some(format!("{name}: the reply is {reply:?}, was {answer:?}"));
    }
    (next.state() != once).then(|| format!("{name}: it was carried out twice"))
}

fn each_is_answered_once(again: Again) {
    let (_, _, nodes) = volume(again);
    let wrong: Vec<_> =
        (0..cases(&nodes).len()).filter_map(|case| done_again(case, again, true)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_was_carried_out_is_answered_and_not_carried_out_again() {
    each_is_answered_once(Again::Sent);
}

#[test]
fn so_it_is_where_the_kernel_does_not_send_it_again() {
    each_is_answered_once(Again::Found);
}

/// The fault that the tests above are there to find.
#[test]
fn a_process_that_has_forgotten_the_answers_is_found_out() {
    let (_, _, nodes) = volume(Again::Sent);
    for (case, (name, .., differs)) in cases(&nodes).iter().enumerate() {
        let wrong = done_again(case, Again::Sent, false);
        assert_eq!(wrong.is_some(), *differs, "{name}: {wrong:?}");
    }
}

#[test]
fn what_was_not_carried_out_is_carried_out() {
    let (_, _, nodes) = volume(Again::Sent);
    for case in 0..cases(&nodes).len() {
        let (storage, first, nodes) = volume(Again::Sent);
        let (name, code, node, body, _) = cases(&nodes).swap_remove(case);
        let before = first.state();
        let next = first.die(&storage, true);
        assert_eq!(next.serve_again(&request(code, 2, node, &body)).0, 0, "{name}");
        assert_ne!(next.state(), before, "{name}");
    }
}

#[test]
fn an_answer_is_kept_until_the_reply_of_who_may_ask_for_it() {
    let (storage, first, _) = volume(Again::Sent);
    let bytes = request(opcode::UNLINK, 2, ROOT.0, b"file\0");
    assert_eq!(first.serve(&bytes).0, 0);
    let next = first.die(&storage, true);
    let earlier = next.pool.earlier_answers();
    let mut waits = Reply::new(Arc::clone(&next.context.device), 4, true);
    waits.comes_again(&next.pool);
    // All mounts have been taken over, and all requests been read.
    drop(earlier);
    assert_eq!(next.serve_again(&bytes).0, 0, "it is answered, though there is no such file");
    waits.none();
    assert_eq!(next.serve_again(&bytes).0, libc::ENOENT);
}

/// A WRITE of the kernel's page cache.
fn cached_write(unique: u64, node: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    const WRITE_CACHE: u32 = 1;
    let len = u32::try_from(data.len()).unwrap();
    let front = [longs(&[libc::O_RDWR as u64 + 1, offset]), words(&[len, WRITE_CACHE])];
    let rest = [longs(&[0]), words(&[flags(libc::O_RDWR), 0]), data.to_vec()];
    request(opcode::WRITE, unique, node, &[front.concat(), rest.concat()].concat())
}

fn sent(served: &Served, bytes: &[u8]) {
    let sent = send(&served.kernel, bytes, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

/// Number and error of each reply that has come.
fn replies(served: &Served) -> Vec<(u64, i32)> {
    let mut received = [0; 4096];
    let mut all = Vec::new();
    while let Ok((len, _)) = recv(&served.kernel, &mut received[..], RecvFlags::DONTWAIT) {
        assert!(len >= OUT_HEADER_BYTES);
        let unique = u64::from_ne_bytes(received[8..16].try_into().unwrap());
        all.push((unique, i32::from_ne_bytes(received[4..8].try_into().unwrap())));
    }
    all
}

#[test]
fn small_writes_that_were_read_together_are_carried_out_together_once() {
    const B: u64 = 4096;
    let (storage, first, nodes) = volume(Again::Sent);
    let writes: Vec<_> = [(2, 1), (9, 2), (0, 3), (1, 4), (30, 5)]
        .iter()
        .zip(1..)
        .map(|((block, byte), number)| {
            cached_write(number * 2, nodes.file, block * B, &[*byte; B as usize])
        })
        .collect();
    let unaligned = cached_write(20, nodes.file, 5, b"hello");
    for bytes in [&writes[1..], std::slice::from_ref(&unaligned), &writes[..1]].concat() {
        sent(&first, &bytes);
    }
    let mut ahead = Ahead::default();
    let behind = ahead.read(&first.context.device, &writes[0]);
    assert_eq!(behind.small_writes, &writes[1..], "up to the one that is something else");
    assert_eq!(behind.other, Some(&unaligned[..]));
    let flags = rustix::fs::fcntl_getfl(first.context.device.as_fd()).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "the next one is waited for");
    let used_bytes = || first.pool.status().journal_used_bytes;
    let before = used_bytes();
    first.serve(&cached_write(100, nodes.other, 8192, &[6; B as usize]));
    let one = used_bytes() - before;
    let all = [&[&writes[0][..]], &behind.small_writes[..]].concat();
    assert!(first.context.write_together(&all));
    assert_eq!(replies(&first), [2, 4, 6, 8, 10].map(|unique| (unique, 0)));
    assert!(used_bytes() - before < one * 3, "one record, not five");
    let mut content = [0; 40 * B as usize];
    let node = NodeId(nodes.file);
    let len = first.context.fs.read(node, crate::fs::Handle(0), 0, &mut content).unwrap();
    assert_eq!(len as u64, 31 * B);
    let at = |block: u64| content[(block * B) as usize];
    assert_eq!([0, 1, 2, 3, 9, 30].map(at), [3, 4, 1, b'f', 2, 5]);
    let once = first.state();
    let next = first.die(&storage, true);
    for bytes in &writes {
        assert_eq!(next.serve_again(bytes), (0, None));
    }
    assert_eq!(next.state(), once, "none is carried out twice");
}

#[test]
fn what_is_read_ahead_is_small_and_not_too_much() {
    let (_storage, served, nodes) = volume(Again::Sent);
    let block = [1; 4096];
    let first = cached_write(2, nodes.file, 0, &block);
    let mut ahead = Ahead::default();
    let read = |ahead: &mut Ahead, first: &[u8]| {
        let behind = ahead.read(&served.context.device, first);
        (behind.small_writes.len(), behind.other.map(<[u8]>::len))
    };
    assert_eq!(read(&mut ahead, &first), (0, None), "nothing is there");
    for number in 2..=32 {
        sent(&served, &cached_write(number * 2, nodes.file, number * 8192, &block));
    }
    assert_eq!(read(&mut ahead, &first), (31, None));
    let fsync = request(opcode::FSYNC, 4, nodes.file, &[longs(&[1]), words(&[0, 0])].concat());
    assert_eq!(read(&mut ahead, &fsync), (0, None), "behind what is no write");
    sent(&served, &first);
    let direct = [&first[..60], &[0], &first[61..]].concat();
    assert_eq!(read(&mut ahead, &direct), (0, None), "behind what does not come from the cache");
    assert_eq!(read(&mut ahead, &cached_write(2, nodes.other, 0, &block)), (0, Some(4176)));
    assert_eq!(read(&mut ahead, &cached_write(2, nodes.file, 0, &[1; 20_480])), (0, None));
    // In the leaf it can't be together with others.
    let inline =
        [cached_write(2, nodes.other, 0, &block), cached_write(4, nodes.other, 8192, &block)];
    let before = served.state();
    assert!(!served.context.write_together(&[&inline[0], &inline[1]]));
    assert_eq!(served.state(), before);
    assert_eq!(replies(&served), []);
}
