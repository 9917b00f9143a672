//! The dumped memory as seen by a CPU: by virtual address, through its own page tables.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuState;
use dumpcore::format::{Block, PAGE_SIZE};

use crate::corefile::pagetable::{Paging, Root, translate};
use crate::dump::{Dump, PageState};

/// Number of cached pages: page tables and stacks are read word by word. 16 MiB.
const MAX_PAGES: usize = 4096;

/// Maximum number of pages to read from a dump: enough for a few thousand CPUs.
const MAX_READS: u64 = 1 << 16;

/// Pages of a dump, with a cache of the latest.
pub(super) struct Pages<'d> {
    read: Box<dyn Fn(u64) -> Option<Box<Block>> + 'd>,
    kept: RefCell<HashMap<u64, Option<Box<Block>>>>,
    reads: Cell<u64>,
}

impl<'d> Pages<'d> {
    /// The pages of a dump.
    pub(super) fn of(dump: &'d Dump<'_>) -> Pages<'d> {
        Pages::new(|pfn| match dump.read_page(pfn) {
            Ok(PageState::Data(bytes)) => Some(bytes),
            Ok(PageState::Zero) => Some(Box::new([0; PAGE_SIZE])),
            _ => None,
        })
    }

    /// The pages returned by `read` for page frame numbers.
    pub(super) fn new(read: impl Fn(u64) -> Option<Box<Block>> + 'd) -> Pages<'d> {
        Pages { read: Box::new(read), kept: RefCell::default(), reads: Cell::new(0) }
    }

    /// Copies bytes that do not cross the end of a page; false if their page is unknown.
    fn copy(&self, phys: u64, into: &mut [u8]) -> bool {
        let (pfn, inside) = (phys / PAGE_SIZE as u64, (phys % PAGE_SIZE as u64) as usize);
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= MAX_PAGES && !kept.contains_key(&pfn) {
            kept.clear();
        }
        let page = kept.entry(pfn).or_insert_with(|| {
            self.reads.set(self.reads.get() + 1);
            if self.reads.get() > MAX_READS { None } else { (self.read)(pfn) }
        });
        let bytes = page.as_ref().and_then(|page| page.get(inside..inside + into.len()));
        if let Some(bytes) = bytes {
            into.copy_from_slice(bytes);
        }
        bytes.is_some()
    }

    fn word(&self, phys: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.copy(phys, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }
}

/// Memory as seen by one CPU.
pub(super) struct Memory<'p> {
    pages: &'p Pages<'p>,
    /// Its page tables; `None` if it used physical addresses.
    roots: Option<Vec<Root>>,
}

impl<'p> Memory<'p> {
    /// The memory of a CPU; if its page tables are unknown, as seen by the first usable one of `others`:
    /// kernels use the same mapping on all CPUs.
    pub(super) fn of<'c>(
        pages: &'p Pages<'p>,
        arch: Arch,
        state: &'c CpuState,
        others: impl Iterator<Item = &'c CpuState>,
    ) -> Memory<'p> {
        let mut roots = Some(Vec::new());
        for state in std::iter::once(state).chain(others) {
            match Paging::of(arch, state) {
                Paging::On { roots: own, .. } if !own.is_empty() => {
                    roots = Some(own);
                    break;
                }
                Paging::Off => {
                    roots = None;
                    break;
                }
                Paging::On { .. } | Paging::Unknown => {}
            }
        }
        Memory { pages, roots }
    }

    /// Memory by physical addresses.
    #[cfg(test)]
    pub(super) fn physical(pages: &'p Pages<'p>) -> Memory<'p> {
        Memory { pages, roots: None }
    }

    fn phys(&self, virt: u64) -> Option<u64> {
        match &self.roots {
            None => Some(virt),
            Some(roots) => translate(roots, virt, &mut |address| self.pages.word(address)),
        }
    }

    /// Copies bytes; false if some of them are unmapped or unknown.
    pub(super) fn read(&self, virt: u64, into: &mut [u8]) -> bool {
        let mut at = virt;
        let mut rest = into;
        while !rest.is_empty() {
            let in_page = (PAGE_SIZE as u64 - at % PAGE_SIZE as u64).min(rest.len() as u64);
            let (part, behind) = rest.split_at_mut(in_page as usize);
            if !self.phys(at).is_some_and(|phys| self.pages.copy(phys, part)) {
                return false;
            }
            rest = behind;
            at = at.wrapping_add(in_page);
        }
        true
    }

    /// The word at an address.
    pub(super) fn word(&self, virt: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(virt, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }
}
