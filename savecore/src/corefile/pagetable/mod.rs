//! Walks the page tables of a crashed kernel.
//!
//! The part common to all architectures: tables with 8-byte entries that map memory, point to a table of the
//! next level, or are invalid. Each architecture has a file for its roots and entries.
//!
//! Tables are memory of a crashed kernel: they may point anywhere, even in circles. So each table is visited
//! only a few times, and the whole walk is bounded.

mod aarch64;
#[cfg(test)]
mod memory;
mod riscv64;
mod table;
mod x86_64;

use std::collections::HashMap;
use std::ops::ControlFlow;

use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuState;
use dumpcore::format::{Block, PAGE_SIZE};

use self::table::{ENTRY, Entry, Format};
pub use self::table::{Paging, Refused, Root};

/// Maximum number of visits of a table at one level: kernels share tables between a few parts of the address
/// space.
const MAX_VISITS: u8 = 8;

/// Maximum number of table pages to visit: enough to map 512 GiB in pages of 4 KiB.
const MAX_PAGES: u64 = 1 << 20;

impl Paging {
    /// Decodes the registers of a CPU of this architecture.
    pub fn of(arch: Arch, state: &CpuState) -> Paging {
        let control = state.control.map(|register| register.get());
        match arch {
            Arch::X86_64 => x86_64::paging(&control),
            Arch::Aarch64 => aarch64::paging(&control),
            Arch::Riscv64 => riscv64::paging(&control),
        }
    }
}

impl Root {
    /// Decodes entry number `index` of a table at `level`.
    fn read(&self, entry: u64, level: u32, index: u64) -> Entry {
        match self.format {
            Format::X86_64 => x86_64::read(entry, level, self.span(level)),
            Format::Aarch64(width) => aarch64::read(entry, level, self, width),
            Format::Riscv64 => riscv64::read(entry, level, index, self.span(level)),
        }
    }
}

/// The part of the virtual address space mapped by one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Virtual address of the first byte.
    pub virt: u64,
    /// Physical address of the first byte.
    pub phys: u64,
    /// Length in bytes: a power of two, 4 KiB or more.
    pub length: u64,
}

/// Statistics of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Walked {
    /// Tables visited.
    pub tables: u64,
    /// Tables that are missing or incomplete in the dump: their mappings are unknown.
    pub missing: u64,
    /// Entries not followed because their table had been visited often enough.
    pub repeated: u64,
    /// Whether the walk ended early, at its limit or by its visitor.
    pub cut_short: bool,
}

/// Translates one virtual address, like the processor. `read` returns the table entry at a physical address.
/// `None` if the address is not mapped, or a table is unknown.
pub fn translate(roots: &[Root], virt: u64, read: &mut dyn FnMut(u64) -> Option<u64>) -> Option<u64> {
    let root = roots.iter().find(|root| root.whole(virt & !(u64::MAX << root.bits)) == virt)?;
    let mut table = root.table;
    for level in (1..=root.levels).rev() {
        let span = root.span(level);
        let index = virt / span % root.entries(level);
        match root.read(read(table.wrapping_add(index * ENTRY))?, level, index) {
            Entry::Nothing => return None,
            Entry::Table(next) => table = next,
            Entry::Memory(phys) => return Some(phys + virt % span),
        }
    }
    None
}

struct Walk<'a> {
    root: Root,
    read: &'a mut dyn FnMut(u64) -> Option<Box<Block>>,
    visit: &'a mut dyn FnMut(Mapping) -> ControlFlow<()>,
    visits: HashMap<(u64, u32), u8>,
    pages: u64,
    walked: Walked,
}

/// Walks the tables below `roots` and passes each present mapping to `visit`, until that breaks off: one root
/// after another, the kernel's upper half of the address space first, each half in ascending order. `read`
/// returns the page with a page frame number.
pub fn walk(
    roots: &[Root],
    read: &mut dyn FnMut(u64) -> Option<Box<Block>>,
    visit: &mut dyn FnMut(Mapping) -> ControlFlow<()>,
) -> Walked {
    let mut walked = Walked::default();
    let mut pages = 0;
    for root in roots {
        let mut walk = Walk { root: *root, read, visit, visits: HashMap::new(), pages, walked };
        let ended = walk.table(root.table, root.levels, 0);
        (walked, pages) = (walk.walked, walk.pages);
        if ended.is_break() {
            walked.cut_short = true;
            break;
        }
    }
    walked
}

impl Walk<'_> {
    /// Visits the table at physical address `table` and `level`, whose first entry maps `virt`. Recurses once
    /// per level.
    fn table(&mut self, table: u64, level: u32, virt: u64) -> ControlFlow<()> {
        let visits = self.visits.entry((table, level)).or_default();
        if *visits >= MAX_VISITS {
            self.walked.repeated += 1;
            return ControlFlow::Continue(());
        }
        *visits += 1;
        if self.pages >= MAX_PAGES {
            return ControlFlow::Break(());
        }
        self.walked.tables += 1;
        let span = self.root.span(level);
        // A table may be larger than a page of the dump, or smaller.
        let mut page: Option<(u64, Option<Box<Block>>)> = None;
        let mut whole = true;
        for index in self.root.order(level).into_iter().flatten() {
            let at = table + index * ENTRY;
            let pfn = at / PAGE_SIZE as u64;
            if page.as_ref().is_none_or(|(held, _)| *held != pfn) {
                self.pages += 1;
                page = Some((pfn, (self.read)(pfn)));
            }
            let Some((_, Some(bytes))) = &page else {
                whole = false;
                continue;
            };
            let (entries, _) = bytes.as_chunks::<{ ENTRY as usize }>();
            let entry = u64::from_le_bytes(entries[(at % PAGE_SIZE as u64 / ENTRY) as usize]);
            let virt = virt | (index * span);
            match self.root.read(entry, level, index) {
                Entry::Nothing => {}
                Entry::Table(next) if level > 1 => self.table(next, level - 1, virt)?,
                Entry::Table(_) => {}
                Entry::Memory(phys) => {
                    (self.visit)(Mapping { virt: self.root.whole(virt), phys, length: span })?;
                }
            }
        }
        self.walked.missing += u64::from(!whole);
        ControlFlow::Continue(())
    }
}
