//! F5 to F8: what an inode says of its content and its attributes.

use std::ops::ControlFlow;

use super::Checker;
use crate::btree::{Reader, Tree};
use crate::format::{
    BLOCK_SIZE, Extent, ExtentKind, FileKind, Inode, InodeFlags, InodeNo, Key, KeyKind, MAX_SUB,
    XATTR_CHUNK, XattrValue, xattr_chain, xattr_hash,
};
use crate::pool::ReadExtents;

/// What is stored with an inode besides extents.
#[derive(Debug, Default)]
struct Content {
    inline_bytes: Option<usize>,
    flags: InodeFlags,
    /// Chunks that attributes refer to: number and length of each value.
    chunked: Vec<(u64, u32)>,
    /// Chunks that are there: sub and length.
    chunks: Vec<(u64, usize)>,
    /// What is wrong with attributes.
    bad: Vec<String>,
}

impl Content {
    fn attributes(&mut self, hash: u64, value: &[u8]) {
        self.flags.set(InodeFlags::XATTRS, true);
        if value.is_empty() {
            self.bad.push("an empty chain of attributes".into());
        }
        for xattr in xattr_chain(value) {
            let xattr = match xattr {
                Ok(xattr) => xattr,
                Err(error) => return self.bad.push(error.to_string()),
            };
            if xattr_hash(xattr.name) != hash {
                self.bad.push(format!("'{}' is in the wrong place", xattr.name.escape_ascii()));
            }
            match xattr.name {
                b"system.posix_acl_access" => self.flags.set(InodeFlags::ACCESS_ACL, true),
                b"system.posix_acl_default" => self.flags.set(InodeFlags::DEFAULT_ACL, true),
                b"security.capability" => self.flags.set(InodeFlags::CAPABILITY, true),
                _ => {}
            }
            if let XattrValue::Chunked { id, len } = xattr.value {
                self.chunked.push((id, len));
            }
        }
    }

    /// Every chunk belongs to one value, and every value is whole.
    fn check_chunks(&mut self) {
        self.chunked.sort_unstable();
        let mut expected = Vec::new();
        for (id, len) in &self.chunked {
            let mut left = *len as usize;
            for n in 0.. {
                if left == 0 {
                    break;
                }
                expected.push((id << 8 | n, left.min(XATTR_CHUNK)));
                left -= left.min(XATTR_CHUNK);
            }
        }
        if expected != self.chunks {
            self.bad.push("the chunks are not those that its attributes name".into());
        }
    }
}

/// A part of a file behind its end.
enum Behind {
    Nothing,
    Preallocated,
    Written,
}

impl Checker<'_> {
    /// Verifies an inode of which some record differs from before; `changed` is its own if that does.
    pub(super) fn check_content(&mut self, tree: &Tree, ino: u64, changed: Option<Inode>) {
        let inode = changed.or_else(|| self.inode_of(tree, ino));
        let Some(content) = self.content(tree, ino) else {
            // A node that does not read: reported.
            return;
        };
        let Some(inode) = inode else {
            let behind = self.extent_from(tree, ino, 0);
            let empty = content.inline_bytes.is_none()
                && content.chunks.is_empty()
                && content.flags == InodeFlags::default()
                && matches!(behind, Behind::Nothing);
            self.report.expect(empty, "F0", || format!("inode {ino}: records without an inode"));
            return;
        };
        for bad in &content.bad {
            self.report.problem("F0", format!("inode {ino}: {bad}"));
        }
        self.check_inline(tree, ino, &inode, &content);
        const SEEN: [InodeFlags; 4] = [
            InodeFlags::XATTRS,
            InodeFlags::ACCESS_ACL,
            InodeFlags::DEFAULT_ACL,
            InodeFlags::CAPABILITY,
        ];
        let same = SEEN.into_iter().all(|flag| inode.flags.has(flag) == content.flags.has(flag));
        self.report.expect(same, "F8", || {
            format!(
                "inode {ino}: flags {:?}, and {:?} by its attributes",
                inode.flags, content.flags
            )
        });
        if inode.kind() == FileKind::Regular {
            self.check_end(tree, ino, &inode);
        }
    }

    /// Reads all of an inode's small records; `None` when some node does not read.
    fn content(&self, tree: &Tree, ino: u64) -> Option<Content> {
        let mut content = Content::default();
        let from = Key::inode(InodeNo(ino), KeyKind::Inline, 0);
        let to = Key::inode(InodeNo(ino), KeyKind::XattrChunk, MAX_SUB);
        let read = Reader::new(tree, &self.cache).range(from, to, &mut |key, value| {
            if key.is(KeyKind::Inline) {
                content.inline_bytes = Some(value.len());
            } else if key.is(KeyKind::Xattr) {
                content.attributes(key.sub(), value);
            } else {
                content.chunks.push((key.sub(), value.len()));
            }
            ControlFlow::Continue(())
        });
        read.ok()?;
        content.check_chunks();
        Some(content)
    }

    /// F7: content is in the leaf or in extents.
    fn check_inline(&mut self, tree: &Tree, ino: u64, inode: &Inode, content: &Content) {
        if !inode.flags.has(InodeFlags::INLINE) {
            let none = content.inline_bytes.is_none();
            self.report
                .expect(none, "F7", || format!("inode {ino}: content that no flag tells of"));
            let mapped = inode.kind() == FileKind::Regular || inode.blocks == 0;
            self.report.expect(mapped, "F7", || format!("inode {ino}: no file, but with extents"));
            return;
        }
        let bytes = content.inline_bytes.unwrap_or(0) as u64;
        self.report.expect(bytes == inode.size, "F7", || {
            format!("inode {ino}: {bytes} bytes of content, and a size of {}", inode.size)
        });
        let nothing = matches!(self.extent_from(tree, ino, 0), Behind::Nothing);
        self.report.expect(nothing, "F7", || format!("inode {ino}: inline, but with extents"));
    }

    /// F5 and F6: what is behind a file's end.
    fn check_end(&mut self, tree: &Tree, ino: u64, inode: &Inode) {
        let first = inode.size.div_ceil(BLOCK_SIZE as u64);
        if let Behind::Written = self.extent_from(tree, ino, first) {
            let cut = self.orphan_of(tree, ino).is_some();
            self.report.expect(cut, "F6", || {
                format!("inode {ino}: data behind its end, which is at byte {}", inode.size)
            });
        }
        let inside = (inode.size % BLOCK_SIZE as u64) as usize;
        if self.options.data && inside > 0 && inode.blocks > 0 {
            let zero = self.tail_is_zero(tree, ino, first - 1, inside);
            self.report
                .expect(zero, "F5", || format!("inode {ino}: bytes behind its end are not zero"));
        }
    }

    fn extent_from(&self, tree: &Tree, ino: u64, first: u64) -> Behind {
        let mut behind = Behind::Nothing;
        let reader = Reader::new(tree, &self.cache);
        let read = reader.extents(InodeNo(ino), first, u64::MAX, &mut |_, extent| {
            match extent.kind {
                ExtentKind::Preallocated => behind = Behind::Preallocated,
                ExtentKind::Written => {
                    behind = Behind::Written;
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        if read.is_ok() { behind } else { Behind::Nothing }
    }

    fn tail_is_zero(&self, tree: &Tree, ino: u64, block: u64, inside: usize) -> bool {
        let mut found: Option<Extent> = None;
        let reader = Reader::new(tree, &self.cache);
        let read = reader.extents(InodeNo(ino), block, block + 1, &mut |_, extent| {
            found = Some(extent);
            ControlFlow::Break(())
        });
        match found.filter(|extent| read.is_ok() && extent.kind == ExtentKind::Written) {
            Some(extent) => {
                let mut bytes = vec![0; BLOCK_SIZE];
                let read = self.data.read_at(extent.addr.offset_bytes(), &mut bytes);
                // What does not read or has another checksum is D1's.
                read.is_err()
                    || extent.checksums.first() != Some(&crc32c::crc32c(&bytes))
                    || bytes[inside..].iter().all(|byte| *byte == 0)
            }
            None => true,
        }
    }
}
