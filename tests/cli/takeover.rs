//! Mounts outlive their daemon: programs on them see a pause.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::mapping::Mapping;
use crate::random::Random;
use crate::support::{AMBERFS, Place, can_mount, parent};

/// Kills of a run; `AMBERFS_KILLS` gives another number.
const KILLS: u64 = 12;
const THREADS: u64 = 3;

/// What the pool says of itself.
fn status(place: &Place) -> Value {
    let text = place.amberfs(&["status", "pool", "--json"]).ok();
    serde_json::from_str::<Value>(&text).unwrap()["pools"][0].clone()
}

fn daemon(place: &Place) -> rustix::process::Pid {
    let pid = status(place)["daemon"]["pid"].as_i64().unwrap();
    rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn kill(place: &Place) {
    let daemon = daemon(place);
    if std::env::var_os("AMBERFS_STOP_BEFORE_KILL").is_some() {
        // For kernels that break off what they copy to or from a process that is being killed, with EIO to its
        // caller, though the memory is there: those that can't look pages up without a lock.
        rustix::process::kill_process(daemon, rustix::process::Signal::STOP).unwrap();
        wait_until_stopped(daemon);
    }
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
}

fn wait_until_stopped(pid: rustix::process::Pid) {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let since = Instant::now();
    let stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('T'))
    };
    while !fs::read_dir(&tasks).unwrap().all(|task| stopped(task.unwrap())) {
        assert!(since.elapsed() < Duration::from_secs(60), "{pid:?} does not stop");
        thread::sleep(Duration::from_millis(1));
    }
}

fn mounted() -> Option<(Place, PathBuf)> {
    if !can_mount() {
        return None;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    Some((place, mnt))
}

/// The processes that have something open below `dir`, or are in it, and where each waits.
fn users_of(dir: &Path) -> String {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().replace('\0', " ");
    let mut users = String::new();
    for process in fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let mut open: Vec<_> = open.map(|fd| fd.path()).collect();
        open.extend(["cwd", "root"].map(|name| process.join(name)));
        open.retain(|link| fs::read_link(link).is_ok_and(|path| path.starts_with(dir)));
        if !open.is_empty() {
            let open: Vec<_> = open.iter().map(fs::read_link).collect();
            users += &format!("{process:?} {}: {open:?}\n", text(process.join("cmdline")));
            for task in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
                users += &text(task.path().join("stack"));
            }
        }
    }
    users
}

fn unmount_and_check(place: &Place) {
    let since = Instant::now();
    loop {
        let said = place.amberfs(&["umount", "mnt"]);
        if !said.err.contains("busy") {
            said.ok();
            break;
        }
        // The flush helper of a daemon that was killed may still be on its way out of the mount.
        let late = since.elapsed() > Duration::from_secs(10);
        assert!(!late, "{}\n{}", said.err, users_of(&place.at("mnt")));
        thread::sleep(Duration::from_millis(50));
    }
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
}

/// One thread's operations, each of which fails if it is carried out twice or not at all.
fn work(dir: &Path, seed: u64, over: &AtomicBool, done: &AtomicU64) {
    let mut random = Random::new(seed);
    fs::create_dir(dir).unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(dir.join("file"));
    let mut file = file.unwrap();
    let mut content = vec![0u8; 256 << 10];
    file.write_all_at(&content, 0).unwrap();
    let mut mapping = Mapping::new(&file, content.len());
    for round in 0u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.join(format!("{name}{round}")));
        fs::create_dir(&a).unwrap();
        fs::remove_dir(&a).unwrap();
        fs::write(&a, round.to_string()).unwrap();
        fs::rename(&a, &b).unwrap();
        fs::hard_link(&b, &c).unwrap();
        fs::remove_file(&b).unwrap();
        assert_eq!(fs::read_to_string(&c).unwrap(), round.to_string());
        assert_eq!(fs::metadata(&c).unwrap().nlink(), 1);
        fs::remove_file(&c).unwrap();
        symlink("target", &a).unwrap();
        fs::remove_file(&a).unwrap();
        rustix::fs::setxattr(dir, "user.x", b"1", rustix::fs::XattrFlags::CREATE).unwrap();
        rustix::fs::removexattr(dir, "user.x").unwrap();
        let len = 1 + random.below(9000);
        let at = random.below(content.len() - len);
        let bytes = random.bytes(len);
        if round % 3 == 0 {
            mapping.store(at, &bytes);
        } else {
            file.write_all_at(&bytes, at as u64).unwrap();
        }
        content[at..at + len].copy_from_slice(&bytes);
        if round % 20 == 0 {
            file.sync_all().unwrap();
        }
        let mut read = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == content, "round {round}, seed {seed}");
        done.fetch_add(1, Ordering::Relaxed);
    }
    drop(mapping);
    drop(file);
    assert!(fs::read(dir.join("file")).unwrap() == content, "at the end, seed {seed}");
}

#[test]
fn programs_go_on_when_the_daemon_is_killed_again_and_again() {
    let Some((place, mnt)) = mounted() else { return };
    let kills = std::env::var("AMBERFS_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _over = SetOnDrop(&over);
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let (mnt, over, done) = (&mnt, &over, &done);
                scope.spawn(move || work(&mnt.join(format!("dir{number}")), number, over, done))
            })
            .collect();
        let mut random = Random::new(20_261_126);
        for number in 0..kills {
            let before = done.load(Ordering::Relaxed);
            thread::sleep(Duration::from_millis(550 + random.below(500) as u64));
            let content = [number as u8; 100];
            fs::write(mnt.join("before-snapshot"), content).unwrap();
            // With the daemon dying some time before, in or after it.
            let snapshot = scope.spawn({
                let dir = mnt.join(format!(".snapshots/{number}"));
                move || fs::create_dir(dir)
            });
            thread::sleep(Duration::from_micros(random.below(6000) as u64));
            kill(&place);
            snapshot.join().unwrap().unwrap();
            let frozen = mnt.join(format!(".snapshots/{number}/before-snapshot"));
            assert_eq!(fs::read(frozen).unwrap(), content);
            assert!(done.load(Ordering::Relaxed) > before, "nothing was done before kill {number}");
        }
        over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(status(&place)["daemon"]["deaths"], kills);
    unmount_and_check(&place);
}

/// A write that is lost, and a `mkdir` that is carried out twice, as they look to a program. Here the test does
/// it, behind the program's back.
#[test]
fn planted_losses_and_repetitions_are_found() {
    type Fault<'a> = (&'a str, &'a dyn Fn(&Path, u64));
    const LIMIT: Duration = Duration::from_secs(20);
    let Some((place, mnt)) = mounted() else { return };
    let lose = |dir: &Path, _: u64| {
        let file = File::options().write(true).open(dir.join("file")).unwrap();
        file.write_all_at(&[0; 100_000], 50_000).unwrap();
    };
    let repeat = |dir: &Path, done: u64| drop(fs::create_dir(dir.join(format!("a{}", done + 50))));
    let faults: [Fault<'_>; 2] = [("lost", &lose), ("twice", &repeat)];
    for (name, fault) in faults {
        let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let dir = mnt.join(name);
        let found = thread::scope(|scope| {
            let worker = scope.spawn(|| work(&dir, 1, &over, &done));
            let since = Instant::now();
            while !worker.is_finished() && since.elapsed() < LIMIT {
                let rounds = done.load(Ordering::Relaxed);
                if rounds > 3 {
                    fault(&dir, rounds);
                }
                thread::sleep(Duration::from_millis(20));
            }
            over.store(true, Ordering::Relaxed);
            worker.join().is_err()
        });
        assert!(found, "{name}: nobody saw it");
    }
    unmount_and_check(&place);
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nothing_that_the_kernel_held_is_lost_and_a_snapshot_has_it() {
    let Some((place, mnt)) = mounted() else { return };
    let file = File::options().read(true).write(true).create_new(true).open(mnt.join("f")).unwrap();
    file.write_all_at(&[7; 100_000], 0).unwrap();
    kill(&place);
    // Opened before the kill, written behind it: the next daemon has to know that it is open.
    file.write_all_at(&[8; 50_000], 50_000).unwrap();
    fs::create_dir(mnt.join(".snapshots/s")).unwrap();
    let frozen = fs::read(mnt.join(".snapshots/s/f")).unwrap();
    assert!(frozen[..50_000] == [7; 50_000] && frozen[50_000..] == [8; 50_000]);
    drop(file);
    unmount_and_check(&place);
}

#[test]
fn an_unlinked_file_stays_open_and_its_space_comes_back() {
    const BYTES: usize = 8 << 20;
    let Some((place, mnt)) = mounted() else { return };
    let create = |name: &str| {
        let file = File::options().read(true).write(true).create_new(true).open(mnt.join(name));
        let file = file.unwrap();
        file.write_all_at(&vec![3; BYTES], 0).unwrap();
        file.sync_all().unwrap();
        file
    };
    let (before, after) = (create("before"), create("after"));
    fs::remove_file(mnt.join("before")).unwrap();
    kill(&place);
    fs::remove_file(mnt.join("after")).unwrap();
    for file in [&before, &after] {
        let mut bytes = vec![0; BYTES];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == vec![3; BYTES]);
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
    let used = || status(&place)["used_bytes"].as_u64().unwrap();
    assert!(used() > 2 * BYTES as u64);
    drop((before, after));
    let since = Instant::now();
    while used() > BYTES as u64 {
        assert!(since.elapsed() < Duration::from_secs(20), "{} bytes are in use", used());
        thread::sleep(Duration::from_millis(100));
    }
    unmount_and_check(&place);
}

#[test]
fn several_mounts_survive_and_end_in_an_orderly_way() {
    let Some((place, mnt)) = mounted() else { return };
    let other = place.mkdir("other mount");
    fs::write(mnt.join("f"), "x").unwrap();
    fs::create_dir(mnt.join(".snapshots/s")).unwrap();
    place.amberfs(&["volume", "create", "pool:other"]).ok();
    place.amberfs(&["mount", "pool:other", "other mount", "-o", "snapdir=visible"]).ok();
    let frozen = place.mkdir("frozen");
    place.amberfs(&["mount", "pool", "frozen", "-o", "snapshot=s"]).ok();
    kill(&place);
    fs::write(other.join("g"), "y").unwrap();
    assert_eq!(fs::read_to_string(frozen.join("f")).unwrap(), "x");
    let names: Vec<_> = fs::read_dir(&other).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.contains(&".snapshots".into()), "{names:?}");
    assert_eq!(status(&place)["mounts"].as_array().unwrap().len(), 3);
    for dir in ["frozen", "other mount"] {
        place.amberfs(&["umount", dir]).ok();
    }
    kill(&place);
    assert_eq!(fs::read_to_string(mnt.join("f")).unwrap(), "x");
    unmount_and_check(&place);
    assert!(!place.at("pool/control.sock").exists());
}

#[test]
fn a_new_program_takes_over_without_an_unmount() {
    let Some((place, mnt)) = mounted() else { return };
    let mut file = File::options().append(true).create(true).open(mnt.join("f")).unwrap();
    let before = daemon(&place);
    let copy = place.at("amberfs-new");
    fs::copy(AMBERFS, &copy).unwrap();
    std::io::Write::write_all(&mut file, b"one").unwrap();
    place.amberfs(&["upgrade", "pool", "--program", copy.to_str().unwrap()]).ok();
    std::io::Write::write_all(&mut file, b"two").unwrap();
    let now = daemon(&place);
    assert_ne!(before, now);
    let program = fs::read_link(format!("/proc/{}/exe", now.as_raw_nonzero())).unwrap();
    assert_eq!(program, copy);
    assert_eq!(fs::read_to_string(mnt.join("f")).unwrap(), "onetwo");
    assert_eq!(status(&place)["daemon"]["deaths"], 0);
    let refused = place.amberfs(&["upgrade", "pool", "--program", "/bin/true"]);
    refused.fails(2, &["/bin/true", "not an amberfs program"]);
    assert_eq!(daemon(&place), now);
    drop(file);
    unmount_and_check(&place);
    place.amberfs(&["upgrade", "pool"]).fails(1, &["not mounted"]);
}

#[test]
fn a_daemon_that_dies_at_once_again_and_again_is_given_up() {
    let Some((place, mnt)) = mounted() else { return };
    fs::write(mnt.join("f"), "x").unwrap();
    let since = Instant::now();
    let refused = loop {
        assert!(since.elapsed() < Duration::from_secs(60), "still started again");
        let text = place.amberfs(&["status", "pool", "--json"]);
        match serde_json::from_str::<Value>(&text.out) {
            Ok(status) => {
                let pid = status["pools"][0]["daemon"]["pid"].as_i64().unwrap();
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            Err(_) if text.err.contains("died") => break text,
            Err(_) => {}
        }
    };
    refused.fails(1, &["not served any more", "died", "log"]);
    let error = fs::read_to_string(mnt.join("f")).map(drop).and(fs::write(mnt.join("g"), "y"));
    assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EIO));
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    assert_eq!(fs::read_to_string(mnt.join("f")).unwrap(), "x");
    unmount_and_check(&place);
}

#[test]
fn without_its_supervisor_a_daemon_goes_on() {
    let Some((place, mnt)) = mounted() else { return };
    let parent = parent(daemon(&place).as_raw_nonzero().get());
    let parent = rustix::process::Pid::from_raw(parent).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    fs::write(mnt.join("f"), "x").unwrap();
    fs::create_dir(mnt.join(".snapshots/s")).unwrap();
    unmount_and_check(&place);
}
