//! A hostile controller.
#![no_main]

use dump_fuzz::hostile;
use dump_fuzz::nvme::Nvme;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::a_driver_comes_to_no_harm::<Nvme>(bytes));
