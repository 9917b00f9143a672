//! A PCI IDE controller with one disk, and other devices on its channels.
//!
//! One file: the fake is one model whose registers, data phases and faults act on each other.

use super::Trouble;
use super::chassis::{Chassis, Fake, Model, Window};
use super::memory::DmaMemory;
use super::pci::ConfigBytes;

/// Status bits.
const ERR: u8 = 1 << 0;
const DRQ: u8 = 1 << 3;
const DF: u8 = 1 << 5;
const DRDY: u8 = 1 << 6;
const BSY: u8 = 1 << 7;
/// Device control bits.
const N_IEN: u8 = 1 << 1;
const SRST: u8 = 1 << 2;
/// Error register: aborted, uncorrectable.
const ABRT: u8 = 1 << 2;
const UNC: u8 = 1 << 6;
/// Bus master status bits.
const ACTIVE: u8 = 1 << 0;
const ERROR: u8 = 1 << 1;
const CAPABLE: u8 = 0x60;

/// Port of the bus master registers.
const MASTER_PORT: u16 = 0xc040;
/// Command and control blocks of both channels in native mode, and in compatibility mode.
const NATIVE: [u16; 4] = [0xc000, 0xc010, 0xc020, 0xc030];
const COMPATIBLE: [u16; 4] = [0x1f0, 0x3f6, 0x170, 0x376];
/// The windows of these blocks, numbered after the BARs.
const BLOCKS: u8 = 0x10;

/// Properties of the controller and the disk.
#[derive(Clone, Debug)]
pub struct AtaPlan {
    /// Native mode: its registers are at its BARs.
    pub native: bool,
    /// It is a bus master.
    pub masters: bool,
    /// The disk's place: 0 and 1 on the first channel, 2 and 3 on the second.
    pub place: u8,
    /// The places of CD drives, one bit each.
    pub packets: u8,
    /// The status without a device: 0x7f, 0xff or 0.
    pub nobody: u8,
    /// A reset selects the first device, and another can be selected only after the reset.
    pub sluggish: bool,
    /// Bytes in a sector.
    pub sector: usize,
    /// 48-bit addresses.
    pub wide: bool,
    /// A DMA mode is selected.
    pub dma: bool,
    /// Maximum number of sectors for SET MULTIPLE MODE; 0 if not supported.
    pub multiple: u8,
    /// It rejects SET MULTIPLE MODE.
    pub multiple_refused: bool,
    /// It has a cache that can be flushed.
    pub flush: bool,
    /// Ticks per command: the minimum, and the maximum on top of it.
    pub delay: (u32, u32),
    /// Ticks by which the bus master lags the disk.
    pub lag: u32,
    /// IDENTIFY words to override.
    pub words: Vec<(usize, u16)>,
    /// The flush with this number fails.
    pub flush_fails: Option<u32>,
    /// With this data request, the disk keeps requesting data after the last.
    pub greedy: Option<u32>,
    /// From this data request on, the bus floats: the cable was pulled.
    pub unplugged: Option<u32>,
}

impl Default for AtaPlan {
    fn default() -> AtaPlan {
        AtaPlan {
            native: false,
            masters: true,
            place: 0,
            packets: 0,
            nobody: 0x7f,
            sluggish: false,
            sector: 512,
            wide: true,
            dma: true,
            multiple: 16,
            multiple_refused: false,
            flush: true,
            delay: (2, 0),
            lag: 0,
            words: Vec::new(),
            flush_fails: None,
            greedy: None,
            unplugged: None,
        }
    }
}

impl AtaPlan {
    /// A random controller within the standards, by seed.
    pub fn any(seed: u64) -> AtaPlan {
        let mut state = seed;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        AtaPlan {
            native: below(2) == 1,
            // Without bus mastering and not native, it has no BAR at all.
            masters: seed == 0 || below(6) != 0,
            place: below(4) as u8,
            packets: below(16) as u8,
            nobody: [0x7f, 0xff, 0][below(3) as usize],
            sluggish: below(3) == 0,
            sector: 512 << below(4),
            wide: below(4) != 0,
            dma: below(4) != 0,
            multiple: [0, 1, 2, 8, 16, 128][below(6) as usize],
            multiple_refused: below(8) == 0,
            flush: true,
            delay: (below(4) as u32, below(12) as u32),
            lag: below(8) as u32,
            ..AtaPlan::default()
        }
    }
}

/// Registers of a channel.
#[derive(Default)]
struct Registers {
    control: u8,
    device: u8,
    /// Each register keeps the last two bytes, the latest first.
    count: [u8; 2],
    low: [u8; 2],
    mid: [u8; 2],
    high: [u8; 2],
    /// Ticks since SRST was set.
    held: u32,
}

/// Bus master registers of a channel.
#[derive(Default, Clone, Copy)]
struct Master {
    command: u8,
    status: u8,
    table: u32,
}

/// The disk's state.
#[derive(Debug)]
enum Doing {
    Rest,
    /// As another driver, or a trouble, has left it.
    Hangs,
    /// In reset, until SRST is cleared.
    Held,
    Wakes {
        ticks: u32,
    },
    /// Busy, then the next state.
    Busy {
        ticks: u32,
        then: Then,
    },
    /// The CPU reads data: position in `bytes`, and end of this block.
    Gives {
        bytes: Vec<u8>,
        at: usize,
        end: usize,
        block: usize,
    },
    /// The CPU writes data for this place on the disk.
    Takes {
        bytes: Vec<u8>,
        at: usize,
        end: usize,
        block: usize,
        disk: u64,
    },
}

#[derive(Debug)]
enum Then {
    Rest,
    Fail {
        status: u8,
        error: u8,
    },
    Give {
        bytes: Vec<u8>,
        at: usize,
        block: usize,
    },
    Take {
        bytes: Vec<u8>,
        at: usize,
        block: usize,
        disk: u64,
    },
    /// DMA, between this place on the disk and memory.
    Move {
        number: u32,
        disk: u64,
        length: usize,
        to_memory: bool,
    },
}

/// The controller.
pub struct AtaModel {
    /// Its properties.
    pub plan: AtaPlan,
    channels: [Registers; 2],
    masters: [Master; 2],
    /// Ticks until a bus master that has finished is no longer active.
    lag: u32,
    doing: Doing,
    status: u8,
    error: u8,
    /// The value of the last SET MULTIPLE MODE.
    multiple: usize,
    /// Total number of data requests and flushes.
    requests: u32,
    flushes: u32,
    floating: bool,
    resets: u32,
    /// Commands that moved data by DMA, and by PIO.
    moved: (u32, u32),
}

impl AtaModel {
    /// Number of resets of the disk's channel.
    pub fn resets(&self) -> u32 {
        self.resets
    }

    /// Commands that moved data by DMA, and by PIO.
    pub fn moved(&self) -> (u32, u32) {
        self.moved
    }

    /// Selects a place, as the last user of the channel would.
    pub fn select(&mut self, place: u8) {
        self.channels[usize::from(place >> 1)].device = place << 4 & 1 << 4;
    }

    /// Whether any bus master is still active.
    pub fn masters_active(&self) -> bool {
        self.masters.iter().any(|master| master.status & ACTIVE != 0)
    }

    fn channel(&self) -> usize {
        usize::from(self.plan.place >> 1)
    }

    /// The place selected on a channel.
    fn selected(&self, channel: usize) -> u8 {
        (channel as u8) << 1 | self.channels[channel].device >> 4 & 1
    }

    fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::Rest | Doing::Gives { .. } | Doing::Takes { .. })
    }

    fn disk_status(&self) -> u8 {
        match self.doing {
            Doing::Rest => self.status,
            Doing::Gives { .. } | Doing::Takes { .. } => DRDY | DRQ,
            _ => BSY | 0x50,
        }
    }

    fn status(&self, channel: usize) -> u8 {
        let place = self.selected(channel);
        let ours = channel == self.channel();
        if self.floating {
            self.plan.nobody
        } else if place == self.plan.place {
            self.disk_status()
        } else if self.plan.packets >> place & 1 != 0 {
            if self.channels[channel].control & SRST != 0 { BSY } else { 0 }
        } else if ours && self.plan.place & 1 == 0 {
            // Device 0 answers for an absent device 1.
            0
        } else {
            self.plan.nobody
        }
    }

    fn read_block(&mut self, chassis: &mut Chassis, channel: usize, offset: u64) -> u8 {
        let place = self.selected(channel);
        if place != self.plan.place || self.floating {
            let packet = self.plan.packets >> place & 1 != 0;
            return match offset {
                7 => self.status(channel),
                2 | 3 if packet => 1,
                4 if packet => 0x14,
                5 if packet => 0xeb,
                _ => self.plan.nobody,
            };
        }
        let registers = &self.channels[channel];
        if self.is_busy() && offset != 7 {
            chassis.violation(format!("register {offset} was read while the disk was busy"));
        }
        match offset {
            1 => self.error,
            2 => registers.count[0],
            3 => registers.low[0],
            4 => registers.mid[0],
            5 => registers.high[0],
            6 => registers.device,
            _ => self.status(channel),
        }
    }

    fn write_block(&mut self, chassis: &mut Chassis, channel: usize, offset: u64, value: u8) {
        let place = self.selected(channel);
        if place == self.plan.place && !self.floating && self.disk_status() & (BSY | DRQ) != 0 {
            chassis.violation(format!("register {offset} was written while the disk was busy"));
        }
        let resets = matches!(self.doing, Doing::Held | Doing::Wakes { .. });
        if channel == self.channel() && self.plan.sluggish && resets && place != self.plan.place {
            return;
        }
        let registers = &mut self.channels[channel];
        let keep = |register: &mut [u8; 2]| *register = [value, register[0]];
        match offset {
            2 => keep(&mut registers.count),
            3 => keep(&mut registers.low),
            4 => keep(&mut registers.mid),
            5 => keep(&mut registers.high),
            6 => registers.device = value,
            7 if place == self.plan.place && !self.floating => self.command(chassis, value),
            7 => chassis.violation(format!("command {value:#x} was given to nobody")),
            _ => {}
        }
    }

    fn write_control(&mut self, chassis: &mut Chassis, channel: usize, value: u8) {
        let ours = channel == self.channel();
        let registers = &mut self.channels[channel];
        let was = registers.control;
        registers.control = value;
        if was & SRST == 0 && value & SRST != 0 {
            registers.held = 0;
            if ours {
                self.resets += 1;
                self.doing = Doing::Held;
                self.multiple = 0;
                if !self.plan.masters {
                    chassis.forget_foreign();
                }
            }
        } else if was & SRST != 0 && value & SRST == 0 {
            if registers.held == 0 {
                chassis.violation("SRST was not held for 5 us");
            }
            if !(ours && self.plan.sluggish) {
                registers.device = 0;
            }
            registers.count = [1, 0];
            registers.low = [1, 0];
            registers.mid = [0; 2];
            registers.high = [0; 2];
            if ours {
                let (least, more) = self.plan.delay;
                self.doing = match chassis.has(Trouble::NeverResets) {
                    true => Doing::Hangs,
                    false => Doing::Wakes { ticks: least + chassis.random(more + 1) },
                };
            }
        }
    }

    /// The block address and the sector count of a command.
    fn address(&self, chassis: &mut Chassis, wide: bool) -> (u64, usize) {
        let registers = &self.channels[self.channel()];
        if registers.device & 1 << 6 == 0 {
            chassis.violation("an address was not one of a block");
        }
        let byte = |register: [u8; 2], place: usize, shift: u32| u64::from(register[place]) << shift;
        let now = byte(registers.low, 0, 0) | byte(registers.mid, 0, 8) | byte(registers.high, 0, 16);
        if wide {
            let before =
                byte(registers.low, 1, 24) | byte(registers.mid, 1, 32) | byte(registers.high, 1, 40);
            let count = usize::from(registers.count[1]) << 8 | usize::from(registers.count[0]);
            (before | now, if count == 0 { 1 << 16 } else { count })
        } else {
            let count = usize::from(registers.count[0]);
            (u64::from(registers.device & 0xf) << 24 | now, if count == 0 { 256 } else { count })
        }
    }

    fn command(&mut self, chassis: &mut Chassis, code: u8) {
        let channel = self.channel();
        if self.channels[channel].control & N_IEN == 0 {
            chassis.violation("a command was given with interrupts on");
        }
        self.status = DRDY | 0x10;
        self.error = 0;
        let (least, more) = self.plan.delay;
        let ticks = least + chassis.random(more + 1);
        let abort = Then::Fail { status: DRDY | ERR, error: ABRT };
        let then = match code {
            0xec if chassis.has(Trouble::NeverReady) => {
                self.doing = Doing::Hangs;
                return;
            }
            0xec => Then::Give { bytes: self.identify(chassis), at: 0, block: 512 },
            0xc6 => {
                let count = self.channels[channel].count[0];
                let fits = count.is_power_of_two() && count <= self.plan.multiple;
                if fits && !self.plan.multiple_refused {
                    self.multiple = count.into();
                    Then::Rest
                } else {
                    abort
                }
            }
            0xe7 | 0xea => {
                let number = self.requests;
                self.requests += 1;
                self.flushes += 1;
                if !self.plan.flush || (code == 0xea && !self.plan.wide) {
                    chassis.violation("a flush that the disk does not know");
                }
                if self.plan.flush_fails == Some(self.flushes - 1) || self.troubled(chassis, number) {
                    Then::Fail { status: DRDY | ERR, error: UNC }
                } else if self.hangs(chassis, number) {
                    self.doing = Doing::Hangs;
                    return;
                } else {
                    chassis.flush_disk();
                    Then::Rest
                }
            }
            0x20 | 0x24 | 0x29 | 0xc4 | 0x30 | 0x34 | 0x39 | 0xc5 | 0x25 | 0xc8 | 0x35 | 0xca => {
                match self.data(chassis, code) {
                    Some(then) => then,
                    None => return,
                }
            }
            _ => {
                chassis.violation(format!("command {code:#x} is not known"));
                abort
            }
        };
        self.doing = Doing::Busy { ticks, then };
    }

    /// Whether a request fails.
    fn troubled(&self, chassis: &Chassis, number: u32) -> bool {
        chassis.troubles.iter().any(|trouble| match *trouble {
            Trouble::Status(at) => at == number,
            Trouble::StatusFrom(at) => at <= number,
            _ => false,
        })
    }

    fn hangs(&self, chassis: &Chassis, number: u32) -> bool {
        chassis.troubles.iter().any(|trouble| matches!(*trouble, Trouble::NeverCompletes(at) if at <= number))
    }

    /// A data command; `None` if it ends here.
    fn data(&mut self, chassis: &mut Chassis, code: u8) -> Option<Then> {
        let wide = matches!(code, 0x24 | 0x29 | 0x34 | 0x39 | 0x25 | 0x35);
        let write = matches!(code, 0x30 | 0x34 | 0x39 | 0xc5 | 0x35 | 0xca);
        let dma = matches!(code, 0x25 | 0xc8 | 0x35 | 0xca);
        let several = matches!(code, 0x29 | 0xc4 | 0x39 | 0xc5);
        let number = self.requests;
        self.requests += 1;
        if wide && !self.plan.wide {
            chassis.violation("a 48-bit command for a disk that has 28");
        }
        if several && self.multiple == 0 {
            chassis.violation("several sectors together, though that was not set");
        }
        if dma && !(self.plan.dma && self.plan.masters) {
            chassis.violation("DMA without a mode for it");
        }
        let (lba, count) = self.address(chassis, wide);
        let length = count * self.plan.sector;
        let disk = lba * self.plan.sector as u64;
        if disk + length as u64 > chassis.size() {
            chassis.violation("a command beyond the end of the disk");
            return Some(Then::Fail { status: DRDY | ERR, error: 0x10 });
        }
        if self.plan.unplugged.is_some_and(|at| at <= number) {
            self.floating = true;
            return None;
        }
        if self.hangs(chassis, number) {
            self.doing = Doing::Hangs;
            return None;
        }
        if chassis.has(Trouble::Fails(number)) {
            self.masters[self.channel()].status |= ERROR;
            self.masters[self.channel()].status &= !ACTIVE;
            return Some(Then::Fail { status: DRDY | DF, error: 0 });
        }
        if self.troubled(chassis, number) {
            return Some(Then::Fail { status: DRDY | ERR, error: UNC });
        }
        if dma {
            self.moved.0 += 1;
            return Some(Then::Move { number, disk, length, to_memory: !write });
        }
        self.moved.1 += 1;
        let block = if several { self.multiple.max(1) } else { 1 } * self.plan.sector;
        // A disk that moves less ends early; one that asks for more does not end.
        let mut told = length;
        if chassis.has(Trouble::Short(number)) {
            // It ends at a block boundary before the end.
            told = told / 2 / block * block;
            if told == 0 {
                return Some(Then::Rest);
            }
        }
        if self.plan.greedy == Some(number) {
            told += self.plan.sector;
        }
        let mut bytes = vec![0; told];
        Some(if write {
            Then::Take { bytes, at: 0, block, disk }
        } else {
            let known = told.min(length);
            let _ = chassis.read_disk(disk, &mut bytes[..known]);
            Then::Give { bytes, at: 0, block }
        })
    }

    fn identify(&self, chassis: &Chassis) -> Vec<u8> {
        let plan = &self.plan;
        let mut words = [0_u16; 256];
        let sectors = chassis.size() / plan.sector as u64;
        words[47] = 0x8000 | u16::from(plan.multiple);
        words[49] = 1 << 9 | u16::from(plan.dma) << 8;
        words[53] = 1 << 1 | 1 << 2;
        let narrow = sectors.min(0x0fff_ffff);
        words[60] = narrow as u16;
        words[61] = (narrow >> 16) as u16;
        words[63] = 0x0007;
        words[88] = 0x003f | if plan.dma { 0x2000 } else { 0 };
        words[80] = 0x01f0;
        words[83] = 1 << 14
            | u16::from(plan.flush) << 12
            | u16::from(plan.wide) << 10
            | u16::from(plan.flush && plan.wide) << 13;
        if plan.wide {
            for (at, word) in words[100..104].iter_mut().enumerate() {
                *word = (sectors >> (16 * at)) as u16;
            }
        }
        if plan.sector > 512 {
            words[106] = 1 << 14 | 1 << 12;
            words[117] = (plan.sector / 2) as u16;
        }
        for (at, word) in &plan.words {
            words[*at] = *word;
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn read_data(&mut self, chassis: &mut Chassis) -> u16 {
        let Doing::Gives { bytes, at, end, block } = &mut self.doing else {
            chassis.violation("data was read though there was none");
            return u16::MAX;
        };
        let value = u16::from_le_bytes([bytes[*at], bytes[*at + 1]]);
        *at += 2;
        if *at >= *end {
            let (at, block) = (*at, *block);
            let bytes = std::mem::take(bytes);
            let then = if at < bytes.len() { Then::Give { bytes, at, block } } else { Then::Rest };
            self.pause(chassis, then);
        }
        value
    }

    fn write_data(&mut self, chassis: &mut Chassis, value: u16) {
        let Doing::Takes { bytes, at, end, block, disk } = &mut self.doing else {
            chassis.violation("data was written though nobody wanted it");
            return;
        };
        bytes[*at..*at + 2].copy_from_slice(&value.to_le_bytes());
        *at += 2;
        if *at >= *end {
            let (at, block, disk) = (*at, *block, *disk);
            let bytes = std::mem::take(bytes);
            let then = if at < bytes.len() {
                Then::Take { bytes, at, block, disk }
            } else {
                let _ = chassis.write_disk(disk, &bytes);
                Then::Rest
            };
            self.pause(chassis, then);
        }
    }

    /// Between two blocks of data, the disk may be busy for a while.
    fn pause(&mut self, chassis: &mut Chassis, then: Then) {
        let ticks = chassis.random(self.plan.delay.1 / 4 + 1);
        self.doing = Doing::Busy { ticks, then };
    }

    fn write_master(&mut self, chassis: &mut Chassis, offset: u64, width: usize, value: u64) {
        let channel = (offset / 8) as usize;
        let ours = channel == self.channel();
        let master = &mut self.masters[channel];
        match (offset % 8, width) {
            (0, 1) => {
                let start = value as u8 & 1;
                if start == 1 && master.command & 1 == 0 {
                    master.status |= ACTIVE;
                } else if start == 0 {
                    master.status &= !ACTIVE;
                    if ours {
                        chassis.forget_foreign();
                    }
                } else if (value as u8 ^ master.command) & 8 != 0 {
                    chassis.violation("the way of DMA was changed under way");
                }
                master.command = value as u8;
            }
            (2, 1) => {
                let cleared = value as u8 & 0x06;
                master.status = master.status & !cleared & !CAPABLE | value as u8 & CAPABLE;
            }
            (4, 4) => {
                if master.status & ACTIVE != 0 {
                    chassis.violation("the table was changed under way");
                }
                if value & 3 != 0 || value as u32 >> 16 != (value as u32).wrapping_add(4095) >> 16 {
                    chassis.violation("the table is not aligned, or crosses 64 KiB");
                }
                master.table = value as u32;
            }
            _ => chassis.violation(format!("bus master register {offset} was written by {width} bytes")),
        }
    }

    /// DMA, all at once. False if the bus master has not been started yet.
    fn move_by_dma(
        &mut self,
        chassis: &mut Chassis,
        number: u32,
        disk: u64,
        length: usize,
        to_memory: bool,
    ) -> bool {
        let channel = self.channel();
        let master = self.masters[channel];
        if master.command & 1 == 0 {
            return false;
        }
        if (master.command & 8 != 0) != to_memory {
            chassis.violation("DMA goes the wrong way");
        }
        let short = chassis.has(Trouble::Short(number));
        let mut left = if short { length / 2 } else { length };
        let mut place = disk;
        let mut entry = u64::from(master.table);
        let mut used_up = false;
        while left > 0 && !used_up {
            let mut bytes = [0; 8];
            if chassis.dma_read(entry, &mut bytes).is_none() {
                break;
            }
            let word = u64::from_le_bytes(bytes);
            let (bus, count) = (word & 0xffff_ffff, (word >> 32 & 0xffff) as usize);
            let count = if count == 0 { 1 << 16 } else { count };
            if bus & 1 != 0 || count & 1 != 0 || bus >> 16 != (bus + count as u64 - 1) >> 16 {
                chassis.violation(format!("a piece of {count} bytes at {bus:#x}"));
            }
            let now = count.min(left);
            let mut data = vec![0; now];
            if to_memory {
                let _ = chassis.read_disk(place, &mut data);
                let _ = chassis.dma_write(bus, &data);
            } else if chassis.dma_read(bus, &mut data).is_some() {
                let _ = chassis.write_disk(place, &data);
            }
            left -= now;
            place += now as u64;
            entry += 8;
            used_up = word >> 63 == 1;
            if used_up && (left > 0 || now < count) && !short {
                chassis.violation("the table does not name as much as the command moves");
            }
        }
        if !short {
            if !used_up {
                chassis.violation("the table does not end where the command does");
            }
            self.lag = self.plan.lag + 1;
        }
        self.status = DRDY | 0x10;
        self.doing = Doing::Rest;
        true
    }
}

impl Model for AtaModel {
    fn read(&mut self, chassis: &mut Chassis, bar: u8, offset: u64, width: usize) -> u64 {
        if bar < BLOCKS {
            let master = self.masters[(offset / 8 % 2) as usize];
            return match (offset % 8, width) {
                (0, 1) => master.command.into(),
                (2, 1) => master.status.into(),
                (4, 4) => master.table.into(),
                _ => u64::MAX,
            };
        }
        let block = bar - BLOCKS;
        let channel = usize::from(block / 2);
        match (block % 2, offset, width) {
            (0, 0, 2) if self.selected(channel) == self.plan.place => self.read_data(chassis).into(),
            (0, 1.., 1) => self.read_block(chassis, channel, offset).into(),
            (1, 0, 1) => self.status(channel).into(),
            _ => {
                chassis.violation(format!("{width} bytes were read at port {offset} of block {block}"));
                u64::MAX
            }
        }
    }

    fn write(&mut self, chassis: &mut Chassis, bar: u8, offset: u64, width: usize, value: u64) {
        if bar < BLOCKS {
            return self.write_master(chassis, offset, width, value);
        }
        let block = bar - BLOCKS;
        let channel = usize::from(block / 2);
        match (block % 2, offset, width) {
            (0, 0, 2) => self.write_data(chassis, value as u16),
            (0, 1.., 1) => self.write_block(chassis, channel, offset, value as u8),
            (1, 0, 1) => self.write_control(chassis, channel, value as u8),
            _ => chassis.violation(format!("{width} bytes were written at port {offset} of block {block}")),
        }
    }

    /// A reset of the controller does not affect its disks.
    fn reset(&mut self, chassis: &mut Chassis) {
        self.masters = [Master::default(), Master::default()];
        chassis.forget_foreign();
    }

    fn tick(&mut self, chassis: &mut Chassis) {
        for registers in &mut self.channels {
            registers.held += 1;
        }
        if self.lag > 0 {
            self.lag -= 1;
            if self.lag == 0 {
                let channel = self.channel();
                self.masters[channel].status &= !ACTIVE;
            }
        }
        match &mut self.doing {
            Doing::Wakes { ticks: 0 } => {
                if self.plan.sluggish {
                    let channel = self.channel();
                    self.channels[channel].device = 0;
                }
                self.status = DRDY | 0x10;
                self.error = 1;
                self.doing = Doing::Rest;
            }
            Doing::Wakes { ticks } => *ticks -= 1,
            Doing::Busy { ticks: 0, .. } => {
                let Doing::Busy { then, .. } = std::mem::replace(&mut self.doing, Doing::Rest) else {
                    return;
                };
                self.follow(chassis, then);
            }
            Doing::Busy { ticks, .. } => *ticks -= 1,
            _ => {}
        }
    }
}

impl AtaModel {
    fn follow(&mut self, chassis: &mut Chassis, then: Then) {
        match then {
            Then::Rest => {}
            Then::Fail { status, error } => {
                self.status = status;
                self.error = error;
            }
            Then::Give { bytes, at, block } => {
                let end = (at + block).min(bytes.len());
                self.doing = Doing::Gives { bytes, at, end, block };
            }
            Then::Take { bytes, at, block, disk } => {
                let end = (at + block).min(bytes.len());
                self.doing = Doing::Takes { bytes, at, end, block, disk };
            }
            Then::Move { number, disk, length, to_memory } => {
                if !self.move_by_dma(chassis, number, disk, length, to_memory) {
                    self.doing =
                        Doing::Busy { ticks: 0, then: Then::Move { number, disk, length, to_memory } };
                }
            }
        }
    }
}

impl Fake<AtaModel> {
    /// A controller in use by another driver, with a disk of `blocks` 4096-byte blocks.
    pub fn ata(memory: DmaMemory, blocks: u64, plan: AtaPlan, seed: u64) -> Fake<AtaModel> {
        let interface = if plan.native { 0b1111 } else { 0b1010 } | u32::from(plan.masters) << 7;
        let mut config = ConfigBytes::new(0x8086, 0x7010, 0x01_01_00 | interface);
        config.set_command(config.command() | crate::bus::pci::Command::IO);
        if plan.native {
            for (index, port) in (0..).zip(NATIVE) {
                config = config.port_bar(index, port.into(), if index % 2 == 0 { 8 } else { 4 });
            }
        }
        if plan.masters {
            config = config.port_bar(4, MASTER_PORT.into(), 16);
        }
        let mut masters = [Master { status: CAPABLE, ..Master::default() }; 2];
        if plan.masters {
            // Both channels have a transfer in progress.
            masters = [Master { command: 9, status: CAPABLE | ACTIVE, table: 0 }; 2];
        }
        let device = plan.place << 4 & 1 << 4;
        let mut channels = [Registers::default(), Registers::default()];
        channels[usize::from(plan.place >> 1)].device = device;
        let model = AtaModel {
            channels,
            masters,
            lag: 0,
            doing: Doing::Hangs,
            status: DRDY,
            error: 0,
            multiple: 0,
            requests: 0,
            flushes: 0,
            floating: false,
            resets: 0,
            moved: (0, 0),
            plan,
        };
        Fake::new(memory, config, model, blocks, seed)
    }

    /// Access to ports, as from a kernel; `None` if they are not the controller's.
    pub fn at_port(&self, first: u16, length: u16) -> Option<Window<AtaModel>> {
        let native = self.with(|_, model| model.plan.native);
        let blocks = if native {
            NATIVE.map(|port| if port & 0x10 != 0 { port + 2 } else { port })
        } else {
            COMPATIBLE
        };
        let block = (0_u8..).zip(blocks).find(|(_, port)| *port == first).map(|(block, _)| BLOCKS + block);
        let bar = if first == MASTER_PORT { Some(4) } else { block };
        bar.map(|bar| self.ports(bar, length.into()))
    }
}
