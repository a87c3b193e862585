//! A temporary directory, and the program run in it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The program under test.
pub(crate) const AMBERFS: &str = env!("CARGO_BIN_EXE_amberfs");

/// Returns whether this machine can mount; where it has to, that it can't is a failure.
pub(crate) fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let fuse = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if root && fuse {
        return true;
    }
    assert!(
        std::env::var_os("AMBERFS_REQUIRE_FUSE").is_none(),
        "mounting is required here, and needs root and /dev/fuse"
    );
    eprintln!("skipped: mounting needs root and /dev/fuse");
    false
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    /// Asserts success and returns standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Asserts a failure with an exit code: one paragraph that holds each of `parts`, and nothing on
    /// standard output.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert_eq!(self.out, "");
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in: {}", self.err);
        }
        assert!(self.err.starts_with("amberfs: cannot "), "{}", self.err);
        assert_eq!(self.err.trim_end().lines().count(), 1, "{}", self.err);
    }
}

/// Returns the parent of a process.
pub(crate) fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in parentheses, may hold anything.
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A place for pools and mounts; what is still mounted in it at the end is unmounted.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("amberfs-cli-").tempdir().unwrap();
        Place { dir }
    }

    /// Returns the path of something in it.
    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// Makes a directory in it.
    pub(crate) fn mkdir(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Returns the program, to be run in this directory.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(AMBERFS);
        command.args(args).current_dir(self.dir.path()).env_remove("AMBERFS_LOG");
        command
    }

    /// Runs the program in this directory.
    pub(crate) fn amberfs<S: AsRef<OsStr>>(&self, args: &[S]) -> Outcome {
        run(&mut self.command(args))
    }

    /// Runs a shell script in this directory, with `amberfs` in the PATH.
    pub(crate) fn shell(&self, script: &str) -> Outcome {
        self.run_script(Command::new("bash").arg("-euc"), script)
    }

    /// Runs a script as [`Self::shell`] does, in a mount namespace of its own that no other mount of
    /// AmberFS is in.
    pub(crate) fn shell_alone(&self, script: &str) -> Outcome {
        const ALONE: &str = "while read -r _ dir type _; do
            if [ \"$type\" = fuse.amberfs ]; then umount -l \"$(printf %b \"$dir\")\"; fi
        done < /proc/self/mounts\n";
        self.run_script(
            Command::new("unshare").args(["--mount", "bash", "-euc"]),
            &format!("{ALONE}{script}"),
        )
    }

    fn run_script(&self, shell: &mut Command, script: &str) -> Outcome {
        let path = std::env::var("PATH").unwrap_or_default();
        let programs = Path::new(AMBERFS).parent().unwrap();
        shell.arg(script).current_dir(self.dir.path());
        run(shell.env("PATH", format!("{}:{path}", programs.display())))
    }

    /// Makes a pool with a volume `main`.
    pub(crate) fn pool(&self, name: &str) -> PathBuf {
        self.amberfs(&["-q", "pool", "create", name]).ok();
        self.amberfs(&["-q", "volume", "create", &format!("{name}:main")]).ok();
        self.at(name)
    }

    /// Lets users other than root look into it, and returns a copy of the program that they can run.
    pub(crate) fn open_to_all(&self) -> PathBuf {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = self.at("amberfs-for-all");
        fs::copy(AMBERFS, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(home) = self.dir.path().canonicalize() else { return };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let home = home.to_string_lossy().into_owned();
        for line in mounts.lines().rev() {
            let dir = line.split(' ').nth(1).unwrap_or_default().replace("\\040", " ");
            if dir.starts_with(&home) {
                let _ = Command::new("umount").arg("-l").arg(&dir).output();
            }
        }
    }
}

/// Every file below a directory with a hash of its bytes, to see that nothing has changed.
pub(crate) fn contents(dir: &Path) -> Vec<(PathBuf, Option<blake3::Hash>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            all.push((path.clone(), None));
            all.extend(contents(&path));
        } else if entry.file_name() == "lock" {
            // Whoever opens a pool notes its process id there, for messages.
            all.push((path, None));
        } else {
            let hash = blake3::hash(&fs::read(&path).unwrap());
            all.push((path, Some(hash)));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}
