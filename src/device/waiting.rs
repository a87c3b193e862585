//! What a thread does while it waits for the disk.
//!
//! Whoever serves requests in turn wants to let somebody else go on meanwhile; only the device knows that it
//! is going to wait.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// A wait for a read from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It begins now.
    Begins,
    /// It is over, and has lasted so long.
    Lasted(Duration),
}

type Hook = Box<dyn Fn(Wait)>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Has `hook` called before and after each wait of this thread. It must not read itself.
pub fn watch_waits(hook: impl Fn(Wait) + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

/// Whether this thread wants to know.
pub(super) fn is_watched() -> bool {
    HOOK.with_borrow(Option::is_some)
}

/// Does what makes the thread wait.
pub(super) fn wait<T>(read: impl FnOnce() -> T) -> T {
    HOOK.with_borrow(|hook| {
        let Some(hook) = hook else { return read() };
        hook(Wait::Begins);
        let begun = Instant::now();
        let done = read();
        hook(Wait::Lasted(begun.elapsed()));
        done
    })
}
