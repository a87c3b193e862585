//! Devices that log everything that changes them, in one order across a pool.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{BlockDevice, CrashStates, DeviceName, Image, Storage};

/// Something that changed a device, or made its changes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceOp {
    /// Bytes were written. After a failed write: the bytes that stood in its range then.
    Write {
        /// Which device.
        device: DeviceName,
        /// First byte.
        offset: u64,
        /// What was written.
        bytes: Arc<[u8]>,
    },
    /// A range was given back.
    Punch {
        /// Which device.
        device: DeviceName,
        /// First byte.
        offset: u64,
        /// Length of the range.
        len_bytes: u64,
    },
    /// The device was extended, or was that long already.
    Grow {
        /// Which device.
        device: DeviceName,
        /// New length.
        len_bytes: u64,
    },
    /// All before it became durable.
    Sync {
        /// Which device.
        device: DeviceName,
    },
    /// A sync failed: nothing before it, since the last good one, is durable ever.
    FailedSync {
        /// Which device.
        device: DeviceName,
    },
}

impl DeviceOp {
    /// Returns the device that it was done to.
    pub fn device(&self) -> DeviceName {
        match self {
            DeviceOp::Write { device, .. }
            | DeviceOp::Punch { device, .. }
            | DeviceOp::Grow { device, .. }
            | DeviceOp::Sync { device }
            | DeviceOp::FailedSync { device } => *device,
        }
    }
}

/// The log of what was done to a pool's storage since a known state.
///
/// Calls that change a device are done one at a time, in the order of the log. Its length is a point
/// in time: a test notes it with what it has been promised by then.
#[derive(Debug)]
pub struct Recorder {
    base: Image,
    ops: Mutex<Vec<DeviceOp>>,
}

impl Recorder {
    /// Makes a storage in memory that begins as `base`, and records what is done to it.
    pub fn new(base: Image) -> (Arc<Recorder>, Storage) {
        let storage = base.storage();
        Recorder::wrap(&storage, base)
    }

    /// Records what is done to `storage` through the storage returned; it holds `base` now.
    pub fn wrap(storage: &Storage, base: Image) -> (Arc<Recorder>, Storage) {
        let recorder = Arc::new(Recorder { base, ops: Mutex::new(Vec::new()) });
        let storage = storage.map(|device, inner| {
            Arc::new(RecordingDevice { device, inner, recorder: recorder.clone() })
        });
        (recorder, storage)
    }

    /// Returns how many operations were logged.
    pub fn len(&self) -> usize {
        self.ops.lock().len()
    }

    /// Tells whether nothing was logged yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the log.
    pub fn ops(&self) -> Vec<DeviceOp> {
        self.ops.lock().clone()
    }

    /// Returns the states that a crash could have left, beginning before the first operation.
    pub fn states(&self) -> CrashStates {
        CrashStates::new(self.base.clone(), self.ops())
    }
}

/// One device of a recorded storage.
#[derive(Debug)]
struct RecordingDevice {
    device: DeviceName,
    inner: Arc<dyn BlockDevice>,
    recorder: Arc<Recorder>,
}

impl RecordingDevice {
    /// Logs what a failed write has left in its range.
    fn log_failed_write(&self, ops: &mut Vec<DeviceOp>, offset: u64, len: usize) {
        let device = self.device;
        let end = self.inner.len_bytes().unwrap_or(0).min(offset.saturating_add(len as u64));
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        if !bytes.is_empty() && self.inner.read_at(offset, &mut bytes).is_ok() {
            ops.push(DeviceOp::Write { device, offset, bytes: bytes.into() });
        }
    }
}

impl BlockDevice for RecordingDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut ops = self.recorder.ops.lock();
        let result = self.inner.write_at(offset, bytes);
        match result {
            Ok(()) => {
                ops.push(DeviceOp::Write { device: self.device, offset, bytes: bytes.into() });
            }
            Err(_) => self.log_failed_write(&mut ops, offset, bytes.len()),
        }
        result
    }

    fn sync(&self) -> io::Result<()> {
        let device = self.device;
        let mut ops = self.recorder.ops.lock();
        let result = self.inner.sync();
        let failed = result.is_err();
        ops.push(if failed { DeviceOp::FailedSync { device } } else { DeviceOp::Sync { device } });
        result
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let mut ops = self.recorder.ops.lock();
        self.inner.punch(offset, len_bytes)?;
        ops.push(DeviceOp::Punch { device: self.device, offset, len_bytes });
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        let mut ops = self.recorder.ops.lock();
        self.inner.grow(len_bytes)?;
        ops.push(DeviceOp::Grow { device: self.device, len_bytes });
        Ok(())
    }

    fn keep_reserve(&self, len_bytes: u64) -> bool {
        self.inner.keep_reserve(len_bytes)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes()
    }
}
