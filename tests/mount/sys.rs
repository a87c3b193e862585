//! System calls of the tests that have no safe wrapper.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
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

/// Moves a process with one thread into a user namespace of its own, which maps no ids yet.
pub(crate) fn enter_user_namespace() -> bool {
    // SAFETY: `unshare` with a flag that touches no memory.
    unsafe { libc::unshare(libc::CLONE_NEWUSER) == 0 }
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

/// A process that runs a closure.
#[derive(Debug)]
pub(crate) struct Child(libc::pid_t);

impl Child {
    /// Forks. Of the descriptors it has those in `keep`: others would keep the mounts of other tests busy.
    ///
    /// The closure must take no lock that another thread may hold now: system calls and memory are all
    /// right, output and panics are not.
    pub(crate) fn run(keep: &[&OwnedFd], body: impl FnOnce() -> i32) -> Child {
        let mut keep: Vec<_> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
        keep.sort_unstable();
        // SAFETY: the child does what the caller has promised, and then ends without any destructor.
        match unsafe { libc::fork() } {
            0 => {
                close_all_but(&keep);
                let code = body();
                // SAFETY: ends the process.
                unsafe { libc::_exit(code) }
            }
            pid => Child(i32::try_from(outcome(pid.into()).unwrap()).unwrap()),
        }
    }

    /// Its number, for /proc.
    pub(crate) fn id(&self) -> i32 {
        self.0
    }

    /// Waits for its end: exit code, or the negative number of the signal that ended it.
    pub(crate) fn wait(self) -> i32 {
        let mut status = 0;
        // SAFETY: `status` is written to, and the process is a child of this one.
        outcome(unsafe { libc::waitpid(self.0, &raw mut status, 0) }.into()).unwrap();
        if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
    }

    /// Ends it by SIGKILL, and waits for that.
    pub(crate) fn kill(self) {
        // SAFETY: a signal to a child that has not been waited for.
        outcome(unsafe { libc::kill(self.0, libc::SIGKILL) }.into()).unwrap();
        self.wait();
    }
}

/// Closes every descriptor from 3 on, except for these, which are in order.
fn close_all_but(keep: &[u32]) {
    let mut first = 3;
    for last in keep.iter().copied().chain([u32::MAX]) {
        if first < last {
            // SAFETY: nobody else in this process uses a descriptor: it has one thread, and that is here.
            unsafe { libc::close_range(first, last - u32::from(last != u32::MAX), 0) };
        }
        first = last.saturating_add(1);
    }
}

/// A handle of a file, as `name_to_handle_at` gives it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHandle {
    len_bytes: u32,
    kind: i32,
    bytes: [u8; 128],
}

impl FileHandle {
    /// The handle of the same type with other bytes.
    pub(crate) fn with_bytes(&self, bytes: &[u8]) -> FileHandle {
        let mut other =
            FileHandle { len_bytes: u32::try_from(bytes.len()).unwrap(), bytes: [0; 128], ..*self };
        other.bytes[..bytes.len()].copy_from_slice(bytes);
        other
    }
}

/// Returns the handle of what a path names, a symbolic link itself.
pub(crate) fn handle_of(path: &Path) -> Result<FileHandle, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut handle = FileHandle { len_bytes: 128, kind: 0, bytes: [0; 128] };
    let mut mount = 0;
    // SAFETY: the path ends with a NUL, and `handle` has the room that it announces.
    let done = unsafe {
        let handle = (&raw mut handle).cast();
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), handle, &raw mut mount, 0)
    };
    outcome(done.into()).map(|_| handle)
}

/// Opens a file by its handle.
pub(crate) fn open_handle(
    mount: impl AsFd,
    handle: &FileHandle,
    flags: i32,
) -> Result<File, Errno> {
    let mut handle = *handle;
    let mount = mount.as_fd().as_raw_fd();
    // SAFETY: `handle` is a whole handle, and `mount` is open.
    let fd = unsafe { libc::open_by_handle_at(mount, (&raw mut handle).cast(), flags) };
    // SAFETY: the descriptor is new, so nobody else owns it.
    outcome(fd.into()).map(|_| unsafe { File::from_raw_fd(fd) })
}

/// `fcntl` with an integer.
pub(crate) fn fcntl(fd: impl AsFd, command: i32, argument: i32) -> Result<i32, Errno> {
    // SAFETY: callers pass commands that take an integer.
    outcome(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, argument) }.into())
        .map(|value| i32::try_from(value).unwrap())
}

/// A record lock: `command` is one of F_SETLK, F_OFD_SETLK, F_GETLK, F_OFD_GETLK. Returns the kind of
/// lock that F_GETLK has found.
pub(crate) fn record_lock(
    fd: impl AsFd,
    command: i32,
    kind: i32,
    start: i64,
    len: i64,
) -> Result<i32, Errno> {
    // SAFETY: a structure of integers, for which zeros are right.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap();
    (lock.l_start, lock.l_len) = (start, len);
    // SAFETY: the commands take a `struct flock`, which outlives the call.
    let done = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &raw mut lock) };
    outcome(done.into()).map(|_| lock.l_type.into())
}

/// `ioctl` on a buffer that is large enough for what the request reads and writes.
pub(crate) fn ioctl(fd: impl AsFd, request: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: callers pass a buffer with the room that the request needs.
    outcome(unsafe { libc::ioctl(fd, request, buffer.as_mut_ptr()) }.into()).map(|_| ())
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

/// `sync_file_range` over the whole file.
pub(crate) fn sync_file_range(fd: impl AsFd, flags: u32) -> Result<(), Errno> {
    // SAFETY: integers alone.
    outcome(unsafe { libc::sync_file_range(fd.as_fd().as_raw_fd(), 0, 0, flags) }.into())
        .map(|_| ())
}

/// `fanotify_init` and one mark of it.
pub(crate) fn fanotify(flags: u32, mark: u32, mask: u64, path: &Path) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends with a NUL, and the new descriptor is owned at once.
    unsafe {
        let fd = libc::fanotify_init(flags, libc::O_RDONLY.cast_unsigned());
        outcome(fd.into())?;
        let group = OwnedFd::from_raw_fd(fd);
        let mark = libc::FAN_MARK_ADD | mark;
        let done = libc::fanotify_mark(fd, mark, mask, libc::AT_FDCWD, path.as_ptr());
        outcome(done.into()).map(|_| group)
    }
}

/// Closes a descriptor that came as a number; a negative one is none.
pub(crate) fn close(fd: RawFd) {
    if fd >= 0 {
        // SAFETY: the kernel has just given it to the caller, and nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

const SYS_MOUNT_SETATTR: libc::c_long = 442;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Makes a mount that is not attached anywhere show ids as a user namespace maps them.
pub(crate) fn set_idmap(mount: BorrowedFd<'_>, namespace: &File) -> Result<(), Errno> {
    let attributes = [MOUNT_ATTR_IDMAP, 0, 0, namespace.as_raw_fd().cast_unsigned().into()];
    // SAFETY: `attributes` is a `struct mount_attr`: set, clear, propagation, namespace.
    let done = unsafe {
        let size = size_of_val(&attributes);
        let (fd, empty, flags) = (mount.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
        libc::syscall(SYS_MOUNT_SETATTR, fd, empty, flags, attributes.as_ptr(), size)
    };
    outcome(done).map(|_| ())
}
