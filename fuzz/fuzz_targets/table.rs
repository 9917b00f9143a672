//! A hostile disk with a partition table.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dump_fuzz::table(bytes));
