//! Space of the host that a pool keeps for the time when the host is full.
//!
//! A pool on a full host still has to write the nodes of a checkpoint: without one nothing that was deleted
//! gives its space back. So a file beside the pool's devices takes that space while there is some, and is
//! emptied when a write that can't be refused finds none. What others take in that moment is gone; but the
//! checkpoint itself then frees as much as it took, and the file is filled again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::regular::open_regular;

/// Name of the file in the pool's directory.
pub(super) const RESERVE: &str = "reserve";

/// The file, and how much it takes.
#[derive(Debug)]
pub(super) struct Reserve {
    file: Mutex<File>,
    kept_bytes: AtomicU64,
}

impl Reserve {
    /// Opens the reserve of the pool in `dir`, or makes one that keeps nothing yet.
    pub(super) fn open(dir: &Path) -> io::Result<Reserve> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = open_regular(&mut options, &dir.join(RESERVE))?;
        let metadata = file.metadata()?;
        // A file of that length with holes would be no reserve.
        let kept_bytes = AtomicU64::new(metadata.len().min(metadata.blocks() * 512));
        Ok(Reserve { file: Mutex::new(file), kept_bytes })
    }

    /// Takes space until `len_bytes` are kept, if the host has twice as much; returns whether they are.
    ///
    /// A host that can't set space aside has nothing to keep.
    pub(super) fn keep(&self, len_bytes: u64) -> bool {
        if self.kept_bytes.load(Ordering::Acquire) >= len_bytes {
            return true;
        }
        let file = self.file.lock();
        let enough = rustix::fs::fstatvfs(&*file)
            .is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) / 2 > len_bytes);
        if !enough {
            return false;
        }
        let taken = loop {
            match rustix::fs::fallocate(&*file, FallocateFlags::empty(), 0, len_bytes) {
                Err(Errno::INTR) => {}
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => break true,
                Err(errno) => {
                    tracing::debug!(%errno, "the reserve of host space is not filled");
                    break false;
                }
            }
        };
        if taken {
            self.kept_bytes.store(len_bytes, Ordering::Release);
        }
        taken
    }

    /// Gives the space to whoever is first; false when there was none.
    pub(super) fn give_up(&self) -> bool {
        let file = self.file.lock();
        if self.kept_bytes.swap(0, Ordering::AcqRel) == 0 {
            return false;
        }
        tracing::warn!(
            "the host is full: the pool goes on with the space that it has kept for that"
        );
        match file.set_len(0) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the reserve of host space can't be given up");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_until_it_is_given_up_and_knows_after_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let blocks = || std::fs::metadata(dir.path().join(RESERVE)).unwrap().blocks();
        let reserve = Reserve::open(dir.path()).unwrap();
        assert!(!reserve.give_up());
        assert!(reserve.keep(1 << 20) && reserve.keep(1 << 20));
        assert!(blocks() >= 2048);
        let reserve = Reserve::open(dir.path()).unwrap();
        assert!(reserve.give_up() && !reserve.give_up());
        assert_eq!(blocks(), 0);
        assert!(!reserve.keep(1 << 62), "more than any host has");
    }
}
