//! The checksum of bulk data: XXH64 (specification: xxHash, version 0.1.1, "XXH64 algorithm description").
//!
//! Chosen by measurement (`cargo xtask bench checksum`): a table-driven CRC-32 would cost more than
//! the copy it protects. A block's checksum is seeded with the number of the block it stands in, so that a
//! block in the wrong place is as wrong as a damaged one.

use super::Block;

const PRIME_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME_4: u64 = 0x85eb_ca77_c2b2_ae63;

/// XXH64 over whole 4096-byte blocks, fed 32 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct Xxh64 {
    lanes: [u64; 4],
}

#[inline(always)]
fn round(lane: u64, input: u64) -> u64 {
    lane.wrapping_add(input.wrapping_mul(PRIME_2)).rotate_left(31).wrapping_mul(PRIME_1)
}

impl Xxh64 {
    /// A fresh state.
    #[inline(always)]
    pub fn new(seed: u64) -> Xxh64 {
        Xxh64 {
            lanes: [
                seed.wrapping_add(PRIME_1).wrapping_add(PRIME_2),
                seed.wrapping_add(PRIME_2),
                seed,
                seed.wrapping_sub(PRIME_1),
            ],
        }
    }

    /// Takes in one 32-byte stripe, as four little-endian words.
    #[inline(always)]
    pub fn stripe(&mut self, words: [u64; 4]) {
        let [a, b, c, d] = self.lanes;
        let [w, x, y, z] = words;
        self.lanes = [round(a, w), round(b, x), round(c, y), round(d, z)];
    }

    /// The checksum; `length` is the number of bytes taken in, a multiple of 32.
    #[inline(always)]
    pub fn finish(self, length: u64) -> u64 {
        let [a, b, c, d] = self.lanes;
        let mut hash = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        for lane in self.lanes {
            hash = (hash ^ round(0, lane)).wrapping_mul(PRIME_1).wrapping_add(PRIME_4);
        }
        hash = hash.wrapping_add(length);
        hash = (hash ^ (hash >> 33)).wrapping_mul(PRIME_2);
        hash = (hash ^ (hash >> 29)).wrapping_mul(PRIME_3);
        hash ^ (hash >> 32)
    }
}

/// The checksum of a payload block that stands in block number `position` of the partition.
pub fn block_sum(block: &Block, position: u64) -> u64 {
    let mut state = Xxh64::new(position);
    for stripe in block.as_chunks::<32>().0 {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(stripe.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        state.stripe(words);
    }
    state.finish(block.len() as u64)
}
