//! shuttle's primitives with the interface of parking_lot's, as far as the engine uses it.
//!
//! A lock whose holder panicked is taken like any other, as parking_lot does; the engine has its own way to
//! notice. A wait with a time limit is one without: shuttle knows no time.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use ::shuttle::sync;

use super::Planted;

thread_local! {
    // All threads of a shuttle test run on one of the host.
    static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
}

/// Plants a fault in the pools of this thread from now on, or takes it back.
pub fn plant(fault: Option<Planted>) {
    PLANTED.set(fault);
}

/// Whether a fault is planted.
pub fn planted(fault: Planted) -> bool {
    PLANTED.get() == Some(fault)
}

/// As parking_lot's.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// As parking_lot's; empty while it waits for a condition.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("nobody sees a guard that waits")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("nobody sees a guard that waits")
    }
}

/// As parking_lot's.
#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Condvar(sync::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.0.take().expect("nobody sees a guard that waits");
        guard.0 = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) {
        self.wait(guard);
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// As parking_lot's.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

/// As parking_lot's.
#[derive(Debug)]
pub(crate) struct RwLockReadGuard<'a, T>(sync::RwLockReadGuard<'a, T>);

pub(crate) use sync::RwLockWriteGuard;

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        RwLock(sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        RwLockReadGuard(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// As parking_lot's.
pub(crate) struct MappedRwLockReadGuard<'a, U>(Box<dyn Deref<Target = U> + 'a>);

/// A guard, and the way to a part of what it guards.
struct Part<'a, T, U>(RwLockReadGuard<'a, T>, fn(&T) -> Option<&U>);

impl<T, U> Deref for Part<'_, T, U> {
    type Target = U;
    fn deref(&self) -> &U {
        self.1(&self.0).expect("it was there, and has not changed since")
    }
}

impl<'a, T> RwLockReadGuard<'a, T> {
    pub(crate) fn try_map<U: 'a>(
        guard: Self,
        part: fn(&T) -> Option<&U>,
    ) -> Result<MappedRwLockReadGuard<'a, U>, Self> {
        if part(&guard).is_none() {
            return Err(guard);
        }
        Ok(MappedRwLockReadGuard(Box::new(Part(guard, part))))
    }
}

impl<U> Deref for MappedRwLockReadGuard<'_, U> {
    type Target = U;
    fn deref(&self) -> &U {
        &self.0
    }
}

impl<U: fmt::Debug> fmt::Debug for MappedRwLockReadGuard<'_, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
