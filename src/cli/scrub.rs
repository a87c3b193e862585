//! `amberfs scrub`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::daemon;
use crate::daemon::log::Verbosity;
use crate::daemon::protocol::{Reply, Request, ScrubDamageRow, ScrubProgress, ScrubRow};

use super::locate::absolute_pool;
use super::output::{Listing, print, print_json};
use super::{Context, Failure, failure};

/// Time between two questions about a scrub that runs.
const POLL: Duration = Duration::from_millis(200);

/// Read and verify everything that a pool holds, mounted or not, while it is in use.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The scrub runs in the pool's daemon, at the pace of half a disk; the command waits \
    for it, and may be interrupted without stopping it. A scrub that was stopped, by --cancel or because the \
    pool was unmounted, goes on where it was with the next one. Without a daemon the command does it itself. \
    The exit code is 1 if damage was found."
)]
pub(super) struct Scrub {
    /// The pool's directory.
    pool: PathBuf,
    /// Begin it, and do not wait for its end.
    #[arg(long, conflicts_with_all = ["status", "cancel"])]
    background: bool,
    /// Show the scrub that runs, or what the last one has found.
    #[arg(long, conflicts_with = "cancel")]
    status: bool,
    /// Stop the scrub that runs.
    #[arg(long)]
    cancel: bool,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct ScrubJson<'a> {
    pool: String,
    #[serde(flatten)]
    scrub: &'a ScrubRow,
}

impl Scrub {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let pool = absolute_pool(&self.pool);
        let row = match (self.status, self.cancel) {
            (true, _) => ask(&pool, &Request::ScrubStatus)?,
            (_, true) => ask(&pool, &Request::ScrubCancel)?,
            _ => {
                let row = ask(&pool, &Request::ScrubStart)?;
                if self.background { row } else { wait(&pool, row, context.verbosity)? }
            }
        };
        if self.listing.json {
            print_json(&ScrubJson { pool: pool.display().to_string(), scrub: &row })?;
        } else {
            print(&self.describe(&row, context.verbosity))?;
        }
        let found = row.damage.len() as u64 + row.more_damage;
        if found == 0 {
            return Ok(());
        }
        let cause = match found {
            1 => "one piece of damage was found".to_owned(),
            found => format!("{found} pieces of damage were found"),
        };
        Err(Failure::new(format!("call the pool {} sound", pool.display()), cause)
            .hint("What is not damaged stays readable. Restore the files that are named, or delete them and the snapshots that they are in."))
    }

    fn describe(&self, row: &ScrubRow, verbosity: Verbosity) -> String {
        let mut text: String =
            row.damage.iter().map(|piece| describe_damage(piece) + "\n").collect();
        if row.more_damage > 0 {
            text.push_str(&format!("and {} more\n", row.more_damage));
        }
        if verbosity == Verbosity::Quiet {
            return text;
        }
        let size = self.listing.size(row.done_bytes);
        let read = format!("{size} verified ({} nodes, {} data blocks)", row.nodes, row.blocks);
        let begun = row.begun.as_deref().unwrap_or_default();
        let line = match (row.progress, &row.ended) {
            (ScrubProgress::None, _) => "there was no scrub yet".to_owned(),
            (ScrubProgress::Running, _) => format!("running since {begun}: {read}"),
            (ScrubProgress::Stopped, _) => format!("stopped, begun {begun}: {read}"),
            (ScrubProgress::Done, Some(ended)) => format!("done {ended}: {read}"),
            (ScrubProgress::Done, None) => format!("done: {read}"),
        };
        text.push_str(&line);
        let clean = row.progress == ScrubProgress::Done && row.damage.is_empty();
        text.push_str(if clean { ", no damage found\n" } else { "\n" });
        text
    }
}

/// `main@monday /dir/file: blocks 3 to 4: block 77 of the pool: its checksum does not match`
fn describe_damage(piece: &ScrubDamageRow) -> String {
    let mut place = piece.volume.clone().unwrap_or_default();
    if let Some(snapshot) = &piece.snapshot {
        place.push_str(&format!("@{snapshot}"));
    }
    if let Some(path) = &piece.path {
        place.push_str(&format!(" {path}"));
    }
    let blocks = match (piece.first_block, piece.blocks) {
        (Some(first), Some(1)) => format!("block {first}: "),
        (Some(first), Some(len)) => {
            format!("blocks {first} to {}: ", first.saturating_add(len).saturating_sub(1))
        }
        _ => String::new(),
    };
    let colon = if place.is_empty() { "" } else { ": " };
    format!("{place}{colon}{blocks}{}", piece.cause)
}

fn ask(pool: &Path, request: &Request) -> Result<ScrubRow, Failure> {
    let attempt = format!("scrub the pool {}", pool.display());
    match daemon::call(pool, request) {
        Ok(Reply::Scrub(row)) => Ok(row),
        Ok(_) => Err(failure::odd_reply(&attempt)),
        Err(error) => Err(Failure::from_daemon(&attempt, error)),
    }
}

/// Waits until a scrub has ended, and shows how far it is on a terminal.
fn wait(pool: &Path, mut row: ScrubRow, verbosity: Verbosity) -> Result<ScrubRow, Failure> {
    let bar = progress_bar(verbosity, row.total_bytes);
    while row.progress == ScrubProgress::Running {
        bar.set_position(row.done_bytes.min(row.total_bytes));
        bar.set_message(match row.damage.len() {
            0 => String::new(),
            found => format!("{found} damaged"),
        });
        std::thread::sleep(POLL);
        row = ask(pool, &Request::ScrubStatus)?;
    }
    bar.finish_and_clear();
    Ok(row)
}

fn progress_bar(verbosity: Verbosity, total_bytes: u64) -> ProgressBar {
    if verbosity == Verbosity::Quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total_bytes);
    let template = "{bar:30} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
