//! Checked reading of a request's bytes.

/// A request that is shorter than its structure says, or whose strings do not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed request: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads fields in order; never past the end, never panics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

macro_rules! integers {
    ($($name:ident: $ty:ty),*) => {$(
        /// Reads one integer in the host's byte order.
        pub(crate) fn $name(&mut self) -> Result<$ty, Malformed> {
            let (raw, rest) = self.rest.split_first_chunk().ok_or(Malformed("too short"))?;
            self.rest = rest;
            Ok(<$ty>::from_ne_bytes(*raw))
        }
    )*};
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    integers!(u16: u16, u32: u32, u64: u64);

    /// Passes over `len` bytes.
    pub(crate) fn skip(&mut self, len: usize) -> Result<(), Malformed> {
        self.take(len).map(|_| ())
    }

    /// Returns the next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed("too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Returns the bytes up to the next NUL, and passes over that.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let end =
            self.rest.iter().position(|&b| b == 0).ok_or(Malformed("a name without its end"))?;
        let name = self.take(end)?;
        self.skip(1)?;
        Ok(name)
    }

    /// Returns everything that has not been read.
    pub(crate) fn remaining(self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_stops_at_the_end() {
        let mut bytes = 7u32.to_ne_bytes().to_vec();
        bytes.extend(b"ab\0c");
        let mut cursor = Cursor::new(&bytes);
        assert_eq!(cursor.u32(), Ok(7));
        assert_eq!(cursor.string(), Ok(&b"ab"[..]));
        assert_eq!(cursor.u16(), Err(Malformed("too short")));
        assert_eq!(cursor.string(), Err(Malformed("a name without its end")));
        assert_eq!(cursor.remaining(), b"c");
    }
}
