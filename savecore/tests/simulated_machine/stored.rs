//! Partitions with dumps of earlier versions of the format, as that version's kernel side wrote them:
//! `tests/stored`. Each file holds a partition from its first block to the end of its last dump; the pattern
//! follows.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use dumpcore::Outcome;
use dumpcore::format::chunk::{ChunkHeader, Encoding};
use dumpcore::format::header::Header;
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block, OLDEST_VERSION, VERSION, frame, pattern};
use dumpcore::sim::DiskFault;
use dumpcore::{Level, PageClass};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use savecore::Identity;
use savecore::dump::Dump;
use savecore::partition;
use sha2::{Digest, Sha256};

use super::{Content, FIRST, Images, Memory, SECRET, Way, World, core_pages};

/// The contents of the stored dumps.
fn memory() -> Memory {
    Memory {
        classes: vec![
            (0xa0..0xa4, PageClass::Stack),
            (0xa4..0xb0, PageClass::Slab),
            (0xc0..0xd0, PageClass::Free),
        ],
        ..Memory::plain(0x110, 0xa0..0xb8, Content::Packable, None)
    }
}

/// The ways they were written, by name.
fn ways() -> Vec<(&'static str, Way)> {
    let small = Way { blocks: 200, level: Level::FREE, ..Way::default() };
    let units = Way { encoding: Encoding::Units, ..small.clone() };
    let cut = DiskFault::PowerCut { after_blocks: 40, torn: true };
    vec![
        ("plain", Way { encoding: Encoding::Plain, ..small.clone() }),
        ("units", units.clone()),
        ("sealed", Way { encrypted: vec![true], ..small.clone() }),
        ("striped", Way { encrypted: vec![true, true], stripe: true, ..units.clone() }),
        ("unfinished", Way { encoding: Encoding::Plain, fault: cut, ..small }),
        ("two", units),
    ]
}

fn folder(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/stored/version-{version}"))
}

/// Crashes a machine whose first disks hold these partitions.
fn crash(memory: &Memory, way: &Way, images: &[Vec<u8>]) -> (Outcome, Vec<Vec<u8>>) {
    let world = World::new(memory, way, 7);
    for (disk, image) in world.disks.iter().zip(images) {
        disk.change(|bytes| bytes[FIRST as usize * BLOCK_SIZE..][..image.len()].copy_from_slice(image));
    }
    world.arm();
    (world.crash(), world.images())
}

/// What the dumps report and hold, in lines.
fn told(images: &Images) -> String {
    let mut told = String::new();
    for dump in images.dumps(Some(&Identity(SECRET))) {
        let (found, pages, facts) = (dump.found(), dump.pages(), dump.facts());
        let mut sum = Sha256::new();
        for (pfn, bytes) in core_pages(&dump, None) {
            sum.update(pfn.to_le_bytes());
            sum.update(*bytes);
        }
        let sum: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(
            told,
            "  dump {}, {:?}, {:?}, {} stripes: {} chunks, {} pages, {} data, {} zero, {} free, {} missing, {} damaged places\n  \
             \x20 whole {}, damaged {}, {:?}, authentic {:?}, {} CPUs, {} bytes of log, {:?}\n    pages {sum}",
            found.header.sequence,
            found.header.status(),
            found.ending,
            dump.stripes(),
            dump.chunks().0,
            pages.total,
            pages.data,
            pages.zero,
            pages.free,
            pages.missing(),
            dump.damage().len(),
            dump.is_whole(),
            dump.is_damaged(),
            dump.encryption(),
            dump.authentic(),
            facts.cpus.len(),
            facts.log.len(),
            facts.message,
        )
        .expect("text has room");
    }
    told
}

/// The stored partitions of a way, filled up with the pattern.
fn stored(version: u32, name: &str, way: &Way) -> Images {
    let read = |number: usize| {
        let file = fs::File::open(folder(version).join(format!("{name}-{number}.gz")))?;
        let mut image = Vec::new();
        GzDecoder::new(file).read_to_end(&mut image)?;
        let label = Label::parse(blocks(&image).first().expect("a block")).expect("a label");
        let (uuid, kept) = (label.uuid, blocks(&image).len() as u64);
        assert_eq!((label.version.get(), label.blocks.get()), (version, way.blocks));
        for number in kept..way.blocks {
            let mut free = [0; BLOCK_SIZE];
            pattern::fill(&mut free, &uuid, number);
            image.extend(free);
        }
        Ok(image)
    };
    let images: io::Result<Vec<Vec<u8>>> = (0..way.encrypted.len()).map(read).collect();
    Images::of(images.expect("it is stored"))
}

fn blocks(image: &[u8]) -> &[Block] {
    image.as_chunks::<BLOCK_SIZE>().0
}

/// Versions of the stored dumps: all that are read but no longer written.
fn versions() -> std::ops::Range<u32> {
    OLDEST_VERSION..VERSION
}

#[test]
fn dumps_of_earlier_versions_are_read_as_when_they_were_written() {
    for version in versions() {
        let mut all = String::new();
        for (name, way) in ways() {
            let images = stored(version, name, &way);
            let dumps = images.partitions.iter().flat_map(|partition| &partition.dumps);
            assert!(
                dumps.clone().count() > 0 && dumps.clone().all(|found| found.header.version.get() == version)
            );
            write!(all, "{name}:\n{}", told(&images)).expect("text has room");
        }
        let expected = fs::read_to_string(folder(version).join("told.txt")).expect("it is stored");
        assert_eq!(all, expected, "version {version}");
    }
}

#[test]
fn damage_of_a_dump_of_an_earlier_version_is_seen_by_its_checksum() {
    for version in versions() {
        for (name, way) in ways() {
            let whole = stored(version, name, &way);
            let payload = blocks(&whole.bytes[0]).iter().enumerate().find_map(|(number, block)| {
                let chunk = ChunkHeader::parse(block).ok().filter(|chunk| chunk.payload_blocks.get() > 0)?;
                assert_eq!(chunk.version.get(), version);
                Some(number + 1)
            });
            let payload = payload.expect("a chunk with payload");
            let mut bytes = whole.bytes.clone();
            bytes[0][payload * BLOCK_SIZE + 99] ^= 4;
            let damaged = Images::of(bytes);
            let places = |images: &Images| -> Vec<u64> {
                let dumps = images.dumps(Some(&Identity(SECRET)));
                let places =
                    |dump: &Dump<'_>| dump.damage().iter().map(|place| place.block).collect::<Vec<u64>>();
                dumps.iter().flat_map(places).collect()
            };
            let (before, now) = (places(&whole), places(&damaged));
            assert!(
                !before.contains(&(payload as u64)) && now.contains(&(payload as u64)),
                "{name}: {before:?} {now:?}"
            );
        }
    }
}

/// The kernel side of this version, on a partition whose label and dumps are of an earlier one.
#[test]
fn a_dump_goes_after_those_of_earlier_versions_and_leaves_them_as_they_are() {
    let memory = memory();
    for version in versions() {
        for (name, way) in ways() {
            let before = stored(version, name, &way);
            let whole = Way { fault: DiskFault::None, ..way };
            let (outcome, images) = crash(&memory, &whole, &before.bytes);
            assert_eq!(outcome, Outcome::Complete, "{name}");
            let after = Images::of(images);
            for ((before, image), partition) in before.partitions.iter().zip(&after.bytes).zip(&before.bytes)
            {
                let first = before.free as usize * BLOCK_SIZE;
                assert!(image[..first] == partition[..first], "{name}: a dump was changed");
                let header = Header::parse(&blocks(image)[before.free as usize], frame::Kind::Front)
                    .expect("the next dump");
                let sequence = before.dumps.last().expect("a dump").header.sequence.get() + 1;
                assert_eq!((header.version.get(), header.sequence.get()), (VERSION, sequence), "{name}");
            }
            let (old, new) = (told(&before), told(&after));
            let added = new.strip_prefix(old.as_str()).unwrap_or_else(|| panic!("{name}: {old}{new}"));
            assert!(added.contains("whole true, damaged false"), "{name}: {added}");
        }
    }
}

/// Marks and frees each dump, as savecore does after saving it.
#[test]
fn a_partition_of_an_earlier_version_is_freed_as_any_other() {
    for version in versions() {
        for (name, way) in ways() {
            for mut image in stored(version, name, &way).bytes {
                let uuid = partition::scan(&image).expect("a label").uuid();
                let found = partition::scan(&image).expect("a label").dumps;
                for found in found.iter().rev() {
                    let marked =
                        partition::mark_saved(&mut image, found, None).expect("memory can be written");
                    assert_eq!(marked.header.version.get(), version);
                    partition::clear(&mut image, &uuid, &marked, &mut ()).expect("memory can be written");
                }
                let is_free = |(number, block): (u64, &Block)| pattern::matches(block, &uuid, number);
                assert!((0..).zip(blocks(&image)).skip(1).all(is_free), "{name}");
            }
        }
    }
}

/// Stores what this version writes, for later versions to read.
#[test]
#[ignore = "writes into tests/stored: once for each version of the format, before the next one"]
fn store() {
    let folder = folder(VERSION);
    fs::create_dir_all(&folder).expect("a folder");
    let memory = memory();
    let mut all = String::new();
    for (name, way) in ways() {
        let (_, mut images) = crash(&memory, &way, &[]);
        if name == "two" {
            let (outcome, again) = crash(&Memory { seed: 4, ..memory.clone() }, &way, &images);
            assert_eq!(outcome, Outcome::Complete);
            images = again;
        }
        let images = Images::of(images);
        for (number, (image, partition)) in images.bytes.iter().zip(&images.partitions).enumerate() {
            let file = fs::File::create(folder.join(format!("{name}-{number}.gz"))).expect("a file");
            let mut encoder = GzEncoder::new(file, flate2::Compression::best());
            encoder.write_all(&image[..partition.free as usize * BLOCK_SIZE]).expect("it can be written");
            encoder.finish().expect("it can be written");
        }
        write!(all, "{name}:\n{}", told(&images)).expect("text has room");
    }
    fs::write(folder.join("told.txt"), all).expect("it can be written");
}
