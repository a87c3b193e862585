//! The command line from outside: the program itself is run, on pools in temporary directories.

mod bad_input;
mod commands;
mod mounted;
mod readme;
#[path = "../support/place.rs"]
mod support;
