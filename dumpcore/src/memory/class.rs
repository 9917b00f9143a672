//! What memory is for, which of it a dump level leaves out, and in which order the rest goes out.

use crate::format::chunk::RunKind;

pub use crate::format::class::PageClass;

/// Consecutive pages of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassRun {
    /// Their class.
    pub class: PageClass,
    /// How many pages, the one that was asked for included. 0 counts as 1; what reaches beyond the end of its
    /// RAM range does not count.
    pub pages: u64,
}

/// A page's number and its class, in one word: there are many on their way at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassedPfn(u64);

/// Where the class stands. Page frame numbers of a 64-bit physical address have at most 52 bits.
const CLASS_SHIFT: u32 = 56;
const PFN_MASK: u64 = (1 << CLASS_SHIFT) - 1;

impl ClassedPfn {
    /// Page 0, of which nothing is known.
    pub const ZERO: ClassedPfn = ClassedPfn(0);

    /// A page frame number, below 2^52, and the class of that page.
    pub fn new(pfn: u64, class: PageClass) -> ClassedPfn {
        ClassedPfn(pfn & PFN_MASK | u64::from(class as u16) << CLASS_SHIFT)
    }

    /// The page frame number.
    pub fn pfn(self) -> u64 {
        self.0 & PFN_MASK
    }

    /// The class, as a dump numbers it.
    pub fn class_number(self) -> u16 {
        (self.0 >> CLASS_SHIFT) as u16
    }

    /// The page this many after this one, of the same class.
    pub fn behind(self, pages: u64) -> ClassedPfn {
        ClassedPfn(self.pfn().wrapping_add(pages) & PFN_MASK | self.0 & !PFN_MASK)
    }
}

bitflags::bitflags! {
    /// Which memory a dump leaves out. The first five bits are makedumpfile's dump level (makedumpfile(8),
    /// option -d).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Level: u32 {
        /// Pages of zeros. They take no room at any level, and no level loses them: a dump says that they are
        /// zero.
        const ZERO = 1;
        /// Page cache without private data.
        const CACHE = 2;
        /// Page cache, with private data or without.
        const CACHE_PRIVATE = 4;
        /// Memory of user processes.
        const USER = 8;
        /// Free memory.
        const FREE = 16;
        /// Whatever is not known to be the kernel's: LKCD's level "kernel pages".
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
    /// Whether it is known to be the kernel's.
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

    /// The pass in which its pages go out, see [`PASSES`](crate::format::header::PASSES): what a debugger
    /// needs first comes first.
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
