//! A driver for a device that does not exist, as an exercise: everything that a new driver needs. It consists
//! of this folder, and the line in `main.rs` that runs the battery on it.
//!
//! - `driver.rs`: would be the driver's own folder in `drivers/src`.
//! - `device.rs`: a fake of the device.

mod device;
mod driver;

use dump_drivers::fake::{DmaMemory, Fake, Trouble, Window};
use dumpcore::arena::Arena;
use dumpcore::device::DeviceError;
use dumpcore::wait::MILLISECOND;

use crate::kind::{Kind, TIMEOUT};
use device::FerryModel;
use driver::FerryDisk;

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
        let function = driver::find(fake, 0).ok_or(DeviceError::Gone)?;
        driver::open(fake.access(TIMEOUT), function, arena)
    }

    /// It has one command at a time, so a completion is never ambiguous.
    fn knows(trouble: Trouble) -> bool {
        !matches!(trouble, Trouble::WrongId(_) | Trouble::Duplicate(_) | Trouble::NeverAsked(_))
    }
}

crate::battery!(Ferry);
