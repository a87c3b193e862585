//! The host's filesystem is full while the pool is not: an error where there must be one, and no damage.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::{Place, can_mount};

const SMALL_FILES: usize = 500;

/// Writes until there is no room; returns how many bytes were written.
fn fill(path: &Path) -> u64 {
    let mut file = File::create(path).unwrap();
    let (mut step, mut written) = (1 << 20, 0);
    while step >= 4096 {
        match file.write_all(&vec![7; step]).and_then(|()| file.sync_data()) {
            Ok(()) => written += step as u64,
            Err(_) => step /= 2,
        }
    }
    written
}

/// What the test does so that one of its expectations must fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The host is not full: what has to be refused is taken.
    Room,
    /// A byte of a file changes.
    Byte,
}

#[test]
fn a_full_host_is_no_space_and_deletes_and_snapshots_still_work() {
    if can_mount() {
        fill_the_host(Fault::None);
    }
}

#[test]
fn planted_room_and_a_changed_byte_are_found() {
    if !can_mount() {
        return;
    }
    for (fault, said) in [(Fault::Room, "no refusal"), (Fault::Byte, "the old file")] {
        let seen = std::panic::catch_unwind(|| fill_the_host(fault)).expect_err("nobody saw it");
        let text = seen.downcast_ref::<String>().expect("it says what it saw");
        assert!(text.contains(said), "{fault:?}: {text}");
    }
}

fn fill_the_host(fault: Fault) {
    let place = Place::new();
    let (mnt, host) = (place.mkdir("mnt"), place.mkdir("host"));
    let made = "truncate -s 300M image; mkfs.ext4 -q -m 0 image; mount -o loop image host";
    place.shell(made).ok();
    place.amberfs(&["mount", "--create", "host/pool", "mnt", "-o", "commit=1"]).ok();
    let old = vec![5; 20 << 20];
    fs::write(mnt.join("old"), &old).unwrap();
    for number in 0..SMALL_FILES {
        fs::write(mnt.join(format!("small{number}")), vec![number as u8; 5000]).unwrap();
    }
    if fault == Fault::Byte {
        let file = File::options().write(true).open(mnt.join("old")).unwrap();
        file.write_all_at(&[6], 1 << 20).unwrap();
    }
    File::open(mnt.join("old")).unwrap().sync_all().unwrap();
    fs::create_dir(mnt.join(".snapshots/s")).unwrap();

    let taken = fill(&host.join("ballast"));
    assert!(taken > 50 << 20, "only {taken} bytes of the host were left");
    if fault == Fault::Room {
        fs::remove_file(host.join("ballast")).unwrap();
    }
    let refused = File::create(mnt.join("new"))
        .and_then(|mut file| file.write_all(&vec![6; 30 << 20]).and_then(|()| file.sync_all()));
    let code = refused.as_ref().err().and_then(std::io::Error::raw_os_error);
    assert_eq!(code, Some(libc::ENOSPC), "no refusal: {refused:?}");
    delete_and_compare(&place, &mnt, &old);
    write_when_there_is_room(&place, &mnt, &host, &old);
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "host/pool", "--data"]).ok();
    place.shell("umount host").ok();
}

fn status(place: &Place) -> String {
    place.amberfs(&["pool", "status", "host/pool"]).ok()
}

/// Deletes files and the snapshot, over several checkpoints, while there is no room.
fn delete_and_compare(place: &Place, mnt: &Path, old: &[u8]) {
    assert!(fs::read(mnt.join("old")).unwrap() == old, "the old file, {} bytes", old.len());
    for number in 0..SMALL_FILES {
        fs::remove_file(mnt.join(format!("small{number}"))).unwrap();
        if number % 100 == 0 {
            File::open(mnt).unwrap().sync_all().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
    }
    fs::remove_dir(mnt.join(".snapshots/s")).unwrap();
    let _ = fs::remove_file(mnt.join("new"));
    assert!(fs::read(mnt.join("old")).unwrap() == old, "the old file, after deletes");
    assert!(!status(place).contains("read-only since"), "{}", status(place));
}

fn write_when_there_is_room(place: &Place, mnt: &Path, host: &Path, old: &[u8]) {
    fs::remove_file(host.join("ballast")).unwrap();
    let since = std::time::Instant::now();
    loop {
        let refused = fs::write(mnt.join("again"), old)
            .and_then(|()| File::open(mnt.join("again"))?.sync_all());
        match &refused {
            Ok(()) => break,
            Err(error) => assert!(since.elapsed().as_secs() < 20, "{error}; {}", status(place)),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(fs::read(mnt.join("again")).unwrap() == old);
}
