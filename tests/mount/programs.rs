//! Programs, libraries and mappings on the mount.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::mapping::{Kind, Mapping};
use crate::support::TestMount;
use crate::sys::Child;
use crate::twin::{alike, user};

/// Not by this process: a descriptor for writing that another test's child has inherited would make
/// the program busy.
fn copy(from: &str, to: &Path) {
    assert!(Command::new("cp").args(["-L", from]).arg(to).status().unwrap().success());
}

fn said(command: &mut Command) -> String {
    match command.output() {
        Ok(output) => {
            let (out, error) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            format!("{:?} {out}{error}", output.status.code())
        }
        Err(error) => format!("{:?}", error.raw_os_error()),
    }
}

#[test]
fn programs_scripts_and_libraries_run() {
    alike(|root, log| {
        copy("/bin/echo", &root.join("program"));
        log.note("a program", said(Command::new(root.join("program")).arg("hello")));
        fs::write(root.join("script"), "#!./program -n\n").unwrap();
        fs::set_permissions(root.join("script"), Permissions::from_mode(0o755)).unwrap();
        log.note("a script", said(Command::new("./script").arg("x").current_dir(root)));
        fs::write(root.join("plain"), "echo no").unwrap();
        log.note("without permission", said(&mut Command::new(root.join("plain"))));
        fs::set_permissions(root.join("plain"), Permissions::from_mode(0o755)).unwrap();
        log.note(
            "without a first line",
            said(Command::new("sh").arg("-c").arg("./plain").current_dir(root)),
        );
        fs::set_permissions(root.join("program"), Permissions::from_mode(0o111)).unwrap();
        let unreadable = user(1000).run(root, || said(Command::new("./program").arg("unreadable")));
        log.note("by who may not read it", unreadable);
        // A library out of the mount, taken before the system's.
        let list = said(Command::new("ldd").arg("/bin/ls"));
        let library =
            list.split_whitespace().find(|word| word.starts_with('/')).unwrap().to_owned();
        let name = Path::new(&library).file_name().unwrap();
        copy(&library, &root.join(name));
        let listed = Command::new("/bin/ls").arg("--version").env("LD_LIBRARY_PATH", root).output();
        log.note("a library", listed.unwrap().status.success());
        let traced =
            Command::new("ldd").arg("/bin/ls").env("LD_LIBRARY_PATH", root).output().unwrap();
        let from_here = String::from_utf8_lossy(&traced.stdout).contains(root.to_str().unwrap());
        log.note("from here", from_here);
    });
}

#[test]
fn a_running_program_is_busy() {
    alike(|root, log| {
        copy("/bin/sleep", &root.join("program"));
        let mut running = Command::new(root.join("program")).arg("60").spawn().unwrap();
        let errno =
            |result: io::Result<File>| result.map(|_| ()).map_err(|error| error.raw_os_error());
        let write = || OpenOptions::new().write(true).open(root.join("program"));
        log.note("written while it runs", errno(write()));
        log.note(
            "removed while it runs",
            fs::rename(root.join("program"), root.join("moved")).is_ok(),
        );
        running.kill().unwrap();
        running.wait().unwrap();
        log.note("afterwards", errno(OpenOptions::new().write(true).open(root.join("moved"))));
        let open = OpenOptions::new().write(true).open(root.join("moved")).unwrap();
        log.note("run while it is written", said(Command::new(root.join("moved")).arg("0")));
        drop(open);
    });
}

#[test]
fn processes_share_a_mapping() {
    alike(|root, log| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(root.join("f"))
            .unwrap();
        file.set_len(16_384).unwrap();
        let mut shared = Mapping::new(&file, 16_384);
        let mut private = Mapping::with(&file, 16_384, Kind::Private);
        shared.store(5000, b"parent");
        let code = Child::run(&[], || {
            let Ok(file) = OpenOptions::new().read(true).write(true).open(root.join("f")) else {
                return 1;
            };
            let mut mapping = Mapping::new(&file, 16_384);
            if mapping.load(5000, 6) != b"parent" {
                return 2;
            }
            mapping.store(9000, b"child");
            0
        })
        .wait();
        log.note("child", code);
        log.note("seen", shared.load(9000, 5));
        private.store(0, b"private");
        log.note("not in the file", shared.load(0, 7));
        let mut bytes = [0; 7];
        file.read_exact_at(&mut bytes, 0).unwrap();
        log.note("nor by a call", bytes);
        log.note("but there", private.load(0, 7));
    });
}

#[test]
fn what_another_process_stored_is_written_back_when_it_ends() {
    let mut m = TestMount::new();
    fs::write(m.path("f"), vec![1; 300_000]).unwrap();
    let code = Child::run(&[], || {
        let Ok(file) = OpenOptions::new().read(true).write(true).open(m.path("f")) else {
            return 1;
        };
        let mut mapping = Mapping::new(&file, 300_000);
        for at in (0..300_000).step_by(10_000) {
            mapping.store(at, b"stored");
        }
        // Neither synced nor unmapped.
        std::mem::forget(mapping);
        0
    })
    .wait();
    assert_eq!(code, 0);
    m.remount();
    let content = fs::read(m.path("f")).unwrap();
    for at in (0..300_000).step_by(10_000) {
        assert_eq!(&content[at..at + 6], b"stored", "at {at}");
    }
}

/// The file has `size` bytes; touching the byte at `at` of a mapping that was made when it was longer.
fn touch(root: &Path, size: u64, at: usize) -> i32 {
    let path = root.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.write_all_at(&[1; 20_000], 0).unwrap();
    drop(file);
    Child::run(&[], || {
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { return 98 };
        let mut mapping = Mapping::new(&file, 20_480);
        if mapping.load(16_000, 1) != [1] || file.set_len(size).is_err() {
            return 99;
        }
        let seen = mapping.load(at, 1)[0];
        mapping.store(at, &[2]);
        i32::from(seen)
    })
    .wait()
}

#[test]
fn beyond_the_end_of_a_cut_file_memory_faults() {
    alike(|root, log| {
        for (size, at) in [
            (20_000, 19_999),
            (20_000, 20_400),
            (5000, 4999),
            (5000, 5001),
            (5000, 8191),
            (5000, 8192),
            (0, 0),
        ] {
            log.note(format!("{at} of {size}"), touch(root, size, at));
        }
        let file = OpenOptions::new().read(true).write(true).open(root.join("f")).unwrap();
        file.set_len(5000).unwrap();
        drop(file);
        touch(root, 5000, 8191);
        // What was stored behind the end, in the last page, is not in the file when it grows.
        let file = OpenOptions::new().read(true).write(true).open(root.join("f")).unwrap();
        file.set_len(8192).unwrap();
        let mut behind = vec![9; 3192];
        file.read_exact_at(&mut behind, 5000).unwrap();
        log.note("behind the end", behind.iter().filter(|byte| **byte != 0).count());
    });
}

#[test]
fn a_mapping_for_writing_needs_a_file_open_for_that() {
    alike(|root, log| {
        fs::write(root.join("f"), vec![1; 8192]).unwrap();
        let reading = File::open(root.join("f")).unwrap();
        log.note("shared, for writing", Mapping::attempt(&reading, 4096, Kind::Shared).map(|_| ()));
        log.note(
            "private, for writing",
            Mapping::attempt(&reading, 4096, Kind::Private).map(|_| ()),
        );
        let writing = OpenOptions::new().write(true).open(root.join("f")).unwrap();
        log.note(
            "of one for writing alone",
            Mapping::attempt(&writing, 4096, Kind::Shared).map(|_| ()),
        );
        log.note(
            "of a directory",
            Mapping::attempt(&File::open(root).unwrap(), 4096, Kind::Private).map(|_| ()),
        );
    });
}

#[test]
fn a_mount_for_no_programs_runs_none() {
    let options = amberfs::fuse::MountOptions { noexec: true, ..Default::default() };
    let m = TestMount::with(options);
    copy("/bin/echo", &m.path("program"));
    let refused = Command::new(m.path("program")).output().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
}
