//! Going on from a snapshot: clones, and restoring in place.

use std::fs::{self, File};

use crate::support::{Place, can_mount};

fn read(path: impl AsRef<std::path::Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_clone_and_its_origin_go_their_own_ways() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (mnt, copy) = (place.mkdir("mnt"), place.mkdir("copy"));
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    fs::write(mnt.join("f"), "one").unwrap();
    // Open and without a name: the clone has no use for it.
    let gone = mnt.join("gone");
    fs::write(&gone, vec![7; 1 << 20]).unwrap();
    let open = File::open(&gone).unwrap();
    fs::remove_file(&gone).unwrap();
    fs::create_dir(mnt.join(".snapshots/s")).unwrap();
    fs::write(mnt.join("f"), "two").unwrap();
    let said = place.amberfs(&["clone", "pool:main@s", "second"]);
    assert!(said.err.contains("created the volume") && said.err.contains("@s"), "{}", said.err);
    place.amberfs(&["clone", "mnt/.snapshots/s", "third"]).ok();
    place.amberfs(&["mount", "pool:second", "copy"]).ok();
    assert_eq!(read(copy.join("f")), "one");
    assert_eq!(fs::read_dir(copy.join(".snapshots")).unwrap().count(), 0);
    fs::write(copy.join("f"), "three").unwrap();
    assert_eq!(read(mnt.join("f")), "two");
    assert_eq!(read(mnt.join(".snapshots/s/f")), "one");
    // The clone outlives what it was made from.
    fs::remove_dir(mnt.join(".snapshots/s")).unwrap();
    place.amberfs(&["umount", "copy"]).ok();
    place.amberfs(&["mount", "pool:third", "copy"]).ok();
    assert_eq!(read(copy.join("f")), "one");
    drop(open);
    place.amberfs(&["umount", "copy"]).ok();
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
}

#[test]
fn a_restored_volume_is_as_it_was_and_what_it_had_become_is_kept() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    fs::write(mnt.join("f"), "one").unwrap();
    fs::create_dir(mnt.join(".snapshots/s")).unwrap();
    fs::write(mnt.join("f"), "two").unwrap();
    fs::write(mnt.join("new"), "new").unwrap();
    let mounted = place.amberfs(&["restore", "pool:main@s"]);
    mounted.fails(1, &["it is mounted on", "Unmount it first"]);
    place.amberfs(&["umount", "mnt"]).ok();
    // Several within a second each keep what was.
    for _ in 0..3 {
        let said = place.amberfs(&["restore", "pool:main@s"]);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.err.contains("kept as `before-restore-"), "{}", said.err);
    }
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    assert_eq!(read(mnt.join("f")), "one");
    assert!(!mnt.join("new").exists());
    let mut kept: Vec<_> = fs::read_dir(mnt.join(".snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("before-restore-"))
        .collect();
    kept.sort_unstable_by_key(|name| (name.len(), name.clone()));
    assert_eq!(kept.len(), 3);
    let became = |name: &String| read(mnt.join(".snapshots").join(name).join("f")) == "two";
    let first = kept.iter().find(|name| became(name)).expect("what it had become").clone();
    assert_eq!(kept.iter().filter(|name| became(name)).count(), 1);
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["restore", &format!("pool:main@{first}")]).ok();
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    assert_eq!((read(mnt.join("f")), read(mnt.join("new"))), ("two".into(), "new".into()));
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
}

#[test]
fn what_can_not_be_cloned_or_restored_is_refused() {
    let place = Place::new();
    place.pool("pool");
    place.amberfs(&["snapshot", "create", "pool:main@s"]).ok();
    place.amberfs(&["clone", "pool:main", "x"]).fails(2, &["no snapshot is named"]);
    place.amberfs(&["restore", "pool"]).fails(2, &["no snapshot is named"]);
    place.amberfs(&["clone", "pool:main@none", "x"]).fails(1, &["none", "snapshot list"]);
    place.amberfs(&["restore", "pool:main@none"]).fails(1, &["none", "snapshot list"]);
    place.amberfs(&["clone", "pool:none@s", "x"]).fails(1, &["no volume `none`"]);
    place
        .amberfs(&["clone", "pool:main@s", "main"])
        .fails(1, &["already a volume", "another name"]);
    place.amberfs(&["clone", "pool:main@s", "a:b"]).fails(2, &["a:b"]);
    place.amberfs(&["clone", "pool:main@s", "x"]).ok();
    let list = place.amberfs(&["volume", "list", "pool"]).ok();
    assert_eq!(list.lines().count(), 3, "{list}");
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
}
