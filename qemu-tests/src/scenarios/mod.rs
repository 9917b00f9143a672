//! The matrix: scenarios, each with a name, a line that says what it proves, a deadline and a function, on
//! every [bed](crate::bed) where they are meaningful.
//!
//! - `programs.rs`: the programs under test
//! - `case.rs`: the environment of a running scenario
//! - `judge.rs`: the checks of a dump
//! - `dumps.rs`: dumps that succeed, completely or partly
//! - `refusals.rs`: data that must not be overwritten
//! - `readers.rs`: gdb, readelf, and the machine itself, as judges of a core
//! - `selection.rs`: which memory a dump contains
//! - `engine.rs`: how it is made
//! - `encrypted.rs`: encrypted dumps
//! - `failover.rs`: several disks
//! - `survive.rs`: dumps of kernels that continue
//! - `devices.rs`: the scenarios for every disk
//! - `takeover.rs`: disks that another driver was using
//! - `table.rs`: the matrix as a table
//!
//! One file: it is the table of all scenarios.

mod case;
mod devices;
mod dumps;
mod encrypted;
mod engine;
mod failover;
mod judge;
mod programs;
mod readers;
mod refusals;
mod selection;
mod survive;
mod table;
mod takeover;

use std::time::Duration;

use anyhow::Result;

pub use case::{Case, Crashed};
pub use programs::{Build, Kernel, Profile, Programs};
pub use table::table;

use crate::bed::{ARCHITECTURES, Bed, DEVICES, VIRTIO_BLK, X86_64};
pub use dumps::{ARENA_LIMIT, Footprint, STACK_LIMIT, measure_footprint};

/// Where a scenario is meaningful.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beds {
    /// On the usual bed: it does not depend on devices or architectures.
    Usual,
    /// On each architecture, with the device that all of them have.
    Architectures,
    /// With each device, on the usual architecture.
    Devices,
    /// With each device of each architecture.
    All,
}

impl Beds {
    fn has(self, bed: Bed) -> bool {
        let (architecture, device) =
            (bed.architecture.name == X86_64.name, bed.device.name == VIRTIO_BLK.name);
        match self {
            Beds::Usual => architecture && device,
            Beds::Architectures => device,
            Beds::Devices => architecture,
            Beds::All => true,
        }
    }
}

/// A scenario, and what must be true afterwards.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it proves, in one line.
    pub about: &'static str,
    /// Where.
    pub beds: Beds,
    /// Time limit in seconds; then everything that it started is killed.
    pub deadline: u64,
    /// Runs it; returns the facts for its line.
    pub play: fn(&Case) -> Result<String>,
}

impl Scenario {
    /// The profile of its kernel.
    pub fn profile(&self) -> Profile {
        match self.name {
            devices::DEMO_DEV => Profile::Dev,
            _ => Profile::Release,
        }
    }

    /// Why it is impossible on a bed.
    pub fn impossible(&self, bed: Bed) -> Option<&'static str> {
        let special = match self.name {
            devices::PULLED => (bed.device.pulled)(0).err(),
            devices::FAR_AWAY if bed.device.power_of_two => Some("the largest of its kind has 2 TiB"),
            takeover::TAKEOVER => takeover::impossible(bed),
            _ => None,
        };
        bed.machine().err().or(special)
    }
}

/// A row of the matrix: a scenario on a bed.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// Where.
    pub bed: Bed,
}

impl Row {
    /// Its name: architecture, device and scenario, such as `x86_64/virtio-blk/gdb`.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.bed.architecture.name, self.bed.device.name, self.scenario.name)
    }

    /// The test kernel that it runs.
    pub fn build(&self) -> Build {
        Build { architecture: self.bed.architecture, profile: self.scenario.profile() }
    }
}

/// All possible rows.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for architecture in ARCHITECTURES {
        for device in DEVICES {
            let bed = Bed { architecture, device };
            let here =
                ALL.iter().filter(|scenario| scenario.beds.has(bed) && scenario.impossible(bed).is_none());
            rows.extend(here.map(|scenario| Row { scenario, bed }));
        }
    }
    rows
}

/// All scenarios.
pub static ALL: &[Scenario] = &[
    Scenario {
        name: "demo",
        about: "a panic with two CPUs: every byte of RAM in the core is the byte that QEMU has; the first block is written within a second",
        beds: Beds::All,
        deadline: 120,
        play: devices::demo,
    },
    Scenario {
        name: devices::DEMO_DEV,
        about: "the same with a kernel in the dev profile, not optimised: the dump uses at most half of its stack, and its own checks find nothing",
        beds: Beds::Architectures,
        deadline: 300,
        play: devices::demo_dev,
    },
    Scenario {
        name: "write-error",
        about: "a block that cannot be written: the dump is closed in order, and everything before it is readable",
        beds: Beds::Devices,
        deadline: 90,
        play: devices::write_error,
    },
    Scenario {
        name: "read-error",
        about: "a block of the pattern that cannot be read: refused by its number, not a byte changed",
        beds: Beds::Devices,
        deadline: 90,
        play: devices::read_error,
    },
    Scenario {
        name: devices::PULLED,
        about: "the disk is pulled during the dump: the dump ends in time, and what was written is readable",
        beds: Beds::Devices,
        deadline: 90,
        play: devices::pulled,
    },
    Scenario {
        name: "one-block-less",
        about: "a disk that ends one block before its partition's end: refused, not a byte changed",
        beds: Beds::Devices,
        deadline: 60,
        play: devices::one_block_less,
    },
    Scenario {
        name: devices::FAR_AWAY,
        about: "a partition beyond 2 TiB, found by its name in the partition table, and by its label on the disk at a place of the bus",
        beds: Beds::Devices,
        deadline: 120,
        play: devices::far,
    },
    Scenario {
        name: "refuse-odd-start",
        about: "a partition that does not begin at a block of 4096 bytes is refused by its sector",
        beds: Beds::Usual,
        deadline: 60,
        play: devices::odd_start,
    },
    Scenario {
        name: "panic-pc-1cpu",
        about: "one CPU on a pc: a panic becomes a whole core",
        beds: Beds::Usual,
        deadline: 60,
        play: |case| dumps::panic(case, "pc", 1, 128),
    },
    Scenario {
        name: "panic-pc-4cpu",
        about: "four CPUs on a pc: the registers of each are in the core",
        beds: Beds::Usual,
        deadline: 60,
        play: |case| dumps::panic(case, "pc", 4, 512),
    },
    Scenario {
        name: "panic-q35-8cpu",
        about: "eight CPUs on a q35",
        beds: Beds::Usual,
        deadline: 90,
        play: |case| dumps::panic(case, "q35", 8, 512),
    },
    Scenario {
        name: "panic-6g",
        about: "RAM above 4 GiB is in the core",
        beds: Beds::Usual,
        deadline: 150,
        play: dumps::above_4_gib,
    },
    Scenario {
        name: "fault",
        about: "a processor fault is dumped as one, with the registers of the faulting instruction",
        beds: Beds::Architectures,
        deadline: 60,
        play: dumps::fault,
    },
    Scenario {
        name: "gdb",
        about: "gdb shows each CPU's named functions with arguments, a global, a followed list; savecore's backtraces are the same",
        beds: Beds::Architectures,
        deadline: 90,
        play: readers::gdb,
    },
    Scenario {
        name: "equals-machine",
        about: "every byte of RAM in the core, except the arena, is the byte that QEMU has",
        beds: Beds::Usual,
        deadline: 120,
        play: |case| readers::equals_machine(case, "pc", 4, 256),
    },
    Scenario {
        name: "equals-machine-high",
        about: "the same on a q35 with RAM on both sides of 4 GiB",
        beds: Beds::Usual,
        deadline: 180,
        play: |case| readers::equals_machine(case, "q35", 2, 3072),
    },
    Scenario {
        name: "footprint",
        about: "arena at most 1 MiB, stack from crash() on at most 8 KiB",
        beds: Beds::All,
        deadline: 60,
        play: dumps::footprint,
    },
    Scenario {
        name: "interrupt",
        about: "no dump: a device's interrupts reach a handler of the healthy kernel, as a driver that is taken over needs them",
        beds: Beds::Architectures,
        deadline: 60,
        play: survive::interrupt,
    },
    Scenario {
        name: "refuse-unformatted",
        about: "a partition without a label is not armed and not written",
        beds: Beds::Usual,
        deadline: 60,
        play: refusals::unformatted,
    },
    Scenario {
        name: "refuse-pattern-first",
        about: "one wrong bit in the first pattern block",
        beds: Beds::Usual,
        deadline: 60,
        play: |case| refusals::pattern(case, |_| 1),
    },
    Scenario {
        name: "refuse-pattern-middle",
        about: "one wrong bit in a middle pattern block",
        beds: Beds::Usual,
        deadline: 60,
        play: |case| refusals::pattern(case, |blocks| blocks / 2),
    },
    Scenario {
        name: "refuse-pattern-last",
        about: "one wrong bit in the last pattern block",
        beds: Beds::Usual,
        deadline: 60,
        play: |case| refusals::pattern(case, |blocks| blocks - 1),
    },
    Scenario {
        name: "refuse-label-damaged",
        about: "one wrong bit in the label",
        beds: Beds::Usual,
        deadline: 60,
        play: refusals::label_damaged,
    },
    Scenario {
        name: "refuse-label-of-another-disk",
        about: "another disk's label, and this disk's label over another disk's pattern",
        beds: Beds::Usual,
        deadline: 90,
        play: refusals::label_of_another_disk,
    },
    Scenario {
        name: "refuse-larger-than-disk",
        about: "a partition that reaches beyond the end of the disk",
        beds: Beds::Usual,
        deadline: 60,
        play: refusals::larger_than_disk,
    },
    Scenario {
        name: "refuse-code-corrupted",
        about: "one wrong bit in the dump path's own code",
        beds: Beds::Architectures,
        deadline: 60,
        play: |case| refusals::by_kernel(case, "corrupt-code", "the dump's own code was changed"),
    },
    Scenario {
        name: "refuse-state-corrupted",
        about: "one wrong bit in the armed state",
        beds: Beds::Architectures,
        deadline: 60,
        play: |case| refusals::by_kernel(case, "corrupt-state", "the armed state was changed"),
    },
    Scenario {
        name: "refuse-device-gone",
        about: "the controller reads as all ones",
        beds: Beds::Usual,
        deadline: 60,
        play: refusals::device_gone,
    },
    Scenario {
        name: "refuse-device-stuck",
        about: "a disk that never completes a request: given up within the deadline",
        beds: Beds::Devices,
        deadline: 90,
        play: refusals::device_stuck,
    },
    Scenario {
        name: "refuse-nested-before-write",
        about: "a panic inside the dump before its first write ends in a record, not in a write",
        beds: Beds::Architectures,
        deadline: 60,
        play: refusals::nested_before_write,
    },
    Scenario {
        name: "refuse-no-entropy",
        about: "a label that demands encryption, and a CPU without random numbers",
        beds: Beds::Usual,
        deadline: 60,
        play: refusals::no_entropy,
    },
    Scenario {
        name: "nested-after-write",
        about: "a panic inside the dump after its first write leaves a dump that savecore reads",
        beds: Beds::Architectures,
        deadline: 60,
        play: dumps::nested_after_write,
    },
    Scenario {
        name: "double-panic",
        about: "two CPUs panic at once: one dumps, both are in the core",
        beds: Beds::Architectures,
        deadline: 60,
        play: dumps::double_panic,
    },
    Scenario {
        name: "two-dumps",
        about: "the dump of a second crash before the harvest goes after the first; both are saved",
        beds: Beds::Architectures,
        deadline: 120,
        play: dumps::two_dumps,
    },
    Scenario {
        name: "harvest-and-again",
        about: "the harvest lays the pattern again, check says ready, and the next crash dumps",
        beds: Beds::Usual,
        deadline: 120,
        play: dumps::harvest_and_again,
    },
    Scenario {
        name: "full-partition",
        about: "a partition smaller than memory gives a smaller dump that gdb opens",
        beds: Beds::Usual,
        deadline: 60,
        play: dumps::full_partition,
    },
    Scenario {
        name: "budget",
        about: "a dump that runs out of time is closed in order and readable",
        beds: Beds::Devices,
        deadline: 90,
        play: dumps::budget,
    },
    Scenario {
        name: "stuck-midway",
        about: "a disk that stops completing requests during a dump: given up in time, what was written is readable",
        beds: Beds::Usual,
        deadline: 90,
        play: dumps::stuck_midway,
    },
    Scenario {
        name: takeover::TAKEOVER,
        about: "the disk is taken over from a driver by interrupts that has reads and writes in flight: its blocks hold old data or what it wrote",
        beds: Beds::All,
        deadline: 120,
        play: takeover::takeover,
    },
    Scenario {
        name: "takeover-2004",
        about: "a driver by interrupts (NVMe) dumps with its own code, its timers and tasklets on the dump's private queues",
        beds: Beds::Usual,
        deadline: 120,
        play: takeover::old_style,
    },
    Scenario {
        name: "takeover-2004-late",
        about: "the same driver's timer runs out on the dump's private queue: the disk is given up, not a byte changed",
        beds: Beds::Usual,
        deadline: 90,
        play: takeover::late,
    },
    Scenario {
        name: "takeover-lock-held",
        about: "the same, when the crash comes inside that driver, with its lock held",
        beds: Beds::Usual,
        deadline: 120,
        play: takeover::lock_held,
    },
    Scenario {
        name: "verify-ahead",
        about: "checked just ahead of each write: whole on a good partition, stops before a foreign block",
        beds: Beds::Architectures,
        deadline: 120,
        play: dumps::verify_ahead,
    },
    Scenario {
        name: "verify-sample",
        about: "every n-th block checked: whole on a good partition, refused when a sampled block is foreign",
        beds: Beds::Usual,
        deadline: 120,
        play: dumps::verify_sample,
    },
    Scenario {
        name: "levels",
        about: "each dump level leaves out the pages that the kernel counts for it, and no others",
        beds: Beds::Architectures,
        deadline: 120,
        play: selection::levels,
    },
    Scenario {
        name: "level-31",
        about: "level 31: not one page that the kernel filled for users is in the core, and all others are",
        beds: Beds::Usual,
        deadline: 60,
        play: selection::level_31,
    },
    Scenario {
        name: "level-kernel-only",
        about: "level 32: the kernel's own pages are in the core, no others, and gdb needs no more",
        beds: Beds::Usual,
        deadline: 90,
        play: selection::kernel_only,
    },
    Scenario {
        name: "passes",
        about: "a partition too small: stacks, page tables and the kernel are complete, the rest is not; gdb shows all CPUs",
        beds: Beds::Architectures,
        deadline: 90,
        play: selection::passes,
    },
    Scenario {
        name: "packed",
        about: "LZ4: the dump takes less than half of its memory, and the core equals the machine",
        beds: Beds::Usual,
        deadline: 90,
        play: engine::packed,
    },
    Scenario {
        name: "pipelined",
        about: "checked ahead while it is written: several requests in flight, and no block written that was not read",
        beds: Beds::Usual,
        deadline: 90,
        play: engine::pipelined,
    },
    Scenario {
        name: "helpers",
        about: "three stopped CPUs do part of the work, and the core equals the machine",
        beds: Beds::Architectures,
        deadline: 90,
        play: engine::helpers,
    },
    Scenario {
        name: "helper-dead",
        about: "a helper CPU that dies costs only the units that it had taken",
        beds: Beds::Architectures,
        deadline: 90,
        play: |case| engine::lost_helper(case, "dead-helper"),
    },
    Scenario {
        name: "helper-late",
        about: "a helper CPU that comes back too late harms nothing",
        beds: Beds::Architectures,
        deadline: 90,
        play: |case| engine::lost_helper(case, "late-helper"),
    },
    Scenario {
        name: "encrypted",
        about: "encrypted: no known text on the disk, no bit changed unnoticed, and with the key the core equals the machine",
        beds: Beds::Architectures,
        deadline: 120,
        play: encrypted::encrypted,
    },
    Scenario {
        name: "encrypted-control",
        about: "the scan for known texts finds them in a dump that is not encrypted",
        beds: Beds::Usual,
        deadline: 60,
        play: encrypted::plain_is_found,
    },
    Scenario {
        name: "encrypted-shared",
        about: "a disk that nobody read before the crash: encrypted if the kernel was given the key, refused otherwise",
        beds: Beds::Usual,
        deadline: 60,
        play: encrypted::shared,
    },
    Scenario {
        name: "failover-io-error",
        about: "a write error during the dump: the first dump is closed, the second disk has a whole one",
        beds: Beds::Devices,
        deadline: 90,
        play: failover::io_error,
    },
    Scenario {
        name: "failover-unplugged",
        about: "a disk pulled during the dump: the second has a whole dump, the first is still readable",
        beds: Beds::Usual,
        deadline: 90,
        play: failover::unplugged,
    },
    Scenario {
        name: "failover-all-fail",
        about: "no disk works: the console says why for each, and no image changes",
        beds: Beds::Usual,
        deadline: 60,
        play: failover::all_fail,
    },
    Scenario {
        name: "failover-risky",
        about: "a disk that sleeps is used last, and only if that is allowed",
        beds: Beds::Architectures,
        deadline: 90,
        play: failover::risky,
    },
    Scenario {
        name: "striped",
        about: "two disks at once: both are closed, and make one core that equals the machine",
        beds: Beds::Architectures,
        deadline: 90,
        play: failover::striped,
    },
    Scenario {
        name: "bad-memory",
        about: "pages that fault when they are read are reported, and everything else is in the core",
        beds: Beds::Architectures,
        deadline: 90,
        play: engine::bad_memory,
    },
    Scenario {
        name: "snapshot",
        about: "a live kernel dumped twice: all CPUs continue, and the second dump comes after the first",
        beds: Beds::Architectures,
        deadline: 90,
        play: survive::snapshot,
    },
    Scenario {
        name: "oops",
        about: "a fault that the kernel survives is dumped, and the kernel continues",
        beds: Beds::Architectures,
        deadline: 60,
        play: survive::oops,
    },
    Scenario {
        name: "nmi",
        about: "the NMI button makes a dump, whether the kernel then continues or not",
        beds: Beds::Usual,
        deadline: 90,
        play: survive::nmi,
    },
    Scenario {
        name: "watchdog",
        about: "a watchdog's bite makes a dump, which pats the watchdog",
        beds: Beds::Usual,
        deadline: 90,
        play: survive::watchdog,
    },
    Scenario {
        name: "two-crashes",
        about: "the dump of a second crash goes after the first and leaves it unchanged, byte by byte",
        beds: Beds::Architectures,
        deadline: 60,
        play: survive::two_crashes,
    },
    Scenario {
        name: "metrics",
        about: "a dump's numbers agree with one another, with savecore's count, and with what the console said",
        beds: Beds::Architectures,
        deadline: 90,
        play: engine::metrics,
    },
];

/// The rows whose name contains `filter`. An exact match of the name or the scenario excludes all others.
pub fn matching(filter: &str) -> Vec<Row> {
    let all = rows();
    let exact: Vec<Row> =
        all.iter().filter(|row| row.name() == filter || row.scenario.name == filter).copied().collect();
    if !exact.is_empty() {
        return exact;
    }
    all.into_iter().filter(|row| row.name().contains(filter)).collect()
}

/// Runs a row in a new folder of its name. Its disk images are deleted if it succeeds, because they are
/// large.
///
/// # Errors
/// If what it should prove is not true, or its deadline passes.
pub fn run(row: &Row, programs: &Programs) -> Result<String> {
    let limit = Duration::from_secs(row.scenario.deadline);
    let case = Case::new(programs, row.bed, row.scenario.profile(), &row.name(), limit)?;
    let facts = (row.scenario.play)(&case)?;
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
        assert_eq!(matching("x86_64/virtio-blk/gdb").len(), 1);
        assert!(matching("gdb").iter().all(|row| row.scenario.name == "gdb"));
        assert!(matching("refuse-").len() > 5);
        assert!(matching("no such scenario").is_empty());
        assert_eq!(matching("").len(), rows().len());
    }

    #[test]
    fn every_scenario_is_played_somewhere() {
        for scenario in ALL {
            assert!(rows().iter().any(|row| row.scenario.name == scenario.name), "{}", scenario.name);
        }
    }
}
