//! The node cache: readers of nodes whose addresses are handed out again, in a cache that is too small.

use std::sync::Arc;

use amberfs::cache::{Body, Child, Node, NodeCache};
use amberfs::device::{BlockDevice, Storage};
use amberfs::format::{BlockNo, Epoch, Key, KeyKind, Leaf, NODE_SIZE, NodePtr};
use amberfs::threads::Planted;
use shuttle::sync::RwLock;
use shuttle::thread;

use crate::devices::Disk;
use crate::{is_found, try_schedules};

const NODES: u64 = 3;
const ROUNDS: u8 = 3;

/// Writes a leaf that holds `value`, and returns the pointer to it.
fn write(device: &dyn BlockDevice, addr: BlockNo, value: u8) -> Child {
    let mut leaf = Leaf::default();
    leaf.insert(0, Key::new(addr.0, KeyKind::Xattr, 0), &[value; 100]);
    let node = Node::new(addr, Epoch(1), Body::Leaf(leaf));
    let mut page = [0; NODE_SIZE];
    let hash = node.seal(&mut page);
    device.write_at(addr.offset_bytes(), &page).expect("memory takes it");
    Child::clean(NodePtr { addr, birth: node.birth, hash })
}

fn value(node: &Node) -> u8 {
    match &node.body {
        Body::Leaf(leaf) => leaf.value(0)[0],
        Body::Internal(_) => panic!("a leaf was written"),
    }
}

/// What is under an address: as a tree's lock does, it keeps the address from being handed out while it is read.
struct Place {
    child: Child,
    value: u8,
}

fn readers_and_reuse() {
    let Storage { data: device, .. } = Disk::new().storage();
    // Room for one node in each shard at most.
    let cache = Arc::new(NodeCache::new(Arc::clone(&device), 1));
    let places: Vec<_> = (0..NODES)
        .map(|nth| {
            let child = write(&*device, BlockNo(4 * nth), 0);
            RwLock::new(Place { child, value: 0 })
        })
        .collect();
    let places = Arc::new(places);
    let reader = |start: usize| {
        let (cache, places) = (Arc::clone(&cache), Arc::clone(&places));
        thread::spawn(move || {
            for nth in 0..2 * NODES as usize {
                let place = places[(start + nth) % places.len()].read().expect("nobody panicked");
                let node = cache.load(&place.child, 0).expect("what is written can be read");
                assert_eq!(node.addr, place.child.addr);
                assert_eq!(value(&node), place.value, "the node that was there before");
            }
        })
    };
    let mut threads = vec![reader(0), reader(1)];
    let (writer_cache, writer_places) = (Arc::clone(&cache), Arc::clone(&places));
    threads.push(thread::spawn(move || {
        for value in 1..=ROUNDS {
            for place in &*writer_places {
                let mut place = place.write().expect("nobody panicked");
                let addr = place.child.addr;
                writer_cache.forget(addr);
                *place = Place { child: write(&*device, addr, value), value };
            }
        }
    }));
    threads.into_iter().for_each(|thread| thread.join().expect("a thread ends well"));
    let status = cache.status();
    assert!(status.bytes <= NODES * 2 * NODE_SIZE as u64, "{status:?}");
}

#[test]
fn nobody_gets_a_node_of_before_its_address_was_used_again() {
    try_schedules("cache", 3000, readers_and_reuse);
}

#[test]
fn a_cache_that_forgets_nothing_is_found() {
    assert!(is_found(Planted::NothingForgotten, 200, readers_and_reuse));
}
