//! The command line from outside: the program itself is run, on pools in temporary directories.

mod bad_input;
mod clones;
mod commands;
mod full_host;
mod full_pool;
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
