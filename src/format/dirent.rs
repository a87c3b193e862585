//! Directory entries: a chain of all entries of a directory whose names share a hash.
//!
//! Value of a key (directory, Dirent, hash of the name): one after the other, by rising slot,
//!
//! | size | field |
//! |---|---|
//! | 1 | slot: place in the chain, 0 to [`MAX_SLOT`]; never changes while the entry exists |
//! | 1 | type of the file, a [`FileKind`] |
//! | 1 | length of the name, 1 to [`MAX_NAME`] |
//! | 8 | inode |
//! | length | name |
//!
//! The hash is keyed BLAKE3 of the name, cut to 56 bits. It and the slot make the position that `readdir`
//! resumes at, so an entry keeps its position whatever happens to others.

use super::bytes::{DecodeError, Decoder, Encoder};
use super::catalog::MAX_NAME;
use super::ids::{InodeNo, MAX_INODE};
use super::inode::FileKind;
use super::key::MAX_SUB;

/// Largest slot: a position is 56 bits of hash and 7 of slot, and fits in a positive `off_t`.
pub const MAX_SLOT: u8 = 127;
/// Bytes of an entry without its name.
const HEADER: usize = 11;

/// One entry, as it lies in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// Place in the chain.
    pub slot: u8,
    /// Type of the file.
    pub kind: FileKind,
    /// The file.
    pub ino: InodeNo,
    /// The name.
    pub name: &'a [u8],
}

impl<'a> Dirent<'a> {
    /// Appends the entry to a chain.
    pub fn encode(&self, chain: &mut Vec<u8>) {
        debug_assert!((1..=MAX_NAME).contains(&self.name.len()) && self.slot <= MAX_SLOT);
        let mut out = Encoder(std::mem::take(chain));
        out.u8(self.slot).u8(self.kind.to_dtype()).u8(self.name.len() as u8);
        out.u64(self.ino.0).bytes(self.name);
        *chain = out.0;
    }

    /// Bytes of the encoded entry.
    pub fn encoded_len(&self) -> usize {
        HEADER + self.name.len()
    }

    fn decode(d: &mut Decoder<'a>) -> Result<Dirent<'a>, DecodeError> {
        let slot = d.u8("slot")?;
        if slot > MAX_SLOT {
            return Err(d.error("slot"));
        }
        let kind = FileKind::from_dtype(d.u8("type")?).ok_or_else(|| d.error("type"))?;
        let len = usize::from(d.u8("name length")?);
        let ino = InodeNo(d.u64("inode")?);
        if len == 0 || ino.0 == 0 || ino.0 > MAX_INODE {
            return Err(d.error("inode"));
        }
        let name = d.take(len, "name")?;
        if name.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(d.error("name"));
        }
        Ok(Dirent { slot, kind, ino, name })
    }
}

/// Iterates over a chain; ends after the first error.
#[derive(Debug)]
pub struct DirentChain<'a> {
    decoder: Decoder<'a>,
    next_slot: u8,
    failed: bool,
}

/// Iterates over the entries in `bytes`, a whole value.
pub fn dirent_chain(bytes: &[u8]) -> DirentChain<'_> {
    DirentChain { decoder: Decoder::new("dirent", bytes), next_slot: 0, failed: false }
}

impl<'a> Iterator for DirentChain<'a> {
    type Item = Result<Dirent<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.decoder.remaining() == 0 {
            return None;
        }
        let entry = match Dirent::decode(&mut self.decoder) {
            Ok(entry) if entry.slot < self.next_slot => Err(self.decoder.error("slot order")),
            other => other,
        };
        match &entry {
            Ok(entry) => self.next_slot = entry.slot + 1,
            Err(_) => self.failed = true,
        }
        Some(entry)
    }
}

/// Returns the 56-bit hash under which a name is filed; `seed` is the pool's. The largest value is left
/// out, so that a position has room for the entries that come before all others.
pub fn name_hash(seed: &[u8; 32], name: &[u8]) -> u64 {
    let hash = blake3::keyed_hash(seed, name);
    let mut first = [0u8; 8];
    for (to, from) in first.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    (u64::from_le_bytes(first) & MAX_SUB).min(MAX_SUB - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (u8, u64, Vec<u8>);

    fn chain_of(entries: &[Owned]) -> Vec<u8> {
        let mut chain = Vec::new();
        for (slot, ino, name) in entries {
            let kind = FileKind::Regular;
            Dirent { slot: *slot, kind, ino: InodeNo(*ino), name }.encode(&mut chain);
        }
        chain
    }

    fn entries() -> impl Strategy<Value = Vec<Owned>> {
        let name = prop::collection::vec((1u8..=255).prop_filter("slash", |b| *b != b'/'), 1..256);
        prop::collection::vec((0u8..=MAX_SLOT, 1..=MAX_INODE, name), 0..8).prop_map(|mut all| {
            all.sort_by_key(|e| e.0);
            all.dedup_by_key(|e| e.0);
            all
        })
    }

    proptest! {
        #[test]
        fn a_chain_decodes_to_itself(entries in entries()) {
            let chain = chain_of(&entries);
            let read: Vec<Owned> = dirent_chain(&chain)
                .map(|e| e.map(|e| (e.slot, e.ino.0, e.name.to_vec())))
                .collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(dirent_chain(&bytes).count() <= 600 / HEADER + 1);
        }

        #[test]
        fn a_mutated_chain_ends(entries in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut chain = chain_of(&entries);
            if !chain.is_empty() {
                let at = at.index(chain.len());
                if let Some(b) = chain.get_mut(at) { *b = byte; }
            }
            prop_assert!(dirent_chain(&chain).count() <= chain.len() / HEADER + 1);
        }
    }

    #[test]
    fn slots_out_of_order_are_refused() {
        let chain = chain_of(&[(3, 1, b"a".to_vec()), (3, 2, b"b".to_vec())]);
        let read: Vec<_> = dirent_chain(&chain).collect();
        assert!(read.len() == 2 && read.last().unwrap().is_err());
    }

    #[test]
    fn a_hash_depends_on_the_seed_and_leaves_the_largest_value_out() {
        assert_ne!(name_hash(&[1; 32], b"x"), name_hash(&[2; 32], b"x"));
        assert!((0..1000u32).all(|i| name_hash(&[0; 32], &i.to_le_bytes()) < MAX_SUB));
    }
}
