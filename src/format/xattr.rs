//! Extended attributes: a chain of all attributes of an inode whose names share a hash.
//!
//! Value of a key (inode, Xattr, hash of the whole name): one after the other
//!
//! | size | field |
//! |---|---|
//! | 1 | length of the name, 1 to 255 |
//! | 1 | place of the value: 0 here, 1 in chunks |
//! | 4 | length of the value, at most [`MAX_XATTR_VALUE`] |
//! | length | name, with its namespace (`user.x`) |
//! | length or 8 | the value; or the number of its chunks |
//!
//! A value longer than [`MAX_XATTR_INLINE`] is cut into pieces of [`XATTR_CHUNK`] bytes, the last one
//! shorter. The n-th is the whole value of the key (inode, XattrChunk, number << 8 | n).

use super::bytes::{DecodeError, Decoder, Encoder};
use super::catalog::MAX_NAME;
use super::dirent::name_hash;
use super::key::SUB_BITS;

/// Longest value.
pub const MAX_XATTR_VALUE: usize = 65536;
/// Longest value that is kept with its name: three such entries with the longest names fit in a chain.
pub const MAX_XATTR_INLINE: usize = 1024;
/// Bytes of a value in one chunk.
pub const XATTR_CHUNK: usize = 4096;
/// Largest chunk number: eight bits of a key's sub count the chunks of one value.
pub const MAX_CHUNK_ID: u64 = (1 << (SUB_BITS - 8)) - 1;

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrValue<'a> {
    /// Here.
    Inline(&'a [u8]),
    /// In chunks: their number and the length of the value.
    Chunked {
        /// Number of the chunks.
        id: u64,
        /// Bytes of the value, more than [`MAX_XATTR_INLINE`].
        len: u32,
    },
}

impl XattrValue<'_> {
    /// Bytes of the value.
    pub fn len(&self) -> usize {
        match self {
            XattrValue::Inline(bytes) => bytes.len(),
            XattrValue::Chunked { len, .. } => *len as usize,
        }
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One attribute, as it lies in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// Name with its namespace.
    pub name: &'a [u8],
    /// Value.
    pub value: XattrValue<'a>,
}

impl<'a> Xattr<'a> {
    /// Appends the attribute to a chain.
    pub fn encode(&self, chain: &mut Vec<u8>) {
        debug_assert!((1..=MAX_NAME).contains(&self.name.len()));
        let mut out = Encoder(std::mem::take(chain));
        let chunked = matches!(self.value, XattrValue::Chunked { .. });
        out.u8(self.name.len() as u8).u8(u8::from(chunked)).u32(self.value.len() as u32);
        out.bytes(self.name);
        match self.value {
            XattrValue::Inline(bytes) => out.bytes(bytes),
            XattrValue::Chunked { id, .. } => out.u64(id),
        };
        *chain = out.0;
    }

    fn decode(d: &mut Decoder<'a>) -> Result<Xattr<'a>, DecodeError> {
        let name_len = usize::from(d.u8("name length")?);
        let place = d.u8("place")?;
        let len = d.u32("value length")?;
        let limit = if place == 0 { MAX_XATTR_INLINE } else { MAX_XATTR_VALUE };
        if name_len == 0 || place > 1 || len as usize > limit {
            return Err(d.error("value length"));
        }
        let name = d.take(name_len, "name")?;
        if name.contains(&0) {
            return Err(d.error("name"));
        }
        if place == 0 {
            return Ok(Xattr { name, value: XattrValue::Inline(d.take(len as usize, "value")?) });
        }
        let id = d.u64("chunks")?;
        if id > MAX_CHUNK_ID || len as usize <= MAX_XATTR_INLINE {
            return Err(d.error("chunks"));
        }
        Ok(Xattr { name, value: XattrValue::Chunked { id, len } })
    }
}

/// Iterates over a chain; ends after the first error.
#[derive(Debug)]
pub struct XattrChain<'a> {
    decoder: Decoder<'a>,
    failed: bool,
}

/// Iterates over the attributes in `bytes`, a whole value.
pub fn xattr_chain(bytes: &[u8]) -> XattrChain<'_> {
    XattrChain { decoder: Decoder::new("xattr", bytes), failed: false }
}

impl<'a> Iterator for XattrChain<'a> {
    type Item = Result<Xattr<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.decoder.remaining() == 0 {
            return None;
        }
        let xattr = Xattr::decode(&mut self.decoder);
        self.failed = xattr.is_err();
        Some(xattr)
    }
}

/// Hashes the names. They are few and nobody gains from a collision, so this is not the pool's secret.
const HASH_KEY: [u8; 32] = *b"amberfs: names of attributes\0\0\0\0";

/// Returns the hash under which an attribute's whole name is filed: keyed BLAKE3, cut to 56 bits.
pub fn xattr_hash(name: &[u8]) -> u64 {
    name_hash(&HASH_KEY, name)
}

/// Returns the sub field of the key of a value's n-th chunk.
pub fn xattr_chunk_sub(id: u64, n: usize) -> u64 {
    debug_assert!(id <= MAX_CHUNK_ID && n < 256);
    id << 8 | n as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (Vec<u8>, Result<Vec<u8>, (u64, u32)>);

    fn entries() -> impl Strategy<Value = Vec<Owned>> {
        let name = prop::collection::vec(1u8..=255, 1..256);
        let here = prop::collection::vec(any::<u8>(), 0..MAX_XATTR_INLINE).prop_map(Ok);
        let chunked = (0..=MAX_CHUNK_ID, MAX_XATTR_INLINE as u32 + 1..=65536).prop_map(Err);
        prop::collection::vec((name, prop_oneof![here, chunked]), 0..4)
    }

    fn chain_of(entries: &[Owned]) -> Vec<u8> {
        let mut chain = Vec::new();
        for (name, value) in entries {
            let value = match value {
                Ok(bytes) => XattrValue::Inline(bytes),
                Err((id, len)) => XattrValue::Chunked { id: *id, len: *len },
            };
            Xattr { name, value }.encode(&mut chain);
        }
        chain
    }

    proptest! {
        #[test]
        fn a_chain_decodes_to_itself(entries in entries()) {
            let chain = chain_of(&entries);
            let read: Vec<Owned> = xattr_chain(&chain)
                .map(|x| {
                    let x = x.unwrap();
                    let value = match x.value {
                        XattrValue::Inline(bytes) => Ok(bytes.to_vec()),
                        XattrValue::Chunked { id, len } => Err((id, len)),
                    };
                    (x.name.to_vec(), value)
                })
                .collect();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(xattr_chain(&bytes).count() <= 600);
        }

        #[test]
        fn a_mutated_chain_ends(entries in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut chain = chain_of(&entries);
            if !chain.is_empty() {
                let at = at.index(chain.len());
                if let Some(b) = chain.get_mut(at) { *b = byte; }
            }
            prop_assert!(xattr_chain(&chain).count() <= chain.len());
        }
    }

    #[test]
    fn three_of_the_longest_fit_in_a_value() {
        let mut chain = Vec::new();
        for _ in 0..3 {
            let value = XattrValue::Inline(&[7; MAX_XATTR_INLINE]);
            Xattr { name: &[b'n'; MAX_NAME], value }.encode(&mut chain);
        }
        assert!(chain.len() <= super::super::MAX_VALUE);
    }
}
