//! Many small files, in directories of a thousand, and everything that is done to them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::{Rounds, Workload};
use crate::drivers::Random;
use crate::failure::{Failure, Result};
use crate::ground::Ground;
use crate::programs::going;

const IN_DIRECTORY: u64 = 1000;

/// Creating is not made durable, as programs that create many files do not; the space is that after
/// everything is on disk.
pub(super) const SMALL: Workload = Workload {
    name: "small",
    rounds: Rounds::AtMostTwo,
    needs_snapshots: false,
    steps: &[
        |ground| {
            ground.weigh()?;
            let (root, count, bytes) = all(ground);
            ground.rate("small-create", count, |_| create(&root, count, bytes))
        },
        |ground| {
            ground.cool()?;
            stat(ground, "small-stat-cold")
        },
        |ground| stat(ground, "small-stat-warm"),
        |ground| {
            let (_, count, bytes) = all(ground);
            ground.space("space-small", count * bytes)
        },
        |ground| {
            list(&all(ground).0)?;
            let (root, count, _) = all(ground);
            ground.rate("small-list", count, |_| list(&root).map(drop))
        },
        |ground| {
            ground.cool()?;
            read(ground, "small-read-cold")
        },
        |ground| read(ground, "small-read-warm"),
        |ground| {
            let (root, count, _) = all(ground);
            ground.rate("small-rename", count, |_| {
                each(count, |number| {
                    let (from, to) = (path(&root, number), renamed(&root, number));
                    fs::rename(&from, to).map_err(Failure::io("rename", &from))
                })
            })
        },
        |ground| {
            let (root, count, _) = all(ground);
            ground.rate("small-unlink", count, |_| {
                each(count, |number| {
                    let path = renamed(&root, number);
                    fs::remove_file(&path).map_err(Failure::io("remove", &path))
                })
            })
        },
    ],
};

fn all(ground: &Ground<'_>) -> (PathBuf, u64, u64) {
    (ground.path("small"), ground.scale.small_files, ground.scale.small_bytes)
}

fn path(root: &Path, number: u64) -> PathBuf {
    root.join(format!("{:03}/file-{number}", number / IN_DIRECTORY))
}

fn renamed(root: &Path, number: u64) -> PathBuf {
    root.join(format!("{:03}/renamed-{number}", number / IN_DIRECTORY))
}

fn each(count: u64, mut work: impl FnMut(u64) -> Result<()>) -> Result<()> {
    for number in 0..count {
        going()?;
        work(number)?;
    }
    Ok(())
}

/// Makes the files `0..count` below `root`, which is not there yet.
pub(super) fn create(root: &Path, count: u64, bytes: u64) -> Result<()> {
    let mut content = vec![0; usize::try_from(bytes).unwrap_or_default()];
    let mut random = Random::new(count);
    random.fill(&mut content);
    each(count, |number| {
        let path = path(root, number);
        if let (0, Some(dir)) = (number % IN_DIRECTORY, path.parent()) {
            fs::create_dir_all(dir).map_err(Failure::io("make the directory", dir))?;
        }
        random.fill(&mut content[..8]);
        let mut file = File::create_new(&path).map_err(Failure::io("create", &path))?;
        file.write_all(&content).map_err(Failure::io("write", &path))
    })
}

fn stat(ground: &mut Ground<'_>, name: &'static str) -> Result<()> {
    let (root, count, _) = all(ground);
    ground.rate(name, count, |_| {
        each(count, |number| {
            let path = path(&root, number);
            fs::symlink_metadata(&path).map(drop).map_err(Failure::io("look at", &path))
        })
    })
}

fn read(ground: &mut Ground<'_>, name: &'static str) -> Result<()> {
    let (root, count, bytes) = all(ground);
    let mut content = Vec::new();
    ground.rate(name, count, |_| {
        each(count, |number| {
            let path = path(&root, number);
            content.clear();
            let mut file = File::open(&path).map_err(Failure::io("open", &path))?;
            file.read_to_end(&mut content).map_err(Failure::io("read", &path))?;
            assert_eq!(content.len() as u64, bytes, "{} has another size", path.display());
            Ok(())
        })
    })
}

fn list(root: &Path) -> Result<u64> {
    let mut count = 0;
    for dir in fs::read_dir(root).map_err(Failure::io("list", root))? {
        going()?;
        let dir = dir.map_err(Failure::io("list", root))?.path();
        count += fs::read_dir(&dir).map_err(Failure::io("list", &dir))?.count() as u64;
    }
    Ok(count)
}
