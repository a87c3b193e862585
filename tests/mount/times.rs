//! Times: set by whom, to what, and which operations move which; statx.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    XattrFlags, fallocate, futimens, setxattr, statx, utimensat,
};
use rustix::io::Errno;

use crate::support::TestMount;
use crate::twin::{Log, ROOT, alike, alike_on, user};

fn at(sec: i64, nsec: i64) -> Timespec {
    Timespec { tv_sec: sec, tv_nsec: nsec }
}

const NOW: i64 = UTIME_NOW;
const OMIT: i64 = UTIME_OMIT;

fn set(path: &str, atime: Timespec, mtime: Timespec, flags: AtFlags) -> Result<(), Errno> {
    utimensat(CWD, path, &Timestamps { last_access: atime, last_modification: mtime }, flags)
}

#[test]
fn times_are_set_by_owners_and_touched_by_writers() {
    alike(|root, log| {
        let cases = [
            ("both now", at(0, NOW), at(0, NOW)),
            ("both omitted", at(0, OMIT), at(0, OMIT)),
            ("access now", at(0, NOW), at(0, OMIT)),
            ("modification now", at(0, OMIT), at(0, NOW)),
            ("access given", at(5, 6), at(0, OMIT)),
            ("given and now", at(5, 6), at(0, NOW)),
            ("both given", at(-7, 8), at(9, 10)),
            ("too many nanoseconds", at(0, 1_000_000_000), at(0, 0)),
        ];
        symlink("f", root.join("l")).unwrap();
        for mode in [0o666, 0o644, 0o600, 0o444] {
            for (label, who) in [("owner", user(1000)), ("other", user(1001)), ("root", ROOT)] {
                for (what, atime, mtime) in cases {
                    for (path, flags) in [
                        ("f", AtFlags::empty()),
                        ("l", AtFlags::empty()),
                        ("l", AtFlags::SYMLINK_NOFOLLOW),
                    ] {
                        fs::write(root.join("f"), b"x").unwrap();
                        chown(root.join("f"), Some(1000), Some(1000)).unwrap();
                        fs::set_permissions(root.join("f"), Permissions::from_mode(mode)).unwrap();
                        ROOT.run(root, || set("f", at(1, 2), at(3, 4), AtFlags::empty())).unwrap();
                        let done = who.run(root, || set(path, atime, mtime, flags));
                        let stat = fs::metadata(root.join("f")).unwrap();
                        // The present is only known to be later than what was set.
                        let rounded =
                            |sec: i64, nsec: i64| if sec > 1000 { (-1, -1) } else { (sec, nsec) };
                        let (a, m) = (
                            rounded(stat.atime(), stat.atime_nsec()),
                            rounded(stat.mtime(), stat.mtime_nsec()),
                        );
                        log.note(format!("{label}, {mode:o}, {what}, {path}"), (done, a, m));
                    }
                }
            }
        }
    });
}

#[test]
fn times_are_kept_to_the_nanosecond_from_1901_to_2446() {
    let scenario = |root: &Path, log: &mut Log| {
        let file = File::create(root.join("f")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        symlink("f", root.join("l")).unwrap();
        let cases = [
            at(i64::from(i32::MIN), 0),
            at(-1, 999_999_999),
            at(0, 0),
            at(i64::from(i32::MAX), 999_999_999),
            at(i64::from(i32::MAX) + 1, 1),
            at(1 << 32, 123_456_789),
            // The last that ext4 can hold.
            at(15_032_385_535, 0),
        ];
        for time in cases {
            let times = Timestamps { last_access: time, last_modification: time };
            futimens(&file, &times).unwrap();
            for name in ["f", "d", "l"] {
                utimensat(CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
                let stat = fs::symlink_metadata(root.join(name)).unwrap();
                log.note(name, (stat.atime(), stat.atime_nsec(), stat.mtime(), stat.mtime_nsec()));
            }
        }
    };
    alike(scenario);
}

#[test]
fn times_beyond_those_of_ext4_are_kept_too_and_after_a_remount() {
    let mut m = TestMount::new();
    fs::write(m.path("f"), b"").unwrap();
    for time in [at(-100_000_000_000, 5), at(100_000_000_000, 999_999_999)] {
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, m.path("f"), &times, AtFlags::empty()).unwrap();
        for _ in 0..2 {
            let stat = fs::metadata(m.path("f")).unwrap();
            assert_eq!((stat.mtime(), stat.mtime_nsec()), (time.tv_sec, time.tv_nsec));
            assert_eq!((stat.atime(), stat.atime_nsec()), (time.tv_sec, time.tv_nsec));
            m.remount();
        }
    }
}

/// Which of access, modification and change time something moves, of `f` and of its directory.
fn moves(root: &Path, log: &mut Log, what: &str, change: impl FnOnce(&Path)) {
    let times = |path: &Path| {
        let stat = fs::symlink_metadata(path);
        stat.map(|s| {
            [(s.atime(), s.atime_nsec()), (s.mtime(), s.mtime_nsec()), (s.ctime(), s.ctime_nsec())]
        })
        .ok()
    };
    let (file, dir) = (root.join("f"), root.to_path_buf());
    let before = (times(&file), times(&dir));
    // The kernel's clock for times ticks every 4 ms or so.
    std::thread::sleep(Duration::from_millis(12));
    change(root);
    let after = (times(&file), times(&dir));
    let moved =
        |before: Option<[(i64, i64); 3]>, after: Option<[(i64, i64); 3]>| match (before, after) {
            (Some(before), Some(after)) => {
                let names = ["atime", "mtime", "ctime"];
                let moved = (0..3).filter(|n| before[*n] != after[*n]).map(|n| names[n]);
                moved.collect::<Vec<_>>().join(" ")
            }
            (before, after) => format!("{} {}", before.is_some(), after.is_some()),
        };
    log.note(what, (moved(before.0, after.0), moved(before.1, after.1)));
}

fn open_file(root: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(root.join("f")).unwrap()
}

type Operation = (&'static str, fn(&Path) -> io::Result<()>);

/// In an order in which each can be done.
const OPERATIONS: &[Operation] = &[
    ("create", |root| fs::write(root.join("f"), vec![1; 9000])),
    ("open and close", |root| OpenOptions::new().write(true).open(root.join("f")).map(|_| ())),
    ("stat", |root| fs::metadata(root.join("f")).map(|_| ())),
    ("write", |root| open_file(root).write_all(b"y")),
    ("write of nothing", |root| open_file(root).write(b"").map(|_| ())),
    ("truncate to the same", |root| open_file(root).set_len(9000)),
    ("truncate", |root| open_file(root).set_len(8000)),
    ("grow", |root| open_file(root).set_len(9000)),
    ("fallocate", |root| Ok(fallocate(open_file(root), FallocateFlags::empty(), 0, 20_000)?)),
    ("punch", |root| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(open_file(root), flags, 0, 4096)?)
    }),
    ("O_TRUNC", |root| File::create(root.join("f")).map(|_| ())),
    ("O_TRUNC of an empty file", |root| File::create(root.join("f")).map(|_| ())),
    ("chmod", |root| fs::set_permissions(root.join("f"), Permissions::from_mode(0o600))),
    ("chown", |root| chown(root.join("f"), Some(1), Some(1))),
    ("chown to the same", |root| chown(root.join("f"), Some(1), Some(1))),
    ("chown to nobody", |root| chown(root.join("f"), None, None)),
    ("an attribute", |root| Ok(setxattr(root.join("f"), "user.a", b"1", XattrFlags::empty())?)),
    ("link", |root| fs::hard_link(root.join("f"), root.join("g"))),
    ("unlink of the other name", |root| fs::remove_file(root.join("g"))),
    ("rename", |root| fs::rename(root.join("f"), root.join("g"))),
    ("rename back", |root| fs::rename(root.join("g"), root.join("f"))),
    ("mkdir", |root| fs::create_dir(root.join("d"))),
    ("rename into a directory", |root| fs::rename(root.join("f"), root.join("d/f"))),
    ("rename out of it", |root| fs::rename(root.join("d/f"), root.join("f"))),
    ("rmdir", |root| fs::remove_dir(root.join("d"))),
    ("symlink", |root| symlink("x", root.join("l"))),
    ("an attribute removed", |root| Ok(rustix::fs::removexattr(root.join("f"), "user.a")?)),
    ("unlink", |root| fs::remove_file(root.join("f"))),
];

#[test]
fn each_operation_moves_its_times() {
    alike(|root, log| {
        for (what, operation) in OPERATIONS {
            moves(root, log, what, |root| operation(root).unwrap());
        }
    });
}

#[test]
fn writes_move_the_times_of_an_open_file_at_once() {
    alike(|root, log| {
        fs::write(root.join("f"), b"x").unwrap();
        let file = OpenOptions::new().read(true).write(true).open(root.join("f")).unwrap();
        moves(root, log, "pwrite", |_| file.write_all_at(b"abc", 5).unwrap());
        moves(root, log, "fsync", |_| file.sync_all().unwrap());
        moves(root, log, "another", |_| file.write_all_at(b"abc", 500).unwrap());
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DSYNC)
            .open(root.join("f"))
            .unwrap();
        moves(root, log, "O_DSYNC", |_| direct.write_all_at(b"abc", 700).unwrap());
        moves(root, log, "close", |_| drop(file));
    });
}

/// Whether the access time of `path` comes to be later than 3000 s after 1970. The daemon learns of a read
/// from the kernel's cache when the file is closed, and that is told to it without anybody waiting.
fn is_touched(path: &Path) -> bool {
    let end = std::time::Instant::now() + Duration::from_millis(300);
    while fs::metadata(path).unwrap().atime() < 3000 {
        if std::time::Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Reads a file in ways that do and that do not move its access time.
fn reads(root: &Path, log: &mut Log, warm: bool) {
    let (path, dir) = (root.join("f"), root.join("d"));
    let open = |flags: i32| OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
    let all = |mut file: File| file.read_to_end(&mut Vec::new()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let reset = |path: &Path, atime: i64, mtime: i64| {
        let times = Timestamps { last_access: at(atime, 0), last_modification: at(mtime, 0) };
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(path).unwrap();
        futimens(&file, &times).unwrap();
        // The clock for times ticks every few milliseconds, and the change time is now.
        std::thread::sleep(Duration::from_millis(12));
        if !warm {
            let advice = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&file, 0, None, advice).unwrap();
        }
    };
    reset(&path, 1000, 2000);
    all(open(libc::O_NOATIME));
    log.note("with O_NOATIME", is_touched(&path));
    all(open(0));
    log.note("behind the modification", is_touched(&path));
    reset(&path, 1000, 2000);
    log.note("written", {
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(b"x").unwrap();
        drop(file);
        is_touched(&path)
    });
    let mapping = crate::mapping::Mapping::new(
        &OpenOptions::new().read(true).write(true).open(&path).unwrap(),
        4096,
    );
    drop(mapping);
    reset(&path, 1000, 2000);
    log.note("in parts", {
        let mut file = open(0);
        file.read_exact(&mut [0; 5]).unwrap();
        file.rewind().unwrap();
        drop(file);
        is_touched(&path)
    });
    let since = fs::metadata(&path).unwrap();
    all(open(0));
    std::thread::sleep(Duration::from_millis(50));
    let after = fs::metadata(&path).unwrap();
    log.note("again", (since.atime(), since.atime_nsec()) == (after.atime(), after.atime_nsec()));
    // Ahead of the modification, but more than a day ago; the change time is never that old here.
    reset(&path, now - 90_000, 1000);
    all(open(0));
    std::thread::sleep(Duration::from_millis(100));
    log.note("a day ago", fs::metadata(&path).unwrap().atime() >= now);
    for round in 0..2 {
        reset(&dir, 1000, 2000);
        log.note(format!("entries {round}"), fs::read_dir(&dir).unwrap().count());
        log.note(format!("listed {round}"), is_touched(&dir));
    }
}

#[test]
fn a_read_moves_an_access_time_that_is_behind() {
    alike(|root, log| {
        fs::write(root.join("f"), vec![1; 10_000]).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/inside"), b"").unwrap();
        reads(root, log, true);
        reads(root, log, false);
    });
}

#[test]
fn without_access_times_none_moves() {
    let options = amberfs::fuse::MountOptions { noatime: true, ..Default::default() };
    let m = TestMount::with(options);
    fs::write(m.path("f"), b"x").unwrap();
    let behind = Timestamps { last_access: at(1000, 0), last_modification: at(2000, 0) };
    utimensat(CWD, m.path("f"), &behind, AtFlags::empty()).unwrap();
    for _ in 0..2 {
        assert_eq!(fs::read(m.path("f")).unwrap(), b"x");
        assert_eq!(fs::metadata(m.path("f")).unwrap().atime(), 1000);
    }
}

#[test]
fn statx_gives_what_is_asked_for() {
    alike_on(&TestMount::new(), |root, log| {
        fs::write(root.join("f"), b"12345").unwrap();
        let ask = |mask| statx(CWD, root.join("f"), AtFlags::empty(), mask).unwrap();
        for mask in [
            StatxFlags::BASIC_STATS,
            StatxFlags::ALL,
            StatxFlags::SIZE,
            StatxFlags::BTIME,
            StatxFlags::MODE,
        ] {
            let seen = ask(mask);
            log.note(
                "what was asked for is there",
                seen.stx_mask & mask.bits() == mask.bits() & StatxFlags::ALL.bits(),
            );
        }
        let all = ask(StatxFlags::ALL);
        log.note("figures", (all.stx_size, all.stx_nlink, all.stx_mode, all.stx_blksize));
        log.note("born before it changed", all.stx_btime.tv_sec <= all.stx_ctime.tv_sec);
        let link = statx(CWD, root, AtFlags::empty(), StatxFlags::ALL).unwrap();
        log.note("kind of the directory", link.stx_mode & 0o170_000);
    });
}
