//! A kind of controller, with its driver and a clock.

use dump_drivers::fake::{ClockPlatform, DmaMemory, FakeDisk, Tick as _, Trouble};
use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction, DumpDevice};
use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use dumpcore::wait::{MILLISECOND, Wait};

/// Time that passes with each read of the clock.
pub const STEP: u64 = 5_000;
/// Time limit of a request.
pub const TIMEOUT: u64 = 5 * MILLISECOND;
pub const BLOCK: usize = 4096;
pub const BLOCKS: u64 = 64;

/// A driver, and a fake of its device.
pub trait Kind {
    /// Prefix of the disk's name.
    const NAME: &'static str;
    /// The fuzzer's name for it.
    const CORPUS: &'static str;
    /// Whether it is a PCI function, which can sleep, move, and lose bus mastering.
    const ON_PCI: bool = true;
    /// Maximum bytes of arena for the driver.
    const ARENA: usize = 48 << 10;
    /// Maximum nanoseconds for any call: the longest deadline of the controller, several requests, or a
    /// flush.
    const LIMIT: u64;
    type Fake: FakeDisk + Clone + 'static;
    type Disk: DumpDevice;

    /// Whether the memory is below 4 GiB.
    fn is_low(seed: u64) -> bool {
        let _ = seed;
        false
    }

    /// A controller in use by another driver, with a disk of `blocks` blocks. `seed` selects its properties
    /// within the specification: sizes, limits, delays, order.
    fn fake(memory: DmaMemory, blocks: u64, seed: u64) -> Self::Fake;

    fn open(fake: &Self::Fake, arena: &mut Arena<'static>) -> Result<Self::Disk, DeviceError>;

    /// Whether the trouble makes sense for it.
    fn knows(trouble: Trouble) -> bool {
        let _ = trouble;
        true
    }
}

/// Everything wired together.
pub struct Rig<K: Kind> {
    pub memory: DmaMemory,
    pub fake: K::Fake,
    pub platform: ClockPlatform,
    pub arena: Arena<'static>,
    pub disk: K::Disk,
}

impl<K: Kind> Rig<K> {
    /// Tries to open it after applying `before` to the device.
    pub fn try_over(
        memory: DmaMemory,
        seed: u64,
        before: impl FnOnce(&K::Fake),
    ) -> Result<Rig<K>, DeviceError> {
        let memory = if K::is_low(seed) { memory.low() } else { memory.high() };
        let mut arena = memory.arena();
        let fake = K::fake(memory, BLOCKS, seed);
        before(&fake);
        let disk = K::open(&fake, &mut arena)?;
        let platform = ClockPlatform::new(STEP).with(fake.clone()).over(memory);
        Ok(Rig { memory, fake, platform, arena, disk })
    }

    /// Opened.
    pub fn over(memory: DmaMemory, seed: u64) -> Rig<K> {
        Rig::try_over(memory, seed, |_| {}).expect("opens")
    }

    /// Opened, with either kind of DMA.
    pub fn open(seed: u64) -> Rig<K> {
        let bytes = 512 << 10;
        Rig::over(if seed & 1 == 0 { DmaMemory::leak(bytes) } else { DmaMemory::incoherent(bytes) }, seed)
    }

    /// Opened and taken over.
    pub fn ready(seed: u64) -> Rig<K> {
        let mut rig = Rig::open(seed);
        rig.quiesce().expect("quiesces");
        rig
    }

    /// Calls the driver, which must return in time.
    pub fn timed<T>(&mut self, what: &str, call: impl FnOnce(&mut K::Disk, &Wait<'_>) -> T) -> T {
        let begin = self.platform.peek();
        let result = call(&mut self.disk, &Wait::new(&self.platform, None, u64::MAX));
        let took = self.platform.peek() - begin;
        assert!(took <= K::LIMIT, "{what} took {} ms", took / MILLISECOND);
        result
    }

    pub fn quiesce(&mut self) -> Result<(), DeviceError> {
        self.timed("quiesce", |disk, wait| disk.quiesce(wait))
    }

    pub fn flush(&mut self) -> Result<(), DeviceError> {
        self.timed("flush", |disk, wait| disk.flush(wait))
    }

    pub fn shutdown(&mut self) -> Result<(), DeviceError> {
        self.timed("shutdown", |disk, wait| disk.shutdown(wait))
    }

    pub fn buffer(&mut self, blocks: usize) -> DmaBuffer {
        self.arena.dma(blocks * BLOCK, BLOCK).expect("room")
    }

    pub fn filled(&mut self, blocks: usize, seed: u8) -> DmaBuffer {
        let mut buffer = self.buffer(blocks);
        fill(buffer.bytes_mut(), seed);
        buffer
    }

    /// Transfers one block, with the cache maintenance that dumpcore does around it.
    pub fn one(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        self.timed("rw_block", |disk, wait| {
            buffer.clean_for_device(wait.platform());
            let (buffer, result) = disk.rw_block(direction, block, buffer, wait);
            if let Some(buffer) = &buffer {
                buffer.invalidate_from_device(wait.platform());
            }
            (buffer, result)
        })
    }

    pub fn write_block(&mut self, block: u64, seed: u8) -> Result<(), DeviceError> {
        let buffer = self.filled(1, seed);
        self.one(Direction::Write, block, buffer).1
    }

    pub fn read_block(&mut self, block: u64) -> Result<Vec<u8>, DeviceError> {
        let buffer = self.buffer(1);
        let (buffer, result) = self.one(Direction::Read, block, buffer);
        result.map(|()| buffer.expect("a block that was read").bytes().to_vec())
    }

    pub fn integrity(&self) -> u32 {
        let mut digest = Digest::new();
        self.disk.integrity(&mut digest);
        digest.finish()
    }

    pub fn let_time_pass(&self, ticks: u32) {
        for _ in 0..ticks {
            self.fake.tick();
        }
    }

    pub fn assert_within_the_rules(&self) {
        assert_eq!(self.fake.violations(), Vec::<String>::new());
    }
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
