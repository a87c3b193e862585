//! docs/on-disk-format.md says what src/format does: its tables are compared with the constants and with
//! what the encoders write, so that neither changes without the other.
//!
//! Expected bytes are put together here by hand, never with the encoders that are compared.

mod catalog;
mod document;
mod examples;
mod journal;
mod numbers;
mod trees;
mod volume;

use amberfs::format::Timestamp;

/// A time, and its bytes.
pub(crate) fn time(sec: i64) -> (Timestamp, Vec<u8>) {
    let nsec = 0x0a0b_0c0d;
    (Timestamp { sec, nsec }, [&sec.to_le_bytes()[..], &nsec.to_le_bytes()].concat())
}

/// Bytes of a text.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()
}

pub(crate) fn u8(value: u8) -> Vec<u8> {
    vec![value]
}

pub(crate) fn u16(value: u16) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

pub(crate) fn u32(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

pub(crate) fn u64(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

pub(crate) fn zeros(len: usize) -> Vec<u8> {
    vec![0; len]
}
