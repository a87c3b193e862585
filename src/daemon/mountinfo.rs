//! The kernel's table of mounts, `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The filesystem type that AmberFS mounts have.
pub const FS_TYPE: &str = "fuse.amberfs";

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is mounted.
    pub dir: PathBuf,
    /// Which directory of the filesystem is its root: not `/` for a bind mount of a part.
    pub root: PathBuf,
    /// The type, with the subtype of FUSE.
    pub fs_type: String,
    /// What is mounted: for AmberFS the address.
    pub source: OsString,
}

impl MountEntry {
    /// Returns whether this is a mount of AmberFS.
    pub fn is_amberfs(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// Reads the table of this process's mount namespace, oldest mount first.
pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// Returns the mount that an absolute path without `..` and links is in.
pub fn containing<'a>(table: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    // Of several on one directory the last hides the others; max_by_key returns the last.
    table
        .iter()
        .filter(|entry| path.starts_with(&entry.dir))
        .max_by_key(|entry| entry.dir.components().count())
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mnt rw,noatime shared:1 - fuse.amberfs /pool:main rw,user_id=0`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&b| b == b' ');
    let root = unescape(fields.nth(3)?);
    let dir = unescape(fields.next()?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = unescape(rest.next()?).to_string_lossy().into_owned();
    let source = unescape(rest.next()?);
    Some(MountEntry { dir: dir.into(), root: root.into(), fs_type, source })
}

/// Undoes the kernel's `\040` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = match (first, tail) {
            (b'\\', &[a, b, c, ..]) => octal(a, b, c),
            _ => None,
        };
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    OsString::from_vec(bytes)
}

fn octal(a: u8, b: u8, c: u8) -> Option<u8> {
    let digit = |d: u8| (b'0'..=b'7').contains(&d).then(|| u32::from(d - b'0'));
    u8::try_from(digit(a)? * 64 + digit(b)? * 8 + digit(c)?).ok()
}

/// Makes `path` absolute and free of links, the last component aside when it can't be looked at:
/// a mount whose daemon is gone answers nothing.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    let error = match fs::canonicalize(path) {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let dead = error.raw_os_error() == Some(libc::ENOTCONN);
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if dead => {
            let parent =
                if parent.as_os_str().as_bytes().is_empty() { Path::new(".") } else { parent };
            Ok(fs::canonicalize(parent)?.join(name))
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
        40 22 0:50 / /mnt/a\\040b rw,nosuid shared:2 master:3 - fuse.amberfs /p\\040q:main rw,x=1\n\
        41 22 0:51 /sub /mnt rw - fuse.amberfs /other:v@s:1 ro\n\
        42 22 0:52 / /mnt rw - tmpfs tmpfs rw\n\
        broken line\n";

    #[test]
    fn reads_escapes_and_optional_fields() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 4);
        assert_eq!(table[1].dir, Path::new("/mnt/a b"));
        assert_eq!(table[1].source, "/p q:main");
        assert!(table[1].is_amberfs());
        assert_eq!(
            (table[2].root.to_str(), table[2].source.to_str()),
            (Some("/sub"), Some("/other:v@s:1"))
        );
        assert!(!table[3].is_amberfs());
    }

    #[test]
    fn the_longest_and_last_mount_wins() {
        let table = parse(TABLE);
        let of = |path: &str| containing(&table, Path::new(path)).unwrap().fs_type.as_str();
        assert_eq!(of("/mnt/a b/c"), "fuse.amberfs");
        assert_eq!(of("/mnt/a"), "tmpfs");
        assert_eq!(of("/etc"), "ext4");
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\0b\\\\134\\999\\04"), OsString::from("a\\0b\\\\\\999\\04"));
    }
}
