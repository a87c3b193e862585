//! `name_to_handle_at` and `open_by_handle_at`, also for what the kernel has forgotten meanwhile.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use amberfs::fs::SnapDir;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::support::TestMount;
use crate::sys::{FileHandle, handle_of, open_handle};
use crate::twin::{Log, alike, user};

/// Makes the kernel forget every name and inode that is not in use.
fn forget() {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

fn plant(root: &Path) {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/f"), b"content").unwrap();
    fs::hard_link(root.join("a/b/f"), root.join("a/second")).unwrap();
    fs::write(root.join("a/b/c/large"), vec![5; 100_000]).unwrap();
    symlink("f", root.join("a/b/l")).unwrap();
    mknodat(CWD, root.join("a/p"), FileType::Fifo, Mode::RUSR, 0).unwrap();
}

const NAMES: [&str; 8] = ["", "a", "a/b", "a/b/c", "a/b/f", "a/second", "a/b/c/large", "a/p"];

fn read(file: Result<File, Errno>) -> Result<String, Errno> {
    let mut file = file?;
    let stat = file.metadata().unwrap();
    if stat.is_dir() {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        return Ok(format!("{names:?}"));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    Ok(format!("{} {} links", blake3::hash(&content), stat.nlink()))
}

/// Where an open file is, seen from `root`.
fn place(root: &Path, file: &File) -> PathBuf {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    path.strip_prefix(root).map(Path::to_path_buf).unwrap_or_default()
}

fn look(root: &Path, handles: &[(&str, FileHandle)], log: &mut Log) {
    let mount = File::open(root).unwrap();
    for (name, handle) in handles {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        let opened = open_handle(&mount, handle, flags);
        if let Ok(file) = &opened
            && file.metadata().unwrap().is_dir()
        {
            log.note(format!("place of {name}"), place(root, file));
        }
        log.note(*name, read(opened));
        let path_alone = open_handle(&mount, handle, libc::O_PATH);
        log.note(
            format!("{name} as a path"),
            path_alone.map(|file| file.metadata().unwrap().mode()),
        );
    }
}

#[test]
fn handles_open_what_the_kernel_has_forgotten() {
    alike(|root, log| {
        plant(root);
        let handles = NAMES.map(|name| (name, handle_of(&root.join(name)).unwrap()));
        look(root, &handles, log);
        forget();
        look(root, &handles, log);
        forget();
        fs::rename(root.join("a/b"), root.join("moved")).unwrap();
        forget();
        look(root, &handles, log);
        log.note("the same handle", handle_of(&root.join("moved/f")) == Ok(handles[4].1));
        log.note("of another name too", handle_of(&root.join("a/second")) == Ok(handles[4].1));
        log.note("of another file", handle_of(&root.join("a/p")) == Ok(handles[4].1));
    });
}

#[test]
fn a_symbolic_link_has_a_handle_too() {
    alike(|root, log| {
        plant(root);
        let handle = handle_of(&root.join("a/b/l")).unwrap();
        forget();
        let mount = File::open(root).unwrap();
        let opened = open_handle(&mount, &handle, libc::O_PATH);
        let target = opened.as_ref().map(|file| rustix::fs::readlinkat(file, "", Vec::new()));
        log.note("target", target.ok());
        log.note("not to be opened", open_handle(&mount, &handle, libc::O_RDONLY).map(|_| ()));
    });
}

#[test]
fn what_is_written_through_a_handle_is_there() {
    alike(|root, log| {
        plant(root);
        let handle = handle_of(&root.join("a/b/f")).unwrap();
        forget();
        let file = open_handle(File::open(root).unwrap(), &handle, libc::O_RDWR).unwrap();
        file.write_all_at(b"CON", 0).unwrap();
        log.note("before", fs::read(root.join("a/b/f")).unwrap());
        drop(file);
        forget();
        log.note("after", fs::read(root.join("a/second")).unwrap());
    });
}

#[test]
fn handles_of_what_was_removed_are_stale() {
    alike(|root, log| {
        plant(root);
        let handles = NAMES.map(|name| (name, handle_of(&root.join(name)).unwrap()));
        fs::remove_dir_all(root.join("a")).unwrap();
        look(root, &handles[1..], log);
        forget();
        // The names are there again, and mean other files.
        plant(root);
        look(root, &handles[1..], log);
    });
}

#[test]
fn an_unlinked_file_has_a_handle_as_long_as_it_is_open() {
    alike(|root, log| {
        plant(root);
        fs::remove_file(root.join("a/second")).unwrap();
        let handle = handle_of(&root.join("a/b/f")).unwrap();
        let file = File::open(root.join("a/b/f")).unwrap();
        fs::remove_file(root.join("a/b/f")).unwrap();
        forget();
        let mount = File::open(root).unwrap();
        log.note("while open", read(open_handle(&mount, &handle, libc::O_RDONLY)));
        drop(file);
        // The daemon is told of the close without anybody waiting.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while open_handle(&mount, &handle, libc::O_RDONLY).is_ok()
            && std::time::Instant::now() < end
        {
            std::thread::yield_now();
        }
        log.note("after", read(open_handle(&mount, &handle, libc::O_RDONLY)));
    });
}

#[test]
fn made_up_handles_are_stale() {
    let m = TestMount::new();
    plant(m.root());
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    let real = handle_of(&m.path("a/b/f")).unwrap();
    let mount = File::open(m.root()).unwrap();
    forget();
    // FUSE's handle: the upper and the lower half of the node, and its generation.
    let node = fs::metadata(m.path("a/b/f")).unwrap().ino();
    let with = |node: u64, generation: u32| {
        let mut bytes = Vec::new();
        for word in [(node >> 32) as u32, (node & 0xffff_ffff) as u32, generation] {
            bytes.extend(word.to_ne_bytes());
        }
        real.with_bytes(&bytes)
    };
    assert_eq!(with(node, 0), real);
    assert!(open_handle(&mount, &real, libc::O_RDONLY).is_ok());
    forget();
    let nobody = [
        (node, 1),
        (node + 1000, 0),
        (0, 0),
        (u64::MAX, 0),
        (1 << 62, 0),
        (1 << 62 | (node + 1000), 0),
        (1 << 63 | node, 0),
        (1 << 63 | 77 << 42 | node, 0),
        (1 << 50, 0),
    ];
    for (node, generation) in nobody {
        let opened = open_handle(&mount, &with(node, generation), libc::O_RDONLY);
        assert_eq!(opened.map(|_| ()), Err(Errno::STALE), "node {node:#x}, {generation}");
    }
}

#[test]
fn handles_outlive_a_remount() {
    let mut m = TestMount::new();
    plant(m.root());
    let handles = NAMES.map(|name| (name, handle_of(&m.path(name)).unwrap()));
    let gone = handle_of(&m.path("a/p")).unwrap();
    m.remount();
    let mut log = Log::default();
    look(m.root(), &handles, &mut log);
    fs::remove_file(m.path("a/p")).unwrap();
    m.remount();
    let mount = File::open(m.root()).unwrap();
    assert_eq!(open_handle(&mount, &gone, libc::O_PATH).map(|_| ()), Err(Errno::STALE));
    for (name, handle) in &handles[..7] {
        assert!(open_handle(&mount, handle, libc::O_PATH).is_ok(), "{name}");
    }
}

#[test]
fn files_in_snapshots_have_handles_until_the_snapshot_is_deleted() {
    let m = TestMount::new();
    plant(m.root());
    fs::create_dir(m.path(".snapshots/s")).unwrap();
    fs::write(m.path("a/b/f"), b"changed").unwrap();
    let handle = handle_of(&m.path(".snapshots/s/a/b/f")).unwrap();
    let mount = File::open(m.root()).unwrap();
    forget();
    let mut content = String::new();
    open_handle(&mount, &handle, libc::O_RDONLY).unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    assert_eq!(open_handle(&mount, &handle, libc::O_RDWR).map(|_| ()), Err(Errno::ROFS));
    fs::remove_dir(m.path(".snapshots/s")).unwrap();
    forget();
    assert_eq!(open_handle(&mount, &handle, libc::O_RDONLY).map(|_| ()), Err(Errno::STALE));
}

/// To connect a directory that it has forgotten with the root, the kernel seeks its name in the listing of the
/// directory above; and `.snapshots` is in a listing only if that is asked for.
#[test]
fn directories_in_snapshots_are_found_by_handle_where_snapshots_are_listed() {
    for (snapdir, found) in [(SnapDir::Visible, Ok(())), (SnapDir::Hidden, Err(Errno::STALE))] {
        let m = TestMount::with_snapdir(snapdir);
        plant(m.root());
        fs::create_dir(m.path(".snapshots/s")).unwrap();
        let handle = handle_of(&m.path(".snapshots/s/a/b")).unwrap();
        let mount = File::open(m.root()).unwrap();
        let open = || open_handle(&mount, &handle, libc::O_RDONLY | libc::O_DIRECTORY).map(|_| ());
        assert_eq!(open(), Ok(()), "{snapdir:?}: the kernel has it");
        forget();
        assert_eq!(open(), found, "{snapdir:?}");
    }
}

#[test]
fn opening_by_handle_is_for_the_privileged() {
    alike(|root, log| {
        fs::write(root.join("f"), b"x").unwrap();
        let refused = user(1000).run(root, || {
            let handle = handle_of(Path::new("f")).unwrap();
            open_handle(File::open(".").unwrap(), &handle, libc::O_RDONLY).map(|_| ())
        });
        log.note("by a user", refused);
    });
}
