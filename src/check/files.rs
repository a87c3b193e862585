//! F0 to F4: names, links, directories and orphans of a member, as far as they differ from its parent's.

use std::collections::HashSet;

use super::Checker;
use super::members::Member;
use crate::btree::{Reader, Tree};
use crate::format::{
    Dirent, FileKind, Inode, InodeNo, Key, KeyKind, MAX_INODE, OrphanKind, ROOT_INODE,
    dirent_chain, name_hash,
};

/// A name that came (+1) or went (-1).
#[derive(Debug, Clone, Copy)]
struct Link {
    ino: u64,
    dir: u64,
    kind: FileKind,
    sign: i8,
}

/// An inode whose record came, went, or has another content.
#[derive(Debug, Clone, Copy)]
struct Change {
    ino: u64,
    parent: u64,
    /// How many names more than before it says that it has.
    names: i64,
    /// None when it went.
    kind: Option<FileKind>,
    unlinked: bool,
    was_unlinked: bool,
    /// It is a directory that is new, or has another parent.
    moved: bool,
}

/// What is gathered over a member's changes.
#[derive(Debug, Default)]
pub(super) struct Files {
    links: Vec<Link>,
    changes: Vec<Change>,
    orphans: Vec<(u64, Option<OrphanKind>, Option<OrphanKind>)>,
    /// Of the inode whose keys come now: its record before and now,
    record: Option<(Option<Inode>, Option<Inode>)>,
    /// entries and subdirectories that it has more than before,
    entries: i64,
    subdirs: i64,
    /// and whether anything else of it changed.
    touched: bool,
}

/// Names that an inode says it has.
fn names(ino: u64, inode: &Inode) -> i64 {
    match (inode.is_dir(), inode.nlink) {
        (true, _) if ino == ROOT_INODE.0 => 0,
        (true, links) => i64::from(links > 0),
        (false, links) => i64::from(links),
    }
}

/// Subdirectories that a directory's links say it has.
fn subdirs(inode: &Inode) -> i64 {
    if inode.is_dir() && inode.nlink > 0 { i64::from(inode.nlink) - 2 } else { 0 }
}

fn entries(inode: &Inode) -> i64 {
    if inode.is_dir() { inode.size as i64 } else { 0 }
}

impl Checker<'_> {
    /// Takes note of a key that is new, gone or changed.
    pub(super) fn file_entry(
        &mut self,
        files: &mut Files,
        key: Key,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) {
        let known = |kind| key.is(kind) && (1..=MAX_INODE).contains(&key.id());
        if key.is(KeyKind::Orphan) && key.id() == 0 {
            let decode = |value: &[u8]| OrphanKind::decode(value);
            let new = new.and_then(|new| self.decoded("F0", key, decode(new)));
            files.orphans.push((key.sub(), old.and_then(|old| decode(old).ok()), new));
        } else if known(KeyKind::Inode) && key.sub() == 0 {
            let new = new.and_then(|new| self.decoded("F0", key, Inode::decode(new)));
            files.record = Some((old.and_then(|old| Inode::decode(old).ok()), new));
        } else if known(KeyKind::Dirent) {
            self.dirents(files, key, old, new);
        } else if [KeyKind::Inline, KeyKind::Xattr, KeyKind::XattrChunk, KeyKind::Extent]
            .into_iter()
            .any(known)
        {
            files.touched = true;
        } else {
            self.report.problem("F0", format!("key {key:?} is of no known kind"));
        }
    }

    fn dirents(&mut self, files: &mut Files, key: Key, old: Option<&[u8]>, new: Option<&[u8]>) {
        let mut seen: Vec<&[u8]> = Vec::new();
        for (value, sign) in [(old, -1i8), (new, 1)] {
            for entry in dirent_chain(value.unwrap_or_default()) {
                let entry: Dirent<'_> = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        let report = &mut self.report;
                        report.expect(sign < 0, "F0", || format!("key {key:?}: {error}"));
                        break;
                    }
                };
                if sign > 0 {
                    let hashed = name_hash(&self.superblock.seed, entry.name) == key.sub();
                    self.report.expect(hashed && !seen.contains(&entry.name), "F0", || {
                        let name = entry.name.escape_ascii();
                        format!("directory {}: '{name}' is in the wrong place", key.id())
                    });
                    seen.push(entry.name);
                }
                files.entries += i64::from(sign);
                files.subdirs += i64::from(sign) * i64::from(entry.kind == FileKind::Directory);
                let (ino, dir, kind) = (entry.ino.0, key.id(), entry.kind);
                files.links.push(Link { ino, dir, kind, sign });
            }
        }
    }

    /// All keys of an inode have been seen: what its record says of its entries, and of its content.
    pub(super) fn settle_file(&mut self, tree: &Tree, files: &mut Files, ino: u64) {
        let record = files.record.take();
        let (more_entries, more_subdirs) =
            (std::mem::take(&mut files.entries), std::mem::take(&mut files.subdirs));
        let touched = std::mem::take(&mut files.touched) || record.is_some();
        if ino == 0 {
            return;
        }
        let (old, new) = record.unwrap_or((None, None));
        let delta = |f: fn(&Inode) -> i64| new.as_ref().map_or(0, f) - old.as_ref().map_or(0, f);
        self.report.expect(delta(entries) == more_entries, "F3", || {
            let (says, has) = (delta(entries), more_entries);
            format!("directory {ino}: its size says {says:+} entries, and there are {has:+}")
        });
        self.report.expect(delta(subdirs) == more_subdirs, "F2", || {
            let (says, has) = (delta(subdirs), more_subdirs);
            format!("directory {ino}: its links say {says:+} subdirectories, and there are {has:+}")
        });
        if record.is_some() {
            let expected = |inode: Option<&Inode>| inode.map_or(0, |inode| names(ino, inode));
            let moved = new.as_ref().is_some_and(|new| {
                let same = |old: &Inode| old.is_dir() && old.parent == new.parent && old.nlink > 0;
                new.is_dir() && new.nlink > 0 && !old.as_ref().is_some_and(same)
            });
            files.changes.push(Change {
                ino,
                parent: new.as_ref().map_or(0, |new| new.parent.0),
                names: expected(new.as_ref()) - expected(old.as_ref()),
                kind: new.as_ref().map(Inode::kind),
                unlinked: new.as_ref().is_some_and(|new| new.nlink == 0),
                was_unlinked: old.as_ref().is_some_and(|old| old.nlink == 0),
                moved,
            });
            self.report.counts.inodes += u64::from(new.is_some());
        }
        if touched {
            self.check_content(tree, ino, new);
        }
    }

    pub(super) fn inode_of(&self, tree: &Tree, ino: u64) -> Option<Inode> {
        let key = Key::inode(InodeNo(ino), KeyKind::Inode, 0);
        Reader::new(tree, &self.cache).get(key, Inode::decode).ok()??.ok()
    }

    pub(super) fn orphan_of(&self, tree: &Tree, ino: u64) -> Option<OrphanKind> {
        let key = Key::new(0, KeyKind::Orphan, ino);
        Reader::new(tree, &self.cache).get(key, OrphanKind::decode).ok()??.ok()
    }

    /// All keys of the member have been seen: F1 to F4 over all of them.
    pub(super) fn check_files(&mut self, member: &mut Member) {
        let mut files = std::mem::take(&mut member.files);
        let tree = &member.tree;
        files.links.sort_unstable_by_key(|link| link.ino);
        self.check_links(tree, &files);
        self.check_orphans(tree, &files);
        self.check_connected(tree, &files.changes);
        let root = self.inode_of(tree, ROOT_INODE.0);
        self.report.expect(root.is_some_and(|root| root.is_dir()), "F1", || {
            "there is no root directory".into()
        });
    }

    fn check_links(&mut self, tree: &Tree, files: &Files) {
        let mut changes = files.changes.iter().peekable();
        for links in files.links.chunk_by(|a, b| a.ino == b.ino) {
            let ino = links[0].ino;
            while let Some(change) = changes.next_if(|change| change.ino < ino) {
                self.check_names(change.ino, change, &[]);
            }
            match changes.next_if(|change| change.ino == ino) {
                Some(change) => self.check_names(ino, change, links),
                None => {
                    let inode = self.inode_of(tree, ino);
                    let same = Change {
                        ino,
                        parent: inode.map_or(0, |inode| inode.parent.0),
                        names: 0,
                        kind: inode.map(|inode| inode.kind()),
                        unlinked: false,
                        was_unlinked: false,
                        moved: false,
                    };
                    self.check_names(ino, &same, links);
                }
            }
        }
        for change in changes {
            self.check_names(change.ino, change, &[]);
        }
    }

    /// F1 to F3 for one inode, and the names of it that came and went.
    fn check_names(&mut self, ino: u64, change: &Change, links: &[Link]) {
        let more: i64 = links.iter().map(|link| i64::from(link.sign)).sum();
        self.report.expect(more == change.names, "F2", || {
            format!("inode {ino}: its links say {:+} names, and there are {more:+}", change.names)
        });
        let mut placed = !change.moved || ino == ROOT_INODE.0;
        for link in links.iter().filter(|link| link.sign > 0) {
            self.report.expect(change.kind == Some(link.kind), "F1", || {
                let (dir, kind) = (link.dir, link.kind);
                format!(
                    "directory {dir}: a {kind:?} is named, and inode {ino} is {:?}",
                    change.kind
                )
            });
            if change.kind == Some(FileKind::Directory) {
                placed |= change.parent == link.dir;
                self.report.expect(change.parent == link.dir, "F3", || {
                    let (dir, parent) = (link.dir, change.parent);
                    format!("directory {ino}: named in {dir}, and its parent is {parent}")
                });
            }
        }
        self.report.expect(placed, "F3", || {
            format!("directory {ino}: its parent {} does not name it", change.parent)
        });
    }

    /// F4, for inodes and orphan records that differ from before.
    fn check_orphans(&mut self, tree: &Tree, files: &Files) {
        for (ino, _, kind) in &files.orphans {
            let inode = self.inode_of(tree, *ino);
            let unlinked = inode.map(|inode| inode.nlink == 0);
            let right = match kind {
                Some(OrphanKind::Delete) => unlinked == Some(true),
                Some(OrphanKind::Truncate) => unlinked.is_some(),
                None => unlinked != Some(true),
            };
            self.report.expect(right, "F4", || {
                format!("inode {ino}: orphan record {kind:?}, and without a name: {unlinked:?}")
            });
        }
        for change in files.changes.iter().filter(|change| change.unlinked || change.was_unlinked) {
            let orphan = self.orphan_of(tree, change.ino);
            let deleted = orphan == Some(OrphanKind::Delete);
            self.report.expect(deleted == change.unlinked, "F4", || {
                let unlinked = change.unlinked;
                format!("inode {}: without a name: {unlinked}, orphan {orphan:?}", change.ino)
            });
        }
    }

    /// F3: from every directory that is new or was moved, parents lead to the root.
    fn check_connected(&mut self, tree: &Tree, changes: &[Change]) {
        let mut connected: HashSet<u64> = HashSet::from([ROOT_INODE.0]);
        for change in changes.iter().filter(|change| change.moved) {
            let mut path = Vec::new();
            let mut on_path = HashSet::new();
            let mut at = change.ino;
            while !connected.contains(&at) {
                let known = changes.binary_search_by_key(&at, |change| change.ino);
                let parent = match known {
                    Ok(found) => changes[found].kind.map(|_| changes[found].parent),
                    Err(_) => self.inode_of(tree, at).map(|inode| inode.parent.0),
                };
                if parent.is_none() || !on_path.insert(at) {
                    let ino = change.ino;
                    self.report
                        .problem("F3", format!("directory {ino} is not connected with the root"));
                    break;
                }
                path.push(at);
                at = parent.unwrap_or_default();
            }
            // Also one that is not: it has been reported.
            connected.extend(path);
        }
    }
}
