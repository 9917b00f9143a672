//! Entropy: from the seed in the device tree, and from the CPU's entropy source, if it has one and the
//! firmware lets supervisor mode use it (OpenSBI from 1.5 on).
//!
//! Specification: RISC-V Scalar Cryptography 1.0.1, 4.1 (the CSR `seed`).

use super::{cpu, guard};
use crate::arch::virt::random;

/// Number of polls for 16 bits; most of them may find none.
const TRIES: usize = 1000;
/// State of the source, in bits 31 and 30: 16 bits are available.
const READY: u64 = 2;
/// State of the source: out of order.
const DEAD: u64 = 3;

/// Fills `bytes`; returns whether it could.
pub(crate) fn fill(bytes: &mut [u8; 32]) -> bool {
    if let Some(own) = source() {
        random::stir(&own);
    }
    random::fill(bytes)
}

/// 256 bits from the CPU's source, which promises half a bit of entropy in each.
fn source() -> Option<[u8; 32]> {
    if !cpu::all_have("zkr") {
        return None;
    }
    let mut bytes = [0; 32];
    for slot in bytes.as_chunks_mut::<2>().0 {
        let answers = (0..TRIES).map(|_| guard::seed());
        let answer = answers
            .map(|word| (word >> 30 & 3, word as u16))
            .find(|(state, _)| matches!(*state, READY | DEAD));
        let (_, word) = answer.filter(|(state, _)| *state == READY)?;
        *slot = word.to_ne_bytes();
    }
    Some(bytes)
}
