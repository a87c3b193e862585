//! P2 and P3: what is in use is exactly what is referred to.

use super::Checker;
use crate::format::Run;

/// Runs gathered before they are sorted and merged.
const GATHERED: usize = 1 << 20;

/// Blocks from the first number up to the second, and a count.
pub(super) type Counted = (u64, u64, u32);

/// How often each block was named: a sorted list of runs.
#[derive(Debug, Default)]
pub(super) struct RunCounts {
    sorted: Vec<Counted>,
    gathered: Vec<(u64, u64)>,
}

impl RunCounts {
    pub(super) fn add(&mut self, run: Run) {
        let (start, end) = (run.start.0, run.end());
        if let Some(last) = self.gathered.last_mut()
            && last.1 == start
        {
            last.1 = end;
            return;
        }
        if self.gathered.len() >= GATHERED.max(self.sorted.len()) {
            self.merge();
        }
        self.gathered.push((start, end));
    }

    fn merge(&mut self) {
        let mut lists = std::mem::take(&mut self.sorted);
        lists.extend(self.gathered.drain(..).map(|(start, end)| (start, end, 1)));
        self.sorted = sum(lists);
    }

    /// The counts: sorted, without overlaps or gaps of count 0.
    pub(super) fn finish(&mut self) -> Vec<Counted> {
        self.merge();
        std::mem::take(&mut self.sorted)
    }
}

/// Adds overlapping counts up.
fn sum(runs: Vec<Counted>) -> Vec<Counted> {
    let mut edges: Vec<(u64, i64)> = Vec::with_capacity(runs.len() * 2);
    for (start, end, count) in runs {
        edges.push((start, i64::from(count)));
        edges.push((end, -i64::from(count)));
    }
    edges.sort_unstable();
    let mut counted: Vec<Counted> = Vec::new();
    let (mut at, mut count) = (0, 0);
    for same in edges.chunk_by(|a, b| a.0 == b.0) {
        let here = same[0].0;
        if count > 0 && at < here {
            match counted.last_mut() {
                Some(last) if last.1 == at && i64::from(last.2) == count => last.1 = here,
                _ => counted.push((at, here, count as u32)),
            }
        }
        count += same.iter().map(|edge| edge.1).sum::<i64>();
        at = here;
    }
    counted
}

/// Calls `f` with every stretch of blocks in which none of the lists changes, and each list's count there.
fn sweep(lists: [&[Counted]; 4], mut f: impl FnMut(u64, u64, [u32; 4])) {
    let mut next = [0usize; 4];
    let mut at = 0;
    loop {
        let mut end = u64::MAX;
        let mut counts = [0; 4];
        for (index, list) in lists.iter().enumerate() {
            while list.get(next[index]).is_some_and(|run| run.1 <= at) {
                next[index] += 1;
            }
            let Some((from, to, count)) = list.get(next[index]).copied() else { continue };
            if from <= at {
                counts[index] = count;
                end = end.min(to);
            } else {
                end = end.min(from);
            }
        }
        if end == u64::MAX {
            return;
        }
        f(at, end, counts);
        at = end;
    }
}

impl Checker<'_> {
    /// Compares references with the space map and with the table of shared ranges.
    pub(super) fn check_space(&mut self, used: &[Counted], shared: &[Counted]) {
        self.report.place = "space".into();
        let nodes = self.nodes.finish();
        let references = self.references.finish();
        self.report.counts.used_blocks = used.iter().map(|(start, end, _)| end - start).sum();
        if self.incomplete {
            self.report.problem("P2", "not compared, because some nodes could not be read");
            return;
        }
        let total = self.superblock.total_blocks;
        let report = &mut self.report;
        sweep([&nodes, &references, used, shared], |start, end, [node, data, used, extra]| {
            let blocks = format!("{} blocks at {start}", end - start);
            let referred = node + data > 0;
            if referred && end > total {
                report.problem("P2", format!("{blocks}: referred to, but beyond the pool's end"));
            }
            if referred && used == 0 {
                report.problem("P2", format!("{blocks}: referred to, but free in the space map"));
            }
            if !referred && used > 0 {
                report.problem("P2", format!("{blocks}: in use, but nothing refers to them"));
            }
            if node > 1 || (node > 0 && data > 0) {
                report.problem("P3", format!("{blocks}: a node, and referred to elsewhere too"));
            } else if data != extra.saturating_add(u32::from(data > 0)) {
                let message =
                    format!("{blocks}: {data} references, {extra} beyond the first counted");
                report.problem("P3", message);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BlockNo;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_are_those_of_single_blocks(
            runs in prop::collection::vec((0u64..50, 1u32..10), 0..40),
            cut in 0usize..40,
        ) {
            let mut counts = RunCounts::default();
            let mut blocks = [0u32; 64];
            for (at, (start, len)) in runs.into_iter().enumerate() {
                counts.add(Run::new(BlockNo(start), len));
                blocks[start as usize..start as usize + len as usize].iter_mut().for_each(|b| *b += 1);
                if at == cut {
                    counts.merge();
                }
            }
            let mut found = [0u32; 64];
            for (start, end, count) in counts.finish() {
                for block in start..end {
                    prop_assert_eq!(found[block as usize], 0);
                    found[block as usize] = count;
                }
            }
            prop_assert_eq!(found, blocks);
        }
    }
}
