//! Which system call a caller waits in, where a request does not say what it is for.
//!
//! `/proc/PID/syscall` tells of a thread that sleeps: its number and arguments. A caller that waits for our reply
//! does, or is about to: where processors are few, the request may be here before it has got to sleep. Root may
//! look at every thread; of others nothing may be known.
//!
//! Reading it takes `exec_update_lock`, which a thread that executes a new program holds for writing, and only
//! once it is alone in its process: a thread that waits for us keeps its siblings from getting there. One that does
//! not wait for us ([`WriteCall::goes_on`]) may keep us for as long as that takes.

use std::time::{Duration, Instant};

/// How long a thread that is about to sleep may be kept from it.
const LONGEST: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(100);
/// Capacity of the kernel's own pipes, and the most that a user may give a pipe.
const MAX_SENDFILE_BYTES: u64 = 64 << 10;
const MAX_SPLICE_BYTES: u64 = 1 << 20;

/// A system call that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteCall {
    thread: u32,
    /// Bytes that it asks us for at once.
    pub(crate) len_bytes: u64,
    /// Calls that write which the thread had made before, if the kernel counts them.
    made_before: Option<u64>,
}

impl WriteCall {
    /// Whether it may not have ended yet, as far as can be seen.
    pub(crate) fn goes_on(&self) -> bool {
        let Some(call) = read(self.thread) else { return false };
        (call.starts_with("running") || length(&call).is_some())
            && (self.made_before.is_none() || calls_made(self.thread) == self.made_before)
    }
}

/// The system call of a thread that waits for us; none if it is none that writes, or can't be seen.
pub(crate) fn write_call(thread: u32) -> Option<WriteCall> {
    let len_bytes = length(&read_asleep(thread)?)?;
    Some(WriteCall { thread, len_bytes, made_before: calls_made(thread) })
}

/// System calls that write which a thread has ended.
fn calls_made(thread: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/task/{thread}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("syscw: "))?.trim().parse().ok()
}

/// Whether a thread, which may not wait for us, sleeps in a system call that writes.
pub(crate) fn writes(thread: u32) -> bool {
    read(thread).as_deref().and_then(length).is_some()
}

/// Whether a thread that waits for us is truncating a file, as far as can be seen: what can't counts as if.
pub(crate) fn truncates(thread: u32) -> bool {
    let call = read_asleep(thread);
    let number = call.as_deref().and_then(|call| call.split_ascii_whitespace().next());
    match number.and_then(|number| number.parse().ok()) {
        Some(number) => {
            matches!(number, libc::SYS_truncate | libc::SYS_ftruncate | libc::SYS_io_uring_enter)
        }
        None => true,
    }
}

fn read(thread: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{thread}/syscall")).ok()
}

/// As [`read`], when the thread has got to sleep.
fn read_asleep(thread: u32) -> Option<String> {
    let begun = Instant::now();
    loop {
        let call = read(thread)?;
        if !call.starts_with("running") || begun.elapsed() > LONGEST {
            return Some(call);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Reads `NUMBER 0xARGUMENT...`.
fn length(call: &str) -> Option<u64> {
    let mut fields = call.split_ascii_whitespace();
    let number: i64 = fields.next()?.parse().ok()?;
    let mut argument = |skip| u64::from_str_radix(fields.nth(skip)?.strip_prefix("0x")?, 16).ok();
    match number {
        libc::SYS_write | libc::SYS_pwrite64 => argument(2),
        // As much as the pipe holds that it goes through, each time.
        libc::SYS_sendfile => argument(3).map(|len| len.min(MAX_SENDFILE_BYTES)),
        libc::SYS_splice => argument(4).map(|len| len.min(MAX_SPLICE_BYTES)),
        // The lengths stand in the caller's memory: as if it were a page.
        libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => Some(4096),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_calls_that_write_and_how_much() {
        let call = |number: i64| format!("{number} 0x3 0x7ffd 0x2000 0x4000 0x10 0x0 0x7f 0x55\n");
        assert_eq!(length(&call(libc::SYS_write)), Some(0x2000));
        assert_eq!(length(&call(libc::SYS_pwrite64)), Some(0x2000));
        assert_eq!(length(&call(libc::SYS_sendfile)), Some(0x4000));
        assert_eq!(length(&call(libc::SYS_splice)), Some(0x10));
        let all = format!("{} 0x3 0x4 0x0 0x7ffff000 0x0 0x0 0x7f 0x55", libc::SYS_sendfile);
        assert_eq!(length(&all), Some(64 << 10));
        assert_eq!(length(&call(libc::SYS_writev)), Some(4096));
        assert_eq!(length(&call(libc::SYS_read)), None);
        assert_eq!(length("running\n"), None);
        assert_eq!(length("1 0x3"), None);
    }

    #[test]
    fn a_caller_that_has_not_got_to_sleep_yet_is_waited_for() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let caller = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(50) {
                std::hint::spin_loop();
            }
            // More than a pipe takes.
            rustix::io::write(&writer, &[1; 1 << 20]).unwrap();
        });
        let call = write_call(told.recv().unwrap()).unwrap();
        assert_eq!(call.len_bytes, 1 << 20);
        assert!(call.goes_on());
        drop(reader);
        let _ = caller.join();
        assert!(!call.goes_on());
    }
}
