//! Damage below: what it hits is an error, and the rest goes on.

use super::*;

#[test]
fn a_damaged_block_is_an_error_where_it_is_and_nowhere_else() {
    let world = World::new();
    let content = pattern(1, 5 * 4096);
    let node = world.put("hurt", &content).node;
    world.put("well", &content[..3 * 4096]);
    world.mkdir(".snapshots/s").unwrap();
    let data = &world.storage.data;
    let mut image = vec![0; data.len_bytes().unwrap() as usize];
    data.read_at(0, &mut image).unwrap();
    // Both files begin alike; the fourth block is of the first file alone.
    let block = &content[3 * 4096..4 * 4096];
    let at = image.chunks(4096).position(|other| other == block).unwrap() as u64 * 4096;
    data.write_at(at + 77, &[image[at as usize + 77] ^ 1]).unwrap();
    let read = |node, block: u64, buf: &mut [u8]| world.fs.read(node, Handle(0), block * 4096, buf);
    let mut buf = vec![0; 4096];
    assert!(matches!(read(node, 3, &mut buf), Err(Error::Io(_))));
    assert!(matches!(read(world.at(".snapshots/s/hurt").node, 3, &mut buf), Err(Error::Io(_))));
    for good in [0, 1, 2, 4] {
        assert_eq!(read(node, good, &mut buf), Ok(4096));
        assert!(buf == content[good as usize * 4096..][..4096]);
    }
    assert_eq!(world.read("well"), content[..3 * 4096]);
    // A part of the block can't be changed, as the rest is lost; the whole can.
    let write =
        |at, bytes: &[u8]| world.fs.write(node, Handle(1), at, bytes, WriteFlags::default());
    assert!(matches!(write(3 * 4096 + 5, b"x"), Err(Error::Io(_))));
    assert_eq!(write(3 * 4096, block), Ok(4096));
    assert_eq!(world.content(node), content);
    world.unlink("hurt").unwrap();
    world.rmdir(".snapshots/s").unwrap();
}

#[test]
fn the_log_names_a_damaged_file_once() {
    let world = World::new();
    world.mkdir("d").unwrap();
    let node = world.put("d/f", b"x").node;
    for _ in 0..3 {
        let failed: Result<(), Error> = Err(Error::Io("block 1 of it".into()));
        world.fs.report(node, failed).unwrap_err();
    }
    assert_eq!(*world.fs.blamed.lock(), [node]);
    let source = world.fs.volume().source();
    let path = path_in(&source, InodeNo(node.0));
    assert_eq!(path, "/d/f");
}

#[test]
fn a_path_is_found_though_the_directory_that_is_noted_has_no_name_of_the_file() {
    let world = World::new();
    world.mkdir("a").unwrap();
    world.mkdir("b").unwrap();
    world.mkdir("b/c").unwrap();
    let node = world.put("a/f", b"x").node;
    world.fs.link(node, world.at("b/c").node, b"g").unwrap();
    world.unlink("a/f").unwrap();
    let source = world.fs.volume().source();
    assert_eq!(path_in(&source, InodeNo(node.0)), "/b/c/g");
    // Open without a name: its number, where its directory was.
    world.unlink("b/c/g").unwrap();
    let path = path_in(&source, InodeNo(node.0));
    assert!(path.starts_with('/') && path.ends_with(&format!("(inode {})", node.0)), "{path}");
}
