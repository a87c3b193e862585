//! Waiting for signals, for which there is no safe wrapper.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

/// The signals that end a run in an orderly way.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

fn ending() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given room for, and cannot fail; sigaddset
    // changes an initialised set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks the ending signals in this thread and those it starts from now on.
pub(crate) fn block_signals() -> io::Result<()> {
    let set = ending();
    // SAFETY: the set is initialised, and no old set is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Waits until one of the blocked signals comes.
pub(crate) fn wait_for_signal() -> io::Result<()> {
    let set = ending();
    let mut signal = 0;
    // SAFETY: both pointers are to live, initialised values of the right types.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
