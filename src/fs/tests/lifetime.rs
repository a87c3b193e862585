//! Files that are unlinked while they are in use, and the end of large ones.

use super::*;

/// Blocks that the live state takes.
fn referenced(world: &World) -> u64 {
    world.fs.volume().space().referenced_bytes
}

#[test]
fn an_unlinked_file_lives_until_closed_and_forgotten() {
    for forget_first in [true, false] {
        let world = World::new();
        let node = world.put("f", b"old").node;
        let handle = world.fs.open(node, libc::O_RDWR).unwrap();
        world.unlink("f").unwrap();
        assert_eq!(world.find("f"), Err(Error::NotFound));
        world.write(node, 3, &pattern(1, 5000));
        world.resize(node, 4000);
        world.set(node, SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
        world.fs.setxattr(&world.root, node, b"user.x", b"y", 0, false).unwrap();
        assert_eq!(world.content(node)[..3], *b"old");
        assert_eq!(world.fs.getattr(node).unwrap().nlink, 0);
        if forget_first {
            world.fs.forget(node, 1);
            assert!(world.fs.getattr(node).is_ok());
            world.fs.release(node, handle);
        } else {
            world.fs.release(node, handle);
            assert!(world.fs.getattr(node).is_ok());
            world.fs.forget(node, 1);
        }
        assert_eq!(world.fs.getattr(node), Err(Error::Stale));
    }
}

#[test]
fn orphans_go_at_unmount_and_after_a_crash() {
    for crash in [true, false] {
        let world = World::new();
        let empty = referenced(&world);
        let file = world.put("f", &pattern(1, 1 << 20)).node;
        let dir = world.mkdir("d").unwrap().node;
        world.fs.open(file, libc::O_RDWR).unwrap();
        world.unlink("f").unwrap();
        world.rmdir("d").unwrap();
        assert!(referenced(&world) >= empty + (1 << 20));
        let world = if crash { world.crash() } else { world.remount() };
        assert_eq!(world.fs.getattr(file), Err(Error::Stale));
        assert_eq!(world.fs.getattr(dir), Err(Error::Stale));
        assert!(referenced(&world) < empty + (1 << 19));
        let source = world.fs.volume().source();
        assert_eq!(records::orphans(&source.read().unwrap().reader()), Ok(vec![]));
    }
}

#[test]
fn a_file_has_a_path_while_it_has_a_name() {
    let world = World::new();
    world.mkdir("d").unwrap();
    let file = world.put("d/f", b"x").node;
    assert_eq!(world.fs.path(file).unwrap(), b"d/f");
    world.fs.rename(&world.root, world.at("d").node, b"f", ROOT, b"g\xff", 0).unwrap();
    assert_eq!(world.fs.path(file).unwrap(), b"g\xff");
    world.fs.unlink(&world.root, ROOT, b"g\xff").unwrap();
    assert_eq!(world.fs.path(file), None);
    assert_eq!(world.fs.path(ROOT), None);
}

#[test]
fn a_node_is_found_by_itself_until_it_has_ended() {
    let world = World::new();
    let file = world.put("f", b"x").node;
    let dir = world.mkdir("d").unwrap().node;
    let link = world.fs.symlink(&world.root, ROOT, b"l", b"f").unwrap().node;
    for node in [file, dir, link] {
        world.fs.forget(node, 1);
        assert_eq!(world.fs.lookup(&world.root, node, b".").unwrap().node, node);
    }
    assert_eq!(world.fs.lookup(&world.root, file, b".."), Err(Error::NotDirectory));
    assert_eq!(world.fs.lookup(&world.root, file, b"x"), Err(Error::NotDirectory));
    world.unlink("f").unwrap();
    assert_eq!(world.fs.lookup(&world.root, file, b".").unwrap().attr.nlink, 0, "it is held");
    world.fs.forget(file, 2);
    assert_eq!(world.fs.lookup(&world.root, file, b"."), Err(Error::Stale));
    assert_eq!(world.fs.lookup(&world.root, NodeId(777), b"."), Err(Error::Stale));
}

/// Makes a file with so many extents that it can't end in one commit.
fn fragmented(world: &World, blocks: u64) -> NodeId {
    let node = world.put("f", b"").node;
    let block = pattern(1, 4096);
    for n in 0..blocks {
        world.write(node, n * 8192, &block);
    }
    node
}

#[test]
fn a_file_of_many_extents_ends_in_slices() {
    let world = World::new();
    let empty = referenced(&world);
    let node = fragmented(&world, 5000);
    assert_eq!(world.fs.getattr(node).unwrap().blocks_512, 5000 * 8);
    world.fs.forget(node, 1);
    world.unlink("f").unwrap();
    assert_eq!(world.fs.getattr(node), Err(Error::Stale));
    assert!(referenced(&world) < empty + (1 << 20));
}

#[test]
fn a_cut_of_many_extents_is_seen_at_once_and_finished_after_a_crash() {
    let world = World::new();
    let node = fragmented(&world, 5000);
    world.resize(node, 8192 * 10 + 1000);
    assert_eq!(world.fs.getattr(node).unwrap().blocks_512, 11 * 8);
    world.resize(node, 8192 * 5000);
    let content = world.content(node);
    assert!(content[8192 * 10 + 1000..].iter().all(|byte| *byte == 0));
    let source = world.fs.volume().source();
    assert_eq!(records::orphans(&source.read().unwrap().reader()), Ok(vec![]));
    drop(source);
    // As a crash after the first commit leaves it: the size is set, the record is there.
    let node = {
        world.unlink("f").unwrap();
        fragmented(&world, 3000)
    };
    let ino = InodeNo(node.0);
    let mut tx = Transaction::begin(world.fs.volume(), Intent::Shrink).unwrap();
    let inode = tx.inode(ino).unwrap();
    tx.put_inode(ino, &Inode { size: 4096, ..inode });
    tx.put_orphan(ino, OrphanKind::Truncate);
    tx.commit().unwrap();
    let world = world.crash();
    assert_eq!(world.at("f").attr.blocks_512, 8);
    let source = world.fs.volume().source();
    assert_eq!(records::orphans(&source.read().unwrap().reader()), Ok(vec![]));
}

#[test]
fn an_unlinked_file_of_many_extents_can_be_cut_and_still_ends() {
    let world = World::new();
    let node = fragmented(&world, 5000);
    world.unlink("f").unwrap();
    world.resize(node, 4096);
    world.resize(node, 1 << 20);
    assert_eq!(world.content(node).len(), 1 << 20);
    world.fs.forget_all();
    assert_eq!(world.fs.getattr(node), Err(Error::Stale));
}

#[test]
fn files_open_for_writing_are_known() {
    let world = World::new();
    let (a, b) = (world.put("a", b"").node, world.put("b", b"").node);
    assert_eq!(world.fs.open_for_write(), []);
    let reader = world.fs.open(a, libc::O_RDONLY).unwrap();
    let writers = [libc::O_RDWR, libc::O_WRONLY].map(|flags| world.fs.open(b, flags).unwrap());
    assert_eq!(world.fs.open_for_write(), [b]);
    world.fs.release(b, writers[0]);
    assert_eq!(world.fs.open_for_write(), [b]);
    world.fs.release(b, writers[1]);
    world.fs.release(a, reader);
    assert_eq!(world.fs.open_for_write(), []);
}

#[test]
fn a_cut_that_could_not_be_finished_is_finished_before_the_file_grows() {
    let world = World::new();
    let node = fragmented(&world, 10);
    let ino = InodeNo(node.0);
    // As if dropping what is behind the size had failed.
    let mut tx = Transaction::begin(world.fs.volume(), Intent::Shrink).unwrap();
    let inode = tx.inode(ino).unwrap();
    tx.put_inode(ino, &Inode { size: 4096, ..inode });
    tx.put_orphan(ino, OrphanKind::Truncate);
    tx.commit().unwrap();
    world.fs.unfinished.add(ino);
    world.write(node, 100_000, b"far behind");
    let content = world.content(node);
    assert!(content[4096..100_000].iter().all(|byte| *byte == 0), "old content came back");
    let source = world.fs.volume().source();
    assert_eq!(records::orphans(&source.read().unwrap().reader()), Ok(vec![]));
}
