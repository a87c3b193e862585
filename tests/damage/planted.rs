//! The comparisons must be able to fail.

use amberfs::device::DeviceName;

use crate::anatomy;
use crate::examine::{Hurt, Seen, check_finds, examine};
use crate::{BLOCK, at_rest, flipped, log};

/// Damage whose checksums and hashes were made right passes every
/// verification, as it would in a program that forgets one, and is found by comparing what is read.
#[test]
fn planted_damage_that_passes_verification_is_found() {
    log::start();
    let (image, model, anatomy) = at_rest();
    let (block, _) = anatomy.blocks.iter().next().expect("there is data");
    let mut wrong = flipped(&image, DeviceName::Data, block * BLOCK + 9);
    anatomy.bless(&mut wrong, *block);
    anatomy.repair(&mut wrong);
    let mut seen = Seen::default();
    let hurt = Hurt::by_blocks(&anatomy, [*block]);
    examine(&wrong, &model, &hurt, &mut seen).expect("it opens").abandon();
    assert!(seen.wrong.iter().any(|wrong| wrong.contains("wrong content")), "{:?}", seen.wrong);
    check_finds(&wrong, &hurt, &mut seen);
    assert!(seen.wrong.iter().any(|wrong| wrong.starts_with("check")), "{:?}", seen.wrong);

    // The size of an inode in a leaf of a snapshot.
    let leaf = anatomy.nodes.iter().find_map(|node| {
        let page = anatomy::page(&image, node.addr);
        let inode = amberfs::format::KeyKind::Inode;
        let of_files = matches!(node.places[0].tree, anatomy::In::Member(_)) && node.level == 0;
        let entries = anatomy::entries(&page).into_iter().filter(|_| of_files);
        let found = entries.into_iter().find(|(key, ..)| key.is(inode) && key.id() > 1);
        found.map(|(_, _, value)| (node.addr * BLOCK, value.start as u64))
    });
    let (page, value) = leaf.expect("there is an inode");
    let mut wrong = flipped(&image, DeviceName::Data, page + value + 9);
    anatomy.repair(&mut wrong);
    let mut seen = Seen::default();
    if let Some(pool) = examine(&wrong, &model, &Hurt::default(), &mut seen) {
        pool.abandon();
    }
    assert!(!seen.wrong.is_empty(), "a changed size was not noticed");

    // An error where nothing is damaged.
    let at = block * BLOCK + 9;
    let hurt = flipped(&image, DeviceName::Data, at);
    let mut seen = Seen::default();
    examine(&hurt, &model, &Hurt::default(), &mut seen).expect("it opens").abandon();
    assert!(
        seen.wrong.iter().any(|wrong| wrong.contains("input/output error")),
        "{:?}",
        seen.wrong
    );
}

/// A log that leaves out what it has to name is found, for a data block, for a node of a volume, and for a tree
/// of the pool's own.
#[test]
fn planted_lines_without_volume_snapshot_or_path_are_found() {
    log::start();
    let (image, model, anatomy) = at_rest();
    // Of a snapshot, as a head has no name of one; and no first leaf, without which nothing is mounted.
    let snapshots: Vec<u64> =
        model.iter().filter(|state| state.snapshot.is_some()).map(|state| state.member).collect();
    let mut blocks = anatomy.blocks.iter();
    let of_snapshot = blocks.find(|(_, uses)| uses.iter().any(|used| snapshots.contains(&used.0)));
    let block = *of_snapshot.expect("there is data").0;
    let mut nodes = anatomy.nodes.iter();
    let of_snapshot = nodes.find(|node| {
        let place = node.places[0];
        let inside = matches!(place.tree, anatomy::In::Member(it) if snapshots.contains(&it));
        inside && place.low.id() > 1
    });
    let node = of_snapshot.expect("there is one").addr;
    let found = |block: u64, lost: Option<&'static str>| {
        let hurt_image = flipped(&image, DeviceName::Data, block * BLOCK + 9);
        let hurt = Hurt::by_blocks(&anatomy, [block]);
        let mut seen = Seen::default();
        log::lose(lost);
        let pool = examine(&hurt_image, &model, &hurt, &mut seen);
        log::lose(None);
        if let Some(pool) = pool {
            pool.abandon();
        }
        seen.wrong.iter().any(|wrong| wrong.contains("the log does not name it"))
    };
    for block in [block, node] {
        assert!(!found(block, None), "it is whole");
        for lost in ["volume=", "path=", "snapshot="] {
            assert!(found(block, Some(lost)), "nobody misses {lost}");
        }
    }
}
