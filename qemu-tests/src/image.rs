//! Raw disk images with a partition table: the dump partition between two foreign partitions.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use dumpcore::format::{BLOCK_SIZE, Block};
use gpt::disk::LogicalBlockSize;
use xxhash_rust::xxh3::Xxh3Default;

/// The type of dump partitions.
const PARTITION_TYPE: gpt::partition_types::Type = gpt::partition_types::Type {
    guid: uuid::uuid!("8a4a6fa0-0d7d-4384-9017-0e003e5281b4"),
    os: gpt::partition_types::OperatingSystem::None,
};

/// The name of the dump partition.
pub const DUMP: &str = "dump";
/// The partition before it.
pub const FOREIGN_BEFORE: &str = "foreign-before";
/// The partition after it.
pub const FOREIGN_AFTER: &str = "foreign-after";

/// Size of each foreign partition, in blocks of 4096 bytes (1 MiB).
const FOREIGN_BLOCKS: u64 = 256;
/// Number of blocks before the first partition and after the last, for the partition tables.
const TABLE_BLOCKS: u64 = 256;
/// Number of 512-byte sectors in a block.
pub const SECTORS_PER_BLOCK: u64 = BLOCK_SIZE as u64 / 512;

/// Consecutive blocks of 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The first block, counted from the beginning of the disk.
    pub first: u64,
    /// Number of blocks.
    pub blocks: u64,
}

impl Extent {
    /// Whether this block is in the extent.
    pub fn contains(self, block: u64) -> bool {
        (self.first..self.first.saturating_add(self.blocks)).contains(&block)
    }
}

/// The layout of a [`DUMP`] partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Its first block, after the foreign partition.
    pub first: u64,
    /// Its size in blocks.
    pub blocks: u64,
    /// Number of sectors by which the table moves its beginning.
    pub odd: u64,
    /// Size of a logical sector in bytes, in which the table counts: 512 or 4096.
    pub sector_size: u64,
}

/// A disk image.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The image file.
    pub path: PathBuf,
    /// The dump partition's place.
    pub dump: Extent,
}

impl Disk {
    /// Creates an image, replacing any file at `path`, with three partitions: in the middle [`DUMP`], with
    /// `blocks` zeroed blocks; on both sides foreign ones, filled with numbers derived from their position.
    ///
    /// # Errors
    /// If the image cannot be written; the error names it.
    pub fn create(path: &Path, blocks: u64) -> Result<Disk> {
        let first = TABLE_BLOCKS + FOREIGN_BLOCKS;
        Disk::create_laid(path, Layout { first, blocks, odd: 0, sector_size: 512 })
    }

    /// The same with another layout of the [`DUMP`] partition. Only the written parts of the image use space.
    ///
    /// # Errors
    /// If the image cannot be written; the error names it.
    pub fn create_laid(path: &Path, layout: Layout) -> Result<Disk> {
        let Layout { first, blocks, odd, sector_size } = layout;
        let (in_block, size) = match sector_size {
            4096 => (1, LogicalBlockSize::Lb4096),
            _ => (SECTORS_PER_BLOCK, LogicalBlockSize::Lb512),
        };
        let name = || format!("cannot make the disk image {}", path.display());
        let before = Extent { first: TABLE_BLOCKS, blocks: FOREIGN_BLOCKS };
        let dump = Extent { first, blocks };
        let disk = Disk { path: path.to_path_buf(), dump };
        let after = disk.foreign_after();
        // A new file, so that no old byte is left and the unwritten parts use no space.
        if path.exists() {
            fs::remove_file(path).with_context(name)?;
        }
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).open(path).with_context(name)?;
        let total = after.first + after.blocks + TABLE_BLOCKS;
        file.set_len(total * BLOCK_SIZE as u64).with_context(name)?;
        let sectors = u32::try_from(total * in_block - 1).unwrap_or(u32::MAX);
        gpt::mbr::ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut file).with_context(name)?;
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(size)
            .create_from_device(&mut file, None)
            .with_context(name)?;
        for (id, (label, extent)) in
            (1..).zip([(FOREIGN_BEFORE, before), (DUMP, dump), (FOREIGN_AFTER, after)])
        {
            let (first, length) = (extent.first * in_block, extent.blocks * in_block);
            let odd = if label == DUMP { odd } else { 0 };
            let (first, length) = (first + odd, length - odd);
            // With this type, it belongs to the guest.
            let kind = if label == DUMP { PARTITION_TYPE } else { gpt::partition_types::LINUX_FS };
            table.add_partition_at(label, id, first, length, kind, 0).with_context(name)?;
        }
        table.write().with_context(name)?;
        for extent in [before, after] {
            for block in extent.first..extent.first + extent.blocks {
                file.write_all_at(&foreign(block), block * BLOCK_SIZE as u64).with_context(name)?;
            }
        }
        Ok(disk)
    }

    /// The partition table's id of the [`DUMP`] partition, in Linux's notation (PARTUUID).
    ///
    /// # Errors
    /// If the table cannot be read, or has no such partition.
    pub fn part_uuid(&self) -> Result<String> {
        let name = || format!("cannot read the partition table of {}", self.path.display());
        let table = gpt::GptConfig::new().open(&self.path).with_context(name)?;
        let part = table.partitions().values().find(|part| part.name == DUMP).with_context(name)?;
        Ok(part.part_guid.to_string().to_lowercase())
    }

    /// Grows the image to the next power of two.
    ///
    /// # Errors
    /// If that fails.
    pub fn round_up(&self) -> Result<()> {
        let name = || format!("cannot make the disk image {} larger", self.path.display());
        let file = OpenOptions::new().write(true).open(&self.path).with_context(name)?;
        let length = file.metadata().with_context(name)?.len();
        file.set_len(length.next_power_of_two()).with_context(name)
    }

    /// Whether the foreign partitions are unchanged since the image was created.
    ///
    /// # Errors
    /// If the image cannot be read.
    pub fn foreign_parts_are_whole(&self) -> Result<bool> {
        let file = File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        let before = Extent { first: TABLE_BLOCKS, blocks: FOREIGN_BLOCKS };
        let mut block = [0; BLOCK_SIZE];
        for extent in [before, self.foreign_after()] {
            for number in extent.first..extent.first + extent.blocks {
                let at = number * BLOCK_SIZE as u64;
                file.read_exact_at(&mut block, at)
                    .with_context(|| format!("cannot read {}", self.path.display()))?;
                if block != foreign(number) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Copies the image to another file; unwritten parts stay unwritten.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy(&self, path: &Path) -> Result<Disk> {
        fs::copy(&self.path, path)
            .with_context(|| format!("cannot copy {} to {}", self.path.display(), path.display()))?;
        Ok(Disk { path: path.to_path_buf(), dump: self.dump })
    }

    /// A hash of the image's content and length.
    ///
    /// # Errors
    /// If the image cannot be read.
    pub fn fingerprint(&self) -> Result<u128> {
        self.hash(|_| true)
    }

    /// The same without the dump partition: partition tables and foreign partitions.
    ///
    /// # Errors
    /// If the image cannot be read.
    pub fn foreign_fingerprint(&self) -> Result<u128> {
        self.hash(|block| !self.dump.contains(block))
    }

    /// The same without the dump partition and [`FOREIGN_AFTER`].
    ///
    /// # Errors
    /// If the image cannot be read.
    pub fn rest_fingerprint(&self) -> Result<u128> {
        let after = self.foreign_after();
        self.hash(|block| !self.dump.contains(block) && !after.contains(block))
    }

    /// The place of the partition after the dump partition.
    pub fn foreign_after(&self) -> Extent {
        Extent { first: self.dump.first + self.dump.blocks, blocks: FOREIGN_BLOCKS }
    }

    /// Blocks of [`FOREIGN_AFTER`] with neither their original content nor only the byte `marker`.
    ///
    /// # Errors
    /// If the image cannot be read.
    pub fn spoiled(&self, marker: u8) -> Result<Vec<u64>> {
        let file = File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        let after = self.foreign_after();
        let mut spoiled = Vec::new();
        for number in after.first..after.first + after.blocks {
            let mut block = [0; BLOCK_SIZE];
            file.read_exact_at(&mut block, number * BLOCK_SIZE as u64)
                .with_context(|| format!("cannot read {}", self.path.display()))?;
            if block != foreign(number) && block != [marker; BLOCK_SIZE] {
                spoiled.push(number);
            }
        }
        Ok(spoiled)
    }

    /// Hashes the length and the blocks for which `wanted` returns true.
    fn hash(&self, wanted: impl Fn(u64) -> bool) -> Result<u128> {
        let name = || format!("cannot read the disk image {}", self.path.display());
        let mut file = File::open(&self.path).with_context(name)?;
        let mut hash = Xxh3Default::new();
        hash.update(&file.metadata().with_context(name)?.len().to_le_bytes());
        let mut buffer = vec![0; 256 * BLOCK_SIZE];
        let mut number = 0;
        loop {
            // Filled completely, so that blocks stay aligned; only the last one of an image of odd length may
            // be short.
            let mut length = 0;
            while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
                match file.read(room).with_context(name)? {
                    0 => break,
                    more => length += more,
                }
            }
            if length == 0 {
                return Ok(hash.digest128());
            }
            for block in buffer.get(..length).unwrap_or_default().chunks(BLOCK_SIZE) {
                if wanted(number) {
                    hash.update(block);
                }
                number += 1;
            }
        }
    }

    /// Whether these blocks of the dump partition are equal in both images.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn same_blocks(&self, other: &Disk, mut blocks: std::ops::Range<u64>) -> Result<bool> {
        blocks.try_fold(true, |same, number| Ok(same && self.read(number)? == other.read(number)?))
    }

    /// Searches the image for these texts; returns the first one found.
    ///
    /// # Errors
    /// If the image cannot be read.
    pub fn finds<'t>(&self, texts: &[&'t [u8]]) -> Result<Option<&'t [u8]>> {
        let name = || format!("cannot read the disk image {}", self.path.display());
        let mut file = File::open(&self.path).with_context(name)?;
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut window = Vec::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = file.read(&mut piece).with_context(name)?;
            if length == 0 {
                return Ok(None);
            }
            window.extend_from_slice(piece.get(..length).unwrap_or_default());
            for text in texts {
                if memchr::memmem::find(&window, text).is_some() {
                    return Ok(Some(text));
                }
            }
            // A text may cross the boundary between two pieces.
            let keep = window.len().saturating_sub(longest.saturating_sub(1));
            window.drain(..keep);
        }
    }

    /// Reads block `number` of the dump partition.
    ///
    /// # Errors
    /// If it is outside, or cannot be read.
    pub fn read(&self, number: u64) -> Result<Block> {
        let mut block = [0; BLOCK_SIZE];
        File::open(&self.path)
            .and_then(|file| file.read_exact_at(&mut block, self.offset(number)?))
            .with_context(|| format!("cannot read block {number} of {}", self.path.display()))?;
        Ok(block)
    }

    /// Writes block `number` of the dump partition.
    ///
    /// # Errors
    /// If it is outside, or cannot be written.
    pub fn write(&self, number: u64, block: &Block) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.write_all_at(block, self.offset(number)?))
            .with_context(|| format!("cannot write block {number} of {}", self.path.display()))
    }

    /// Flips bit `bit` (0 to 32767, counted from the lowest bit of the first byte) of block `number` of the
    /// dump partition.
    ///
    /// # Errors
    /// If there is no such bit, or the image cannot be changed.
    pub fn flip(&self, number: u64, bit: usize) -> Result<()> {
        let mut block = self.read(number)?;
        let Some(byte) = block.get_mut(bit / 8) else { bail!("a block has no bit {bit}") };
        *byte ^= 1 << (bit % 8);
        self.write(number, &block)
    }

    /// Truncates the image after this many blocks of the dump partition, so that the disk is smaller than its
    /// partition table says.
    ///
    /// # Errors
    /// If the image cannot be changed.
    pub fn truncate(&self, blocks: u64) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len((self.dump.first + blocks) * BLOCK_SIZE as u64))
            .with_context(|| format!("cannot shorten {}", self.path.display()))
    }

    /// Offset of block `number` of the dump partition in the image, in bytes.
    fn offset(&self, number: u64) -> std::io::Result<u64> {
        if number >= self.dump.blocks {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("the dump partition has {} blocks", self.dump.blocks),
            ));
        }
        Ok((self.dump.first + number) * BLOCK_SIZE as u64)
    }
}

/// The content of block `number` of the disk in a foreign partition: numbers (splitmix64) derived from the
/// block number.
fn foreign(number: u64) -> Block {
    let mut block = [0; BLOCK_SIZE];
    let mut state = number.wrapping_mul(0x1234_5678_9abc_def1);
    for slot in block.as_chunks_mut::<8>().0 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *slot = (word ^ (word >> 31)).to_le_bytes();
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(folder: &tempfile::TempDir, blocks: u64) -> Disk {
        Disk::create(&folder.path().join("disk.raw"), blocks).unwrap()
    }

    #[test]
    fn the_table_names_three_partitions_where_we_say_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(&folder, 1000);
        let table = gpt::GptConfig::new().open(&disk.path).unwrap();
        let found: Vec<_> = table
            .partitions()
            .values()
            .filter(|entry| entry.is_used())
            .map(|entry| (entry.name.as_str(), entry.first_lba / 8, entry.last_lba / 8 + 1))
            .collect();
        let (first, end) = (disk.dump.first, disk.dump.first + 1000);
        assert_eq!(
            found,
            [(FOREIGN_BEFORE, first - 256, first), (DUMP, first, end), (FOREIGN_AFTER, end, end + 256)]
        );
        assert!(table.primary_header().is_ok() && table.backup_header().is_ok());
    }

    #[test]
    fn the_dump_partition_begins_as_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(&folder, 300);
        assert!((0..300).all(|number| disk.read(number).unwrap() == [0; BLOCK_SIZE]));
    }

    #[test]
    fn blocks_outside_the_dump_partition_cannot_be_reached() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(&folder, 300);
        let before = disk.fingerprint().unwrap();
        assert!(disk.write(300, &[1; BLOCK_SIZE]).is_err());
        assert!(disk.flip(0, 8 * BLOCK_SIZE).is_err());
        assert_eq!(disk.fingerprint().unwrap(), before);
    }

    #[test]
    fn a_shortened_image_has_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(&folder, 300);
        let before = disk.fingerprint().unwrap();
        disk.truncate(299).unwrap();
        assert_ne!(disk.fingerprint().unwrap(), before);
        assert!(disk.read(298).is_ok() && disk.read(299).is_err());
    }

    #[test]
    fn only_old_bytes_and_the_marker_are_unspoiled() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(&folder, 300);
        let rest = disk.rest_fingerprint().unwrap();
        assert!(disk.spoiled(b'L').unwrap().is_empty());
        let file = OpenOptions::new().write(true).open(&disk.path).unwrap();
        let first = disk.foreign_after().first;
        file.write_all_at(&[b'L'; BLOCK_SIZE], first * BLOCK_SIZE as u64).unwrap();
        assert!(disk.spoiled(b'L').unwrap().is_empty());
        file.write_all_at(b"D", (first + 1) * BLOCK_SIZE as u64 + 77).unwrap();
        assert_eq!(disk.spoiled(b'L').unwrap(), [first + 1]);
        assert_eq!(disk.rest_fingerprint().unwrap(), rest);
    }

    #[test]
    fn only_blocks_that_hold_the_same_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(&folder, 300);
        let copy = disk.copy(&folder.path().join("copy.raw")).unwrap();
        copy.flip(100, 5).unwrap();
        assert!(disk.same_blocks(&copy, 0..100).unwrap() && disk.same_blocks(&copy, 101..300).unwrap());
        assert!(!disk.same_blocks(&copy, 0..300).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_text_is_found_wherever_it_stands(at in 0_usize..300 * BLOCK_SIZE - 16) {
            let folder = tempfile::tempdir().unwrap();
            let disk = disk(&folder, 300);
            let texts: [&[u8]; 2] = [b"not to be found", b"a known plaintext"];
            prop_assert_eq!(disk.finds(&texts).unwrap(), None);
            let file = OpenOptions::new().write(true).open(&disk.path).unwrap();
            file.write_all_at(texts[1], disk.dump.first * BLOCK_SIZE as u64 + at as u64).unwrap();
            prop_assert_eq!(disk.finds(&texts).unwrap(), Some(texts[1]));
        }

        #[test]
        fn any_flipped_bit_shows_in_the_fingerprint_and_only_there(
            blocks in 5_u64..400, number in 0_u64..400, bit in 0_usize..8 * BLOCK_SIZE,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let disk = disk(&folder, blocks);
            let (whole, foreign) = (disk.fingerprint().unwrap(), disk.foreign_fingerprint().unwrap());
            disk.flip(number % blocks, bit).unwrap();
            prop_assert_ne!(disk.fingerprint().unwrap(), whole);
            prop_assert_eq!(disk.foreign_fingerprint().unwrap(), foreign);
            disk.flip(number % blocks, bit).unwrap();
            prop_assert_eq!(disk.fingerprint().unwrap(), whole);
        }

        #[test]
        fn any_foreign_byte_shows_in_the_foreign_fingerprint(blocks in 5_u64..400, at in 0_u64..4 << 20) {
            let folder = tempfile::tempdir().unwrap();
            let disk = disk(&folder, blocks);
            let foreign = disk.foreign_fingerprint().unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&disk.path).unwrap();
            let begin = disk.dump.first * BLOCK_SIZE as u64;
            let at = if at < begin { at } else { at + disk.dump.blocks * BLOCK_SIZE as u64 };
            prop_assume!(at < file.metadata().unwrap().len());
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            prop_assert_ne!(disk.foreign_fingerprint().unwrap(), foreign);
        }
    }
}
