//! The body `requests` under libFuzzer.
#![no_main]
#![allow(dead_code)]

#[path = "../../support/anatomy.rs"]
mod anatomy;
#[path = "../bodies/mod.rs"]
mod bodies;
#[path = "../../support/patient.rs"]
mod patient;
#[path = "../../support/random.rs"]
mod random;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::requests::run(data));
