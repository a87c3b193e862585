//! Renaming, in every combination.

use super::*;

const NOREPLACE: u32 = libc::RENAME_NOREPLACE;
const EXCHANGE: u32 = libc::RENAME_EXCHANGE;
const WHITEOUT: u32 = libc::RENAME_WHITEOUT;

fn world() -> World {
    let world = World::new();
    for dir in ["d", "d/full", "e", "empty"] {
        world.mkdir(dir).unwrap();
    }
    for file in ["a", "b", "d/f", "d/full/x"] {
        world.put(file, file.as_bytes());
    }
    world
}

fn links(world: &World, path: &str) -> u32 {
    world.at(path).attr.nlink
}

#[test]
fn a_file_moves_and_replaces() {
    let world = world();
    let before = world.at("a").attr;
    world.rename("a", "c", 0).unwrap();
    assert_eq!(world.find("a"), Err(Error::NotFound));
    let after = world.at("c").attr;
    assert!(after.ctime > before.ctime && after.mtime == before.mtime && after.ino == before.ino);
    let replaced = world.at("b").node;
    world.rename("c", "d/f", 0).unwrap();
    world.rename("d/f", "b", 0).unwrap();
    assert_eq!(world.read("b"), b"a");
    assert_eq!(world.fs.getattr(replaced).unwrap().nlink, 0);
    assert_eq!(world.names("d"), ["full"]);
    assert_eq!(world.names("/"), ["b", "d", "e", "empty"]);
    let world = world.crash();
    assert_eq!(world.read("b"), b"a");
}

#[test]
fn a_directory_moves_with_its_parent_and_its_count() {
    let world = world();
    assert_eq!((links(&world, "/"), links(&world, "d"), links(&world, "e")), (5, 3, 2));
    world.rename("d/full", "e/moved", 0).unwrap();
    assert_eq!((links(&world, "/"), links(&world, "d"), links(&world, "e")), (5, 2, 3));
    let up = world.fs.lookup(&world.root, world.at("e/moved").node, b"..").unwrap();
    assert_eq!(up.node, world.at("e").node);
    world.rename("e/moved", "empty", 0).unwrap();
    assert_eq!((links(&world, "/"), links(&world, "e")), (5, 2));
    assert_eq!(world.names("empty"), ["x"]);
}

#[test]
fn what_may_not_replace_what() {
    let world = world();
    assert_eq!(world.rename("a", "e", 0), Err(Error::IsDirectory));
    assert_eq!(world.rename("e", "a", 0), Err(Error::NotDirectory));
    assert_eq!(world.rename("e", "d", 0), Err(Error::NotEmpty));
    assert_eq!(world.rename("nothing", "a", 0), Err(Error::NotFound));
    assert_eq!(world.rename("a", "b", NOREPLACE), Err(Error::Exists));
    world.rename("a", "new", NOREPLACE).unwrap();
    for flags in [NOREPLACE | EXCHANGE, EXCHANGE | WHITEOUT, 1 << 5] {
        assert_eq!(world.rename("b", "new", flags), Err(Error::Invalid));
    }
    assert_eq!(world.rename("b", "nothing", EXCHANGE), Err(Error::NotFound));
    assert_eq!(world.rename("b", ".snapshots", 0), Err(Error::Exists));
    assert_eq!(world.rename(".snapshots", "z", 0), Err(Error::NotPermitted));
    assert_eq!(world.rename("b", ".", 0), Err(Error::Busy));
    assert_eq!(world.rename("b", "b/x", 0), Err(Error::NotDirectory));
}

#[test]
fn a_directory_does_not_go_into_itself() {
    let world = world();
    world.mkdir("d/full/deep").unwrap();
    for (from, to) in
        [("d", "d/x"), ("d", "d/full/x"), ("d", "d/full/deep/x"), ("d/full", "d/full/x")]
    {
        assert_eq!(world.rename(from, to, 0), Err(Error::Invalid), "{from} to {to}");
    }
    assert_eq!(world.rename("d", "d/full/deep", EXCHANGE), Err(Error::Invalid));
    assert_eq!(world.rename("d/full/deep", "d", EXCHANGE), Err(Error::Invalid));
    assert_eq!(world.rename("d/full/deep", "d", 0), Err(Error::NotEmpty));
}

#[test]
fn two_names_of_one_file_stay_both() {
    let world = world();
    let node = world.at("a").node;
    world.fs.link(node, ROOT, b"a2").unwrap();
    let before = world.at("a").attr;
    world.rename("a", "a2", 0).unwrap();
    world.rename("a", "a", 0).unwrap();
    world.rename("a", "a2", EXCHANGE).unwrap();
    assert_eq!(world.at("a").attr, before);
    assert_eq!(world.names("/"), ["a", "a2", "b", "d", "e", "empty"]);
}

#[test]
fn an_exchange_swaps_files_and_directories() {
    let world = world();
    world.rename("a", "d/full", EXCHANGE).unwrap();
    assert_eq!(world.names("a"), ["x"]);
    assert_eq!(world.read("d/full"), b"a");
    assert_eq!((links(&world, "/"), links(&world, "d")), (6, 2));
    let up = world.fs.lookup(&world.root, world.at("a").node, b"..").unwrap();
    assert_eq!(up.node, ROOT);
    world.rename("a", "e", EXCHANGE).unwrap();
    assert_eq!(world.names("e"), ["x"]);
    assert_eq!((links(&world, "/"), links(&world, "a")), (6, 2));
    world.rename("a", "b", EXCHANGE).unwrap();
    assert_eq!(world.read("a"), b"b");
}

#[test]
fn a_whiteout_stays_at_the_old_name() {
    let world = world();
    world.rename("a", "b", WHITEOUT).unwrap();
    let left = world.at("a").attr;
    assert_eq!((left.mode, left.rdev, left.nlink), (libc::S_IFCHR, 0, 1));
    assert_eq!(world.read("b"), b"a");
    world.rename("d/full", "e/full", WHITEOUT | NOREPLACE).unwrap();
    assert_eq!(world.at("d/full").attr.mode, libc::S_IFCHR);
    assert_eq!((links(&world, "d"), links(&world, "e")), (2, 3));
    assert_eq!(world.rename("b", "e", WHITEOUT), Err(Error::IsDirectory));
    assert_eq!(world.at("b").attr.kind(), FileKind::Regular);
}
