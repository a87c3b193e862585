//! create, mkdir, link, symlink, mknod, rename, unlink, rmdir, O_TMPFILE.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

use crate::support::TestMount;

#[test]
fn create_is_exclusive_when_asked() {
    let m = TestMount::new();
    let mut new = OpenOptions::new();
    new.write(true).create_new(true);
    new.open(m.path("f")).unwrap();
    assert_eq!(new.open(m.path("f")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    fs::remove_file(m.path("f")).unwrap();
    new.open(m.path("f")).unwrap();
}

#[test]
fn an_absent_name_is_cached_only_until_it_is_made() {
    let m = TestMount::new();
    for how in 0..4 {
        let name = m.path(&format!("n{how}"));
        for _ in 0..3 {
            assert_eq!(fs::metadata(&name).unwrap_err().kind(), ErrorKind::NotFound);
        }
        match how {
            0 => fs::write(&name, b"").unwrap(),
            1 => fs::create_dir(&name).unwrap(),
            2 => fs::hard_link(m.path("n0"), &name).unwrap(),
            _ => fs::rename(m.path("n2"), &name).unwrap(),
        }
        fs::metadata(&name).unwrap();
    }
}

#[test]
fn mode_is_masked_by_the_umask() {
    let m = TestMount::new();
    let status = std::process::Command::new("sh")
        .args(["-c", "umask 027; mkdir d; : > f; mkfifo p"])
        .current_dir(m.root())
        .status()
        .unwrap();
    assert!(status.success());
    let mode = |name| fs::metadata(m.path(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("d"), mode("f"), mode("p")), (0o750, 0o640, 0o640));
}

#[test]
fn hard_links_share_everything() {
    let m = TestMount::new();
    fs::write(m.path("a"), b"one").unwrap();
    fs::hard_link(m.path("a"), m.path("b")).unwrap();
    fs::write(m.path("b"), b"other").unwrap();
    let (a, b) = (fs::metadata(m.path("a")).unwrap(), fs::metadata(m.path("b")).unwrap());
    assert_eq!((a.ino(), a.nlink(), a.size()), (b.ino(), 2, 5));
    fs::remove_file(m.path("a")).unwrap();
    assert_eq!(fs::metadata(m.path("b")).unwrap().nlink(), 1);
    assert_eq!(fs::read(m.path("b")).unwrap(), b"other");
}

#[test]
fn symlinks_and_special_files() {
    let m = TestMount::new();
    let target = "t".repeat(4000);
    symlink(&target, m.path("l")).unwrap();
    assert_eq!(fs::read_link(m.path("l")).unwrap().as_os_str(), target.as_str());
    assert_eq!(fs::symlink_metadata(m.path("l")).unwrap().size(), 4000);
    let device = makedev(259, 70_000);
    mknodat(CWD, m.path("c"), FileType::CharacterDevice, Mode::RUSR, device).unwrap();
    let stat = fs::metadata(m.path("c")).unwrap();
    assert!(stat.file_type().is_char_device());
    assert_eq!(stat.rdev(), device);
    mknodat(CWD, m.path("p"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(fs::metadata(m.path("p")).unwrap().file_type().is_fifo());
    let _listener = std::os::unix::net::UnixListener::bind(m.path("s")).unwrap();
    assert!(fs::metadata(m.path("s")).unwrap().file_type().is_socket());
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    let m = TestMount::new();
    let (a, b) = (m.path("a"), m.path("b"));
    fs::write(&a, b"a").unwrap();
    fs::write(&b, b"b").unwrap();
    let refused = renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::EXIST);
    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    fs::rename(&a, &b).unwrap();
    assert!(fs::metadata(&a).is_err());
    assert_eq!(fs::read(&b).unwrap(), b"b");
}

#[test]
fn directories_move_with_their_contents() {
    let mut m = TestMount::new();
    fs::create_dir_all(m.path("a/b/c")).unwrap();
    fs::create_dir(m.path("z")).unwrap();
    fs::write(m.path("a/b/c/f"), b"deep").unwrap();
    fs::rename(m.path("a/b"), m.path("z/y")).unwrap();
    let links = |name: &str| fs::metadata(m.path(name)).unwrap().nlink();
    assert_eq!((links("a"), links("z"), links("z/y")), (2, 3, 3));
    let inside = fs::rename(m.path("z"), m.path("z/y/c/z")).unwrap_err();
    assert_eq!(inside.raw_os_error(), Some(libc::EINVAL));
    let full = fs::remove_dir(m.path("z")).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOTEMPTY));
    m.remount();
    assert_eq!(fs::read(m.path("z/y/c/f")).unwrap(), b"deep");
}

#[test]
fn an_unlinked_file_lives_as_long_as_it_is_open() {
    let m = TestMount::new();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(m.path("f"))
        .unwrap();
    fs::remove_file(m.path("f")).unwrap();
    file.write_all(&[7; 100_000]).unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(99_990)).unwrap();
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [7; 10]);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
}

#[test]
fn a_temporary_file_has_no_name_until_it_is_linked() {
    let m = TestMount::new();
    let mut file = OpenOptions::new()
        .write(true)
        .read(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(m.root())
        .unwrap();
    file.write_all(b"unnamed").unwrap();
    assert_eq!(fs::read_dir(m.root()).unwrap().count(), 0);
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let flags = rustix::fs::AtFlags::SYMLINK_FOLLOW;
    rustix::fs::linkat(CWD, link.as_str(), CWD, m.path("named"), flags).unwrap();
    assert_eq!(fs::read(m.path("named")).unwrap(), b"unnamed");
}

#[test]
fn names_end_at_255_bytes() {
    let m = TestMount::new();
    File::create(m.path(&"n".repeat(255))).unwrap();
    let long = File::create(m.path(&"n".repeat(256))).unwrap_err();
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
}
