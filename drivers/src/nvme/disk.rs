//! A namespace of an NVMe controller as a disk that receives a dump.

use dumpcore::arena::Arena;
use dumpcore::device::{
    Completion, DeviceError, Direction, DumpDevice, Gather, Geometry, Health, Rejected, Request,
};
use dumpcore::dma::DmaBuffer;
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::Wait;

use super::command::Submission;
use super::controller::{Controller, LISTS, Namespace, PAGE};
use crate::bus::pci::{ConfigSpace, Function, functions};
use crate::bus::registers::Registers;
use crate::bus::shared::Shared;

/// PCI class: mass storage, non-volatile memory, NVM Express with data.
const CLASS: u32 = 0x01_08_02;

/// Requests that the driver takes at once.
const SLOTS: usize = 16;
/// Commands that the controller has at once at most. A request is one or several.
const COMMANDS: usize = 24;
/// Bytes in a request at most. More would not be faster.
const MAX_TRANSFER: usize = 1 << 20;
/// Extents in a request at most: the smallest, of a block each, reach the largest transfer.
const MAX_EXTENTS: usize = MAX_TRANSFER / BLOCK_SIZE;
/// Bytes in a command at most. A larger one would need a longer list of pages; two of this size are as fast.
const MAX_COMMAND: usize = 512 << 10;
/// Pages that a command touches at most: one more if the first begins in the middle.
const MAX_PAGES: usize = MAX_COMMAND / PAGE + 1;
/// Bytes in a list of pages, all but the first. No list crosses a page's border.
const LIST: usize = (MAX_PAGES - 1) * size_of::<u64>();
static_assertions::const_assert!(PAGE.is_multiple_of(LIST));
static_assertions::const_assert!(COMMANDS * LIST >= PAGE && COMMANDS <= 1 << ID_BITS);

/// In a command's id: bits that say which command it is. Those above change each time it is used.
const ID_BITS: u32 = 5;
/// The first page of data begins at a multiple of this many bytes (4.3).
const ALIGN: u64 = 4;
/// A flush may take this many times as long as a request: there may be gigabytes in the cache.
const FLUSH_TIMES: u64 = 12;
/// So many looks in a row that find nothing are followed by one at the controller's status. That register is slow, so it is
/// not done more often; a controller that is gone is noticed within milliseconds even so.
const LOOKS_PER_STATUS: u32 = 1 << 14;

/// What the driver was asked to do.
enum Work {
    Transfer(Request),
    Flush,
}

impl Work {
    /// Bytes of data.
    fn length(&self) -> usize {
        match self {
            Work::Transfer(request) => request.length() as usize,
            Work::Flush => 0,
        }
    }

    /// What it is called when it fails.
    fn verb(&self) -> &'static str {
        match self {
            Work::Transfer(Request { direction: Direction::Read, .. }) => "read",
            Work::Transfer(Request { direction: Direction::Write, .. }) => "write",
            Work::Flush => "flush",
        }
    }
}

/// Where a request's data is, in order: bus address and bytes.
fn parts(request: &Request) -> impl Iterator<Item = (u64, usize)> + '_ {
    let buffer = (request.buffer.bus_address(), request.buffer.len());
    let extents = request.gather.as_ref().map_or(&[][..], Gather::extents);
    core::iter::once(buffer).chain(extents.iter().map(|extent| (extent.bus, extent.length as usize)))
}

/// The pieces of pages that hold a request's data after the first `from` bytes: none crosses a page's border.
fn pieces(request: &Request, from: usize) -> impl Iterator<Item = (u64, usize)> + '_ {
    let mut before = from;
    parts(request).flat_map(move |(start, length)| {
        let skip = before.min(length);
        before = before.saturating_sub(skip);
        let first = start.wrapping_add(skip as u64);
        let length = length.saturating_sub(skip);
        // As if the first page began at its border; of nothing, there is no page.
        let ahead = first as usize & PAGE.wrapping_sub(1);
        let pages = if length > 0 { length.saturating_add(ahead) } else { 0 };
        (0..pages).step_by(PAGE).map(move |border| {
            let begin = border.max(ahead);
            let end = border.saturating_add(PAGE).min(pages);
            (first.wrapping_add(begin.saturating_sub(ahead) as u64), end.saturating_sub(begin))
        })
    })
}

/// What one command can move: where (4.3), and how many bytes.
struct Stretch {
    prp1: u64,
    prp2: u64,
    length: usize,
}

/// The pages from `from` on that one command can take, at most `limit` bytes; a whole number of blocks. Those after the
/// first go into the list at an offset of the shared memory.
#[inline(never)]
fn stretch(
    request: &Request,
    (from, limit): (usize, usize),
    memory: &mut Shared,
    list: usize,
    platform: &dyn Platform,
) -> Stretch {
    let mut this = Stretch { prp1: 0, prp2: 0, length: 0 };
    let border = PAGE as u64;
    let mut written = 0_usize;
    for (index, (address, bytes)) in pieces(request, from).take(MAX_PAGES).enumerate() {
        if this.length >= limit || index > 0 && !address.is_multiple_of(border) {
            break;
        }
        if index == 0 {
            this.prp1 = address;
        } else {
            memory.write(list.saturating_add(written), address.to_le());
            written = written.saturating_add(size_of::<u64>());
            // With two pages it is the second, with more the list's place.
            this.prp2 = if index == 1 { address } else { memory.bus_address(list) };
        }
        this.length = this.length.saturating_add(bytes);
        // Only the last page may end before its border.
        if !address.wrapping_add(bytes as u64).is_multiple_of(border) {
            break;
        }
    }
    memory.clean(list, written, platform);
    this.length = this.length.min(limit) & !BLOCK_SIZE.wrapping_sub(1);
    this
}

/// Room for one request.
struct Slot {
    work: Option<Work>,
    /// Bytes of which the controller has been told.
    given: usize,
    /// The controller has been told of all of it.
    all: bool,
    /// Commands that it has.
    commands: u8,
    /// How the first command that failed did; 0 if none has.
    status: u16,
    /// When it came, to serve those that wait in order.
    turn: u32,
}

impl Slot {
    const FREE: Slot = Slot { work: None, given: 0, all: false, commands: 0, status: 0, turn: 0 };

    /// Whether there is something to tell the controller.
    fn waits(&self) -> bool {
        self.work.is_some() && !self.all && self.status == 0
    }
}

/// A command, or room for one.
#[derive(Clone, Copy)]
struct Command {
    /// What the controller calls it. Its lower bits stay.
    id: u16,
    /// Whether the controller has it.
    busy: bool,
    /// Whether it failed once.
    again: bool,
    /// Of which request it is.
    slot: u8,
    /// Which of the request's bytes.
    from: u32,
    length: u32,
}

/// A request that is over.
enum Finished {
    Transfer(Completion),
    Flush(Result<(), DeviceError>),
}

/// A namespace behind an NVMe controller on PCI: takes the controller over, and polls.
///
/// [`open`](NvmeDisk::open) it while the kernel is healthy, move it into the arena with
/// [`Arena::place`], and give it to `arm()`. Opening only looks: another driver may be using the controller, until
/// [`quiesce`](DumpDevice::quiesce) takes it over by reset. The reset is the whole controller's, so it serves one
/// `NvmeDisk` at a time: two namespaces of one controller cannot receive dumps together.
///
/// Reset ends everything that was in flight. A command that failed, and of which the controller does not say that it would
/// fail again, is given to it once more; a second failure is reported with the request. Any failure of the controller itself (a wrong
/// answer, its fatal status, a request of [`rw_block`](DumpDevice::rw_block) or [`flush`](DumpDevice::flush) that does
/// not end) ends its use: everything is [`DeviceError::NotReady`] until `quiesce` succeeds again. Buffers that were in
/// flight then stay lost.
///
/// DMA need not be coherent: queues and lists are cleaned and invalidated through the platform.
pub struct NvmeDisk<R, C> {
    controller: Controller<R, C>,
    slots: [Slot; SLOTS],
    commands: [Command; COMMANDS],
    /// Requests taken so far.
    turns: u32,
    name: [u8; 12],
    timeout: Nanoseconds,
    /// Which namespace was asked for; the first active one if `None`.
    chosen: Option<u32>,
    /// The namespace, from `quiesce` on.
    namespace: Option<Namespace>,
    /// Bytes in a command at most.
    largest: usize,
    /// There is a cache to flush.
    cache: bool,
    /// How long a shutdown may take.
    shutdown: Nanoseconds,
    /// Quiesced, and not failed since.
    ready: bool,
    /// Looks in a row that found nothing.
    idle: u32,
}

/// The `index`th NVMe controller on the machine, counted from 0 in the order of the bus.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    functions(config).filter(|function| function.class == CLASS).nth(index)
}

impl<R: Registers, C: ConfigSpace> NvmeDisk<R, C> {
    /// Looks at an NVMe controller and carves what it needs from the arena, 40 KiB. Does not write to the device.
    ///
    /// `namespace` is the number of the one that is to receive the dump, from 1; `None` means the first that is active when the
    /// controller is taken over. `map` maps a number of bytes at a physical address for device registers: uncached, readable
    /// and writable, on every CPU and for ever. Memory decoding has to be on, as any kernel or firmware leaves it.
    /// `request_timeout` is how many nanoseconds a command may take; a reset may take what the controller says.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if it is not an NVMe controller, cannot be mapped, does not decode memory, or has no
    /// pages of 4096 bytes or no NVM command set; [`DeviceError::Gone`]; [`DeviceError::Protocol`] if its capabilities
    /// make no sense; [`DeviceError::OutOfArena`].
    pub fn open(
        config: C,
        function: Function,
        namespace: Option<u32>,
        map: impl FnMut(u64, usize) -> Option<R>,
        arena: &mut Arena<'_>,
        request_timeout: Nanoseconds,
    ) -> Result<NvmeDisk<R, C>, DeviceError> {
        if function.class != CLASS {
            return Err(DeviceError::Unsupported {
                what: "an NVMe controller",
                value: function.class.into(),
            });
        }
        let lists = COMMANDS.saturating_mul(LIST);
        let controller = Controller::open(config, function, map, arena, lists, request_timeout)?;
        let mut name = *b"nvme 00:00.0";
        for (slot, byte) in name.iter_mut().rev().zip(function.address.text().iter().rev()) {
            *slot = *byte;
        }
        let command = Command { id: 0, busy: false, again: false, slot: 0, from: 0, length: 0 };
        let mut commands = [command; COMMANDS];
        for (command, id) in commands.iter_mut().zip(0..) {
            command.id = id;
        }
        Ok(NvmeDisk {
            controller,
            slots: [Slot::FREE; SLOTS],
            commands,
            turns: 0,
            name,
            timeout: request_timeout,
            chosen: namespace,
            namespace: None,
            largest: BLOCK_SIZE,
            cache: true,
            shutdown: 0,
            ready: false,
            idle: 0,
        })
    }

    /// From reset to ready: start, what the controller is like, the namespace, the queues.
    fn restart(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.controller.reset(wait)?;
        // Buffers that were in flight are forgotten, not given back: whoever gave them has been told so.
        for slot in &mut self.slots {
            *slot = Slot::FREE;
        }
        for command in &mut self.commands {
            command.busy = false;
        }
        self.idle = 0;
        self.controller.start(wait)?;
        let traits = self.controller.traits(wait)?;
        self.largest = traits.largest.min(MAX_COMMAND);
        self.cache = traits.cache;
        self.shutdown = traits.shutdown;
        // Another one than the first time would be another disk.
        let id = match self.chosen.or(self.namespace.map(|found| found.id)) {
            Some(id) => id,
            None => self.controller.first_namespace(traits.namespaces, wait)?,
        };
        self.namespace = Some(self.controller.namespace(id, wait)?);
        self.controller.make_queues(wait)
    }

    /// Ends the use of a device that has failed, and says why.
    fn fail(&mut self, error: DeviceError) -> DeviceError {
        self.ready = false;
        self.controller.explain(error)
    }

    /// Whether nothing is in flight.
    fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.work.is_none())
    }

    /// Size in blocks of 4096 bytes. A part of a block at the end is not counted.
    fn blocks(&self) -> u64 {
        self.namespace.map_or(0, |namespace| {
            namespace.size.wrapping_shr(BLOCK_SIZE.ilog2().saturating_sub(namespace.shift))
        })
    }

    /// Whether a request can be taken, and where.
    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        let length = request.length();
        let gathered = request.gather.as_ref().is_some_and(|gather| !gather.extents().is_empty());
        let ragged = |(start, bytes): (u64, usize)| {
            bytes == 0 || !bytes.is_multiple_of(BLOCK_SIZE) || !start.is_multiple_of(ALIGN)
        };
        let bad = parts(request).any(ragged)
            || length > MAX_TRANSFER as u64
            || gathered && request.direction == Direction::Read;
        if bad {
            return Err(DeviceError::BadBuffer { length: length as usize });
        }
        let blocks = self.blocks();
        let end = request.block.saturating_add((length as usize / BLOCK_SIZE) as u64);
        if end > blocks {
            return Err(DeviceError::OutOfRange { end, blocks });
        }
        Ok(())
    }

    /// A free slot for what was checked.
    fn free_slot(&mut self) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.work.is_none())
    }

    /// Puts work into the slots and tells the controller as much as it takes; `None` if there was room.
    fn take(&mut self, work: Work, platform: &dyn Platform) -> Option<Work> {
        let turn = self.turns.wrapping_add(1);
        let Some(slot) = self.free_slot() else { return Some(work) };
        *slot = Slot { work: Some(work), turn, ..Slot::FREE };
        self.turns = turn;
        self.idle = 0;
        self.serve(platform);
        None
    }

    /// Gives the controller what waits, oldest first, while there is room.
    fn serve(&mut self, platform: &dyn Platform) {
        // Each turn takes a free command, and their number is fixed.
        while self.controller.has_room() {
            let Some(index) = self.commands.iter().position(|command| !command.busy) else { break };
            let now = self.turns;
            let waiting = self.slots.iter_mut().zip(0_u8..).filter(|(slot, _)| slot.waits());
            let Some((slot, number)) = waiting.max_by_key(|(slot, _)| now.wrapping_sub(slot.turn)) else {
                break;
            };
            let length = slot.work.as_ref().map_or(0, Work::length);
            let left = length.saturating_sub(slot.given).min(self.largest);
            slot.commands = slot.commands.saturating_add(1);
            let from = slot.given;
            if let Some(command) = self.commands.get_mut(index) {
                command.busy = true;
                command.again = false;
                command.slot = number;
                command.from = from as u32;
                command.length = left as u32;
            }
            let moved = self.issue(index, platform);
            if let Some(slot) = self.slots.get_mut(usize::from(number)) {
                slot.given = slot.given.saturating_add(moved);
                slot.all = slot.given >= length;
            }
        }
        self.controller.tell_tails();
    }

    /// Puts a command into the queue. Of its bytes it takes as many as it can; returns how many those are.
    #[inline(never)]
    fn issue(&mut self, index: usize, platform: &dyn Platform) -> usize {
        let NvmeDisk { controller, slots, commands, namespace: Some(namespace), .. } = self else { return 0 };
        let Some(command) = commands.get_mut(index) else { return 0 };
        let Some(work) = slots.get(usize::from(command.slot)).and_then(|slot| slot.work.as_ref()) else {
            return 0;
        };
        command.id = command.id.wrapping_add(1 << ID_BITS);
        let mut entry = match work {
            Work::Flush => Submission::flush(namespace.id),
            Work::Transfer(request) => {
                let list = index.saturating_mul(LIST).saturating_add(LISTS);
                let (from, limit) = (command.from as usize, command.length as usize);
                let stretch = stretch(request, (from, limit), controller.memory(), list, platform);
                command.length = stretch.length as u32;
                if command.length == 0 {
                    // No block at all cannot be said in a command: it would move one. So the request hangs, in the driver.
                    return 0;
                }
                let scale = BLOCK_SIZE.ilog2().saturating_sub(namespace.shift);
                let begin = from.wrapping_shr(namespace.shift) as u64;
                let address = request.block.wrapping_shl(scale).wrapping_add(begin);
                let count = command.length.wrapping_shr(namespace.shift);
                Submission::transfer(request.direction, namespace.id, address, count)
                    .at(stretch.prp1, stretch.prp2)
            }
        };
        entry.name(command.id);
        controller.push(&entry, platform);
        command.length as usize
    }

    /// The next request that is over.
    fn finished(&mut self, platform: &dyn Platform) -> Result<Option<Finished>, DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        let popped = match self.controller.pop(platform) {
            Ok(Some(popped)) => popped,
            Ok(None) => {
                self.controller.tell_head(true);
                self.idle = self.idle.wrapping_add(1);
                if self.idle.is_multiple_of(LOOKS_PER_STATUS) {
                    self.check_alive()?;
                }
                return Ok(None);
            }
            Err(error) => return Err(self.fail(error)),
        };
        self.idle = 0;
        let wrong = DeviceError::Protocol { what: "a finished command's id", value: popped.id.into() };
        let index = usize::from(popped.id & ((1 << ID_BITS) - 1));
        let known = self.commands.get_mut(index).filter(|command| command.busy && command.id == popped.id);
        let Some(command) = known else { return Err(self.fail(wrong)) };
        // A second flush would pass over what the first could not write.
        let slot = self.slots.get(usize::from(command.slot));
        let transfers = slot.is_some_and(|slot| matches!(slot.work, Some(Work::Transfer(_))));
        if popped.status != 0 && !popped.for_good && !command.again && transfers {
            command.again = true;
            // The completion's place has to be free for the next one.
            self.controller.tell_head(true);
            self.issue(index, platform);
            self.controller.tell_tails();
            return Ok(None);
        }
        command.busy = false;
        let Some(slot) = self.slots.get_mut(usize::from(command.slot)) else { return Err(self.fail(wrong)) };
        slot.commands = slot.commands.saturating_sub(1);
        if slot.status == 0 {
            slot.status = popped.status;
        }
        let over = slot.commands == 0 && !slot.waits();
        let status = slot.status;
        let work = if over { slot.work.take() } else { None };
        self.controller.tell_head(false);
        // The rest of this request, or whoever has waited longest.
        self.serve(platform);
        Ok(work.map(|work| {
            let result = match status {
                0 => Ok(()),
                status => Err(DeviceError::Status { what: work.verb(), code: status.into() }),
            };
            match work {
                Work::Transfer(Request { id, buffer, gather, .. }) => {
                    Finished::Transfer(Completion { id, buffer, gather, result })
                }
                Work::Flush => Finished::Flush(result),
            }
        }))
    }

    fn check_alive(&mut self) -> Result<(), DeviceError> {
        // What explain() would put in the place of "nothing wrong" is the error.
        let error = self.controller.explain(DeviceError::NotReady);
        if error == DeviceError::NotReady {
            return Ok(());
        }
        self.ready = false;
        Err(error)
    }

    /// Waits for the only request in flight.
    fn wait_for_it(
        &mut self,
        what: &'static str,
        limit: Nanoseconds,
        wait: &Wait<'_>,
    ) -> Result<Finished, DeviceError> {
        let waited = wait.until(what, limit, || self.finished(wait.platform()).transpose());
        match waited {
            Ok(result) => result,
            // The request stays in flight, so the queue is no longer what rw_block takes it for.
            Err(timed_out) => Err(self.fail(timed_out.into())),
        }
    }
}

// SAFETY: a request is in a slot from submit() on, until it goes back out of that slot, once, when none of its commands is with
// the controller; which commands are, the driver's own table says, and of what the controller writes only an id that must be
// in it. Slots are emptied when a reset is confirmed. Commands name the pages of what is in a slot, and queues and lists, which
// are the driver's; which way data goes is the request's.
unsafe impl<R: Registers, C: ConfigSpace> DumpDevice for NvmeDisk<R, C> {
    fn name(&self) -> &str {
        core::str::from_utf8(&self.name).unwrap_or_default()
    }

    fn geometry(&self) -> Option<Geometry> {
        self.namespace.map(|_| Geometry { blocks: self.blocks() })
    }

    fn sector_size(&self) -> Option<u32> {
        self.namespace.and_then(|namespace| 1_u32.checked_shl(namespace.shift))
    }

    fn seal(&self, digest: &mut Digest) {
        self.controller.seal(digest);
        digest.bytes(&self.name).number(self.timeout);
        // 0 is no namespace's number.
        digest.number(self.chosen.unwrap_or(0).into());
    }

    fn sanity_check(&mut self, _: &Wait<'_>) -> Health {
        self.controller.health()
    }

    fn quiesce(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.ready = false;
        // The registers are not known to be where they were, so an error is explained without looking at them.
        self.controller.silence(wait).map_err(|error| self.controller.pci().explain(error))?;
        match self.restart(wait) {
            Ok(()) => {
                self.ready = true;
                Ok(())
            }
            Err(error) => {
                let error = self.controller.explain(error);
                self.controller.give_up();
                Err(error)
            }
        }
    }

    fn rw_block(
        &mut self,
        direction: Direction,
        block: u64,
        buffer: DmaBuffer,
        wait: &Wait<'_>,
    ) -> (Option<DmaBuffer>, Result<(), DeviceError>) {
        let length = buffer.len();
        if length != BLOCK_SIZE {
            return (Some(buffer), Err(DeviceError::BadBuffer { length }));
        }
        if self.ready && !self.is_idle() {
            return (Some(buffer), Err(DeviceError::QueueFull));
        }
        let request = Request { id: 0, direction, block, buffer, gather: None };
        if let Err(Rejected { request, error }) = self.submit(request, wait) {
            return (Some(request.buffer), Err(error));
        }
        let what = match direction {
            Direction::Read => "an NVMe read",
            Direction::Write => "an NVMe write",
        };
        match self.wait_for_it(what, self.timeout, wait) {
            Ok(Finished::Transfer(completion)) => (Some(completion.buffer), completion.result),
            Ok(Finished::Flush(result)) => (None, result),
            Err(error) => (None, Err(error)),
        }
    }

    fn controller(&self) -> Option<u64> {
        Some(self.controller.pci().number())
    }

    /// 16, whatever the controller's queue holds: what does not fit into it waits in the driver.
    fn depth(&self) -> usize {
        SLOTS
    }

    /// 1 MiB, whatever the controller takes at once: a larger request goes to it in several commands.
    fn max_transfer(&self) -> usize {
        MAX_TRANSFER
    }

    /// As many as the largest transfer has blocks.
    fn max_extents(&self) -> usize {
        MAX_EXTENTS
    }

    fn submit(&mut self, request: Request, wait: &Wait<'_>) -> Result<Option<Completion>, Rejected> {
        if let Err(error) = self.check(&request) {
            return Err(Rejected { request, error });
        }
        match self.take(Work::Transfer(request), wait.platform()) {
            Some(Work::Transfer(request)) => Err(Rejected { request, error: DeviceError::QueueFull }),
            // take() gives back what it was given, so there is no other failure.
            Some(Work::Flush) | None => Ok(None),
        }
    }

    fn poll(&mut self, wait: &Wait<'_>) -> Result<Option<Completion>, DeviceError> {
        match self.finished(wait.platform())? {
            Some(Finished::Transfer(completion)) => Ok(Some(completion)),
            Some(Finished::Flush(_)) | None => Ok(None),
        }
    }

    fn flush(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        if !self.ready {
            return Err(DeviceError::NotReady);
        }
        if !self.cache {
            // Without a volatile cache, what is complete is on the medium (5.15.2.2, VWC).
            return Ok(());
        }
        if !self.is_idle() || self.take(Work::Flush, wait.platform()).is_some() {
            return Err(DeviceError::QueueFull);
        }
        let limit = self.timeout.saturating_mul(FLUSH_TIMES);
        match self.wait_for_it("an NVMe flush", limit, wait)? {
            Finished::Flush(result) => result,
            Finished::Transfer(_) => Err(self.fail(DeviceError::NotReady)),
        }
    }

    fn shutdown(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let flushed = self.flush(wait);
        self.ready = false;
        let limit = self.timeout.saturating_mul(FLUSH_TIMES).max(self.shutdown);
        let idle = flushed.is_ok() && self.is_idle();
        let rested = self.controller.shut_down(idle, limit, wait);
        flushed.and(rested)
    }
}
