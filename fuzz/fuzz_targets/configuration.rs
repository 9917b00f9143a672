//! A hostile configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dump_fuzz::configuration(bytes));
