//! What a daemon leaves with its supervisor, and gets back from it: descriptors and how to go on with
//! them.
//!
//! The two are connected by a pair of sockets that keep messages apart. A message is a JSON object,
//! with descriptors beside it. The supervisor passes what it keeps on as it came; only the daemon knows
//! what it means.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::protocol::{MountRequest, Outcome, WirePath};

/// Longest message: a mount with the longest names and paths, many times over.
const MAX_MESSAGE_BYTES: usize = 128 << 10;
/// Most descriptors beside a message: those of a mount.
const MAX_DESCRIPTORS: usize = 3;

/// A mount that outlives the daemon that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Names it in the daemon and its successors.
    pub(super) id: u64,
    /// Names the kernel's connection in the pool's journal.
    pub(super) session: u64,
    /// How it was asked for.
    pub(super) request: MountRequest,
    /// Since when it is there, RFC 3339.
    pub(super) since: String,
}

/// From the supervisor to a daemon that starts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToDaemon {
    /// The first message; the lock of the pool is with it if it is held.
    Serve(Serve),
    /// One of the mounts that [`Serve`] counts, with what is held of it.
    Mount(Kept),
}

/// What a daemon is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Serve {
    /// The mount for which the supervisor was started. Made by the first daemon, and by that alone; it
    /// says how all of them open the pool.
    pub(super) first: MountRequest,
    /// Mounts to go on with.
    pub(super) kept: usize,
    /// Daemons that have died before.
    pub(super) deaths: u64,
    /// Why the mounts are not to be served any more; answer every request with an error.
    pub(super) refuse: Option<String>,
}

/// From a daemon to its supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToSupervisor {
    /// How starting went.
    Started(Outcome),
    /// The pool's lock, with the message.
    Lock,
    /// A mount, with what is held of it.
    Keep(Kept),
    /// That mount has ended.
    Drop(u64),
    /// Start this program in place of the daemon.
    Replace(WirePath),
}

/// One end of the connection.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    pub(super) fn pair() -> io::Result<(Channel, Channel)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok((Channel(ours), Channel(theirs)))
    }

    pub(super) fn new(socket: OwnedFd) -> Channel {
        Channel(socket)
    }

    pub(super) fn into_socket(self) -> OwnedFd {
        self.0
    }

    pub(super) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many descriptors"));
        }
        let parts = [IoSlice::new(&text)];
        loop {
            match rustix::net::sendmsg(&self.0, &parts, &mut beside, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for a message; none when the other end is closed.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut text = vec![0; MAX_MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut text)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.0, &mut parts, &mut beside, flags) {
                Err(Errno::INTR) => {}
                // The other end had something unread when it was closed.
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a message is too long"));
        }
        text.truncate(received.bytes);
        Ok(Some((serde_json::from_slice(&text)?, descriptors)))
    }
}

/// A daemon's hold on its supervisor; without one nothing outlives it.
#[derive(Debug, Default)]
pub(super) struct Keeper(Option<Channel>);

impl Keeper {
    pub(super) fn new(channel: Channel) -> Keeper {
        Keeper(Some(channel))
    }

    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Tells the supervisor. It may have been killed: then nothing outlives this process, which goes on.
    pub(super) fn tell(&self, message: &ToSupervisor, descriptors: &[BorrowedFd<'_>]) {
        let Some(channel) = &self.0 else { return };
        if let Err(error) = channel.send(message, descriptors) {
            tracing::warn!(%error, "the supervisor is gone: the mounts end with this process");
        }
    }
}

/// Makes an empty file that has no name and lies in memory.
pub(super) fn nameless_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create(c"amberfs-writers", MemfdFlags::CLOEXEC)?.into())
}

/// What a supervisor holds of a mount, beside the messages about it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) session: OwnedFd,
    /// The note of what is open for writing.
    pub(super) writers: OwnedFd,
    /// The requests without a reply, where the kernel does not send them again.
    pub(super) requests: Option<OwnedFd>,
}

impl Held {
    /// Those that came beside a message.
    pub(super) fn new(descriptors: Vec<OwnedFd>) -> io::Result<Held> {
        let mut descriptors = descriptors.into_iter();
        match (descriptors.next(), descriptors.next(), descriptors.next()) {
            (Some(session), Some(writers), requests) => Ok(Held { session, writers, requests }),
            _ => Err(io::Error::other("a mount without descriptors")),
        }
    }

    /// In the order in which [`Self::new`] takes them.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let all = [Some(&self.session), Some(&self.writers), self.requests.as_ref()];
        all.into_iter().flatten().map(AsFd::as_fd).collect()
    }
}

/// Takes the daemon's connection over: it is its standard input.
pub(super) fn from_stdin() -> io::Result<Channel> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(Channel::new(socket))
}

/// The program that this process runs, to be started again: it stays the same when its file is
/// replaced.
pub(super) fn this_program() -> PathBuf {
    "/proc/self/exe".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    fn kept() -> Kept {
        let request = MountRequest {
            pool: PathBuf::from("/pool").into(),
            volume: "main".into(),
            dir: PathBuf::from("/mnt").into(),
            create: false,
            options: Default::default(),
        };
        Kept { id: 3, session: u64::MAX - 5, request, since: "now".into() }
    }

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut file = nameless_file().unwrap();
        file.write_all(b"written").unwrap();
        ours.send(&ToSupervisor::Keep(kept()), &[file.as_fd(), file.as_fd()]).unwrap();
        ours.send(&ToSupervisor::Drop(3), &[]).unwrap();
        drop(ours);
        let (message, descriptors) = theirs.receive::<ToSupervisor>().unwrap().unwrap();
        assert!(matches!(message, ToSupervisor::Keep(other) if other == kept()));
        let held = Held::new(descriptors).unwrap();
        assert!(held.requests.is_none() && held.descriptors().len() == 2);
        let (mut copy, mut text) = (File::from(held.session), String::new());
        copy.rewind().unwrap();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "written");
        let (message, descriptors) = theirs.receive::<ToSupervisor>().unwrap().unwrap();
        assert!(matches!(message, ToSupervisor::Drop(3)) && Held::new(descriptors).is_err());
        assert!(theirs.receive::<ToSupervisor>().unwrap().is_none());
    }

    #[test]
    fn a_supervisor_that_is_gone_disturbs_nobody() {
        let (ours, theirs) = Channel::pair().unwrap();
        drop(theirs);
        Keeper::new(ours).tell(&ToSupervisor::Drop(1), &[]);
        Keeper::default().tell(&ToSupervisor::Drop(1), &[]);
    }
}
