//! inotify and fanotify.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use crate::support::TestMount;
use crate::sys;
use crate::twin::alike;

/// The events that are there: names and kinds.
fn events(watch: &impl std::os::fd::AsFd) -> Vec<String> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(watch, &mut buffer);
    let mut found = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
        found.push(format!("{name:?} {:?}", event.events()));
    }
    found
}

fn watch(path: &Path) -> std::os::fd::OwnedFd {
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, path, WatchFlags::ALL_EVENTS).unwrap();
    watch
}

#[test]
fn inotify_tells_of_every_change() {
    alike(|root, log| {
        fs::create_dir(root.join("d")).unwrap();
        fs::create_dir(root.join("other")).unwrap();
        let watched = watch(&root.join("d"));
        let path = root.join("d/f");
        let mut file = File::create(&path).unwrap();
        log.note("create", events(&watched));
        file.write_all(b"x").unwrap();
        log.note("write", events(&watched));
        drop(file);
        log.note("close", events(&watched));
        assert_eq!(fs::read(&path).unwrap(), b"x");
        log.note("read", events(&watched));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        log.note("chmod", events(&watched));
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        log.note("truncate", events(&watched));
        fs::hard_link(&path, root.join("d/g")).unwrap();
        log.note("link", events(&watched));
        fs::rename(&path, root.join("d/h")).unwrap();
        log.note("rename", events(&watched));
        fs::rename(root.join("d/h"), root.join("other/h")).unwrap();
        log.note("moved out", events(&watched));
        fs::rename(root.join("other/h"), root.join("d/h")).unwrap();
        log.note("moved in", events(&watched));
        fs::create_dir(root.join("d/s")).unwrap();
        fs::remove_dir(root.join("d/s")).unwrap();
        log.note("a directory", events(&watched));
        fs::remove_file(root.join("d/g")).unwrap();
        fs::remove_file(root.join("d/h")).unwrap();
        log.note("removed", events(&watched));
        let file_alone = root.join("other/f");
        fs::write(&file_alone, b"x").unwrap();
        let of_file = watch(&file_alone);
        fs::write(&file_alone, b"y").unwrap();
        log.note("of a file", events(&of_file));
        fs::remove_file(&file_alone).unwrap();
        log.note("which is removed", events(&of_file));
        fs::remove_dir(root.join("d")).unwrap();
        log.note("the directory is removed", events(&watched));
    });
}

#[test]
fn inotify_tells_of_snapshots() {
    let m = TestMount::new();
    let watched = watch(&m.path(".snapshots"));
    fs::create_dir(m.path(".snapshots/a")).unwrap();
    fs::rename(m.path(".snapshots/a"), m.path(".snapshots/b")).unwrap();
    fs::remove_dir(m.path(".snapshots/b")).unwrap();
    let seen = events(&watched).join("\n");
    for part in [
        "\"a\") ReadFlags(CREATE | ISDIR)",
        "MOVED_FROM",
        "MOVED_TO",
        "\"b\") ReadFlags(DELETE | ISDIR)",
    ] {
        assert!(seen.contains(part), "{part} is not in\n{seen}");
    }
}

/// The masks of the events that a group has got, and closes their descriptors.
fn masks(group: &File) -> Vec<String> {
    let mut buffer = [0u8; 4096];
    let mut group = group;
    let len = group.read(&mut buffer).unwrap_or(0);
    let mut found = Vec::new();
    let mut rest = &buffer[..len];
    while rest.len() >= 24 {
        let event_len = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
        let mask = u64::from_ne_bytes(rest[8..16].try_into().unwrap());
        let fd = i32::from_ne_bytes(rest[16..20].try_into().unwrap());
        let has_descriptor = fd >= 0;
        sys::close(fd);
        found.push(format!("{mask:#x} {has_descriptor}"));
        rest = &rest[event_len..];
    }
    found
}

#[test]
fn fanotify_tells_of_files_and_of_whole_mounts() {
    const EVENTS: u64 =
        libc::FAN_OPEN | libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE | libc::FAN_CLOSE_NOWRITE;
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC;
    alike(|root, log| {
        fs::write(root.join("f"), b"x").unwrap();
        let of_file = File::from(sys::fanotify(flags, 0, EVENTS, &root.join("f")).unwrap());
        fs::write(root.join("f"), b"y").unwrap();
        log.note("written", masks(&of_file));
        assert_eq!(fs::read(root.join("f")).unwrap(), b"y");
        log.note("read", masks(&of_file));
        let children = EVENTS | libc::FAN_EVENT_ON_CHILD;
        let of_dir = File::from(sys::fanotify(flags, 0, children, root).unwrap());
        fs::write(root.join("g"), b"y").unwrap();
        log.note("of a child", masks(&of_dir));
    });
    // A mark on the mount: only here, since the host's directory is no mount of its own.
    let m = TestMount::new();
    let group = File::from(sys::fanotify(flags, libc::FAN_MARK_MOUNT, EVENTS, m.root()).unwrap());
    fs::write(m.path("f"), b"x").unwrap();
    assert!(!masks(&group).is_empty());
}

#[test]
fn fanotify_with_file_identifiers() {
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK | libc::FAN_REPORT_FID;
    alike(|root, log| {
        fs::create_dir(root.join("d")).unwrap();
        let mask = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_ONDIR;
        let group = sys::fanotify(flags, 0, mask, &root.join("d"));
        log.note("of an inode", group.as_ref().map(|_| ()));
        if let Ok(group) = group {
            let group = File::from(group);
            fs::write(root.join("d/f"), b"").unwrap();
            fs::remove_file(root.join("d/f")).unwrap();
            log.note("seen", masks(&group));
        }
    });
    // FUSE gives a filesystem no identifier: see docs/semantics.md.
    let m = TestMount::new();
    let whole = sys::fanotify(flags, libc::FAN_MARK_FILESYSTEM, libc::FAN_CREATE, m.root());
    assert_eq!(whole.map(|_| ()), Err(rustix::io::Errno::NODEV));
}
