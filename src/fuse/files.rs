//! Operations on open files and directories.

use super::decode::{CopyIn, Header, Operation};
use super::dispatch::{Context, Scratch, done, finish};
use super::encode::{Listing, Out, count, dir_open_flags, file_open_flags};
use super::reply::Reply;
use super::resent::copied;
use crate::format::BLOCK_SIZE;
use crate::fs::{Caller, Entry, Error, Handle, MAX_COPY, NodeId, SetAttr, Whence, WriteFlags};

impl Context {
    pub(crate) fn use_file(
        &self,
        operation: Operation<'_>,
        header: &Header,
        caller: impl FnOnce(u32) -> Caller,
        reply: Reply,
        scratch: &mut Scratch,
    ) {
        const PUNCH_HOLE: u32 = libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned();
        let node = NodeId(header.node);
        match operation {
            Operation::Open { flags, kill_suidgid } => {
                let opened = self.open(header, &caller(0), flags.cast_signed(), kill_suidgid);
                self.opened(node, opened, reply);
            }
            Operation::Create { name, flags, mode, umask } => {
                let flags = flags.cast_signed();
                self.created(reply, self.fs.create(&caller(umask), node, name, mode, flags));
            }
            Operation::TmpFile { flags, mode, umask } => {
                let flags = flags.cast_signed();
                self.created(reply, self.fs.tmpfile(&caller(umask), node, mode, flags));
            }
            Operation::Read { handle, offset, size } => {
                let buffer = scratch.take(size);
                match self.fs.read(node, Handle(handle), offset, buffer) {
                    Ok(len) => reply.data(buffer.get(..len).unwrap_or_default()),
                    Err(error) => reply.error(error.errno()),
                }
            }
            Operation::Write { handle, offset, data, cached, kill_suidgid, direct } => {
                let admitted = !cached && self.is_promised_to(header.pid);
                // What is passed on through the cache has been asked for, too.
                let promised = cached || admitted || !direct;
                let flags = WriteFlags { cached, promised, kill_suidgid };
                let stripped =
                    if kill_suidgid { self.strip_for_write(header, node, direct) } else { Ok(()) };
                let written = stripped
                    .and_then(|()| self.fs.write(node, Handle(handle), offset, data, flags));
                if admitted && let Ok(len) = written {
                    self.redeem(header.pid, len as u64);
                }
                self.look_at_room(data.len() as u64);
                finish(reply, written, |reply, len| reply.data(count(len as u64).bytes()));
            }
            Operation::Release { handle } => {
                self.released(node, self.fs.release(node, Handle(handle)), reply);
            }
            Operation::Fsync { datasync } => self.fsync(header, node, datasync, reply),
            Operation::Fallocate { offset, len, mode } => {
                let stripped = self.strip(header, node);
                // Where a part of a block is punched out of what a snapshot has, another block is needed.
                let bytes = if mode & PUNCH_HOLE == 0 { len } else { 2 * BLOCK_SIZE as u64 };
                let allocate = || self.fs.fallocate(node, offset, len, mode);
                done(reply, stripped.and_then(|()| self.with_room(bytes, allocate)));
            }
            Operation::Lseek { offset, whence } => self.lseek(node, offset, whence, reply),
            Operation::CopyFileRange(copy) => self.copy(header, copy, reply),
            Operation::OpenDir => finish(reply, self.fs.opendir(node), |reply, handle| {
                if !reply.deliver(Out::new().open(handle.0, dir_open_flags(node)).bytes()) {
                    self.fs.releasedir(node, handle);
                }
            }),
            Operation::ReadDir { offset, size, plus } => {
                let listing = Listing::new(scratch.take(size), plus, self.attributes());
                self.readdir(&caller(0), node, offset, plus, listing, reply);
            }
            Operation::ReleaseDir { handle } => {
                self.released(node, self.fs.releasedir(node, Handle(handle)), reply);
            }
            Operation::FsyncDir { datasync } => done(reply, self.fs.fsyncdir(node, datasync)),
            _ => reply.error(libc::ENOSYS),
        }
    }

    /// Opens a file; the truncation that belongs to it takes set-user-id and set-group-id away from
    /// a caller who may not keep them.
    fn open(
        &self,
        header: &Header,
        caller: &Caller,
        flags: i32,
        kill_suidgid: bool,
    ) -> Result<Handle, Error> {
        let node = NodeId(header.node);
        if flags & libc::O_TRUNC == 0 || !kill_suidgid {
            return self.fs.open(node, flags);
        }
        let truncate = SetAttr { size: Some(0), kill_suidgid: true, ..SetAttr::default() };
        let handle = self.fs.open(node, flags & !libc::O_TRUNC)?;
        self.setattr(header, caller, node, truncate).map(|_| handle).inspect_err(|_| {
            self.fs.release(node, handle);
        })
    }

    /// Replies to OPEN.
    pub(super) fn opened(&self, node: NodeId, opened: Result<Handle, Error>, reply: Reply) {
        finish(reply, opened, |reply, handle| {
            if handle.writes() {
                self.look_at_room(0);
                // The kernel may have the attributes from a time when there was plenty.
                if self.room.is_short() {
                    self.flusher.forget_attributes(&[node]);
                }
            }
            if !reply.deliver(Out::new().open(handle.0, file_open_flags()).bytes()) {
                self.fs.release(node, handle);
            }
        });
    }

    /// Replies to RELEASE and RELEASEDIR. The kernel does not expect that they change attributes.
    fn released(&self, node: NodeId, touched: bool, reply: Reply) {
        reply.ok();
        if touched && let Err(error) = self.notifier.inval_attributes(node.0) {
            tracing::debug!(node = node.0, %error, "the kernel keeps an old access time");
        }
    }

    /// Replies to CREATE and TMPFILE.
    pub(super) fn created(&self, reply: Reply, result: Result<(Entry, Handle), Error>) {
        finish(reply, result, |reply, (entry, handle)| {
            self.look_at_room(0);
            let mut out = self.out();
            out.entry(&entry).open(handle.0, file_open_flags());
            if !reply.deliver(out.bytes()) {
                self.fs.release(entry.node, handle);
                self.take_back(entry.node, 1);
            }
        });
    }

    /// The flush before a snapshot wants the file's pages here, not on the disk: the snapshot is
    /// made durable as a whole.
    fn fsync(&self, header: &Header, node: NodeId, datasync: bool, reply: Reply) {
        if self.flusher.is_flushing(header.pid) {
            reply.ok();
        } else {
            done(reply, self.fs.fsync(node, datasync));
        }
    }

    /// The kernel asks without writing its dirty pages back first, and holds the inode's lock: so
    /// they are brought in here, by the way that does not take that lock.
    fn lseek(&self, node: NodeId, offset: u64, whence: u32, reply: Reply) {
        const SEEK_DATA: u32 = libc::SEEK_DATA.cast_unsigned();
        const SEEK_HOLE: u32 = libc::SEEK_HOLE.cast_unsigned();
        let whence = match whence {
            SEEK_DATA => Whence::Data,
            SEEK_HOLE => Whence::Hole,
            _ => return reply.error(libc::EINVAL),
        };
        if self.is_open_for_write(node) {
            self.flusher.write_back(&[node]);
        }
        finish(reply, self.fs.lseek(node, offset, whence), |reply, offset| {
            reply.data(Out::new().u64(offset).bytes());
        });
    }

    fn copy(&self, header: &Header, copy: CopyIn, reply: Reply) {
        if copy.flags != 0 {
            return reply.error(libc::EINVAL);
        }
        // The narrow reply counts in 32 bits; a whole number of pages keeps the next part aligned.
        let most = if copy.wide { u64::MAX } else { u64::from(u32::MAX) & !4095 };
        let (target, len) = (NodeId(copy.node_out), copy.len.min(most));
        let source = NodeId(header.node);
        let done = self.strip(header, target).and_then(|()| {
            self.with_room(len.min(MAX_COPY), || {
                self.fs.copy_file_range(source, copy.offset_in, target, copy.offset_out, len)
            })
        });
        finish(reply, done, |reply, len| reply.data(copied(copy.wide, len).bytes()));
    }

    fn readdir(
        &self,
        caller: &Caller,
        node: NodeId,
        offset: u64,
        plus: bool,
        mut listing: Listing<'_>,
        reply: Reply,
    ) {
        let listed = self.fs.readdir(caller, node, offset, plus, &mut |entry| {
            let taken = listing.push(entry);
            if let (true, Some(entry)) = (taken, &entry.entry) {
                self.snapshot_dirs.looked_up(entry.node);
            }
            taken
        });
        finish(reply, listed, |reply, ()| reply.data(listing.bytes()));
    }
}
