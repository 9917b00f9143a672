//! A normal driver uses the disk, by interrupts, timers and tasklets; and the crash comes while reads and writes are in flight.
//!
//! | file | what |
//! | --- | --- |
//! | `drivers.rs` | all of them |
//! | `traffic.rs` | what is read and written, so that the driver always has as much to do as it takes |
//! | `virtio.rs` | the crate `virtio-drivers`, which knows nothing of dumps |
//! | `ahci.rs` | a driver that knows nothing of dumps either |
//! | `nvme/` | a driver like that, which was taught to dump with its own code, as in 2004 |
//! | `probe.rs` | what a driver tells of itself |
//! | `memory.rs` | what drivers share with their devices |
//!
//! None has anything in common with the drivers that dump. Each sets its device up in its own way, and nobody asks it
//! before the dump takes the device over.

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

/// Starts the driver, and lets interrupts in on this CPU, the boot CPU, from now on.
pub(crate) fn start(armed: &Armed, options: &Options) -> Result<(), &'static str> {
    let disk = (options.live_driver.start)(armed.function)?;
    irq::enable();
    traffic::start(disk, Place { first: options.live_first, blocks: options.live_blocks })
}

/// Waits until the driver has done some work and is full of it; the crash comes next. From now on, the boot CPU has to
/// [`keep_going`].
pub(crate) fn warm_up(options: &Options) -> Result<(), &'static str> {
    traffic::warm_up()?;
    if options.live_locked {
        probe::panic_when_locked();
    }
    Ok(())
}

/// Says what was in flight when the dump stopped the driver. Nothing of it has changed since.
pub(crate) fn report() {
    let Some(flight) = traffic::flight() else { return };
    let mut line = Text::<256>::new();
    // Cannot fail: Text takes what fits.
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
