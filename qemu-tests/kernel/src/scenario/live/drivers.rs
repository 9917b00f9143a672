//! All of the normal drivers.

use dump_drivers::bus::pci::Function;

use super::traffic::Disk;
use super::{ahci, nvme, virtio};

/// A normal driver.
pub(crate) struct Driver {
    /// Its name on the command line (`live.on=`).
    pub(crate) name: &'static str,
    /// Starts it on the disk that is this PCI function.
    pub(super) start: fn(Option<Function>) -> Result<&'static dyn Disk, &'static str>,
}

/// All of them; the first is the usual one.
pub(crate) static LIVE_DRIVERS: [Driver; 3] = [
    Driver { name: "virtio", start: virtio::start },
    Driver { name: "ahci", start: ahci::start },
    Driver { name: "nvme", start: nvme::start },
];
