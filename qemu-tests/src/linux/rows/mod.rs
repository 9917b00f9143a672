//! The matrix of the Linux module: stock kernels that crash with diskdump.ko armed, and what has to be true afterwards.

mod control;
mod counted;
mod dumps;
mod faults;
mod judge;
mod levels;
mod run;
mod savecore;
mod triggers;

use std::path::PathBuf;

use anyhow::Result;

pub(super) use run::ARM;

use super::readers::Readers;
use super::stock::{Flavour, KERNELS, Kernel, Stock};
use crate::bed::{DEVICES, Device, NVME_IN_SUBSYSTEM};
use crate::savecore::Savecore;

/// What a row is run with.
#[derive(Debug)]
pub struct Lab {
    /// The kernel.
    pub stock: Stock,
    /// The same with symbols, if they were asked for.
    pub vmlinux: Option<PathBuf>,
    /// diskdump.ko for it.
    pub module: PathBuf,
    /// faults.ko for it.
    pub faults: PathBuf,
    /// What harvests.
    pub savecore: Savecore,
    /// What judges.
    pub readers: Readers,
    /// Where everything goes.
    pub folder: PathBuf,
}

/// A row of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is proved, in one word.
    pub what: &'static str,
    /// The same in one sentence.
    pub about: &'static str,
    /// On which kernel.
    pub kernel: Kernel,
    /// On which device.
    pub device: &'static Device,
    /// With how many CPUs.
    pub cpus: u32,
    /// Whether it belongs to the short run.
    pub short: bool,
    run: fn(&Lab, &Row) -> Result<String>,
}

impl Row {
    /// `dump-6.1-cloud-nvme-2`.
    pub fn name(&self) -> String {
        format!("{}-{}-{}-{}", self.what, self.kernel.name(), self.device.name, self.cpus)
    }

    /// Runs it; gives its facts.
    ///
    /// # Errors
    /// If something is not as it has to be.
    pub fn run(&self, lab: &Lab) -> Result<String> {
        (self.run)(lab, self)
    }

    /// Whether it needs the kernel's symbols.
    pub fn wants_symbols(&self) -> bool {
        // Those of the usual kernels are three times as large, and prove no more.
        self.kernel.flavour == Flavour::Cloud && self.kernel != Kernel::NEWEST
    }
}

/// The devices that a module takes over, by their names among [`DEVICES`].
const TAKEN: [&str; 4] = ["virtio-blk", "virtio-scsi", "ahci", "nvme"];

/// Kind of a row: what, about, and what runs it.
type Kind = (&'static str, &'static str, fn(&Lab, &Row) -> Result<String>);

/// All rows.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let device = |name: &str| DEVICES.iter().find(|device| device.name == name);
    let mut add = |(what, about, run): Kind, kernel: Kernel, on: &str, cpus: u32, short: bool| {
        rows.extend(device(on).map(|device| Row { what, about, kernel, device, cpus, short, run }));
    };
    let [cloud, usual, new_cloud, new] = KERNELS;

    let dump: Kind = (
        "dump",
        "sysrq-c under load becomes cores that crash, drgn, makedumpfile and libkdumpfile open",
        dumps::dump,
    );
    for kernel in KERNELS {
        for on in TAKEN {
            // The older kernel for virtual machines has no driver for AHCI.
            if kernel == cloud && on == "ahci" {
                continue;
            }
            for cpus in [2, 4] {
                let short = [
                    (cloud, "virtio-blk", 2),
                    (usual, "ahci", 2),
                    (new_cloud, "nvme", 4),
                    (new, "virtio-scsi", 4),
                ];
                add(dump, kernel, on, cpus, short.contains(&(kernel, on, cpus)));
            }
        }
    }
    for kernel in [cloud, new_cloud] {
        let kdump: Kind = (
            "kdump",
            "a core of kdump's, of the same kernel and load, says the same to the same tools",
            dumps::as_kdump,
        );
        add(kdump, kernel, "virtio-blk", 2, kernel == cloud);
        let levels: Kind = (
            "levels",
            "each level keeps the pages that makedumpfile keeps of the same crash",
            levels::levels,
        );
        add(levels, kernel, "virtio-blk", 2, kernel == cloud);
        for (number, kind) in triggers::KINDS.into_iter().enumerate() {
            add(kind, kernel, "virtio-blk", 2, kernel == new_cloud && number < 3);
        }
        for (number, kind) in faults::KINDS.into_iter().enumerate() {
            add(kind, kernel, "virtio-blk", 2, kernel == cloud && number < 2);
        }
        for (number, kind) in savecore::KINDS.into_iter().enumerate() {
            add(kind, kernel, "virtio-blk", 2, kernel == cloud && number == 0);
        }
        for (number, kind) in control::KINDS.into_iter().enumerate() {
            add(kind, kernel, "virtio-blk", 2, kernel == cloud && number < 2);
        }
    }
    add(counted::COUNTED, cloud, "virtio-blk", 2, false);
    for on in ["virtio-blk", "nvme"] {
        add(counted::COUNTED, Kernel::NEWEST, on, 2, false);
    }
    // A kernel with Rust has a shim of its own: all that it lends is asked for once.
    for on in TAKEN {
        add(dump, Kernel::RUST, on, if on == "nvme" { 4 } else { 2 }, on == "nvme");
    }
    // It is built without the drivers of machine checks and of pvpanic, which are no part of the shim.
    let is_there = |kind: &Kind| !["mce", "pvpanic"].contains(&kind.0);
    for kind in triggers::KINDS.into_iter().chain(faults::KINDS).chain(control::KINDS).filter(is_there) {
        add(kind, Kernel::RUST, "virtio-blk", 2, kind.0 == "arming");
    }
    for on in ["nvme", "ahci", "virtio-blk"] {
        add(control::IOMMU, usual, on, 2, false);
        add(control::IOMMU, new, on, 2, on == "nvme");
    }
    let (what, about, run) = control::JOINED;
    rows.push(Row { what, about, kernel: cloud, device: &NVME_IN_SUBSYSTEM, cpus: 2, short: false, run });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_of_every_kernel_has_a_row_and_names_differ() {
        let rows = rows();
        let mut names: Vec<String> = rows.iter().map(Row::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(rows.iter().filter(|row| row.what == "dump").count(), 2 * (3 + 4 + 4 + 4) + 4);
        assert!(TAKEN.iter().all(|name| DEVICES.iter().any(|device| device.name == *name)));
        for kernel in KERNELS.into_iter().chain([Kernel::RUST]) {
            assert!(rows.iter().any(|row| row.short && row.kernel == kernel));
        }
        for name in TAKEN {
            assert!(rows.iter().any(|row| row.short && row.device.name == name));
        }
    }
}
