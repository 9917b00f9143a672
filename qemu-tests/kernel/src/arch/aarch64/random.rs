//! Entropy: from the CPU if it has FEAT_RNG (Arm ARM, D13.2: RNDRRS), else from the seed in the device tree.

use core::arch::asm;

use crate::arch::virt::random;

/// Number of attempts to get a number from the CPU.
const TRIES: usize = 10;

/// A number from the CPU; `None` if it has none just now.
fn number() -> Option<u64> {
    let (number, got): (u64, u64);
    // SAFETY: the caller knows that the CPU has the register. The Z flag means that no number is available.
    unsafe {
        asm!("mrs {}, S3_3_C2_C4_1", "cset {}, ne", out(reg) number, out(reg) got, options(nomem, nostack))
    };
    (got != 0).then_some(number)
}

/// Fills `bytes`; returns whether it could.
pub(crate) fn fill(bytes: &mut [u8; 32]) -> bool {
    let features: u64;
    // SAFETY: reads the CPU's features.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) features, options(nomem, nostack, preserves_flags)) };
    let can = features >> 60 != 0;
    let filled = can
        && bytes.as_chunks_mut::<8>().0.iter_mut().all(|slot| {
            let word = (0..TRIES).find_map(|_| number());
            *slot = word.unwrap_or(0).to_ne_bytes();
            word.is_some()
        });
    filled || random::fill(bytes)
}
