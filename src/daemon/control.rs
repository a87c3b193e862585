//! The daemon's end of the control socket: connections, and the requests that come over them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::protocol::{Answer, Envelope, MAX_LINE_BYTES, Outcome, Reply, Request, VERSION};
use super::server::{Server, spawn};
use super::{Error, ErrorKind, Result, service};

/// Most clients at a time; each costs a thread.
const MAX_CLIENTS: usize = 128;

impl Server {
    pub(super) fn accept(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection could be accepted");
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if self.clients.load(Ordering::Acquire) >= MAX_CLIENTS || !may_ask(&stream) {
                continue;
            }
            self.clients.fetch_add(1, Ordering::AcqRel);
            let server = Arc::clone(self);
            let spawned = spawn("client", move || {
                server.talk(&stream);
                server.clients.fetch_sub(1, Ordering::AcqRel);
            });
            if spawned.is_err() {
                self.clients.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Answers a client's requests until it closes the connection.
    fn talk(self: &Arc<Self>, stream: &UnixStream) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            if read.is_err() || line.last() != Some(&b'\n') {
                return;
            }
            self.answering.fetch_add(1, Ordering::AcqRel);
            let answer = std::panic::AssertUnwindSafe(|| self.reply(stream, &line));
            // A panic has been logged by the hook; the client sees the connection end.
            let goes_on = std::panic::catch_unwind(answer).unwrap_or(false);
            self.answering.fetch_sub(1, Ordering::AcqRel);
            if !goes_on {
                return;
            }
        }
    }

    /// Answers one request; returns whether the conversation goes on.
    fn reply(self: &Arc<Self>, mut stream: &UnixStream, line: &[u8]) -> bool {
        let outcome = match self.answer(line) {
            Ok(reply) => Outcome::Done(reply),
            Err(error) => Outcome::Failed(error),
        };
        let last = matches!(outcome, Outcome::Done(Reply::Unmounted { closed: true }));
        let Ok(mut text) = serde_json::to_vec(&Answer { version: VERSION, outcome }) else {
            return false;
        };
        text.push(b'\n');
        stream.write_all(&text).is_ok() && !last
    }

    fn answer(self: &Arc<Self>, line: &[u8]) -> Result<Reply> {
        let envelope: Envelope = serde_json::from_slice(line).map_err(|error| {
            Error::new(ErrorKind::Unsupported, format!("the request can't be read: {error}"))
        })?;
        if envelope.version != VERSION {
            let message = format!("requests of version {} are not known here", envelope.version);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        match &envelope.request {
            Request::Mount(request) => self.mount(request).map(|notes| Reply::Mounted { notes }),
            Request::Umount { dir } => {
                let last = self.unmount(&dir.0)?;
                if last {
                    self.wait_until_closed()?;
                }
                Ok(Reply::Unmounted { closed: last })
            }
            Request::WaitUnmounted { dir } => {
                if let Some(mounted) = self.mounts.on(&dir.0) {
                    mounted.mount.wait();
                }
                Ok(Reply::Unmounted { closed: false })
            }
            Request::Upgrade { program } => self.upgrade(&program.0).map(|()| Reply::Ok),
            request => {
                let pool = self.pool()?;
                service::execute(&pool, &self.mounts, Some(self.row()), &self.path, request)
            }
        }
    }
}

/// Returns whether the process at the other end is root's or our own user's.
fn may_ask(stream: &UnixStream) -> bool {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) => peer.uid.is_root() || peer.uid == rustix::process::geteuid(),
        Err(_) => false,
    }
}
