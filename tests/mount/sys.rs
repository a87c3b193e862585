//! System calls of the tests that have no safe wrapper.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

fn outcome(returned: libc::c_long) -> Result<libc::c_long, Errno> {
    if returned >= 0 {
        return Ok(returned);
    }
    Err(Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap()))
}

/// Gives this thread a working directory and a umask of its own.
pub(crate) fn leave_shared_directory() {
    // SAFETY: `unshare` with a flag that touches no memory.
    outcome(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_FS) }).unwrap();
}

/// Makes this thread, and no other, an ordinary user. libc's wrappers would change all threads.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) {
    // SAFETY: `groups` is as long as it says, and the other calls pass integers.
    unsafe {
        outcome(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr())).unwrap();
        outcome(libc::syscall(libc::SYS_setresgid, gid, gid, gid)).unwrap();
        outcome(libc::syscall(libc::SYS_setresuid, uid, uid, uid)).unwrap();
    }
}

/// `faccessat2` and the old `access`, in one.
pub(crate) fn faccess(dir: RawFd, name: &str, mode: i32, flags: i32) -> Result<(), Errno> {
    let name = CString::new(name).unwrap();
    // SAFETY: the name ends with a NUL.
    let done = unsafe { libc::syscall(libc::SYS_faccessat2, dir, name.as_ptr(), mode, flags) };
    outcome(done).map(|_| ())
}

/// `linkat` by an open descriptor (AT_EMPTY_PATH).
pub(crate) fn link_descriptor(fd: impl AsFd, to: &Path) -> Result<(), Errno> {
    let to = CString::new(to.as_os_str().as_bytes()).unwrap();
    let fd = fd.as_fd().as_raw_fd();
    let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: both names end with a NUL.
    let done = unsafe { libc::linkat(fd, empty, libc::AT_FDCWD, to.as_ptr(), flags) };
    outcome(done.into()).map(|_| ())
}
