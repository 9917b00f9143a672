//! A hostile controller.
#![no_main]

use dump_fuzz::ahci::Ahci;
use dump_fuzz::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::a_driver_comes_to_no_harm::<Ahci>(bytes));
