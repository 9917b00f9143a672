//! The battery for AHCI.

use dump_drivers::AhciDisk;
use dump_drivers::ahci::disk::AhciDriver;
use dump_drivers::fake::{AhciFake, AhciModel, AhciPlan, DmaMemory, Window};
use dumpcore::arena::Arena;
use dumpcore::device::DeviceError;
use dumpcore::wait::MILLISECOND;

use crate::kind::{self, Kind, TIMEOUT};

pub struct Ahci;

impl Kind for Ahci {
    const NAME: &'static str = "ahci 00:04.0 port ";
    const CORPUS: &'static str = "ahci";
    // A flush is the longest.
    const LIMIT: u64 = 13 * TIMEOUT + 10 * MILLISECOND;
    type Fake = AhciFake;
    type Disk = AhciDisk<Window<AhciModel>, AhciFake>;

    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> AhciFake {
        AhciFake::ahci(memory, blocks, seed, AhciPlan::any(seed))
    }

    fn open(fake: &AhciFake, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError> {
        kind::open::<AhciDriver, _>(fake, None, arena)
    }
}

crate::battery!(Ahci);
