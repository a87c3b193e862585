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
    // F_SETLK is 6 and F_WRLCK is 1.
    let script = "open(my $f, '+<', $ARGV[0]) or exit 3; \
                  my $lock = pack('s s x4 q q i x4', 1, 0, 0, 0, 0); \
                  exit(fcntl($f, 6, $lock) ? 0 : 1)";
    let attempt = || {
        std::process::Command::new("perl").args(["-e", script]).arg(m.path("f")).status().unwrap()
    };
    assert_eq!(attempt().code(), Some(1));
    drop(file);
    assert_eq!(attempt().code(), Some(0));
}
