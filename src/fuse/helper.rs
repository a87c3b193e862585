//! A process that flushes files on the daemon's behalf.
//!
//! fsync of a file on the daemon's own mount waits, in the kernel and beyond the reach of any
//! signal, for WRITE requests that the daemon answers. A daemon that is killed in that moment would
//! wait for itself: it could not end, `/dev/fuse` would stay open and the pool locked, until
//! somebody unmounts by force. In a process of its own the wait ends as soon as the daemon has.
//!
//! The helper is started at the first need, serves one request at a time over its standard input
//! and output, and ends when the daemon closes them, by dying too. It has one thread, so that its
//! requests are known by its process id.
//!
//! It gives up a request whose daemon has died: else it would keep the mount busy, and ask the next
//! daemon for inodes that nobody wants to know about.
//!
//! | request | bytes |
//! |---|---|
//! | how: 0 fsync, 1 pages alone, 2 nothing | 8 |
//! | `st_dev` of the mount | 8 |
//! | bytes of the mount point, and how many nodes | 8 + 8 |
//! | mount point; each node, and the bytes of its path | 16 a node |
//! | paths, one behind the other | |
//!
//! The reply is a count, 8 bytes, and the nodes that could not be opened; for 2 those that the kernel has
//! nothing of. Integers are in the
//! host's byte order.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::write_back::{How, Place, Target};

/// The argument that makes a program run [`flush_helper`].
pub const FLUSH_HELPER: &str = "flush-helper";
/// Most nodes of a request: open files of a whole machine, and no more memory than 64 MiB.
const MAX_NODES: u64 = 8 << 20;
/// Longest mount point and longest path below it, Linux's PATH_MAX.
const MAX_DIR_BYTES: u64 = 4096;

/// The daemon's side.
#[derive(Debug)]
pub(crate) struct Helper {
    program: PathBuf,
    running: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    requests: ChildStdin,
    replies: ChildStdout,
}

impl Helper {
    pub(crate) fn new(program: PathBuf) -> Self {
        Helper { program, running: Mutex::default() }
    }

    /// Has the helper do [`Place::bring_in`]. `known` is called with its process id, and what that
    /// returns lives as long as the helper is at it.
    pub(crate) fn bring_in<G>(
        &self,
        place: &Place,
        targets: &[Target],
        how: How,
        known: impl FnOnce(u32) -> G,
    ) -> io::Result<Vec<u64>> {
        let mut running = self.running.lock();
        let mut process = match running.take() {
            Some(process) => process,
            None => Process::start(&self.program)?,
        };
        let guard = known(process.child.id());
        let refused = process.ask(place, targets, how);
        drop(guard);
        // After an error it is not started from where it stopped: the next one is a new one.
        if refused.is_ok() {
            *running = Some(process);
        }
        refused
    }
}

impl Process {
    fn start(program: &PathBuf) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg(FLUSH_HELPER)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(requests), Some(replies)) => Ok(Process { child, requests, replies }),
            _ => Err(io::Error::other("a child without pipes")),
        }
    }

    fn ask(&mut self, place: &Place, targets: &[Target], how: How) -> io::Result<Vec<u64>> {
        self.requests.write_all(&encode(place, targets, how))?;
        let count = read_u64(&mut self.replies)?;
        read_nodes(&mut self.replies, count)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed rather than asked: it may be one that did not answer as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves a daemon until that closes its end. To be called with standard input and output by a program
/// that has been started with [`FLUSH_HELPER`] as its argument.
///
/// # Errors
/// Those of reading and writing, and requests that are not as they should be.
pub fn flush_helper(requests: &mut impl Read, replies: &mut (impl Write + AsFd)) -> io::Result<()> {
    let pipe = replies.as_fd().try_clone_to_owned()?;
    serve(requests, replies, |place, targets, how| {
        place.bring_in(targets, how, || has_reader(pipe.as_fd()))
    })
}

/// Whether what is written to a pipe may still be read.
fn has_reader(pipe: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(pipe, PollFlags::empty())];
    let asked = poll(&mut polled, Some(&Timespec::default()));
    asked.is_err() || !polled.iter().any(|it| it.revents().contains(PollFlags::ERR))
}

fn serve(
    requests: &mut impl Read,
    replies: &mut impl Write,
    bring_in: impl Fn(&Place, &[Target], How) -> Vec<u64>,
) -> io::Result<()> {
    loop {
        let how = match read_u64(requests) {
            Ok(0) => How::Fsync,
            Ok(1) => How::Pages,
            Ok(2) => How::Absent,
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let device_number = read_u64(requests)?;
        let (dir_bytes, count) = (read_u64(requests)?, read_u64(requests)?);
        if dir_bytes > MAX_DIR_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut dir = vec![0; usize::try_from(dir_bytes).unwrap_or_default()];
        requests.read_exact(&mut dir)?;
        let targets = read_targets(requests, count)?;
        let place = Place { dir: OsString::from_vec(dir).into(), device_number };
        let refused = bring_in(&place, &targets, how);
        let mut reply = (refused.len() as u64).to_ne_bytes().to_vec();
        reply.extend(refused.iter().flat_map(|node| node.to_ne_bytes()));
        replies.write_all(&reply)?;
        replies.flush()?;
    }
}

fn encode(place: &Place, targets: &[Target], how: How) -> Vec<u8> {
    let dir = place.dir.as_os_str().as_bytes();
    let how = match how {
        How::Fsync => 0,
        How::Pages => 1,
        How::Absent => 2,
    };
    let paths: usize = targets.iter().map(|target| target.path.len()).sum();
    let mut bytes = Vec::with_capacity(32 + dir.len() + targets.len() * 16 + paths);
    for word in [how, place.device_number, dir.len() as u64, targets.len() as u64] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(dir);
    for target in targets {
        bytes.extend(target.node.to_ne_bytes());
        bytes.extend((target.path.len() as u64).to_ne_bytes());
    }
    bytes.extend(targets.iter().flat_map(|target| &target.path));
    bytes
}

fn read_targets(from: &mut impl Read, count: u64) -> io::Result<Vec<Target>> {
    if count > MAX_NODES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let heads: Vec<(u64, u64)> =
        (0..count).map(|_| Ok((read_u64(from)?, read_u64(from)?))).collect::<io::Result<_>>()?;
    let target = |(node, len): (u64, u64)| {
        if len > MAX_DIR_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut path = vec![0; usize::try_from(len).unwrap_or_default()];
        from.read_exact(&mut path)?;
        Ok(Target { node, path })
    };
    heads.into_iter().map(target).collect()
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn read_nodes(from: &mut impl Read, count: u64) -> io::Result<Vec<u64>> {
    if count > MAX_NODES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    (0..count).map(|_| read_u64(from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { dir: "/mnt/x y".into(), device_number: 45 }
    }

    fn named(node: u64, path: &[u8]) -> Target {
        Target { node, path: path.to_vec() }
    }

    #[test]
    fn requests_arrive_as_they_were_sent() {
        let first = [Target::by_handle(1), named(1 << 41, b"d/f"), named(9, b"x")];
        let mut bytes = encode(&place(), &first, How::Fsync);
        bytes.extend(encode(&place(), &[Target::by_handle(7)], How::Pages));
        let seen = Mutex::new(Vec::new());
        let mut replies = Vec::new();
        serve(&mut &bytes[..], &mut replies, |place, targets, how| {
            seen.lock().push((place.clone(), targets.to_vec(), how));
            targets.iter().map(|target| target.node).filter(|&node| node == 7).collect()
        })
        .unwrap();
        let expected = [
            (place(), first.to_vec(), How::Fsync),
            (place(), vec![Target::by_handle(7)], How::Pages),
        ];
        assert_eq!(*seen.lock(), expected);
        let words: Vec<_> = [0u64, 1, 7].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(replies, words);
    }

    #[test]
    fn a_request_that_is_cut_or_beyond_the_bounds_is_an_error() {
        let whole = encode(&place(), &[Target::by_handle(1), named(2, b"path")], How::Fsync);
        for cut in 8..whole.len() {
            let served = serve(&mut &whole[..cut], &mut Vec::new(), |_, _, _| Vec::new());
            assert!(served.is_err(), "cut at {cut}");
        }
        for (at, value) in [(0, 3u64), (16, 5000), (24, u64::MAX), (48, 5000)] {
            let mut bad = whole.clone();
            bad[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            assert!(serve(&mut &bad[..], &mut Vec::new(), |_, _, _| Vec::new()).is_err());
        }
    }

    #[test]
    fn a_daemon_that_has_died_reads_no_replies() {
        let (daemon, helper) = io::pipe().unwrap();
        assert!(has_reader(helper.as_fd()));
        drop(daemon);
        assert!(!has_reader(helper.as_fd()));
    }

    #[test]
    fn a_program_that_does_not_answer_is_an_error() {
        let helper = Helper::new("/bin/true".into());
        assert!(helper.bring_in(&place(), &[Target::by_handle(1)], How::Fsync, |_| ()).is_err());
        let absent = Helper::new("/nonexistent/program".into());
        assert!(absent.bring_in(&place(), &[Target::by_handle(1)], How::Fsync, |_| ()).is_err());
    }
}
