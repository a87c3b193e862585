//! stat, chmod, chown, utimens, statfs.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use rustix::fs::{AtFlags, CWD, StatxFlags, Timespec, Timestamps, utimensat};

use crate::support::TestMount;

#[test]
fn mode_and_owner_are_set_and_survive_a_remount() {
    let mut m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"x").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o4751)).unwrap();
    chown(&file, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o4751)).unwrap();
    for _ in 0..2 {
        let stat = fs::metadata(&file).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o4751);
        assert_eq!((stat.uid(), stat.gid(), stat.nlink(), stat.size()), (1234, 4321, 1, 1));
        m.remount();
    }
}

#[test]
fn times_are_kept_to_the_nanosecond_and_before_1970() {
    let mut m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"x").unwrap();
    let times = Timestamps {
        last_access: Timespec { tv_sec: -1_000_000_007, tv_nsec: 123_456_789 },
        last_modification: Timespec { tv_sec: -3, tv_nsec: 999_999_999 },
    };
    utimensat(CWD, &file, &times, AtFlags::empty()).unwrap();
    for _ in 0..2 {
        let stat = fs::metadata(&file).unwrap();
        assert_eq!((stat.atime(), stat.atime_nsec()), (-1_000_000_007, 123_456_789));
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (-3, 999_999_999));
        m.remount();
    }
}

#[test]
fn writing_moves_mtime_and_ctime_and_they_stay_after_a_remount() {
    let mut m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"x").unwrap();
    let before = fs::metadata(&file).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&file, b"yy").unwrap();
    let after = fs::metadata(&file).unwrap();
    let mtime = |stat: &fs::Metadata| (stat.mtime(), stat.mtime_nsec());
    let ctime = |stat: &fs::Metadata| (stat.ctime(), stat.ctime_nsec());
    assert!(mtime(&after) > mtime(&before) && ctime(&after) > ctime(&before));
    m.remount();
    assert_eq!(mtime(&fs::metadata(&file).unwrap()), mtime(&after));
}

#[test]
fn birth_time_is_there_and_does_not_move() {
    let m = TestMount::new();
    let file = m.path("f");
    let birth = |path| {
        let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BTIME).unwrap();
        assert_ne!(stat.stx_mask & StatxFlags::BTIME.bits(), 0);
        (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)
    };
    fs::write(&file, b"x").unwrap();
    let first = birth(&file);
    assert!(first.0 > 1_500_000_000);
    fs::write(&file, b"y").unwrap();
    assert_eq!(birth(&file), first);
}

#[test]
fn a_writer_without_the_right_to_takes_setuid_away() {
    let m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"x").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o6777)).unwrap();
    fs::set_permissions(m.root(), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(m.root().parent().unwrap(), Permissions::from_mode(0o755)).ok();
    // As another user; root keeps the bits.
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", "echo z >> \"$0\""])
        .arg(&file)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o777);
}

#[test]
fn permissions_are_checked() {
    let m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"x").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let read = std::process::Command::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups", "cat"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!read.status.success());
    assert!(String::from_utf8_lossy(&read.stderr).contains("Permission denied"));
}

#[test]
fn statfs_has_plausible_figures() {
    let m = TestMount::new();
    File::create(m.path("f")).unwrap();
    let figures = rustix::fs::statvfs(m.root()).unwrap();
    assert_eq!((figures.f_bsize, figures.f_namemax), (4096, 255));
    assert!(figures.f_blocks > 0 && figures.f_bfree > 0 && figures.f_bfree <= figures.f_blocks);
    assert!(figures.f_bavail <= figures.f_bfree);
}
