//! A device's bytes in memory: sparse, and cheap to clone because clones share what neither changes.
//!
//! Chunks of 16 KiB hang in tables of 64, tables in a map, each behind an [`Arc`]. A clone copies the
//! map (one entry per touched MiB); the first write to a shared chunk copies it and its table. An
//! absent chunk is zeros, and zeros written to an absent chunk leave it absent.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::range_end;

/// Bytes in a chunk: one tree node, so that a node's write copies no neighbour.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks in a table, which so covers 1 MiB.
const TABLE_CHUNKS: usize = 64;
const TABLE_BYTES: u64 = (CHUNK_BYTES * TABLE_CHUNKS) as u64;

type Chunk = [u8; CHUNK_BYTES];

#[derive(Clone)]
struct Table([Option<Arc<Chunk>>; TABLE_CHUNKS]);

impl Table {
    fn new() -> Table {
        Table([const { None }; TABLE_CHUNKS])
    }
}

/// The bytes of one device at one instant.
#[derive(Clone, Default)]
pub struct Contents {
    len_bytes: u64,
    tables: BTreeMap<u64, Arc<Table>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contents({} bytes, {} MiB touched)", self.len_bytes, self.tables.len())
    }
}

/// A part of a range that lies in one chunk.
struct Piece {
    table: u64,
    chunk: usize,
    start: usize,
    len: usize,
}

/// Cuts a range at chunk borders.
fn pieces(offset: u64, len_bytes: u64) -> impl Iterator<Item = Piece> {
    let end = offset + len_bytes;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let in_table = (at % TABLE_BYTES) as usize;
        let start = in_table % CHUNK_BYTES;
        let len = ((CHUNK_BYTES - start) as u64).min(end - at) as usize;
        let piece = Piece { table: at / TABLE_BYTES, chunk: in_table / CHUNK_BYTES, start, len };
        at += len as u64;
        Some(piece)
    })
}

impl Contents {
    /// Makes an empty device's contents, of length zero.
    pub fn new() -> Contents {
        Contents::default()
    }

    /// Returns the length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Fills `buf` from `offset`; UnexpectedEof if the range passes the end.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = range_end(offset, buf.len() as u64)?;
        if end > self.len_bytes {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} bytes at {offset} pass the end at {}", buf.len(), self.len_bytes),
            ));
        }
        let mut rest = buf;
        for piece in pieces(offset, end - offset) {
            let (into, after) = rest.split_at_mut(piece.len);
            match self.tables.get(&piece.table).and_then(|table| table.0[piece.chunk].as_ref()) {
                Some(chunk) => {
                    into.copy_from_slice(&chunk[piece.start..piece.start + piece.len]);
                }
                None => into.fill(0),
            }
            rest = after;
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`, and extends the length when they go past it.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = range_end(offset, bytes.len() as u64)?;
        let mut rest = bytes;
        for piece in pieces(offset, end - offset) {
            let (from, after) = rest.split_at(piece.len);
            rest = after;
            let absent =
                self.tables.get(&piece.table).is_none_or(|table| table.0[piece.chunk].is_none());
            if absent && is_zero(from) {
                continue;
            }
            let table = self.tables.entry(piece.table).or_insert_with(|| Arc::new(Table::new()));
            let chunk = Arc::make_mut(table).0[piece.chunk]
                .get_or_insert_with(|| Arc::new([0; CHUNK_BYTES]));
            Arc::make_mut(chunk)[piece.start..piece.start + piece.len].copy_from_slice(from);
        }
        if !bytes.is_empty() {
            self.len_bytes = self.len_bytes.max(end);
        }
        Ok(())
    }

    /// Makes the part of the range that lies within the length read as zeros.
    pub fn punch(&mut self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let end = range_end(offset, len_bytes)?.min(self.len_bytes);
        if offset >= end {
            return Ok(());
        }
        // Only what is there is visited, so that a punch of a terabyte of holes costs nothing.
        let touched: Vec<u64> = self
            .tables
            .range(offset / TABLE_BYTES..=(end - 1) / TABLE_BYTES)
            .map(|(&index, _)| index)
            .collect();
        for index in touched {
            let from = offset.max(index * TABLE_BYTES);
            let to = end.min((index + 1) * TABLE_BYTES);
            if to - from == TABLE_BYTES {
                self.tables.remove(&index);
            } else if let Some(table) = self.tables.get_mut(&index) {
                punch_table(Arc::make_mut(table), from, to);
            }
        }
        Ok(())
    }

    /// Extends the length; never shrinks it.
    pub fn grow(&mut self, len_bytes: u64) -> io::Result<()> {
        self.len_bytes = self.len_bytes.max(range_end(0, len_bytes)?);
        Ok(())
    }
}

/// Zeroes `from..to` (device offsets) in the one table that the range lies in.
fn punch_table(table: &mut Table, from: u64, to: u64) {
    for piece in pieces(from, to - from) {
        let slot = &mut table.0[piece.chunk];
        if piece.len == CHUNK_BYTES {
            *slot = None;
        } else if let Some(chunk) = slot {
            Arc::make_mut(chunk)[piece.start..piece.start + piece.len].fill(0);
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Blocks of 64 so that the compiler compares vectors, with an early end at the first set byte.
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, usize, u8),
        Punch(u64, u64),
        Grow(u64),
        Clone,
    }

    fn step() -> impl Strategy<Value = Step> {
        let far = 0..3_000_000u64;
        prop_oneof![
            4 => (far.clone(), 0..100_000usize, 0..4u8).prop_map(|(o, l, b)| Step::Write(o, l, b)),
            2 => (far.clone(), 0..2_500_000u64).prop_map(|(o, l)| Step::Punch(o, l)),
            1 => far.prop_map(Step::Grow),
            1 => Just(Step::Clone),
        ]
    }

    fn all(contents: &Contents) -> Vec<u8> {
        let mut bytes = vec![1; contents.len_bytes() as usize];
        contents.read(0, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn behaves_like_a_vector(steps in prop::collection::vec(step(), 1..24)) {
            let mut contents = Contents::new();
            let mut model: Vec<u8> = Vec::new();
            let mut kept: Vec<(Contents, Vec<u8>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(offset, len, byte) => {
                        contents.write(offset, &vec![byte; len]).unwrap();
                        let end = offset as usize + len;
                        if len > 0 {
                            model.resize(model.len().max(end), 0);
                            model[offset as usize..end].fill(byte);
                        }
                    }
                    Step::Punch(offset, len) => {
                        contents.punch(offset, len).unwrap();
                        let end = ((offset + len) as usize).min(model.len());
                        if (offset as usize) < end {
                            model[offset as usize..end].fill(0);
                        }
                    }
                    Step::Grow(len) => {
                        contents.grow(len).unwrap();
                        model.resize(model.len().max(len as usize), 0);
                    }
                    Step::Clone => kept.push((contents.clone(), model.clone())),
                }
                prop_assert_eq!(contents.len_bytes(), model.len() as u64);
            }
            prop_assert!(all(&contents) == model);
            // A clone is an instant: nothing written later shows in it.
            for (clone, model) in kept {
                prop_assert!(all(&clone) == model);
            }
        }
    }

    #[test]
    fn stays_sparse() {
        let mut contents = Contents::new();
        contents.grow(1 << 60).unwrap();
        contents.write(1 << 59, &[7; 3]).unwrap();
        contents.write(0, &[0; 100_000]).unwrap();
        assert_eq!(contents.tables.len(), 1);
        contents.punch(0, 1 << 60).unwrap();
        assert_eq!(contents.tables.len(), 0);
    }

    #[test]
    fn refuses_what_no_file_could_hold() {
        let mut contents = Contents::new();
        for offset in [u64::MAX, i64::MAX as u64] {
            let kind = |result: io::Result<()>| result.unwrap_err().kind();
            assert_eq!(kind(contents.write(offset, &[1])), io::ErrorKind::InvalidInput);
            assert_eq!(kind(contents.read(offset, &mut [0])), io::ErrorKind::InvalidInput);
            assert_eq!(kind(contents.punch(offset, 1)), io::ErrorKind::InvalidInput);
        }
        assert_eq!(contents.read(0, &mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
