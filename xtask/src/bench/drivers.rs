//! `cargo xtask bench drivers`: our polled drivers against Linux's own, on the same device and image of the
//! same machine.
//! machine.

use std::fs;

use anyhow::{Context, Result};
use dumpcore::format::BLOCK_SIZE;
use qemu_tests::bed::{Bed, DEVICES, X86_64};
use qemu_tests::linux::{self, Kernel, Parts, Stock};
use qemu_tests::machine::Machine;
use qemu_tests::scenarios::Programs;
use qemu_tests::serial::{self, Serial};
use serde_json::Value;

use super::guest::{Guest, LIMIT, MEMORY};
use super::row::{Row, median};
use crate::{CannotBegin, ui};

/// One of our drivers, and Linux's driver for the same device.
#[derive(Debug)]
struct Driver {
    /// The test kernel's name for it.
    name: &'static str,
    /// Linux's modules.
    modules: &'static [&'static str],
    /// MiB per measurement; less for QEMU's slow devices.
    mib: u64,
}

/// The drivers for all PCI devices.
static DRIVERS: [Driver; 6] = [
    Driver { name: "virtio-blk", modules: &["virtio_pci", "virtio_blk"], mib: MOST_MIB },
    Driver { name: "virtio-scsi", modules: &["virtio_pci", "virtio_scsi", "sd_mod"], mib: MOST_MIB },
    Driver { name: "ahci", modules: &["ahci", "sd_mod"], mib: MOST_MIB },
    Driver { name: "nvme", modules: &["nvme"], mib: MOST_MIB },
    Driver { name: "ata", modules: &["ata_piix", "sd_mod"], mib: MOST_MIB },
    Driver { name: "sdhci", modules: &["sdhci_pci", "mmc_block"], mib: 2 },
];

/// The script that the Linux guest runs.
const SCRIPT: &str = include_str!("drivers.sh");

/// Runs of each side, alternating.
const ROUNDS: usize = 7;
/// Measurements per run: many short ones, since disturbances come in bursts.
const PASSES: usize = 3;
/// Maximum MiB per measurement.
const MOST_MIB: u64 = 128;
/// Bytes per request of dd; of ours too, if the device allows it.
const REQUEST: u64 = 1 << 20;
/// KiB of arena: for more requests than any driver keeps in flight, and the driver's own needs.
const ARENA: u32 = 40 << 10;
/// More requests than any driver keeps in flight.
const DEEP: usize = 1 << 10;
/// With this many runnable processes per CPU, something else is running besides the bench.
const BUSY: f64 = 2.0;
/// Minimum ratio of a driver's rate to Linux's.
const GOAL: f64 = 1.0;
/// Maximum milliseconds from the crash until the device has written the first block of the dump.
const FIRST_GOAL: f64 = 1000.0;
/// The disk of both sides. Flushes cost nothing, so the speed of the host's own disk does not affect the
/// figures.
const DRIVE: &str = "cache=unsafe";

/// A device that both sides can drive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rivals {
    bed: Bed,
    driver: &'static Driver,
}

impl Rivals {
    fn name(&self) -> &'static str {
        self.bed.device.name
    }
}

/// All devices of x86_64, the stock kernel's architecture.
fn devices() -> impl Iterator<Item = Rivals> {
    DEVICES.iter().filter_map(|device| {
        let bed = Bed { architecture: X86_64, device };
        let driver = DRIVERS.iter().find(|driver| driver.name == device.driver && bed.machine().is_ok())?;
        Some(Rivals { bed, driver })
    })
}

/// The devices named `name`, or all.
///
/// # Errors
/// If there is no such device.
pub(super) fn chosen(name: Option<&str>) -> Result<Vec<Rivals>> {
    let chosen: Vec<Rivals> =
        devices().filter(|device| name.is_none_or(|name| device.name() == name)).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = devices().map(|device| device.name()).collect();
        let name = name.unwrap_or_default();
        return Err(
            CannotBegin(format!("no device of this bench is called {name}: {}", known.join(", "))).into()
        );
    }
    Ok(chosen)
}

/// The text above the table.
pub(super) fn about() -> String {
    format!(
        "our polled drivers against Linux's own, {PASSES} times in each of {ROUNDS} runs, in turn; medians"
    )
}

/// Measures; appends remarks on the figures to `notes`.
pub(super) fn rows(
    programs: &Programs,
    devices: &[Rivals],
    notes: &mut Vec<String>,
    quiet: bool,
) -> Result<Vec<Row>> {
    let stock = Stock::get(Kernel::USUAL, Parts::Image, &mut ui::Teller)
        .map_err(|error| CannotBegin(format!("{error:#}")))?;
    let mut rows = Vec::new();
    let mut load = load();
    for device in devices {
        let guest = Guest::on(device.bed, programs, MEMORY)?;
        rows.extend(device_rows(&guest, *device, &stock, quiet)?);
        // This includes our own load: one machine with its CPU and its disk threads.
        load = load.max(self::load());
    }
    // The folder takes gigabytes.
    let _ = fs::remove_dir_all(programs.folder.join("bench"));
    let kib = REQUEST >> 10;
    let sizes: Vec<String> =
        devices.iter().map(|device| format!("{} {} MiB", device.name(), device.driver.mib)).collect();
    notes.extend([
        format!(
            "ours: requests of {kib} KiB or the device's most, polled, as many as the driver has in flight, and a \
             flush at the end"
        ),
        format!(
            "theirs: Linux {}, busybox dd bs=1M with oflag=direct conv=fsync or iflag=direct, less what dd takes to \
             start",
            stock.release
        ),
        format!(
            "both: one CPU by QEMU's TCG, {MEMORY} MiB, the same device and raw image, {DRIVE}: its flushes cost nothing"
        ),
        format!("in each run: {}", sizes.join(", ")),
        "crash to first block: until the device had taken the front header, with verify=ahead"
            .to_owned(),
    ]);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if load > cpus as f64 * BUSY {
        notes.push(format!("beware: the host was busy ({load:.0} processes for {cpus} CPUs)"));
    }
    Ok(rows)
}

/// Mean number of runnable processes over the last minute; 0 if the system does not report it.
fn load() -> f64 {
    let said = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    said.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Measurements in one direction, in MB/s.
#[derive(Default)]
struct Rates {
    deep: Vec<f64>,
    one: Vec<f64>,
    linux: Vec<f64>,
}

fn device_rows(guest: &Guest<'_>, device: Rivals, stock: &Stock, quiet: bool) -> Result<Vec<Row>> {
    let (name, mib) = (device.name(), device.driver.mib);
    let stock = stock_machine(guest, device, stock)?;
    let (mut write, mut read) = (Rates::default(), Rates::default());
    let mut first = Vec::new();
    for _ in 0..ROUNDS {
        guest.format()?;
        first.push(first_blocks(guest, quiet)?);
        // Overwrites everything after the label; the label is kept.
        for (bench, rates) in [("plain", &mut write), ("reads", &mut read)] {
            for (depth, rates) in [(DEEP, &mut rates.deep), (1, &mut rates.one)] {
                let machine = guest
                    .machine(&format!("bench-{bench}"))
                    .drive(DRIVE)
                    .word(format!("arena={ARENA}"))
                    .word(format!("bench.bytes={}", mib << 20))
                    .word(format!("bench.request={REQUEST}"))
                    .word(format!("bench.depth={depth}"))
                    .word(format!("bench.passes={PASSES}"));
                rates.extend(guest.rates_of(&machine, quiet, bench)?);
            }
        }
        if !quiet {
            ui::running("Linux");
        }
        let serial = linux::finish(stock.start(&guest.folder, "stock")?, LIMIT)?;
        for (bench, rates) in [("write", &mut write), ("read", &mut read)] {
            rates.linux.extend(linux_rates(&serial, bench)?);
        }
    }
    let mut rows = Vec::new();
    for (direction, rates) in [("write", write), ("read", read)] {
        let row = |how: &str, ours, theirs, goal| {
            Row::rate("drivers", &format!("{name}, {direction}, {how}"), ours, theirs, goal)
        };
        let fastest = |rates: &[f64]| rates.iter().copied().fold(f64::NAN, f64::max);
        // Disturbances only slow a measurement down, so the fastest ones are the least disturbed.
        rows.push(row("in flight, fastest", fastest(&rates.deep), fastest(&rates.linux), None));
        let linux = median(rates.linux);
        rows.push(row("in flight", median(rates.deep), linux, Some(GOAL)));
        rows.push(row("one at a time", median(rates.one), linux, None));
    }
    rows.push(Row::time("drivers", &format!("{name}, crash to first block"), median(first), FIRST_GOAL));
    Ok(rows)
}

/// The machine that runs Linux.
fn stock_machine(guest: &Guest<'_>, device: Rivals, stock: &Stock) -> Result<Machine> {
    // dd counts in its own requests. It starts after the label.
    let first = guest.disk.dump.first * BLOCK_SIZE as u64 / REQUEST + 1;
    let mut linux = linux::Guest::new(
        stock,
        &format!("first={first}\ncount={}\npasses={PASSES}\n{SCRIPT}", device.driver.mib),
    );
    for module in device.driver.modules {
        linux = linux.module(module);
    }
    let machine = linux.machine(device.bed, &guest.folder, "stock")?.memory(MEMORY).resident();
    Ok(machine.disk(&guest.disk).drive(DRIVE))
}

/// The rates that stock Linux measured under this name, in MB/s: `linux: bench name=NAME bytes=N us=N`.
fn linux_rates(serial: &Serial, name: &str) -> Result<Vec<f64>> {
    let lines = serial.lines().iter().map(|line| line.text.as_str());
    let found = lines.filter(|line| {
        line.starts_with("linux: bench ") && serial::value(line, "name").is_some_and(|value| value == name)
    });
    let number = |line, key| serial::number(line, key).filter(|number| *number > 0);
    let rate = |line| Some(number(line, "bytes")? as f64 / number(line, "us")? as f64);
    let rates: Vec<f64> = found.filter_map(rate).collect();
    anyhow::ensure!(
        rates.len() == PASSES,
        "Linux measured {name} {} times instead of {PASSES}; log: {}",
        rates.len(),
        serial.path().display()
    );
    Ok(rates)
}

/// Milliseconds from the crash until the device has written the first block of the dump. The partition is
/// formatted.
fn first_blocks(guest: &Guest<'_>, quiet: bool) -> Result<f64> {
    let machine = guest.machine("bench-dump").drive(DRIVE).word("fill=1").word("verify=ahead");
    guest.run(&machine, quiet, "dump")?;
    let info = guest.savecore().expect(0, "info", &guest.disk, &[])?;
    let first = info.value.pointer("/dumps/0/metrics/first_write_seconds").and_then(Value::as_f64);
    let say =
        || format!("savecore does not say when the first block was written; log: {}", info.log.display());
    Ok(first.with_context(say)? * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_goes_by_its_name() {
        assert_eq!(chosen(None).unwrap().len(), devices().count());
        let one = chosen(Some("virtio-blk")).unwrap();
        assert!(one.iter().all(|device| device.name() == "virtio-blk") && one.len() == 1);
        let error = chosen(Some("punched cards")).unwrap_err();
        assert!(error.is::<CannotBegin>() && error.to_string().contains("virtio-blk"), "{error}");
    }

    #[test]
    fn linux_is_believed_only_if_it_measured_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let said = |us: &[u64]| {
            let path = folder.path().join("log");
            let lines = us.iter().map(|us| format!("linux: bench name=read bytes=1000 us={us}\r\n"));
            fs::write(&path, lines.collect::<String>() + "linux: bench name=write bytes=1 us=1\r\n").unwrap();
            let mut serial = Serial::new(&path);
            serial.update().unwrap();
            linux_rates(&serial, "read")
        };
        let passes = [10; PASSES];
        assert_eq!(said(&passes).unwrap(), [100.0; PASSES]);
        assert!(said(&passes[1..]).is_err());
        // A time of zero is invalid.
        assert!(said(&[&passes[1..], &[0]].concat()).is_err());
    }

    #[test]
    fn what_is_measured_fits_behind_the_label() {
        // Guest::on() makes the partition a little larger than RAM.
        assert!(DRIVERS.iter().all(|driver| driver.mib <= MOST_MIB));
        assert!((MOST_MIB + 1) * REQUEST <= (u64::from(MEMORY) * 256 + 4096) * BLOCK_SIZE as u64);
    }
}
