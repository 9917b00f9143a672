//! The entry points of the dump path.

use core::hint::black_box;
use core::panic::PanicInfo;

#[cfg(target_arch = "x86_64")]
use dump_drivers::PortWindow;
use dump_drivers::bus::pci::Ecam;
#[cfg(target_arch = "x86_64")]
use dump_drivers::bus::pci::PortIo;
use dump_drivers::{AhciDisk, AtaDisk, Mmio, NvmeDisk, VirtioBlk, VirtioBlkMmio, VirtioScsi, VirtioScsiMmio};
use dumpcore::deferred::{Handler, Queues};
use dumpcore::platform::Nanoseconds;
use dumpcore::wait::Wait;
use dumpcore::{Crash, Dump, DumpDevice, Platform};

use crate::outside::{Least, Slowest};

/// The input from a kernel, unknown to the optimiser.
pub(crate) struct Outside<'a> {
    dump: &'a Dump<'static>,
    platform: &'a dyn Platform,
    crash: Crash<'a>,
    queues: &'a Queues,
    handler: Handler,
    time: Nanoseconds,
    least: &'a Least,
    slowest: &'a mut Slowest,
    ecam_blk: &'a mut VirtioBlk<Mmio, Ecam<Mmio>>,
    ecam_scsi: &'a mut VirtioScsi<Mmio, Ecam<Mmio>>,
    ecam_nvme: &'a mut NvmeDisk<Mmio, Ecam<Mmio>>,
    mmio_blk: &'a mut VirtioBlkMmio<Mmio>,
    mmio_scsi: &'a mut VirtioScsiMmio<Mmio>,
    ecam_ahci: &'a mut AhciDisk<Mmio, Ecam<Mmio>>,
    #[cfg(target_arch = "x86_64")]
    port_ahci: &'a mut AhciDisk<Mmio, PortIo>,
    #[cfg(target_arch = "x86_64")]
    port_blk: &'a mut VirtioBlk<Mmio, PortIo>,
    #[cfg(target_arch = "x86_64")]
    port_scsi: &'a mut VirtioScsi<Mmio, PortIo>,
    #[cfg(target_arch = "x86_64")]
    port_nvme: &'a mut NvmeDisk<Mmio, PortIo>,
    ecam_ata: &'a mut AtaDisk<Mmio, Ecam<Mmio>>,
    #[cfg(target_arch = "x86_64")]
    port_ata: &'a mut AtaDisk<PortWindow, PortIo>,
}

/// The entry, under the name that linkers expect.
#[unsafe(no_mangle)]
fn _start(outside: &mut Outside<'_>) {
    dump(outside);
    platform(outside.least);
    device(outside.slowest);
    device(outside.ecam_blk);
    device(outside.ecam_scsi);
    device(outside.ecam_nvme);
    device(outside.mmio_blk);
    device(outside.mmio_scsi);
    device(outside.ecam_ahci);
    #[cfg(target_arch = "x86_64")]
    device(outside.port_ahci);
    #[cfg(target_arch = "x86_64")]
    device(outside.port_blk);
    #[cfg(target_arch = "x86_64")]
    device(outside.port_scsi);
    #[cfg(target_arch = "x86_64")]
    device(outside.port_nvme);
    device(outside.ecam_ata);
    #[cfg(target_arch = "x86_64")]
    device(outside.port_ata);
    deferred(outside);
}

/// The calls of a kernel, on the dumping CPU and on stopped ones.
fn dump(outside: &Outside<'_>) {
    black_box(outside.dump.crash(outside.platform, &outside.crash));
    black_box(outside.dump.snapshot(outside.platform, &outside.crash));
    outside.dump.help(outside.platform);
    black_box(outside.dump.resumes());
    black_box(dumpcore::crashdump_mode());
}

/// Links all methods of a platform, including default ones.
fn platform(platform: &dyn Platform) {
    black_box(platform);
}

/// Links all methods of a device, including default ones.
fn device(device: &mut dyn DumpDevice) {
    black_box(device);
}

/// The calls of a driver that keeps its own code through a dump.
fn deferred(outside: &Outside<'_>) {
    let Outside { platform, queues, handler, time, .. } = outside;
    let _ = black_box(queues.set_timer(*platform, *handler, *time));
    let _ = black_box(queues.delete_timer(*platform, *handler));
    let _ = black_box(queues.schedule_tasklet(*platform, *handler));
    let wait = Wait::new(*platform, Some(queues), *time);
    wait.pause(*time);
}

/// Linked only if a panic is reachable. Never inlined, so that its name can be found. It uses its argument,
/// so that the locations of panics are linked too.
#[panic_handler]
#[inline(never)]
fn panicked(info: &PanicInfo<'_>) -> ! {
    black_box(info);
    // Bounded: never run.
    loop {
        core::hint::spin_loop();
    }
}
