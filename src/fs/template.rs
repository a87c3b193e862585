//! Names of snapshots that begin with `@`: templates when one is made, queries when one is looked for.

use super::Filesystem;
use super::error::Error;
use crate::format::Timestamp;
use crate::pool::SnapshotInfo;

/// What a name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Query {
    /// The newest.
    Latest,
    /// The oldest.
    Oldest,
    /// The newest that is at least so many seconds old.
    Ago(i64),
}

impl Query {
    /// Reads `@latest`, `@oldest` or `@2h-ago` (s, m, h, d, w); none for any other name.
    pub(super) fn parse(name: &str) -> Option<Query> {
        match name {
            "@latest" => return Some(Query::Latest),
            "@oldest" => return Some(Query::Oldest),
            _ => {}
        }
        let age = name.strip_prefix('@')?.strip_suffix("-ago")?;
        let unit = match age.chars().last()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            'w' => 7 * 86400,
            _ => return None,
        };
        let count = &age[..age.len() - 1];
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        count.parse::<i64>().ok()?.checked_mul(unit).map(Query::Ago)
    }

    /// Picks the snapshot; `all` is in the order of creation.
    pub(super) fn pick(self, all: Vec<SnapshotInfo>, now: Timestamp) -> Option<SnapshotInfo> {
        let mut all = all.into_iter();
        match self {
            Query::Latest => all.next_back(),
            Query::Oldest => all.next(),
            Query::Ago(seconds) => {
                let limit = Timestamp { sec: now.sec.saturating_sub(seconds), ..now };
                all.rfind(|snapshot| snapshot.created <= limit)
            }
        }
    }
}

impl Filesystem {
    /// Returns the name that a snapshot gets: `@daily` becomes `daily-2026-11-20T10-00-00Z`, and so with any
    /// word of letters, digits, `-` and `_`; a name without `@` stays as it is.
    ///
    /// [`Error::Invalid`] for anything else behind `@`, queries among it.
    pub fn expand_template(name: &str, now: Timestamp) -> Result<String, Error> {
        let Some(word) = name.strip_prefix('@') else { return Ok(name.to_owned()) };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let good = word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.chars().all(plain);
        if !good || Query::parse(name).is_some() || word.ends_with("-ago") {
            return Err(Error::Invalid);
        }
        Ok(format!("{word}-{}", calendar(now, "%Y-%m-%dT%H-%M-%SZ")?))
    }
}

/// A time in UTC.
pub(super) fn calendar(time: Timestamp, format: &str) -> Result<String, Error> {
    let time = jiff::Timestamp::new(time.sec, time.nsec as i32).map_err(|_| Error::Range)?;
    Ok(time.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp { sec: 1_795_169_100, nsec: 5 };

    #[test]
    fn a_template_takes_the_time() {
        let expand = |name| Filesystem::expand_template(name, NOW);
        assert_eq!(expand("@daily").as_deref(), Ok("daily-2026-11-20T10-05-00Z"));
        assert_eq!(expand("monday").as_deref(), Ok("monday"));
        for bad in ["@", "@latest", "@oldest", "@2h-ago", "@x-ago", "@2h", "@a b", "@a/b", "@é"] {
            assert_eq!(expand(bad), Err(Error::Invalid), "{bad}");
        }
    }

    #[test]
    fn a_query_is_a_word_or_an_age() {
        assert_eq!(Query::parse("@latest"), Some(Query::Latest));
        assert_eq!(Query::parse("@90m-ago"), Some(Query::Ago(5400)));
        assert_eq!(Query::parse("@2w-ago"), Some(Query::Ago(14 * 86400)));
        for bad in [
            "latest",
            "@h-ago",
            "@-1h-ago",
            "@2y-ago",
            "@2é-ago",
            "@-ago",
            "@99999999999999999999s-ago",
        ] {
            assert_eq!(Query::parse(bad), None, "{bad}");
        }
    }
}
