//! The list of drivers. A new driver is a folder next to this file and a line here; the checks that read this
//! table then require the rest: a machine with such a disk in the matrix, the driver's code in the program of
//! the panic check, and a fuzz target.

/// A driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Driver {
    /// Its name in configurations and on command lines.
    pub name: &'static str,
    /// The module of this crate with its disk.
    pub module: &'static str,
}

/// All drivers.
pub const DRIVERS: [Driver; 7] = [
    Driver { name: "virtio-blk", module: "virtio::disk" },
    Driver { name: "virtio-blk-mmio", module: "virtio::disk" },
    Driver { name: "virtio-scsi", module: "virtio::scsi" },
    Driver { name: "virtio-scsi-mmio", module: "virtio::scsi" },
    Driver { name: "ahci", module: "ahci::disk" },
    Driver { name: "nvme", module: "nvme::disk" },
    Driver { name: "ata", module: "ata::disk" },
];
