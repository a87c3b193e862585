//! The map against a plain array of states, with checkpoints, crashes and replay.

use std::collections::BTreeMap;

use super::*;
use crate::format::NODE_BLOCKS;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Free,
    Flying,
    /// Referenced by journaled operations.
    Used,
    /// A node of the checkpoint tree.
    Own,
    /// Freed in this generation.
    Held(u64),
}

#[derive(Debug, Clone, Copy)]
enum Journaled {
    Map(Run),
    Unmap(Run),
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Allocate(Class, u32),
    AllocateNode,
    /// Commits or abandons some blocks of the n-th run in flight.
    Settle(usize, u32, bool),
    /// Frees up to so many used blocks from the first at or behind a place.
    Free(u64, u32),
    Reserve(u64, u32),
    /// Uses `1` of every `0` blocks of a part that are free.
    CutUp(u64, u32, u32),
    /// Freezes, and takes all images at once or none yet.
    Freeze(bool),
    /// Takes so many more images.
    TakeImages(usize),
    /// While a checkpoint is written: allocates a node of its own, and perhaps frees the oldest.
    Own(bool),
    Punchable,
    /// Releases all at once, or in batches.
    Release(Option<usize>),
    Grow(u64),
    /// Keeps slots for nodes.
    Reserved(u64),
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let class = prop_oneof![Just(Class::Data), Just(Class::Node)];
    let want = prop_oneof![1u32..6, 1u32..300, 1u32..40_000];
    let len = prop_oneof![1u32..5, 1u32..100, 1u32..20_000];
    prop_oneof![
        6 => (class, want).prop_map(|(class, want)| Op::Allocate(class, want)),
        4 => Just(Op::AllocateNode),
        5 => (any::<usize>(), 0u32..50_000, any::<bool>())
            .prop_map(|(nth, len, commit)| Op::Settle(nth, len, commit)),
        6 => (any::<u64>(), len.clone()).prop_map(|(at, len)| Op::Free(at, len)),
        1 => (any::<u64>(), len).prop_map(|(at, len)| Op::Reserve(at, len)),
        2 => (any::<u64>(), 1u32..50_000, 2u32..40).prop_map(|(at, len, n)| Op::CutUp(at, len, n)),
        3 => any::<bool>().prop_map(Op::Freeze),
        1 => (0usize..4).prop_map(Op::TakeImages),
        3 => any::<bool>().prop_map(Op::Own),
        2 => Just(Op::Punchable),
        3 => prop::option::of(1usize..100).prop_map(Op::Release),
        1 => (0u64..40_000).prop_map(Op::Grow),
        1 => (0u64..9_000).prop_map(Op::Reserved),
        1 => Just(Op::Crash),
    ]
}

/// A checkpoint that is being written.
struct Writing {
    generation: u64,
    images: BTreeMap<u32, RegionImage>,
    /// What the images must come to.
    expected: Vec<Block>,
}

struct Model {
    map: SpaceMap,
    blocks: Vec<Block>,
    flying: Vec<Run>,
    reserved_slots: u64,
    /// What was journaled since the freeze of the durable checkpoint, by generation.
    journal: BTreeMap<u64, Vec<Journaled>>,
    writing: Option<Writing>,
    durable: BTreeMap<u32, RegionImage>,
    durable_blocks: Vec<Block>,
}

impl Model {
    fn new(total: u64) -> Model {
        let blocks = vec![Block::Free; total as usize];
        Model {
            map: SpaceMap::new(total),
            durable_blocks: blocks.clone(),
            blocks,
            flying: Vec::new(),
            reserved_slots: 0,
            journal: BTreeMap::new(),
            writing: None,
            durable: BTreeMap::new(),
        }
    }

    fn of(&mut self, run: Run) -> &mut [Block] {
        &mut self.blocks[run.start.0 as usize..run.end() as usize]
    }

    fn pass(&mut self, run: Run, from: Block, to: Block) {
        let part = self.of(run);
        assert!(part.iter().all(|block| *block == from), "{run:?} is not {from:?}");
        part.fill(to);
    }

    fn log(&mut self, entry: Journaled) {
        self.journal.entry(self.map.generation()).or_default().push(entry);
    }

    fn slots(&self) -> u64 {
        let free = |four: &&[Block]| four.iter().all(|block| *block == Block::Free);
        self.blocks.chunks_exact(4).filter(free).count() as u64
    }

    fn allocate(&mut self, class: Class, want: u32) {
        let reserve = if class == Class::Data { self.reserved_slots } else { 0 };
        let slots = self.slots();
        let Some(run) = self.map.allocate(class, want) else {
            let kept = slots.min(reserve) * 4;
            assert_eq!(self.map.free_blocks(), kept, "free blocks are always found");
            return;
        };
        assert!((1..=want.min(REGION_BLOCKS)).contains(&run.len_blocks));
        assert_eq!(region_of(run.start).0, region_of(BlockNo(run.end() - 1)).0);
        if class == Class::Data {
            self.pass(run, Block::Free, Block::Flying);
            assert!(self.slots() >= slots.min(reserve), "data took a slot that is kept for nodes");
            self.flying.push(run);
        } else {
            self.pass(run, Block::Free, Block::Used);
            self.log(Journaled::Map(run));
        }
    }

    fn allocate_node(&mut self) {
        let Some(start) = self.map.allocate_node() else {
            assert_eq!(self.slots(), 0, "a slot is always found");
            return;
        };
        let run = Run::new(start, NODE_BLOCKS);
        self.pass(run, Block::Free, Block::Used);
        self.log(Journaled::Map(run));
    }

    fn settle(&mut self, nth: usize, len: u32, commit: bool) {
        if self.flying.is_empty() {
            return;
        }
        let nth = nth % self.flying.len();
        let run = self.flying.swap_remove(nth);
        let len = 1 + len % run.len_blocks;
        let part = Run::new(run.start, len);
        if len < run.len_blocks {
            self.flying.push(Run::new(BlockNo(part.end()), run.len_blocks - len));
        }
        if commit {
            self.map.commit_in_flight(part);
            self.pass(part, Block::Flying, Block::Used);
            self.log(Journaled::Map(part));
        } else {
            self.map.abandon_in_flight(part);
            self.pass(part, Block::Flying, Block::Free);
        }
    }

    /// The first row of blocks in a state at or behind a place, at most `max` long.
    fn row(&self, at: u64, max: u32, state: Block) -> Option<Run> {
        let at = (at % self.blocks.len() as u64) as usize;
        let start = at + self.blocks[at..].iter().position(|block| *block == state)?;
        let row = self.blocks[start..].iter().take(max as usize);
        let len = row.take_while(|block| **block == state).count() as u32;
        Some(Run::new(BlockNo(start as u64), len))
    }

    fn free(&mut self, at: u64, len: u32) {
        let Some(run) = self.row(at, len, Block::Used) else { return };
        self.map.free(run).unwrap();
        let generation = self.map.generation();
        self.pass(run, Block::Used, Block::Held(generation));
        self.log(Journaled::Unmap(run));
        assert_eq!(self.map.free(run), Err(Error::NotInUse { run }));
        assert_eq!(self.map.reserve(run), Err(Error::InUse { run }));
    }

    fn reserve(&mut self, at: u64, len: u32) {
        let start = at % self.blocks.len() as u64;
        let run = Run::new(BlockNo(start), len.min((self.blocks.len() as u64 - start) as u32));
        let free = self.of(run).iter().all(|block| *block == Block::Free);
        assert_eq!(self.map.reserve(run).is_ok(), free);
        if free {
            self.pass(run, Block::Free, Block::Used);
            self.log(Journaled::Map(run));
        }
    }

    fn freeze(&mut self, at_once: bool) {
        if self.writing.is_some() {
            return;
        }
        let frozen = if at_once {
            self.map.freeze()
        } else {
            Frozen { generation: self.map.begin_freeze(), images: Vec::new() }
        };
        let keep = |block: &Block| matches!(block, Block::Used | Block::Own);
        let image = |block: &Block| if keep(block) { *block } else { Block::Free };
        self.writing = Some(Writing {
            generation: frozen.generation,
            images: frozen.images.into_iter().collect(),
            expected: self.blocks.iter().map(image).collect(),
        });
    }

    fn take_images(&mut self, max: usize) {
        let images = self.map.take_images(max);
        assert!(images.len() <= max);
        let Some(writing) = &mut self.writing else {
            assert!(images.is_empty());
            return;
        };
        for (region, image) in images {
            assert!(writing.images.insert(region, image).is_none(), "an image was made twice");
        }
    }

    fn own(&mut self, also_free: bool) {
        self.take_images(usize::MAX);
        let Some(mut writing) = self.writing.take() else { return };
        let mut patch = |run: Run, value: bool| {
            let (region, first) = region_of(run.start);
            let image = writing.images.entry(region).or_insert_with(|| {
                self.durable.get(&region).cloned().unwrap_or(RegionImage::ALL_FREE)
            });
            let changed = if value {
                image.set(first, run.len_blocks)
            } else {
                image.clear(first, run.len_blocks)
            };
            assert_eq!(changed, run.len_blocks);
            let block = if value { Block::Own } else { Block::Free };
            writing.expected[run.start.0 as usize..run.end() as usize].fill(block);
        };
        let oldest = self.row(0, NODE_BLOCKS, Block::Own).filter(|_| also_free);
        if let Some(run) = oldest {
            self.map.free_in_checkpoint(writing.generation, run).unwrap();
            patch(run, false);
        }
        let new = self.map.allocate_node_in_checkpoint().map(|at| Run::new(at, NODE_BLOCKS));
        if let Some(run) = new {
            patch(run, true);
        }
        let generation = writing.generation;
        self.writing = Some(writing);
        if let Some(run) = oldest {
            self.pass(run, Block::Own, Block::Held(generation));
        }
        match new {
            Some(run) => self.pass(run, Block::Free, Block::Own),
            None => assert_eq!(self.slots(), 0),
        }
    }

    fn punchable(&mut self) {
        let Some(generation) = self.writing.as_ref().map(|writing| writing.generation) else {
            return;
        };
        let spare = 4 * self.slots().saturating_sub(self.reserved_slots);
        let budget = spare.min(self.map.free_blocks() / 4);
        let held = |block: &Block| matches!(block, Block::Held(of) if *of <= generation);
        let mut expected = vec![false; self.blocks.len()];
        for (at, chunk) in self.blocks.chunks(16).enumerate() {
            let free = |block: &Block| *block == Block::Free;
            let punch = chunk.iter().any(held) && chunk.iter().all(|b| held(b) || free(b));
            expected[at * 16..at * 16 + chunk.len()].fill(punch);
        }
        let runs = self.map.punchable(generation);
        let mut withheld = 0;
        for run in &runs {
            assert_eq!(run.start.0 % 16, 0);
            assert!(run.len_blocks % 16 == 0 || run.end() == self.blocks.len() as u64);
            let part = run.start.0 as usize..run.end() as usize;
            assert!(expected[part.clone()].iter().all(|punch| *punch));
            expected[part.clone()].fill(false);
            for block in &mut self.blocks[part] {
                if *block == Block::Free {
                    *block = Block::Held(generation);
                    withheld += 1;
                }
            }
        }
        assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start.0));
        assert!(withheld <= budget);
        let left = expected.chunks(16).zip(self.blocks.chunks(16)).filter(|(punch, _)| punch[0]);
        for (_, chunk) in left {
            let free = chunk.iter().filter(|block| **block == Block::Free).count() as u64;
            assert!(withheld + free > budget, "a chunk was left out without need");
        }
        self.check_held(generation);
    }

    fn check_held(&mut self, generation: u64) {
        let mut expected = self.blocks.clone();
        let runs = self.map.held(generation);
        assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start.0));
        for run in runs {
            for block in &mut expected[run.start.0 as usize..run.end() as usize] {
                assert!(matches!(block, Block::Held(of) if *of <= generation));
                *block = Block::Free;
            }
        }
        assert!(
            !expected.iter().any(|block| matches!(block, Block::Held(of) if *of <= generation))
        );
    }

    fn release(&mut self, batches: Option<usize>) {
        self.take_images(usize::MAX);
        let Some(writing) = self.writing.take() else { return };
        self.check_held(writing.generation);
        match batches {
            Some(max) => self.release_batches(writing.generation, max),
            None => self.map.release(writing.generation),
        }
        for block in &mut self.blocks {
            if matches!(block, Block::Held(of) if *of <= writing.generation) {
                assert!(batches.is_none(), "the batches left out a block");
                *block = Block::Free;
            }
        }
        self.journal = self.journal.split_off(&(writing.generation + 1));
        self.durable.extend(writing.images);
        self.durable_blocks = writing.expected;
    }

    fn release_batches(&mut self, generation: u64, max: usize) {
        while let Some(batch) = self.map.next_batch(generation, max) {
            for run in batch.chunks.clone() {
                for block in self.of(run) {
                    assert!(matches!(block, Block::Held(_) | Block::Free));
                    *block = Block::Held(generation);
                }
            }
            // Must not get what is about to be punched; the model would see it.
            self.allocate(Class::Data, 50);
            for run in batch.held.clone() {
                for block in self.of(run) {
                    assert!(matches!(block, Block::Held(of) if *of <= generation));
                    *block = Block::Free;
                }
            }
            self.map.release_batch(batch);
        }
    }

    fn grow(&mut self, more: u64) {
        let total = (self.blocks.len() as u64 + more).min(200_000);
        self.map.grow(total);
        self.blocks.resize(total as usize, Block::Free);
        if let Some(writing) = &mut self.writing {
            writing.expected.resize(total as usize, Block::Free);
        }
    }

    /// Loads the durable images, and replays the journal's tail as the pool does.
    fn crash(&mut self) {
        let total = self.blocks.len();
        let mut map = SpaceMap::new(total as u64);
        for (region, image) in &self.durable {
            let image = RegionImage::decode(&image.to_bytes()).unwrap();
            map.load_region(*region, &image).unwrap();
        }
        self.durable_blocks.resize(total, Block::Free);
        self.map = map;
        self.blocks = self.durable_blocks.clone();
        self.flying.clear();
        self.map.set_node_reserve(4 * self.reserved_slots);
        self.writing = None;
        self.check_states();
        let tail: Vec<Journaled> =
            std::mem::take(&mut self.journal).into_values().flatten().collect();
        for entry in &tail {
            if let Journaled::Map(run) = *entry {
                self.map.reserve(run).unwrap();
                self.pass(run, Block::Free, Block::Used);
                self.log(*entry);
            }
        }
        for entry in &tail {
            if let Journaled::Unmap(run) = *entry {
                self.map.free(run).unwrap();
                let generation = self.map.generation();
                self.pass(run, Block::Used, Block::Held(generation));
                self.log(*entry);
            }
        }
    }

    fn check_states(&self) {
        let count =
            |want: fn(&Block) -> bool| self.blocks.iter().filter(|b| want(b)).count() as u64;
        assert_eq!(self.map.free_blocks(), count(|b| *b == Block::Free));
        assert_eq!(self.map.node_blocks(), 4 * self.slots());
        assert_eq!(self.map.in_flight_blocks(), count(|b| *b == Block::Flying));
        assert_eq!(self.map.used_blocks(), count(|b| matches!(b, Block::Used | Block::Own)));
        assert_eq!(self.map.held_blocks(), count(|b| matches!(b, Block::Held(_))));
        let last = self.blocks.iter().rposition(|block| *block != Block::Free);
        assert_eq!(self.map.highest_used(), last.map_or(0, |at| at as u64 + 1));
        let mut used = vec![false; self.blocks.len()];
        for run in self.map.iter_used() {
            used[run.start.0 as usize..run.end() as usize].fill(true);
        }
        for (block, used) in self.blocks.iter().zip(used) {
            assert_eq!(matches!(block, Block::Used | Block::Own), used);
        }
        self.map.verify();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Allocate(class, want) => self.allocate(class, want),
            Op::AllocateNode => self.allocate_node(),
            Op::Settle(nth, len, commit) => self.settle(nth, len, commit),
            Op::Free(at, len) => self.free(at, len),
            Op::Reserve(at, len) => self.reserve(at, len),
            Op::CutUp(at, len, n) => {
                let start = at % self.blocks.len() as u64;
                let end = (start + u64::from(len)).min(self.blocks.len() as u64);
                (start..end).step_by(n as usize).for_each(|at| self.reserve(at, 1));
            }
            Op::Freeze(at_once) => self.freeze(at_once),
            Op::TakeImages(max) => self.take_images(max),
            Op::Own(also_free) => self.own(also_free),
            Op::Punchable => self.punchable(),
            Op::Release(batches) => self.release(batches),
            Op::Grow(more) => self.grow(more),
            Op::Reserved(slots) => {
                self.reserved_slots = slots;
                self.map.set_node_reserve(4 * slots);
            }
            Op::Crash => self.crash(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..Default::default() })]

    #[test]
    fn the_map_follows_a_plain_array(
        total in prop_oneof![1u64..100, 1u64..5000, 1u64..100_000],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut model = Model::new(total);
        for op in ops {
            model.apply(op);
            model.check_states();
        }
        model.freeze(true);
        model.release(None);
        model.crash();
        model.check_states();
    }
}
