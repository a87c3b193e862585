//! Signals: blocked in every thread, and taken by one that waits for them.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

/// The signals that end a daemon in an orderly way.
const TERMINATING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

fn terminating() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given room for, and cannot fail; sigaddset
    // changes an initialised set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in TERMINATING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks the terminating signals in this thread and those it starts from now on.
pub(super) fn block_signals() -> io::Result<()> {
    let set = terminating();
    // SAFETY: the set is initialised, and no old set is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Waits until one of the blocked signals comes, and returns its number.
pub(super) fn wait_for_signal() -> io::Result<i32> {
    let set = terminating();
    let mut signal = 0;
    // SAFETY: both pointers are to live, initialised values of the right types.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(signal),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
