//! Mounting and the INIT handshake, by fuser; what comes after on the descriptor is ours.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use fuser::{
    Config, Filesystem, InitFlags, KernelConfig, MountOption, Request, Session, SessionACL,
};
use parking_lot::Mutex;

use super::abi::MAX_PAYLOAD_BYTES;
use super::mount::{MountError, MountOptions};
use super::sys;

/// Background requests (write-back, read-ahead) that the kernel has under way at once.
const MAX_BACKGROUND: u16 = 64;
/// From so many on the kernel holds read-ahead back.
const CONGESTION_THRESHOLD: u16 = 48;

/// Without these the mount would not do what it promises. All are there since Linux 5.14.
///
/// DONT_MASK: the file system applies the umask, since a directory's default ACL takes its place.
const REQUIRED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_WRITEBACK_CACHE)
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_SETXATTR_EXT);

/// Taken where the kernel offers them.
///
/// Absent on purpose: NO_OPEN_SUPPORT and NO_OPENDIR_SUPPORT (opens for writing must be seen),
/// POSIX_LOCKS and FLOCK_LOCKS (the kernel keeps locks), AUTO_INVAL_DATA (nobody else writes),
/// OVER_IO_URING and PASSTHROUGH (see docs/architecture.md).
const WANTED: InitFlags = InitFlags::FUSE_EXPORT_SUPPORT
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_CREATE_SUPP_GROUP)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
    .union(InitFlags::FUSE_ALLOW_IDMAP);

/// Answers INIT and nothing else.
#[derive(Debug)]
struct Handshake {
    missing: Arc<Mutex<InitFlags>>,
    offered: Arc<Mutex<InitFlags>>,
}

impl Filesystem for Handshake {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if let Err(missing) = config.add_capabilities(REQUIRED) {
            *self.missing.lock() = missing;
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        let offered = WANTED & config.capabilities();
        *self.offered.lock() = config.capabilities();
        // Not one of them is missing: what is not offered has been taken out.
        let _ = config.add_capabilities(offered);
        // The values are within the bounds that these calls check.
        let _ = config.set_max_write(MAX_PAYLOAD_BYTES as u32);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(CONGESTION_THRESHOLD);
        Ok(())
    }
}

/// Mounts at `dir` and returns the descriptor, on which the kernel's requests wait, and whether the kernel can
/// send requests again to another process.
pub(crate) fn mount(dir: &Path, options: &MountOptions) -> Result<(OwnedFd, bool), MountError> {
    let missing = Arc::new(Mutex::new(InitFlags::empty()));
    let offered = Arc::new(Mutex::new(InitFlags::empty()));
    let handshake = Handshake { missing: Arc::clone(&missing), offered: Arc::clone(&offered) };
    match Session::new(handshake, dir, &configuration(options)) {
        Ok(session) => {
            let resends = offered.lock().contains(InitFlags::FUSE_HAS_RESEND);
            Ok((sys::take_descriptor(session), resends))
        }
        Err(_) if !missing.lock().is_empty() => {
            Err(MountError::KernelTooOld { missing: format!("{:?}", *missing.lock()) })
        }
        Err(source) => Err(MountError::refused(dir, source)),
    }
}

fn configuration(options: &MountOptions) -> Config {
    let mut list = vec![
        MountOption::FSName(options.fs_name.clone()),
        // As a kernel option, which makes the type `fuse.amberfs` in the mount table.
        MountOption::CUSTOM("subtype=amberfs".into()),
        MountOption::DefaultPermissions,
        pick(options.read_only, MountOption::RO, MountOption::RW),
        pick(options.nodev, MountOption::NoDev, MountOption::Dev),
        pick(options.nosuid, MountOption::NoSuid, MountOption::Suid),
        pick(options.noexec, MountOption::NoExec, MountOption::Exec),
    ];
    if options.noatime {
        list.push(MountOption::NoAtime);
    }
    list.extend(options.extra.iter().cloned().map(MountOption::CUSTOM));
    let mut config = Config::default();
    config.mount_options = list;
    config.acl = pick(options.allow_other, SessionACL::All, SessionACL::Owner);
    config
}

fn pick<T>(condition: bool, yes: T, no: T) -> T {
    if condition { yes } else { no }
}
