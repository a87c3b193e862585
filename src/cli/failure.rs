//! What a command says when it could not do its work.

use std::fmt;

use crate::daemon::{Error, ErrorKind};

/// The exit code of a command that failed.
pub const EXIT_FAILED: u8 = 1;
/// The exit code of a command that was called wrongly.
pub const EXIT_USAGE: u8 = 2;

/// A failed command: printed as one paragraph, ends the process with [`Failure::code`].
#[derive(Debug)]
pub struct Failure {
    /// What was attempted and on what, to follow "cannot": `mount /pool:main on /mnt`.
    attempt: String,
    /// Why not.
    cause: String,
    /// What to do about it, a whole sentence.
    hint: Option<String>,
    /// The exit code.
    code: u8,
}

impl Failure {
    /// Makes a failure with exit code 1.
    pub fn new(attempt: impl Into<String>, cause: impl fmt::Display) -> Self {
        let (attempt, cause) = (attempt.into(), cause.to_string());
        Failure { attempt, cause, hint: None, code: EXIT_FAILED }
    }

    /// Makes a failure with exit code 2: the command can't be right in any state of the system.
    pub fn usage(attempt: impl Into<String>, cause: impl fmt::Display) -> Self {
        Failure { code: EXIT_USAGE, ..Failure::new(attempt, cause) }
    }

    /// Wraps what the engine or the daemon answered.
    pub fn from_daemon(attempt: impl Into<String>, error: Error) -> Self {
        let code = if error.kind == ErrorKind::Usage { EXIT_USAGE } else { EXIT_FAILED };
        Failure { attempt: attempt.into(), cause: error.message, hint: error.hint, code }
    }

    /// Adds a hint, unless there is a more special one already.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Returns the exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = self.cause.trim().trim_end_matches('.').replace('\n', " ");
        write!(f, "cannot {}: {cause}.", self.attempt)?;
        match &self.hint {
            Some(hint) => write!(f, " {}", hint.trim().replace('\n', " ")),
            None => Ok(()),
        }
    }
}

/// The failure for a reply that does not fit its request: a daemon of another version.
pub(super) fn odd_reply(attempt: impl Into<String>) -> Failure {
    Failure::new(attempt, "the pool's daemon gave an answer that does not fit the question")
        .hint("It may be of another version: unmount the pool, and mount it again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_paragraph_whatever_the_cause_holds() {
        let failure = Failure::new("open /pool", "first\nsecond.").hint("Try again.");
        assert_eq!(failure.to_string(), "cannot open /pool: first second. Try again.");
        assert_eq!(failure.code(), EXIT_FAILED);
        let failure = failure.hint("Not this one.");
        assert!(failure.to_string().ends_with("Try again."));
    }

    #[test]
    fn a_usage_error_of_the_engine_is_exit_code_2() {
        let error = Error::new(ErrorKind::Usage, "the name is empty");
        assert_eq!(Failure::from_daemon("create", error).code(), EXIT_USAGE);
    }
}
