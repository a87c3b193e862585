//! What is done with an input, for a fuzzer and for the plain tests alike. A body panics if it finds a bug.

pub(crate) mod limits;
pub(crate) mod operations;
pub(crate) mod pool;
pub(crate) mod records;
pub(crate) mod requests;
mod wire;

/// Reads an input: numbers that are zero when it has ended.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
}

/// Numbers at which something ends or begins.
pub(crate) const EDGES: [u64; 40] = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    257,
    2047,
    2048,
    4095,
    4096,
    4097,
    32768,
    65535,
    65536,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 42) - 1,
    1 << 42,
    (1 << 51) - 1,
    1 << 51,
    (1 << 56) - 257,
    (1 << 56) - 1,
    1 << 56,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    pub(crate) fn u16(&mut self) -> usize {
        usize::from(self.u8()) << 8 | usize::from(self.u8())
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        if end <= 256 { usize::from(self.u8()) % end.max(1) } else { self.u16() % end }
    }

    /// A number from the edge of something, or any other.
    pub(crate) fn edge(&mut self) -> u64 {
        match self.u8() {
            at @ 0..200 => EDGES[usize::from(at) % EDGES.len()],
            at @ 200..240 => u64::from(at) << (self.u8() % 56),
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.u8())),
        }
    }

    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }
}
