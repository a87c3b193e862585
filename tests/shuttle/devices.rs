//! A storage in memory at whose every call another thread may come first, and which is copied in the midst.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use amberfs::device::{BlockDevice, Contents, MemoryDevice, Storage};

/// A storage's three devices, as they were when the process died.
pub(crate) type Image = [Contents; 3];

pub(crate) fn storage_of(image: &Image) -> Storage {
    let device = |nth: usize| Arc::new(MemoryDevice::with_contents(image[nth].clone()));
    Storage { superblock: device(0), journal: device(1), data: device(2) }
}

/// The devices, and the moment at which they are copied.
pub(crate) struct Disk {
    devices: [Arc<MemoryDevice>; 3],
    turn: shuttle::sync::atomic::AtomicBool,
    /// Calls until then.
    left: AtomicU64,
    at_death: Mutex<Option<Box<dyn FnOnce(Image) + Send>>>,
}

impl Disk {
    pub(crate) fn new() -> Arc<Disk> {
        let devices = [(); 3].map(|()| Arc::new(MemoryDevice::new()));
        Arc::new(Disk {
            devices,
            turn: shuttle::sync::atomic::AtomicBool::new(false),
            left: AtomicU64::new(u64::MAX),
            at_death: Mutex::new(None),
        })
    }

    /// Calls `then` with a copy before the `nth` change from now on.
    pub(crate) fn copy_before(&self, nth: u64, then: impl FnOnce(Image) + Send + 'static) {
        *self.at_death.lock().expect("nobody panicked") = Some(Box::new(then));
        self.left.store(nth, Ordering::Relaxed);
    }

    pub(crate) fn image(&self) -> Image {
        [0, 1, 2].map(|nth: usize| self.devices[nth].contents())
    }

    pub(crate) fn storage(self: &Arc<Disk>) -> Storage {
        let device = |nth: usize| -> Arc<dyn BlockDevice> {
            Arc::new(Device { inner: Arc::clone(&self.devices[nth]), disk: Arc::clone(self) })
        };
        Storage { superblock: device(0), journal: device(1), data: device(2) }
    }

    /// A place for another thread to come first. To yield would say that this one wants to be last from now on.
    fn pass(&self) {
        self.turn.load(Ordering::Relaxed);
    }

    fn change(&self) {
        self.pass();
        // Only one thread runs at a time: what it does until its next call of shuttle is one step.
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1
            && let Some(then) = self.at_death.lock().expect("nobody panicked").take()
        {
            then(self.image());
        }
    }
}

struct Device {
    inner: Arc<MemoryDevice>,
    disk: Arc<Disk>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Device")
    }
}

impl BlockDevice for Device {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.pass();
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.change();
        self.inner.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.pass();
        self.inner.sync()
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.disk.change();
        self.inner.punch(offset, len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.disk.change();
        self.inner.grow(len_bytes)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes()
    }
}
