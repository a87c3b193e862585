//! The commands, one file each; the only code that prints.
//!
//! [`run`] parses, dispatches and turns a [`Failure`] into one paragraph on standard error and an
//! exit code: 0 done, 1 failed, 2 wrong usage. Each command resolves its addresses ([`locate`]),
//! sends a request to the pool's daemon or carries it out on the pool itself
//! ([`crate::daemon::call`]), and prints the reply. Nothing here touches a pool directly, but for
//! `check` and `pool create`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod address;
mod check;
mod clone;
mod failure;
mod generate;
mod helper;
mod locate;
mod mount;
mod options;
mod output;
mod pool;
mod remount;
mod scrub;
mod size;
mod snapshot;
mod status;
mod umount;
mod upgrade;
mod volume;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use clap::{Parser, Subcommand};

use crate::daemon::log::{self, Verbosity};
use crate::fuse;

pub use failure::{EXIT_FAILED, EXIT_USAGE, Failure};

/// What a command needs to know of its surroundings; `main` collects it.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The arguments, the program's own name first.
    pub args: Vec<OsString>,
    /// `AMBERFS_LOG`: a filter for log messages.
    pub log_filter: Option<String>,
}

/// A copy-on-write filesystem in user space: `mkdir .snapshots/monday` freezes a volume.
#[derive(Debug, Parser)]
#[command(name = "amberfs", version, propagate_version = true)]
#[command(
    after_help = "An address is POOL, POOL:VOLUME or POOL:VOLUME@SNAPSHOT, POOL being a directory;\n\
    without :VOLUME the volume is `main`. A path inside a mounted volume will do as well.\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage. AMBERFS_LOG filters log messages."
)]
struct Cli {
    #[command(flatten)]
    loudness: Loudness,
    #[command(subcommand)]
    command: Command,
}

/// How much is said.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Loudness {
    /// Say more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::Mount),
    Umount(umount::Umount),
    Upgrade(upgrade::Upgrade),
    #[command(subcommand)]
    Pool(pool::Pool),
    #[command(subcommand)]
    Volume(volume::Volume),
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    Clone(clone::Clone),
    Restore(clone::Restore),
    Check(check::Check),
    Scrub(scrub::Scrub),
    Status(status::Status),
    Completions(generate::Completions),
    Man(generate::Man),
    #[command(hide = true)]
    Supervise(mount::Supervise),
    #[command(hide = true)]
    Daemon(mount::Daemon),
    /// Flush files for a daemon, which starts this.
    #[command(name = fuse::FLUSH_HELPER, hide = true)]
    FlushHelper,
}

/// What every command gets.
#[derive(Debug)]
struct Context {
    log_filter: Option<String>,
    verbosity: Verbosity,
}

impl Context {
    /// Prints a remark for people on standard error, unless they want quiet.
    fn note(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "amberfs: {text}");
        }
    }

    /// Sends log messages to standard error, for commands that run in the foreground.
    fn log_to_stderr(&self) {
        log::to_writer(std::io::stderr, self.log_filter.as_deref(), self.verbosity);
    }
}

/// Runs the command that the arguments spell, and returns the exit code.
pub fn run(environment: &Environment) -> u8 {
    let name = environment.args.first().map(Path::new).and_then(Path::file_name);
    let helper = name.is_some_and(|name| name == "mount.amberfs" || name == "mount.fuse.amberfs");
    let result = if helper { helper::run(environment) } else { run_command(environment) };
    match result {
        Ok(()) => 0,
        Err(End::Clap(error)) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = error.print();
            code
        }
        Err(End::Failed(failure)) => {
            let _ = writeln!(std::io::stderr(), "amberfs: {failure}");
            failure.code()
        }
    }
}

/// Why a command did not simply end well.
enum End {
    /// Help, version, or wrong arguments.
    Clap(clap::Error),
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        End::Failed(failure)
    }
}

fn run_command(environment: &Environment) -> Result<(), End> {
    let cli = Cli::try_parse_from(&environment.args).map_err(End::Clap)?;
    let verbosity = match (cli.loudness.quiet, cli.loudness.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, 0) => Verbosity::Normal,
        (_, 1) => Verbosity::Verbose,
        _ => Verbosity::Everything,
    };
    let context = Context { log_filter: environment.log_filter.clone(), verbosity };
    let mounts =
        matches!(cli.command, Command::Mount(_) | Command::Supervise(_) | Command::Daemon(_));
    if !mounts && (cli.loudness.verbose > 0 || environment.log_filter.is_some()) {
        context.log_to_stderr();
    }
    let done = match &cli.command {
        Command::Mount(command) => command.run(&context),
        Command::Umount(command) => command.run(&context),
        Command::Upgrade(command) => command.run(&context),
        Command::Pool(command) => command.run(&context),
        Command::Volume(command) => command.run(&context),
        Command::Snapshot(command) => command.run(&context),
        Command::Clone(command) => command.run(&context),
        Command::Restore(command) => command.run(&context),
        Command::Check(command) => command.run(&context),
        Command::Scrub(command) => command.run(&context),
        Command::Status(command) => command.run(&context),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
        Command::Supervise(command) => command.run(&context),
        Command::Daemon(command) => command.run(&context),
        // Its daemon sees that it ends, and does without.
        Command::FlushHelper => {
            let (mut requests, mut replies) = (std::io::stdin().lock(), std::io::stdout().lock());
            let _ = fuse::flush_helper(&mut requests, &mut replies);
            Ok(())
        }
    };
    done.map_err(End::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
