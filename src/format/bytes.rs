//! Cursor types over byte slices: every record is written and read through them.
//!
//! Integers are little-endian and fixed width. A short or malformed record is a [`DecodeError`] that
//! names the record, the field and the byte offset; nothing here panics on any input.

use std::fmt;

use super::key::MAX_SUB;

/// Says which field of which record could not be decoded, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{record}: bad {field} at byte {offset}")]
pub struct DecodeError {
    /// Name of the record type, for example `inode`.
    pub record: &'static str,
    /// Name of the field that was missing or out of range.
    pub field: &'static str,
    /// Byte offset in the record at which the field begins.
    pub offset: usize,
}

/// Reads fields in order from the bytes of one record.
pub struct Decoder<'a> {
    record: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decoder({} at {} of {})", self.record, self.at, self.bytes.len())
    }
}

macro_rules! integers {
    ($($name:ident: $ty:ty),*) => {$(
        /// Reads one little-endian integer.
        pub fn $name(&mut self, field: &'static str) -> Result<$ty, DecodeError> {
            const LEN: usize = size_of::<$ty>();
            let mut raw = [0u8; LEN];
            raw.copy_from_slice(self.take(LEN, field)?);
            Ok(<$ty>::from_le_bytes(raw))
        }
    )*};
}

impl<'a> Decoder<'a> {
    /// Starts at the first byte of `bytes`; `record` names the record type in errors.
    pub fn new(record: &'static str, bytes: &'a [u8]) -> Self {
        Decoder { record, bytes, at: 0 }
    }

    integers!(u8: u8, u16: u16, u32: u32, u64: u64, u128: u128, i64: i64);

    /// Reads a number of something: at most [`MAX_SUB`], so that a key holds it, and so that sums and
    /// successors of such numbers stay far from overflow.
    pub fn number(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let error = self.error(field);
        self.u64(field).and_then(|number| if number <= MAX_SUB { Ok(number) } else { Err(error) })
    }

    /// Returns the next `len` bytes.
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).ok_or_else(|| self.error(field))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| self.error(field))?;
        self.at = end;
        Ok(taken)
    }

    /// Reads a fixed-size byte array.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let mut raw = [0u8; N];
        raw.copy_from_slice(self.take(N, field)?);
        Ok(raw)
    }

    /// Returns all that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        self.at = self.bytes.len();
        rest
    }

    /// Returns how many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Returns the error for `field` at the present offset.
    pub fn error(&self, field: &'static str) -> DecodeError {
        DecodeError { record: self.record, field, offset: self.at }
    }

    /// Fails unless every byte was consumed.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.remaining() == 0 { Ok(()) } else { Err(self.error("trailing bytes")) }
    }
}

/// Appends fields in order to a buffer.
#[derive(Debug, Default, Clone)]
pub struct Encoder(pub Vec<u8>);

macro_rules! put_integers {
    ($($name:ident: $ty:ty),*) => {$(
        /// Appends one little-endian integer.
        pub fn $name(&mut self, value: $ty) -> &mut Self {
            self.0.extend_from_slice(&value.to_le_bytes());
            self
        }
    )*};
}

impl Encoder {
    /// Starts with an empty buffer.
    pub fn new() -> Self {
        Encoder::default()
    }

    put_integers!(u8: u8, u16: u16, u32: u32, u64: u64, u128: u128, i64: i64);

    /// Appends raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}
