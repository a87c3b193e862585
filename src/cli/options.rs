//! The `-o` options of a mount.

use crate::daemon::protocol::{MountSettings, SnapdirMode};

use super::size::parse_size;

/// Longest name that a directory entry can have.
const MAX_NAME_BYTES: usize = 255;

/// Every option with a meaning here, for hints.
const KNOWN: &[&str] = &[
    "ro",
    "rw",
    "snapshot=",
    "snapdir=",
    "snapdir_name=",
    "allow_other",
    "no_allow_other",
    "default_permissions",
    "noatime",
    "relatime",
    "nodev",
    "dev",
    "nosuid",
    "suid",
    "noexec",
    "exec",
    "context=",
    "fscontext=",
    "defcontext=",
    "rootcontext=",
    "cache_size=",
    "commit=",
];

/// Options that mount(8), fstab(5) and systemd handle themselves, or that change nothing here.
const GENERIC: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "_netdev",
    "nofail",
    "nouser",
    "nousers",
    "noowner",
    "nogroup",
    "async",
    "silent",
    "loud",
    "nolazytime",
    "diratime",
    "nodiratime",
    "nostrictatime",
    "iversion",
    "noiversion",
    "norelatime",
    "atime",
];

/// Why an option is refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OptionError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Parses the lists given with `-o`, in order; later options override earlier ones.
///
/// `sloppy` (`-s` of a mount helper) passes over what is not known.
pub(super) fn parse_options(lists: &[String], sloppy: bool) -> Result<MountSettings, OptionError> {
    let mut settings = MountSettings::default();
    for list in lists {
        for option in split(list) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.trim_matches('"'))),
                None => (option, None),
            };
            match apply(&mut settings, name, value) {
                Err(error) if !(sloppy && error.message.starts_with("unknown")) => {
                    return Err(error);
                }
                _ => {}
            }
        }
    }
    Ok(settings)
}

/// Splits at commas outside double quotes: an SELinux context may hold commas.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let separator = move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    list.split(separator).map(str::trim).filter(|option| !option.is_empty())
}

fn apply(settings: &mut MountSettings, name: &str, value: Option<&str>) -> Result<(), OptionError> {
    let needs = || {
        value.filter(|value| !value.is_empty()).ok_or_else(|| OptionError {
            message: format!("the option `{name}` needs a value"),
            hint: format!("Write `{name}=...`."),
        })
    };
    let flag = match name {
        "ro" => Some((&mut settings.read_only, true)),
        "rw" => Some((&mut settings.read_only, false)),
        "noatime" => Some((&mut settings.noatime, true)),
        "relatime" => Some((&mut settings.noatime, false)),
        "nodev" => Some((&mut settings.nodev, true)),
        "dev" => Some((&mut settings.nodev, false)),
        "nosuid" => Some((&mut settings.nosuid, true)),
        "suid" => Some((&mut settings.nosuid, false)),
        "noexec" => Some((&mut settings.noexec, true)),
        "exec" => Some((&mut settings.noexec, false)),
        _ => None,
    };
    if let Some((field, on)) = flag {
        *field = on;
        return no_value(name, value);
    }
    match name {
        "allow_other" => settings.allow_other = Some(true),
        "no_allow_other" => settings.allow_other = Some(false),
        // The kernel checks permissions on every mount; saying so changes nothing.
        "default_permissions" => {}
        "user" | "users" | "owner" | "group" => {
            // As mount(8) has it: whoever may mount may not bring in devices and programs.
            (settings.nodev, settings.nosuid, settings.noexec) =
                (true, true, name.starts_with("user"));
            return Ok(());
        }
        "snapshot" => settings.snapshot = Some(needs()?.to_owned()),
        "snapdir" => settings.snapdir = snapdir(needs()?)?,
        "snapdir_name" => settings.snapdir_name = snapdir_name(needs()?)?,
        "context" | "fscontext" | "defcontext" | "rootcontext" => {
            let value = needs()?;
            settings.contexts.push(format!("{name}=\"{value}\""));
        }
        "cache_size" => settings.cache_bytes = Some(cache_size(needs()?)?),
        "commit" => settings.commit_seconds = Some(commit(needs()?)?),
        _ if GENERIC.contains(&name) => {}
        _ if name.starts_with("x-") || name.starts_with("X-") || name == "comment" => return Ok(()),
        _ => return Err(unknown(name)),
    }
    if KNOWN.iter().any(|known| known.strip_suffix('=') == Some(name)) {
        return Ok(());
    }
    no_value(name, value)
}

fn no_value(name: &str, value: Option<&str>) -> Result<(), OptionError> {
    match value {
        None => Ok(()),
        Some(_) => Err(OptionError {
            message: format!("the option `{name}` takes no value"),
            hint: format!("Write just `{name}`."),
        }),
    }
}

fn snapdir(value: &str) -> Result<SnapdirMode, OptionError> {
    match value {
        "hidden" => Ok(SnapdirMode::Hidden),
        "visible" => Ok(SnapdirMode::Visible),
        "disabled" => Ok(SnapdirMode::Disabled),
        _ => Err(OptionError {
            message: format!("`snapdir={value}` is not one of its values"),
            hint: "Use snapdir=hidden (the default), visible or disabled.".to_owned(),
        }),
    }
}

fn snapdir_name(value: &str) -> Result<String, OptionError> {
    let bad = value == "." || value == ".." || value.len() > MAX_NAME_BYTES;
    if bad || value.chars().any(|c| c == '/' || c.is_control()) {
        return Err(OptionError {
            message: format!("`{value}` can't be the name of a directory"),
            hint: "Use up to 255 bytes without a slash, such as .snapshots.".to_owned(),
        });
    }
    Ok(value.to_owned())
}

fn cache_size(value: &str) -> Result<u64, OptionError> {
    /// What the tree's upper levels and the nodes of running operations need.
    const MIN_CACHE_BYTES: u64 = 8 << 20;
    let hint =
        "Give the size of the pool's cache, such as cache_size=512M; at least 8M.".to_owned();
    let bytes = parse_size(value).map_err(|message| OptionError { message, hint: hint.clone() })?;
    if bytes < MIN_CACHE_BYTES {
        return Err(OptionError { message: format!("`cache_size={value}` is too little"), hint });
    }
    Ok(bytes)
}

fn commit(value: &str) -> Result<u64, OptionError> {
    /// An hour: what a power cut may cost of the data that nobody synced.
    const MAX_COMMIT_SECONDS: u64 = 3600;
    match value.parse() {
        Ok(seconds @ 1..=MAX_COMMIT_SECONDS) => Ok(seconds),
        _ => Err(OptionError {
            message: format!("`commit={value}` is not a number of seconds from 1 to 3600"),
            hint: "Leave it away for a checkpoint every 5 seconds.".to_owned(),
        }),
    }
}

fn unknown(name: &str) -> OptionError {
    let hint = match name {
        "bind" | "rbind" | "move" => "That is for mount(8) itself, without a type.".to_owned(),
        "sync" | "dirsync" => {
            "Programs that need each write on disk call fsync; there is no mount option for it."
                .to_owned()
        }
        "quota" | "size" => {
            "Quotas belong to volumes: `amberfs volume set POOL:VOLUME quota=SIZE`.".to_owned()
        }
        _ => match nearest(name) {
            Some(known) => format!("Did you mean `{known}`?"),
            None => "`amberfs mount --help` lists the options.".to_owned(),
        },
    };
    OptionError { message: format!("unknown mount option `{name}`"), hint }
}

/// Returns the known option that differs by at most two letters.
fn nearest(name: &str) -> Option<&'static str> {
    let candidates =
        KNOWN.iter().map(|known| (distance(name, known.trim_end_matches('=')), *known));
    let (edits, known) = candidates.min_by_key(|&(edits, _)| edits)?;
    (edits <= 2 && name.chars().count() > edits).then_some(known)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let (first, rest) = match row.split_first_mut() {
            Some(parts) => parts,
            None => return 0,
        };
        *first = left;
        for (cell, to) in rest.iter_mut().zip(b.chars()) {
            let changed = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = changed.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountSettings, OptionError> {
        parse_options(&[text.to_owned()], false)
    }

    #[test]
    fn every_option_of_the_interface_is_taken() {
        let all = "ro,snapshot=mon day,snapdir=visible,snapdir_name=.snap,allow_other,\
            default_permissions,noatime,nodev,nosuid,noexec,cache_size=64M,commit=9,\
            context=\"system_u:object_r:tmp_t:s0:c1,c2\",_netdev,nofail,x-systemd.automount";
        let settings = parse(all).unwrap();
        let expected = MountSettings {
            read_only: true,
            snapshot: Some("mon day".to_owned()),
            snapdir: SnapdirMode::Visible,
            snapdir_name: ".snap".to_owned(),
            allow_other: Some(true),
            noatime: true,
            nodev: true,
            nosuid: true,
            noexec: true,
            contexts: vec!["context=\"system_u:object_r:tmp_t:s0:c1,c2\"".to_owned()],
            cache_bytes: Some(64 << 20),
            commit_seconds: Some(9),
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn later_options_override_earlier_ones() {
        let lists = ["ro,noatime,allow_other".to_owned(), "rw,,relatime,no_allow_other".to_owned()];
        let settings = parse_options(&lists, false).unwrap();
        let expected = MountSettings { allow_other: Some(false), ..MountSettings::default() };
        assert_eq!(settings, expected);
        let user = parse("user,exec,dev").unwrap();
        assert_eq!((user.nodev, user.nosuid, user.noexec), (false, true, false));
    }

    #[test]
    fn unknown_options_come_with_a_hint() {
        let error = parse("snapdri=hidden").unwrap_err();
        assert_eq!(error.message, "unknown mount option `snapdri`");
        assert_eq!(error.hint, "Did you mean `snapdir=`?");
        assert_eq!(parse("noatme").unwrap_err().hint, "Did you mean `noatime`?");
        assert!(parse("bind").unwrap_err().hint.contains("mount(8)"));
        assert!(parse("frobnicate").unwrap_err().hint.contains("--help"));
        assert!(parse_options(&["frobnicate,ro".to_owned()], true).unwrap().read_only);
    }

    #[test]
    fn bad_values_are_refused_even_when_sloppy() {
        for text in [
            "ro=1",
            "allow_other=x",
            "snapshot",
            "snapshot=",
            "snapdir=maybe",
            "snapdir_name=a/b",
            "snapdir_name=..",
            "cache_size=1",
            "cache_size=many",
            "commit=0",
            "commit=-1",
            "commit=1s",
            "defaults=1",
        ] {
            assert!(parse(text).is_err(), "{text}");
            assert!(parse_options(&[text.to_owned()], true).is_err(), "{text}");
        }
    }

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
