//! Byte-addressed storage under the pool: the trait that every upper layer writes through, and its
//! implementations.
//!
//! [`FileDevice`] is a file on the host. [`MemoryDevice`] keeps its bytes in memory, for tests and
//! benchmarks. [`PoolDir`] is the directory on the host that holds a pool, its lock and its three
//! files. A [`Storage`] is the three devices of one pool, of whatever kind.
//!
//! For tests: [`Recorder`] logs what a pool does to its storage, and [`CrashStates`] rebuilds from the
//! log what a crash could have left; [`Faults`] makes chosen calls fail.
//!
//! # Contract of [`BlockDevice`], which the layers above rest on
//!
//! 1. A call transfers all of its bytes or returns an error; short I/O and EINTR never show.
//! 2. What `write_at` has accepted is visible to every later `read_at` at once, and survives the
//!    death of this process; it survives a power cut only after a `sync` that begins later.
//! 3. Until then each 512-byte sector written since the last `sync` may be old or new after a power
//!    cut, independently of every other sector: there is no order between unsynced writes.
//! 4. After an error from `write_at` or `punch`, the bytes of that range are undefined until they
//!    are written again; all others are untouched.
//! 5. After an error from `sync`, nothing written since the last good `sync` may be counted as
//!    durable, whatever a later `sync` says: the kernel drops dirty pages that it could not write
//!    and reports that once. Callers stop writing; they don't retry.
//! 6. The length never shrinks; a byte never written, and a byte punched, reads as zero.
//!
//! A crash at any point is safe because nothing here holds state that must agree with the device:
//! upper layers order their writes with `sync` alone.
//!
//! Locks: a device's own locks are leaves; no device calls out while it holds one.

mod contents;
mod crash;
mod faulty;
mod file;
mod memory;
mod pool_dir;
mod recording;
mod regular;
mod reserve;
mod waiting;
mod write_behind;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use contents::Contents;
pub use crash::{CrashStates, Fate, Image, SECTOR_BYTES};
pub use faulty::{Fault, FaultOp, Faults};
pub use file::{DeviceError, FileDevice};
pub use memory::MemoryDevice;
pub use pool_dir::{PoolDir, PoolDirError};
pub use recording::{DeviceOp, Recorder};
pub use regular::open_regular;
pub use waiting::{Wait, watch_waits};

/// One byte-addressed device; the module head states its contract.
///
/// Offsets and lengths are bytes without any alignment. A range that ends past 2^63-1 is refused
/// with [`io::ErrorKind::InvalidInput`].
pub trait BlockDevice: Send + Sync + Debug {
    /// Fills `buf` with the bytes at `offset`; a hole reads as zeros.
    ///
    /// A range that does not lie within the length is [`io::ErrorKind::UnexpectedEof`], and `buf`
    /// is then undefined.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, and extends the device when they go past its end.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// As [`BlockDevice::write_at`], for what can't be refused: on a full host it uses the space that
    /// [`BlockDevice::keep_reserve`] has kept.
    fn write_urgently(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(offset, bytes)
    }

    /// Keeps so many bytes of the host's space from others, for [`BlockDevice::write_urgently`]; false if
    /// the host does not have them. Cheap while they are kept.
    fn keep_reserve(&self, len_bytes: u64) -> bool {
        let _ = len_bytes;
        true
    }

    /// Makes durable everything written, punched and grown before the call.
    fn sync(&self) -> io::Result<()>;

    /// Makes the range read as zeros and gives its space back to the host where that can be done.
    ///
    /// Never changes the length; the part of the range past the end is ignored.
    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()>;

    /// Returns the length in bytes.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Extends the device to `len_bytes`; does nothing if it is that long already.
    fn grow(&self, len_bytes: u64) -> io::Result<()>;

    /// Returns how many bytes the host could still give to this device.
    fn available_bytes(&self) -> io::Result<u64>;

    /// Returns the file behind the device, for splice; only a [`FileDevice`] has one.
    fn file(&self) -> Option<&std::fs::File> {
        None
    }
}

/// Names one of a pool's three devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceName {
    /// [`Storage::superblock`].
    Superblock,
    /// [`Storage::journal`].
    Journal,
    /// [`Storage::data`].
    Data,
}

/// The three devices of one pool.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Two superblock slots.
    pub superblock: Arc<dyn BlockDevice>,
    /// Fixed-size circular log.
    pub journal: Arc<dyn BlockDevice>,
    /// Nodes and file data, addressed in blocks.
    pub data: Arc<dyn BlockDevice>,
}

impl Storage {
    /// Makes three empty memory devices.
    pub fn memory() -> Storage {
        Storage {
            superblock: Arc::new(MemoryDevice::new()),
            journal: Arc::new(MemoryDevice::new()),
            data: Arc::new(MemoryDevice::new()),
        }
    }

    /// Returns one of the devices.
    pub fn device(&self, name: DeviceName) -> &Arc<dyn BlockDevice> {
        match name {
            DeviceName::Superblock => &self.superblock,
            DeviceName::Journal => &self.journal,
            DeviceName::Data => &self.data,
        }
    }

    /// Makes a storage of what `wrap` makes of each device.
    pub fn map(
        &self,
        wrap: impl Fn(DeviceName, Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice>,
    ) -> Storage {
        let wrap = |name| wrap(name, self.device(name).clone());
        Storage {
            superblock: wrap(DeviceName::Superblock),
            journal: wrap(DeviceName::Journal),
            data: wrap(DeviceName::Data),
        }
    }
}

/// Returns the end of a range, or InvalidInput if no file could be that long.
fn range_end(offset: u64, len_bytes: u64) -> io::Result<u64> {
    match offset.checked_add(len_bytes) {
        Some(end) if i64::try_from(end).is_ok() => Ok(end),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{len_bytes} bytes at {offset} end past the largest file offset"),
        )),
    }
}
