//! Starting a pool's daemon, or adding a mount to the one that runs.
//!
//! The background: `mount` runs its own program again with the hidden command `supervise`, passes the
//! request on standard input, and waits for the answer, one line, on standard output. The child
//! leaves the session, and lets go of the terminal when it has answered with a success. It is the
//! pool's supervisor, and starts the daemon with the hidden command `daemon`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::client::{self, Patience};
use super::keep::{self, Held, Keeper, ToDaemon};
use super::log::{self, Verbosity};
use super::protocol::{Answer, MountRequest, Outcome, Reply, Request, VERSION};
use super::server::{self, Inherited};
use super::supervisor::{self, Starting};
use super::{Error, ErrorKind, Result, mountinfo};

/// Checks what can be checked of a mount point without mounting, and returns it absolute.
pub fn check_mount_point(dir: &Path, pool: &Path) -> Result<PathBuf> {
    let shown = dir.display();
    let looked_at = fs::metadata(dir).and_then(|meta| Ok((meta, fs::canonicalize(dir)?)));
    let (meta, path) = looked_at.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let message = format!("the mount point {shown} does not exist");
            Error::new(ErrorKind::NotFound, message)
                .with_hint(format!("Make it with `mkdir {shown}`."))
        }
        _ if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let message = format!("on {shown} is a mount whose daemon is gone");
            Error::new(ErrorKind::Busy, message)
                .with_hint(format!("Take it away with `amberfs umount {shown}`."))
        }
        _ => Error::io(format_args!("look at the mount point {shown}"), &error),
    })?;
    if !meta.is_dir() {
        let message = format!("the mount point {shown} is not a directory");
        return Err(Error::new(ErrorKind::Io, message).with_hint("Give a directory that exists."));
    }
    if pool.starts_with(&path) {
        let message = format!("the pool lies in {shown}, and would be hidden by the mount");
        return Err(Error::new(ErrorKind::Busy, message).with_hint("Use another directory."));
    }
    if path.starts_with(pool) {
        let message = format!("{shown} lies in the pool's own directory");
        return Err(Error::new(ErrorKind::Busy, message).with_hint("Use another directory."));
    }
    let table = mountinfo::read().unwrap_or_default();
    match table.iter().rfind(|entry| entry.dir == path) {
        Some(entry) if entry.is_amberfs() => {
            let message = format!("{} is already mounted there", entry.source.display());
            Err(Error::new(ErrorKind::Busy, message)
                .with_hint("Unmount it first, or use another directory."))
        }
        _ => Ok(path),
    }
}

/// Checks that FUSE is there and that this user can mount.
pub fn check_fuse() -> Result<()> {
    /// Where the set-user-id helper is, if it is installed.
    const HELPERS: [&str; 3] =
        ["/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3"];
    if let Err(error) = fs::metadata("/dev/fuse") {
        let message = format!("there is no usable /dev/fuse: {error}");
        return Err(Error::new(ErrorKind::Unsupported, message).with_hint(
            "Load the module with `modprobe fuse`; a container needs the device, e.g. `--device /dev/fuse`.",
        ));
    }
    let root = rustix::process::geteuid().is_root();
    if !root && !HELPERS.iter().any(|helper| Path::new(helper).exists()) {
        return Err(Error::new(ErrorKind::Permission, "only root may mount")
            .with_hint("Run it with sudo, or install fusermount3 (package fuse3)."));
    }
    // fusermount3 opens the device with the user's own rights.
    let open = || File::options().read(true).write(true).open("/dev/fuse");
    if let (false, Err(error)) = (root, open()) {
        let message = format!("/dev/fuse is not for this user: {error}");
        return Err(Error::new(ErrorKind::Permission, message)
            .with_hint("Run it with sudo, or let everybody use it: `chmod 666 /dev/fuse`."));
    }
    Ok(())
}

/// Mounts in the background: through the pool's daemon, which is started if it is not running.
pub fn background(
    request: &MountRequest,
    filter: Option<&str>,
    verbosity: Verbosity,
) -> Result<Reply> {
    let wanted = Request::Mount(request.clone());
    let patience = Patience::new();
    loop {
        let outcome = match client::ask(&request.pool.0, &wanted) {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => start(request, filter, verbosity),
            Err(error) => Err(error),
        };
        match outcome {
            // A mount may be asked for twice: the second finds the first.
            Err(error) if patience.again(&error, true) => {}
            other => return other,
        }
    }
}

/// Mounts, and returns when the mount has ended.
pub fn foreground(
    request: &MountRequest,
    filter: Option<&str>,
    verbosity: Verbosity,
) -> Result<()> {
    let pool = &request.pool.0;
    let patience = Patience::new();
    loop {
        let outcome = match client::ask(pool, &Request::Mount(request.clone())) {
            Ok(Some(_)) => {
                tracing::info!("the pool's daemon runs already and has added the mount");
                let wait = Request::WaitUnmounted { dir: request.dir.clone() };
                return match client::ask(pool, &wait) {
                    // The daemon's end is the mount's end.
                    Err(error) if error.kind != ErrorKind::Lost => Err(error),
                    _ => Ok(()),
                };
            }
            Ok(None) => supervise_here(request, filter, verbosity),
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if patience.again(&error, true) => {}
            other => return other,
        }
    }
}

/// Supervises the pool's daemon in this process.
fn supervise_here(
    request: &MountRequest,
    filter: Option<&str>,
    verbosity: Verbosity,
) -> Result<()> {
    let filter = filter.map(str::to_owned);
    let starting = Starting { verbosity, filter, foreground: true };
    let mut failed = None;
    let ended = supervisor::run(request, starting, |outcome| failed = outcome.err());
    failed.map_or(ended, Err)
}

/// Starts the supervisor and waits for its answer.
fn start(request: &MountRequest, filter: Option<&str>, verbosity: Verbosity) -> Result<Reply> {
    let failed = |error: &io::Error| Error::io("start the pool's daemon", error);
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("amberfs")
        .arg("supervise")
        .arg("--log")
        .arg(verbosity.to_string())
        .arg(&request.pool.0);
    if let Some(filter) = filter {
        command.env("AMBERFS_LOG", filter);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let text = serde_json::to_vec(request).map_err(|error| Error::new(ErrorKind::Io, error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ended early has closed it; its answer, or none, tells.
        let _ = stdin.write_all(&text);
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(|error| failed(&error))?;
    }
    if line.is_empty() {
        return Err(ended_early(child, request));
    }
    let answer: Answer = serde_json::from_str(&line).map_err(|error| {
        Error::new(ErrorKind::Io, format!("the daemon's answer can't be read: {error}"))
    })?;
    match answer.outcome {
        Outcome::Done(reply) => Ok(reply),
        Outcome::Failed(error) => {
            // It has nothing left to do; when it is gone the pool is free.
            let _ = child.wait();
            Err(error)
        }
    }
}

fn ended_early(mut child: Child, request: &MountRequest) -> Error {
    let how = match child.wait() {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let message = format!("the pool's daemon ended before the mount was usable ({how})");
    let hint = format!(
        "Mount with -f to see its messages; later ones are in {}/{}.",
        request.pool.0.display(),
        log::LOG_FILE
    );
    Error::new(ErrorKind::Io, message).with_hint(hint)
}

/// The child's half: reads the request, starts the pool's daemon, answers how that went, detaches, and
/// supervises until the last mount has ended.
pub fn supervise(
    mut from: impl Read,
    mut to: impl Write,
    filter: Option<&str>,
    verbosity: Verbosity,
) -> Result<()> {
    let mut text = Vec::new();
    from.read_to_end(&mut text).map_err(|error| Error::io("read the request", &error))?;
    let request: MountRequest = serde_json::from_slice(&text).map_err(|_| {
        Error::new(ErrorKind::Usage, "standard input holds no request")
            .with_hint("This command is for `amberfs mount`, which starts it.")
    })?;
    // Fails for a process that leads a group already, and then nothing hangs on a terminal anyway.
    let _ = rustix::process::setsid();
    // The daemon must not keep the caller's directory busy.
    let _ = rustix::process::chdir("/");
    // Lists of processes would show the `exe` of /proc/self/exe.
    let _ = rustix::thread::set_name(c"amberfs");
    let log = log::to_file(filter, verbosity);
    let filter = filter.map(str::to_owned);
    let starting = Starting { verbosity, filter, foreground: false };
    let mut told = false;
    let ended = supervisor::run(&request, starting, |outcome| {
        if let Err(error) = answer(&mut to, &outcome) {
            tracing::debug!(%error, "nobody reads the answer");
        }
        told = outcome.is_err();
        if !told && let Err(error) = let_go(&log, &request.pool.0) {
            tracing::warn!(%error, "the supervisor keeps its starter's standard streams");
        }
    });
    // What the starter was told needs not be said again.
    if told { Ok(()) } else { ended }
}

/// The daemon itself: takes over what its supervisor has for it, and serves the pool until its last mount
/// has ended. Its standard input is the connection.
pub fn serve(filter: Option<&str>, verbosity: Verbosity, foreground: bool) -> Result<()> {
    let misused = |_| {
        Error::new(ErrorKind::Usage, "standard input is no supervisor")
            .with_hint("This command is for `amberfs mount`, which starts it.")
    };
    let log = (!foreground).then(|| log::to_file(filter, verbosity));
    let channel = keep::from_stdin().map_err(misused)?;
    let Some((ToDaemon::Serve(serve), lock)) = channel.receive().map_err(misused)? else {
        return Err(misused(io::ErrorKind::UnexpectedEof.into()));
    };
    let mut inherited = Inherited { lock: lock.into_iter().next(), ..Inherited::default() };
    while inherited.mounts.len() < serve.kept {
        let received = channel.receive().map_err(|error| Error::io("take mounts over", &error))?;
        let Some((ToDaemon::Mount(kept), descriptors)) = received else {
            return Err(Error::new(ErrorKind::Io, "the supervisor is gone"));
        };
        let held =
            Held::new(descriptors).map_err(|error| Error::io("take a mount over", &error))?;
        inherited.mounts.push((kept, held));
    }
    let keeper = Keeper::new(channel);
    let first_start = serve.kept == 0;
    let attach = || {
        if let Some(log) = &log
            && let Err(error) = let_go(log, &serve.first.pool.0)
        {
            tracing::warn!(%error, "the daemon keeps its starter's standard streams");
        }
    };
    let ended = server::run(&serve, inherited, keeper, attach);
    // A first start's failure is told by the supervisor; any other is for the log.
    if first_start && ended.is_err() { Ok(()) } else { ended }
}

fn answer(to: &mut impl Write, outcome: &Result<Reply>) -> io::Result<()> {
    let outcome = match outcome {
        Ok(reply) => Outcome::Done(reply.clone()),
        Err(error) => Outcome::Failed(error.clone()),
    };
    let mut line = serde_json::to_vec(&Answer { version: VERSION, outcome })?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Points the standard streams away from whoever started us.
fn let_go(log: &log::LogFile, pool: &Path) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    match log.attach(pool) {
        Ok(file) => rustix::stdio::dup2_stderr(&file)?,
        Err(error) => {
            rustix::stdio::dup2_stderr(&null)?;
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_that_cannot_work_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let (pool, mnt) = (home.join("pool"), home.join("mnt"));
        fs::create_dir_all(pool.join("inside")).unwrap();
        fs::create_dir(&mnt).unwrap();
        fs::write(home.join("file"), "").unwrap();
        assert_eq!(check_mount_point(&mnt, &pool).unwrap(), mnt);
        let error = |dir: PathBuf| check_mount_point(&dir, &pool).unwrap_err();
        assert_eq!(error(home.join("none")).kind, ErrorKind::NotFound);
        assert!(error(home.join("file")).message.contains("not a directory"));
        assert!(error(home.clone()).message.contains("would be hidden"));
        assert!(error(pool.clone()).message.contains("would be hidden"));
        assert!(error(pool.join("inside")).message.contains("pool's own directory"));
    }
}
