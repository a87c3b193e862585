//! The `/dev/fuse` descriptor: one request a read, one reply a write.
//!
//! All workers share one descriptor: a clone would end its requests when its holder dies, and a
//! new daemon could not take them over. Reads block in the kernel, which wakes one reader a request.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::abi::OUT_HEADER_BYTES;
use super::reply::out_header;

/// A connection to the kernel's FUSE driver.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
    ended: AtomicBool,
}

/// What a read of the device gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// A request of so many bytes.
    Request(usize),
    /// The filesystem is unmounted or the connection was aborted: no request comes any more.
    End,
}

impl Device {
    /// Takes a descriptor on which INIT has been answered.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // An earlier process may have died while it received without waiting.
        if let Err(error) = set_waiting(&fd, true) {
            tracing::debug!(%error, "/dev/fuse keeps its flags");
        }
        Device { fd, ended: AtomicBool::new(false) }
    }

    /// Waits for a request.
    ///
    /// # Errors
    /// What the kernel gives beyond interruptions, withdrawn requests and the session's end.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                // A socket in the device's place has nobody at its other end any more.
                Ok(0) => {
                    self.ended.store(true, Ordering::Release);
                    return Ok(Received::End);
                }
                Ok(len) => return Ok(Received::Request(len)),
                // ENOENT: the request was withdrawn between its queueing and this read.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                // ENODEV: unmounted. ECONNABORTED: aborted through fusectl.
                Err(Errno::NODEV | Errno::CONNABORTED) => {
                    self.ended.store(true, Ordering::Release);
                    return Ok(Received::End);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives requests without waiting: `receive` is given what reads one into a buffer, or nothing when none is
    /// there. Nobody else may receive meanwhile.
    pub(crate) fn receive_present(
        &self,
        receive: impl FnOnce(&dyn Fn(&mut [u8]) -> Option<usize>),
    ) -> io::Result<()> {
        set_waiting(&self.fd, false)?;
        receive(&|buffer| {
            loop {
                match rustix::io::read(&self.fd, &mut *buffer) {
                    Ok(len) => return (len > 0).then_some(len),
                    Err(Errno::NOENT | Errno::INTR) => {}
                    // The session's end will be met again by who waits.
                    Err(_) => return None,
                }
            }
        });
        set_waiting(&self.fd, true)
    }

    /// Whether a request waits to be received.
    pub(crate) fn has_more(&self) -> bool {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Sends a reply or a notification, whole.
    ///
    /// # Errors
    /// ENOENT when the request has been interrupted or is not there (any more).
    pub(crate) fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match rustix::io::writev(&self.fd, parts) {
                // Only a socket in the device's place can be full.
                Err(Errno::AGAIN) => {
                    let mut polled = [PollFd::new(&self.fd, PollFlags::OUT)];
                    rustix::event::poll(&mut polled, None)?;
                }
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Whether the kernel waits for the reply to a request that this session's descriptor has given out.
    ///
    /// It is asked by what would be the reply to an interruption of that request: without an error that has no
    /// effect but to fail with ENOENT when there is no such request any more (`fuse_dev_do_write`).
    pub(crate) fn waits_for(&self, unique: u64) -> bool {
        const INTERRUPTION: u64 = 1;
        let header = out_header(OUT_HEADER_BYTES, 0, unique | INTERRUPTION);
        self.send(&[IoSlice::new(&header)]).is_ok()
    }

    /// Whether the kernel has ended the session.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Whether a read waits until there is something.
fn set_waiting(fd: &OwnedFd, waits: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(fd)?;
    flags.set(OFlags::NONBLOCK, !waits);
    rustix::fs::fcntl_setfl(fd, flags)?;
    Ok(())
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
