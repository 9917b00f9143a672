//! Numbers that nobody can guess: of those that the machine hands over, and of the CPU's entropy source, where it has one and the
//! firmware lets supervisor mode have it (OpenSBI does so from 1.5 on).
//!
//! Specification: RISC-V Scalar Cryptography 1.0.1, 4.1 (the CSR `seed`).

use super::{cpu, guard};
use crate::arch::virt::random;

/// How often the source is asked for 16 bits; most answers may be that it has none yet.
const TRIES: usize = 1000;
/// What the source says of itself, in bits 31 and 30: here are 16 bits.
const READY: u64 = 2;
/// It is out of order.
const DEAD: u64 = 3;

/// Fills `bytes`, and says whether it could.
pub(crate) fn fill(bytes: &mut [u8; 32]) -> bool {
    if let Some(own) = source() {
        random::stir(&own);
    }
    random::fill(bytes)
}

/// 256 bits from the CPU's source. It promises half a bit of entropy in each.
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
