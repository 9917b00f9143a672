//! The dumped memory as a CPU saw it: by virtual address, through its own page tables.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuState;
use dumpcore::format::{Block, PAGE_SIZE};

use crate::corefile::pagetable::{Paging, Root, translate};
use crate::dump::{Dump, PageState};

/// Pages that are kept: tables and stacks are read word by word. 16 MiB.
const MAX_PAGES: usize = 4096;

/// Pages that are read from a dump in all: what a few thousand CPUs need.
const MAX_READS: u64 = 1 << 16;

/// Pages of a dump, those that were read last at hand.
pub(super) struct Pages<'d> {
    read: Box<dyn Fn(u64) -> Option<Box<Block>> + 'd>,
    kept: RefCell<HashMap<u64, Option<Box<Block>>>>,
    reads: Cell<u64>,
}

impl<'d> Pages<'d> {
    /// Those of a dump.
    pub(super) fn of(dump: &'d Dump<'_>) -> Pages<'d> {
        Pages::new(|pfn| match dump.read_page(pfn) {
            Ok(PageState::Data(bytes)) => Some(bytes),
            Ok(PageState::Zero) => Some(Box::new([0; PAGE_SIZE])),
            _ => None,
        })
    }

    /// Those that `read` gives by their page frame numbers.
    pub(super) fn new(read: impl Fn(u64) -> Option<Box<Block>> + 'd) -> Pages<'d> {
        Pages { read: Box::new(read), kept: RefCell::default(), reads: Cell::new(0) }
    }

    /// Copies bytes that do not reach over a page's end; false if their page is not known.
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

/// Memory as one CPU saw it.
pub(super) struct Memory<'p> {
    pages: &'p Pages<'p>,
    /// Its page tables; `None` if it used physical addresses.
    roots: Option<Vec<Root>>,
}

impl<'p> Memory<'p> {
    /// The memory of a CPU; of one whose page tables are not known, as `others` saw it, the first of them that can be
    /// used: kernels map themselves alike on all CPUs.
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

    /// Copies bytes; false if some of them are not mapped or not known.
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
