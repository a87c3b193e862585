//! Write-behind: large transfers begin to go to the disk when they are written, and leave the host's memory again.
//!
//! By itself the host would wait until much is dirty, or for an fsync, which then lasts as long as the disk needs
//! for all of it. And it would keep the data in its memory, beside the copy that the kernel has of the file on the
//! mount. A thread of its own asks for both, because the host holds back who asks for more than the disk takes.
//!
//! Nothing here makes anything durable, or takes an error from the sync that does: starting write-back reports none,
//! and only what is clean is dropped.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustix::fs::Advice;

/// A transfer so large is one of many, of a large file, and not of one that is gone a moment later.
pub(super) const LARGE_BYTES: usize = 512 << 10;
/// Ranges that wait for the thread; what comes beyond is written when the host likes.
const MAX_WAITING: usize = 256;

/// How much later what was begun is expected to be on the disk, and dropped from memory.
const LAG_BYTES: i64 = 64 << 20;

#[derive(Debug, Clone, Copy)]
struct Range {
    offset: i64,
    len: i64,
}

/// The thread, and the way to it.
#[derive(Debug)]
pub(super) struct WriteBehind {
    sender: Option<SyncSender<Range>>,
    thread: Option<JoinHandle<()>>,
}

impl WriteBehind {
    /// For a file that stays open through its own descriptor.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let run = move || write_behind(&file, &receiver);
        let thread = std::thread::Builder::new().name("write-behind".into()).spawn(run)?;
        Ok(WriteBehind { sender: Some(sender), thread: Some(thread) })
    }

    /// A range has been written.
    pub(super) fn written(&self, offset: u64, len: usize) {
        if let (Some(sender), Ok(offset), Ok(len)) =
            (&self.sender, i64::try_from(offset), i64::try_from(len))
        {
            // Where too many wait, or the thread is gone, the host does it by itself.
            let _ = sender.try_send(Range { offset, len });
        }
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_behind(file: &File, receiver: &Receiver<Range>) {
    let mut begun = VecDeque::new();
    let mut begun_bytes = 0;
    while let Ok(range) = receiver.recv() {
        let (fd, how) = (file.as_raw_fd(), libc::SYNC_FILE_RANGE_WRITE);
        // SAFETY: the descriptor is open for the length of the call, which takes no pointer.
        unsafe { libc::sync_file_range(fd, range.offset, range.len, how) };
        begun.push_back(range);
        begun_bytes += range.len;
        while begun_bytes > LAG_BYTES
            && let Some(range) = begun.pop_front()
        {
            begun_bytes -= range.len;
            let len = NonZeroU64::new(range.len as u64);
            let _ = rustix::fs::fadvise(file, range.offset as u64, len, Advice::DontNeed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_was_written_is_there_whatever_was_dropped() {
        let file = tempfile::tempfile().unwrap();
        let behind = WriteBehind::new(&file).unwrap();
        let piece = |number: u64| vec![number as u8; LARGE_BYTES];
        let pieces = 2 * LAG_BYTES as u64 / LARGE_BYTES as u64;
        for number in 0..pieces {
            let offset = number * LARGE_BYTES as u64;
            file.write_all_at(&piece(number), offset).unwrap();
            behind.written(offset, LARGE_BYTES);
        }
        drop(behind);
        let mut read = vec![0; LARGE_BYTES];
        for number in 0..pieces {
            file.read_exact_at(&mut read, number * LARGE_BYTES as u64).unwrap();
            assert!(read == piece(number), "piece {number}");
        }
    }
}
