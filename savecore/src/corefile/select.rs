//! Selection of a dump's pages for a core: all known ones, or fewer at a tighter level than the kernel's.

use std::fmt;
use std::str::FromStr;

use dumpcore::format::chunk::RunKind;
use dumpcore::format::class::PageClass;
use serde::Serialize;

use crate::dump::{Dump, Fate, PageRun};

type Bits = dumpcore::Level;

/// The level of a core: makedumpfile's dump level (makedumpfile(8), option -d), and 32 for everything that is
/// not known to be the kernel's. From 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(into = "u32")]
pub struct Level(Bits);

impl Level {
    /// The level with these bits, if there is one.
    pub fn new(bits: u32) -> Option<Level> {
        Bits::from_bits(bits).map(Level)
    }

    /// Its bits.
    pub fn bits(self) -> u32 {
        self.0.bits()
    }
}

impl From<Level> for u32 {
    fn from(level: Level) -> u32 {
        level.bits()
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bits().fmt(f)
    }
}

/// An invalid level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a level is the sum of what to leave out: 1 zero pages, 2 page cache, 4 page cache with private data too, \
     8 user memory, 16 free memory, 32 all that is not known to be the kernel's"
)]
pub struct NoLevel;

impl FromStr for Level {
    type Err = NoLevel;

    fn from_str(text: &str) -> Result<Level, NoLevel> {
        text.parse().ok().and_then(Level::new).ok_or(NoLevel)
    }
}

/// The pages of a dump to put into a core.
///
/// Zero pages take no space and are kept at every level. A page of unknown class is kept, except at level 32;
/// and that level excludes it only if the dump marks some pages as the kernel's, or nothing would be left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Selection {
    level: Option<Level>,
    /// The part of the level that applies to this dump.
    bits: Bits,
    pages: u64,
    data: u64,
    left_out: u64,
    unknown: u64,
}

impl Selection {
    /// The selection for a dump at a level; all known pages without a level.
    pub fn of(dump: &Dump<'_>, level: Option<Level>) -> Selection {
        let bits = level.map_or(Bits::empty(), |level| level.0 - Bits::ZERO);
        let knows_kernel = || dump.index().runs().any(|run| run.class.is_kernel());
        let bits = if bits.contains(Bits::KERNEL_ONLY) && !knows_kernel() {
            (bits - Bits::KERNEL_ONLY) | Bits::CACHE | Bits::CACHE_PRIVATE | Bits::USER | Bits::FREE
        } else {
            bits
        };
        let mut selection = Selection { level, bits, pages: 0, data: 0, left_out: 0, unknown: 0 };
        for run in dump.index().runs().filter(|run| run.fate.is_present()) {
            if selection.fate(&run).is_present() {
                selection.pages += run.count;
                selection.data += if run.fate == Fate::Data { run.count } else { 0 };
                let unsaid = !bits.is_empty() && run.class == PageClass::Unknown;
                selection.unknown += if unsaid { run.count } else { 0 };
            } else {
                selection.left_out += run.count;
            }
        }
        selection
    }

    /// The fate of a run's pages in the core: their fate in the dump, or the reason why the level excludes
    /// them.
    pub fn fate(&self, run: &PageRun) -> Fate {
        // Kernels do not dump device pages; if a dump has one, levels do not apply to it.
        if self.bits.is_empty() || !run.fate.is_present() || run.class == PageClass::Device {
            return run.fate;
        }
        match self.bits.leaves_out(run.class) {
            None => run.fate,
            Some(RunKind::Cache) => Fate::Cache,
            Some(RunKind::CachePrivate) => Fate::CachePrivate,
            Some(RunKind::User) => Fate::User,
            Some(RunKind::Free) => Fate::Free,
            Some(_) => Fate::NotKernel,
        }
    }

    /// All runs of the dump in address order, with their fate in the core.
    pub fn fates<'d>(&self, dump: &'d Dump<'_>) -> impl Iterator<Item = PageRun> + 'd {
        let selection = *self;
        dump.index().runs().map(move |run| PageRun { fate: selection.fate(&run), ..run })
    }

    /// The runs in the core, in address order.
    pub fn runs<'d>(&self, dump: &'d Dump<'_>) -> impl Iterator<Item = PageRun> + 'd {
        self.fates(dump).filter(|run| run.fate.is_present())
    }

    /// makedumpfile's bits for the pages that the level excludes from this dump, except zero pages.
    pub(super) fn makedumpfile_bits(&self) -> u32 {
        self.bits.bits() & 0b1_1110
    }

    /// The requested level.
    pub fn level(&self) -> Option<Level> {
        self.level
    }

    /// Number of pages in the core.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Those of them that are not zero.
    pub fn data_pages(&self) -> u64 {
        self.data
    }

    /// Number of known pages that the level excludes.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Number of pages that are in the core because their class is unknown; 0 at a level that excludes
    /// nothing.
    pub fn unknown_pages(&self) -> u64 {
        self.unknown
    }

    /// A one-line warning for the user: the level had less effect than requested.
    pub fn warning(&self) -> Option<String> {
        let level = self.level.filter(|_| self.unknown > 0)?;
        Some(if self.unknown == self.pages && self.left_out == 0 {
            format!("level {level} leaves nothing out: the kernel did not say what its pages are for")
        } else {
            format!(
                "level {level} keeps {} pages of which the kernel did not say what they are for",
                self.unknown
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_sum_of_the_bits_that_there_are() {
        for bits in 0..64 {
            let level: Level = bits.to_string().parse().unwrap();
            assert_eq!((level.bits(), level.to_string()), (bits, bits.to_string()));
            assert_eq!(serde_json::to_value(level).unwrap(), bits);
        }
        for text in ["64", "-1", "", "31,1", "all", "0x1f", "4294967297", "\u{1b}[0m"] {
            let error = text.parse::<Level>().unwrap_err().to_string();
            assert!(error.contains("8 user memory") && !error.contains('\n'), "{error}");
        }
    }
}
