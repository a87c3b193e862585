//! Unit tests of the map as a whole.

use super::*;
use crate::format::NODE_BLOCKS;

fn run(start: u64, len: u32) -> Run {
    Run::new(BlockNo(start), len)
}

/// Allocates data and commits it.
fn used(map: &mut SpaceMap, want: u32) -> Run {
    let run = map.allocate(Class::Data, want).unwrap();
    map.commit_in_flight(run);
    run
}

/// One checkpoint; returns its images.
fn checkpoint(map: &mut SpaceMap) -> Vec<(u32, RegionImage)> {
    let frozen = map.freeze();
    map.release(frozen.generation);
    frozen.images
}

#[test]
fn data_is_consecutive_and_nodes_lie_elsewhere() {
    let mut map = SpaceMap::new(10 * u64::from(REGION_BLOCKS));
    let mut end = 0;
    for _ in 0..1000 {
        let data = used(&mut map, 100);
        assert!(data.start.0 == end || data.start.0.is_multiple_of(u64::from(REGION_BLOCKS)));
        end = data.end();
        let node = map.allocate_node().unwrap();
        assert_eq!(region_of(node).0, 1);
    }
    assert_eq!(map.used_blocks(), 1000 * (100 + u64::from(NODE_BLOCKS)));
    map.verify();
}

#[test]
fn every_block_can_be_allocated() {
    let total = 2 * u64::from(REGION_BLOCKS) + 77;
    let mut map = SpaceMap::new(total);
    let mut got = 0;
    while let Some(run) = map.allocate(Class::Data, 1000) {
        got += u64::from(run.len_blocks);
        assert!(run.end() <= total);
    }
    assert_eq!((got, map.free_blocks(), map.in_flight_blocks()), (total, 0, total));
    assert_eq!(map.highest_used(), total);
    assert_eq!(map.allocate_node(), None);
    assert!(map.freeze().images.is_empty(), "nothing in flight is in an image");
    map.verify();
}

#[test]
fn the_longest_row_is_taken_when_none_is_long_enough() {
    let mut map = SpaceMap::new(u64::from(REGION_BLOCKS) * 3);
    for region in 0..3 {
        map.reserve(run(region * u64::from(REGION_BLOCKS), REGION_BLOCKS)).unwrap();
    }
    for (start, len) in [(5, 3), (40_000, 100), (70_000, 9)] {
        map.free(run(start, len)).unwrap();
    }
    checkpoint(&mut map);
    assert_eq!(map.allocate(Class::Data, 256), Some(run(40_000, 100)));
    assert_eq!(map.allocate(Class::Data, 256), Some(run(70_000, 9)));
    assert_eq!(map.allocate_node(), None, "they are no slot");
    assert_eq!(map.allocate(Class::Data, 2), Some(run(5, 2)));
    assert_eq!(map.allocate(Class::Data, 2), Some(run(7, 1)));
    assert_eq!(map.allocate(Class::Data, 2), None);
    map.verify();
}

#[test]
fn a_node_finds_its_blocks_among_pieces() {
    let regions = 8;
    let mut map = SpaceMap::new(u64::from(REGION_BLOCKS) * regions);
    for region in 0..regions {
        let start = region * u64::from(REGION_BLOCKS);
        map.reserve(run(start, REGION_BLOCKS)).unwrap();
        for at in (0..30_000).step_by(4) {
            map.free(run(start + at, 3)).unwrap();
        }
    }
    let spot = 6 * u64::from(REGION_BLOCKS) + 123; // behind three free ones
    map.free(run(spot, 1)).unwrap();
    checkpoint(&mut map);
    assert_eq!(map.allocate_node(), Some(BlockNo(spot - 3)));
    assert_eq!(map.allocate_node(), None, "seven blocks are a slot and scraps");
    map.verify();
}

#[test]
fn data_leaves_the_slots_that_are_kept_for_nodes() {
    let mut map = SpaceMap::new(10_000);
    map.set_node_reserve(400);
    let mut data = 0;
    while let Some(run) = map.allocate(Class::Data, 7) {
        map.commit_in_flight(run);
        data += run.len_blocks;
    }
    assert_eq!((data, map.free_blocks(), map.node_blocks()), (9600, 400, 400));
    for at in (0..9000).step_by(3) {
        map.free(run(at, 1)).unwrap();
    }
    checkpoint(&mut map);
    assert_eq!((map.free_blocks(), map.node_blocks()), (3400, 400));
    for _ in 0..2990 {
        let run = map.allocate(Class::Data, 256).unwrap();
        assert_eq!((run.start.0 % 3, run.len_blocks), (0, 1));
    }
    assert_eq!(map.node_blocks(), 400);
    for _ in 0..100 {
        map.allocate_node().unwrap();
    }
    assert_eq!(map.allocate_node(), None);
    assert_eq!((0..20).map_while(|_| map.allocate(Class::Data, 1)).count(), 10);
    map.verify();
}

#[test]
fn freed_blocks_come_back_after_the_release() {
    let mut map = SpaceMap::new(64);
    let a = used(&mut map, 64);
    map.free(run(a.start.0 + 8, 16)).unwrap();
    assert_eq!(map.free(run(a.start.0, 9)), Err(Error::NotInUse { run: run(0, 9) }));
    assert_eq!((map.used_blocks(), map.held_blocks()), (48, 16));
    assert_eq!(map.allocate(Class::Data, 1), None);
    let frozen = map.freeze();
    assert_eq!(map.held(frozen.generation), [run(8, 16)]);
    let image = &frozen.images[0].1;
    assert!(image.bitmap().all(8, 16, false) && image.used_blocks() == 48);
    assert_eq!(map.allocate(Class::Data, 1), None);
    map.release(frozen.generation);
    assert_eq!(map.allocate(Class::Data, 99), Some(run(8, 16)));
    map.verify();
}

#[test]
fn what_was_in_flight_at_the_freeze_is_in_the_next_images() {
    let mut map = SpaceMap::new(1000);
    let flying = map.allocate(Class::Data, 10).unwrap();
    let other = used(&mut map, 5);
    let first = checkpoint(&mut map);
    assert_eq!(first[0].1.used_blocks(), 5);
    map.commit_in_flight(run(flying.start.0, 4));
    map.abandon_in_flight(run(flying.start.0 + 4, 6));
    let second = checkpoint(&mut map);
    assert_eq!(second[0].1.used_blocks(), 9);
    assert!(second[0].1.bitmap().all(10, 5, true) && other.start.0 == 10);
    assert!(checkpoint(&mut map).is_empty(), "unchanged regions are not written again");
}

#[test]
fn what_was_freed_after_the_freeze_waits_for_the_next_one() {
    let mut map = SpaceMap::new(100);
    used(&mut map, 100);
    map.free(run(0, 10)).unwrap();
    let one = map.freeze();
    map.free(run(10, 10)).unwrap();
    map.free_in_checkpoint(one.generation, run(50, 4)).unwrap();
    let two = map.freeze();
    assert!(one.images[0].1.bitmap().all(10, 90, true));
    assert_eq!(two.images[0].1.used_blocks(), 76, "the checkpoint's own free counts as well");
    map.release(one.generation);
    assert_eq!((map.free_blocks(), map.held_blocks()), (14, 10));
    map.release(two.generation);
    assert_eq!((map.free_blocks(), map.held_blocks()), (24, 0));
    map.verify();
}

#[test]
fn a_checkpoint_puts_its_nodes_where_it_writes_images_anyway() {
    let mut map = SpaceMap::new(u64::from(REGION_BLOCKS) * 4);
    map.allocate_node().unwrap();
    map.index.set_holds_nodes(0, true);
    used(&mut map, 3);
    let frozen = map.freeze();
    let imaged: Vec<u32> = frozen.images.iter().map(|(region, _)| *region).collect();
    assert_eq!(imaged, [0, 1]);
    for _ in 0..100 {
        assert_eq!(region_of(map.allocate_node_in_checkpoint().unwrap()).0, 0);
    }
    assert!(map.freeze().images.is_empty(), "the caller patched the image");
}

#[test]
#[should_panic(expected = "not frozen")]
fn the_present_generation_is_never_released() {
    let mut map = SpaceMap::new(100);
    map.release(map.generation());
}

#[test]
#[should_panic(expected = "not InFlight")]
fn nothing_is_committed_twice() {
    let mut map = SpaceMap::new(100);
    let run = used(&mut map, 3);
    map.commit_in_flight(run);
}

#[test]
fn only_whole_chunks_are_punched_and_none_is_given_out_meanwhile() {
    let mut map = SpaceMap::new(1000);
    used(&mut map, 500);
    map.free(run(3, 90)).unwrap();
    map.free(run(480, 20)).unwrap();
    let frozen = map.freeze();
    map.free(run(100, 60)).unwrap();
    let chunks = map.punchable(frozen.generation);
    assert_eq!(chunks, [run(16, 64), run(480, 32)]);
    assert_eq!(map.held(frozen.generation), [run(3, 90), run(480, 32)]);
    assert_eq!(map.free_blocks(), 488, "the rest of the last chunk is withheld");
    let next = map.allocate(Class::Data, 488).unwrap();
    assert_eq!(next, run(512, 488));
    assert_eq!(map.allocate(Class::Data, 1), None);
    map.release(frozen.generation);
    assert_eq!(map.free_blocks(), 90 + 32);
    map.verify();
}

#[test]
fn the_last_chunk_may_be_short() {
    let mut map = SpaceMap::new(1000);
    used(&mut map, 1000);
    map.free(run(993, 7)).unwrap();
    let frozen = map.freeze();
    assert_eq!(map.punchable(frozen.generation), []);
    map.free(run(992, 1)).unwrap();
    let frozen = map.freeze();
    assert_eq!(map.punchable(frozen.generation), [run(992, 8)]);
    map.verify();
}

#[test]
fn grows_within_the_last_region_and_beyond() {
    let mut map = SpaceMap::new(100);
    used(&mut map, 100);
    assert_eq!(map.allocate_node(), None);
    map.grow(103);
    assert_eq!(map.allocate_node(), None);
    map.grow(104);
    assert_eq!(map.allocate_node(), Some(BlockNo(100)));
    map.grow(u64::from(REGION_BLOCKS) * 200 + 1);
    map.grow(5);
    assert_eq!(map.total_blocks(), u64::from(REGION_BLOCKS) * 200 + 1);
    assert_eq!(map.free_blocks() + 104, map.total_blocks());
    assert_eq!(map.allocate(Class::Data, 999_999).unwrap().len_blocks, REGION_BLOCKS);
    map.verify();
}

#[test]
fn refuses_images_that_do_not_fit() {
    let mut map = SpaceMap::new(u64::from(REGION_BLOCKS) + 10);
    let mut image = RegionImage::ALL_FREE;
    image.set(8, 2);
    map.load_region(1, &image).unwrap();
    assert_eq!(map.load_region(1, &image), Err(Error::BadImage { region: 1 }));
    assert_eq!(map.load_region(2, &image), Err(Error::BadImage { region: 2 }));
    let mut map = SpaceMap::new(u64::from(REGION_BLOCKS) + 9);
    assert_eq!(map.load_region(1, &image), Err(Error::BadImage { region: 1 }));
    map.load_region(0, &RegionImage::all_used(None)).unwrap();
    assert_eq!(map.used_blocks(), u64::from(REGION_BLOCKS));
    assert_eq!(map.reserve(run(32_760, 10)), Err(Error::InUse { run: run(32_760, 10) }));
    assert!(map.reserve(run(32_770, 8)).is_err(), "behind the end");
    map.reserve(run(32_770, 7)).unwrap();
    map.verify();
}

#[test]
fn lists_used_runs() {
    let mut map = SpaceMap::new(u64::from(REGION_BLOCKS) * 2);
    for part in [run(0, 1), run(60, 10), run(32_700, 100), run(64 * 1000, 64)] {
        map.reserve(part).unwrap();
    }
    map.allocate(Class::Data, 7).unwrap();
    let runs: Vec<Run> = map.iter_used().collect();
    let expected = [run(0, 1), run(60, 10), run(32_700, 68), run(32_768, 32), run(64_000, 64)];
    assert_eq!(runs, expected);
    assert!(map.is_used(run(32_700, 100)) && !map.is_used(run(0, 2)));
}
