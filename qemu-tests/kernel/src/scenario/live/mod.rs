//! A normal driver uses the disk with interrupts, timers and tasklets; the crash happens while reads and
//! writes are in flight.
//!
//! | file | contents |
//! | --- | --- |
//! | `drivers.rs` | the list of drivers |
//! | `traffic.rs` | the load: as many reads and writes as the driver accepts |
//! | `virtio.rs` | the crate `virtio-drivers`, which knows nothing about dumps |
//! | `ahci.rs` | a driver that knows nothing about dumps either |
//! | `nvme/` | a similar driver that was adapted to dump with its own code, as in 2004 |
//! | `probe.rs` | hooks called by drivers |
//! | `memory.rs` | memory that drivers share with their devices |
//!
//! None of them shares code with the drivers that dump. Each sets its device up in its own way, and gets no
//! notice before the dump takes the device over.

mod ahci;
pub(crate) mod drivers;
mod memory;
pub(crate) mod nvme;
mod probe;
mod traffic;
mod virtio;

use crate::arch::irq;
use crate::arm::Armed;
use crate::command_line::Options;
use crate::log::Text;

use traffic::Place;
pub(crate) use traffic::keep_going;

/// Starts the driver, and enables interrupts on this CPU, the boot CPU.
pub(crate) fn start(armed: &Armed, options: &Options) -> Result<(), &'static str> {
    let disk = (options.live_driver.start)(armed.function)?;
    irq::enable();
    traffic::start(disk, Place { first: options.live_first, blocks: options.live_blocks })
}

/// Waits until the driver has done some work and is busy; the crash comes next. From now on, the boot CPU has
/// to call [`keep_going`].
pub(crate) fn warm_up(options: &Options) -> Result<(), &'static str> {
    traffic::warm_up()?;
    if options.live_locked {
        probe::panic_when_locked();
    }
    Ok(())
}

/// Reports the requests in flight when the dump stopped the driver; they have not changed since.
pub(crate) fn report() {
    let Some(flight) = traffic::flight() else { return };
    let mut line = Text::<256>::new();
    // Cannot fail: Text accepts what fits.
    let _ = core::fmt::Write::write_fmt(
        &mut line,
        format_args!(
            "testkernel: live driver={} in_flight_reads={} in_flight_writes={} done_reads={} done_writes={} interrupts={}\n",
            flight.driver,
            flight.in_flight[0],
            flight.in_flight[1],
            flight.done[0],
            flight.done[1],
            probe::interrupts(),
        ),
    );
    crate::arch::console::write_raw(line.as_str());
}
