//! Looks at a damaged pool: everything is right, or an error where the damage explains it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use amberfs::check::{Options, check};
use amberfs::device::Image;
use amberfs::format::Key;
use amberfs::fs::{Caller, Error, FileKind, Filesystem, NodeId, WriteFlags};
use amberfs::pool::{self, Pool};

use crate::anatomy::{Anatomy, In, Use};
use crate::log;
use crate::patient::{File, Model, State, content, list, mount, open_options, xattrs};

const BLOCK: usize = 4096;

/// What is damaged.
#[derive(Debug, Default)]
pub(crate) struct Hurt {
    /// Parts of members' trees: member, first key, upper bound.
    keys: Vec<(u64, Key, Option<Key>)>,
    /// Blocks of files.
    uses: HashSet<Use>,
    /// Opening needs what is damaged.
    pub fatal: bool,
    /// Which of the pool's own trees it is then, as the error calls them.
    own: Vec<&'static str>,
    /// Anything may be an error: what is there is of several times.
    pub anything: bool,
}

impl Hurt {
    /// What lies in these blocks of the data file.
    pub(crate) fn by_blocks(anatomy: &Anatomy, blocks: impl IntoIterator<Item = u64>) -> Hurt {
        let mut hurt = Hurt::default();
        for block in blocks {
            hurt.uses.extend(anatomy.blocks.get(&block).into_iter().flatten());
            for place in anatomy.node_at(block).into_iter().flat_map(|node| &node.places) {
                match place.tree {
                    In::Member(member) => hurt.keys.push((member, place.low, place.high)),
                    In::Checkpoint => hurt.own.push("checkpoint tree"),
                    In::Catalog => hurt.own.push("catalog"),
                }
            }
        }
        hurt.fatal = !hurt.own.is_empty();
        hurt
    }

    /// Of a pool whose files are of several times.
    pub(crate) fn anywhere() -> Hurt {
        Hurt { anything: true, fatal: true, ..Hurt::default() }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.keys.is_empty() && self.uses.is_empty() && !self.fatal
    }

    /// Whether damage may keep the records of an inode from being read.
    fn records(&self, member: u64, ino: u64) -> bool {
        let (first, last) = (Key::first_of(ino), Key::last_of(ino));
        self.anything
            || self.keys.iter().any(|(of, low, high)| {
                *of == member && *low <= last && high.is_none_or(|high| high > first)
            })
    }

    /// Whether nothing is hurt that leads to a file, so that its path can be found whatever its own records are.
    fn is_findable(&self, member: u64, file: &File) -> bool {
        !file.above.iter().any(|ino| self.records(member, *ino))
    }

    /// Whether the records of a file are hurt, and its path can be found.
    pub(crate) fn can_be_named(&self, member: u64, file: &File) -> bool {
        self.records(member, file.ino) && self.is_findable(member, file)
    }

    fn file(&self, member: u64, file: &File) -> bool {
        file.above.iter().chain([&file.ino]).any(|ino| self.records(member, *ino))
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Wrong data, errors that nothing explains, missing lines in the log.
    pub wrong: Vec<String>,
    /// Errors that the damage explains.
    pub errors: usize,
}

impl Seen {
    fn expect(&mut self, right: bool, what: impl FnOnce() -> String) {
        if !right {
            self.wrong.push(what());
        }
    }

    /// Compares an answer; an error must be EIO, and explained.
    fn answer<T: PartialEq>(
        &mut self,
        found: Result<T, Error>,
        expected: &T,
        explained: bool,
        what: impl Fn() -> String,
    ) {
        match found {
            Ok(found) => self.expect(found == *expected, || format!("{}: wrong data", what())),
            Err(Error::Io(_)) if explained => self.errors += 1,
            Err(error) => self.wrong.push(format!("{}: {error} ({})", what(), error.errno())),
        }
    }
}

/// Opens a damaged pool and reads all of it. None where the damage keeps it from being opened.
pub(crate) fn examine(
    image: &Image,
    model: &Model,
    hurt: &Hurt,
    seen: &mut Seen,
) -> Option<Arc<Pool>> {
    let opened = Pool::open(image.storage(), open_options());
    let pool = match opened {
        Ok(pool) => pool,
        Err(error) => {
            let damage = matches!(
                error,
                pool::Error::Corrupt(_) | pool::Error::Io { .. } | pool::Error::Superblock(_)
            );
            seen.errors += 1;
            seen.expect(damage && hurt.fatal, || format!("it does not open: {error}"));
            // What keeps a pool from being opened belongs to no volume: the error says which tree it is in.
            let named = hurt.anything || hurt.own.iter().any(|own| error.to_string().contains(own));
            seen.expect(named, || format!("it does not say what is damaged: {error}"));
            return None;
        }
    };
    for state in model {
        look_at(&pool, state, hurt, seen);
    }
    Some(pool)
}

fn look_at(pool: &Arc<Pool>, state: &State, hurt: &Hurt, seen: &mut Seen) {
    let name = match &state.snapshot {
        Some(snapshot) => format!("{}@{snapshot}", state.volume),
        None => state.volume.clone(),
    };
    let fs = match mount(pool, &state.volume, state.snapshot.as_deref()) {
        Ok(fs) => fs,
        Err(error) => {
            // Mounting reads the orphans, which lie before all inodes. Who mounts is told, and the log is not.
            let explained = hurt.records(state.member, 0) || hurt.fatal;
            seen.errors += 1;
            seen.expect(matches!(error, Error::Io(_)) && explained, || format!("{name}: {error}"));
            return;
        }
    };
    log::clear();
    let mut known: BTreeMap<u64, NodeId> = BTreeMap::new();
    for (path, file) in &state.files {
        let what = || format!("{name}{path}");
        let explained = hurt.file(state.member, file);
        let node = match file.above.last() {
            None => NodeId::ROOT,
            Some(dir) => {
                let Some(dir) = known.get(dir) else { continue };
                let leaf = path.rsplit('/').next().unwrap_or_default();
                match fs.lookup(&Caller::root(), *dir, leaf.as_bytes()) {
                    Ok(entry) => entry.node,
                    Err(error) => {
                        seen.answer::<()>(Err(error), &(), explained, what);
                        // A name that can't be read is one of its directory.
                        let dir = file.above.last().copied().unwrap_or_default();
                        let dir = state.files.values().find(|other| other.ino == dir);
                        let dir = dir.filter(|dir| hurt.records(state.member, dir.ino));
                        let named = is_logged(state, hurt, file)
                            || dir.is_some_and(|dir| is_logged(state, hurt, dir));
                        seen.expect(named, || unnamed(&what));
                        continue;
                    }
                }
            }
        };
        if file.kind == FileKind::Directory {
            known.insert(file.ino, node);
        }
        let before = seen.errors;
        look_at_file(&fs, node, state, file, hurt, explained, seen, &what);
        let named = seen.errors == before || is_logged(state, hurt, file);
        seen.expect(named, || unnamed(&what));
    }
}

fn unnamed(what: &dyn Fn() -> String) -> String {
    format!("{}: the log does not name it: {:?}", what(), log::so_far())
}

/// Whether a line of the log has the volume, the snapshot if it is one, and a path of the file. Where what leads
/// to the file is hurt, too, a number may stand for what has no name any more.
fn is_logged(state: &State, hurt: &Hurt, file: &File) -> bool {
    let is_of_file = |path: &str| {
        let is_name = state.files.get(path).is_some_and(|other| other.ino == file.ino);
        is_name || path.contains("(inode ") && !hurt.is_findable(state.member, file)
    };
    log::so_far().lines().any(|line| {
        log::field(line, "volume") == Some(&state.volume)
            && log::field(line, "snapshot") == state.snapshot.as_deref()
            && log::field(line, "path").is_some_and(is_of_file)
    })
}

#[allow(clippy::too_many_arguments)]
fn look_at_file(
    fs: &Filesystem,
    node: NodeId,
    state: &State,
    file: &File,
    hurt: &Hurt,
    explained: bool,
    seen: &mut Seen,
    what: &dyn Fn() -> String,
) {
    let attr = fs.getattr(node).map(|a| (a.ino, a.kind(), a.mode, a.nlink, a.size, a.mtime));
    let expected = (file.ino, file.kind, file.mode, file.nlink, file.size, file.mtime);
    seen.answer(attr, &expected, explained, || format!("{}: attributes", what()));
    let found = xattrs(fs, node);
    seen.answer(found, &file.xattrs, explained, || format!("{}: extended attributes", what()));
    match file.kind {
        FileKind::Directory => {
            // The names are whole where inodes that they lead to are not.
            seen.answer(list(fs, node), &file.names, explained, || format!("{}: list", what()));
        }
        FileKind::Symlink => {
            seen.answer(fs.readlink(node), &file.target, explained, || {
                format!("{}: target", what())
            });
        }
        FileKind::Regular => match content(fs, node, file.size) {
            Ok(found) => {
                seen.expect(found == file.content, || format!("{}: wrong content", what()));
            }
            Err(Error::Io(_)) => look_at_blocks(fs, node, state, file, hurt, explained, seen, what),
            Err(error) => seen.wrong.push(format!("{}: {error}", what())),
        },
        _ => {}
    }
}

/// A file that can't be read whole: every block is right, or it is what is damaged.
#[allow(clippy::too_many_arguments)]
fn look_at_blocks(
    fs: &Filesystem,
    node: NodeId,
    state: &State,
    file: &File,
    hurt: &Hurt,
    explained: bool,
    seen: &mut Seen,
    what: &dyn Fn() -> String,
) {
    let mut failed = 0;
    for (index, expected) in file.content.chunks(BLOCK).enumerate() {
        let mut found = vec![0; expected.len()];
        let Ok(handle) = fs.open(node, libc::O_RDONLY) else { continue };
        let read = fs.read(node, handle, (index * BLOCK) as u64, &mut found);
        fs.release(node, handle);
        failed += usize::from(read.is_err());
        let used = (state.member, file.ino, index as u64);
        let block = hurt.anything || hurt.uses.contains(&used);
        let answer = read.map(|len| found[..len].to_vec());
        seen.answer(answer, &expected.to_vec(), explained || block, || {
            format!("{}: block {index}", what())
        });
    }
    seen.expect(failed > 0 || explained, || format!("{}: an error that no block gives", what()));
}

/// Whether `check --data` finds the damage, and only then finds something.
pub(crate) fn check_finds(image: &Image, hurt: &Hurt, seen: &mut Seen) {
    let options = Options { data: true, ..Options::default() };
    match check(&image.storage(), &options, &mut |_| {}) {
        Ok(report) => seen.expect(report.is_clean() == hurt.is_nothing(), || {
            format!("check: {:?}, damaged: {hurt:?}", report.problems)
        }),
        Err(error) => seen.expect(hurt.fatal, || format!("check: {error}")),
    }
}

/// Changes a damaged pool in all ways: each works, or is an error; what has worked can be read again, and
/// what else there was is still right or an error.
pub(crate) fn work_on(pool: &Arc<Pool>, model: &Model, hurt: &Hurt, seen: &mut Seen) {
    let root = Caller::root();
    let bytes: Vec<u8> = (0..3 * BLOCK + 77).map(|at| (at * 7 + at / 251) as u8).collect();
    for state in model.iter().filter(|state| state.snapshot.is_none()) {
        let Ok(fs) = mount(pool, &state.volume, None) else { continue };
        let made = fs.create(&root, NodeId::ROOT, b"made later", 0o600, libc::O_RDWR);
        if let Ok((entry, handle)) = made {
            let written = fs.write(entry.node, handle, 0, &bytes, WriteFlags::default());
            if written == Ok(bytes.len()) {
                let found = content(&fs, entry.node, bytes.len() as u64);
                seen.expect(found.as_ref() == Ok(&bytes), || "what was just written".into());
            }
            drop(fs.fsync(entry.node, false));
            fs.release(entry.node, handle);
        }
        for (path, file) in state.files.iter().filter(|(path, _)| path.matches('/').count() == 1) {
            let name = &path.as_bytes()[1..];
            let Ok(entry) = fs.lookup(&root, NodeId::ROOT, name) else { continue };
            if file.kind == FileKind::Regular {
                if let Ok(handle) = fs.open(entry.node, libc::O_RDWR) {
                    drop(fs.write(entry.node, handle, 100, &bytes[..5000], WriteFlags::default()));
                    fs.release(entry.node, handle);
                }
                drop(fs.fallocate(entry.node, 0, 4096, 3));
                drop(fs.setxattr(&root, entry.node, b"user.new", &bytes[..2000], 0, false));
                drop(fs.rename(&root, NodeId::ROOT, name, NodeId::ROOT, b"elsewhere", 0));
                drop(fs.unlink(&root, NodeId::ROOT, b"elsewhere"));
            }
            fs.forget(entry.node, 1);
        }
        drop(fs.create_snapshot("made later"));
        drop(pool.checkpoint());
        fs.forget_all();
    }
    // Snapshots did not change.
    for state in model.iter().filter(|state| state.snapshot.is_some()) {
        look_at(pool, state, hurt, seen);
        let Ok(volume) = pool.volume(&state.volume) else { continue };
        let name = state.snapshot.as_deref().unwrap_or_default();
        drop(pool.delete_snapshot(volume.id(), name));
    }
    for _ in 0..1000 {
        if !matches!(pool.run_reclaim(), Ok(true)) {
            break;
        }
    }
    drop(pool.close());
}
