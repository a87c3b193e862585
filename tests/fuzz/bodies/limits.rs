//! Bounds of what a hostile input may cost: memory, and calls of the device.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use amberfs::device::{BlockDevice, Storage};

/// Most bytes that a body may hold at once, the input's own pool included: caches take 4 MiB each, a journal
/// record 1 MiB, and reading a file as much as is asked for.
pub(crate) const MAX_BYTES: usize = 192 << 20;
/// Most calls of a device: a pool of a few hundred nodes is walked a few dozen times.
pub(crate) const MAX_CALLS: u64 = 400_000;

/// Most bytes that a thread of a served session may hold: sixty requests that each leave a MiB in the pool, which
/// is in memory, and the thread's buffers.
pub(crate) const MAX_SERVING_BYTES: usize = 64 << 20;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
    /// Whether [`within_bounds`] looks at this thread.
    static BOUND: Cell<bool> = const { Cell::new(false) };
}

/// The most that a thread has held on which nobody looks, if it is too much for one that serves.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);
/// Panics of threads that serve.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Counts the bytes that each thread holds.
pub(crate) struct Counting;

fn count(bytes: isize) {
    // Threads that end have no counter any more.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
        let held = now.get().max(0) as usize;
        if held > MAX_SERVING_BYTES && !BOUND.try_with(Cell::get).unwrap_or(true) {
            ELSEWHERE.fetch_max(held, Ordering::Relaxed);
        }
    });
}

// SAFETY: everything is left to the system's allocator; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that the system's allocator wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `body`, and fails if it held too much at once. Without [`Counting`] it finds nothing.
pub(crate) fn within_bounds<T>(body: impl FnOnce() -> T) -> T {
    let before = NOW.get();
    MOST.set(before);
    let outer = BOUND.replace(true);
    let result = body();
    BOUND.set(outer);
    let most = (MOST.get() - before).max(0) as usize;
    assert!(most <= MAX_BYTES, "{most} bytes were held at once");
    result
}

/// For a hook: a thread panics. That of a session goes on, as nobody but its caller learns of it.
pub(crate) fn panicked(message: &str) {
    if std::thread::current().name().is_some_and(|name| name.starts_with("fuse-")) {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
    }
}

/// Forgets what threads of earlier sessions did; returns their panics, and the most that one held.
pub(crate) fn begin_serving() -> (Vec<String>, usize) {
    let panics = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    (panics, ELSEWHERE.swap(0, Ordering::Relaxed))
}

/// Fails if a thread of the one session that has begun since held too much at once, or panicked.
pub(crate) fn check_serving() {
    let (panics, most) = begin_serving();
    assert!(panics.is_empty(), "a thread that serves panicked: {panics:?}");
    assert!(most <= MAX_SERVING_BYTES, "{most} bytes were held at once by a thread that serves");
}

/// Fails calls after a number of them, and says so at the end.
#[derive(Debug, Default)]
pub(crate) struct Calls(AtomicU64);

#[derive(Debug)]
struct Counted {
    inner: Arc<dyn BlockDevice>,
    calls: Arc<Calls>,
}

impl Calls {
    pub(crate) fn wrap(storage: &Storage) -> (Arc<Calls>, Storage) {
        let calls = Arc::new(Calls::default());
        let counted =
            storage.map(|_, inner| Arc::new(Counted { inner, calls: Arc::clone(&calls) }));
        (calls, counted)
    }

    /// # Panics
    /// If there were more than may be.
    pub(crate) fn check(&self) {
        let calls = self.0.load(Ordering::Relaxed);
        assert!(calls <= MAX_CALLS, "the device was called more than {MAX_CALLS} times");
    }

    fn one(&self) -> io::Result<()> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0..MAX_CALLS => Ok(()),
            _ => Err(io::Error::other("too many calls")),
        }
    }
}

impl BlockDevice for Counted {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.calls.one()?;
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.calls.one()?;
        self.inner.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.calls.one()?;
        self.inner.punch(offset, len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        // No host gives a pool of a few MiB so much.
        assert!(len_bytes <= 1 << 40, "the device was grown to {len_bytes} bytes");
        self.inner.grow(len_bytes)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes()
    }
}
