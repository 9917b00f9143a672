//! An interrupt-driven driver for the first disk of an AHCI HBA: each request has a timer, and a tasklet
//! finishes it.
//!
//! Specification: Serial ATA AHCI 1.3.1 (registers: chapter 3; command list and tables: 4.2; bringing a port
//! up: 10.1.2, 10.3), ATA8-ACS (IDENTIFY DEVICE, READ and WRITE DMA EXT), Serial ATA 3.0, 13.6 (READ and
//! WRITE FPDMA QUEUED).

use core::sync::atomic::{AtomicU32, Ordering, fence};

use dump_drivers::bus::pci::{Bar, Command, Function};
use dump_drivers::{Mmio, Registers};
use dumpcore::deferred::{Handler, HostQueues};
use dumpcore::format::BLOCK_SIZE;
use spin::{Mutex, Once};

use super::memory::Shared;
use super::probe;
use super::traffic::{self, Disk, REQUEST_TIMEOUT, Transfer};
use crate::arch::{clock, irq, paging, pci};
use crate::deferred::KERNEL;
use crate::device;

/// The base address register (ABAR), and the size of the registers of an HBA with all 32 ports.
const BAR: u8 = 5;
const LENGTH: usize = 0x1100;

/// Registers of the HBA.
const CAPABILITIES: usize = 0x00;
const CAPABILITIES_QUEUED: u32 = 1 << 30;
const CONTROL: usize = 0x04;
const CONTROL_INTERRUPTS: u32 = 1 << 1;
const CONTROL_AHCI: u32 = 1 << 31;
const INTERRUPTS: usize = 0x08;
const PORTS: usize = 0x0c;

/// Registers of a port; the first port begins at 0x100.
const PORT: usize = 0x100;
const PORT_LENGTH: usize = 0x80;
const LIST: usize = 0x00;
const RECEIVED: usize = 0x08;
const PORT_INTERRUPTS: usize = 0x10;
const PORT_INTERRUPTS_ON: usize = 0x14;
const COMMAND: usize = 0x18;
const COMMAND_START: u32 = 1 << 0;
const COMMAND_RECEIVE: u32 = 1 << 4;
const COMMAND_RECEIVES: u32 = 1 << 14;
const COMMAND_RUNS: u32 = 1 << 15;
const TASK_FILE: usize = 0x20;
const TASK_FILE_BUSY: u32 = 0x88;
const SIGNATURE: usize = 0x24;
const SIGNATURE_DISK: u32 = 0x101;
const LINK: usize = 0x28;
const ERRORS: usize = 0x30;
const ACTIVE: usize = 0x34;
const ISSUE: usize = 0x38;

/// A port's interrupts: the register FIS at the end of a command, the FIS at the end of queued ones, and
/// errors.
const ENDED: u32 = 1 << 0 | 1 << 3;
const WRONG: u32 = 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30;

/// Layout of the shared pages: command list, received FIS, IDENTIFY data, command tables.
const LIST_AT: usize = 0;
const RECEIVED_AT: usize = 1024;
const IDENTIFY_AT: usize = 2048;
const TABLES_AT: usize = 4096;
const TABLE_LENGTH: usize = 256;
/// In a command table: offset of the PRD table.
const REGIONS: usize = 0x80;

/// Maximum number of requests in flight.
const TAGS: usize = 8;
/// How long each step of bringing the port up may take, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;

/// Registers used by one CPU at a time, or independently.
struct Hba(Mmio);
// SAFETY: accesses of one word each; the driver's lock serialises the start and end of commands.
unsafe impl Sync for Hba {}

/// A disk.
struct Ahci {
    hba: Hba,
    /// Its port number, and the offset of the port's registers.
    number: usize,
    port: usize,
    shared: Shared,
    /// Whether the disk also queues commands (NCQ).
    queued: bool,
    /// Size of a sector in bytes.
    sector: usize,
    /// A bit for each command in flight.
    issued: Mutex<u32>,
    /// Error interrupts of the port.
    wrong: AtomicU32,
}

static AHCI: Once<Ahci> = Once::new();

/// Finishes completed requests.
const FINISH: Handler = Handler { run: finish, word: 0 };

/// Times out the request with this tag.
fn late(tag: usize) -> Handler {
    Handler { run: timed_out, word: tag }
}

/// Starts the driver.
pub(super) fn start(function: Option<Function>) -> Result<&'static dyn Disk, &'static str> {
    let function = function.ok_or("there is no disk")?;
    let ahci = open(&function)?;
    let ahci = AHCI.call_once(|| ahci);
    irq::register(&function, 0, interrupt, 0)?;
    ahci.set(PORT_INTERRUPTS_ON, ENDED | WRONG);
    ahci.hba.0.write32(CONTROL, CONTROL_AHCI | CONTROL_INTERRUPTS);
    Ok(ahci)
}

fn open(function: &Function) -> Result<Ahci, &'static str> {
    let config = pci::config();
    let Some(Bar::Memory { address, .. }) = function.bar(&config, BAR) else {
        return Err("the HBA has no registers");
    };
    function
        .change_command(&config, Command::MEMORY | Command::BUS_MASTER, Command::empty())
        .map_err(|_| "the HBA's PCI command cannot be changed")?;
    let hba = device::map_device(address, LENGTH).ok_or("the HBA's registers cannot be mapped")?;
    hba.write32(CONTROL, CONTROL_AHCI);
    let ports = hba.read32(PORTS);
    let is_linked = |number: &usize| {
        ports & 1 << number != 0 && hba.read32(PORT + number * PORT_LENGTH + LINK) & 0xf == 3
    };
    let number = (0..32).find(is_linked).ok_or("the HBA has no disk")?;
    let queued = hba.read32(CAPABILITIES) & CAPABILITIES_QUEUED != 0;
    let mut ahci = Ahci {
        hba: Hba(hba),
        number,
        port: PORT + number * PORT_LENGTH,
        shared: Shared::of_kernel(2).ok_or("no memory for the AHCI driver")?,
        queued: false,
        sector: 512,
        issued: Mutex::new(0),
        wrong: AtomicU32::new(0),
    };
    // The port only knows what is attached when it receives FISes.
    ahci.restart()?;
    if ahci.get(SIGNATURE) != SIGNATURE_DISK {
        return Err("what the HBA has is no disk");
    }
    ahci.identify()?;
    ahci.queued &= queued;
    Ok(ahci)
}

/// Waits for a register, in the healthy kernel.
fn until(look: impl Fn() -> bool) -> Result<(), &'static str> {
    let deadline = clock::now() + PATIENCE;
    while !look() {
        if clock::now() > deadline {
            return Err("the AHCI port does not do as it should");
        }
        core::hint::spin_loop();
    }
    Ok(())
}

impl Ahci {
    fn get(&self, register: usize) -> u32 {
        self.hba.0.read32(self.port + register)
    }

    fn set(&self, register: usize, value: u32) {
        self.hba.0.write32(self.port + register, value);
    }

    /// Stops and restarts the port; requests in flight are lost.
    fn restart(&self) -> Result<(), &'static str> {
        let command = self.get(COMMAND) & !COMMAND_START;
        self.set(COMMAND, command);
        until(|| self.get(COMMAND) & COMMAND_RUNS == 0)?;
        self.set(COMMAND, command & !COMMAND_RECEIVE);
        until(|| self.get(COMMAND) & COMMAND_RECEIVES == 0)?;
        for (register, at) in [(LIST, LIST_AT), (RECEIVED, RECEIVED_AT)] {
            let bus = self.shared.bus(at);
            self.set(register, bus as u32);
            self.set(register + 4, (bus >> 32) as u32);
        }
        self.set(ERRORS, u32::MAX);
        self.set(PORT_INTERRUPTS, u32::MAX);
        self.set(COMMAND, command | COMMAND_RECEIVE);
        until(|| self.get(TASK_FILE) & TASK_FILE_BUSY == 0)?;
        self.set(COMMAND, command | COMMAND_RECEIVE | COMMAND_START);
        Ok(())
    }

    /// Fills the command slot with this tag.
    fn command(&self, tag: usize, fis: [u8; 20], writes: bool, bus: u64, length: usize) {
        let table = TABLES_AT + tag * TABLE_LENGTH;
        for (index, word) in fis.as_chunks::<4>().0.iter().enumerate() {
            self.shared.write(table + 4 * index, u32::from_le_bytes(*word));
        }
        self.shared.write64(table + REGIONS, bus);
        self.shared.write(table + REGIONS + 12, length as u32 - 1);
        let header = LIST_AT + tag * 32;
        // One PRD entry, five words of FIS.
        self.shared.write(header, 1 << 16 | u32::from(writes) << 6 | 5);
        self.shared.write(header + 4, 0);
        self.shared.write64(header + 8, self.shared.bus(table));
        fence(Ordering::SeqCst);
    }

    /// Reads the IDENTIFY data of the disk. Polled, because interrupts are not enabled yet.
    fn identify(&mut self) -> Result<(), &'static str> {
        let mut fis = [0; 20];
        fis[..3].copy_from_slice(&[0x27, 0x80, 0xec]);
        self.command(0, fis, false, self.shared.bus(IDENTIFY_AT), 512);
        self.set(ISSUE, 1);
        until(|| self.get(ISSUE) & 1 == 0)?;
        if self.get(PORT_INTERRUPTS) & WRONG != 0 {
            return Err("the disk does not say what it is");
        }
        self.set(PORT_INTERRUPTS, u32::MAX);
        let word = |index: usize| (self.shared.read(IDENTIFY_AT + index / 2 * 4) >> (index % 2 * 16)) as u16;
        let queued = word(76) & 1 << 8 != 0 && usize::from(word(75) & 0x1f) + 1 >= TAGS;
        // Size of sectors larger than 512 bytes, in words.
        let large = word(106) & 0xd000 == 0x5000;
        let sector = if large { (usize::from(word(117)) | usize::from(word(118)) << 16) * 2 } else { 512 };
        if sector == 0 || !BLOCK_SIZE.is_multiple_of(sector) {
            return Err("the disk has odd sectors");
        }
        self.sector = sector;
        self.queued = queued;
        Ok(())
    }

    /// The command FIS for a transfer.
    fn fis(&self, transfer: &Transfer) -> [u8; 20] {
        let first = transfer.block * (BLOCK_SIZE / self.sector) as u64;
        let [a, b, c, d, e, f, ..] = first.to_le_bytes();
        let [low, high] = ((transfer.memory.len() / self.sector) as u16).to_le_bytes();
        let command = match (self.queued, transfer.writes) {
            (true, false) => 0x60,
            (true, true) => 0x61,
            (false, false) => 0x25,
            (false, true) => 0x35,
        };
        let (features, count) =
            if self.queued { ([low, high], [(transfer.tag as u8) << 3, 0]) } else { ([0, 0], [low, high]) };
        [
            0x27,
            0x80,
            command,
            features[0],
            a,
            b,
            c,
            0x40,
            d,
            e,
            f,
            features[1],
            count[0],
            count[1],
            0,
            0,
            0,
            0,
            0,
            0,
        ]
    }
}

impl Disk for Ahci {
    fn name(&self) -> &'static str {
        if self.queued { "ahci-queued" } else { "ahci" }
    }

    fn depth(&self) -> usize {
        TAGS
    }

    fn start(&self, transfer: Transfer) -> Result<(), &'static str> {
        let Transfer { tag, writes, memory, .. } = transfer;
        let bus = paging::physical(memory.cast::<u8>().as_ptr());
        KERNEL.set_timer(late(tag), clock::now() + REQUEST_TIMEOUT).map_err(|_| "no timer is left")?;
        let mut issued = self.issued.lock();
        if *issued & 1 << tag != 0 {
            return Err("a request was made whose tag is in use");
        }
        self.command(tag, self.fis(&transfer), writes, bus, memory.len());
        *issued |= 1 << tag;
        probe::locked();
        if self.queued {
            self.set(ACTIVE, 1 << tag);
        }
        self.set(ISSUE, 1 << tag);
        Ok(())
    }
}

/// The interrupt handler: acknowledges the HBA's interrupt and leaves the rest to a tasklet.
fn interrupt(_: usize) {
    let Some(ahci) = AHCI.get() else { return };
    let mine = 1 << ahci.number;
    if ahci.hba.0.read32(INTERRUPTS) & mine == 0 {
        return;
    }
    probe::count_interrupt();
    let seen = ahci.get(PORT_INTERRUPTS);
    ahci.set(PORT_INTERRUPTS, seen);
    ahci.hba.0.write32(INTERRUPTS, mine);
    ahci.wrong.fetch_or(seen & WRONG, Ordering::Relaxed);
    // Cannot fail: the handler has had its entry since the first time.
    let _ = KERNEL.schedule_tasklet(FINISH);
}

/// The tasklet: ends each request whose command has completed.
fn finish(_: usize) {
    let Some(ahci) = AHCI.get() else { return };
    if ahci.wrong.swap(0, Ordering::Relaxed) != 0 {
        return fail(ahci, "the disk reported an error");
    }
    let ended = {
        let mut issued = ahci.issued.lock();
        let still = ahci.get(if ahci.queued { ACTIVE } else { ISSUE });
        let ended = *issued & !still;
        *issued &= still;
        ended
    };
    fence(Ordering::SeqCst);
    for tag in (0..TAGS).filter(|tag| ended & 1 << tag != 0) {
        KERNEL.delete_timer(late(tag));
        traffic::done(tag, Ok(()));
    }
}

/// A request's timer: it was in flight for too long.
fn timed_out(_: usize) {
    if let Some(ahci) = AHCI.get() {
        fail(ahci, "a request was not done in time");
    }
}

/// Restarts the port and fails all requests.
fn fail(ahci: &Ahci, why: &'static str) {
    let lost = core::mem::take(&mut *ahci.issued.lock());
    let why = ahci.restart().err().unwrap_or(why);
    for tag in (0..TAGS).filter(|tag| lost & 1 << tag != 0) {
        KERNEL.delete_timer(late(tag));
        traffic::done(tag, Err(why));
    }
}
