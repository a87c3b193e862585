//! How often the kernel has looked up each inode and not forgotten it.
//!
//! The kernel holds millions of inodes where it has the memory, most of them looked up a few times. Inodes that
//! were made one after the other have neighbouring numbers, so counts are kept in pages of [`PAGE`] neighbours,
//! one byte each: 10 million files that were made in a row take 14 MB, where a map with an entry for each takes
//! half a GB. At worst, one inode in each page, an inode takes 100 bytes.
//!
//! Invariant 1: a count of up to [`FULL`] is in its page alone; what is beyond that is in `beyond`.
//! Invariant 2: a page that is there has a count that is not zero.

use std::collections::HashMap;

/// Counts in a page: a cache line.
pub(super) const PAGE: u64 = 64;
const FULL: u8 = u8::MAX;

/// Counts by inode number.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    pages: HashMap<u64, Box<[u8; PAGE as usize]>>,
    beyond: HashMap<u64, u64>,
}

impl Lookups {
    /// Counts one more.
    pub(super) fn add(&mut self, ino: u64) {
        let page = self.pages.entry(ino / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
        match page[(ino % PAGE) as usize].checked_add(1) {
            Some(count) => page[(ino % PAGE) as usize] = count,
            None => *self.beyond.entry(ino).or_default() += 1,
        }
    }

    /// Takes back so many, or as many as there are.
    pub(super) fn take(&mut self, ino: u64, mut count: u64) {
        if let Some(beyond) = self.beyond.get_mut(&ino) {
            let taken = count.min(*beyond);
            count -= taken;
            *beyond -= taken;
            if *beyond == 0 {
                self.beyond.remove(&ino);
            }
        }
        let Some(page) = self.pages.get_mut(&(ino / PAGE)) else { return };
        let left = &mut page[(ino % PAGE) as usize];
        *left = left.saturating_sub(u8::try_from(count).unwrap_or(FULL));
        if *left == 0 && page.iter().all(|count| *count == 0) {
            self.pages.remove(&(ino / PAGE));
        }
    }

    /// Whether the count is not zero.
    pub(super) fn contains(&self, ino: u64) -> bool {
        self.pages.get(&(ino / PAGE)).is_some_and(|page| page[(ino % PAGE) as usize] != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Few inodes, so that counts go beyond a byte and pages come and go.
        #[test]
        fn counts_are_those_of_a_plain_map(
            steps in prop::collection::vec((0u64..3, 0u64..3, 1u64..700, any::<bool>()), 1..60)
        ) {
            let (mut lookups, mut model) = (Lookups::default(), HashMap::<u64, u64>::new());
            for (page, place, count, adds) in steps {
                let ino = page * PAGE + place * (PAGE - 1) / 2;
                let held = model.entry(ino).or_default();
                if adds {
                    (0..count).for_each(|_| lookups.add(ino));
                    *held += count;
                } else {
                    lookups.take(ino, count);
                    *held = held.saturating_sub(count);
                }
                for page in 0..3 * PAGE {
                    let held = model.get(&page).is_some_and(|count| *count > 0);
                    prop_assert_eq!(lookups.contains(page), held);
                }
                let beyond: u64 = model.values().map(|count| count.saturating_sub(FULL.into())).sum();
                prop_assert_eq!(lookups.beyond.values().sum::<u64>(), beyond);
                let pages = (0..3).filter(|page| model.iter().any(|(ino, count)| ino / PAGE == *page && *count > 0));
                prop_assert_eq!(lookups.pages.len(), pages.count());
            }
        }
    }
}
