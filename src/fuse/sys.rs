//! System calls that have no safe wrapper.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

/// Type of FUSE's file handles: 64-bit node id and generation.
const FILEID_INO64_GEN: i32 = 0x81;

/// `struct file_handle` with the 12 bytes that FUSE wants.
#[repr(C)]
struct FuseFileHandle {
    handle_bytes: u32,
    handle_type: i32,
    node_high: u32,
    node_low: u32,
    generation: u32,
}

/// Opens, without touching its access time, an inode that the kernel has cached, by its node id.
///
/// # Errors
/// ESTALE when it is not cached, EPERM without CAP_DAC_READ_SEARCH, and those of `open`.
pub(crate) fn open_cached_inode(mount: BorrowedFd<'_>, node: u64) -> io::Result<File> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOATIME;
    open_by_handle(mount, node, flags)
}

/// Whether the kernel has an inode cached; it is asked without opening it.
///
/// # Errors
/// EPERM without CAP_DAC_READ_SEARCH.
pub(crate) fn is_cached(mount: BorrowedFd<'_>, node: u64) -> io::Result<bool> {
    match open_by_handle(mount, node, libc::O_PATH) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open_by_handle(mount: BorrowedFd<'_>, node: u64, flags: libc::c_int) -> io::Result<File> {
    let mut handle = FuseFileHandle {
        handle_bytes: 12,
        handle_type: FILEID_INO64_GEN,
        node_high: (node >> 32) as u32,
        node_low: (node & 0xffff_ffff) as u32,
        generation: 0,
    };
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: `handle` is a live, writable `struct file_handle` followed by the 12 bytes that its
    // `handle_bytes` announces, and `mount` is an open descriptor for the length of the call.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor, so nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Starts the write-back of a file's dirty pages, as far as nothing has to be waited for.
pub(crate) fn start_write_back(file: &File) -> io::Result<()> {
    sync_file_range(file, libc::SYNC_FILE_RANGE_WRITE)
}

/// Starts and awaits the write-back of a file's dirty pages without taking its inode lock.
pub(crate) fn write_back(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_file_range(file, flags)
}

/// Whether [`write_back`] lasts until the daemon has the pages: Linux has not copied them before, since 6.16.
pub(crate) fn awaits_pages() -> bool {
    static AWAITS: OnceLock<bool> = OnceLock::new();
    *AWAITS.get_or_init(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        release.is_ok_and(|release| version(&release) >= Some((6, 16)))
    })
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn sync_file_range(file: &File, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: a call on an open descriptor that passes no memory.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Unmounts what is mounted at `dir`, at once or (`lazy`) when its last user is gone.
pub(crate) fn unmount(dir: &Path, lazy: bool) -> io::Result<()> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    match unsafe { libc::umount2(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells the kernel that this thread serves a filesystem: it is not throttled for pages that it is
/// itself to write back, and its allocations do not wait for them. False without the privilege.
pub(crate) fn become_io_flusher() -> bool {
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: `prctl` with integer arguments alone.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1u64, 0u64, 0u64, 0u64) == 0 }
}

/// Keeps memory from being paged out, as far as this process may.
pub(crate) fn lock_in_memory(memory: &[u8]) {
    // SAFETY: the range is a live slice, and locking changes none of its bytes.
    if unsafe { libc::mlock(memory.as_ptr().cast(), memory.len()) } != 0 {
        tracing::debug!("a buffer stays subject to paging: {}", io::Error::last_os_error());
    }
}

/// Takes the device's descriptor out of a session that is never dropped.
///
/// fuser's `Session` unmounts by path when it is dropped, also after its mount has ended, when
/// another filesystem may be mounted there: its test for that is inverted. So the session is
/// forgotten and its descriptor lives on here.
pub(crate) fn take_descriptor(session: impl AsFd) -> OwnedFd {
    let fd = session.as_fd().as_raw_fd();
    std::mem::forget(session);
    // SAFETY: the descriptor is open, and its owner was forgotten without being dropped.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A part of a file in memory, mapped so that it is shared with whoever maps it later. All of it is there.
///
/// The file is never made shorter, or touching the memory would end the process.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is this value's alone in this process, and belongs to no thread.
unsafe impl Send for SharedMemory {}
// SAFETY: a shared reference gives atomic words only.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `len` bytes from `offset`, a multiple of the page size, and locks them where that is allowed.
    pub(crate) fn map(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address that the kernel chooses, of an open descriptor.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        let mut memory = SharedMemory { start, len };
        lock_in_memory(memory.bytes());
        Ok(memory)
    }

    /// All bytes. No word of them may be used as an atomic meanwhile, which the borrow sees to.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping lasts as long as `self`, whose exclusive borrow makes this the only access in this
        // process; others map the file after this process's death alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The word of four bytes at `at`, a multiple of four within the mapping.
    pub(crate) fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at < self.len, "a word at {at} of {}", self.len);
        // SAFETY: aligned and within the mapping, by the assertion and since a mapping begins at a page; other
        // accesses through a shared reference are atomic too.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(at).cast()) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
