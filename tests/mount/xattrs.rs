//! Extended attributes and POSIX ACLs.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::support::TestMount;

fn get(path: &std::path::Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 1 << 16];
    let len = getxattr(path, name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

#[test]
fn values_of_every_size_are_kept() {
    let mut m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"").unwrap();
    let sizes = [0usize, 1, 100, 4000, 20_000, 65_536];
    for size in sizes {
        let (name, value) = (format!("user.v{size}"), vec![size as u8; size]);
        setxattr(&file, name.as_str(), &value, XattrFlags::empty()).unwrap();
    }
    for _ in 0..2 {
        for size in sizes {
            assert_eq!(get(&file, &format!("user.v{size}")).unwrap(), vec![size as u8; size]);
        }
        m.remount();
    }
    let mut list = vec![0u8; 4096];
    let len = listxattr(&file, &mut list).unwrap();
    let listed = list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()).count();
    assert_eq!(listed, sizes.len());
}

#[test]
fn create_replace_remove_and_a_buffer_that_is_too_small() {
    let m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"").unwrap();
    let set = |flags| setxattr(&file, "user.a", b"value", flags);
    assert_eq!(set(XattrFlags::REPLACE), Err(Errno::NODATA));
    set(XattrFlags::CREATE).unwrap();
    assert_eq!(set(XattrFlags::CREATE), Err(Errno::EXIST));
    set(XattrFlags::REPLACE).unwrap();
    assert_eq!(getxattr(&file, "user.a", &mut [0u8; 2]), Err(Errno::RANGE));
    assert_eq!(crate::mapping::xattr_size(&file, c"user.a"), 5);
    removexattr(&file, "user.a").unwrap();
    assert_eq!(get(&file, "user.a"), Err(Errno::NODATA));
    assert_eq!(removexattr(&file, "user.a"), Err(Errno::NODATA));
}

#[test]
fn trusted_attributes_are_listed_for_root_alone() {
    let m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"").unwrap();
    setxattr(&file, "trusted.t", b"1", XattrFlags::empty()).unwrap();
    setxattr(&file, "user.u", b"2", XattrFlags::empty()).unwrap();
    let mut list = vec![0u8; 4096];
    let len = listxattr(&file, &mut list).unwrap();
    let mut listed: Vec<_> =
        list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    listed.sort_unstable();
    assert_eq!(listed, [&b"trusted.t"[..], b"user.u"]);
    let script = "my $b = \"\\0\" x 4096; \
                  my $n = syscall($ARGV[1] + 0, $ARGV[0], $b, 4096); print substr($b, 0, $n)";
    let number = libc::SYS_listxattr.to_string();
    let others = std::process::Command::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups", "perl", "-e"])
        .args([script, file.to_str().unwrap(), number.as_str()])
        .output()
        .unwrap();
    assert_eq!(others.stdout, b"user.u\0");
}

/// A POSIX ACL as the kernel passes it: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const NOBODY: u32 = u32::MAX;

#[test]
fn an_acl_lets_in_whom_it_names_and_shows_in_the_mode() {
    let m = TestMount::new();
    let file = m.path("f");
    fs::write(&file, b"secret").unwrap();
    let read = |uid: u32| {
        let out = std::process::Command::new("setpriv")
            .args([&format!("--reuid={uid}"), "--regid=5000", "--clear-groups", "cat"])
            .arg(&file)
            .output()
            .unwrap();
        out.status.success()
    };
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!read(1001));
    // user::rw-, user:1001:r--, group::---, mask::r--, other::---
    let value =
        acl(&[(1, 6, NOBODY), (2, 4, 1001), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]);
    setxattr(&file, "system.posix_acl_access", &value, XattrFlags::empty()).unwrap();
    assert!(read(1001) && !read(1002));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!read(1001), "chmod sets the mask");
}

#[test]
fn a_default_acl_takes_the_umasks_place() {
    let m = TestMount::new();
    let dir = m.path("d");
    fs::create_dir(&dir).unwrap();
    let value =
        acl(&[(1, 7, NOBODY), (2, 7, 1001), (4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY)]);
    setxattr(&dir, "system.posix_acl_default", &value, XattrFlags::empty()).unwrap();
    let status = std::process::Command::new("sh")
        .args(["-c", "umask 077; : > f; mkdir s"])
        .current_dir(&dir)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fs::metadata(dir.join("f")).unwrap().mode() & 0o777, 0o660);
    assert_eq!(fs::metadata(dir.join("s")).unwrap().mode() & 0o777, 0o770);
    assert_eq!(get(&dir.join("s"), "system.posix_acl_default").unwrap(), value);
}
