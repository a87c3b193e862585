//! What the memory of requests keeps from one process to the next.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::*;
use crate::fuse::abi::opcode;
use crate::fuse::refuse_everything;

fn request(unique: u64, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + body.len()).unwrap();
    let mut bytes = [len, opcode::FSYNC].map(u32::to_ne_bytes).concat();
    bytes.extend([unique, 1].map(u64::to_ne_bytes).concat());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

/// As the kernel does it.
fn put(inbox: &mut Inbox, bytes: &[u8]) {
    inbox.open()[..bytes.len()].copy_from_slice(bytes);
}

/// What the next process has.
fn next(all: Arc<InFlight>) -> Arc<InFlight> {
    let file = all.descriptor().try_clone_to_owned().unwrap();
    drop(all);
    InFlight::open(file).unwrap()
}

/// Numbers of all requests that an earlier process has left.
fn left_uniques(all: &Arc<InFlight>) -> HashSet<u64> {
    let left = all.left();
    let mut uniques: HashSet<u64> = left.iter().filter_map(|left| wanting(&left.bytes)).collect();
    // They stay, for whoever asks next.
    std::mem::forget(left);
    for worker in 0..all.workers() {
        uniques.extend(Inbox::shared(all, worker).unwrap().left().and_then(wanting));
    }
    uniques
}

/// What a process leaves that is killed when its last worker has read a request, and another waits in a lane.
fn left_behind(workers: usize, read: u64, in_a_lane: u64) -> Arc<InFlight> {
    let all = InFlight::new(workers).unwrap();
    let mut inbox = Inbox::shared(&all, workers - 1).unwrap();
    put(&mut inbox, &request(read, b""));
    std::mem::forget(all.note(&request(in_a_lane, b"")).unwrap());
    next(all)
}

#[test]
fn what_has_no_reply_is_found_and_what_has_one_is_not() {
    let all = InFlight::new(3).unwrap();
    let mut inboxes = [0, 1, 2].map(|worker| Inbox::shared(&all, worker).unwrap());
    let long = request(8, &[7; 1 << 20]);
    put(&mut inboxes[0], &long);
    put(&mut inboxes[1], &request(10, b"answered"));
    drop(inboxes[1].noted());
    // Read, and nothing came.
    inboxes[2].open();
    let answered = all.note(&request(12, b"answered")).unwrap();
    let left = all.note(&request(14, b"left")).unwrap();
    drop(answered);
    // Of a process that is killed nothing is dropped.
    std::mem::forget(left);
    drop(inboxes);

    let all = next(all);
    assert_eq!(all.workers(), 3);
    let mut inboxes = [0, 1, 2].map(|worker| Inbox::shared(&all, worker).unwrap());
    assert!(inboxes[0].left() == Some(&long[..]));
    assert_eq!(inboxes[1].left(), None);
    assert_eq!(inboxes[2].left(), None);
    let left = all.left();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].bytes, request(14, b"left"));
    drop(left);
    drop(inboxes[0].noted());
    assert!(left_uniques(&next(all)).is_empty());
}

#[test]
fn a_request_that_is_in_two_places_is_one() {
    // Killed between the two steps in which a request goes to a lane.
    let all = left_behind(1, 6, 6);
    assert_eq!(left_uniques(&all), HashSet::from([6]));
    let mut inbox = Inbox::shared(&all, 0).unwrap();
    inbox.forget(&[]);
    assert!(inbox.left().is_some());
    let left = all.left();
    inbox.forget(&left);
    assert_eq!(inbox.left(), None);
}

#[test]
fn slots_are_used_again_and_their_number_is_the_limit() {
    let all = InFlight::new(1).unwrap();
    let bytes = request(6, b"");
    for _ in 0..2 {
        let noted: Vec<_> = (0..SLOTS).map(|_| all.note(&bytes).unwrap()).collect();
        assert!(all.note(&bytes).is_none());
        drop(noted);
    }
    assert!(all.note(&request(6, &[0; SLOT_BYTES])).is_none());
    std::mem::forget(all.note(&bytes).unwrap());
    // The next process has one less until it has replied.
    let all = next(all);
    let left = all.left();
    assert_eq!((left.len(), all.free.lock().len()), (1, SLOTS - 1));
    drop(left);
    assert_eq!(all.free.lock().len(), SLOTS);
}

#[test]
fn what_another_program_has_left_is_refused() {
    let file =
        || -> File { rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap().into() };
    assert!(InFlight::open(file().into()).is_err());
    for words in [[MAGIC + 1, 1, 1], [MAGIC, 0, 1], [MAGIC, u64::MAX, u64::MAX]] {
        let file = file();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&words.map(u64::to_ne_bytes).concat(), 0).unwrap();
        assert!(InFlight::open(file.into()).is_err(), "{words:x?}");
    }
}

#[test]
fn who_can_serve_nothing_refuses_what_was_left_and_what_comes() {
    let requests = left_behind(2, 8, 10).descriptor().try_clone_to_owned().unwrap();
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::empty());
    let (kernel, session) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
    set_socket_timeout(&kernel, Timeout::Recv, Some(Duration::from_secs(10))).unwrap();
    let refusing = std::thread::spawn(|| refuse_everything(session, Some(requests)));
    send(&kernel, &request(12, b"comes"), SendFlags::empty()).unwrap();
    let mut refused = HashMap::new();
    for _ in 0..3 {
        let mut reply = [0; 64];
        let (_, len) = recv(&kernel, &mut reply[..], RecvFlags::empty()).unwrap();
        assert_eq!(len, 16);
        let unique = u64::from_ne_bytes(reply[8..16].try_into().unwrap());
        refused.insert(unique, -i32::from_ne_bytes(reply[4..8].try_into().unwrap()));
    }
    assert_eq!(refused, HashMap::from([8, 10, 12].map(|unique| (unique, libc::EIO))));
    drop(kernel);
    refusing.join().unwrap().unwrap();
}
