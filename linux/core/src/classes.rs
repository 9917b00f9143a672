//! The classes of a crashed Linux's pages, from their `struct page`s, by the same rules as makedumpfile(8),
//! option -d.
//!
//! No list is walked, because a list may be broken. A block of free pages is recognised by its first page's
//! type and order (Linux, include/linux/page-flags.h, mm/page_alloc.c), a part of a compound page by its
//! pointer to the first page (include/linux/mm.h). The answer for a page depends only on memory, so it is the
//! same every time. One query reads at most a window of `struct page`s, one for each order of free blocks,
//! and two for each page of the window.

use dumpcore::memory::class::{ClassRun, Level, PageClass};

use crate::layout::{Compound, Layout, PageLayout, WINDOW_BYTES};

/// Maximum number of `struct page`s in a window.
const WINDOW_PAGES: usize = 64;

/// Maximum size of two `struct page`s in bytes.
const TWO_PAGES: usize = 512;

/// Flags in the low bits of a section's `struct page` address (Linux, include/linux/mmzone.h): present, and
/// all flags.
const PRESENT: u64 = 1;
const SECTION_FLAGS: u64 = (1 << 5) - 1;

/// The mask that leads to the head of a compound page is at least this: 2^40 bytes of `struct page`s.
const LEAST_MASK: u64 = 0xffff_ff00_0000_0000;

/// Bit in `mapping` that marks memory of user processes (Linux, include/linux/page-flags.h).
const ANONYMOUS: u64 = 1;

/// The kernel's memory.
pub trait KernelMemory {
    /// Reads at a virtual address of the kernel. Returns false, without faulting, if part of it is not
    /// mapped; `into` may have been partly written then.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;
}

/// Classifies pages. Only the dumping CPU uses it. Its size is some 4.5 KiB.
#[derive(Clone, Debug)]
pub struct Classes {
    layout: Layout,
    /// The memory that is left out of the dump.
    level: Level,
    section: Option<Section>,
    window: Window,
    /// The last compound page of which a later part was seen, by the address and number of its first `struct
    /// page`.
    compound: Option<((u64, u64), Option<Whole>)>,
    parts: Parts,
}

/// Counts of visited pages that claim to be parts of a compound page.
#[derive(Clone, Copy, Default, Debug)]
struct Parts {
    /// Those whose first page was found.
    found: u64,
    /// Those whose first page was not found.
    lost: u64,
}

/// Up to this many lost parts may belong to compound pages that came or went while a running kernel was read.
const LOST: u64 = 64;

/// If more than one part in this many is lost, pages that came or went cannot be the reason.
const LOST_OF: u64 = 8;

/// The `struct page`s of a section.
#[derive(Clone, Copy, Debug)]
struct Section {
    number: u64,
    /// Where the `struct page` of page 0 would be; `None` if the section has none.
    base: Option<u64>,
}

/// An aligned window of `struct page`s, with the classes of their pages.
#[derive(Clone, Debug)]
struct Window {
    bytes: [u8; WINDOW_BYTES],
    /// The address they were read from.
    address: u64,
    /// The first page's number, if the window is filled.
    first: Option<u64>,
    classes: [PageClass; WINDOW_PAGES],
    /// First page after those known to have the same class as the last one.
    end: u64,
}

/// A block of free pages or a compound page.
#[derive(Clone, Copy, Debug)]
struct Whole {
    class: PageClass,
    /// First page after it; the next page if the kernel does not say.
    end: u64,
    /// Whether the kernel provides `end`.
    told: bool,
}

/// One `struct page`.
#[derive(Clone, Copy)]
struct Page<'b> {
    bytes: &'b [u8],
    /// The address of the `struct page`.
    address: u64,
    layout: &'b Layout,
}

impl Classes {
    /// A classifier that has read nothing yet.
    pub const fn new(layout: Layout) -> Classes {
        Classes {
            layout,
            level: Level::empty(),
            section: None,
            window: Window {
                bytes: [0; WINDOW_BYTES],
                address: 0,
                first: None,
                classes: [PageClass::Unknown; WINDOW_PAGES],
                end: 0,
            },
            compound: None,
            parts: Parts { found: 0, lost: 0 },
        }
    }

    /// The same for a dump that leaves this out. Blocks that will not be read are not searched for pages with
    /// broken memory, which makes answers longer.
    #[must_use]
    pub fn for_level(mut self, level: Level) -> Classes {
        self.level = level.intersection(self.layout.able());
        self.window.first = None;
        self
    }

    /// Whether compound pages have the layout that we know, judging by all queries so far. With an unknown
    /// layout, as in a future kernel, compound pages would be dumped in parts, whatever the level.
    pub fn knows_compounds(&self) -> bool {
        let Parts { found, lost } = self.parts;
        lost < LOST || lost <= found / LOST_OF
    }

    /// Forgets everything that was read, because the kernel has run since.
    pub fn forget(&mut self) {
        (self.section, self.window.first, self.compound) = (None, None, None);
    }

    /// The class of a page, and how many pages from it on are known to have the same class without reading
    /// more.
    pub fn class(&mut self, memory: &dyn KernelMemory, pfn: u64) -> ClassRun {
        let Some(base) = self.base(memory, pfn) else {
            let section = 1_u64.checked_shl(self.layout.sections.shift).unwrap_or(1);
            let pages = section.saturating_sub(pfn & section.wrapping_sub(1));
            return ClassRun { class: PageClass::Unknown, pages };
        };
        let count = self.layout.page.window();
        let first = pfn & !(count as u64).wrapping_sub(1);
        if self.window.first != Some(first) {
            self.load(memory, base, first);
        }
        let window = &self.window;
        let index = pfn.wrapping_sub(first) as usize;
        let mut rest = window.classes.get(index..count).unwrap_or_default().iter();
        let class = rest.next().copied().unwrap_or(PageClass::Unknown);
        let same = rest.clone().take_while(|other| **other == class).count();
        let end =
            if same == rest.len() { window.end } else { pfn.saturating_add(same as u64).saturating_add(1) };
        ClassRun { class, pages: end.saturating_sub(pfn).max(1) }
    }

    /// Where the `struct page` of page 0 would be if all sections were laid out like this page's.
    fn base(&mut self, memory: &dyn KernelMemory, pfn: u64) -> Option<u64> {
        let number = pfn.checked_shr(self.layout.sections.shift).unwrap_or(0);
        match self.section {
            Some(section) if section.number == number => section.base,
            _ => {
                let base = self.section_base(memory, number);
                self.section = Some(Section { number, base });
                base
            }
        }
    }

    fn section_base(&self, memory: &dyn KernelMemory, number: u64) -> Option<u64> {
        let sections = &self.layout.sections;
        if number >= sections.count {
            return None;
        }
        let (array, index) = match sections.per_root {
            None => (sections.address, number),
            Some(per_root) => {
                let root = number.checked_div(per_root)?;
                let pointer = word_at(memory, sections.address.wrapping_add(root.wrapping_mul(8)))?;
                (pointer, number.checked_rem(per_root)?)
            }
        };
        // Kernel addresses are in the upper half.
        if array >> 63 == 0 {
            return None;
        }
        let section = array.wrapping_add(index.wrapping_mul(sections.size));
        let map = word_at(memory, section.wrapping_add(sections.map))?;
        let base = map & !SECTION_FLAGS;
        (map & PRESENT != 0 && base >> 63 == 1).then_some(base)
    }

    /// Loads the window that begins at this page.
    fn load(&mut self, memory: &dyn KernelMemory, base: u64, first: u64) {
        let count = self.layout.page.window();
        let behind = first.saturating_add(count as u64);
        self.window.first = Some(first);
        self.window.classes = [PageClass::Unknown; WINDOW_PAGES];
        self.window.end = behind;
        let mut block = self.block_around(memory, base, first);
        if let Some(Whole { class, end, .. }) = block
            && !self.searched(class)
        {
            self.window.classes = [class; WINDOW_PAGES];
            self.window.end = end;
            return;
        }
        let address = self.layout.page.address(base, first);
        self.window.address = address;
        let length = count.saturating_mul(self.layout.page.size as usize);
        let pages = self.window.bytes.get_mut(..length);
        if !pages.is_some_and(|pages| memory.read(address, pages)) {
            return;
        }
        for index in 0..count {
            let pfn = first.saturating_add(index as u64);
            // Blocks are aligned, so the largest block that contains a page begins first.
            if block.is_none_or(|block| block.end <= pfn) {
                block = self.page(index).and_then(|page| page.block(pfn));
            }
            let (class, end) = match (block, self.page(index)) {
                (_, None) => continue,
                (_, Some(page)) if page.poisoned() => (PageClass::Device, behind),
                (Some(block), Some(_)) => (block.class, block.end),
                (None, Some(_)) => self.used(memory, base, pfn, index),
            };
            if let Some(slot) = self.window.classes.get_mut(index) {
                *slot = class;
            }
            self.window.end = if self.searched(class) { behind } else { end.max(behind) };
        }
    }

    /// Whether pages of a class are searched one by one for broken memory.
    fn searched(&self, class: PageClass) -> bool {
        self.layout.poison.is_some() && self.level.leaves_out(class).is_none()
    }

    /// The `struct page` with this index in the window.
    fn page(&self, index: usize) -> Option<Page<'_>> {
        let size = self.layout.page.size as usize;
        let from = index.checked_mul(size)?;
        let bytes = self.window.bytes.get(from..from.checked_add(size)?)?;
        Some(Page { bytes, address: self.window.address.wrapping_add(from as u64), layout: &self.layout })
    }

    /// The block of free pages that begins before this window and extends into it.
    fn block_around(&self, memory: &dyn KernelMemory, base: u64, first: u64) -> Option<Whole> {
        let orders = self.layout.buddy?.orders;
        let mut bytes = [0; TWO_PAGES];
        let bytes = bytes.get_mut(..self.layout.page.size as usize)?;
        let mut last = first;
        // From the smallest order up; the largest block wins.
        let mut found = None;
        for order in self.layout.page.window_shift.saturating_add(1)..orders {
            let head = first & !1_u64.checked_shl(order)?.wrapping_sub(1);
            if head == last {
                continue;
            }
            last = head;
            let address = self.layout.page.address(base, head);
            if !memory.read(address, bytes) {
                continue;
            }
            let block = Page { bytes, address, layout: &self.layout }.block(head);
            found = block.filter(|block| block.end > first).or(found);
        }
        found
    }

    /// The class of a page outside any free block, and the first page after those known to have the same
    /// class.
    fn used(&mut self, memory: &dyn KernelMemory, base: u64, pfn: u64, index: usize) -> (PageClass, u64) {
        let next = pfn.saturating_add(1);
        let Some(page) = self.page(index) else { return (PageClass::Unknown, next) };
        if page.word(self.layout.page.flags) == u64::MAX {
            // This is the value before the kernel uses the `struct page`.
            return (PageClass::Unknown, next);
        }
        let own = self.layout.page.address(base, pfn);
        let second = index.checked_add(1).and_then(|index| self.page(index));
        let head = page
            .head()
            .or_else(|| page.is_head().then(|| second?.head()).flatten().filter(|head| *head != own));
        let Some(head) = head else {
            let whole = page.whole(second, pfn);
            return (whole.class, whole.end);
        };
        // Part of a compound page. A vmemmap optimised for hugetlbfs shows copies of the first page among the
        // others; the second page's pointer reveals these (Linux, Documentation/mm/vmemmap_dedup.rst).
        let (class, end, is_found) = match self.compound(memory, base, pfn, head) {
            Some(whole) if whole.end > pfn => (whole.class, whole.end, true),
            Some(whole) if !whole.told => (whole.class, next, true),
            _ => (PageClass::KernelData, next, false),
        };
        let count = if is_found { &mut self.parts.found } else { &mut self.parts.lost };
        *count = count.saturating_add(end.saturating_sub(pfn));
        (class, end)
    }

    /// The compound page whose first `struct page` is at `address`.
    fn compound(&mut self, memory: &dyn KernelMemory, base: u64, pfn: u64, address: u64) -> Option<Whole> {
        let size = self.layout.page.size;
        // A compound page larger than a section has all its `struct page`s in one array.
        let head = address.wrapping_sub(base).checked_div(size)?;
        if self.layout.page.address(base, head) != address || head >= pfn {
            return None;
        }
        if let Some((known, whole)) = self.compound
            && known == (address, head)
        {
            return whole;
        }
        let mut bytes = [0; TWO_PAGES];
        let bytes = bytes.get_mut(..(size as usize).checked_mul(2)?)?;
        let whole = memory.read(address, bytes).then(|| bytes.split_at_checked(size as usize)).flatten();
        let whole = whole.and_then(|(first, second)| {
            let layout = &self.layout;
            let first = Page { bytes: first, address, layout };
            let second = Page { bytes: second, address: address.wrapping_add(size), layout };
            (first.is_head() && first.head().is_none()).then(|| first.whole(Some(second), head))
        });
        self.compound = Some(((address, head), whole));
        whole
    }
}

impl PageLayout {
    /// Number of `struct page`s in a window.
    fn window(&self) -> usize {
        1_usize.checked_shl(self.window_shift).unwrap_or(1).min(WINDOW_PAGES)
    }

    fn address(&self, base: u64, pfn: u64) -> u64 {
        base.wrapping_add(pfn.wrapping_mul(self.size))
    }
}

impl<'b> Page<'b> {
    fn word(&self, offset: u64) -> u64 {
        bytes_at(self.bytes, offset).map_or(0, u64::from_le_bytes)
    }

    fn half(&self, offset: u64) -> u32 {
        bytes_at(self.bytes, offset).map_or(0, u32::from_le_bytes)
    }

    fn has(&self, mask: u64) -> bool {
        self.word(self.layout.page.flags) & mask != 0
    }

    /// Whether this is its page type. A mapping count never has the value of a type.
    fn is_kind(&self, kind: Option<u32>) -> bool {
        match (self.layout.page.kind, kind) {
            (Some(offset), Some(kind)) => self.half(offset) == kind,
            _ => false,
        }
    }

    fn is_slab(&self) -> bool {
        self.has(self.layout.slab.flag) || self.is_kind(self.layout.slab.kind)
    }

    fn is_head(&self) -> bool {
        self.has(self.layout.page.head_mask)
    }

    /// Whether its memory must not be read.
    fn poisoned(&self) -> bool {
        self.layout.poison.is_some_and(|mask| self.has(mask)) && self.word(self.layout.page.flags) != u64::MAX
    }

    /// The address of its compound page's first `struct page`, if it is a later part.
    fn head(&self) -> Option<u64> {
        let word = self.word(self.layout.page.compound_head);
        (word & 1 == 1).then(|| word.wrapping_sub(1)).map(|way| {
            // A `struct page` never has such a high address (Linux, Documentation/arch/x86/x86_64/mm.rst).
            let is_mask = self.layout.page.head_by_mask
                && way >= LEAST_MASK
                && (!way).wrapping_add(1).is_power_of_two();
            if is_mask { self.address & way } else { way }
        })
    }

    /// The block of free pages that begins here.
    fn block(&self, pfn: u64) -> Option<Whole> {
        let buddy = self.layout.buddy?;
        if self.head().is_some() || self.is_slab() || !self.is_kind(Some(buddy.kind)) {
            return None;
        }
        let order = self.word(buddy.order);
        (order < u64::from(buddy.orders)).then_some(())?;
        Some(Whole { class: PageClass::Free, end: aligned_end(pfn, order)?, told: true })
    }

    /// The class of this page and of those that follow it in its compound page.
    fn whole(&self, second: Option<Page<'_>>, pfn: u64) -> Whole {
        let next = pfn.saturating_add(1);
        let Some(second) = second.filter(|_| self.is_head()) else {
            return Whole { class: self.class(false), end: next, told: true };
        };
        let flags = second.word(self.layout.page.flags);
        let byte = |offset: u64| u64::from(bytes_at(second.bytes, offset).map_or(0, u8::from_le_bytes));
        let (order, huge) = match self.layout.compound {
            Compound::Untold => (None, false),
            Compound::Bytes { order, destructor } => {
                (Some(byte(order)), destructor.is_some_and(|(place, number)| byte(place) == number))
            }
            Compound::Flags(mask) => (Some(flags & 0xff), flags & mask != 0),
            Compound::Typed(kind) => (Some(flags & 0xff), self.is_kind(Some(kind))),
        };
        let end = order.map(|order| aligned_end(pfn, order).unwrap_or(next));
        Whole { class: self.class(huge), end: end.unwrap_or(next), told: end.is_some() }
    }

    /// The class of a page that is not free. `huge`: it is known to belong to hugetlbfs.
    fn class(&self, huge: bool) -> PageClass {
        let slab = self.is_slab();
        let anonymous = |mapping: u64| self.word(mapping) & ANONYMOUS != 0 && !slab;
        if self.poisoned() {
            return PageClass::Device;
        }
        if let Some(cache) = &self.layout.cache
            && !anonymous(cache.mapping)
        {
            // In pages that cannot be swapped, the swap-cache flag means something else.
            let swappable = cache.swap_backed == 0 || self.has(cache.swap_backed);
            if self.has(cache.lru) || swappable && self.has(cache.swap_cache) {
                return if self.has(cache.private) { PageClass::CachePrivate } else { PageClass::Cache };
            }
        }
        if self.layout.user.is_some_and(|user| huge || anonymous(user.mapping)) {
            return PageClass::User;
        }
        if slab {
            return PageClass::Slab;
        }
        if self.is_kind(self.layout.offline) {
            return PageClass::Device;
        }
        if self.is_kind(self.layout.page_table) {
            return PageClass::PageTable;
        }
        // Free pages in a CPU's own list are unused too, but so are the later pages of an allocation: they
        // look the same.
        match self.layout.references {
            Some(offset) if self.half(offset) != 0 => PageClass::KernelData,
            _ => PageClass::Unknown,
        }
    }
}

/// First page after a block of this order at `pfn`; `None` if no such block can begin there.
fn aligned_end(pfn: u64, order: u64) -> Option<u64> {
    let pages = 1_u64.checked_shl(u32::try_from(order).ok()?)?;
    (pfn & pages.wrapping_sub(1) == 0).then_some(())?;
    pfn.checked_add(pages)
}

fn word_at(memory: &dyn KernelMemory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes).then_some(u64::from_le_bytes(bytes))
}

fn bytes_at<const N: usize>(bytes: &[u8], offset: u64) -> Option<[u8; N]> {
    bytes.get(usize::try_from(offset).ok()?..)?.first_chunk().copied()
}

#[cfg(test)]
pub(crate) mod tests;
