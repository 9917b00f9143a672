//! How much of this machine's memory a dump would contain.

use std::fs;

use savecore::arming::{Module, System};
use savecore::corefile::Level;

use crate::output::size;

/// Memory, and the part that would be dumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Memory {
    /// All memory of the system, in bytes.
    all: u64,
    /// The dump level of the armed kernel; `None` if it is not armed.
    level: Option<Level>,
    /// Bytes that it would dump with the current use of memory, before compression.
    now: u64,
}

/// Whether a dump fits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// Yes; with the reason in words.
    Yes(String),
    /// Perhaps not; with the reason in words.
    Perhaps(String),
}

impl Memory {
    /// This machine's memory.
    pub(super) fn of(system: &System) -> Option<Memory> {
        let module = Module::of(system).ok();
        let level = module.and_then(|module| module.status().ok()?.get("level")?.parse().ok());
        Memory::parse(&fs::read_to_string(system.proc.join("meminfo")).ok()?, level)
    }

    /// Parses proc_meminfo(5).
    fn parse(text: &str, level: Option<Level>) -> Option<Memory> {
        let bytes = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        let all = bytes("MemTotal")?;
        let bits = level.map_or(0, Level::bits);
        let left_out = |bit: u32, names: &[&str]| match bits & bit {
            0 => 0,
            _ => names.iter().filter_map(|name| bytes(name)).sum(),
        };
        // Bit 2 alone keeps pages of the cache with private data, whose number is unknown.
        let (cache, user, free) = (4 | 32, 8 | 32, 16 | 32);
        let out = left_out(cache, &["Cached", "Buffers", "SwapCached"])
            .saturating_add(left_out(user, &["AnonPages"]))
            .saturating_add(left_out(free, &["MemFree"]));
        Some(Memory { all, level, now: all.saturating_sub(out) })
    }

    /// Whether a dump fits into this many free bytes. The use of memory may be higher at the crash, so it
    /// must fit twice.
    pub(super) fn fits(&self, free: u64) -> Fit {
        // Chunk headers take less than a hundredth.
        let with_headers = |bytes: u64| bytes.saturating_add(bytes / 64);
        let Memory { all, level, now } = *self;
        let free_is = format!("{} are free", size(free));
        if free >= with_headers(all) {
            return Fit::Yes(format!("{free_is}, and all of memory, {}, fits", size(all)));
        }
        let Some(level) = level.filter(|level| level.bits() != 0) else {
            return Fit::Perhaps(format!("{free_is}, and memory has {}", size(all)));
        };
        let would = format!(
            "a dump at level {level} would have {} as memory is used now, before it is packed",
            size(now)
        );
        match free >= with_headers(now.saturating_mul(2)) {
            true => Fit::Yes(format!("{free_is}, and {would}")),
            false => Fit::Perhaps(format!("{free_is}, and {would}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TEXT: &str = "MemTotal:        2048000 kB\nMemFree:         1024000 kB\nMemAvailable:    1500000 kB\nBuffers:           10240 kB\n\
                        Cached:           512000 kB\nSwapCached:            0 kB\nAnonPages:        204800 kB\n";

    fn memory(level: u32) -> Memory {
        Memory::parse(TEXT, Level::new(level)).unwrap()
    }

    #[test]
    fn what_a_level_leaves_out_is_counted_once() {
        for (level, mebibytes) in
            [(0, 2000), (1, 2000), (2, 2000), (4, 1490), (8, 1800), (16, 1000), (31, 290), (32, 290)]
        {
            assert_eq!(memory(level).now, mebibytes * MIB, "level {level}");
        }
    }

    #[test]
    fn a_dump_fits_if_all_of_memory_does_or_twice_what_its_level_leaves() {
        let fits = |level, mebibytes: u64| matches!(memory(level).fits(mebibytes * MIB), Fit::Yes(_));
        assert!(fits(0, 2032) && !fits(0, 2001));
        assert!(fits(31, 600) && !fits(31, 300));
        // A kernel that is not armed has no level.
        assert!(matches!(Memory::parse(TEXT, None).unwrap().fits(600 * MIB), Fit::Perhaps(_)));
    }

    #[test]
    fn a_system_that_does_not_say_has_no_figures() {
        assert_eq!(Memory::parse("MemFree: 3 kB\n", None), None);
        assert_eq!(Memory::parse("MemTotal: many kB\n", None), None);
    }
}
