//! A full pool with several volumes: the call that there is no space for says so, whichever volume is written to.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;

use crate::support::{Place, can_mount};

/// Writes until a call fails; returns the bytes that were acknowledged.
fn fill(path: &Path, byte: u8) -> u64 {
    let mut file = File::create(path).unwrap();
    let mut done = 0;
    let error = loop {
        match file.write(&[byte; 100_000]) {
            Ok(len) => done += len as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    file.sync_all().expect("what was acknowledged can be made durable");
    done
}

#[test]
fn volumes_and_files_that_are_filled_at_once_get_no_more_than_there_is() {
    const VOLUMES: u8 = 3;
    const FILES: usize = 2;
    if !can_mount() {
        return;
    }
    for mib in [64u64, 300] {
        let place = Place::new();
        place.amberfs(&["pool", "create", "pool", "--size", &format!("{mib}M")]).ok();
        let mounts: Vec<_> = (0..VOLUMES)
            .map(|number| {
                let mnt = place.mkdir(&format!("mnt{number}"));
                let volume = format!("pool:v{number}");
                place.amberfs(&["mount", "--create", &volume, mnt.to_str().unwrap()]).ok();
                mnt
            })
            .collect();
        let files: Vec<_> = mounts
            .iter()
            .flat_map(|mnt| (0..FILES).map(|number| mnt.join(number.to_string())))
            .zip(1..)
            .collect();
        let done: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> =
                files.iter().map(|(path, byte)| scope.spawn(|| fill(path, *byte))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let all: u64 = done.iter().sum();
        assert!(all > mib << 19 && all < mib << 20, "{done:?} of {mib} MiB");
        for ((path, byte), done) in files.iter().zip(done) {
            let content = fs::read(path).unwrap();
            assert!(content.len() as u64 == done && content.iter().all(|b| b == byte), "{path:?}");
        }
        for mnt in &mounts {
            place.amberfs(&["umount", mnt.to_str().unwrap()]).ok();
        }
        place.amberfs(&["-q", "check", "pool", "--data"]).ok();
    }
}

/// What a volume was promised is free for others once it has come, though nobody writes there any more.
#[test]
fn what_was_promised_and_has_come_keeps_nobody_from_the_rest() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.amberfs(&["pool", "create", "pool", "--size", "64M"]).ok();
    let mounts = ["a", "b"].map(|name| {
        let mnt = place.mkdir(name);
        place.amberfs(&["mount", "--create", &format!("pool:{name}"), mnt.to_str().unwrap()]).ok();
        mnt
    });
    // Most are more than what they leave.
    let write = |name: &str, mib: usize| {
        let mut file = File::create(mounts[0].join(name)).unwrap();
        (0..mib).for_each(|_| file.write_all(&[7; 1 << 20]).unwrap());
    };
    write("f", 32);
    std::os::unix::fs::symlink("x".repeat(4000), mounts[1].join("link")).unwrap();
    write("g", 15);
    place.amberfs(&["volume", "create", "pool:c"]).ok();
    place.amberfs(&["snapshot", "create", "pool:b@s"]).ok();
    write("h", 5);
    place.amberfs(&["clone", "pool:b@s", "d"]).ok();
    write("i", 2);
    let mnt = place.mkdir("e");
    place.amberfs(&["mount", "--create", "pool:e", mnt.to_str().unwrap()]).ok();
    place.amberfs(&["umount", mnt.to_str().unwrap()]).ok();
    for mnt in &mounts {
        place.amberfs(&["umount", mnt.to_str().unwrap()]).ok();
    }
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
}

/// A volume's live state and its snapshots are mounted each by itself, and have one room.
#[test]
fn the_end_of_a_snapshots_mount_ends_no_promise() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mnt, old) = (place.mkdir("mnt"), place.mkdir("old"));
    let (mnt_arg, old_arg) = (mnt.to_str().unwrap(), old.to_str().unwrap());
    place.amberfs(&["pool", "create", "pool", "--size", "48M"]).ok();
    place.amberfs(&["mount", "--create", "pool:v", mnt_arg]).ok();
    fs::write(mnt.join("most"), vec![1; 38 << 20]).unwrap();
    place.amberfs(&["snapshot", "create", "pool:v@s"]).ok();
    place.amberfs(&["mount", "pool:v@s", old_arg]).ok();
    let promised = File::create(mnt.join("promised")).unwrap();
    (&promised).write_all(&[3; 1 << 20]).unwrap();
    place.amberfs(&["umount", old_arg]).ok();
    let taken = (0..).find(|number| {
        let file = File::create(mnt.join(format!("taker{number}")));
        let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
        !file.is_ok_and(|file| rustix::fs::fallocate(file, keep, 0, 8192).is_ok())
    });
    assert!(taken.unwrap() > 10);
    promised.sync_all().expect("what was acknowledged can be made durable");
    drop(promised);
    place.amberfs(&["umount", mnt_arg]).ok();
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
}
