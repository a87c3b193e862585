//! Calls that have no safe wrapper: a shared mapping of a file, the size of an attribute.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags};

/// Bytes of a file that are written by storing to memory.
pub(crate) struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory belongs to the mapping alone and is reached through `&mut self`.
unsafe impl Send for Mapping {}

/// Whether stores reach the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Shared,
    Private,
}

impl Mapping {
    /// Maps the first `len` bytes of `file`, which has as many.
    pub(crate) fn new(file: &File, len: usize) -> Self {
        Self::with(file, len, Kind::Shared)
    }

    pub(crate) fn with(file: &File, len: usize, kind: Kind) -> Self {
        Self::attempt(file, len, kind).unwrap()
    }

    pub(crate) fn attempt(file: &File, len: usize, kind: Kind) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = if kind == Kind::Shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe { rustix::mm::mmap(null, len, protection, flags, file.as_fd(), 0) }?;
        // A child of another test would keep the mount busy with its copy.
        // SAFETY: exactly what was mapped; its content stays.
        unsafe { rustix::mm::madvise(start, len, Advice::LinuxDontFork) }?;
        Ok(Mapping { start: start.cast(), len })
    }

    pub(crate) fn store(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: the target lies within the mapping, and the source is not part of it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(offset), bytes.len());
        }
    }

    pub(crate) fn load(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        // SAFETY: the range lies within the mapping, and nobody stores to it meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.add(offset), len).to_vec() }
    }
}

impl Drop for Mapping {
    /// What is dirty is written back first, by a call that holds no lock meanwhile. munmap would do it with
    /// the lock of this process's memory, and the daemon's threads, which are in this process here, may
    /// need that to serve it.
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; the call changes nothing in it.
        let _ = unsafe { rustix::mm::msync(self.start.cast(), self.len, MsyncFlags::SYNC) };
        // SAFETY: exactly what was mapped, and nothing points into it any more.
        unsafe { rustix::mm::munmap(self.start.cast(), self.len) }.unwrap();
    }
}

/// Asks for the size of an extended attribute, with no room for its value.
pub(crate) fn xattr_size(path: &std::path::Path, name: &std::ffi::CStr) -> isize {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: both strings end with a NUL, and a size of zero lets the call write nothing.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) }
}
