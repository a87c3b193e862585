//! What workloads bring along, made once and kept on the host filesystem: a source tree in an archive, a
//! git repository of one, a database cluster.

pub(crate) mod postgres;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::drivers::Random;
use crate::failure::{Failure, Result};
use crate::programs::{command, going, installed, run};
use crate::scale::Scale;
use crate::workloads::git;

/// What was made so far, below the directory of the run.
pub(crate) struct Stage {
    base: PathBuf,
    tree: Option<(PathBuf, u64)>,
    repository: Option<(PathBuf, u64)>,
    cluster: Option<PathBuf>,
}

impl Stage {
    /// Nothing is made yet; `base` is a directory for it.
    pub(crate) fn new(base: &Path) -> Stage {
        Stage { base: base.to_owned(), tree: None, repository: None, cluster: None }
    }

    /// Returns the directory of the run, on the host filesystem.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// Returns an archive of a source tree and the number of its entries: Linux, if its source is
    /// installed and the scale wants it, or else one that is made up.
    pub(crate) fn tree(&mut self, scale: &Scale) -> Result<(PathBuf, u64)> {
        if let Some(tree) = &self.tree {
            return Ok(tree.clone());
        }
        let linux = if scale.linux { linux_archive()? } else { None };
        let archive = match linux {
            Some(archive) => archive,
            None => {
                let source = self.generated(scale)?;
                let archive = self.base.join("tree.tar");
                run(command("tar", &["-cf"]).arg(&archive).arg("-C").arg(&source).arg("."))?;
                archive
            }
        };
        let entries = run(command("tar", &["-tf"]).arg(&archive))?.lines().count() as u64;
        Ok(self.tree.insert((archive, entries)).clone())
    }

    /// Returns a git repository with one commit, and the number of its files.
    pub(crate) fn repository(&mut self, scale: &Scale) -> Result<(PathBuf, u64)> {
        if !installed("git") {
            return Err(Failure::Absent("git is not installed".into()));
        }
        if let Some(repository) = &self.repository {
            return Ok(repository.clone());
        }
        let source = self.generated(scale)?;
        let within = |args: &[&str]| run(git(&["-C"]).arg(&source).args(args));
        within(&["init", "--quiet"])?;
        // Otherwise git packs the objects in the background, and removes them while they are cloned.
        within(&["config", "gc.auto", "0"])?;
        within(&["add", "--all"])?;
        let author = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
        within(&[&author[..], &["commit", "--quiet", "--message", "everything"]].concat())?;
        within(&["repack", "-a", "-d", "-q"])?;
        Ok(self.repository.insert((source, scale.tree_files)).clone())
    }

    /// Returns a database cluster with the tables of pgbench, whose server is stopped.
    pub(crate) fn cluster(&mut self, scale: &Scale) -> Result<PathBuf> {
        if let Some(cluster) = &self.cluster {
            return Ok(cluster.clone());
        }
        let made = postgres::make_cluster(&self.base, scale.pgbench_scale)?;
        Ok(self.cluster.insert(made).clone())
    }

    /// Makes a source tree, unless it is there.
    fn generated(&self, scale: &Scale) -> Result<PathBuf> {
        let root = self.base.join("source");
        if !root.exists() {
            generate(&root, scale.tree_files)?;
        }
        Ok(root)
    }
}

/// Files in one directory of a generated tree.
const IN_DIRECTORY: u64 = 13;

/// Makes a tree of `files` text files. Their sizes are spread as those of sources are: half are below
/// 6 KiB, one in a hundred above 100 KiB, and 13 KiB is the mean.
fn generate(root: &Path, files: u64) -> Result<()> {
    let mut random = Random::new(2);
    for number in 0..files {
        going()?;
        let dir = number / IN_DIRECTORY;
        let dir = root.join(format!("part-{}/section-{}/unit-{dir}", dir / 64, dir / 8));
        if number % IN_DIRECTORY == 0 {
            fs::create_dir_all(&dir).map_err(Failure::io("make the directory", &dir))?;
        }
        // The product of evenly spread factors is about log-normal.
        let factor: f64 = (0..4).map(|_| 0.4 + random.below(1000) as f64 / 400.0).product();
        let path = dir.join(format!("file-{number}.c"));
        let text = prose(&mut random, (1500.0 * factor) as usize + 50);
        fs::write(&path, text).map_err(Failure::io("write", &path))?;
    }
    Ok(())
}

/// Returns about `bytes` of lines of words.
fn prose(random: &mut Random, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 64);
    while text.len() < bytes {
        for _ in 0..8 {
            let _ = write!(text, "{:x} ", random.below(1 << 20));
        }
        text.push('\n');
    }
    text
}

/// Returns the uncompressed archive of Linux' source as the distribution packs it, if it is installed.
/// It is uncompressed once and kept with what cargo builds.
fn linux_archive() -> Result<Option<PathBuf>> {
    let sources = fs::read_dir("/usr/src").into_iter().flatten().flatten();
    let packed = sources.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("linux-source-") && name.ends_with(".tar.xz")
    });
    let Some(packed) = packed else { return Ok(None) };
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let archive = kept.join(packed.file_stem().unwrap_or_default());
    if !archive.exists() {
        fs::create_dir_all(kept).map_err(Failure::io("make the directory", kept))?;
        let partial = archive.with_extension("partial");
        let to = File::create(&partial).map_err(Failure::io("create", &partial))?;
        let mut unpack = command("xz", &["--decompress", "--stdout", "--threads=0"]);
        unpack.arg(&packed).stdin(Stdio::null()).stdout(to);
        let status = unpack.status().map_err(Failure::io("run", Path::new("xz")))?;
        going()?;
        if !status.success() {
            return Err(Failure::Absent(format!("xz can't uncompress {}", packed.display())));
        }
        fs::rename(&partial, &archive).map_err(Failure::io("rename", &partial))?;
    }
    Ok(Some(archive))
}
