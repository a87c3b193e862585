//! `mount -o remount,...`: changes the flags of a mount in place, which is between mount(8) and the
//! kernel. What concerns the daemon (`snapdir=`, `cache_size=`, ...) can't be changed so.

use std::path::Path;

use rustix::mount::{MountFlags, mount_remount};

use crate::daemon::protocol::MountSettings;

use super::Failure;
use super::options::parse_options;

/// What the mount table shows of a FUSE mount, and mount(8) passes back.
const OF_THE_KERNEL: [&str; 5] =
    ["user_id=", "group_id=", "max_read=", "blksize=", "default_permissions"];

/// Whether the options ask for it.
pub(super) fn is_wanted(options: &[String]) -> bool {
    each(options).any(|option| option == "remount")
}

fn each(options: &[String]) -> impl Iterator<Item = &str> {
    options.iter().flat_map(|list| list.split(',')).map(str::trim)
}

/// Returns the flags that the options ask for.
fn flags(options: &[String]) -> Result<MountFlags, Failure> {
    let attempt = "change a mount in place";
    let kept: Vec<String> = each(options)
        .filter(|option| *option != "remount" && *option != "allow_other")
        .filter(|option| !OF_THE_KERNEL.iter().any(|known| option.starts_with(known)))
        .map(str::to_owned)
        .collect();
    let settings = parse_options(&kept, false)
        .map_err(|error| Failure::usage(attempt, error.message).hint(error.hint))?;
    let plain = MountSettings {
        read_only: settings.read_only,
        noatime: settings.noatime,
        nodev: settings.nodev,
        nosuid: settings.nosuid,
        noexec: settings.noexec,
        ..MountSettings::default()
    };
    if settings != plain {
        let cause = "only ro, rw, noatime, nodev, nosuid and noexec can be changed in place";
        return Err(Failure::usage(attempt, cause).hint("Unmount it, and mount it again."));
    }
    let wanted = [
        (settings.read_only, MountFlags::RDONLY),
        (settings.nodev, MountFlags::NODEV),
        (settings.nosuid, MountFlags::NOSUID),
        (settings.noexec, MountFlags::NOEXEC),
        (settings.noatime, MountFlags::NOATIME),
    ];
    Ok(wanted.into_iter().filter(|flag| flag.0).fold(MountFlags::empty(), |all, flag| all | flag.1))
}

/// Changes the flags of the mount on `dir`.
pub(super) fn run(dir: &Path, options: &[String], fake: bool) -> Result<(), Failure> {
    let flags = flags(options)?;
    if fake {
        return Ok(());
    }
    mount_remount(dir, flags, c"").map_err(|errno| {
        let attempt = format!("change the mount on {} in place", dir.display());
        Failure::new(attempt, std::io::Error::from(errno).to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_taken_and_what_the_kernel_shows_is_passed_over() {
        let options =
            ["rw,nosuid,user_id=0,group_id=0,allow_other".to_owned(), "remount,ro".to_owned()];
        assert!(is_wanted(&options));
        assert_eq!(flags(&options).unwrap(), MountFlags::RDONLY | MountFlags::NOSUID);
        assert!(!is_wanted(&["ro,x-remount".to_owned()]));
    }

    #[test]
    fn what_concerns_the_daemon_is_refused() {
        for option in ["snapdir=visible", "cache_size=64M", "commit=9", "nonsense"] {
            assert!(flags(&[format!("remount,{option}")]).is_err(), "{option}");
        }
    }
}
