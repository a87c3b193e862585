//! Names of every kind, paths longer than PATH_MAX, loops, and the limit of links.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::support::TestMount;
use crate::twin::{ROOT, alike};

/// Names that some program or other does not expect.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = vec![
        b"...".to_vec(),
        b". ".to_vec(),
        b" ".to_vec(),
        b"-rf".to_vec(),
        b"*".to_vec(),
        b"\n".to_vec(),
        b"a\\b".to_vec(),
        b".snapshots2".to_vec(),
        b"SNAPSHOTS".to_vec(),
        b"@latest".to_vec(),
        "\u{e9}".as_bytes().to_vec(),
        // The same letter in two parts: another name.
        "e\u{301}".as_bytes().to_vec(),
        b"\xff\xfe".to_vec(),
        b"caf\xe9".to_vec(),
    ];
    names.extend((1..=255u8).filter(|byte| *byte != b'/' && *byte != b'.').map(|byte| vec![byte]));
    names.push(vec![b'n'; 255]);
    names.push(vec![0xf0; 255]);
    names
}

#[test]
fn every_byte_can_be_in_a_name() {
    alike(|root, log| {
        for name in odd_names() {
            let path = root.join(OsStr::from_bytes(&name));
            let made = fs::write(&path, &name).map_err(|error| error.raw_os_error());
            log.note(format!("{name:?}"), (made, fs::read(&path).ok()));
        }
        let listed = || {
            let mut all: Vec<Vec<u8>> = fs::read_dir(root)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
                .collect();
            all.sort();
            all
        };
        log.note("listed", listed());
        for name in odd_names() {
            let path = root.join(OsStr::from_bytes(&name));
            let moved =
                root.join(OsStr::from_bytes(&[&name[..name.len().min(254)], b"'"].concat()));
            log.note(format!("{name:?} moved"), fs::rename(&path, &moved).is_ok());
        }
        log.note("listed", listed());
        for name in listed() {
            fs::remove_file(root.join(OsStr::from_bytes(&name))).unwrap();
        }
        log.note("left", listed());
    });
}

#[test]
fn names_that_are_refused() {
    alike(|root, log| {
        fs::write(root.join("f"), b"").unwrap();
        fs::create_dir(root.join("d")).unwrap();
        let long = "n".repeat(256);
        let deep = "d/".repeat(2048);
        let errno = |error: std::io::Error| error.raw_os_error();
        let names = [
            ".",
            "..",
            "d/.",
            "d/..",
            "f/",
            "f/x",
            "f/.",
            "absent/",
            "absent/x",
            "d/",
            &long,
            &deep,
            "absent/..",
            "f/..",
        ];
        for name in names {
            let path = root.join(name);
            let short = name.chars().take(20).collect::<String>();
            log.note(
                format!("stat {short}"),
                fs::metadata(&path).map(|m| m.is_dir()).map_err(errno),
            );
            log.note(
                format!("create {short}"),
                File::options().write(true).create_new(true).open(&path).map(|_| ()).map_err(errno),
            );
            log.note(format!("mkdir {short}"), fs::create_dir(&path).map_err(errno));
            log.note(format!("link {short}"), fs::hard_link(root.join("f"), &path).map_err(errno));
            log.note(format!("symlink {short}"), symlink("t", &path).map_err(errno));
            log.note(format!("unlink {short}"), fs::remove_file(&path).map_err(errno));
            log.note(format!("rename {short}"), fs::rename(root.join("f"), &path).map_err(errno));
            let _ = fs::rename(&path, root.join("f"));
            log.note(
                format!("rename from {short}"),
                fs::rename(&path, root.join("to")).map_err(errno),
            );
            let _ = fs::rename(root.join("to"), &path);
            log.note(format!("rmdir {short}"), fs::remove_dir(&path).map_err(errno));
            let _ = fs::create_dir(root.join("d"));
            let _ = fs::write(root.join("f"), b"");
        }
        log.note("an empty target", symlink("", root.join("l")).map_err(errno));
        log.note("a target too long", symlink("t".repeat(4096), root.join("l")).map_err(errno));
        log.note(
            "a target as long as can be",
            symlink("t".repeat(4095), root.join("l")).map_err(errno),
        );
        log.note("read", fs::read_link(root.join("l")).unwrap().as_os_str().len());
        log.note("followed", fs::metadata(root.join("l")).map(|_| ()).map_err(errno));
    });
}

#[test]
fn chains_of_links_end_after_forty() {
    alike(|root, log| {
        fs::write(root.join("l0"), b"end").unwrap();
        for n in 1..=42 {
            symlink(format!("l{}", n - 1), root.join(format!("l{n}"))).unwrap();
        }
        for n in [39, 40, 41, 42] {
            let read = fs::read(root.join(format!("l{n}"))).map_err(|error| error.raw_os_error());
            log.note(format!("{n} links"), read);
        }
        symlink("loop", root.join("loop")).unwrap();
        log.note("a loop", fs::read(root.join("loop")).map_err(|error| error.raw_os_error()));
        let flags = OFlags::NOFOLLOW | OFlags::RDONLY;
        log.note("not followed", openat(CWD, root.join("l1"), flags, Mode::empty()).map(|_| ()));
        let flags = OFlags::NOFOLLOW | OFlags::PATH;
        log.note("as a path", openat(CWD, root.join("l1"), flags, Mode::empty()).map(|_| ()));
    });
}

const LEVELS: usize = 80;

fn level() -> String {
    "a-directory-with-quite-a-long-name-so-that-the-path-is-soon-longer-than-what-one-call-takes"
        .into()
}

fn open_dir(at: &File, name: &str) -> Result<File, Errno> {
    openat(at, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).map(File::from)
}

/// Goes down as far as it goes, and counts.
fn depth(root: &Path) -> usize {
    let mut at = File::open(root).unwrap();
    let mut depth = 0;
    while let Ok(below) = open_dir(&at, &level()) {
        at = below;
        depth += 1;
    }
    depth
}

#[test]
fn trees_deeper_than_a_path_is_long() {
    alike(|root, log| {
        let mut at = File::open(root).unwrap();
        let mut path = PathBuf::from(root);
        for n in 0..LEVELS {
            mkdirat(&at, level(), Mode::RWXU).unwrap();
            at = open_dir(&at, &level()).unwrap();
            path.push(level());
            if [10, 40, 50].contains(&n) {
                let found = fs::metadata(&path).map(|_| ()).map_err(|error| error.raw_os_error());
                log.note(format!("by its path, {n} levels"), found);
            }
        }
        log.note(
            "a file at the end",
            openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).map(|_| ()),
        );
        log.note("levels", depth(root));
        // The middle is moved to the top, and everything below it goes along.
        let mut middle = File::open(root).unwrap();
        for _ in 0..LEVELS / 2 {
            middle = open_dir(&middle, &level()).unwrap();
        }
        let moved = renameat_with(&middle, level(), CWD, root.join("moved"), RenameFlags::empty());
        log.note("moved", moved);
        log.note("levels left", depth(root));
        log.note("levels moved", depth(&root.join("moved")));
        let from_within = ROOT.run(&root.join("moved"), || {
            for _ in 0..LEVELS / 2 - 1 {
                std::env::set_current_dir(level()).unwrap();
            }
            let path = std::env::current_dir().map(|path| path.as_os_str().len() > 3000);
            (path.map_err(|error| error.raw_os_error()), fs::metadata("f").is_ok())
        });
        log.note("working directory", from_within);
        let into_itself = renameat_with(CWD, root.join("moved"), &at, "x", RenameFlags::empty());
        log.note("into itself", into_itself);
        let parent = rustix::fs::statat(&at, "..", AtFlags::empty()).map(|stat| stat.st_nlink);
        log.note("links of the last but one", parent);
        log.note("not empty", unlinkat(&at, "../../".to_owned() + &level(), AtFlags::REMOVEDIR));
    });
}

#[test]
fn a_deep_tree_is_in_a_snapshot() {
    let mut m = TestMount::new();
    let mut at = File::open(m.root()).unwrap();
    for _ in 0..LEVELS {
        mkdirat(&at, level(), Mode::RWXU).unwrap();
        at = open_dir(&at, &level()).unwrap();
    }
    // From the deepest directory, too.
    mkdirat(File::open(m.root()).unwrap(), ".snapshots/s", Mode::RWXU).unwrap();
    assert!(rustix::fs::statat(&at, ".snapshots/s", AtFlags::empty()).is_ok());
    drop(at);
    assert_eq!(depth(&m.path(".snapshots/s")), LEVELS);
    m.remount();
    assert_eq!(depth(&m.path(".snapshots/s")), LEVELS);
    assert_eq!(depth(m.root()), LEVELS);
}

#[test]
fn a_file_has_as_many_names_as_on_ext4() {
    const MOST: u64 = 65_000;
    let m = TestMount::new();
    fs::write(m.path("f"), b"x").unwrap();
    let root = File::open(m.root()).unwrap();
    let link = |n: u64| rustix::fs::linkat(&root, "f", &root, format!("l{n}"), AtFlags::empty());
    for n in 1..MOST {
        link(n).unwrap();
    }
    assert_eq!(link(MOST), Err(Errno::MLINK));
    assert_eq!(fs::metadata(m.path("f")).unwrap().nlink(), MOST);
    // A directory in it makes that none the less.
    fs::remove_file(m.path("l1")).unwrap();
    link(MOST).unwrap();
    assert_eq!(link(MOST + 1), Err(Errno::MLINK));
    fs::rename(m.path("l2"), m.path("l3")).unwrap();
    assert_eq!(
        fs::metadata(m.path("l2")).unwrap().nlink(),
        MOST,
        "two names of one file: nothing is done"
    );
}
