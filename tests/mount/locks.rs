//! Locks and leases: kept by the kernel, between open files and between processes.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

use crate::support::TestMount;
use crate::sys::{Child, fcntl, record_lock};
use crate::twin::{Log, alike};

const READ: i32 = libc::F_RDLCK;
const WRITE: i32 = libc::F_WRLCK;
const NONE: i32 = libc::F_UNLCK;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// What a child process finds out about the file; it has to open it itself.
fn child(path: &Path, attempt: impl Fn(&File) -> Result<i32, Errno>) -> i32 {
    Child::run(&[], || match File::options().read(true).write(true).open(path) {
        Ok(file) => attempt(&file).map_or_else(Errno::raw_os_error, |kind| 1000 + kind),
        Err(_) => 2,
    })
    .wait()
}

/// A process that has done something to the file and waits; ended by `kill`.
fn holder(path: &Path, take: impl Fn(&File) -> bool) -> Child {
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    let child = Child::run(&[&theirs], || {
        let Ok(file) = File::options().read(true).write(true).open(path) else { return 1 };
        if !take(&file) || rustix::io::write(&theirs, b"x").is_err() {
            return 2;
        }
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    });
    drop(theirs);
    assert_eq!(rustix::io::read(&ours, &mut [0u8; 1]), Ok(1), "the child has its lock");
    child
}

fn try_flock(file: &File, exclusive: bool) -> Result<i32, Errno> {
    let how = if exclusive {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    flock(file, how).map(|()| 0)
}

#[test]
fn flock_excludes_other_opens_and_processes() {
    alike(|root, log| {
        let path = root.join("f");
        let (first, second) = (open(&path), open(&path));
        log.note("first", try_flock(&first, true));
        log.note("another open", try_flock(&second, true));
        log.note("another open, shared", try_flock(&second, false));
        log.note("another process", child(&path, |file| try_flock(file, false)));
        log.note("shared now", try_flock(&first, false));
        log.note("another process", child(&path, |file| try_flock(file, false)));
        log.note("exclusively", child(&path, |file| try_flock(file, true)));
        let copy = first.try_clone().unwrap();
        drop(first);
        log.note("a copy of the descriptor holds it", try_flock(&second, true));
        drop(copy);
        // A child that another test has just forked may hold it for a moment more.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while try_flock(&second, true).is_err() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        log.note("then it is free", try_flock(&second, true));
    });
}

type Attempt<'a> = &'a dyn Fn(&File) -> Result<i32, Errno>;

#[test]
fn locks_end_with_the_process_that_holds_them() {
    alike(|root, log| {
        let path = root.join("f");
        let file = open(&path);
        let posix = |kind| move |file: &File| record_lock(file, libc::F_SETLK, kind, 10, 20);
        let ofd = |kind| move |file: &File| record_lock(file, libc::F_OFD_SETLK, kind, 10, 20);
        let flocked = |file: &File| try_flock(file, true);
        let attempts: [(&str, Attempt<'_>); 3] = [
            ("record", &posix(WRITE)),
            ("open file description", &ofd(WRITE)),
            ("flock", &flocked),
        ];
        for (name, attempt) in attempts {
            let process = holder(&path, |file| attempt(file).is_ok());
            log.note(format!("{name}, while it lives"), attempt(&file));
            process.kill();
            log.note(format!("{name}, after its death"), attempt(&file));
            let _ = record_lock(&file, libc::F_SETLK, NONE, 0, 0);
            let _ = record_lock(&file, libc::F_OFD_SETLK, NONE, 0, 0);
            flock(&file, FlockOperation::Unlock).unwrap();
        }
    });
}

fn ranges(root: &Path, log: &mut Log, set: i32, get: i32) {
    let path = root.join("f");
    let file = open(&path);
    log.note("a range", record_lock(&file, set, WRITE, 100, 100));
    for (start, len) in [(0, 100), (0, 101), (150, 10), (199, 1), (200, 50), (0, 0)] {
        for kind in [READ, WRITE] {
            let seen = child(&path, |file| record_lock(file, set, kind, start, len));
            log.note(format!("{start}+{len} of kind {kind}"), seen);
            let found = child(&path, |file| record_lock(file, get, kind, start, len));
            log.note(format!("{start}+{len} of kind {kind}, asked"), found);
        }
    }
    log.note("shared", record_lock(&file, set, READ, 100, 100));
    log.note("shared by another", child(&path, |file| record_lock(file, set, READ, 150, 10)));
    log.note("a piece goes", record_lock(&file, set, NONE, 120, 10));
    log.note("the piece", child(&path, |file| record_lock(file, set, WRITE, 120, 10)));
    log.note("beside it", child(&path, |file| record_lock(file, set, WRITE, 119, 10)));
    let again = open(&path);
    log.note("by another open here", record_lock(&again, set, WRITE, 100, 5));
    drop(again);
    // POSIX: closing any descriptor of the file lets go of the process's record locks.
    log.note("after its close", child(&path, |file| record_lock(file, set, WRITE, 100, 5)));
    let reading = File::open(&path).unwrap();
    log.note("for writing, open for reading", record_lock(&reading, set, WRITE, 500, 5));
}

#[test]
fn record_locks_are_of_processes() {
    alike(|root, log| ranges(root, log, libc::F_SETLK, libc::F_GETLK));
}

#[test]
fn record_locks_of_open_file_descriptions() {
    alike(|root, log| ranges(root, log, libc::F_OFD_SETLK, libc::F_OFD_GETLK));
}

#[test]
fn a_waiting_lock_is_given_when_the_other_ends() {
    let m = TestMount::new();
    let file = open(&m.path("f"));
    fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
    let waiter = Child::run(&[], || {
        let Ok(file) = File::options().write(true).open(m.path("f")) else { return 1 };
        fcntl_lock(&file, FlockOperation::LockExclusive).map_or(2, |()| 0)
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    fcntl_lock(&file, FlockOperation::Unlock).unwrap();
    assert_eq!(waiter.wait(), 0);
}

#[test]
fn two_that_wait_for_each_other_are_told() {
    alike(|root, log| {
        let path = root.join("f");
        let file = open(&path);
        record_lock(&file, libc::F_SETLK, WRITE, 0, 1).unwrap();
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        let other = Child::run(&[&theirs], || {
            let Ok(file) = File::options().write(true).open(&path) else { return 1 };
            if record_lock(&file, libc::F_SETLK, WRITE, 1, 1).is_err() {
                return 2;
            }
            let _ = rustix::io::write(&theirs, b"x");
            record_lock(&file, libc::F_SETLKW, WRITE, 0, 1).map_or_else(Errno::raw_os_error, |_| 0)
        });
        rustix::io::read(&ours, &mut [0u8; 1]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        log.note("here", record_lock(&file, libc::F_SETLKW, WRITE, 1, 1).map(|_| ()));
        record_lock(&file, libc::F_SETLK, NONE, 0, 0).unwrap();
        log.note("there", other.wait());
    });
}

#[test]
fn leases_are_refused_cleanly_or_kept() {
    alike(|root, log| {
        let path = root.join("f");
        drop(open(&path));
        let file = File::open(&path).unwrap();
        log.note("of a reader", fcntl(&file, libc::F_SETLEASE, READ));
        log.note("its kind", fcntl(&file, libc::F_GETLEASE, 0));
        log.note("given back", fcntl(&file, libc::F_SETLEASE, NONE));
        log.note("of a writer", fcntl(&file, libc::F_SETLEASE, WRITE));
        log.note("given back", fcntl(&file, libc::F_SETLEASE, NONE));
        let other = open(&path);
        log.note("with a writer", fcntl(&file, libc::F_SETLEASE, READ));
        drop(other);
        log.note("size of a pipe", fcntl(&file, libc::F_GETPIPE_SZ, 0));
        log.note("seals", fcntl(&file, libc::F_GET_SEALS, 0));
    });
}

#[test]
fn a_locked_file_is_still_snapshotted() {
    let m = TestMount::new();
    let file = open(&m.path("f"));
    fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    let frozen = File::open(m.path(".snapshots/s/f")).unwrap();
    // It is another file, with locks of its own.
    assert_eq!(child(&m.path(".snapshots/s/f"), |_| Ok(0)), 2, "not for writing");
    fcntl_lock(&frozen, FlockOperation::NonBlockingLockShared).unwrap();
}
