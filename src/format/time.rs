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

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Timestamp, DecodeError> {
        Timestamp::decode(&mut Decoder::new("time", bytes))
    }

    proptest! {
        #[test]
        fn times_come_back_and_order_as_they_pass(sec: i64, nsec in 0u32..1_000_000_000) {
            let time = Timestamp { sec, nsec };
            let mut out = Encoder::new();
            time.encode(&mut out);
            prop_assert_eq!(out.0.len(), Timestamp::LEN);
            prop_assert_eq!(decode(&out.0), Ok(time));
            prop_assert!(decode(&out.0[..11]).is_err());
            let begin = Timestamp { sec, nsec: 0 };
            prop_assert!(time >= begin);
        }

        #[test]
        fn a_second_has_no_more_nanoseconds(nsec in 1_000_000_000u32..) {
            let bytes = [&[0; 8][..], &nsec.to_le_bytes()].concat();
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
