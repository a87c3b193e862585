//! `amberfs check`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::check::{self, Counts, Options, Report};
use crate::daemon;
use crate::daemon::log::Verbosity;

use super::locate::absolute_pool;
use super::output::{Listing, print, print_json};
use super::{Context, Failure};

/// Verify every invariant of a pool that is not mounted; nothing is changed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The exit code is 1 if the pool is damaged. The numbers of the invariants are \
    those of docs/architecture.md."
)]
pub(super) struct Check {
    /// The pool's directory.
    pool: PathBuf,
    /// Read and verify every block of data, too.
    #[arg(long)]
    data: bool,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    pool: String,
    clean: bool,
    problems: Vec<ProblemJson<'a>>,
    more_problems: u64,
    superblock_slots: u64,
    volumes: u64,
    snapshots: u64,
    nodes: u64,
    inodes: u64,
    data_blocks: u64,
    verified_blocks: u64,
    used_blocks: u64,
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    invariant: &'a str,
    message: &'a str,
}

impl Check {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let pool = absolute_pool(&self.pool);
        let attempt = format!("check the pool {}", pool.display());
        let dir =
            daemon::lock_pool(&pool).map_err(|error| Failure::from_daemon(&attempt, error))?;
        let bar = progress_bar(context.verbosity);
        let options = Options { data: self.data, ..Options::default() };
        let report = check::check(&dir.storage(), &options, &mut |counts| show(&bar, counts));
        bar.finish_and_clear();
        let report = report.map_err(|error| Failure::from_daemon(&attempt, error.into()))?;
        if self.listing.json {
            print_json(&report_json(&pool.display().to_string(), &report))?;
        } else {
            print(&self.describe(&report, context.verbosity))?;
        }
        if report.is_clean() {
            return Ok(());
        }
        let found = report.problems.len() as u64 + report.more_problems;
        let cause = match found {
            1 => "it is damaged: one invariant does not hold".to_owned(),
            found => format!("it is damaged: {found} times an invariant does not hold"),
        };
        Err(Failure::new(format!("call the pool {} sound", pool.display()), cause)
            .hint("What is not damaged stays readable: mount it, and copy that to a new pool."))
    }

    fn describe(&self, report: &Report, verbosity: Verbosity) -> String {
        let mut text = String::new();
        for problem in &report.problems {
            text.push_str(&format!("{problem}\n"));
        }
        if report.more_problems > 0 {
            text.push_str(&format!("and {} more\n", report.more_problems));
        }
        if verbosity == Verbosity::Quiet {
            return text;
        }
        let counts = &report.counts;
        let parts = [
            count(counts.volumes, "volume"),
            count(counts.snapshots, "snapshot"),
            count(counts.nodes, "node"),
            count(counts.inodes, "inode"),
            count(counts.data_blocks, "data block"),
        ];
        let mut line = parts.join(", ");
        if self.data {
            line.push_str(&format!(", {} verified", counts.verified_blocks));
        }
        text.push_str(&line);
        text.push_str(if report.is_clean() { ": no problem found\n" } else { "\n" });
        text
    }
}

/// `1 node`, `2 nodes`.
fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A spinner on a terminal; invisible in a pipe.
fn progress_bar(verbosity: Verbosity) -> ProgressBar {
    if verbosity == Verbosity::Quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn show(bar: &ProgressBar, counts: &Counts) {
    bar.set_message(format!(
        "{} of {} states, {} nodes, {} blocks verified",
        counts.members, counts.members_total, counts.nodes, counts.verified_blocks
    ));
}

fn report_json<'a>(pool: &str, report: &'a Report) -> ReportJson<'a> {
    let counts = &report.counts;
    let problems = report
        .problems
        .iter()
        .map(|problem| ProblemJson { invariant: problem.invariant, message: &problem.message });
    ReportJson {
        pool: pool.to_owned(),
        clean: report.is_clean(),
        problems: problems.collect(),
        more_problems: report.more_problems,
        superblock_slots: counts.superblock_slots,
        volumes: counts.volumes,
        snapshots: counts.snapshots,
        nodes: counts.nodes,
        inodes: counts.inodes,
        data_blocks: counts.data_blocks,
        verified_blocks: counts.verified_blocks,
        used_blocks: counts.used_blocks,
    }
}
