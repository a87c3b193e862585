//! Decoding of what the kernel sends, under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| amberfs::fuse::fuzzing::request(data));
