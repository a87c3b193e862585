//! Directories of a million entries.

use amberfs::fs::{Caller, NodeId};

use crate::world::World;

const COUNT: usize = 1_000_000;

/// Nanoseconds that this thread has run: others on the machine do not COUNT.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn name(n: usize) -> Vec<u8> {
    format!("a file with a name of some length, number {n}").into_bytes()
}

#[test]
fn a_directory_of_a_million_entries_stays_quick() {
    let mut world = World::new(8 << 30, 64 << 20, 512 << 20);
    let root = Caller::root();
    let dir = world.fs.mkdir(&root, NodeId::ROOT, b"large", 0o755).unwrap().node;
    let mut quarters = Vec::new();
    let mut began = cpu_time();
    for n in 0..COUNT {
        let made = world.fs.mknod(&root, dir, &name(n), 0o644, 0).unwrap();
        world.fs.forget(made.node, 1);
        if (n + 1) % (COUNT / 4) == 0 {
            let now = cpu_time();
            quarters.push(now - began);
            began = now;
        }
    }
    // If an entry cost what there are entries, the last quarter would take seven times as long as the first.
    assert!(quarters[3] < quarters[0] * 3, "creation slows down: {quarters:?}");
    world.remount();
    let mut listed = vec![false; COUNT];
    let mut cookie = 0;
    loop {
        let before = cookie;
        let mut taken = 0;
        world
            .fs
            .readdir(&root, dir, cookie, false, &mut |entry| {
                if taken == 1000 {
                    return false;
                }
                taken += 1;
                cookie = entry.cookie;
                if let Some(digits) = entry.name.rsplit(|byte| *byte == b' ').next()
                    && let Ok(n) = String::from_utf8_lossy(digits).parse::<usize>()
                {
                    assert!(!std::mem::replace(&mut listed[n], true), "{n} twice");
                }
                true
            })
            .unwrap();
        if cookie == before {
            break;
        }
    }
    assert!(listed.iter().all(|listed| *listed));
    for n in (0..COUNT).step_by(7) {
        let found = world.fs.lookup(&root, dir, &name(n)).unwrap();
        world.fs.forget(found.node, 1);
    }
    for n in 0..COUNT {
        world.fs.unlink(&root, dir, &name(n)).unwrap();
    }
    world.fs.rmdir(&root, NodeId::ROOT, b"large").unwrap();
    world.remount();
    world.pool.checkpoint().unwrap();
    let used = world.pool.status().used_bytes;
    assert!(used < 4 << 20, "{used} bytes are left in use");
}
