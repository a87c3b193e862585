//! POSIX ACLs: who may do what, the mask, what new files inherit; compared with the host's filesystem.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::Path;

use rustix::fs::{
    CWD, FileType, Mode, XattrFlags, getxattr, listxattr, mknodat, removexattr, setxattr,
};
use rustix::io::Errno;

use crate::sys;
use crate::twin::{Log, ROOT, User, alike, user};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// A list as the kernel passes it: version 2, then tag, permissions and id of each entry.
pub(crate) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        // Those that name nobody have no id.
        let id = if matches!(*tag, USER | GROUP) { *id } else { u32::MAX };
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Owner, then a named user, the group, a named group, mask and others.
fn list(
    owner: u16,
    named: (u32, u16),
    group: u16,
    team: (u32, u16),
    mask: u16,
    other: u16,
) -> Vec<u8> {
    acl(&[
        (USER_OBJ, owner, 0),
        (USER, named.1, named.0),
        (GROUP_OBJ, group, 0),
        (GROUP, team.1, team.0),
        (MASK, mask, 0),
        (OTHER, other, 0),
    ])
}

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 1 << 16];
    let len = getxattr(path, name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

fn describe(path: &Path) -> String {
    let stat = fs::symlink_metadata(path).unwrap();
    let hex = |value: Result<Vec<u8>, Errno>| {
        value.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    let mut names = vec![0u8; 4096];
    let len = listxattr(path, &mut names).unwrap();
    let mut names: Vec<_> = names[..len].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    names.sort();
    let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
    let (access, default) = (hex(get(path, ACCESS)), hex(get(path, DEFAULT)));
    format!("{:o} access {access:?} default {default:?} {names:?}", stat.mode())
}

/// What the user may do with `f`: read, write, execute.
fn rights(who: User, dir: &Path, name: &str) -> String {
    who.run(dir, || {
        let open = |write: bool| {
            let opened = OpenOptions::new().read(!write).write(write).open(name);
            opened.map(|_| ()).map_err(|error| error.raw_os_error())
        };
        let execute = sys::faccess(libc::AT_FDCWD, name, libc::X_OK, 0);
        let effective = sys::faccess(libc::AT_FDCWD, name, libc::R_OK, libc::AT_EACCESS);
        format!("{:?} {:?} {execute:?} {effective:?}", open(false), open(true))
    })
}

const EVERYBODY: &[(&str, User)] = &[
    ("root", ROOT),
    ("the owner", User { uid: 1000, gid: 1000, groups: &[], umask: 0o022 }),
    ("the named user", User { uid: 1001, gid: 1001, groups: &[], umask: 0o022 }),
    ("the named user in the group", User { uid: 1001, gid: 2000, groups: &[], umask: 0o022 }),
    ("a member", User { uid: 1002, gid: 2000, groups: &[], umask: 0o022 }),
    (
        "a member by a supplementary group",
        User { uid: 1002, gid: 5, groups: &[6, 2000, 7], umask: 0o022 },
    ),
    ("one of the named group", User { uid: 1003, gid: 3000, groups: &[], umask: 0o022 }),
    (
        "one of the named group, supplementary",
        User { uid: 1003, gid: 5, groups: &[6, 7, 3000], umask: 0o022 },
    ),
    ("one of both groups", User { uid: 1003, gid: 5, groups: &[2000, 3000], umask: 0o022 }),
    ("a stranger", User { uid: 1004, gid: 1004, groups: &[], umask: 0o022 }),
];

#[test]
fn a_list_decides_for_everybody() {
    alike(|root, log| {
        let file = root.join("f");
        fs::write(&file, b"x").unwrap();
        chown(&file, Some(1000), Some(2000)).unwrap();
        let lists = [
            list(7, (1001, 4), 0, (3000, 6), 7, 0),
            list(0, (1001, 7), 4, (3000, 2), 7, 0),
            list(6, (1001, 7), 7, (3000, 7), 4, 7),
            list(6, (1001, 7), 7, (3000, 7), 0, 7),
            list(6, (1001, 0), 0, (3000, 0), 7, 7),
            acl(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)]),
        ];
        for (number, value) in lists.iter().enumerate() {
            log.note("set", setxattr(&file, ACCESS, value, XattrFlags::empty()));
            log.note("shown", describe(&file));
            for (label, who) in EVERYBODY {
                log.note(format!("list {number}, {label}"), rights(*who, root, "f"));
            }
            for mode in [0o640, 0o777, 0o070, 0o604] {
                fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
                log.note(format!("list {number}, chmod {mode:o}"), describe(&file));
                for (label, who) in EVERYBODY {
                    log.note(format!("list {number}, {mode:o}, {label}"), rights(*who, root, "f"));
                }
            }
            log.note("removed", removexattr(&file, ACCESS));
            log.note("shown", describe(&file));
        }
    });
}

#[test]
fn a_directorys_list_decides_over_its_entries() {
    alike(|root, log| {
        let dir = root.join("d");
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(1000), Some(2000)).unwrap();
        fs::write(dir.join("inside"), b"x").unwrap();
        for (number, value) in [
            list(7, (1001, 7), 0, (3000, 5), 7, 0),
            list(7, (1001, 1), 3, (3000, 4), 7, 0),
            list(7, (1001, 7), 7, (3000, 7), 5, 0),
        ]
        .iter()
        .enumerate()
        {
            setxattr(&dir, ACCESS, value, XattrFlags::empty()).unwrap();
            for (label, who) in EVERYBODY {
                let seen = who.run(root, || {
                    let errno = |error: io::Error| error.raw_os_error();
                    let listed = fs::read_dir("d").map(Iterator::count).map_err(errno);
                    let found = fs::metadata("d/inside").map(|_| ()).map_err(errno);
                    let made = fs::write("d/new", b"").map_err(errno);
                    let removed = fs::remove_file("d/new").map_err(errno);
                    format!("{listed:?} {found:?} {made:?} {removed:?}")
                });
                log.note(format!("list {number}, {label}"), seen);
            }
        }
    });
}

fn make_everything(who: User, dir: &Path, log: &mut Log, what: &str) {
    let mut made: Vec<(String, io::Result<()>)> = Vec::new();
    who.run(dir, || {
        for mode in [0o666u32, 0o777, 0o600, 0o2640] {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(format!("f{mode:o}"));
            made.push((format!("f{mode:o}"), file.map(|_| ())));
            made.push((
                format!("d{mode:o}"),
                fs::DirBuilder::new().mode(mode).create(format!("d{mode:o}")),
            ));
            let fifo =
                mknodat(CWD, format!("p{mode:o}"), FileType::Fifo, Mode::from_raw_mode(mode), 0);
            made.push((format!("p{mode:o}"), fifo.map_err(io::Error::from)));
            let regular = mknodat(
                CWD,
                format!("r{mode:o}"),
                FileType::RegularFile,
                Mode::from_raw_mode(mode),
                0,
            );
            made.push((format!("r{mode:o}"), regular.map_err(io::Error::from)));
            let unnamed =
                OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(mode).open(".");
            made.push((
                format!("t{mode:o}"),
                unnamed.and_then(|file| {
                    use std::os::fd::AsRawFd;
                    let from = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
                    let flags = rustix::fs::AtFlags::SYMLINK_FOLLOW;
                    Ok(rustix::fs::linkat(CWD, from, CWD, format!("t{mode:o}"), flags)?)
                }),
            ));
        }
        made.push(("s".into(), std::os::unix::net::UnixListener::bind("s").map(|_| ())));
        made.push(("l".into(), symlink("target", "l")));
    });
    for (name, done) in made {
        let shown = if name == "l" { String::new() } else { describe(&dir.join(&name)) };
        log.note(format!("{what}: {name}"), (done.map_err(|error| error.raw_os_error()), shown));
    }
}

#[test]
fn new_files_inherit_default_lists_and_the_umask_does_not_count() {
    alike(|root, log| {
        let defaults = [
            list(7, (1001, 6), 5, (3000, 7), 7, 0),
            list(7, (1001, 7), 7, (3000, 7), 4, 4),
            list(0, (1001, 7), 0, (3000, 7), 7, 0),
            acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 4, 0)]),
        ];
        for (number, value) in defaults.iter().enumerate() {
            for (umask, who) in [(0o077, ROOT), (0o022, user(1000)), (0, user(1001))] {
                let dir = root.join(format!("d{number}-{}", who.uid));
                fs::create_dir(&dir).unwrap();
                fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
                setxattr(&dir, DEFAULT, value, XattrFlags::empty()).unwrap();
                let what = format!("default {number}, umask {umask:o}, user {}", who.uid);
                log.note(&what, describe(&dir));
                make_everything(who.with_umask(umask), &dir, log, &what);
                // And one level further down.
                let below = dir.join("d777");
                fs::set_permissions(&below, Permissions::from_mode(0o777)).unwrap();
                make_everything(who.with_umask(umask), &below, log, &format!("{what}, below"));
            }
        }
        let plain = root.join("plain");
        fs::create_dir(&plain).unwrap();
        make_everything(ROOT.with_umask(0o027), &plain, log, "no default");
    });
}

#[test]
fn lists_that_are_wrong_are_refused_and_who_may_set_them() {
    alike(|root, log| {
        let (file, dir) = (root.join("f"), root.join("d"));
        fs::write(&file, b"").unwrap();
        fs::create_dir(&dir).unwrap();
        symlink("f", root.join("l")).unwrap();
        for path in [&file, &dir] {
            chown(path, Some(1000), Some(2000)).unwrap();
        }
        let good = list(7, (1001, 4), 0, (3000, 6), 7, 0);
        let mut unknown_version = good.clone();
        unknown_version[0] = 3;
        let bad: [(&str, Vec<u8>); 8] = [
            ("empty", Vec::new()),
            ("header alone", acl(&[])),
            ("cut", good[..good.len() - 1].to_vec()),
            ("another version", unknown_version),
            ("no mask", acl(&[(USER_OBJ, 7, 0), (USER, 7, 5), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)])),
            ("no owner", acl(&[(GROUP_OBJ, 7, 0), (OTHER, 7, 0)])),
            ("bits beyond", acl(&[(USER_OBJ, 8, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)])),
            (
                "twice the same",
                acl(&[
                    (USER_OBJ, 7, 0),
                    (USER, 7, 5),
                    (USER, 7, 5),
                    (GROUP_OBJ, 7, 0),
                    (MASK, 7, 0),
                    (OTHER, 7, 0),
                ]),
            ),
        ];
        for (what, value) in &bad {
            for name in [ACCESS, DEFAULT] {
                for path in [&file, &dir] {
                    let set = setxattr(path, name, value, XattrFlags::empty());
                    log.note(
                        format!("{what} as {name} of {:?}", path.file_name()),
                        (set, describe(path)),
                    );
                    let _ = removexattr(path, name);
                }
            }
        }
        for name in [ACCESS, DEFAULT] {
            for path in ["f", "d", "l"] {
                for (label, who) in EVERYBODY {
                    let set = who.run(root, || setxattr(path, name, &good, XattrFlags::empty()));
                    let link = who.run(root, || {
                        rustix::fs::lsetxattr(path, name, &good, XattrFlags::empty())
                    });
                    let removed = who.run(root, || removexattr(path, name));
                    log.note(format!("{label}: {name} of {path}"), (set, link, removed));
                }
                let twice = (0..2).map(|_| removexattr(root.join(path), name)).collect::<Vec<_>>();
                log.note(format!("{name} of {path} removed twice"), twice);
                for flags in [XattrFlags::REPLACE, XattrFlags::CREATE, XattrFlags::CREATE] {
                    log.note(
                        format!("{name} of {path}, {flags:?}"),
                        setxattr(root.join(path), name, &good, flags),
                    );
                }
            }
        }
    });
}

#[test]
fn setting_a_list_outside_the_group_takes_set_group_id_away() {
    alike(|root, log| {
        let good = list(7, (1001, 4), 5, (3000, 6), 7, 0);
        for (label, who) in
            [("owner", user(1000)), ("member", user(1000).with_group(&[2000])), ("root", ROOT)]
        {
            for name in ["f", "d"] {
                let path = root.join(name);
                if name == "f" {
                    fs::write(&path, b"").unwrap();
                } else {
                    fs::create_dir(&path).unwrap();
                }
                chown(&path, Some(1000), Some(2000)).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o2775)).unwrap();
                let set = who.run(root, || setxattr(name, ACCESS, &good, XattrFlags::empty()));
                log.note(format!("{label}, {name}"), (set, describe(&path)));
                let mode = fs::metadata(&path).unwrap().mode();
                log.note("mode", mode & 0o7777);
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            }
        }
    });
}

#[test]
fn long_lists_are_kept() {
    let mut entries = vec![(USER_OBJ, 7, 0)];
    entries.extend((0..100).map(|id| (USER, 6, 5000 + id)));
    entries.extend([(GROUP_OBJ, 5, 0), (MASK, 7, 0), (OTHER, 0, 0)]);
    let long = acl(&entries);
    alike(|root, log| {
        fs::create_dir(root.join("d")).unwrap();
        for name in [ACCESS, DEFAULT] {
            setxattr(root.join("d"), name, &long, XattrFlags::empty()).unwrap();
        }
        fs::write(root.join("d/f"), b"").unwrap();
        log.note("inherited", describe(&root.join("d/f")));
        fs::set_permissions(root.join("d"), Permissions::from_mode(0o700)).unwrap();
        log.note("after chmod", describe(&root.join("d")));
    });
}

#[test]
fn the_tools_show_what_they_set() {
    alike(|root, log| {
        let script = "mkdir d; setfacl -m u:1001:rwx,g:3000:r-x,d:u:1001:rw,d:o::- d; : > d/f; mkdir d/s; \
            getfacl -n d d/f d/s; setfacl -x u:1001 d; setfacl -k d/s; chmod 700 d/f; getfacl -n d d/f d/s; \
            setfacl -b d/f; getfacl -n d/f; ls -l d | tail -n +2 | cut -c1-11";
        let output = std::process::Command::new("sh")
            .args(["-euc", script])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        log.note("said", String::from_utf8_lossy(&output.stdout));
    });
}
