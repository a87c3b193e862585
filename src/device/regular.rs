//! Opening the files of a pool's directory, which a stranger may have filled.
//!
//! Whoever made the directory chose what is behind each name in it. A symbolic link would lead a privileged
//! process to write to any file of the machine; a FIFO would keep it waiting, and a device may do anything when
//! it is opened. So nothing but a regular file is opened, and links are not followed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens the regular file at `path` as `options` say.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for anything else that is there, and what opening gives.
pub fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => return Err(refused()),
        _ => {}
    }
    // The name may mean something else by now.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let options = || options.clone();
        fs::write(at("file"), "kept").unwrap();
        open_regular(&mut options(), &at("file")).unwrap();
        open_regular(&mut options(), &at("new")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink(at("missing"), at("dangling")).unwrap();
        fs::create_dir(at("dir")).unwrap();
        let fifo = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, fifo, 0)
            .unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        for name in ["link", "dangling", "dir", "fifo", "socket"] {
            let error = open_regular(&mut options(), &at(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}: {error}");
        }
        assert!(!at("missing").exists());
        // What the check before has not seen.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let error = options().custom_flags(flags).open(at("link")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
