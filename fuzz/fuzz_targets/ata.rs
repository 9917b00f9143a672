//! A hostile controller.
#![no_main]

use dump_fuzz::ata::Ide;
use dump_fuzz::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::a_driver_comes_to_no_harm::<Ide>(bytes));
