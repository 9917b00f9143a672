//! The list of drivers. A new driver is a folder beside this file and a line here, and a feature in
//! Cargo.toml if builds may leave it out.
//!
//! Everything that exists per driver reads this table: the modules of this crate, the test kernel, the Linux
//! module, the panic check and the fuzzers. The matrix demands a machine with each disk.

use dumpcore::device::DeviceError;
use dumpcore::{Arena, DumpDevice};

use crate::disk::driver::{Driver, Machine, Site};

/// The table, one line per folder: the condition under which it is built, and its drivers. Each has its name
/// in configurations and on command lines, and the type that implements [`Driver`].
macro_rules! drivers {
    ($with:ident!) => {
        $with! {
            #[cfg(feature = "virtio")] virtio: "virtio-blk" blk::Pci, "virtio-blk-mmio" blk::Mmio,
                "virtio-scsi" scsi::Pci, "virtio-scsi-mmio" scsi::Mmio;
            #[cfg(feature = "ahci")] ahci: "ahci" disk::AhciDriver;
            #[cfg(feature = "nvme")] nvme: "nvme" disk::NvmeDriver;
            #[cfg(feature = "ata")] ata: "ata" disk::AtaDriver;
        }
    };
}

/// A driver in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Row {
    /// Its name in configurations and on command lines.
    pub name: &'static str,
    /// Its folder and module in this crate.
    pub folder: &'static str,
}

/// Something to do for each driver.
pub trait Visitor<M: Machine> {
    /// Does it for one driver.
    fn visit<D: Driver<M>>(&mut self, name: &'static str);
}

/// The drivers that this build has.
pub const DRIVERS: &[Row] = {
    macro_rules! rows {
        ($(#[cfg($if:meta)] $folder:ident: $($name:literal $file:ident::$driver:ident),+;)+) => {
            &[$($(
                #[cfg($if)]
                Row { name: $name, folder: stringify!($folder) },
            )+)+]
        };
    }
    drivers!(rows!)
};

macro_rules! functions {
    ($(#[cfg($if:meta)] $folder:ident: $($name:literal $file:ident::$driver:ident),+;)+) => {
        /// Where a disk is, by its driver's name and its number. A driver's disks are counted from 0. Only
        /// reads, as another driver may be using the disk.
        pub fn find<M: Machine>(name: &str, machine: &mut M, number: usize) -> Option<Site> {
            match name {
                $($(
                    #[cfg($if)]
                    $name => <crate::$folder::$file::$driver as Driver<M>>::find(machine, number),
                )+)+
                _ => {
                    // Used by no arm in a build without drivers.
                    let _ = (machine, number);
                    None
                }
            }
        }

        /// Opens a disk with the driver of this name, and moves it into the arena. Only reads, as another
        /// driver may be using the disk.
        ///
        /// # Errors
        /// Those of [`Driver::open`]; [`DeviceError::Unsupported`] if there is no such driver.
        pub fn open<M: Machine>(
            name: &str,
            machine: &mut M,
            site: &Site,
            arena: &mut Arena<'static>,
        ) -> Result<&'static mut dyn DumpDevice, DeviceError> {
            match name {
                $($(
                    #[cfg($if)]
                    $name => {
                        let disk = <crate::$folder::$file::$driver as Driver<M>>::open(machine, site, arena)?;
                        Ok(arena.place(disk)?)
                    }
                )+)+
                _ => {
                    let _ = (machine, site, arena);
                    Err(DeviceError::Unsupported { what: "a disk with a polled driver", value: 0 })
                }
            }
        }

        /// Calls the visitor for each driver, in the order of the table.
        pub fn visit<M: Machine>(visitor: &mut impl Visitor<M>) {
            let _ = &visitor;
            $($(
                #[cfg($if)]
                visitor.visit::<crate::$folder::$file::$driver>($name);
            )+)+
        }
    };
}
drivers!(functions!);
