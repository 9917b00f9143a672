//! The normal drivers.

use dump_drivers::bus::pci::Function;

use super::traffic::Disk;
use super::{ahci, nvme, virtio};

/// A normal driver.
pub(crate) struct Driver {
    /// Its name on the command line (`live.on=`).
    pub(crate) name: &'static str,
    /// Starts it on the disk with this PCI function.
    pub(super) start: fn(Option<Function>) -> Result<&'static dyn Disk, &'static str>,
}

/// All drivers; the first one is the default.
pub(crate) static LIVE_DRIVERS: [Driver; 3] = [
    Driver { name: "virtio", start: virtio::start },
    Driver { name: "ahci", start: ahci::start },
    Driver { name: "nvme", start: nvme::start },
];
