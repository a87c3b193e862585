//! `.snapshots`, and looking into snapshots.

use super::*;

const EROFS: Error = Error::ReadOnly;

#[test]
fn a_snapshot_shows_what_was() {
    let world = World::new();
    world.mkdir("d").unwrap();
    let file = world.put("d/f", &pattern(1, 10_000));
    world.put("small", b"tiny");
    world.fs.setxattr(&world.root, file.node, b"user.x", b"then", 0, false).unwrap();
    world.fs.link(file.node, ROOT, b"hard").unwrap();
    let live = world.at("d/f").attr;
    let made = world.mkdir(".snapshots/monday").unwrap();
    assert!(!made.cacheable && made.node.is_view());
    world.put("d/f", &pattern(2, 20_000));
    world.unlink("small").unwrap();
    world.unlink("hard").unwrap();
    world.rename("d", "e", 0).unwrap();
    world.fs.setxattr(&world.root, file.node, b"user.x", b"now", 0, false).unwrap();
    let check = |world: &World| {
        let was = world.at(".snapshots/monday/d/f");
        assert_eq!(Attr { ino: live.ino, ..was.attr }, live);
        assert_eq!(was.attr.ino, was.node.0);
        assert_ne!(was.attr.ino, live.ino);
        assert_eq!(world.read(".snapshots/monday/d/f"), pattern(1, 10_000));
        assert_eq!(world.read(".snapshots/monday/small"), b"tiny");
        assert_eq!(world.fs.getxattr(was.node, b"user.x"), Ok(b"then".to_vec()));
        assert_eq!(world.names(".snapshots/monday"), ["d", "hard", "small"]);
        assert_eq!(world.at(".snapshots/monday/hard").node, was.node);
        assert_eq!(world.names("/"), ["e"]);
        assert_eq!(world.read("e/f"), pattern(2, 20_000));
    };
    check(&world);
    let world = world.crash();
    check(&world);
    let world = world.remount();
    check(&world);
    world.rmdir(".snapshots/monday").unwrap();
    assert_eq!(world.names(".snapshots"), [""; 0]);
    assert_eq!(world.find(".snapshots/monday"), Err(Error::NotFound));
    assert_eq!(world.fs.getattr(made.node), Err(Error::Stale));
    assert_eq!(world.fs.lookup(&world.root, made.node, b"d"), Err(Error::Stale));
    while world.pool.run_reclaim().unwrap() {}
    assert_eq!(world.read("e/f"), pattern(2, 20_000));
}

#[test]
fn nothing_in_a_snapshot_can_be_changed() {
    let world = World::new();
    world.mkdir("d").unwrap();
    world.put("d/f", b"x");
    world.mkdir(".snapshots/s").unwrap();
    let (fs, root) = (&world.fs, &world.root);
    let top = world.at(".snapshots/s").node;
    let dir = world.at(".snapshots/s/d").node;
    let file = world.at(".snapshots/s/d/f").node;
    let live = world.at("d/f").node;
    for dir in [top, dir] {
        assert_eq!(fs.mkdir(root, dir, b"n", 0o755), Err(EROFS));
        assert_eq!(fs.mknod(root, dir, b"n", 0o644, 0), Err(EROFS));
        assert_eq!(fs.symlink(root, dir, b"n", b"t"), Err(EROFS));
        assert_eq!(fs.create(root, dir, b"n", 0o644, 2), Err(EROFS));
        assert_eq!(fs.tmpfile(root, dir, 0o644, 2), Err(EROFS));
        assert_eq!(fs.link(live, dir, b"n"), Err(EROFS));
        assert_eq!(fs.unlink(root, dir, b"f"), Err(EROFS));
        assert_eq!(fs.rmdir(root, dir, b"d"), Err(EROFS));
        assert_eq!(fs.rename(root, dir, b"f", ROOT, b"g", 0), Err(EROFS));
        assert_eq!(fs.rename(root, ROOT, b"d", dir, b"g", 0), Err(EROFS));
        assert_eq!(fs.mkdir(root, dir, b".snapshots", 0o755), Err(EROFS));
    }
    for node in [top, dir, file] {
        for set in [
            SetAttr { mode: Some(0), ..SetAttr::default() },
            SetAttr { size: Some(0), ..SetAttr::default() },
            SetAttr { uid: Some(0), ..SetAttr::default() },
            SetAttr { atime: Some(SetTime::Now), ..SetAttr::default() },
        ] {
            assert_eq!(world.set(node, set), Err(EROFS));
        }
        assert_eq!(fs.setxattr(root, node, b"user.x", b"", 0, false), Err(EROFS));
        assert_eq!(fs.removexattr(root, node, b"user.x"), Err(EROFS));
    }
    for flags in [libc::O_RDWR, libc::O_WRONLY, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(fs.open(file, flags), Err(EROFS));
    }
    assert_eq!(fs.write(file, Handle(1), 0, b"y", WriteFlags::default()), Err(EROFS));
    assert_eq!(fs.fallocate(file, 0, 1, 0), Err(EROFS));
    assert_eq!(fs.copy_file_range(live, 0, file, 0, 1), Err(EROFS));
    let handle = fs.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(world.content(file), b"x");
    fs.release(file, handle);
    assert_eq!(fs.fsync(file, false), Ok(()));
    assert_eq!(fs.lookup(root, top, b".snapshots"), Err(Error::NotFound));
}

#[test]
fn the_virtual_directory_is_there_by_name_alone() {
    let world = World::new();
    let dir = world.mkdir("d").unwrap().node;
    assert_eq!(world.names("/"), ["d"]);
    let entry = world.at(".snapshots");
    assert!(entry.node.is_snapshot_dir() && !entry.cacheable);
    assert_eq!(
        (entry.attr.mode, entry.attr.nlink, entry.attr.ino),
        (libc::S_IFDIR | 0o755, 2, entry.node.0)
    );
    let (fs, root, snapshots) = (&world.fs, &world.root, entry.node);
    {
        let name = &b".snapshots"[..];
        assert_eq!(fs.mkdir(root, dir, name, 0o755), Err(Error::Exists));
        assert_eq!(fs.create(root, dir, name, 0o644, libc::O_EXCL | 2), Err(Error::Exists));
        assert_eq!(fs.symlink(root, dir, name, b"x"), Err(Error::Exists));
        assert_eq!(fs.unlink(root, dir, name), Err(Error::NotPermitted));
        assert_eq!(fs.rmdir(root, dir, name), Err(Error::NotPermitted));
    }
    assert_eq!(fs.mknod(root, snapshots, b"f", 0o644, 0), Err(Error::NotPermitted));
    assert_eq!(fs.create(root, snapshots, b"f", 0o644, 2), Err(Error::NotPermitted));
    assert_eq!(fs.unlink(root, snapshots, b"f"), Err(Error::NotPermitted));
    assert_eq!(fs.symlink(root, snapshots, b"f", b"x"), Err(Error::NotPermitted));
    assert_eq!(fs.rename(root, ROOT, b"d", snapshots, b"x", 0), Err(Error::NotPermitted));
    assert_eq!(
        world.set(snapshots, SetAttr { mode: Some(0), ..SetAttr::default() }),
        Err(Error::NotPermitted)
    );
    assert_eq!(fs.setxattr(root, snapshots, b"user.x", b"", 0, false), Err(Error::NotPermitted));
    assert_eq!(fs.open(snapshots, libc::O_RDWR), Err(Error::IsDirectory));
    let up = |node, name: &[u8]| fs.lookup(root, node, name).unwrap().node;
    assert_eq!(up(snapshots, b".."), ROOT);
    assert_eq!(up(snapshots, b"."), snapshots);
    assert_eq!(up(world.at("d/.snapshots").node, b".."), dir);
    world.mkdir(".snapshots/s").unwrap();
    assert_eq!(up(world.at(".snapshots/s").node, b".."), snapshots);
    assert_eq!(up(world.at(".snapshots/s/d").node, b".."), world.at(".snapshots/s").node);
    let after = world.at(".snapshots").attr;
    assert!(after.nlink == 3 && after.mtime > entry.attr.mtime);
    world.rmdir(".snapshots/s").unwrap();
    let last = world.at(".snapshots").attr;
    assert!(last.nlink == 2 && last.mtime > after.mtime);
}

#[test]
fn subdirectories_show_themselves_as_they_were() {
    let world = World::new();
    world.mkdir("old").unwrap();
    world.put("old/f", b"1");
    world.mkdir(".snapshots/one").unwrap();
    world.mkdir("old/young").unwrap();
    world.put("old/f", b"2");
    world.mkdir(".snapshots/two").unwrap();
    world.rename("old", "renamed", 0).unwrap();
    assert_eq!(world.read("renamed/.snapshots/one/f"), b"1");
    assert_eq!(world.read("renamed/.snapshots/two/f"), b"2");
    assert_eq!(world.at("renamed/.snapshots/one").node, world.at(".snapshots/one/old").node);
    assert_eq!(world.names("renamed/.snapshots"), ["one", "two"]);
    assert_eq!(world.names("renamed/young/.snapshots"), ["two"]);
    assert_eq!(world.find("renamed/young/.snapshots/one"), Err(Error::NotFound));
    assert_eq!(world.mkdir("renamed/.snapshots/x"), Err(Error::NotPermitted));
    assert_eq!(world.rmdir("renamed/.snapshots/one"), Err(Error::NotPermitted));
    assert_eq!(world.rename("renamed/.snapshots/one", ".snapshots/x", 0), Err(Error::NotPermitted));
}

#[test]
fn snapshots_are_made_renamed_and_refused_by_the_rules() {
    let world = World::new();
    for name in ["b", "a", "c"] {
        world.mkdir(&format!(".snapshots/{name}")).unwrap();
    }
    let mut by_creation = Vec::new();
    let dir = world.at(".snapshots").node;
    let mut each = |entry: &DirEntry<'_>| {
        by_creation.push(String::from_utf8(entry.name.to_vec()).unwrap());
        true
    };
    world.fs.readdir(&world.root, dir, 0, true, &mut each).unwrap();
    assert_eq!(by_creation, [".", "..", "b", "a", "c"]);
    assert_eq!(world.mkdir(".snapshots/a"), Err(Error::Exists));
    for bad in [".hidden", "a\u{7}b", "@latest", "@2h-ago", "@ x"] {
        assert_eq!(world.mkdir(&format!(".snapshots/{bad}")), Err(Error::Invalid), "{bad:?}");
    }
    assert_eq!(world.fs.mkdir(&world.root, dir, &[0xff], 0o755), Err(Error::Invalid));
    assert_eq!(world.rename(".snapshots/a", ".snapshots/b", 0), Err(Error::Exists));
    assert_eq!(world.rename(".snapshots/a", ".snapshots/@x", 0), Err(Error::Invalid));
    assert_eq!(world.rename(".snapshots/zzz", ".snapshots/y", 0), Err(Error::NotFound));
    assert_eq!(
        world.rename(".snapshots/a", ".snapshots/b", libc::RENAME_EXCHANGE),
        Err(Error::Invalid)
    );
    assert_eq!(world.rename(".snapshots/a", "a", 0), Err(Error::NotPermitted));
    let node = world.at(".snapshots/a").node;
    world.rename(".snapshots/a", ".snapshots/z", 0).unwrap();
    assert_eq!(world.at(".snapshots/z").node, node);
    assert_eq!(world.names(".snapshots"), ["b", "c", "z"]);
    assert_eq!(world.rmdir(".snapshots/a"), Err(Error::NotFound));
    assert_eq!(world.rmdir(".snapshots/@latest"), Err(Error::Invalid));
}

#[test]
fn templates_and_queries() {
    let world = World::new();
    world.put("f", b"1");
    world.mkdir(".snapshots/@daily").unwrap();
    world.mkdir(".snapshots/@daily").unwrap();
    let names = world.names(".snapshots");
    assert_eq!(names, ["daily-2026-11-20T10-05-00Z", "daily-2026-11-20T10-05-00Z-2"]);
    world.clock.advance(3600);
    world.put("f", b"2");
    world.mkdir(".snapshots/@hourly").unwrap();
    world.put("f", b"3");
    assert_eq!(world.read(".snapshots/@latest/f"), b"2");
    assert_eq!(world.read(".snapshots/@oldest/f"), b"1");
    assert_eq!(world.read(".snapshots/@30m-ago/f"), b"1");
    assert_eq!(world.find(".snapshots/@2h-ago"), Err(Error::NotFound));
    assert_eq!(world.read(".snapshots/@0s-ago/f"), b"2");
    assert_eq!(world.find(".snapshots/@tomorrow"), Err(Error::NotFound));
}

#[test]
fn who_may_write_to_the_root_may_snapshot() {
    let world = World::new();
    let (fs, dir) = (&world.fs, world.at(".snapshots").node);
    let user = Caller { uid: 1000, gid: 1000, groups: vec![50], ..Caller::default() };
    let tries = |name: &str| fs.mkdir(&user, dir, name.as_bytes(), 0o755).map(|_| ());
    assert_eq!(tries("a"), Err(Error::AccessDenied));
    world.mkdir(".snapshots/roots").unwrap();
    assert_eq!(fs.rmdir(&user, dir, b"roots"), Err(Error::AccessDenied));
    assert_eq!(fs.rename(&user, dir, b"roots", dir, b"x", 0), Err(Error::AccessDenied));
    let own = |mode, uid, gid| {
        let set =
            SetAttr { mode: Some(mode), uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
        world.set(ROOT, set).unwrap();
    };
    own(0o755, 1000, 0);
    assert_eq!(tries("owner"), Ok(()));
    own(0o775, 0, 50);
    assert_eq!(tries("group"), Ok(()));
    own(0o757, 0, 50);
    assert_eq!(tries("not as other"), Err(Error::AccessDenied));
    own(0o757, 0, 0);
    assert_eq!(tries("other"), Ok(()));
    own(0o700, 0, 0);
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1u16, 7u16, u32::MAX),
        (2, 7, 1000),
        (4, 0, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend([&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    let name = b"system.posix_acl_access";
    fs.setxattr(&world.root, ROOT, name, &acl, 0, false).unwrap();
    assert_eq!(tries("by acl"), Ok(()));
    assert_eq!(fs.getxattr(dir, name), Ok(acl), "the kernel checks the same list");
    assert_eq!(fs.rmdir(&user, dir, b"by acl"), Ok(()));
}

#[test]
fn a_snapshot_tells_its_figures() {
    let world = World::new();
    world.put("f", &pattern(1, 1 << 20));
    let node = world.mkdir(".snapshots/s").unwrap().node;
    world.put("f", b"");
    let get = |name: &str| {
        let value = world.fs.getxattr(node, format!("user.amberfs.{name}").as_bytes());
        value.map(|value| String::from_utf8(value).unwrap())
    };
    assert_eq!(get("name").as_deref(), Ok("s"));
    assert!(get("created").unwrap().starts_with("2026-11-20T10:05:00.0"), "{:?}", get("created"));
    assert_eq!(get("consistency").as_deref(), Ok("crash"));
    assert!(get("referenced_bytes").unwrap().parse::<u64>().unwrap() >= 1 << 20);
    assert!(get("exclusive_bytes").unwrap().parse::<u64>().unwrap() >= 1 << 20);
    get("epoch").unwrap().parse::<u64>().unwrap();
    assert_eq!(get("other"), Err(Error::NoData));
    world.pool.checkpoint().unwrap();
    assert_eq!(get("root").unwrap().len(), 64);
    let listed = world.fs.listxattr(&world.root, node).unwrap();
    assert_eq!(listed.iter().filter(|byte| **byte == 0).count(), 7);
    assert_eq!(
        world.fs.getxattr(world.at(".snapshots/s/f").node, b"user.amberfs.name"),
        Err(Error::NoData)
    );
    let figures = world.fs.statfs(node).unwrap();
    assert!(figures.blocks >= 256 && figures.blocks_free == 0);
}

#[test]
fn the_hook_brings_in_what_is_open_before_the_instant() {
    let world = World::new();
    let file = world.put("f", b"before");
    world.put("g", b"");
    world.fs.open(file.node, libc::O_RDWR).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let volume = Arc::clone(world.fs.volume());
    let hook = move |fs: &Filesystem| {
        let nodes = fs.open_for_write();
        log.lock().extend_from_slice(&nodes);
        // What the kernel would send now.
        let fs = Filesystem::new(Arc::clone(&volume), FsOptions::default()).unwrap();
        let cached = WriteFlags { cached: true, ..WriteFlags::default() };
        fs.write(nodes[0], Handle(1), 0, b"dirty!", cached).unwrap();
    };
    world.fs.set_flush_hook(Some(Box::new(hook)));
    world.mkdir(".snapshots/s").unwrap();
    assert_eq!(*seen.lock(), [file.node]);
    assert_eq!(world.read(".snapshots/s/f"), b"dirty!");
    assert_eq!(world.mkdir(".snapshots/s"), Err(Error::Exists));
    assert_eq!(seen.lock().len(), 1, "nothing is flushed for a name that is taken");
    world.fs.set_flush_hook(None);
    world.mkdir(".snapshots/t").unwrap();
    assert_eq!(seen.lock().len(), 1);
}

#[test]
fn the_ways_of_showing_snapshots() {
    let show = |snapdir, name: &str| {
        let snapdir_name = name.to_owned();
        World::sized(64 << 20, FsOptions { snapdir, snapdir_name, ..FsOptions::default() })
    };
    let world = show(SnapDir::Visible, ".snap");
    world.mkdir("d").unwrap();
    world.mkdir(".snap/s").unwrap();
    assert_eq!(world.names("/"), [".snap", "d"]);
    assert_eq!(world.names("d"), [".snap"]);
    assert_eq!(world.names(".snap/s"), ["d"]);
    assert_eq!(world.names(".snap/s/d"), [""; 0]);
    world.mkdir(".snapshots").unwrap();
    let world = show(SnapDir::Disabled, ".snapshots");
    assert_eq!(world.find(".snapshots"), Err(Error::NotFound));
    assert_eq!(world.mkdir(".snapshots"), Err(Error::NotPermitted));
    world.fs.create_snapshot("s").unwrap();
    let node = world.put("f", b"then").node;
    world.fs.create_snapshot("t").unwrap();
    world.put("f", b"now");
    let only = Some("t".to_owned());
    let options = FsOptions { only_snapshot: only, ..FsOptions::default() };
    let fs = Filesystem::new(Arc::clone(world.fs.volume()), options).unwrap();
    let found = fs.lookup(&world.root, ROOT, b"f").unwrap();
    assert_eq!((found.node, found.attr.ino, found.attr.size), (node, node.0, 4));
    assert_eq!(fs.mkdir(&world.root, ROOT, b"x", 0o755), Err(EROFS));
    assert_eq!(fs.open(node, libc::O_RDWR), Err(EROFS));
    assert_eq!(fs.lookup(&world.root, ROOT, b".snapshots"), Err(Error::NotFound));
    assert_eq!(fs.lookup(&world.root, ROOT, b"..").unwrap().node, ROOT);
    let mut content = [0; 10];
    let handle = fs.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(fs.read(node, handle, 0, &mut content), Ok(4));
    assert_eq!(&content[..4], b"then");
    let none = FsOptions { only_snapshot: Some("none".into()), ..FsOptions::default() };
    assert_eq!(
        Filesystem::new(Arc::clone(world.fs.volume()), none).map(|_| ()).unwrap_err(),
        Error::NotFound
    );
    let frozen = FsOptions { read_only: true, ..FsOptions::default() };
    let fs = Filesystem::new(Arc::clone(world.fs.volume()), frozen).unwrap();
    assert_eq!(fs.unlink(&world.root, ROOT, b"f"), Err(EROFS));
    let dir = fs.lookup(&world.root, ROOT, b".snapshots").unwrap().node;
    assert_eq!(fs.mkdir(&world.root, dir, b"x", 0o755), Err(EROFS));
    assert_eq!(fs.rmdir(&world.root, dir, b"t"), Err(EROFS));
}

#[test]
fn an_open_file_of_a_deleted_snapshot_is_stale() {
    let world = World::new();
    world.put("f", &pattern(1, 10_000));
    world.mkdir(".snapshots/s").unwrap();
    let node = world.at(".snapshots/s/f").node;
    let handle = world.fs.open(node, libc::O_RDONLY).unwrap();
    // By another way than this mount.
    world.pool.delete_snapshot(world.fs.volume().id(), "s").unwrap();
    while world.pool.run_reclaim().unwrap() {}
    assert_eq!(world.fs.read(node, handle, 0, &mut [0; 10]), Err(Error::Stale));
    assert_eq!(world.fs.getattr(node), Err(Error::Stale));
    assert_eq!(world.find(".snapshots/s"), Err(Error::NotFound));
    world.mkdir(".snapshots/s").unwrap();
    assert_ne!(world.at(".snapshots/s/f").node, node);
    assert_eq!(world.fs.getattr(node), Err(Error::Stale));
    assert_eq!(world.read(".snapshots/s/f"), pattern(1, 10_000));
}
