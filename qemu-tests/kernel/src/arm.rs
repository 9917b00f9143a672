//! Arming the dump while the kernel is healthy: an arena, one or more disks, and one call to `arm`.

use alloc::vec::Vec;

use dump_drivers::bus::pci::Function;
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{Arena, Config, DumpDevice, Encoding, Ownership, PageClass, Target};

use crate::arch::cpu;
use crate::arch::paging;
use crate::command_line::{Options, Scenario};
use crate::dump::{self, DUMP};
use crate::end::give_up;
use crate::log::log;
use crate::scenario::live;
use crate::{disks, memory, stop};

/// The disk and the arena after arming.
pub(crate) struct Armed {
    /// Physical address of the arena; equal to `arena_end` if there is none.
    pub(crate) arena_start: u64,
    /// First physical address after it.
    pub(crate) arena_end: u64,
    /// The PCI function of the first disk.
    pub(crate) function: Option<Function>,
    /// The first disk and the rest of the arena, if they are left to a benchmark.
    pub(crate) disk: Option<(&'static mut dyn DumpDevice, Arena<'static>)>,
}

/// Arms the dump as requested on the command line. A refusal is reported, and the kernel continues without a
/// dump.
pub(crate) fn arm(options: &Options) -> Armed {
    let mut armed = Armed { arena_start: 0, arena_end: 0, function: None, disk: None };
    if options.disks.iter().all(|disk| disk.first.is_none() && disk.find.is_none()) {
        log!("testkernel: not armed: the command line has no disk.first=");
        return armed;
    }
    // The arena is taken from ordinary RAM: contiguous whole pages, accessible to devices.
    let Some(memory) = memory::take_bytes(options.arena_kib << 10, 1, PageClass::KernelData) else {
        give_up(format_args!("arena={}: there is not so much free RAM in a row", options.arena_kib));
    };
    let physical = paging::physical(memory.as_ptr());
    armed.arena_start = physical;
    armed.arena_end = physical + memory.len() as u64;
    // SAFETY: the frames are contiguous at this physical address, which is also the bus address.
    let mut arena = unsafe { Arena::new(memory, physical, physical) };

    // Stacks of stopped CPUs and drivers are in the arena too: from the crash on, only the arena changes.
    for cpu in 0..if cpu::count() > 1 { cpu::count() } else { 0 } {
        match arena.bytes(stop::STACK, 16) {
            Ok(stack) => stop::lend_stack(cpu, stack),
            Err(_) => give_up(format_args!("arena={}: too small", options.arena_kib)),
        }
    }
    let timeout = options.timeout_ms.map_or(10 * SECOND, |ms| ms.saturating_mul(MILLISECOND));
    let mut targets = Vec::new();
    for (number, disk) in options.disks.iter().enumerate() {
        if disk.first.is_none() && disk.find.is_none() {
            continue;
        }
        let driver = disk.driver;
        // The drivers number their own disks.
        let before = options.disks.iter().take(number).filter(|other| other.driver.name == driver.name);
        let before = before.count();
        let Some(count) = disk.pci.map_or(Some(before), |address| driver.number_at(address)) else {
            log!("testkernel: arm refused: disk {number}: no {} at that place", driver.name);
            return armed;
        };
        let (function, device) = match driver.open(count, timeout, &mut arena) {
            Ok(opened) => opened,
            Err(error) => {
                log!("testkernel: arm refused: disk {number}: {error}");
                return armed;
            }
        };
        armed.function = armed.function.or(function);
        let place = match &disk.find {
            Some(by) => disks::locate(device, by, &mut arena),
            None => Ok((disk.first.unwrap_or(0), disk.blocks)),
        };
        let (first_block, blocks) = match place {
            Ok(place) => place,
            Err(why) => {
                log!("testkernel: arm refused: disk {number}: {why}");
                return armed;
            }
        };
        targets.push(Target {
            device,
            first_block,
            blocks,
            uuid: disk.uuid,
            recipient: disk.recipient,
            ownership: if disk.shared { Ownership::Shared } else { Ownership::Exclusive },
        });
    }
    if matches!(options.scenario, Scenario::BenchPlain | Scenario::BenchReads | Scenario::BenchVerify) {
        armed.disk = targets.into_iter().next().map(|target| (target.device, arena));
        return armed;
    }

    let names: Vec<_> =
        targets.iter().map(|target| alloc::string::String::from(target.device.name())).collect();
    let name = names.join(", ");
    match DUMP.arm(dump::platform(), targets, arena, config(options, timeout)) {
        Ok(report) => log!(
            "testkernel: armed arena_used={} pages={} code_bytes={} arena={:#x}-{:#x} helpers={} targets={} encoding={} device={name}",
            report.arena_used,
            report.pages,
            report.code_bytes,
            armed.arena_start,
            armed.arena_end,
            report.helpers,
            report.targets,
            if report.encoding == Encoding::Units { "lz4" } else { "plain" },
        ),
        Err(error) => log!("testkernel: arm refused: {error}"),
    }
    armed
}

/// The configuration from the command line, with defaults for the rest.
fn config(options: &Options, request_timeout: u64) -> Config<'static> {
    let usual = Config::default();
    Config {
        verify: options.verify,
        budget: options.budget_ms.map_or(usual.budget, |ms| ms.saturating_mul(MILLISECOND)),
        request_timeout,
        reset: options.reset,
        log_tail: options.log_bytes.unwrap_or(usual.log_tail),
        queues: live::nvme::queues(),
        level: options.level.unwrap_or(usual.level),
        encoding: options.encoding.unwrap_or(usual.encoding),
        helpers: options.helpers.unwrap_or(usual.helpers),
        helper_patience: options
            .patience_ms
            .map_or(usual.helper_patience, |ms| ms.saturating_mul(MILLISECOND)),
        allow_risky: options.risky.unwrap_or(usual.allow_risky),
        stripe: options.stripe.unwrap_or(usual.stripe),
        clear_after_encrypted: usual.clear_after_encrypted,
    }
}
