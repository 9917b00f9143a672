//! A hostile controller for the driver that the variable `DRIVER` names, as in `drivers/src/table.rs`.
#![no_main]

use std::sync::LazyLock;

use dump_fuzz::kinds;

/// What gets the fuzzer's bytes.
static HOSTILE: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("DRIVER").expect("DRIVER names a driver");
    kinds::hostile(&name).expect("DRIVER names a driver of the table")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| HOSTILE(bytes));
