//! The test beds of the matrix: architectures, and the disks that QEMU provides on each.

/// An architecture.
#[derive(Debug)]
pub struct Architecture {
    /// Its name.
    pub name: &'static str,
    /// Its QEMU program.
    pub qemu: &'static str,
    /// The Rust target of the test kernel.
    pub target: &'static str,
    /// QEMU's machine type by default.
    pub kind: &'static str,
    /// QEMU's CPU model; QEMU's default if `None`.
    pub model: Option<&'static str>,
    /// A CPU model with all features that QEMU supports, such as random numbers.
    pub able: &'static str,
    /// Arguments for every machine. They let a kernel end QEMU with an exit code: twice its own value, plus
    /// one.
    pub arguments: &'static [&'static str],
}

/// QEMU's memory-mapped virtio devices are legacy ones by default.
const MODERN_MMIO: &str = "virtio-mmio.force-legacy=false";

/// All architectures.
pub static ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "x86_64",
        qemu: "qemu-system-x86_64",
        target: "x86_64-unknown-none",
        kind: "pc",
        model: None,
        able: "max",
        arguments: &["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"],
    },
    Architecture {
        name: "aarch64",
        qemu: "qemu-system-aarch64",
        target: "aarch64-unknown-none-softfloat",
        kind: "virt,gic-version=3",
        model: Some("cortex-a57"),
        able: "max",
        arguments: &["-semihosting-config", "enable=on,target=native", "-global", MODERN_MMIO],
    },
    // The machine has SiFive's test device, through which a kernel can end QEMU, and its firmware, OpenSBI,
    // as `-bios default`.
    Architecture {
        name: "riscv64",
        qemu: "qemu-system-riscv64",
        target: "riscv64gc-unknown-none-elf",
        kind: "virt",
        model: None,
        able: "rv64,zkr=true",
        arguments: &["-global", MODERN_MMIO],
    },
];

/// The x86_64 architecture.
pub static X86_64: &Architecture = &ARCHITECTURES[0];

/// A disk and its controller.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub name: &'static str,
    /// The test kernel's name of the driver (`disk.on=`).
    pub driver: &'static str,
    /// QEMU's machine type for it on an architecture, or why there is none.
    pub machine: fn(&Architecture) -> Result<&'static str, &'static str>,
    /// QEMU's arguments for disk number `n`.
    pub arguments: fn(usize) -> Vec<String>,
    /// The id of the device to unplug when the disk is removed, or why it cannot be.
    pub pulled: fn(usize) -> Result<String, &'static str>,
    /// Whether QEMU only accepts disks whose size is a power of two.
    pub power_of_two: bool,
    /// Size in bytes of a logical sector, in which its partition table counts.
    pub sector_size: u64,
}

/// An NVMe disk as in servers: in a subsystem that may have several controllers, so that Linux uses
/// multipath.
pub static NVME_IN_SUBSYSTEM: Device = Device {
    name: "nvme-subsystem",
    driver: "nvme",
    machine: usual,
    arguments: |number| {
        let subsystem = format!("subsystem{number}");
        let controller = format!("nvme,serial=disk{number},subsys={subsystem}");
        let mut arguments = vec!["-device".into(), format!("nvme-subsys,id={subsystem}")];
        arguments.extend(on_controller(number, &controller, ",bus=HBA", "nvme-ns"));
        arguments
    },
    pulled: its_controller,
    power_of_two: false,
    sector_size: 512,
};

/// The id of a disk's device in QMP, by the disk's number.
pub fn disk_id(number: usize) -> String {
    format!("dumpdisk{number}")
}

/// The id of its drive, the backend.
pub fn drive_id(number: usize) -> String {
    format!("dumpdrive{number}")
}

/// A `-device` without a separate controller.
fn alone(number: usize, device: &str) -> Vec<String> {
    vec!["-device".into(), format!("{device},drive={},id={}", drive_id(number), disk_id(number))]
}

/// A disk with its own controller.
fn on_controller(number: usize, controller: &str, bus: &str, disk: &str) -> Vec<String> {
    let hba = controller_id(number);
    let bus = bus.replace("HBA", &hba);
    let mut arguments = vec!["-device".into(), format!("{controller},id={hba}")];
    arguments.extend(alone(number, &format!("{disk}{bus}")));
    arguments
}

fn controller_id(number: usize) -> String {
    format!("hba{number}")
}

fn usual(architecture: &Architecture) -> Result<&'static str, &'static str> {
    Ok(architecture.kind)
}

/// A machine with memory-mapped virtio devices.
fn without_bus(architecture: &Architecture) -> Result<&'static str, &'static str> {
    match architecture.name {
        "x86_64" => Err("pc and q35 have no virtio-mmio"),
        _ => Ok(architecture.kind),
    }
}

fn itself(number: usize) -> Result<String, &'static str> {
    Ok(disk_id(number))
}

fn its_controller(number: usize) -> Result<String, &'static str> {
    Ok(controller_id(number))
}

/// All devices. Disks that the test kernel finds in bus order are in the same order in QEMU.
pub static DEVICES: &[Device] = &[
    Device {
        name: "virtio-blk",
        driver: "virtio-blk",
        machine: usual,
        arguments: |number| alone(number, "virtio-blk-pci"),
        pulled: itself,
        power_of_two: false,
        sector_size: 512,
    },
    Device {
        name: "virtio-blk-mmio",
        driver: "virtio-blk-mmio",
        machine: without_bus,
        arguments: |number| alone(number, &format!("virtio-blk-device,bus=virtio-mmio-bus.{number}")),
        pulled: |_| Err("what is on no bus cannot be pulled"),
        power_of_two: false,
        sector_size: 512,
    },
    Device {
        name: "virtio-scsi",
        driver: "virtio-scsi",
        machine: usual,
        arguments: |number| on_controller(number, "virtio-scsi-pci", ",bus=HBA.0", "scsi-hd"),
        pulled: its_controller,
        power_of_two: false,
        sector_size: 512,
    },
    Device {
        name: "virtio-scsi-4k",
        driver: "virtio-scsi",
        machine: usual,
        arguments: |number| {
            let large = ",bus=HBA.0,logical_block_size=4096,physical_block_size=4096";
            on_controller(number, "virtio-scsi-pci", large, "scsi-hd")
        },
        pulled: its_controller,
        power_of_two: false,
        sector_size: 4096,
    },
    Device {
        name: "virtio-scsi-mmio",
        driver: "virtio-scsi-mmio",
        machine: without_bus,
        arguments: |number| {
            let host = format!("virtio-scsi-device,bus=virtio-mmio-bus.{number}");
            on_controller(number, &host, ",bus=HBA.0", "scsi-hd")
        },
        pulled: |_| Err("what is on no bus cannot be pulled"),
        power_of_two: false,
        sector_size: 512,
    },
    Device {
        name: "ahci",
        driver: "ahci",
        machine: usual,
        arguments: |number| on_controller(number, "ich9-ahci", ",bus=HBA.0", "ide-hd"),
        pulled: its_controller,
        power_of_two: false,
        sector_size: 512,
    },
    Device {
        name: "ahci-q35",
        driver: "ahci",
        // The machine has an HBA of its own too, whose ports are empty.
        machine: |architecture| match architecture.name {
            "x86_64" => Ok("q35"),
            _ => Err("there is no q35"),
        },
        arguments: |number| on_controller(number, "ich9-ahci", ",bus=HBA.3", "ide-hd"),
        pulled: |_| Err("a q35 does not unplug what is on its root bus"),
        power_of_two: false,
        sector_size: 512,
    },
    Device {
        name: "nvme",
        driver: "nvme",
        machine: usual,
        arguments: |number| alone(number, &format!("nvme,serial=disk{number}")),
        pulled: itself,
        power_of_two: false,
        sector_size: 512,
    },
    Device {
        name: "nvme-4k",
        driver: "nvme",
        machine: |architecture| Ok(if architecture.name == "x86_64" { "q35" } else { architecture.kind }),
        arguments: |number| {
            let large = ",bus=HBA,logical_block_size=4096,physical_block_size=4096";
            on_controller(number, &format!("nvme,serial=disk{number}"), large, "nvme-ns")
        },
        pulled: |_| Err("QEMU's q35 unplugs only what is behind a root port"),
        power_of_two: false,
        sector_size: 4096,
    },
    Device {
        name: "ata",
        driver: "ata",
        machine: |architecture| match architecture.name {
            "x86_64" => Ok("pc"),
            _ => Err("QEMU has no PCI IDE controller with port space there"),
        },
        // The controller of `pc`: two channels with two disks each.
        arguments: |number| alone(number, &format!("ide-hd,bus=ide.{},unit={}", number / 2, number % 2)),
        pulled: |_| Err("QEMU does not unplug IDE disks"),
        power_of_two: false,
        sector_size: 512,
    },
];

/// The virtio-blk device.
pub static VIRTIO_BLK: &Device = &DEVICES[0];

/// Where a row of the matrix runs.
#[derive(Clone, Copy, Debug)]
pub struct Bed {
    /// The architecture.
    pub architecture: &'static Architecture,
    /// The device.
    pub device: &'static Device,
}

impl Bed {
    /// The bed for rows that would prove nothing more on others.
    pub fn usual() -> Bed {
        Bed { architecture: X86_64, device: VIRTIO_BLK }
    }

    /// QEMU's machine type, or why the device does not exist on this architecture.
    ///
    /// # Errors
    /// The reason.
    pub fn machine(&self) -> Result<&'static str, &'static str> {
        (self.device.machine)(self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_different_names() {
        let mut names: Vec<_> = ARCHITECTURES.iter().map(|row| row.name).collect();
        names.extend(DEVICES.iter().map(|row| row.name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_driver_has_a_device_and_every_device_a_driver() {
        let drivers = dump_drivers::DRIVERS.map(|driver| driver.name);
        for name in drivers {
            assert!(DEVICES.iter().any(|device| device.driver == name), "no machine has a disk for {name}");
        }
        assert!(DEVICES.iter().all(|device| drivers.contains(&device.driver)));
    }

    #[test]
    fn every_device_is_somewhere_and_names_its_drive() {
        for device in DEVICES {
            assert!(ARCHITECTURES.iter().any(|architecture| (device.machine)(architecture).is_ok()));
            let words = (device.arguments)(2).join(" ");
            assert!(words.contains("drive=dumpdrive2") && words.contains("id=dumpdisk2"), "{words}");
        }
    }
}
