//! O_TMPFILE and the ways to give such a file a name; `renameat2` with all its flags.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with};
use rustix::io::Errno;

use crate::support::TestMount;
use crate::sys;
use crate::twin::{Log, alike, user};

fn unnamed(dir: &Path, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o640).custom_flags(libc::O_TMPFILE | flags).open(dir)
}

fn link_by_proc(file: &File, to: &Path) -> Result<(), Errno> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)
}

#[test]
fn an_unnamed_file_gets_names_both_ways() {
    alike(|root, log| {
        for (number, link) in
            [link_by_proc, |file: &File, to: &Path| sys::link_descriptor(file, to)]
                .iter()
                .enumerate()
        {
            let mut file = unnamed(root, 0).unwrap();
            file.write_all(b"content").unwrap();
            log.note("links before", file.metadata().unwrap().nlink());
            let (first, second) =
                (root.join(format!("a{number}")), root.join(format!("b{number}")));
            log.note("linked", link(&file, &first));
            log.note("linked again", link(&file, &second));
            log.note("over a name that is there", link(&file, &second));
            log.note("links", file.metadata().unwrap().nlink());
            log.note("content", fs::read(&second).unwrap());
            fs::remove_file(&first).unwrap();
            fs::remove_file(&second).unwrap();
            log.note("links after", file.metadata().unwrap().nlink());
            log.note("an unlinked one is not linked again", link(&file, &first));
            let exclusive = unnamed(root, libc::O_EXCL).unwrap();
            log.note("with O_EXCL", link(&exclusive, &first));
            let named = File::create(root.join("named")).unwrap();
            log.note("a named one", link(&named, &first));
            fs::remove_file(root.join("named")).unwrap();
            fs::remove_file(&first).unwrap();
        }
        log.note("read alone", File::open(root).unwrap().metadata().unwrap().nlink());
        let read_only = OpenOptions::new().read(true).custom_flags(libc::O_TMPFILE).open(root);
        log.note("for reading", read_only.map(|_| ()).map_err(|error| error.raw_os_error()));
        log.note("in a file", {
            fs::write(root.join("f"), b"").unwrap();
            unnamed(&root.join("f"), 0).map(|_| ()).map_err(|error| error.raw_os_error())
        });
        let by_user = user(1000).run(root, || unnamed(Path::new("."), 0).map(|_| ()));
        log.note("by who may not write here", by_user.map_err(|error| error.raw_os_error()));
    });
}

#[test]
fn an_unnamed_file_is_gone_after_a_remount_unless_it_was_linked() {
    let mut m = TestMount::new();
    let mut kept = unnamed(m.root(), 0).unwrap();
    kept.write_all(&[7; 10_000]).unwrap();
    link_by_proc(&kept, &m.path("kept")).unwrap();
    let mut lost = unnamed(m.root(), 0).unwrap();
    lost.write_all(&[8; 10_000]).unwrap();
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    assert_eq!(fs::read(m.path(".snapshots/s/kept")).unwrap(), vec![7; 10_000]);
    drop((kept, lost));
    m.remount();
    assert_eq!(fs::read(m.path("kept")).unwrap(), vec![7; 10_000]);
    assert_eq!(fs::read_dir(m.root()).unwrap().count(), 1);
}

/// A tree with everything that a rename may meet.
fn plant(root: &Path) {
    for dir in ["d1", "d2", "d1/sub", "d2/sub", "d1/empty", "d2/empty"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for file in ["d1/f", "d2/f", "d1/sub/inside", "d2/sub/inside", "f"] {
        fs::write(root.join(file), file).unwrap();
    }
    fs::hard_link(root.join("d1/f"), root.join("d2/same")).unwrap();
    symlink("f", root.join("d1/l")).unwrap();
}

fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let what = if stat.is_dir() {
                todo.push(path);
                format!("directory, {} links", stat.nlink())
            } else if stat.file_type().is_char_device() {
                format!("device {:#x}, mode {:o}", stat.rdev(), stat.mode())
            } else if stat.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                format!("{:?}, {} links", fs::read_to_string(&path).unwrap(), stat.nlink())
            };
            found.push(format!("{name}: {what}"));
        }
    }
    found.sort();
    found
}

#[test]
fn renames_of_every_kind_between_everything() {
    const NAMES: [&str; 14] = [
        "d1",
        "d2",
        "d1/sub",
        "d2/sub",
        "d1/empty",
        "d2/empty",
        "d1/f",
        "d2/f",
        "d2/same",
        "d1/l",
        "d1/sub/inside",
        "f",
        "absent",
        "d1/absent",
    ];
    let flags = [
        RenameFlags::empty(),
        RenameFlags::NOREPLACE,
        RenameFlags::EXCHANGE,
        RenameFlags::WHITEOUT,
        RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
        RenameFlags::EXCHANGE | RenameFlags::NOREPLACE,
        RenameFlags::EXCHANGE | RenameFlags::WHITEOUT,
    ];
    alike(|root, log| {
        plant(root);
        for flags in flags {
            for from in NAMES {
                for to in NAMES {
                    let done = renameat_with(CWD, root.join(from), CWD, root.join(to), flags);
                    let what = format!("{from} to {to}, {flags:?}");
                    if done.is_err() {
                        log.note(what, done);
                        continue;
                    }
                    log.note(what, tree(root));
                    for entry in fs::read_dir(root).unwrap() {
                        let path = entry.unwrap().path();
                        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
                    }
                    plant(root);
                }
            }
            // What was refused has changed nothing.
            log.note("in the end", tree(root));
        }
    });
}

#[test]
fn a_whiteout_by_who_may_not_make_devices() {
    alike(|root, log| {
        fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let note = |log: &mut Log| {
            let made = renameat_with(CWD, "a", CWD, "b", RenameFlags::WHITEOUT);
            log.note("whiteout", (made, tree(Path::new("."))));
        };
        user(1000).run(root, || {
            fs::write("a", b"x").unwrap();
            note(log);
        });
    });
}

#[test]
fn what_was_exchanged_is_so_after_a_remount() {
    let mut m = TestMount::new();
    plant(m.root());
    for (a, b) in [("d1/sub", "d2/f"), ("d1/empty", "d2/sub"), ("d1/l", "f")] {
        renameat_with(CWD, m.path(a), CWD, m.path(b), RenameFlags::EXCHANGE).unwrap();
    }
    let mut inside = String::new();
    File::open(m.path("d2/f/inside")).unwrap().read_to_string(&mut inside).unwrap();
    assert_eq!(inside, "d1/sub/inside");
    // ".." follows the move, also where the kernel has to ask.
    m.remount();
    let parent = fs::metadata(m.path("d2/f/..")).unwrap().ino();
    assert_eq!(parent, fs::metadata(m.path("d2")).unwrap().ino());
    let before = tree(m.root());
    m.remount();
    assert_eq!(tree(m.root()), before);
}
