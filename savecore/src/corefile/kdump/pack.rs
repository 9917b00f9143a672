//! Compression of single pages, as the format requires.

use dumpcore::format::{Block, PAGE_SIZE};
use libdeflater::{CompressionLvl, Compressor};

use super::super::Compression;

/// The same level as makedumpfile's, so that files have about the same size.
const LEVEL: i32 = 1;

/// A page's form in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packed(u16);

impl Packed {
    /// Zeros, without any bytes of its own.
    pub(super) const ZERO: Packed = Packed(0);

    /// Its number of bytes in the file.
    pub(super) fn size(self) -> u32 {
        self.0.into()
    }

    /// Whether it is uncompressed, because it did not shrink.
    pub(super) fn is_raw(self) -> bool {
        usize::from(self.0) == PAGE_SIZE
    }
}

impl Compression {
    /// The flag for this form.
    pub(super) fn flag(self) -> u32 {
        match self {
            Compression::None => 0,
            Compression::Zlib => 1,
            Compression::Zstd => 0x20,
        }
    }
}

/// A compressor for pages, one per thread.
pub(super) struct Packer {
    how: How,
    room: Box<Block>,
}

enum How {
    Raw,
    Zlib(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Packer {
    pub(super) fn new(compression: Compression) -> Packer {
        let how = match compression {
            Compression::None => How::Raw,
            Compression::Zlib => How::Zlib(Compressor::new(CompressionLvl::new(LEVEL).unwrap_or_default())),
            // If that fails, which only happens for lack of memory, store pages uncompressed.
            Compression::Zstd => zstd::bulk::Compressor::new(LEVEL).map_or(How::Raw, How::Zstd),
        };
        Packer { how, room: Box::new([0; PAGE_SIZE]) }
    }

    /// Appends a page to `out`, compressed if that makes it smaller; zeros have no bytes.
    pub(super) fn page(&mut self, page: &Block, out: &mut Vec<u8>) -> Packed {
        if is_zero(page) {
            return Packed::ZERO;
        }
        self.any_page(page, out)
    }

    /// The same, but also compresses zeros.
    pub(super) fn any_page(&mut self, page: &Block, out: &mut Vec<u8>) -> Packed {
        // A page that does not fit a page minus one byte has not shrunk.
        let room = &mut self.room[..PAGE_SIZE - 1];
        let length = match &mut self.how {
            How::Raw => None,
            How::Zlib(zlib) => zlib.zlib_compress(page, room).ok(),
            How::Zstd(zstd) => zstd.compress_to_buffer(page, room).ok(),
        };
        let bytes = length.and_then(|length| self.room.get(..length)).unwrap_or(page);
        out.extend_from_slice(bytes);
        // At most a page.
        Packed(bytes.len() as u16)
    }
}

fn is_zero(page: &Block) -> bool {
    page.as_chunks::<64>().0.iter().all(|part| part.iter().fold(0, |sum, byte| sum | byte) == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unpack(compression: Compression, packed: Packed, bytes: &[u8]) -> Vec<u8> {
        if packed.is_raw() {
            return bytes.to_vec();
        }
        let mut page = vec![0; PAGE_SIZE];
        let length = match compression {
            Compression::None => panic!("nothing is packed"),
            Compression::Zlib => {
                // A different implementation from the compressor's.
                let mut zlib = flate2::Decompress::new(true);
                zlib.decompress(bytes, &mut page, flate2::FlushDecompress::Finish).unwrap();
                zlib.total_out() as usize
            }
            Compression::Zstd => zstd::bulk::decompress_to_buffer(bytes, &mut page).unwrap(),
        };
        assert_eq!(length, PAGE_SIZE);
        page
    }

    #[test]
    fn a_page_of_text_shrinks_and_noise_is_kept_as_it_is() {
        let mut noise = [0; PAGE_SIZE];
        let mut word = 1_u64;
        for slot in noise.as_chunks_mut::<8>().0 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *slot = (word ^ word.rotate_left(31)).to_le_bytes();
        }
        let mut text = [0; PAGE_SIZE];
        for (slot, byte) in text.iter_mut().zip(b"The kernel has crashed.\n".iter().cycle()) {
            *slot = *byte;
        }
        for compression in [Compression::Zlib, Compression::Zstd] {
            let mut packer = Packer::new(compression);
            assert!(packer.page(&text, &mut Vec::new()).size() < 200, "{compression:?}");
            assert!(packer.page(&noise, &mut Vec::new()).is_raw(), "{compression:?}");
            assert!(packer.any_page(&[0; PAGE_SIZE], &mut Vec::new()).size() < 50, "{compression:?}");
        }
    }

    proptest! {
        #[test]
        fn every_page_comes_out_as_it_went_in(
            words in prop::collection::vec(any::<u16>(), 1..2048), from in 0..PAGE_SIZE, which in 0..3_usize
        ) {
            let compression = [Compression::None, Compression::Zlib, Compression::Zstd][which];
            let mut page = [0; PAGE_SIZE];
            for (slot, byte) in page[from..].iter_mut().zip(words.iter().flat_map(|word| word.to_le_bytes())) {
                *slot = byte;
            }
            let mut bytes = vec![7];
            let packed = Packer::new(compression).page(&page, &mut bytes);
            prop_assert_eq!(packed.size() as usize, bytes.len() - 1);
            prop_assert!(packed.is_raw() || compression != Compression::None || packed == Packed::ZERO);
            if page == [0; PAGE_SIZE] {
                prop_assert_eq!(packed, Packed::ZERO);
            } else {
                prop_assert_eq!(unpack(compression, packed, &bytes[1..]), page);
            }
        }
    }
}
