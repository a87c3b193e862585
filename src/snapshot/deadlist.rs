//! Deadlists: buckets of dead references, chained in chunks in the catalog tree.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{Error, Lineage};
use crate::btree::{Reader, Store};
use crate::format::{ChainRecord, ChunkRecord, DeadRef, Epoch, Key, MAX_CHUNK_REFS, MAX_SUB};

/// References dropped but not yet in the catalog tree, by bucket.
#[derive(Debug, Default, Clone)]
pub struct DeadBuffer {
    buckets: BTreeMap<Epoch, Vec<DeadRef>>,
    len: usize,
}

impl DeadBuffer {
    /// Adds a reference to the bucket of `epoch`; one that continues the last is joined to it.
    pub fn push(&mut self, epoch: Epoch, dead: DeadRef) {
        let refs = self.buckets.entry(epoch).or_default();
        if let Some(last) = refs.last_mut()
            && last.birth == dead.birth
            && last.run.end() == dead.run.start.0
            && let Some(joined) = last.run.len_blocks.checked_add(dead.run.len_blocks)
        {
            last.run.len_blocks = joined;
            return;
        }
        refs.push(dead);
        self.len += 1;
    }

    /// Number of references.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Blocks that the references in buckets `low < epoch <= high` cover.
    pub fn blocks(&self, low: Epoch, high: Epoch) -> u64 {
        // A lineage that is damaged can have a parent that is younger than its child.
        let buckets = self.buckets.range(Epoch(low.0 + 1).min(high)..=high);
        let buckets = buckets.filter(|(epoch, _)| **epoch > low);
        buckets.flat_map(|(_, refs)| refs).map(|dead| u64::from(dead.run.len_blocks)).sum()
    }

    /// Blocks that all references cover.
    pub fn blocks_all(&self) -> u64 {
        self.blocks(Epoch(0), Epoch(MAX_SUB))
    }

    /// Moves all of `other` here.
    pub fn absorb(&mut self, other: DeadBuffer) {
        for (epoch, refs) in other.buckets {
            refs.into_iter().for_each(|dead| self.push(epoch, dead));
        }
    }

    /// All references, with their buckets.
    pub fn iter(&self) -> impl Iterator<Item = (Epoch, DeadRef)> + '_ {
        self.buckets.iter().flat_map(|(epoch, refs)| refs.iter().map(|dead| (*epoch, *dead)))
    }
}

impl Lineage {
    /// Takes over what a head has gathered for its deadlist; it reaches the tree with the next flush.
    pub fn buffer_dead(&mut self, deadlist: u64, buffer: DeadBuffer) {
        if !buffer.is_empty() {
            self.buffers.entry(deadlist).or_default().absorb(buffer);
        }
    }

    /// Puts every buffered reference into the catalog tree.
    pub fn flush_dead(&mut self, store: &mut dyn Store) -> Result<(), Error> {
        for deadlist in self.buffers.keys().copied().collect::<Vec<_>>() {
            self.flush_deadlist(deadlist, store)?;
        }
        Ok(())
    }

    pub(super) fn flush_deadlist(
        &mut self,
        deadlist: u64,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let Some(buffer) = self.buffers.remove(&deadlist) else { return Ok(()) };
        for (epoch, refs) in buffer.buckets {
            self.append_to_bucket(deadlist, epoch, &refs, store)?;
        }
        Ok(())
    }

    fn append_to_bucket(
        &mut self,
        deadlist: u64,
        epoch: Epoch,
        refs: &[DeadRef],
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let key = Key::bucket(deadlist, epoch);
        let mut chain = self.chain(key, store)?.unwrap_or_default();
        let mut rest = refs;
        if chain.last != 0 {
            let mut tail = self.chunk(chain.last, store)?;
            let room = (MAX_CHUNK_REFS - tail.refs.len()).min(rest.len());
            tail.refs.extend_from_slice(&rest[..room]);
            rest = &rest[room..];
            self.put_chunk(chain.last, &tail, store)?;
        }
        for part in rest.chunks(MAX_CHUNK_REFS) {
            let number = self.new_object();
            self.put_chunk(number, &ChunkRecord { next: 0, refs: part.to_vec() }, store)?;
            let appended = ChainRecord { first: number, last: number, ..ChainRecord::default() };
            self.join(&mut chain, appended, store)?;
        }
        chain.blocks += refs.iter().map(|dead| u64::from(dead.run.len_blocks)).sum::<u64>();
        self.tree.insert(store, key, &chain.to_bytes())?;
        Ok(())
    }

    /// Appends the chain `tail` to `chain`, whose record the caller stores.
    pub(super) fn join(
        &mut self,
        chain: &mut ChainRecord,
        tail: ChainRecord,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        if tail.first == 0 {
            return Ok(());
        }
        if chain.last == 0 {
            chain.first = tail.first;
        } else {
            let mut last = self.chunk(chain.last, store)?;
            last.next = tail.first;
            self.put_chunk(chain.last, &last, store)?;
        }
        chain.last = tail.last;
        chain.blocks += tail.blocks;
        Ok(())
    }

    pub(super) fn chain(&self, key: Key, store: &dyn Store) -> Result<Option<ChainRecord>, Error> {
        let found = Reader::new(&self.tree, store).get(key, ChainRecord::decode)?;
        Ok(found.transpose()?)
    }

    pub(super) fn chunk(&self, number: u64, store: &dyn Store) -> Result<ChunkRecord, Error> {
        let found = Reader::new(&self.tree, store).get(Key::chunk(number), ChunkRecord::decode)?;
        let found = found.ok_or_else(|| Error::Missing(format!("chunk {number} is missing")))?;
        Ok(found?)
    }

    fn put_chunk(
        &mut self,
        number: u64,
        chunk: &ChunkRecord,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        Ok(self.tree.insert(store, Key::chunk(number), &chunk.to_bytes())?)
    }

    /// Buckets of a deadlist with `low < epoch <= high` that are in the tree.
    pub(super) fn buckets(
        &self,
        deadlist: u64,
        low: Epoch,
        high: Epoch,
        store: &dyn Store,
    ) -> Result<Vec<(Epoch, ChainRecord)>, Error> {
        let mut found = Vec::new();
        let mut bad = None;
        let from = Key::bucket(deadlist, Epoch(low.0 + 1));
        let to = Key::bucket(deadlist, Epoch(high.0.min(MAX_SUB)));
        Reader::new(&self.tree, store).range(from, to, &mut |key, value| {
            match ChainRecord::decode(value) {
                Ok(chain) => found.push((Epoch(key.sub()), chain)),
                Err(error) => bad = Some(error),
            }
            if bad.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match bad {
            Some(error) => Err(error.into()),
            None => Ok(found),
        }
    }

    /// Blocks that the references in buckets `low < epoch <= high` of a deadlist cover, buffered ones
    /// included.
    pub fn dead_blocks(
        &self,
        deadlist: u64,
        low: Epoch,
        high: Epoch,
        store: &dyn Store,
    ) -> Result<u64, Error> {
        let buckets = self.buckets(deadlist, low, high, store)?;
        let buffered = self.buffers.get(&deadlist).map_or(0, |buffer| buffer.blocks(low, high));
        Ok(buckets.iter().map(|(_, chain)| chain.blocks).sum::<u64>() + buffered)
    }

    /// Calls `f` with every reference in the buckets `low < epoch <= high` of a deadlist that is in the
    /// tree (flush first), and with its bucket's epoch.
    pub fn for_each_dead(
        &self,
        deadlist: u64,
        low: Epoch,
        high: Epoch,
        store: &dyn Store,
        f: &mut dyn FnMut(Epoch, DeadRef),
    ) -> Result<(), Error> {
        for (epoch, chain) in self.buckets(deadlist, low, high, store)? {
            let mut next = chain.first;
            // A chain of a damaged catalog could lead in a circle: there are no more chunks than objects.
            let mut left = self.next_object;
            while next != 0 {
                let chunk = self.chunk(next, store)?;
                chunk.refs.iter().for_each(|dead| f(epoch, *dead));
                next = chunk.next;
                left = left.checked_sub(1).ok_or_else(|| {
                    Error::Missing(format!("deadlist {deadlist} has a chain without an end"))
                })?;
            }
        }
        Ok(())
    }
}
