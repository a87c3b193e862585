//! Images of pools, one of each released version of the format: each is opened, checked and compared with
//! what was in it, for ever.
//!
//! `vN.image` is the pool ([`image`] says how it is written down), `vN.listing` what it held when it was made.
//! An image is never made anew; that of a new version is made by [`make`], with the variable
//! `AMBERFS_MAKE_IMAGE` set to its name (`v2`).

mod image;
mod listing;
mod make;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use amberfs::btree::{Reader, Tree};
use amberfs::cache::NodeCache;
use amberfs::check::{Options, check};
use amberfs::device::Storage;
use amberfs::format::{
    Key, KeyKind, MemberRecord, Record, RootRecord, SLOT_SIZE, Seq, Superblock, VERSION,
};
use amberfs::fs::{Caller, Filesystem, FsOptions, NodeId, WriteFlags};
use amberfs::journal::{Journal, Position};
use amberfs::pool::Pool;

use make::open_options;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Versions of which there is an image.
fn versions() -> Vec<String> {
    let files = std::fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = files.filter_map(|name| Some(name.to_str()?.strip_suffix(".image")?.to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn assert_clean(storage: &Storage, when: &str) {
    let report = check(storage, &Options { data: true, files: true }, &mut |_| {}).unwrap();
    let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    assert!(report.is_clean(), "{when}:\n{}", problems.join("\n"));
    assert!(report.counts.verified_blocks > 0);
}

fn superblock(storage: &Storage) -> Superblock {
    let mut slot = vec![0; SLOT_SIZE];
    storage.superblock.read_at(0, &mut slot).unwrap();
    Superblock::decode(&slot).unwrap()
}

/// Bytes that name the kinds of the records in the journal.
fn kinds(storage: &Storage) -> Vec<u8> {
    let superblock = superblock(storage);
    let mut salt = [0; 16];
    salt.copy_from_slice(&superblock.seed[..16]);
    let tail = Position {
        offset: superblock.tail_offset,
        seq: Seq(superblock.tail_seq),
        chain: superblock.tail_chain,
    };
    let (_, records) = Journal::open(Arc::clone(&storage.journal), salt, 99, tail).unwrap();
    let mut kinds = Vec::new();
    for (seq, payload) in &records {
        Record::decode(payload).unwrap_or_else(|error| panic!("record {seq}: {error}"));
        kinds.push(payload[0]);
    }
    kinds
}

/// What the trees of an image hold, so that an image is known to be worth its place.
#[derive(Debug, Default)]
struct Inventory {
    keys: BTreeSet<u8>,
    members: BTreeSet<u8>,
    internal_nodes: bool,
}

impl Inventory {
    fn of(storage: &Storage) -> Inventory {
        let mut found = Inventory::default();
        let cache = NodeCache::new(Arc::clone(&storage.data), 1 << 20);
        let mut roots = vec![superblock(storage).root];
        while let Some(root) = roots.pop() {
            found.internal_nodes |= root.level > 0;
            let tree = Tree::stored(root.ptr, root.level, root.nodes);
            let each = &mut |key: Key, value: &[u8]| {
                found.keys.insert(key.kind());
                if key.is(KeyKind::Root) {
                    roots.push(RootRecord::decode(value).unwrap());
                } else if key.is(KeyKind::Member) {
                    found.members.insert(MemberRecord::decode(value).unwrap().kind as u8);
                }
                ControlFlow::Continue(())
            };
            Reader::new(&tree, &cache).range(Key::MIN, Key::MAX, each).unwrap();
        }
        found
    }
}

/// Uses a pool as one would: an old pool is as good as a new one.
fn use_it(pool: &Arc<Pool>) {
    for info in pool.volumes() {
        let Ok(volume) = pool.volume(&info.name) else { continue };
        let fs = Filesystem::new(volume, FsOptions::default()).unwrap();
        let caller = Caller::root();
        let (file, handle) =
            fs.create(&caller, NodeId::ROOT, b"of today", 0o644, libc::O_RDWR).unwrap();
        fs.write(file.node, handle, 0, &[7; 10_000], WriteFlags::default()).unwrap();
        fs.fsync(file.node, false).unwrap();
        fs.create_snapshot("today").unwrap();
    }
}

fn delete_everything(pool: &Arc<Pool>) {
    for info in pool.volumes() {
        for snapshot in pool.snapshots(info.id) {
            pool.delete_snapshot(info.id, &snapshot.name).unwrap();
        }
        if info.head.is_some() {
            pool.delete_volume(&info.name).unwrap();
        }
    }
    while pool.run_reclaim().unwrap() {}
}

fn open_check_and_use(version: &str) {
    let storage = image::read(&read(&format!("{version}.image")));
    assert_clean(&storage, "as it was made");
    let mut found = kinds(&storage);
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "records of every kind are replayed");

    let inventory = Inventory::of(&storage);
    let all = (1..=7).chain(32..=37).chain(64..=65);
    assert!(inventory.keys.iter().copied().eq(all), "{inventory:?}");
    assert!(inventory.members.iter().copied().eq(0..4), "{inventory:?}");
    assert!(inventory.internal_nodes, "{inventory:?}");

    let pool = Pool::open(storage.clone(), open_options(2)).unwrap();
    let listing = listing::list(&pool);
    assert_eq!(listing, read(&format!("{version}.listing")), "as it was when it was made");
    pool.close().unwrap();
    assert_clean(&storage, "after replay and a checkpoint");

    let pool = Pool::open(storage.clone(), open_options(3)).unwrap();
    assert_eq!(listing::list(&pool), listing, "after replay and a checkpoint");
    use_it(&pool);
    pool.abandon();
    assert_clean(&storage, "after use and a crash");

    let pool = Pool::open(storage.clone(), open_options(4)).unwrap();
    delete_everything(&pool);
    pool.close().unwrap();
    let report = check(&storage, &Options { data: true, files: true }, &mut |_| {}).unwrap();
    assert!(report.is_clean(), "after everything was deleted: {:?}", report.problems);
    assert_eq!((report.counts.members, report.counts.data_blocks), (0, 0));
}

#[test]
fn every_image_opens_and_is_what_it_was() {
    let versions = versions();
    assert!(versions.contains(&format!("v{VERSION}")), "there is no image of this version");
    versions.iter().for_each(|version| open_check_and_use(version));
}

#[test]
fn an_image_can_be_made() {
    let storage = Storage::memory();
    let pool = make::make(&storage);
    let listing = listing::list(&pool);
    pool.abandon();
    let text = image::write(
        &storage,
        "A pool of this version of the format, with records in its journal.",
    );
    assert!(text.len() < 200 << 10, "{} bytes are too many for an image", text.len());
    let again = Pool::open(image::read(&text), open_options(2)).unwrap();
    assert_eq!(listing::list(&again), listing);
    if let Some(name) = std::env::var_os("AMBERFS_MAKE_IMAGE") {
        let name = name.into_string().unwrap();
        assert!(!path(&format!("{name}.image")).exists(), "an image is never made anew");
        std::fs::write(path(&format!("{name}.image")), text).unwrap();
        std::fs::write(path(&format!("{name}.listing")), listing).unwrap();
    }
}
