//! The checksum of bulk data.
//!
//! Every word that is dumped goes through it, so it was chosen by measurement (`cargo xtask bench checksum`): a
//! table-driven CRC-32 costs more than the copy it protects, and XXH64 half as much again. This is two
//! lanes of the multiply-and-fold step that wyhash is built of. A stripe is four words; with `x · y` the 128-bit product:
//!
//! ```text
//! fold(x, y) = low half of x · y  ⊕  high half of x · y
//! first  lane: a ← fold(a ⊕ w0, w1 ⊕ K1), begun with a = K2
//! second lane: b ← fold(b ⊕ w2, w3 ⊕ K2), begun with b = K1
//! content = fold(a ⊕ length, b ⊕ K3)
//! sum = fold(content ⊕ K1, number of the block ⊕ K3)
//! ```
//!
//! The number of the block goes in last: a CPU that helps can sum a page before anybody knows where it will stand. A
//! block in the wrong place is as wrong as a damaged one. The sum finds damage; it does not keep out somebody who
//! computes it: that is what [encryption](super::crypt) is for.

use super::Block;

/// wyhash's default secret (final version 4, the last three words).
const K1: u64 = 0x8bb8_4b93_962e_acc9;
const K2: u64 = 0x4b33_a62e_d433_d4a3;
const K3: u64 = 0x4d5a_2da5_1de1_aa47;

/// The checksum of a row of 32-byte stripes.
#[derive(Clone, Copy, Debug)]
pub struct Sum64 {
    a: u64,
    b: u64,
}

/// Both halves of the 128-bit product, folded into one word.
#[inline(always)]
fn fold(x: u64, y: u64) -> u64 {
    let product = u128::from(x).wrapping_mul(u128::from(y));
    (product as u64) ^ ((product >> 64) as u64)
}

impl Sum64 {
    /// A fresh state.
    #[inline(always)]
    pub fn new() -> Sum64 {
        Sum64 { a: K2, b: K1 }
    }

    /// Takes in one 32-byte stripe, as four little-endian words.
    #[inline(always)]
    pub fn stripe(&mut self, words: [u64; 4]) {
        let [w0, w1, w2, w3] = words;
        self.a = fold(self.a ^ w0, w1 ^ K1);
        self.b = fold(self.b ^ w2, w3 ^ K2);
    }

    /// The checksum of the content alone; `length` is the number of bytes taken in, a multiple of 32.
    #[inline(always)]
    pub fn finish(self, length: u64) -> u64 {
        fold(self.a ^ length, self.b ^ K3)
    }
}

impl Default for Sum64 {
    fn default() -> Self {
        Self::new()
    }
}

/// The checksum of a block with this `content` sum that stands in block number `position` of the partition.
#[inline(always)]
pub fn placed(content: u64, position: u64) -> u64 {
    fold(content ^ K1, position ^ K3)
}

/// The checksum of a payload block that stands in block number `position` of the partition.
pub fn block_sum(block: &Block, position: u64) -> u64 {
    let mut state = Sum64::new();
    for stripe in block.as_chunks::<32>().0 {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(stripe.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        state.stripe(words);
    }
    placed(state.finish(block.len() as u64), position)
}
