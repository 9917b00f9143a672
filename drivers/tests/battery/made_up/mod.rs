//! A driver for a device that does not exist, as an exercise.
//!
//! - `ferry/`: the driver. With a line of the table, this folder in `drivers/src` would be all of it; `cargo xtask exercise`
//!   tries that.
//! - `device.rs`: a fake of the device. With the line in `main.rs`, it and what is here put the driver through the battery.

mod device;
mod ferry;

use dump_drivers::fake::{DmaMemory, Fake, Trouble, Window};
use dumpcore::arena::Arena;
use dumpcore::device::DeviceError;
use dumpcore::wait::MILLISECOND;

use crate::kind::{self, Kind, TIMEOUT};
use device::FerryModel;
use ferry::disk::{FerryDisk, FerryDriver};

pub struct Ferry;

impl Kind for Ferry {
    const NAME: &'static str = "ferry 00:04.0";
    // The fuzzer's inputs for other drivers serve this one too.
    const CORPUS: &'static str = "nvme";
    /// A flush, and a reset.
    const LIMIT: u64 = 14 * TIMEOUT + 20 * MILLISECOND;
    type Fake = Fake<FerryModel>;
    type Disk = FerryDisk<Window<FerryModel>, Self::Fake>;

    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> Self::Fake {
        device::ferry(memory, blocks, seed)
    }

    fn open(fake: &Self::Fake, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError> {
        kind::open::<FerryDriver, _>(fake, None, arena)
    }

    /// It has one command at a time, so a completion is never ambiguous.
    fn knows(trouble: Trouble) -> bool {
        !matches!(trouble, Trouble::WrongId(_) | Trouble::Duplicate(_) | Trouble::NeverAsked(_))
    }
}

crate::battery!(Ferry);
