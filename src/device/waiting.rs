//! What a thread does before it waits for the disk.
//!
//! Whoever serves requests in turn wants to let somebody else go on meanwhile; only the device knows that it
//! is going to wait.

use std::cell::RefCell;

type Hook = Box<dyn Fn()>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Has `hook` called whenever this thread is about to wait for a read from the disk. It must not read itself.
pub fn before_waiting(hook: impl Fn() + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

/// Whether this thread wants to know.
pub(super) fn is_of_interest() -> bool {
    HOOK.with_borrow(Option::is_some)
}

/// Tells that the thread is about to wait.
pub(super) fn announce() {
    HOOK.with_borrow(|hook| {
        if let Some(hook) = hook {
            hook();
        }
    });
}
