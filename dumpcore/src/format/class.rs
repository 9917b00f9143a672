//! What a page was used for, as a number on disk, and the passes in which pages are written.

/// What each pass wrote, by pass number.
pub const PASSES: [&str; 4] = ["notes", "stacks and page tables", "kernel data", "the rest"];

/// What a page is used for, according to the platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum PageClass {
    /// The platform does not know, or was not asked.
    Unknown = 0,
    /// The kernel's code and constants.
    KernelText = 1,
    /// The kernel's variables.
    KernelData = 2,
    /// Kernel stacks.
    Stack = 3,
    /// Page tables.
    PageTable = 4,
    /// The kernel's heap.
    Slab = 5,
    /// Memory of user processes.
    User = 6,
    /// Page cache without private data.
    Cache = 7,
    /// Page cache with private data, such as a file system's buffers.
    CachePrivate = 8,
    /// Unused.
    Free = 9,
    /// Belongs to a device though the memory map calls it RAM. Never read.
    Device = 10,
}

impl PageClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [PageClass; 11] = [
        PageClass::Unknown,
        PageClass::KernelText,
        PageClass::KernelData,
        PageClass::Stack,
        PageClass::PageTable,
        PageClass::Slab,
        PageClass::User,
        PageClass::Cache,
        PageClass::CachePrivate,
        PageClass::Free,
        PageClass::Device,
    ];

    /// The class with this number.
    pub fn from_number(number: u16) -> Option<PageClass> {
        PageClass::ALL.get(usize::from(number)).copied()
    }
}
