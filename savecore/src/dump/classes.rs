//! The classes of a dump's pages.

use dumpcore::format::class::PageClass;
use serde::Serialize;

use super::Index;

/// Pages whose content is in the dump, by class.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Classes {
    /// Unknown class.
    pub unknown: u64,
    /// The kernel's code and constants.
    pub kernel_text: u64,
    /// The kernel's variables.
    pub kernel_data: u64,
    /// Kernel stacks.
    pub stack: u64,
    /// Page tables.
    pub page_table: u64,
    /// The kernel's heap.
    pub slab: u64,
    /// Memory of user processes.
    pub user: u64,
    /// Page cache without private data.
    pub cache: u64,
    /// Page cache with private data.
    pub cache_private: u64,
    /// Unused.
    pub free: u64,
    /// Device memory.
    pub device: u64,
}

impl Classes {
    /// The pages of an index.
    pub(super) fn of(index: &Index) -> Classes {
        let mut classes = Classes::default();
        for run in index.runs().filter(|run| run.fate.is_present()) {
            *classes.count_mut(run.class) += run.count;
        }
        classes
    }

    fn count_mut(&mut self, class: PageClass) -> &mut u64 {
        match class {
            PageClass::Unknown => &mut self.unknown,
            PageClass::KernelText => &mut self.kernel_text,
            PageClass::KernelData => &mut self.kernel_data,
            PageClass::Stack => &mut self.stack,
            PageClass::PageTable => &mut self.page_table,
            PageClass::Slab => &mut self.slab,
            PageClass::User => &mut self.user,
            PageClass::Cache => &mut self.cache,
            PageClass::CachePrivate => &mut self.cache_private,
            PageClass::Free => &mut self.free,
            PageClass::Device => &mut self.device,
        }
    }
}
