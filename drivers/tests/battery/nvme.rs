//! NVMe.

use dump_drivers::NvmeDisk;
use dump_drivers::fake::{DmaMemory, NvmeFake, NvmeModel, NvmePlan, Window};
use dump_drivers::nvme::disk;
use dumpcore::arena::Arena;
use dumpcore::device::DeviceError;
use dumpcore::wait::{MILLISECOND, SECOND};

use crate::kind::{Kind, TIMEOUT};

pub struct Nvme;

impl Kind for Nvme {
    const NAME: &'static str = "nvme 00:04.0";
    const CORPUS: &'static str = "nvme";
    /// A start in progress, a reset and a start, of a second each; some admin commands, each tried twice.
    const LIMIT: u64 = 3 * SECOND + 16 * TIMEOUT + 20 * MILLISECOND;
    type Fake = NvmeFake;
    type Disk = NvmeDisk<Window<NvmeModel>, NvmeFake>;

    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> NvmeFake {
        NvmeFake::nvme(memory, blocks, plan(seed))
    }

    fn open(fake: &NvmeFake, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError> {
        let function = disk::find(fake, 0).ok_or(DeviceError::Gone)?;
        NvmeDisk::open(fake.access(TIMEOUT), function, None, arena)
    }
}

/// A random controller within the specification.
fn plan(seed: u64) -> NvmePlan {
    // Each choice uses a part of the number.
    let mut rest = seed;
    let mut below = |count: u64| {
        let choice = rest % count;
        rest /= count;
        choice as usize
    };
    let mqes = [0, 1, 2, 4, 15, 62, 63, 1023, u16::MAX][below(9)];
    let stride = [0, 1, 3, 15][below(4)];
    let mdts = [0, 1, 2, 7, 255][below(5)];
    let shift = 9 + below(4) as u8;
    let (cache, shuffle) = (below(2) == 0, below(2) == 0);
    let (command_sets, namespace) = ([0x01, 0x41, 0x40][below(3)], [1, 7, 0x1234_5678][below(3)]);
    let (format, more) = ([0, 3, 15, 16, 63][below(5)], below(2) as u64);
    let (ticks, kind) = ([0, 1, 40][below(3)], below(2) as u8);
    let delay = [(0, 0), (0, 3), (3, 20)][below(3)];
    // Older ones do not list their namespaces, nor do some newer ones.
    let version = [0x1_0000, 0x1_0100, 0x1_0200, 0x1_0300, 0x1_0400, 0x2_0000][below(6)];
    let (lists, dirty) = (below(4) != 0, below(2) == 0);
    let namespace = if lists && version > 0x1_0000 { namespace } else { namespace.min(32) };
    NvmePlan {
        version,
        lists,
        dirty,
        mqes,
        stride,
        mdts,
        shift,
        cache,
        shuffle,
        command_sets,
        namespace,
        format,
        // Less than one of the driver's blocks.
        more: if shift < 12 { more } else { 0 },
        ticks,
        kind,
        delay,
        seed,
        ..NvmePlan::default()
    }
}

crate::battery!(Nvme);
