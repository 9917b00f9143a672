//! Polled, self-checking disk drivers for crash dumps.
//!
//! Each driver takes its controller over from any earlier driver, by a reset, and then only polls: no
//! interrupt, no allocation, and no waiting except through [`Wait`](dumpcore::wait::Wait). All data from the
//! device is untrusted.
//!
//! - [`ahci`]: Serial ATA disks on AHCI 1.3.1, [`AhciDisk`].
//! - [`bus`]: access to controllers: registers, PCI, memory shared with the device.
//! - [`acs`]: the ATA command set, shared by AHCI and IDE disks.
//! - [`ata`]: ATA disks on a PCI IDE controller, by bus-master DMA or PIO: [`AtaDisk`].
//! - [`disk`]: the common part of all polled disks.
//! - [`nvme`]: NVM Express over PCI, and its disk, [`NvmeDisk`].
//! - [`table`]: the list of drivers.
//! - [`virtio`]: virtio 1.2 over PCI and MMIO, and its disks, [`VirtioBlk`] and [`VirtioScsi`].
//!
//! All register accesses go through [`Registers`] and all configuration space accesses through
//! [`ConfigSpace`], so that a register-level fake can replace the hardware; the feature `test-utils` includes
//! fakes in `fake`.

#![cfg_attr(not(any(test, feature = "test-utils")), no_std)]
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

pub mod acs;
pub mod ahci;
pub mod ata;
pub mod bus;
pub mod disk;
#[cfg(any(test, feature = "test-utils"))]
// The fakes run only in tests on a host, where a panic is a failed test.
#[allow(clippy::arithmetic_side_effects, clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]
pub mod fake;
pub mod nvme;
pub mod table;
pub mod virtio;

pub use ahci::disk::AhciDisk;
pub use ata::disk::AtaDisk;
pub use bus::access::Access;
pub use bus::mmio::Mmio;
pub use bus::pci::{ConfigSpace, Function};
#[cfg(target_arch = "x86_64")]
pub use bus::ports::PortWindow;
pub use bus::registers::Registers;
pub use disk::pio::Ram;
pub use nvme::disk::NvmeDisk;
pub use table::{DRIVERS, Driver};
pub use virtio::blk::{VirtioBlk, VirtioBlkMmio};
pub use virtio::scsi::{VirtioScsi, VirtioScsiMmio};

/// The integration from the book, compiled to keep it correct.
#[cfg(doctest)]
#[doc = include_str!("../../docs/src/guide/your-kernel.md")]
pub struct Guide;
