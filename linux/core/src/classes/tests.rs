use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::vmcoreinfo::Vmcoreinfo;

/// Addresses of the structures in the test kernels.
const ROOTS: u64 = 0xffff_8880_0100_0000;
const SECTIONS: u64 = 0xffff_8880_0200_0000;
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
/// Number of pages in a section of 27 bits.
const SECTION: u64 = 1 << 15;

/// Kernels that provide the same information in different ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kernel {
    V6_1,
    V6_4,
    V6_6,
    V6_12,
    /// With masks that lead to the head of a compound page.
    V7_1,
    /// The same with pointers.
    V7_1Pointers,
}

pub(crate) const KERNELS: [Kernel; 6] =
    [Kernel::V6_1, Kernel::V6_4, Kernel::V6_6, Kernel::V6_12, Kernel::V7_1, Kernel::V7_1Pointers];

const LRU: u64 = 1 << 4;
const HEAD: u64 = 1 << 16;
const PRIVATE: u64 = 1 << 13;
const SWAP_CACHE: u64 = 1 << 10;
const SWAP_BACKED: u64 = 1 << 19;
const SLAB: u64 = 1 << 9;
const POISON: u64 = 1 << 22;

impl Kernel {
    pub(crate) fn text(self) -> String {
        let mut text = String::from(
            "OSRELEASE=6\nPAGESIZE=4096\nSYMBOL(mem_section)=ffff888001000000\nLENGTH(mem_section)=2048\n\
             SIZE(mem_section)=16\nOFFSET(mem_section.section_mem_map)=0\nNUMBER(SECTION_SIZE_BITS)=27\n\
             NUMBER(MAX_PHYSMEM_BITS)=46\nSIZE(page)=64\nOFFSET(page.flags)=0\nOFFSET(page._refcount)=52\n\
             OFFSET(page.mapping)=24\nOFFSET(page._mapcount)=48\nOFFSET(page.private)=40\n\
             OFFSET(page.compound_head)=8\nLENGTH(zone.free_area)=11\nNUMBER(PG_lru)=4\nNUMBER(PG_private)=13\n\
             NUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=19\nNUMBER(PG_head_mask)=65536\nNUMBER(PG_hwpoison)=22\n",
        );
        text += match self {
            Kernel::V6_1 => {
                "OFFSET(page.compound_dtor)=16\nOFFSET(page.compound_order)=17\nNUMBER(HUGETLB_PAGE_DTOR)=2\n"
            }
            Kernel::V6_4 => {
                "OFFSET(folio._folio_dtor)=80\nOFFSET(folio._folio_order)=81\nNUMBER(HUGETLB_PAGE_DTOR)=2\n"
            }
            Kernel::V6_6 => "NUMBER(PG_hugetlb)=8\n",
            Kernel::V6_12 | Kernel::V7_1 | Kernel::V7_1Pointers => {
                "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=4026531840\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=4043309056\n\
                 NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)=4093640704\nNUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=4110417920\n"
            }
        };
        if !self.has_types() {
            text += "NUMBER(PG_slab)=9\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257\n";
        }
        if matches!(self, Kernel::V7_1 | Kernel::V7_1Pointers) {
            text = text.replace("compound_head", "compound_info");
        }
        text
    }

    /// Whether all page types are numbers.
    fn has_types(self) -> bool {
        matches!(self, Kernel::V6_12 | Kernel::V7_1 | Kernel::V7_1Pointers)
    }

    pub(crate) fn layout(self) -> Layout {
        Layout::parse(&Vmcoreinfo(self.text().as_bytes())).unwrap()
    }

    fn kind(self, number: u32) -> u32 {
        if self.has_types() { (0xf0 + number) << 24 } else { !(0x80 << number) }
    }
}

/// The part of a kernel's memory that is read: two sections.
#[derive(Clone)]
struct Memory {
    pages: Vec<[u8; 64]>,
}

impl Memory {
    fn new(kernel: Kernel, parts: &[Part]) -> (Memory, Vec<PageClass>) {
        let mut memory = Memory { pages: vec![[0; 64]; 2 * SECTION as usize] };
        let mut classes = Vec::new();
        for part in parts {
            part.put(kernel, &mut memory, &mut classes);
        }
        (memory, classes)
    }

    fn at(&mut self, pfn: u64) -> &mut [u8; 64] {
        &mut self.pages[pfn as usize]
    }

    fn word(&mut self, pfn: u64, offset: usize, value: u64) {
        self.at(pfn)[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn half(&mut self, pfn: u64, offset: usize, value: u32) {
        self.at(pfn)[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// A page in use and not mapped.
    fn page(&mut self, pfn: u64, flags: u64, mapping: u64) {
        self.word(pfn, 0, flags);
        self.word(pfn, 24, mapping);
        self.half(pfn, 48, u32::MAX);
        self.half(pfn, 52, 1);
    }

    /// The word at an address, a multiple of 8.
    fn read_word(&self, address: u64) -> Option<u64> {
        if let Some(offset) = address.checked_sub(VMEMMAP) {
            let words = self.pages.get((offset / 64) as usize)?.as_chunks::<8>().0;
            return Some(u64::from_le_bytes(words[(offset % 64 / 8) as usize]));
        }
        if let Some(offset) = address.checked_sub(SECTIONS).filter(|offset| *offset < 4096) {
            // Present, has a map, online, early.
            return Some(if [0, 16].contains(&offset) { VMEMMAP | 0xf } else { 0 });
        }
        let offset = address.checked_sub(ROOTS).filter(|offset| *offset < 2048 * 8)?;
        Some(if offset == 0 { SECTIONS } else { 0 })
    }
}

impl KernelMemory for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        assert!(address.is_multiple_of(8) && into.len().is_multiple_of(8));
        let words = into.as_chunks_mut::<8>().0;
        (address..)
            .step_by(8)
            .zip(words)
            .all(|(address, slot)| self.read_word(address).map(|word| *slot = word.to_le_bytes()).is_some())
    }
}

/// Contents of memory.
#[derive(Clone, Copy, Debug)]
enum Part {
    Free(u64),
    /// Flags, mapping, and class.
    Page(u64, u64, PageClass),
    /// Not used, and not in a free block.
    Unused,
    Offline,
    Table,
    /// Like `Page`, for a compound page of this order.
    Compound(u64, u64, u64, PageClass),
    Huge(u64),
    Slab(u64),
}

const MAPPING: u64 = 0xffff_8880_1234_5678;

impl Part {
    fn order(self) -> u64 {
        match self {
            Part::Free(order) | Part::Huge(order) | Part::Slab(order) | Part::Compound(order, ..) => order,
            _ => 0,
        }
    }

    /// Appends it, at the next place that its alignment allows.
    fn put(self, kernel: Kernel, memory: &mut Memory, classes: &mut Vec<PageClass>) {
        let pages = 1_usize << self.order();
        while !classes.len().is_multiple_of(pages) {
            Part::Unused.put(kernel, memory, classes);
        }
        let pfn = classes.len() as u64;
        let class = match self {
            Part::Free(order) => {
                memory.half(pfn, 48, kernel.kind(0));
                memory.word(pfn, 40, order);
                PageClass::Free
            }
            Part::Page(flags, mapping, class) => {
                memory.page(pfn, flags, mapping);
                class
            }
            Part::Unused => {
                memory.page(pfn, 0, 0);
                memory.half(pfn, 52, 0);
                PageClass::Unknown
            }
            Part::Offline => {
                memory.page(pfn, 0, 0);
                memory.half(pfn, 48, kernel.kind(1));
                PageClass::Device
            }
            Part::Table => {
                memory.page(pfn, 0, 0);
                memory.half(pfn, 48, kernel.kind(2));
                PageClass::PageTable
            }
            Part::Compound(order, flags, mapping, class) => {
                memory.page(pfn, flags, mapping);
                compound(kernel, memory, pfn, order, false);
                class
            }
            Part::Huge(order) => {
                memory.page(pfn, 0, MAPPING);
                compound(kernel, memory, pfn, order, true);
                PageClass::User
            }
            Part::Slab(order) => {
                // From 6.2 on, this is a count where other pages have their mapping.
                memory.page(pfn, 0, if kernel == Kernel::V6_1 { MAPPING } else { 7 });
                if kernel.has_types() {
                    memory.half(pfn, 48, kernel.kind(5));
                } else {
                    memory.word(pfn, 0, SLAB);
                    // Like the type of a free block: slabs had a count there.
                    memory.half(pfn, 48, kernel.kind(0));
                }
                compound(kernel, memory, pfn, order, false);
                PageClass::Slab
            }
        };
        classes.extend(std::iter::repeat_n(class, pages));
    }
}

/// Turns pages into a compound page.
fn compound(kernel: Kernel, memory: &mut Memory, head: u64, order: u64, huge: bool) {
    if order == 0 {
        return;
    }
    let flags = u64::from_le_bytes(*memory.at(head).first_chunk().unwrap());
    memory.word(head, 0, flags | HEAD);
    for pfn in head + 1..head + (1 << order) {
        let way = if kernel == Kernel::V7_1 { u64::MAX << (order + 6) } else { VMEMMAP + head * 64 };
        memory.word(pfn, 8, way + 1);
        memory.half(pfn, 48, u32::MAX);
    }
    let second = memory.at(head + 1);
    match kernel {
        Kernel::V6_1 | Kernel::V6_4 => {
            second[16] = if huge { 2 } else { 1 };
            second[17] = order as u8;
        }
        _ => second[0] = order as u8,
    }
    match kernel {
        Kernel::V6_6 if huge => second[1] |= 1,
        _ if huge && kernel.has_types() => memory.half(head, 48, kernel.kind(4)),
        _ => {}
    }
}

fn single() -> impl Strategy<Value = Part> {
    prop_oneof![
        Just(Part::Page(0, 0, PageClass::KernelData)),
        Just(Part::Page(LRU, MAPPING, PageClass::Cache)),
        Just(Part::Page(LRU | PRIVATE, MAPPING, PageClass::CachePrivate)),
        Just(Part::Page(LRU | SWAP_BACKED, MAPPING | 1, PageClass::User)),
        Just(Part::Page(SWAP_BACKED, MAPPING | 3, PageClass::User)),
        Just(Part::Page(SWAP_CACHE | SWAP_BACKED, MAPPING, PageClass::Cache)),
        Just(Part::Page(SWAP_CACHE | SWAP_BACKED | LRU, MAPPING | 1, PageClass::User)),
        Just(Part::Page(SWAP_CACHE, MAPPING, PageClass::KernelData)),
        Just(Part::Page(POISON | LRU, MAPPING | 1, PageClass::Device)),
        Just(Part::Unused),
        Just(Part::Offline),
        Just(Part::Table),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        3 => single(),
        2 => (0..11_u64).prop_map(Part::Free),
        1 => (0..4_u64).prop_map(Part::Slab),
        1 => (1..10_u64).prop_map(Part::Huge),
        1 => (1..10_u64).prop_map(|order| Part::Compound(order, LRU | SWAP_BACKED, MAPPING | 1, PageClass::User)),
        1 => (1..10_u64).prop_map(|order| Part::Compound(order, LRU, MAPPING, PageClass::Cache)),
        1 => (1..10_u64).prop_map(|order| Part::Compound(order, 0, 0, PageClass::KernelData)),
    ]
}

fn kernel() -> impl Strategy<Value = Kernel> {
    proptest::sample::select(&KERNELS[..])
}

fn level() -> impl Strategy<Value = Level> {
    (0..64_u32).prop_map(Level::from_bits_truncate)
}

/// Queries all pages from 0 on, each query beginning where the previous answer ends.
fn walk(classes: &mut Classes, memory: &Memory, pages: usize) -> Vec<PageClass> {
    let mut answers = Vec::new();
    while answers.len() < pages {
        let run = classes.class(memory, answers.len() as u64);
        let more = usize::try_from(run.pages).unwrap().min(pages - answers.len());
        answers.extend(std::iter::repeat_n(run.class, more));
    }
    answers
}

proptest! {
    #[test]
    fn each_page_is_what_it_was_made_as(
        kernel in kernel(), level in level(), parts in prop::collection::vec(part(), 1..40),
    ) {
        let (memory, expected) = Memory::new(kernel, &parts);
        let mut classes = Classes::new(kernel.layout()).for_level(level);
        prop_assert_eq!(walk(&mut classes, &memory, expected.len()), expected.clone());
        // Backwards too, with the state that earlier queries left.
        for (pfn, expected) in expected.iter().enumerate().rev().step_by(7) {
            prop_assert_eq!(classes.class(&memory, pfn as u64).class, *expected);
        }
    }

    #[test]
    fn an_answer_does_not_depend_on_earlier_ones(
        kernel in kernel(), parts in prop::collection::vec(part(), 1..20),
        spoilt in prop::collection::vec((0..600_u64, 0..8_usize, any::<u64>()), 0..40),
        tails in prop::collection::vec((0..600_u64, 0..600_u64), 0..10),
        asked in prop::collection::vec(0..700_u64, 1..60),
    ) {
        let (mut memory, _) = Memory::new(kernel, &parts);
        for (pfn, word, value) in spoilt {
            memory.word(pfn, word * 8, value);
        }
        for (pfn, head) in tails {
            memory.word(pfn, 8, VMEMMAP + head * 64 + 1);
        }
        let mut used = Classes::new(kernel.layout());
        for pfn in asked {
            let answer = used.class(&memory, pfn);
            prop_assert!(answer.pages >= 1);
            prop_assert_eq!(answer, Classes::new(kernel.layout()).class(&memory, pfn));
        }
    }

    #[test]
    fn no_memory_and_no_vmcoreinfo_makes_it_panic(
        kernel in kernel(), seed: u64, changes in prop::collection::vec((0..30_usize, any::<i64>(), 0..64), 0..3),
        asked in prop::collection::vec(any::<u64>(), 1..30),
    ) {
        let mut text = String::new();
        for (number, line) in kernel.text().lines().enumerate() {
            let (key, value) = line.split_once('=').unwrap();
            match changes.iter().find(|(changed, ..)| *changed == number) {
                Some((_, value, shift)) if key.starts_with("SYMBOL") => writeln!(text, "{key}={:x}", value >> shift),
                Some((_, value, shift)) => writeln!(text, "{key}={}", value >> shift),
                None => writeln!(text, "{key}={value}"),
            }
            .unwrap();
        }
        let Ok(layout) = Layout::parse(&Vmcoreinfo(text.as_bytes())) else { return Ok(()) };
        let mut classes = Classes::new(layout);
        for pfn in asked {
            for pfn in [pfn, pfn % (2 * SECTION)] {
                let answer = classes.class(&Noise(seed), pfn);
                prop_assert!(answer.pages >= 1);
                prop_assert_eq!(answer, classes.clone().class(&Noise(seed), pfn));
            }
        }
    }
}

/// Memory with random content, some of it unreadable.
struct Noise(u64);

impl KernelMemory for Noise {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        for (offset, slot) in (0..).zip(into) {
            let address = address.wrapping_add(offset);
            let mixed = ((address / 8) ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // Words that could be kernel addresses.
            *slot = (mixed | 0xffff_8000_0000_0001).to_le_bytes()[(address % 8) as usize];
        }
        !(address ^ self.0).is_multiple_of(5)
    }
}

#[test]
fn whole_blocks_and_compound_pages_are_one_answer() {
    let parts =
        [Part::Free(10), Part::Huge(9), Part::Compound(9, LRU, MAPPING, PageClass::Cache), Part::Free(9)];
    for kernel in KERNELS {
        let (memory, _) = Memory::new(kernel, &parts);
        let mut classes = Classes::new(kernel.layout()).for_level(Level::from_bits_truncate(31));
        for (pfn, expected, pages) in [
            (0, PageClass::Free, 1024),
            (100, PageClass::Free, 924),
            (1024, PageClass::User, 512),
            (1300, PageClass::User, 236),
            (1536, PageClass::Cache, 512),
            (2048, PageClass::Free, 512),
        ] {
            assert_eq!(classes.class(&memory, pfn), ClassRun { class: expected, pages }, "{kernel:?} {pfn}");
        }
    }
}

#[test]
fn broken_memory_is_found_in_whatever_is_kept() {
    let parts = [Part::Free(8), Part::Huge(8), Part::Slab(3), Part::Page(0, 0, PageClass::KernelData)];
    for kernel in KERNELS {
        let (mut memory, expected) = Memory::new(kernel, &parts);
        for pfn in [130, 256 + 200, 512 + 3] {
            let flags = memory.at(pfn)[0];
            memory.word(pfn, 0, POISON | u64::from(flags));
        }
        let mut classes = Classes::new(kernel.layout());
        let answers = walk(&mut classes, &memory, expected.len());
        for (pfn, (answer, expected)) in answers.iter().zip(expected).enumerate() {
            let broken = [130, 256 + 200, 512 + 3].contains(&pfn);
            assert_eq!(*answer, if broken { PageClass::Device } else { expected }, "{kernel:?} {pfn}");
        }
    }
}

#[test]
fn copies_of_a_huge_pages_first_page_are_known_as_copies() {
    let (mut memory, _) = Memory::new(Kernel::V6_1, &[Part::Huge(9)]);
    // An optimised vmemmap: the first page's `struct page`s are repeated for all others.
    for pfn in 64..512 {
        *memory.at(pfn) = *memory.at(pfn % 64);
    }
    let mut classes = Classes::new(Kernel::V6_1.layout());
    assert_eq!(walk(&mut classes, &memory, 512), [PageClass::User; 512]);
}

/// One huge page of a process, in memory of one kernel and read with the layout of another.
fn knows(kernel: Kernel, other: Kernel) -> bool {
    let (memory, _) = Memory::new(kernel, &[Part::Huge(9)]);
    let mut classes = Classes::new(other.layout());
    for pfn in 0..512 {
        classes.class(&memory, pfn);
    }
    classes.knows_compounds()
}

#[test]
fn it_is_noticed_that_compound_pages_are_laid_out_otherwise() {
    for kernel in KERNELS {
        assert!(knows(kernel, kernel), "{kernel:?}");
    }
    // Masks mistaken for addresses.
    assert!(!knows(Kernel::V7_1, Kernel::V6_12));
    let able = Kernel::V6_12.layout().without_compounds().able();
    assert_eq!(able, Level::ZERO | Level::FREE);
}

#[test]
fn a_compound_page_may_be_larger_than_a_section() {
    for kernel in KERNELS {
        let (memory, _) = Memory::new(kernel, &[Part::Huge(16)]);
        let mut classes = Classes::new(kernel.layout());
        assert_eq!(classes.class(&memory, SECTION + 5).class, PageClass::User);
    }
}

#[test]
fn what_has_no_struct_pages_is_unknown_to_the_end_of_its_section() {
    let (memory, _) = Memory::new(Kernel::V6_1, &[]);
    let mut classes = Classes::new(Kernel::V6_1.layout());
    let unknown = |pages| ClassRun { class: PageClass::Unknown, pages };
    assert_eq!(classes.class(&memory, 2 * SECTION), unknown(SECTION));
    assert_eq!(classes.class(&memory, 5 * SECTION - 3), unknown(3));
    assert_eq!(classes.class(&memory, u64::MAX), unknown(1));
    // Beyond the first root, which is the only one.
    assert_eq!(classes.class(&memory, 256 * SECTION), unknown(SECTION));
}

#[test]
fn a_free_block_of_an_impossible_order_is_kept() {
    for order in [11, 64, u64::MAX] {
        let (mut memory, _) = Memory::new(Kernel::V6_1, &[Part::Free(0), Part::Free(3)]);
        memory.word(0, 40, order);
        let mut classes = Classes::new(Kernel::V6_1.layout());
        assert_eq!(classes.class(&memory, 0).class, PageClass::Unknown);
        assert_eq!(classes.class(&memory, 8), ClassRun { class: PageClass::Free, pages: 8 });
    }
}
