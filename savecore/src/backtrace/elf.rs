//! The kernel's ELF file, read piece by piece: a kernel with debug information may exceed savecore's memory
//! limit at boot.
//!
//! The file is not trusted: every size is checked against the file's length and a limit before it is
//! allocated.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::elf::{
    CompressionHeader64, ELFCLASS64, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD, ELFDATA2LSB, ELFMAG, FileHeader64,
    NT_GNU_BUILD_ID, PT_LOAD, PT_NOTE, ProgramHeader64, SHF_COMPRESSED, SHT_NOBITS, SHT_NOTE,
    SectionHeader64,
};
use object::{LittleEndian as LE, pod};

/// Maximum size of a kernel file.
const MAX_FILE: u64 = 4 << 30;

/// Maximum size of a section in memory, compressed or not.
const MAX_SECTION: u64 = 512 << 20;

/// Maximum number of section headers, and of program headers.
const MAX_HEADERS: u64 = 1 << 16;

/// Maximum bytes of notes to search for a build id, per piece.
const MAX_NOTES: u64 = 1 << 16;

/// A section's header.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) address: u64,
    pub(super) size: u64,
    /// Index of the linked section.
    pub(super) link: u32,
    offset: u64,
}

impl Section {
    /// Whether it is compressed in the old way, from before the flag (binutils, "zlib-gnu").
    fn is_old_compressed(&self) -> bool {
        self.name.starts_with(b".zdebug_")
    }

    /// Whether the file has its bytes.
    pub(super) fn has_bytes(&self) -> bool {
        self.kind != SHT_NOBITS && self.size > 0
    }
}

/// A segment's header.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) address: u64,
    pub(super) memory: u64,
    offset: u64,
    stored: u64,
}

/// An ELF file of 64 bits, little-endian (ELF gABI).
#[derive(Debug)]
pub(super) struct Elf {
    file: File,
    length: u64,
    pub(super) machine: u16,
    /// Entry point; 0 if there is none.
    pub(super) entry: u64,
    pub(super) sections: Vec<Section>,
    pub(super) segments: Vec<Segment>,
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Elf {
    /// Opens a file and reads its headers.
    ///
    /// # Errors
    /// If it cannot be read, or is not an ELF file for a kernel of our architectures.
    pub(super) fn open(path: &Path) -> io::Result<Elf> {
        // A FIFO would block, and a device might do anything.
        if !path.metadata()?.is_file() {
            return Err(bad("it is not a file"));
        }
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length > MAX_FILE {
            return Err(bad("it is larger than 4 GiB"));
        }
        let mut elf = Elf { file, length, machine: 0, entry: 0, sections: Vec::new(), segments: Vec::new() };
        elf.read_headers()?;
        Ok(elf)
    }

    fn read_headers(&mut self) -> io::Result<()> {
        let head =
            self.read(0, size_of::<FileHeader64<LE>>() as u64).map_err(|_| bad("it is not an ELF file"))?;
        let (header, _) =
            pod::from_bytes::<FileHeader64<LE>>(&head).map_err(|()| bad("it is not an ELF file"))?;
        if header.e_ident.magic != ELFMAG {
            return Err(bad("it is not an ELF file"));
        }
        if (header.e_ident.class, header.e_ident.data) != (ELFCLASS64, ELFDATA2LSB) {
            return Err(bad("it is not an ELF file of 64 bits, little-endian"));
        }
        self.machine = header.e_machine.get(LE);
        self.entry = header.e_entry.get(LE);
        let (phoff, phnum) = (header.e_phoff.get(LE), u64::from(header.e_phnum.get(LE)));
        for header in self.table::<ProgramHeader64<LE>>(phoff, phnum, header.e_phentsize.get(LE))? {
            self.segments.push(Segment {
                kind: header.p_type.get(LE),
                flags: header.p_flags.get(LE),
                address: header.p_vaddr.get(LE),
                memory: header.p_memsz.get(LE),
                offset: header.p_offset.get(LE),
                stored: header.p_filesz.get(LE),
            });
        }
        let (shoff, size) = (header.e_shoff.get(LE), header.e_shentsize.get(LE));
        if shoff == 0 {
            return Ok(());
        }
        // If there are too many sections for the ELF header, section 0 has their number.
        let first = self.table::<SectionHeader64<LE>>(shoff, 1, size)?;
        let first = first.first().map(|first| (first.sh_size.get(LE), first.sh_link.get(LE)));
        let (many, names) = first.unwrap_or_default();
        let count = if header.e_shnum.get(LE) == 0 { many } else { header.e_shnum.get(LE).into() };
        let names =
            if header.e_shstrndx.get(LE) == u16::MAX { names } else { header.e_shstrndx.get(LE).into() };
        let headers = self.table::<SectionHeader64<LE>>(shoff, count, size)?;
        let texts = headers.get(names as usize).map(|names| (names.sh_offset.get(LE), names.sh_size.get(LE)));
        let texts = match texts {
            Some((offset, size)) => self.read(offset, size.min(MAX_SECTION))?,
            None => Vec::new(),
        };
        self.sections.extend(headers.iter().map(|header| Section {
            name: text_at(&texts, header.sh_name.get(LE)).to_vec(),
            kind: header.sh_type.get(LE),
            flags: header.sh_flags.get(LE),
            address: header.sh_addr.get(LE),
            size: header.sh_size.get(LE),
            link: header.sh_link.get(LE),
            offset: header.sh_offset.get(LE),
        }));
        Ok(())
    }

    /// A table of headers.
    fn table<T: pod::Pod + Clone>(&self, offset: u64, count: u64, size: u16) -> io::Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if usize::from(size) != size_of::<T>() || count > MAX_HEADERS {
            return Err(bad("its headers make no sense"));
        }
        let bytes = self.read(offset, count * u64::from(size))?;
        let (headers, _) = pod::slice_from_bytes::<T>(&bytes, count as usize)
            .map_err(|()| bad("its headers make no sense"))?;
        Ok(headers.to_vec())
    }

    /// Bytes of the file.
    pub(super) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        // Check against the file first, so that a forged size allocates nothing.
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(bad("it ends in the middle of something"));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The section with this name, if its bytes are in the file; a compressed one may have the old compressed
    /// name.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        let old = name.strip_prefix(".debug_").map(|rest| format!(".zdebug_{rest}"));
        let named = |name: &str| {
            self.sections.iter().find(|section| section.name == name.as_bytes() && section.has_bytes())
        };
        named(name).or_else(|| old.as_deref().and_then(named))
    }

    /// Offset and length of an uncompressed section in the file.
    pub(super) fn place(&self, section: &Section) -> Option<(u64, u64)> {
        let packed = section.flags & u64::from(SHF_COMPRESSED) != 0 || section.is_old_compressed();
        let plain = section.has_bytes() && !packed;
        plain.then_some((section.offset, section.size))
    }

    /// A section's bytes, decompressed.
    pub(super) fn bytes(&self, section: &Section) -> io::Result<Vec<u8>> {
        let too_large = || {
            let name = String::from_utf8_lossy(&section.name);
            bad(&format!("its section {name:?} is larger than {} MiB", MAX_SECTION >> 20))
        };
        if section.size > MAX_SECTION {
            return Err(too_large());
        }
        let stored = self.read(section.offset, section.size)?;
        if section.is_old_compressed() {
            let head = stored.strip_prefix(b"ZLIB").and_then(|rest| rest.split_first_chunk());
            let Some((size, packed)) = head else { return Err(bad("a compressed section has no header")) };
            return match u64::from_be_bytes(*size) {
                size if size > MAX_SECTION => Err(too_large()),
                size => unzipped(packed, size),
            };
        }
        if section.flags & u64::from(SHF_COMPRESSED) == 0 {
            return Ok(stored);
        }
        let (header, packed) = pod::from_bytes::<CompressionHeader64<LE>>(&stored)
            .map_err(|()| bad("a compressed section has no header"))?;
        let size = header.ch_size.get(LE);
        if size > MAX_SECTION {
            return Err(too_large());
        }
        match header.ch_type.get(LE) {
            ELFCOMPRESS_ZLIB => unzipped(packed, size),
            ELFCOMPRESS_ZSTD => {
                let mut bytes = Vec::new();
                zstd::stream::read::Decoder::new(packed)?.take(size).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            _ => Err(bad("a section is compressed in a way that is not known")),
        }
    }

    /// The name of the separate file with this one's symbols and debug information (binutils, `objcopy
    /// --add-gnu-debuglink`).
    pub(super) fn debug_link(&self) -> Option<String> {
        let bytes = self.named(".gnu_debuglink").ok()?;
        let name = String::from_utf8(text_at(&bytes, 0).to_vec()).ok()?;
        // A plain name, not a path.
        (!name.is_empty() && !name.contains('/') && name != "..").then_some(name)
    }

    /// The bytes of a section by its name; empty if there is no such section.
    pub(super) fn named(&self, name: &str) -> io::Result<Vec<u8>> {
        self.section(name).map_or_else(|| Ok(Vec::new()), |section| self.bytes(section))
    }

    /// The GNU build id, if there is one.
    pub(super) fn build_id(&self) -> Option<Vec<u8>> {
        let sections = self.sections.iter().filter(|section| section.kind == SHT_NOTE);
        let sections = sections.map(|section| (section.offset, section.size));
        let segments = self.segments.iter().filter(|segment| segment.kind == PT_NOTE);
        let segments = segments.map(|segment| (segment.offset, segment.stored));
        sections.chain(segments).take(64).find_map(|(offset, size)| {
            let notes = self.read(offset, size.min(MAX_NOTES)).ok()?;
            build_id_in(&notes)
        })
    }

    /// Reads bytes of the loaded program at an address, at most 16.
    pub(super) fn at_address(&self, address: u64, bytes: &mut [u8]) -> bool {
        let length = bytes.len() as u64;
        let holds = |segment: &&Segment| {
            let inside = address.checked_sub(segment.address);
            segment.kind == PT_LOAD
                && inside
                    .and_then(|inside| inside.checked_add(length))
                    .is_some_and(|end| end <= segment.stored)
        };
        let Some(segment) = self.segments.iter().find(holds) else { return false };
        let offset = segment.offset.checked_add(address - segment.address);
        offset.is_some_and(|offset| self.file.read_exact_at(bytes, offset).is_ok())
    }
}

/// Decompresses zlib data to at most `size` bytes.
fn unzipped(packed: &[u8], size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(packed).take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The string at `offset` of a string table.
pub(super) fn text_at(texts: &[u8], offset: u32) -> &[u8] {
    let text = texts.get(offset as usize..).unwrap_or_default();
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The GNU build id among notes (ELF gABI, "Note Section"; aligned to 4 bytes).
fn build_id_in(mut notes: &[u8]) -> Option<Vec<u8>> {
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let (words, _) = head.as_chunks::<4>();
        let [name, size, kind] =
            [0, 1, 2].map(|index| words.get(index).map_or(0, |word| u32::from_le_bytes(*word)));
        let name_end = (name as usize).checked_next_multiple_of(4)?;
        let end = name_end.checked_add((size as usize).checked_next_multiple_of(4)?)?;
        if kind == NT_GNU_BUILD_ID && rest.get(..name as usize) == Some(b"GNU\0") {
            return rest.get(name_end..name_end.checked_add(size as usize)?).map(<[u8]>::to_vec);
        }
        notes = rest.get(end..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(name: &[u8], kind: u32, bytes: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, bytes.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        for part in [name, bytes] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn a_build_id_is_found_behind_other_notes() {
        let notes = [note(b"Linux\0", 0, &[1; 5]), note(b"GNU\0", 1, &[2; 16]), note(b"GNU\0", 3, &[7; 20])];
        assert_eq!(build_id_in(&notes.concat()), Some(vec![7; 20]));
        assert_eq!(build_id_in(&notes[..2].concat()), None);
    }

    proptest! {
        #[test]
        fn a_file_of_any_bytes_is_read_or_refused(
            header in prop::collection::vec(any::<u8>(), 0..64), more in prop::collection::vec(any::<u8>(), 0..600),
            whole: bool,
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut bytes = if whole { b"\x7fELF\x02\x01\x01".to_vec() } else { Vec::new() };
            bytes.extend(header);
            bytes.extend(more);
            if whole && bytes.len() > 64 {
                // Headers of the right size within the file, so that more of it is parsed.
                bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
                bytes[40..48].copy_from_slice(&120_u64.to_le_bytes());
                bytes[54..64].copy_from_slice(&[56, 0, 1, 0, 64, 0, 5, 0, 1, 0]);
            }
            std::fs::write(file.path(), &bytes).unwrap();
            if let Ok(elf) = Elf::open(file.path()) {
                let _ = elf.build_id();
                for section in &elf.sections {
                    if let Ok(read) = elf.bytes(section) {
                        prop_assert!(read.len() as u64 <= MAX_SECTION);
                    }
                }
                let _ = elf.at_address(bytes.len() as u64, &mut [0; 8]);
            }
        }
    }
}
