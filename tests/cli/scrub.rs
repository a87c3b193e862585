//! `amberfs scrub`, of a pool that is not mounted and of one that is.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

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

/// Bytes of a file that takes a scrub some hundred steps.
const LARGE: usize = 96 << 20;

/// Adds a file that is read after all others, as it is not in the snapshot.
fn add_large(place: &Place) {
    let bytes: Vec<u8> =
        (0..LARGE as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(place.at("mnt/large"), bytes).unwrap();
    fs::File::open(place.at("mnt/large")).unwrap().sync_all().unwrap();
}

/// Changes a byte of the last block of that file.
fn damage_end_of_large(place: &Place) {
    let path = place.at("pool/data");
    let last = LARGE as u32 / 4;
    let block: Vec<u8> =
        (last - 1024..last).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let image = fs::read(&path).unwrap();
    let at = image.chunks(4096).position(|other| other == block).unwrap() * 4096;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[image[at] ^ 1], at as u64).unwrap();
}

fn number(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap()
}

fn paths(row: &Value) -> Vec<&str> {
    let pieces = row["damage"].as_array().unwrap();
    pieces.iter().map(|piece| piece["path"].as_str().unwrap()).collect()
}

/// Where it was means: it does not see damage that came behind it, sees what came before it, and has read
/// everything once at the end.
#[test]
fn a_scrub_that_is_stopped_goes_on_where_it_was() {
    if !can_mount() {
        return;
    }
    let place = mounted();
    add_large(&place);
    let whole = status(&place, &[], 0);
    let mut tries = 0;
    let (begun, stopped) = loop {
        let begun = status(&place, &["--background"], 0);
        let stopped = status(&place, &["--cancel"], 0);
        // What is not in the large file comes first.
        let here = number(&stopped, "done_bytes") > LARGE as u64 / 6;
        if stopped["progress"] == "stopped" && here {
            break (begun, stopped);
        }
        tries += 1;
        assert!(tries < 100, "it can't be stopped half way: {stopped}");
    };
    place.amberfs(&["umount", "mnt"]).ok();
    let after = status(&place, &["--status"], 0);
    assert_eq!(after, stopped);
    assert_eq!(after["begun"], begun["begun"]);

    damage(&place);
    damage_end_of_large(&place);
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    let rest = status(&place, &[], 1);
    assert_eq!((&rest["progress"], &rest["begun"]), (&"done".into(), &begun["begun"]));
    assert_eq!(paths(&rest), ["/large"]);
    assert_eq!(number(&rest, "blocks"), number(&whole, "blocks"));
    let again = status(&place, &[], 1);
    assert_eq!(paths(&again), ["/dir/hurt", "/dir/hurt", "/large"]);
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["scrub", "nowhere"]).fails(1, &["scrub the pool", "nowhere"]);
    assert_eq!(place.amberfs(&["scrub", "pool", "--status", "--cancel"]).code, 2);
}

/// Nanoseconds that the scrub's thread ran, and that it could have run and no processor was free; none while there
/// is no such thread.
fn scrub_time(daemon: i64) -> Option<(u64, u64)> {
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).ok()?;
    let mut tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
    let is_scrub = |task: &PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "amberfs-scrub")
    };
    let times = fs::read_to_string(tasks.find(is_scrub)?.join("schedstat")).ok()?;
    let mut times = times.split(' ').map_while(|time| time.parse().ok());
    Some((times.next()?, times.next()?))
}

/// It rests for as long as each step took: with all data in the host's memory, so that it waits for nothing, its
/// thread runs half of the time.
#[test]
fn a_scrub_of_a_mounted_pool_rests_half_of_the_time() {
    const MIN_TIME: Duration = Duration::from_millis(40);
    if !can_mount() {
        return;
    }
    let place = mounted();
    add_large(&place);
    let text = place.amberfs(&["status", "pool", "--json"]).ok();
    let daemon = serde_json::from_str::<Value>(&text).unwrap()["pools"][0]["daemon"]["pid"].clone();
    let daemon = daemon.as_i64().unwrap();
    for _ in 0..10 {
        let begun = Instant::now();
        status(&place, &["--background"], 0);
        let (mut first, mut last) = (None, None);
        while let Some(time) = scrub_time(daemon) {
            last = Some((Instant::now(), time));
            first = first.or(last);
            std::thread::sleep(Duration::from_millis(1));
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not come to an end");
        }
        let (Some(first), Some(last)) = (first, last) else { continue };
        let ((from, (ran_first, waited_first)), (to, (ran_last, waited_last))) = (first, last);
        let ran = Duration::from_nanos(ran_last - ran_first);
        let waited = Duration::from_nanos(waited_last - waited_first);
        if to - from >= MIN_TIME {
            let took = (to - from).saturating_sub(waited);
            println!("the scrub ran {ran:?} of {took:?}, and waited {waited:?} for a processor");
            assert!(ran.as_secs_f64() < 0.65 * took.as_secs_f64(), "{ran:?} of {took:?}");
            assert_eq!(status(&place, &["--status"], 0)["progress"], "done");
            place.amberfs(&["umount", "mnt"]).ok();
            return;
        }
    }
    panic!("no scrub took long enough to be measured");
}
