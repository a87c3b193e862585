//! Owners, permissions, times, statfs.

use super::*;

fn at(sec: i64, nsec: u32) -> Timestamp {
    Timestamp { sec, nsec }
}

#[test]
fn times_are_kept_to_the_nanosecond_on_both_sides_of_1970() {
    let world = World::new();
    let node = world.put("f", b"x").node;
    for (a, m) in [
        (at(-1, 999_999_999), at(-(1 << 40), 1)),
        (at(0, 0), at(4_000_000_000, 123_456_789)),
        (at(i64::MIN, 0), at(i64::MAX, 999_999_999)),
    ] {
        let (atime, mtime) = (Some(SetTime::At(a)), Some(SetTime::At(m)));
        world.set(node, SetAttr { atime, mtime, ..SetAttr::default() }).unwrap();
        let attr = world.fs.getattr(node).unwrap();
        assert_eq!((attr.atime, attr.mtime), (a, m));
        assert!(attr.ctime > attr.btime);
    }
    let before = world.fs.getattr(node).unwrap();
    let ctime = Some(at(77, 7));
    let after = world.set(node, SetAttr { ctime, ..SetAttr::default() }).unwrap();
    assert_eq!(after.ctime, at(77, 7));
    assert_eq!((after.atime, after.mtime), (before.atime, before.mtime));
    let now = Some(SetTime::Now);
    let after = world.set(node, SetAttr { atime: now, mtime: now, ..SetAttr::default() }).unwrap();
    assert!(after.atime == after.mtime && after.atime == after.ctime);
    let world = world.remount();
    assert_eq!(world.at("f").attr, after);
}

#[test]
fn a_new_owner_clears_privileges_but_not_of_directories() {
    let world = World::new();
    let node = world.put("f", b"x").node;
    let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    let own = |uid, gid| SetAttr { uid, gid, ..SetAttr::default() };
    world.set(node, mode(0o6755)).unwrap();
    assert_eq!(world.set(node, own(Some(5), None)).unwrap().mode, libc::S_IFREG | 0o755);
    world.set(node, mode(0o6745)).unwrap();
    let attr = world.set(node, own(None, Some(6))).unwrap();
    assert_eq!(attr.mode & 0o7777, 0o2745, "setgid without execution is another thing");
    assert_eq!((attr.uid, attr.gid), (5, 6));
    let stranger = Caller { uid: 5, gid: 9, ..Caller::default() };
    let attr = world.fs.setattr(&stranger, node, &own(None, Some(9))).unwrap();
    assert_eq!(attr.mode & 0o7777, 0o745);
    let dir = world.mkdir("d").unwrap().node;
    world.set(dir, mode(0o7755)).unwrap();
    assert_eq!(world.set(dir, own(Some(1), Some(1))).unwrap().mode & 0o7777, 0o7755);
    world.set(node, mode(0o6755)).unwrap();
    let cut = SetAttr { size: Some(0), kill_suidgid: true, ..SetAttr::default() };
    assert_eq!(world.set(node, cut).unwrap().mode & 0o7777, 0o755);
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let world = World::new();
    let dir = world.mkdir("d").unwrap().node;
    let set = SetAttr { mode: Some(0o2775), gid: Some(50), ..SetAttr::default() };
    world.set(dir, set).unwrap();
    let caller = Caller { uid: 7, gid: 8, umask: 0o022, ..Caller::default() };
    let sub = world.fs.mkdir(&caller, dir, b"sub", 0o777).unwrap().attr;
    assert_eq!((sub.uid, sub.gid, sub.mode & 0o7777), (7, 50, 0o2755));
    let (file, _) = world.fs.create(&caller, dir, b"f", 0o666, libc::O_RDWR).unwrap();
    assert_eq!((file.attr.gid, file.attr.mode & 0o7777), (50, 0o644));
    let link = world.fs.symlink(&caller, dir, b"l", b"f").unwrap().attr;
    assert_eq!((link.gid, link.mode & 0o7777, link.size), (50, 0o777, 1));
}

#[test]
fn a_read_changes_the_access_time_when_it_is_behind_or_old() {
    let world = World::new();
    let node = world.put("f", b"x").node;
    let read = |flags| {
        let handle = world.fs.open(node, flags).unwrap();
        let mut byte = [0];
        world.fs.read(node, handle, 0, &mut byte).unwrap();
        world.fs.release(node, handle);
        world.fs.getattr(node).unwrap().atime
    };
    let first = read(libc::O_RDONLY | libc::O_NOATIME);
    assert!(first < world.fs.getattr(node).unwrap().mtime, "not with O_NOATIME");
    let second = read(libc::O_RDONLY);
    assert!(second > first);
    assert_eq!(read(libc::O_RDONLY), second, "it is ahead of the others");
    world.clock.advance(86_400);
    let third = read(libc::O_RDONLY);
    assert!(third.sec >= second.sec + 86_400);
    let dir = world.mkdir("d").unwrap().node;
    world.put("d/x", b"");
    // What the kernel has in its cache is read without our knowing.
    world.clock.advance(86_400);
    let close = |flags| {
        let handle = world.fs.open(node, flags).unwrap();
        world.fs.release(node, handle)
    };
    assert!(!close(libc::O_RDONLY | libc::O_NOATIME) && !close(libc::O_RDWR));
    assert!(!close(libc::O_WRONLY) && world.fs.getattr(node).unwrap().atime == third);
    assert!(close(libc::O_RDONLY) && world.fs.getattr(node).unwrap().atime > third);
    assert!(!close(libc::O_RDONLY), "it is ahead of the others");
    let before = world.fs.getattr(dir).unwrap().atime;
    let handle = world.fs.opendir(dir).unwrap();
    world.fs.readdir(&world.root, dir, 0, false, &mut |_| true).unwrap();
    world.fs.releasedir(dir, handle);
    assert!(world.fs.getattr(dir).unwrap().atime > before);
    let options = FsOptions { atime: Atime::Noatime, ..FsOptions::default() };
    let world = World::sized(64 << 20, options);
    let node = world.put("f", b"x").node;
    let before = world.fs.getattr(node).unwrap().atime;
    let handle = world.fs.open(node, libc::O_RDONLY).unwrap();
    world.fs.read(node, handle, 0, &mut [0]).unwrap();
    assert_eq!(world.fs.getattr(node).unwrap().atime, before);
}

#[test]
fn statfs_follows_what_is_written() {
    let world = World::new();
    let before = world.fs.statfs(ROOT).unwrap();
    let node = world.put("f", &pattern(1, 8 << 20)).node;
    let after = world.fs.statfs(node).unwrap();
    assert!(before.blocks_free - after.blocks_free >= 2048);
    assert!(after.blocks >= after.blocks_free && after.blocks_free == after.blocks_available);
    assert_eq!((after.name_max, after.block_size), (255, 4096));
}

#[test]
fn a_full_pool_says_so_and_lets_files_go() {
    let world = World::sized(16 << 20, FsOptions::default());
    let node = world.put("f", b"").node;
    let chunk = pattern(1, 1 << 18);
    let mut at = 0;
    for len in [1 << 18, 4096] {
        let error = loop {
            match world.fs.write(node, Handle(1), at, &chunk[..len], WriteFlags::default()) {
                Ok(len) => at += len as u64,
                Err(error) => break error,
            }
        };
        assert_eq!(error, Error::NoSpace);
    }
    assert!(at > 4 << 20, "{at} bytes fitted");
    let mut names = (0..100_000).map(|n| format!("a name that takes some room {n}"));
    let error =
        names.find_map(|name| world.fs.mknod(&world.root, ROOT, name.as_bytes(), 0o644, 0).err());
    assert_eq!(error, Some(Error::NoSpace));
    assert_eq!(world.content(node).len() as u64, at);
    world.unlink("f").unwrap();
    world.fs.forget(node, u64::MAX);
    world.pool.checkpoint().unwrap();
    world.pool.checkpoint().unwrap();
    world.put("g", &pattern(2, 4 << 20));
}

#[test]
fn every_error_has_its_own_errno() {
    let all = [
        Error::NotPermitted,
        Error::NotFound,
        Error::Io(String::new()),
        Error::NoSuchAddress,
        Error::TooBig,
        Error::BadHandle,
        Error::AccessDenied,
        Error::Busy,
        Error::Exists,
        Error::CrossDevice,
        Error::NotDirectory,
        Error::IsDirectory,
        Error::Invalid,
        Error::FileTooBig,
        Error::NoSpace,
        Error::ReadOnly,
        Error::TooManyLinks,
        Error::Range,
        Error::NameTooLong,
        Error::NotEmpty,
        Error::NoData,
        Error::NotSupported,
        Error::Stale,
        Error::Quota,
    ];
    let mut numbers: Vec<i32> = all.iter().map(Error::errno).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), all.len());
    assert!(numbers.iter().all(|number| *number > 0));
}
