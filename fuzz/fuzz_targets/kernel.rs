//! A hostile kernel file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dump_fuzz::kernel(bytes));
