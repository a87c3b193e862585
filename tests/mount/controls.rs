//! ioctls, O_PATH, access checks, figures of the filesystem: what is there, and what is refused cleanly.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, OFlags, XattrFlags, fchmod, fsetxattr, openat, readlinkat, statat,
};
use rustix::io::Errno;

use crate::support::TestMount;
use crate::sys::{faccess, ioctl};
use crate::twin::{ROOT, alike, user};

/// Requests that filesystems answer, with the room that they need.
const REQUESTS: [(&str, u64, usize); 13] = [
    ("FS_IOC_GETFLAGS", 0x8008_6601, 8),
    ("FS_IOC_SETFLAGS", 0x4008_6602, 8),
    ("FS_IOC_GETVERSION", 0x8008_7601, 8),
    ("FS_IOC_FSGETXATTR", 0x801c_581f, 28),
    ("FS_IOC_FSSETXATTR", 0x401c_5820, 28),
    ("FS_IOC_FIEMAP", 0xc020_660b, 4096),
    ("FICLONE", 0x4004_9409, 8),
    ("FIDEDUPERANGE", 0xc018_9436, 4096),
    ("FS_IOC_GETFSLABEL", 0x8100_9431, 256),
    ("FITRIM", 0xc018_5879, 24),
    ("FS_IOC_ENABLE_VERITY", 0x4080_6685, 128),
    ("FS_IOC_SET_ENCRYPTION_POLICY", 0x800c_6613, 16),
    ("TCGETS", 0x5401, 64),
];

#[test]
fn requests_that_are_not_for_this_filesystem_are_refused_cleanly() {
    let m = TestMount::new();
    fs::write(m.path("f"), vec![1; 100_000]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(m.path("f")).unwrap();
    for opened in [&file, &File::open(m.root()).unwrap()] {
        for (name, request, room) in REQUESTS {
            let refused = ioctl(opened, request, &mut vec![0; room]);
            let clean = [
                Errno::NOTTY,
                Errno::OPNOTSUPP,
                Errno::INVAL,
                Errno::ISDIR,
                Errno::BADF,
                Errno::XDEV,
            ];
            assert!(refused.is_err_and(|errno| clean.contains(&errno)), "{name}: {refused:?}");
        }
    }
    // The kernel answers these itself; the first with a hole, which a boot loader takes for what it is.
    let mut block = [0u8; 4];
    ioctl(&file, 1, &mut block).unwrap();
    assert_eq!(u32::from_ne_bytes(block), 0, "FIBMAP");
    let mut number = [0u8; 4];
    ioctl(&file, libc::FIONREAD, &mut number).unwrap();
    assert_eq!(u32::from_ne_bytes(number), 100_000);
    ioctl(&file, 2, &mut number).unwrap();
    assert_eq!(u32::from_ne_bytes(number), 4096, "FIGETBSZ");
}

#[test]
fn a_descriptor_for_the_path_alone() {
    alike(|root, log| {
        fs::write(root.join("f"), b"x").unwrap();
        fs::create_dir(root.join("d")).unwrap();
        symlink("f", root.join("l")).unwrap();
        let dir = File::open(root).unwrap();
        for name in ["f", "d", "l"] {
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let path = openat(&dir, name, flags, Mode::empty()).unwrap();
            log.note(
                format!("{name}: kind"),
                statat(&path, "", AtFlags::EMPTY_PATH).unwrap().st_mode,
            );
            log.note("chmod", fchmod(&path, Mode::RUSR));
            log.note("attribute", fsetxattr(&path, "user.a", b"x", XattrFlags::empty()));
            log.note("read", rustix::io::read(&path, &mut [0u8; 1]));
            log.note("link", readlinkat(&path, "", Vec::new()).map(|target| target.into_bytes()));
            log.note("below", openat(&path, ".", OFlags::RDONLY, Mode::empty()).map(|_| ()));
            let again = format!("/proc/self/fd/{}", path.as_raw_fd());
            let errno = |error: std::io::Error| error.raw_os_error();
            log.note("opened again", File::open(&again).map(|_| ()).map_err(errno));
            log.note(
                "chmod by /proc",
                fs::set_permissions(&again, Permissions::from_mode(0o700)).map_err(errno),
            );
            fs::rename(root.join(name), root.join("moved")).unwrap();
            log.note("kind, moved", statat(&path, "", AtFlags::EMPTY_PATH).unwrap().st_nlink);
            fs::rename(root.join("moved"), root.join(name)).unwrap();
        }
    });
}

#[test]
fn access_is_checked_for_the_real_and_the_effective_user() {
    alike(|root, log| {
        for (name, mode) in [("f", 0o640), ("x", 0o751), ("none", 0)] {
            fs::write(root.join(name), b"").unwrap();
            chown(root.join(name), Some(1000), Some(2000)).unwrap();
            fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
        }
        symlink("absent", root.join("l")).unwrap();
        let everybody = [
            ("root", ROOT),
            ("owner", user(1000)),
            ("member", user(1001).with_group(&[2000])),
            ("other", user(1002)),
        ];
        for (label, who) in everybody {
            for name in ["f", "x", "none", "l", "absent", "."] {
                for mode in
                    [libc::F_OK, libc::R_OK, libc::W_OK, libc::X_OK, libc::R_OK | libc::X_OK]
                {
                    for flags in [0, libc::AT_EACCESS, libc::AT_SYMLINK_NOFOLLOW] {
                        let seen = who.run(root, || faccess(libc::AT_FDCWD, name, mode, flags));
                        log.note(format!("{label}, {name}, {mode}, {flags:#x}"), seen);
                    }
                }
            }
        }
    });
}

#[test]
fn descriptors_run_out_as_everywhere_and_come_back() {
    // In a process of its own: the limit is a process's.
    let m = TestMount::new();
    fs::write(m.path("f"), b"x").unwrap();
    let script = "ulimit -n 20; i=0; while [ $i -lt 30 ]; do i=$((i+1)); eval \"exec $((i+9))<f\" || exit 7; done";
    let said = std::process::Command::new("bash")
        .args(["-c", script])
        .current_dir(m.root())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        !said.status.success() && text.contains("oo many open files")
            || text.contains("ad file descriptor"),
        "{text}"
    );
    assert_eq!(fs::read(m.path("f")).unwrap(), b"x");
}

#[test]
fn figures_of_the_filesystem_are_sane() {
    let m = TestMount::new();
    let before = rustix::fs::statvfs(m.root()).unwrap();
    assert_eq!((before.f_bsize, before.f_frsize, before.f_namemax), (4096, 4096, 255));
    assert!(
        before.f_blocks > 0
            && before.f_bavail <= before.f_bfree
            && before.f_bfree <= before.f_blocks
    );
    assert!(
        before.f_files > 0 && before.f_ffree <= before.f_files && before.f_favail <= before.f_ffree
    );
    let file = File::create(m.path("f")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 32 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let after = rustix::fs::statvfs(m.path("f")).unwrap();
    assert_eq!(after.f_blocks, before.f_blocks);
    let taken = (before.f_bfree - after.f_bfree) * 4096;
    assert!((32 << 20..40 << 20).contains(&taken), "{taken} bytes for 32 MiB");
    assert_eq!(file.metadata().unwrap().blocks() * 512, 32 << 20);
    // By any descriptor, of one for the path alone too.
    let path = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(m.path("f")).unwrap();
    assert_eq!(rustix::fs::fstatvfs(&path).unwrap().f_bfree, after.f_bfree);
    // A program that wants to know what it is on sees FUSE.
    assert_eq!(rustix::fs::statfs(m.root()).unwrap().f_type, 0x6573_5546);
    assert_ne!(fs::metadata(m.root()).unwrap().dev(), fs::metadata("/").unwrap().dev());
}

/// The kernel's own list of open files and of programs' directories is right across names.
#[test]
fn paths_of_open_files_follow_renames() {
    alike(|root, log| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        let file = File::create(root.join("a/b/f")).unwrap();
        let shown = |file: &File| {
            let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
            path.strip_prefix(root).map(Path::to_path_buf).ok()
        };
        log.note("at first", shown(&file));
        fs::rename(root.join("a/b"), root.join("c")).unwrap();
        log.note("moved", shown(&file));
        fs::hard_link(root.join("c/f"), root.join("g")).unwrap();
        fs::remove_file(root.join("c/f")).unwrap();
        log.note("by another name", shown(&file).map(|path| path.display().to_string()));
    });
}
