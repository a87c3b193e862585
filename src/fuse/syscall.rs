//! Which system call a caller waits in, where a request does not say what it is for.
//!
//! `/proc/PID/syscall` tells of a thread that sleeps: its number and arguments. A caller that waits for our reply
//! does, or is about to: where processors are few, the request may be here before it has got to sleep. Root may
//! look at every thread; of others nothing may be known.
//!
//! Reading it takes `exec_update_lock`, which a thread that executes a new program holds for writing, and only
//! once it is alone in its process: a thread that waits for us keeps its siblings from getting there.

use std::time::{Duration, Instant};

/// How long a thread that is about to sleep may be kept from it.
const LONGEST: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(100);

/// Bytes that the system call of a thread that waits for us is to write; none if it is no such call, or can't be
/// seen.
pub(crate) fn bytes_to_write(thread: u32) -> Option<u64> {
    length(&read_asleep(thread)?)
}

/// Whether a thread, which may not wait for us, sleeps in a system call that writes.
pub(crate) fn writes(thread: u32) -> bool {
    read(thread).as_deref().and_then(length).is_some()
}

/// Whether a thread may be in a system call that writes: all that can be said of one that runs.
pub(crate) fn may_write(thread: u32) -> bool {
    read(thread).is_some_and(|call| call.starts_with("running") || length(&call).is_some())
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
        libc::SYS_sendfile => argument(3),
        libc::SYS_splice => argument(4),
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
        assert_eq!(bytes_to_write(told.recv().unwrap()), Some(1 << 20));
        drop(reader);
        let _ = caller.join();
    }
}
