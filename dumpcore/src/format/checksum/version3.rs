//! The checksum of bulk data in version 3 of the format, for reading such dumps. The kernel side never calls
//! it, so the linker drops it there.
//!
//! Two lanes of wyhash's multiply-and-fold step. A stripe is four words; `x · y` is the 128-bit product:
//!
//! ```text
//! fold(x, y) = low half of x · y  ⊕  high half of x · y
//! first  lane: a ← fold(a ⊕ w0, w1 ⊕ K1), begun with a = K2
//! second lane: b ← fold(b ⊕ w2, w3 ⊕ K2), begun with b = K1
//! content = fold(a ⊕ length, b ⊕ K3)
//! sum = fold(content ⊕ K1, number of the block ⊕ K3)
//! ```
//!
//! Its weakness: words that equal its constants, which are wyhash's, make it blind. `fold(x, 0)` is 0 for
//! every `x`, so after `w1 = K1` nothing earlier in that lane counts any more.

use super::super::Block;
use super::words;

/// wyhash's default secret (final version 4, the last three words).
pub const K1: u64 = 0x8bb8_4b93_962e_acc9;
/// The next one.
pub const K2: u64 = 0x4b33_a62e_d433_d4a3;
/// The last one.
pub const K3: u64 = 0x4d5a_2da5_1de1_aa47;

/// Both halves of the 128-bit product, folded into one word.
#[inline(always)]
fn fold(x: u64, y: u64) -> u64 {
    let [low, high] = super::multiply(x, y);
    low ^ high
}

/// The checksum of a payload block at block number `position` of the partition.
pub fn block_sum(block: &Block, position: u64) -> u64 {
    let (mut a, mut b) = (K2, K1);
    for [w0, w1, w2, w3] in block.as_chunks::<32>().0.iter().map(words) {
        a = fold(a ^ w0, w1 ^ K1);
        b = fold(b ^ w2, w3 ^ K2);
    }
    let content = fold(a ^ block.len() as u64, b ^ K3);
    fold(content ^ K1, position ^ K3)
}
