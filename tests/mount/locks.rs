//! Locks: kept by the kernel.

use std::fs::{File, OpenOptions};

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

use crate::support::TestMount;

#[test]
fn flock_excludes_another_open() {
    let m = TestMount::new();
    let first = File::create(m.path("f")).unwrap();
    let second = OpenOptions::new().write(true).open(m.path("f")).unwrap();
    flock(&first, FlockOperation::NonBlockingLockExclusive).unwrap();
    let refused = flock(&second, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(Errno::WOULDBLOCK));
    drop(first);
    flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn record_locks_exclude_another_process() {
    let m = TestMount::new();
    let file = File::create(m.path("f")).unwrap();
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let script = "use Fcntl; open(F, '+<', $ARGV[0]) or exit 3; \
                  exit(fcntl(F, F_SETLK, pack('s s l! l! i', F_WRLCK, 0, 0, 0, 0)) ? 0 : 1)";
    let attempt = || {
        std::process::Command::new("perl").args(["-e", script]).arg(m.path("f")).status().unwrap()
    };
    assert_eq!(attempt().code(), Some(1));
    drop(file);
    assert_eq!(attempt().code(), Some(0));
}
