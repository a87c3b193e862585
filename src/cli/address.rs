//! Addresses: `POOL`, `POOL:VOLUME`, `POOL:VOLUME@SNAPSHOT`.
//!
//! The last colon behind the last slash separates the volume. Names of snapshots may hold `:` and
//! `@` themselves, and so may paths, so that a text can be read in several ways: [`readings`] lists
//! them, the one of the rule first, and [`Address::choose`] takes the first whose pool is there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The volume that an address without `:VOLUME` means.
pub(super) const DEFAULT_VOLUME: &str = "main";

/// One reading of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// The pool's directory, as it was typed.
    pub pool: PathBuf,
    /// What stands behind the colon.
    pub volume: Option<String>,
    /// What stands behind the `@`.
    pub snapshot: Option<String>,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    /// The text is empty, or has nothing before the colon.
    #[error("it names no pool")]
    NoPool,
    /// A colon, and nothing behind it.
    #[error("it names no volume behind the colon")]
    NoVolume,
    /// An `@`, and nothing behind it.
    #[error("it names no snapshot behind the @")]
    NoSnapshot,
    /// Names are UTF-8; only paths may be any bytes.
    #[error("the name of its volume or snapshot is not UTF-8")]
    NotUtf8,
}

impl Address {
    /// Returns the first reading of `text` whose pool `is_pool` knows, else the rule's own reading.
    pub(super) fn choose(
        text: &OsStr,
        is_pool: impl Fn(&Path) -> bool,
    ) -> Result<Address, AddressError> {
        let mut all = readings(text);
        let known = all.iter().position(|reading| match reading {
            Ok(address) => is_pool(&address.pool),
            Err(_) => false,
        });
        all.swap_remove(known.unwrap_or(0))
    }

    /// Returns the volume's name: `main` unless another is given.
    pub(super) fn volume(&self) -> &str {
        self.volume.as_deref().unwrap_or(DEFAULT_VOLUME)
    }
}

/// Returns every way to read `text`, the rule's first; never empty.
///
/// 1. the last colon behind the last slash; the first `@` behind that one;
/// 2. a colon before an `@`, for names of snapshots with a colon;
/// 3. `POOL@SNAPSHOT`, the volume being `main`;
/// 4. the whole text as a directory.
pub(super) fn readings(text: &OsStr) -> Vec<Result<Address, AddressError>> {
    let bytes = text.as_bytes();
    let tail = bytes.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    let positions = |wanted: u8| {
        let found = bytes.iter().enumerate().skip(tail).filter(move |&(_, &b)| b == wanted);
        found.map(|(at, _)| at)
    };
    let mut all = Vec::new();
    let last_colon = bytes.iter().rposition(|&b| b == b':').filter(|&colon| colon >= tail);
    if let Some(colon) = last_colon {
        let at = positions(b'@').find(|&at| at > colon);
        all.push(build(bytes, Some(colon), at));
    } else {
        all.push(build(bytes, None, None));
    }
    for at in positions(b'@') {
        let colon = positions(b':').take_while(|&colon| colon < at).last();
        let reading = build(bytes, colon, Some(at));
        if !all.contains(&reading) {
            all.push(reading);
        }
    }
    if last_colon.is_some() {
        all.push(build(bytes, None, None));
    }
    all
}

/// Cuts `bytes` at the colon and the `@`.
fn build(bytes: &[u8], colon: Option<usize>, at: Option<usize>) -> Result<Address, AddressError> {
    let name = |range: Option<&[u8]>, none: AddressError| {
        let name = range.filter(|name| !name.is_empty()).ok_or(none)?;
        std::str::from_utf8(name).map(str::to_owned).map_err(|_| AddressError::NotUtf8)
    };
    let head_end = at.unwrap_or(bytes.len());
    let pool = bytes.get(..colon.unwrap_or(head_end)).filter(|pool| !pool.is_empty());
    let pool = PathBuf::from(OsStr::from_bytes(pool.ok_or(AddressError::NoPool)?));
    let volume = match colon {
        Some(colon) => Some(name(bytes.get(colon + 1..head_end), AddressError::NoVolume)?),
        None => None,
    };
    let snapshot = match at {
        Some(at) => Some(name(bytes.get(at + 1..), AddressError::NoSnapshot)?),
        None => None,
    };
    Ok(Address { pool, volume, snapshot })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, pools: &[&str]) -> (String, Option<String>, Option<String>) {
        let address =
            Address::choose(OsStr::new(text), |pool| pools.iter().any(|p| Path::new(p) == pool));
        let address = address.unwrap();
        (address.pool.to_str().unwrap().to_owned(), address.volume, address.snapshot)
    }

    fn is(pool: &str, volume: &str, snapshot: &str) -> (String, Option<String>, Option<String>) {
        let some = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        (pool.to_owned(), some(volume), some(snapshot))
    }

    #[test]
    fn the_last_colon_behind_the_last_slash_separates() {
        assert_eq!(parse("/p", &[]), is("/p", "", ""));
        assert_eq!(parse("/p:v", &[]), is("/p", "v", ""));
        assert_eq!(parse("/p:v@s", &[]), is("/p", "v", "s"));
        assert_eq!(parse("/a:b/p", &[]), is("/a:b/p", "", ""));
        assert_eq!(parse("/a:b@c/p:v@s", &[]), is("/a:b@c/p", "v", "s"));
        assert_eq!(parse("/a:b:v", &[]), is("/a:b", "v", ""));
        assert_eq!(parse("/a:b/", &[]), is("/a:b/", "", ""));
        assert_eq!(parse("p:ö v@ä b", &[]), is("p", "ö v", "ä b"));
        assert_eq!(parse("/p@1:v@s", &[]), is("/p@1", "v", "s"));
        assert_eq!(parse("/p:v@a@b", &[]), is("/p", "v", "a@b"));
    }

    #[test]
    fn what_exists_decides_between_other_readings() {
        assert_eq!(parse("/p:v@10:30", &["/p"]), is("/p", "v", "10:30"));
        assert_eq!(parse("/p@1:v@10:30", &["/p@1"]), is("/p@1", "v", "10:30"));
        assert_eq!(parse("/p@s", &["/p"]), is("/p", "", "s"));
        assert_eq!(parse("/p@s", &[]), is("/p@s", "", ""));
        assert_eq!(parse("/p@s", &["/p", "/p@s"]), is("/p@s", "", ""));
        assert_eq!(parse("/a:b", &["/a:b"]), is("/a:b", "", ""));
        assert_eq!(parse("/a:b", &["/a", "/a:b"]), is("/a", "b", ""));
        // A pool with a colon in its name, and a snapshot: the volume must be written out.
        assert_eq!(parse("/a:b@s", &["/a:b"]), is("/a", "b", "s"));
        assert_eq!(parse("/a:b:main@s", &["/a:b"]), is("/a:b", "main", "s"));
    }

    #[test]
    fn empty_parts_are_errors() {
        let error = |text: &str| Address::choose(OsStr::new(text), |_| false).unwrap_err();
        assert_eq!(error(""), AddressError::NoPool);
        assert_eq!(error(":v"), AddressError::NoPool);
        assert_eq!(error("/p:"), AddressError::NoVolume);
        assert_eq!(error("/p:@s"), AddressError::NoVolume);
        assert_eq!(error("/p:v@"), AddressError::NoSnapshot);
        let bytes = OsStr::from_bytes(b"/p:v\xff");
        assert_eq!(Address::choose(bytes, |_| false), Err(AddressError::NotUtf8));
        let bytes = OsStr::from_bytes(b"/p\xff:v");
        assert!(Address::choose(bytes, |_| false).is_ok());
    }
}
