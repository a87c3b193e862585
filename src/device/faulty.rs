//! Devices that fail on demand.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{BlockDevice, DeviceName, SECTOR_BYTES, Storage};

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultOp {
    /// [`BlockDevice::read_at`]
    Read,
    /// [`BlockDevice::write_at`]
    Write,
    /// [`BlockDevice::sync`]
    Sync,
    /// [`BlockDevice::punch`]
    Punch,
    /// [`BlockDevice::grow`]
    Grow,
}

impl FaultOp {
    /// All kinds.
    pub const ALL: [FaultOp; 5] =
        [FaultOp::Read, FaultOp::Write, FaultOp::Sync, FaultOp::Punch, FaultOp::Grow];
}

/// Which calls fail, and how.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The kind of call.
    pub op: FaultOp,
    /// Calls of this device only; None: of any.
    pub device: Option<DeviceName>,
    /// Which of the matching calls from now on; the next is 1.
    pub nth: u64,
    /// All calls after it fail, too.
    pub lasting: bool,
    /// The errno, for example `libc::EIO`.
    pub errno: i32,
}

/// What the devices of one storage have been asked, and what is to fail.
///
/// A failed write has written a first part of its bytes: half of its sectors, rounded down, as an
/// interrupted one does; a failed read has filled half of its buffer, and the rest of it with what was never
/// there. Other failed calls have no effect. Nothing fails before a fault is armed.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Calls of each kind, in the order of [`FaultOp::ALL`].
    calls: [u64; FaultOp::ALL.len()],
    /// With how many matching calls each has seen.
    armed: Vec<(Fault, u64)>,
    injected: u64,
    available_bytes: Option<u64>,
}

impl Faults {
    /// Makes a set without faults.
    pub fn new() -> Arc<Faults> {
        Arc::new(Faults::default())
    }

    /// Returns a storage whose calls go to `storage`, or fail.
    pub fn wrap(self: &Arc<Faults>, storage: &Storage) -> Storage {
        storage.map(|name, inner| Arc::new(FaultyDevice { name, inner, faults: self.clone() }))
    }

    /// Adds a fault.
    ///
    /// # Panics
    /// If `nth` is 0: calls are counted from 1.
    pub fn arm(&self, fault: Fault) {
        assert!(fault.nth > 0, "calls are counted from 1");
        self.state.lock().armed.push((fault, 0));
    }

    /// Makes the `nth` call of a kind from now on fail, once, whatever the device.
    pub fn fail_nth(&self, op: FaultOp, nth: u64, errno: i32) {
        self.arm(Fault { op, device: None, nth, lasting: false, errno });
    }

    /// Takes all faults back, and the limit of available bytes.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.armed.clear();
        state.available_bytes = None;
    }

    /// Sets what `available_bytes` of every device answers.
    pub fn set_available_bytes(&self, available_bytes: u64) {
        self.state.lock().available_bytes = Some(available_bytes);
    }

    /// Returns how many calls of a kind there were, failed ones included.
    pub fn calls(&self, op: FaultOp) -> u64 {
        self.state.lock().calls[op as usize]
    }

    /// Returns how many calls were made to fail.
    pub fn injected(&self) -> u64 {
        self.state.lock().injected
    }

    /// Counts a call, and fails if a fault says so.
    fn check(&self, op: FaultOp, name: DeviceName) -> io::Result<()> {
        let mut state = self.state.lock();
        state.calls[op as usize] += 1;
        let mut errno = None;
        for (fault, seen) in &mut state.armed {
            if fault.op == op && fault.device.is_none_or(|device| device == name) {
                *seen += 1;
                if *seen == fault.nth || fault.lasting && *seen > fault.nth {
                    errno = errno.or(Some(fault.errno));
                }
            }
        }
        let Some(errno) = errno else { return Ok(()) };
        state.injected += 1;
        Err(io::Error::from_raw_os_error(errno))
    }
}

/// One device of a storage with faults.
#[derive(Debug)]
struct FaultyDevice {
    name: DeviceName,
    inner: Arc<dyn BlockDevice>,
    faults: Arc<Faults>,
}

impl BlockDevice for FaultyDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if let Err(error) = self.faults.check(FaultOp::Read, self.name) {
            let (first, rest) = buf.split_at_mut(buf.len() / 2);
            rest.fill(0xa5);
            self.inner.read_at(offset, first)?;
            return Err(error);
        }
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.faults.check(FaultOp::Write, self.name) {
            let sectors = bytes.len() as u64 / SECTOR_BYTES / 2;
            self.inner.write_at(offset, &bytes[..(sectors * SECTOR_BYTES) as usize])?;
            return Err(error);
        }
        self.inner.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.check(FaultOp::Sync, self.name)?;
        self.inner.sync()
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.faults.check(FaultOp::Punch, self.name)?;
        self.inner.punch(offset, len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.faults.check(FaultOp::Grow, self.name)?;
        self.inner.grow(len_bytes)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        match self.faults.state.lock().available_bytes {
            Some(available_bytes) => Ok(available_bytes),
            None => self.inner.available_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_fails_once_and_counters_are_shared() {
        let faults = Faults::new();
        let storage = faults.wrap(&Storage::memory());
        storage.data.write_at(0, &[1; 10]).unwrap();
        faults.fail_nth(FaultOp::Write, 3, libc::ENOSPC);
        storage.data.write_at(0, &[1; 10]).unwrap();
        storage.journal.write_at(0, &[1; 10]).unwrap();
        let error = storage.superblock.write_at(0, &[1; 2048]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(storage.superblock.len_bytes().unwrap(), 1024, "half of it was written");
        storage.superblock.write_at(0, &[1; 10]).unwrap();
        assert_eq!((faults.calls(FaultOp::Write), faults.injected()), (5, 1));
        faults.fail_nth(FaultOp::Read, 1, libc::EIO);
        let mut bytes = [0; 20];
        storage.superblock.read_at(0, &mut bytes).unwrap_err();
        assert_eq!(bytes, [[1; 10], [0xa5; 10]].concat()[..], "half of it was read");
    }

    #[test]
    fn a_lasting_fault_of_one_device_leaves_the_others_alone() {
        let faults = Faults::new();
        let storage = faults.wrap(&Storage::memory());
        let device = Some(DeviceName::Data);
        for op in FaultOp::ALL {
            faults.arm(Fault { op, device, nth: 2, lasting: true, errno: libc::EIO });
        }
        let calls = |device: &dyn BlockDevice| {
            [
                device.grow(100),
                device.write_at(0, &[1]),
                device.read_at(0, &mut [0]),
                device.punch(0, 1),
                device.sync(),
            ]
            .map(|result| result.map_err(|error| error.raw_os_error()))
        };
        assert_eq!(calls(&*storage.data), [Ok(()); 5]);
        for _ in 0..3 {
            assert_eq!(calls(&*storage.journal), [Ok(()); 5]);
            assert_eq!(calls(&*storage.data), [Err(Some(libc::EIO)); 5]);
        }
        faults.clear();
        assert_eq!(calls(&*storage.data), [Ok(()); 5]);
    }

    #[test]
    fn available_bytes_can_be_set() {
        let faults = Faults::new();
        let storage = faults.wrap(&Storage::memory());
        assert_eq!(storage.data.available_bytes().unwrap(), u64::MAX);
        faults.set_available_bytes(5);
        assert_eq!(storage.data.available_bytes().unwrap(), 5);
    }
}
