//! A guest for measurements.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use dumpcore::format::BLOCK_SIZE;
use dumpcore::format::chunk::MAX_PAYLOAD_BLOCKS;
use qemu_tests::bed::{Bed, X86_64};
use qemu_tests::image::Disk;
use qemu_tests::machine::Machine;
use qemu_tests::savecore::Savecore;
use qemu_tests::scenarios::{Build, Programs};
use qemu_tests::serial::{self, Serial};

use super::row::median;
use crate::ui;

/// Runs of each side.
pub(super) const RUNS: usize = 7;
/// Bytes of a plain write, the same as for a dump: a chunk header and its payload.
pub(super) const REQUEST: usize = (1 + MAX_PAYLOAD_BLOCKS) * BLOCK_SIZE;
/// MiB of noise in the guest's memory, so that this much must be written.
pub(super) const FILL: u32 = 448;
/// MiB of RAM of the guest.
pub(super) const MEMORY: u32 = 512;
/// A run that takes longer has hung.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// Almost nothing is checked before it is written.
pub(super) const UNVERIFIED: &str = "verify=sample:1000000000";

/// A guest to be measured, and its folder.
pub(super) struct Guest<'a> {
    pub(super) programs: &'a Programs,
    pub(super) folder: PathBuf,
    pub(super) disk: Disk,
    /// The machine and the bus of its disk.
    pub(super) bed: Bed,
    /// MiB of RAM.
    pub(super) memory: u32,
    /// Bytes per second of the disk; `None`: as fast as the host.
    pub(super) disk_speed: Option<u64>,
}

impl<'a> Guest<'a> {
    pub(super) fn new(programs: &'a Programs) -> Result<Guest<'a>> {
        Guest::with_memory(programs, MEMORY)
    }

    /// A guest with `memory` MiB of RAM.
    pub(super) fn with_memory(programs: &'a Programs, memory: u32) -> Result<Guest<'a>> {
        Guest::on(Bed::usual(), programs, memory)
    }

    /// A guest on another device.
    pub(super) fn on(bed: Bed, programs: &'a Programs, memory: u32) -> Result<Guest<'a>> {
        let folder = programs.folder.join("bench");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        // Room for the noise, the rest of the kernel's memory, headers and checksums.
        let blocks = u64::from(memory) * 256 + 4096;
        let disk = Disk::create(&folder.join("disk.raw"), blocks)?;
        if bed.device.power_of_two {
            disk.round_up()?;
        }
        Ok(Guest { programs, folder, disk, bed, memory, disk_speed: None })
    }

    pub(super) fn savecore(&self) -> Savecore {
        Savecore::new(&self.programs.savecore, &self.folder, LIMIT)
    }

    pub(super) fn format(&self) -> Result<()> {
        // Overwrites the previous run's dump without asking.
        self.savecore().expect(0, "format", &self.disk, &["--yes", "--force"])?;
        Ok(())
    }

    pub(super) fn machine(&self, scenario: &str) -> Machine {
        let machine = Machine::new(self.bed, self.programs.kernel(Build::release(X86_64)))
            .cpus(1)
            .memory(self.memory)
            .resident()
            .disk(&self.disk)
            .word(format!("scenario={scenario}"))
            .word("reset=return");
        match self.disk_speed {
            Some(speed) => machine.drive(format!("throttling.bps-total={speed}")),
            None => machine,
        }
    }

    /// Runs a guest to its end; returns its output.
    pub(super) fn run(&self, machine: &Machine, quiet: bool, what: &str) -> Result<Serial> {
        if !quiet {
            ui::running(what);
        }
        let mut running = machine.start(&self.folder, "bench")?;
        running.wait_exit(LIMIT)?;
        Ok(running.serial)
    }

    /// Runs a guest to its end; returns its measured rates by name, in MB/s.
    pub(super) fn rates(&self, machine: &Machine, quiet: bool, what: &str) -> Result<Vec<(String, f64)>> {
        let serial = self.run(machine, quiet, what)?;
        let rates: Vec<(String, f64)> = measured(&serial)
            .filter_map(|line| {
                let name = serial::value(line, "name")?.to_owned();
                let bytes = serial::number(line, "bytes")? as f64;
                let nanoseconds = serial::number(line, "ns")?.max(1) as f64;
                Some((name, bytes * 1000.0 / nanoseconds))
            })
            .collect();
        anyhow::ensure!(
            !rates.is_empty(),
            "{what}: the guest measured nothing, its last line: `{}`; log: {}",
            serial.last(),
            serial.path().display()
        );
        Ok(rates)
    }

    /// The rate with this name; the median if there are several.
    pub(super) fn rate(&self, machine: &Machine, quiet: bool, name: &str) -> Result<f64> {
        Ok(median(self.rates_of(machine, quiet, name)?))
    }

    /// All rates with this name, at least one.
    pub(super) fn rates_of(&self, machine: &Machine, quiet: bool, name: &str) -> Result<Vec<f64>> {
        let rates = self.rates(machine, quiet, name)?;
        let found: Vec<f64> =
            rates.into_iter().filter(|(found, _)| found == name).map(|(_, rate)| rate).collect();
        anyhow::ensure!(
            !found.is_empty(),
            "the guest did not measure {name}; log: {}",
            self.folder.display()
        );
        Ok(found)
    }
}

/// The lines with a guest's measurements: `testkernel: bench name=NAME bytes=N ns=N …`.
pub(super) fn measured(serial: &Serial) -> impl Iterator<Item = &str> {
    serial
        .lines()
        .iter()
        .map(|line| line.text.as_str())
        .filter(|line| line.contains("testkernel: bench name="))
}

/// A compressor's results on a guest's memory.
pub(super) struct Packing {
    /// The compressor, and the pages of its unit.
    pub(super) name: String,
    /// MB of memory per second.
    pub(super) rate: f64,
    /// Bytes of memory / compressed bytes.
    pub(super) shrinks: f64,
}

impl Guest<'_> {
    /// Lets the guest compress `fill` MiB of memory of a kind, in each way of the scenario.
    pub(super) fn packing(&self, scenario: &str, fill: u32, kind: &str, quiet: bool) -> Result<Vec<Packing>> {
        let machine = self.machine(scenario).word(format!("fill={fill}")).word(format!("fill.kind={kind}"));
        let serial = self.run(&machine, quiet, scenario)?;
        let read = |line: &str| {
            let say = || format!("cannot read `{line}`");
            let number = |key: &str| serial::number(line, key).map(|number| number.max(1) as f64);
            let name = serial::value(line, "name").with_context(say)?.to_owned();
            let (bytes, packed) = number("bytes").zip(number("packed")).with_context(say)?;
            let rate = bytes * 1000.0 / number("ns").with_context(say)?;
            Ok(Packing { name, rate, shrinks: bytes / packed })
        };
        measured(&serial).map(read).collect()
    }
}
