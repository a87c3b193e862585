//! The last daemon of a pool whose others have died again and again: it answers everything with EIO, so
//! that no program waits, and says why on the control socket, until the mounts are taken away.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use crate::fuse;

use super::keep::{Held, Kept, Serve};
use super::protocol::{Answer, Envelope, MAX_LINE_BYTES, Outcome, Reply, Request, VERSION};
use super::server::{Inherited, spawn};
use super::{Error, ErrorKind, Result, client, log};

/// Refuses until every mount has ended.
pub(super) fn run(serve: &Serve, inherited: Inherited, why: &str) -> Result<()> {
    let pool = serve.first.pool.0.clone();
    tracing::error!("no daemon is started any more: {why}; every request gets EIO");
    let error = Error::new(ErrorKind::Io, format!("the pool is not served any more: {why}"))
        .with_hint(format!(
            "See {}/{}; unmount, and `amberfs check` the pool before it is mounted again.",
            pool.display(),
            log::LOG_FILE
        ));
    let listener = client::bind(&pool);
    let listener = listener
        .map_err(|error| Error::io(format_args!("make {}'s socket", pool.display()), &error))?;
    let dirs: Vec<PathBuf> =
        inherited.mounts.iter().map(|(kept, _)| kept.request.dir.0.clone()).collect();
    spawn("control", move || {
        for stream in listener.incoming().flatten() {
            answer(&stream, &error, &dirs);
        }
    })?;
    let refuse = |(_, held): (Kept, Held)| {
        thread::spawn(move || fuse::refuse_everything(held.session, held.requests))
    };
    let threads: Vec<_> = inherited.mounts.into_iter().map(refuse).collect();
    for thread in threads {
        if let Ok(Err(error)) = thread.join() {
            tracing::error!(%error, "a mount is left to itself");
        }
    }
    client::remove(&pool).map_err(|error| Error::io("remove the control socket", &error))
}

/// Answers one client: an unmount is done, everything else refused.
fn answer(mut stream: &UnixStream, error: &Error, dirs: &[PathBuf]) {
    let mut line = Vec::new();
    let read = BufReader::new(stream).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
    let envelope = read.ok().and_then(|_| serde_json::from_slice::<Envelope>(&line).ok());
    let outcome = match envelope.map(|envelope| envelope.request) {
        Some(Request::Umount { dir }) if dirs.contains(&dir.0) => match detach(&dir.0) {
            Ok(()) => Outcome::Done(Reply::Unmounted { closed: dirs.len() == 1 }),
            Err(error) => Outcome::Failed(error),
        },
        _ => Outcome::Failed(error.clone()),
    };
    if let Ok(mut text) = serde_json::to_vec(&Answer { version: VERSION, outcome }) {
        text.push(b'\n');
        let _ = stream.write_all(&text);
    }
}

fn detach(dir: &Path) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
    unmount(dir, flags)
        .map_err(|errno| Error::io(format_args!("unmount {}", dir.display()), &errno.into()))
}
