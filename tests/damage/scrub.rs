//! Scrubs of pools in use: everything is read once, damage is named in every state that has it, nothing that
//! is whole is called damaged, and a scrub that was stopped goes on where it was.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use amberfs::check::{Options, check};
use amberfs::device::{BlockDevice, DeviceName, Image, Storage};
use amberfs::fs::{Caller, NodeId, SetAttr, path_of_damage};
use amberfs::pool::{Pool, ScrubDamage, ScrubHooks, ScrubState};

use crate::anatomy::{Anatomy, In, Use};
use crate::examine::Hurt;
use crate::log;
use crate::patient::{Model, Patient, mount, open_options, write};
use crate::random::Random;
use crate::{BLOCK, at_rest, flipped};

fn scrubbed(image: &Image) -> ScrubState {
    log::start();
    log::clear();
    let pool = Pool::open(image.storage(), open_options()).expect("it opens");
    let state = pool.run_scrub(None, &unkept());
    pool.abandon();
    assert!(state.is_done() && !state.running);
    state
}

fn unkept() -> ScrubHooks {
    ScrubHooks { save: Box::new(|_| {}), path: path_of_damage }
}

/// Blocks of files that a scrub calls damaged.
fn uses(state: &ScrubState) -> HashSet<Use> {
    let blocks = state.damage.iter().filter_map(|piece| {
        let (first, len) = piece.blocks?;
        let member = piece.member?.0;
        Some((first..first + len).map(move |block| (member, piece.inode.0, block)))
    });
    blocks.flatten().collect()
}

#[test]
fn a_scrub_reads_everything_once_and_names_all_that_is_damaged() {
    let (image, model, anatomy) = at_rest();
    let clean = scrubbed(&image);
    assert!(clean.damage.is_empty(), "{:?}", clean.damage);
    let options = Options { data: true, ..Options::default() };
    let counts = check(&image.storage(), &options, &mut |_| {}).expect("it is a pool").counts;
    assert_eq!(clean.nodes, counts.nodes);
    // Parts of an extent that was cut are not read again; check does that.
    let blocks = anatomy.blocks.len() as u64..=counts.verified_blocks;
    assert!(blocks.contains(&clean.blocks), "{} of {blocks:?} blocks", clean.blocks);

    let named: HashSet<u64> = model.iter().map(|state| state.member).collect();
    for (block, users) in &anatomy.blocks {
        let state = scrubbed(&flipped(&image, DeviceName::Data, block * BLOCK + 33));
        let expected = users.iter().copied().filter(|(member, ..)| named.contains(member));
        assert_eq!(uses(&state), expected.collect(), "block {block}: {:?}", state.damage);
        names_what_it_hurts(&state, &model, &Hurt::by_blocks(&anatomy, [*block]));
    }
    let (mut paths, mut numbers) = (0, 0);
    for node in anatomy.nodes.iter().filter(|node| !opens_without(node)) {
        let state = scrubbed(&flipped(&image, DeviceName::Data, node.addr * BLOCK + 999));
        let found: BTreeSet<u64> =
            state.damage.iter().filter_map(|piece| Some(piece.member?.0)).collect();
        let trees = node.places.iter().filter_map(|place| match place.tree {
            In::Member(member) if named.contains(&member) => Some(member),
            _ => None,
        });
        assert_eq!(found, trees.collect(), "node at {}", node.addr);
        let known = names_what_it_hurts(&state, &model, &Hurt::by_blocks(&anatomy, [node.addr]));
        (paths, numbers) = (paths + known, numbers + state.damage.len() - known);
    }
    assert!(paths > numbers, "{paths} paths, {numbers} numbers");
}

/// The pool's own trees are of no volume: what is said is which of them it is.
#[test]
fn a_scrub_says_which_of_the_pools_own_trees_is_damaged() {
    let (image, _, anatomy) = at_rest();
    log::start();
    let mut found = [0, 0];
    for node in anatomy.nodes.iter().filter(|node| opens_without(node)) {
        let storage = image.storage();
        let pool = Pool::open(storage.clone(), open_options()).expect("it opens");
        let at = node.addr * BLOCK + 999;
        let mut byte = [0];
        storage.data.read_at(at, &mut byte).expect("it is there");
        storage.data.write_at(at, &[byte[0] ^ 1]).expect("memory takes it");
        log::clear();
        let state = pool.run_scrub(None, &unkept());
        pool.abandon();
        let catalog = node.places[0].tree == In::Catalog;
        let tree = if catalog { "the catalog" } else { "the checkpoint tree" };
        found[usize::from(catalog)] += 1;
        let [piece] = &state.damage[..] else { panic!("{:?}", state.damage) };
        assert_eq!((piece.member, &piece.path), (None, &None), "{piece:?}");
        assert!(piece.what.contains(tree), "{piece:?}");
        let said = log::so_far();
        assert!(said.contains("scrub: ") && said.contains(tree), "{said}");
    }
    assert!(found.iter().all(|found| *found > 0), "{found:?}");
}

/// Each piece of damage says volume, snapshot and a path of its inode, in the report and in the log; a number
/// only where nothing that is hurt has a name that can be read. Returns how many have a path.
fn names_what_it_hurts(found: &ScrubState, model: &Model, hurt: &Hurt) -> usize {
    let said = log::so_far();
    let has_path = |piece: &&ScrubDamage| {
        let member = piece.member.expect("it is in a volume").0;
        let state = model.iter().find(|state| state.member == member).expect("it is there");
        assert_eq!((&piece.volume_name, &piece.snapshot), (&state.volume, &state.snapshot));
        let path = piece.path.as_ref().expect("a path or a number");
        let line = said.lines().find(|line| {
            log::field(line, "volume") == Some(&state.volume)
                && log::field(line, "snapshot") == state.snapshot.as_deref()
                && log::field(line, "path") == Some(path)
        });
        assert!(line.is_some(), "{piece:?} is not in the log: {said}");
        if let Some(file) = state.files.get(path) {
            assert_eq!(file.ino, piece.inode.0, "{piece:?}");
            return true;
        }
        assert!(path.ends_with(&format!("(inode {})", piece.inode)), "{piece:?}");
        let findable = state.files.iter().find(|(_, file)| hurt.can_be_named(member, file));
        assert!(findable.is_none(), "{piece:?}, where {findable:?} is hurt and can be found");
        false
    };
    found.damage.iter().filter(has_path).count()
}

/// Whether a pool does not open without a node.
fn opens_without(node: &crate::anatomy::Node) -> bool {
    node.places.iter().any(|place| !matches!(place.tree, In::Member(_)))
}

/// The comparison must be able to fail: a scrub that does not see damage, here because its checksum was made
/// right, finds less than there is.
#[test]
fn planted_damage_that_a_scrub_does_not_see_is_missed() {
    let (image, _, anatomy) = at_rest();
    let (block, users) = anatomy.blocks.iter().next().expect("there is data");
    let mut wrong = flipped(&image, DeviceName::Data, block * BLOCK + 33);
    anatomy.bless(&mut wrong, *block);
    anatomy.repair(&mut wrong);
    assert_ne!(uses(&scrubbed(&wrong)), users.iter().copied().collect());
}

#[test]
fn a_scrub_that_was_stopped_goes_on_where_it_was() {
    let (_, image, _) = crate::patient::large(5);
    let whole = scrubbed(&image);
    assert!(whole.blocks > 1000, "{} blocks take several steps", whole.blocks);
    let anatomy = Anatomy::of(&image);
    let block = *anatomy.blocks.keys().nth(700).expect("there are more");
    let hurt = flipped(&image, DeviceName::Data, block * BLOCK);
    let (mut kept, mut stops) = (None, 0);
    let last = loop {
        let pool = Pool::open(hurt.storage(), open_options()).expect("it opens");
        pool.start_scrub(kept.take(), unkept()).expect("it starts");
        // At first at once, and later each time: however fast the machine is, it is stopped, and comes to an end.
        std::thread::sleep(Duration::from_micros(50 * stops));
        pool.cancel_scrub();
        let state = pool.scrub_state();
        pool.abandon();
        assert!(!state.running);
        if state.is_done() {
            break state;
        }
        kept = Some(state);
        stops += 1;
        assert!(stops < 1000, "it does not come to an end");
    };
    assert!(stops > 0, "it was never stopped");
    assert_eq!(last.blocks, whole.blocks);
    let users: HashSet<Use> = anatomy.blocks[&block].iter().copied().collect();
    assert_eq!(uses(&last), users);
}

/// A device that is slow to read, and counts how long it was read.
#[derive(Debug)]
struct Slow {
    below: Arc<dyn BlockDevice>,
    busy_us: AtomicU64,
}

impl BlockDevice for Slow {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let begun = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        let read = self.below.read_at(offset, buf);
        self.busy_us.fetch_add(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        read
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.below.write_at(offset, bytes)
    }
    fn sync(&self) -> std::io::Result<()> {
        self.below.sync()
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> std::io::Result<()> {
        self.below.punch(offset, len_bytes)
    }
    fn len_bytes(&self) -> std::io::Result<u64> {
        self.below.len_bytes()
    }
    fn grow(&self, len_bytes: u64) -> std::io::Result<()> {
        self.below.grow(len_bytes)
    }
    fn available_bytes(&self) -> std::io::Result<u64> {
        self.below.available_bytes()
    }
}

/// A scrub in the background verifies no more bytes in a second than half of what the device gives, and one that
/// nobody else waits for as many as it can.
#[test]
fn a_scrub_in_the_background_takes_half_of_the_device() {
    let (_, image, _) = crate::patient::large(5);
    // Bytes verified in a second, as a part of those that the device gave while it was read.
    let share = |background: bool| {
        let storage = image.storage();
        let slow = Arc::new(Slow { below: Arc::clone(&storage.data), busy_us: AtomicU64::new(0) });
        let data = Arc::<Slow>::clone(&slow);
        let pool = Pool::open(Storage { data, ..storage }, open_options()).expect("it opens");
        slow.busy_us.store(0, Ordering::Relaxed);
        let begun = Instant::now();
        if background {
            pool.start_scrub(None, unkept()).expect("it starts");
            while pool.scrub_state().running {
                assert!(begun.elapsed().as_secs() < 60, "{:?}", pool.scrub_state().position);
                std::thread::sleep(Duration::from_millis(1));
            }
        } else {
            pool.run_scrub(None, &unkept());
        }
        let took = begun.elapsed();
        let state = pool.scrub_state();
        pool.abandon();
        assert!(state.is_done() && state.damage.is_empty());
        let (bytes, busy_us) = (state.done_bytes() as f64, slow.busy_us.load(Ordering::Relaxed));
        let (verified, given) = (bytes / took.as_secs_f64(), bytes / (busy_us as f64 / 1e6));
        println!("background {background}: {verified:.0} bytes in a second, the device {given:.0}");
        verified / given
    };
    let (alone, beside) = (share(false), share(true));
    assert!(beside < 0.6, "it takes {beside:.2} of the device");
    assert!(alone > 1.3 * beside, "it rests where nobody waits: {alone:.2}, {beside:.2}");
}

/// Files are written, cut and deleted, snapshots made and deleted, blocks freed and given out again.
#[test]
fn a_scrub_of_a_pool_in_use_finds_nothing_wrong() {
    let patient = Patient::new(48 << 20, 1 << 20);
    drop(patient.volume("main"));
    let pool = Arc::clone(&patient.pool);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let fs = mount(&pool, "main", None).expect("it mounts");
            let root = Caller::root();
            let mut random = Random::new(9);
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("f{}", random.below(30));
                let len = 1 + random.below(200_000);
                let node = write(&fs, NodeId::ROOT, &name, 0, &random.bytes(len));
                match random.below(8) {
                    0 => drop(fs.unlink(&root, NodeId::ROOT, name.as_bytes())),
                    1 => {
                        let set = SetAttr { size: Some(5000), ..SetAttr::default() };
                        drop(fs.setattr(&root, node, &set));
                    }
                    2 => drop(fs.create_snapshot(&format!("s{round}"))),
                    3 => {
                        let all = pool.snapshots(fs.volume().id());
                        if all.len() > 4 {
                            drop(pool.delete_snapshot(fs.volume().id(), &all[0].name));
                        }
                    }
                    _ => {}
                }
                fs.forget_all();
                if round % 5 == 0 {
                    pool.checkpoint().expect("a checkpoint");
                    while pool.run_reclaim().expect("reclaimed") {}
                }
            }
        });
        for _ in 0..12 {
            pool.start_scrub(None, unkept()).expect("it starts");
            let begun = Instant::now();
            while pool.scrub_state().running {
                assert!(begun.elapsed().as_secs() < 60, "{:?}", pool.scrub_state().position);
                std::thread::sleep(Duration::from_millis(2));
            }
            let state = pool.scrub_state();
            if !state.damage.is_empty() {
                stop.store(true, Ordering::Relaxed);
            }
            assert!(state.damage.is_empty(), "{:?}", state.damage);
        }
        stop.store(true, Ordering::Relaxed);
    });
    patient.pool.close().expect("it closes");
}
