//! The kinds, by the names that the table has for their drivers. The fuzzer finds them here.

use crate::ahci::Ahci;
use crate::ata::Ide;
use crate::hostile::a_driver_comes_to_no_harm;
use crate::nvme::Nvme;
use crate::virtio::{BlkMmio, BlkPci, ScsiMmio, ScsiPci};

/// A hostile controller, made of any bytes, for the driver of this name.
pub fn hostile(name: &str) -> Option<fn(&[u8])> {
    Some(match name {
        "ahci" => a_driver_comes_to_no_harm::<Ahci>,
        "ata" => a_driver_comes_to_no_harm::<Ide>,
        "nvme" => a_driver_comes_to_no_harm::<Nvme>,
        "virtio-blk" => a_driver_comes_to_no_harm::<BlkPci>,
        "virtio-blk-mmio" => a_driver_comes_to_no_harm::<BlkMmio>,
        "virtio-scsi" => a_driver_comes_to_no_harm::<ScsiPci>,
        "virtio-scsi-mmio" => a_driver_comes_to_no_harm::<ScsiMmio>,
        _ => return None,
    })
}

#[test]
fn every_driver_of_the_table_has_a_kind() {
    for driver in dump_drivers::DRIVERS {
        assert!(hostile(driver.name).is_some(), "{} does not go through the battery", driver.name);
    }
}
