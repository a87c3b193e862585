//! Set-user-id and set-group-id bits and file capabilities: what takes them away, and that they work.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{FallocateFlags, XattrFlags, copy_file_range, fallocate, getxattr, setxattr};

use crate::twin::{ROOT, User, alike, user};

const OWNER: u32 = 1000;
const FILES_GROUP: u32 = 2000;
const CAPABILITY: &str = "security.capability";

/// `cap_net_raw+ep`, as setcap(8) stores it: revision 2 and the effective bit, permitted and
/// inheritable sets.
fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A change of the file `f`, in whose directory there is a `source`.
type Change = (&'static str, fn() -> io::Result<()>);

fn writable() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("f")
}

fn direct() -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open("f")
}

fn set_aside(flags: FallocateFlags) -> io::Result<()> {
    Ok(fallocate(writable()?, flags, 0, 4096)?)
}

fn mode(mode: u32) -> io::Result<()> {
    fs::set_permissions("f", Permissions::from_mode(mode))
}

const CHANGES: &[Change] = &[
    ("nothing", || Ok(())),
    ("write", || writable()?.write_all(b"new")),
    ("write of nothing", || writable()?.write_all(b"")),
    ("append", || OpenOptions::new().append(true).open("f")?.write_all(b"more")),
    ("write, synced", || {
        OpenOptions::new().write(true).custom_flags(libc::O_SYNC).open("f")?.write_all(b"new")
    }),
    ("direct write", || {
        let memory = vec![7u8; 8192];
        let start = memory.as_ptr().align_offset(4096);
        direct()?.write_all(&memory[start..start + 4096])
    }),
    ("truncate", || writable()?.set_len(10)),
    ("truncate to the same", || writable()?.set_len(5000)),
    ("grow", || writable()?.set_len(9000)),
    ("open with O_TRUNC", || OpenOptions::new().write(true).truncate(true).open("f").map(|_| ())),
    ("open for writing", || writable().map(|_| ())),
    ("fallocate", || set_aside(FallocateFlags::empty())),
    ("fallocate, size kept", || set_aside(FallocateFlags::KEEP_SIZE)),
    ("punch", || set_aside(FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE)),
    ("zero range", || set_aside(FallocateFlags::ZERO_RANGE)),
    ("copy_file_range", || {
        copy_file_range(File::open("source")?, None, writable()?, None, 4096)?;
        Ok(())
    }),
    ("splice", || {
        let (from, to) = rustix::pipe::pipe()?;
        rustix::io::write(&to, b"spliced")?;
        let flags = rustix::pipe::SpliceFlags::empty();
        rustix::pipe::splice(&from, None, writable()?, Some(&mut 0), 7, flags)?;
        Ok(())
    }),
    ("chown to oneself", || chown("f", Some(OWNER), None)),
    ("chgrp to one's own group", || chown("f", None, Some(OWNER))),
    ("chgrp to the same", || chown("f", None, Some(FILES_GROUP))),
    ("chown to a stranger", || chown("f", Some(1234), None)),
    ("chown to nobody", || chown("f", None, None)),
    ("chmod 6755", || mode(0o6755)),
    ("chmod 2644", || mode(0o2644)),
    ("chmod 755", || mode(0o755)),
    ("utimes", || File::open("f")?.set_modified(std::time::UNIX_EPOCH)),
    ("a user attribute", || Ok(setxattr("f", "user.a", b"1", XattrFlags::empty())?)),
    ("rename", || fs::rename("f", "g").and_then(|()| fs::rename("g", "f"))),
    ("link", || fs::hard_link("f", "g").and_then(|()| fs::remove_file("g"))),
];

fn describe(dir: &Path) -> String {
    let stat = fs::metadata(dir.join("f")).unwrap();
    let mut value = [0; 64];
    let capability = getxattr(dir.join("f"), CAPABILITY, &mut value);
    format!("{:o} {} {} {capability:?}", stat.mode(), stat.uid(), stat.gid())
}

/// Carries every change out on a file that is fresh each time, as that user.
fn every_change(modes: &'static [u32], group: u32, who: User) {
    alike(|root, log| {
        fs::set_permissions(root, Permissions::from_mode(0o777)).unwrap();
        fs::write(root.join("source"), vec![3; 8192]).unwrap();
        fs::set_permissions(root.join("source"), Permissions::from_mode(0o644)).unwrap();
        let file = root.join("f");
        for mode in modes {
            for capable in [false, true] {
                for (name, change) in CHANGES {
                    // The kernel takes the capability before it asks the daemon, which then refuses.
                    let refused = *name == "chown to nobody" && ![0, OWNER].contains(&who.uid);
                    if refused && capable {
                        continue;
                    }
                    fs::write(&file, vec![1; 5000]).unwrap();
                    chown(&file, Some(OWNER), Some(group)).unwrap();
                    fs::set_permissions(&file, Permissions::from_mode(*mode)).unwrap();
                    if capable {
                        setxattr(&file, CAPABILITY, &capability(), XattrFlags::empty()).unwrap();
                    }
                    let done = who.run(root, change).map_err(|error| error.raw_os_error());
                    let what = format!("{name}, mode {mode:o}, capability {capable}");
                    log.note(what, (done, describe(root)));
                    fs::remove_file(&file).unwrap();
                }
            }
        }
    });
}

const MODES: &[u32] = &[0o6777, 0o6767, 0o4766, 0o2777, 0o2767, 0o2666];

#[test]
fn root_changes_privileged_files() {
    every_change(MODES, FILES_GROUP, ROOT);
}

#[test]
fn the_owner_changes_privileged_files() {
    every_change(MODES, FILES_GROUP, user(OWNER));
}

#[test]
fn the_owner_in_the_files_group_changes_privileged_files() {
    every_change(MODES, FILES_GROUP, user(OWNER).with_group(&[FILES_GROUP]));
}

#[test]
fn a_stranger_changes_privileged_files() {
    every_change(MODES, FILES_GROUP, user(1001));
}

#[test]
fn a_member_of_the_group_changes_privileged_files() {
    every_change(MODES, FILES_GROUP, user(1001).with_group(&[FILES_GROUP]));
}

#[test]
fn an_open_file_loses_them_with_each_write_after_they_are_set() {
    alike(|root, log| {
        fs::set_permissions(root, Permissions::from_mode(0o777)).unwrap();
        let path = root.join("f");
        fs::write(&path, b"").unwrap();
        chown(&path, Some(OWNER), Some(OWNER)).unwrap();
        user(OWNER).run(root, || {
            let mut file = writable().unwrap();
            for round in 0..4 {
                mode(0o6755).unwrap();
                log.note(format!("set {round}"), describe(Path::new(".")));
                file.write_all(&[1; 300]).unwrap();
                log.note(format!("written {round}"), describe(Path::new(".")));
            }
        });
        // Capabilities are root's to set, and nobody's to keep.
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        for round in 0..4 {
            setxattr(&path, CAPABILITY, &capability(), XattrFlags::empty()).unwrap();
            log.note(format!("capability set {round}"), describe(root));
            file.write_all(&[1; 300]).unwrap();
            log.note(format!("capability written {round}"), describe(root));
        }
    });
}

/// Runs a program as a user, and returns what it prints.
fn run(who: User, dir: &Path, program: &str, argument: &str) -> String {
    who.run(dir, || {
        let arguments = (!argument.is_empty()).then_some(argument);
        let output = std::process::Command::new(program).args(arguments).output();
        output.map_or_else(
            |error| format!("{error}"),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    })
}

/// `std::fs::copy` in this process could leave a descriptor for writing with a child of another test,
/// and then the program is busy.
fn copy_program(from: &str, to: &Path) {
    let status = std::process::Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn programs_get_the_privileges_of_their_files() {
    alike(|root, log| {
        copy_program("/usr/bin/id", &root.join("id"));
        copy_program("/bin/cat", &root.join("cat"));
        log.note("as it is", run(user(OWNER), root, "./id", "-u"));
        chown(root.join("id"), Some(77), Some(78)).unwrap();
        fs::set_permissions(root.join("id"), Permissions::from_mode(0o6755)).unwrap();
        log.note("set-user-id", run(user(OWNER), root, "./id", "-u"));
        log.note("set-group-id", run(user(OWNER), root, "./id", "-g"));
        let capabilities = |log: &mut crate::twin::Log, what: &str| {
            let status = run(user(OWNER), root, "./cat", "/proc/self/status");
            let effective =
                status.lines().find(|line| line.starts_with("CapEff")).map(str::to_owned);
            log.note(what, effective);
        };
        capabilities(log, "no capability");
        setxattr(root.join("cat"), CAPABILITY, &capability(), XattrFlags::empty()).unwrap();
        capabilities(log, "a capability");
        log.note(
            "kept by chmod",
            fs::set_permissions(root.join("cat"), Permissions::from_mode(0o555)).is_ok(),
        );
        capabilities(log, "after chmod");
        chown(root.join("cat"), Some(OWNER), None).unwrap();
        capabilities(log, "after chown");
    });
}

#[test]
fn a_program_that_was_changed_runs_without_its_privileges() {
    const CHANGE_PROGRAM: &[&str] = &[
        "append",
        "direct write",
        "grow",
        "fallocate",
        "copy_file_range",
        "splice",
        "chown to nobody",
    ];
    alike(|root, log| {
        for name in CHANGE_PROGRAM {
            let (_, change) = CHANGES.iter().find(|(other, _)| other == name).unwrap();
            for (mode, who) in [(0o6777, user(1001)), (0o2767, user(1001)), (0o4777, ROOT)] {
                copy_program("/usr/bin/id", &root.join("f"));
                copy_program("/usr/bin/id", &root.join("source"));
                chown(root.join("f"), Some(77), Some(78)).unwrap();
                fs::set_permissions(root.join("f"), Permissions::from_mode(mode)).unwrap();
                log.note("before", run(user(1002), root, "./f", ""));
                // Nobody asks for the mode in between: what the kernel has cached of it must be gone.
                let done = who.run(root, change).map_err(|error| error.raw_os_error());
                let after = run(user(1002), root, "./f", "");
                log.note(format!("{name}, {mode:o}"), (done, after));
                fs::remove_file(root.join("f")).unwrap();
            }
        }
    });
}

#[test]
fn a_new_file_takes_its_group_from_a_set_group_id_directory() {
    alike(|root, log| {
        let dir = root.join("d");
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(OWNER), Some(FILES_GROUP)).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o2777)).unwrap();
        let makers = [
            ("root", ROOT),
            ("owner", user(OWNER)),
            ("member", user(OWNER).with_group(&[7, FILES_GROUP, 9])),
            ("stranger", user(1001)),
        ];
        for (name, who) in makers {
            who.with_umask(0).run(&dir, || {
                let created =
                    |mode| OpenOptions::new().write(true).create_new(true).mode(mode).open("f");
                let note = |log: &mut crate::twin::Log, what: &str, made: io::Result<()>| {
                    let made = made.map_err(|error| error.raw_os_error());
                    let stat = fs::symlink_metadata("f");
                    let shown = stat.map(|s| format!("{:o} {} {}", s.mode(), s.uid(), s.gid()));
                    log.note(
                        format!("{name}: {what}"),
                        (made, shown.map_err(|e| e.raw_os_error())),
                    );
                    let _ = fs::remove_file("f").or_else(|_| fs::remove_dir("f"));
                };
                for mode in [0o644, 0o2755, 0o2655, 0o6777] {
                    note(log, &format!("create {mode:o}"), created(mode).map(|_| ()));
                    use std::os::unix::fs::DirBuilderExt;
                    let made = fs::DirBuilder::new().mode(mode).create("f");
                    note(log, &format!("mkdir {mode:o}"), made);
                    let (kind, bits) =
                        (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(mode));
                    let made = rustix::fs::mknodat(rustix::fs::CWD, "f", kind, bits, 0);
                    note(log, &format!("mkfifo {mode:o}"), made.map_err(io::Error::from));
                    let flags = libc::O_TMPFILE;
                    let unnamed =
                        OpenOptions::new().write(true).custom_flags(flags).mode(mode).open(".");
                    let stat = unnamed.unwrap().metadata().unwrap();
                    log.note(
                        format!("{name}: tmpfile {mode:o}"),
                        (format!("{:o}", stat.mode()), stat.gid()),
                    );
                }
                note(log, "symlink", std::os::unix::fs::symlink("t", "f"));
            });
        }
    });
}

#[test]
fn chmod_by_somebody_outside_the_group_sets_no_set_group_id() {
    alike(|root, log| {
        fs::write(root.join("f"), b"").unwrap();
        fs::create_dir(root.join("d")).unwrap();
        for name in ["f", "d"] {
            for (who, label) in [
                (user(OWNER), "owner"),
                (user(OWNER).with_group(&[FILES_GROUP]), "member"),
                (ROOT, "root"),
                (user(1001), "stranger"),
            ] {
                let path = root.join(name);
                chown(&path, Some(OWNER), Some(FILES_GROUP)).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
                let done =
                    who.run(root, || fs::set_permissions(name, Permissions::from_mode(0o2775)));
                let mode = format!("{:o}", fs::metadata(&path).unwrap().mode());
                log.note(format!("{name} by {label}"), (done.map_err(|e| e.raw_os_error()), mode));
            }
        }
    });
}

#[test]
fn in_a_sticky_directory_only_owners_remove_and_rename() {
    alike(|root, log| {
        let dir = root.join("d");
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(OWNER), Some(OWNER)).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o1777)).unwrap();
        for who in [1000, 1001, 1002] {
            user(who).run(&dir, || {
                fs::write(format!("file-{who}"), b"x").unwrap();
                fs::create_dir(format!("dir-{who}")).unwrap();
            });
        }
        let errno = |done: io::Result<()>| done.map_err(|error| error.raw_os_error());
        // The owner of the directory is 1000; 1002 tries everything first.
        for who in [1002, 1001, 1000, 0] {
            let as_user = if who == 0 { ROOT } else { user(who) };
            as_user.run(&dir, || {
                for of in [1000, 1001, 1002] {
                    let (file, sub) = (format!("file-{of}"), format!("dir-{of}"));
                    let away = format!("away-{of}");
                    let renamed = errno(fs::rename(&file, &away));
                    log.note(format!("{who} renames {file}"), renamed);
                    if renamed.is_ok() {
                        fs::rename(&away, &file).unwrap();
                    }
                    let own = format!("own-{who}");
                    fs::write(&own, b"").unwrap();
                    log.note(format!("{who} renames over {file}"), errno(fs::rename(&own, &file)));
                    log.note(format!("{who} removes {file}"), errno(fs::remove_file(&file)));
                    log.note(format!("{who} removes {sub}"), errno(fs::remove_dir(&sub)));
                    let _ = fs::remove_file(&own);
                }
            });
        }
    });
}
