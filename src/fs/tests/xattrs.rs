//! Extended attributes and ACLs.

use super::*;

fn set(world: &World, node: NodeId, name: &str, value: &[u8]) -> Result<(), Error> {
    world.fs.setxattr(&world.root, node, name.as_bytes(), value, 0, false)
}

fn get(world: &World, node: NodeId, name: &str) -> Result<Vec<u8>, Error> {
    world.fs.getxattr(node, name.as_bytes())
}

fn list(world: &World, node: NodeId, caller: &Caller) -> Vec<String> {
    let all = world.fs.listxattr(caller, node).unwrap();
    let names = all.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    names.sort();
    names
}

/// A list in the kernel's form.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

const NONE: u32 = u32::MAX;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

#[test]
fn values_of_every_size_come_back() {
    let world = World::new();
    let node = world.put("f", b"x").node;
    let sizes = [0, 1, 1023, 1024, 1025, 4096, 4097, 8192, 65536];
    for size in sizes {
        set(&world, node, &format!("user.{size}"), &pattern(size as u64, size)).unwrap();
    }
    let check = |world: &World| {
        for size in sizes {
            assert_eq!(get(world, node, &format!("user.{size}")), Ok(pattern(size as u64, size)));
        }
    };
    check(&world);
    let world = world.crash();
    check(&world);
    for (from, to) in [(65536, 0), (0, 65536), (4097, 3), (1, 5000)] {
        set(&world, node, &format!("user.{from}"), &pattern(9, to)).unwrap();
        assert_eq!(get(&world, node, &format!("user.{from}")), Ok(pattern(9, to)));
        set(&world, node, &format!("user.{from}"), &pattern(from as u64, from)).unwrap();
    }
    check(&world);
    for size in sizes {
        world.fs.removexattr(&world.root, node, format!("user.{size}").as_bytes()).unwrap();
    }
    assert_eq!(list(&world, node, &world.root), [""; 0]);
    let source = world.fs.volume().source();
    let guard = source.read().unwrap();
    let inode = guard.reader().inode(InodeNo(node.0)).unwrap();
    assert_eq!(inode.flags, InodeFlags::INLINE);
    let last = crate::format::Key::last_of(node.0);
    let found = guard.reader().last_at_or_before(last).unwrap().unwrap();
    assert!(found.0.is(crate::format::KeyKind::Inline), "no chunk is left");
}

#[test]
fn flags_namespaces_and_limits() {
    let world = World::new();
    let node = world.put("f", b"x").node;
    let with = |flags| world.fs.setxattr(&world.root, node, b"user.a", b"v", flags, false);
    assert_eq!(with(2), Err(Error::NoData));
    assert_eq!(with(1), Ok(()));
    assert_eq!(with(1), Err(Error::Exists));
    assert_eq!(with(2), Ok(()));
    let before = world.fs.getattr(node).unwrap().ctime;
    set(&world, node, "trusted.t", b"1").unwrap();
    set(&world, node, "security.s", b"1").unwrap();
    assert!(world.fs.getattr(node).unwrap().ctime > before);
    assert_eq!(list(&world, node, &world.root), ["security.s", "trusted.t", "user.a"]);
    let user = Caller { uid: 1000, ..Caller::default() };
    assert_eq!(list(&world, node, &user), ["security.s", "user.a"]);
    assert_eq!(set(&world, node, "user.", b""), Err(Error::Invalid));
    assert_eq!(set(&world, node, "other.x", b""), Err(Error::NotSupported));
    assert_eq!(set(&world, node, "system.x", b""), Err(Error::NotSupported));
    assert_eq!(set(&world, node, &format!("user.{}", "x".repeat(251)), b""), Err(Error::Range));
    set(&world, node, &format!("user.{}", "x".repeat(250)), b"").unwrap();
    assert_eq!(set(&world, node, "user.big", &[0; 65537]), Err(Error::TooBig));
    assert_eq!(get(&world, node, "user.none"), Err(Error::NoData));
    assert_eq!(world.fs.removexattr(&world.root, node, b"user.none"), Err(Error::NoData));
    let mut failed = None;
    for n in 0..300 {
        let name = format!("user.{n:03}{}", "y".repeat(247));
        if let Err(error) = set(&world, node, &name, b"") {
            failed = Some(error);
            break;
        }
    }
    assert_eq!(failed, Some(Error::NoSpace), "no more names than can be listed");
    assert!(world.fs.listxattr(&world.root, node).unwrap().len() <= 65536);
}

#[test]
fn capabilities_go_with_a_change() {
    let world = World::new();
    let node = world.put("f", b"x").node;
    let cap = "security.capability";
    let changes: [&dyn Fn(); 4] = [
        &|| world.write(node, 0, b"y"),
        &|| world.resize(node, 100),
        &|| assert!(world.set(node, SetAttr { uid: Some(5), ..SetAttr::default() }).is_ok()),
        &|| world.fs.fallocate(node, 0, 10, 3).unwrap(),
    ];
    for (n, change) in changes.iter().enumerate() {
        set(&world, node, cap, b"caps").unwrap();
        change();
        assert_eq!(get(&world, node, cap), Err(Error::NoData), "change {n}");
    }
    set(&world, node, cap, b"caps").unwrap();
    world.set(node, SetAttr { mode: Some(0o700), ..SetAttr::default() }).unwrap();
    assert_eq!(get(&world, node, cap), Ok(b"caps".to_vec()));
}

#[test]
fn an_access_acl_and_the_mode_are_two_sides_of_one_thing() {
    let world = World::new();
    let node = world.put("f", b"x").node;
    let mode = |node| world.fs.getattr(node).unwrap().mode & 0o7777;
    let full = [(1, 7, NONE), (2, 6, 100), (4, 5, NONE), (16, 7, NONE), (32, 4, NONE)];
    set(&world, node, ACCESS, &acl(&full)).unwrap();
    assert_eq!(mode(node), 0o774, "the mask shows as group bits");
    world.set(node, SetAttr { mode: Some(0o640), ..SetAttr::default() }).unwrap();
    let masked = [(1, 6, NONE), (2, 6, 100), (4, 5, NONE), (16, 4, NONE), (32, 0, NONE)];
    assert_eq!(get(&world, node, ACCESS), Ok(acl(&masked)));
    set(&world, node, ACCESS, &acl(&[(1, 7, NONE), (4, 5, NONE), (32, 1, NONE)])).unwrap();
    assert_eq!(mode(node), 0o751);
    assert_eq!(get(&world, node, ACCESS), Err(Error::NoData), "the mode says it all");
    assert_eq!(set(&world, node, ACCESS, &acl(&[(1, 7, NONE)])), Err(Error::Invalid));
    assert_eq!(set(&world, node, DEFAULT, &acl(&full)), Err(Error::AccessDenied));
    world.set(node, SetAttr { mode: Some(0o2755), ..SetAttr::default() }).unwrap();
    world.fs.setxattr(&world.root, node, ACCESS.as_bytes(), &acl(&full), 0, true).unwrap();
    assert_eq!(mode(node), 0o774, "a stranger to the group loses setgid");
    world.fs.removexattr(&world.root, node, ACCESS.as_bytes()).unwrap();
    world.fs.removexattr(&world.root, node, ACCESS.as_bytes()).unwrap();
}

#[test]
fn a_default_acl_is_inherited_in_place_of_the_umask() {
    let world = World::new();
    let dir = world.mkdir("d").unwrap().node;
    let list = [(1, 7, NONE), (2, 7, 100), (4, 5, NONE), (16, 7, NONE), (32, 5, NONE)];
    set(&world, dir, DEFAULT, &acl(&list)).unwrap();
    let caller = Caller { umask: 0o077, ..Caller::root() };
    let (file, _) = world.fs.create(&caller, dir, b"f", 0o666, libc::O_RDWR).unwrap();
    assert_eq!(file.attr.mode & 0o7777, 0o664);
    let cut = [(1, 6, NONE), (2, 7, 100), (4, 5, NONE), (16, 6, NONE), (32, 4, NONE)];
    assert_eq!(get(&world, file.node, ACCESS), Ok(acl(&cut)));
    assert_eq!(get(&world, file.node, DEFAULT), Err(Error::NoData));
    let sub = world.fs.mkdir(&caller, dir, b"sub", 0o777).unwrap();
    assert_eq!(sub.attr.mode & 0o7777, 0o775);
    assert_eq!(get(&world, sub.node, DEFAULT), Ok(acl(&list)));
    assert_eq!(get(&world, sub.node, ACCESS), Ok(acl(&list)));
    let link = world.fs.symlink(&caller, dir, b"l", b"x").unwrap();
    assert_eq!(get(&world, link.node, ACCESS), Err(Error::NoData));
    set(&world, dir, DEFAULT, &acl(&[(1, 7, NONE), (4, 5, NONE), (32, 0, NONE)])).unwrap();
    let (plain, _) = world.fs.create(&caller, dir, b"g", 0o666, libc::O_RDWR).unwrap();
    assert_eq!(plain.attr.mode & 0o7777, 0o640);
    assert_eq!(get(&world, plain.node, ACCESS), Err(Error::NoData));
    world.fs.removexattr(&world.root, dir, DEFAULT.as_bytes()).unwrap();
    let (bare, _) = world.fs.create(&caller, dir, b"h", 0o666, libc::O_RDWR).unwrap();
    assert_eq!(bare.attr.mode & 0o7777, 0o600);
}

#[test]
fn long_acls_are_inherited_whole() {
    let world = World::new();
    let dir = world.mkdir("d").unwrap().node;
    let mut list = vec![(1, 7, NONE)];
    list.extend((0..400).map(|uid| (2, 6, uid)));
    list.extend([(4, 5, NONE), (16, 7, NONE), (32, 5, NONE)]);
    set(&world, dir, DEFAULT, &acl(&list)).unwrap();
    let sub = world.mkdir("d/sub").unwrap();
    assert_eq!(get(&world, sub.node, DEFAULT), Ok(acl(&list)));
    assert_eq!(get(&world, sub.node, ACCESS).unwrap().len(), acl(&list).len());
    let world = world.crash();
    assert_eq!(get(&world, sub.node, DEFAULT), Ok(acl(&list)));
}
