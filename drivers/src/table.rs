//! The drivers there are. A new one is a folder beside this file and a line here; if a build may do without it, also a
//! feature in Cargo.toml.
//!
//! Everything that exists per driver reads this table: the modules of this crate, the test kernel, the Linux
//! module, the panic check and the fuzzers. The matrix demands a machine with each disk.

use dumpcore::device::DeviceError;
use dumpcore::{Arena, DumpDevice};

use crate::disk::driver::{Driver, Machine, Site};

/// The table, a line a folder: the builds that have it, and its drivers, each by its name in configurations and on command
/// lines, and the type that is its [`Driver`].
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

/// A driver, as the table has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Row {
    /// Its name in configurations and on command lines.
    pub name: &'static str,
    /// The folder of this crate, and module, that has it.
    pub folder: &'static str,
}

/// Work to do for each driver.
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
        /// Where the disk with this number is, counted from 0 among those that the driver of this name finds. Reads only:
        /// another driver may be using it.
        pub fn find<M: Machine>(name: &str, machine: &mut M, number: usize) -> Option<Site> {
            match name {
                $($(
                    #[cfg($if)]
                    $name => <crate::$folder::$file::$driver as Driver<M>>::find(machine, number),
                )+)+
                _ => {
                    // Of a build without any driver.
                    let _ = (machine, number);
                    None
                }
            }
        }

        /// Opens the disk at a site by the driver of this name, and moves it into the arena. Reads only: another driver
        /// may be using it.
        ///
        /// # Errors
        /// As [`Driver::open`], and [`DeviceError::Unsupported`] if there is no such driver.
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
