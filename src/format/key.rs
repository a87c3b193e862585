//! Keys of every B+tree: (id, kind, sub), packed in 128 bits so that they compare as one integer.
//!
//! | bits | field |
//! |---|---|
//! | 127-64 | id: inode number in a volume's tree, object number in the catalog |
//! | 63-56 | kind, a [`KeyKind`] |
//! | 55-0 | sub: block index, name hash, inode, sequence number: what the kind says |

use super::ids::{BlockNo, Epoch, InodeNo, MemberId, VolumeId};

/// What a key's value is; the numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// Volume: an inode; sub 0.
    Inode = 1,
    /// Volume: whole content of a small file, or a symlink's target; sub 0.
    Inline = 2,
    /// Volume: extended attributes whose name has the hash in sub, chained.
    Xattr = 3,
    /// Volume: part of a large extended attribute's value.
    XattrChunk = 4,
    /// Volume: directory entries whose name has the hash in sub, chained.
    Dirent = 5,
    /// Volume: an extent; sub is its first block index in the file.
    Extent = 6,
    /// Volume: id 0, sub an inode that has no name left and awaits its end.
    Orphan = 7,
    /// Catalog: id 1, sub a volume's number.
    Volume = 32,
    /// Catalog: id 2, sub a lineage member's number.
    Member = 33,
    /// Catalog: id a deadlist's object number, sub the bucket's epoch.
    Bucket = 34,
    /// Catalog: id a chunk's object number, sub 0: references in a deadlist, and the next chunk.
    Chunk = 35,
    /// Catalog: id 3, sub the object number of an item of background reclaim.
    Reclaim = 36,
    /// Catalog: id 4, sub a first block number: extra references to a block range.
    Shared = 37,
    /// Checkpoint tree: id 1, sub a member's number (0 the catalog): root pointer and figures.
    Root = 64,
    /// Checkpoint tree: id 2, sub a region's number: which of its blocks are in use.
    Region = 65,
}

/// Number of bits in a key's sub field.
pub const SUB_BITS: u32 = 56;
/// Largest sub value.
pub const MAX_SUB: u64 = (1 << SUB_BITS) - 1;

/// Object numbers (deadlists, chunks, reclaim items) begin here: smaller ids are tables.
pub const FIRST_OBJECT: u64 = 16;

/// A tree key; order is (id, kind, sub).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u128);

impl Key {
    /// Smallest key.
    pub const MIN: Key = Key(0);
    /// Largest key.
    pub const MAX: Key = Key(u128::MAX);

    /// Packs a key; `sub` is cut to 56 bits.
    pub const fn new(id: u64, kind: KeyKind, sub: u64) -> Self {
        debug_assert!(sub <= MAX_SUB);
        Key((id as u128) << 64 | (kind as u128) << SUB_BITS | (sub & MAX_SUB) as u128)
    }

    /// Packs a key of a volume's tree.
    pub const fn inode(ino: InodeNo, kind: KeyKind, sub: u64) -> Self {
        Key::new(ino.0, kind, sub)
    }

    /// Key of a volume's record.
    pub const fn volume(volume: VolumeId) -> Self {
        Key::new(1, KeyKind::Volume, volume.0)
    }

    /// Key of a lineage member's record.
    pub const fn member(member: MemberId) -> Self {
        Key::new(2, KeyKind::Member, member.0)
    }

    /// Key of an item of background reclaim.
    pub const fn reclaim(object: u64) -> Self {
        Key::new(3, KeyKind::Reclaim, object)
    }

    /// Key of a shared range that begins at `start`.
    pub const fn shared(start: BlockNo) -> Self {
        Key::new(4, KeyKind::Shared, start.0)
    }

    /// Key of a deadlist's bucket.
    pub const fn bucket(deadlist: u64, epoch: Epoch) -> Self {
        Key::new(deadlist, KeyKind::Bucket, epoch.0)
    }

    /// Key of a chunk of dead references.
    pub const fn chunk(object: u64) -> Self {
        Key::new(object, KeyKind::Chunk, 0)
    }

    /// Key of a member's root in the checkpoint tree; member 0 is the catalog.
    pub const fn root(member: MemberId) -> Self {
        Key::new(1, KeyKind::Root, member.0)
    }

    /// Key of a region of the space map in the checkpoint tree.
    pub const fn region(region: u32) -> Self {
        Key::new(2, KeyKind::Region, region as u64)
    }

    /// Smallest key of `id`, whatever the kind.
    pub const fn first_of(id: u64) -> Self {
        Key((id as u128) << 64)
    }

    /// Largest key of `id`, whatever the kind.
    pub const fn last_of(id: u64) -> Self {
        Key((id as u128) << 64 | u64::MAX as u128)
    }

    /// The id field.
    pub const fn id(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The kind's number.
    pub const fn kind(self) -> u8 {
        (self.0 >> SUB_BITS) as u8
    }

    /// Whether the key is of `kind`.
    pub const fn is(self, kind: KeyKind) -> bool {
        self.kind() == kind as u8
    }

    /// The sub field.
    pub const fn sub(self) -> u64 {
        self.0 as u64 & MAX_SUB
    }

    /// The next larger key; [`Key::MAX`] stays.
    pub const fn successor(self) -> Self {
        Key(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::MAX_INODE;

    const KINDS: [KeyKind; 15] = [
        KeyKind::Inode,
        KeyKind::Inline,
        KeyKind::Xattr,
        KeyKind::XattrChunk,
        KeyKind::Dirent,
        KeyKind::Extent,
        KeyKind::Orphan,
        KeyKind::Volume,
        KeyKind::Member,
        KeyKind::Bucket,
        KeyKind::Chunk,
        KeyKind::Reclaim,
        KeyKind::Shared,
        KeyKind::Root,
        KeyKind::Region,
    ];

    fn parts() -> impl Strategy<Value = (u64, KeyKind, u64)> {
        // Small numbers make equal ids and kinds likely.
        let id = prop_oneof![0u64..3, any::<u64>()];
        (id, prop::sample::select(&KINDS[..]), prop_oneof![0u64..3, 0..=MAX_SUB])
    }

    proptest! {
        #[test]
        fn keys_are_ordered_by_id_then_kind_then_sub(a in parts(), b in parts()) {
            let (key_a, key_b) = (Key::new(a.0, a.1, a.2), Key::new(b.0, b.1, b.2));
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            prop_assert_eq!((key_a.id(), key_a.kind(), key_a.sub()), (a.0, a.1 as u8, a.2));
            prop_assert!(KINDS.iter().all(|kind| key_a.is(*kind) == (*kind == a.1)));
            prop_assert!(Key::first_of(a.0) <= key_a && key_a <= Key::last_of(a.0));
            prop_assert_eq!(Key::last_of(a.0).successor().0, (u128::from(a.0) + 1) << 64);
        }
    }

    #[test]
    fn kinds_are_told_apart_by_their_numbers() {
        assert!(KINDS.windows(2).all(|pair| (pair[0] as u8) < pair[1] as u8));
    }

    #[test]
    fn tables_stand_before_objects_and_do_not_meet() {
        let tables = [
            Key::volume(VolumeId(MAX_SUB)),
            Key::member(MemberId(MAX_SUB)),
            Key::reclaim(MAX_SUB),
            Key::shared(BlockNo(MAX_SUB)),
        ];
        assert!(tables.is_sorted());
        let objects = [
            Key::bucket(FIRST_OBJECT, Epoch(MAX_SUB)),
            Key::chunk(FIRST_OBJECT + 1),
            Key::chunk(u64::MAX),
        ];
        assert!(tables[3] < objects[0] && objects.is_sorted());
        assert!(Key::root(MemberId(MAX_SUB)) < Key::region(0));
        assert!(
            Key::new(0, KeyKind::Orphan, MAX_INODE) < Key::inode(InodeNo(1), KeyKind::Inode, 0)
        );
    }

    #[test]
    fn the_largest_key_has_no_successor() {
        assert_eq!(Key::MAX.successor(), Key::MAX);
        assert_eq!(Key::MIN.successor(), Key(1));
    }
}
