//! ZFS in user space: zfs-fuse, with a pool on a file of the host's.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{MountPoint, Snapshots, Target, needs, settled};
use crate::failure::{Failure, Result};
use crate::programs::{command, run};

/// Where the daemon shows its statistics.
const STATISTICS: &str = "/zfs-kstat";

/// zfs-fuse's daemon serves all pools of a machine. One that runs already is used and left alone.
struct Daemon(Option<Child>);

impl Daemon {
    fn new(dir: &Path) -> Result<Daemon> {
        if run(&mut command("zpool", &["list"])).is_ok() {
            return Ok(Daemon(None));
        }
        let log = dir.join("log");
        let file = File::create(&log).map_err(Failure::io("create", &log))?;
        let mut daemon = Command::new("zfs-fuse");
        daemon.arg("--no-daemon").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = daemon.process_group(0).spawn();
        let daemon = Daemon(Some(child.map_err(Failure::io("run", Path::new("zfs-fuse")))?));
        for _ in 0..100 {
            if run(&mut command("zpool", &["list"])).is_ok() {
                return Ok(daemon);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(Failure::Absent("zfs-fuse does not answer".into()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            // The child is not waited for yet: the number is still its own.
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
            let mut looks = 0..100;
            while looks.next().is_some() && !ended(child) {
                thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
            // Its statistics stay mounted behind it.
            let _ = run(command("umount", &["-l"]).arg(STATISTICS));
            let _ = std::fs::remove_dir(STATISTICS);
        }
    }
}

/// A pool, destroyed in `drop`, before its mount point and the daemon go.
pub(super) struct Zfs {
    mount: MountPoint,
    pool: String,
    dir: PathBuf,
    _daemon: Daemon,
}

impl Zfs {
    pub(super) fn new(dir: &Path, bytes: u64) -> Result<Zfs> {
        needs(&["zfs-fuse", "zpool", "zfs"])?;
        let devices = dir.join("devices");
        std::fs::create_dir(&devices).map_err(Failure::io("make the directory", &devices))?;
        let image = devices.join("image");
        let file = File::create_new(&image).map_err(Failure::io("create", &image))?;
        file.set_len(bytes).map_err(Failure::io("grow", &image))?;
        let made = Zfs {
            mount: MountPoint::new(dir.join("mnt"))?,
            pool: format!("amberfs-bench-{}", std::process::id()),
            dir: devices,
            _daemon: Daemon::new(dir)?,
        };
        let mut create = command("zpool", &["create", "-m"]);
        run(create.arg(&made.mount.0).arg(&made.pool).arg(&image))?;
        Ok(made)
    }

    fn zfs(&self, args: &[&str], what: &str) -> Result<String> {
        run(command("zfs", args).arg(format!("{}{what}", self.pool)))
    }
}

impl Drop for Zfs {
    fn drop(&mut self) {
        let _ = run(&mut command("zpool", &["destroy", "-f", &self.pool]));
    }
}

impl Target for Zfs {
    fn name(&self) -> &'static str {
        "zfs-fuse"
    }

    fn root(&self) -> PathBuf {
        self.mount.0.clone()
    }

    fn remount(&mut self) -> Result<()> {
        run(&mut command("zpool", &["export", &self.pool]))?;
        run(command("zpool", &["import", "-d"]).arg(&self.dir).arg(&self.pool)).map(drop)
    }

    fn occupied(&mut self) -> Result<u64> {
        // It counts what has been written, and an export writes everything.
        self.remount()?;
        settled(|| {
            let said = self.zfs(&["get", "-Hp", "-o", "value", "used"], "")?;
            said.trim().parse().map_err(|_| Failure::Absent("zfs says no size".into()))
        })
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl Snapshots for Zfs {
    fn create(&self, name: &str) -> Result<()> {
        self.zfs(&["snapshot"], &format!("@{name}")).map(drop)
    }

    fn names(&self) -> Result<Vec<String>> {
        let said = self.zfs(&["list", "-H", "-o", "name", "-t", "snapshot", "-r"], "")?;
        Ok(said.lines().filter_map(|line| Some(line.split_once('@')?.1.to_owned())).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.zfs(&["destroy"], &format!("@{name}")).map(drop)
    }

    fn copy(&self, name: &str, copy: &str) -> Result<()> {
        let from = format!("{}@{name}", self.pool);
        self.zfs(&["clone", &from], &format!("/{copy}")).map(drop)
    }

    fn discard(&self, copy: &str) -> Result<()> {
        // Copies are mounted at once, and busy for a moment after it.
        let mut outcome = Ok(String::new());
        for _ in 0..50 {
            outcome = self.zfs(&["destroy", "-f"], &format!("/{copy}"));
            if outcome.is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        outcome.map(drop)
    }

    fn restore(&self, name: &str) -> Result<()> {
        self.zfs(&["rollback", "-r"], &format!("@{name}")).map(drop)
    }
}
