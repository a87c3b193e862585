//! Use through a mount that shows other ids than the filesystem has (MOUNT_ATTR_IDMAP).
//!
//! The map is 100000 and on for 0 and on, as a container has it: user 101000 acts as 1000.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, mknodat, setxattr};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use crate::acls::acl;
use crate::support::TestMount;
use crate::sys::{self, Child};
use crate::twin::{Log, ROOT, User, alike, user};

const SHIFT: u32 = 100_000;

/// A mapped clone of a mount, taken away when dropped.
struct Mapped {
    dir: tempfile::TempDir,
}

impl Mapped {
    fn new(of: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, of, flags).unwrap();
        sys::set_idmap(tree.as_fd(), &namespace()).unwrap();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, dir.path(), flags).unwrap();
        Mapped { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        unmount(self.dir.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// A user namespace that maps that many ids. Its process only has to live until it is open.
fn namespace() -> File {
    let (ready, tell_ready) = rustix::pipe::pipe().unwrap();
    let (done, tell_done) = rustix::pipe::pipe().unwrap();
    let child = Child::run(&[&tell_ready, &done], || {
        if !sys::enter_user_namespace() || rustix::io::write(&tell_ready, b"x").is_err() {
            return 1;
        }
        i32::from(rustix::io::read(&done, &mut [0u8; 1]).is_err())
    });
    assert_eq!(rustix::io::read(&ready, &mut [0u8; 1]), Ok(1));
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", child.id()), format!("0 {SHIFT} 65536")).unwrap();
    }
    let namespace = File::open(format!("/proc/{}/ns/user", child.id())).unwrap();
    rustix::io::write(&tell_done, b"x").unwrap();
    assert_eq!(child.wait(), 0);
    namespace
}

fn mapped_user(id: u32) -> User {
    user(SHIFT + id)
}

/// Owner, group and mode of a file, through the mapped mount and by the filesystem itself.
fn ids(root: &Path, mapped: &Path, name: &str) -> String {
    let show = |dir: &Path| {
        let stat = fs::symlink_metadata(dir.join(name));
        stat.map(|s| format!("{}:{} {:o}", s.uid(), s.gid(), s.mode()))
            .map_err(|e| e.raw_os_error())
    };
    format!("{:?} {:?}", show(mapped), show(root))
}

fn errno<T>(result: io::Result<T>) -> Result<(), Option<i32>> {
    result.map(|_| ()).map_err(|error| error.raw_os_error())
}

fn plant(root: &Path) {
    fs::set_permissions(root, Permissions::from_mode(0o777)).unwrap();
    for (name, owner, mode) in
        [("root", 0, 0o644), ("mine", 1000, 0o600), ("outside", 90_000, 0o666)]
    {
        fs::write(root.join(name), b"x").unwrap();
        chown(root.join(name), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn new_files_belong_to_whom_the_map_says() {
    alike(|root, log| {
        plant(root);
        let mapped = Mapped::new(root);
        for name in ["root", "mine", "outside"] {
            log.note(name, ids(root, mapped.path(), name));
        }
        for (label, who) in [
            ("root", mapped_user(0)),
            ("1000", mapped_user(1000)),
            ("outside", user(7)),
            ("the host's root", ROOT),
        ] {
            who.run(mapped.path(), || {
                let mut made: Vec<(&str, Result<(), Option<i32>>)> = vec![
                    ("f", errno(fs::write("f", b"new"))),
                    ("d", errno(fs::create_dir("d"))),
                    ("l", errno(symlink("target", "l"))),
                    (
                        "p",
                        errno(
                            mknodat(CWD, "p", FileType::Fifo, Mode::RUSR, 0)
                                .map_err(io::Error::from),
                        ),
                    ),
                    ("h", errno(fs::hard_link("f", "h"))),
                ];
                let unnamed = OpenOptions::new()
                    .write(true)
                    .custom_flags(libc::O_TMPFILE)
                    .mode(0o600)
                    .open(".");
                made.push((
                    "t",
                    errno(unnamed.and_then(|file| {
                        sys::link_descriptor(&file, Path::new("t")).map_err(io::Error::from)
                    })),
                ));
                for (name, done) in made {
                    log.note(format!("{label} makes {name}"), done);
                }
            });
            for name in ["f", "d", "l", "p", "h", "t"] {
                log.note(format!("{name} of {label}"), ids(root, mapped.path(), name));
                let path = root.join(name);
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            }
        }
    });
}

#[test]
fn permissions_are_those_of_mapped_ids() {
    alike(|root, log| {
        plant(root);
        let list = acl(&[(1, 6, 0), (2, 4, 1001), (4, 0, 0), (8, 6, 3000), (16, 6, 0), (32, 0, 0)]);
        fs::write(root.join("listed"), b"x").unwrap();
        setxattr(root.join("listed"), "system.posix_acl_access", &list, XattrFlags::empty())
            .unwrap();
        let mapped = Mapped::new(root);
        let everybody = [
            ("root", mapped_user(0)),
            ("1000", mapped_user(1000)),
            ("1001", mapped_user(1001)),
            ("of group 3000", mapped_user(5).with_group(&[103_000])),
            ("of the host's group 3000", mapped_user(5).with_group(&[3000])),
            ("the host's 1000", user(1000)),
            ("the host's root", ROOT),
        ];
        for (label, who) in everybody {
            for name in ["root", "mine", "outside", "listed"] {
                let seen = who.run(mapped.path(), || {
                    let write = errno(OpenOptions::new().write(true).open(name));
                    let mode =
                        errno(fs::set_permissions(name, fs::metadata(name).unwrap().permissions()));
                    let owner = errno(chown(name, Some(101_000), None));
                    let outside = errno(chown(name, Some(5), None));
                    (errno(File::open(name)), write, mode, owner, outside)
                });
                log.note(format!("{name} by {label}"), (seen, ids(root, mapped.path(), name)));
            }
        }
        let mut shown = [0; 100];
        let len = getxattr(mapped.path().join("listed"), "system.posix_acl_access", &mut shown);
        log.note("the list as the mapped mount shows it", len.map(|len| shown[..len].to_vec()));
        let other = acl(&[(1, 6, 0), (2, 4, 101_007), (4, 0, 0), (16, 6, 0), (32, 0, 0)]);
        let set = mapped_user(1000).run(mapped.path(), || {
            setxattr("listed", "system.posix_acl_access", &other, XattrFlags::empty())
        });
        let len = getxattr(root.join("listed"), "system.posix_acl_access", &mut shown);
        log.note("one that was set through it", (set, len.map(|len| shown[..len].to_vec())));
    });
}

#[test]
fn sticky_and_set_group_id_directories_go_by_mapped_ids() {
    alike(|root, log: &mut Log| {
        plant(root);
        for (name, mode) in [("sticky", 0o1777), ("setgid", 0o2777)] {
            fs::create_dir(root.join(name)).unwrap();
            chown(root.join(name), Some(0), Some(2000)).unwrap();
            fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
        }
        let mapped = Mapped::new(root);
        for who in [1000, 1001] {
            mapped_user(who).run(mapped.path(), || {
                for dir in ["sticky", "setgid"] {
                    let name = format!("{dir}/of-{who}");
                    log.note(&name, errno(fs::write(&name, b"")));
                    log.note("its ids", fs::metadata(&name).map(|s| (s.uid(), s.gid())).ok());
                    let mode = Permissions::from_mode(0o2755);
                    log.note("with the bit", errno(fs::set_permissions(&name, mode)));
                    log.note("its mode", fs::metadata(&name).map(|s| s.mode()).ok());
                }
            });
        }
        let remove = || errno(fs::remove_file("sticky/of-1000"));
        for (label, who) in [("another", mapped_user(1001)), ("the host's 1000", user(1000))] {
            log.note(format!("removed by {label}"), who.run(mapped.path(), remove));
        }
        log.note("removed by its owner", mapped_user(1000).run(mapped.path(), remove));
    });
}

#[test]
fn snapshots_are_made_and_removed_by_who_may_write_to_the_root() {
    let m = TestMount::new();
    plant(m.root());
    fs::set_permissions(m.root(), Permissions::from_mode(0o755)).unwrap();
    let mapped = Mapped::new(m.root());
    let stranger = mapped_user(1000).run(mapped.path(), || errno(fs::create_dir(".snapshots/a")));
    assert_eq!(stranger, Err(Some(libc::EACCES)));
    let file = OpenOptions::new().write(true).open(m.path("root")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"dirty", 0).unwrap();
    let owner = mapped_user(0).run(mapped.path(), || {
        fs::create_dir(".snapshots/s")?;
        fs::rename(".snapshots/s", ".snapshots/t")?;
        fs::read_dir(".snapshots/t").map(Iterator::count)
    });
    assert_eq!(owner.map_err(|error| error.raw_os_error()), Ok(3));
    assert_eq!(fs::read(mapped.path().join(".snapshots/t/root")).unwrap(), b"dirty");
    let stat = fs::metadata(mapped.path().join(".snapshots/t/mine")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (101_000, 101_000));
    let read = |who: User| who.run(mapped.path(), || errno(File::open(".snapshots/t/mine")));
    assert_eq!(
        (read(mapped_user(1000)), read(mapped_user(1001))),
        (Ok(()), Err(Some(libc::EACCES)))
    );
    let stranger = mapped_user(1000).run(mapped.path(), || errno(fs::remove_dir(".snapshots/t")));
    assert_eq!(stranger, Err(Some(libc::EACCES)));
    let owner = mapped_user(0).run(mapped.path(), || errno(fs::remove_dir(".snapshots/t")));
    assert_eq!(owner, Ok(()));
    assert_eq!(fs::read_dir(m.path(".snapshots")).unwrap().count(), 0);
}

#[test]
fn changes_through_it_take_set_id_bits_from_who_may_not_keep_them() {
    alike(|root, log| {
        plant(root);
        let mapped = Mapped::new(root);
        let name: PathBuf = root.join("bits");
        for (mode, group) in [(0o6777, 1000), (0o2767, 2000), (0o2767, 1001)] {
            for (label, who) in [
                ("owner", mapped_user(1000)),
                ("other", mapped_user(1002)),
                ("the host's root", ROOT),
            ] {
                for append in [true, false] {
                    fs::write(&name, vec![1; 5000]).unwrap();
                    chown(&name, Some(1000), Some(group)).unwrap();
                    fs::set_permissions(&name, Permissions::from_mode(mode)).unwrap();
                    let done = who.run(mapped.path(), || {
                        let file = OpenOptions::new().write(true).open("bits")?;
                        if append {
                            return std::os::unix::fs::FileExt::write_all_at(&file, b"more", 5000);
                        }
                        Ok(rustix::fs::fallocate(
                            &file,
                            rustix::fs::FallocateFlags::empty(),
                            0,
                            9000,
                        )?)
                    });
                    log.note(
                        format!("{label}, {mode:o}, {append}"),
                        (errno(done), ids(root, mapped.path(), "bits")),
                    );
                }
            }
        }
    });
}
