//! The same operations on files, and reading what is there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, RenameFlags, XattrFlags};

use crate::amberfs::{Amberfs, BEFORE, clone_dir};
use crate::cells::{CELL, Token, parse};
use crate::model::{CloneState, Op, State, VolumeOp};

/// The name that snapshots have on a volume.
pub(crate) const SNAPSHOTS: &str = ".snapshots";
const XATTR: &str = "user.power_cut";

/// A thread's directory in a mount, live.
pub(crate) fn directory(mount: &Path, state: &State) -> PathBuf {
    mount.join(format!("r{}", state.round)).join(format!("t{}", state.thread))
}

/// A thread's directory in a snapshot.
pub(crate) fn in_snapshot(mount: &Path, name: &str, state: &State) -> PathBuf {
    directory(&mount.join(SNAPSHOTS).join(name), state)
}

/// Where the threads work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub mount: &'a Path,
    /// Nothing where it is no volume, as in the test of this program.
    pub amberfs: Option<&'a Amberfs>,
}

impl<'a> Place<'a> {
    fn amberfs(self) -> io::Result<&'a Amberfs> {
        self.amberfs.ok_or_else(|| io::Error::other("this is no volume"))
    }
}

/// The names in a directory of snapshots, by creation; none if it is not there.
pub(crate) fn snapshots(mount: &Path) -> io::Result<Vec<String>> {
    let listed = match fs::read_dir(mount.join(SNAPSHOTS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    listed.map(name).collect()
}

/// Those of them that restoring made, oldest first.
pub(crate) fn before_restores(names: &[String]) -> impl Iterator<Item = &String> {
    names.iter().filter(|name| name.starts_with(BEFORE))
}

/// Files that a thread keeps open, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct KeptOpen {
    /// What is written to them stays with the kernel, where a close would have it written back.
    written: BTreeMap<u32, File>,
    /// Those that have no name left.
    orphans: BTreeMap<u32, File>,
}
const MAX_OPEN: usize = 4;

/// Writes the cells of operation `seq`.
fn write(state: &State, file: &File, (from, count): (usize, usize), seq: u32) -> io::Result<()> {
    let token = |at| Token { round: state.round, thread: state.thread, seq, at: at as u32 };
    let content: Vec<u8> = (from..from + count).flat_map(|at| token(at).bytes()).collect();
    file.write_all_at(&content, (from * CELL) as u64)
}

impl KeptOpen {
    /// Writes to a file that stays open, sometimes; to one that is opened for it otherwise.
    fn write(
        &mut self,
        state: &State,
        (path, number): (&Path, u32),
        range: (usize, usize),
        seq: u32,
    ) -> io::Result<()> {
        let open = || OpenOptions::new().read(true).write(true).open(path);
        if seq.is_multiple_of(2) {
            if self.written.len() >= MAX_OPEN {
                self.written.pop_first();
            }
            self.written.insert(number, open()?);
        }
        match self.written.get(&number) {
            Some(file) => write(state, file, range, seq),
            None => write(state, &open()?, range, seq),
        }
    }

    fn orphan(&self, number: u32) -> io::Result<&File> {
        self.orphans.get(&number).ok_or_else(|| io::Error::other("no such file is open"))
    }

    /// Closes a file without a name, if it holds what was written to it.
    fn close_orphan(&mut self, state: &State, number: u32) -> io::Result<()> {
        let file = self.orphan(number)?;
        let mut content = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut content, 0)?;
        let cells: Vec<_> =
            content.chunks(CELL).map(parse).collect::<Result<_, _>>().map_err(io::Error::other)?;
        let expected = state.orphans.get(&number).map(|file| &file.cells[..]).unwrap_or_default();
        if !cells.iter().eq(expected.iter().map(|cell| &cell.now)) {
            return Err(io::Error::other(format!("it holds {cells:?}, not {expected:?}")));
        }
        self.orphans.remove(&number);
        Ok(())
    }
}

fn allocate(file: &File, mode: FallocateFlags, from: usize, count: usize) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, mode, (from * CELL) as u64, (count * CELL) as u64)?)
}

fn copy(from: &File, to: &File, mut left: usize) -> io::Result<()> {
    while left > 0 {
        // At the files' own offsets, which go on.
        match rustix::fs::copy_file_range(from, None, to, None, left)? {
            0 => return Err(io::Error::other(format!("a copy ends {left} bytes early"))),
            copied => left -= copied,
        }
    }
    Ok(())
}

/// Carries out operation number `seq`. A liar leaves out what makes things durable.
pub(crate) fn perform(
    place: Place<'_>,
    state: &State,
    kept: &mut KeptOpen,
    (seq, op): (u32, &Op),
    lie: bool,
) -> io::Result<()> {
    let mount = place.mount;
    let dir = directory(mount, state);
    let at = |path: &String| dir.join(path);
    let open = |path: &String| OpenOptions::new().read(true).write(true).open(at(path));
    match op {
        Op::Create(path) => {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o644).open(at(path)).map(drop)
        }
        Op::Mkdir(path) => fs::create_dir(at(path)),
        Op::Symlink(path, target) => std::os::unix::fs::symlink(target, at(path)),
        Op::Link(from, to) => fs::hard_link(at(from), at(to)),
        Op::Unlink(path) => fs::remove_file(at(path)),
        Op::Rmdir(path) => fs::remove_dir(at(path)),
        Op::Rename(from, to) => fs::rename(at(from), at(to)),
        Op::Exchange(one, other) => {
            let cwd = rustix::fs::CWD;
            Ok(rustix::fs::renameat_with(cwd, at(one), cwd, at(other), RenameFlags::EXCHANGE)?)
        }
        Op::Chmod(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)),
        Op::SetXattr(path, value) => {
            Ok(rustix::fs::setxattr(at(path), XATTR, value.as_bytes(), XattrFlags::empty())?)
        }
        Op::Write(path, from, count, true) => {
            let flags = if lie { 0 } else { libc::O_DSYNC };
            let file = OpenOptions::new().write(true).custom_flags(flags).open(at(path))?;
            write(state, &file, (*from, *count), seq)
        }
        Op::Write(path, from, count, false) => {
            let number = state.number(path).unwrap_or_default();
            kept.write(state, (&at(path), number), (*from, *count), seq)
        }
        Op::UnlinkOpen(path) => {
            kept.orphans.insert(state.number(path).unwrap_or_default(), open(path)?);
            fs::remove_file(at(path))
        }
        Op::WriteOrphan(number, from, count) => {
            write(state, kept.orphan(*number)?, (*from, *count), seq)
        }
        Op::CloseOrphan(number) => kept.close_orphan(state, *number),
        Op::Truncate(path, len) => open(path)?.set_len((len * CELL) as u64),
        Op::Allocate(path, from, count) => {
            allocate(&open(path)?, FallocateFlags::KEEP_SIZE, *from, *count)
        }
        Op::Punch(path, from, count) => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            allocate(&open(path)?, mode, *from, *count)
        }
        Op::Zero(path, from, count) => {
            allocate(&open(path)?, FallocateFlags::ZERO_RANGE, *from, *count)
        }
        Op::Copy(from, to, count) => copy(&open(from)?, &open(to)?, count * CELL),
        Op::Fsync(_) | Op::FsyncDir(_) | Op::Syncfs if lie => Ok(()),
        Op::Fsync(path) => open(path)?.sync_all(),
        Op::FsyncDir(path) => File::open(at(path))?.sync_all(),
        Op::Syncfs => Ok(rustix::fs::syncfs(File::open(&dir)?)?),
        Op::OnVolume(op) => on_volume(place, state, op),
        Op::InClone(op) => {
            let clone = clone_of(state)?;
            let within = Place { mount: &clone_dir(mount, &clone.name), ..place };
            perform(within, &clone.live, &mut KeptOpen::default(), (seq, op), lie)
        }
    }
}

fn clone_of(state: &State) -> io::Result<&CloneState> {
    state.clone.as_deref().ok_or_else(|| io::Error::other("there is no clone"))
}

fn on_volume(place: Place<'_>, state: &State, op: &VolumeOp) -> io::Result<()> {
    let mount = place.mount;
    match op {
        VolumeOp::Snapshot(name) => fs::create_dir(mount.join(SNAPSHOTS).join(name)),
        VolumeOp::DeleteSnapshot(name) => fs::remove_dir(mount.join(SNAPSHOTS).join(name)),
        VolumeOp::Clone(snapshot, name) => place.amberfs()?.clone(mount, snapshot, name),
        VolumeOp::Restore(snapshot) => {
            place.amberfs()?.restore(mount, &clone_of(state)?.name, snapshot)
        }
        VolumeOp::ForgetBefore => {
            let within = clone_dir(mount, &clone_of(state)?.name);
            let names = snapshots(&within)?;
            let oldest = before_restores(&names).next();
            let oldest = oldest.ok_or_else(|| io::Error::other("nothing was restored"))?;
            fs::remove_dir(within.join(SNAPSHOTS).join(oldest))
        }
        VolumeOp::DeleteClone => place.amberfs()?.delete(mount, &clone_of(state)?.name),
    }
}

/// What is found at a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Dir,
    Symlink(String),
    File(u64),
}

#[derive(Debug)]
pub(crate) struct FoundFile {
    pub links: u64,
    pub mode: u32,
    pub xattr: Option<String>,
    pub cells: Vec<Option<Token>>,
}

/// A directory as it is: files by their inode numbers.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub names: BTreeMap<String, Found>,
    pub files: BTreeMap<u64, FoundFile>,
}

impl Tree {
    /// Reads everything below a directory; nothing if it is not there.
    pub(crate) fn read(dir: &Path) -> Result<Option<Tree>, String> {
        if !dir.exists() {
            return Ok(None);
        }
        let mut tree = Tree::default();
        tree.add(dir, "").map(|()| Some(tree))
    }

    fn add(&mut self, dir: &Path, prefix: &str) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", dir.display());
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let failed = |error: io::Error| format!("{}: {error}", path.display());
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{prefix}{name}");
            let meta = fs::symlink_metadata(&path).map_err(failed)?;
            let found = if meta.is_dir() {
                self.add(&path, &format!("{name}/"))?;
                Found::Dir
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).map_err(failed)?;
                Found::Symlink(target.to_string_lossy().into_owned())
            } else {
                if let Entry::Vacant(place) = self.files.entry(meta.ino()) {
                    let file = read_file(&path, &meta);
                    place.insert(file.map_err(|error| format!("{}: {error}", path.display()))?);
                }
                Found::File(meta.ino())
            };
            self.names.insert(name, found);
        }
        Ok(())
    }
}

fn read_file(path: &Path, meta: &fs::Metadata) -> Result<FoundFile, String> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut content));
    read.map_err(|error| error.to_string())?;
    if content.len() as u64 != meta.len() {
        return Err(format!("{} bytes can be read of {}", content.len(), meta.len()));
    }
    let cells = content.chunks(CELL).enumerate().map(|(at, cell)| {
        // An unsynced length may end within a cell only with nothing in it.
        parse(cell).map_err(|error| format!("cell {at} is {error}"))
    });
    let cells = cells.collect::<Result<_, _>>()?;
    let mut value = vec![0; 65536];
    let xattr = match rustix::fs::getxattr(path, XATTR, &mut value[..]) {
        Ok(len) => Some(String::from_utf8_lossy(&value[..len]).into_owned()),
        Err(rustix::io::Errno::NODATA) => None,
        Err(error) => return Err(error.to_string()),
    };
    Ok(FoundFile { links: meta.nlink(), mode: meta.mode() & 0o7777, xattr, cells })
}
