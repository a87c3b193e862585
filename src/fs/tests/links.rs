//! Hard links and unnamed files.

use super::*;
use crate::fs::create::MAX_LINKS;

#[test]
fn links_share_everything() {
    let world = World::new();
    let node = world.put("a", b"one").node;
    world.mkdir("d").unwrap();
    let linked = world.fs.link(node, world.at("d").node, b"b").unwrap();
    assert_eq!((linked.node, linked.attr.nlink), (node, 2));
    world.write(node, 0, b"two");
    assert_eq!(world.read("d/b"), b"two");
    let before = world.at("a").attr.ctime;
    world.unlink("a").unwrap();
    let left = world.at("d/b").attr;
    assert!(left.nlink == 1 && left.ctime > before);
    let world = world.crash();
    assert_eq!(world.read("d/b"), b"two");
}

#[test]
fn what_can_not_be_linked() {
    let world = World::new();
    let dir = world.mkdir("d").unwrap().node;
    let file = world.put("f", b"").node;
    assert_eq!(world.fs.link(dir, ROOT, b"e"), Err(Error::NotPermitted));
    assert_eq!(world.fs.link(file, ROOT, b"d"), Err(Error::Exists));
    assert_eq!(world.fs.link(file, ROOT, b".snapshots"), Err(Error::Exists));
    assert_eq!(world.fs.link(file, file, b"x"), Err(Error::NotDirectory));
    let full = world.fs.volume().source();
    let inode = full.read().unwrap().reader().inode(InodeNo(file.0)).unwrap();
    drop(full);
    let mut tx = Transaction::begin(world.fs.volume(), Intent::Grow).unwrap();
    tx.put_inode(InodeNo(file.0), &Inode { nlink: MAX_LINKS, ..inode });
    tx.commit().unwrap();
    assert_eq!(world.fs.link(file, ROOT, b"g"), Err(Error::TooManyLinks));
}

#[test]
fn an_unnamed_file_can_be_named_and_ends_otherwise() {
    let world = World::new();
    let dir = world.mkdir("d").unwrap().node;
    let (first, handle) = world.fs.tmpfile(&world.root, dir, 0o600, libc::O_RDWR).unwrap();
    assert_eq!((first.attr.nlink, first.attr.mode), (0, libc::S_IFREG | 0o600));
    world.write(first.node, 0, &pattern(1, 10_000));
    assert_eq!(world.names("d"), [""; 0]);
    let named = world.fs.link(first.node, dir, b"named").unwrap();
    assert_eq!(named.attr.nlink, 1);
    world.fs.release(first.node, handle);
    world.fs.forget(first.node, 2);
    assert_eq!(world.read("d/named"), pattern(1, 10_000));
    let (second, handle) = world.fs.tmpfile(&world.root, dir, 0o600, libc::O_RDWR).unwrap();
    world.write(second.node, 0, b"x");
    world.fs.forget(second.node, 1);
    assert!(world.fs.getattr(second.node).is_ok(), "still open");
    world.fs.release(second.node, handle);
    assert_eq!(world.fs.getattr(second.node), Err(Error::Stale));
    let (third, _) = world.fs.tmpfile(&world.root, dir, 0o600, libc::O_RDWR).unwrap();
    let world = world.crash();
    assert_eq!(world.fs.getattr(third.node), Err(Error::Stale));
    assert_eq!(world.read("d/named"), pattern(1, 10_000));
}
