//! Copies within a pool share blocks, cost no data, and stay apart for ever.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::random::Random;
use crate::support::{Place, can_mount, run};

/// Size of the file that is copied; `AMBERFS_SHARED_GIB` gives another.
const GIB: u64 = 1;
const PIECE: usize = 1 << 20;

fn used_bytes(place: &Place) -> u64 {
    let text = place.amberfs(&["pool", "status", "pool", "--json"]).ok();
    let status: Value = serde_json::from_str(&text).unwrap();
    status["pools"][0]["used_bytes"].as_u64().or(status["used_bytes"].as_u64()).unwrap()
}

fn cp(from: &Path, to: &Path) -> Duration {
    let since = Instant::now();
    run(std::process::Command::new("cp").arg(from).arg(to)).ok();
    let took = since.elapsed();
    File::open(to).unwrap().sync_all().unwrap();
    took
}

/// A file's content by the seed of each piece, 0 for what the file began with.
#[derive(Debug, Clone)]
struct Content(Vec<u64>);

impl Content {
    fn piece(&self, number: usize) -> Vec<u8> {
        Random::new(1 + number as u64 + (self.0[number] << 32)).bytes(PIECE)
    }

    /// Overwrites some pieces of a file, and notes it.
    fn scribble(&mut self, path: &Path, random: &mut Random, generation: u64) {
        let file = File::options().write(true).open(path).unwrap();
        for _ in 0..5 {
            let number = random.below(self.0.len());
            self.0[number] = generation;
            file.write_all_at(&self.piece(number), (number * PIECE) as u64).unwrap();
        }
    }

    fn compare(&self, path: &Path) {
        let file = File::open(path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (self.0.len() * PIECE) as u64);
        let mut bytes = vec![0; PIECE];
        for number in 0..self.0.len() {
            file.read_exact_at(&mut bytes, (number * PIECE) as u64).unwrap();
            assert!(bytes == self.piece(number), "{}: piece {number}", path.display());
        }
    }
}

#[test]
fn a_large_copy_takes_no_time_and_no_data_and_both_stay_apart() {
    if !can_mount() {
        return;
    }
    let given = std::env::var("AMBERFS_SHARED_GIB").ok();
    let bytes = given.map_or(GIB, |text| text.parse().unwrap()) << 30;
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    let [first, second, third] = ["first", "second", "third"].map(|name| mnt.join(name));
    let mut content = Content(vec![0; bytes as usize / PIECE]);
    let file = File::create(&first).unwrap();
    for number in 0..content.0.len() {
        file.write_all_at(&content.piece(number), (number * PIECE) as u64).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let before = used_bytes(&place);
    let took = cp(&first, &second);
    fs::create_dir(mnt.join(".snapshots/one")).unwrap();
    let from_snapshot = cp(&mnt.join(".snapshots/one/first"), &third);
    let grown = used_bytes(&place) - before;
    println!(
        "{bytes} bytes: copied in {took:?}, from a snapshot in {from_snapshot:?}, took {grown}"
    );
    assert!(took < Duration::from_secs(1) && from_snapshot < Duration::from_secs(1));
    // A checksum of four bytes for each block, twice, and the nodes around them.
    assert!(grown < bytes / 250, "{grown} bytes for two copies of {bytes}");

    let mut random = Random::new(7);
    let mut copies = [(second, content.clone()), (third, content.clone())];
    for generation in 1..=4 {
        content.scribble(&first, &mut random, 3 * generation);
        for (number, (path, content)) in copies.iter_mut().enumerate() {
            content.scribble(path, &mut random, 3 * generation + 1 + number as u64);
        }
        fs::create_dir(mnt.join(format!(".snapshots/{generation}"))).unwrap();
        if generation == 2 {
            fs::remove_dir(mnt.join(".snapshots/one")).unwrap();
        }
        if generation == 4 {
            fs::remove_dir(mnt.join(".snapshots/1")).unwrap();
            fs::remove_file(&first).unwrap();
        }
    }
    content.compare(&mnt.join(".snapshots/4/first"));
    fs::remove_dir(mnt.join(".snapshots/4")).unwrap();
    fs::remove_dir(mnt.join(".snapshots/3")).unwrap();
    fs::remove_dir(mnt.join(".snapshots/2")).unwrap();
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    copies.iter().for_each(|(path, content)| content.compare(path));
    place.amberfs(&["umount", "mnt"]).ok();
}
