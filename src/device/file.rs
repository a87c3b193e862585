//! A device that is a file on the host.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::pool_dir::PoolLock;
use super::reserve::Reserve;
use super::waiting;
use super::write_behind::{LARGE_BYTES, WriteBehind};
use super::{BlockDevice, range_end};

/// Bytes that one call punches out. The host lets nobody write to the file meanwhile: ext4 needs a third of a
/// second for a GiB.
const PUNCH_STEP_BYTES: u64 = 16 << 20;

/// What stands inside an [`io::Error`] of a [`FileDevice`]: which call failed, and where.
///
/// The outer error keeps the kind of `cause`, so that a full host stays
/// [`io::ErrorKind::StorageFull`].
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {path} ({len_bytes} bytes at {offset}): {cause}", path = path.display())]
pub struct DeviceError {
    /// The call, as a verb.
    pub op: &'static str,
    /// The file.
    pub path: PathBuf,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range.
    pub len_bytes: u64,
    /// The error of the system call, with its errno.
    pub cause: io::Error,
}

/// A file on the host, read and written with pread and pwrite through the page cache.
///
/// The file belongs to this device alone: the length is read once, when it is opened.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
    /// Length of the file; it rises only, under `extending`.
    len_bytes: AtomicU64,
    /// Held by whatever extends the file, so that a `grow` never cuts a write that came between.
    extending: Mutex<()>,
    /// Made for the first large transfer; none where it can't be.
    write_behind: OnceLock<Option<WriteBehind>>,
    /// The host said that it can't punch holes; zeros are written instead.
    no_holes: AtomicBool,
    /// Space of the host for urgent writes.
    reserve: Option<Reserve>,
    /// The pool's lock, which must outlive the last descriptor that can write to the pool.
    _lock: Option<Arc<PoolLock>>,
}

impl FileDevice {
    /// Opens an existing file for reading and writing.
    pub fn open(path: &Path) -> io::Result<FileDevice> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        FileDevice::new(file, path, None, None)
    }

    /// Creates a file that must not exist yet, readable by its owner alone.
    pub fn create(path: &Path) -> io::Result<FileDevice> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        FileDevice::new(file, path, None, None)
    }

    /// Takes an open file over; `lock` stays open for as long as the device exists.
    pub(super) fn new(
        file: File,
        path: &Path,
        reserve: Option<Reserve>,
        lock: Option<Arc<PoolLock>>,
    ) -> io::Result<FileDevice> {
        let len_bytes = AtomicU64::new(file.metadata()?.len());
        Ok(FileDevice {
            file,
            path: path.to_owned(),
            len_bytes,
            extending: Mutex::new(()),
            write_behind: OnceLock::new(),
            no_holes: AtomicBool::new(false),
            reserve,
            _lock: lock,
        })
    }

    /// Returns the path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, op: &'static str, offset: u64, len_bytes: u64, cause: io::Error) -> io::Error {
        let kind = cause.kind();
        let path = self.path.clone();
        io::Error::new(kind, DeviceError { op, path, offset, len_bytes, cause })
    }

    /// Reads what the host has in memory, for a thread that wants to know before it waits for more; returns how
    /// many bytes that were.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> usize {
        if !waiting::is_watched() {
            return 0;
        }
        let bufs = &mut [IoSliceMut::new(buf)];
        // An error shows again in the read that waits.
        rustix::io::preadv2(&self.file, bufs, offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }

    /// Writes zeros over a range that lies within the length.
    fn write_zeros(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut done = 0;
        while done < len_bytes {
            let step = (len_bytes - done).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..step as usize], offset + done)?;
            done += step;
        }
        Ok(())
    }

    /// Punches a hole, or says with false that the host can't.
    fn punch_hole(&self, offset: u64, len_bytes: u64) -> io::Result<bool> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&self.file, flags, offset, len_bytes) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl BlockDevice for FileDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        range_end(offset, buf.len() as u64)?;
        let cached = self.read_cached(offset, buf);
        let rest = buf.get_mut(cached..).unwrap_or_default();
        let result = if rest.is_empty() {
            Ok(())
        } else {
            waiting::wait(|| self.file.read_exact_at(rest, offset + cached as u64))
        };
        result.map_err(|cause| self.error("read", offset, buf.len() as u64, cause))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = range_end(offset, bytes.len() as u64)?;
        let extends = end > self.len_bytes.load(Ordering::Acquire);
        let _guard = extends.then(|| self.extending.lock());
        let result = self.file.write_all_at(bytes, offset);
        if extends {
            // Asked of the host, since a failed write may have written a first part.
            let len_bytes = self.file.metadata().map_or(end, |meta| meta.len());
            self.len_bytes.fetch_max(len_bytes, Ordering::AcqRel);
        }
        if result.is_ok() && bytes.len() >= LARGE_BYTES {
            let behind = self.write_behind.get_or_init(|| WriteBehind::new(&self.file).ok());
            behind.iter().for_each(|behind| behind.written(offset, bytes.len()));
        }
        result.map_err(|cause| self.error("write", offset, bytes.len() as u64, cause))
    }

    fn write_urgently(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match (self.write_at(offset, bytes), &self.reserve) {
            (Err(error), Some(reserve))
                if error.kind() == io::ErrorKind::StorageFull && reserve.give_up() =>
            {
                self.write_at(offset, bytes)
            }
            (written, _) => written,
        }
    }

    fn keep_reserve(&self, len_bytes: u64) -> bool {
        self.reserve.as_ref().is_none_or(|reserve| reserve.keep(len_bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|cause| self.error("sync", 0, 0, cause))
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let end = range_end(offset, len_bytes)?.min(self.len_bytes.load(Ordering::Acquire));
        if offset >= end {
            return Ok(());
        }
        let wrap = |cause| self.error("punch a hole in", offset, end - offset, cause);
        let mut at = offset;
        while at < end && !self.no_holes.load(Ordering::Relaxed) {
            let step = (end - at).min(PUNCH_STEP_BYTES);
            if self.punch_hole(at, step).map_err(wrap)? {
                at += step;
            } else {
                self.no_holes.store(true, Ordering::Relaxed);
            }
        }
        self.write_zeros(at, end - at).map_err(wrap)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes.load(Ordering::Acquire))
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        range_end(0, len_bytes)?;
        let _guard = self.extending.lock();
        if len_bytes > self.len_bytes.load(Ordering::Acquire) {
            let result = self.file.set_len(len_bytes);
            result.map_err(|cause| self.error("extend", 0, len_bytes, cause))?;
            self.len_bytes.store(len_bytes, Ordering::Release);
        }
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.file)
            .map_err(|errno| self.error("ask for free space of", 0, 0, errno.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (tempfile::TempDir, FileDevice) {
        let dir = tempfile::tempdir().unwrap();
        let device = FileDevice::create(&dir.path().join("data")).unwrap();
        (dir, device)
    }

    #[test]
    fn a_thread_that_wants_to_know_reads_the_same_and_is_told_of_waits_alone() {
        let (_dir, device) = device();
        let bytes: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
        device.write_at(0, &bytes).unwrap();
        let told = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&told);
        super::super::watch_waits(move |_| count.set(count.get() + 1));
        let mut read = vec![0; bytes.len()];
        device.read_at(0, &mut read).unwrap();
        assert!(read == bytes && told.get() == 0, "it was in memory: {}", told.get());
        // Out of memory, if the host's filesystem does that; then a part of it.
        device.sync().unwrap();
        rustix::fs::fadvise(&device.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        device.read_at(1 << 19, &mut read[..4096]).unwrap();
        device.read_at(0, &mut read).unwrap();
        assert!(read == bytes);
        let error = device.read_at(bytes.len() as u64 - 1, &mut read[..2]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn reads_what_was_written_and_zeros_elsewhere() {
        let (dir, device) = device();
        device.grow(100_000).unwrap();
        device.write_at(5_000, &[7; 3_000]).unwrap();
        let mut bytes = vec![1; 10_000];
        device.read_at(0, &mut bytes).unwrap();
        assert!(bytes[..5_000].iter().all(|&b| b == 0) && bytes[8_000..].iter().all(|&b| b == 0));
        assert!(bytes[5_000..8_000].iter().all(|&b| b == 7));
        device.sync().unwrap();
        device.grow(10).unwrap();
        assert_eq!(device.len_bytes().unwrap(), 100_000);
        assert!(device.available_bytes().unwrap() > 0);
        drop(device);
        let again = FileDevice::open(&dir.path().join("data")).unwrap();
        assert_eq!(again.len_bytes().unwrap(), 100_000);
    }

    #[test]
    fn a_read_past_the_end_names_the_file_and_keeps_the_kind() {
        let (_dir, device) = device();
        device.write_at(0, &[1; 10]).unwrap();
        assert_eq!(device.len_bytes().unwrap(), 10);
        let error = device.read_at(8, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("data (4 bytes at 8)"), "{error}");
    }

    #[test]
    fn a_punched_range_reads_as_zeros_with_and_without_holes() {
        for no_holes in [false, true] {
            let (_dir, device) = device();
            device.no_holes.store(no_holes, Ordering::Relaxed);
            device.write_at(0, &[7; 300_000]).unwrap();
            device.punch(100, 200_000).unwrap();
            device.punch(299_999, 1 << 40).unwrap();
            device.punch(1 << 50, 1).unwrap();
            assert_eq!(device.len_bytes().unwrap(), 300_000);
            let mut bytes = vec![1; 300_000];
            device.read_at(0, &mut bytes).unwrap();
            let expected =
                |i: usize| if (100..200_100).contains(&i) || i == 299_999 { 0 } else { 7 };
            assert!(bytes.iter().enumerate().all(|(i, &b)| b == expected(i)));
        }
    }

    #[test]
    fn growing_while_others_write_past_the_end_cuts_nothing() {
        let (_dir, device) = device();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..500u64).for_each(|i| device.write_at(i * 100, &[9; 100]).unwrap()));
            scope.spawn(|| (0..500u64).for_each(|i| device.grow(i * 90).unwrap()));
        });
        let mut bytes = vec![0; 50_000];
        device.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&b| b == 9));
    }

    #[test]
    fn a_full_host_is_storage_full() {
        let path = Path::new("/dev/full");
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let device = FileDevice::new(file, path, None, None).unwrap();
        let error = device.write_at(0, &[1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
