//! Entropy from the CPU (Intel SDM vol. 1, 7.3.17).

use core::arch::x86_64::{__cpuid, __cpuid_count, _rdrand64_step, _rdseed64_step};

/// Number of attempts to get a number from the CPU; according to the manual, ten are enough if it works at
/// all.
const TRIES: usize = 10;

/// Fills `bytes`; returns whether the CPU could.
pub(crate) fn fill(bytes: &mut [u8; 32]) -> bool {
    // Leaf 7, ebx bit 18: RDSEED. Leaf 1, ecx bit 30: RDRAND.
    let seed = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 << 18 != 0;
    let random = __cpuid(1).ecx & 1 << 30 != 0;
    bytes.as_chunks_mut::<8>().0.iter_mut().all(|slot| {
        let mut word = 0;
        // SAFETY: the CPU reports that it has the instruction.
        let found = (0..TRIES).any(|_| seed && unsafe { _rdseed64_step(&mut word) } == 1)
            // SAFETY: as above.
            || (0..TRIES).any(|_| random && unsafe { _rdrand64_step(&mut word) } == 1);
        *slot = word.to_ne_bytes();
        found
    })
}
