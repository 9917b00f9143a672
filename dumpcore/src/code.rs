//! The checksum of the dump path's own code.

use crate::integrity::Digest;
use crate::platform::{CodeRange, Platform};

/// CRC-32 of all code ranges that the platform names, and their length in bytes.
pub(crate) fn checksum(platform: &dyn Platform) -> (u32, u64) {
    let mut digest = Digest::new();
    let mut bytes = 0_u64;
    for CodeRange { start, length } in platform.code_ranges() {
        // SAFETY: Platform::code_ranges promises that the range is readable; code and read-only data do not
        // change.
        let range = unsafe { core::slice::from_raw_parts(*start, *length) };
        digest.number(*start as u64).number(*length as u64).bytes(range);
        bytes = bytes.wrapping_add(*length as u64);
    }
    (digest.finish(), bytes)
}
