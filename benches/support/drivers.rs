//! Reads and writes, the same on every filesystem.
//!
//! Offsets and contents come from seeded generators. Contents do not compress.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::failure::{Failure, Result};
use super::programs::going;

/// What random reads and writes transfer at once.
pub(crate) const BLOCK: usize = 4096;
const MIB: usize = 1 << 20;

/// The generator splitmix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Fills `bytes`.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// Returns the numbers below `limit` in random order.
    pub(crate) fn shuffled(&mut self, limit: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..limit).collect();
        for at in (1..numbers.len()).rev() {
            numbers.swap(at, self.below(at as u64 + 1) as usize);
        }
        numbers
    }
}

/// A buffer of one block, aligned as O_DIRECT wants it.
struct Aligned {
    bytes: Vec<u8>,
    from: usize,
}

impl Aligned {
    fn new(random: &mut Random) -> Aligned {
        let mut bytes = vec![0; 2 * BLOCK];
        random.fill(&mut bytes);
        let from = bytes.as_ptr().align_offset(BLOCK);
        Aligned { bytes, from }
    }

    fn block(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + BLOCK]
    }
}

/// When what was written is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Once, after everything.
    AtEnd,
    /// After each write.
    Each,
    /// Writes go past the cache; at the end for the rest.
    Direct,
}

/// Writes a new file of `bytes`, a MiB at a time, and makes it durable.
pub(crate) fn write_whole(path: &Path, bytes: u64) -> Result<()> {
    let failed = |what| Failure::io(what, path);
    let file = File::create(path).map_err(failed("create"))?;
    let mut random = Random::new(bytes);
    let mut buffer = vec![0; MIB];
    random.fill(&mut buffer);
    for at in 0..bytes / MIB as u64 {
        going()?;
        // No two blocks are the same.
        for block in buffer.chunks_mut(BLOCK) {
            block[..8].copy_from_slice(&random.next().to_le_bytes());
        }
        file.write_all_at(&buffer, at * MIB as u64).map_err(failed("write"))?;
    }
    file.sync_all().map_err(failed("sync"))
}

/// Reads a file from beginning to end, a MiB at a time, and returns its length.
pub(crate) fn read_whole(path: &Path) -> Result<u64> {
    let file = File::open(path).map_err(Failure::io("open", path))?;
    let mut buffer = vec![0; MIB];
    let mut at = 0;
    loop {
        going()?;
        match file.read_at(&mut buffer, at).map_err(Failure::io("read", path))? {
            0 => return Ok(at),
            count => at += count as u64,
        }
    }
}

/// Overwrites the given blocks of a file.
pub(crate) fn write_blocks(
    path: &Path,
    blocks: impl IntoIterator<Item = u64>,
    durable: Durable,
) -> Result<()> {
    let failed = |what| Failure::io(what, path);
    let flags = if durable == Durable::Direct { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path);
    let file = file.map_err(failed("open"))?;
    let mut random = Random::new(7);
    let mut buffer = Aligned::new(&mut random);
    for block in blocks {
        going()?;
        let bytes = buffer.block();
        bytes[..8].copy_from_slice(&random.next().to_le_bytes());
        file.write_all_at(bytes, block * BLOCK as u64).map_err(failed("write"))?;
        if durable == Durable::Each {
            file.sync_data().map_err(failed("sync"))?;
        }
    }
    file.sync_data().map_err(failed("sync"))
}

/// Returns `count` random numbers of blocks of a file of `bytes`.
pub(crate) fn random_blocks(seed: u64, count: u64, bytes: u64) -> impl Iterator<Item = u64> {
    let mut random = Random::new(seed);
    (0..count).map(move |_| random.below(bytes / BLOCK as u64))
}

/// Reads `count` random blocks of a file of `bytes`.
pub(crate) fn read_random(path: &Path, bytes: u64, count: u64, seed: u64) -> Result<()> {
    let file = File::open(path).map_err(Failure::io("open", path))?;
    let mut buffer = [0; BLOCK];
    for block in random_blocks(seed, count, bytes) {
        going()?;
        file.read_exact_at(&mut buffer, block * BLOCK as u64).map_err(Failure::io("read", path))?;
    }
    Ok(())
}

/// Reads `count` random blocks, by `jobs` threads that each have a share.
pub(crate) fn read_random_by(jobs: u64, path: &Path, bytes: u64, count: u64) -> Result<()> {
    std::thread::scope(|scope| {
        let job = |seed| scope.spawn(move || read_random(path, bytes, count / jobs, seed));
        let running: Vec<_> = (1..=jobs).map(job).collect();
        let unwind = |panic| std::panic::resume_unwind(panic);
        running.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(unwind))
    })
}

/// Appends `count` records of a KiB to a new file, each durable before the next.
pub(crate) fn append(path: &Path, count: u64) -> Result<()> {
    let failed = |what| Failure::io(what, path);
    let file = File::create(path).map_err(failed("create"))?;
    let mut record = [0; 1024];
    Random::new(3).fill(&mut record);
    for at in 0..count {
        going()?;
        file.write_all_at(&record, at * 1024).map_err(failed("append to"))?;
        file.sync_all().map_err(failed("sync"))?;
    }
    Ok(())
}
