//! Checksum, compression and encryption, judged by libraries that other people wrote.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305};
use dumpcore::format::chunk::ChunkHeader;
use dumpcore::format::crc;
use dumpcore::format::crypt::{Key, Place, header_index, public_key};
use dumpcore::format::header::Header;
use dumpcore::stream::lz4::{Table, compress};
use proptest::prelude::*;

/// Bytes as memory has them: runs of one byte, repeated pieces, noise.
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
    fn a_cipher_of_others_opens_what_is_sealed_and_seals_what_is_opened(
        blocks in prop::collection::vec(any::<[u8; 32]>(), 0..40),
        associated in prop::collection::vec(any::<[u8; 16]>(), 0..20),
        (attempt, nonce, index) in any::<(u32, u64, u64)>(),
    ) {
        let mut bytes = blocks.as_flattened().repeat(2);
        let plain = bytes.clone();
        let associated = associated.as_flattened();
        let place = Place { attempt, nonce, index };
        let tag = key().seal(&place, associated, &mut bytes).expect("whole blocks");

        let theirs = XChaCha20Poly1305::new(&(*key().bytes()).into());
        let mut full = [0; 24];
        full[..8].copy_from_slice(&u64::from(attempt).to_le_bytes());
        full[8..16].copy_from_slice(&nonce.to_le_bytes());
        full[16..].copy_from_slice(&index.to_le_bytes());
        let mut sealed = plain.clone();
        let their_tag: Tag =
            theirs.encrypt_inout_detached(&full.into(), associated, sealed.as_mut_slice().into()).unwrap();
        prop_assert_eq!(&sealed, &bytes);
        prop_assert_eq!(<[u8; 16]>::from(their_tag), tag);

        prop_assert!(key().open(&place, associated, &mut sealed, &tag));
        prop_assert_eq!(sealed, plain);
    }

    #[test]
    fn a_chunk_with_any_wrong_bit_stays_closed(
        bit in 0_usize..8 * (4096 + 8192), payload in prop::collection::vec(any::<[u8; 64]>(), 128)
    ) {
        let mut header = [0; 4096];
        let mut bytes = payload.as_flattened().to_vec();
        prop_assert!(key().seal_chunk(&mut header, &mut bytes));
        let tag_ends = std::mem::offset_of!(ChunkHeader, sums);
        if bit / 8 < 4096 {
            header[bit / 8] ^= 1 << (bit % 8);
        } else {
            bytes[bit / 8 - 4096] ^= 1 << (bit % 8);
        }
        let before = bytes.clone();
        let chunk = ChunkHeader::of(&header).unwrap();
        // Behind the tag stand the checksums of the stored blocks, which are anybody's to check.
        let covered = bit / 8 < tag_ends || bit / 8 >= 4096;
        prop_assert_eq!(key().open_chunk(chunk, &mut bytes), !covered);
        if covered {
            prop_assert_eq!(bytes, before, "nothing is decrypted before it is known to be whole");
        }
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
    let sealing = Key::agree(&ours, &recipient, &ephemeral, &recipient).unwrap();
    let opening = Key::agree(&theirs, &ephemeral, &ephemeral, &recipient).unwrap();
    assert_eq!(sealing.bytes(), opening.bytes());
    let stranger = Key::agree(&[5; 32], &ephemeral, &ephemeral, &recipient).unwrap();
    assert_ne!(sealing.bytes(), stranger.bytes());
    assert!(
        Key::agree(&ours, &[0; 32], &ephemeral, &[0; 32]).is_none(),
        "a point of small order shares no secret"
    );
}
