//! The nodes and data blocks of a pool at rest, found by the format alone; and what a mutation has to repair
//! so that hashes and checksums let it pass.

// Several tests use this, each a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use amberfs::device::Image;
use amberfs::format::{
    BLOCK_SIZE, Extent, ExtentKind, FRAME_HEADER, FrameHeader, INTERNAL_ENTRY, Key, KeyKind,
    LEAF_ENTRY, MAX_CHILDREN, NODE_HEADER, NODE_SIZE, RootRecord, SLOT_OFFSETS, SLOT_SIZE, Seq,
    Superblock, frame_bytes, frame_salt,
};

/// Where the root record begins in a superblock slot, and where the hash of the slot does.
const SLOT_ROOT: usize = 172;
const SLOT_HASH: usize = 4064;
const BLOCK: u64 = BLOCK_SIZE as u64;

pub(crate) type Page = Vec<u8>;

/// Which tree a node is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum In {
    Checkpoint,
    Catalog,
    Member(u64),
}

/// A node, in one of the trees that share it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub tree: In,
    pub low: Key,
    pub high: Option<Key>,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub addr: u64,
    pub level: u8,
    pub places: Vec<Place>,
}

/// A block of a file: lineage member, inode, block index in the file.
pub(crate) type Use = (u64, u64, u64);

pub(crate) struct Anatomy {
    pub superblock: Superblock,
    /// Children before parents.
    pub nodes: Vec<Node>,
    /// Data blocks, and who refers to them.
    pub blocks: BTreeMap<u64, Vec<Use>>,
    /// Frames of the journal's tail: offset and length of the payload.
    pub frames: Vec<(u64, usize)>,
}

pub(crate) fn superblock_of(image: &Image) -> Superblock {
    let slots = SLOT_OFFSETS.iter().filter_map(|offset| {
        let mut bytes = vec![0; SLOT_SIZE];
        image.superblock.read(*offset, &mut bytes).ok()?;
        Superblock::decode(&bytes).ok()
    });
    slots.max_by_key(|slot| slot.generation).expect("a slot is valid")
}

pub(crate) fn page(image: &Image, addr: u64) -> Page {
    let mut page = vec![0; NODE_SIZE];
    image.data.read(addr * BLOCK, &mut page).expect("the node is there");
    page
}

pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn u16_at(page: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(field(page, at)))
}

pub(crate) fn level(page: &[u8]) -> u8 {
    page[4]
}

/// Entries of a leaf that lie within the page: key, where the entry stands, where its value does.
pub(crate) fn entries(page: &[u8]) -> Vec<(Key, usize, Range<usize>)> {
    let count = u16_at(page, 6).min((NODE_SIZE - NODE_HEADER) / LEAF_ENTRY);
    let entry = |index: usize| {
        let at = NODE_HEADER + index * LEAF_ENTRY;
        let start = u16_at(page, at + 16);
        let value = start..start + u16_at(page, at + 18);
        (Key(u128::from_le_bytes(field(page, at))), at, value)
    };
    (0..count).map(entry).filter(|(_, _, value)| value.end <= NODE_SIZE).collect()
}

/// Entries of an internal node: where each stands.
pub(crate) fn children(page: &[u8]) -> Vec<usize> {
    (0..u16_at(page, 6).min(MAX_CHILDREN)).map(|at| NODE_HEADER + at * INTERNAL_ENTRY).collect()
}

impl Anatomy {
    pub(crate) fn of(image: &Image) -> Anatomy {
        let superblock = superblock_of(image);
        let mut walk =
            Walk { image, nodes: Vec::new(), known: HashMap::new(), blocks: BTreeMap::new() };
        let top = superblock.root.ptr.addr.0;
        let root = Place { tree: In::Checkpoint, low: Key::MIN, high: None };
        walk.visit(top, root);
        let frames = frames(image, &superblock);
        Anatomy { superblock, nodes: walk.nodes, blocks: walk.blocks, frames }
    }

    /// Makes the hashes of all nodes right, from the leaves to the superblock, as the pointers are now. A
    /// pointer to something that was no node keeps its hash.
    pub(crate) fn repair(&self, image: &mut Image) {
        let mut hashes: HashMap<u64, [u8; 32]> = HashMap::new();
        for node in &self.nodes {
            let mut page = page(image, node.addr);
            let set = |page: &mut Page, addr_at: usize, hash_at: usize| {
                let addr = u64::from_le_bytes(field(page, addr_at));
                if let Some(hash) = hashes.get(&addr)
                    && hash_at + 32 <= NODE_SIZE
                {
                    page[hash_at..hash_at + 32].copy_from_slice(hash);
                }
            };
            if level(&page) > 0 {
                for at in children(&page) {
                    set(&mut page, at + 16, at + 32);
                }
            } else if node.places.iter().any(|place| place.tree == In::Checkpoint) {
                for (_, _, value) in
                    entries(&page).into_iter().filter(|(key, ..)| key.is(KeyKind::Root))
                {
                    set(&mut page, value.start, value.start + 16);
                }
            }
            image.data.write(node.addr * BLOCK, &page).expect("memory takes it");
            hashes.insert(node.addr, *blake3::hash(&page).as_bytes());
        }
        for offset in SLOT_OFFSETS {
            let mut slot = vec![0; SLOT_SIZE];
            image.superblock.read(offset, &mut slot).expect("a slot is there");
            let addr = u64::from_le_bytes(field(&slot, SLOT_ROOT));
            if let Some(hash) = hashes.get(&addr) {
                slot[SLOT_ROOT + 16..SLOT_ROOT + 48].copy_from_slice(hash);
            }
            seal_slot(&mut slot);
            image.superblock.write(offset, &slot).expect("memory takes it");
        }
    }

    /// Makes the checksums of a data block right in every extent that maps it; the hashes are the caller's.
    pub(crate) fn bless(&self, image: &mut Image, block: u64) {
        let mut bytes = vec![0; BLOCK_SIZE];
        image.data.read(block * BLOCK, &mut bytes).expect("the block is there");
        let sum = crc32c::crc32c(&bytes).to_le_bytes();
        for node in self.nodes.iter().filter(|node| node.level == 0) {
            let mut page = page(image, node.addr);
            for (key, _, value) in entries(&page) {
                let extent = Extent::decode(&page[value.clone()]);
                if let (true, Ok(extent)) = (key.is(KeyKind::Extent), extent)
                    && extent.kind == ExtentKind::Written
                    && (extent.addr.0..extent.run().end()).contains(&block)
                {
                    let at = value.start + 24 + 4 * (block - extent.addr.0) as usize;
                    page[at..at + 4].copy_from_slice(&sum);
                }
            }
            image.data.write(node.addr * BLOCK, &page).expect("memory takes it");
        }
    }

    /// Makes numbers, chain and checksums of the journal's frames right.
    pub(crate) fn reseal_journal(&self, image: &mut Image) {
        let mut salt = [0; 16];
        salt.copy_from_slice(&self.superblock.seed[..16]);
        let mut chain = self.superblock.tail_chain;
        for (nth, (offset, len)) in self.frames.iter().enumerate() {
            let mut frame = vec![0; FRAME_HEADER + len];
            image.journal.read(*offset, &mut frame).expect("the frame is there");
            let header = FrameHeader {
                payload_bytes: *len as u32,
                seq: Seq(self.superblock.tail_seq + nth as u64),
                nonce: u64::from_le_bytes(field(&frame, 16)),
                chain,
            };
            let (bytes, sum) = header.seal(frame_salt(&salt), &frame[FRAME_HEADER..]);
            image.journal.write(*offset, &bytes).expect("memory takes it");
            chain = sum;
        }
    }

    /// The node that a block of the data file is in.
    pub(crate) fn node_at(&self, block: u64) -> Option<&Node> {
        self.nodes.iter().find(|node| (node.addr..node.addr + 4).contains(&block))
    }
}

pub(crate) fn seal_slot(slot: &mut [u8]) {
    let hash = blake3::hash(&slot[..SLOT_HASH]);
    slot[SLOT_HASH..].copy_from_slice(hash.as_bytes());
}

fn frames(image: &Image, superblock: &Superblock) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    let (mut at, mut seq) = (superblock.tail_offset, superblock.tail_seq);
    loop {
        // A frame that does not fit behind the one before stands at the beginning.
        let next = [at, 0].into_iter().find_map(|at| {
            let mut header = [0; FRAME_HEADER];
            image.journal.read(at, &mut header).ok()?;
            let header = FrameHeader::decode(&header).ok()?.0;
            (header.seq.0 == seq).then_some((at, header.payload_bytes as usize))
        });
        let Some((start, len)) = next else { return found };
        found.push((start, len));
        at = start + frame_bytes(len) as u64;
        seq += 1;
    }
}

struct Walk<'a> {
    image: &'a Image,
    nodes: Vec<Node>,
    known: HashMap<u64, usize>,
    blocks: BTreeMap<u64, Vec<Use>>,
}

impl Walk<'_> {
    fn visit(&mut self, addr: u64, place: Place) {
        let page = page(self.image, addr);
        if level(&page) > 0 {
            let at = children(&page);
            let low = |at: usize| Key(u128::from_le_bytes(field(&page, at)));
            for (index, entry) in at.iter().enumerate() {
                let high = at.get(index + 1).map(|next| low(*next)).or(place.high);
                let below = u64::from_le_bytes(field(&page, entry + 16));
                self.visit(below, Place { low: low(*entry), high, ..place });
            }
        } else {
            self.leaf(&page, place);
        }
        match self.known.get(&addr) {
            Some(index) => self.nodes[*index].places.push(place),
            None => {
                self.known.insert(addr, self.nodes.len());
                self.nodes.push(Node { addr, level: level(&page), places: vec![place] });
            }
        }
    }

    fn leaf(&mut self, page: &[u8], place: Place) {
        for (key, _, value) in entries(page) {
            match place.tree {
                In::Checkpoint if key.is(KeyKind::Root) => {
                    let root = RootRecord::decode(&page[value]).expect("a root decodes");
                    let member = key.sub();
                    let tree = if member == 0 { In::Catalog } else { In::Member(member) };
                    self.visit(root.ptr.addr.0, Place { tree, low: Key::MIN, high: None });
                }
                In::Member(member) if key.is(KeyKind::Extent) => {
                    let extent = Extent::decode(&page[value]).expect("an extent decodes");
                    if extent.kind == ExtentKind::Written {
                        for nth in 0..u64::from(extent.len_blocks) {
                            let uses = self.blocks.entry(extent.addr.0 + nth).or_default();
                            uses.push((member, key.id(), key.sub() + nth));
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Blocks in which two images differ.
pub(crate) fn changed_blocks(a: &Image, b: &Image) -> HashSet<u64> {
    let blocks = a.data.len_bytes().max(b.data.len_bytes()) / BLOCK;
    let read = |image: &Image, block: u64| {
        let mut bytes = vec![0; BLOCK_SIZE];
        // A block behind the end holds nothing.
        let _ = image.data.read(block * BLOCK, &mut bytes);
        bytes
    };
    (0..blocks).filter(|block| read(a, *block) != read(b, *block)).collect()
}
