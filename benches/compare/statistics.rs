//! All figures of a run, their medians, and their ratios.
//!
//! A ratio is taken between figures of the same round, which were measured one after the other, and the
//! median of these is what counts: what changes the whole machine's speed changes both.

use std::collections::BTreeMap;

use crate::rows::{Base, Goal, Row, Unit};

/// Returns the median; NaN of nothing.
pub(crate) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    let (low, high) = (of.len().saturating_sub(1) / 2, of.len() / 2);
    match of.get(low).zip(of.get(high)) {
        Some((low, high)) => f64::midpoint(*low, *high),
        None => f64::NAN,
    }
}

/// The figures of one row and target, by round.
pub(crate) type Samples = BTreeMap<usize, f64>;

/// The figures by row and target.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(&'static str, &'static str), Samples>);

/// What became of a row's goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// There is no goal, or no figure to hold against it.
    Open,
}

impl Figures {
    /// Adds a figure.
    pub(crate) fn add(
        &mut self,
        row: &'static str,
        target: &'static str,
        round: usize,
        figure: f64,
    ) {
        self.0.entry((row, target)).or_default().insert(round, figure);
    }

    /// Returns the figures of a row and target.
    pub(crate) fn samples(&self, row: &Row, target: &'static str) -> Option<&Samples> {
        self.0.get(&(row.name, target))
    }

    /// Says whether any target has figures for `row`.
    pub(crate) fn has(&self, row: &Row) -> bool {
        self.0.keys().any(|(name, _)| *name == row.name)
    }

    /// Returns the median figure of a row and target.
    pub(crate) fn figure(&self, row: &Row, target: &'static str) -> Option<f64> {
        self.samples(row, target).map(|samples| median(samples.values().copied().collect()))
    }

    /// Returns the median of the ratios of `target` to `base`, round by round.
    pub(crate) fn ratio(&self, row: &Row, target: &'static str, base: &'static str) -> Option<f64> {
        let (samples, bases) = (self.samples(row, target)?, self.samples(row, base)?);
        let ratio = |(round, figure): (&usize, &f64)| Some(figure / bases.get(round)?);
        let ratios: Vec<f64> = samples.iter().filter_map(ratio).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }

    /// Returns what `target` has reached in `row`: its ratio to the row's base, or its own figure if
    /// there is no base.
    pub(crate) fn reached(&self, row: &Row, target: &'static str) -> Option<f64> {
        match row.base.target() {
            Some(base) => self.ratio(row, target, base),
            None => self.figure(row, target),
        }
    }

    /// Holds AmberFS against the row's goal.
    pub(crate) fn verdict(&self, row: &Row) -> Verdict {
        let at_least = |wanted| self.reached(row, "amberfs").map(|reached| reached >= wanted);
        let within = |most| self.figure(row, "amberfs").map(|rate| 1000.0 / rate <= most);
        let met = match row.goal {
            Goal::None => None,
            Goal::AtLeast(wanted) => at_least(wanted),
            Goal::Millis(most) => within(most),
            Goal::RatioAndMillis(wanted, most) => {
                at_least(wanted).zip(within(most)).map(|(ratio, time)| ratio && time)
            }
        };
        met.map_or(Verdict::Open, |met| if met { Verdict::Met } else { Verdict::Missed })
    }
}

impl Base {
    /// Returns the target that figures are divided by.
    pub(crate) fn target(self) -> Option<&'static str> {
        match self {
            Base::Host => Some("host"),
            Base::Btrfs => Some("btrfs"),
            Base::None => None,
        }
    }
}

impl Unit {
    /// Returns what stands behind a figure.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::MibPerSecond => "MiB/s",
            Unit::PerSecond => "/s",
            Unit::Share => "",
        }
    }
}
