//! Operations with names, offsets, sizes and flags at their limits, on a sound volume: it stays sound.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amberfs::check::{Options, check};
use amberfs::device::{BlockDevice, Storage};
use amberfs::fs::{
    Caller, Filesystem, FsOptions, Handle, NodeId, SetAttr, SetTime, SnapDir, Timestamp, Whence,
    WriteFlags,
};
use amberfs::pool::{CreateOptions, Pool};

use super::Input;
use super::limits::{Calls, within_bounds};
use crate::patient::open_options;

/// Operations of one input.
const MAX_STEPS: usize = 60;

/// Does what the input says.
pub(crate) fn run(data: &[u8]) {
    run_on(data, Storage::clone);
}

/// The same on a data file that loses every fifth write.
pub(crate) fn planted_lost_write(data: &[u8]) {
    run_on(data, |storage| {
        let forgetful = Forgetful { inner: Arc::clone(&storage.data), writes: AtomicU64::new(0) };
        Storage { data: Arc::new(forgetful), ..storage.clone() }
    });
}

#[derive(Debug)]
struct Forgetful {
    inner: Arc<dyn BlockDevice>,
    writes: AtomicU64,
}

impl BlockDevice for Forgetful {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.writes.fetch_add(1, Ordering::Relaxed) % 5 {
            4 => self.inner.grow(offset + bytes.len() as u64),
            _ => self.inner.write_at(offset, bytes),
        }
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.inner.punch(offset, len_bytes)
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }
    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.grow(len_bytes)
    }
    fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes()
    }
}

/// A new pool with a volume in it.
pub(super) fn volume(storage: Storage, size_bytes: u64) -> (Arc<Pool>, Filesystem) {
    let create = CreateOptions {
        size_bytes: Some(size_bytes),
        journal_bytes: 64 << 10,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let pool = Pool::create(storage, &create, open_options()).expect("a pool is made");
    let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
    let volume = pool.create_volume("main", &root).expect("a volume is made");
    let options = FsOptions { snapdir: SnapDir::Visible, ..FsOptions::default() };
    (pool, Filesystem::new(volume, options).expect("it mounts"))
}

fn run_on(data: &[u8], wrap: fn(&Storage) -> Storage) {
    within_bounds(|| {
        let memory = Storage::memory();
        let (calls, storage) = Calls::wrap(&wrap(&memory));
        let (pool, fs) = volume(storage, 8 << 20);
        let mut input = Input::new(data);
        let mut nodes = vec![NodeId::ROOT, NodeId(1 << 62 | 1)];
        for _ in 0..MAX_STEPS {
            if input.is_empty() {
                break;
            }
            step(&mut input, &fs, &pool, &mut nodes);
        }
        assert!(pool.status().read_only.is_none(), "{:?}", pool.status().read_only);
        fs.forget_all();
        pool.close().expect("it closes");
        calls.check();
        let options = Options { data: true, ..Options::default() };
        let report = check(&memory, &options, &mut |_| {}).expect("it is a pool");
        assert!(report.is_clean(), "{:#?}", report.problems);
    });
}

pub(crate) fn name(input: &mut Input<'_>) -> Vec<u8> {
    match input.u8() % 16 {
        0 => Vec::new(),
        1 => b".".to_vec(),
        2 => b"..".to_vec(),
        3 => b".snapshots".to_vec(),
        4 => vec![b'x'; 255],
        5 => vec![b'x'; 256],
        6 => vec![0xff; 4096],
        7 => b"a/b".to_vec(),
        8 => b"nul\0nul".to_vec(),
        9 => b"@daily".to_vec(),
        10 => input.take(20).to_vec(),
        other => vec![b'a' + other % 4],
    }
}

pub(crate) fn attribute(input: &mut Input<'_>) -> Vec<u8> {
    match input.u8() % 10 {
        0 => Vec::new(),
        1 => b"user.".to_vec(),
        2 => [b"user.".as_slice(), &[b'n'; 250]].concat(),
        3 => [b"user.".as_slice(), &[b'n'; 251]].concat(),
        4 => b"system.posix_acl_access".to_vec(),
        5 => b"system.posix_acl_default".to_vec(),
        6 => b"security.capability".to_vec(),
        7 => b"user.amberfs.created".to_vec(),
        8 => input.take(8).to_vec(),
        _ => b"user.a".to_vec(),
    }
}

fn time(input: &mut Input<'_>) -> Option<SetTime> {
    match input.u8() % 3 {
        0 => None,
        1 => Some(SetTime::Now),
        _ => {
            let (sec, nsec) = (input.edge() as i64, (input.edge() % 1_000_000_000) as u32);
            Some(SetTime::At(Timestamp { sec, nsec }))
        }
    }
}

fn attributes(input: &mut Input<'_>) -> SetAttr {
    let some = |number: u64| number.is_multiple_of(3).then_some(number);
    let (mode, size) = (some(input.edge()), some(input.edge()));
    SetAttr {
        mode: mode.map(|mode| mode as u32),
        uid: some(input.edge()).map(|uid| uid as u32),
        gid: some(input.edge()).map(|gid| gid as u32),
        size,
        atime: time(input),
        mtime: time(input),
        ctime: None,
        kill_suidgid: input.u8().is_multiple_of(2),
        ..SetAttr::default()
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each operation")]
fn step(input: &mut Input<'_>, fs: &Filesystem, pool: &Arc<Pool>, nodes: &mut Vec<NodeId>) {
    let caller = Caller::root();
    let node = |input: &mut Input<'_>| match input.u8() {
        at @ 0..240 => nodes[usize::from(at) % nodes.len()],
        _ => NodeId(input.edge()),
    };
    let (at, other) = (node(input), node(input));
    let handle = Handle(input.edge());
    let mut made = None;
    match input.u8() % 32 {
        0 => made = fs.lookup(&caller, at, &name(input)).ok(),
        1 => made = fs.mkdir(&caller, at, &name(input), input.edge() as u32).ok(),
        2..5 => {
            let flags = [libc::O_RDWR, libc::O_RDONLY, input.edge() as i32][input.below(3)];
            let entry = fs.create(&caller, at, &name(input), input.edge() as u32, flags);
            made = entry.ok().map(|entry| entry.0);
        }
        5 => {
            let (mode, device) = (input.edge() as u32, input.edge() as u32);
            made = fs.mknod(&caller, at, &name(input), mode, device).ok();
        }
        6 => {
            let target = vec![b't'; input.u16() % 5000];
            made = fs.symlink(&caller, at, &name(input), &target).ok();
        }
        7 => made = fs.link(at, other, &name(input)).ok(),
        8 => drop(fs.unlink(&caller, at, &name(input))),
        9 => drop(fs.rmdir(&caller, at, &name(input))),
        10 | 11 => {
            let flags = [0, 1, 2, 4, input.edge() as u32][input.below(5)];
            drop(fs.rename(&caller, at, &name(input), other, &name(input), flags));
        }
        12..16 => {
            let (offset, len) = (input.edge(), input.u16() % 20_000);
            let flags = WriteFlags {
                cached: input.u8().is_multiple_of(2),
                promised: false,
                kill_suidgid: input.u8().is_multiple_of(2),
            };
            drop(fs.write(at, handle, offset, &vec![input.u8(); len], flags));
        }
        16 | 17 => drop(fs.setattr(&caller, at, &attributes(input))),
        18 | 19 => {
            let mode = [0, 1, 3, 0x10, 0x11, input.edge() as u32][input.below(6)];
            drop(fs.fallocate(at, input.edge(), input.edge(), mode));
        }
        20 => {
            let (from, to, len) = (input.edge(), input.edge(), input.edge());
            drop(fs.copy_file_range(at, from, other, to, len));
        }
        21 => {
            let mut buf = vec![0; input.u16()];
            drop(fs.read(at, handle, input.edge(), &mut buf));
        }
        22 => {
            let whence = if input.u8().is_multiple_of(2) { Whence::Data } else { Whence::Hole };
            drop(fs.lseek(at, input.edge(), whence));
        }
        23 | 24 => {
            let value = vec![input.u8(); [0, 1, 44, 4096, 65535, 65536, 65537][input.below(7)]];
            let flags = [0, 1, 2, input.edge() as u32][input.below(4)];
            drop(fs.setxattr(
                &caller,
                at,
                &attribute(input),
                &value,
                flags,
                input.u8().is_multiple_of(2),
            ));
        }
        25 => {
            drop(fs.getxattr(at, &attribute(input)));
            drop(fs.listxattr(&caller, at));
            drop(fs.removexattr(&caller, at, &attribute(input)));
        }
        26 => {
            let (cookie, plus, mut left) = (input.edge(), input.u8().is_multiple_of(2), 50);
            let listed = fs.readdir(&caller, at, cookie, plus, &mut |_| {
                left -= 1;
                left > 0
            });
            drop(listed);
        }
        27 => drop(fs.open(at, input.edge() as i32).map(|handle| fs.release(at, handle))),
        28 => {
            fs.forget(at, input.edge());
            fs.release(at, handle);
        }
        29 => {
            let name = String::from_utf8_lossy(&name(input)).into_owned();
            drop(fs.create_snapshot(&name));
        }
        30 => drop(fs.fsync(at, input.u8().is_multiple_of(2)).and_then(|()| fs.syncfs())),
        _ => {
            drop(pool.checkpoint());
            drop(pool.run_reclaim());
            drop((fs.statfs(at), fs.getattr(at), fs.readlink(at), fs.opendir(at)));
        }
    }
    nodes.extend(made.map(|entry| entry.node));
}
