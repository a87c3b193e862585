//! Latency under load: `cargo bench --bench latency -- [OPTIONS]`, as root.
//!
//! A foreground of fsyncs and metadata operations ([`foreground`]) is measured on a mount while something
//! goes on beside it ([`background`]), one situation after the other, and on a directory of the host's where
//! the same can go on there ([`turn`]). All the time a [`probe`] writes to the same disk, so that of each
//! stall one can say whether the disk imposed it ([`samples`]). The outcome is a table ([`report`]).
//! Everything is taken down at the end, after a failure, and when a signal asks for it.

mod background;
mod content;
mod foreground;
mod probe;
mod report;
mod samples;
mod span;
#[path = "../support/mod.rs"]
mod support;
mod turn;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use failure::{Failure, Result};
use report::Outcome;
use span::{Clock, Span};
use support::{amber, drivers, failure, programs};
use turn::{Situation, TURNS, Turn};

/// Measures latencies under load.
#[derive(Debug, Parser)]
#[command(name = "latency")]
struct Options {
    /// Seconds that each situation is measured for; below 20 it works on less, too.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only these situations.
    #[arg(long, value_name = "SITUATION", value_delimiter = ',',
        value_parser = clap::builder::PossibleValuesParser::new(Situation::ALL.map(Situation::name)))]
    only: Vec<String>,
    /// Where on disk; otherwise where temporary files are. It needs about 10 GiB.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write all figures and all stalls to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo passes to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` runs every benchmark, and this one takes long.
        println!("latency: nothing is measured unless cargo bench asks for it");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let mut outcome = Outcome::default();
    let ended = run(&options, &mut outcome).and_then(|()| write_json(&options, &outcome));
    if !outcome.turns.is_empty() {
        println!("{}", report::table(&outcome));
    }
    for line in report::background(&outcome) {
        println!("beside: {line}");
    }
    for line in report::unexplained(&outcome) {
        println!("not imposed: {line}");
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("latency: {failure}");
            // As a shell has it for what SIGINT ended.
            ExitCode::from(if matches!(failure, Failure::Interrupted) { 130 } else { 1 })
        }
    }
}

/// Takes all turns, beside the probe.
fn run(options: &Options, outcome: &mut Outcome) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Absent("root is needed, to mount".into()));
    }
    programs::watch_signals().map_err(Failure::io("wait for", Path::new("signals")))?;
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = tempfile::Builder::new().prefix("amberfs-latency.").tempdir_in(&parent);
    let place = place.map_err(Failure::io("make a directory in", &parent))?;
    let place = place.path();
    let clock = Clock::start();
    let probed = Span::begin(clock, Duration::MAX);
    let (taken, probe) = thread::scope(|scope| {
        let probe = scope.spawn(|| probed.hold(|span| probe::run(&place.join("probe"), span)));
        let taken = probed.hold(|_| take_turns(options, place, clock, &mut outcome.turns));
        (taken, turn::joined(probe))
    });
    outcome.probe = probe?;
    taken
}

fn take_turns(options: &Options, place: &Path, clock: Clock, turns: &mut Vec<Turn>) -> Result<()> {
    let wanted = |situation: Situation| {
        options.only.is_empty() || options.only.iter().any(|only| only == situation.name())
    };
    let bar = ProgressBar::new(TURNS.len() as u64);
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    for (situation, on) in TURNS {
        if wanted(situation) {
            bar.set_message(format!("{} on {}", situation.name(), on.name()));
            turns.push(turn::measure((situation, on), place, clock, options.seconds)?);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn write_json(options: &Options, outcome: &Outcome) -> Result<()> {
    let Some(path) = &options.json else { return Ok(()) };
    let content = report::to_json(outcome, options.seconds);
    fs::write(path, content).map_err(Failure::io("write", path))
}
