//! Mounts, and commands on mounted pools.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{AMBERFS, Place, can_mount, parent, run};

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap()
}

fn is_mounted(dir: &Path) -> bool {
    mounts().contains(&format!(" {} fuse.amberfs ", dir.to_str().unwrap().replace(' ', "\\040")))
}

/// Waits until `done`, for ten seconds at most.
#[track_caller]
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < Duration::from_secs(10), "still not: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn status(place: &Place, pool: &str) -> Value {
    let text = place.amberfs(&["status", pool, "--json"]).ok();
    serde_json::from_str::<Value>(&text).unwrap()["pools"][0].clone()
}

fn pid(place: &Place, pool: &str) -> i32 {
    i32::try_from(status(place, pool)["daemon"]["pid"].as_i64().unwrap()).unwrap()
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_volume_is_mounted_used_unmounted_and_mounted_again() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    let said = place.amberfs(&["mount", "--create", "pool", "mnt"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(is_mounted(&mnt));
    assert!(mounts().contains(&format!("{}:main ", place.at("pool").display())));
    fs::write(mnt.join("file"), "one").unwrap();
    fs::create_dir(mnt.join(".snapshots/first")).unwrap();
    fs::write(mnt.join("file"), "two").unwrap();
    place.amberfs(&["umount", "mnt"]).ok();
    assert!(!is_mounted(&mnt));
    assert!(!place.at("pool/control.sock").exists());
    // The pool is closed and free at once.
    amberfs::device::PoolDir::open(&place.at("pool")).unwrap();
    let log = fs::read_to_string(place.at("pool/log")).unwrap();
    assert!(log.contains("serving") && log.contains("closed"), "{log}");
    place.amberfs(&["check", "pool", "--data"]).ok();
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "two");
    assert_eq!(fs::read_to_string(mnt.join(".snapshots/first/file")).unwrap(), "one");
    place.amberfs(&["umount", "mnt"]).ok();
}

#[test]
fn a_snapshot_by_command_holds_the_dirty_pages_of_open_files() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    let files: Vec<File> =
        (0..20).map(|i| File::create_new(mnt.join(format!("f{i}"))).unwrap()).collect();
    for round in 0..5_u8 {
        for file in &files {
            file.write_all_at(&vec![round; 100_000], 0).unwrap();
        }
        place.amberfs(&["-q", "snapshot", "create", &format!("mnt@r{round}")]).ok();
        for file in &files {
            file.write_all_at(&vec![0xff; 100_000], 0).unwrap();
        }
        for i in 0..files.len() {
            let frozen = fs::read(mnt.join(format!(".snapshots/r{round}/f{i}"))).unwrap();
            assert!(frozen == vec![round; 100_000], "round {round}, file {i}");
        }
    }
    drop(files);
    place.amberfs(&["umount", "mnt"]).ok();
}

#[test]
fn commands_go_through_the_daemon_and_paths_name_volumes() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("m nt:x@y");
    let dir = mnt.to_str().unwrap();
    place.amberfs(&["mount", "--create", "pool:v 1", dir]).ok();
    fs::create_dir(mnt.join("sub")).unwrap();
    place.amberfs(&["snapshot", "create", &format!("{dir}/sub@s:1")]).ok();
    assert!(mnt.join(".snapshots/s:1/sub").is_dir());
    place.amberfs(&["snapshot", "rename", &format!("{dir}@s:1"), "s2"]).ok();
    assert!(mnt.join(".snapshots/s2/sub").is_dir());
    assert!(!mnt.join(".snapshots/s:1").exists());
    let text = place.amberfs(&["snapshot", "list", &format!("{dir}/sub")]).ok();
    assert!(text.lines().nth(1).unwrap().starts_with("v 1"), "{text}");
    assert!(text.contains("@s2"), "{text}");
    place.amberfs(&["snapshot", "show", &format!("{dir}/.snapshots/s2/sub")]).ok();
    place.amberfs(&["snapshot", "delete", &format!("{dir}@s2")]).ok();
    assert_eq!(fs::read_dir(mnt.join(".snapshots")).unwrap().count(), 0);
    let row = status(&place, "pool");
    assert_eq!(row["mounts"][0]["dir"], dir);
    assert_eq!(row["mounts"][0]["volume"], "v 1");
    // Without a name it speaks of every mount, and fails for one that has lost its daemon: another test's.
    assert!(place.amberfs(&["status"]).out.contains(dir));
    place.amberfs(&["volume", "delete", "pool:v 1"]).fails(1, &["it is mounted on"]);
    place.amberfs(&["check", "pool"]).fails(1, &["in use", "unmount"]);
    let inside = place.amberfs(&["umount", &format!("{dir}/sub")]);
    inside.fails(1, &["not a mount point", dir]);
    place.amberfs(&["umount", dir]).ok();
}

#[test]
fn several_mounts_share_a_daemon_and_the_last_one_ends_it() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (a, b, c) = (place.mkdir("a"), place.mkdir("b"), place.mkdir("c"));
    place.amberfs(&["mount", "--create", "pool:one", "a"]).ok();
    fs::write(a.join("file"), "frozen").unwrap();
    place.amberfs(&["snapshot", "create", "a@snap"]).ok();
    fs::write(a.join("file"), "later").unwrap();
    place.amberfs(&["mount", "--create", "pool:two", "b"]).ok();
    place.amberfs(&["mount", "pool:one", "c", "-o", "snapshot=snap"]).ok();
    assert_eq!(fs::read_to_string(c.join("file")).unwrap(), "frozen");
    assert!(fs::write(c.join("file"), "x").is_err());
    let daemon = pid(&place, "pool");
    assert_eq!(status(&place, "pool")["mounts"].as_array().unwrap().len(), 3);
    let twice = place.amberfs(&["mount", "pool:one", &place.mkdir("d").to_string_lossy()]);
    twice.fails(1, &["already mounted on", "mount --bind"]);
    place.amberfs(&["mount", "pool:two", "a"]).fails(1, &["already mounted there"]);
    place.amberfs(&["snapshot", "delete", "pool:one@snap"]).fails(1, &["mounted by itself on"]);
    place.amberfs(&["umount", "c"]).ok();
    place.amberfs(&["umount", "a"]).ok();
    assert!(fs::read_dir(&b).is_ok());
    assert_eq!(pid(&place, "pool"), daemon);
    place.amberfs(&["umount", "b"]).ok();
    wait_until("the daemon has ended", || !Path::new(&format!("/proc/{daemon}/fd/0")).exists());
}

#[test]
fn a_busy_mount_stays_and_says_so() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    let mut open = File::create(mnt.join("open")).unwrap();
    place.amberfs(&["umount", "mnt"]).fails(1, &["unmount mnt", "busy"]);
    open.write_all(b"still works").unwrap();
    drop(open);
    place.amberfs(&["umount", "mnt"]).ok();
    assert!(!is_mounted(&mnt));
}

#[test]
fn plain_umount_and_signals_close_the_pool() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    fs::write(mnt.join("file"), "kept").unwrap();
    assert_eq!(run(Command::new("umount").arg(&mnt)).code, 0);
    wait_until("the pool is closed", || !place.at("pool/control.sock").exists());
    for end in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        place.amberfs(&["mount", "pool", "mnt"]).ok();
        assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "kept");
        signal(pid(&place, "pool"), end);
        wait_until("everything is unmounted", || !is_mounted(&mnt));
        wait_until("the pool is closed", || !place.at("pool/control.sock").exists());
    }
    place.amberfs(&["check", "pool", "--data"]).ok();
}

#[test]
fn a_signal_detaches_what_is_busy() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    fs::write(mnt.join("file"), "kept").unwrap();
    let open = File::open(mnt.join("file")).unwrap();
    // A client that only holds its connection does not keep the daemon.
    let _idle = std::os::unix::net::UnixStream::connect(place.at("pool/control.sock")).unwrap();
    let daemon = pid(&place, "pool");
    signal(daemon, rustix::process::Signal::TERM);
    wait_until("it is detached", || !is_mounted(&mnt));
    wait_until("the daemon has ended", || {
        amberfs::device::PoolDir::open(&place.at("pool")).is_ok()
    });
    assert!(!place.at("pool/control.sock").exists());
    drop(open);
    place.amberfs(&["check", "pool", "--data"]).ok();
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "kept");
    place.amberfs(&["umount", "mnt"]).ok();
}

#[test]
fn killed_with_its_supervisor_a_daemon_loses_nothing_and_its_mount_can_be_taken_away() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    fs::write(mnt.join("file"), "kept").unwrap();
    let daemon = pid(&place, "pool");
    signal(parent(daemon), rustix::process::Signal::KILL);
    signal(daemon, rustix::process::Signal::KILL);
    wait_until("the mount is dead", || fs::read_dir(&mnt).is_err());
    place.amberfs(&["mount", "pool", "mnt"]).fails(1, &["daemon is gone", "amberfs umount"]);
    let said = place.amberfs(&["umount", "mnt"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("daemon was gone"), "{}", said.err);
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "kept");
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["check", "pool", "--data"]).ok();
}

#[test]
fn foreground_logs_to_standard_error_and_ends_with_the_mount() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    let mut child = place
        .command(&["mount", "-f", "--create", "pool", "mnt"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it is mounted", || is_mounted(&mnt));
    fs::write(mnt.join("file"), "x").unwrap();
    wait_until("it listens", || place.amberfs(&["umount", "mnt"]).code == 0);
    assert!(child.wait().unwrap().success());
    let mut log = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut log).unwrap();
    assert!(log.contains("serving") && log.contains("closed"), "{log}");
    assert!(!place.at("pool/log").exists());
}

#[test]
fn the_mount_helper_takes_the_forms_of_mount_8() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.pool("pool");
    let mnt = place.mkdir("mnt");
    let helper = |name: &str, args: &[&str]| {
        let link = place.at(name);
        let _ = symlink(AMBERFS, &link);
        run(Command::new(link).args(args).current_dir(place.at("")))
    };
    let pool = place.at("pool");
    let spec = format!("{}:main", pool.display());
    let options = "rw,_netdev,nofail,x-systemd.automount,noatime,nodev";
    let fake = helper("mount.amberfs", &[&spec, "mnt", "-f", "-n", "-v", "-o", options]);
    assert_eq!(fake.code, 0, "{}", fake.err);
    assert!(!is_mounted(&mnt));
    helper("mount.amberfs", &[&spec, "mnt", "-o", options]).ok();
    let line =
        mounts().lines().find(|line| line.contains(mnt.to_str().unwrap())).unwrap().to_owned();
    assert!(line.contains("nodev") && line.contains("noatime"), "{line}");
    fs::write(mnt.join("file"), "x").unwrap();
    place.amberfs(&["umount", "mnt"]).ok();
    helper("mount.fuse.amberfs", &[&spec, "mnt", "-o", "ro", "-t", "fuse.amberfs"]).ok();
    assert!(fs::write(mnt.join("file"), "y").is_err());
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "x");
    place.amberfs(&["umount", "mnt"]).ok();
    let refused = helper("mount.amberfs", &[&spec, "mnt", "-o", "frobnicate"]);
    refused.fails(2, &["unknown mount option"]);
    helper("mount.amberfs", &[&spec, "mnt", "-s", "-o", "frobnicate"]).ok();
    place.amberfs(&["umount", "mnt"]).ok();
}

#[test]
fn mounts_that_start_together_find_one_daemon() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.amberfs(&["-q", "pool", "create", "pool"]).ok();
    let children: Vec<_> = (0..4)
        .map(|i| {
            let name = format!("m{i}");
            place.mkdir(&name);
            let args = ["mount", "--create", &format!("pool:v{i}"), &name];
            place.command(&args).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(status(&place, "pool")["mounts"].as_array().unwrap().len(), 4);
    for i in 0..4 {
        place.amberfs(&["umount", &format!("m{i}")]).ok();
    }
    assert!(!place.at("pool/control.sock").exists());
}

#[test]
fn what_is_not_for_the_daemon_is_refused_politely() {
    if !can_mount() {
        return;
    }
    use std::io::{BufRead, BufReader};
    let place = Place::new();
    place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    let stream = std::os::unix::net::UnixStream::connect(place.at("pool/control.sock")).unwrap();
    let mut reader = BufReader::new(&stream);
    let mut ask = |text: &str| {
        (&stream).write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    for bad in ["nonsense\n", "{}\n", "{\"version\":1,\"request\":{\"op\":\"fly\"}}\n"] {
        assert_eq!(ask(bad)["failed"]["kind"], "unsupported");
    }
    assert_eq!(
        ask("{\"version\":9,\"request\":{\"op\":\"status\"}}\n")["failed"]["kind"],
        "unsupported"
    );
    let done = ask("{\"version\":1,\"request\":{\"op\":\"status\"}}\n");
    assert_eq!((&done["version"], &done["done"]["type"]), (&Value::from(1), &"status".into()));
    place.amberfs(&["umount", "mnt"]).ok();
}
