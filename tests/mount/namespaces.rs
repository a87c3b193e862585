//! Extended attributes in each namespace, of each kind of file, by root and by others.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{
    CWD, FileType, Mode, XattrFlags, getxattr, lgetxattr, listxattr, llistxattr, lremovexattr,
    lsetxattr, mknodat, setxattr,
};
use rustix::io::Errno;

use crate::support::TestMount;
use crate::twin::{ROOT, alike, user};

const KINDS: [&str; 7] = ["file", "dir", "link", "dangling", "pipe", "device", "socket"];

fn plant(root: &Path) {
    fs::write(root.join("file"), b"").unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    symlink("file", root.join("link")).unwrap();
    symlink("absent", root.join("dangling")).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    mknodat(CWD, root.join("device"), FileType::CharacterDevice, Mode::RWXU, null).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    for kind in KINDS {
        std::os::unix::fs::lchown(root.join(kind), Some(1000), Some(1000)).unwrap();
        if !kind.contains("link") && kind != "dangling" {
            fs::set_permissions(root.join(kind), Permissions::from_mode(0o755)).unwrap();
        }
    }
}

fn names(path: &Path) -> Result<Vec<String>, Errno> {
    let mut list = vec![0u8; 1 << 16];
    let len = llistxattr(path, &mut list)?;
    let mut names: Vec<_> = list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    Ok(names)
}

#[test]
fn each_namespace_on_each_kind_of_file() {
    let long = format!("user.{}", "n".repeat(250));
    let too_long = format!("user.{}", "n".repeat(251));
    let keys = [
        "user.a",
        "user.",
        "user",
        "trusted.a",
        "trusted.",
        "security.a",
        "security.",
        "security.capability",
        "security.evm",
        "system.a",
        "system.posix_acl_access",
        "system.posix_acl_default",
        "other.a",
        "",
        ".",
        "USER.a",
        "user.a.b",
        "user.\u{e4}",
        &long,
        &too_long,
        "btrfs.compression",
        "osx.a",
        "user.overlay.x",
        "trusted.overlay.opaque",
    ];
    alike(|root, log| {
        plant(root);
        for (label, who) in [("root", ROOT), ("owner", user(1000)), ("other", user(1001))] {
            for kind in KINDS {
                for key in keys {
                    let seen = who.run(root, || {
                        let set = lsetxattr(kind, key, b"value", XattrFlags::empty());
                        let mut value = [0; 100];
                        let got = lgetxattr(kind, key, &mut value);
                        let through = getxattr(kind, key, &mut value);
                        let listed = names(Path::new(kind));
                        (set, got, through, listed)
                    });
                    let by_root = names(&root.join(kind));
                    let removed = who.run(root, || lremovexattr(kind, key));
                    let _ = lremovexattr(root.join(kind), key);
                    log.note(format!("{label}: {key} of {kind}"), (seen, by_root, removed));
                }
            }
        }
    });
}

#[test]
fn trusted_names_are_for_root_alone() {
    alike(|root, log| {
        plant(root);
        for kind in KINDS {
            for key in ["trusted.t", "security.s"] {
                lsetxattr(root.join(kind), key, b"1", XattrFlags::empty()).unwrap();
            }
            for (label, who) in [("root", ROOT), ("owner", user(1000)), ("other", user(1001))] {
                let seen = who.run(root, || {
                    let mut value = [0; 10];
                    let got = lgetxattr(kind, "trusted.t", &mut value);
                    let security = lgetxattr(kind, "security.s", &mut value);
                    let removed =
                        (lremovexattr(kind, "trusted.u"), lremovexattr(kind, "security.u"));
                    (names(Path::new(kind)), got, security, removed)
                });
                log.note(format!("{kind} by {label}"), seen);
            }
        }
    });
}

#[test]
fn others_need_the_files_permissions_for_user_attributes() {
    alike(|root, log| {
        for (name, directory) in [("f", false), ("d", true)] {
            let path = root.join(name);
            if directory {
                fs::create_dir(&path).unwrap();
            } else {
                fs::write(&path, b"").unwrap();
            }
            chown(&path, Some(1000), Some(1000)).unwrap();
            for mode in [0o644, 0o666, 0o600, 0o622, 0o1777, 0o1766, 0o000] {
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
                for (label, who) in [("owner", user(1000)), ("other", user(1001)), ("root", ROOT)] {
                    let seen = who.run(root, || {
                        let set = setxattr(name, "user.a", label.as_bytes(), XattrFlags::empty());
                        let mut value = [0; 10];
                        let got = getxattr(name, "user.a", &mut value);
                        let list = listxattr(name, &mut value);
                        (set, got, value, list)
                    });
                    log.note(format!("{name} {mode:o} by {label}"), seen);
                }
                lremovexattr(&path, "user.a").unwrap();
            }
        }
    });
}

#[test]
fn sizes_and_numbers_beyond_those_of_ext4() {
    let mut m = TestMount::new();
    let path = m.path("f");
    fs::write(&path, b"").unwrap();
    let value = |n: usize| vec![n as u8; 65_536];
    for n in 0..20 {
        setxattr(&path, format!("user.large-{n}"), &value(n), XattrFlags::empty()).unwrap();
    }
    let too_large = setxattr(&path, "user.x", &vec![0; 65_537], XattrFlags::empty());
    assert_eq!(too_large, Err(Errno::TOOBIG));
    // A list of names has 64 KiB at most: more names than that are refused, and not hidden.
    let mut made = 20;
    let refused = loop {
        let name = format!("user.small-{made:05}-{}", "x".repeat(100));
        match setxattr(&path, name, b"v", XattrFlags::empty()) {
            Ok(()) => made += 1,
            Err(errno) => break errno,
        }
        assert!(made < 10_000, "a list without end");
    };
    assert_eq!(refused, Errno::NOSPC);
    assert!(made > 500, "{made}");
    for _ in 0..2 {
        assert_eq!(names(&path).unwrap().len(), made);
        for n in 0..20 {
            let mut got = vec![0; 65_536];
            assert_eq!(getxattr(&path, format!("user.large-{n}"), &mut got), Ok(65_536));
            assert!(got == value(n), "value {n}");
        }
        m.remount();
    }
    // An old name's value can be changed, and after a removal there is room for a new one.
    setxattr(&path, "user.large-3", b"now short", XattrFlags::empty()).unwrap();
    lremovexattr(&path, "user.large-4").unwrap();
    setxattr(&path, "user.other-4", b"", XattrFlags::empty()).unwrap();
    assert_eq!(names(&path).unwrap().len(), made);
    assert_eq!(getxattr(&path, "user.large-3", &mut [0u8; 100]), Ok(9));
}

/// overlayfs copies a file up with its bits and capabilities first and its owner last, from within the kernel.
#[test]
fn an_overlay_that_copies_a_file_up_keeps_its_privileges() {
    let m = TestMount::new();
    let script = r#"
        lower=$(mktemp -d); merged=$(mktemp -d)
        trap 'umount "$merged"; rm -r "$lower" "$merged"' EXIT
        mkdir upper work
        echo x > "$lower/program"; chown 1:2 "$lower/program"; chmod 6755 "$lower/program"
        cp /bin/true "$lower/able"; setcap cap_net_raw+ep "$lower/able"
        cp -a "$lower/able" "$lower/alone"
        mount -t overlay overlay -o "lowerdir=$lower,upperdir=upper,workdir=work,metacopy=on" "$merged"
        touch "$merged/program" "$merged/able"
        stat -c '%a %u %g' "$merged/program" upper/program
        getcap "$merged/able" upper/able | sed 's/.* //'
        chmod 755 "$merged/alone"; getcap "$merged/alone" upper/alone | sed 's/.* //'
        chown 3 upper/program; stat -c %a upper/program
        umount "$merged"; truncate -s 5 upper/able; getcap upper/able
        mount -t overlay overlay -o "lowerdir=$lower,upperdir=upper,workdir=work" "$merged"
    "#;
    let mut shell = std::process::Command::new("bash");
    let done = shell.args(["-euc", script]).current_dir(m.root()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let capable = "cap_net_raw=ep\n".repeat(4);
    assert_eq!(text, format!("6755 1 2\n6755 1 2\n{capable}755\n"));
}
