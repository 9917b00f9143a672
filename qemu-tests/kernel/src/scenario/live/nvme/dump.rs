//! The driver as a dump device.

use dumpcore::Arena;
use dumpcore::deferred::Queues;
use dumpcore::device::{Completion, DeviceError, Direction, DumpDevice, Geometry, Health, Rejected, Request};
use dumpcore::dma::DmaBuffer;
use dumpcore::integrity::Digest;
use spin::Once;

use super::*;
use crate::deferred;
use crate::device::Opened;
use crate::dump::DUMP;

/// Class code of the controllers: base class, subclass, interface.
const CLASS: u32 = 0x01_0802;

/// The error text when a request's timer expires. The timer ends each wait for a request, so no wait needs
/// its own deadline.
const LATE: &str = "a request, as its timer says,";
/// How much longer than its timeout a request is waited for, in nanoseconds.
const MORE: u64 = SECOND;

/// The queues that a dump has to run for this driver.
static QUEUES: Once<&'static Queues> = Once::new();

/// The queues that a dump has to run for this driver, if it was opened for a dump.
pub(crate) fn queues() -> Option<&'static Queues> {
    QUEUES.get().copied()
}

/// The driver, with its name for the console.
struct Dumping {
    nvme: &'static Nvme,
    name: [u8; 17],
}

/// The controller with this number. There is only one, the first.
pub(crate) fn find(number: usize) -> Option<Function> {
    let config = pci::config();
    let first = || dump_drivers::bus::pci::functions(&config).find(|function| function.class == CLASS);
    (number == 0).then(first)?
}

/// Opens the driver with all state that a dump changes in the arena.
pub(crate) fn open(number: usize, timeout: u64, arena: &mut Arena<'static>) -> Result<Opened, DeviceError> {
    let none = DeviceError::Unsupported { what: "an NVMe controller", value: 0 };
    let function = find(number).ok_or(none)?;
    let queues: &'static Queues = arena.place(Queues::new())?;
    let shared = Shared::of_arena(PAGES, arena).ok_or(DeviceError::OutOfArena { bytes: PAGES * PAGE })?;
    let nvme: &'static Nvme = arena.place(Nvme::new(function, shared, queues, timeout)?)?;
    NVME.call_once(|| nvme);
    QUEUES.call_once(|| queues);
    let mut name = *b"nvme-2004 00:00.0";
    name[10..].copy_from_slice(&function.address.text());
    Ok((Some(function), arena.place(Dumping { nvme, name })?))
}

impl Dumping {
    /// A free tag.
    fn free_tag(&self) -> Option<usize> {
        let free =
            |state: &mut State| state.slots.iter().position(|slot| matches!(slot.owner, Owner::Nobody));
        self.nvme.with(free).flatten()
    }

    /// Calls the interrupt handler, as the device no longer does, and runs the work that it scheduled.
    fn work(&self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        interrupt(0);
        if self.nvme.queues.crashdump_mode() {
            wait.breathe();
        } else {
            deferred::run();
        }
        if self.nvme.failed.load(Ordering::Relaxed) {
            return Err(DeviceError::TimedOut { what: LATE, after: self.nvme.timeout });
        }
        Ok(())
    }

    /// Checks that the request is possible.
    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        let length = request.buffer.len();
        if length == 0 || length > MAX_BYTES || !length.is_multiple_of(BLOCK_SIZE) || request.gather.is_some()
        {
            return Err(DeviceError::BadBuffer { length });
        }
        let end = request.block.saturating_add((length / BLOCK_SIZE) as u64);
        if end > self.nvme.blocks {
            return Err(DeviceError::OutOfRange { end, blocks: self.nvme.blocks });
        }
        Ok(())
    }

    /// The next completed request.
    fn ended(&self) -> Option<Completion> {
        self.nvme
            .with(|state| {
                let slot = state
                    .slots
                    .iter_mut()
                    .find(|slot| slot.ended.is_some() && matches!(slot.owner, Owner::Dump(_)))?;
                let result = slot.ended.take()?;
                let Owner::Dump(request) = core::mem::replace(&mut slot.owner, Owner::Nobody) else {
                    return None;
                };
                let Request { id, buffer, gather, .. } = request;
                Some(Completion { id, buffer, gather, result })
            })
            .flatten()
    }

    /// The result of a flush, once it has completed.
    fn flushed(&self, tag: usize) -> Option<Result<(), DeviceError>> {
        let ended = |state: &mut State| {
            let slot = state.slots.get_mut(tag)?;
            let result = slot.ended.take()?;
            slot.owner = Owner::Nobody;
            Some(result)
        };
        self.nvme.with(ended).flatten()
    }
}

// SAFETY: a request is in a slot from submit() on, until it is returned from that slot, once, on completion.
// Slots are emptied after the controller was reset. The controller only gets the pages of requests in slots,
// in their direction, and queues and lists that belong to the driver.
unsafe impl DumpDevice for Dumping {
    fn name(&self) -> &str {
        core::str::from_utf8(&self.name).unwrap_or("nvme-2004")
    }

    fn geometry(&self) -> Option<Geometry> {
        Some(Geometry { blocks: self.nvme.blocks })
    }

    fn integrity(&self, digest: &mut Digest) {
        let nvme = self.nvme;
        nvme.function.integrity(digest);
        nvme.controller.0.integrity(digest);
        nvme.shared.integrity(digest);
        for capability in [nvme.msi, nvme.msi_x] {
            digest.number(capability.unwrap_or(0).into());
        }
        digest
            .number(core::ptr::from_ref(nvme) as u64)
            .number(core::ptr::from_ref(nvme.queues) as u64)
            .number(nvme.stride as u64)
            .number(nvme.patience)
            .number(nvme.timeout)
            .number(nvme.shift.into())
            .number(nvme.blocks);
    }

    fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
        if let Err(error) = self.nvme.function.check_present(&pci::config()) {
            return Health::Unusable(error);
        }
        match self.nvme.get(STATUS) {
            u32::MAX => Health::Unusable(DeviceError::Gone),
            status if status & STATUS_FATAL != 0 => {
                Health::Risky(DeviceError::Protocol { what: "its status", value: status.into() })
            }
            _ => Health::Healthy,
        }
    }

    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let nvme = self.nvme;
        let config = pci::config();
        if nvme.queues.crashdump_mode() && nvme.state.is_locked() {
            if DUMP.resumes() {
                // The holder of the lock will continue after the dump.
                return Err(DeviceError::NotReady);
            }
            // SAFETY: the holder was stopped for good with all other CPUs, or is the code that crashed; its
            // half-made changes are overwritten below.
            unsafe { nvme.state.force_unlock() };
        }
        // Disable interrupts of every kind.
        nvme.function.mask_interrupts(&config, nvme.msi, nvme.msi_x)?;
        nvme.function.change_command(&config, Command::MEMORY | Command::BUS_MASTER, Command::empty())?;
        nvme.bring_up(wait, false)?;
        nvme.by_line.store(false, Ordering::Relaxed);
        // Forget the requests in flight and their timers.
        for tag in 0..TAGS {
            // Failure only means that the timer was not waiting.
            let _ = nvme.queues.delete_timer(platform(), late(tag));
        }
        let renewed = nvme.with(|state| {
            state.course = Course::START;
            for slot in &mut state.slots {
                slot.owner = Owner::Nobody;
                slot.ended = None;
            }
        });
        nvme.failed.store(false, Ordering::Relaxed);
        renewed.ok_or(DeviceError::NotReady)
    }

    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        let request = Request { id: 0, direction, block, buffer, gather: None };
        if let Err(rejected) = self.submit(request, wait) {
            return (Some(rejected.request.buffer), Err(rejected.error));
        }
        let ended =
            wait.until("a request", self.nvme.timeout.saturating_add(MORE), || self.poll(wait).transpose());
        match ended {
            Ok(Ok(completion)) => (Some(completion.buffer), completion.result),
            Ok(Err(error)) => (None, Err(error)),
            Err(late) => (None, Err(late.into())),
        }
    }

    fn depth(&self) -> usize {
        TAGS
    }

    fn max_transfer(&self) -> usize {
        MAX_BYTES
    }

    fn submit(&mut self, request: Request, _: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        if let Err(error) = self.check(&request) {
            return Err(Rejected { request, error });
        }
        let Some(tag) = self.free_tag() else {
            return Err(Rejected { request, error: DeviceError::QueueFull });
        };
        let writes = request.direction == Direction::Write;
        let order = self.nvme.transfer(
            tag,
            writes,
            request.block,
            request.buffer.bus_address(),
            request.buffer.len(),
        );
        match self.nvme.begin(tag, Owner::Dump(request), &order) {
            Err(Owner::Dump(request)) => Err(Rejected { request, error: DeviceError::QueueFull }),
            _ => Ok(None),
        }
    }

    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        self.work(wait)?;
        Ok(self.ended())
    }

    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let tag = self.free_tag().ok_or(DeviceError::QueueFull)?;
        let order = Order { opcode: FLUSH, namespace: NAMESPACE, pages: [0; 2], words: [0; 3] };
        self.nvme.begin(tag, Owner::Flush, &order).map_err(|_| DeviceError::QueueFull)?;
        wait.until("a flush", self.nvme.timeout.saturating_add(MORE), || match self.work(wait) {
            Ok(()) => self.flushed(tag),
            Err(error) => Some(Err(error)),
        })?
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.flush(wait)?;
        self.nvme.set(CONTROL, CONTROL_ON | CONTROL_SHUTDOWN);
        wait.until("the controller's shutdown", self.nvme.patience, || {
            let status = self.nvme.get(STATUS);
            (status & STATUS_SHUTDOWN == STATUS_SHUT_DOWN).then_some(())
        })?;
        Ok(())
    }
}
