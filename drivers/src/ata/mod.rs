//! ATA disks on a PCI IDE controller: ATA/ATAPI Command Set (ATA8-ACS), the parallel transport (ATA8-APT),
//! PCI IDE Controller Specification 1.0, Programming Interface for Bus Master IDE Controller 1.0.
//!
//! - [`disk`]: the disk that receives a dump, and finding its controller.
//! - `channel`: one channel's registers: select, command, status, software reset.
//! - `bus_master`: DMA.

mod bus_master;
mod channel;
pub mod disk;
