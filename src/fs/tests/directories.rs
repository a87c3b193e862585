//! Names: making, finding, listing, removing.

use super::*;

#[test]
fn every_kind_of_file_can_be_made_and_is_what_it_says() {
    let world = World::new();
    let made =
        |name: &[u8], mode, rdev| world.fs.mknod(&world.root, ROOT, name, mode, rdev).unwrap().attr;
    assert_eq!(made(b"fifo", libc::S_IFIFO | 0o644, 9).rdev, 0);
    assert_eq!(made(b"sock", libc::S_IFSOCK | 0o600, 0).kind(), FileKind::Socket);
    let null = made(b"null", libc::S_IFCHR | 0o666, 0x103);
    assert_eq!((null.rdev, null.kind(), null.size), (0x103, FileKind::CharDevice, 0));
    assert_eq!(made(b"disk", libc::S_IFBLK | 0o660, 0x800).kind(), FileKind::BlockDevice);
    assert_eq!(made(b"plain", 0o644, 0).kind(), FileKind::Regular);
    let refused = world.fs.mknod(&world.root, ROOT, b"d", libc::S_IFDIR, 0);
    assert_eq!(refused, Err(Error::Invalid));
    let target = vec![b't'; 4095];
    let link = world.fs.symlink(&world.root, ROOT, b"link", &target).unwrap();
    assert_eq!(world.fs.readlink(link.node), Ok(target.clone()));
    assert_eq!(link.attr.size, 4095);
    assert_eq!(world.fs.readlink(world.at("plain").node), Err(Error::Invalid));
    let longer = [&target[..], b"t"].concat();
    assert_eq!(world.fs.symlink(&world.root, ROOT, b"l", &longer), Err(Error::NameTooLong));
    assert_eq!(world.fs.symlink(&world.root, ROOT, b"l", b""), Err(Error::NotFound));
    let world = world.remount();
    assert_eq!(world.fs.readlink(world.at("link").node), Ok(target));
    assert_eq!(world.names("/"), ["disk", "fifo", "link", "null", "plain", "sock"]);
}

#[test]
fn names_are_bytes_up_to_255() {
    let world = World::new();
    let longest = vec![0xff; 255];
    world.fs.mkdir(&world.root, ROOT, &longest, 0o755).unwrap();
    assert!(world.fs.lookup(&world.root, ROOT, &longest).is_ok());
    let longer = vec![b'x'; 256];
    assert_eq!(world.fs.mkdir(&world.root, ROOT, &longer, 0o755), Err(Error::NameTooLong));
    assert_eq!(world.fs.lookup(&world.root, ROOT, &longer), Err(Error::NameTooLong));
    assert_eq!(world.fs.unlink(&world.root, ROOT, &longer), Err(Error::NameTooLong));
    for bad in [&b""[..], b"a/b", b"a\0b"] {
        assert_eq!(world.fs.mkdir(&world.root, ROOT, bad, 0o755), Err(Error::Invalid));
    }
    for dots in [&b"."[..], b".."] {
        assert_eq!(world.fs.mkdir(&world.root, ROOT, dots, 0o755), Err(Error::Exists));
    }
}

#[test]
fn errors_of_names_are_those_of_posix() {
    let world = World::new();
    world.mkdir("d").unwrap();
    world.mkdir("d/e").unwrap();
    let file = world.put("f", b"x").node;
    assert_eq!(world.mkdir("d"), Err(Error::Exists));
    assert_eq!(world.mkdir("f"), Err(Error::Exists));
    assert_eq!(world.find("nothing"), Err(Error::NotFound));
    assert_eq!(world.find("f/x"), Err(Error::NotDirectory));
    assert_eq!(world.fs.mkdir(&world.root, file, b"x", 0o755), Err(Error::NotDirectory));
    assert_eq!(world.rmdir("d"), Err(Error::NotEmpty));
    assert_eq!(world.rmdir("f"), Err(Error::NotDirectory));
    assert_eq!(world.rmdir("nothing"), Err(Error::NotFound));
    assert_eq!(world.unlink("d"), Err(Error::IsDirectory));
    assert_eq!(world.unlink("nothing"), Err(Error::NotFound));
    assert_eq!(world.fs.rmdir(&world.root, ROOT, b"."), Err(Error::Invalid));
    assert_eq!(world.fs.rmdir(&world.root, ROOT, b".."), Err(Error::NotEmpty));
    let exclusive = libc::O_RDWR | libc::O_EXCL;
    assert_eq!(world.fs.create(&world.root, ROOT, b"f", 0o644, exclusive), Err(Error::Exists));
    let (again, _) = world.fs.create(&world.root, ROOT, b"f", 0o600, libc::O_RDWR).unwrap();
    assert_eq!((again.node, again.attr.mode & 0o777), (file, 0o644));
    assert_eq!(world.fs.open(world.at("d").node, libc::O_RDWR), Err(Error::IsDirectory));
    assert_eq!(world.fs.opendir(file), Err(Error::NotDirectory));
    assert_eq!(world.fs.read(world.at("d").node, Handle(0), 0, &mut [0]), Err(Error::IsDirectory));
}

#[test]
fn links_sizes_and_times_of_directories_follow_their_entries() {
    let world = World::new();
    let links = |path: &str| world.at(path).attr.nlink;
    assert_eq!(links("/"), 2);
    world.mkdir("a").unwrap();
    world.mkdir("a/b").unwrap();
    let before = world.at("a").attr;
    world.put("a/f", b"x");
    let after = world.at("a").attr;
    assert_eq!((links("/"), links("a"), links("a/b")), (3, 3, 2));
    assert!(after.mtime > before.mtime && after.ctime == after.mtime && after.size > before.size);
    world.rmdir("a/b").unwrap();
    world.unlink("a/f").unwrap();
    let empty = world.at("a").attr;
    assert_eq!(empty.nlink, 2);
    assert!(empty.mtime > after.mtime);
    let dots = |name: &[u8], node| world.fs.lookup(&world.root, node, name).unwrap().node;
    assert_eq!(dots(b"..", world.at("a").node), ROOT);
    assert_eq!(dots(b".", world.at("a").node), world.at("a").node);
    assert_eq!(dots(b"..", ROOT), ROOT);
}

/// Lists in pieces of `step` entries, as the kernel does.
fn list_in_steps(
    world: &World,
    node: NodeId,
    step: usize,
    mut between: impl FnMut(usize),
) -> Vec<Vec<u8>> {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let mut taken = 0;
        world
            .fs
            .readdir(&world.root, node, cookie, false, &mut |entry| {
                if taken == step {
                    return false;
                }
                assert!(entry.cookie > cookie && i64::try_from(entry.cookie).is_ok());
                taken += 1;
                cookie = entry.cookie;
                names.push(entry.name.to_vec());
                true
            })
            .unwrap();
        if taken == 0 {
            return names;
        }
        between(names.len());
    }
}

#[test]
fn a_listing_in_pieces_has_every_entry_once_though_others_come_and_go() {
    let world = World::new();
    let dir = world.mkdir("d").unwrap().node;
    let stays = |n: usize| format!("stays{n}").into_bytes();
    for n in 0..500 {
        world.fs.mknod(&world.root, dir, &stays(n), 0o644, 0).unwrap();
        world.fs.mknod(&world.root, dir, format!("goes{n}").as_bytes(), 0o644, 0).unwrap();
    }
    let mut gone = 0;
    let names = list_in_steps(&world, dir, 7, |_| {
        world.fs.unlink(&world.root, dir, format!("goes{gone}").as_bytes()).unwrap();
        world.fs.mknod(&world.root, dir, format!("new{gone}").as_bytes(), 0o644, 0).unwrap();
        gone += 1;
    });
    let mut stayed: Vec<_> =
        names.iter().filter(|name| name.starts_with(b"stays")).cloned().collect();
    stayed.sort();
    let mut all: Vec<_> = (0..500).map(stays).collect();
    all.sort();
    assert!(stayed == all);
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
    assert_eq!(&names[..2], [b".".to_vec(), b"..".to_vec()]);
}

#[test]
fn readdir_plus_brings_attributes_and_counts_lookups() {
    let world = World::new();
    let node = world.put("f", b"content").node;
    world.fs.forget(node, u64::MAX);
    let mut seen = 0;
    world
        .fs
        .readdir(&world.root, ROOT, 0, true, &mut |entry| {
            match entry.name {
                b"f" => {
                    assert_eq!(entry.entry.unwrap().attr, world.fs.getattr(node).unwrap());
                    seen += 1;
                }
                _ => assert!(entry.entry.is_none()),
            }
            true
        })
        .unwrap();
    assert_eq!(seen, 1);
    world.unlink("f").unwrap();
    assert_eq!(world.fs.getattr(node).unwrap().nlink, 0, "the kernel knows it by readdir");
    world.fs.forget(node, 1);
    assert_eq!(world.fs.getattr(node), Err(Error::Stale));
}

#[test]
fn an_entry_that_is_not_taken_counts_no_lookup() {
    let world = World::new();
    let node = world.put("f", b"content").node;
    world.fs.forget(node, u64::MAX);
    let mut refuse = |entry: &DirEntry<'_>| entry.name != b"f";
    world.fs.readdir(&world.root, ROOT, 0, true, &mut refuse).unwrap();
    world.unlink("f").unwrap();
    assert_eq!(world.fs.getattr(node), Err(Error::Stale));
}

#[test]
fn names_with_the_same_hash_live_together() {
    use crate::fs::transaction::Transaction;
    // Collisions can't be found, so entries are put into one chain through a directory's records.
    let world = World::new();
    let names: Vec<Vec<u8>> = (0..12u8).map(|n| vec![b'a' + n; 200]).collect();
    let key = records::dirent_key(&world.fs.seed, ROOT_INODE, b"all here");
    let mut chain = Vec::new();
    for (slot, name) in names.iter().enumerate() {
        let ino = InodeNo(slot as u64 + 100);
        let entry = crate::format::Dirent { slot: slot as u8, kind: FileKind::Regular, ino, name };
        entry.encode(&mut chain);
    }
    let mut tx = Transaction::begin(world.fs.volume(), Intent::Grow).unwrap();
    tx.set(key, Some(chain));
    tx.commit().unwrap();
    for step in [1, 5, 100] {
        let listed = list_in_steps(&world, ROOT, step, |_| {});
        assert_eq!(listed[2..], names[..], "in steps of {step}");
    }
}

#[test]
fn a_removed_directory_takes_nothing_more() {
    let world = World::new();
    let dir = world.mkdir("d").unwrap().node;
    world.rmdir("d").unwrap();
    assert_eq!(world.fs.getattr(dir).unwrap().nlink, 0);
    assert_eq!(world.fs.mkdir(&world.root, dir, b"x", 0o755), Err(Error::NotFound));
    let file = world.put("f", b"").node;
    assert_eq!(world.fs.link(file, dir, b"x"), Err(Error::NotFound));
    assert_eq!(world.fs.rename(&world.root, ROOT, b"f", dir, b"x", 0), Err(Error::NotFound));
    world.fs.forget(dir, 1);
    assert_eq!(world.fs.getattr(dir), Err(Error::Stale));
}

#[test]
fn the_gate_sized_directory_is_quick_at_both_ends() {
    let world = World::sized(1 << 30, FsOptions::default());
    let dir = world.mkdir("d").unwrap().node;
    const COUNT: usize = 20_000;
    for n in 0..COUNT {
        let made =
            world.fs.mknod(&world.root, dir, format!("file number {n}").as_bytes(), 0o644, 0);
        world.fs.forget(made.unwrap().node, 1);
    }
    assert_eq!(list_in_steps(&world, dir, 100, |_| {}).len(), COUNT + 2);
    let world = world.crash();
    let dir = world.at("d").node;
    for n in (0..COUNT).rev() {
        world.fs.unlink(&world.root, dir, format!("file number {n}").as_bytes()).unwrap();
    }
    assert_eq!(world.names("d"), [""; 0]);
    world.rmdir("d").unwrap();
}
