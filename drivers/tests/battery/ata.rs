//! ATA disks on an IDE controller.

use dump_drivers::ata::disk;
use dump_drivers::fake::{AtaModel, AtaPlan, DmaMemory, Fake, Trouble, Window};
use dump_drivers::{Access, AtaDisk, Ram};
use dumpcore::arena::Arena;
use dumpcore::device::DeviceError;

use crate::kind::{Kind, TIMEOUT};

pub struct Ide;

impl Kind for Ide {
    const NAME: &'static str = "ata 00:04.0";
    const CORPUS: &'static str = "ata";
    /// A reset of two channels and two identifications, or a flush.
    const LIMIT: u64 = 12 * TIMEOUT + TIMEOUT / 5;
    type Fake = Fake<AtaModel>;
    type Disk = AtaDisk<Window<AtaModel>, Fake<AtaModel>>;

    fn is_low(seed: u64) -> bool {
        !seed.is_multiple_of(5)
    }

    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> Fake<AtaModel> {
        Fake::ata(memory, blocks, AtaPlan::any(seed), seed)
    }

    fn open(fake: &Fake<AtaModel>, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError> {
        let function = disk::find(fake, 0).ok_or(DeviceError::Gone)?;
        let (place, dma) = fake.with(|_, model| (model.plan.place, model.plan.dma && model.plan.masters));
        let low = dma && arena.physical() < 1 << 32;
        let ram = if low { Ram::Low } else { Ram::Anywhere };
        let ports = |first, length| fake.at_port(first, length);
        // Either named, or the only disk to be found.
        let chosen = (place & 1 == 0).then_some(place);
        let access = Access { config: fake.clone(), map: ports, timeout: TIMEOUT };
        AtaDisk::open(access, function, chosen, ram, arena)
    }

    /// Requests have no ids, and there is only one at a time.
    fn knows(trouble: Trouble) -> bool {
        !matches!(trouble, Trouble::WrongId(_) | Trouble::Duplicate(_) | Trouble::NeverAsked(_))
    }
}

crate::battery!(Ide);

#[test]
fn no_flush_is_given_on_top_of_a_write_that_the_disk_is_still_in_the_middle_of() {
    use crate::run::{self, Step};

    let steps = [Step::Write { block: 0, count: 1, seed: 0 }, Step::OneBlock { block: 0, seed: 0 }];
    for seed in (0..400).chain([165_471_597_881_537_929]) {
        let troubles = vec![Trouble::Fails(3), Trouble::Short(2)];
        run::only_blocks_asked_for_are_written::<Ide>(seed, false, troubles, &steps);
    }
}
