//! The outcome as a table and as JSON.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use crate::rows::{Goal, ROWS, Row, Unit};
use crate::scale::Scale;
use crate::statistics::{Figures, Verdict};

/// The version of the JSON file's schema.
const VERSION: u32 = 1;

/// What a run has found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub figures: Figures,
    /// The targets that were there, in the order of the columns.
    pub targets: Vec<&'static str>,
    /// The seconds that each round of a workload took, with its preparations.
    pub seconds: BTreeMap<&'static str, Vec<f64>>,
    /// What is missing, and why.
    pub skipped: Vec<String>,
    /// What went wrong.
    pub failed: Vec<String>,
}

/// Returns the table, a line for each row that has figures.
///
/// The first figure is absolute: the host's, or btrfs' where the host can't do it. The other targets'
/// are ratios to it.
pub(crate) fn table(outcome: &Outcome) -> String {
    let others: Vec<&'static str> =
        outcome.targets.iter().copied().filter(|name| *name != "host").collect();
    let mut table = Table::new();
    let header = ["workload", "base"].into_iter().chain(others.iter().copied());
    let header = header.chain(["goal", "", "amberfs/bindfs", "amberfs"]);
    table.load_style(presets::NOTHING).set_header(header);
    for row in ROWS.iter().filter(|row| outcome.figures.has(row)) {
        table.add_row(line(outcome, row, &others));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn line(outcome: &Outcome, row: &Row, others: &[&'static str]) -> Vec<String> {
    let figures = &outcome.figures;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    // Shares stand by themselves; the host's has the place of the base.
    let base = row.base.target().unwrap_or("host");
    let base_figure = figures.figure(row, base).map(|figure| {
        let of = if base == "host" { "" } else { "btrfs " };
        format!("{of}{}", absolute(figure, row.unit))
    });
    let mut cells = vec![row.name.to_owned(), or_dash(base_figure)];
    for name in others {
        cells.push(or_dash(figures.reached(row, name).map(|reached| format!("{reached:.2}"))));
    }
    cells.push(goal(row.goal));
    cells.push(match figures.verdict(row) {
        Verdict::Met => "met".into(),
        Verdict::Missed => "missed".into(),
        Verdict::Open => String::new(),
    });
    let over = figures.ratio(row, "amberfs", "bindfs").filter(|_| row.unit != Unit::Share);
    cells.push(or_dash(over.map(|ratio| format!("{ratio:.2}"))));
    let own = figures.figure(row, "amberfs").map(|figure| absolute(figure, row.unit));
    cells.push(or_dash(own));
    cells
}

fn absolute(figure: f64, unit: Unit) -> String {
    let digits = if figure >= 100.0 { 0 } else { 2 };
    match unit {
        Unit::PerSecond => format!("{figure:.digits$}/s"),
        Unit::MibPerSecond | Unit::Share => {
            format!("{figure:.digits$} {}", unit.name()).trim_end().to_owned()
        }
    }
}

fn goal(goal: Goal) -> String {
    match goal {
        Goal::None => String::new(),
        Goal::AtLeast(ratio) => format!("{ratio:.2}"),
        Goal::Millis(most) => format!("{most} ms"),
        Goal::RatioAndMillis(ratio, most) => format!("{ratio:.2}, {most} ms"),
    }
}

/// Returns the JSON file: every figure, and what the table makes of them.
pub(crate) fn to_json(outcome: &Outcome, scale: &Scale, rounds: usize) -> String {
    let rows: Vec<Value> = ROWS
        .iter()
        .filter(|row| outcome.figures.has(row))
        .map(|row| {
            let target =
                |name: &&'static str| Some(((*name).to_owned(), found(outcome, row, name)?));
            let targets: Map<String, Value> = outcome.targets.iter().filter_map(target).collect();
            json!({
                "name": row.name,
                "unit": row.unit.name(),
                "base": row.base.target(),
                "goal": goal(row.goal),
                "verdict": format!("{:?}", outcome.figures.verdict(row)).to_lowercase(),
                "targets": targets,
            })
        })
        .collect();
    let all = json!({
        "version": VERSION,
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "rounds": rounds,
        "scale": format!("{scale:?}"),
        "targets": outcome.targets,
        "seconds": outcome.seconds,
        "rows": rows,
        "skipped": outcome.skipped,
        "failed": outcome.failed,
    });
    format!("{all:#}\n")
}

fn found(outcome: &Outcome, row: &Row, target: &'static str) -> Option<Value> {
    let samples = outcome.figures.samples(row, target)?;
    Some(json!({
        "median": outcome.figures.figure(row, target),
        "ratio": row.base.target().and_then(|base| outcome.figures.ratio(row, target, base)),
        "samples": samples.values().collect::<Vec<_>>(),
        "rounds": samples.keys().collect::<Vec<_>>(),
    }))
}
