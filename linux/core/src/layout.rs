//! The layout of the kernel structures that describe pages, taken from VMCOREINFO while the kernel is
//! healthy.

use core::fmt;

use dumpcore::Level;

use crate::vmcoreinfo::Vmcoreinfo;

/// `log2` of a page's bytes.
const PAGE_SHIFT: u64 = 12;

/// Bytes of `struct page`s read at once.
pub(crate) const WINDOW_BYTES: usize = 4096;

/// Plausible sizes of a `struct page`: flags, five words, two counts (Linux, include/linux/mm_types.h).
const PAGE_STRUCT: core::ops::RangeInclusive<u64> = 56..=256;

/// A key that VMCOREINFO lacks, or whose value is impossible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing(pub &'static str);

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the kernel's VMCOREINFO has no usable {}", self.0)
    }
}

impl core::error::Error for Missing {}

/// Everything that [`Classes`](crate::classes::Classes) needs to know about a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub(crate) sections: Sections,
    pub(crate) page: PageLayout,
    /// How to recognise page cache, if possible.
    pub(crate) cache: Option<CacheMarks>,
    /// How to recognise user memory, if possible.
    pub(crate) user: Option<UserMarks>,
    /// How to recognise free blocks, if possible.
    pub(crate) buddy: Option<BuddyMarks>,
    /// Offset of the reference count, which is 0 if the page is unused.
    pub(crate) references: Option<u64>,
    pub(crate) slab: SlabMarks,
    pub(crate) compound: Compound,
    /// Mask of the flag for pages with broken memory.
    pub(crate) poison: Option<u64>,
    /// The page type of memory that a hypervisor may have taken away.
    pub(crate) offline: Option<u32>,
    /// The page type of page tables.
    pub(crate) page_table: Option<u32>,
    /// The missing key for each bit of [`Level`].
    lacks: [Option<&'static str>; BITS.len()],
}

/// The bits of a level that depend on page classes.
const BITS: [Level; 5] = [Level::CACHE, Level::CACHE_PRIVATE, Level::USER, Level::FREE, Level::KERNEL_ONLY];

/// What is missing on a kernel whose compound pages have an unknown layout.
pub const COMPOUNDS: &str = "OFFSET(page.compound_head) as it is known here";

/// Where `struct page`s are (Linux, include/linux/mmzone.h, CONFIG_SPARSEMEM).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sections {
    /// Address of the array of roots, each a pointer to an array of sections; or of the array of sections, if
    /// there are no roots.
    pub(crate) address: u64,
    /// Sections per root; `None` if there are no roots.
    pub(crate) per_root: Option<u64>,
    /// Maximum number of sections.
    pub(crate) count: u64,
    /// Size of a section's structure in bytes.
    pub(crate) size: u64,
    /// Offset in a section of the encoded address of its `struct page`s.
    pub(crate) map: u64,
    /// `log2` of the pages in a section.
    pub(crate) shift: u32,
}

/// The layout of every `struct page`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLayout {
    pub(crate) size: u64,
    /// `log2` of the number that fits into a window.
    pub(crate) window_shift: u32,
    pub(crate) flags: u64,
    /// Offset of the link to the first page, plus 1, in later pages of a compound page.
    pub(crate) compound_head: u64,
    /// Whether that may be a mask for the page's own address instead of the first one's address (Linux 7.1
    /// and later).
    pub(crate) head_by_mask: bool,
    /// Offset of the page type, or of the mapping count.
    pub(crate) kind: Option<u64>,
    /// Mask of the flag for the first page of a compound page.
    pub(crate) head_mask: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheMarks {
    pub(crate) mapping: u64,
    /// Masks of flags. Old kernels have no [`swap_backed`](CacheMarks::swap_backed).
    pub(crate) lru: u64,
    pub(crate) private: u64,
    pub(crate) swap_cache: u64,
    pub(crate) swap_backed: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct UserMarks {
    pub(crate) mapping: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct BuddyMarks {
    /// The page type.
    pub(crate) kind: u32,
    /// Offset of a block's order in its first page.
    pub(crate) order: u64,
    /// All orders are below this.
    pub(crate) orders: u32,
}

/// How to recognise pages of the kernel's heap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlabMarks {
    /// Mask of the flag; 0 on kernels with a page type.
    pub(crate) flag: u64,
    pub(crate) kind: Option<u32>,
}

/// Where a compound page has its order, and how hugetlbfs is recognised.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compound {
    /// The kernel does not say. Its pages still link to their compound page.
    Untold,
    /// In bytes of the second `struct page` (up to Linux 6.5).
    Bytes {
        order: u64,
        /// Offset of the destructor byte, and its value for hugetlbfs.
        destructor: Option<(u64, u64)>,
    },
    /// The order in the second `struct page`'s flags, hugetlbfs as a flag with this mask (Linux 6.6 to 6.8).
    Flags(u64),
    /// The order in the same place, hugetlbfs as a page type (Linux 6.9 and later).
    Typed(u32),
}

impl Layout {
    /// Extracts the layout from VMCOREINFO.
    ///
    /// # Errors
    /// If `struct page`s cannot be found: then no page has a class. For other missing keys, see
    /// [`lacks`](Layout::lacks).
    pub fn parse(info: &Vmcoreinfo<'_>) -> Result<Layout, Missing> {
        let keys = Keys(info);
        let page = keys.page()?;
        let sections = keys.sections(&page)?;
        let kind = keys.member("OFFSET(page._mapcount)", 4, &page);
        let slab = SlabMarks {
            flag: keys.flag("NUMBER(PG_slab)").unwrap_or(0),
            kind: keys.kind("NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)").ok(),
        };
        // Slab pages use the other fields for their own data.
        let slab_known = match (slab.kind, kind) {
            (Some(_), Err(missing)) => Err(missing),
            (None, _) if slab.flag == 0 => Err(Missing("NUMBER(PG_slab)")),
            _ => Ok(()),
        };
        let page = PageLayout { kind: kind.ok(), ..page };
        let cache = keys.cache(&page);
        let user = slab_known.and_then(|()| keys.member("OFFSET(page.mapping)", 8, &page));
        let user = user.map(|mapping| UserMarks { mapping });
        let buddy = slab_known.and(kind).and_then(|_| keys.buddy(&page, &sections));
        let references = keys.member("OFFSET(page._refcount)", 4, &page);
        let whatever =
            cache.map(|_| ()).and(user.map(|_| ())).and(buddy.map(|_| ())).and(references.map(|_| ()));
        let lack = |result: Result<(), Missing>| result.err().map(|Missing(key)| key);
        let lacks = [
            lack(cache.map(|_| ())),
            lack(cache.map(|_| ())),
            lack(user.map(|_| ())),
            lack(buddy.map(|_| ())),
            lack(whatever),
        ];
        let buddy = buddy.ok();
        let offline = keys.kind("NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)").ok();
        Ok(Layout {
            sections,
            page,
            cache: cache.ok(),
            user: user.ok(),
            buddy,
            references: references.ok(),
            slab,
            compound: keys.compound(&page),
            poison: keys.flag("NUMBER(PG_hwpoison)").ok(),
            offline,
            page_table: page_table(buddy.map(|buddy| buddy.kind), offline),
            lacks,
        })
    }

    /// The same for a kernel whose compound pages have an unknown layout.
    #[must_use]
    pub fn without_compounds(mut self) -> Layout {
        for (bit, lack) in BITS.iter().zip(&mut self.lacks) {
            // Free blocks are not compound pages.
            if *bit != Level::FREE {
                *lack = lack.or(Some(COMPOUNDS));
            }
        }
        self
    }

    /// The bits of a level that can be decided.
    pub fn able(&self) -> Level {
        let lacks = BITS.iter().zip(self.lacks).filter(|(_, lack)| lack.is_some());
        lacks.fold(Level::all(), |able, (bit, _)| able.difference(*bit))
    }

    /// The first bit of a level that cannot be decided, and the key that VMCOREINFO lacks for it.
    pub fn lacks(&self, level: Level) -> Option<(Level, &'static str)> {
        let mut bits = BITS.iter().zip(self.lacks).filter(|(bit, _)| level.contains(**bit));
        bits.find_map(|(bit, lack)| lack.map(|key| (*bit, key)))
    }
}

/// The page type of page tables. No kernel exports it, but it has always been the one after these two (Linux,
/// include/linux/page-flags.h).
fn page_table(buddy: Option<u32>, offline: Option<u32>) -> Option<u32> {
    match (buddy?, offline?) {
        // From 5.11 on, one bit is clear for each type.
        (0xffff_ff7f, 0xffff_feff) => Some(0xffff_fdff),
        // In 6.11 the same, from the upper end.
        (0xbfff_ffff, 0xdfff_ffff) => Some(0xefff_ffff),
        // From 6.12 on, a number in the upper byte.
        (0xf000_0000, 0xf100_0000) => Some(0xf200_0000),
        _ => None,
    }
}

/// Looks up values and refuses impossible ones.
struct Keys<'k, 'a>(&'k Vmcoreinfo<'a>);

impl Keys<'_, '_> {
    fn number(&self, key: &'static str, plausible: impl Fn(u64) -> bool) -> Result<u64, Missing> {
        self.0.by_key(key).filter(|value| plausible(*value)).ok_or(Missing(key))
    }

    /// The mask of a flag whose bit number this key has. Real flags are in the lower half.
    fn flag(&self, key: &'static str) -> Result<u64, Missing> {
        let bit = self.number(key, |bit| bit < 32)?;
        1_u64.checked_shl(bit as u32).ok_or(Missing(key))
    }

    /// A page type.
    fn kind(&self, key: &'static str) -> Result<u32, Missing> {
        // Printed as a signed or an unsigned number of 32 bits.
        let signed = |value: u64| i32::try_from(value.cast_signed()).is_ok();
        let value = self.number(key, |value| signed(value) || u32::try_from(value).is_ok())?;
        Ok(value as u32)
    }

    /// Offset of a member of `struct page` that is `bytes` bytes long.
    fn member(&self, key: &'static str, bytes: u64, page: &PageLayout) -> Result<u64, Missing> {
        self.number(key, |offset| {
            offset.saturating_add(bytes) <= page.size && offset.is_multiple_of(bytes.max(1))
        })
    }

    fn page(&self) -> Result<PageLayout, Missing> {
        self.number("PAGESIZE", |bytes| bytes == 1 << PAGE_SHIFT)?;
        let size = self.number("SIZE(page)", |size| PAGE_STRUCT.contains(&size) && size.is_multiple_of(8))?;
        let fit = (WINDOW_BYTES as u64).checked_div(size).and_then(u64::checked_ilog2);
        let window_shift = fit.ok_or(Missing("SIZE(page)"))?;
        let page = PageLayout {
            size,
            window_shift,
            flags: 0,
            compound_head: 0,
            head_by_mask: false,
            kind: None,
            head_mask: 0,
        };
        let compound_head = self.member("OFFSET(page.compound_head)", 8, &page);
        let compound_info = self.member("OFFSET(page.compound_info)", 8, &page);
        Ok(PageLayout {
            flags: self.member("OFFSET(page.flags)", 8, &page)?,
            // The name in Linux 7.1. Depending on the configuration this is an address or a mask; VMCOREINFO
            // does not say which.
            head_by_mask: compound_head.is_err() && size.is_power_of_two(),
            compound_head: compound_head.or_else(|missing| compound_info.map_err(|_| missing))?,
            head_mask: self.number("NUMBER(PG_head_mask)", |mask| mask != 0)?,
            ..page
        })
    }

    fn sections(&self, page: &PageLayout) -> Result<Sections, Missing> {
        let address = self.number("SYMBOL(mem_section)", |address| address >> 63 == 1)?;
        let size = self.number("SIZE(mem_section)", |size| (8..=1 << PAGE_SHIFT).contains(&size))?;
        let map = self.number("OFFSET(mem_section.section_mem_map)", |offset| {
            offset.saturating_add(8) <= size && offset.is_multiple_of(8)
        })?;
        let bits = self.number("NUMBER(MAX_PHYSMEM_BITS)", |bits| (32..=64).contains(&bits))?;
        // A window, or any block of free pages, is within one section.
        let least = PAGE_SHIFT.saturating_add(u64::from(page.window_shift));
        let section = self.number("NUMBER(SECTION_SIZE_BITS)", |section| (least..bits).contains(&section))?;
        let sections = 1_u64.checked_shl(bits.saturating_sub(section) as u32);
        let count = sections.ok_or(Missing("NUMBER(SECTION_SIZE_BITS)"))?;
        // With roots, each root fills a page.
        let per_root = (1_u64 << PAGE_SHIFT).checked_div(size).unwrap_or(1).max(1);
        let length = self
            .number("LENGTH(mem_section)", |length| length == count.div_ceil(per_root) || length == count)?;
        Ok(Sections {
            address,
            per_root: (length == count.div_ceil(per_root)).then_some(per_root),
            count,
            size,
            map,
            shift: section.saturating_sub(PAGE_SHIFT) as u32,
        })
    }

    fn cache(&self, page: &PageLayout) -> Result<CacheMarks, Missing> {
        Ok(CacheMarks {
            mapping: self.member("OFFSET(page.mapping)", 8, page)?,
            lru: self.flag("NUMBER(PG_lru)")?,
            private: self.flag("NUMBER(PG_private)")?,
            swap_cache: self.flag("NUMBER(PG_swapcache)")?,
            swap_backed: self.flag("NUMBER(PG_swapbacked)").unwrap_or(0),
        })
    }

    fn buddy(&self, page: &PageLayout, sections: &Sections) -> Result<BuddyMarks, Missing> {
        let kind = self.kind("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")?;
        let order = self.member("OFFSET(page.private)", 8, page)?;
        let most = u64::from(sections.shift).saturating_add(1);
        let orders = self.number("LENGTH(zone.free_area)", |orders| (1..=most).contains(&orders))?;
        Ok(BuddyMarks { kind, order, orders: orders as u32 })
    }

    fn compound(&self, page: &PageLayout) -> Compound {
        if let (Ok(kind), Some(_)) = (self.kind("NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)"), page.kind) {
            return Compound::Typed(kind);
        }
        if let Ok(mask) = self.flag("NUMBER(PG_hugetlb)") {
            return Compound::Flags(mask);
        }
        // A folio spans several `struct page`s; these members are in the second one.
        let in_second = |folio: &'static str, second: &'static str| {
            let inside = |offset: &u64| *offset < page.size;
            let of_folio =
                self.0.by_key(folio).and_then(|offset| offset.checked_sub(page.size)).filter(inside);
            of_folio.or_else(|| self.member(second, 1, page).ok())
        };
        let Some(order) = in_second("OFFSET(folio._folio_order)", "OFFSET(page.compound_order)") else {
            return Compound::Untold;
        };
        let place = in_second("OFFSET(folio._folio_dtor)", "OFFSET(page.compound_dtor)");
        let number = self.number("NUMBER(HUGETLB_PAGE_DTOR)", |number| number <= 0xff).ok();
        Compound::Bytes { order, destructor: place.zip(number) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::tests::{KERNELS, Kernel};

    fn parse(text: &str) -> Result<Layout, Missing> {
        Layout::parse(&Vmcoreinfo(text.as_bytes()))
    }

    /// The kernel's text, without this key.
    fn without(kernel: Kernel, key: &str) -> String {
        let text = kernel.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(&format!("{key}="))).collect();
        assert_eq!(lines.len() + 1, text.lines().count(), "{key}");
        lines.join("\n")
    }

    #[test]
    fn a_kernel_that_tells_all_is_able_to_do_all() {
        for kernel in KERNELS {
            let layout = kernel.layout();
            assert_eq!(layout.able(), Level::all(), "{kernel:?}");
            assert_eq!(layout.lacks(Level::all()), None);
            assert!(layout.page_table.is_some() && layout.poison.is_some(), "{kernel:?}");
        }
    }

    #[test]
    fn without_struct_pages_nothing_can_be_told() {
        for key in [
            "PAGESIZE",
            "SYMBOL(mem_section)",
            "LENGTH(mem_section)",
            "SIZE(mem_section)",
            "OFFSET(mem_section.section_mem_map)",
            "NUMBER(SECTION_SIZE_BITS)",
            "NUMBER(MAX_PHYSMEM_BITS)",
            "SIZE(page)",
            "OFFSET(page.flags)",
            "OFFSET(page.compound_head)",
            "NUMBER(PG_head_mask)",
        ] {
            assert_eq!(parse(&without(Kernel::V6_1, key)).unwrap_err().0, key);
        }
        let error = parse("").unwrap_err().to_string();
        assert_eq!(error, "the kernel's VMCOREINFO has no usable PAGESIZE");
    }

    #[test]
    fn a_key_that_lacks_takes_only_the_bits_that_need_it() {
        let cache = Level::CACHE | Level::CACHE_PRIVATE;
        for (key, lost) in [
            ("NUMBER(PG_lru)", cache),
            ("NUMBER(PG_private)", cache),
            ("NUMBER(PG_swapcache)", cache),
            ("NUMBER(PG_swapbacked)", Level::empty()),
            ("OFFSET(page.mapping)", cache | Level::USER),
            ("NUMBER(PG_slab)", Level::USER | Level::FREE),
            ("OFFSET(page._mapcount)", Level::FREE),
            ("OFFSET(page.private)", Level::FREE),
            ("LENGTH(zone.free_area)", Level::FREE),
            ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", Level::FREE),
            ("OFFSET(page._refcount)", Level::empty()),
            ("NUMBER(HUGETLB_PAGE_DTOR)", Level::empty()),
            ("NUMBER(PG_hwpoison)", Level::empty()),
        ] {
            let layout = parse(&without(Kernel::V6_1, key)).unwrap();
            let whole = !lost.is_empty() || key == "OFFSET(page._refcount)";
            let lost = if whole { lost | Level::KERNEL_ONLY } else { lost };
            assert_eq!(layout.able(), Level::all().difference(lost), "{key}");
            let first = BITS.into_iter().find(|bit| lost.contains(*bit));
            assert_eq!(layout.lacks(Level::all()), first.map(|bit| (bit, key)));
            assert_eq!(layout.lacks(layout.able()), None);
        }
        let layout = parse(&without(Kernel::V6_12, "OFFSET(page._mapcount)")).unwrap();
        assert_eq!(layout.able(), Level::ZERO | cache);
    }

    #[test]
    fn a_value_that_cannot_be_counts_as_none() {
        for (key, value) in [
            ("OFFSET(page.flags)", "60"),
            ("OFFSET(page.flags)", "-8"),
            ("SIZE(page)", "0"),
            ("SIZE(page)", "100000"),
            ("SYMBOL(mem_section)", "1000"),
            ("LENGTH(mem_section)", "3"),
            ("NUMBER(SECTION_SIZE_BITS)", "12"),
            ("NUMBER(SECTION_SIZE_BITS)", "46"),
            ("NUMBER(MAX_PHYSMEM_BITS)", "-1"),
        ] {
            let text = format!("{key}={value}\n{}", Kernel::V6_1.text());
            assert_eq!(parse(&text).unwrap_err().0, key, "{value}");
        }
        for (key, value) in [("NUMBER(PG_lru)", "64"), ("OFFSET(page.mapping)", "58")] {
            let text = format!("{key}={value}\n{}", Kernel::V6_1.text());
            assert_eq!(parse(&text).unwrap().lacks(Level::CACHE), Some((Level::CACHE, key)));
        }
    }

    #[test]
    fn the_way_to_a_compound_pages_head_is_an_address_until_linux_7_1_and_then_one_or_a_mask() {
        let old = parse(&Kernel::V6_12.text()).unwrap();
        assert!(!old.page.head_by_mask);
        let new = parse(&Kernel::V7_1.text()).unwrap();
        assert!(new.page.head_by_mask);
        assert_eq!((new.page.compound_head, new.able()), (old.page.compound_head, Level::all()));
        // The kernel uses masks only if the size of `struct page` is a power of two.
        let odd = Kernel::V7_1.text().replace("SIZE(page)=64", "SIZE(page)=72");
        assert!(!parse(&odd).unwrap().page.head_by_mask);
    }
}
