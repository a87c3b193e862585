//! Extra references to block ranges: what makes copies share extents.
//!
//! A block that one extent reference leads to is not in the table. Each further reference adds one to the
//! count of its range, and freeing a reference lowers the count before the block itself can be freed. Ranges
//! in the table don't overlap; neighbours with equal counts are not joined.

use std::ops::ControlFlow;

use super::{Error, Lineage};
use crate::btree::{Reader, Store};
use crate::format::{BlockNo, Key, Run, SharedRecord};

impl Lineage {
    /// Adds one reference to every block of `run`.
    pub fn share(&mut self, run: Run, store: &mut dyn Store) -> Result<(), Error> {
        let mut at = run.start.0;
        for (start, record) in self.overlapping(run, store)? {
            self.put_shared(at, start, 1, store)?;
            let end = start + u64::from(record.len_blocks);
            self.put_shared(start, end, record.extra + 1, store)?;
            at = end;
        }
        self.put_shared(at, run.end(), 1, store)
    }

    /// Takes one reference from every block of `run` and returns the parts that had no other.
    pub fn unshare(&mut self, run: Run, store: &mut dyn Store) -> Result<Vec<Run>, Error> {
        if !self.has_shared {
            return Ok(vec![run]);
        }
        let mut free = Vec::new();
        let mut at = run.start.0;
        let mut push = |from: u64, to: u64| {
            if from < to {
                free.push(Run::new(BlockNo(from), (to - from) as u32));
            }
        };
        for (start, record) in self.overlapping(run, store)? {
            push(at, start);
            let end = start + u64::from(record.len_blocks);
            self.tree.remove(store, Key::shared(BlockNo(start)))?;
            self.put_shared(start, end, record.extra - 1, store)?;
            at = end;
        }
        push(at, run.end());
        Ok(free)
    }

    /// Records that overlap `run`, cut so that none reaches beyond it.
    fn overlapping(
        &mut self,
        run: Run,
        store: &mut dyn Store,
    ) -> Result<Vec<(u64, SharedRecord)>, Error> {
        self.cut_shared(run.start.0, store)?;
        self.cut_shared(run.end(), store)?;
        let mut found = Vec::new();
        let mut bad = None;
        let to = Key::shared(BlockNo(run.end() - 1));
        Reader::new(&self.tree, store).range(Key::shared(run.start), to, &mut |key, value| {
            match SharedRecord::decode(value) {
                Ok(record) => found.push((key.sub(), record)),
                Err(error) => bad = Some(error),
            }
            if bad.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        bad.map_or(Ok(found), |error| Err(error.into()))
    }

    /// Cuts the record that `at` lies inside of in two.
    fn cut_shared(&mut self, at: u64, store: &mut dyn Store) -> Result<(), Error> {
        let reader = Reader::new(&self.tree, store);
        let Some((key, value)) = reader.last_at_or_before(Key::shared(BlockNo(at)))? else {
            return Ok(());
        };
        if !key.is(crate::format::KeyKind::Shared) {
            return Ok(());
        }
        let record = SharedRecord::decode(&value)?;
        let (start, end) = (key.sub(), key.sub() + u64::from(record.len_blocks));
        if start < at && at < end {
            self.put_shared(start, at, record.extra, store)?;
            self.put_shared(at, end, record.extra, store)?;
        }
        Ok(())
    }

    fn put_shared(
        &mut self,
        from: u64,
        to: u64,
        extra: u32,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        if from >= to || extra == 0 {
            return Ok(());
        }
        self.has_shared = true;
        let record = SharedRecord { len_blocks: (to - from) as u32, extra };
        Ok(self.tree.insert(store, Key::shared(BlockNo(from)), &record.to_bytes())?)
    }
}
