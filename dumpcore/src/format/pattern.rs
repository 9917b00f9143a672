//! The pattern: the content of a block that a dump may overwrite.
//!
//! Every free block holds its partition's uuid and its own block number, and is filled with numbers derived
//! from both. A block that is in another place or on another disk, or that has one foreign bit, is not the
//! pattern, and no dump overwrites it. (The 2004 diskdump did the same with `x = (x + 7) * 11`.)

use static_assertions::const_assert;

use super::frame::Kind;
use super::{BLOCK_SIZE, Block, Uuid};

/// Offset of the generated words: after magic (8), block number (8) and uuid (16).
const WORDS_OFFSET: usize = 32;

/// Multiplier and increment of the generator (Knuth's MMIX linear congruential generator).
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;
const_assert!((BLOCK_SIZE - WORDS_OFFSET).is_multiple_of(32));

/// The first word of a block; depends on every bit of uuid and block number.
fn seed(uuid: &Uuid, block: u64) -> u64 {
    let (low, high) = uuid.split_at(8);
    let low = u64::from_le_bytes(low.first_chunk().copied().unwrap_or_default());
    let high = u64::from_le_bytes(high.first_chunk().copied().unwrap_or_default());
    low ^ high.rotate_left(32) ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Fills `bytes` with the pattern of block number `block` of partition `uuid`.
pub fn fill(bytes: &mut Block, uuid: &Uuid, block: u64) {
    let (head, words) = bytes.split_at_mut(WORDS_OFFSET);
    let (magic, rest) = head.split_at_mut(8);
    let (number, identity) = rest.split_at_mut(8);
    magic.copy_from_slice(&Kind::Pattern.magic());
    number.copy_from_slice(&block.to_le_bytes());
    identity.copy_from_slice(uuid);
    let mut word = seed(uuid, block);
    for slot in words.as_chunks_mut::<8>().0 {
        *slot = word.to_le_bytes();
        word = word.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
    }
    debug_assert_eq!(bytes.len(), BLOCK_SIZE);
}

/// Whether a block is exactly the pattern of block number `block` of partition `uuid`.
pub fn matches(bytes: &Block, uuid: &Uuid, block: u64) -> bool {
    let (head, words) = bytes.split_at(WORDS_OFFSET);
    let (magic, rest) = head.split_at(8);
    let (number, identity) = rest.split_at(8);
    if magic != Kind::Pattern.magic() || number != block.to_le_bytes() || identity != uuid {
        return false;
    }
    let mut word = seed(uuid, block);
    let mut difference = 0;
    // Four words at a time, which divides the block's 508: an emulated CPU pays for each iteration.
    for group in words.as_chunks::<32>().0 {
        for slot in group.as_chunks::<8>().0 {
            difference |= u64::from_le_bytes(*slot) ^ word;
            word = word.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        }
    }
    difference == 0
}
