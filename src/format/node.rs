//! B+tree nodes: 16 KiB pages, leaves and internal nodes.
//!
//! Both begin with a 64-byte header; the BLAKE3 hash of the whole page stands in the parent's pointer.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic: [`NODE_MAGIC`] |
//! | 4 | 1 | level: 0 for a leaf, else height above the leaves |
//! | 5 | 1 | zero |
//! | 6 | 2 | number of entries |
//! | 8 | 8 | address: the block where this node lies |
//! | 16 | 8 | birth epoch |
//! | 24 | 2 | leaf: start of the heap; internal: zero |
//! | 26 | 2 | leaf: bytes in the heap that no entry refers to; internal: zero |
//! | 28 | 36 | zero |
//!
//! A leaf's entries follow, 20 bytes each, by rising key: key (16), offset (2) and length (2) of the
//! value, which lies in a heap that grows down from the end of the page. An internal node's entries
//! are 64 bytes each: lower bound of the child's keys (16), address (8), birth (8), hash (32).

use super::bytes::{DecodeError, Decoder};
use super::ids::{BlockNo, Epoch, Hash};
use super::key::Key;
use super::{MAX_VALUE, NODE_SIZE};

/// First four bytes of every node.
pub const NODE_MAGIC: u32 = 0x4e42_6d41;
/// Bytes of a node's header.
pub const NODE_HEADER: usize = 64;
/// Bytes of a leaf entry without its value.
pub const LEAF_ENTRY: usize = 20;
/// Fewest entries for which a guess beats a binary search.
const MIN_GUESSED: usize = 16;
/// Bytes of an internal entry.
pub const INTERNAL_ENTRY: usize = 64;
/// Most children of an internal node.
pub const MAX_CHILDREN: usize = (NODE_SIZE - NODE_HEADER) / INTERNAL_ENTRY;
/// Greatest level: 16 levels of at least two children are more nodes than a pool has blocks.
pub const MAX_LEVEL: u8 = 16;
/// Bytes of a leaf for entries and values.
pub const LEAF_CAPACITY: usize = NODE_SIZE - NODE_HEADER;

/// The bytes of one node.
pub type Page = Box<[u8; NODE_SIZE]>;

/// A pointer to a node as it stands in its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePtr {
    /// Block where the node lies.
    pub addr: BlockNo,
    /// Epoch in which the node came to be.
    pub birth: Epoch,
    /// BLAKE3 of its page.
    pub hash: Hash,
}

/// A page of zeros.
pub fn empty_page() -> Page {
    Box::new([0; NODE_SIZE])
}

fn put(page: &mut [u8; NODE_SIZE], at: usize, bytes: &[u8]) {
    if let Some(slot) = page.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn get<const N: usize>(page: &[u8; NODE_SIZE], at: usize) -> [u8; N] {
    page.get(at..at + N).and_then(|s| s.try_into().ok()).unwrap_or([0; N])
}

/// Reads the level out of a page's header.
pub fn page_level(page: &[u8; NODE_SIZE]) -> u8 {
    get::<1>(page, 4)[0]
}

fn check_header(page: &[u8; NODE_SIZE], addr: BlockNo, birth: Epoch) -> Result<(), DecodeError> {
    let mut d = Decoder::new("node", page);
    if d.u32("magic")? != NODE_MAGIC {
        return Err(DecodeError { record: "node", field: "magic", offset: 0 });
    }
    let (_level, zero) = (d.u8("level")?, d.u8("reserved")?);
    d.u16("count")?;
    if d.u64("address")? != addr.0 {
        return Err(DecodeError { record: "node", field: "address", offset: 8 });
    }
    if d.u64("birth")? != birth.0 {
        return Err(DecodeError { record: "node", field: "birth", offset: 16 });
    }
    d.u32("heap")?;
    if zero != 0 || d.array::<36>("reserved")? != [0; 36] {
        return Err(d.error("reserved"));
    }
    Ok(())
}

fn put_header(page: &mut [u8; NODE_SIZE], level: u8, count: u16, addr: BlockNo, birth: Epoch) {
    put(page, 0, &NODE_MAGIC.to_le_bytes());
    put(page, 4, &[level, 0]);
    put(page, 6, &count.to_le_bytes());
    put(page, 8, &addr.0.to_le_bytes());
    put(page, 16, &birth.0.to_le_bytes());
}

/// A leaf, worked on in its on-disk form.
#[derive(Clone)]
pub struct Leaf {
    page: Page,
    count: usize,
    heap_start: usize,
    garbage: usize,
    /// Where the last insertion went: a run of rising keys is recognised by it. Not on disk.
    last_insert: usize,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Leaf({} entries, {} bytes)", self.count, self.used_bytes())
    }
}

impl Default for Leaf {
    fn default() -> Self {
        Leaf {
            page: empty_page(),
            count: 0,
            heap_start: NODE_SIZE,
            garbage: 0,
            last_insert: usize::MAX - 1,
        }
    }
}

impl Leaf {
    /// Takes a page over as a leaf after checking every offset, length and the order of its keys.
    pub fn decode(page: Page, addr: BlockNo, birth: Epoch) -> Result<Leaf, DecodeError> {
        let bad = |field, offset| DecodeError { record: "leaf", field, offset };
        check_header(&page, addr, birth)?;
        let count = usize::from(u16::from_le_bytes(get(&page, 6)));
        let heap_start = usize::from(u16::from_le_bytes(get(&page, 24)));
        let garbage = usize::from(u16::from_le_bytes(get(&page, 26)));
        if page_level(&page) != 0 {
            return Err(bad("level", 4));
        }
        if heap_start > NODE_SIZE || NODE_HEADER + count * LEAF_ENTRY > heap_start {
            return Err(bad("heap start", 24));
        }
        let leaf = Leaf { page, count, heap_start, garbage, last_insert: usize::MAX - 1 };
        let mut previous: Option<Key> = None;
        let mut value_bytes = 0;
        for index in 0..count {
            let (key, offset, len) = leaf.entry(index);
            let at = NODE_HEADER + index * LEAF_ENTRY;
            if previous.is_some_and(|p| p >= key) {
                return Err(bad("key order", at));
            }
            if offset < heap_start || offset + len > NODE_SIZE || len > MAX_VALUE {
                return Err(bad("value", at));
            }
            value_bytes += len;
            previous = Some(key);
        }
        if value_bytes + garbage != NODE_SIZE - heap_start {
            return Err(bad("garbage", 26));
        }
        Ok(leaf)
    }

    /// Fills `out` with the page as it goes to disk.
    pub fn encode(&self, addr: BlockNo, birth: Epoch, out: &mut [u8; NODE_SIZE]) {
        out.copy_from_slice(self.page.as_slice());
        put_header(out, 0, self.count as u16, addr, birth);
        put(out, 24, &(self.heap_start as u16).to_le_bytes());
        put(out, 26, &(self.garbage as u16).to_le_bytes());
        put(out, 28, &[0; 36]);
        let gap = NODE_HEADER + self.count * LEAF_ENTRY;
        if let Some(unused) = out.get_mut(gap..self.heap_start) {
            unused.fill(0);
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn entry(&self, index: usize) -> (Key, usize, usize) {
        let at = NODE_HEADER + index * LEAF_ENTRY;
        let key = Key(u128::from_le_bytes(get(&self.page, at)));
        let offset = u16::from_le_bytes(get(&self.page, at + 16));
        let len = u16::from_le_bytes(get(&self.page, at + 18));
        (key, usize::from(offset), usize::from(len))
    }

    /// Key of the entry at `index`; [`Key::MIN`] behind the last.
    pub fn key(&self, index: usize) -> Key {
        let at = NODE_HEADER + index * LEAF_ENTRY;
        Key(u128::from_le_bytes(get(&self.page, at)))
    }

    /// Value of the entry at `index`.
    pub fn value(&self, index: usize) -> &[u8] {
        let (_, offset, len) = self.entry(index);
        self.page.get(offset..offset + len).unwrap_or(&[])
    }

    /// Value of the entry at `index`, to be changed without changing its length.
    pub fn value_mut(&mut self, index: usize) -> &mut [u8] {
        let (_, offset, len) = self.entry(index);
        self.page.get_mut(offset..offset + len).unwrap_or(&mut [])
    }

    /// Finds `key`: `Ok` its index, `Err` the index where it would stand.
    ///
    /// Keys are mostly evenly spread (inode numbers, block indices, hashes): a guess from the first and the
    /// last key lands next to the place, where a binary search would touch a cache line at every step.
    pub fn search(&self, key: Key) -> Result<usize, usize> {
        let last = self.count.saturating_sub(1);
        if last < MIN_GUESSED {
            return self.search_between(key, 0, self.count);
        }
        let (low_key, high_key) = (self.key(0), self.key(last));
        if key <= low_key {
            return if key == low_key { Ok(0) } else { Err(0) };
        }
        if key >= high_key {
            return if key == high_key { Ok(last) } else { Err(self.count) };
        }
        self.search_from(key, guess(key, low_key, high_key, last))
    }

    /// As [`Leaf::search`], for a caller that knows between which keys all of the leaf's lie: the guess is
    /// then made without a look at the leaf.
    pub fn search_within(&self, key: Key, low: Key, high: Key) -> Result<usize, usize> {
        if self.count <= MIN_GUESSED || key < low || key > high {
            return self.search_between(key, 0, self.count);
        }
        self.search_from(key, guess(key, low, high, self.count - 1))
    }

    /// Searches with growing steps from `guess`, the index of an entry.
    fn search_from(&self, key: Key, guess: usize) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        let mut step = 1;
        if self.key(guess) < key {
            low = guess + 1;
            while low + step < high && self.key(low + step) < key {
                low += step + 1;
                step *= 2;
            }
            high = high.min(low + step + 1);
        } else {
            high = guess + 1;
            while high > low + step && self.key(high - 1 - step) > key {
                high -= step + 1;
                step *= 2;
            }
            low = low.max(high.saturating_sub(step + 1));
        }
        self.search_between(key, low, high)
    }

    /// Binary search: the entries before `low` are smaller, those from `high` on larger.
    fn search_between(&self, key: Key, mut low: usize, mut high: usize) -> Result<usize, usize> {
        while low < high {
            let middle = (low + high) / 2;
            match self.key(middle).cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Bytes that entries and their values take.
    pub fn used_bytes(&self) -> usize {
        self.count * LEAF_ENTRY + (NODE_SIZE - self.heap_start) - self.garbage
    }

    /// Whether a further entry with a value of `len` bytes fits.
    pub fn fits(&self, len: usize) -> bool {
        self.used_bytes() + LEAF_ENTRY + len <= LEAF_CAPACITY
    }

    /// Whether the entry at `index` can take a value of `len` bytes.
    pub fn fits_replaced(&self, index: usize, len: usize) -> bool {
        self.used_bytes() - self.entry(index).2 + len <= LEAF_CAPACITY
    }

    fn contiguous(&self) -> usize {
        self.heap_start - (NODE_HEADER + self.count * LEAF_ENTRY)
    }

    /// Moves all values together so that the free bytes are one range.
    fn compact(&mut self) {
        let mut fresh = empty_page();
        let mut at = NODE_SIZE;
        for index in 0..self.count {
            let (key, offset, len) = self.entry(index);
            at -= len;
            if let Some(value) = self.page.get(offset..offset + len) {
                put(&mut fresh, at, value);
            }
            put_entry(&mut fresh, index, key, at, len);
        }
        self.page = fresh;
        self.heap_start = at;
        self.garbage = 0;
    }

    fn push_value(&mut self, value: &[u8]) -> usize {
        self.heap_start -= value.len();
        put(&mut self.page, self.heap_start, value);
        self.heap_start
    }

    /// Inserts an entry at `index`, which [`Leaf::search`] gave; the caller knows that it fits.
    pub fn insert(&mut self, index: usize, key: Key, value: &[u8]) {
        assert!(self.fits(value.len()), "leaf overflow");
        if self.contiguous() < LEAF_ENTRY + value.len() {
            self.compact();
        }
        let at = NODE_HEADER + index * LEAF_ENTRY;
        let end = NODE_HEADER + self.count * LEAF_ENTRY;
        self.page.copy_within(at..end, at + LEAF_ENTRY);
        let offset = self.push_value(value);
        put_entry(&mut self.page, index, key, offset, value.len());
        self.count += 1;
        self.last_insert = index;
    }

    /// Replaces the value at `index`; the caller knows that it fits.
    pub fn replace(&mut self, index: usize, value: &[u8]) {
        assert!(self.fits_replaced(index, value.len()), "leaf overflow");
        let (key, offset, len) = self.entry(index);
        if value.len() <= len {
            self.garbage += len - value.len();
            put(&mut self.page, offset, value);
            put_entry(&mut self.page, index, key, offset, value.len());
            return;
        }
        self.garbage += len;
        put_entry(&mut self.page, index, key, NODE_SIZE, 0);
        if self.contiguous() < value.len() {
            self.compact();
        }
        let offset = self.push_value(value);
        put_entry(&mut self.page, index, key, offset, value.len());
    }

    /// Removes the entry at `index`.
    pub fn remove(&mut self, index: usize) {
        self.garbage += self.entry(index).2;
        let at = NODE_HEADER + (index + 1) * LEAF_ENTRY;
        let end = NODE_HEADER + self.count * LEAF_ENTRY;
        self.page.copy_within(at..end, at - LEAF_ENTRY);
        self.count -= 1;
        self.last_insert = usize::MAX - 1;
    }

    /// Whether an insertion at `index` continues a run of rising keys.
    pub fn continues_run(&self, index: usize) -> bool {
        index == self.last_insert + 1
    }

    /// Moves the entries from `from` on into a new leaf.
    pub fn split_off(&mut self, from: usize) -> Leaf {
        let mut right = Leaf::default();
        for index in from..self.count {
            let (key, offset, len) = self.entry(index);
            if let Some(value) = self.page.get(offset..offset + len) {
                let at = right.push_value(value);
                put_entry(&mut right.page, index - from, key, at, len);
            }
        }
        right.count = self.count - from;
        self.count = from;
        self.compact();
        right
    }

    /// Appends all entries of `right`, whose keys are all larger; the caller knows that they fit.
    pub fn append(&mut self, right: &Leaf) {
        for index in 0..right.count {
            self.insert(self.count, right.key(index), right.value(index));
        }
        self.last_insert = usize::MAX - 1;
    }
}

/// Where `key` would stand among entries 0 to `last` if keys from `low` to `high` were evenly spread.
fn guess(key: Key, low: Key, high: Key, last: usize) -> usize {
    let span = high.0 - low.0;
    // Both are cut to 32 bits, so that the product stays within 64.
    let shift = 96 - span.leading_zeros().min(96);
    let (offset, span) = (((key.0 - low.0) >> shift) as u64, (span >> shift) as u64);
    ((offset * last as u64 / span.max(1)) as usize).min(last)
}

fn put_entry(page: &mut [u8; NODE_SIZE], index: usize, key: Key, offset: usize, len: usize) {
    let at = NODE_HEADER + index * LEAF_ENTRY;
    put(page, at, &key.0.to_le_bytes());
    // A heap offset of NODE_SIZE (an empty value) is at most 16384 and fits 16 bits.
    put(page, at + 16, &(offset as u16).to_le_bytes());
    put(page, at + 18, &(len as u16).to_le_bytes());
}

/// Decodes an internal node: its entries by rising key.
pub fn decode_internal(
    page: &[u8; NODE_SIZE],
    addr: BlockNo,
    birth: Epoch,
) -> Result<(u8, Vec<(Key, NodePtr)>), DecodeError> {
    let bad = |field, offset| DecodeError { record: "internal node", field, offset };
    check_header(page, addr, birth)?;
    let level = page_level(page);
    if level == 0 || level > MAX_LEVEL {
        return Err(bad("level", 4));
    }
    let count = usize::from(u16::from_le_bytes(get(page, 6)));
    if count == 0 || count > MAX_CHILDREN || get::<4>(page, 24) != [0; 4] {
        return Err(bad("count", 6));
    }
    let mut d = Decoder::new("internal node", page.as_slice());
    d.take(NODE_HEADER, "header")?;
    let mut entries: Vec<(Key, NodePtr)> = Vec::with_capacity(count + 1);
    for _ in 0..count {
        let key = Key(d.u128("key")?);
        let ptr = decode_ptr(&mut d)?;
        if entries.last().is_some_and(|(last, _)| *last >= key) {
            return Err(d.error("key order"));
        }
        if ptr.birth > birth {
            return Err(d.error("birth"));
        }
        entries.push((key, ptr));
    }
    Ok((level, entries))
}

/// Reads a node pointer: address, birth, hash.
pub fn decode_ptr(d: &mut Decoder<'_>) -> Result<NodePtr, DecodeError> {
    let addr = BlockNo(d.u64("child address")?);
    if addr.0 > super::MAX_BLOCKS {
        return Err(d.error("child address"));
    }
    let birth = Epoch(d.number("child birth")?);
    Ok(NodePtr { addr, birth, hash: Hash(d.array("child hash")?) })
}

/// Fills `out` with an internal node's page.
pub fn encode_internal(
    level: u8,
    entries: impl ExactSizeIterator<Item = (Key, NodePtr)>,
    addr: BlockNo,
    birth: Epoch,
    out: &mut [u8; NODE_SIZE],
) {
    out.fill(0);
    assert!(entries.len() <= MAX_CHILDREN, "internal node overflow");
    put_header(out, level, entries.len() as u16, addr, birth);
    let mut at = NODE_HEADER;
    for (key, ptr) in entries {
        put(out, at, &key.0.to_le_bytes());
        put(out, at + 16, &ptr.addr.0.to_le_bytes());
        put(out, at + 24, &ptr.birth.0.to_le_bytes());
        put(out, at + 32, &ptr.hash.0);
        at += INTERNAL_ENTRY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::KeyKind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(n: u64) -> Key {
        Key::new(n, KeyKind::Inode, 0)
    }

    proptest! {
        /// A leaf behaves as an ordered map, and its page decodes to the same entries.
        #[test]
        fn leaf_is_an_ordered_map(ops in prop::collection::vec((0u64..60, 0usize..900, any::<bool>()), 1..200)) {
            let mut leaf = Leaf::default();
            let mut model = BTreeMap::new();
            for (n, len, remove) in ops {
                let value = vec![n as u8; len];
                match (leaf.search(key(n)), remove) {
                    (Ok(at), true) => { leaf.remove(at); model.remove(&n); }
                    (Ok(at), false) if leaf.fits_replaced(at, len) => { leaf.replace(at, &value); model.insert(n, value); }
                    (Err(at), false) if leaf.fits(len) => { leaf.insert(at, key(n), &value); model.insert(n, value); }
                    _ => {}
                }
            }
            let mut page = empty_page();
            leaf.encode(BlockNo(7), Epoch(3), &mut page);
            let back = Leaf::decode(page, BlockNo(7), Epoch(3)).unwrap();
            prop_assert_eq!(back.len(), model.len());
            for (index, (n, value)) in model.iter().enumerate() {
                prop_assert_eq!(back.key(index), key(*n));
                prop_assert_eq!(back.value(index), value.as_slice());
            }
            let mut left = back.clone();
            let right = left.split_off(back.len() / 2);
            left.append(&right);
            prop_assert_eq!(left.used_bytes(), back.used_bytes());
            prop_assert_eq!(left.len(), back.len());
        }

        /// Every key is found, and every other's place, however the keys are spread.
        #[test]
        fn search_finds_every_place(mut ids in prop::collection::vec(prop_oneof![0u64..300, any::<u64>(), (0u64..40).prop_map(|n| 1 << n)], 1..400), probes in prop::collection::vec(any::<u64>(), 20)) {
            ids.sort_unstable();
            ids.dedup();
            let mut leaf = Leaf::default();
            for (at, id) in ids.iter().enumerate() {
                leaf.insert(at, key(*id), b"v");
            }
            for id in ids.iter().flat_map(|id| [id.saturating_sub(1), *id, id.saturating_add(1)]).chain(probes) {
                let expected = ids.binary_search(&id);
                prop_assert_eq!(leaf.search(key(id)), expected, "{}", id);
                prop_assert_eq!(leaf.search_within(key(id), Key::MIN, Key::MAX), expected, "{}", id);
                let (low, high) = (key(ids[0] / 2), key(ids[ids.len() - 1].saturating_add(9)));
                prop_assert_eq!(leaf.search_within(key(id), low, high), expected, "{}", id);
            }
        }

        /// Any page at all decodes to a node or an error.
        #[test]
        fn decoders_take_any_page(header in prop::collection::vec(any::<u8>(), 128), fix in any::<bool>()) {
            let mut page = empty_page();
            page[..128].copy_from_slice(&header);
            if fix {
                put_header(&mut page, header[4] % 2, u16::from(header[6]), BlockNo(1), Epoch(1));
                put(&mut page, 28, &[0; 36]);
            }
            let _ = decode_internal(&page, BlockNo(1), Epoch(1));
            let _ = Leaf::decode(page, BlockNo(1), Epoch(1));
        }
    }

    #[test]
    fn a_node_that_lies_elsewhere_is_refused() {
        let mut page = empty_page();
        Leaf::default().encode(BlockNo(7), Epoch(3), &mut page);
        assert_eq!(Leaf::decode(page.clone(), BlockNo(8), Epoch(3)).unwrap_err().field, "address");
        assert_eq!(Leaf::decode(page, BlockNo(7), Epoch(4)).unwrap_err().field, "birth");
    }
}
