//! Checksum and compression, checked with other people's libraries; keys and headers. (Chunks are in
//! `format.rs`.)

use dumpcore::format::crc;
use dumpcore::format::crypt::{Key, header_index, public_key};
use dumpcore::format::header::Header;
use dumpcore::memory::lz4::{Table, compress};
use dumpcore::sim::cases;
use proptest::prelude::*;

/// Typical memory contents: runs of one byte, repeated pieces, noise.
fn memory() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (any::<u8>(), 1_usize..2000).prop_map(|(byte, count)| vec![byte; count]),
        (prop::collection::vec(any::<u8>(), 1..40), 1_usize..60)
            .prop_map(|(piece, count)| piece.repeat(count)),
        prop::collection::vec(any::<u8>(), 0..600),
        prop::collection::vec(0_u8..4, 0..600),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| {
        let mut bytes = pieces.concat();
        bytes.truncate(65_535);
        bytes
    })
}

fn key() -> Key {
    let (secret, recipient) = ([7; 32], public_key(&[9; 32]));
    Key::agree(&secret, &recipient, &public_key(&secret), &recipient).expect("honest keys agree")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn the_crc_is_that_of_others_however_the_bytes_come(bytes in memory(), cut in any::<prop::sample::Index>()) {
        prop_assert_eq!(crc::hash(&bytes), crc32fast::hash(&bytes));
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        let mut parts = crc::Crc32::new();
        parts.update(first);
        parts.update(second);
        prop_assert_eq!(parts.finish(), crc32fast::hash(&bytes));
    }

    #[test]
    fn what_is_compressed_a_decoder_of_others_gives_back(bytes in memory()) {
        let mut packed = vec![0; bytes.len() + bytes.len() / 200 + 32];
        let length = compress(&bytes, &mut packed, &mut Table::new()).expect("there is room for the worst case");
        let mut back = vec![0; bytes.len()];
        let count = lz4_flex::block::decompress_into(&packed[..length], &mut back).expect("LZ4");
        prop_assert_eq!(count, bytes.len());
        prop_assert_eq!(back, bytes);
    }

    #[test]
    fn compression_ends_where_its_room_ends_and_writes_nothing_behind(bytes in memory(), room in 0_usize..4000) {
        let mut packed = vec![0xa5; room + 16];
        let (out, behind) = packed.split_at_mut(room);
        let length = compress(&bytes, out, &mut Table::new());
        prop_assert!(length.is_none_or(|length| length <= room));
        prop_assert!(behind.iter().all(|byte| *byte == 0xa5));
    }

    #[test]
    fn a_table_that_was_used_before_changes_nothing(first in memory(), second in memory()) {
        let mut table = Table::new();
        let mut packed = [vec![0; 70_000], vec![0; 70_000]];
        let [once, twice] = &mut packed;
        let alone = compress(&second, once, &mut Table::new());
        compress(&first, twice, &mut table);
        prop_assert_eq!(compress(&second, twice, &mut table), alone);
        prop_assert_eq!(&once[..alone.unwrap_or(0)], &twice[..alone.unwrap_or(0)]);
    }

    #[test]
    fn the_indices_of_headers_are_those_of_no_chunk_and_of_no_other_header(stripe in 0_u32..4, chunk in 0_u64..1 << 60) {
        let all: Vec<u64> = (0..4).flat_map(|stripe| [true, false].map(|closed| header_index(stripe, closed))).collect();
        let mine = header_index(stripe, true);
        prop_assert_eq!(all.iter().filter(|index| **index == mine).count(), 1);
        prop_assert!(!all.contains(&chunk));
    }
}

#[test]
fn a_header_is_authentic_only_as_it_was_signed() {
    let mut header = Header::new();
    header.tag = key().header_tag(&header, true).unwrap();
    assert!(key().is_authentic(&header, true));
    assert!(!key().is_authentic(&header, false), "a closed header is not one in progress");
    header.chunks = 1.into();
    assert!(!key().is_authentic(&header, true));
}

#[test]
fn both_sides_agree_on_a_key_and_a_stranger_does_not() {
    let (ours, theirs) = ([3; 32], [4; 32]);
    let (ephemeral, recipient) = (public_key(&ours), public_key(&theirs));
    let writing = Key::agree(&ours, &recipient, &ephemeral, &recipient).unwrap();
    let opening = Key::agree(&theirs, &ephemeral, &ephemeral, &recipient).unwrap();
    assert_eq!(writing.bytes(), opening.bytes());
    let stranger = Key::agree(&[5; 32], &ephemeral, &ephemeral, &recipient).unwrap();
    assert_ne!(writing.bytes(), stranger.bytes());
    assert!(
        Key::agree(&ours, &[0; 32], &ephemeral, &[0; 32]).is_none(),
        "a point of small order shares no secret"
    );
}
