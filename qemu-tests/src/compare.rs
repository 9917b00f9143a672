//! Compares a core file with the memory that it was taken from.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};

/// A range of physical memory, from the first byte to the first byte after it.
pub type Range = std::ops::Range<u64>;

/// A PT_LOAD of a core file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Physical address (p_paddr).
    pub physical: u64,
    /// Virtual address (p_vaddr).
    pub virtual_address: u64,
    /// Offset of its bytes in the file.
    pub offset: u64,
    /// Number of bytes in the file (p_filesz).
    pub in_file: u64,
    /// Number of bytes in memory (p_memsz); those that are not in the file are zero.
    pub in_memory: u64,
}

impl Segment {
    /// The physical memory that it covers.
    pub fn range(&self) -> Range {
        self.physical..self.physical.saturating_add(self.in_memory)
    }
}

/// The PT_LOADs of a core file (ELF gABI, "Program Header").
///
/// # Errors
/// If the file is not a 64-bit ELF file.
pub fn segments(core: &Path) -> Result<Vec<Segment>> {
    let file = File::open(core).with_context(|| format!("cannot open {}", core.display()))?;
    let cache = ReadCache::new(file);
    let name = || format!("{} is not a core file", core.display());
    let header = FileHeader64::<Endianness>::parse(&cache).with_context(name)?;
    let endian = header.endian().with_context(name)?;
    let headers = header.program_headers(endian, &cache).with_context(name)?;
    Ok(headers
        .iter()
        .filter(|entry| entry.p_type(endian) == PT_LOAD)
        .map(|entry| Segment {
            physical: entry.p_paddr(endian),
            virtual_address: entry.p_vaddr(endian),
            offset: entry.p_offset(endian),
            in_file: entry.p_filesz(endian),
            in_memory: entry.p_memsz(endian),
        })
        .collect())
}

/// Ranges sorted, and joined where they touch or overlap.
pub fn union(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// The parts of `ranges` outside all `holes`.
pub fn without(ranges: &[Range], holes: &[Range]) -> Vec<Range> {
    let holes = union(holes.to_vec());
    let mut left = Vec::new();
    for range in union(ranges.to_vec()) {
        let mut at = range.start;
        for hole in holes.iter().filter(|hole| hole.start < range.end && hole.end > range.start) {
            if hole.start > at {
                left.push(at..hole.start);
            }
            at = at.max(hole.end);
        }
        if at < range.end {
            left.push(at..range.end);
        }
    }
    left
}

/// Total size of ranges in bytes; they must not overlap.
pub fn bytes(ranges: &[Range]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Memory saved by the emulator.
pub trait Memory {
    /// Reads physical memory.
    ///
    /// # Errors
    /// If that memory was not saved.
    fn read(&self, physical: u64, into: &mut [u8]) -> Result<()>;
}

/// A file with a range of physical memory, as written by QMP's `pmemsave`.
#[derive(Debug)]
pub struct Saved {
    /// The range.
    pub range: Range,
    /// Its bytes.
    pub file: File,
}

impl Memory for Vec<Saved> {
    fn read(&self, physical: u64, into: &mut [u8]) -> Result<()> {
        let end = physical + into.len() as u64;
        let Some(saved) = self.iter().find(|saved| saved.range.start <= physical && end <= saved.range.end)
        else {
            bail!("the machine's memory at {physical:#x} was not saved");
        };
        saved
            .file
            .read_exact_at(into, physical - saved.range.start)
            .context("cannot read the machine's memory")
    }
}

/// The physical memory in a core file.
#[derive(Debug)]
pub struct Core {
    file: File,
    segments: Vec<Segment>,
}

impl Core {
    /// Opens a core file.
    ///
    /// # Errors
    /// As [`segments`].
    pub fn open(path: &Path) -> Result<Core> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Core { file, segments: segments(path)? })
    }

    /// The physical memory that it covers.
    pub fn covers(&self) -> Vec<Range> {
        union(self.segments.iter().map(Segment::range).collect())
    }
}

/// The result of a comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compared {
    /// Bytes compared, each address counted once.
    pub bytes: u64,
    /// Addresses of the first few pages that differ.
    pub different: Vec<u64>,
    /// Number of pages that differ.
    pub different_pages: u64,
}

/// Compares every PT_LOAD of `core` with the machine's memory, except for the ranges in `except`.
///
/// # Errors
/// If something cannot be read, or the core covers memory that the machine does not have.
pub fn compare(core: &Core, machine: &dyn Memory, except: &[Range]) -> Result<Compared> {
    const PAGE: u64 = 4096;
    let mut pages: Vec<u64> = Vec::new();
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for segment in &core.segments {
        for part in without(std::slice::from_ref(&segment.range()), except) {
            let mut at = part.start;
            while at < part.end {
                let size = (part.end - at).min(ours.len() as u64);
                let length = usize::try_from(size).context("a piece too large")?;
                let (a, b) = (
                    ours.get_mut(..length).context("a piece too large")?,
                    theirs.get_mut(..length).context("a piece too large")?,
                );
                let inside = at - segment.physical;
                let stored = usize::try_from(segment.in_file.saturating_sub(inside).min(size))
                    .context("a piece too large")?;
                let (from_file, zero) = a.split_at_mut(stored);
                core.file
                    .read_exact_at(from_file, segment.offset + inside)
                    .context("the core file is shorter than its headers say")?;
                zero.fill(0);
                machine.read(at, b)?;
                if a != b {
                    let differing = a.chunks(PAGE as usize).zip(b.chunks(PAGE as usize)).enumerate();
                    pages.extend(
                        differing
                            .filter(|(_, (x, y))| x != y)
                            .map(|(index, _)| (at / PAGE + index as u64) * PAGE),
                    );
                }
                at += size;
            }
        }
    }
    pages.sort_unstable();
    pages.dedup();
    let compared = bytes(&without(&core.covers(), except));
    let different_pages = pages.len() as u64;
    pages.truncate(16);
    Ok(Compared { bytes: compared, different: pages, different_pages })
}

/// Whether a page has the content that the test kernel writes to page frame `pfn` (`fill.kind=random`):
/// numbers derived from it (SplitMix64, Steele, Lea and Flood, 2014).
pub fn is_filled(pfn: u64, page: &[u8]) -> bool {
    let mix = |seed: u64| {
        let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let words = page.as_chunks::<8>().0.iter().zip(pfn * 512..);
    !page.is_empty() && words.into_iter().all(|(word, seed)| u64::from_le_bytes(*word) == mix(seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// A small core file: ELF header, one program header per segment, bytes.
    fn core_file(segments: &[(u64, Vec<u8>, u64)]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut header = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        header.extend([4, 0, 62, 0, 1, 0, 0, 0]);
        header.extend(0_u64.to_le_bytes());
        header.extend(64_u64.to_le_bytes());
        header.extend(0_u64.to_le_bytes());
        header.extend([0, 0, 0, 0, 64, 0, 56, 0]);
        header.extend(u16::try_from(segments.len()).unwrap().to_le_bytes());
        header.extend([64, 0, 0, 0, 0, 0]);
        let mut offset = 64 + 56 * segments.len() as u64;
        for (physical, bytes, in_memory) in segments {
            header.extend(1_u32.to_le_bytes());
            header.extend(6_u32.to_le_bytes());
            for word in [offset, 0, *physical, bytes.len() as u64, *in_memory, 1] {
                header.extend(word.to_le_bytes());
            }
            offset += bytes.len() as u64;
        }
        file.write_all(&header).unwrap();
        for (_, bytes, _) in segments {
            file.write_all(bytes).unwrap();
        }
        file
    }

    struct Flat(Vec<u8>);

    impl Memory for Flat {
        fn read(&self, physical: u64, into: &mut [u8]) -> Result<()> {
            let start = usize::try_from(physical)?;
            into.copy_from_slice(self.0.get(start..start + into.len()).context("no such memory")?);
            Ok(())
        }
    }

    #[test]
    fn what_the_file_does_not_hold_counts_as_zero() {
        let file = core_file(&[(0, vec![7; 4096], 3 * 4096)]);
        let core = Core::open(file.path()).unwrap();
        let mut memory = vec![0; 3 * 4096];
        memory[..4096].fill(7);
        let same = compare(&core, &Flat(memory.clone()), &[]).unwrap();
        assert_eq!((same.bytes, same.different_pages), (3 * 4096, 0));
        memory[2 * 4096 + 5] = 1;
        assert_eq!(compare(&core, &Flat(memory), &[]).unwrap().different, [2 * 4096]);
    }

    #[test]
    fn memory_that_the_machine_does_not_have_is_an_error() {
        let file = core_file(&[(4096, vec![0; 4096], 4096)]);
        assert!(compare(&Core::open(file.path()).unwrap(), &Flat(vec![0; 4096]), &[]).is_err());
    }

    #[test]
    fn a_text_is_not_a_core() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"hello").unwrap();
        assert!(segments(file.path()).unwrap_err().to_string().contains("not a core file"));
    }

    fn some_ranges() -> impl Strategy<Value = Vec<Range>> {
        proptest::collection::vec((0_u64..200, 0_u64..50).prop_map(|(start, size)| start..start + size), 0..8)
    }

    proptest! {
        #[test]
        fn without_keeps_exactly_what_is_in_no_hole(ranges in some_ranges(), holes in some_ranges()) {
            let left = without(&ranges, &holes);
            for address in 0..260 {
                let expected = ranges.iter().any(|range| range.contains(&address))
                    && !holes.iter().any(|hole| hole.contains(&address));
                prop_assert_eq!(left.iter().any(|range| range.contains(&address)), expected);
            }
            prop_assert!(left.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }

        #[test]
        fn a_single_changed_byte_is_found_unless_it_is_excepted(
            seed in any::<u8>(), pages in 1_usize..6, at in 0_usize..6 * 4096, hole in 0_u64..6,
        ) {
            let memory: Vec<u8> = (0..pages * 4096).map(|index| (index as u8).wrapping_mul(31) ^ seed).collect();
            let file = core_file(&[(0, memory.clone(), memory.len() as u64)]);
            let core = Core::open(file.path()).unwrap();
            let mut changed = memory.clone();
            let at = at % changed.len();
            changed[at] ^= 0x40;
            let hole = hole * 4096..(hole + 1) * 4096;
            let found = compare(&core, &Flat(changed), std::slice::from_ref(&hole)).unwrap();
            let expected = u64::from(!hole.contains(&(at as u64)));
            prop_assert_eq!(found.different_pages, expected);
        }
    }
}
