//! The command line from outside: the program itself is run, on pools in temporary directories.

use std::sync::RwLock;

mod bad_input;
mod clones;
mod commands;
mod full_host;
#[path = "../support/mapping.rs"]
#[expect(dead_code, reason = "shared with the tests of mounts")]
mod mapping;
mod mounted;
#[path = "../support/random.rs"]
#[expect(dead_code, reason = "shared with the tests of mounts")]
mod random;
mod readme;
mod scrub;
#[path = "../support/place.rs"]
mod support;
mod takeover;

/// Held for writing while a mount has no daemon, and for reading where `amberfs status` must find none such:
/// it reports every mount of the machine, and that of another test too.
static ORPHANED: RwLock<()> = RwLock::new(());
