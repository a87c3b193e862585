//! Mounting, unmounting, and what is said when that is not possible.

use std::fs::{self, File};
use std::time::Duration;

use amberfs::fuse::{Mount, MountError, MountOptions};

use crate::support::{TestMount, eventually};

fn line(root: &std::path::Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    mounts.lines().find(|line| line.contains(root.to_str().unwrap())).map(str::to_owned)
}

#[test]
fn the_mount_table_names_it() {
    let options = MountOptions {
        fs_name: "pool:main".into(),
        nodev: true,
        nosuid: true,
        noexec: true,
        noatime: true,
        ..MountOptions::default()
    };
    let m = TestMount::with(options);
    let found = line(m.root()).unwrap();
    assert!(found.starts_with("pool:main "), "{found}");
    for word in ["fuse.amberfs", "nodev", "nosuid", "noexec", "noatime", "default_permissions"] {
        assert!(found.contains(word), "{word} is not in {found}");
    }
}

#[test]
fn a_read_only_mount_refuses_changes() {
    let m = TestMount::with(MountOptions { read_only: true, ..MountOptions::default() });
    let error = File::create(m.path("f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn a_busy_mount_stays_and_a_free_one_goes() {
    let m = TestMount::new();
    let held = File::create(m.path("f")).unwrap();
    assert!(matches!(m.mount().unmount(), Err(MountError::Busy { .. })));
    assert!(!m.mount().session_ended());
    fs::write(m.path("g"), b"still served").unwrap();
    drop(held);
    eventually(|| m.mount().unmount());
    assert!(m.mount().session_ended() && line(m.root()).is_none());
    m.mount().unmount().unwrap();
}

#[test]
fn an_unmount_from_outside_ends_the_session() {
    let m = TestMount::new();
    assert!(!m.mount().wait_timeout(Duration::from_millis(10)));
    let status = std::process::Command::new("umount").arg(m.root()).status().unwrap();
    assert!(status.success());
    assert!(m.mount().wait_timeout(Duration::from_secs(10)));
    m.mount().wait();
}

#[test]
fn a_dropped_mount_is_gone_even_if_busy() {
    let m = TestMount::new();
    let root = m.root().to_path_buf();
    let held = File::create(m.path("f")).unwrap();
    drop(m);
    assert!(line(&root).is_none());
    drop(held);
}

#[test]
fn a_read_ahead_above_the_kernels_default() {
    use std::os::unix::fs::MetadataExt;
    let m = TestMount::new();
    let device = fs::metadata(m.root()).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let read = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap();
    assert!(read.trim().parse::<u32>().unwrap() >= 1024, "{read}");
}

#[test]
fn what_cannot_be_mounted_on_is_named() {
    let m = TestMount::new();
    let dir = tempfile::tempdir().unwrap();
    let attempt = |path: &std::path::Path| Mount::new(m.fs(), path, &MountOptions::default());
    let missing = attempt(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(missing, MountError::MissingMountPoint { .. }), "{missing}");
    assert!(missing.to_string().contains("absent"));
    fs::write(dir.path().join("file"), b"").unwrap();
    let file = attempt(&dir.path().join("file")).unwrap_err();
    assert!(matches!(file, MountError::NotADirectory { .. }), "{file}");
}
