//! Polled, self-checking disk drivers for crash dumps.
//!
//! Each driver takes its controller over from any earlier driver, by a reset, and then only polls: no
//! interrupt, no allocation, and no waiting except through [`Wait`](dumpcore::wait::Wait). All data from the
//! device is untrusted.
//!
//! - [`ahci`]: Serial ATA disks behind AHCI 1.3.1, [`AhciDisk`].
//! - [`bus`]: what a controller is reached by: registers, PCI, memory that is shared with the device.
//! - [`ata`]: ATA disks behind a PCI IDE controller, by bus-master DMA or PIO: [`AtaDisk`].
//! - [`disk`]: what every polled disk does, once.
//! - [`nvme`]: NVM Express over PCI, and its disk, [`NvmeDisk`].
//! - [`table`]: the list of drivers.
//! - [`virtio`]: virtio 1.2 over PCI and MMIO, and its disks, [`VirtioBlk`] and [`VirtioScsi`].
//!
//! All registers go through [`Registers`] and all configuration space through [`ConfigSpace`], so that a
//! register-level fake can stand in for the hardware; with the feature `_test-utils` there is one in `fake`.

#![cfg_attr(not(any(test, feature = "_test-utils")), no_std)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::arithmetic_side_effects,
        clippy::string_slice
    )
)]

#[macro_use]
pub mod table;

/// The folder of each driver in the table. (`cargo fmt` does not see them here: CONTRIBUTING.md says how they are formatted.)
macro_rules! folders {
    ($(#[cfg($if:meta)] $folder:ident: $($name:literal $file:ident::$driver:ident),+;)+) => {
        $(#[cfg($if)] pub mod $folder;)+
    };
}
drivers!(folders!);

#[cfg(any(feature = "ahci", feature = "ata"))]
#[cfg_attr(not(all(feature = "ahci", feature = "ata")), allow(dead_code, reason = "each uses a part of it"))]
#[allow(unreachable_pub, reason = "the drivers' own")]
mod acs;
pub mod bus;
pub mod disk;
#[cfg(any(test, feature = "_test-utils"))]
// The fakes run only in tests on a host, where a panic is a failed test.
#[allow(clippy::arithmetic_side_effects, clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]
pub mod fake;

#[cfg(feature = "ahci")]
pub use ahci::disk::AhciDisk;
#[cfg(feature = "ata")]
pub use ata::disk::AtaDisk;
pub use bus::access::Access;
pub use bus::mmio::Mmio;
pub use bus::pci::{ConfigSpace, Function};
#[cfg(target_arch = "x86_64")]
pub use bus::ports::PortWindow;
pub use bus::registers::Registers;
pub use disk::driver::{Driver, Machine, Ram};
#[cfg(feature = "nvme")]
pub use nvme::disk::NvmeDisk;
pub use table::DRIVERS;
#[cfg(feature = "virtio")]
pub use virtio::blk::{VirtioBlk, VirtioBlkMmio};
#[cfg(feature = "virtio")]
pub use virtio::scsi::{VirtioScsi, VirtioScsiMmio};
