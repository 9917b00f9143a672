//! Writes a dump as an ELF core (ELF gABI; Linux's vmcore is one).
//!
//! | offset | contents |
//! | --- | --- |
//! | 0 | ELF header, ET_CORE |
//! | 64 | program headers: one PT_NOTE, then PT_LOADs for virtual addresses, then for physical ones |
//! | then | section header 0, only if there are 65535 program headers or more (PN_XNUM) |
//! | then | notes |
//! | next multiple of 4096 | [selected](super::select) pages by physical address; zero pages are holes |
//!
//! Segments for virtual addresses come from the page tables of the CPU that crashed, and share their bytes
//! with the segments for physical addresses. An unknown or excluded page is in no segment, so that a debugger
//! reports that it cannot read it, instead of showing zeros.
//!
//! A physical segment needs a virtual address too. With page tables it is [`physical_window`] plus the
//! physical address: no mapping can be there, and a null pointer of the dead kernel stays invalid. Without
//! page tables it is the physical address itself.
//!
//! The core of a Linux, recognised by VMCOREINFO, has the layout that the kernel itself would use: first its
//! image, then physical memory at the addresses of its direct map, then everything else.
//!
//! All segments have p_align 0: `crash` mistakes a core whose first PT_LOAD is aligned for the old netdump
//! format.

use std::ops::ControlFlow;

use dumpcore::format::header::Arch;
use dumpcore::format::{BLOCK_SIZE, PAGE_SIZE};
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_NONE, ET_CORE, EV_CURRENT, FileHeader64, Ident, PF_R,
    PF_W, PF_X, PN_XNUM, PT_LOAD, PT_NOTE, ProgramHeader64, SHT_NULL, SectionHeader64,
};
use object::pod::bytes_of;
use object::{LittleEndian, U16, U32, U64};

use super::head::Head;
use super::layout::{Layout, Segment};
use super::linux::{Arrangement, Vmcoreinfo};
use super::notes::notes;
use super::pagetable::{self, Paging, Refused, Walked};
use super::select::Selection;
use super::{CoreOptions, Sink, may_be_core, pages};
use crate::Error;
use crate::dump::{Dump, Fate, PageState};
use crate::source::Progress;

/// The virtual address of physical address 0 in a core with virtual segments; the architecture cannot map
/// anything there.
pub fn physical_window(arch: Option<Arch>) -> u64 {
    match arch {
        // Debuggers ignore the topmost byte, since the processor may ignore it too. Mapped addresses end at
        // 2^52.
        Some(Arch::Aarch64) => 1 << 54,
        // Mapped addresses end at 2^56.
        Some(Arch::X86_64 | Arch::Riscv64) | None => 1 << 62,
    }
}

/// Maximum number of virtual segments. Debuggers become slow long before.
const MAX_VIRTUAL: usize = 1 << 20;

const EHDR: u64 = size_of::<FileHeader64<LittleEndian>>() as u64;
const PHDR: u64 = size_of::<ProgramHeader64<LittleEndian>>() as u64;
const SHDR: u64 = size_of::<SectionHeader64<LittleEndian>>() as u64;
const LE: LittleEndian = LittleEndian;

/// Statistics of the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Segments for virtual addresses.
    pub virtual_segments: u64,
    /// Segments for physical addresses.
    pub physical_segments: u64,
    /// Length of the file in bytes, including holes.
    pub length: u64,
    /// Statistics of the page table walk; `None` if there was no root to start from.
    pub walked: Option<Walked>,
    /// Why there was no root, or none for one half of the address space.
    pub unwalked: Option<Unwalked>,
}

/// Why page tables were not walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unwalked {
    /// No CPU's control registers are in the dump.
    #[error("no CPU's page tables are known")]
    Unknown,
    /// The CPU used physical addresses.
    #[error("the CPU had no page tables in use")]
    Off,
    /// Page tables of an unsupported kind.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Writes a dump as an ELF core, in constant memory except for the segments. The dump and the level alone
/// determine the core's bytes.
///
/// # Errors
/// If the dump is encrypted and not open, this machine has too little memory for it, the file cannot be
/// written, the dump can no longer be read, or the file would be too large.
pub fn write(
    dump: &Dump<'_>,
    options: &CoreOptions,
    out: &mut dyn Sink,
    progress: &mut dyn Progress,
) -> Result<Written, Error> {
    may_be_core(dump)?;
    let selection = Selection::of(dump, options.level);
    let layout = Layout::new(dump, &selection);
    let (virtuals, walked, unwalked) = virtual_segments(dump, &layout);
    let notes = notes(dump, &selection).bytes;
    let linux = Vmcoreinfo::of(dump).and_then(|info| Arrangement::of(&info, &virtuals));
    // Segments before the physical ones, and after them.
    let (front, physical_base, behind) = match linux {
        Some(Arrangement { image, direct_map, others }) => (image, direct_map, others),
        None if virtuals.is_empty() => (virtuals, 0, Vec::new()),
        None => (virtuals, physical_window(dump.arch()), Vec::new()),
    };
    let virtual_segments = (front.len() + behind.len()) as u64;

    let count = 1 + virtual_segments + layout.extents.len() as u64;
    let extended = count >= u64::from(PN_XNUM);
    let table_end = EHDR + count * PHDR;
    let notes_at = table_end + if extended { SHDR } else { 0 };
    let data_at = (notes_at + notes.len() as u64).next_multiple_of(PAGE_SIZE as u64);
    let too_large = Error::TooLarge { pages: layout.pages };
    let length = layout.pages.checked_mul(PAGE_SIZE as u64).and_then(|bytes| bytes.checked_add(data_at));
    let Some(length) = length.filter(|length| i64::try_from(*length).is_ok()) else { return Err(too_large) };
    let stored_count = u32::try_from(count).map_err(|_| too_large)?;

    out.begin(data_at, Some(length)).map_err(Error::Core)?;
    progress.begin("writing the core", selection.data_pages());
    // Zero pages stay holes, however many there are.
    let mut data = selection.runs(dump).filter(|run| run.fate == Fate::Data);
    pages::for_each(dump, &mut data, options.threads, &|| (), &|(), piece| piece, progress, &mut |piece| {
        for part in piece.parts() {
            // A known page has a rank, and consecutive pages have consecutive ranks.
            let (Some(bytes), Some(rank)) = (part.bytes, layout.rank(part.pfn)) else { continue };
            let offset = data_at + rank * PAGE_SIZE as u64;
            out.write_at(offset, bytes.as_flattened()).map_err(Error::Core)?;
        }
        Ok(())
    })?;
    progress.end();

    let mut head = Head::new(&mut *out, 0);
    head.push(bytes_of(&file_header(dump.arch(), stored_count, table_end)))?;
    head.push(bytes_of(&program_header(PT_NOTE, notes_at, 0, 0, notes.len() as u64)))?;
    let segment = |segment: &Segment| {
        let bytes = segment.count * PAGE_SIZE as u64;
        let offset = data_at + segment.rank * PAGE_SIZE as u64;
        program_header(PT_LOAD, offset, segment.virt, segment.pfn * PAGE_SIZE as u64, bytes)
    };
    for part in &front {
        head.push(bytes_of(&segment(part)))?;
    }
    for extent in &layout.extents {
        let virt = (extent.pfn * PAGE_SIZE as u64).wrapping_add(physical_base);
        let part = Segment { virt, pfn: extent.pfn, count: extent.count, rank: extent.rank };
        head.push(bytes_of(&segment(&part)))?;
    }
    for part in &behind {
        head.push(bytes_of(&segment(part)))?;
    }
    if extended {
        head.push(bytes_of(&section_header(stored_count)))?;
    }
    head.push(&notes)?;
    head.flush()?;
    out.set_len(length).map_err(Error::Core)?;
    Ok(Written { virtual_segments, physical_segments: layout.extents.len() as u64, length, walked, unwalked })
}

/// The page tables of the crashing CPU, or of another one if its own are unknown.
fn paging(dump: &Dump<'_>) -> Paging {
    let Some(arch) = dump.arch() else { return Paging::Unknown };
    let facts = dump.facts();
    let crashing = facts.crashing(dump.found().header.crashing_cpu.get());
    let all = crashing.into_iter().chain(&facts.cpus).map(|state| Paging::of(arch, state));
    all.min_by_key(|paging| match paging {
        Paging::On { roots, .. } if !roots.is_empty() => 0,
        Paging::On { .. } => 1,
        Paging::Off => 2,
        Paging::Unknown => 3,
    })
    .unwrap_or(Paging::Unknown)
}

/// The mappings of the page tables to known memory; the statistics of the walk; and why something was not
/// walked.
fn virtual_segments(dump: &Dump<'_>, layout: &Layout) -> (Vec<Segment>, Option<Walked>, Option<Unwalked>) {
    let (roots, refused) = match paging(dump) {
        Paging::Unknown => return (Vec::new(), None, Some(Unwalked::Unknown)),
        Paging::Off => return (Vec::new(), None, Some(Unwalked::Off)),
        Paging::On { roots, refused } => (roots, refused.map(Unwalked::Refused)),
    };
    if roots.is_empty() {
        return (Vec::new(), None, refused);
    }
    let mut segments: Vec<Segment> = Vec::new();
    let mut read = |pfn| match dump.read_page(pfn) {
        Ok(PageState::Data(bytes)) => Some(bytes),
        // An empty table maps nothing.
        Ok(PageState::Zero) => Some(Box::new([0; BLOCK_SIZE])),
        _ => None,
    };
    let walked = pagetable::walk(&roots, &mut read, &mut |mapping| {
        for part in layout.clip(mapping) {
            let bytes = |segment: &Segment| segment.count * PAGE_SIZE as u64;
            let full = segments.len() >= MAX_VIRTUAL;
            match segments.last_mut() {
                Some(last)
                    if last.virt.checked_add(bytes(last)) == Some(part.virt)
                        && last.pfn + last.count == part.pfn =>
                {
                    last.count += part.count;
                }
                _ if full => return ControlFlow::Break(()),
                _ => segments.push(part),
            }
        }
        ControlFlow::Continue(())
    });
    (segments, Some(walked), refused)
}

fn file_header(arch: Option<Arch>, count: u32, sections_at: u64) -> FileHeader64<LittleEndian> {
    let extended = count >= u32::from(PN_XNUM);
    FileHeader64 {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LE, ET_CORE),
        e_machine: U16::new(LE, arch.map_or(EM_NONE, |arch| arch as u16)),
        e_version: U32::new(LE, EV_CURRENT.into()),
        e_entry: U64::new(LE, 0),
        e_phoff: U64::new(LE, EHDR),
        e_shoff: U64::new(LE, if extended { sections_at } else { 0 }),
        // RISC-V's flags specify the calling convention for floating-point registers, which a dump does not
        // have; gdb takes it from the kernel's own file.
        e_flags: U32::new(LE, 0),
        e_ehsize: U16::new(LE, EHDR as u16),
        e_phentsize: U16::new(LE, PHDR as u16),
        e_phnum: U16::new(LE, u16::try_from(count).unwrap_or(PN_XNUM)),
        e_shentsize: U16::new(LE, if extended { SHDR as u16 } else { 0 }),
        e_shnum: U16::new(LE, u16::from(extended)),
        e_shstrndx: U16::new(LE, 0),
    }
}

/// Section header 0, for a number of program headers that does not fit the ELF header.
fn section_header(count: u32) -> SectionHeader64<LittleEndian> {
    SectionHeader64 {
        sh_name: U32::new(LE, 0),
        sh_type: U32::new(LE, SHT_NULL),
        sh_flags: U64::new(LE, 0),
        sh_addr: U64::new(LE, 0),
        sh_offset: U64::new(LE, 0),
        // The ELF header has e_shnum, 1; e_phnum is here.
        sh_size: U64::new(LE, 0),
        sh_link: U32::new(LE, 0),
        sh_info: U32::new(LE, count),
        sh_addralign: U64::new(LE, 0),
        sh_entsize: U64::new(LE, 0),
    }
}

fn program_header(
    kind: u32,
    offset: u64,
    virt: u64,
    phys: u64,
    length: u64,
) -> ProgramHeader64<LittleEndian> {
    let (flags, align) = if kind == PT_LOAD { (PF_R | PF_W | PF_X, 0) } else { (0, 4) };
    ProgramHeader64 {
        p_type: U32::new(LE, kind),
        p_flags: U32::new(LE, flags),
        p_offset: U64::new(LE, offset),
        p_vaddr: U64::new(LE, virt),
        p_paddr: U64::new(LE, phys),
        p_filesz: U64::new(LE, length),
        p_memsz: U64::new(LE, length),
        p_align: U64::new(LE, align),
    }
}
