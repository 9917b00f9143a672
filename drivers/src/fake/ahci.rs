//! An HBA with a Serial ATA disk on one of its ports.
//!
//! One file: the fake is one model whose registers, command lists and faults act on each other.

use super::chassis::{Chassis, Fake, Model};
use super::memory::DmaMemory;
use super::pci::ConfigBytes;
use super::{FakeDisk as _, Trouble};

/// BAR 5, 32-bit: the registers.
const REGISTERS: u64 = 0xfebf_0000;
const REGISTERS_BYTES: u64 = 0x2000;
/// In the configuration space of Intel's: the enabled ports.
const PORTS_ENABLED: u8 = 0x92;
const MEBIBYTE: u32 = 1 << 20;

const ST: u32 = 1 << 0;
const SUD: u32 = 1 << 1;
const POD: u32 = 1 << 2;
const FRE: u32 = 1 << 4;
const FR: u32 = 1 << 14;
const CR: u32 = 1 << 15;

const BSY: u32 = 1 << 7;
const DRQ: u32 = 1 << 3;
const ERR: u32 = 1 << 0;

const AE: u32 = 1 << 31;
const HR: u32 = 1 << 0;
const IE: u32 = 1 << 1;

/// Events of a port.
const DHRS: u32 = 1 << 0;
const PSS: u32 = 1 << 1;
const SDBS: u32 = 1 << 3;
const PCS: u32 = 1 << 6;
const PRCS: u32 = 1 << 22;
const INFS: u32 = 1 << 26;
const IFS: u32 = 1 << 27;
const HBFS: u32 = 1 << 29;
const TFES: u32 = 1 << 30;

/// The link's errors: PhyRdy changed, something was connected.
const SERR_N: u32 = 1 << 16;
const SERR_X: u32 = 1 << 26;
/// CRC error.
const SERR_C: u32 = 1 << 21;

/// The device at a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// Nothing.
    Nothing,
    /// The disk; there is one.
    Disk,
    /// A CD drive.
    Atapi,
    /// A port multiplier.
    Multiplier,
}

impl Attached {
    fn signature(self, plan: &AhciPlan) -> u32 {
        match self {
            Attached::Nothing => u32::MAX,
            Attached::Disk if plan.semb => 0xc33c_0101,
            Attached::Disk => 0x0000_0101,
            Attached::Atapi => 0xeb14_0101,
            Attached::Multiplier => 0x9669_0101,
        }
    }
}

/// How to flush the disk's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AhciFlush {
    /// It has none.
    NoCache,
    /// FLUSH CACHE only.
    Short,
    /// FLUSH CACHE EXT too.
    Long,
}

/// Faults that only an HBA can have. Requests are counted as for [`Trouble`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AhciFault {
    /// The command list never stops.
    ListNeverStops,
    /// The FIS receiver never stops.
    ReceiverNeverStops,
    /// The link no longer comes up.
    LinkStaysDown,
    /// The link fails with this request: fatally or not, the request does not complete.
    Link(u32, bool),
    /// With this request, the disk is pulled out of its port. The HBA stays.
    Pulled(u32),
    /// With this request, the HBA shows a command that was never issued.
    Stray(u32),
    /// No command that touches this block of 4096 bytes ever succeeds.
    BadBlock(u64),
    /// The disk's description is damaged.
    IdentityDamaged,
    /// A word of the disk's description.
    Identity(usize, u16),
    /// After a reset, the HBA has other ports, and they stay.
    PortsChange,
    /// The BIOS never releases the HBA.
    BiosStays,
}

/// The HBA and the disk, and their faults.
#[derive(Clone, Debug)]
pub struct AhciPlan {
    /// PCI vendor, device and class. Intel's have a register in configuration space that enables ports.
    pub id: (u16, u16, u32),
    /// The HBA reports its wired ports; otherwise it reports none.
    pub tells_ports: bool,
    /// The HBA reports a fatal link error with each command, without any error.
    pub cries: bool,
    /// The disk reports the signature of an enclosure management bridge.
    pub semb: bool,
    /// The ports, from 0 on, and the device at each. One is the disk's.
    pub ports: Vec<Attached>,
    /// Command slots per port, 1 to 32.
    pub slots: u32,
    /// The HBA supports native command queuing.
    pub ncq: bool,
    /// The disk's queue depth, 0 to 32.
    pub queue: u16,
    /// The HBA has 64-bit addresses.
    pub wide: bool,
    /// Disks spin up when told to.
    pub staggered: bool,
    /// The HBA is in AHCI mode only.
    pub ahci_only: bool,
    /// The BIOS owns the HBA, and releases it within this many ticks; if more than 5000, it reports that it
    /// is busy.
    pub bios: Option<u32>,
    /// After a reset, the HBA loses the wired ports until it is told.
    pub forgets: bool,
    /// The disk has 48-bit addresses.
    pub long: bool,
    /// Bytes in a sector.
    pub sector: u32,
    /// The disk's cache.
    pub flush: AhciFlush,
    /// The HBA counts the bytes that it moves.
    pub counts: bool,
    /// A failed command that is not queued counts as finished.
    pub clears_failed: bool,
    /// Reads of the clock until a request completes: the minimum, and the maximum on top of it.
    pub delay: (u32, u32),
    /// Whether requests complete in any order; queued ones only.
    pub shuffle: bool,
    /// Reads of the clock until a reset is complete, the link is up, the disk is ready, the command list has
    /// stopped.
    pub ticks: (u32, u32, u32, u32),
    /// The size that the disk reports; `None`: the real one.
    pub sectors: Option<u64>,
    /// The other driver has not started the port yet.
    pub fresh: bool,
    /// The faults.
    pub faults: Vec<AhciFault>,
}

impl Default for AhciPlan {
    fn default() -> AhciPlan {
        AhciPlan {
            id: AhciPlan::ICH9,
            tells_ports: true,
            cries: false,
            semb: false,
            ports: vec![Attached::Disk],
            slots: 32,
            ncq: true,
            queue: 32,
            wide: true,
            staggered: false,
            ahci_only: true,
            bios: None,
            forgets: false,
            long: true,
            sector: 512,
            flush: AhciFlush::Long,
            counts: true,
            clears_failed: false,
            delay: (0, 0),
            shuffle: false,
            ticks: (0, 0, 0, 0),
            sectors: None,
            fresh: false,
            faults: Vec::new(),
        }
    }
}

impl AhciPlan {
    /// An HBA of Intel's.
    pub const ICH9: (u16, u16, u32) = (0x8086, 0x2922, 0x01_06_01);
    /// The same, if the firmware is set to RAID.
    pub const ICH9_RAID: (u16, u16, u32) = (0x8086, 0x2822, 0x01_04_00);
    /// An HBA that reports false errors.
    pub const JMB363: (u16, u16, u32) = (0x197b, 0x2363, 0x01_06_01);

    /// A random HBA within the specification, by seed; except HBAs with 32-bit addresses.
    pub fn any(seed: u64) -> AhciPlan {
        let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
        let mut pick = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % below
        };
        let others = [Attached::Nothing, Attached::Atapi, Attached::Multiplier];
        let mut ports: Vec<Attached> = (0..pick(7)).map(|_| others[pick(3) as usize]).collect();
        ports.insert(pick(ports.len() as u32 + 1) as usize, Attached::Disk);
        let id = [AhciPlan::ICH9, AhciPlan::ICH9_RAID, AhciPlan::JMB363][pick(3) as usize];
        AhciPlan {
            id,
            tells_ports: pick(4) != 0,
            cries: id == AhciPlan::JMB363,
            semb: false,
            ports,
            slots: [1, 2, 8, 31, 32][pick(5) as usize],
            ncq: pick(4) != 0,
            queue: [0, 1, 2, 5, 31, 32, 32][pick(7) as usize],
            wide: true,
            staggered: pick(2) == 0,
            ahci_only: pick(2) == 0,
            bios: [None, Some(0), Some(9), Some(100_000)][pick(4) as usize],
            forgets: pick(3) == 0,
            long: pick(5) != 0,
            sector: [512, 512, 1024, 2048, 4096][pick(5) as usize],
            flush: [AhciFlush::NoCache, AhciFlush::Short, AhciFlush::Long][pick(3) as usize],
            counts: pick(3) != 0,
            clears_failed: pick(2) == 0,
            delay: (pick(4), pick(30)),
            shuffle: pick(2) == 0,
            ticks: (pick(20), pick(20), pick(20), pick(20)),
            sectors: None,
            fresh: pick(4) == 0,
            faults: Vec::new(),
        }
    }

    /// An ordinary HBA with one fault.
    pub fn with(fault: AhciFault) -> AhciPlan {
        AhciPlan { faults: vec![fault], ..AhciPlan::default() }
    }
}

/// An AHCI HBA.
pub type AhciFake = Fake<AhciModel>;

impl AhciFake {
    /// An HBA whose disk has `blocks` 4096-byte blocks of zeros, with access to `memory`, in use by another
    /// driver.
    pub fn ahci(memory: DmaMemory, blocks: u64, seed: u64, plan: AhciPlan) -> AhciFake {
        let (vendor, device, class) = plan.id;
        let mut config = ConfigBytes::new(vendor, device, class).memory_bar(5, REGISTERS, REGISTERS_BYTES);
        if vendor == 0x8086 {
            config = config.own(PORTS_ENABLED, all_ports(&plan) as u16);
        }
        Fake::new(memory, config, AhciModel::new(plan), blocks, seed)
    }

    /// Replaces the faults of an HBA's own kind. Resets the count of requests.
    pub fn set_faults(&self, faults: Vec<AhciFault>) {
        self.set_troubles(Vec::new());
        self.with(|_, model| {
            model.plan.faults = faults;
            model.requests = 0;
        });
    }

    /// How often a port was reset by COMRESET.
    pub fn comresets(&self) -> u32 {
        self.with(|_, model| model.comresets)
    }

    /// Command codes that the disk received, in order.
    pub fn commands(&self) -> Vec<u8> {
        self.with(|_, model| model.commands.clone())
    }

    /// First sector and number of sectors of each data command.
    pub fn addresses(&self) -> Vec<(u64, u64)> {
        self.with(|_, model| model.addresses.clone())
    }

    /// Maximum number of commands that the disk had at once.
    pub fn most_at_once(&self) -> usize {
        self.with(|_, model| model.most)
    }

    /// A port's command register.
    pub fn port_command(&self, port: usize) -> u32 {
        self.with(|_, model| model.ports[port].cmd)
    }
}

/// A command that was fetched.
struct Pending {
    /// Index among data commands and flushes; `None` for others.
    number: Option<u32>,
    slot: u32,
    fis: [u8; 20],
    writes: bool,
    pieces: Vec<(u64, usize)>,
    ticks: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    /// COMRESET is being sent.
    Resetting,
    /// Comes up in this many ticks.
    Coming(u32),
    /// Up; the device is ready in this many ticks.
    Up(u32),
    /// Up, and the device has sent its signature.
    Ready,
}

struct PortState {
    attached: Attached,
    link: Link,
    clb: u64,
    fb: u64,
    is: u32,
    ie: u32,
    cmd: u32,
    tfd: u32,
    sig: u32,
    sctl: u32,
    serr: u32,
    sact: u32,
    ci: u32,
    /// Ticks until the list stops.
    stopping: Option<u32>,
    /// After an error, processing halts.
    halted: bool,
    pending: Vec<Pending>,
}

impl PortState {
    /// The state that another driver leaves.
    fn used(attached: Attached, fresh: bool, plan: &AhciPlan) -> PortState {
        let there = attached != Attached::Nothing;
        // The BIOS has identified the others.
        let fresh = fresh && attached == Attached::Disk;
        PortState {
            attached,
            link: if there { Link::Ready } else { Link::Down },
            clb: 0x1000,
            fb: 0x2000,
            is: DHRS,
            ie: 0x7fff_ffff,
            cmd: if there && !fresh { ST | CR | FRE | FR | SUD | POD } else { SUD | POD },
            tfd: if fresh || !there { 0x7f } else { 0x50 },
            sig: if fresh { u32::MAX } else { attached.signature(plan) },
            sctl: 0x300,
            serr: 0,
            sact: 0,
            ci: 0,
            stopping: None,
            halted: false,
            pending: Vec::new(),
        }
    }

    /// The state after a reset of the HBA.
    fn reset(attached: Attached, plan: &AhciPlan) -> PortState {
        let spins = attached != Attached::Nothing && !plan.staggered;
        PortState {
            link: if spins { Link::Coming(plan.ticks.1) } else { Link::Down },
            clb: 0,
            fb: 0,
            is: 0,
            ie: 0,
            cmd: if plan.staggered { POD } else { SUD | POD },
            tfd: 0x7f,
            sig: u32::MAX,
            sctl: 0,
            ..PortState::used(attached, true, plan)
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_) | Link::Ready)
    }
}

/// The HBA's registers.
pub struct AhciModel {
    plan: AhciPlan,
    ghc: u32,
    bohc: u32,
    /// Ticks since the operating system requested the HBA.
    asked: Option<u32>,
    /// The ports that it reports; wrong if it has lost the wired ones.
    pi: u32,
    resetting: Option<u32>,
    ports: Vec<PortState>,
    requests: u32,
    comresets: u32,
    commands: Vec<u8>,
    addresses: Vec<(u64, u64)>,
    most: usize,
}

impl AhciModel {
    fn new(plan: AhciPlan) -> AhciModel {
        let ports: Vec<PortState> =
            plan.ports.iter().map(|attached| PortState::used(*attached, plan.fresh, &plan)).collect();
        AhciModel {
            ghc: AE | IE,
            bohc: u32::from(plan.bios.is_some()),
            asked: None,
            pi: wired(&plan),
            resetting: None,
            ports,
            requests: 0,
            comresets: 0,
            commands: Vec::new(),
            addresses: Vec::new(),
            most: 0,
            plan,
        }
    }

    fn has(&self, fault: AhciFault) -> bool {
        self.plan.faults.contains(&fault)
    }

    fn cap(&self) -> u32 {
        let plan = &self.plan;
        let bit = |at: u32, on: bool| u32::from(on) << at;
        (plan.ports.len() as u32 - 1)
            | (plan.slots - 1) << 8
            | bit(18, plan.ahci_only)
            | bit(27, plan.staggered)
            | bit(30, plan.ncq)
            | bit(31, plan.wide)
    }

    fn start_again(&mut self, chassis: &mut Chassis) {
        self.ghc = if self.plan.ahci_only { AE } else { 0 };
        self.ports = self.plan.ports.iter().map(|attached| PortState::reset(*attached, &self.plan)).collect();
        if self.has(AhciFault::PortsChange) {
            self.pi = 0x8000_0000;
        } else if self.plan.forgets {
            self.pi = u32::MAX;
        }
        self.requests = 0;
        self.resetting = None;
        chassis.forget_foreign();
    }

    fn write_ghc(&mut self, chassis: &mut Chassis, value: u32) {
        if value & IE != 0 {
            chassis.violation("interrupts switched on");
        }
        self.ghc = value & (AE | IE) | if self.plan.ahci_only { AE } else { 0 } | self.ghc & HR;
        if value & HR != 0 && self.resetting.is_none() {
            if value & AE == 0 {
                chassis.violation("reset outside of AHCI mode");
            }
            self.ghc |= HR;
            self.resetting = Some(self.plan.ticks.0);
        }
    }

    fn read_port(&self, port: &PortState, register: u64) -> u32 {
        match register {
            0x00 => port.clb as u32,
            0x04 => (port.clb >> 32) as u32,
            0x08 => port.fb as u32,
            0x0c => (port.fb >> 32) as u32,
            0x10 => {
                // These two mirror the link's.
                let connect = if port.serr & SERR_X != 0 { PCS } else { 0 };
                let ready = if port.serr & SERR_N != 0 { PRCS } else { 0 };
                port.is | connect | ready
            }
            0x14 => port.ie,
            0x18 => port.cmd,
            0x20 => port.tfd,
            0x24 => port.sig,
            0x28 => match port.link {
                Link::Up(_) | Link::Ready => 0x123,
                Link::Coming(_) => 1,
                Link::Resetting | Link::Down => 0,
            },
            0x2c => port.sctl,
            0x30 => port.serr,
            0x34 => port.sact,
            0x38 => port.ci,
            _ => 0,
        }
    }

    fn write_port(&mut self, chassis: &mut Chassis, number: usize, register: u64, value: u32) {
        let (wide, staggered) = (self.plan.wide, self.plan.staggered);
        let (link_ticks, stop_ticks) = (self.plan.ticks.1, self.plan.ticks.3);
        let stuck = self.has(AhciFault::ListNeverStops);
        let receives_on = self.has(AhciFault::ReceiverNeverStops);
        let port = &mut self.ports[number];
        match register {
            0x00 | 0x04 | 0x08 | 0x0c => {
                let works = if register < 8 { ST | CR } else { FRE | FR };
                if port.cmd & works != 0 {
                    chassis.violation(format!("address {register:#x} changed while in use"));
                }
                let align = if register < 8 { 1024 } else { 256 };
                let address = if register < 8 { &mut port.clb } else { &mut port.fb };
                if register & 4 == 0 {
                    *address = *address >> 32 << 32 | u64::from(value);
                } else if wide {
                    *address = *address & 0xffff_ffff | u64::from(value) << 32;
                } else if value != 0 {
                    chassis.violation("an address beyond 4 GiB");
                }
                if !address.is_multiple_of(align) {
                    chassis.violation(format!("address {:#x} is not aligned", *address));
                }
            }
            0x10 => port.is &= !value,
            0x14 => {
                if value != 0 {
                    chassis.violation("interrupts of a port switched on");
                }
                port.ie = value;
            }
            0x18 => {
                let started = value & !port.cmd & ST != 0;
                let stopped = port.cmd & !value & ST != 0;
                if started && (port.cmd & (FRE | CR) != FRE || port.tfd & (BSY | DRQ) != 0 || !port.is_up()) {
                    chassis.violation(format!("started with {:#x}, {:#x}", port.cmd, port.tfd));
                }
                if port.cmd & !value & FRE != 0 && port.cmd & (ST | CR) != 0 {
                    chassis.violation("receiver stopped before the list");
                }
                let fixed = if staggered { 0 } else { SUD };
                let spins = value & !port.cmd & SUD != 0;
                port.cmd = value & (ST | SUD | FRE) | POD | fixed | port.cmd & (CR | FR);
                if started {
                    port.cmd |= CR;
                    port.halted = false;
                    port.stopping = None;
                }
                if stopped {
                    port.ci = 0;
                    port.sact = 0;
                    port.pending.clear();
                    if !stuck {
                        port.stopping = Some(stop_ticks);
                    }
                }
                if port.cmd & FRE != 0 {
                    port.cmd |= FR;
                } else if !receives_on {
                    port.cmd &= !FR;
                }
                if staggered && spins && port.attached != Attached::Nothing && port.link == Link::Down {
                    port.link = Link::Coming(link_ticks);
                }
            }
            0x2c => {
                let (old, new) = (port.sctl & 0xf, value & 0xf);
                port.sctl = value;
                if new == 1 {
                    if port.cmd & ST != 0 {
                        chassis.violation("COMRESET while the list is worked on");
                    }
                    port.link = Link::Resetting;
                    port.pending.clear();
                    port.tfd = 0x7f;
                    port.sig = u32::MAX;
                    // COMRESET stops the list.
                    port.cmd &= !CR;
                    port.stopping = None;
                } else if old == 1 {
                    self.comresets += 1;
                    let spins = port.attached != Attached::Nothing && port.cmd & SUD != 0;
                    port.link = if spins { Link::Coming(link_ticks) } else { Link::Down };
                }
            }
            0x30 => port.serr &= !value,
            0x34 => {
                if port.cmd & ST == 0 {
                    chassis.violation("a tag while the list is not worked on");
                }
                port.sact |= value;
            }
            0x38 => self.issue(chassis, number, value),
            _ => chassis.violation(format!("port register {register:#x} written")),
        }
    }

    fn issue(&mut self, chassis: &mut Chassis, number: usize, value: u32) {
        let port = &mut self.ports[number];
        if port.cmd & (ST | CR) != ST | CR {
            return chassis.violation("a command while the list is not worked on");
        }
        if port.ci & value != 0 {
            chassis.violation("a command issued twice");
        }
        port.ci |= value & !port.ci;
        if port.halted {
            // The driver has not seen the error yet; this command is dropped.
            return;
        }
        for slot in (0..32).filter(|slot| value >> slot & 1 == 1) {
            if slot >= self.plan.slots {
                chassis.violation(format!("slot {slot} of {}", self.plan.slots));
                continue;
            }
            let Some(mut pending) = fetch(chassis, &self.ports[number], slot) else { continue };
            let port = &mut self.ports[number];
            let queued = matches!(pending.fis[2], 0x60 | 0x61);
            let tagged = port.sact >> slot & 1 == 1;
            let mixed = port.pending.iter().any(|other| matches!(other.fis[2], 0x60 | 0x61) != queued);
            if queued != tagged || mixed {
                chassis.violation("queued and other commands mixed up");
            }
            if queued && (!self.plan.ncq || !self.plan.long || slot >= self.plan.queue.into()) {
                chassis.violation(format!("tag {slot} of {}", self.plan.queue));
            }
            self.commands.push(pending.fis[2]);
            if pending.fis[2] != 0xec {
                pending.number = Some(self.requests);
                self.requests += 1;
            }
            let lost = chassis.troubles.iter().any(|trouble| {
                matches!((trouble, pending.number), (Trouble::NeverCompletes(from), Some(at)) if at >= *from)
            });
            let (least, more) = self.plan.delay;
            // Queued commands are acknowledged now or when they are done.
            if queued && chassis.random(2) == 0 {
                port.ci &= !(1 << slot);
            }
            if !lost {
                pending.ticks = least + chassis.random(more + 1);
                port.pending.push(pending);
                self.most = self.most.max(port.pending.len());
            }
        }
        self.finish_due(chassis, number);
    }

    fn finish_due(&mut self, chassis: &mut Chassis, number: usize) {
        loop {
            let port = &self.ports[number];
            if port.halted || port.cmd & CR == 0 || !port.is_up() {
                return;
            }
            let queued = |pending: &Pending| matches!(pending.fis[2], 0x60 | 0x61);
            let due: Vec<usize> = (0..port.pending.len())
                .filter(|at| port.pending[*at].ticks == 0)
                // The others keep their order.
                .filter(|at| queued(&port.pending[*at]) || *at == 0)
                .collect();
            let Some(first) = due.first() else { return };
            let at = if self.plan.shuffle { due[chassis.random(due.len() as u32) as usize] } else { *first };
            let pending = self.ports[number].pending.remove(at);
            self.finish(chassis, number, &pending);
        }
    }

    fn finish(&mut self, chassis: &mut Chassis, number: usize, pending: &Pending) {
        let queued = matches!(pending.fis[2], 0x60 | 0x61);
        let bit = 1_u32 << pending.slot;
        let mut fails = false;
        let mut short = false;
        let mut wrong = false;
        if let Some(request) = pending.number {
            for trouble in &chassis.troubles {
                match *trouble {
                    Trouble::Status(at) => fails |= at == request,
                    Trouble::StatusFrom(from) => fails |= request >= from,
                    Trouble::Short(at) => short |= at == request,
                    Trouble::WrongId(at) => wrong |= at == request && queued,
                    Trouble::Fails(at) if at == request => {
                        self.ports[number].is |= HBFS;
                        self.ports[number].halted = true;
                        return;
                    }
                    _ => {}
                }
            }
            for fault in self.plan.faults.clone() {
                let port = &mut self.ports[number];
                match fault {
                    AhciFault::Link(at, fatal) if at == request => {
                        port.is |= if fatal { IFS } else { INFS };
                        port.serr |= SERR_C;
                        port.halted = true;
                        return;
                    }
                    AhciFault::Pulled(at) if at == request => {
                        port.link = Link::Down;
                        port.attached = Attached::Nothing;
                        port.serr |= SERR_N;
                        return;
                    }
                    AhciFault::Stray(at) if at == request => port.ci |= 1 << 31 | 1 << 30,
                    _ => {}
                }
            }
        }
        // A disk on an HBA that does not count must report the shortage itself.
        let uncounted = short && (queued || !self.plan.counts);
        let limit = if short { total(&pending.pieces) / 2 } else { usize::MAX };
        let moved = if fails { None } else { self.carry_out(chassis, pending, limit) };
        let fails = fails || uncounted || moved.is_none();
        let port = &mut self.ports[number];
        port.tfd = if fails { 0x0440 | ERR } else { 0x0050 };
        let fis = port.fb + if queued { 0x58 } else { 0x40 };
        if port.cmd & FRE != 0 {
            let mut bytes = [0_u8; 20];
            bytes[0] = if queued { 0xa1 } else { 0x34 };
            bytes[2] = port.tfd as u8;
            let _ = chassis.dma_write(fis, &bytes[..if queued { 8 } else { 20 }]);
        }
        if fails {
            port.is |= TFES;
            port.halted = true;
            if !queued && self.plan.clears_failed {
                port.ci &= !bit;
            }
            return;
        }
        if self.plan.counts && !queued {
            let count = moved.unwrap_or(0) as u32;
            let _ = chassis.dma_write(port.clb + u64::from(pending.slot) * 32 + 4, &count.to_le_bytes());
        }
        port.is |= if queued { SDBS } else { DHRS } | if self.plan.cries { IFS } else { 0 };
        port.ci &= !bit;
        if queued && !wrong {
            port.sact &= !bit;
        }
    }

    /// Executes a command, for at most `limit` bytes. `None` if the disk rejects it.
    fn carry_out(&mut self, chassis: &mut Chassis, pending: &Pending, limit: usize) -> Option<usize> {
        let fis = &pending.fis;
        let bytes = total(&pending.pieces);
        let size = chassis.size();
        let low = u64::from(fis[4]) | u64::from(fis[5]) << 8 | u64::from(fis[6]) << 16;
        let high = u64::from(fis[8]) << 24 | u64::from(fis[9]) << 32 | u64::from(fis[10]) << 40;
        let word = |low: u8, high: u8| match u64::from(low) | u64::from(high) << 8 {
            0 => 65536,
            count => count,
        };
        let (write, lba, count) = match fis[2] {
            0xec => {
                if bytes != 512 || pending.writes {
                    chassis.violation("IDENTIFY without room for its answer");
                }
                let identity = self.identity(size);
                let port = self.ports.iter_mut().find(|port| port.attached == Attached::Disk)?;
                port.is |= PSS;
                let (address, _) = *pending.pieces.first()?;
                chassis.dma_write(address, &identity)?;
                return Some(512);
            }
            command @ (0xe7 | 0xea) => {
                let known = match self.plan.flush {
                    AhciFlush::NoCache => false,
                    AhciFlush::Short => command == 0xe7,
                    AhciFlush::Long => self.plan.long || command == 0xe7,
                };
                if !known || !pending.pieces.is_empty() {
                    chassis.violation("a flush that the disk does not know");
                    return None;
                }
                chassis.flush_disk();
                return Some(0);
            }
            command @ (0xc8 | 0xca) => {
                let count = if fis[12] == 0 { 256 } else { u64::from(fis[12]) };
                (command == 0xca, low | u64::from(fis[7] & 0xf) << 24, count)
            }
            command @ (0x25 | 0x35) => (command == 0x35, low | high, word(fis[12], fis[13])),
            command @ (0x60 | 0x61) => {
                if u32::from(fis[12] >> 3) != pending.slot {
                    chassis.violation("a tag that is not its slot");
                }
                (command == 0x61, low | high, word(fis[3], fis[11]))
            }
            command => {
                chassis.violation(format!("command {command:#x}"));
                return None;
            }
        };
        if !self.plan.long && !matches!(fis[2], 0xc8 | 0xca) {
            chassis.violation("48-bit addresses for a disk that has none");
            return None;
        }
        if fis[7] & 0x40 == 0 || write != pending.writes {
            chassis.violation("not a block number, or the wrong direction");
        }
        let sector = u64::from(self.plan.sector);
        let start = lba * sector;
        self.addresses.push((lba, count));
        let bad = |fault: &AhciFault| match *fault {
            AhciFault::BadBlock(block) => start < (block + 1) * 4096 && start + count * sector > block * 4096,
            _ => false,
        };
        if self.plan.faults.iter().any(bad) || self.plan.sectors.is_some_and(|all| lba + count <= all) {
            return None;
        }
        if count * sector != bytes as u64 || start + count * sector > size {
            chassis.violation(format!("{count} sectors from {lba} on, for {bytes} bytes"));
            return None;
        }
        let (mut at, mut left) = (start, limit);
        for (address, length) in &pending.pieces {
            let mut data = vec![0; (*length).min(left)];
            if write {
                chassis.dma_read(*address, &mut data)?;
                chassis.write_disk(at, &data)?;
            } else {
                chassis.read_disk(at, &mut data)?;
                chassis.dma_write(*address, &data)?;
            }
            at += data.len() as u64;
            left -= data.len();
        }
        if write && self.plan.flush == AhciFlush::NoCache {
            chassis.flush_disk();
        }
        Some((at - start) as usize)
    }

    /// The disk's identity data.
    fn identity(&self, size: u64) -> [u8; 512] {
        let plan = &self.plan;
        let mut words = [0_u16; 256];
        let sectors = plan.sectors.unwrap_or(size / u64::from(plan.sector));
        words[0] = 0x0040;
        words[49] = 1 << 8 | 1 << 9;
        let short = sectors.min(if plan.long { 0x0fff_ffff } else { u64::MAX });
        (words[60], words[61]) = (short as u16, (short >> 16) as u16);
        if plan.queue > 0 {
            words[75] = plan.queue - 1;
            words[76] = 1 << 8 | 6;
        }
        let bit = |at: u32, on: bool| u16::from(on) << at;
        words[83] = 1 << 14
            | bit(10, plan.long)
            | bit(12, plan.flush != AhciFlush::NoCache)
            | bit(13, plan.flush == AhciFlush::Long);
        if plan.long {
            for (word, shift) in words[100..104].iter_mut().zip([0, 16, 32, 48]) {
                *word = (sectors >> shift) as u16;
            }
        }
        if plan.sector != 512 {
            words[106] = 1 << 14 | 1 << 12;
            (words[117], words[118]) = ((plan.sector >> 1) as u16, (plan.sector >> 17) as u16);
        }
        for fault in &plan.faults {
            if let AhciFault::Identity(word, value) = *fault {
                words[word] = value;
            }
        }
        let mut bytes = [0; 512];
        for (bytes, word) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        bytes[510] = 0xa5;
        bytes[511] = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        if self.has(AhciFault::IdentityDamaged) {
            bytes[20] ^= 1;
        }
        bytes
    }

    fn tick_port(&mut self, chassis: &mut Chassis, number: usize) {
        let never_ready = chassis.has(Trouble::NeverReady);
        let link_stays_down = self.has(AhciFault::LinkStaysDown);
        let ready_ticks = self.plan.ticks.2;
        let port = &mut self.ports[number];
        if let Some(left) = port.stopping {
            port.stopping = left.checked_sub(1);
            if port.stopping.is_none() {
                port.cmd &= !CR;
            }
        }
        match port.link {
            // A port that is not enabled is not wired.
            Link::Coming(_) if chassis.config.own_bits().is_some_and(|bits| bits >> number & 1 == 0) => {}
            Link::Coming(0) if !link_stays_down => {
                port.link = Link::Up(ready_ticks);
                port.serr |= SERR_N | SERR_X;
            }
            Link::Coming(left) => port.link = Link::Coming(left.saturating_sub(1)),
            // The signature comes in a FIS, so FIS receive must be enabled.
            Link::Up(0) if port.cmd & FRE != 0 && !never_ready => {
                port.link = Link::Ready;
                port.sig = port.attached.signature(&self.plan);
                port.tfd = 0x0150;
                let mut fis = [0_u8; 20];
                fis[0] = 0x34;
                if chassis.dma_write(port.fb + 0x40, &fis).is_none() {
                    chassis.violation("a signature that cannot be received");
                }
            }
            Link::Up(left) => port.link = Link::Up(left.saturating_sub(1)),
            Link::Down | Link::Resetting | Link::Ready => {}
        }
        for pending in &mut port.pending {
            pending.ticks = pending.ticks.saturating_sub(1);
        }
        self.finish_due(chassis, number);
    }
}

fn total(pieces: &[(u64, usize)]) -> usize {
    pieces.iter().map(|piece| piece.1).sum()
}

/// Reads header and table of a command.
fn fetch(chassis: &mut Chassis, port: &PortState, slot: u32) -> Option<Pending> {
    let mut header = [0; 32];
    chassis.dma_read(port.clb + u64::from(slot) * 32, &mut header)?;
    let number =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
    let flags = number(&header, 0);
    if flags & 0xffbf != 5 {
        chassis.violation(format!("header {flags:#x}"));
    }
    if number(&header, 4) != 0 {
        chassis.violation("bytes transferred are not 0");
    }
    let table = u64::from(number(&header, 12)) << 32 | u64::from(number(&header, 8));
    if !table.is_multiple_of(128) {
        chassis.violation("a table that is not aligned");
    }
    let mut fis = [0; 20];
    chassis.dma_read(table, &mut fis)?;
    if fis[0] != 0x27 || fis[1] != 0x80 {
        chassis.violation("not a command");
    }
    let mut pieces = Vec::new();
    for at in 0..u64::from(flags >> 16) {
        let mut piece = [0; 16];
        chassis.dma_read(table + 128 + at * 16, &mut piece)?;
        let address = u64::from(number(&piece, 4)) << 32 | u64::from(number(&piece, 0));
        let last = number(&piece, 12);
        if address & 1 != 0 || last & 1 == 0 || last >= 4 * MEBIBYTE || number(&piece, 8) != 0 {
            chassis.violation(format!("a piece of {last:#x} at {address:#x}"));
        }
        pieces.push((address, (last & 0x3f_ffff) as usize + 1));
    }
    Some(Pending { number: None, slot, fis, writes: flags & 1 << 6 != 0, pieces, ticks: 0 })
}

fn wired(plan: &AhciPlan) -> u32 {
    if plan.tells_ports { all_ports(plan) } else { 0 }
}

fn all_ports(plan: &AhciPlan) -> u32 {
    (1_u32 << (plan.ports.len() as u32 % 32)).wrapping_sub(1)
}

impl Model for AhciModel {
    fn read(&mut self, chassis: &mut Chassis, _: u8, offset: u64, width: usize) -> u64 {
        if width != 4 {
            chassis.violation(format!("{offset:#x} read by {width}"));
        }
        let value = match offset {
            0x00 => self.cap(),
            0x04 => self.ghc,
            0x0c => self.pi,
            0x10 => 0x0001_0301,
            0x24 => u32::from(self.plan.bios.is_some()),
            0x28 => self.bohc,
            0x100.. => {
                let (number, register) = ((offset - 0x100) / 0x80, (offset - 0x100) % 0x80);
                self.ports.get(number as usize).map_or(0, |port| self.read_port(port, register))
            }
            _ => 0,
        };
        value.into()
    }

    fn write(&mut self, chassis: &mut Chassis, _: u8, offset: u64, width: usize, value: u64) {
        if width != 4 {
            chassis.violation(format!("{offset:#x} written by {width}"));
        }
        let value = value as u32;
        if self.resetting.is_some() {
            return chassis.violation(format!("{offset:#x} written during a reset"));
        }
        if self.ghc & AE == 0 && offset != 4 {
            return chassis.violation(format!("{offset:#x} written outside of AHCI mode"));
        }
        match offset {
            0x04 => self.write_ghc(chassis, value),
            0x00 | 0x08 | 0x24 => {}
            0x0c => {
                if self.plan.forgets && !self.has(AhciFault::PortsChange) {
                    self.pi = value;
                }
            }
            0x28 => {
                self.bohc = self.bohc & 1 | value & 2;
                self.asked = self.asked.or((value & 2 != 0).then_some(0));
            }
            0x100.. => {
                let (number, register) = ((offset - 0x100) / 0x80, (offset - 0x100) % 0x80);
                match self.ports.get(number as usize) {
                    Some(_) => self.write_port(chassis, number as usize, register, value),
                    None => chassis.violation(format!("port {number} written")),
                }
            }
            _ => chassis.violation(format!("{offset:#x} written")),
        }
    }

    fn reset(&mut self, chassis: &mut Chassis) {
        self.start_again(chassis);
    }

    fn tick(&mut self, chassis: &mut Chassis) {
        if let (Some(asked), Some(bios)) = (&mut self.asked, self.plan.bios) {
            *asked = asked.saturating_add(1);
            if *asked > bios && !self.plan.faults.contains(&AhciFault::BiosStays) {
                self.bohc &= !(1 | 1 << 4);
            } else if bios > 5000 {
                self.bohc |= 1 << 4;
            }
        }
        match self.resetting {
            Some(0) if !chassis.has(Trouble::NeverResets) => self.start_again(chassis),
            Some(left) => {
                self.resetting = Some(left.saturating_sub(1));
                return;
            }
            None => {}
        }
        for number in 0..self.ports.len() {
            self.tick_port(chassis, number);
        }
    }
}
