//! System calls without a safe wrapper: btrfs' requests about subvolumes.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

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
