//! The content of files, in cells that say where they come from.

/// Bytes of a cell: a sector, so that eight are a block and four still fit into a leaf.
pub(crate) const CELL: usize = 512;
const MAGIC: [u8; 4] = *b"cell";

/// Names what a cell holds: the operation that wrote it, and the place that it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub round: u32,
    pub thread: u32,
    pub seq: u32,
    pub at: u32,
}

/// Numbers that are the same from the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

impl Token {
    fn words(self) -> [u32; 4] {
        [self.round, self.thread, self.seq, self.at]
    }

    /// The bytes of a cell with this token; no byte of it is like that of another token, but by chance.
    pub(crate) fn bytes(self) -> [u8; CELL] {
        let mut bytes = [0; CELL];
        bytes[..4].copy_from_slice(&MAGIC);
        let mut mixed = Random(0);
        for (place, word) in bytes[4..20].chunks_mut(4).zip(self.words()) {
            place.copy_from_slice(&word.to_le_bytes());
            mixed.0 = mixed.next() ^ u64::from(word);
        }
        for place in bytes[20..].chunks_mut(8) {
            let next = mixed.next().to_le_bytes();
            place.copy_from_slice(&next[..place.len()]);
        }
        bytes
    }
}

/// Returns what a cell holds, nothing if it is zeros; an error if it is neither.
pub(crate) fn parse(cell: &[u8]) -> Result<Option<Token>, String> {
    if cell.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&cell[at..at + 4]);
        u32::from_le_bytes(word)
    };
    if cell.len() == CELL {
        let token = Token { round: word(4), thread: word(8), seq: word(12), at: word(16) };
        if token.bytes() == cell {
            return Ok(Some(token));
        }
    }
    Err(format!("garbage: {:02x?}..", &cell[..cell.len().min(32)]))
}
