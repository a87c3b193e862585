//! `amberfs scrub`, of a pool that is not mounted and of one that is.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::support::{Place, can_mount};

/// A mounted pool with a file of many blocks, a snapshot of it, and another file.
fn mounted() -> Place {
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    fs::create_dir(mnt.join("dir")).unwrap();
    let bytes: Vec<u8> = (0..900_000u32).flat_map(|n| n.to_le_bytes()).collect();
    fs::write(mnt.join("dir/hurt"), &bytes).unwrap();
    fs::write(mnt.join("well"), &bytes[..300_000]).unwrap();
    fs::create_dir(mnt.join(".snapshots/monday")).unwrap();
    place
}

/// Changes a byte of `dir/hurt` in the pool's data file.
fn damage(place: &Place) {
    let path = place.at("pool/data");
    let image = fs::read(&path).unwrap();
    let block: Vec<u8> = (800_000u32..801_000).flat_map(|n| n.to_le_bytes()).collect();
    let at = image.windows(block.len()).position(|part| part == block).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[image[at] ^ 1], at as u64).unwrap();
}

fn status(place: &Place, args: &[&str], code: i32) -> Value {
    let said = place.amberfs(&[&["scrub", "pool", "--json"], args].concat());
    assert_eq!(said.code, code, "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

#[test]
fn a_scrub_names_what_is_damaged_and_says_so_by_its_exit_code() {
    if !can_mount() {
        return;
    }
    let place = mounted();
    let none = status(&place, &["--status"], 0);
    assert_eq!((&none["progress"], &none["version"]), (&"none".into(), &1.into()));
    let clean = status(&place, &[], 0);
    assert_eq!((&clean["progress"], &clean["damage"]), (&"done".into(), &Value::Array(vec![])));
    assert!(clean["blocks"].as_u64() >= Some(952), "{clean}");

    damage(&place);
    let hurt = status(&place, &[], 1);
    let named: Vec<(Value, Value, Value)> = hurt["damage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["volume"].clone(), row["snapshot"].clone(), row["path"].clone()))
        .collect();
    let row = |snapshot: Value| ("main".into(), snapshot, "/dir/hurt".into());
    assert_eq!(named, [row("monday".into()), row(Value::Null)], "{hurt}");
    let said = place.amberfs(&["scrub", "pool", "--status"]);
    assert_eq!(said.code, 1);
    assert!(said.out.contains("main@monday /dir/hurt: block 781: "), "{}", said.out);
    assert!(said.err.contains("2 pieces of damage were found"), "{}", said.err);
    let log = fs::read_to_string(place.at("pool/log")).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("scrub: ")).collect();
    let named =
        |line: &&&str| line.contains("volume=\"main\"") && line.contains("path=\"/dir/hurt\"");
    assert_eq!(lines.iter().filter(named).count(), 2, "{log}");
    assert_eq!(
        lines.iter().filter(|line| line.contains("snapshot=\"monday\"")).count(),
        1,
        "{log}"
    );

    // A path is that of the time at which the damage was found.
    fs::rename(place.at("mnt/dir/hurt"), place.at("mnt/moved")).unwrap();
    assert_eq!(status(&place, &["--status"], 1)["damage"], hurt["damage"]);
    fs::rename(place.at("mnt/moved"), place.at("mnt/dir/hurt")).unwrap();

    // Without a daemon the command does it itself, and what it found is kept.
    place.amberfs(&["umount", "mnt"]).ok();
    assert_eq!(status(&place, &["--status"], 1)["damage"], hurt["damage"]);
    assert_eq!(status(&place, &[], 1)["damage"], hurt["damage"]);
}

#[test]
fn a_scrub_in_the_background_is_stopped_and_goes_on() {
    if !can_mount() {
        return;
    }
    let place = mounted();
    let begun = status(&place, &["--background"], 0);
    let stopped = status(&place, &["--cancel"], 0);
    assert_ne!(stopped["progress"], "running");
    assert_ne!(stopped["progress"], "none");
    place.amberfs(&["umount", "mnt"]).ok();
    let after = status(&place, &["--status"], 0);
    assert_eq!((&after["begun"], &after["progress"]), (&begun["begun"], &stopped["progress"]));
    assert_eq!(status(&place, &[], 0)["progress"], "done");
    place.amberfs(&["scrub", "nowhere"]).fails(1, &["scrub the pool", "nowhere"]);
    assert_eq!(place.amberfs(&["scrub", "pool", "--status", "--cancel"]).code, 2);
}
