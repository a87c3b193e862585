//! POSIX semantics of a volume and of its snapshot views, complete without a mount.
//!
//! Names, links, permissions bits, times, attributes and content of one volume's live tree; the same
//! for reading in every snapshot of it, through the virtual `.snapshots` that each live directory has.
//! The kernel checks who may do what (default_permissions); what it can't know is checked here: who
//! may make a snapshot.
//!
//! # How an operation goes
//! It takes the head of the volume exclusively ([`transaction`]), reads what it needs, gathers edits and
//! commits them as one journal record: so it is atomic, also across a crash at any point, and no snapshot
//! holds half of it. File data is written to new blocks first, with no lock on the head held, and mapped
//! by the operation's record; a crash in between leaves blocks that nothing refers to, which the pool
//! takes back.
//!
//! # Invariants (cited by asserts and by `check`)
//! 1. Every name leads to an inode that is there, of the type that the entry says.
//! 2. An inode's links are its names; a directory has one name, and counts itself and its subdirectories.
//! 3. A directory's size is the number of its entries, and its parent the directory that names it.
//! 4. An inode without a name has an orphan record of kind delete, and no other inode has one.
//! 5. Bytes behind a file's end, in its last block, are zero.
//! 6. Written extents lie before a file's end, but for an inode with an orphan record of kind truncate;
//!    preallocated ones may lie behind it.
//! 7. A file with inline content has no extents, and that content is as long as its size says.
//! 8. Flags of an inode say truly whether it has attributes, ACLs and capabilities.
//!
//! # Lock order
//! A content lock of an inode, then the head of the volume, then the table of what the kernel holds
//! (see [`table`]), then the pool's own locks.
//!
//! # Unlinked files
//! An inode whose last name goes gets an orphan record in the same commit. It ends when the kernel has
//! forgotten it and no open file is left, or when the volume is next mounted. Ending a large one takes
//! several commits; a crash between them leaves the record, and the next mount goes on.
//!
//! # Absent on purpose
//! Byte-range locks (the kernel has them), access times of symbolic links, collapse and insert range.

mod access;
mod acl;
mod copy;
mod create;
mod directory;
mod error;
mod file;
mod inode;
mod lookups;
mod node;
mod orphan;
mod path;
mod prealloc;
mod records;
mod remove;
mod rename;
mod resize;
mod snapdir;
mod statfs;
mod table;
mod template;
mod transaction;
mod types;
mod view;
mod write;
mod writers;
mod xattr;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::copy::MAX_COPY;
pub use self::error::Error;
pub use self::node::{MAX_SNAPSHOT_NUMBER, NodeId, NodeKind};
pub use self::path::path_of_damage;
pub use self::types::{
    Atime, Attr, Caller, DirEntry, Entry, FsOptions, Handle, SetAttr, SetTime, SnapDir, StatFs,
    Whence, WriteFlags,
};
pub use self::write::Part;
pub use crate::format::{FileKind, InodeNo, Timestamp};

use self::orphan::Unfinished;
use self::path::{exact_path, path_in};
use self::records::Records;
use self::table::{ContentLocks, NodeTable};
use self::transaction::Transaction;
use self::view::Views;
use self::writers::Writers;
use crate::format::{Edit, Inode, InodeFlags, MemberId, OrphanKind, ROOT_INODE};
use crate::pool::{Intent, Source, Volume};
use crate::threads::{Mutex, RwLock};

/// Brings in what the kernel's page cache has of files that are open for writing and the file system has not;
/// returns when it is done.
pub type FlushHook = Box<dyn Fn(&Filesystem) + Send + Sync>;

/// One volume, as it is mounted.
pub struct Filesystem {
    volume: Arc<Volume>,
    head: Source,
    options: FsOptions,
    /// Keys the hashes of names.
    seed: [u8; 32],
    nodes: NodeTable,
    content: ContentLocks,
    views: Views,
    /// The snapshot that is shown in place of the live state.
    only: Option<Source>,
    flush_hook: RwLock<Option<Arc<FlushHook>>>,
    unfinished: Unfinished,
    /// When a snapshot was last removed or renamed through this mount.
    snapshots_changed: Mutex<Option<Timestamp>>,
    /// Damaged inodes that the log has named.
    blamed: Mutex<Vec<NodeId>>,
}

impl std::fmt::Debug for Filesystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filesystem").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Most damaged files that the log names.
const MAX_BLAMED: usize = 1000;

impl Filesystem {
    /// Returns the edits that make an empty root directory, for a new volume.
    pub fn format_root(now: Timestamp, uid: u32, gid: u32, mode: u32) -> Vec<Edit> {
        let root = Inode {
            blocks: 0,
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            mode: FileKind::Directory.to_mode() | mode & 0o7777,
            nlink: 2,
            uid,
            gid,
            rdev: 0,
            flags: InodeFlags::default(),
            parent: ROOT_INODE,
        };
        vec![Edit::Put { key: records::inode_key(ROOT_INODE), value: root.to_bytes() }]
    }

    /// Shows a volume; ends what an earlier mount left unlinked.
    ///
    /// [`Error::NotFound`] when the snapshot that the options name is not there.
    pub fn new(volume: Arc<Volume>, options: FsOptions) -> Result<Filesystem, Error> {
        let fs = Filesystem::assemble(volume, options, NodeTable::new())?;
        if fs.only.is_none() && !fs.options.read_only {
            fs.end_all_orphans()?;
        }
        Ok(fs)
    }

    /// Shows a volume to a kernel that an earlier process has shown it to, with the same options: what is
    /// unlinked may be open, and ends when it turns out not to be ([`Filesystem::doubtful`]).
    pub fn inherit(volume: Arc<Volume>, options: FsOptions) -> Result<Filesystem, Error> {
        let unlinked = {
            let head = volume.source();
            let guard = head.read()?;
            records::orphans(&guard.reader())?
        };
        let (deleted, cut): (Vec<_>, Vec<_>) =
            unlinked.into_iter().partition(|(_, kind)| *kind == OrphanKind::Delete);
        let deleted: Vec<InodeNo> = deleted.into_iter().map(|(ino, _)| ino).collect();
        let fs = Filesystem::assemble(volume, options, NodeTable::inherit(&deleted))?;
        if fs.only.is_none() && !fs.options.read_only {
            cut.iter().for_each(|(ino, _)| fs.finish_cut_quietly(*ino));
        }
        Ok(fs)
    }

    /// Notes in `file` what is open for writing, for a process that inherits the mount; what the file says
    /// already was open before this one.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn note_writers(&self, file: std::fs::File) -> std::io::Result<()> {
        let (writers, before) = Writers::open(file)?;
        self.nodes.note_writers(writers, &before);
        Ok(())
    }

    fn assemble(
        volume: Arc<Volume>,
        options: FsOptions,
        nodes: NodeTable,
    ) -> Result<Filesystem, Error> {
        let pool = Arc::clone(volume.pool());
        let only = match &options.only_snapshot {
            Some(name) => Some(pool.view(pool.snapshot(volume.id(), name)?.member)?),
            None => None,
        };
        Ok(Filesystem {
            head: volume.source(),
            volume,
            options,
            seed: pool.hash_seed(),
            nodes,
            content: ContentLocks::new(),
            views: Views::default(),
            only,
            flush_hook: RwLock::new(None),
            unfinished: Unfinished::default(),
            snapshots_changed: Mutex::new(None),
            blamed: Mutex::new(Vec::new()),
        })
    }

    /// The volume that is shown.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// How it is shown.
    pub fn options(&self) -> &FsOptions {
        &self.options
    }

    /// Sets what brings in the kernel's dirty pages before a snapshot.
    pub fn set_flush_hook(&self, hook: Option<FlushHook>) {
        *self.flush_hook.write() = hook.map(Arc::new);
    }

    /// Returns the files with an unreleased open for writing.
    pub fn open_for_write(&self) -> Vec<NodeId> {
        self.nodes.open_for_write()
    }

    /// Returns a path of a live file from the root of the mount, as bytes; none where it has no name.
    ///
    /// Its directories are searched from end to end. Others may rename it meanwhile.
    pub fn path(&self, node: NodeId) -> Option<Vec<u8>> {
        let NodeKind::Live(ino) = node.kind() else { return None };
        let guard = self.head.read().ok()?;
        exact_path(&guard.reader(), ino)
    }

    /// Brings in the kernel's dirty pages of all files that are open for writing.
    pub fn flush_dirty(&self) {
        let hook = self.flush_hook.read().clone();
        if let Some(hook) = hook {
            hook(self);
        }
    }

    /// The state that a node is read from, and the inode in it. A `.snapshots` has none of its own.
    fn source_of(&self, node: NodeId) -> Result<(Source, InodeNo), Error> {
        match (node.kind(), &self.only) {
            (NodeKind::Live(ino), None) => Ok((self.head.clone(), ino)),
            (NodeKind::Live(ino), Some(only)) => Ok((only.clone(), ino)),
            (NodeKind::View { snapshot, ino }, None) => Ok((self.view(snapshot)?, ino)),
            (NodeKind::SnapshotDir(_), _) => Err(Error::NotPermitted),
            (NodeKind::View { .. }, Some(_)) => Err(Error::Stale),
        }
    }

    /// Whether a node is of the live state, so that its content can change.
    fn is_mutable(&self, node: NodeId) -> bool {
        node.is_live() && self.only.is_none()
    }

    /// The live inode of a node that is to be changed; [`Error::ReadOnly`] in a snapshot, and
    /// [`Error::NotPermitted`] for a `.snapshots`.
    fn writable(&self, node: NodeId) -> Result<InodeNo, Error> {
        if self.options.read_only || self.only.is_some() {
            return Err(Error::ReadOnly);
        }
        match node.kind() {
            NodeKind::Live(ino) => Ok(ino),
            NodeKind::SnapshotDir(_) => Err(Error::NotPermitted),
            NodeKind::View { .. } => Err(Error::ReadOnly),
        }
    }

    fn begin(&self, intent: Intent) -> Result<Transaction<'_>, Error> {
        Transaction::begin(&self.volume, intent)
    }

    /// An entry for a node of the live state (or of the only snapshot). Counts a lookup; the caller
    /// holds the head.
    fn entry(&self, ino: InodeNo, inode: &Inode) -> Entry {
        let node = NodeId::live(ino);
        if self.only.is_none() {
            self.nodes.looked_up(ino);
        }
        Entry { node, attr: Attr::of(node, inode), cacheable: true }
    }

    /// Returns the entry of what a request has made under `parent`, for a reply that was not sent; counts a
    /// lookup. `result` is that of [`crate::pool::Pool::answer_to`].
    pub fn made(&self, parent: NodeId, result: u64) -> Result<Entry, Error> {
        if let NodeKind::SnapshotDir(dir) = parent.kind() {
            // Its first process may have died before it was durable.
            self.volume.pool().sync()?;
            return self.made_snapshot(dir, MemberId(result));
        }
        let ino = InodeNo(result);
        let guard = self.head.read()?;
        Ok(self.entry(ino, &guard.reader().inode(ino)?))
    }

    /// Whether this is the name of the virtual directory.
    fn is_snapshots_name(&self, name: &[u8]) -> bool {
        name == self.options.snapdir_name.as_bytes()
    }

    /// Whether live directories have the virtual directory.
    fn has_snapshot_dirs(&self) -> bool {
        self.options.snapdir != SnapDir::Disabled && self.only.is_none()
    }

    /// Passes a result on; damage is logged, once a file, with the path that it hurts.
    fn report<T>(&self, node: NodeId, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Io(what)) = &result {
            self.blame(node, what);
        }
        result
    }

    #[cold]
    fn blame(&self, node: NodeId, what: &str) {
        {
            let mut blamed = self.blamed.lock();
            if blamed.len() >= MAX_BLAMED || blamed.contains(&node) {
                return;
            }
            blamed.push(node);
        }
        let path = self.source_of(node).map(|(source, ino)| path_in(&source, ino));
        let path = path.unwrap_or_default();
        let volume = self.volume.name();
        match self.snapshot_name(node) {
            Some(snapshot) => tracing::error!(volume, snapshot, path, node = node.0, "{what}"),
            None => tracing::error!(volume, path, node = node.0, "{what}"),
        }
    }

    /// The snapshot that a node is in, for messages; its number where it has no name any more.
    fn snapshot_name(&self, node: NodeId) -> Option<String> {
        let NodeKind::View { snapshot, .. } = node.kind() else {
            return self.options.only_snapshot.clone();
        };
        let info = self.volume.pool().snapshot_by_number(self.volume.id(), snapshot);
        Some(info.map_or_else(|_| format!("number {snapshot}"), |info| info.name))
    }
}
