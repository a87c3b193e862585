//! A mount that another process goes on with: what the kernel may hold of it is not known.

use super::*;

impl World {
    /// The same pool after the process has died, shown to the same kernel.
    fn inherit(self, note: &std::fs::File) -> World {
        let World { storage, clock, pool, fs, root } = self;
        let options = fs.options().clone();
        drop(fs);
        pool.abandon();
        let pool = Pool::open(storage.clone(), open_options(&clock)).unwrap();
        let fs = Filesystem::inherit(pool.volume("main").unwrap(), options).unwrap();
        fs.note_writers(note.try_clone().unwrap()).unwrap();
        World { storage, clock, pool, fs, root }
    }
}

fn noted() -> (World, std::fs::File) {
    let (world, note) = (World::new(), tempfile::tempfile().unwrap());
    world.fs.note_writers(note.try_clone().unwrap()).unwrap();
    (world, note)
}

#[test]
fn unlinked_files_stay_until_the_kernel_has_nothing_of_them() {
    let (world, note) = noted();
    let before = world.put("before", &pattern(1, 9000)).node;
    world.fs.open(before, libc::O_RDONLY).unwrap();
    world.unlink("before").unwrap();
    let after = world.put("after", &pattern(2, 9000)).node;
    let world = world.inherit(&note);
    assert_eq!(world.content(before), pattern(1, 9000));
    // The kernel knows it from the process before: it must not end with the name.
    world.unlink("after").unwrap();
    world.fs.forget(after, 1);
    world.fs.release(before, Handle(0));
    assert_eq!(world.content(after), pattern(2, 9000));
    let mut doubtful = world.fs.doubtful();
    doubtful.sort();
    assert_eq!(doubtful, [before, after]);
    world.fs.gone(before);
    assert_eq!(world.fs.getattr(before), Err(Error::Stale));
    assert_eq!(world.fs.doubtful(), [after]);
    // Opened since it was asked about, it is not gone.
    world.fs.open(after, libc::O_RDONLY).unwrap();
    world.fs.gone(after);
    assert_eq!(world.content(after), pattern(2, 9000));
    let world = world.remount();
    assert_eq!(world.fs.getattr(after), Err(Error::Stale));
}

#[test]
fn files_open_for_writing_are_flushed_before_a_snapshot_in_the_next_process_too() {
    let (world, note) = noted();
    let [open, closed, reading] = ["a", "b", "c"].map(|name| world.put(name, b"x").node);
    world.fs.open(open, libc::O_RDWR).unwrap();
    let handle = world.fs.open(closed, libc::O_WRONLY).unwrap();
    world.fs.open(reading, libc::O_RDONLY).unwrap();
    world.fs.release(closed, handle);
    let world = world.inherit(&note);
    assert_eq!(world.fs.open_for_write(), [open]);
    // It may have been opened twice, so that one release does not end it.
    world.fs.release(open, Handle::from_flags(libc::O_RDWR));
    assert_eq!(world.fs.open_for_write(), [open]);
    let world = world.inherit(&note);
    assert_eq!(world.fs.doubtful(), [open]);
    world.fs.gone(open);
    assert!(world.fs.open_for_write().is_empty() && world.fs.doubtful().is_empty());
    let world = world.inherit(&note);
    assert!(world.fs.open_for_write().is_empty());
}

#[test]
fn a_mount_of_its_own_has_nothing_doubtful() {
    let (world, _note) = noted();
    let node = world.put("f", b"x").node;
    world.fs.open(node, libc::O_RDWR).unwrap();
    world.unlink("f").unwrap();
    assert!(world.fs.doubtful().is_empty());
}

#[test]
fn what_a_request_has_made_is_found_for_its_reply() {
    let world = World::new();
    let file = world.put("f", b"x");
    let made = world.fs.made(ROOT, file.node.0).unwrap();
    assert_eq!((made.node, made.attr.size), (file.node, 1));
    let snapshots = NodeId::snapshot_dir(ROOT_INODE);
    let taken = world.fs.mkdir(&world.root, snapshots, b"s", 0o755).unwrap();
    let member = world.pool.snapshots(world.fs.volume().id())[0].member;
    assert_eq!(world.fs.made(snapshots, member.0).unwrap().node, taken.node);
    assert_eq!(world.fs.made(ROOT, 999), Err(Error::Stale));
    assert_eq!(world.fs.made(snapshots, 999), Err(Error::NotFound));
}
