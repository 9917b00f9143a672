//! The matrix of the Linux module: stock kernels that crash with diskdump.ko armed, and what must be true
//! afterwards.

mod control;
mod counted;
mod dumps;
mod faults;
mod judge;
mod levels;
mod row;
mod run;
mod savecore;
mod triggers;

pub use row::{Lab, Row};
pub(super) use run::ARM;

use row::Kind;

use super::kernel::{KERNELS, Kernel};
use crate::bed::{DEVICES, NVME_IN_SUBSYSTEM};

/// The devices that the module can take over, by their names in [`DEVICES`].
const TAKEN: [&str; 4] = ["virtio-blk", "virtio-scsi", "ahci", "nvme"];

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
            // The older cloud kernel has no AHCI driver.
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
    // A kernel with Rust has its own shim: each of its functions is used once.
    for on in TAKEN {
        add(dump, Kernel::RUST, on, if on == "nvme" { 4 } else { 2 }, on == "nvme");
    }
    // It is built without drivers for machine checks and pvpanic, which do not involve the shim.
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
