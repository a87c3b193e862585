//! Stopping a call in the midst, so that other operations come between two of its writes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use amberfs::device::{BlockDevice, DeviceName, Storage};
use parking_lot::{Condvar, Mutex};

/// A thread that is stopped goes on by itself after that, because what it is stopped for may wait for it.
const PATIENCE: Duration = Duration::from_millis(15);
/// Of a slow storage.
const SYNC_TIME: Duration = Duration::from_micros(100);

/// Where a thread stops: before the n-th change of a device, or the first of this one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Nth(u64),
    First(DeviceName),
}

#[derive(Debug, Default)]
struct State {
    whom: Option<(ThreadId, Place)>,
    /// It has stopped, or ended without.
    arrived: bool,
    /// It may go on.
    free: bool,
    /// It has gone on before it was told to.
    impatient: bool,
}

/// The threads that change a pool's storage, of which one can be stopped.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the storage takes time, as a disk does, so that others get to work meanwhile.
    pub slow: AtomicBool,
}

impl Pauses {
    /// Returns the storage on whose calls threads are stopped.
    pub(crate) fn wrap(self: &Arc<Self>, storage: &Storage) -> Storage {
        storage.map(|name, inner| Arc::new(Device { name, inner, pauses: Arc::clone(self) }))
    }

    /// Runs `call` in a thread that stops at `place`, and `meanwhile` while it stands there; returns whether
    /// it went on before all of that was done.
    pub(crate) fn around(
        self: &Arc<Self>,
        place: Place,
        call: impl FnOnce() + Send + 'static,
        meanwhile: impl FnOnce(),
    ) -> bool {
        let pauses = Arc::clone(self);
        let thread = std::thread::spawn(move || {
            let whom = Some((std::thread::current().id(), place));
            *pauses.state.lock() = State { whom, ..State::default() };
            call();
            let mut state = pauses.state.lock();
            (state.whom, state.arrived) = (None, true);
            pauses.changed.notify_all();
        });
        let mut state = self.state.lock();
        while !state.arrived && !thread.is_finished() {
            self.changed.wait_for(&mut state, PATIENCE);
        }
        drop(state);
        meanwhile();
        self.state.lock().free = true;
        self.changed.notify_all();
        let ended = thread.join();
        ended.expect("a call that was stopped ends well");
        std::mem::take(&mut *self.state.lock()).impatient
    }

    /// A thread is about to change a device.
    fn pass(&self, device: DeviceName) {
        let mut state = self.state.lock();
        let Some((thread, place)) = &mut state.whom else { return };
        if *thread != std::thread::current().id() {
            return;
        }
        match place {
            Place::Nth(left) if *left > 0 => return *left -= 1,
            Place::First(name) if *name != device => return,
            _ => {}
        }
        state.whom = None;
        state.arrived = true;
        self.changed.notify_all();
        while !state.free && !state.impatient {
            state.impatient = self.changed.wait_for(&mut state, PATIENCE).timed_out();
        }
    }
}

#[derive(Debug)]
struct Device {
    name: DeviceName,
    inner: Arc<dyn BlockDevice>,
    pauses: Arc<Pauses>,
}

impl BlockDevice for Device {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.pauses.pass(self.name);
        if self.pauses.slow.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        self.inner.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.pauses.pass(self.name);
        if self.pauses.slow.load(Ordering::Relaxed) {
            std::thread::sleep(SYNC_TIME);
        }
        self.inner.sync()
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.pauses.pass(self.name);
        self.inner.punch(offset, len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.pauses.pass(self.name);
        self.inner.grow(len_bytes)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes()
    }
}
