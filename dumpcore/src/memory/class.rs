//! What memory is used for, what a dump level leaves out, and the order in which the rest is written.

use crate::format::chunk::RunKind;

pub use crate::format::class::PageClass;

/// Consecutive pages of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassRun {
    /// Their class.
    pub class: PageClass,
    /// Number of pages, including the one asked for. 0 counts as 1; pages beyond the end of the RAM range do
    /// not count.
    pub pages: u64,
}

/// A page frame number and the page's class in one word: many are in flight at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassedPfn(u64);

/// Bit position of the class. A page frame number of a 64-bit physical address has at most 52 bits.
const CLASS_SHIFT: u32 = 56;
const PFN_MASK: u64 = (1 << CLASS_SHIFT) - 1;

impl ClassedPfn {
    /// Page 0, of unknown class.
    pub const ZERO: ClassedPfn = ClassedPfn(0);

    /// A page frame number, below 2^52, with the class of its page.
    pub fn new(pfn: u64, class: PageClass) -> ClassedPfn {
        ClassedPfn(pfn & PFN_MASK | u64::from(class as u16) << CLASS_SHIFT)
    }

    /// The page frame number.
    pub fn pfn(self) -> u64 {
        self.0 & PFN_MASK
    }

    /// The class, as numbered in a dump.
    pub fn class_number(self) -> u16 {
        (self.0 >> CLASS_SHIFT) as u16
    }

    /// The page that comes `pages` pages after this one, with the same class.
    pub fn behind(self, pages: u64) -> ClassedPfn {
        ClassedPfn(self.pfn().wrapping_add(pages) & PFN_MASK | self.0 & !PFN_MASK)
    }
}

bitflags::bitflags! {
    /// The memory that a dump leaves out. The first five bits are makedumpfile's dump level (makedumpfile(8),
    /// option -d).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Level: u32 {
        /// Pages of zeros. They take no space at any level, and no level loses them: a dump records that they
        /// are zero.
        const ZERO = 1;
        /// Page cache without private data.
        const CACHE = 2;
        /// Page cache, with or without private data.
        const CACHE_PRIVATE = 4;
        /// Memory of user processes.
        const USER = 8;
        /// Free memory.
        const FREE = 16;
        /// All pages not known to belong to the kernel: LKCD's level "kernel pages".
        const KERNEL_ONLY = 32;
    }
}

impl Level {
    /// Why pages of a class are left out; `None` if they are not.
    pub fn leaves_out(self, class: PageClass) -> Option<RunKind> {
        let (bits, reason) = match class {
            PageClass::Device => return Some(RunKind::Device),
            PageClass::Cache => (Level::CACHE | Level::CACHE_PRIVATE | Level::KERNEL_ONLY, RunKind::Cache),
            PageClass::CachePrivate => (Level::CACHE_PRIVATE | Level::KERNEL_ONLY, RunKind::CachePrivate),
            PageClass::User => (Level::USER | Level::KERNEL_ONLY, RunKind::User),
            PageClass::Free => (Level::FREE | Level::KERNEL_ONLY, RunKind::Free),
            PageClass::Unknown => (Level::KERNEL_ONLY, RunKind::NotKernel),
            PageClass::KernelText
            | PageClass::KernelData
            | PageClass::Stack
            | PageClass::PageTable
            | PageClass::Slab => return None,
        };
        self.intersects(bits).then_some(reason)
    }
}

impl PageClass {
    /// Whether the page is known to belong to the kernel.
    pub fn is_kernel(self) -> bool {
        matches!(
            self,
            PageClass::KernelText
                | PageClass::KernelData
                | PageClass::Stack
                | PageClass::PageTable
                | PageClass::Slab
        )
    }

    /// The pass in which its pages are written, see [`PASSES`](crate::format::header::PASSES): pages that a
    /// debugger needs first come first.
    pub fn pass(self) -> usize {
        match self {
            PageClass::Stack | PageClass::PageTable => 1,
            PageClass::KernelText | PageClass::KernelData | PageClass::Slab => 2,
            PageClass::User
            | PageClass::Cache
            | PageClass::CachePrivate
            | PageClass::Free
            | PageClass::Device
            | PageClass::Unknown => 3,
        }
    }
}
