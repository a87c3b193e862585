//! What is wrong is said in one paragraph, with the right exit code, and nothing is changed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use amberfs::device::PoolDir;
use amberfs::format::SLOT_OFFSETS;

use crate::support::{AMBERFS, Place, can_mount, contents, run};

#[test]
fn a_directory_that_is_no_pool() {
    let place = Place::new();
    place.mkdir("mnt");
    fs::write(place.mkdir("other").join("file"), "x").unwrap();
    let before = contents(&place.at(""));
    let no_pool = ["other is not an AmberFS pool", "`amberfs pool create`"];
    place.amberfs(&["pool", "status", "other"]).fails(1, &no_pool);
    place.amberfs(&["volume", "list", "other"]).fails(1, &no_pool);
    place.amberfs(&["check", "other"]).fails(1, &["not an AmberFS pool"]);
    place.amberfs(&["snapshot", "list", "other:main"]).fails(1, &no_pool);
    place
        .amberfs(&["snapshot", "list", "other"])
        .fails(1, &["neither a pool nor inside a mounted"]);
    place.amberfs(&["pool", "create", "other"]).fails(1, &["already exists and is not empty"]);
    place.amberfs(&["pool", "status", "other/file"]).fails(1, &["is not a directory"]);
    place.amberfs(&["pool", "status", "nowhere"]).fails(1, &["nowhere does not exist"]);
    if can_mount() {
        place.amberfs(&["mount", "other", "mnt"]).fails(1, &no_pool);
        place.amberfs(&["mount", "--create", "other", "mnt"]).fails(1, &["not an AmberFS pool"]);
        place.amberfs(&["mount", "nowhere", "mnt"]).fails(1, &["does not exist", "--create"]);
        place.amberfs(&["mount", "--create", "no/where", "mnt"]).fails(1, &["does not exist"]);
    }
    assert_eq!(contents(&place.at("")), before);
}

/// What a stranger has put in the place of a pool's files leads nowhere, and keeps nobody waiting.
#[test]
fn a_pool_with_links_and_fifos_for_files() {
    let place = Place::new();
    let all = [
        "superblock",
        "journal",
        "data",
        "lock",
        "reserve",
        "log",
        "scrub",
        "scrub.new",
        "control.sock",
    ];
    for name in all {
        for fifo in [false, true] {
            let pool = format!("{name}-{fifo}");
            let trap = place.pool(&pool).join(name);
            let mnt = format!("mnt-{pool}");
            place.mkdir(&mnt);
            fs::write(place.at("victim"), "not to be touched").unwrap();
            let _ = fs::remove_file(&trap);
            if fifo {
                place.shell(&format!("mkfifo {}", trap.display())).ok();
            } else {
                std::os::unix::fs::symlink(place.at("victim"), &trap).unwrap();
            }
            let mut commands = vec![
                format!("amberfs pool status {pool}"),
                format!("amberfs check {pool}"),
                format!("amberfs scrub {pool}"),
                format!("amberfs scrub --status {pool}"),
            ];
            if can_mount() {
                commands.push(format!("amberfs mount -o ro,nosuid,nodev {pool} {mnt}"));
                commands.push(format!("amberfs umount {mnt}"));
            }
            for command in commands {
                let said = place.shell(&format!("timeout 30 {command}"));
                assert!(said.code <= 2, "{name}, {fifo}: `{command}`: {} {}", said.code, said.err);
                let victim = fs::read_to_string(place.at("victim")).unwrap();
                assert_eq!(victim, "not to be touched", "{name}: after `{command}`");
            }
        }
    }
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_not() {
    let place = Place::new();
    let pool = place.pool("pool");
    let superblock = fs::File::options().write(true).open(pool.join("superblock")).unwrap();
    superblock.write_all_at(&[0xaa; 512], SLOT_OFFSETS[0] + 100).unwrap();
    let list = place.amberfs(&["volume", "list", "pool"]).ok();
    assert!(list.contains("main"), "{list}");
    superblock.write_all_at(&[0xaa; 512], SLOT_OFFSETS[0] + 100).unwrap();
    superblock.write_all_at(&[0xaa; 512], SLOT_OFFSETS[1] + 100).unwrap();
    let before = contents(&pool);
    let damaged = ["superblock can't be used", "cannot list the volumes of"];
    place.amberfs(&["volume", "list", "pool"]).fails(1, &damaged);
    if can_mount() {
        place.mkdir("mnt");
        place.amberfs(&["mount", "pool", "mnt"]).fails(1, &["superblock can't be used"]);
    }
    assert_eq!(contents(&pool), before);
}

#[test]
fn a_pool_in_use() {
    let place = Place::new();
    let pool = place.pool("pool");
    let held = PoolDir::open(&pool).unwrap();
    let pid = format!("in use by another process (PID {})", std::process::id());
    place.amberfs(&["volume", "list", "pool"]).fails(1, &[&pid, "wait for it"]);
    place.amberfs(&["check", "pool"]).fails(1, &[&pid]);
    if can_mount() {
        place.mkdir("mnt");
        place.amberfs(&["mount", "pool", "mnt"]).fails(1, &[&pid]);
        assert!(!pool.join("control.sock").exists());
    }
    drop(held);
    place.amberfs(&["volume", "list", "pool"]).ok();
}

#[test]
fn a_mount_point_that_cannot_be_one() {
    let place = Place::new();
    fs::write(place.at("file"), "").unwrap();
    let fails = |dir: &str, parts: &[&str]| {
        place.amberfs(&["mount", "--create", "pool", dir]).fails(1, parts);
        assert!(!place.at("pool").exists());
    };
    fails("missing", &["mount pool on missing", "does not exist", "`mkdir missing`"]);
    fails("file", &["is not a directory"]);
    fails(".", &["would be hidden"]);
    place.amberfs(&["umount", "missing"]).fails(1, &["unmount missing"]);
    place.amberfs(&["umount", "."]).fails(1, &["not a mount point of AmberFS"]);
}

#[test]
fn a_volume_that_does_not_exist() {
    let place = Place::new();
    let pool = place.pool("pool");
    place.amberfs(&["snapshot", "list", "pool:mian"]).fails(1, &["no volume `mian`", "has: main"]);
    place.amberfs(&["snapshot", "create", "pool:mian@x"]).fails(1, &["no volume `mian`"]);
    place.amberfs(&["volume", "delete", "pool:mian"]).fails(1, &["no volume `mian`"]);
    place.amberfs(&["volume", "set", "pool:mian", "a=b"]).fails(1, &["no volume `mian`"]);
    if can_mount() {
        place.mkdir("mnt");
        place.amberfs(&["mount", "pool:mian", "mnt"]).fails(1, &["no volume `mian`", "has: main"]);
        let missing = ["mount", "pool", "mnt", "-o", "snapshot=x"];
        place.amberfs(&missing).fails(1, &["snapshot 'x'"]);
        assert!(!pool.join("control.sock").exists());
    }
}

#[test]
fn names_that_are_taken_or_not_allowed() {
    let place = Place::new();
    place.pool("pool");
    place.amberfs(&["snapshot", "create", "pool:main@taken"]).ok();
    let before = place.amberfs(&["snapshot", "list", "pool", "--json"]).ok();
    let taken = place.amberfs(&["snapshot", "create", "pool:main@taken"]);
    taken.fails(1, &["create the snapshot `taken`", "already a snapshot 'taken'", "another name"]);
    for bad in ["pool:main@.x", "pool:main@a\u{7}b", "pool:main@"] {
        place.amberfs(&["snapshot", "create", bad]).fails(2, &["create "]);
    }
    let long = format!("pool:main@{}", "x".repeat(256));
    place.amberfs(&["snapshot", "create", &long]).fails(2, &["longer than 255 bytes"]);
    place.amberfs(&["snapshot", "create", "pool:main@@nonsense@"]).fails(2, &["create the"]);
    place.amberfs(&["snapshot", "delete", "pool:main@none"]).fails(1, &["no snapshot 'none'"]);
    place.amberfs(&["snapshot", "delete", "pool:main"]).fails(2, &["no snapshot is named"]);
    place.amberfs(&["snapshot", "show", "pool:main@none"]).fails(1, &["no snapshot 'none'"]);
    let rename = place.amberfs(&["snapshot", "rename", "pool:main@taken", ".x"]);
    rename.fails(2, &["begins with a dot"]);
    place.amberfs(&["volume", "create", "pool:main"]).fails(1, &["already a volume 'main'"]);
    place.amberfs(&["volume", "create", "pool:.x"]).fails(2, &["begins with a dot"]);
    place.amberfs(&["volume", "create", "pool:v@s"]).fails(2, &["names the snapshot `s`"]);
    assert_eq!(place.amberfs(&["snapshot", "list", "pool", "--json"]).ok(), before);
}

#[test]
fn wrong_usage() {
    let place = Place::new();
    place.mkdir("mnt");
    let option = |options: &str, parts: &[&str]| {
        let args = ["mount", "--create", "pool", "mnt", "-o", options];
        place.amberfs(&args).fails(2, parts);
    };
    option("ro,snapdri=hidden", &["unknown mount option `snapdri`", "Did you mean `snapdir=`?"]);
    option("cache_size=lots", &["`lots`"]);
    assert!(!place.at("pool").exists());
    for args in [&["frob"][..], &[], &["mount", "pool"], &["pool", "create"]] {
        let outcome = place.amberfs(args);
        assert_eq!(outcome.code, 2, "{}", outcome.err);
    }
    let outcome = place.amberfs(&["pool", "create", "pool", "--size", "1 furlong"]);
    assert_eq!(outcome.code, 2, "{}", outcome.err);
    assert_eq!(place.amberfs(&["daemon", "pool"]).code, 2);
    assert!(!place.at("pool").exists());
}

/// Runs a script in a mount namespace of its own, where it may hide things.
fn unshared(place: &Place, script: &str) -> crate::support::Outcome {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-euc", script]);
    run(command.current_dir(place.at("")).env("AMBERFS", AMBERFS))
}

#[test]
fn a_host_directory_that_is_read_only() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mkdir("ro/empty");
    place.mkdir("mnt");
    place.pool("ro/pool");
    let before = contents(&place.at("ro"));
    let read_only = |args: &str, part: &str| {
        let script = format!("mount --bind ro ro; mount -o remount,bind,ro ro; $AMBERFS {args}");
        unshared(&place, &script).fails(1, &[part, "read-only"]);
    };
    read_only("pool create ro/new", "create the pool");
    read_only("pool create ro/empty", "create the pool");
    read_only("volume list ro/pool", "list the volumes of");
    read_only("mount ro/pool mnt", "mount ro/pool on mnt");
    read_only("mount --create ro/new mnt", "mount ro/new on mnt");
    assert_eq!(contents(&place.at("ro")), before);
}

#[test]
fn no_fuse_device() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mkdir("mnt");
    let script = "mount -t tmpfs none /dev; $AMBERFS mount --create pool mnt";
    unshared(&place, script).fails(1, &["no usable /dev/fuse", "modprobe fuse"]);
    assert!(!place.at("pool").exists());
}

#[test]
fn a_user_without_privileges() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let program = place.open_to_all();
    let pool = place.pool("pool");
    place.mkdir("mnt");
    let before = contents(&pool);
    let as_nobody = |args: &[&str]| {
        run(Command::new(&program).args(args).current_dir(place.at("")).uid(65534).gid(65534))
    };
    as_nobody(&["volume", "list", "pool"]).fails(1, &["no permission", "root"]);
    as_nobody(&["snapshot", "create", "pool:main@x"]).fails(1, &["no permission", "root"]);
    as_nobody(&["pool", "create", "new"]).fails(1, &["no permission"]);
    as_nobody(&["mount", "pool", "mnt"]).fails(1, &["mount pool on mnt"]);
    as_nobody(&["mount", "--create", "new", "mnt"]).fails(1, &["mount new on mnt"]);
    assert_eq!(contents(&pool), before);
    assert!(!place.at("new").exists());
    // While it is mounted, the daemon answers root alone.
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    as_nobody(&["snapshot", "create", "pool:main@x"]).fails(1, &["no permission"]);
    as_nobody(&["umount", "mnt"]).fails(1, &["no permission"]);
    assert_eq!(
        place.amberfs(&["snapshot", "list", "pool", "--json"]).ok().matches("number").count(),
        0
    );
    place.amberfs(&["umount", "mnt"]).ok();
}
