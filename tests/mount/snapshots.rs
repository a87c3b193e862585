//! `.snapshots` as a shell sees it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::support::TestMount;

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn names(path: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn mkdir_freezes_and_rmdir_deletes() {
    let mut m = TestMount::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), b"then").unwrap();
    fs::create_dir(m.path(".snapshots/one")).unwrap();
    fs::write(m.path("d/f"), b"now").unwrap();
    fs::write(m.path("d/g"), b"new").unwrap();
    for _ in 0..2 {
        assert_eq!(fs::read(m.path(".snapshots/one/d/f")).unwrap(), b"then");
        assert_eq!(fs::read(m.path("d/.snapshots/one/f")).unwrap(), b"then");
        assert_eq!(names(&m.path("d/.snapshots/one")), ["f"]);
        assert_eq!(names(&m.path(".snapshots")), ["one"]);
        assert_eq!(fs::read(m.path("d/f")).unwrap(), b"now");
        m.remount();
    }
    fs::remove_dir(m.path(".snapshots/one")).unwrap();
    assert!(names(&m.path(".snapshots")).is_empty());
    assert_eq!(errno(fs::metadata(m.path("d/.snapshots/one"))), Some(libc::ENOENT));
}

#[test]
fn it_is_hidden_from_listings_and_has_numbers_of_its_own() {
    let m = TestMount::new();
    fs::write(m.path("f"), b"x").unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    assert_eq!(names(m.root()), ["f"]);
    let number = |name: &str| fs::metadata(m.path(name)).unwrap().ino();
    let all = [".", ".snapshots", ".snapshots/s", "f", ".snapshots/s/f"].map(number);
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "{all:?}");
}

#[test]
fn nothing_inside_changes() {
    let m = TestMount::new();
    fs::write(m.path("f"), b"x").unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    let inside = m.path(".snapshots/s");
    let expected = Some(libc::EROFS);
    assert_eq!(errno(OpenOptions::new().write(true).open(inside.join("f"))), expected);
    assert_eq!(errno(File::create(inside.join("new"))), expected);
    assert_eq!(errno(fs::create_dir(inside.join("new"))), expected);
    assert_eq!(errno(fs::remove_file(inside.join("f"))), expected);
    assert_eq!(errno(fs::rename(inside.join("f"), inside.join("g"))), expected);
    assert_eq!(errno(fs::hard_link(inside.join("f"), inside.join("g"))), expected);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    assert_eq!(errno(fs::set_permissions(inside.join("f"), mode)), expected);
    assert_eq!(fs::read(inside.join("f")).unwrap(), b"x");
}

#[test]
fn names_are_checked_and_only_the_root_makes_snapshots() {
    let m = TestMount::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    assert_eq!(errno(fs::create_dir(m.path(".snapshots/s"))), Some(libc::EEXIST));
    assert_eq!(errno(fs::create_dir(m.path(".snapshots/.x"))), Some(libc::EINVAL));
    assert_eq!(errno(fs::create_dir(m.path("d/.snapshots/t"))), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_dir(m.path("d/.snapshots/s"))), Some(libc::EPERM));
    assert_eq!(errno(File::create(m.path(".snapshots/f"))), Some(libc::EPERM));
    assert_eq!(errno(fs::create_dir(m.path("d/.snapshots"))), Some(libc::EEXIST));
    assert_eq!(errno(fs::remove_dir(m.path(".snapshots/absent"))), Some(libc::ENOENT));
}

#[test]
fn nothing_is_moved_into_snapshots_or_out() {
    let m = TestMount::new();
    fs::create_dir_all(m.path("d/e")).unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    let rename = |from: &str, to: &str| errno(fs::rename(m.path(from), m.path(to)));
    assert_eq!(rename("d", ".snapshots/t"), Some(libc::EPERM));
    assert_eq!(rename(".snapshots/s", "t"), Some(libc::EPERM));
    assert_eq!(rename(".snapshots/s", "d/e"), Some(libc::EPERM));
    assert_eq!(rename("d", ".snapshots/s"), Some(libc::EPERM));
    assert_eq!(rename(".snapshots/s/d", ".snapshots/s/x"), Some(libc::EROFS));
    assert_eq!(rename(".snapshots/s/d", "x"), Some(libc::EROFS));
    assert_eq!(rename("d", ".snapshots/s/x"), Some(libc::EROFS));
    assert!(m.path(".snapshots/s/d/e").is_dir() && m.path("d/e").is_dir());
}

#[test]
fn a_snapshot_is_renamed_and_an_absent_name_is_not_remembered() {
    let m = TestMount::new();
    fs::write(m.path("f"), b"x").unwrap();
    let (a, b) = (m.path(".snapshots/a"), m.path(".snapshots/b"));
    for _ in 0..3 {
        assert!(fs::metadata(&a).is_err());
        fs::create_dir(&a).unwrap();
        assert!(fs::metadata(&b).is_err());
        fs::rename(&a, &b).unwrap();
        assert!(fs::metadata(&a).is_err());
        assert_eq!(fs::read(b.join("f")).unwrap(), b"x");
        fs::remove_dir(&b).unwrap();
    }
}

#[test]
fn templates_are_resolved() {
    let m = TestMount::new();
    fs::write(m.path("f"), b"1").unwrap();
    fs::create_dir(m.path(".snapshots/first")).unwrap();
    assert_eq!(fs::read(m.path(".snapshots/@latest/f")).unwrap(), b"1");
    fs::write(m.path("f"), b"2").unwrap();
    fs::create_dir(m.path(".snapshots/@daily")).unwrap();
    assert_eq!(fs::read(m.path(".snapshots/@latest/f")).unwrap(), b"2");
    let made = names(&m.path(".snapshots"));
    assert!(made.len() == 2 && made[0].starts_with("daily-"), "{made:?}");
}

#[test]
fn a_deleted_snapshot_is_stale_for_those_inside() {
    let m = TestMount::new();
    fs::create_dir(m.path("d")).unwrap();
    fs::write(m.path("d/f"), b"x").unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    let top = File::open(m.path(".snapshots/s")).unwrap();
    let below = File::open(m.path("d/.snapshots/s")).unwrap();
    top.metadata().unwrap();
    below.metadata().unwrap();
    fs::remove_dir(m.path(".snapshots/s")).unwrap();
    for held in [top, below] {
        // The kernel is told right after the reply.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while errno(held.metadata()) != Some(libc::ESTALE) {
            assert!(std::time::Instant::now() < end, "what was deleted is still shown");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_file_is_copied_back() {
    let m = TestMount::new();
    let content = vec![7u8; 1 << 20];
    fs::write(m.path("f"), &content).unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    fs::write(m.path("f"), b"spoilt").unwrap();
    let status = std::process::Command::new("cp")
        .arg("-a")
        .args([m.path(".snapshots/s/f"), m.path("f")])
        .status()
        .unwrap();
    assert!(status.success());
    assert!(fs::read(m.path("f")).unwrap() == content);
}

#[test]
fn an_open_file_is_frozen_with_what_was_written_and_with_its_mtime() {
    let m = TestMount::new();
    let mut file = File::create(m.path("f")).unwrap();
    file.write_all(b"written, not synced").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(10));
    file.write_all_at(b"WRITTEN", 0).unwrap();
    let live = file.metadata().unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    file.write_all_at(b"later  ", 0).unwrap();
    assert_eq!(fs::read(m.path(".snapshots/s/f")).unwrap(), b"WRITTEN, not synced");
    let frozen = fs::metadata(m.path(".snapshots/s/f")).unwrap();
    assert_eq!((frozen.mtime(), frozen.mtime_nsec()), (live.mtime(), live.mtime_nsec()));
}

#[test]
fn it_works_under_a_covered_mount_point() {
    let m = TestMount::new();
    let run = |program: &str, args: &[&std::ffi::OsStr]| {
        assert!(std::process::Command::new(program).args(args).status().unwrap().success());
    };
    let file = File::create(m.path("f")).unwrap();
    let root = File::open(m.root()).unwrap();
    run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "cover".as_ref(), m.root().as_os_str()]);
    // After the last program was started: closing its copy of the descriptor writes back.
    file.write_all_at(b"dirty", 0).unwrap();
    // By the descriptor: the name leads to the other filesystem.
    let made = rustix::fs::mkdirat(&root, ".snapshots/s", rustix::fs::Mode::RWXU);
    run("umount", &[m.root().as_os_str()]);
    made.unwrap();
    file.write_all_at(b"later", 0).unwrap();
    assert_eq!(fs::read(m.path(".snapshots/s/f")).unwrap(), b"dirty");
}
