//! System calls without a safe wrapper: waiting for signals, and btrfs' requests about subvolumes.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// The signals that end a run in an orderly way.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

fn ending() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given room for, and cannot fail; sigaddset
    // changes an initialised set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks the ending signals in this thread and those it starts from now on.
pub(crate) fn block_signals() -> io::Result<()> {
    let set = ending();
    // SAFETY: the set is initialised, and no old set is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Waits until one of the blocked signals comes.
pub(crate) fn wait_for_signal() -> io::Result<()> {
    let set = ending();
    let mut signal = 0;
    // SAFETY: both pointers are to live, initialised values of the right types.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// `struct btrfs_ioctl_vol_args_v2` of linux/btrfs.h, 4096 bytes.
#[repr(C)]
struct SubvolumeArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

const BTRFS_IOC_SNAP_CREATE_V2: libc::c_ulong = 0x5000_9417;
const BTRFS_IOC_SNAP_DESTROY_V2: libc::c_ulong = 0x5000_943f;
const BTRFS_SUBVOL_RDONLY: u64 = 1 << 1;

fn subvolume_request(
    dir: &File,
    request: libc::c_ulong,
    (source, flags): (i64, u64),
    name: &str,
) -> io::Result<()> {
    let mut args = SubvolumeArgs { fd: source, transid: 0, flags, unused: [0; 4], name: [0; 4040] };
    if name.len() >= args.name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: both requests take a pointer to this structure, which lives through the call, and the
    // name in it ends with a zero.
    match unsafe { libc::ioctl(dir.as_raw_fd(), request, &raw mut args) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a btrfs snapshot of the subvolume `source`, named `name` in `dir`.
pub(crate) fn btrfs_snapshot(
    source: &File,
    dir: &File,
    name: &str,
    read_only: bool,
) -> io::Result<()> {
    let flags = if read_only { BTRFS_SUBVOL_RDONLY } else { 0 };
    let source = i64::from(source.as_raw_fd());
    subvolume_request(dir, BTRFS_IOC_SNAP_CREATE_V2, (source, flags), name)
}

/// Deletes the btrfs subvolume `name` in `dir`; its space comes back later.
pub(crate) fn btrfs_delete(dir: &File, name: &str) -> io::Result<()> {
    subvolume_request(dir, BTRFS_IOC_SNAP_DESTROY_V2, (0, 0), name)
}
