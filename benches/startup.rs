//! What mounting costs and how much memory serving takes, against the number of files:
//! `cargo bench --bench startup -- [--files N,N,...] [--dir DIR]`, as root.
//!
//! Each number of files, of 1 KiB, 1000 to a directory, is made without a mount, as fast as the engine takes
//! them. Then the host's caches are emptied and the pool is mounted by the release binary, walked, read at random and
//! snapshotted, at once and a while later; the daemon's memory is looked at after each. Then as much is changed as
//! the journal takes before a checkpoint, daemon and supervisor are killed, and the pool is mounted again.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use amberfs::device::PoolDir;
use amberfs::format::Timestamp;
use amberfs::fs::{Caller, Filesystem, FsOptions, NodeId, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const FILES_IN_DIR: u64 = 1000;
const FILE_BYTES: usize = 1024;
/// Files that are read at random.
const READS: u64 = 20_000;
/// Snapshots while nothing is dirty, and after how long nothing is: access times have changed with the reads.
const SNAPSHOTS: usize = 101;
const SETTLED: Duration = Duration::from_secs(15);
/// Files that are changed before the crash, and most changes of them.
const CHANGED: u64 = 10_000;
const MAX_CHANGES: u64 = 1_000_000;

/// Mounts pools of different sizes.
#[derive(Debug, Parser)]
#[command(name = "startup")]
struct Options {
    /// Numbers of files.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 100_000, 1_000_000, 10_000_000])]
    files: Vec<u64>,
    /// Where on disk; otherwise where temporary files are.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What cargo passes to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp { sec: now.as_secs() as i64, nsec: now.subsec_nanos() }
    }
}

fn dir_name(dir: u64) -> String {
    format!("d{dir:05}")
}

fn file_name(file: u64) -> String {
    format!("file{file:08}")
}

fn path_of(mount: &Path, file: u64) -> PathBuf {
    mount.join(dir_name(file / FILES_IN_DIR)).join(file_name(file))
}

/// Makes a pool with a volume `main` of so many files.
fn make(path: &Path, files: u64) -> Result<()> {
    let directory = PoolDir::create(path)?;
    let create = CreateOptions {
        size_bytes: None,
        journal_bytes: CreateOptions::JOURNAL_BYTES,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let pool = Pool::create(directory.storage(), &create, OpenOptions::new(Arc::new(SystemClock)))?;
    let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
    let fs = Filesystem::new(pool.create_volume("main", &root)?, FsOptions::default())?;
    let caller = Caller::root();
    let mut content = [0; FILE_BYTES];
    for dir in 0..files.div_ceil(FILES_IN_DIR) {
        let made = fs.mkdir(&caller, NodeId::ROOT, dir_name(dir).as_bytes(), 0o755)?.node;
        for file in dir * FILES_IN_DIR..files.min((dir + 1) * FILES_IN_DIR) {
            let name = file_name(file);
            let (entry, handle) =
                fs.create(&caller, made, name.as_bytes(), 0o644, libc::O_WRONLY)?;
            content[..name.len()].copy_from_slice(name.as_bytes());
            fs.write(entry.node, handle, 0, &content, WriteFlags::default())?;
            fs.release(entry.node, handle);
            fs.forget(entry.node, 1);
        }
        fs.forget(made, 1);
    }
    drop(fs);
    pool.close()?;
    Ok(())
}

fn amberfs(args: &[&str], paths: &[&Path]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_amberfs")).args(args).args(paths).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A mounted pool, unmounted in `drop`.
struct Mounted {
    pool: PathBuf,
    mount: PathBuf,
    daemon: i32,
}

impl Mounted {
    /// Mounts with empty caches of the host; returns how long that took, too.
    fn new(pool: &Path, mount: &Path) -> Result<(Mounted, Duration)> {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        let begun = Instant::now();
        // No checkpoint but those that the journal's length or dirty nodes ask for.
        amberfs(&["-q", "mount", "-o", "commit=3600"], &[pool, mount])?;
        let time = begun.elapsed();
        let mut mounted = Mounted { pool: pool.into(), mount: mount.into(), daemon: 0 };
        let daemon =
            mounted.status()?["daemon"]["pid"].as_i64().ok_or("the status names no daemon")?;
        mounted.daemon = i32::try_from(daemon)?;
        Ok((mounted, time))
    }

    fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&amberfs(&["pool", "status", "--json"], &[&self.pool])?)?)
    }

    fn figure(&self, name: &str) -> Result<u64> {
        self.status()?[name].as_u64().ok_or_else(|| format!("the status has no {name}").into())
    }

    /// A line of the daemon's `/proc/PID/status`, a number.
    fn process(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
        Ok(line.trim_matches([':', '\t', ' ', 'k', 'B']).parse()?)
    }

    /// Resident memory, and the most that it was.
    fn memory(&self) -> Result<String> {
        let (now, most) = (self.process("VmRSS")?, self.process("VmHWM")?);
        Ok(format!("{} MiB resident, {} at most", now >> 10, most >> 10))
    }

    /// Kills supervisor and daemon, in this order, so that nobody goes on.
    fn crash(self) -> Result<()> {
        let supervisor = i32::try_from(self.process("PPid")?)?;
        for pid in [supervisor, self.daemon] {
            kill_process(Pid::from_raw(pid).ok_or("no process")?, Signal::KILL)?;
        }
        rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH)?;
        // Not unmounted in an orderly way any more.
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = amberfs(&["-q", "umount"], &[&self.mount]);
    }
}

/// Looks at every file; returns how many there are.
fn walk(mount: &Path) -> Result<u64> {
    let mut found = 0;
    for dir in fs::read_dir(mount)? {
        for file in fs::read_dir(dir?.path())? {
            found += u64::from(file?.metadata()?.len() == FILE_BYTES as u64);
        }
    }
    Ok(found)
}

/// Spreads numbers over 0..files.
fn spread(at: u64, files: u64) -> u64 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % files
}

/// Changes some of the files, few enough for the journal to fill before dirty nodes call for a checkpoint, until it
/// is almost as long as it gets, which is half of what it could be; returns its bytes.
fn fill_journal(mounted: &Mounted, files: u64) -> Result<u64> {
    let full = mounted.figure("journal_capacity_bytes")? / 16 * 7;
    for change in 0..MAX_CHANGES {
        let path = path_of(&mounted.mount, spread(change, files.min(CHANGED)));
        fs::write(path, [change as u8; FILE_BYTES])?;
        if change % 500 == 0 {
            let used = mounted.figure("journal_used_bytes")?;
            if used > full {
                return Ok(used);
            }
        }
    }
    Err("the journal does not fill".into())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn measure(place: &Path, files: u64) -> Result<()> {
    let (pool, mount) = (place.join("pool"), place.join("mnt"));
    fs::create_dir(&mount)?;
    let begun = Instant::now();
    make(&pool, files)?;
    println!("{files} files, made in {:.1} s", begun.elapsed().as_secs_f64());

    let (mounted, time) = Mounted::new(&pool, &mount)?;
    println!("  mounted, clean: {:.1} ms, {}", ms(time), mounted.memory()?);
    let bytes = mounted.figure("used_bytes")?;
    println!("  {bytes} bytes in use, {} a file", bytes / files);
    let begun = Instant::now();
    let found = walk(&mount)?;
    if found != files {
        return Err(format!("{found} files of {files} are there").into());
    }
    println!("  walked: {:.1} s, {}", begun.elapsed().as_secs_f64(), mounted.memory()?);
    for read in 0..READS {
        let file = spread(read, files);
        let content = fs::read(path_of(&mount, file))?;
        if !content.starts_with(file_name(file).as_bytes()) {
            return Err(format!("file {file} has the content of another").into());
        }
    }
    println!("  read at random, {READS} files: {}", mounted.memory()?);
    let begun = Instant::now();
    fs::create_dir(mount.join(".snapshots/one"))?;
    println!("  snapshot: {:.1} ms", ms(begun.elapsed()));
    std::thread::sleep(SETTLED);
    let snapshots = (0..SNAPSHOTS).map(|number| {
        let begun = Instant::now();
        fs::create_dir(mount.join(format!(".snapshots/more-{number}")))?;
        Ok(ms(begun.elapsed()))
    });
    let mut times = snapshots.collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    let (median, longest) = (times[SNAPSHOTS / 2], times[SNAPSHOTS - 1]);
    println!("  {SNAPSHOTS} more, nothing dirty: median {median:.2} ms, longest {longest:.1} ms");

    let used = fill_journal(&mounted, files)?;
    println!("  changed: {used} bytes of journal, {}", mounted.memory()?);
    mounted.crash()?;
    let (mounted, time) = Mounted::new(&pool, &mount)?;
    println!("  mounted after a crash: {:.0} ms, {}", ms(time), mounted.memory()?);
    drop(mounted);
    fs::remove_dir(&mount)?;
    fs::remove_dir_all(&pool)?;
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = tempfile::Builder::new().prefix("amberfs-startup.").tempdir_in(parent)?;
    for files in &options.files {
        measure(place.path(), (*files).max(1))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` runs every benchmark, and this one takes long.
        println!("startup: nothing is measured unless cargo bench asks for it");
        return ExitCode::SUCCESS;
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("startup: {error}");
            ExitCode::FAILURE
        }
    }
}
