//! The mount's backing device in the kernel: read-ahead, and how much of what is written may be dirty.
//!
//! By default FUSE's dirty pages are held to 1% of what may be dirty, lest a daemon that does not write back fill
//! the memory. This one does, and writing is faster without a limit: so where the privilege is there, the only limit
//! is the machine's, as for other filesystems. Its workers are then also exempt from the throttling that they would
//! themselves have to end.
//!
//! But what is dirty must find room when it comes: nobody is told otherwise before close or fsync. So a volume
//! with less than twice as much room as the machine may have dirty pages ([`limit_for`]) has a limit of its own: a
//! part of what is free, and smaller and smaller as that is used up. What was dirty when the limit came, at most
//! the machine's, then still fits.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Read-ahead of sequential reads. The kernel's own default is 128 KiB whatever INIT says.
const READ_AHEAD_KIB: &str = "2048";
/// The kernel's limit for FUSE, where we can't set another: one part in so many of the machine's.
const DEFAULT_PART: u64 = 100;
/// What is free, for what may be dirty.
const FREE_TO_DIRTY: u64 = 4;
const LEAST_LIMIT_BYTES: u64 = 4 << 20;
/// The machine's limit follows what memory is available.
const KNOWN_FOR: Duration = Duration::from_secs(5);

const NONE: u64 = u64::MAX;

/// The backing device of one mount; until it is found, it does nothing.
#[derive(Debug)]
pub(crate) struct Backing {
    /// Where its settings are, if they can be changed.
    settings: OnceLock<Option<PathBuf>>,
    /// Most bytes that may be dirty, or [`NONE`] of its own.
    limit_bytes: AtomicU64,
    machine: Mutex<Option<(Instant, u64)>>,
}

impl Default for Backing {
    fn default() -> Self {
        let limit_bytes = AtomicU64::new(NONE);
        Backing { settings: OnceLock::new(), limit_bytes, machine: Mutex::new(None) }
    }
}

/// The limit of each of so many mounts that have `free_bytes` together, on a machine where `machine_bytes` may be
/// dirty.
fn limit_for(free_bytes: u64, machine_bytes: u64, mounts: u64) -> u64 {
    if free_bytes >= machine_bytes.saturating_mul(2) {
        return NONE;
    }
    // A power of two, so that it does not change all the time.
    let part = (free_bytes / FREE_TO_DIRTY / mounts.max(1)).max(LEAST_LIMIT_BYTES);
    1 << part.ilog2()
}

/// Bytes that may be dirty on this machine before writers wait.
fn read_machine_limit() -> Option<u64> {
    let vmstat = std::fs::read_to_string("/proc/vmstat").ok()?;
    let pages = vmstat.lines().find_map(|line| line.strip_prefix("nr_dirty_threshold "))?;
    let page_bytes = rustix::param::page_size() as u64;
    pages.trim().parse::<u64>().ok()?.checked_mul(page_bytes)
}

impl Backing {
    /// It is that of the mount with this `st_dev`: raises its limits, as far as /sys lets us.
    pub(crate) fn found(&self, device_number: u64) {
        let (major, minor) = (rustix::fs::major(device_number), rustix::fs::minor(device_number));
        let dir = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}"));
        set(&dir, "read_ahead_kb", READ_AHEAD_KIB);
        let _ = self.settings.set(lift(&dir).then_some(dir));
    }

    /// Whether all that may be dirty fits into so much room.
    pub(crate) fn is_plenty(&self, free_bytes: u64) -> bool {
        limit_for(free_bytes, self.machine_limit(), 1) == NONE
    }

    /// The volume has so much room, together with others: sees to it that what may be dirty fits.
    pub(crate) fn room_is(&self, free_bytes: u64, mounts: u64) {
        let Some(Some(dir)) = self.settings.get() else { return };
        let limit = limit_for(free_bytes, self.machine_limit(), mounts);
        if self.limit_bytes.swap(limit, Ordering::Relaxed) == limit {
            return;
        }
        if limit == NONE {
            lift(dir);
        } else {
            set(dir, "max_bytes", &limit.to_string());
            set(dir, "strict_limit", "1");
        }
    }

    /// Most bytes that may be dirty now, by whatever limit.
    pub(crate) fn limit(&self) -> u64 {
        let machine = self.machine_limit();
        match self.settings.get() {
            Some(Some(_)) => self.limit_bytes.load(Ordering::Relaxed).min(machine),
            _ => machine / DEFAULT_PART,
        }
    }

    /// Most bytes that may be dirty where that is not up to us.
    pub(crate) fn imposed_limit(&self) -> u64 {
        match self.settings.get() {
            Some(None) => self.machine_limit() / DEFAULT_PART,
            _ => 0,
        }
    }

    fn machine_limit(&self) -> u64 {
        let mut machine = self.machine.lock();
        match *machine {
            Some((since, bytes)) if since.elapsed() < KNOWN_FOR => bytes,
            _ => {
                let bytes = read_machine_limit().unwrap_or_default();
                *machine = Some((Instant::now(), bytes));
                bytes
            }
        }
    }
}

/// Leaves the machine's limit as the only one; whether that could be done.
fn lift(dir: &std::path::Path) -> bool {
    set(dir, "max_ratio", "100") && set(dir, "strict_limit", "0")
}

fn set(dir: &std::path::Path, file: &str, value: &str) -> bool {
    match std::fs::write(dir.join(file), value) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(file, value, %error, "the backing device stays as it is");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_dirty_fits_from_the_first_byte_to_the_last() {
        const MACHINE: u64 = 5 << 30;
        let mut free: u64 = 100 << 30;
        let mut dirty = 0;
        while free > 8 << 20 {
            // A program writes as much as it may; then some of it comes.
            dirty = dirty.max(limit_for(free, MACHINE, 1).min(MACHINE));
            assert!(dirty <= free, "{dirty} bytes are dirty, {free} free");
            let come = dirty.min(16 << 20);
            (free, dirty) = (free - come, dirty - come);
        }
    }

    #[test]
    fn plenty_of_room_has_no_limit_and_little_a_small_one() {
        assert_eq!(limit_for(10 << 30, 5 << 30, 1), NONE);
        assert_eq!(limit_for((10 << 30) - 1, 5 << 30, 1), 2 << 30);
        assert_eq!(limit_for(64 << 20, 5 << 30, 1), 16 << 20);
        assert_eq!(limit_for(64 << 20, 5 << 30, 4), 4 << 20);
        assert_eq!(limit_for(0, 5 << 30, 1), LEAST_LIMIT_BYTES);
        assert_eq!(limit_for(0, 0, 1), NONE, "nothing is known of the machine");
    }

    #[test]
    fn the_machine_has_a_limit() {
        assert!(read_machine_limit().unwrap() > 1 << 20);
    }
}
