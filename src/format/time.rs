//! Points in time, to the nanosecond.

use super::bytes::{DecodeError, Decoder, Encoder};

/// Seconds and nanoseconds since 1970; `nsec` is below 10^9 and counts forward, before 1970 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

impl Timestamp {
    /// Bytes of an encoded time.
    pub const LEN: usize = 12;

    /// Appends seconds (8) and nanoseconds (4).
    pub fn encode(self, out: &mut Encoder) {
        out.i64(self.sec).u32(self.nsec);
    }

    /// Reads a time; nanoseconds of a second or more are an error.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Timestamp, DecodeError> {
        let sec = d.i64("seconds")?;
        let nsec = d.u32("nanoseconds")?;
        if nsec < 1_000_000_000 { Ok(Timestamp { sec, nsec }) } else { Err(d.error("nanoseconds")) }
    }
}
