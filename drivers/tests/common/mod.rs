//! A fake disk, its driver, and a clock, wired together.
#![allow(dead_code, missing_docs, unreachable_pub)]

use dump_drivers::VirtioBlk;
use dump_drivers::fake::{ClockPlatform, DmaMemory, FakeDisk as _, Plan, Virtio, VirtioFake, Window};
use dump_drivers::virtio::blk;
use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction, DumpDevice};
use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use dumpcore::wait::{MILLISECOND, Wait};

/// Time that passes with each read of the clock.
pub const STEP: u64 = 1_000;
/// Time limit of a request.
pub const TIMEOUT: u64 = 5 * MILLISECOND;
pub const BLOCK: usize = 4096;
pub const BLOCKS: u64 = 64;

pub type Disk = VirtioBlk<Window<Virtio>, VirtioFake>;

pub struct Rig {
    pub memory: DmaMemory,
    pub fake: VirtioFake,
    pub platform: ClockPlatform,
    pub arena: Arena<'static>,
    pub disk: Disk,
}

impl Rig {
    pub fn open(plan: Plan) -> Result<Rig, DeviceError> {
        Rig::sized(plan, BLOCKS, 256 << 10)
    }

    pub fn sized(plan: Plan, blocks: u64, arena_bytes: usize) -> Result<Rig, DeviceError> {
        Rig::over(DmaMemory::leak(arena_bytes), plan, blocks)
    }

    pub fn over(memory: DmaMemory, plan: Plan, blocks: u64) -> Result<Rig, DeviceError> {
        let mut arena = memory.arena();
        let fake = VirtioFake::virtio(memory, blocks, plan);
        let disk = open(&fake, &mut arena)?;
        let platform = ClockPlatform::new(STEP).with(fake.clone()).over(memory);
        Ok(Rig { memory, fake, platform, arena, disk })
    }

    /// Opened and taken over.
    pub fn ready(plan: Plan) -> Rig {
        let mut rig = Rig::open(plan).expect("opens");
        rig.quiesce().expect("quiesces");
        rig
    }

    pub fn quiesce(&mut self) -> Result<(), DeviceError> {
        self.disk.quiesce(&wait(&self.platform))
    }

    pub fn buffer(&mut self, blocks: usize) -> DmaBuffer {
        self.arena.dma(blocks * BLOCK, BLOCK).expect("room")
    }

    pub fn filled(&mut self, blocks: usize, seed: u8) -> DmaBuffer {
        let mut buffer = self.buffer(blocks);
        fill(buffer.bytes_mut(), seed);
        buffer
    }

    pub fn write_block(&mut self, block: u64, seed: u8) -> Result<(), DeviceError> {
        let buffer = self.filled(1, seed);
        self.disk.rw_block(Direction::Write, block, buffer, &wait(&self.platform)).1
    }

    pub fn read_block(&mut self, block: u64) -> Result<Vec<u8>, DeviceError> {
        let buffer = self.buffer(1);
        let (buffer, result) = self.disk.rw_block(Direction::Read, block, buffer, &wait(&self.platform));
        result.map(|()| buffer.expect("a block that was read").bytes().to_vec())
    }

    pub fn integrity(&self) -> u32 {
        let mut digest = Digest::new();
        self.disk.integrity(&mut digest);
        digest.finish()
    }

    pub fn assert_within_the_rules(&self) {
        assert_eq!(self.fake.violations(), Vec::<String>::new());
    }
}

pub fn open(fake: &VirtioFake, arena: &mut Arena<'static>) -> Result<Disk, DeviceError> {
    let function = blk::find(fake, 0).ok_or(DeviceError::Gone)?;
    VirtioBlk::open(fake.access(TIMEOUT), function, arena)
}

pub fn wait(platform: &ClockPlatform) -> Wait<'_> {
    Wait::new(platform, None, u64::MAX)
}

pub fn fill(bytes: &mut [u8], seed: u8) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = seed.wrapping_add((at / 512) as u8).wrapping_mul(31).wrapping_add(at as u8);
    }
}

pub fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; blocks * BLOCK];
    fill(&mut bytes, seed);
    bytes
}
