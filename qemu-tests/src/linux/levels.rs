//! The classes of the pages of a crashed stock Linux, according to QEMU's core of it; and a comparison of
//! what each level keeps with what makedumpfile keeps.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use dump_linux::{Classes, KernelMemory, Layout, Vmcoreinfo};
use dumpcore::format::PAGE_BYTES;
use dumpcore::{Level, PageClass};

use super::bitmap::Bitmap;
use super::crash::Crashed;

/// Address of the kernel's own image (Linux, Documentation/arch/x86/x86_64/mm.rst).
const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// Bits of a page table entry (Intel SDM vol. 3, 4.5).
const MAPPED: u64 = 1;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The classes of all pages of a machine's RAM.
///
/// # Errors
/// If its VMCOREINFO lacks something, or QEMU's core cannot be read.
pub fn classes(crashed: &Crashed) -> Result<BTreeMap<u64, PageClass>> {
    let memory = Memory::new(crashed)?;
    let layout = Layout::parse(&Vmcoreinfo(&crashed.vmcoreinfo))?;
    if let Some((level, key)) = layout.lacks(Level::all()) {
        bail!("VMCOREINFO of {} has no {key}, which level {} needs", crashed.release, level.bits());
    }
    let mut classes = Classes::new(layout);
    let mut found = BTreeMap::new();
    for segment in &crashed.ram {
        let end = segment.range().end / PAGE_BYTES;
        let mut pfn = segment.physical / PAGE_BYTES;
        while pfn < end {
            let run = classes.class(&memory, pfn);
            let next = pfn.saturating_add(run.pages).min(end);
            found.extend((pfn..next).map(|pfn| (pfn, run.class)));
            pfn = next;
        }
    }
    Ok(found)
}

/// A machine's memory as seen by its kernel, through its page tables.
struct Memory<'c> {
    core: File,
    crashed: &'c Crashed,
    /// Physical address of the top-level page table.
    tables: u64,
    /// Number of page table levels.
    levels: u32,
    /// The last page looked up, and its physical address.
    last: Cell<Option<(u64, u64)>>,
}

impl<'c> Memory<'c> {
    fn new(crashed: &'c Crashed) -> Result<Memory<'c>> {
        let info = Vmcoreinfo(&crashed.vmcoreinfo);
        let tables = info.symbol("swapper_pg_dir").zip(info.number("phys_base"));
        let (tables, base) = tables.context("VMCOREINFO does not say where page tables are")?;
        let core =
            File::open(&crashed.core).with_context(|| format!("cannot open {}", crashed.core.display()))?;
        let tables = tables.wrapping_sub(IMAGE).wrapping_add_signed(base);
        let levels = if info.number("pgtable_l5_enabled") == Some(1) { 5 } else { 4 };
        Ok(Memory { core, crashed, tables, levels, last: Cell::new(None) })
    }

    fn physical(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let segment = self.crashed.ram.iter().find(|segment| segment.range().contains(&address))?;
        self.core.read_exact_at(into, segment.offset + (address - segment.physical)).ok()
    }

    /// The physical address of a page (Intel SDM vol. 3, 4.5: four or five levels of tables).
    fn translate(&self, page: u64) -> Option<u64> {
        if let Some((known, place)) = self.last.get()
            && known == page
        {
            return Some(place);
        }
        let mut entry = self.tables;
        for shift in (0..self.levels).rev().map(|level| 12 + 9 * level) {
            let mut bytes = [0; 8];
            self.physical((entry & FRAME) + (page >> shift & 511) * 8, &mut bytes)?;
            entry = u64::from_le_bytes(bytes);
            (entry & MAPPED != 0).then_some(())?;
            if entry & LARGE != 0 && shift < 39 && shift > 12 {
                let below = (1 << shift) - 1;
                return Some(entry & FRAME & !below | page & below);
            }
        }
        self.last.set(Some((page, entry & FRAME)));
        Some(entry & FRAME)
    }
}

impl KernelMemory for Memory<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let mut at = address;
        let mut rest = into;
        while !rest.is_empty() {
            let here = ((PAGE_BYTES - at % PAGE_BYTES) as usize).min(rest.len());
            let (part, behind) = rest.split_at_mut(here);
            let place = self.translate(at & !(PAGE_BYTES - 1));
            if place.and_then(|place| self.physical(place + at % PAGE_BYTES, part)).is_none() {
                return false;
            }
            at += here as u64;
            rest = behind;
        }
        true
    }
}

/// The difference between our selection of pages and makedumpfile's.
#[derive(Clone, Default, Debug)]
pub struct Difference {
    /// Number of pages that makedumpfile keeps.
    pub kept: u64,
    /// Pages that only one of them keeps: the number, whether it is makedumpfile, and the page's class.
    pub pages: Vec<(u64, bool, PageClass)>,
}

/// Compares two kdump files, ours and makedumpfile's, page by page.
///
/// # Errors
/// If one of them cannot be read.
pub fn compare(classes: &BTreeMap<u64, PageClass>, ours: &Path, theirs: &Path) -> Result<Difference> {
    let (ours, theirs) = (Bitmap::read(ours)?, Bitmap::read(theirs)?);
    let mut difference = Difference::default();
    for (&pfn, &class) in classes {
        difference.kept += u64::from(theirs.has(pfn));
        if ours.has(pfn) != theirs.has(pfn) {
            difference.pages.push((pfn, theirs.has(pfn), class));
        }
    }
    Ok(difference)
}
