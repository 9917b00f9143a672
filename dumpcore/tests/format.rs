//! The contents of the disk match the format, and nothing else is mistaken for it.

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use dumpcore::format::chain::{Extent, back_at, front_at};
use dumpcore::format::chunk::{ChunkHeader, MAX_UNIT_PAGES, Packing, Run, RunKind, UnitHeader, Units};
use dumpcore::format::crypt::{self, Key, Place};
use dumpcore::format::frame::{self, Kind, Malformed};
use dumpcore::format::header::{Arch, Header, Status, Trigger};
use dumpcore::format::label::Label;
use dumpcore::format::note::Notes;
use dumpcore::format::{BLOCK_SIZE, Block, PAGE_SIZE, VERSION, checksum, freeing, pattern};
use dumpcore::memory::class::{ClassedPfn, Level, PageClass};
use dumpcore::memory::lz4::{Table, compress};
use dumpcore::sim::cases;
use proptest::prelude::*;
use zerocopy::IntoBytes;

#[path = "format/sums.rs"]
mod sums;

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
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn a_header_is_believed_only_in_its_own_place_and_on_its_own_partition(at in 1_u64..1 << 40, elsewhere in 1_u64..1 << 40, length in 1_u64..1 << 20) {
        let mut front = header();
        front.uuid = [7; 16];
        front.first_block = at.into();
        front.end_block = (at + length).into();
        let mut block: Block = [0; BLOCK_SIZE];
        block.copy_from_slice(front.as_bytes());
        frame::set_checksum(&mut block);
        prop_assert!(front_at(&block, &[7; 16], at).is_some());
        prop_assert!(front_at(&block, &[8; 16], at).is_none());
        prop_assert_eq!(front_at(&block, &[7; 16], elsewhere).is_some(), elsewhere == at);
        // A front header is never a back header, wherever it is.
        prop_assert!(back_at(&block, &[7; 16], at + length - 1).is_none());
    }

    #[test]
    fn no_dump_reaches_before_its_beginning_or_beyond_its_partition(first in 1_u64..1 << 40, end: u64, blocks in 1_u64..1 << 41) {
        let mut front = header();
        front.first_block = first.into();
        front.end_block = end.into();
        let extent = Extent::of(&front, blocks);
        if first < end && end <= blocks {
            prop_assert_eq!(extent, Extent::Closed { end });
        } else {
            prop_assert_eq!(extent, Extent::Impossible);
        }
        front.status = (Status::InProgress as u32).into();
        prop_assert_eq!(Extent::of(&front, blocks), Extent::Open);
    }

    #[test]
    fn the_copy_of_a_page_is_the_page_and_its_checksum_the_block_s(block in block(), position: u64) {
        #[repr(align(8))]
        struct Aligned(Block);
        let page = Aligned(*block);
        let mut copy = [0; BLOCK_SIZE];
        // SAFETY: the page is aligned, complete, and permanent.
        unsafe { dumpcore::memory::page::copy(core::ptr::NonNull::from(&page.0).cast(), &mut copy) };
        prop_assert_eq!(&copy, &page.0);
        // SAFETY: as above.
        let sum = unsafe { dumpcore::memory::page::sum(core::ptr::NonNull::from(&page.0).cast()) };
        prop_assert_eq!(checksum::placed(sum, position), checksum::block_sum(&copy, position));
    }

    #[test]
    fn a_page_is_zero_only_if_every_byte_is(at in 0..BLOCK_SIZE, byte: u8) {
        #[repr(align(8))]
        struct Aligned(Block);
        let mut page = Aligned([0; BLOCK_SIZE]);
        page.0[at] = byte;
        // SAFETY: the page is aligned, complete, and permanent.
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
    fn a_page_number_and_its_class_fit_one_word(pfn in 0..1_u64 << 52, behind in 0..1_u64 << 40, class in 0..11_u16) {
        let class = PageClass::from_number(class).unwrap();
        let page = ClassedPfn::new(pfn, class);
        prop_assert_eq!((page.pfn(), page.class_number()), (pfn, class as u16));
        prop_assert_eq!(page.behind(behind), ClassedPfn::new(pfn + behind, class));
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
        frame::set_checksum(&mut bytes);
        prop_assert!(ChunkHeader::parse(&bytes).is_ok());
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(ChunkHeader::parse(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic(block in block(), magic in 0..5_usize, encrypted: bool, version: bool) {
        let mut block = *block;
        block[..8].copy_from_slice(&Kind::ALL[magic].magic());
        if version {
            block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        }
        if encrypted {
            frame::set_checksum(&mut block);
        }
        let _ = Label::parse(&block);
        let _ = Header::parse(&block, Kind::Front);
        let _ = Header::parse(&block, Kind::Back);
        let _ = ChunkHeader::parse(&block);
        let walked: usize = Notes::new(&block).map(|(_, bytes)| bytes.len() + 8).sum();
        prop_assert!(walked <= BLOCK_SIZE);
        let mut units = Units::new(&block);
        let walked: usize = units.by_ref().map(|unit| unit.stored + size_of::<UnitHeader>()).sum();
        prop_assert!(walked + units.rest().len() <= BLOCK_SIZE);
    }

    #[test]
    fn units_are_walked_as_they_were_laid_and_a_bad_one_ends_the_walk(
        laid in proptest::collection::vec((1..=MAX_UNIT_PAGES, any::<bool>(), 1..PAGE_SIZE), 0..6),
        bad in proptest::option::of((0..6_usize, 0..5_u8)),
    ) {
        let mut payload = Vec::new();
        let mut good = Vec::new();
        let mut spoilt = false;
        for (number, (pages, packed, length)) in laid.into_iter().enumerate() {
            let raw = pages * PAGE_SIZE;
            let (stored, packing) = if packed { (length, Packing::Lz4) } else { (raw, Packing::Stored) };
            let mut header = UnitHeader {
                stored: (stored as u32).into(),
                pages: (pages as u16).into(),
                packing: (packing as u16).into(),
            };
            if let Some((_, how)) = bad.filter(|(at, _)| *at == number) {
                spoilt = true;
                match how {
                    0 => header.stored = 0.into(),
                    1 => header.pages = 0.into(),
                    2 => header.pages = (MAX_UNIT_PAGES as u16 + 1).into(),
                    3 => header.packing = 2.into(),
                    // As long as its pages, or longer than the payload.
                    _ => header.stored = (raw as u32 + u32::from(!packed)).into(),
                }
            }
            if !spoilt {
                good.push((payload.len() + size_of::<UnitHeader>(), stored, pages, packing));
            }
            payload.extend_from_slice(header.as_bytes());
            payload.resize(payload.len() + stored.next_multiple_of(8), 0);
        }
        let mut units = Units::new(&payload);
        let found: Vec<_> =
            units.by_ref().map(|unit| (unit.offset, unit.stored, unit.pages, unit.packing)).collect();
        prop_assert_eq!(found, good);
        prop_assert_eq!(units.rest().is_empty(), !spoilt);
    }

    #[test]
    fn a_chunk_is_encrypted_as_any_other_xchacha20_poly1305_does_it(
        (secret, ephemeral_secret) in any::<([u8; 32], [u8; 32])>(),
        (attempt, nonce, index) in any::<(u32, u64, u64)>(),
        associated in 0..9_usize,
        blocks in 0..3_usize,
        seed: u64,
    ) {
        let (recipient, ephemeral) = (crypt::public_key(&secret), crypt::public_key(&ephemeral_secret));
        let key = Key::agree(&ephemeral_secret, &recipient, &ephemeral, &recipient).unwrap();
        let mut numbers = dumpcore::sim::Numbers::new(seed);
        let mut bytes = |length: usize| -> Vec<u8> { (0..length).map(|_| numbers.number() as u8).collect() };
        let (associated, text) = (bytes(16 * associated), bytes(64 * blocks));

        let mut encrypted = text.clone();
        let place = Place { attempt, nonce, index };
        let tag = key.encrypt(&place, &associated, &mut encrypted).unwrap();
        let mut long_nonce = [0; 24];
        long_nonce[..4].copy_from_slice(&attempt.to_le_bytes());
        long_nonce[8..16].copy_from_slice(&nonce.to_le_bytes());
        long_nonce[16..].copy_from_slice(&index.to_le_bytes());
        let judge = XChaCha20Poly1305::new(key.bytes().into());
        let mut judged = text.clone();
        let judged_tag =
            judge.encrypt_inout_detached(&long_nonce.into(), &associated, judged.as_mut_slice().into()).unwrap();
        prop_assert_eq!(&encrypted, &judged);
        prop_assert_eq!(tag.as_slice(), judged_tag.as_slice());

        // The holder of the other secret can decrypt it.
        let theirs = Key::agree(&secret, &ephemeral, &ephemeral, &recipient).unwrap();
        prop_assert!(theirs.open(&place, &associated, &mut encrypted, &tag));
        prop_assert_eq!(encrypted, text);
    }

    #[test]
    fn nothing_opens_that_was_changed_or_stands_elsewhere(
        secret: [u8; 32],
        change in 0..6_u8,
        bit in 0..8 * 64_usize,
    ) {
        let (public, ephemeral) = (crypt::public_key(&secret), crypt::public_key(&[7; 32]));
        let key = Key::agree(&[7; 32], &public, &ephemeral, &public).unwrap();
        let mut place = Place { attempt: 1, nonce: 2, index: 3 };
        let (mut associated, mut bytes) = ([5; 64], [6; 64]);
        let mut tag = key.encrypt(&place, &associated, &mut bytes).unwrap();
        match change {
            0 => associated[bit / 8] ^= 1 << (bit % 8),
            1 => bytes[bit / 8] ^= 1 << (bit % 8),
            2 => tag[bit / 8 % 16] ^= 1 << (bit % 8),
            3 => place.attempt ^= 1 << (bit % 32),
            4 => place.nonce ^= 1 << (bit % 64),
            _ => place.index ^= 1 << (bit % 64),
        }
        let before = bytes;
        prop_assert!(!key.open(&place, &associated, &mut bytes, &tag));
        prop_assert_eq!(bytes, before, "what does not open stays as it is");
    }

    #[test]
    fn a_unit_is_packed_as_any_lz4_decoder_reads_it_or_not_at_all(
        pieces in proptest::collection::vec((0..4_u8, 0..3000_usize, any::<u64>()), 0..8),
        room in 0..20_000_usize,
    ) {
        let mut input = Vec::new();
        for (kind, length, seed) in pieces {
            let mut numbers = dumpcore::sim::Numbers::new(seed);
            match kind {
                0 => input.resize(input.len() + length, seed as u8),
                1 => input.extend((0..length).map(|_| numbers.number() as u8)),
                2 => input.extend((0..length).map(|_| numbers.below(3) as u8)),
                // A repetition of something earlier.
                _ => {
                    let from = numbers.below(input.len() as u64 + 1) as usize;
                    let again = input[from..input.len().min(from + length)].to_vec();
                    input.extend(again);
                }
            }
        }
        let mut output = vec![0xaa; room];
        let mut table = Table::new();
        // Its earlier contents must not matter.
        let _ = compress(&[1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 9, 9, 9], &mut [0; 100], &mut table);
        if let Some(length) = compress(&input, &mut output, &mut table) {
            let mut unpacked = vec![0; input.len()];
            let count = lz4_flex::block::decompress_into(&output[..length], &mut unpacked);
            prop_assert_eq!(count.ok(), Some(input.len()));
            prop_assert_eq!(&unpacked, &input);
            prop_assert!(output[length..].iter().all(|byte| *byte == 0xaa));
        } else {
            prop_assert!(room < lz4_flex::block::get_maximum_output_size(input.len()), "there was room");
        }
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
fn a_half_free_front_header_is_that_of_a_saved_dump_in_its_place_and_nothing_else() {
    const UUID: [u8; 16] = *b"half free header";
    let halved = |status: Status, uuid: [u8; 16], first: u64| {
        let mut header = header();
        (header.status, header.uuid, header.first_block) = ((status as u32).into(), uuid, first.into());
        let mut block = [0; BLOCK_SIZE];
        header.to_block(Kind::Front, &mut block);
        assert!(freeing::half_free(&block, &UUID, 1).is_none(), "a whole header is not half free");
        freeing::halve(&mut block, &UUID, 1);
        block
    };
    let block = halved(Status::Saved, UUID, 1);
    // A kernel takes it for a front header, though a damaged one; and savecore knows which dump it belonged
    // to.
    assert_eq!(Kind::of(&block), Some(Kind::Front));
    assert!(Header::parse(&block, Kind::Front).is_err());
    let known = freeing::half_free(&block, &UUID, 1).unwrap();
    assert_eq!((known.status(), known.end_block.get(), known.message()), (Status::Saved, 9, ""));
    // A header torn at the start of a dump precedes a waiting dump.
    for other in [
        halved(Status::InProgress, UUID, 1),
        halved(Status::Saved, [7; 16], 1),
        halved(Status::Saved, UUID, 2),
    ] {
        assert!(freeing::half_free(&other, &UUID, 1).is_none());
    }
    let mut free = [0; BLOCK_SIZE];
    pattern::fill(&mut free, &UUID, 1);
    assert!(freeing::half_free(&free, &UUID, 1).is_none());
    // Each of the other sectors may have been written or not; one is enough.
    for sector in 1..BLOCK_SIZE / freeing::SECTOR {
        let mut torn = block;
        torn[freeing::SECTOR..].fill(0);
        let place = sector * freeing::SECTOR..(sector + 1) * freeing::SECTOR;
        torn[place.clone()].copy_from_slice(&free[place]);
        assert!(freeing::half_free(&torn, &UUID, 1).is_some(), "sector {sector}");
    }
}

#[test]
fn an_unknown_version_is_refused_by_its_number() {
    let mut block = [0; BLOCK_SIZE];
    let mut label = Label::new([7; 16], 100, 5, "name");
    label.version = 9.into();
    label.to_block(&mut block);
    assert_eq!(Label::parse(&block).err(), Some(Malformed::Version { found: 9 }));
}

#[test]
fn a_run_of_an_unknown_kind_or_class_spoils_its_chunk() {
    let parsed = |kind: u16, class: u16| {
        let mut bytes = [0; BLOCK_SIZE];
        let chunk = ChunkHeader::of_mut(&mut bytes).unwrap();
        chunk.clear();
        chunk.kind = 2.into();
        chunk.run_count = 1.into();
        chunk.runs[0] = Run { pfn: 7.into(), count: 1.into(), kind: kind.into(), class: class.into() };
        frame::set_checksum(&mut bytes);
        ChunkHeader::parse(&bytes).map(|chunk| (chunk.runs()[0].kind(), chunk.runs()[0].class()))
    };
    for class in PageClass::ALL {
        assert_eq!(parsed(2, class as u16), Ok((RunKind::Zero, class)));
        assert_eq!(PageClass::from_number(class as u16), Some(class));
    }
    let unknown = PageClass::ALL.len() as u16;
    for class in [unknown, unknown << 8, u16::MAX] {
        assert_eq!(parsed(2, class), Err(Malformed::Field { name: "run.class", value: class.into() }));
    }
    assert_eq!(parsed(12, 0), Err(Malformed::Field { name: "run.kind", value: 12 }));
}

#[test]
fn a_level_leaves_out_what_makedumpfile_leaves_out_at_it_and_never_the_kernel() {
    use PageClass::{
        Cache, CachePrivate, Device, Free, KernelData, KernelText, PageTable, Slab, Stack, Unknown, User,
    };
    let all =
        [KernelText, KernelData, Stack, PageTable, Slab, User, Cache, CachePrivate, Free, Device, Unknown];
    for bits in 0..64 {
        let level = Level::from_bits(bits).unwrap();
        let kernel_only = bits & 32 != 0;
        for class in all {
            let expected = match class {
                Device => Some(RunKind::Device),
                Cache if kernel_only || bits & 6 != 0 => Some(RunKind::Cache),
                CachePrivate if kernel_only || bits & 4 != 0 => Some(RunKind::CachePrivate),
                User if kernel_only || bits & 8 != 0 => Some(RunKind::User),
                Free if kernel_only || bits & 16 != 0 => Some(RunKind::Free),
                Unknown if kernel_only => Some(RunKind::NotKernel),
                _ => None,
            };
            assert_eq!(level.leaves_out(class), expected, "level {bits}, {class:?}");
            assert!(expected.is_none_or(RunKind::is_left_out));
            assert!(!(class.is_kernel() && expected.is_some()));
        }
    }
}
