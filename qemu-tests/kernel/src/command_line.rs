//! The command line: words `key=value` or flags, all listed here.

use dumpcore::format::Uuid;
use dumpcore::{ResetPolicy, Verify};

/// What the kernel does after it has armed the dump.
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
    /// One bit of the sealed armed state is flipped (`state-offset=`), then a panic.
    CorruptState,
    /// The dump itself panics before its first write.
    NestedBeforeWrite,
    /// The dump itself panics while it streams memory (at its `nested.page=`th page).
    NestedAfterWrite,
    /// The disk is unplugged, then a panic.
    DeviceGone,
    /// A normal driver has requests in flight on the disk (`live.first=`, `live.blocks=`), then a panic.
    SharedLive,
    /// A panic, and a look at how much stack the dump used.
    Footprint,
    /// No crash: all CPUs stand still.
    HaltOnly,
    /// No crash: plain polled writes with the dump's driver over the dump partition.
    BenchPlain,
    /// A panic, timed.
    BenchDump,
    /// No crash: checksums and copies over RAM, timed.
    BenchChecksum,
}

const SCENARIOS: [(&str, Scenario); 15] = [
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
    ("halt-only", Scenario::HaltOnly),
    ("bench-plain", Scenario::BenchPlain),
    ("bench-dump", Scenario::BenchDump),
    ("bench-checksum", Scenario::BenchChecksum),
];

impl Scenario {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        SCENARIOS.iter().find(|(_, scenario)| *scenario == self).map_or("", |(name, _)| name)
    }
}

/// All that can be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `scenario=NAME`.
    pub(crate) scenario: Scenario,
    /// `cpu=N`: which CPU crashes.
    pub(crate) cpu: usize,
    /// `disk.first=N`: first 4096-byte block of the dump partition. Without it, no dump is armed.
    pub(crate) disk_first: Option<u64>,
    /// `disk.blocks=N`: its size in blocks.
    pub(crate) disk_blocks: u64,
    /// `disk.uuid=HEX`: its label's uuid, 32 digits.
    pub(crate) disk_uuid: Option<Uuid>,
    /// `disk.shared`: a normal driver uses the disk too.
    pub(crate) disk_shared: bool,
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
    /// `fill=MIB`: RAM filled with pseudo-random data before the crash.
    pub(crate) fill_mib: u64,
    /// `state-offset=N`: which byte of the armed state `corrupt-state` harms.
    pub(crate) state_offset: u64,
    /// `nested.page=N`.
    pub(crate) nested_page: u32,
    /// `live.first=N`, in 4096-byte blocks.
    pub(crate) live_first: u64,
    /// `live.blocks=N`.
    pub(crate) live_blocks: u64,
    /// `bench.bytes=N`.
    pub(crate) bench_bytes: u64,
    /// `bench.request=N`, bytes in one request.
    pub(crate) bench_request: usize,
    /// `bench.depth=N`: requests in flight at most.
    pub(crate) bench_depth: usize,
}

impl Options {
    const DEFAULT: Options = Options {
        scenario: Scenario::Panic,
        cpu: 0,
        disk_first: None,
        disk_blocks: 0,
        disk_uuid: None,
        disk_shared: false,
        verify: Verify::All,
        budget_ms: None,
        timeout_ms: None,
        reset: ResetPolicy::Reset,
        log_bytes: None,
        arena_kib: 1024,
        fill_mib: 0,
        state_offset: 0,
        nested_page: 1000,
        live_first: 0,
        live_blocks: 0,
        bench_bytes: 64 << 20,
        bench_request: 64 << 10,
        bench_depth: usize::MAX,
    };

    /// Reads the command line.
    ///
    /// # Errors
    /// The first word that is not understood.
    pub(crate) fn parse(line: &str) -> Result<Options, &str> {
        let mut options = Options::DEFAULT;
        for word in line.split_ascii_whitespace() {
            options.take(word).ok_or(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "scenario" => self.scenario = SCENARIOS.iter().find(|(name, _)| *name == value)?.1,
            "cpu" => self.cpu = value.parse().ok()?,
            "disk.first" => self.disk_first = Some(value.parse().ok()?),
            "disk.blocks" => self.disk_blocks = value.parse().ok()?,
            "disk.uuid" => self.disk_uuid = Some(uuid(value)?),
            "disk.shared" if word == key => self.disk_shared = true,
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
            "fill" => self.fill_mib = value.parse().ok()?,
            "state-offset" => self.state_offset = value.parse().ok()?,
            "nested.page" => self.nested_page = value.parse().ok()?,
            "live.first" => self.live_first = value.parse().ok()?,
            "live.blocks" => self.live_blocks = value.parse().ok()?,
            "bench.bytes" => self.bench_bytes = value.parse().ok()?,
            "bench.request" => self.bench_request = value.parse().ok()?,
            "bench.depth" => self.bench_depth = value.parse().ok().filter(|depth| *depth > 0)?,
            _ => return None,
        }
        Some(())
    }
}

/// 32 hexadecimal digits, dashes between them allowed.
fn uuid(text: &str) -> Option<Uuid> {
    let mut uuid = Uuid::default();
    let mut digits = text.chars().filter(|letter| *letter != '-');
    for byte in &mut uuid {
        *byte = (digits.next()?.to_digit(16)? << 4 | digits.next()?.to_digit(16)?) as u8;
    }
    digits.next().is_none().then_some(uuid)
}
