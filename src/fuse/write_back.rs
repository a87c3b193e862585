//! Makes the kernel write back what is dirty of given inodes, by opening them by their handles or paths.
//!
//! Whoever runs this waits for requests that the mount's daemon serves. Killed in that state, it
//! lives on until they are answered: so it should not be the daemon itself (see [`super::helper`]).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::sys;

/// Files open at a time: their write-back runs at the same time.
const BATCH: usize = 64;

/// How to write back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Pages and times, which takes the inode's lock.
    Fsync,
    /// Pages alone, for a caller that holds that lock.
    Pages,
    /// Nothing: the question is which of the inodes the kernel does not have.
    Absent,
}

/// A file to be written back, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) node: u64,
    /// Its path from the mount point; empty to open it by its handle.
    pub(crate) path: Vec<u8>,
}

impl Target {
    /// Opened by its handle.
    pub(crate) fn by_handle(node: u64) -> Target {
        Target { node, path: Vec::new() }
    }

    fn open(&self, mount: &File) -> io::Result<File> {
        if self.path.is_empty() {
            sys::open_cached_inode(mount.as_fd(), self.node)
        } else {
            self.open_by_path(mount)
        }
    }

    /// For writing where it may not be read: either does for fsync. The path may have become another
    /// file's.
    fn open_by_path(&self, mount: &File) -> io::Result<File> {
        let flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let open = |flags| rustix::fs::openat(mount, self.path.as_slice(), flags, Mode::empty());
        let file = open(flags | OFlags::RDONLY | OFlags::NOATIME)
            .or_else(|_| open(flags | OFlags::WRONLY))
            .map(File::from)?;
        if file.metadata()?.ino() == self.node {
            Ok(file)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

/// Where a mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its mount point.
    pub(crate) dir: PathBuf,
    /// Its `st_dev`.
    pub(crate) device_number: u64,
}

impl Place {
    /// Brings in what was dirty of these nodes when the call began, and returns those that could
    /// not be opened: there may be dirty pages of them still.
    ///
    /// A busy writer does not keep it for ever: fsync waits for the pages that were dirty, no more.
    ///
    /// With [`How::Absent`] it returns those that the kernel has nothing of.
    ///
    /// It is given up once it is not `wanted` any more.
    pub(crate) fn bring_in(
        &self,
        targets: &[Target],
        how: How,
        wanted: impl Fn() -> bool,
    ) -> Vec<u64> {
        if how == How::Absent {
            return self.absent(targets, wanted);
        }
        let all = || targets.iter().map(|target| target.node).collect();
        let Some(mount) = self.open() else { return all() };
        let mut refused = Vec::new();
        for batch in targets.chunks(BATCH) {
            let mut files = Vec::with_capacity(batch.len());
            for target in batch.iter().take_while(|_| wanted()) {
                match target.open(&mount) {
                    Ok(file) => files.push(file),
                    // The kernel has no such inode any more, so it has no dirty pages of it.
                    Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
                    Err(_) => refused.push(target.node),
                }
            }
            // All are started before one is waited for. What this leaves out, the rest does.
            for file in &files {
                let _ = sys::start_write_back(file);
            }
            for file in &files {
                // A failed write-back is reported to the writer, by its own fsync or close.
                let _ = if how == How::Fsync { file.sync_all() } else { sys::write_back(file) };
            }
        }
        refused
    }

    fn absent(&self, targets: &[Target], wanted: impl Fn() -> bool) -> Vec<u64> {
        let Some(mount) = self.open() else { return Vec::new() };
        let nodes = targets.iter().take_while(|_| wanted()).map(|target| target.node);
        nodes.filter(|node| matches!(sys::is_cached(mount.as_fd(), *node), Ok(false))).collect()
    }

    /// Opens the mount, wherever it can be reached: another one may cover its mount point.
    fn open(&self) -> Option<File> {
        open_if_on(&self.dir, self.device_number).or_else(|| {
            let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            mount_points(&mounts, self.device_number)
                .find_map(|dir| open_if_on(&dir, self.device_number))
        })
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
    use std::cell::Cell;

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
    fn what_is_not_wanted_any_more_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let device_number = dir.path().metadata().unwrap().dev();
        let place = Place { dir: dir.path().into(), device_number };
        let targets: Vec<_> =
            (1..200).map(|node| Target { node, path: b"missing".to_vec() }).collect();
        for most in [0usize, 1, 100] {
            let left = Cell::new(most);
            let wanted = || left.replace(left.get().saturating_sub(1)) > 0;
            let tried = place.bring_in(&targets, How::Fsync, wanted);
            assert_eq!(tried.len(), most);
        }
    }

    #[test]
    fn an_escape_without_its_digits_stays_as_it_is() {
        assert_eq!(unescape(b"a\\04"), PathBuf::from("a\\04"));
        assert_eq!(unescape(b"\\999"), PathBuf::from("\\999"));
    }
}
