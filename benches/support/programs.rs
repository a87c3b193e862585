//! Running other programs, and ending when a signal asks for it.
//!
//! Signals are blocked everywhere and taken by one thread, which raises a flag and ends the program
//! that is being measured. Whoever measures looks at the flag ([`going`]) and returns, so that guards
//! take down what was set up. Programs are in process groups of their own: a terminal's Ctrl-C reaches
//! this process only, and the daemons that are needed to clean up stay.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::failure::{Failure, Result};
use super::signals;

static ENDING: AtomicBool = AtomicBool::new(false);

/// What a signal ends, beside raising the flag. A descriptor of a process never means another one.
static MEASURED: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Starts to wait for signals. To be called before any other thread is started.
pub(crate) fn watch_signals() -> io::Result<()> {
    signals::block_signals()?;
    thread::Builder::new().name("signals".into()).spawn(|| {
        while signals::wait_for_signal().is_ok() {
            ENDING.store(true, Ordering::Relaxed);
            let measured = MEASURED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some(process) = measured.as_ref() {
                let _ = pidfd_send_signal(process, Signal::TERM);
            }
        }
    })?;
    Ok(())
}

/// Fails when the run is to end.
pub(crate) fn going() -> Result<()> {
    if ENDING.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Says whether `program` is in the PATH, or in one of the directories for administrators.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/local/sbin"]);
    dirs.into_iter().any(|dir| Path::new(dir).join(program).is_file())
}

/// Makes the command `program` with `args`.
pub(crate) fn command<A: AsRef<std::ffi::OsStr>>(program: &str, args: &[A]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs a command that sets up or takes down, and returns its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    execute(command, &[0], false)
}

/// Runs a command that is measured: a signal ends it. `accept` are the exit codes that are no failure.
pub(crate) fn measured(command: &mut Command, accept: &[i32]) -> Result<String> {
    going()?;
    let outcome = execute(command, accept, true);
    going()?;
    outcome
}

fn execute(command: &mut Command, accept: &[i32], endable: bool) -> Result<String> {
    let line = format!("{command:?}").replace('"', "");
    let failure = |code, said: String| Failure::Program { command: line.clone(), code, said };
    let told = |error: io::Error| failure(None, error.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().map_err(told)?;
    if endable {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        *MEASURED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = process;
    }
    let output = child.wait_with_output();
    if endable {
        *MEASURED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }
    let output = output.map_err(told)?;
    let code = output.status.code();
    if code.is_none_or(|code| !accept.contains(&code)) {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().last().unwrap_or("says nothing").to_owned();
        return Err(failure(code, format!("{said} ({})", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
