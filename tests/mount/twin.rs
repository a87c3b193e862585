//! The same scenario on a mount and on a directory of the host: what its calls return, and what it sees
//! afterwards, must be the same. The host's temporary directory should be on ext4.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;

use crate::support::TestMount;
use crate::sys;

/// What a scenario has seen, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Log(Vec<String>);

impl Log {
    /// Notes what came of something.
    pub(crate) fn note(&mut self, what: impl Into<String>, seen: impl std::fmt::Debug) {
        self.0.push(format!("{}: {seen:?}", what.into()));
    }
}

/// Runs a scenario on a new mount and on a host's directory, and compares.
#[track_caller]
pub(crate) fn alike(scenario: impl Fn(&Path, &mut Log)) {
    alike_on(&TestMount::new(), scenario);
}

/// Runs a scenario on this mount and on a host's directory, and compares.
#[track_caller]
pub(crate) fn alike_on(m: &TestMount, scenario: impl Fn(&Path, &mut Log)) {
    let host = tempfile::tempdir().unwrap();
    fs::set_permissions(host.path(), Permissions::from_mode(0o755)).unwrap();
    let (mut ours, mut theirs) = (Log::default(), Log::default());
    scenario(host.path(), &mut theirs);
    scenario(m.root(), &mut ours);
    let differ: Vec<String> = ours
        .0
        .iter()
        .zip(&theirs.0)
        .filter(|(ours, theirs)| ours != theirs)
        .map(|(ours, theirs)| format!("  here  {ours}\n  there {theirs}\n"))
        .collect();
    let kind = rustix::fs::statfs(host.path()).unwrap().f_type;
    assert!(
        differ.is_empty() && ours.0.len() == theirs.0.len(),
        "{} differences from the host's filesystem ({kind:#x}):\n{}",
        differ.len(),
        differ.concat()
    );
    assert!(!ours.0.is_empty(), "a scenario that notes nothing");
}

/// Who does something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'static [u32],
    pub(crate) umask: u32,
}

/// The user with that number, in a group of the same number and in no other.
pub(crate) fn user(id: u32) -> User {
    User { uid: id, gid: id, groups: &[], umask: 0o022 }
}

pub(crate) const ROOT: User = User { uid: 0, gid: 0, groups: &[], umask: 0o022 };

impl User {
    pub(crate) fn with_group(self, groups: &'static [u32]) -> User {
        User { groups, ..self }
    }

    pub(crate) fn with_umask(self, umask: u32) -> User {
        User { umask, ..self }
    }

    /// Runs `body` as this user, in a thread whose working directory is `dir`: what it opens it should
    /// name from there, since the way to `dir` may be closed to it.
    pub(crate) fn run<T: Send>(self, dir: &Path, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sys::leave_shared_directory();
                std::env::set_current_dir(dir).unwrap();
                rustix::process::umask(Mode::from_raw_mode(self.umask));
                if self.uid != 0 {
                    sys::become_user(self.uid, self.gid, self.groups);
                }
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
