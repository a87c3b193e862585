//! Punching what a release leaves: free pieces shorter than a chunk, when nothing else is to be done.
//!
//! A release punches whole chunks only, because most of the rest is written again soon and a punch costs
//! more than a write. Regions in which something was released are remembered, and trimmed in idle times.

use super::region::State;
use super::{Batch, SpaceMap, block_at};
use crate::format::Run;

/// Free blocks that are never withheld at once, for those who allocate meanwhile: 16 MiB.
const LEFT_BLOCKS: u64 = 4096;

impl SpaceMap {
    /// Notes that blocks of `region` were released.
    pub(super) fn note_untrimmed(&mut self, region: u32) {
        self.untrimmed.insert(region, 0);
    }

    /// Takes about `max_runs` free runs of the regions that were not trimmed since something was released in
    /// them, to be punched; nothing when there are none, or when space is short.
    ///
    /// The caller punches the batch's chunks, without the map's lock, and then gives it to
    /// [`SpaceMap::release_batch`]: until then nobody is given these blocks.
    pub fn next_trim(&mut self, max_runs: usize) -> Option<Batch> {
        let mut budget = self.withholdable().saturating_sub(LEFT_BLOCKS);
        let mut runs = Vec::new();
        while runs.len() < max_runs
            && let Some((region, from)) = self.untrimmed.pop_first()
        {
            let mut at = from;
            while let Some(first) = self.regions[region as usize].taken().find(at, 1) {
                let len = self.regions[region as usize].taken().len_at(first, u32::MAX);
                if runs.len() == max_runs || u64::from(len) > budget {
                    self.untrimmed.insert(region, first);
                    break;
                }
                budget -= u64::from(len);
                self.pass(region, (first, len), State::Free, State::Held);
                runs.push(Run::new(block_at(region, first), len));
                at = first + len;
            }
            if self.untrimmed.contains_key(&region) {
                break;
            }
        }
        (!runs.is_empty()).then(|| Batch { chunks: runs.clone(), held: runs })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Class;
    use super::*;

    #[test]
    fn what_is_free_is_offered_once_and_nobody_else_gets_it_meanwhile() {
        let mut map = SpaceMap::new(100_000);
        let runs: Vec<Run> = (0..1000).map(|_| map.allocate(Class::Data, 3).unwrap()).collect();
        runs.iter().for_each(|run| map.commit_in_flight(*run));
        for run in runs.iter().step_by(2) {
            map.free(*run).unwrap();
        }
        let generation = map.freeze().generation;
        map.release(generation);
        let free = map.free_blocks();
        let mut trimmed = Vec::new();
        while let Some(batch) = map.next_trim(100) {
            assert!(batch.chunks.len() <= 100);
            for run in &batch.chunks {
                assert!(
                    !runs
                        .iter()
                        .skip(1)
                        .step_by(2)
                        .any(|used| { used.start.0 < run.end() && run.start.0 < used.end() })
                );
            }
            let other = map.allocate(Class::Data, 1).unwrap();
            assert!(
                !batch.chunks.iter().any(|run| (run.start.0..run.end()).contains(&other.start.0))
            );
            map.abandon_in_flight(other);
            trimmed.extend(batch.chunks.iter().copied());
            map.release_batch(batch);
        }
        assert_eq!(map.free_blocks(), free);
        for run in runs.iter().step_by(2) {
            assert!(trimmed.iter().any(|t| t.start.0 <= run.start.0 && run.end() <= t.end()));
        }
        assert!(map.next_trim(100).is_none());
    }
}
