//! virtio: block devices and SCSI hosts, on PCI and on MMIO.

use dump_drivers::fake::{
    Counts, DmaMemory, Fault, Front, MMIO_WINDOW, Plan, ScsiPlan, Trouble, Virtio, VirtioFake, Window,
};
use dump_drivers::virtio::scsi::Lun;
use dump_drivers::virtio::{blk, scsi};
use dump_drivers::{VirtioBlk, VirtioBlkMmio, VirtioScsi, VirtioScsiMmio};
use dumpcore::arena::Arena;
use dumpcore::device::DeviceError;

use crate::kind::{Kind, TIMEOUT};

type Registers = Window<Virtio>;

/// One of a few, by some bits of a seed.
struct Seed(u64);

impl Seed {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        of[(self.0 >> 33) as usize % of.len()]
    }
}

/// A random device within the specification.
fn plan(front: Front, seed: u64) -> (Plan, Seed) {
    let mut random = Seed(seed);
    let pci = matches!(front, Front::Pci(_));
    let plan = Plan {
        front,
        queue_size: random.pick(&[4, 5, 8, 16, 64, 100, 128, 256, 1024]),
        notify_multiplier: random.pick(&[0, 2, 4]),
        notify_off: random.pick(&[0, 1, 3]),
        flush: random.pick(&[true, true, false]),
        required_features: random.pick(&[0, 1 << 33, 1 << 36, 1 << 33 | 1 << 36]),
        delay: random.pick(&[(0, 0), (0, 0), (1, 3), (0, 20)]),
        shuffle: random.pick(&[true, false]),
        no_notify: random.pick(&[true, false, false]),
        // On PCI, memory is safe during the reset; on MMIO, only after it.
        reset_ticks: random.pick(if pci { &[0, 5, 50] } else { &[0, 1, 1] }),
        seed,
        ..Plan::default()
    };
    // A device may require its queue size, if the driver supports that.
    let fits = plan.queue_size.is_power_of_two() && plan.queue_size <= 256;
    let faults = if random.pick(&[fits, false]) { vec![Fault::QueueSizeStuck] } else { vec![] };
    (Plan { faults, ..plan }, random)
}

fn block_device(front: Front, seed: u64) -> Plan {
    let (plan, mut random) = plan(front, seed);
    // A queue of 4 has room for 2 pieces, so a piece must hold at least half a block.
    let (size_max, seg_max) = random.pick(&[
        (None, None),
        (None, Some(254)),
        (Some(4096), None),
        (Some(70_000), None),
        (Some(3000), Some(3)),
        (Some(2048), Some(2)),
    ]);
    let blk_size = random.pick(&[None, Some(512), Some(4096)]);
    // With one segment, a block must fit into it.
    let seg_max = if size_max.is_none_or(|most| most >= 4096) {
        random.pick(&[seg_max, seg_max, Some(0), Some(1)])
    } else {
        seg_max
    };
    let counts = random.pick(&[Counts::All, Counts::Data, Counts::Status, Counts::Nothing]);
    Plan { size_max, seg_max, blk_size, counts, ..plan }
}

fn scsi_host(front: Front, seed: u64) -> Plan {
    let (plan, mut random) = plan(front, seed);
    let (disk, others) =
        random.pick(&[((0, 0), 0), ((0, 3), 1), ((7, 0), 2), ((9, 700), 3), ((3, 16_383), 3)]);
    let others = [(0, 1, 0x05), (2, 0, 0x1f), (2, 9, 0x20)][..others].to_vec();
    let host = ScsiPlan {
        disk,
        others,
        max_sectors: random.pick(&[0, 8, 9, 100, 0xffff, u32::MAX]),
        cmd_per_lun: random.pick(&[0, 1, 3, 128]),
        block: random.pick(&[512, 512, 1024, 2048, 4096, 4096]),
        attentions: random.pick(&[0, 1, 2, 4]),
        not_ready: random.pick(&[0, 0, 1]),
        descriptors: random.pick(&[true, false]),
        mode_sense: random.pick(&[true, false]),
        ..ScsiPlan::default()
    };
    let seg_max = random.pick(&[Some(0), Some(1), Some(2), Some(126), Some(254)]);
    let counts = random.pick(&[Counts::All, Counts::Data, Counts::Status, Counts::Nothing]);
    Plan { scsi: Some(host), seg_max, counts, flush: true, ..plan }
}

/// The cases without PCI.
fn on_mmio(trouble: Trouble) -> bool {
    trouble != Trouble::MsiStuck
}

pub struct BlkPci;

impl Kind for BlkPci {
    const NAME: &'static str = "virtio-blk 00:04.0";
    const CORPUS: &'static str = "virtio_blk";
    const LIMIT: u64 = 14 * TIMEOUT;
    type Fake = VirtioFake;
    type Disk = VirtioBlk<Registers, VirtioFake>;

    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> VirtioFake {
        VirtioFake::virtio(memory, blocks, block_device(Front::Pci(0x1042), seed))
    }

    fn open(fake: &VirtioFake, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError> {
        let function = blk::find(fake, 0).ok_or(DeviceError::Gone)?;
        VirtioBlk::open(fake.access(TIMEOUT), function, arena)
    }
}

pub struct ScsiPci;

impl Kind for ScsiPci {
    const NAME: &'static str = "virtio-scsi 00:04.0";
    const CORPUS: &'static str = "virtio_scsi";
    const LIMIT: u64 = 14 * TIMEOUT;
    type Fake = VirtioFake;
    type Disk = VirtioScsi<Registers, VirtioFake>;

    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> VirtioFake {
        VirtioFake::virtio(memory, blocks, scsi_host(Front::Pci(0x1048), seed))
    }

    fn open(fake: &VirtioFake, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError> {
        let function = scsi::find(fake, 0).ok_or(DeviceError::Gone)?;
        VirtioScsi::open(fake.access(TIMEOUT), function, None, arena)
    }
}

pub struct BlkMmio;

impl Kind for BlkMmio {
    const NAME: &'static str = "virtio-blk a003e00";
    const CORPUS: &'static str = "virtio_blk_mmio";
    const ON_PCI: bool = false;
    const LIMIT: u64 = 14 * TIMEOUT;
    type Fake = VirtioFake;
    type Disk = VirtioBlkMmio<Registers>;

    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> VirtioFake {
        VirtioFake::virtio(memory, blocks, block_device(Front::Mmio, seed))
    }

    fn open(fake: &VirtioFake, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError> {
        let windows = [MMIO_WINDOW - 0x200, MMIO_WINDOW];
        let slot = blk::find_mmio(windows, |at, length| fake.map(at, length), 0).ok_or(DeviceError::Gone)?;
        VirtioBlkMmio::open_mmio(slot, arena, TIMEOUT)
    }

    fn knows(trouble: Trouble) -> bool {
        on_mmio(trouble)
    }
}

pub struct ScsiMmio;

impl Kind for ScsiMmio {
    const NAME: &'static str = "virtio-scsi a003e00";
    const CORPUS: &'static str = "virtio_scsi_mmio";
    const ON_PCI: bool = false;
    const LIMIT: u64 = 14 * TIMEOUT;
    type Fake = VirtioFake;
    type Disk = VirtioScsiMmio<Registers>;

    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> VirtioFake {
        let plan = scsi_host(Front::Mmio, seed);
        let host = ScsiPlan { disk: (9, 2), ..plan.scsi.unwrap_or_default() };
        VirtioFake::virtio(memory, blocks, Plan { scsi: Some(host), ..plan })
    }

    fn open(fake: &VirtioFake, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError> {
        let windows = [MMIO_WINDOW - 0x200, MMIO_WINDOW];
        let slot = scsi::find_mmio(windows, |at, length| fake.map(at, length), 0).ok_or(DeviceError::Gone)?;
        VirtioScsiMmio::open_mmio(slot, Lun::new(9, 2), arena, TIMEOUT)
    }

    fn knows(trouble: Trouble) -> bool {
        on_mmio(trouble)
    }
}

mod blk_pci {
    crate::battery!(super::BlkPci);
}

mod scsi_pci {
    crate::battery!(super::ScsiPci);
}

mod blk_mmio {
    crate::battery!(super::BlkMmio);
}

mod scsi_mmio {
    crate::battery!(super::ScsiMmio);
}
