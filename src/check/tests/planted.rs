//! For each invariant a pool in which it does not hold, and nothing else was changed.

use super::surgery::{Cut, In, operate, write_superblock};
use super::*;
use std::collections::BTreeSet;

use crate::format::{
    INTERNAL_ENTRY, Inode, InodeFlags, LEAF_ENTRY, MemberKind, NODE_HEADER, NODE_SIZE, RegionImage,
};

/// A pool at rest that has some of everything.
fn patient() -> Storage {
    let world = World::new();
    let main = world.volume("main");
    let other = world.volume("other");
    let root = Caller::root();
    let dir = main.dir(ROOT, "dir");
    main.dir(dir, "below");
    for n in 0..200 {
        main.write(dir, &format!("file {n}"), 0, &vec![n as u8; 1500]);
    }
    let big = main.write(ROOT, "big", 0, &blocks(3, 8));
    main.fs.fallocate(big, 1 << 20, 8192, 1).unwrap();
    main.write(ROOT, "odd", 0, &vec![5; 4096 * 2 + 100]);
    main.write(ROOT, "small", 0, b"some text");
    main.fs.symlink(&root, ROOT, b"link", b"small").unwrap();
    main.fs.setxattr(&root, big, b"user.note", b"value", 0, false).unwrap();
    main.fs.setxattr(&root, big, b"user.long", &[7; 9000], 0, false).unwrap();
    other.write(ROOT, "file", 0, &blocks(9, 5));
    for name in ["one", "two", "three"] {
        main.snapshot(name);
        main.write(ROOT, "big", 4096, &blocks(name.len() as u8, 3));
        main.write(dir, "file 7", 0, name.as_bytes());
        world.pool.checkpoint().unwrap();
    }
    let one = world.pool.snapshot(main.volume.id(), "one").unwrap();
    drop(world.pool.clone_volume(one.member, "clone").unwrap());
    let copy = main.write(ROOT, "copy", 0, b"");
    main.fs.copy_file_range(big, 0, copy, 0, 8 * 4096).unwrap();
    world.pool.close().unwrap();
    assert!(report_of(&world.storage).is_clean());
    world.storage
}

/// Cuts, and expects the check to name the invariant.
fn plant(invariant: &str, knife: &mut dyn FnMut(&mut Cut<'_>) -> bool) {
    let storage = patient();
    operate(&storage, knife);
    expect(&storage, invariant);
}

fn expect(storage: &Storage, invariant: &str) {
    let report = report_of(storage);
    assert!(report.has(invariant), "{invariant} is not in {:#?}", report.problems);
}

fn add(field: &mut [u8], amount: i64) {
    let raw: [u8; 8] = field[..8].try_into().unwrap();
    field[..8].copy_from_slice(&i64::from_le_bytes(raw).wrapping_add(amount).to_le_bytes());
}

fn is_head(tree: In) -> bool {
    matches!(tree, In::Member(_))
}

/// Changes the first value of a kind in the catalog that `change` takes.
fn plant_in_catalog(invariant: &str, kind: KeyKind, change: impl Fn(&mut [u8]) -> bool) {
    plant(invariant, &mut |cut| {
        let found = cut.entries().into_iter().filter(|(key, ..)| key.is(kind));
        cut.tree == In::Catalog
            && found.into_iter().any(|(_, _, at)| {
                let mut value = cut.page[at.clone()].to_vec();
                let done = change(&mut value);
                if done {
                    cut.page[at].copy_from_slice(&value);
                }
                done
            })
    });
}

/// Changes the first inode that `change` takes, in the tree that it comes up in first.
fn plant_in_inode(invariant: &str, change: impl Fn(u64, &mut Inode) -> bool) {
    plant(invariant, &mut |cut| {
        let found = cut.entries().into_iter().filter(|(key, ..)| key.is(KeyKind::Inode));
        is_head(cut.tree)
            && found.into_iter().any(|(key, _, at)| {
                let mut inode = Inode::decode(&cut.page[at.clone()]).unwrap();
                let done = change(key.id(), &mut inode);
                if done {
                    cut.page[at].copy_from_slice(&inode.to_bytes());
                }
                done
            })
    });
}

#[test]
fn p1_a_pool_that_does_not_open() {
    plant("P1", &mut |cut| {
        let entries = cut.entries();
        let root = entries.iter().rev().find(|(key, ..)| key.is(KeyKind::Root));
        match (cut.tree, root) {
            (In::Checkpoint, Some((key, at, _))) => {
                cut.set_key(*at, Key(key.0 + 5));
                true
            }
            _ => false,
        }
    });
}

#[test]
fn one_lost_superblock_slot_is_counted_and_no_problem() {
    for offset in SLOT_OFFSETS {
        let storage = patient();
        storage.superblock.write_at(offset + 9, b"x").unwrap();
        let report = report_of(&storage);
        assert!(report.is_clean());
        assert_eq!(report.counts.superblock_slots, 1);
    }
}

#[test]
fn p2_a_block_in_use_that_is_free_in_the_map_and_the_other_way_round() {
    for used in [false, true] {
        plant("P2", &mut |cut| {
            if cut.tree != In::Checkpoint {
                return false;
            }
            let Some(value) = cut.value(|key| key.is(KeyKind::Region)) else { return false };
            let mut image = RegionImage::decode(value).unwrap();
            let block = (0..).find(|at| image.bitmap().all(*at, 1, used)).unwrap();
            if used {
                image.clear(block, 1)
            } else {
                image.set(block, 1)
            };
            value.copy_from_slice(&image.to_bytes());
            true
        });
    }
}

#[test]
fn p3_two_references_to_a_block_that_is_counted_once() {
    plant("P3", &mut |cut| {
        let found = cut.entries().into_iter().filter(|(key, ..)| key.is(KeyKind::Extent));
        let extents: Vec<_> = found.map(|(_, _, at)| at).collect();
        if !is_head(cut.tree) || extents.len() < 2 {
            return false;
        }
        let address = cut.page[extents[0].start..][..8].to_vec();
        cut.page[extents[1].start..][..8].copy_from_slice(&address);
        true
    });
}

#[test]
fn p3_a_shared_count_that_is_too_high() {
    plant_in_catalog("P3", KeyKind::Shared, |record| {
        record[4] += 1;
        true
    });
}

#[test]
fn t1_a_page_that_is_not_what_its_parent_says() {
    let storage = patient();
    let root = pool::read_superblock(&*storage.superblock).unwrap().root;
    let mut byte = [0];
    let at = root.ptr.addr.offset_bytes() + 5000;
    storage.data.read_at(at, &mut byte).unwrap();
    storage.data.write_at(at, &[byte[0] ^ 1]).unwrap();
    expect(&storage, "T1");
}

#[test]
fn t1_a_node_that_says_it_is_elsewhere() {
    plant("T1", &mut |cut| {
        add(&mut cut.page[8..], 4);
        is_head(cut.tree)
    });
}

#[test]
fn t2_keys_in_the_wrong_order_and_out_of_their_range() {
    plant("T2", &mut |cut| {
        let entries = cut.entries();
        if !is_head(cut.tree) || entries.len() < 2 {
            return false;
        }
        cut.set_key(entries[1].1, entries[0].0);
        true
    });
    plant("T2", &mut |cut| {
        // The first leaf's range begins with the smallest key: any other will do.
        let entries = cut.entries();
        if !is_head(cut.tree) || cut.is_root || entries[0].0.id() < 3 {
            return false;
        }
        cut.set_key(entries[0].1, Key::MIN);
        true
    });
}

#[test]
fn t3_a_node_at_another_level() {
    plant("T3", &mut |cut| {
        cut.page[4] += 1;
        is_head(cut.tree) && cut.level() == 2
    });
}

#[test]
fn t4_a_child_younger_than_its_parent() {
    plant("T4", &mut |cut| {
        if !is_head(cut.tree) || cut.level() == 0 {
            return false;
        }
        add(&mut cut.page[NODE_HEADER + 24..], 1000);
        true
    });
}

#[test]
fn t5_an_empty_leaf() {
    plant("T5", &mut |cut| {
        if !is_head(cut.tree) || cut.is_root || cut.level() > 0 {
            return false;
        }
        cut.page[6..8].fill(0);
        let heap = u16::from_le_bytes(cut.page[24..26].try_into().unwrap());
        cut.page[26..28].copy_from_slice(&(NODE_SIZE as u16 - heap).to_le_bytes());
        true
    });
    assert_eq!((LEAF_ENTRY, INTERNAL_ENTRY), (20, 64), "the offsets above rest on these");
}

/// Adds one to the field of a member's root record that begins at `at`.
fn plant_in_root(invariant: &str, at: usize) {
    plant(invariant, &mut |cut| {
        let root = cut.entries().into_iter().rev().find(|(key, ..)| key.is(KeyKind::Root));
        match (cut.tree, root) {
            (In::Checkpoint, Some((_, _, value))) => {
                add(&mut cut.page[value.start + at..], 1);
                true
            }
            _ => false,
        }
    });
}

#[test]
fn t6_a_wrong_number_of_nodes() {
    plant_in_root("T6", 49);
}

#[test]
fn e3_a_wrong_number_of_data_blocks() {
    plant_in_root("E3", 57);
}

#[test]
fn e1_extents_that_overlap() {
    plant("E1", &mut |cut| {
        let entries = cut.entries();
        let pair = entries.windows(2).find(|pair| {
            pair.iter().all(|(key, ..)| key.is(KeyKind::Extent))
                && pair[0].0.id() == pair[1].0.id()
                && pair[0].0.sub() + 1 < pair[1].0.sub()
                && cut.page[pair[0].2.start + 16] as u64 + pair[0].0.sub() == pair[1].0.sub()
        });
        match (is_head(cut.tree), pair) {
            (true, Some(pair)) => {
                cut.set_key(pair[1].1, Key(pair[1].0.0 - 1));
                true
            }
            _ => false,
        }
    });
}

#[test]
fn e2_an_inode_that_counts_wrongly() {
    plant_in_inode("E2", |_, inode| {
        inode.blocks += 1;
        true
    });
}

#[test]
fn l1_a_parent_that_does_not_exist_and_one_that_is_younger() {
    plant_in_catalog("L1", KeyKind::Member, |record| {
        let has_parent = record[9] != 0;
        record[9] = 200;
        has_parent
    });
    plant_in_catalog("L1", KeyKind::Member, |record| {
        let is_snapshot = record[8] == MemberKind::Snapshot as u8;
        add(&mut record[17..], if is_snapshot { 1000 } else { 0 });
        is_snapshot
    });
}

#[test]
fn l2_a_deadlist_that_lacks_a_reference() {
    plant_in_catalog("L2", KeyKind::Chunk, |chunk| {
        add(&mut chunk[8..], 1);
        true
    });
}

#[test]
fn l3_a_reference_in_a_bucket_of_another_epoch() {
    plant_in_catalog("L3", KeyKind::Chunk, |chunk| {
        add(&mut chunk[20..], 100);
        true
    });
}

#[test]
fn l4_a_bucket_with_a_wrong_sum_and_one_with_a_wrong_end() {
    for at in [16, 8, 0] {
        plant_in_catalog("L4", KeyKind::Bucket, |chain| {
            add(&mut chain[at..], 1);
            true
        });
    }
}

#[test]
fn l5_a_chunk_that_nobody_has_and_a_deadlist_that_nobody_has() {
    plant_in_catalog("L5", KeyKind::Bucket, |chain| {
        chain.fill(0);
        true
    });
    plant_in_catalog("L5", KeyKind::Member, |record| {
        let has_parent = record[9] != 0;
        add(&mut record[25..], 100);
        has_parent
    });
}

#[test]
fn l6_a_deleted_member_with_one_child() {
    plant_in_catalog("L6", KeyKind::Member, |record| {
        let is_snapshot = record[8] == MemberKind::Snapshot as u8 && record[9] != 0;
        record[8] = MemberKind::Zombie as u8;
        is_snapshot
    });
}

#[test]
fn c1_keys_of_no_kind_and_records_that_do_not_decode() {
    for tree in [In::Checkpoint, In::Catalog] {
        plant("C1", &mut |cut| {
            let Some((key, at, _)) = cut.entries().pop() else { return false };
            if cut.tree != tree {
                return false;
            }
            cut.set_key(at, Key(key.0 | 0xff << 56));
            true
        });
    }
    plant_in_catalog("C1", KeyKind::Shared, |record| {
        record.fill(0);
        true
    });
}

#[test]
fn c2_numbers_that_are_given_out_again() {
    for field in 0..3 {
        let storage = patient();
        let mut superblock = pool::read_superblock(&*storage.superblock).unwrap();
        match field {
            0 => superblock.next_member = 2,
            1 => superblock.next_volume = 2,
            _ => superblock.next_object = 17,
        }
        write_superblock(&storage, &superblock);
        expect(&storage, "C2");
    }
}

#[test]
fn c3_a_volume_whose_head_is_another_s() {
    plant_in_catalog("C3", KeyKind::Volume, |record| {
        add(record, 1);
        true
    });
}

/// Kind, number and name of a member's record.
fn is_snapshot_named(record: &[u8], name: &str) -> bool {
    record[8] == MemberKind::Snapshot as u8 && record.ends_with(name.as_bytes())
}

#[test]
fn c3_snapshots_without_a_volume_and_with_another_s_name_or_number() {
    plant_in_catalog("C3", KeyKind::Member, |record| {
        let snapshot = is_snapshot_named(record, "two");
        add(record, if snapshot { 100 } else { 0 });
        snapshot
    });
    plant_in_catalog("C3", KeyKind::Member, |record| {
        let snapshot = is_snapshot_named(record, "two");
        if snapshot {
            let at = record.len() - 3;
            record[at..].copy_from_slice(b"one");
        }
        snapshot
    });
    plant_in_catalog("C3", KeyKind::Member, |record| {
        let snapshot = is_snapshot_named(record, "two");
        record[33] -= u8::from(snapshot);
        snapshot
    });
}

#[test]
fn d1_a_data_block_with_a_flipped_bit() {
    let storage = patient();
    let mut addr = None;
    operate(&storage, &mut |cut| {
        let extent = cut.value(|key| key.is(KeyKind::Extent));
        addr = extent.map(|extent| u64::from_le_bytes(extent[..8].try_into().unwrap()));
        addr.is_some()
    });
    let at = addr.unwrap() * BLOCK_SIZE as u64 + 17;
    let mut byte = [0];
    storage.data.read_at(at, &mut byte).unwrap();
    storage.data.write_at(at, &[byte[0] ^ 8]).unwrap();
    expect(&storage, "D1");
    assert!(check(&storage, &Options::default(), &mut |_| {}).unwrap().is_clean());
}

/// Changes a directory entry; it begins with slot, type, length of the name, inode, name.
fn plant_in_dirent(invariant: &str, change: impl Fn(&mut [u8])) {
    plant(invariant, &mut |cut| {
        let tree = cut.tree;
        let found = cut.value(|key| key.is(KeyKind::Dirent));
        is_head(tree) && found.map(&change).is_some()
    });
}

#[test]
fn f0_a_name_in_the_wrong_place_and_records_of_no_kind() {
    plant_in_dirent("F0", |entry| entry[11] ^= 1);
    plant_in_dirent("F0", |entry| entry[2] = 0);
    plant("F0", &mut |cut| {
        let found = cut.entries().into_iter().rev().find(|(key, ..)| key.is(KeyKind::Extent));
        match (is_head(cut.tree), found) {
            (true, Some((key, at, _))) => {
                cut.set_key(at, Key(key.0 | 0x80 << 56));
                true
            }
            _ => false,
        }
    });
    plant("F0", &mut |cut| {
        let tree = cut.tree;
        let found = cut.value(|key| key.is(KeyKind::Xattr));
        is_head(tree) && found.map(|chain| chain[8] ^= 1).is_some()
    });
}

#[test]
fn f1_a_name_that_leads_nowhere_and_one_of_another_type() {
    plant_in_dirent("F1", |entry| add(&mut entry[3..], 100_000));
    plant_in_dirent("F1", |entry| entry[1] = 12);
}

#[test]
fn f2_links_that_are_not_names() {
    plant_in_inode("F2", |_, inode| {
        inode.nlink += u32::from(!inode.is_dir());
        !inode.is_dir()
    });
    plant_in_inode("F2", |_, inode| {
        inode.nlink += 1;
        inode.is_dir()
    });
}

#[test]
fn f3_a_size_that_is_not_the_entries_and_a_parent_that_is_not() {
    plant_in_inode("F3", |_, inode| {
        inode.size += u64::from(inode.is_dir());
        inode.is_dir()
    });
    plant_in_inode("F3", |ino, inode| {
        let below = inode.is_dir() && ino > 1;
        inode.parent.0 += u64::from(below);
        below
    });
}

#[test]
fn f3_directories_in_a_circle() {
    // Two directories that name each other would need two changes; one that is its own parent, one.
    plant_in_inode("F3", |ino, inode| {
        let below = inode.is_dir() && ino > 1;
        if below {
            inode.parent.0 = ino;
        }
        below
    });
}

#[test]
fn f4_an_inode_without_a_name_and_without_a_record_of_it() {
    plant_in_inode("F4", |_, inode| {
        let file = !inode.is_dir();
        inode.nlink *= u32::from(!file);
        file
    });
}

#[test]
fn f5_bytes_behind_the_end() {
    let storage = patient();
    let device = Arc::clone(&storage.data);
    operate(&storage, &mut |cut| {
        // The last block of `odd`, 100 bytes of which are the file's.
        let found = cut.entries().into_iter().find(|(key, _, value)| {
            key.is(KeyKind::Extent) && key.sub() == 0 && cut.page[value.start + 16] == 3
        });
        let Some((_, _, value)) = found.filter(|_| is_head(cut.tree)) else { return false };
        let addr = u64::from_le_bytes(cut.page[value.start..][..8].try_into().unwrap()) + 2;
        let mut block = vec![0; BLOCK_SIZE];
        device.read_at(addr * BLOCK_SIZE as u64, &mut block).unwrap();
        block[200] = 1;
        device.write_at(addr * BLOCK_SIZE as u64, &block).unwrap();
        let sum = crc32c::crc32c(&block).to_le_bytes();
        cut.page[value.start + 24 + 8..][..4].copy_from_slice(&sum);
        true
    });
    expect(&storage, "F5");
}

#[test]
fn f6_data_behind_the_end() {
    plant_in_inode("F6", |_, inode| {
        let file = inode.blocks > 2 && !inode.is_dir();
        inode.size -= if file { 8192 } else { 0 };
        file
    });
}

#[test]
fn f7_content_of_another_length() {
    plant_in_inode("F7", |_, inode| {
        let small = inode.flags.has(InodeFlags::INLINE);
        inode.size += u64::from(small);
        small
    });
    plant_in_inode("F7", |_, inode| {
        let small = inode.flags.has(InodeFlags::INLINE);
        inode.flags.set(InodeFlags::INLINE, false);
        small
    });
}

#[test]
fn f8_flags_of_attributes_that_are_not_there() {
    plant_in_inode("F8", |_, inode| {
        inode.flags.set(InodeFlags::ACCESS_ACL, true);
        true
    });
    plant_in_inode("F8", |_, inode| {
        let has = inode.flags.has(InodeFlags::XATTRS);
        inode.flags.set(InodeFlags::XATTRS, false);
        has
    });
}

/// Numbers such as `T3`, and ranges of them such as `T1-T6`, in a text.
fn invariants(text: &str) -> BTreeSet<String> {
    let number = |word: &str| -> Option<(char, u8)> {
        let (letter, digit) = (word.chars().next()?, word.chars().nth(1)?);
        let right = word.len() == 2 && letter.is_ascii_uppercase() && digit.is_ascii_digit();
        right.then_some((letter, digit as u8 - b'0'))
    };
    let mut found = BTreeSet::new();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    for word in words {
        let ends: Vec<_> = word.split('-').map(number).collect();
        match ends.as_slice() {
            [Some((letter, from)), Some((_, to))] => {
                found.extend((*from..=*to).map(|digit| format!("{letter}{digit}")));
            }
            [Some((letter, digit))] => drop(found.insert(format!("{letter}{digit}"))),
            _ => {}
        }
    }
    found
}

/// The documents, what the check cites, and what is planted here are the same invariants.
#[test]
fn every_invariant_that_there_is_is_planted() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let table = page.split("## Invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented = invariants(table);
    assert_eq!(documented.len(), 31, "{documented:?}");
    let head = include_str!("../mod.rs").split("# Invariants").nth(1).unwrap();
    let head = head.split("//! Memory").next().unwrap();
    assert_eq!(invariants(head), documented, "the head of check");

    let mut cited = BTreeSet::new();
    for file in std::fs::read_dir(root.join("src/check")).unwrap() {
        let path = file.unwrap().path();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let strings = text.split('"').skip(1).step_by(2).filter(|word| word.len() == 2);
        cited.extend(strings.flat_map(invariants));
    }
    assert_eq!(cited, documented, "what the check cites");

    let planted: BTreeSet<String> = include_str!("planted.rs")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("fn ")?.get(..3)?.to_uppercase()))
        .filter_map(|name| name.strip_suffix('_').map(str::to_owned))
        .filter(|name| documented.contains(name))
        .collect();
    assert_eq!(planted, documented, "what is planted");
}
