//! Register-level fakes of the controllers, for tests on a host: they stall, lie and disappear on demand.
//!
//! A fake reaches the driver only as hardware would: by registers, configuration space and shared memory. It keeps a
//! list of what the driver did against the specification, and every access to memory it was not given.
//!
//! - `chassis.rs`: what all fakes have in common: [`Fake`], with a controller's [`Model`] in it
//! - `memory.rs`: memory that the device reaches, coherent or not
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

/// Something that time passes for.
pub trait Tick: Send + Sync {
    /// A moment passes: somebody looked at the clock.
    fn tick(&self);
}

/// What can go wrong with a disk of any kind. Requests are those for data and flushes, counted from 0 since the last
/// reset of the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// After a reset, the controller never says that it is ready.
    NeverReady,
    /// A reset that was asked for never ends.
    NeverResets,
    /// From this access to a register or to configuration space on, all reads as ones.
    GoneAtAccess(u32),
    /// Requests from this one on never complete.
    NeverCompletes(u32),
    /// This request completes under an id that no request in flight has.
    WrongId(u32),
    /// This request completes twice.
    Duplicate(u32),
    /// Beside this one, a request completes that was never made.
    NeverAsked(u32),
    /// Of this request's data, the controller moves less than asked, and says so.
    Short(u32),
    /// This request fails, with whatever the controller has to say that, and moves no data.
    Status(u32),
    /// This request and all after it fail.
    StatusFrom(u32),
    /// With this request, the controller fails as a whole, in the way it has for that (fatal status, stopped engine).
    Fails(u32),
    /// The disk now has this many blocks.
    Shrinks(u64),
    /// MSI and MSI-X cannot be switched off.
    MsiStuck,
}

/// What a test does to a fake disk of any kind, and sees of it.
pub trait FakeDisk: Tick {
    /// Replaces what goes wrong. Accesses are counted from 0 again.
    fn set_troubles(&self, troubles: Vec<Trouble>);
    /// What it says from now on is told by this one; `Liar::default()` is honest.
    fn set_liar(&self, liar: Liar);
    /// How often it was made to reach for memory that is not there.
    fn strays(&self) -> u64;
    /// Pulls the device out.
    fn unplug(&self);
    /// Whether it is out, by that or by its troubles.
    fn is_gone(&self) -> bool;
    /// Another driver has a request in flight that will write to `length` bytes at a bus address in `ticks` looks at the
    /// clock, unless the controller is reset before.
    fn foreign_request(&self, address: u64, length: usize, ticks: u32);
    /// Moves the registers' BAR elsewhere.
    fn move_bar(&self);
    /// Sends the function to sleep (D3). If it is `forgetful`, waking resets it.
    fn sleep(&self, forgetful: bool);
    /// The function is reset, as by somebody who did not live to set it up again.
    fn reset_function(&self);
    /// Whether device control of PCI Express is as it was when the device was opened.
    fn agrees(&self) -> bool;
    /// The PCI command register.
    fn command(&self) -> Command;
    /// Sets the PCI command register.
    fn set_command(&self, command: Command);
    /// Whether any interrupt can still be raised by PCI's means.
    fn interrupts_on(&self) -> bool;
    /// How often anything of the device was written to: registers and configuration space.
    fn writes(&self) -> u64;
    /// How often the cache was flushed.
    fn flushes(&self) -> u64;
    /// The disk as a reader sees it.
    fn disk(&self) -> Vec<u8>;
    /// The disk as it is after the cache was lost.
    fn medium(&self) -> Vec<u8>;
    /// Fills the disk.
    fn fill(&self, bytes: &[u8]);
    /// Which blocks of 4096 bytes were written to.
    fn touched(&self) -> Vec<u64>;
    /// What the driver did against the specification.
    fn violations(&self) -> Vec<String>;
}
