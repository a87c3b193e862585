//! A device in memory, for tests and benchmarks.

use std::io;

use parking_lot::RwLock;

use super::{BlockDevice, Contents};

/// A sparse device in memory; `sync` has nothing to do.
#[derive(Debug, Default)]
pub struct MemoryDevice {
    contents: RwLock<Contents>,
}

impl MemoryDevice {
    /// Makes an empty device.
    pub fn new() -> MemoryDevice {
        MemoryDevice::default()
    }

    /// Makes a device that begins with `contents`.
    pub fn with_contents(contents: Contents) -> MemoryDevice {
        MemoryDevice { contents: RwLock::new(contents) }
    }

    /// Returns the bytes as they are now; cheap, later writes don't show in them.
    pub fn contents(&self) -> Contents {
        self.contents.read().clone()
    }
}

impl BlockDevice for MemoryDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.contents.read().read(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.contents.write().write(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.contents.write().punch(offset, len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.contents.read().len_bytes())
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.contents.write().grow(len_bytes)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
