//! Suites written elsewhere, run on a mount of the program itself and on ext4 beside it, and what
//! they leave out.

mod exerciser;
mod fsx;
#[path = "../support/mapping.rs"]
#[expect(dead_code, reason = "shared with the tests of mounts")]
mod mapping;
mod pjdfstest;
#[path = "../support/random.rs"]
mod random;
mod sharing;
#[path = "../support/place.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line")]
mod support;
