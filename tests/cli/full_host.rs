//! The host's filesystem is full while the pool is not: an error where there must be one, and no damage.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::support::{Place, can_mount};

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

#[test]
fn a_full_host_is_no_space_and_deletes_and_snapshots_still_work() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mnt, host) = (place.mkdir("mnt"), place.mkdir("host"));
    let made = "truncate -s 300M image; mkfs.ext4 -q -m 0 image; mount -o loop image host";
    place.shell(made).ok();
    place.amberfs(&["mount", "--create", "host/pool", "mnt", "-o", "commit=1"]).ok();
    let old = vec![5; 20 << 20];
    fs::write(mnt.join("old"), &old).unwrap();
    for number in 0..500 {
        fs::write(mnt.join(format!("small{number}")), vec![number as u8; 5000]).unwrap();
    }
    File::open(mnt.join("old")).unwrap().sync_all().unwrap();
    fs::create_dir(mnt.join(".snapshots/s")).unwrap();

    let taken = fill(&host.join("ballast"));
    assert!(taken > 50 << 20, "only {taken} bytes of the host were left");
    let mut refused = File::create(mnt.join("new"))
        .and_then(|mut file| file.write_all(&vec![6; 30 << 20]).and_then(|()| file.sync_all()));
    assert_eq!(refused.as_ref().unwrap_err().raw_os_error(), Some(libc::ENOSPC), "{refused:?}");
    let status = || place.amberfs(&["pool", "status", "host/pool"]).ok();
    for number in 0..500 {
        fs::remove_file(mnt.join(format!("small{number}"))).unwrap();
        if number % 100 == 0 {
            File::open(&mnt).unwrap().sync_all().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
    }
    fs::remove_dir(mnt.join(".snapshots/s")).unwrap();
    let _ = fs::remove_file(mnt.join("new"));
    assert!(fs::read(mnt.join("old")).unwrap() == old);
    assert!(!status().contains("read-only since"), "{}", status());

    fs::remove_file(host.join("ballast")).unwrap();
    let since = std::time::Instant::now();
    loop {
        refused = fs::write(mnt.join("again"), &old)
            .and_then(|()| File::open(mnt.join("again"))?.sync_all());
        match &refused {
            Ok(()) => break,
            Err(error) => assert!(since.elapsed().as_secs() < 20, "{error}; {}", status()),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(fs::read(mnt.join("again")).unwrap() == old);
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "host/pool", "--data"]).ok();
    place.shell("umount host").ok();
}
