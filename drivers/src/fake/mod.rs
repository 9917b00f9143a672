//! Register-level fakes of the controllers, for tests on a host: they stall, lie and disappear on demand.
//!
//! A fake interacts with the driver only as hardware would: by registers, configuration space and shared
//! memory. It records the driver's violations of the specification, and every access to memory that it was
//! not given.
//!
//! - `chassis.rs`: the common part of all fakes: [`Fake`], with a controller's [`Model`] in it
//! - `memory.rs`: memory within the device's reach, coherent or not
//! - `clock.rs`: time
//! - `lies.rs`: answers of a hostile device
//! - `pci.rs`: configuration space
//! - the others: one controller each

mod ahci;
mod ata;
mod chassis;
mod clock;
mod lies;
mod memory;
mod nvme;
mod pci;
mod virtio;

pub use ahci::{AhciFake, AhciFault, AhciFlush, AhciModel, AhciPlan, Attached};
pub use ata::{AtaModel, AtaPlan};
pub use chassis::{Chassis, Fake, Model, Window};
pub use clock::ClockPlatform;
pub use lies::{About, Change, Liar, Lie};
pub use memory::DmaMemory;
pub use nvme::{NvmeFake, NvmeFault, NvmeModel, NvmePlan};
pub use pci::ConfigBytes;
pub use virtio::{Counts, Fault, Front, MMIO_WINDOW, Plan, ScsiPlan, Virtio, VirtioFake};

use crate::bus::pci::Command;

/// Something with its own time.
pub trait Tick: Send + Sync {
    /// A moment passes: the clock was read.
    fn tick(&self);
}

/// Troubles of a disk of any kind. Requests are data requests and flushes, counted from 0 since the last
/// reset of the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// After a reset, the controller never becomes ready.
    NeverReady,
    /// A requested reset never ends.
    NeverResets,
    /// From this access to a register or to configuration space on, every read returns all ones.
    GoneAtAccess(u32),
    /// Requests from this one on never complete.
    NeverCompletes(u32),
    /// This request completes under an id without a request in flight.
    WrongId(u32),
    /// This request completes twice.
    Duplicate(u32),
    /// In addition to this one, a request completes that was never made.
    NeverAsked(u32),
    /// The controller moves less than the whole of this request's data, and reports so.
    Short(u32),
    /// This request fails, with the controller's usual error, and moves no data.
    Status(u32),
    /// This request and all after it fail.
    StatusFrom(u32),
    /// With this request, the controller fails as a whole, in its own way (fatal status, stopped engine).
    Fails(u32),
    /// The disk now has this many blocks.
    Shrinks(u64),
    /// MSI and MSI-X cannot be disabled.
    MsiStuck,
}

/// A test's access to a fake disk of any kind.
pub trait FakeDisk: Tick {
    /// Replaces the troubles. Resets the count of accesses.
    fn set_troubles(&self, troubles: Vec<Trouble>);
    /// Sets the liar for its answers from now on; `Liar::default()` is honest.
    fn set_liar(&self, liar: Liar);
    /// How often it was made to access memory outside its reach.
    fn strays(&self) -> u64;
    /// Pulls the device out.
    fn unplug(&self);
    /// Whether it is unplugged, by that or by its troubles.
    fn is_gone(&self) -> bool;
    /// Another driver has a request in flight that will write to `length` bytes at a bus address after
    /// `ticks` reads of the clock, unless the controller is reset before.
    fn foreign_request(&self, address: u64, length: usize, ticks: u32);
    /// Moves the registers' BAR elsewhere.
    fn move_bar(&self);
    /// Sends the function to sleep (D3). If it is `forgetful`, waking resets it.
    fn sleep(&self, forgetful: bool);
    /// Resets the function, as by someone who crashed before setting it up again.
    fn reset_function(&self);
    /// Whether PCI Express device control is as it was when the device was opened.
    fn agrees(&self) -> bool;
    /// The PCI command register.
    fn command(&self) -> Command;
    /// Sets the PCI command register.
    fn set_command(&self, command: Command);
    /// Whether any interrupt can still be raised by PCI means.
    fn interrupts_on(&self) -> bool;
    /// Number of writes to the device: registers and configuration space.
    fn writes(&self) -> u64;
    /// How often the cache was flushed.
    fn flushes(&self) -> u64;
    /// The disk's contents as read.
    fn disk(&self) -> Vec<u8>;
    /// The disk's contents after losing the cache.
    fn medium(&self) -> Vec<u8>;
    /// Fills the disk.
    fn fill(&self, bytes: &[u8]);
    /// The blocks of 4096 bytes that were written to.
    fn touched(&self) -> Vec<u64>;
    /// The driver's violations of the specification.
    fn violations(&self) -> Vec<String>;
}
