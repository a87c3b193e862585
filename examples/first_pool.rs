//! Makes a pool in a temporary directory through the library, without a mount: a volume with a file, a
//! snapshot of it, a change, and a look at both.
//!
//!     cargo run --example first_pool

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use amberfs::device::PoolDir;
use amberfs::format::Timestamp;
use amberfs::fs::{Caller, Filesystem, FsOptions, NodeId, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

/// The library never asks for the time itself.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp { sec: since.as_secs() as i64, nsec: since.subsec_nanos() }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    run(&mut std::io::stdout().lock())
}

pub(crate) fn run(out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("pool");
    let clock = Arc::new(SystemClock);
    // A real pool takes both from a source of randomness.
    let create = CreateOptions {
        size_bytes: Some(64 << 20),
        journal_bytes: 1 << 20,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let pool_dir = PoolDir::create(&path)?;
    let pool = Pool::create(pool_dir.storage(), &create, OpenOptions::new(clock.clone()))?;
    writeln!(out, "made a pool at {}", path.display())?;

    let root = Filesystem::format_root(clock.now(), 0, 0, 0o755);
    let volume = pool.create_volume("main", &root)?;
    let fs = Filesystem::new(Arc::clone(&volume), FsOptions::default())?;
    let caller = Caller::root();
    let (file, handle) = fs.create(&caller, NodeId::ROOT, b"greeting", 0o644, libc::O_RDWR)?;
    fs.write(file.node, handle, 0, b"good morning", WriteFlags::default())?;

    fs.create_snapshot("monday")?;
    fs.write(file.node, handle, 5, b"evening", WriteFlags::default())?;
    fs.fsync(file.node, false)?;

    for snapshot in pool.snapshots(volume.id()) {
        let options =
            FsOptions { only_snapshot: Some(snapshot.name.clone()), ..FsOptions::default() };
        let then = Filesystem::new(Arc::clone(&volume), options)?;
        writeln!(out, "{}: {}", snapshot.name, content(&then)?)?;
    }
    writeln!(out, "now: {}", content(&fs)?)?;

    fs.release(file.node, handle);
    pool.close()?;
    Ok(())
}

/// What `greeting` holds.
fn content(fs: &Filesystem) -> Result<String, Box<dyn Error>> {
    let entry = fs.lookup(&Caller::root(), NodeId::ROOT, b"greeting")?;
    let handle = fs.open(entry.node, libc::O_RDONLY)?;
    let mut bytes = vec![0; entry.attr.size as usize];
    let len = fs.read(entry.node, handle, 0, &mut bytes)?;
    bytes.truncate(len);
    fs.release(entry.node, handle);
    Ok(String::from_utf8(bytes)?)
}
