//! Arming the dump while the kernel is healthy: an arena, a disk, and one call of `arm`.

use core::ptr::NonNull;

use dump_drivers::bus::pci::{Function, PortIo};
use dump_drivers::virtio::blk;
use dump_drivers::{Mmio, VirtioBlk};
use dumpcore::device::DeviceError;
use dumpcore::wait::{MILLISECOND, SECOND};
use dumpcore::{Arena, Config, Dump, DumpDevice, Ownership, Target};

use crate::arch::paging::{self, Access};
use crate::command_line::{Options, Scenario};
use crate::log::log;
use crate::panic::give_up;
use crate::{memory, platform};

/// The dump. One static, known to the panic handler.
pub(crate) static DUMP: Dump<'static> = Dump::new();

/// What is known of the disk and the arena after arming.
pub(crate) struct Armed {
    /// Physical address of the arena; equal to `arena_end` if there is none.
    pub(crate) arena_start: u64,
    /// First physical address behind it.
    pub(crate) arena_end: u64,
    /// Where in the arena the driver's part ends and the dump's own begins, in bytes.
    pub(crate) state_offset: u64,
    /// Which PCI function the disk is.
    pub(crate) function: Option<Function>,
    /// The disk and the rest of the arena, if they were left to a bench.
    pub(crate) disk: Option<(&'static mut dyn DumpDevice, Arena<'static>)>,
}

/// Access to PCI configuration space.
pub(crate) fn pci() -> PortIo {
    // SAFETY: the kernel runs in ring 0 on a PC. Only the boot CPU uses the ports while the kernel is healthy, and
    // afterwards only the CPU that dumps.
    unsafe { PortIo::new() }
}

/// Makes device registers visible.
fn map_device(physical: u64, length: usize) -> Option<Mmio> {
    // SAFETY: a driver asks for its device's registers, while the kernel boots.
    let start = unsafe { paging::map_physical(physical, length as u64, Access::Device) }.ok()?;
    // SAFETY: mapped just now, uncached, for ever.
    Some(unsafe { Mmio::new(NonNull::new(start)?, length) })
}

/// Arms the dump as the command line says. A refusal is reported, and the kernel goes on without a dump.
pub(crate) fn arm(options: &Options) -> Armed {
    let mut armed = Armed { arena_start: 0, arena_end: 0, state_offset: 0, function: None, disk: None };
    let Some(first_block) = options.disk_first else {
        log!("testkernel: not armed: the command line has no disk.first=");
        return armed;
    };
    // The arena is taken from ordinary RAM: whole pages in a row, which a device can reach.
    let Some(memory) = memory::take_bytes(options.arena_kib << 10, 1) else {
        give_up(format_args!("arena={}: there is not so much free RAM in a row", options.arena_kib));
    };
    let physical = paging::physical(memory.as_ptr());
    armed.arena_start = physical;
    armed.arena_end = physical + memory.len() as u64;
    // SAFETY: the frames lie in a row, at this physical address, which is also the one that devices use.
    let mut arena = unsafe { Arena::new(memory, physical, physical) };

    // The driver goes into the arena too: from the crash on, all that changes is in there.
    let timeout = options.timeout_ms.map_or(10 * SECOND, |ms| ms.saturating_mul(MILLISECOND));
    let device = match open_disk(&mut armed, timeout, &mut arena) {
        Ok(device) => device,
        Err(error) => {
            log!("testkernel: arm refused: {error}");
            return armed;
        }
    };
    armed.state_offset = arena.used().next_multiple_of(8) as u64;
    if options.scenario == Scenario::BenchPlain {
        armed.disk = Some((device, arena));
        return armed;
    }

    let name = alloc::string::String::from(device.name());
    let target = Target {
        device,
        first_block,
        blocks: options.disk_blocks,
        uuid: options.disk_uuid,
        ownership: if options.disk_shared { Ownership::Shared } else { Ownership::Exclusive },
    };
    let defaults = Config::default();
    let config = Config {
        verify: options.verify,
        budget: options.budget_ms.map_or(defaults.budget, |ms| ms.saturating_mul(MILLISECOND)),
        request_timeout: timeout,
        reset: options.reset,
        log_tail: options.log_bytes.unwrap_or(defaults.log_tail),
        queues: None,
    };
    match DUMP.arm(platform::get(), target, arena, config) {
        Ok(report) => log!(
            "testkernel: armed arena_used={} pages={} code_bytes={} arena={:#x}-{:#x} device={name}",
            report.arena_used,
            report.pages,
            report.code_bytes,
            armed.arena_start,
            armed.arena_end,
        ),
        Err(error) => log!("testkernel: arm refused: {error}"),
    }
    armed
}

/// The first virtio disk, with its driver in the arena.
fn open_disk(
    armed: &mut Armed,
    timeout: u64,
    arena: &mut Arena<'static>,
) -> Result<&'static mut dyn DumpDevice, DeviceError> {
    let function =
        blk::find(&pci(), 0).ok_or(DeviceError::Unsupported { what: "a virtio disk", value: 0 })?;
    armed.function = Some(function);
    let disk = VirtioBlk::open(pci(), function, map_device, arena, timeout)?;
    Ok(arena.place(disk)?)
}
