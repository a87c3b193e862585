//! The tree against a `BTreeMap`, with snapshots, checkpoints, eviction, failing allocation and reads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::device::MemoryDevice;
use crate::format::{Key, KeyKind, MAX_VALUE, NODE_BLOCKS};

type Model = BTreeMap<Key, Vec<u8>>;

/// A store that knows of every address whether a tree has it.
struct TestStore {
    device: Arc<MemoryDevice>,
    cache: NodeCache,
    epoch: Epoch,
    snapshot_epoch: Epoch,
    next: u64,
    /// Addresses that were handed out and not retired.
    live: HashMap<BlockNo, Epoch>,
    /// Retired addresses that the newest snapshot of that time still has.
    dead: HashMap<BlockNo, Epoch>,
    /// Freed since the last freeze; freed before it; and to be handed out again.
    held: Vec<BlockNo>,
    frozen: Vec<BlockNo>,
    free: Vec<BlockNo>,
    /// Allocations that succeed before one fails.
    allocations_left: Option<u32>,
    /// Whether reading from the device fails.
    offline: bool,
}

impl TestStore {
    fn new(cache_bytes: u64) -> Self {
        let device = Arc::new(MemoryDevice::new());
        TestStore {
            cache: NodeCache::new(Arc::clone(&device) as _, cache_bytes),
            device,
            epoch: Epoch(1),
            snapshot_epoch: Epoch(0),
            next: 0,
            live: HashMap::new(),
            dead: HashMap::new(),
            held: Vec::new(),
            frozen: Vec::new(),
            free: Vec::new(),
            allocations_left: None,
            offline: false,
        }
    }
}

impl Load for TestStore {
    fn load(&self, child: &Child, level: u8) -> Result<Arc<Node>, cache::Error> {
        if self.offline && child.node.is_none() {
            return Err(cache::Error::Hash { addr: child.addr });
        }
        self.cache.load(child, level)
    }
}

impl Store for TestStore {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn allocate(&mut self) -> Result<BlockNo, Error> {
        if let Some(left) = &mut self.allocations_left {
            *left = left.checked_sub(1).ok_or(Error::NoSpace)?;
        }
        let addr = self.free.pop().unwrap_or_else(|| {
            self.next += u64::from(NODE_BLOCKS);
            BlockNo(self.next - u64::from(NODE_BLOCKS))
        });
        self.cache.forget(addr);
        assert_eq!(self.live.insert(addr, self.epoch), None, "{addr} handed out twice");
        Ok(addr)
    }

    fn retire(&mut self, addr: BlockNo, birth: Epoch) {
        assert_eq!(self.live.remove(&addr), Some(birth), "{addr} retired, but not the tree's");
        if birth > self.snapshot_epoch {
            self.held.push(addr);
        } else {
            self.dead.insert(addr, birth);
        }
    }
}

/// Verifies T1 to T5 below a child and gathers its nodes.
struct Walker<'a> {
    store: &'a TestStore,
    nodes: Vec<(BlockNo, Epoch)>,
    content: Model,
}

impl Walker<'_> {
    fn walk(&mut self, child: &Child, level: u8, low: Key, high: Option<Key>, is_root: bool) {
        let node = self.store.cache.load(child, level).expect("T1: the node reads");
        assert_eq!((node.addr, node.birth), (child.addr, child.birth), "T1");
        assert_eq!(node.level(), level, "T1, T3");
        assert!(child.birth <= self.store.epoch, "births are not in the future");
        self.nodes.push((child.addr, child.birth));
        let inside = |key: Key| low <= key && high.is_none_or(|high| key < high);
        match &node.body {
            Body::Leaf(leaf) => {
                assert!(is_root || !leaf.is_empty(), "T5: leaf {}", child.addr);
                for at in 0..leaf.len() {
                    assert!(inside(leaf.key(at)), "T2: leaf {}", child.addr);
                    assert!(at == 0 || leaf.key(at - 1) < leaf.key(at), "T2");
                    self.content.insert(leaf.key(at), leaf.value(at).to_vec());
                }
            }
            Body::Internal(internal) => {
                assert!(!internal.children.is_empty(), "T5: node {}", child.addr);
                assert_eq!(internal.keys.len(), internal.children.len());
                for (at, below) in internal.children.iter().enumerate() {
                    let from = internal.keys[at];
                    assert!(inside(from), "T2: node {}", child.addr);
                    assert!(below.birth <= child.birth, "T4: node {}", below.addr);
                    let to = internal.keys.get(at + 1).copied().or(high);
                    assert!(to.is_none_or(|to| from < to), "T2");
                    self.walk(below, level - 1, from, to, false);
                }
            }
        }
    }
}

/// Verifies a tree's invariants and content, and returns its nodes.
fn verify(tree: &Tree, store: &TestStore, model: &Model) -> Vec<(BlockNo, Epoch)> {
    let mut walker = Walker { store, nodes: Vec::new(), content: Model::new() };
    walker.walk(&tree.root, tree.level, Key::MIN, None, true);
    assert_eq!(walker.nodes.len() as u64, tree.nodes, "T6");
    assert!(walker.content == *model, "content differs from the model");
    walker.nodes
}

/// A kept state and what it holds.
struct Kept {
    tree: Tree,
    model: Model,
}

/// A checkpoint between its beginning and its end: clones of the live tree and of all snapshots.
struct Checkpoint {
    live: Kept,
    snapshots: Vec<Tree>,
    written: bool,
}

struct World {
    store: TestStore,
    tree: Tree,
    model: Model,
    snapshots: Vec<Kept>,
    checkpoint: Option<Checkpoint>,
    /// Live tree of the last whole checkpoint, as a pool would find it after a crash.
    durable: Option<Kept>,
}

impl World {
    fn new(cache_bytes: u64) -> Self {
        let mut store = TestStore::new(cache_bytes);
        let tree = Tree::new(&mut store).unwrap();
        World {
            store,
            tree,
            model: Model::new(),
            snapshots: Vec::new(),
            checkpoint: None,
            durable: None,
        }
    }

    fn insert(&mut self, key: Key, value: Vec<u8>) {
        self.tree.insert(&mut self.store, key, &value).unwrap();
        self.model.insert(key, value);
    }

    fn remove(&mut self, key: Key) {
        let removed = self.tree.remove(&mut self.store, key).unwrap();
        assert_eq!(removed, self.model.remove(&key).is_some());
    }

    fn modify(&mut self, key: Key, byte: u8) {
        let found = self.tree.modify(&mut self.store, key, |value| {
            value.fill(byte);
            value.len()
        });
        let expected = self.model.get_mut(&key).map(|value| {
            value.fill(byte);
            value.len()
        });
        assert_eq!(found.unwrap(), expected);
    }

    fn look_up(&self, key: Key) {
        let reader = Reader::new(&self.tree, &self.store);
        assert_eq!(reader.get_vec(key).unwrap().as_ref(), self.model.get(&key));
        let last = self.model.range(..=key).next_back().map(|(key, value)| (*key, value.clone()));
        assert_eq!(reader.last_at_or_before(key).unwrap(), last);
    }

    fn range(&self, from: Key, to: Key, limit: usize) {
        let mut found = Vec::new();
        Reader::new(&self.tree, &self.store)
            .range(from, to, &mut |key, value| {
                found.push((key, value.to_vec()));
                if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .unwrap();
        let expected: Vec<_> = if from <= to {
            let entries = self.model.range(from..=to).map(|(key, value)| (*key, value.clone()));
            entries.take(limit).collect()
        } else {
            Vec::new()
        };
        assert!(found == expected, "range from {from:?} to {to:?}");
    }

    fn snapshot(&mut self) {
        self.snapshots.push(Kept { tree: self.tree.clone(), model: self.model.clone() });
        self.store.snapshot_epoch = self.store.epoch;
        self.store.epoch.0 += 1;
    }

    fn begin_checkpoint(&mut self) {
        if self.checkpoint.is_none() {
            self.store.frozen = std::mem::take(&mut self.store.held);
            self.checkpoint = Some(Checkpoint {
                live: Kept { tree: self.tree.clone(), model: self.model.clone() },
                snapshots: self.snapshots.iter().map(|kept| kept.tree.clone()).collect(),
                written: false,
            });
        }
    }

    fn write_checkpoint(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        let mut out = Writeback::new(&*self.store.device);
        for tree in checkpoint.snapshots.iter().chain([&checkpoint.live.tree]) {
            write_dirty(&tree.root, &mut out).unwrap();
        }
        out.flush().unwrap();
        checkpoint.written = true;
    }

    fn end_checkpoint(&mut self) {
        self.write_checkpoint();
        let Some(checkpoint) = self.checkpoint.take() else { return };
        let Kept { tree, model } = checkpoint.live;
        let stored = Tree::stored(tree.root.ptr().unwrap(), tree.level, tree.nodes);
        drop((tree, checkpoint.snapshots));
        self.durable = Some(Kept { tree: stored, model });
        let released = std::mem::take(&mut self.store.frozen);
        self.store.free.extend(released);
        for kept in &mut self.snapshots {
            sweep(&mut kept.tree.root, &self.store.cache);
        }
        sweep(&mut self.tree.root, &self.store.cache);
    }

    /// Everything written, every tree opened again from its root's pointer.
    fn reopen(&mut self) {
        self.end_checkpoint();
        self.begin_checkpoint();
        self.end_checkpoint();
        let trees = self.snapshots.iter_mut().map(|kept| &mut kept.tree).chain([&mut self.tree]);
        for tree in trees {
            assert!(tree.root.node.is_none(), "nothing is dirty after a checkpoint at rest");
            *tree = Tree::stored(tree.root.ptr().unwrap(), tree.level, tree.nodes);
        }
        self.store.cache.clear();
    }

    /// Like `change` without any room for nodes beyond the next `allowed`: it works, or nothing changed.
    fn short_of_space(&mut self, allowed: u32, key: Key, value: Vec<u8>) {
        self.store.allocations_left = Some(allowed);
        let inserted = self.tree.insert(&mut self.store, key, &value);
        self.store.allocations_left = None;
        match inserted {
            Ok(()) => drop(self.model.insert(key, value)),
            Err(error) => assert!(matches!(error, Error::NoSpace)),
        }
        self.verify_live();
    }

    /// A change after `prepare` needs nothing from the device.
    fn offline(&mut self, key: Key, value: Option<Vec<u8>>) {
        self.tree.prepare(&mut self.store, key).unwrap();
        self.store.offline = true;
        match value {
            Some(value) => self.insert(key, value),
            None => self.remove(key),
        }
        self.store.offline = false;
    }

    fn verify_live(&self) -> Vec<(BlockNo, Epoch)> {
        verify(&self.tree, &self.store, &self.model)
    }

    /// The whole: every tree, the durable image past the cache, and where each address is.
    fn verify(&self) {
        let live = self.verify_live();
        assert_eq!(live.len(), self.store.live.len(), "the live tree has lost nodes");
        for (addr, birth) in live {
            assert_eq!(self.store.live.get(&addr), Some(&birth), "{addr} is the live tree's");
        }
        let mut kept_nodes: HashMap<BlockNo, Epoch> = HashMap::new();
        for kept in &self.snapshots {
            kept_nodes.extend(verify(&kept.tree, &self.store, &kept.model));
        }
        for (addr, birth) in &kept_nodes {
            let here = self.store.live.get(addr).or_else(|| self.store.dead.get(addr));
            assert_eq!(here, Some(birth), "{addr} is a snapshot's");
        }
        for addr in self.store.dead.keys() {
            assert!(kept_nodes.contains_key(addr), "{addr} is dead, but no snapshot has it");
        }
        let freed = [&self.store.held, &self.store.frozen, &self.store.free];
        let freed: Vec<_> = freed.into_iter().flatten().copied().collect();
        let addresses: HashSet<_> = freed.iter().collect();
        assert_eq!(addresses.len(), freed.len(), "an address was freed twice");
        let known = freed.len() + self.store.live.len() + self.store.dead.len();
        assert_eq!(known as u64, self.store.next / u64::from(NODE_BLOCKS), "addresses are lost");
        if let Some(durable) = &self.durable {
            let cold = TestStore {
                device: Arc::clone(&self.store.device),
                cache: NodeCache::new(Arc::clone(&self.store.device) as _, 0),
                epoch: self.store.epoch,
                ..TestStore::new(0)
            };
            verify(&durable.tree, &cold, &durable.model);
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Insert(Key, usize, u8),
    InsertRun(Key, u64, usize),
    Remove(Key),
    /// Removes existing keys: a run of so many from a fraction of the way through.
    RemoveRun(prop::sample::Index, usize),
    /// Replaces, modifies or removes a key that is there.
    Existing(prop::sample::Index, u8, usize),
    LookUp(Key),
    Range(Key, Key, usize),
    Snapshot,
    BeginCheckpoint,
    WriteCheckpoint,
    EndCheckpoint,
    Evict,
    Reopen,
    ShortOfSpace(u32, Key, usize),
    Offline(Key, Option<usize>),
    Verify,
}

fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        4 => (1u64..4, 0u64..600).prop_map(|(id, sub)| Key::new(id, KeyKind::Extent, sub * 7)),
        1 => any::<u128>().prop_map(Key),
        1 => prop_oneof![Just(Key::MIN), Just(Key::MAX)],
    ]
}

fn any_len() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0usize..200, 2 => 0..=MAX_VALUE, 1 => Just(MAX_VALUE), 1 => Just(0)]
}

fn any_op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (any_key(), any_len(), any::<u8>()).prop_map(|(k, l, b)| Op::Insert(k, l, b)),
        3 => (any_key(), 1u64..150, any_len()).prop_map(|(k, n, l)| Op::InsertRun(k, n, l)),
        2 => any_key().prop_map(Op::Remove),
        3 => (index(), 1usize..120).prop_map(|(at, n)| Op::RemoveRun(at, n)),
        6 => (index(), any::<u8>(), any_len()).prop_map(|(at, b, l)| Op::Existing(at, b, l)),
        3 => any_key().prop_map(Op::LookUp),
        2 => (any_key(), any_key(), 1usize..50).prop_map(|(a, b, n)| Op::Range(a, b, n)),
        1 => Just(Op::Snapshot),
        2 => Just(Op::BeginCheckpoint),
        1 => Just(Op::WriteCheckpoint),
        2 => Just(Op::EndCheckpoint),
        1 => Just(Op::Evict),
        1 => Just(Op::Reopen),
        3 => (0u32..6, any_key(), any_len()).prop_map(|(n, k, l)| Op::ShortOfSpace(n, k, l)),
        3 => (any_key(), prop::option::of(any_len())).prop_map(|(k, l)| Op::Offline(k, l)),
        1 => Just(Op::Verify),
    ]
}

fn value(key: Key, len: usize, byte: u8) -> Vec<u8> {
    let mut bytes = vec![byte; len];
    let tag = (key.0 as u64 ^ (key.0 >> 64) as u64).to_le_bytes();
    bytes.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
    bytes
}

impl World {
    fn existing(&self, at: prop::sample::Index) -> Option<Key> {
        (!self.model.is_empty())
            .then(|| *self.model.keys().nth(at.index(self.model.len())).unwrap())
    }

    fn apply(&mut self, op: &Op) {
        match op.clone() {
            Op::Insert(key, len, byte) => self.insert(key, value(key, len, byte)),
            Op::InsertRun(key, count, len) => {
                for step in 0..count {
                    let key = Key(key.0.saturating_add(u128::from(step)));
                    self.insert(key, value(key, len, step as u8));
                }
            }
            Op::Remove(key) => self.remove(key),
            Op::RemoveRun(at, count) => {
                let Some(from) = self.existing(at) else { return };
                let keys: Vec<_> = self.model.range(from..).take(count).map(|e| *e.0).collect();
                keys.into_iter().for_each(|key| self.remove(key));
            }
            Op::Existing(at, byte, len) => {
                let Some(key) = self.existing(at) else { return };
                match byte % 4 {
                    0 => self.remove(key),
                    1 => self.insert(key, value(key, len, byte)),
                    _ => self.modify(key, byte),
                }
            }
            Op::LookUp(key) => self.look_up(key),
            Op::Range(from, to, limit) => self.range(from, to, limit),
            Op::Snapshot if self.snapshots.len() < 5 => self.snapshot(),
            Op::Snapshot => {}
            Op::BeginCheckpoint => self.begin_checkpoint(),
            Op::WriteCheckpoint => self.write_checkpoint(),
            Op::EndCheckpoint => self.end_checkpoint(),
            Op::Evict => self.store.cache.clear(),
            Op::Reopen => self.reopen(),
            Op::ShortOfSpace(n, key, len) => self.short_of_space(n, key, value(key, len, 9)),
            Op::Offline(key, len) => self.offline(key, len.map(|len| value(key, len, 8))),
            Op::Verify => self.verify(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn random_operations_agree_with_the_model(
        ops in prop::collection::vec(any_op(), 1..80),
        cache_bytes in prop_oneof![Just(0u64), Just(64 << 20)],
    ) {
        let mut world = World::new(cache_bytes);
        ops.iter().for_each(|op| world.apply(op));
        world.verify();
        world.reopen();
        world.verify();
    }
}

/// A small generator of numbers, so that a big test has the same keys every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % limit
    }
}

/// Fills three levels in one order and empties them in another, with checkpoints and snapshots between.
fn grow_and_shrink(order: impl Fn(&mut Random, u64) -> u64) {
    let mut world = World::new(1 << 20);
    let mut random = Random(7);
    for step in 0..3000 {
        let key = Key::new(order(&mut random, step), KeyKind::Extent, 0);
        world.insert(key, value(key, MAX_VALUE - random.below(600) as usize, step as u8));
        match step {
            1000 => world.snapshot(),
            _ if step % 700 == 350 => world.begin_checkpoint(),
            _ if step % 700 == 699 => world.end_checkpoint(),
            _ => {}
        }
    }
    assert!(world.tree.level >= 2, "level {}", world.tree.level);
    world.verify();
    world.reopen();
    let mut keys: Vec<_> = world.model.keys().copied().collect();
    while !keys.is_empty() {
        let at = random.below(keys.len() as u64) as usize;
        world.remove(keys.swap_remove(at));
        match keys.len() {
            1500 => world.snapshot(),
            n if n % 700 == 350 => world.begin_checkpoint(),
            n if n % 700 == 0 => world.end_checkpoint(),
            _ => {}
        }
    }
    assert_eq!((world.tree.level, world.tree.nodes), (0, 1));
    world.verify();
}

#[test]
fn three_levels_grow_in_rising_order_and_shrink() {
    grow_and_shrink(|_, step| step);
}

#[test]
fn three_levels_grow_in_falling_order_and_shrink() {
    grow_and_shrink(|_, step| 1_000_000 - step);
}

#[test]
fn three_levels_grow_at_random_and_shrink() {
    grow_and_shrink(|random, _| random.below(1 << 30));
}

#[test]
fn rising_keys_leave_full_leaves() {
    let mut world = World::new(1 << 20);
    for step in 0..20_000 {
        let key = Key::new(5, KeyKind::Extent, step);
        world.insert(key, vec![1; 24]);
    }
    let bytes = 20_000 * (24 + 20);
    let full = bytes / crate::format::LEAF_CAPACITY as u64;
    assert!(world.tree.nodes <= full * 103 / 100 + 2, "{} nodes for {full}", world.tree.nodes);
}

/// A split that runs out of space half way changes nothing, on any level.
#[test]
fn no_split_is_left_half_done() {
    let mut world = World::new(1 << 20);
    let mut random = Random(3);
    let key = |n| Key::new(n, KeyKind::Extent, 0);
    for step in 0..2500 {
        let at = key(random.below(1 << 40));
        let full = value(at, MAX_VALUE, step as u8);
        world.tree.prepare(&mut world.store, at).unwrap();
        for allowed in 0..4 {
            world.store.allocations_left = Some(allowed);
            let inserted = world.tree.insert(&mut world.store, at, &full);
            world.store.allocations_left = None;
            if inserted.is_ok() {
                world.model.insert(at, full);
                break;
            }
        }
    }
    assert!(world.tree.level >= 2);
    assert_eq!(world.model.len(), 2500);
    world.verify();
}

/// The root's last child but one goes, and the one that is left can't be read.
#[test]
fn regression_a_root_that_loses_a_level_needs_no_io() {
    let mut world = World::new(0);
    for step in 0..800 {
        let key = Key::new(step, KeyKind::Extent, 0);
        world.insert(key, value(key, MAX_VALUE, 1));
    }
    assert_eq!(world.tree.level, 2);
    world.reopen();
    let keys: Vec<_> = world.model.keys().copied().collect();
    for key in keys.into_iter().rev().take_while(|key| key.id() > 700) {
        world.offline(key, None);
    }
    assert_eq!(world.tree.level, 1);
    world.verify();
}
