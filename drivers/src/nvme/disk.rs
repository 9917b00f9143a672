//! A namespace of an NVMe controller as a disk for dumps.

use dumpcore::arena::Arena;
use dumpcore::device::{DeviceError, Health, Request};
use dumpcore::format::BLOCK_SIZE;
use dumpcore::integrity::Digest;
use dumpcore::platform::{Nanoseconds, Platform};
use dumpcore::wait::Wait;

use super::command::Submission;
use super::controller::{Controller, LISTS, Namespace, PAGE};
use crate::bus::access::Access;
use crate::bus::pci::{ConfigSpace, Function, functions};
use crate::bus::registers::Registers;
use crate::bus::shared::Shared;
use crate::disk::polled::FLUSH_TIMES;
use crate::disk::request::{cut, spans, whole_blocks};
use crate::disk::{Called, Name, Polled, PolledDisk, Progress, Requests, Shutdown, Work};

/// PCI class: mass storage, non-volatile memory, NVM Express I/O controller.
const CLASS: u32 = 0x01_08_02;

/// Maximum number of commands in flight. A request is one or several commands.
const COMMANDS: usize = 24;
/// Maximum number of bytes per command. A larger one would need a longer PRP list; two of this size are as
/// fast.
const MAX_COMMAND: usize = 512 << 10;
/// Maximum number of pages per command: one more if the first starts in the middle.
const MAX_PAGES: usize = MAX_COMMAND / PAGE + 1;
/// Bytes in a PRP list: all pages except the first. A list does not cross a page boundary.
const LIST: usize = (MAX_PAGES - 1) * size_of::<u64>();
static_assertions::const_assert!(PAGE.is_multiple_of(LIST));
static_assertions::const_assert!(COMMANDS * LIST >= PAGE && COMMANDS <= 1 << INDEX_BITS);

/// In a command identifier: the bits of the command's index. The higher bits change with each use.
const INDEX_BITS: u32 = 5;
/// Alignment of data in bytes (4.3).
const ALIGN: u64 = 4;

/// The PRPs of one command (4.3), and its number of bytes.
struct Prps {
    prp1: u64,
    prp2: u64,
    length: usize,
}

/// Offset of a command's PRP list in the shared memory.
fn list(index: usize) -> usize {
    index.saturating_mul(LIST).saturating_add(LISTS)
}

/// Fills in the PRPs for the pages from `command.from` on that fit one command, at most `command.length`
/// bytes; a whole number of blocks. The PRP list, for the pages after the first, is at offset `list` of the
/// shared memory.
#[inline(never)]
fn lay_out(
    request: &Request,
    command: &Command,
    memory: &mut Shared,
    list: usize,
    platform: &dyn Platform,
) -> Prps {
    let mut prps = Prps { prp1: 0, prp2: 0, length: 0 };
    let border = PAGE as u64;
    let limit = command.length as usize;
    let mut written = 0_usize;
    let pages = cut::<{ PAGE as u64 }>(spans(request, command.from as usize)).take(MAX_PAGES);
    for (index, page) in pages.enumerate() {
        if prps.length >= limit || index > 0 && !page.bus.is_multiple_of(border) {
            break;
        }
        if index == 0 {
            prps.prp1 = page.bus;
        } else {
            memory.write(list.saturating_add(written), page.bus.to_le());
            written = written.saturating_add(size_of::<u64>());
            // For two pages, the second; for more, the list.
            prps.prp2 = if index == 1 { page.bus } else { memory.bus_address(list) };
        }
        prps.length = prps.length.saturating_add(page.length);
        // Only the last page may end before a page boundary.
        if !page.bus.wrapping_add(page.length as u64).is_multiple_of(border) {
            break;
        }
    }
    memory.clean(list, written, platform);
    prps.length = whole_blocks(prps.length.min(limit));
    prps
}

/// Driver state of a request.
#[derive(Default)]
pub struct Issued {
    /// All its commands have been issued.
    all: bool,
    /// Commands in flight.
    commands: u8,
    /// Status of the first failed command; 0 if none.
    status: u16,
}

/// A slot for a command.
#[derive(Clone, Copy)]
struct Command {
    /// The command identifier. Its lower bits are fixed.
    id: u16,
    /// Whether the controller has it.
    busy: bool,
    /// Whether it has failed once.
    again: bool,
    /// The index of its request.
    owner: u8,
    /// Its part of the request's bytes.
    from: u32,
    length: u32,
}

/// Commands other than transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NvmeCommand {
    /// Flush the cache.
    Flush,
}

/// A namespace of an NVMe controller on PCI: takes the controller over, and polls.
///
/// The reset affects the whole controller, so it serves one `NvmeDisk` at a time: two namespaces of one
/// controller cannot receive dumps together.
///
/// A failed command is retried once, unless the controller reports that it would fail again (Do Not Retry); a
/// second failure is reported with the request.
pub type NvmeDisk<R, C> = Polled<Nvme<R, C>>;

/// The NVMe controller's part of the driver.
pub struct Nvme<R, C> {
    controller: Controller<R, C>,
    commands: [Command; COMMANDS],
    /// The requested namespace id; `None`: the first active one.
    chosen: Option<u32>,
    /// The namespace, once found.
    namespace: Option<Namespace>,
    /// Maximum number of bytes per command.
    largest: usize,
    /// There is a cache to flush.
    cache: bool,
    /// Maximum duration of a shutdown.
    shutdown: Nanoseconds,
}

/// The machine's NVMe controller number `index`, counted from 0 in bus order.
pub fn find<C: ConfigSpace + ?Sized>(config: &C, index: usize) -> Option<Function> {
    functions(config).filter(|function| function.class == CLASS).nth(index)
}

impl<R: Registers, C: ConfigSpace> NvmeDisk<R, C> {
    /// Probes an NVMe controller and takes 40 KiB from the arena. Does not write to the device.
    ///
    /// `namespace` is the id of the namespace for the dump, from 1; `None` means the first one that is active
    /// when the controller is taken over.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the function is not an NVMe controller, cannot be mapped, does not
    /// decode memory, or does not support pages of 4096 bytes or the NVM command set; [`DeviceError::Gone`];
    /// [`DeviceError::Protocol`] if its capabilities are inconsistent; [`DeviceError::OutOfArena`].
    pub fn open(
        access: Access<C, impl FnMut(u64, usize) -> Option<R>>,
        function: Function,
        namespace: Option<u32>,
        arena: &mut Arena<'_>,
    ) -> Result<NvmeDisk<R, C>, DeviceError> {
        if function.class != CLASS {
            return Err(DeviceError::Unsupported {
                what: "an NVMe controller",
                value: function.class.into(),
            });
        }
        let name = Name::new("nvme ").text(&function.address.text());
        let lists = COMMANDS.saturating_mul(LIST);
        let controller = Controller::open(access, function, lists, arena)?;
        let command = Command { id: 0, busy: false, again: false, owner: 0, from: 0, length: 0 };
        let mut commands = [command; COMMANDS];
        for (command, id) in commands.iter_mut().zip(0..) {
            command.id = id;
        }
        let nvme = Nvme {
            controller,
            commands,
            chosen: namespace,
            namespace: None,
            largest: BLOCK_SIZE,
            cache: true,
            shutdown: 0,
        };
        Ok(Polled::new(nvme, name))
    }
}

impl<R: Registers, C: ConfigSpace> Nvme<R, C> {
    /// Queues a command with as many of its bytes as fit; returns their number.
    #[inline(never)]
    fn issue(&mut self, index: usize, requests: &Requests<Self>, platform: &dyn Platform) -> usize {
        let Nvme { controller, commands, namespace: Some(namespace), .. } = self else { return 0 };
        let Some(command) = commands.get_mut(index) else { return 0 };
        let Some(work) = requests.get(command.owner.into()).and_then(|pending| pending.work()) else {
            return 0;
        };
        command.id = command.id.wrapping_add(1 << INDEX_BITS);
        let mut entry = match work {
            Work::Command(NvmeCommand::Flush) => Submission::flush(namespace.id),
            Work::Transfer(request) => {
                let prps = lay_out(request, command, controller.memory(), list(index), platform);
                command.length = prps.length as u32;
                if command.length == 0 {
                    // A command cannot express zero blocks: it would move one. So the request hangs, in the
                    // driver.
                    return 0;
                }
                let scale = BLOCK_SIZE.ilog2().saturating_sub(namespace.shift);
                let begin = command.from.wrapping_shr(namespace.shift).into();
                let address = request.block.wrapping_shl(scale).wrapping_add(begin);
                let count = command.length.wrapping_shr(namespace.shift);
                Submission::transfer(request.direction, namespace.id, address, count).at(prps.prp1, prps.prp2)
            }
        };
        entry.set_id(command.id);
        controller.push(&entry, platform);
        command.length as usize
    }

    /// From reset to the data queues: identifies the controller and the namespace.
    fn set_up(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        self.controller.start(wait)?;
        let traits = self.controller.traits(wait)?;
        self.largest = traits.largest.min(MAX_COMMAND);
        self.cache = traits.cache;
        self.shutdown = traits.shutdown;
        // A different namespace than the first time would be a different disk.
        let id = match self.chosen.or(self.namespace.map(|found| found.id)) {
            Some(id) => id,
            None => self.controller.first_namespace(traits.namespaces, wait)?,
        };
        self.namespace = Some(self.controller.namespace(id, wait)?);
        self.controller.make_queues(wait)
    }
}

// SAFETY: a request is over when the controller has none of its commands; the driver's own table says which
// commands are in flight, and from the controller it uses only an identifier that must be in that table.
// Commands name the pages of pending requests, and queues and lists, which belong to the driver; the
// direction is the request's.
unsafe impl<R: Registers, C: ConfigSpace> PolledDisk for Nvme<R, C> {
    type Command = NvmeCommand;
    type State = Issued;

    const READ: &'static str = "an NVMe read";
    const WRITE: &'static str = "an NVMe write";
    const POLLS_MEMORY: bool = true;

    fn called(_: NvmeCommand) -> Called {
        Called { noun: "an NVMe flush", verb: "flush" }
    }

    fn timeout(&self) -> Nanoseconds {
        self.controller.timeout()
    }

    fn controller(&self) -> u64 {
        self.controller.pci().number()
    }

    /// A partial block at the end does not count.
    fn blocks(&self) -> Option<u64> {
        self.namespace
            .map(|namespace| namespace.size.wrapping_shr(BLOCK_SIZE.ilog2().saturating_sub(namespace.shift)))
    }

    fn sector_size(&self) -> Option<u32> {
        self.namespace.and_then(|namespace| 1_u32.checked_shl(namespace.shift))
    }

    fn integrity(&self, digest: &mut Digest) {
        self.controller.integrity(digest);
        // 0 is not a namespace id.
        digest.number(self.chosen.unwrap_or(0).into());
    }

    fn health(&mut self) -> Health {
        self.controller.health()
    }

    fn take_over(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        // The registers may have moved, so explain an error without reading them.
        self.controller.isolate(wait).map_err(|error| self.controller.pci().explain(error))?;
        self.controller.reset(wait).map_err(|error| {
            let error = self.controller.explain(error);
            self.controller.give_up();
            error
        })
    }

    fn start(&mut self, wait: &Wait<'_>) -> Result<(), DeviceError> {
        for command in &mut self.commands {
            command.busy = false;
        }
        self.set_up(wait)
    }

    fn give_up(&mut self, _: &Wait<'_>) {
        self.controller.give_up();
    }

    fn check(&self, request: &Request) -> Result<(), DeviceError> {
        if spans(request, 0).all(|span| span.bus.is_multiple_of(ALIGN)) {
            return Ok(());
        }
        Err(DeviceError::BadBuffer { length: request.length() as usize })
    }

    fn flush_command(&self) -> Option<NvmeCommand> {
        // Without a volatile cache, completed writes are on the medium (5.15.2.2, VWC).
        self.cache.then_some(NvmeCommand::Flush)
    }

    fn serve(&mut self, requests: &mut Requests<Self>, platform: &dyn Platform) {
        // Each turn takes a free command, and their number is fixed.
        while self.controller.has_room() {
            let Some(index) = self.commands.iter().position(|command| !command.busy) else { break };
            let Some(owner) = requests.oldest(|pending| !pending.state.all && pending.state.status == 0)
            else {
                break;
            };
            let Some(pending) = requests.get_mut(owner) else { break };
            let (length, from) = (pending.length(), pending.done);
            pending.state.commands = pending.state.commands.saturating_add(1);
            if let Some(command) = self.commands.get_mut(index) {
                command.busy = true;
                command.again = false;
                command.owner = owner as u8;
                command.from = from as u32;
                command.length = length.saturating_sub(from).min(self.largest) as u32;
            }
            let issued = self.issue(index, requests, platform);
            if let Some(pending) = requests.get_mut(owner) {
                pending.done = pending.done.saturating_add(issued);
                pending.state.all = pending.done >= length;
            }
        }
        self.controller.ring_tails();
    }

    fn poll(&mut self, requests: &mut Requests<Self>, wait: &Wait<'_>) -> Result<Progress, DeviceError> {
        let platform = wait.platform();
        let Some(completed) = self.controller.pop(platform)? else {
            self.controller.ring_head(true);
            return Ok(Progress::Nothing);
        };
        let wrong = DeviceError::Protocol { what: "a finished command's id", value: completed.id.into() };
        let index = usize::from(completed.id & ((1 << INDEX_BITS) - 1));
        let known = self.commands.get_mut(index).filter(|command| command.busy && command.id == completed.id);
        let command = known.ok_or(wrong)?;
        let owner = usize::from(command.owner);
        let pending = requests.get_mut(owner).ok_or(wrong)?;
        // A second flush would skip the data that the first could not write.
        let may_repeat = !completed.for_good && !command.again && pending.request().is_some();
        if completed.status != 0 && may_repeat {
            command.again = true;
            // Release the completion's entry for the next one.
            self.controller.ring_head(true);
            self.issue(index, requests, platform);
            self.controller.ring_tails();
            return Ok(Progress::Room);
        }
        command.busy = false;
        let state = &mut pending.state;
        state.commands = state.commands.saturating_sub(1);
        if state.status == 0 {
            state.status = completed.status;
        }
        let result = match state.status {
            0 => Ok(()),
            status => Err(DeviceError::Status { what: pending.verb(Self::called), code: status.into() }),
        };
        self.controller.ring_head(false);
        let over = pending.state.commands == 0 && (pending.state.all || result.is_err());
        Ok(if over { Progress::Over { index: owner, result } } else { Progress::Room })
    }

    fn explain(&self, error: DeviceError) -> DeviceError {
        self.controller.explain(error)
    }

    fn shut_down(&mut self, how: Shutdown, wait: &Wait<'_>) -> Result<(), DeviceError> {
        let limit = self.timeout().saturating_mul(FLUSH_TIMES).max(self.shutdown);
        self.controller.shut_down(how, limit, wait)
    }
}
