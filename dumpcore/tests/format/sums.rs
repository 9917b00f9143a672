//! The checksum of bulk data: it matches the format, and detects damage. [`unseen`] lists structured damage
//! that a checksum misses; version 3 is also tested, to show that the cases work.

use dumpcore::format::checksum::{self, LEFT, MULTIPLIER, RIGHT, Sum64, version3};
use dumpcore::format::chunk::{ChunkHeader, MAX_PAYLOAD_BLOCKS};
use dumpcore::format::{BLOCK_SIZE, Block};
use dumpcore::sim::Numbers;
use proptest::prelude::*;
use sha2::{Digest, Sha512};

use super::block;

/// Words in a block.
const WORDS: usize = BLOCK_SIZE / 8;

/// The state, implemented independently from the format's text: each half is a row of words, each product a
/// 128-bit number.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    left: [u64; 4],
    right: [u64; 4],
}

/// What is mixed into the left half.
fn products(right: [u64; 4]) -> [u64; 4] {
    let product = |at: usize| u128::from(right[at]) * u128::from(right[at + 1]);
    let low = |product: u128| (product % (1 << 64)) as u64;
    let high = |product: u128| (product / (1 << 64)) as u64;
    [low(product(0)), high(product(0)), low(product(2)), high(product(2))]
}

/// One word after the other of two or three rows.
fn zip(with: impl Fn(usize) -> u64) -> [u64; 4] {
    std::array::from_fn(with)
}

impl State {
    fn new() -> State {
        State { left: LEFT, right: RIGHT }
    }

    fn after(&self, stripe: [u64; 4]) -> State {
        let products = products(self.right);
        let right = zip(|at| (self.left[at] ^ stripe[at]).wrapping_add(products[at]));
        State { left: self.right, right }
    }

    /// The only state that leads to this one with a stripe.
    fn before(&self, stripe: [u64; 4]) -> State {
        let products = products(self.left);
        let left = zip(|at| self.right[at].wrapping_sub(products[at]) ^ stripe[at]);
        State { left, right: self.left }
    }

    fn content(&self, length: u64) -> u64 {
        let last = self.after([length, 0, 0, 0]).after([0; 4]);
        last.left.iter().chain(&last.right).fold(0, |all, word| all ^ word)
    }
}

/// The only two consecutive stripes that turn the one state into the other.
fn stripes_between(first: &State, last: &State) -> [[u64; 4]; 2] {
    // The left half of the intermediate state is the first one's right half, and its right half the last
    // one's left half.
    let (before, between) = (products(first.right), products(last.left));
    [
        zip(|at| last.left[at].wrapping_sub(before[at]) ^ first.left[at]),
        zip(|at| last.right[at].wrapping_sub(between[at]) ^ first.right[at]),
    ]
}

fn mix(x: u64) -> u64 {
    (u128::from(x ^ (x >> 32)) * u128::from(MULTIPLIER) % (1 << 64)) as u64
}

fn stripes(block: &Block) -> impl Iterator<Item = [u64; 4]> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    block.chunks(32).map(move |stripe| zip(|at| word(&stripe[8 * at..8 * at + 8])))
}

/// Special words for the checksums, including those that make a factor of the first steps zero.
fn special_words() -> Vec<u64> {
    let constants = [version3::K1, version3::K2, version3::K3, MULTIPLIER];
    let constants: Vec<u64> = constants.into_iter().chain(LEFT).chain(RIGHT).collect();
    let zeroing = zip(|at| products(RIGHT)[at].wrapping_neg() ^ LEFT[at]);
    let plain = [0, 1, 1 << 63, u64::MAX, 0x0101_0101_0101_0101];
    let others = constants.iter().flat_map(|word| [!word, word.wrapping_neg(), word ^ 1, word ^ 1 << 63]);
    others.chain(constants.iter().copied()).chain(zeroing).chain(plain).collect()
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), prop::sample::select(special_words())]
}

fn four() -> impl Strategy<Value = [u64; 4]> {
    [word(), word(), word(), word()]
}

proptest! {
    #[test]
    fn the_checksum_is_what_the_format_says(block in block(), position: u64) {
        let state = stripes(&block).fold(State::new(), |state, stripe| state.after(stripe));
        let mixed = mix(state.content(4096) ^ mix(position));
        prop_assert_eq!(checksum::block_sum(&block, position), mixed ^ (mixed >> 32));
    }

    #[test]
    fn no_input_erases_or_merges_what_came_before(left in four(), right in four(), stripe in four()) {
        let state = State { left, right };
        prop_assert_eq!(state.after(stripe).before(stripe), state);
    }

    #[test]
    fn damage_within_two_stripes_never_leaves_the_state_as_it_was(
        left in four(), right in four(), stripes in [four(), four()],
    ) {
        let state = State { left, right };
        let last = state.after(stripes[0]).after(stripes[1]);
        prop_assert_eq!(stripes_between(&state, &last), stripes);
    }

    #[test]
    fn the_same_content_in_another_block_has_another_checksum(content in word(), position: u64, moved in 1..u64::MAX) {
        prop_assert_ne!(checksum::placed(content, position), checksum::placed(content, position ^ moved));
        prop_assert_ne!(checksum::placed(content, position), checksum::placed(content ^ moved, position));
    }

    #[test]
    fn any_small_damage_changes_the_checksum(
        block in prop_oneof![block(), Just(Box::new([0; BLOCK_SIZE])), Just(Box::new([0xff; BLOCK_SIZE]))],
        position: u64,
        damage in proptest::collection::btree_map(0..BLOCK_SIZE, 1..=255_u8, 1..9),
        swap in (0..WORDS, 0..WORDS),
    ) {
        let sum = checksum::block_sum(&block, position);
        let mut damaged = block.clone();
        for (at, bits) in damage {
            damaged[at] ^= bits;
        }
        prop_assert_ne!(checksum::block_sum(&damaged, position), sum);
        let mut swapped = block.clone();
        let words = swapped.as_chunks_mut::<8>().0;
        words.swap(swap.0, swap.1);
        prop_assert_eq!(checksum::block_sum(&swapped, position) == sum, swapped == block);
    }

    #[test]
    fn each_version_s_payload_has_that_version_s_checksum(block in block(), position: u64) {
        let mut chunk = ChunkHeader::new();
        prop_assert_eq!(chunk.block_sum(&block, position), checksum::block_sum(&block, position));
        chunk.version = 3.into();
        prop_assert_eq!(chunk.block_sum(&block, position), version3::block_sum(&block, position));
    }

    #[test]
    fn the_checksum_of_version_3_is_what_that_version_says(block in block(), position: u64) {
        let fold = |x: u64, y: u64| {
            let product = u128::from(x) * u128::from(y);
            ((product % (1 << 64)) ^ (product >> 64)) as u64
        };
        let (k1, k2, k3) = (0x8bb84b93962eacc9, 0x4b33a62ed433d4a3, 0x4d5a2da51de1aa47);
        let lane = |first: usize, begin: u64, key: u64| {
            stripes(&block).fold(begin, |lane, stripe| fold(lane ^ stripe[first], stripe[first + 1] ^ key))
        };
        let content = fold(lane(0, k2, k1) ^ 4096, lane(2, k1, k2) ^ k3);
        prop_assert_eq!(version3::block_sum(&block, position), fold(content ^ k1, position ^ k3));
    }
}

#[test]
fn the_constants_are_nobody_else_s() {
    let words = |text: &str| -> Vec<u64> {
        let bytes = Sha512::digest(text.as_bytes());
        bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
    };
    assert_eq!(words("diskdump 4 checksum"), [LEFT, RIGHT].concat());
    assert_eq!(MULTIPLIER, words("diskdump 4 place")[0] | 1);
}

type Sum = fn(&Block, u64) -> u64;

/// Blocks that are common in memory, or difficult for a checksum.
fn bases() -> Vec<(String, Box<Block>)> {
    let filled = |with: &dyn Fn(usize) -> u64| {
        let mut block = Box::new([0; BLOCK_SIZE]);
        for (at, word) in block.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *word = with(at).to_le_bytes();
        }
        block
    };
    let noise = |seed: u64| {
        let mut numbers = Numbers::new(seed);
        let words: Vec<u64> = (0..WORDS).map(|_| numbers.number()).collect();
        words
    };
    let mut bases = vec![
        ("counting".to_owned(), filled(&|at| at as u64)),
        ("pointers".to_owned(), filled(&|at| 0xffff_8880_0000_0000 + 64 * (at as u64 / 2))),
        ("text".to_owned(), filled(&|at| 0x2020_6e6f_2065_6874 + (at as u64 % 7))),
        ("noise".to_owned(), filled(&|at| noise(5)[at])),
    ];
    for word in special_words() {
        bases.push((format!("full of {word:#x}"), filled(&|_| word)));
        // In each place of a stripe, near the end.
        for place in 0..4 {
            let at = WORDS - 8 + place;
            let noise = noise(word);
            let with = |number: usize| if number == at { word } else { noise[number] };
            bases.push((format!("noise, then word {at} is {word:#x}"), filled(&with)));
        }
    }
    bases
}

/// Kinds of damage to blocks, by name.
fn damages(base: &Block, numbers: &mut Numbers) -> Vec<(String, Box<Block>)> {
    let mut all = Vec::new();
    let mut add = |name: String, change: &dyn Fn(&mut Block)| {
        let mut block = Box::new(*base);
        change(&mut block);
        if *block != *base {
            all.push((name, block));
        }
    };
    let words = |block: &mut Block, change: &dyn Fn(&mut [[u8; 8]])| change(block.as_chunks_mut::<8>().0);
    for sector in 0..8 {
        let place = 512 * sector..512 * (sector + 1);
        add(format!("sector {sector} zeroed"), &|block| block[place.clone()].fill(0));
        add(format!("sector {sector} all ones"), &|block| block[place.clone()].fill(0xff));
        add(format!("all from sector {sector} on zeroed"), &|block| block[place.start..].fill(0));
        for other in 0..sector {
            add(format!("sectors {other} and {sector} swapped"), &|block| {
                let (low, high) = block.split_at_mut(512 * sector);
                low[512 * other..512 * (other + 1)].swap_with_slice(&mut high[..512]);
            });
        }
    }
    for by in [1, 2, 8, 16, 32, 64, 512, 2048] {
        add(format!("shifted by {by}"), &|block| block.rotate_right(by));
        add(format!("shifted by {by}, zeros in front"), &|block| {
            block.copy_within(..BLOCK_SIZE - by, by);
            block[..by].fill(0);
        });
    }
    for apart in [1, 2, 3, 4, 5, 8, 12, 16, 64, 128, 256] {
        for _ in 0..4 {
            let at = numbers.below((WORDS - apart) as u64) as usize;
            let (bit, other) = (numbers.below(64), numbers.below(64));
            add(format!("words {at} and {} swapped", at + apart), &|block| {
                words(block, &|words| words.swap(at, at + apart));
            });
            add(format!("word {at} repeated at {}", at + apart), &|block| {
                words(block, &|words| words[at + apart] = words[at]);
            });
            for (bit, other) in [(bit, bit), (63, 63), (bit, other), (63, other), (0, 0)] {
                add(format!("bit {bit} of word {at} and {other} of {}", at + apart), &|block| {
                    words(block, &|words| {
                        words[at][bit as usize / 8] ^= 1 << (bit % 8);
                        words[at + apart][other as usize / 8] ^= 1 << (other % 8);
                    });
                });
            }
        }
    }
    for _ in 0..16 {
        let (at, seed) = (numbers.below(WORDS as u64 - 8) as usize, numbers.number());
        let random = |block: &mut Block, all: bool| {
            let mut numbers = Numbers::new(seed);
            let all = if all { 0..at } else { at..at + 1 };
            for word in &mut block.as_chunks_mut::<8>().0[all] {
                *word = numbers.number().to_le_bytes();
            }
        };
        add(format!("noise in word {at}"), &|block| random(block, false));
        add(format!("noise in all words before {at}"), &|block| random(block, true));
    }
    // Damage that a final loss of a two-word lane would hide.
    for lane in [0, 2] {
        add(format!("words {lane} and {} of each stripe but the last two", lane + 1), &|block| {
            words(block, &|words| {
                for stripe in words[..WORDS - 8].chunks_mut(4) {
                    stripe[lane][3] ^= 0x40;
                    stripe[lane + 1][6] ^= 0x04;
                }
            });
        });
    }
    all
}

/// Damage that a checksum misses.
fn unseen(sum: Sum) -> Vec<String> {
    let mut numbers = Numbers::new(11);
    let mut unseen = Vec::new();
    for (base, bytes) in bases() {
        let good = sum(&bytes, 9);
        let damages = damages(&bytes, &mut numbers);
        let blind = damages.iter().filter(|(_, damaged)| sum(damaged, 9) == good);
        unseen.extend(blind.map(|(name, _)| format!("{base}: {name}")));
    }
    unseen
}

#[test]
fn structured_damage_is_seen_also_before_words_that_equal_the_constants() {
    assert_eq!(unseen(checksum::block_sum), Vec::<String>::new());
    // The checksum of version 3 misses these.
    let before = unseen(version3::block_sum);
    for (key, at) in [(version3::K1, WORDS - 7), (version3::K2, WORDS - 5)] {
        for word in [key, !key] {
            let base = format!("noise, then word {at} is {word:#x}: ");
            assert!(before.iter().any(|damage| damage.starts_with(&base)), "{base}{before:#?}");
        }
    }
}

#[test]
fn rows_of_the_same_words_of_different_lengths_have_different_checksums() {
    for word in special_words() {
        let mut sums: Vec<u64> = Vec::new();
        let mut state = Sum64::new();
        for length in 0..=2 * BLOCK_SIZE as u64 / 32 {
            sums.push(state.finish(32 * length));
            // As if the length were unknown too.
            sums.push(state.finish(BLOCK_SIZE as u64 * 4));
            state.stripe([word; 4]);
        }
        let number = sums.len();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), number, "of words {word:#x}");
    }
}

#[test]
fn a_block_moved_inside_a_chunk_is_seen() {
    for (name, block) in bases() {
        let content: Vec<u64> =
            (0..MAX_PAYLOAD_BLOCKS as u64).map(|at| checksum::block_sum(&block, 77 + at)).collect();
        for (at, sum) in content.iter().enumerate() {
            assert!(!content[..at].contains(sum), "{name} at {at}");
        }
    }
}

/// The sums of blocks that differ in one or two bits are all different, and their halves collide no more
/// often than by chance.
#[test]
fn sums_of_blocks_that_hardly_differ_are_as_different_as_random_numbers() {
    for word in [0, u64::MAX, version3::K1, LEFT[0]] {
        let mut block: Block = [0; BLOCK_SIZE];
        for bytes in block.as_chunks_mut::<8>().0 {
            *bytes = word.to_le_bytes();
        }
        let mut sums = Vec::new();
        let flip = |block: &mut Block, bit: usize| block[bit / 8] ^= 1 << (bit % 8);
        // In the last words, which go through the fewest steps, and in the first ones.
        let bits: Vec<usize> = (0..128).chain(8 * BLOCK_SIZE - 256..8 * BLOCK_SIZE).collect();
        for (number, bit) in bits.iter().enumerate() {
            flip(&mut block, *bit);
            sums.push(checksum::block_sum(&block, 3));
            for other in &bits[..number] {
                flip(&mut block, *other);
                sums.push(checksum::block_sum(&block, 3));
                flip(&mut block, *other);
            }
            flip(&mut block, *bit);
        }
        let equal = |part: &dyn Fn(u64) -> u64| {
            let mut parts: Vec<u64> = sums.iter().map(|sum| part(*sum)).collect();
            parts.sort_unstable();
            parts.dedup();
            sums.len() - parts.len()
        };
        assert_eq!(equal(&|sum| sum), 0, "blocks of {word:#x}");
        // Of 73,920 numbers of 32 bits, 0.6 pairs are equal on average; nine or more are in one of 10^8
        // cases.
        for shift in [0, 16, 32] {
            assert!(
                equal(&|sum| sum >> shift & 0xffff_ffff) < 9,
                "blocks of {word:#x}, bits from {shift} on"
            );
        }
    }
}
