//! An open file without a name takes part in every operation, and is gone after the last close.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, SeekFrom, Timespec, Timestamps, XattrFlags, copy_file_range,
    fallocate, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, futimens, linkat, seek,
};

use crate::mapping::Mapping;
use crate::support::TestMount;
use crate::sys;
use crate::twin::{Log, alike};

fn unlinked(root: &Path, content: &[u8]) -> File {
    let path = root.join("doomed");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(content, 0).unwrap();
    fs::remove_file(&path).unwrap();
    file
}

fn content(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().unwrap().size() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    format!("{} bytes, {}", bytes.len(), blake3::hash(&bytes))
}

fn every_operation(root: &Path, log: &mut Log, start: &[u8]) {
    let file = unlinked(root, start);
    let mut look = |what: &str, done: rustix::io::Result<()>| {
        let stat = file.metadata().unwrap();
        let ids = (stat.nlink(), stat.mode(), stat.uid(), stat.gid(), stat.mtime());
        // The present is not to be compared.
        let ids = (ids.0, ids.1, ids.2, ids.3, ids.4 < 10_000);
        log.note(what, (done, ids, content(&file)));
    };
    let io = |done: std::io::Result<()>| {
        done.map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap())
    };
    look("as it was", Ok(()));
    look("write", io(file.write_all_at(&[2; 10_000], 3000)));
    look("truncate", io(file.set_len(7000)));
    look("grow", io(file.set_len(50_000)));
    look("fallocate", fallocate(&file, FallocateFlags::empty(), 40_000, 30_000));
    look(
        "punch",
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096),
    );
    look("zero", fallocate(&file, FallocateFlags::ZERO_RANGE, 5000, 1000));
    look("fsync", io(file.sync_all()));
    look("chmod", io(file.set_permissions(Permissions::from_mode(0o4751))));
    let (user, group) = (rustix::fs::Uid::from_raw(12), rustix::fs::Gid::from_raw(34));
    look("chown", fchown(&file, Some(user), Some(group)));
    look("attribute", fsetxattr(&file, "user.a", &[7; 5000][..100], XattrFlags::empty()));
    look("removed", fremovexattr(&file, "user.b"));
    let at = Timespec { tv_sec: 5, tv_nsec: 6 };
    look("times", futimens(&file, &Timestamps { last_access: at, last_modification: at }));
    let source = File::open("/proc/self/fd/".to_owned() + &file.as_raw_fd().to_string()).unwrap();
    look("copy", copy_file_range(&source, Some(&mut 0), &file, Some(&mut 65536), 4096).map(|_| ()));
    let mut mapping = Mapping::new(&file, 8192);
    mapping.store(4000, b"across two pages, by memory, of a file that has no name");
    look("store", Ok(()));
    drop(mapping);
    look("after the mapping", Ok(()));
    let mut value = [0; 200];
    log.note("value", fgetxattr(&file, "user.a", &mut value));
    log.note("names", flistxattr(&file, &mut value));
    log.note("data", seek(&file, SeekFrom::Data(0)));
    log.note("link by path", {
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, from, CWD, root.join("again"), AtFlags::SYMLINK_FOLLOW)
    });
    log.note("link by descriptor", sys::link_descriptor(&file, &root.join("again")));
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    log.note("its path", path.to_string_lossy().ends_with("doomed (deleted)"));
    drop(source);
}

#[test]
fn every_operation_goes_on_a_small_one() {
    alike(|root, log| every_operation(root, log, b"small"));
}

#[test]
fn every_operation_goes_on_a_large_one() {
    alike(|root, log| every_operation(root, log, &vec![9; 300_000]));
}

#[test]
fn a_snapshot_is_taken_meanwhile_and_the_space_comes_back() {
    let mut m = TestMount::new();
    let used = |m: &TestMount| m.fs().volume().space().referenced_bytes;
    let empty = used(&m);
    let file = unlinked(m.root(), &vec![1; 4 << 20]);
    file.write_all_at(&vec![2; 1 << 20], 4 << 20).unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    assert_eq!(fs::read_dir(m.path(".snapshots/s")).unwrap().count(), 0, "it has no name there");
    file.write_all_at(b"after", 1 << 20).unwrap();
    file.set_len(6 << 20).unwrap();
    file.sync_all().unwrap();
    let mut seen = [0; 5];
    file.read_exact_at(&mut seen, 1 << 20).unwrap();
    assert_eq!(&seen, b"after");
    fs::create_dir(m.path(".snapshots/t")).unwrap();
    drop(file);
    // What the snapshots hold of it nobody can reach, and it goes with them.
    for name in ["s", "t"] {
        fs::remove_dir(m.path(".snapshots").join(name)).unwrap();
    }
    m.remount();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while used(&m) > empty + (256 << 10) {
        assert!(std::time::Instant::now() < end, "{} bytes are taken for nothing", used(&m));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_removed_directory_that_is_open_is_empty_and_takes_no_names() {
    alike(|root, log| {
        let dir = root.join("d");
        fs::create_dir(&dir).unwrap();
        let open = File::open(&dir).unwrap();
        fs::remove_dir(&dir).unwrap();
        let proc = Path::new("/proc/self/fd").join(open.as_raw_fd().to_string());
        let errno = |error: std::io::Error| error.raw_os_error();
        log.note("links", open.metadata().unwrap().nlink());
        log.note("entries", fs::read_dir(&proc).map(Iterator::count).map_err(errno));
        log.note("create", fs::write(proc.join("f"), b"").map_err(errno));
        log.note("mkdir", fs::create_dir(proc.join("f")).map_err(errno));
        log.note("lookup", fs::metadata(proc.join("f")).map(|_| ()).map_err(errno));
        fs::write(root.join("g"), b"").unwrap();
        log.note("rename", fs::rename(root.join("g"), proc.join("g")).map_err(errno));
        log.note("link", fs::hard_link(root.join("g"), proc.join("g")).map_err(errno));
        log.note("chmod", open.set_permissions(Permissions::from_mode(0o700)).map_err(errno));
        log.note("fsync", open.sync_all().map_err(errno));
        let stat = rustix::fs::statat(&open, "..", AtFlags::empty());
        log.note("parent", stat.map(|stat| stat.st_ino == fs::metadata(root).unwrap().ino()));
    });
}
