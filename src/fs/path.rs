//! Paths of inodes: exact ones for system calls, readable ones for messages.
//!
//! An inode's record has the directory that names it, so that a path is found upwards, one directory after the
//! other. Where such a record is damaged, or says a directory that has no name for it any more, the names of
//! the volume are searched from the root downwards, as far as they can be read, at most [`MAX_SEARCHED`] of
//! them: some tens of milliseconds, once for each damaged file that the log names.

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use super::records::Records;
use crate::format::{Dirent, FileKind, InodeNo, Key, KeyKind, MAX_SUB, ROOT_INODE, dirent_chain};
use crate::pool::{Pool, Reader, ScrubDamage, Source};

/// Deeper directories are cut off in messages.
const MAX_DEPTH: usize = 64;
/// Names and directories that a search looks at.
const MAX_SEARCHED: usize = 10_000;

/// Returns a path that leads from the root to an inode, without a leading slash; none if there is none that
/// a system call would take.
pub(super) fn exact_path(reader: &Reader<'_>, ino: InodeNo) -> Option<Vec<u8>> {
    /// A name and a slash take two bytes at least of Linux's PATH_MAX.
    const MAX_DEPTH: usize = 2048;
    let (mut names, top) = names_up(reader, ino, MAX_DEPTH);
    names.reverse();
    (top == ROOT_INODE && !names.is_empty()).then(|| names.join(&b'/'))
}

/// Returns a readable path of an inode in a state, for messages: best effort, as other names may exist. What
/// has no name that can be found is there by its number, below the directory that it was in if that is known.
///
/// The caller holds nothing of the state.
pub(super) fn path_in(source: &Source, ino: InodeNo) -> String {
    let (mut names, top) = upwards(source, ino);
    if top != ROOT_INODE {
        match search(source, top.0..=top.0) {
            Some((_, above)) => names.extend(above),
            None => {
                names.push(format!("(inode {top})").into_bytes());
                names.extend(directory_of(source, top).unwrap_or_default());
            }
        }
    }
    readable(&names)
}

/// Returns the path of what a scrub has found damaged, as of [`path_in`], with its inode: of the one that the
/// scrub says, or else of the lowest from it to `last` that has a name. None for the pool's own records, and
/// for a state that is gone.
pub fn path_of_damage(
    pool: &Arc<Pool>,
    damage: &ScrubDamage,
    last: u64,
) -> Option<(InodeNo, String)> {
    let source = match damage.snapshot {
        Some(_) => pool.view(damage.member?).ok()?,
        None => pool.volume_by_id(damage.volume?).ok()?.source(),
    };
    let first = damage.inode;
    let (names, top) = upwards(&source, first);
    if top == ROOT_INODE {
        return Some((first, readable(&names)));
    }
    match search(&source, first.0..=last) {
        Some((ino, names)) => Some((ino, readable(&names))),
        None => Some((first, path_in(&source, first))),
    }
}

/// Names from the last to the first, as one path.
fn readable(names: &[Vec<u8>]) -> String {
    let names: Vec<_> =
        names.iter().rev().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    format!("/{}", names.join("/"))
}

fn upwards(source: &Source, ino: InodeNo) -> (Vec<Vec<u8>>, InodeNo) {
    match source.read() {
        Ok(guard) => names_up(&guard.reader(), ino, MAX_DEPTH),
        Err(_) => (Vec::new(), ino),
    }
}

/// The names that lead to the directory that an inode's record says; none where one can't be read.
fn directory_of(source: &Source, ino: InodeNo) -> Option<Vec<Vec<u8>>> {
    let guard = source.read().ok()?;
    let parent = guard.reader().find_inode(ino).ok()??.parent;
    let (names, top) = names_up(&guard.reader(), parent, MAX_DEPTH);
    (top == ROOT_INODE).then_some(names)
}

/// The names from an inode upwards, as far as they are found, and the inode where that ends.
fn names_up(reader: &Reader<'_>, ino: InodeNo, max_depth: usize) -> (Vec<Vec<u8>>, InodeNo) {
    let mut names = Vec::new();
    let mut at = ino;
    while at != ROOT_INODE && names.len() < max_depth {
        let Ok(Some(inode)) = reader.find_inode(at) else { break };
        let Some(name) = name_in(reader, inode.parent, at) else { break };
        names.push(name);
        at = inode.parent;
    }
    (names, at)
}

fn name_in(reader: &Reader<'_>, dir: InodeNo, ino: InodeNo) -> Option<Vec<u8>> {
    let mut found = None;
    for_each_name(reader, dir, &mut |entry| {
        if entry.ino == ino {
            found = Some(entry.name.to_vec());
        }
        found.is_some()
    });
    found
}

/// Calls `f` with the entries of a directory until it returns true or one can't be read.
fn for_each_name(reader: &Reader<'_>, dir: InodeNo, f: &mut dyn FnMut(Dirent<'_>) -> bool) {
    let first = Key::inode(dir, KeyKind::Dirent, 0);
    let last = Key::inode(dir, KeyKind::Dirent, MAX_SUB);
    let scan = reader.range(first, last, &mut |_, chain| {
        for entry in dirent_chain(chain).flatten() {
            if f(entry) {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    // What is behind damage is out of reach; what was found before it is good.
    drop(scan);
}

/// A directory that a search has come by.
struct Known {
    ino: InodeNo,
    /// Index of the directory that names it, and the name; none of the root.
    from: Option<(usize, Vec<u8>)>,
}

/// Searches the names downwards from the root for the lowest inode of a range, and returns the names that lead
/// to it, the last one first.
///
/// The state is held for one directory at a time, so that writers wait no longer than for a listing.
fn search(source: &Source, range: RangeInclusive<u64>) -> Option<(InodeNo, Vec<Vec<u8>>)> {
    if range.contains(&ROOT_INODE.0) {
        return Some((ROOT_INODE, Vec::new()));
    }
    let mut dirs = vec![Known { ino: ROOT_INODE, from: None }];
    let mut best: Option<(InodeNo, usize, Vec<u8>)> = None;
    let (mut at, mut searched) = (0, 0);
    while let Some(dir) = dirs.get(at).map(|dir| dir.ino)
        && searched < MAX_SEARCHED
        && best.as_ref().is_none_or(|(ino, ..)| ino.0 != *range.start())
    {
        searched += 1;
        let guard = source.read().ok()?;
        for_each_name(&guard.reader(), dir, &mut |Dirent { ino, kind, name, .. }| {
            searched += 1;
            if range.contains(&ino.0) && best.as_ref().is_none_or(|(best, ..)| ino < *best) {
                best = Some((ino, at, name.to_vec()));
            }
            if kind == FileKind::Directory {
                dirs.push(Known { ino, from: Some((at, name.to_vec())) });
            }
            searched >= MAX_SEARCHED
        });
        at += 1;
    }
    let (ino, dir, name) = best?;
    let mut names = vec![name];
    let mut above = dirs.get(dir);
    while let Some((dir, name)) = above.and_then(|known| known.from.as_ref()) {
        names.push(name.clone());
        above = dirs.get(*dir);
    }
    Some((ino, names))
}
