//! The mount's backing device in the kernel: read-ahead and how much of memory may be dirty.

use std::path::PathBuf;

/// Read-ahead of sequential reads. The kernel's own default is 128 KiB whatever INIT says.
const READ_AHEAD_KIB: &str = "2048";

/// Raises the limits of the mount with that `st_dev`, as far as /sys lets us.
///
/// By default FUSE's dirty pages are held to 1% of what may be dirty, lest a daemon that does not
/// write back fill the memory. This one does; where the privilege is there, its workers are also
/// exempt from the throttling that they would themselves have to end.
pub(crate) fn tune(device_number: u64) {
    let (major, minor) = (rustix::fs::major(device_number), rustix::fs::minor(device_number));
    let dir = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}"));
    for (file, value) in
        [("read_ahead_kb", READ_AHEAD_KIB), ("strict_limit", "0"), ("max_ratio", "100")]
    {
        if let Err(error) = std::fs::write(dir.join(file), value) {
            tracing::debug!(file, value, %error, "the backing device keeps its default");
        }
    }
}
