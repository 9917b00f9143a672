//! The driver: the controller's part. `Polled` is the rest.

use dump_drivers::Registers;
use dump_drivers::bus::pci::{Command, ConfigSpace, Function, PciDevice, functions};
use dump_drivers::bus::shared::{LINE, Shared};
use dump_drivers::bus::{Access, barrier};
use dump_drivers::disk::request::spans;
use dump_drivers::disk::{Called, Name, Polled, PolledDisk, Progress, Requests, Shutdown, Span, Work};
use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Direction, Health};
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::Wait;

use super::device::{command, record, register, status};

/// Vendor and device.
pub const ID: (u16, u16) = (0x1234, 0xfe44);

/// Commands other than transfers.
#[derive(Clone, Copy)]
pub enum FerryCommand {
    Flush,
}

/// A disk.
pub type FerryDisk<R, C> = Polled<Ferry<R, C>>;

/// Its controller.
pub struct Ferry<R, C> {
    pci: PciDevice<C>,
    registers: R,
    timeout: Nanoseconds,
    /// The completion record written by the device.
    record: Shared,
    blocks: Option<u64>,
    /// The current request, and the number of its command.
    current: Option<usize>,
    number: u16,
}

/// Number `index` on the bus.
pub fn find<C: ConfigSpace>(config: &C, index: usize) -> Option<Function> {
    functions(config).filter(|function| (function.vendor, function.device) == ID).nth(index)
}

/// Probes a device, and takes a cache line from the arena.
pub fn open<R: Registers, C: ConfigSpace>(
    mut access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
    function: Function,
    arena: &mut Arena<'_>,
) -> Result<FerryDisk<R, C>, DeviceError> {
    let name = Name::new("ferry ").text(&function.address.text());
    let pci = PciDevice::open(access.config, function, Command::MEMORY)?;
    let registers = pci.map(0, 0, register::BYTES, &mut access.map)?;
    let record = Shared::new(arena.dma(LINE, LINE)?);
    let timeout = access.timeout;
    let ferry = Ferry { pci, registers, timeout, record, blocks: None, current: None, number: 0 };
    Ok(Polled::new(ferry, name))
}

impl<R: Registers, C: ConfigSpace> Ferry<R, C> {
    fn status(&self) -> Result<u32, DeviceError> {
        match self.registers.read32(register::STATUS) {
            u32::MAX => Err(DeviceError::Gone),
            status => Ok(status),
        }
    }

    fn reset(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.registers.write32(register::RESET, 1);
        wait.until("a ferry's reset", self.timeout, || match self.status() {
            Ok(status) if status & (status::READY | status::FATAL) == status::READY => Some(Ok(())),
            Ok(_) => None,
            Err(gone) => Some(Err(gone)),
        })?
    }

    fn write_address(&self, register: usize, address: u64) {
        self.registers.write32(register, address as u32);
        self.registers.write32(register + 4, (address >> 32) as u32);
    }
}

// SAFETY: the device has one command at a time, and the driver knows its request. It is given only that
// request's memory and the record, which belongs to the driver; a reset makes it forget both.
unsafe impl<R: Registers, C: ConfigSpace> PolledDisk for Ferry<R, C> {
    type Command = FerryCommand;
    type State = ();

    const READ: &'static str = "a ferry's read";
    const WRITE: &'static str = "a ferry's write";
    const POLLS_MEMORY: bool = true;

    fn called(_: FerryCommand) -> Called {
        Called { noun: "a ferry's flush", verb: "flush" }
    }

    fn timeout(&self) -> Nanoseconds {
        self.timeout
    }

    fn controller(&self) -> u64 {
        self.pci.number()
    }

    fn blocks(&self) -> Option<u64> {
        self.blocks
    }

    fn sector_size(&self) -> Option<u32> {
        Some(4096)
    }

    fn integrity(&self, digest: &mut Digest) {
        self.pci.integrity(digest);
        self.registers.integrity(digest);
        self.record.integrity(digest);
    }

    fn health(&mut self) -> Health {
        match self.pci.health() {
            Health::Healthy => {}
            otherwise => return otherwise,
        }
        match self.status() {
            Err(gone) => Health::Unusable(gone),
            Ok(status) if status & status::READY != 0 => self.pci.health_in_use(),
            Ok(_) => Health::Healthy,
        }
    }

    fn take_over(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.pci.isolate(wait).and_then(|()| self.reset(wait)).map_err(|error| self.pci.explain(error))
    }

    fn start(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.current = None;
        self.record.clear(wait.platform());
        self.write_address(register::RECORD, self.record.bus_address(0));
        let blocks = self.registers.read32(register::BLOCKS);
        self.status()?;
        self.blocks = Some(blocks.into());
        self.pci.enable_bus_master()
    }

    fn give_up(&mut self, _: &Wait<'_>) {
        let _ = self.pci.disable_bus_master();
    }

    fn flush_command(&self) -> Option<FerryCommand> {
        Some(FerryCommand::Flush)
    }

    fn serve(&mut self, requests: &mut Requests<Self>, _: &dyn Platform) {
        if self.current.is_some() {
            return;
        }
        let Some(index) = requests.oldest(|_| true) else { return };
        let Some(pending) = requests.get_mut(index) else { return };
        let (code, block, span) = match pending.work() {
            Some(Work::Transfer(request)) => {
                let code = match request.direction {
                    Direction::Read => command::READ,
                    Direction::Write => command::WRITE,
                };
                // One span of memory per command; the next span is the next round.
                let span = spans(request, pending.done).next();
                (code, request.block + (pending.done / 4096) as u64, span)
            }
            _ => (command::FLUSH, 0, None),
        };
        let span = span.unwrap_or(Span { bus: 0, length: 0 });
        pending.round = span.length;
        self.current = Some(index);
        self.number = self.number.wrapping_add(1).max(1);
        self.registers.write32(register::BLOCK, block as u32);
        self.registers.write32(register::LENGTH, span.length as u32);
        self.write_address(register::ADDRESS, span.bus);
        // The data first, then the command.
        barrier::publish();
        self.registers.write32(register::COMMAND, u32::from(self.number) << 16 | code);
    }

    fn poll(&mut self, requests: &mut Requests<Self>, wait: &Wait<'_>) -> Result<Progress, DeviceError> {
        let Some(index) = self.current else { return Ok(Progress::Nothing) };
        self.record.invalidate(0, record::BYTES, wait.platform());
        if self.record.read::<u32>(record::NUMBER) != Some(self.number.into()) {
            return Ok(Progress::Nothing);
        }
        // The number first, then the rest, and the data.
        barrier::observe();
        self.record.invalidate(0, record::BYTES, wait.platform());
        let code = self.record.read::<u32>(record::CODE).unwrap_or(u32::MAX);
        let moved = self.record.read::<u32>(record::MOVED).unwrap_or(0);
        self.current = None;
        let Some(pending) = requests.get_mut(index) else { return Err(DeviceError::NotReady) };
        let result = match code {
            0 if moved as usize == pending.round => Ok(()),
            0 => Err(DeviceError::Protocol { what: "its bytes moved", value: moved.into() }),
            code => Err(DeviceError::Status { what: pending.verb(Self::called), code }),
        };
        let more = pending.finish_round();
        Ok(if more && result.is_ok() { Progress::Room } else { Progress::Over { index, result } })
    }

    fn explain(&self, error: DeviceError) -> DeviceError {
        match self.status() {
            Err(gone) => gone,
            Ok(code) if code & status::FATAL != 0 => DeviceError::Status { what: "stay in operation", code },
            Ok(_) => self.pci.explain(error),
        }
    }

    fn shut_down(&mut self, _: Shutdown, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let reset = self.reset(wait);
        self.pci.disable_bus_master()?;
        reset
    }
}
