//! Replies' bytes: attributes, entries, open files, directory listings.

use super::abi::{flag, statx};
use super::policy::{self, Attributes};
use crate::format::Timestamp;
use crate::fs::{Attr, DirEntry, Entry, NodeId, StatFs};

/// Room for the largest fixed reply, `fuse_statx_out`.
const OUT_BYTES: usize = 288;
/// Bytes of `fuse_entry_out`.
const ENTRY_BYTES: usize = 128;
/// Bytes of `fuse_dirent` before its name.
const DIRENT_BYTES: usize = 24;

/// Builds one reply's fixed part without an allocation.
#[derive(Debug)]
pub(crate) struct Out {
    buffer: [u8; OUT_BYTES],
    len: usize,
    attributes: Attributes,
}

macro_rules! integers {
    ($($name:ident: $ty:ty),*) => {$(
        pub(crate) fn $name(&mut self, value: $ty) -> &mut Self {
            self.put(&value.to_ne_bytes())
        }
    )*};
}

impl Out {
    pub(crate) fn new() -> Self {
        Self::with(Attributes::Kept)
    }

    /// For a reply with attributes.
    pub(crate) fn with(attributes: Attributes) -> Self {
        Out { buffer: [0; OUT_BYTES], len: 0, attributes }
    }

    integers!(u16: u16, u32: u32, u64: u64, i64: i64);

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.len + bytes.len();
        debug_assert!(end <= OUT_BYTES, "a fixed reply larger than the largest one");
        if let Some(target) = self.buffer.get_mut(self.len..end) {
            target.copy_from_slice(bytes);
            self.len = end;
        }
        self
    }

    /// Appends zeros.
    fn zeros(&mut self, len: usize) -> &mut Self {
        self.len = (self.len + len).min(OUT_BYTES);
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// `fuse_attr`.
    fn attr(&mut self, attr: &Attr) -> &mut Self {
        self.u64(attr.ino).u64(attr.size).u64(attr.blocks_512);
        self.i64(attr.atime.sec).i64(attr.mtime.sec).i64(attr.ctime.sec);
        self.u32(attr.atime.nsec).u32(attr.mtime.nsec).u32(attr.ctime.nsec);
        self.u32(attr.mode).u32(attr.nlink).u32(attr.uid).u32(attr.gid).u32(attr.rdev);
        self.u32(attr.block_size).u32(0)
    }

    /// `fuse_entry_out`; its generation is always 0, because node ids are never reused.
    pub(crate) fn entry(&mut self, entry: &Entry) -> &mut Self {
        self.u64(entry.node.0).u64(0);
        let attr_seconds = policy::attr_seconds(entry.node, self.attributes);
        self.u64(policy::entry_seconds(entry)).u64(attr_seconds);
        self.u32(0).u32(0).attr(&entry.attr)
    }

    /// `fuse_entry_out` that says, and lets the kernel remember, that there is no such name.
    pub(crate) fn no_entry(&mut self) -> &mut Self {
        self.u64(0).u64(0).u64(policy::UNLIMITED_SECONDS).u64(0);
        self.zeros(ENTRY_BYTES - 32)
    }

    /// `fuse_attr_out`.
    pub(crate) fn attr_out(&mut self, node: NodeId, attr: &Attr) -> &mut Self {
        let seconds = policy::attr_seconds(node, self.attributes);
        self.u64(seconds).u32(0).u32(0).attr(attr)
    }

    /// `fuse_open_out`.
    pub(crate) fn open(&mut self, handle: u64, open_flags: u32) -> &mut Self {
        self.u64(handle).u32(open_flags).u32(0)
    }

    /// `fuse_statfs_out`.
    pub(crate) fn statfs(&mut self, s: &StatFs) -> &mut Self {
        self.u64(s.blocks).u64(s.blocks_free).u64(s.blocks_available);
        self.u64(s.files).u64(s.files_free);
        self.u32(s.block_size).u32(s.name_max).u32(s.block_size).zeros(28)
    }

    /// `fuse_statx_out`.
    pub(crate) fn statx(&mut self, node: NodeId, a: &Attr) -> &mut Self {
        let seconds = policy::attr_seconds(node, self.attributes);
        self.u64(seconds).u32(0).u32(0).zeros(16);
        self.u32(statx::BASIC_STATS | statx::BTIME).u32(a.block_size).u64(0);
        self.u32(a.nlink).u32(a.uid).u32(a.gid);
        // The mode is 16 bits here; it has no bits beyond them.
        self.u16((a.mode & 0xffff) as u16).u16(0);
        self.u64(a.ino).u64(a.size).u64(a.blocks_512).u64(0);
        for time in [a.atime, a.btime, a.ctime, a.mtime] {
            self.sx_time(time);
        }
        let minor = (a.rdev & 0xff) | ((a.rdev >> 12) & 0xf_ff00);
        self.u32((a.rdev & 0xf_ff00) >> 8).u32(minor).u32(0).u32(0).zeros(112)
    }

    /// `fuse_sx_time`.
    fn sx_time(&mut self, time: Timestamp) -> &mut Self {
        self.i64(time.sec).u32(time.nsec).u32(0)
    }
}

/// `fuse_write_out`.
pub(crate) fn count(len: u64) -> Out {
    let mut out = Out::new();
    out.u32(u32::try_from(len).unwrap_or(u32::MAX)).u32(0);
    out
}

/// Flags of an opened or created file: its cached pages are right, since only this mount writes.
pub(crate) fn file_open_flags() -> u32 {
    flag::FOPEN_KEEP_CACHE
}

/// Flags of an opened directory. The kernel checks a cached listing against the directory's mtime;
/// `.snapshots` changes with no request of this mount, so its listing is not kept.
pub(crate) fn dir_open_flags(node: NodeId) -> u32 {
    if node.is_snapshot_dir() { 0 } else { flag::FOPEN_KEEP_CACHE | flag::FOPEN_CACHE_DIR }
}

/// Fills a READDIR or READDIRPLUS reply.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    buffer: &'a mut [u8],
    len: usize,
    plus: bool,
    attributes: Attributes,
}

impl<'a> Listing<'a> {
    /// `buffer` is as long as the kernel takes.
    pub(crate) fn new(buffer: &'a mut [u8], plus: bool, attributes: Attributes) -> Self {
        Listing { buffer, len: 0, plus, attributes }
    }

    /// Adds an entry; false when it does not fit any more, and nothing has been added.
    pub(crate) fn push(&mut self, entry: &DirEntry<'_>) -> bool {
        let prefix = if self.plus { ENTRY_BYTES + DIRENT_BYTES } else { DIRENT_BYTES };
        let Ok(name_len) = u32::try_from(entry.name.len()) else { return false };
        let used = prefix + entry.name.len();
        let len = used.next_multiple_of(8);
        let Some(target) = self.buffer.get_mut(self.len..self.len + len) else { return false };
        let mut out = Out::with(self.attributes);
        match (self.plus, &entry.entry) {
            (false, _) => {}
            (true, Some(entry)) => {
                out.entry(entry);
            }
            // Node 0: the kernel takes no reference ("." and "..").
            (true, None) => {
                out.zeros(ENTRY_BYTES);
            }
        }
        out.u64(entry.node.0).u64(entry.cookie).u32(name_len).u32(entry.kind.to_dtype().into());
        let (head, tail) = target.split_at_mut(prefix);
        let (name, padding) = tail.split_at_mut(entry.name.len());
        head.copy_from_slice(out.bytes());
        name.copy_from_slice(entry.name);
        padding.fill(0);
        self.len += len;
        true
    }

    /// The reply.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FileKind;

    fn attr() -> Attr {
        let at = |sec| Timestamp { sec, nsec: 5 };
        Attr {
            ino: 7,
            size: 4097,
            blocks_512: 16,
            atime: at(-3),
            mtime: at(20),
            ctime: at(30),
            btime: at(10),
            mode: libc::S_IFREG | 0o640,
            nlink: 2,
            uid: 3,
            gid: 4,
            rdev: 0,
            block_size: 4096,
        }
    }

    fn statfs() -> StatFs {
        StatFs {
            block_size: 4096,
            blocks: 100,
            blocks_free: 50,
            blocks_available: 40,
            files: 9,
            files_free: 8,
            name_max: 255,
        }
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn fixed_replies_have_the_sizes_of_the_kernels_structures() {
        let entry = Entry { node: NodeId(7), attr: attr(), cacheable: true };
        assert_eq!(Out::new().entry(&entry).bytes().len(), 128);
        assert_eq!(Out::new().no_entry().bytes().len(), 128);
        assert_eq!(Out::new().attr_out(NodeId(7), &attr()).bytes().len(), 104);
        assert_eq!(Out::new().open(0, 0).bytes().len(), 16);
        assert_eq!(Out::new().statx(NodeId(7), &attr()).bytes().len(), 288);
        assert_eq!(Out::new().statfs(&statfs()).bytes().len(), 80);
    }

    #[test]
    fn times_before_1970_keep_their_sign() {
        let mut out = Out::new();
        let bytes = out.attr_out(NodeId(7), &attr()).bytes();
        assert_eq!(u64_at(bytes, 16 + 24).cast_signed(), -3);
    }

    #[test]
    fn a_name_outside_the_cache_has_no_timeout_and_others_have_the_longest() {
        let mut entry = Entry { node: NodeId(7), attr: attr(), cacheable: true };
        assert_eq!(u64_at(Out::new().entry(&entry).bytes(), 16), policy::UNLIMITED_SECONDS);
        entry.cacheable = false;
        assert_eq!(u64_at(Out::new().entry(&entry).bytes(), 16), 0);
    }

    #[test]
    fn attributes_that_are_asked_for_have_no_timeout() {
        let seconds = |node| {
            let mut out = Out::with(Attributes::Asked);
            u64_at(out.attr_out(node, &attr()).bytes(), 0)
        };
        assert_eq!(seconds(NodeId(7)), 0);
        assert_eq!(seconds(NodeId(1 << 63 | 7)), policy::UNLIMITED_SECONDS, "a snapshot's");
    }

    #[test]
    fn listing_aligns_and_refuses_what_does_not_fit() {
        let mut buffer = [0xff; 64];
        let entry = DirEntry {
            name: b"abc",
            node: NodeId(9),
            kind: FileKind::Regular,
            cookie: 11,
            entry: None,
        };
        let mut listing = Listing::new(&mut buffer, false, Attributes::Kept);
        assert!(listing.push(&entry) && listing.push(&entry));
        assert!(!listing.push(&entry));
        assert_eq!(listing.bytes().len(), 64);
        assert_eq!((u64_at(&buffer, 32), u64_at(&buffer, 40)), (9, 11));
        assert_eq!(&buffer[56..], b"abc\0\0\0\0\0");
    }

    #[test]
    fn listing_with_attributes_has_room_for_the_entry() {
        let mut buffer = [0; 200];
        let plus = Entry { node: NodeId(9), attr: attr(), cacheable: true };
        let entry = DirEntry {
            name: b"12345678",
            node: NodeId(9),
            kind: FileKind::Regular,
            cookie: 1,
            entry: Some(plus),
        };
        let mut listing = Listing::new(&mut buffer, true, Attributes::Kept);
        assert!(listing.push(&entry) && !listing.push(&entry));
        assert_eq!(listing.bytes().len(), 160);
        assert_eq!(u64_at(&buffer, 128), 9);
    }
}
