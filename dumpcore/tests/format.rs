//! What is on disk is what the format says, and nothing else is taken for it.

use dumpcore::format::chunk::ChunkHeader;
use dumpcore::format::frame::{self, Kind, Malformed};
use dumpcore::format::header::{Arch, Header, Status, Trigger};
use dumpcore::format::label::Label;
use dumpcore::format::note::Notes;
use dumpcore::format::{BLOCK_SIZE, Block, checksum, pattern};
use proptest::prelude::*;

fn block() -> impl Strategy<Value = Box<Block>> {
    any::<u64>().prop_map(|seed| {
        let mut numbers = dumpcore::sim::Numbers::new(seed);
        let mut block = Box::new([0; BLOCK_SIZE]);
        for word in block.as_chunks_mut::<8>().0 {
            *word = numbers.number().to_le_bytes();
        }
        block
    })
}

fn header() -> Header {
    let mut header = Header::new();
    header.status = (Status::Complete as u32).into();
    header.arch = (Arch::X86_64 as u32).into();
    header.trigger = (Trigger::Panic as u32).into();
    header.window_blocks = 1.into();
    header.first_block = 1.into();
    header.end_block = 9.into();
    header
}

proptest! {
    #[test]
    fn the_checksum_is_what_the_format_says(block in block(), position: u64) {
        // Written once more from the words of the format, in another way.
        let words: Vec<u128> = block.chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap()).into()).collect();
        let fold = |x: u128, y: u128| ((x * y) % (1 << 64)) ^ ((x * y) >> 64);
        let (k1, k2, k3) = (0x8bb84b93962eacc9_u128, 0x4b33a62ed433d4a3_u128, 0x4d5a2da51de1aa47_u128);
        let seed = u128::from(position);
        let lane = |first: usize, key: u128| {
            (0..128).fold(fold(seed ^ k3, key), |lane, stripe| {
                let at = 4 * stripe + first;
                fold(lane ^ words[at], words[at + 1] ^ key)
            })
        };
        let sum = fold(lane(0, k1) ^ 4096, lane(2, k2) ^ k3);
        prop_assert_eq!(u128::from(checksum::block_sum(&block, position)), sum);
    }

    #[test]
    fn any_small_damage_changes_the_checksum(
        block in prop_oneof![block(), Just(Box::new([0; BLOCK_SIZE])), Just(Box::new([0xff; BLOCK_SIZE]))],
        position: u64,
        damage in proptest::collection::btree_map(0..BLOCK_SIZE, 1..=255_u8, 1..9),
        swap in (0..BLOCK_SIZE / 8, 0..BLOCK_SIZE / 8),
        moved in 1..u64::MAX,
    ) {
        let sum = checksum::block_sum(&block, position);
        let mut damaged = block.clone();
        for (at, bits) in damage {
            damaged[at] ^= bits;
        }
        prop_assert_ne!(checksum::block_sum(&damaged, position), sum);
        prop_assert_ne!(checksum::block_sum(&block, position ^ moved), sum);
        let mut swapped = block.clone();
        let words = swapped.as_chunks_mut::<8>().0;
        words.swap(swap.0, swap.1);
        prop_assert_eq!(checksum::block_sum(&swapped, position) == sum, swapped == block);
    }

    #[test]
    fn the_copy_of_a_page_is_the_page_and_its_checksum_the_block_s(block in block(), position: u64) {
        #[repr(align(8))]
        struct Aligned(Block);
        let page = Aligned(*block);
        let mut copy = [0; BLOCK_SIZE];
        // SAFETY: the page is aligned, whole, and stays.
        let sum = unsafe { dumpcore::memory::page::copy(core::ptr::NonNull::from(&page.0).cast(), &mut copy, position) };
        prop_assert_eq!(&copy, &page.0);
        prop_assert_eq!(sum, checksum::block_sum(&copy, position));
    }

    #[test]
    fn a_page_is_zero_only_if_every_byte_is(at in 0..BLOCK_SIZE, byte: u8) {
        #[repr(align(8))]
        struct Aligned(Block);
        let mut page = Aligned([0; BLOCK_SIZE]);
        page.0[at] = byte;
        // SAFETY: the page is aligned, whole, and stays.
        let zero = unsafe { dumpcore::memory::page::is_zero(core::ptr::NonNull::from(&page.0).cast()) };
        prop_assert_eq!(zero, byte == 0);
    }

    #[test]
    fn the_pattern_fits_only_its_own_partition_and_position(uuid: [u8; 16], other: [u8; 16], at: u64, elsewhere: u64) {
        let mut bytes = [0; BLOCK_SIZE];
        pattern::fill(&mut bytes, &uuid, at);
        prop_assert!(pattern::matches(&bytes, &uuid, at));
        prop_assert_eq!(pattern::matches(&bytes, &uuid, elsewhere), elsewhere == at);
        prop_assert_eq!(pattern::matches(&bytes, &other, at), other == uuid);
    }

    #[test]
    fn one_wrong_bit_anywhere_breaks_the_pattern(uuid: [u8; 16], at: u64, bit in 0..BLOCK_SIZE * 8) {
        let mut bytes = [0; BLOCK_SIZE];
        pattern::fill(&mut bytes, &uuid, at);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!pattern::matches(&bytes, &uuid, at));
    }

    #[test]
    fn one_wrong_bit_anywhere_breaks_label_header_and_chunk(bit in 0..BLOCK_SIZE * 8) {
        let mut label = [0; BLOCK_SIZE];
        Label::new([7; 16], 100, 5, "name").to_block(&mut label);
        prop_assert!(Label::parse(&label).is_ok());
        label[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Label::parse(&label).is_err());

        for kind in [Kind::Front, Kind::Back] {
            let mut bytes = [0; BLOCK_SIZE];
            header().to_block(kind, &mut bytes);
            prop_assert!(Header::parse(&bytes, kind).is_ok());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::parse(&bytes, kind).is_err());
        }

        let mut bytes = [0; BLOCK_SIZE];
        let chunk = ChunkHeader::of_mut(&mut bytes).unwrap();
        chunk.clear();
        chunk.kind = 1.into();
        frame::seal(&mut bytes);
        prop_assert!(ChunkHeader::parse(&bytes).is_ok());
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(ChunkHeader::parse(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic(block in block(), magic in 0..5_usize, sealed: bool, version: bool) {
        let mut block = *block;
        block[..8].copy_from_slice(&Kind::ALL[magic].magic());
        if version {
            block[8..12].copy_from_slice(&1_u32.to_le_bytes());
        }
        if sealed {
            frame::seal(&mut block);
        }
        let _ = Label::parse(&block);
        let _ = Header::parse(&block, Kind::Front);
        let _ = Header::parse(&block, Kind::Back);
        let _ = ChunkHeader::parse(&block);
        let walked: usize = Notes::new(&block).map(|(_, bytes)| bytes.len() + 8).sum();
        prop_assert!(walked <= BLOCK_SIZE);
    }

    #[test]
    fn text_is_cut_at_a_character_and_read_back(text in ".{0,80}") {
        let label = Label::new([1; 16], 10, 0, &text);
        let before_zero = text.split('\0').next().unwrap();
        prop_assert!(before_zero.starts_with(label.name()) || text.starts_with(label.name()));
        prop_assert!(label.name().len() > 60 || label.name() == before_zero);
    }
}

#[test]
fn headers_agree_whatever_their_magic_but_nothing_else() {
    let front = header();
    let mut back = header();
    back.magic = Kind::Back.magic();
    assert!(front.agrees_with(&back));
    back.data_pages = 1.into();
    assert!(!front.agrees_with(&back));
}

#[test]
fn an_unknown_version_is_refused_by_its_number() {
    let mut block = [0; BLOCK_SIZE];
    let mut label = Label::new([7; 16], 100, 5, "name");
    label.version = 9.into();
    label.to_block(&mut block);
    assert_eq!(Label::parse(&block).err(), Some(Malformed::Version { found: 9 }));
}
