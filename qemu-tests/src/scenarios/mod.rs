//! The matrix: every row a name, a line that says what it proves, a deadline, and a function.
//!
//! - `case.rs`: what a running scenario has at hand
//! - `judge.rs`: what a dump is held against
//! - `dumps.rs`: dumps that come through, whole or in part
//! - `refusals.rs`: what must not be written, and is not
//! - `readers.rs`: gdb, readelf, and the machine itself, as judges of a core
//! - `selection.rs`: which memory a dump has
//! - `engine.rs`: how it is made
//! - `sealed.rs`: encrypted dumps
//! - `failover.rs`: several disks
//! - `survive.rs`: dumps of kernels that go on

mod case;
mod dumps;
mod engine;
mod failover;
mod judge;
mod readers;
mod refusals;
mod sealed;
mod selection;
mod survive;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

pub use case::{Case, Crashed};
pub use dumps::{ARENA_LIMIT, Footprint, STACK_LIMIT, measure_footprint};

/// The programs under test, and where scenarios keep their files.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The test kernel.
    pub kernel: PathBuf,
    /// The savecore command.
    pub savecore: PathBuf,
    /// Each scenario has a folder of its name in it, with serial logs, images and outputs, kept until the next run.
    pub folder: PathBuf,
}

/// A row of the matrix.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it proves, in one line.
    pub about: &'static str,
    /// What it may take, in seconds; everything that it started is killed then.
    pub deadline: u64,
    /// What it does; gives the facts worth a line.
    pub play: fn(&Case) -> Result<String>,
}

/// All rows.
pub static ALL: &[Scenario] = &[
    Scenario {
        name: "panic-pc-1cpu",
        about: "one CPU on a pc: a panic becomes a whole core",
        deadline: 60,
        play: |case| dumps::panic(case, "pc", 1, 128),
    },
    Scenario {
        name: "panic-pc-4cpu",
        about: "four CPUs on a pc: each one's registers are in the core",
        deadline: 60,
        play: |case| dumps::panic(case, "pc", 4, 512),
    },
    Scenario {
        name: "panic-q35-8cpu",
        about: "eight CPUs on a q35",
        deadline: 90,
        play: |case| dumps::panic(case, "q35", 8, 512),
    },
    Scenario {
        name: "panic-6g",
        about: "RAM above 4 GiB is in the core",
        deadline: 150,
        play: dumps::above_4_gib,
    },
    Scenario {
        name: "fault",
        about: "a processor fault is dumped as one, with the registers of the faulting instruction",
        deadline: 60,
        play: dumps::fault,
    },
    Scenario {
        name: "gdb",
        about: "gdb shows each CPU's named functions with arguments, a global, a followed list; readelf is clean",
        deadline: 90,
        play: readers::gdb,
    },
    Scenario {
        name: "equals-machine",
        about: "every byte of RAM in the core is the byte that QEMU has, the arena excepted",
        deadline: 120,
        play: |case| readers::equals_machine(case, "pc", 4, 256),
    },
    Scenario {
        name: "equals-machine-high",
        about: "the same on a q35 with RAM on both sides of 4 GiB",
        deadline: 180,
        play: |case| readers::equals_machine(case, "q35", 2, 3072),
    },
    Scenario {
        name: "footprint",
        about: "arena at most 1 MiB, stack from crash() on at most 8 KiB",
        deadline: 60,
        play: dumps::footprint,
    },
    Scenario {
        name: "refuse-unformatted",
        about: "a partition without a label is not armed and not written",
        deadline: 60,
        play: refusals::unformatted,
    },
    Scenario {
        name: "refuse-pattern-first",
        about: "one wrong bit in the first pattern block",
        deadline: 60,
        play: |case| refusals::pattern(case, |_| 1),
    },
    Scenario {
        name: "refuse-pattern-middle",
        about: "one wrong bit in a middle pattern block",
        deadline: 60,
        play: |case| refusals::pattern(case, |blocks| blocks / 2),
    },
    Scenario {
        name: "refuse-pattern-last",
        about: "one wrong bit in the last pattern block",
        deadline: 60,
        play: |case| refusals::pattern(case, |blocks| blocks - 1),
    },
    Scenario {
        name: "refuse-label-damaged",
        about: "one wrong bit in the label",
        deadline: 60,
        play: refusals::label_damaged,
    },
    Scenario {
        name: "refuse-label-of-another-disk",
        about: "another disk's label, and this disk's label over another disk's pattern",
        deadline: 90,
        play: refusals::label_of_another_disk,
    },
    Scenario {
        name: "refuse-larger-than-disk",
        about: "a partition that reaches beyond the end of the disk",
        deadline: 60,
        play: refusals::larger_than_disk,
    },
    Scenario {
        name: "refuse-code-corrupted",
        about: "one wrong bit in the dump path's own code",
        deadline: 60,
        play: |case| refusals::by_kernel(case, "corrupt-code", "the dump's own code was changed"),
    },
    Scenario {
        name: "refuse-state-corrupted",
        about: "one wrong bit in the armed state",
        deadline: 60,
        play: |case| refusals::by_kernel(case, "corrupt-state", "the armed state was changed"),
    },
    Scenario {
        name: "refuse-device-gone",
        about: "the controller reads as all ones",
        deadline: 60,
        play: refusals::device_gone,
    },
    Scenario {
        name: "refuse-device-stuck",
        about: "a disk that never completes a request: given up within the deadline",
        deadline: 90,
        play: refusals::device_stuck,
    },
    Scenario {
        name: "refuse-nested-before-write",
        about: "a panic inside the dump before its first write ends in a record, not in a write",
        deadline: 60,
        play: refusals::nested_before_write,
    },
    Scenario {
        name: "refuse-no-entropy",
        about: "a label that demands encryption, and a CPU without random numbers",
        deadline: 60,
        play: refusals::no_entropy,
    },
    Scenario {
        name: "nested-after-write",
        about: "a panic inside the dump after its first write leaves a dump that savecore reads",
        deadline: 60,
        play: dumps::nested_after_write,
    },
    Scenario {
        name: "double-panic",
        about: "two CPUs panic at once: one dumps, both are in the core",
        deadline: 60,
        play: dumps::double_panic,
    },
    Scenario {
        name: "two-dumps",
        about: "a second crash before the harvest goes behind the first; both are saved",
        deadline: 120,
        play: dumps::two_dumps,
    },
    Scenario {
        name: "harvest-and-again",
        about: "the harvest lays the pattern again, check says armed, and the next crash dumps",
        deadline: 120,
        play: dumps::harvest_and_again,
    },
    Scenario {
        name: "full-partition",
        about: "a partition smaller than memory gives a smaller dump that gdb opens",
        deadline: 60,
        play: dumps::full_partition,
    },
    Scenario {
        name: "budget",
        about: "a dump that runs out of time is closed in order and readable",
        deadline: 90,
        play: dumps::budget,
    },
    Scenario {
        name: "stuck-midway",
        about: "a disk that stops completing requests in the middle of a dump: given up in time, what is there is read",
        deadline: 90,
        play: dumps::stuck_midway,
    },
    Scenario {
        name: "takeover-live",
        about: "the disk is taken over from a driver with requests in flight",
        deadline: 60,
        play: dumps::takeover_live,
    },
    Scenario {
        name: "verify-ahead",
        about: "checked just ahead of each write: whole on a good partition, stops in front of a foreign block",
        deadline: 120,
        play: dumps::verify_ahead,
    },
    Scenario {
        name: "verify-sample",
        about: "every n-th block checked: whole on a good partition, refused when a sampled block is foreign",
        deadline: 120,
        play: dumps::verify_sample,
    },
    Scenario {
        name: "levels",
        about: "each dump level leaves out the pages that the kernel counts for it, and no others",
        deadline: 120,
        play: selection::levels,
    },
    Scenario {
        name: "level-31",
        about: "level 31: not one page that the kernel filled for users is in the core, and all others are",
        deadline: 60,
        play: selection::level_31,
    },
    Scenario {
        name: "level-kernel-only",
        about: "level 32: the kernel's own pages are in the core, no others, and gdb needs no more",
        deadline: 90,
        play: selection::kernel_only,
    },
    Scenario {
        name: "passes",
        about: "a partition too small: stacks, page tables and the kernel are complete, the rest is not; gdb shows all CPUs",
        deadline: 90,
        play: selection::passes,
    },
    Scenario {
        name: "packed",
        about: "LZ4: the dump takes less than half of its memory, and the core equals the machine",
        deadline: 90,
        play: engine::packed,
    },
    Scenario {
        name: "pipelined",
        about: "checked ahead while it is written: several requests in flight, and no block written that was not read",
        deadline: 90,
        play: engine::pipelined,
    },
    Scenario {
        name: "helpers",
        about: "three stopped CPUs do part of the work, and the core equals the machine",
        deadline: 90,
        play: engine::helpers,
    },
    Scenario {
        name: "helper-dead",
        about: "a helping CPU that dies costs the units that it had taken",
        deadline: 90,
        play: |case| engine::lost_helper(case, "dead-helper"),
    },
    Scenario {
        name: "helper-late",
        about: "a helping CPU that comes back too late harms nothing",
        deadline: 90,
        play: |case| engine::lost_helper(case, "late-helper"),
    },
    Scenario {
        name: "sealed",
        about: "encrypted: no known text on the disk, no bit changed unnoticed, and with the key the core equals the machine",
        deadline: 120,
        play: sealed::sealed,
    },
    Scenario {
        name: "sealed-control",
        about: "the scan for known texts finds them in a dump that is not encrypted",
        deadline: 60,
        play: sealed::plain_is_found,
    },
    Scenario {
        name: "sealed-shared",
        about: "a disk that nobody looked at before the crash: encrypted if the kernel was given the key, else refused",
        deadline: 60,
        play: sealed::shared,
    },
    Scenario {
        name: "failover-io-error",
        about: "a write error in the middle: the first dump is closed, the second disk has a whole one",
        deadline: 90,
        play: failover::io_error,
    },
    Scenario {
        name: "failover-unplugged",
        about: "a disk pulled in the middle: the second has a whole dump, the first is still read",
        deadline: 90,
        play: failover::unplugged,
    },
    Scenario {
        name: "failover-all-fail",
        about: "no disk works: the console says why of each, and no image changes",
        deadline: 60,
        play: failover::all_fail,
    },
    Scenario {
        name: "failover-risky",
        about: "a disk that sleeps is used last, and only if that is allowed",
        deadline: 90,
        play: failover::risky,
    },
    Scenario {
        name: "striped",
        about: "two disks at once: both are closed, and make one core that equals the machine",
        deadline: 90,
        play: failover::striped,
    },
    Scenario {
        name: "bad-memory",
        about: "pages that fault when they are read are told of, and all else is in the core",
        deadline: 90,
        play: engine::bad_memory,
    },
    Scenario {
        name: "snapshot",
        about: "a live kernel dumped twice: all CPUs go on, the second dump lies behind the first",
        deadline: 90,
        play: survive::snapshot,
    },
    Scenario {
        name: "oops",
        about: "a fault that the kernel survives is dumped, and the kernel goes on",
        deadline: 60,
        play: survive::oops,
    },
    Scenario {
        name: "nmi",
        about: "the NMI button makes a dump, of a kernel that goes on or not",
        deadline: 90,
        play: survive::nmi,
    },
    Scenario {
        name: "watchdog",
        about: "a watchdog's bite makes a dump, which keeps it quiet",
        deadline: 90,
        play: survive::watchdog,
    },
    Scenario {
        name: "two-crashes",
        about: "a crash after a dump goes behind it, and leaves it as it is, byte by byte",
        deadline: 60,
        play: survive::two_crashes,
    },
    Scenario {
        name: "metrics",
        about: "a dump's numbers agree with one another, with savecore's count, and with what the console said",
        deadline: 90,
        play: engine::metrics,
    },
];

/// The rows whose name contains `filter`; a row of exactly that name stands for itself alone.
pub fn matching(filter: &str) -> Vec<&'static Scenario> {
    if let Some(exact) = ALL.iter().find(|scenario| scenario.name == filter) {
        return vec![exact];
    }
    ALL.iter().filter(|scenario| scenario.name.contains(filter)).collect()
}

/// Runs a row in a fresh folder of its name. Its disk images go when it succeeds, since they are large.
///
/// # Errors
/// If what it proves does not hold, or its deadline passes.
pub fn run(scenario: &Scenario, programs: &Programs) -> Result<String> {
    let case = Case::new(programs, scenario.name, Duration::from_secs(scenario.deadline))?;
    let facts = (scenario.play)(&case)?;
    case.forget_large_files();
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_for_a_folder() {
        for (index, scenario) in ALL.iter().enumerate() {
            assert!(ALL.iter().skip(index + 1).all(|other| other.name != scenario.name), "{}", scenario.name);
            assert!(scenario.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            assert!(scenario.deadline > 0 && !scenario.about.is_empty());
        }
    }

    #[test]
    fn an_exact_name_wins_over_a_part() {
        assert_eq!(matching("gdb").len(), 1);
        assert!(matching("refuse-").len() > 5);
        assert!(matching("no such scenario").is_empty());
        assert_eq!(matching("").len(), ALL.len());
    }
}
