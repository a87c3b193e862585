//! What the background works on: a large file whose blocks were written in random order, so that its map is
//! as large as it gets, and many small files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::drivers::{BLOCK, Durable, Random, write_blocks, write_whole};
use crate::failure::{Failure, Result};
use crate::programs::going;

/// Small files, and bytes in each.
const FILES: u64 = 50_000;
const FILE_BYTES: usize = 1024;
const IN_DIRECTORY: u64 = 1000;
/// Bytes of the large file.
const LARGE_BYTES: u64 = 1 << 30;
/// A situation of so many seconds has all of it; a shorter one a part.
const WHOLE_SECONDS: u64 = 20;

/// The large file and the small ones, below one directory.
pub(crate) struct Content {
    root: PathBuf,
    blocks: u64,
    files: u64,
}

impl Content {
    /// Says what there is to be below `root` for a situation of so many seconds.
    pub(crate) fn sized(root: &Path, seconds: u64) -> Content {
        let part = |whole: u64| (whole * seconds.min(WHOLE_SECONDS)).div_ceil(WHOLE_SECONDS);
        let blocks = part(LARGE_BYTES / BLOCK as u64).next_multiple_of(256);
        Content { root: root.join("content"), blocks, files: part(FILES) }
    }

    /// Returns the large file's path.
    pub(crate) fn large(&self) -> PathBuf {
        self.root.join("large")
    }

    fn small(&self, number: u64) -> PathBuf {
        self.root.join(format!("{}/{number}", number / IN_DIRECTORY))
    }

    /// Makes all of it.
    pub(crate) fn make(&self) -> Result<()> {
        for number in (0..self.files).step_by(IN_DIRECTORY as usize) {
            let dir = self.root.join((number / IN_DIRECTORY).to_string());
            fs::create_dir_all(&dir).map_err(Failure::io("make the directory", &dir))?;
        }
        write_whole(&self.large(), self.blocks * BLOCK as u64)?;
        self.replace(1)
    }

    /// Writes all blocks of the large file anew, in random order, and all small files: half of them are
    /// removed and made again, half overwritten.
    pub(crate) fn replace(&self, seed: u64) -> Result<()> {
        let mut random = Random::new(seed);
        write_blocks(&self.large(), random.shuffled(self.blocks), Durable::AtEnd)?;
        for number in 0..self.files {
            going()?;
            let path = self.small(number);
            if number % 2 == 0 && path.exists() {
                fs::remove_file(&path).map_err(Failure::io("remove", &path))?;
            }
            self.write_small(number, random.next())?;
        }
        Ok(())
    }

    fn write_small(&self, number: u64, word: u64) -> Result<()> {
        let path = self.small(number);
        let content = word.to_le_bytes().repeat(FILE_BYTES / 8);
        fs::write(&path, content).map_err(Failure::io("write", &path))
    }

    /// Writes so many random blocks of the large file, and closes it: then they leave the caches above the
    /// filesystem.
    pub(crate) fn overwrite_blocks(&self, count: u64, random: &mut Random) -> Result<()> {
        let path = self.large();
        let file = File::options().write(true).open(&path).map_err(Failure::io("open", &path))?;
        for _ in 0..count {
            let block = random.next().to_le_bytes().repeat(BLOCK / 8);
            let offset = random.below(self.blocks) * BLOCK as u64;
            file.write_all_at(&block, offset).map_err(Failure::io("write", &path))?;
        }
        Ok(())
    }

    /// Removes so many random small files, or makes them if they are not there, or overwrites them.
    pub(crate) fn change_files(&self, count: u64, random: &mut Random) -> Result<()> {
        for _ in 0..count {
            let number = random.below(self.files);
            let path = self.small(number);
            match random.below(3) {
                0 if path.exists() => {
                    fs::remove_file(&path).map_err(Failure::io("remove", &path))?;
                }
                _ => self.write_small(number, random.next())?,
            }
        }
        Ok(())
    }
}
