//! A hostile image, or raw copy of a dump.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dump_fuzz::image(bytes));
