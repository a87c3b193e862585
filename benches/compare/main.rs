//! Filesystems side by side: `make bench`, or `cargo bench --bench compare -- [OPTIONS]`, as root.
//!
//! Each filesystem that is present ([`targets`]) is set up in a directory on the same disk and runs the
//! same [`workloads`], step by step in turn, so that what is compared was measured within seconds. The
//! outcome is a table of medians and ratios ([`report`]), with `--json` every figure, with `--plot` a
//! picture. Everything is taken down at the end, after a failure, and when a signal asks for it.

mod ground;
mod plot;
mod report;
mod rows;
mod scale;
mod stage;
mod statistics;
#[path = "../support/mod.rs"]
mod support;
mod sys;
mod targets;
mod workloads;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use failure::{Failure, Result};
use ground::Ground;
use report::Outcome;
use scale::Scale;
use stage::Stage;
use support::{amber, drivers, failure, mount_point, programs};
use targets::Target;
use workloads::{WORKLOADS, Workload};

/// Compares filesystems on one disk.
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Options {
    /// Small sizes and one round: less than three minutes.
    #[arg(long)]
    quick: bool,
    /// Only these workloads.
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',',
        value_parser = clap::builder::PossibleValuesParser::new(WORKLOADS.map(|w| w.name)))]
    only: Vec<String>,
    /// Only these filesystems.
    #[arg(long, value_name = "FS", value_delimiter = ',',
        value_parser = clap::builder::PossibleValuesParser::new(targets::NAMES))]
    on: Vec<String>,
    /// Where on disk; otherwise where temporary files are.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Times that each filesystem runs a workload.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a picture of the ratios to this file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// What cargo passes to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` runs every benchmark, and this one takes long.
        println!("compare: nothing is measured unless cargo bench asks for it");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let mut outcome = Outcome::default();
    let ended = compare(&options, &mut outcome);
    if !outcome.targets.is_empty() {
        println!("{}", report::table(&outcome));
    }
    for line in &outcome.skipped {
        println!("not measured: {line}");
    }
    for line in &outcome.failed {
        eprintln!("compare: failed: {line}");
    }
    match ended {
        Ok(()) if outcome.failed.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("compare: {failure}");
            // As a shell has it for what SIGINT ended.
            ExitCode::from(if matches!(failure, Failure::Interrupted) { 130 } else { 1 })
        }
    }
}

fn compare(options: &Options, outcome: &mut Outcome) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Absent("root is needed, to mount and to empty caches".into()));
    }
    programs::watch_signals().map_err(Failure::io("wait for", Path::new("signals")))?;
    let mut scale = if options.quick { Scale::quick() } else { Scale::full() };
    if let Some(rounds) = options.rounds {
        scale.rounds = rounds.into();
        scale.budget = Duration::MAX;
    }
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = tempfile::Builder::new().prefix("amberfs-bench.").tempdir_in(&parent);
    let place = place.map_err(Failure::io("make a directory in", &parent))?;
    // The database's user goes through it.
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))
        .map_err(Failure::io("open up", place.path()))?;
    // Dropped before the directory that they are in.
    let mut filesystems = set_up(options, place.path(), &mut scale, outcome)?;
    let mut stage = Stage::new(place.path());
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let workloads: Vec<&Workload> = WORKLOADS.iter().filter(|w| wanted(w.name)).collect();
    let ended = measure(&workloads, &mut filesystems, &scale, &mut stage, outcome);
    for (path, content) in [
        (&options.json, report::to_json(outcome, &scale, scale.rounds)),
        (&options.plot, plot::svg(outcome)),
    ] {
        if let Some(path) = path {
            fs::write(path, content).map_err(Failure::io("write", path))?;
        }
    }
    ended
}

type Filesystems = Vec<Box<dyn Target>>;

/// Sets up the filesystems that are wanted and possible.
fn set_up(
    options: &Options,
    base: &Path,
    scale: &mut Scale,
    outcome: &mut Outcome,
) -> Result<Filesystems> {
    let space = rustix::fs::statvfs(base).map_err(Failure::io("ask for the space of", base))?;
    // Three targets have images, and three share the directory.
    let share = space.f_bavail * space.f_frsize / 5;
    scale.image_bytes = scale.image_bytes.min(share & !((1 << 20) - 1));
    let mut made: Filesystems = Vec::new();
    for name in targets::NAMES {
        programs::going()?;
        if !options.on.is_empty() && !options.on.iter().any(|on| on == name) {
            continue;
        }
        match targets::set_up(name, base, scale.image_bytes) {
            Ok(target) => {
                outcome.targets.push(target.name());
                made.push(target);
            }
            // AmberFS has to work; the others are there to compare with.
            Err(failure) if name == "amberfs" => return Err(failure),
            Err(failure) => outcome.skipped.push(format!("{name}: {failure}")),
        }
    }
    Ok(made)
}

/// Runs the workloads, on all filesystems in turn, round by round, so that a round that there is no time
/// for takes as little from one workload as from another.
fn measure(
    workloads: &[&Workload],
    filesystems: &mut Filesystems,
    scale: &Scale,
    stage: &mut Stage,
    outcome: &mut Outcome,
) -> Result<()> {
    let count = |workload: &&Workload| {
        let rounds: usize = (0..scale.rounds).map(|asked| workload.rounds.of(asked).len()).sum();
        rounds * workload.steps.len() * filesystems.len()
    };
    let bar = ProgressBar::new(workloads.iter().map(count).sum::<usize>() as u64);
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let begun = Instant::now();
    for asked in 0..scale.rounds {
        for workload in workloads {
            for round in workload.rounds.of(asked) {
                let last = outcome.seconds.get(workload.name).and_then(|times| times.last());
                let ends = begun.elapsed().as_secs_f64() + last.copied().unwrap_or_default();
                if round > 0 && ends > scale.budget.as_secs_f64() {
                    outcome.skipped.push(format!("{}: no time for round {round}", workload.name));
                    continue;
                }
                let begun = Instant::now();
                let mut run = Round::new(workload, round, filesystems, outcome);
                for at in 0..workload.steps.len() {
                    for (index, target) in filesystems.iter_mut().enumerate() {
                        bar.set_message(format!("{} on {}", workload.name, target.name()));
                        run.step(at, index, target.as_mut(), (scale, stage), outcome)?;
                        bar.inc(1);
                    }
                }
                let times = outcome.seconds.entry(workload.name).or_default();
                times.push(begun.elapsed().as_secs_f64());
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// One round of a workload.
struct Round<'a> {
    workload: &'a Workload,
    round: usize,
    notes: Vec<BTreeMap<&'static str, f64>>,
    /// The targets on which a step has failed.
    given_up: Vec<bool>,
}

impl<'a> Round<'a> {
    /// Empties the filesystems. One that can't be emptied, or has no part in the workload, is left out.
    fn new(
        workload: &'a Workload,
        round: usize,
        filesystems: &Filesystems,
        outcome: &mut Outcome,
    ) -> Round<'a> {
        let mut given_up = Vec::new();
        for target in filesystems {
            let emptied = targets::empty(target.as_ref());
            given_up
                .push(emptied.is_err() || workload.needs_snapshots && target.snapshots().is_none());
            if let Err(failure) = emptied {
                outcome.failed.push(format!("emptying {}: {failure}", target.name()));
            }
        }
        Round { workload, round, notes: vec![BTreeMap::new(); filesystems.len()], given_up }
    }

    /// Takes step `at` on the target `index`, unless an earlier one has failed there.
    fn step(
        &mut self,
        at: usize,
        index: usize,
        target: &mut dyn Target,
        (scale, stage): (&Scale, &mut Stage),
        outcome: &mut Outcome,
    ) -> Result<()> {
        if self.given_up[index] {
            return Ok(());
        }
        programs::going()?;
        let name = target.name();
        let notes = &mut self.notes[index];
        let mut ground = Ground { target, scale, stage, notes, figures: Vec::new() };
        let ended = (self.workload.steps[at])(&mut ground);
        for (row, figure) in ground.figures {
            outcome.figures.add(row, name, self.round, figure);
        }
        let line = |failure: &Failure| {
            format!("{} on {name}, step {}: {failure}", self.workload.name, at + 1)
        };
        match ended {
            Ok(()) => {}
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure @ Failure::Absent(_)) => {
                if !outcome.skipped.contains(&line(&failure)) {
                    outcome.skipped.push(line(&failure));
                }
            }
            Err(failure) => {
                self.given_up[index] = true;
                outcome.failed.push(line(&failure));
            }
        }
        Ok(())
    }
}
