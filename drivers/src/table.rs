//! The drivers there are. A new one is a folder beside this file, a feature in Cargo.toml, a line here, and what the
//! checks that read this table then ask for: the matrix a machine with such a disk, the panic check its code among what
//! was linked, the fuzzers a target.

/// A driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Driver {
    /// Its name in configurations and on command lines.
    pub name: &'static str,
    /// The module of this crate whose code runs for its disk.
    pub module: &'static str,
}

/// The drivers that this build has: those whose feature is on.
pub const DRIVERS: &[Driver] = &[
    #[cfg(feature = "virtio")]
    Driver { name: "virtio-blk", module: "virtio::disk" },
    #[cfg(feature = "virtio")]
    Driver { name: "virtio-blk-mmio", module: "virtio::disk" },
    #[cfg(feature = "virtio")]
    Driver { name: "virtio-scsi", module: "virtio::scsi" },
    #[cfg(feature = "virtio")]
    Driver { name: "virtio-scsi-mmio", module: "virtio::scsi" },
    #[cfg(feature = "ahci")]
    Driver { name: "ahci", module: "ahci::disk" },
    #[cfg(feature = "nvme")]
    Driver { name: "nvme", module: "nvme::disk" },
    #[cfg(feature = "ata")]
    Driver { name: "ata", module: "ata::disk" },
];
