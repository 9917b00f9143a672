//! The device: one command at a time with one span of memory, and a completion record in memory.

use dump_drivers::fake::{Chassis, ConfigBytes, DmaMemory, Fake, Model, Trouble};

use super::driver::ID;
use crate::kind::BLOCK;

/// Registers, 32 bits each.
pub mod register {
    /// Write: reset.
    pub const RESET: usize = 0x00;
    pub const STATUS: usize = 0x04;
    /// Size of the disk.
    pub const BLOCKS: usize = 0x08;
    /// The next command: first block, length in bytes, and address in memory, 64 bits.
    pub const BLOCK: usize = 0x0c;
    pub const LENGTH: usize = 0x10;
    pub const ADDRESS: usize = 0x14;
    /// Address of the record, 64 bits.
    pub const RECORD: usize = 0x1c;
    /// Write: a command, and its number in bits 16 to 31.
    pub const COMMAND: usize = 0x24;
    pub const BYTES: usize = 0x28;
}

pub mod status {
    /// It accepts commands.
    pub const READY: u32 = 1 << 0;
    /// It has failed as a whole.
    pub const FATAL: u32 = 1 << 1;
}

pub mod command {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const FLUSH: u32 = 3;
}

/// The record: 32 bits each.
pub mod record {
    pub const NUMBER: usize = 0;
    /// 0 for success.
    pub const CODE: usize = 4;
    pub const MOVED: usize = 8;
    pub const BYTES: usize = 12;
}

const BAR: u64 = 0xfebe_0000;
/// The code of a failed command.
const FAILED: u32 = 5;

/// The device, in use by another driver.
pub fn ferry(memory: DmaMemory, blocks: u64, seed: u64) -> Fake<FerryModel> {
    let config = ConfigBytes::new(ID.0, ID.1, 0x01_80_00).memory_bar(0, BAR, 0x1000);
    let delay = [0, 1, 20][(seed % 3) as usize];
    Fake::new(
        memory,
        config,
        FerryModel { registers: [0; 10], ready: true, delay, ..FerryModel::default() },
        blocks,
        seed,
    )
}

/// The current command: the value of the command register, ticks until completion, and the index of its
/// request.
struct UnderWay {
    command: u32,
    ticks: u32,
    request: u32,
}

#[derive(Default)]
pub struct FerryModel {
    registers: [u32; 10],
    ready: bool,
    fatal: bool,
    /// Ticks until a reset is complete.
    resetting: Option<u32>,
    under_way: Option<UnderWay>,
    requests: u32,
    delay: u32,
}

impl FerryModel {
    fn pair(&self, register: usize) -> u64 {
        u64::from(self.registers[register / 4 + 1]) << 32 | u64::from(self.registers[register / 4])
    }

    fn begin(&mut self, chassis: &mut Chassis, command: u32) {
        if !self.ready || self.under_way.is_some() {
            return chassis.violation("a command that it does not take now");
        }
        let request = self.requests;
        self.requests += 1;
        self.fatal |= chassis.has(Trouble::Fails(request));
        self.under_way = Some(UnderWay { command, ticks: self.delay, request });
    }

    fn finish(&mut self, chassis: &mut Chassis, UnderWay { command, request, .. }: &UnderWay) {
        let fails = |trouble: &Trouble| match *trouble {
            Trouble::Status(at) => at == *request,
            Trouble::StatusFrom(at) => at <= *request,
            _ => false,
        };
        let mut code = if chassis.troubles.iter().any(fails) { FAILED } else { 0 };
        let mut length = self.registers[register::LENGTH / 4] as usize;
        if chassis.has(Trouble::Short(*request)) {
            length -= length.min(BLOCK);
        }
        let (mut moved, first) = (0, u64::from(self.registers[register::BLOCK / 4]) * BLOCK as u64);
        if code == 0 && command & 0xffff == command::FLUSH {
            chassis.flush_disk();
        } else if code == 0 {
            let size = chassis.size();
            while moved < length {
                let (at, bus) = (first + moved as u64, self.pair(register::ADDRESS) + moved as u64);
                let mut bytes = [0; BLOCK];
                let done = match command & 0xffff {
                    _ if at + BLOCK as u64 > size => None,
                    command::READ => {
                        chassis.read_disk(at, &mut bytes).and_then(|()| chassis.dma_write(bus, &bytes))
                    }
                    command::WRITE => {
                        chassis.dma_read(bus, &mut bytes).and_then(|()| chassis.write_disk(at, &bytes))
                    }
                    _ => None,
                };
                if done.is_none() {
                    code = FAILED;
                    break;
                }
                moved += BLOCK;
            }
        }
        let words = [command >> 16, code, moved as u32].map(u32::to_le_bytes);
        let _ = chassis.dma_write(self.pair(register::RECORD), words.as_flattened());
    }
}

impl Model for FerryModel {
    fn read(&mut self, chassis: &mut Chassis, _: u8, offset: u64, _: usize) -> u64 {
        let value = match offset as usize {
            register::STATUS => u32::from(self.ready) | u32::from(self.fatal) << 1,
            register::BLOCKS => (chassis.size() / BLOCK as u64) as u32,
            offset => self.registers.get(offset / 4).copied().unwrap_or(0),
        };
        value.into()
    }

    fn write(&mut self, chassis: &mut Chassis, _: u8, offset: u64, width: usize, value: u64) {
        if width != 4 {
            return chassis.violation(format!("a write of {width} bytes"));
        }
        match offset as usize {
            register::RESET => {
                let FerryModel { registers, delay, .. } = *self;
                *self = FerryModel { registers, delay, resetting: Some(3), ..FerryModel::default() };
            }
            register::COMMAND => self.begin(chassis, value as u32),
            offset => self.registers[offset / 4] = value as u32,
        }
    }

    fn tick(&mut self, chassis: &mut Chassis) {
        match self.resetting {
            Some(0) if !chassis.has(Trouble::NeverResets) => {
                self.resetting = None;
                self.ready = !chassis.has(Trouble::NeverReady);
                chassis.forget_foreign();
            }
            Some(ticks) => self.resetting = Some(ticks.saturating_sub(1)),
            None => {}
        }
        let Some(mut under_way) = self.under_way.take() else { return };
        let never =
            |trouble: &Trouble| matches!(trouble, Trouble::NeverCompletes(at) if *at <= under_way.request);
        if self.fatal || chassis.troubles.iter().any(never) || under_way.ticks > 0 {
            under_way.ticks = under_way.ticks.saturating_sub(1);
            self.under_way = Some(under_way);
            return;
        }
        self.finish(chassis, &under_way);
    }

    fn reset(&mut self, chassis: &mut Chassis) {
        *self = FerryModel { delay: self.delay, ..FerryModel::default() };
        chassis.forget_foreign();
    }
}
