//! A normal driver uses the disk, by interrupts, timers and tasklets; and the crash comes while reads and writes are in flight.
//!
//! | file | what |
//! | --- | --- |
//! | `traffic.rs` | what is read and written, so that the driver always has as much to do as it takes |
//! | `virtio.rs` | the crate `virtio-drivers`, which knows nothing of dumps |
//! | `ahci.rs` | a driver that knows nothing of dumps either |
//! | `nvme/` | a driver like that, which was taught to dump with its own code, as in 2004 |
//! | `memory.rs` | what drivers share with their devices |
//!
//! None has anything in common with the drivers that dump. Each sets its device up in its own way, and nobody asks it
//! before the dump takes the device over.

mod ahci;
mod memory;
pub(crate) mod nvme;
mod traffic;
mod virtio;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::arch::{cpu, irq};
use crate::arm::Armed;
use crate::command_line::Options;
use crate::deferred;
use crate::log::Text;

pub(crate) use traffic::keep_going;
use traffic::{Disk, Transfer};

/// How long a request may take, in nanoseconds. Disks here are throttled.
const REQUEST_TIMEOUT: u64 = 10_000_000_000;

/// A normal driver.
pub(crate) struct Driver {
    /// Its name on the command line (`live.on=`).
    pub(crate) name: &'static str,
    start: fn(&Armed) -> Result<&'static dyn Disk, &'static str>,
}

/// All of them; the first is the usual one.
pub(crate) static DRIVERS: [Driver; 3] = [
    Driver { name: "virtio", start: virtio::start },
    Driver { name: "ahci", start: ahci::start },
    Driver { name: "nvme", start: nvme::start },
];

/// Interrupts of the disk that were handled.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// Set when a driver is to panic where it holds its lock.
static INSIDE: AtomicBool = AtomicBool::new(false);

/// Starts the driver, and lets interrupts in on this CPU, the boot CPU, from now on.
pub(crate) fn start(armed: &Armed, options: &Options) -> Result<(), &'static str> {
    let disk = (options.live_driver.start)(armed)?;
    irq::enable();
    traffic::start(disk, options)
}

/// Waits until the driver has done some work and is full of it; the crash comes next. From now on, the boot CPU has to
/// [`keep_going`].
pub(crate) fn warm_up(options: &Options) -> Result<(), &'static str> {
    traffic::warm_up()?;
    if options.live_locked {
        INSIDE.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// An interrupt of the disk has come.
fn count_interrupt() {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// Called by a driver in the middle of changing what its lock guards: panics if the scenario asks for that.
fn locked() {
    if INSIDE.swap(false, Ordering::Relaxed) {
        panic!("CPU {} panics with the driver's lock held, as the command line asks", cpu::number());
    }
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
            INTERRUPTS.load(Ordering::Relaxed),
        ),
    );
    crate::arch::console::write_raw(line.as_str());
}

/// Looks until something is so, for at most `limit` nanoseconds, and does what is due meanwhile.
fn wait_for(limit: u64, mut look: impl FnMut() -> bool) -> bool {
    let deadline = crate::arch::clock::now() + limit;
    loop {
        deferred::run();
        if look() {
            return true;
        }
        if crate::arch::clock::now() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
}
