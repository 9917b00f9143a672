// SPDX-License-Identifier: MIT OR GPL-2.0

//! Opens and claims a block device, and finds it on its bus.

use core::ffi::{c_char, c_int, c_long, c_void, CStr};

use crate::bindings::{
    self, block_device, dd_target, device, file, gendisk, pci_dev, scsi_device, virtio_device,
};
use crate::shared::{lend, zeroed};

const ENOTBLK: c_long = 15;
const EBUSY: c_long = 16;
const ENXIO: c_long = 6;
const EIO: c_int = 5;
const EROFS: c_long = 30;

/// Why a target is refused, with the kernel's error number.
type Refusal = (&'static CStr, c_long);

/// The structure that contains this field.
macro_rules! holder_of {
    ($pointer:expr, $type:ty, $field:ident) => {
        $pointer.wrapping_byte_sub(core::mem::offset_of!($type, $field)).cast::<$type>()
    };
}

/// `device`, its parent, its parent's parent, and so on.
///
/// # Safety
/// The device belongs to the kernel and stays.
unsafe fn upwards(device: *mut device) -> impl Iterator<Item = *mut device> {
    core::iter::successors(Some(device), |device| {
        // SAFETY: a reference to a device holds its parents too.
        Some(unsafe { (**device).parent }).filter(|parent| !parent.is_null())
    })
}

/// Whether C's text equals this; null does not.
///
/// # Safety
/// The text ends with a zero, or is null.
unsafe fn is(text: *const c_char, other: &CStr) -> bool {
    // SAFETY: the caller's promise.
    !text.is_null() && unsafe { bindings::strcmp(text, other.as_ptr()) } == 0
}

unsafe fn pci_above(device: *mut device) -> Option<*mut pci_dev> {
    // SAFETY: the caller's device; a device on the PCI bus is part of a pci_dev.
    unsafe {
        let found =
            upwards(device).find(|device| core::ptr::eq((**device).bus, &raw const bindings::pci_bus_type));
        found.map(|device| holder_of!(device, pci_dev, dev))
    }
}

unsafe fn virtio_above(device: *mut device) -> Option<*mut virtio_device> {
    // SAFETY: the caller's device; a device on the virtio bus is part of a virtio_device.
    unsafe {
        let found =
            upwards(device).find(|device| (**device).bus.as_ref().is_some_and(|bus| is(bus.name, c"virtio")));
        found.map(|device| holder_of!(device, virtio_device, dev))
    }
}

unsafe fn scsi_above(device: *mut device) -> Option<*mut scsi_device> {
    // By name, so that the module does not need the SCSI layer on a machine without one.
    // SAFETY: the caller's device; one of this type is part of a scsi_device.
    unsafe {
        let found = upwards(device)
            .find(|device| (**device).type_.as_ref().is_some_and(|kind| is(kind.name, c"scsi_device")));
        found.map(|device| holder_of!(device, scsi_device, sdev_gendev))
    }
}

/// Why a disk that is not on a PCI function cannot be taken over, by its bus or by its maker.
unsafe fn off_pci(device: *mut device) -> &'static CStr {
    let places = [
        (c"virtio", c"it is a virtio disk on MMIO, and the module takes over disks on PCI only"),
        (c"vmbus", c"it is on Hyper-V's VMBus, and the module takes over disks on PCI only"),
        (c"xen", c"it is on Xen's bus, and the module takes over disks on PCI only"),
        (c"mmc", c"it is on an MMC bus, and the module takes over disks on PCI only"),
        (
            c"nvme-subsystem",
            c"the kernel joins its several paths (NVMe multipath); boot with nvme_core.multipath=N",
        ),
        (c"platform", c"it is on the platform bus, and the module takes over disks on PCI only"),
    ];
    // SAFETY: the caller's device; the names of buses and classes are C strings.
    unsafe {
        for device in upwards(device) {
            let on = match ((*device).bus.as_ref(), (*device).class.as_ref()) {
                (Some(bus), _) => bus.name,
                (None, Some(class)) => class.name,
                (None, None) => continue,
            };
            if let Some((_, why)) = places.into_iter().find(|(name, _)| is(on, name)) {
                return why;
            }
        }
    }
    c"it is on no bus of the machine; device mapper, RAID, loop and network disks cannot be taken over"
}

/// The namespace number of an NVMe disk.
unsafe fn nvme_namespace(bdev: *mut block_device, disk: *mut gendisk) -> Option<u32> {
    // SAFETY: the device is open; its driver's function is called as an ioctl would.
    let id = unsafe {
        let ioctl = (*disk).fops.as_ref()?.ioctl?;
        ioctl(bdev, 0, bindings::DD_CONST_NVME_IOCTL_ID, 0)
    };
    u32::try_from(id).ok().filter(|id| *id > 0)
}

unsafe fn describe(bdev: *mut block_device, target: &mut dd_target) -> Result<(), Refusal> {
    // SAFETY: the device is open, which keeps its disk and all parents in place.
    unsafe {
        // Otherwise the polled driver would only find out at the crash.
        if bindings::dd_helper_bdev_read_only(bdev) {
            return Err((c"it is read-only, and a dump has to be written", EROFS));
        }
        let disk = (*bdev).bd_disk;
        let device = &raw mut (*(*disk).part0).bd_device;
        target.start = (*bdev).bd_start_sect;
        target.sectors = (*bdev).bd_nr_sectors;
        let Some(pci) = pci_above(device) else {
            return Err((off_pci(device), ENXIO));
        };
        target.pci = pci;
        let bus = (*pci).bus;
        target.address = (bindings::dd_helper_pci_domain_nr(bus) as u32) << 16
            | u32::from((*bus).number) << 8
            | (*pci).devfn & 0xff;
        let driver = bindings::dev_driver_string(&raw const (*pci).dev);
        let scsi = scsi_above(device);
        target.translated = 1;
        if let Some(virtio) = virtio_above(device) {
            // Same as in the kernel: without this feature the device uses physical addresses.
            target.translated = u32::from((*virtio).features >> bindings::VIRTIO_F_ACCESS_PLATFORM & 1 != 0);
            match ((*virtio).id.device, scsi) {
                (bindings::VIRTIO_ID_BLOCK, _) => {
                    target.driver = bindings::dd_driver_DD_VIRTIO_BLK;
                    return Ok(());
                }
                (bindings::VIRTIO_ID_SCSI, Some(scsi)) => {
                    target.driver = bindings::dd_driver_DD_VIRTIO_SCSI;
                    target.unit = (*scsi).id;
                    target.lun = (*scsi).lun as u32;
                    return Ok(());
                }
                _ => {}
            }
        } else if let (true, Some(scsi)) = (is(driver, c"ahci"), scsi) {
            // libata stores a pointer to the port in the host.
            let port = (*(*scsi).host).hostdata.as_ptr().cast::<*const bindings::ata_port>();
            target.driver = bindings::dd_driver_DD_AHCI;
            target.unit = (**port).port_no;
            return Ok(());
        } else if is(driver, c"nvme") {
            target.driver = bindings::dd_driver_DD_NVME;
            target.unit =
                nvme_namespace(bdev, disk).ok_or((c"it does not say which NVMe namespace it is", ENXIO))?;
            return Ok(());
        }
    }
    Err((c"there is no polled driver for it; there is one for virtio-blk, virtio-scsi, AHCI and NVMe", ENXIO))
}

/// A file that we opened; closed when dropped.
struct Open(*mut file);

impl Open {
    unsafe fn at(path: *const c_char) -> Result<Open, Refusal> {
        // Claims the device, as a mount or swap does; while it is claimed, they fail.
        // SAFETY: a text that ends with a zero.
        let file = unsafe { bindings::filp_open(path, bindings::DD_CONST_OPEN, 0) };
        // The last page of addresses encodes errors.
        match file as isize as c_long {
            error @ -4095..=-1 if error == -EBUSY => {
                Err((c"it is in use (mounted, swap, or part of something)", EBUSY))
            }
            error @ -4095..=-1 => Err((c"it cannot be opened", -error)),
            _ => Ok(Open(file)),
        }
    }

    fn device(&self) -> Result<*mut block_device, Refusal> {
        // SAFETY: the file is open.
        unsafe {
            if u32::from((*(*self.0).f_inode).i_mode) & bindings::S_IFMT != bindings::S_IFBLK {
                return Err((c"it is no block device", ENOTBLK));
            }
            Ok(bindings::I_BDEV((*(*self.0).f_mapping).host))
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Synchronously: an ordinary close happens when the task returns to user space, and until then a new
        // arming would find the device claimed by us.
        // SAFETY: a reference of ours, from filp_open or from get_file.
        unsafe { bindings::__fput_sync(self.0) };
    }
}

lend! {
    unsafe fn dd_is_at(path: *const c_char, file: *mut file) -> bool {
        // SAFETY: shim.h: a text that ends with a zero.
        let other = unsafe { bindings::filp_open(path, bindings::DD_CONST_LOOK, 0) };
        if let -4095..=-1 = other as isize as c_long {
            return false;
        }
        let other = Open(other);
        // SAFETY: both are open.
        unsafe { (*other.0).f_mapping == (*file).f_mapping }
    }

    unsafe fn dd_open_target(
        path: *const c_char,
        held: *mut file,
        target: *mut dd_target,
        why: *mut *const c_char,
    ) -> c_long {
        // SAFETY: shim.h: a text, and places for the results.
        let (target, why) = unsafe {
            *target = zeroed();
            (&mut *target, &mut *why)
        };
        // SAFETY: as above; the described file is open, and so is a held one.
        let opened = unsafe {
            let open = if held.is_null() {
                Open::at(path)
            } else {
                bindings::dd_helper_get_file(held);
                Ok(Open(held))
            };
            open.and_then(|open| {
                describe(open.device()?, target)?;
                Ok(open)
            })
        };
        match opened {
            Ok(open) => {
                target.file = open.0;
                core::mem::forget(open);
                // SAFETY: a device that was found.
                unsafe { bindings::pci_dev_get(target.pci) };
                0
            }
            Err((reason, number)) => {
                *why = reason.as_ptr();
                -number
            }
        }
    }

    unsafe fn dd_close_target(target: *mut dd_target) {
        // SAFETY: shim.h: filled in by dd_open_target, or zeros.
        unsafe {
            if !(*target).pci.is_null() {
                bindings::pci_dev_put((*target).pci);
            }
            if !(*target).file.is_null() {
                drop(Open((*target).file));
            }
            (*target).pci = core::ptr::null_mut();
            (*target).file = core::ptr::null_mut();
        }
    }

    unsafe fn dd_read_block(file: *mut file, block: u64, to: *mut c_void) -> c_int {
        let mut at = (block << 12) as bindings::loff_t;
        // SAFETY: shim.h: a target's file, and 4096 bytes.
        match unsafe { bindings::kernel_read(file, to, 4096, &raw mut at) } {
            4096 => 0,
            error @ ..=-1 => error as c_int,
            _ => -EIO,
        }
    }
}
