//! A source tree: unpacked, measured, searched, removed; and git on a repository of one.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::{Rounds, Workload};
use crate::drivers::read_whole;
use crate::failure::Result;
use crate::ground::Ground;
use crate::programs::{command, measured};

/// The archive is in memory when it is unpacked. `tree-unpack-sync` counts until all of it is durable.
pub(super) const TREE: Workload = Workload {
    name: "tree",
    rounds: Rounds::AtMostTwo,
    needs_snapshots: false,
    steps: &[
        |ground| {
            let (tar, entries) = ground.stage.tree(ground.scale)?;
            read_whole(&tar)?;
            let to = ground.path("tree");
            std::fs::create_dir(&to).map_err(crate::failure::Failure::io("make", &to))?;
            ground.settle();
            let unpack = &mut with("tar", &["-xf"], &tar);
            let unpacking = ground.time(|_| measured(unpack.arg("-C").arg(&to), &[0]).map(drop))?;
            let syncing = ground.time(|ground| ground.make_durable())?;
            ground.record_rate("tree-unpack", entries, unpacking);
            ground.record_rate("tree-unpack-sync", entries, unpacking + syncing);
            ground.notes.insert("entries", entries as f64);
            Ok(())
        },
        |ground| {
            ground.cool()?;
            on_tree(ground, "tree-du-cold", "du", &["-s"], &[0])
        },
        |ground| {
            ground.cool()?;
            // A pattern that is nowhere, so that every byte is looked at.
            let pattern = "not-to-be-found-anywhere";
            on_tree(ground, "tree-grep-cold", "grep", &["-r", "-F", pattern], &[1])
        },
        |ground| on_tree(ground, "tree-rm", "rm", &["-rf"], &[0]),
    ],
};

fn with(program: &str, args: &[&str], path: &Path) -> Command {
    let mut command = command(program, args);
    command.arg(path).env("LC_ALL", "C");
    command
}

fn on_tree(
    ground: &mut Ground<'_>,
    name: &'static str,
    program: &str,
    args: &[&str],
    accept: &[i32],
) -> Result<()> {
    let mut command = with(program, args, &ground.path("tree"));
    let entries = ground.notes["entries"] as u64;
    ground.rate(name, entries, |_| measured(&mut command, accept).map(drop))
}

/// Times that `git status` looks at the repository.
const LOOKS: u64 = 5;

/// The repository that is cloned is on the host filesystem, in memory.
pub(super) const GIT: Workload = Workload {
    name: "git",
    rounds: Rounds::All,
    needs_snapshots: false,
    steps: &[
        |ground| {
            let (repository, files) = ground.stage.repository(ground.scale)?;
            let to = ground.path("clone");
            let args = ["clone", "--quiet", "--no-hardlinks"].map(OsString::from);
            let mut clone = git(&args);
            clone.arg(repository).arg(to);
            ground.rate("git-clone", files, |_| measured(&mut clone, &[0]).map(drop))
        },
        |ground| {
            let args = ["-C".into(), ground.path("clone").into(), "status".into()];
            // The first one refreshes the index.
            measured(&mut git::<OsString>(&args), &[0])?;
            ground.rate("git-status", LOOKS, |_| {
                (0..LOOKS).try_for_each(|_| measured(&mut git(&args), &[0]).map(drop))
            })
        },
    ],
};

/// A command of git, for itself: without the user's settings.
pub(crate) fn git<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Command {
    let mut command = command("git", args);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    command
}
