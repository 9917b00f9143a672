//! The command line: `key=value` words or flags, all listed here.

use crate::disks::{DRIVERS, Driver};
use dump_drivers::bus::pci::Address;
use dumpcore::format::Uuid;
use dumpcore::format::crypt::PublicKey;
use dumpcore::locate::By;
use dumpcore::{Encoding, Level, PageClass, ResetPolicy, Verify};

use crate::arch::MISSING;
use crate::scenario::live::drivers::{self, LIVE_DRIVERS};

/// Maximum number of disks for a dump.
pub(crate) const MAX_DISKS: usize = 4;

/// The kernel's actions after arming the dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    /// A panic on the CPU `cpu=`.
    Panic,
    /// A write through a null pointer on the CPU `cpu=`.
    Fault,
    /// The stack of the CPU `cpu=` overflows: a double fault.
    Overflow,
    /// Two CPUs panic at the same moment.
    DoublePanic,
    /// One bit of the dump path's code is flipped, then a panic.
    CorruptCode,
    /// One bit of the armed state is flipped (`state-offset=`), then a panic.
    CorruptState,
    /// The dump itself panics before its first write.
    NestedBeforeWrite,
    /// The dump itself panics while it streams memory (at its `nested.page=`th page).
    NestedAfterWrite,
    /// The disk is unplugged, then a panic.
    DeviceGone,
    /// A normal driver (`live.on=`) has requests in flight on the disk (`live.first=`, `live.blocks=`), then
    /// a panic.
    SharedLive,
    /// A panic, with a measurement of the stack that the dump used.
    Footprint,
    /// A dump of the live kernel, requested by the CPU `cpu=`, `dumps=` times; everything continues after
    /// each.
    Snapshot,
    /// A fault that the kernel survives, dumped, `dumps=` times.
    Oops,
    /// Waits for an external NMI (`nmi=`).
    Nmi,
    /// The watchdog (`watchdog=`) is patted for a second and then neglected.
    Watchdog,
    /// A panic, and another one when its dump returns (`reset=return`).
    TwoCrashes,
    /// A panic in a kernel where reading part of memory faults (`bad.pages=`).
    BadMemory,
    /// A panic, and a helper stops dead in the middle of the dump (`helpers.die=`).
    DeadHelper,
    /// A panic, and a helper is late once (`helpers.stall=`).
    LateHelper,
    /// A panic; the first disk is unplugged on request during the dump.
    Unplug,
    /// No crash: all CPUs halt.
    HaltOnly,
    /// No crash: a device's interrupts reach their handler.
    Interrupt,
    /// No crash: plain polled writes over the dump partition, with the dump's driver.
    BenchPlain,
    /// No crash: plain polled reads of the dump partition.
    BenchReads,
    /// No crash: the dump's own pattern check of the dump partition.
    BenchVerify,
    /// A panic, timed.
    BenchDump,
    /// No crash: checksums and copies over RAM, timed.
    BenchChecksum,
    /// No crash: LZ4 alone, over memory filled by `fill=`.
    BenchLz4,
    /// No crash: the dump's own packing of pages, over the same memory.
    BenchPack,
}

const SCENARIOS: [(&str, Scenario); 29] = [
    ("panic", Scenario::Panic),
    ("fault", Scenario::Fault),
    ("overflow", Scenario::Overflow),
    ("double-panic", Scenario::DoublePanic),
    ("corrupt-code", Scenario::CorruptCode),
    ("corrupt-state", Scenario::CorruptState),
    ("nested-before-write", Scenario::NestedBeforeWrite),
    ("nested-after-write", Scenario::NestedAfterWrite),
    ("device-gone", Scenario::DeviceGone),
    ("shared-live", Scenario::SharedLive),
    ("footprint", Scenario::Footprint),
    ("snapshot", Scenario::Snapshot),
    ("oops", Scenario::Oops),
    ("nmi", Scenario::Nmi),
    ("watchdog", Scenario::Watchdog),
    ("two-crashes", Scenario::TwoCrashes),
    ("bad-memory", Scenario::BadMemory),
    ("dead-helper", Scenario::DeadHelper),
    ("late-helper", Scenario::LateHelper),
    ("unplug", Scenario::Unplug),
    ("halt-only", Scenario::HaltOnly),
    ("interrupt", Scenario::Interrupt),
    ("bench-plain", Scenario::BenchPlain),
    ("bench-reads", Scenario::BenchReads),
    ("bench-verify", Scenario::BenchVerify),
    ("bench-dump", Scenario::BenchDump),
    ("bench-checksum", Scenario::BenchChecksum),
    ("bench-lz4", Scenario::BenchLz4),
    ("bench-pack", Scenario::BenchPack),
];

const CLASSES: [(&str, PageClass); 6] = [
    ("user", PageClass::User),
    ("cache", PageClass::Cache),
    ("cacheprivate", PageClass::CachePrivate),
    ("free", PageClass::Free),
    ("unknown", PageClass::Unknown),
    ("data", PageClass::KernelData),
];

/// The content that `fill=` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FillKind {
    /// Noise.
    Random,
    /// Data like that in a kernel's memory, which LZ4 shrinks to a third.
    Text,
    /// Zeros.
    Zero,
}

/// A dump partition and its disk.
#[derive(Clone, Copy)]
pub(crate) struct DiskOptions {
    /// `disk.on=NAME`, `disk1.on=NAME`, …: its driver.
    pub(crate) driver: &'static Driver,
    /// `….pci=BUS:DEVICE.FUNCTION`: the PCI function of the disk; otherwise the driver's disks are numbered.
    pub(crate) pci: Option<Address>,
    /// `….find=name:TEXT|guid:HEX|label:HEX`: how to find the dump partition on the disk; otherwise `first`
    /// and `blocks` give its place.
    pub(crate) find: Option<By<'static>>,
    /// `….first=N`: first 4096-byte block of the dump partition. A disk without it is not used.
    pub(crate) first: Option<u64>,
    /// `….blocks=N`: its size in blocks.
    pub(crate) blocks: u64,
    /// `….uuid=HEX`: its label's uuid, 32 digits.
    pub(crate) uuid: Option<Uuid>,
    /// `….shared`: a normal driver uses the disk too.
    pub(crate) shared: bool,
    /// `….recipient=HEX`: the public key in its label, 64 digits; for a shared disk.
    pub(crate) recipient: Option<PublicKey>,
}

impl Scenario {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        SCENARIOS.iter().find(|(_, scenario)| *scenario == self).map_or("", |(name, _)| name)
    }
}

/// All options.
#[derive(Clone)]
pub(crate) struct Options {
    /// `scenario=NAME`.
    pub(crate) scenario: Scenario,
    /// `cpu=N`: the CPU that crashes.
    pub(crate) cpu: usize,
    /// The disks; those of one driver in bus order. Without any, no dump is armed.
    pub(crate) disks: [DiskOptions; MAX_DISKS],
    /// `verify=all|ahead|sample:N`.
    pub(crate) verify: Verify,
    /// `budget=MS`: for the whole dump.
    pub(crate) budget_ms: Option<u64>,
    /// `timeout=MS`: for one request.
    pub(crate) timeout_ms: Option<u64>,
    /// `reset=reset|poweroff|halt|return`.
    pub(crate) reset: ResetPolicy,
    /// `log=BYTES`: of the kernel log.
    pub(crate) log_bytes: Option<u64>,
    /// `arena=KIB`.
    pub(crate) arena_kib: usize,
    /// `level=N`: the memory that is left out, in makedumpfile's bits and one more.
    pub(crate) level: Option<Level>,
    /// `encoding=plain|lz4`.
    pub(crate) encoding: Option<Encoding>,
    /// `helpers=N`: maximum number of helpers.
    pub(crate) helpers: Option<usize>,
    /// `patience=MS`: for one unit of a helper's work.
    pub(crate) patience_ms: Option<u64>,
    /// `stripe=0|1`: stripe over all disks.
    pub(crate) stripe: Option<bool>,
    /// `risky=0|1`: whether a risky disk may be used.
    pub(crate) risky: Option<bool>,
    /// `fill=MIB`: RAM filled before the crash.
    pub(crate) fill_mib: u64,
    /// `fill.class=user|cache|cacheprivate|free|unknown|data`: the class of that memory.
    pub(crate) fill_class: PageClass,
    /// `fill.kind=random|text|zero`: the content of that memory.
    pub(crate) fill_kind: FillKind,
    /// `bad.pages=N`: number of pages in the middle of it that fault when read.
    pub(crate) bad_pages: Option<u64>,
    /// `helpers.die=N`: the first helper to read its Nth page stops there for good.
    pub(crate) helper_dies: Option<u32>,
    /// `helpers.stall=MS`: the first helper to read its 10th page is late by this.
    pub(crate) helper_stalls_ms: Option<u64>,
    /// `asleep=N`: just before the crash, the virtio disk with this number is put to sleep, so that it looks
    /// risky.
    pub(crate) asleep: Option<usize>,
    /// `dumps=N`: number of dumps in a scenario that survives them.
    pub(crate) dumps: u32,
    /// `nmi=crash|snapshot`: the reaction to an external NMI.
    pub(crate) nmi_crashes: bool,
    /// `watchdog=MS`: starts the watchdog, in any scenario.
    pub(crate) watchdog_ms: Option<u32>,
    /// `state-offset=N`: the byte that `corrupt-state` damages, relative to the memory map in the armed
    /// state.
    pub(crate) state_offset: u64,
    /// `nested.page=N`.
    pub(crate) nested_page: u32,
    /// `live.on=virtio|ahci|nvme`: the normal driver to use.
    pub(crate) live_driver: &'static drivers::Driver,
    /// `live.locked`: the panic happens where the driver holds its lock, instead of on the CPU `cpu=`.
    pub(crate) live_locked: bool,
    /// `live.first=N`, in 4096-byte blocks.
    pub(crate) live_first: u64,
    /// `live.blocks=N`.
    pub(crate) live_blocks: u64,
    /// `bench.bytes=N`.
    pub(crate) bench_bytes: u64,
    /// `bench.request=N`, bytes in one request.
    pub(crate) bench_request: usize,
    /// `bench.depth=N`: maximum number of requests in flight.
    pub(crate) bench_depth: usize,
    /// `bench.passes=N`: number of timed runs of the transfers.
    pub(crate) bench_passes: u32,
}

/// The options of this boot.
static OPTIONS: spin::Once<Options> = spin::Once::new();

/// The options of this boot; the defaults until they are known.
pub(crate) fn options() -> &'static Options {
    OPTIONS.get().unwrap_or(&Options::DEFAULT)
}

impl Options {
    /// Stores these as the options of this boot.
    pub(crate) fn keep(&self) {
        OPTIONS.call_once(|| self.clone());
    }

    /// The defaults.
    pub(crate) const DEFAULT: Options = Options {
        scenario: Scenario::Panic,
        cpu: 0,
        disks: [DiskOptions {
            driver: &DRIVERS[0],
            pci: None,
            find: None,
            first: None,
            blocks: 0,
            uuid: None,
            shared: false,
            recipient: None,
        }; MAX_DISKS],
        verify: Verify::All,
        budget_ms: None,
        timeout_ms: None,
        reset: ResetPolicy::Reset,
        log_bytes: None,
        arena_kib: 1024,
        level: None,
        encoding: None,
        helpers: None,
        patience_ms: None,
        stripe: None,
        risky: None,
        fill_mib: 0,
        fill_class: PageClass::User,
        fill_kind: FillKind::Random,
        bad_pages: None,
        helper_dies: None,
        helper_stalls_ms: None,
        asleep: None,
        dumps: 1,
        nmi_crashes: true,
        watchdog_ms: None,
        state_offset: 0,
        nested_page: 1000,
        live_driver: &LIVE_DRIVERS[0],
        live_locked: false,
        live_first: 0,
        live_blocks: 0,
        bench_bytes: 64 << 20,
        bench_request: 64 << 10,
        bench_depth: usize::MAX,
        bench_passes: 1,
    };

    /// Parses the command line.
    ///
    /// # Errors
    /// The first word that is invalid, or that requests something this machine does not have.
    pub(crate) fn parse(line: &'static str) -> Result<Options, &'static str> {
        let mut options = Options::DEFAULT;
        for word in line.split_ascii_whitespace() {
            options.take(word).ok_or(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &'static str) -> Option<()> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if MISSING.iter().any(|missing| *missing == word || *missing == key) {
            return None;
        }
        if let Some((disk, key)) = key.strip_prefix("disk").and_then(|rest| rest.split_once('.')) {
            let number: usize = if disk.is_empty() { 0 } else { disk.parse().ok()? };
            let disk = self.disks.get_mut(number)?;
            match key {
                "on" => disk.driver = DRIVERS.iter().find(|driver| driver.name == value)?,
                "pci" => disk.pci = Some(Address::from_text(value)?),
                "find" => {
                    disk.find = match value.split_once(':')? {
                        ("name", name) => Some(By::Name(name)),
                        ("guid", guid) => Some(By::Guid(hex(guid)?)),
                        ("label", uuid) => Some(By::Label(hex(uuid)?)),
                        _ => return None,
                    }
                }
                "first" => disk.first = Some(value.parse().ok()?),
                "blocks" => disk.blocks = value.parse().ok()?,
                "uuid" => disk.uuid = Some(hex(value)?),
                "shared" if !word.contains('=') => disk.shared = true,
                "recipient" => disk.recipient = Some(hex(value)?),
                _ => return None,
            }
            return Some(());
        }
        match key {
            "scenario" => self.scenario = SCENARIOS.iter().find(|(name, _)| *name == value)?.1,
            "cpu" => self.cpu = value.parse().ok()?,
            "verify" => {
                self.verify = match value.split_once(':') {
                    None if value == "all" => Verify::All,
                    None if value == "ahead" => Verify::Ahead,
                    Some(("sample", every)) => Verify::Sample { every: every.parse().ok()? },
                    _ => return None,
                }
            }
            "budget" => self.budget_ms = Some(value.parse().ok()?),
            "timeout" => self.timeout_ms = Some(value.parse().ok()?),
            "reset" => {
                self.reset = match value {
                    "reset" => ResetPolicy::Reset,
                    "poweroff" => ResetPolicy::PowerOff,
                    "halt" => ResetPolicy::Halt,
                    "return" => ResetPolicy::Return,
                    _ => return None,
                }
            }
            "log" => self.log_bytes = Some(value.parse().ok()?),
            "arena" => self.arena_kib = value.parse().ok().filter(|kib| (1..=1 << 20).contains(kib))?,
            "level" => self.level = Some(Level::from_bits(value.parse().ok()?)?),
            "encoding" => {
                self.encoding = match value {
                    "plain" => Some(Encoding::Plain),
                    "lz4" => Some(Encoding::Units),
                    _ => return None,
                }
            }
            "helpers" => self.helpers = Some(value.parse().ok()?),
            "patience" => self.patience_ms = Some(value.parse().ok()?),
            "stripe" => self.stripe = Some(switch(value)?),
            "risky" => self.risky = Some(switch(value)?),
            "fill" => self.fill_mib = value.parse().ok()?,
            "fill.class" => self.fill_class = CLASSES.iter().find(|(name, _)| *name == value)?.1,
            "fill.kind" => {
                self.fill_kind = match value {
                    "random" => FillKind::Random,
                    "text" => FillKind::Text,
                    "zero" => FillKind::Zero,
                    _ => return None,
                }
            }
            "bad.pages" => self.bad_pages = Some(value.parse().ok()?),
            "helpers.die" => self.helper_dies = Some(value.parse().ok()?),
            "helpers.stall" => self.helper_stalls_ms = Some(value.parse().ok()?),
            "asleep" => self.asleep = Some(value.parse().ok()?),
            "dumps" => self.dumps = value.parse().ok()?,
            "nmi" => {
                self.nmi_crashes = match value {
                    "crash" => true,
                    "snapshot" => false,
                    _ => return None,
                }
            }
            "watchdog" => self.watchdog_ms = Some(value.parse().ok()?),
            "state-offset" => self.state_offset = value.parse().ok()?,
            "nested.page" => self.nested_page = value.parse().ok()?,
            "live.on" => self.live_driver = LIVE_DRIVERS.iter().find(|driver| driver.name == value)?,
            "live.locked" if !word.contains('=') => self.live_locked = true,
            "live.first" => self.live_first = value.parse().ok()?,
            "live.blocks" => self.live_blocks = value.parse().ok()?,
            "bench.bytes" => self.bench_bytes = value.parse().ok()?,
            "bench.request" => self.bench_request = value.parse().ok()?,
            "bench.passes" => self.bench_passes = value.parse().ok().filter(|passes| *passes > 0)?,
            "bench.depth" => self.bench_depth = value.parse().ok().filter(|depth| *depth > 0)?,
            _ => return None,
        }
        Some(())
    }
}

/// 0 or 1.
fn switch(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// `N` bytes as hexadecimal digits, with optional dashes.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut digits = text.chars().filter(|letter| *letter != '-');
    for byte in &mut bytes {
        *byte = (digits.next()?.to_digit(16)? << 4 | digits.next()?.to_digit(16)?) as u8;
    }
    digits.next().is_none().then_some(bytes)
}
