//! A mount made by an ordinary user with fusermount3, for this user alone.
//!
//! Its daemon may not open files by their handles, so the flush before a snapshot goes another way: the
//! promise about snapshots is kept all the same.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mapping::Mapping;
use crate::random::Random;
use crate::twin::user;

/// `nobody`: fusermount3 wants a user with a name.
const USER: u32 = 65_534;

/// The user's home, with the program, a pool and a mount in it.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        // As udev makes it on every ordinary machine; a small one may have left it to root.
        fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // A copy: the way to the original may be closed to the user.
        let program = dir.path().join("amberfs");
        fs::copy(env!("CARGO_BIN_EXE_amberfs"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        for path in [dir.path(), &dir.path().join("mnt")] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
        Home { dir }
    }

    fn mount(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Runs the program as the user, at home.
    fn amberfs(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(self.dir.path().join("amberfs"));
        command.args(args).current_dir(self.dir.path()).env_remove("AMBERFS_LOG");
        command.uid(USER).gid(USER);
        let output = loop {
            match command.output() {
                // Another test's child may still have the copy open, from when it was written.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                other => break other.unwrap(),
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Does something as the user, in the mount.
    fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        user(USER).run(self.dir.path(), || {
            std::env::set_current_dir("mnt").unwrap();
            body()
        })
    }
}

impl Drop for Home {
    /// Ends everything, also when the test has failed.
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        if mounts.contains(self.mount().to_str().unwrap()) {
            let _ = Command::new("umount").arg("-l").arg(self.mount()).status();
        }
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_users_mount_is_the_users_alone() {
    let home = Home::new();
    home.amberfs(&["mount", "--create", "pool", "mnt"]).unwrap();
    home.inside(|| {
        fs::write("f", b"one").unwrap();
        fs::create_dir(".snapshots/s").unwrap();
        fs::write("f", b"two").unwrap();
        assert_eq!(fs::read(".snapshots/s/f").unwrap(), b"one");
        let stat = fs::metadata("f").unwrap();
        assert_eq!((stat.uid(), stat.gid()), (USER, USER));
        assert_eq!(errno(chown("f", Some(0), None)), Some(libc::EPERM));
        fs::set_permissions("f", fs::Permissions::from_mode(0o4755)).unwrap();
        rustix::fs::setxattr("f", "user.a", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        let trusted = rustix::fs::setxattr("f", "trusted.a", b"1", rustix::fs::XattrFlags::empty());
        assert_eq!(trusted, Err(rustix::io::Errno::PERM));
    });
    // Not even root may look, which is how the kernel protects root from a user's filesystem.
    assert_eq!(errno(fs::metadata(home.mount().join("f"))), Some(libc::EACCES));
    assert_eq!(errno(fs::create_dir(home.mount().join(".snapshots/r"))), Some(libc::EACCES));
    let stranger = user(1000).run(Path::new("/"), || errno(fs::read_dir(home.mount())));
    assert_eq!(stranger, Some(libc::EACCES));
    let line = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = line.lines().find(|line| line.contains(home.mount().to_str().unwrap())).unwrap();
    assert!(
        line.contains("nosuid") && line.contains("nodev") && !line.contains("allow_other"),
        "{line}"
    );
    home.amberfs(&["umount", "mnt"]).unwrap();
    assert!(!home.dir.path().join("pool/control.sock").exists());
    home.amberfs(&["check", "pool", "--data"]).unwrap();
    home.amberfs(&["mount", "pool", "mnt"]).unwrap();
    home.inside(|| {
        assert_eq!(fs::read("f").unwrap(), b"two");
        assert_eq!(fs::read(".snapshots/s/f").unwrap(), b"one");
        fs::remove_dir(".snapshots/s").unwrap();
    });
    home.amberfs(&["umount", "mnt"]).unwrap();
}

/// A file that stays open, and what it holds; every second one is written through a mapping.
struct Watched {
    file: File,
    mapping: Option<Mapping>,
    content: Vec<u8>,
    name: String,
}

const FILES: usize = 9;
const BYTES: usize = 200_000;

impl Watched {
    fn new(number: usize) -> Self {
        let name = format!("watched-{number}");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&name).unwrap();
        file.set_len(BYTES as u64).unwrap();
        let mapping = (number % 2 == 1).then(|| Mapping::new(&file, BYTES));
        // Who may not read a file may still have it open.
        file.set_permissions(fs::Permissions::from_mode(if number == 4 { 0o200 } else { 0o600 }))
            .unwrap();
        Watched { file, mapping, content: vec![0; BYTES], name }
    }

    fn scribble(&mut self, random: &mut Random) {
        for _ in 0..1 + random.below(4) {
            let len = 1 + random.below(20_000);
            let at = random.below(BYTES - len);
            let bytes = random.bytes(len);
            match &mut self.mapping {
                Some(mapping) => mapping.store(at, &bytes),
                None => self.file.write_all_at(&bytes, at as u64).unwrap(),
            }
            self.content[at..at + len].copy_from_slice(&bytes);
        }
    }
}

#[test]
fn snapshots_hold_what_had_returned_without_the_privilege_to_open_by_handle() {
    const SEED: u64 = 77;
    let home = Home::new();
    home.amberfs(&["mount", "--create", "pool", "mnt"]).unwrap();
    home.inside(|| {
        let mut random = Random::new(SEED);
        let mut files: Vec<_> = (0..FILES).map(Watched::new).collect();
        // Not where they were opened.
        fs::create_dir("sub").unwrap();
        fs::rename("watched-6", "sub/moved").unwrap();
        fs::hard_link("watched-7", "sub/second").unwrap();
        fs::remove_file("watched-7").unwrap();
        (files[6].name, files[7].name) = ("sub/moved".into(), "sub/second".into());
        for round in 0..8 {
            files.iter_mut().for_each(|file| file.scribble(&mut random));
            let then: Vec<_> = files.iter().map(|file| file.content.clone()).collect();
            let times: Vec<_> = files.iter().map(|w| w.file.metadata().unwrap()).collect();
            let dir = format!(".snapshots/round-{round}");
            fs::create_dir(&dir).unwrap();
            files.iter_mut().for_each(|file| file.scribble(&mut random));
            for ((file, content), live) in files.iter().zip(&then).zip(&times) {
                let path = Path::new(&dir).join(&file.name);
                if file.name == "watched-4" {
                    assert_eq!(errno(File::open(&path)), Some(libc::EACCES));
                    continue;
                }
                let frozen = fs::read(&path).unwrap();
                let at = frozen.iter().zip(content).position(|(a, b)| a != b);
                assert!(frozen == *content, "seed {SEED}, round {round}, {}: {at:?}", file.name);
                // Where the daemon knows no path of a file (it is sought in the directory where the file was
                // made) the kernel sends the pages without the times.
                if file.name == "sub/second" {
                    continue;
                }
                let stat = fs::metadata(&path).unwrap();
                assert!(
                    (stat.mtime(), stat.mtime_nsec()) >= (live.mtime(), live.mtime_nsec()),
                    "{}",
                    file.name
                );
            }
        }
        // The one that could not be looked at.
        files[4].file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        files[4].scribble(&mut random);
        fs::create_dir(".snapshots/last").unwrap();
        assert!(fs::read(".snapshots/last/watched-4").unwrap() == files[4].content);
        for file in &files {
            let mut live = vec![0; BYTES];
            file.file.read_exact_at(&mut live, 0).unwrap();
            assert!(live == file.content, "{} has changed by being flushed", file.name);
        }
    });
    // A command from outside brings dirty pages in, too.
    let file = home.inside(|| {
        let file = File::create("by-command").unwrap();
        file.write_all_at(b"dirty", 0).unwrap();
        file
    });
    home.amberfs(&["snapshot", "create", "mnt@command"]).unwrap();
    home.inside(move || {
        file.write_all_at(b"later", 0).unwrap();
        assert_eq!(fs::read(".snapshots/command/by-command").unwrap(), b"dirty");
    });
    home.amberfs(&["umount", "mnt"]).unwrap();
    home.amberfs(&["check", "pool", "--data"]).unwrap();
}

#[test]
fn a_users_mount_outlives_its_daemon_and_goes_over_to_a_new_program() {
    const SEED: u64 = 78;
    let home = Home::new();
    home.amberfs(&["mount", "--create", "pool", "mnt"]).unwrap();
    let daemon = || {
        let status = home.amberfs(&["status", "pool", "--json"]).unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["pools"][0]["daemon"]["pid"].as_i64().unwrap()
    };
    home.inside(|| {
        let mut random = Random::new(SEED);
        let mut files: Vec<_> = (0..4).map(Watched::new).collect();
        for round in 0..6 {
            files.iter_mut().for_each(|file| file.scribble(&mut random));
            let before = daemon();
            if round == 3 {
                home.amberfs(&["upgrade", "pool"]).unwrap();
            } else {
                let pid = rustix::process::Pid::from_raw(i32::try_from(before).unwrap()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
            fs::write(format!("after-{round}"), b"there").unwrap();
            assert_ne!(daemon(), before, "round {round}");
            files.iter_mut().for_each(|file| file.scribble(&mut random));
            let dir = format!(".snapshots/round-{round}");
            fs::create_dir(&dir).unwrap();
            for file in &files {
                let frozen = fs::read(Path::new(&dir).join(&file.name)).unwrap();
                assert!(frozen == file.content, "seed {SEED}, round {round}, {}", file.name);
            }
        }
    });
    home.amberfs(&["umount", "mnt"]).unwrap();
    home.amberfs(&["check", "pool", "--data"]).unwrap();
}

#[test]
fn holes_are_found_without_that_privilege_while_data_is_only_in_the_cache() {
    let home = Home::new();
    home.amberfs(&["mount", "--create", "pool", "mnt"]).unwrap();
    home.inside(|| {
        let file = File::create("f").unwrap();
        file.set_len(1 << 20).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(&[1; 4096], 512 << 10).unwrap();
        let from = rustix::fs::SeekFrom::Data(0);
        assert_eq!(rustix::fs::seek(&file, from), Ok(512 << 10));
    });
    home.amberfs(&["umount", "mnt"]).unwrap();
}

#[test]
fn others_are_let_in_only_where_the_machine_allows_it() {
    let home = Home::new();
    let allowed = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    let mounted = home.amberfs(&["mount", "--create", "-o", "allow_other", "pool", "mnt"]);
    assert_eq!(mounted.is_ok(), allowed, "{mounted:?}");
    if let Err(said) = mounted {
        assert!(said.contains("user_allow_other"), "{said}");
        assert_eq!(fs::read_dir(home.mount()).unwrap().count(), 0);
    }
}

#[test]
fn a_user_may_not_unmount_what_is_anothers() {
    let m = crate::support::TestMount::new();
    let home = Home::new();
    let refused = home.amberfs(&["umount", m.root().to_str().unwrap()]);
    assert!(refused.is_err());
    fs::write(m.path("f"), b"still there").unwrap();
}

#[test]
fn a_device_that_is_roots_alone_is_named() {
    let home = Home::new();
    let script = format!(
        "mknod fuse c 10 229 && chmod 600 fuse && mount --bind fuse /dev/fuse && \
         exec setpriv --reuid={USER} --regid={USER} --clear-groups ./amberfs mount --create pool mnt"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .current_dir(home.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/dev/fuse is not for this user"), "{said}");
    assert!(said.contains("chmod 666 /dev/fuse") && !home.dir.path().join("pool").exists());
}
