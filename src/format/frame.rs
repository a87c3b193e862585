//! The frame around each journal record: what makes a record recognisable as the next one.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic: `AmJr` |
//! | 4 | 4 | payload length |
//! | 8 | 8 | sequence number |
//! | 16 | 8 | nonce of the opening of the pool that wrote it |
//! | 24 | 4 | chain: checksum of the record before |
//! | 28 | 4 | checksum: CRC32C of the pool's 16-byte salt, bytes 0 to 28, and the payload |
//! | 32 | n | payload, then zeros up to a multiple of 8 |

use super::bytes::{DecodeError, Decoder};
use super::ids::Seq;

/// First four bytes of a frame, read as an integer.
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"AmJr");
/// Bytes before the payload.
pub const FRAME_HEADER: usize = 32;
/// Frames begin at multiples of this.
pub const FRAME_ALIGN: usize = 8;
/// Largest payload: 1 MiB.
pub const MAX_RECORD: usize = 1 << 20;
/// Bytes of the header that the checksum covers.
const CHECKED: usize = FRAME_HEADER - 4;

/// The header of a frame, but for its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of payload, at most [`MAX_RECORD`].
    pub payload_bytes: u32,
    /// Sequence number.
    pub seq: Seq,
    /// Differs between openings of the pool.
    pub nonce: u64,
    /// Checksum of the record before; of the first record, 0.
    pub chain: u32,
}

/// Returns how many bytes a frame with such a payload takes.
pub fn frame_bytes(payload_bytes: usize) -> usize {
    (FRAME_HEADER + payload_bytes).next_multiple_of(FRAME_ALIGN)
}

/// Returns what a checksum begins with in the pool that has this salt.
pub fn frame_salt(salt: &[u8; 16]) -> u32 {
    crc32c::crc32c(salt)
}

impl FrameHeader {
    /// Returns the encoded header with its checksum, and the checksum.
    ///
    /// `salt` comes from [`frame_salt`]; `payload` has the length that the header says.
    pub fn seal(&self, salt: u32, payload: &[u8]) -> ([u8; FRAME_HEADER], u32) {
        let mut out = [0; FRAME_HEADER];
        let (checked, checksum) = out.split_at_mut(CHECKED);
        checked.copy_from_slice(&self.checked_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(salt, checked), payload);
        checksum.copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// Returns the checksum that a frame with this header and payload must carry.
    pub fn checksum(&self, salt: u32, payload: &[u8]) -> u32 {
        self.seal(salt, payload).1
    }

    /// Decodes the first [`FRAME_HEADER`] bytes of a frame, and returns its checksum, unverified.
    pub fn decode(bytes: &[u8]) -> Result<(FrameHeader, u32), DecodeError> {
        let mut d = Decoder::new("journal frame", bytes);
        let magic = d.error("magic");
        if d.u32("magic")? != FRAME_MAGIC {
            return Err(magic);
        }
        let length = d.error("payload length");
        let payload_bytes = d.u32("payload length")?;
        if payload_bytes as usize > MAX_RECORD {
            return Err(length);
        }
        let (seq, nonce) = (Seq(d.u64("sequence number")?), d.u64("nonce")?);
        let chain = d.u32("chain")?;
        Ok((FrameHeader { payload_bytes, seq, nonce, chain }, d.u32("checksum")?))
    }

    fn checked_bytes(&self) -> [u8; CHECKED] {
        let mut out = [0; CHECKED];
        let fields = [
            &FRAME_MAGIC.to_le_bytes()[..],
            &self.payload_bytes.to_le_bytes(),
            &self.seq.0.to_le_bytes(),
            &self.nonce.to_le_bytes(),
            &self.chain.to_le_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;

    const HEADER: FrameHeader =
        FrameHeader { payload_bytes: 3, seq: Seq(0x0102), nonce: 0x0304, chain: 0x0506 };

    #[test]
    fn has_the_documented_layout() {
        let (bytes, checksum) = HEADER.seal(frame_salt(&[9; 16]), b"abc");
        let mut expected =
            b"AmJr\x03\0\0\0\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x06\x05\0\0".to_vec();
        let crc = crc32c::crc32c(&[&[9; 16][..], &expected, b"abc"].concat());
        expected.extend(crc.to_le_bytes());
        assert_eq!((bytes.as_slice(), checksum), (expected.as_slice(), crc));
        assert_eq!([frame_bytes(0), frame_bytes(1), frame_bytes(8)], [32, 40, 40]);
    }

    #[test]
    fn a_payload_above_the_limit_is_refused() {
        let header = FrameHeader { payload_bytes: MAX_RECORD as u32 + 1, ..HEADER };
        let error = FrameHeader::decode(&header.seal(0, &[]).0).unwrap_err();
        assert_eq!((error.field, error.offset), ("payload length", 4));
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            seq: u64, nonce: u64, chain: u32, salt: u32,
        ) {
            let payload_bytes = payload.len() as u32;
            let header = FrameHeader { payload_bytes, seq: Seq(seq), nonce, chain };
            let (bytes, checksum) = header.seal(salt, &payload);
            prop_assert_eq!(FrameHeader::decode(&bytes), Ok((header, checksum)));
        }

        #[test]
        fn takes_arbitrary_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..64), magic: bool) {
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(b"AmJr");
            }
            if let Ok((header, _)) = FrameHeader::decode(&bytes) {
                prop_assert!(header.payload_bytes as usize <= MAX_RECORD);
            }
        }
    }
}
