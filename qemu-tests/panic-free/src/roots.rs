//! The entry points of the dump path.

use core::convert::Infallible;
use core::hint::black_box;
use core::marker::PhantomData;
use core::panic::PanicInfo;

#[cfg(target_arch = "x86_64")]
use dump_drivers::PortWindow;
use dump_drivers::bus::pci::Ecam;
#[cfg(target_arch = "x86_64")]
use dump_drivers::bus::pci::PortIo;
use dump_drivers::table::{self, Visitor};
use dump_drivers::{ConfigSpace, Driver, Machine, Mmio, Registers};
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
}

/// The entry, under the name that linkers expect.
#[unsafe(no_mangle)]
fn _start(outside: &mut Outside<'_>) {
    dump(outside);
    platform(outside.least);
    device(outside.slowest);
    table::visit(&mut Drivers::<Mmio, Ecam<Mmio>>(PhantomData));
    #[cfg(target_arch = "x86_64")]
    table::visit(&mut Drivers::<PortWindow, PortIo>(PhantomData));
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
fn device<D: DumpDevice>(device: &mut D) {
    let device: &mut dyn DumpDevice = device;
    black_box(device);
}

/// All drivers in the table, on a machine with such ports and such a way to configuration space.
struct Drivers<P, C>(PhantomData<(P, C)>);

impl<P: Registers + 'static, C: ConfigSpace + 'static> Visitor<Nowhere<P, C>> for Drivers<P, C> {
    fn visit<D: Driver<Nowhere<P, C>>>(&mut self, _: &'static str) {
        // A disk comes from outside, as far as the optimiser knows.
        let root: fn(&mut D::Disk) = device::<D::Disk>;
        black_box(root);
    }
}

/// The types of a machine that is never there: opening a disk is no part of a dump.
struct Nowhere<P, C> {
    never: Infallible,
    types: PhantomData<(P, C)>,
}

impl<P: Registers + 'static, C: ConfigSpace + 'static> Machine for Nowhere<P, C> {
    type Config = C;
    type Registers = Mmio;
    type Ports = P;

    fn config(&self) -> C {
        let _ = self.types;
        match self.never {}
    }

    fn map(&mut self, _: u64, _: usize) -> Option<Mmio> {
        match self.never {}
    }

    fn timeout(&self) -> Nanoseconds {
        match self.never {}
    }
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
