//! The same random operations on a mount and on an ordinary directory: every outcome must be the
//! same, and so must the trees in the end.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags, copy_file_range,
    fallocate, getxattr, removexattr, renameat_with, setxattr, utimensat,
};

use crate::random::Random;
use crate::support::TestMount;

const STEPS: usize = 3000;
const MAX_OFFSET: usize = 300_000;

/// One operation, with names relative to the directory under test.
#[derive(Debug, Clone)]
enum Step {
    Write { name: String, at: usize, bytes: Vec<u8>, create: bool },
    Append { name: String, bytes: Vec<u8> },
    Read { name: String, at: usize, len: usize },
    SetLen { name: String, len: usize },
    Punch { name: String, at: usize, len: usize, flags: FallocateFlags },
    Copy { from: String, to: String, at: usize, to_at: usize, len: usize },
    MakeDir { name: String },
    Remove { name: String },
    RemoveDir { name: String },
    Rename { from: String, to: String, flags: RenameFlags },
    Link { from: String, to: String },
    Symlink { name: String, target: String },
    Mode { name: String, mode: u32 },
    Times { name: String, sec: i64, nsec: i64 },
    SetXattr { name: String, key: String, value: Vec<u8>, flags: XattrFlags },
    RemoveXattr { name: String, key: String },
    Sync { name: String },
    List { name: String },
}

/// A path of one or two components out of a few names, so that operations meet.
fn name(random: &mut Random) -> String {
    const NAMES: [&str; 7] = ["a", "b", "c", "dir", "sub", "e", "long-name-of-a-file.txt"];
    let first = *random.pick(&NAMES);
    if random.below(2) == 0 { first.to_owned() } else { format!("{first}/{}", random.pick(&NAMES)) }
}

fn step(r: &mut Random) -> Step {
    let rename = [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];
    let punch = [
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::empty(),
    ];
    let xattr = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
    let (name, other) = (name(r), name(r));
    let at = r.below(MAX_OFFSET);
    let len = match r.below(4) {
        0 => r.below(10),
        1 => 4096 * r.below(20),
        _ => r.below(60_000),
    };
    let key = format!("user.k{}", r.below(3));
    match r.below(26) {
        0..=4 => Step::Write { name, at, bytes: r.bytes(len), create: r.below(3) > 0 },
        5 => Step::Write { name, at: 0, bytes: r.bytes(r.clone().below(3000)), create: true },
        6 => Step::Append { name, bytes: r.bytes(len) },
        7..=9 => Step::Read { name, at, len },
        10 => Step::SetLen { name, len: at },
        11 => Step::Punch { name, at, len: len + 1, flags: *r.pick(&punch) },
        12 => Step::Copy { from: name, to: other, at, to_at: r.below(MAX_OFFSET), len },
        13..=14 => Step::MakeDir { name },
        15 => Step::Remove { name },
        16 => Step::RemoveDir { name },
        17..=18 => Step::Rename { from: name, to: other, flags: *r.pick(&rename) },
        19 => Step::Link { from: name, to: other },
        20 => Step::Symlink { name, target: other },
        21 => Step::Mode { name, mode: 0o400 | r.below(0o1000) as u32 },
        22 => {
            let (sec, nsec) = (r.below(1 << 31) as i64 - 1000, r.below(1_000_000_000) as i64);
            Step::Times { name, sec, nsec }
        }
        23 => Step::SetXattr { name, key, value: r.bytes(len % 1000), flags: *r.pick(&xattr) },
        24 => match r.below(2) {
            0 => Step::RemoveXattr { name, key },
            _ => Step::Sync { name },
        },
        _ => Step::List { name },
    }
}

/// Carries a step out and describes everything that its caller learns.
fn outcome(root: &Path, step: &Step) -> String {
    match run(root, step) {
        Ok(value) => value,
        Err(error) => format!("errno {:?}", error.raw_os_error()),
    }
}

fn run(root: &Path, step: &Step) -> io::Result<String> {
    let existing = |name: &String| OpenOptions::new().read(true).write(true).open(root.join(name));
    match step {
        Step::Write { name, at, bytes, create } => {
            let mut options = OpenOptions::new();
            options.write(true).create(*create);
            let file = options.open(root.join(name))?;
            file.write_all_at(bytes, *at as u64)?;
        }
        Step::Append { name, bytes } => {
            use io::Write;
            OpenOptions::new().append(true).open(root.join(name))?.write_all(bytes)?;
        }
        Step::Read { name, at, len } => {
            let mut bytes = vec![0; *len];
            let read = OpenOptions::new().read(true).open(root.join(name))?;
            let len = read.read_at(&mut bytes, *at as u64)?;
            return Ok(format!("{len} {}", blake3::hash(&bytes)));
        }
        Step::SetLen { name, len } => existing(name)?.set_len(*len as u64)?,
        Step::Punch { name, at, len, flags } => {
            fallocate(existing(name)?, *flags, *at as u64, *len as u64)?;
        }
        Step::Copy { from, to, at, to_at, len } => {
            let (from, to) = (existing(from)?, existing(to)?);
            let (mut at, mut to_at) = (*at as u64, *to_at as u64);
            // How much one call copies is up to the filesystem.
            let end = at + *len as u64;
            while at < end {
                let left = (end - at) as usize;
                if copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), left)? == 0 {
                    break;
                }
            }
        }
        Step::MakeDir { name } => fs::create_dir(root.join(name))?,
        Step::Remove { name } => fs::remove_file(root.join(name))?,
        Step::RemoveDir { name } => fs::remove_dir(root.join(name))?,
        Step::Rename { from, to, flags } => {
            renameat_with(CWD, root.join(from), CWD, root.join(to), *flags)?;
        }
        Step::Link { from, to } => fs::hard_link(root.join(from), root.join(to))?,
        Step::Symlink { name, target } => symlink(target, root.join(name))?,
        Step::Mode { name, mode } => {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(*mode))?;
        }
        Step::Times { name, sec, nsec } => {
            let time = Timespec { tv_sec: *sec, tv_nsec: *nsec };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            let stat = fs::symlink_metadata(root.join(name))?;
            return Ok(format!("{}.{}", stat.mtime(), stat.mtime_nsec()));
        }
        Step::SetXattr { name, key, value, flags } => {
            setxattr(root.join(name), key.as_str(), value, *flags)?;
        }
        Step::RemoveXattr { name, key } => removexattr(root.join(name), key.as_str())?,
        Step::Sync { name } => existing(name)?.sync_all()?,
        Step::List { name } => {
            let mut names = Vec::new();
            for entry in fs::read_dir(root.join(name))? {
                let entry = entry?;
                names.push((entry.file_name(), entry.file_type()?.is_dir()));
            }
            names.sort();
            return Ok(format!("{names:?}"));
        }
    }
    Ok("done".into())
}

/// Describes every file below `root`.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let mut text = format!("{:o} links {}", stat.mode(), stat.nlink());
            if stat.is_dir() {
                todo.push(path.clone());
            } else if stat.is_symlink() {
                text += &format!(" -> {:?}", fs::read_link(&path).unwrap());
            } else {
                text += &format!(" {} {}", stat.size(), blake3::hash(&fs::read(&path).unwrap()));
                for key in 0..3 {
                    let mut value = [0; 1000];
                    if let Ok(len) = getxattr(&path, format!("user.k{key}"), &mut value) {
                        text += &format!(" k{key}={}", blake3::hash(&value[..len]));
                    }
                }
            }
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), text);
        }
    }
    found
}

fn compare(seed: u64) {
    let mut m = TestMount::new();
    let ordinary = tempfile::tempdir().unwrap();
    let mut random = Random::new(seed);
    let mut snapshots = Vec::new();
    for number in 0..STEPS {
        let step = step(&mut random);
        let ours = outcome(m.root(), &step);
        let theirs = outcome(ordinary.path(), &step);
        let brief = format!("{step:?}").chars().take(200).collect::<String>();
        assert_eq!(ours, theirs, "seed {seed}, step {number}: {brief}");
        if number % 500 == 499 {
            let name = format!(".snapshots/{number}");
            fs::create_dir(m.path(&name)).unwrap();
            snapshots.push((name, tree(ordinary.path())));
        }
        if number % 1000 == 999 {
            m.remount();
        }
        if number % 200 == 199 {
            assert_eq!(tree(m.root()), tree(ordinary.path()), "seed {seed}, step {number}");
        }
    }
    for (name, then) in snapshots {
        assert_eq!(tree(&m.path(&name)), then, "seed {seed}, snapshot {name}");
    }
}

#[test]
fn like_an_ordinary_directory_seed_1() {
    compare(1);
}

#[test]
fn like_an_ordinary_directory_seed_2() {
    compare(2);
}

#[test]
fn like_an_ordinary_directory_seed_3() {
    compare(3);
}
