//! The checksum of bulk data.
//!
//! Every word that is dumped goes through it, so it was chosen by measurement (`cargo xtask bench checksum`):
//! a table-driven CRC-32 costs more than the copy it protects, and XXH64 half as much again. It multiplies
//! like wyhash, 64 bits by 64 bits to 128, with two words of input per multiplication. But wyhash multiplies
//! its state by the input, so a word that makes a factor zero erases everything before it ([version
//! 3](version3)). This is a Feistel network instead. Its state is two halves of four words each, `L` and `R`,
//! which begin as [`LEFT`] and [`RIGHT`]. For each stripe of four words `w`:
//!
//! ```text
//! L ← R
//! R ← (L before ⊕ w) + (low and high half of R0 · R1, low and high half of R2 · R3),
//!     word by word, modulo 2^64
//! ```
//!
//! where `R` on the right is the value before the step. The factors of the multiplications stay in the state,
//! so that
//!
//! - with the same stripe, different states become different states: no input erases or merges earlier input;
//! - with the same state, different stripes give different states, and so do different pairs of stripes in a
//!   row: damage within 64 bytes always changes the state;
//! - an input that makes a factor zero hides nothing: both factors are in the state, and their next
//!   multiplication depends on all of the input.
//!
//! At the end, a stripe with the length and a stripe of zeros are taken in, so that the last words are
//! multiplied too. The content's sum is the exclusive or of the eight words; only there do 512 bits become
//! 64. The remaining steps lose nothing:
//!
//! ```text
//! mix(x) = (x ⊕ (x >> 32)) · M modulo 2^64
//! y = mix(content ⊕ mix(number of the block))
//! sum = y ⊕ (y >> 32)
//! ```
//!
//! The block number goes in last, so a helper can sum a page before its block is known. A block in the wrong
//! place is as wrong as a damaged one: a different number always gives a different sum. The sum detects
//! damage; it does not stop an attacker, who can compute it. [Encryption](super::crypt) does that.

use super::Block;

pub mod version3;

/// Initial value of the left half: the first four words of SHA-512("diskdump 4 checksum"), little-endian.
pub const LEFT: [u64; 4] =
    [0x995b_9e31_6842_870b, 0x3c7a_ac7f_e4d0_2cc5, 0x21b7_30d3_f11d_d904, 0x7c3c_0552_c869_95c5];

/// Initial value of the right half: the other four words.
pub const RIGHT: [u64; 4] =
    [0x5cb9_efe6_7fc8_c417, 0x4faa_4e43_9455_119f, 0x09f5_95cd_cb2b_0327, 0x912c_e444_c401_f2b9];

/// `M`, the multiplier that mixes in the block number: the first word of SHA-512("diskdump 4 place"),
/// little-endian, made odd, because multiplication by an odd number loses nothing.
pub const MULTIPLIER: u64 = 0x1e0f_0e67_4fb6_7171;

/// The checksum of a row of 32-byte stripes.
#[derive(Clone, Copy, Debug)]
pub struct Sum64 {
    left: [u64; 4],
    right: [u64; 4],
}

/// Low and high half of the 128-bit product.
#[inline(always)]
fn multiply(x: u64, y: u64) -> [u64; 2] {
    let product = u128::from(x).wrapping_mul(u128::from(y));
    [product as u64, (product >> 64) as u64]
}

/// The new value of one half of the state, given four words and the other half.
#[inline(always)]
fn mixed(half: [u64; 4], [w0, w1, w2, w3]: [u64; 4], other: [u64; 4]) -> [u64; 4] {
    let ([h0, h1, h2, h3], [o0, o1, o2, o3]) = (half, other);
    let ([p0, p1], [p2, p3]) = (multiply(o0, o1), multiply(o2, o3));
    // Two different operations: given the same one twice, a compiler might do both after the multiplication,
    // on which the next one waits.
    [
        (h0 ^ w0).wrapping_add(p0),
        (h1 ^ w1).wrapping_add(p1),
        (h2 ^ w2).wrapping_add(p2),
        (h3 ^ w3).wrapping_add(p3),
    ]
}

impl Sum64 {
    /// A fresh state.
    #[inline(always)]
    pub fn new() -> Sum64 {
        Sum64 { left: LEFT, right: RIGHT }
    }

    /// Takes in one 32-byte stripe, as four little-endian words.
    #[inline(always)]
    pub fn stripe(&mut self, words: [u64; 4]) {
        let right = mixed(self.left, words, self.right);
        *self = Sum64 { left: self.right, right };
    }

    /// Takes in two stripes. After two, each half is where it was, so no data has to move.
    #[inline(always)]
    pub fn stripes(&mut self, [first, second]: [[u64; 4]; 2]) {
        self.left = mixed(self.left, first, self.right);
        self.right = mixed(self.right, second, self.left);
    }

    /// The checksum of the content alone; `length` is the number of bytes taken in, a multiple of 32.
    #[inline(always)]
    pub fn finish(mut self, length: u64) -> u64 {
        self.stripes([[length, 0, 0, 0], [0; 4]]);
        let ([l0, l1, l2, l3], [r0, r1, r2, r3]) = (self.left, self.right);
        l0 ^ l1 ^ l2 ^ l3 ^ r0 ^ r1 ^ r2 ^ r3
    }
}

impl Default for Sum64 {
    fn default() -> Self {
        Self::new()
    }
}

/// Spreads each bit over the higher ones. Different words stay different.
#[inline(always)]
fn mix(x: u64) -> u64 {
    (x ^ (x >> 32)).wrapping_mul(MULTIPLIER)
}

/// The checksum of a block with this `content` sum at block number `position` of the partition.
#[inline(always)]
pub fn placed(content: u64, position: u64) -> u64 {
    let mixed = mix(content ^ mix(position));
    mixed ^ (mixed >> 32)
}

/// The checksum of a payload block at block number `position` of the partition.
pub fn block_sum(block: &Block, position: u64) -> u64 {
    let mut state = Sum64::new();
    for pair in block.as_chunks::<32>().0.as_chunks::<2>().0 {
        state.stripes(pair.each_ref().map(words));
    }
    placed(state.finish(block.len() as u64), position)
}

/// A stripe as four little-endian words.
#[inline(always)]
fn words(stripe: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(stripe.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}
