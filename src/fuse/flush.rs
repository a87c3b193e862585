//! Bringing in the pages that are still dirty in the kernel.
//!
//! With the writeback cache a write(2) or a store to a shared mapping that has returned is known to
//! the kernel alone. Before a snapshot every inode that is open for writing is flushed: a closed
//! one has been, by close, release or munmap. syncfs(2) would not do it: on FUSE it starts no
//! write-back (see docs/architecture.md).
//!
//! The way: the inode is opened by its handle and fsynced, which writes back what was dirty when
//! the call began, no more (so a busy writer cannot keep it for ever), and sends the times that
//! the kernel keeps. The WRITE, SETATTR and FSYNC requests that this causes are served by the
//! workers meanwhile; that FSYNC has nothing to do, for a snapshot is made durable as a whole.
//!
//! The mount is opened for the time of the flush alone, since an open descriptor would keep it
//! from being unmounted. Where the mount point is covered by another mount, or the daemon may not
//! open by handle (CAP_DAC_READ_SEARCH), the kernel is told to drop the inode's pages instead, and
//! writes them back first: slower by an order of magnitude, and the file's mtime stays behind
//! until the file is closed.
//!
//! Lock order: a flush waits for inode locks, whose holders wait for workers. So none runs on a
//! worker, and none runs in the lane in which FSYNC requests wait.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use super::notify::Notifier;
use super::sys;
use crate::fs::NodeId;

/// Files flushed at the same time: enough to keep the workers busy.
const MAX_THREADS: usize = 4;

/// Flushes inodes of one mount.
#[derive(Debug)]
pub(crate) struct Flusher {
    dir: PathBuf,
    device_number: OnceLock<u64>,
    notifier: Notifier,
    /// Thread ids that are flushing now, and how many, so that the common case takes no lock.
    threads: Mutex<Vec<u32>>,
    running: AtomicUsize,
}

impl Flusher {
    pub(crate) fn new(dir: PathBuf, notifier: Notifier) -> Self {
        let (threads, running) = (Mutex::default(), AtomicUsize::new(0));
        Flusher { dir, device_number: OnceLock::new(), notifier, threads, running }
    }

    /// Says by which `st_dev` the mount is known.
    pub(crate) fn set_device_number(&self, number: u64) {
        self.device_number.get_or_init(|| number);
    }

    /// Whether a request with this thread id comes from a flush.
    pub(crate) fn is_flushing(&self, thread: u32) -> bool {
        self.running.load(Ordering::Acquire) > 0 && self.threads.lock().contains(&thread)
    }

    /// Brings in what was dirty of these nodes when the call began.
    pub(crate) fn flush(&self, nodes: &[NodeId]) {
        let nodes: Vec<NodeId> = nodes.iter().copied().filter(|node| node.is_live()).collect();
        if nodes.is_empty() {
            return;
        }
        let mount = self.open_mount();
        let next = AtomicUsize::new(0);
        let work = || {
            let _flushing = self.register();
            while let Some(&node) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.bring_in(mount.as_ref(), node, File::sync_all);
            }
        };
        // A thread that cannot be had is no loss: this one takes all that is left.
        thread::scope(|scope| {
            for _ in 1..MAX_THREADS.min(nodes.len()) {
                let named = thread::Builder::new().name("fuse-flush".into());
                let _ = named.spawn_scoped(scope, work);
            }
            work();
        });
    }

    /// Brings in one node's pages for a caller that holds the inode's lock: fsync would wait for
    /// it, and it for us.
    pub(crate) fn write_back(&self, node: NodeId) {
        let mount = self.open_mount();
        self.bring_in(mount.as_ref(), node, sys::write_back);
    }

    fn bring_in(&self, mount: Option<&File>, node: NodeId, how: fn(&File) -> io::Result<()>) {
        let Some(mount) = mount else { return self.drop_pages(node) };
        match sys::open_cached_inode(mount.as_fd(), node.0) {
            // A failed write-back is reported to the writer, by its own fsync or close.
            Ok(file) => {
                if let Err(error) = how(&file) {
                    tracing::warn!(node = node.0, %error, "writing a file back failed");
                }
            }
            // The kernel has no such inode any more, so it has no dirty pages of it.
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
            Err(error) => {
                tracing::debug!(node = node.0, %error, "opening by handle failed");
                self.drop_pages(node);
            }
        }
    }

    fn drop_pages(&self, node: NodeId) {
        if let Err(error) = self.notifier.inval_inode(node.0) {
            tracing::warn!(node = node.0, %error, "the kernel did not write a file back");
        }
    }

    /// Opens the mount, wherever it can be reached.
    fn open_mount(&self) -> Option<File> {
        let number = *self.device_number.get()?;
        open_if_on(&self.dir, number).or_else(|| {
            let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            let found = mount_points(&mounts, number).find_map(|dir| open_if_on(&dir, number));
            if found.is_none() {
                tracing::warn!(dir = %self.dir.display(), "the mount is out of reach");
            }
            found
        })
    }

    fn register(&self) -> Flushing<'_> {
        // A thread id is positive.
        let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        self.threads.lock().push(thread);
        self.running.fetch_add(1, Ordering::Release);
        Flushing { flusher: self, thread }
    }
}

/// While it lives, requests of this thread are known as a flush's.
struct Flushing<'a> {
    flusher: &'a Flusher,
    thread: u32,
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.flusher.running.fetch_sub(1, Ordering::Release);
        self.flusher.threads.lock().retain(|&thread| thread != self.thread);
    }
}

/// Opens a directory if it is on the filesystem with that `st_dev`.
fn open_if_on(dir: &Path, number: u64) -> Option<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(dir).ok()?;
    (file.metadata().ok()?.dev() == number).then_some(file)
}

/// Mount points of the filesystem with that `st_dev`, out of a `mountinfo` file.
fn mount_points(mountinfo: &[u8], number: u64) -> impl Iterator<Item = PathBuf> {
    let wanted = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    mountinfo.split(|&byte| byte == b'\n').filter_map(move |line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        (device == wanted.as_bytes()).then(|| unescape(point))
    })
}

/// Undoes `mountinfo`'s octal escapes (`\040` is a space).
fn unescape(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_points_of_a_device() {
        let info = b"21 1 0:45 / /mnt/a\\040b rw - fuse.amberfs x rw\n\
                     22 1 0:46 / /other rw - tmpfs x rw\n\
                     broken line\n\
                     23 1 0:45 /sub /mnt/c\\134 rw - fuse.amberfs x rw\n";
        let found: Vec<_> = mount_points(info, rustix::fs::makedev(0, 45)).collect();
        assert_eq!(found, [PathBuf::from("/mnt/a b"), PathBuf::from("/mnt/c\\")]);
    }

    #[test]
    fn an_escape_without_its_digits_stays_as_it_is() {
        assert_eq!(unescape(b"a\\04"), PathBuf::from("a\\04"));
        assert_eq!(unescape(b"\\999"), PathBuf::from("\\999"));
    }
}
