//! The outcome as text and as JSON.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use crate::foreground::{KINDS, Operation};
use crate::samples::{Cause, Probe, STALL, Sample, Summary};
use crate::turn::Turn;

/// The version of the JSON file's schema.
const VERSION: u32 = 1;
/// Stalls that are listed below the table; the JSON file has all.
const MAX_LISTED: usize = 30;

/// What a run has found.
#[derive(Default)]
pub(crate) struct Outcome {
    pub turns: Vec<Turn>,
    pub probe: Probe,
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

impl Outcome {
    /// Returns a turn's samples of one kind; of `disk`, the probe's writes meanwhile.
    fn samples(&self, turn: &Turn, kind: &str) -> Vec<Sample> {
        if kind == "disk" {
            let meanwhile = |sample: &&Sample| sample.overlaps(turn.span);
            return self.probe.writes.iter().filter(meanwhile).copied().collect();
        }
        let of_kind = turn.timed.iter().filter(|(operation, _)| operation.kind() == kind);
        of_kind.map(|(_, sample)| *sample).collect()
    }

    /// Returns a turn's stalls, in order.
    fn stalls<'a>(&self, turn: &'a Turn) -> Vec<&'a (Operation, Sample)> {
        let mut stalls: Vec<_> = turn.timed.iter().filter(|(_, s)| s.is_stall()).collect();
        stalls.sort_by_key(|(_, sample)| sample.begun);
        stalls
    }
}

/// Returns the table, a line for each turn and kind of operation.
pub(crate) fn table(outcome: &Outcome) -> String {
    let mut table = Table::new();
    let stalls = format!("> {} ms", STALL.as_millis());
    let header = ["situation", "on", "operation", "count", "p50 ms", "p99", "p99.9", "max"];
    let header = header.into_iter().chain([stalls.as_str(), "disk", "machine"]);
    table.load_style(presets::NOTHING).set_header(header);
    for turn in &outcome.turns {
        for kind in KINDS.into_iter().chain(["disk"]) {
            let samples = outcome.samples(turn, kind);
            if let Some(summary) = Summary::of(&samples, &outcome.probe) {
                table.add_row(line(turn, kind, &summary));
            }
        }
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        if index > 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn line(turn: &Turn, kind: &str, summary: &Summary) -> Vec<String> {
    let names = [turn.situation.name(), turn.on.name(), kind].map(str::to_owned);
    let times = [summary.p50, summary.p99, summary.p999, summary.max];
    let times = times.map(|time| format!("{:.2}", millis(time)));
    let stalls = [summary.stalls, summary.by_disk, summary.by_machine];
    // The probe's own have no further cause.
    let shown = if kind == "disk" { 1 } else { stalls.len() };
    let counts = stalls.iter().take(shown).map(usize::to_string);
    names.into_iter().chain([summary.count.to_string()]).chain(times).chain(counts).collect()
}

/// Returns what the background did, a line for each turn in which it did something.
pub(crate) fn background(outcome: &Outcome) -> Vec<String> {
    let line = |turn: &Turn| {
        let done: Vec<_> =
            turn.done.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let (situation, on) = (turn.situation.name(), turn.on.name());
        let seconds = turn.span.took.as_secs_f64();
        format!("{situation} on {on}: {} in {seconds:.1} s", done.join(", "))
    };
    outcome.turns.iter().filter(|turn| !turn.done.is_empty()).map(line).collect()
}

/// Returns a line for each stall without a cause outside.
pub(crate) fn unexplained(outcome: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    for turn in &outcome.turns {
        let stalls = outcome.stalls(turn).into_iter();
        for (operation, sample) in stalls.filter(|(_, s)| s.cause(&outcome.probe) == Cause::None) {
            lines.push(format!(
                "{} on {}: {} took {:.1} ms after {:.3} s, a write of the probe {:.1} ms",
                turn.situation.name(),
                turn.on.name(),
                operation.name(),
                millis(sample.took),
                sample.begun.saturating_sub(turn.span.begun).as_secs_f64(),
                millis(sample.longest_beside(&outcome.probe.writes)),
            ));
        }
    }
    let more = lines.len().saturating_sub(MAX_LISTED);
    if more > 0 {
        lines.truncate(MAX_LISTED);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Returns the JSON file: the table's figures, those of each operation, and every stall.
pub(crate) fn to_json(outcome: &Outcome, seconds: u64) -> String {
    let turns: Vec<Value> = outcome.turns.iter().map(|turn| turn_json(outcome, turn)).collect();
    let all = json!({
        "version": VERSION,
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "seconds": seconds,
        "stall_ms": millis(STALL),
        "turns": turns,
    });
    format!("{all:#}\n")
}

fn turn_json(outcome: &Outcome, turn: &Turn) -> Value {
    let mut kinds = Map::new();
    for kind in KINDS.into_iter().chain(["disk"]) {
        kinds.insert(kind.to_owned(), summary_json(outcome, &outcome.samples(turn, kind)));
    }
    let mut operations = Map::new();
    for operation in Operation::ALL {
        let of = turn.timed.iter().filter(|(other, _)| *other == operation);
        let samples: Vec<Sample> = of.map(|(_, sample)| *sample).collect();
        operations.insert(operation.name().to_owned(), summary_json(outcome, &samples));
    }
    let stalls: Vec<Value> = outcome
        .stalls(turn)
        .into_iter()
        .map(|(operation, sample)| {
            json!({
                "operation": operation.name(),
                "begun_ms": millis(sample.begun.saturating_sub(turn.span.begun)),
                "ms": millis(sample.took),
                "probe_ms": millis(sample.longest_beside(&outcome.probe.writes)),
                "probe_waited_ms": millis(sample.longest_beside(&outcome.probe.waits)),
                "cause": format!("{:?}", sample.cause(&outcome.probe)).to_lowercase(),
            })
        })
        .collect();
    let done: Map<String, Value> =
        turn.done.iter().map(|(what, count)| ((*what).to_owned(), (*count).into())).collect();
    json!({
        "situation": turn.situation.name(),
        "on": turn.on.name(),
        "seconds": turn.span.took.as_secs_f64(),
        "background": done,
        "kinds": kinds,
        "operations": operations,
        "stalls": stalls,
    })
}

/// Null if there are no samples.
fn summary_json(outcome: &Outcome, samples: &[Sample]) -> Value {
    Summary::of(samples, &outcome.probe).map_or(Value::Null, |summary| {
        json!({
            "count": summary.count,
            "p50_ms": millis(summary.p50),
            "p99_ms": millis(summary.p99),
            "p999_ms": millis(summary.p999),
            "max_ms": millis(summary.max),
            "stalls": summary.stalls,
            "by_disk": summary.by_disk,
            "by_machine": summary.by_machine,
        })
    })
}
