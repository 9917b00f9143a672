//! A dump's facts as one structure: for `--json`, for the note in a core file, and for people.

use std::fmt::Write;

use dumpcore::format::chunk::Encoding;
use dumpcore::format::header::{Arch, Status, Trigger};
use dumpcore::format::note::{CpuCondition, RangeKind};
use dumpcore::format::{OLDEST_VERSION, VERSION};
use dumpcore::platform::Lacks;
use serde::Serialize;

use super::index::PageRun;
use super::metrics::MetricsReport;
use super::{Classes, Condition, Dump, Encryption, Fate, Pages, condition};
use crate::partition::{Ending, Found};

/// Maximum number of ranges of missing pages and damaged blocks in a report.
const MAX_LISTED: usize = 256;

/// All facts about a dump. Numbers that may exceed 2^53, which JSON readers may round, are hexadecimal texts.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Number among the dumps of the partition, from 1.
    pub sequence: u32,
    /// The dump's own number.
    pub nonce: String,
    /// Its stripe, from 0; for several parts, the first one's.
    pub stripe: u32,
    /// Number of partitions that it is striped over.
    pub stripes: u32,
    /// Missing stripes, from 0; the first ones if there are very many.
    pub missing_stripes: Vec<u32>,
    /// Its parts.
    pub parts: Vec<PartReport>,
    /// First block on the partition; for several parts, the first one's.
    pub first_block: u64,
    /// First block after it.
    pub end_block: u64,
    /// `complete`, `incomplete` (ended early, in order), `unfinished` (the machine stopped in the middle) or
    /// `saved`.
    pub status: &'static str,
    /// Why it is incomplete.
    pub reason: Option<&'static str>,
    /// Whether every page is known, except those left out on purpose, and nothing is damaged; see
    /// [`Dump::is_whole`].
    pub whole: bool,
    /// Whether there is damage that an interrupted dump does not explain.
    pub damaged: bool,
    /// The state of the headers, if one is lost.
    pub headers: Option<&'static str>,
    /// `none`, `sealed` (encrypted, no identity was given), `opened` or `refused` (nothing in it can be
    /// decrypted with the given identity).
    pub encryption: &'static str,
    /// Whether the headers of an encrypted dump are authentic; `None` if unknown.
    pub authentic: Option<bool>,
    /// `panic`, `fault`, `request`, `watchdog`, `nmi` or `oops`.
    pub trigger: &'static str,
    /// The panic message.
    pub message: String,
    /// Name and release of the kernel.
    pub system: String,
    /// The kernel's build id, hexadecimal.
    pub build_id: String,
    /// The architecture: `x86_64`, `aarch64`, `riscv64`, or `unknown` if headers and notes are lost.
    pub arch: &'static str,
    /// Time of the crash, UTC; `None` if the machine had no clock.
    pub time: Option<String>,
    /// The same in seconds since 1970-01-01; 0 if unknown.
    pub wall_clock: u64,
    /// Seconds on the machine's own clock at the crash.
    pub uptime_seconds: f64,
    /// Duration of the dump in seconds.
    pub elapsed_seconds: f64,
    /// Number of the machine's CPUs.
    pub cpu_count: u32,
    /// The CPU that crashed.
    pub crashing_cpu: u32,
    /// Each CPU.
    pub cpus: Vec<CpuReport>,
    /// The memory map.
    pub memory: Vec<MemoryReport>,
    /// The dump level: bits 1 zero pages, 2 page cache, 4 page cache with private data too, 8 user memory, 16
    /// free memory, 32 everything except the kernel's. `None` if the headers are lost.
    pub level: Option<u32>,
    /// The level requested when saving the core, which may exclude more pages than the dump; `None` without
    /// one, and outside of cores.
    pub core_level: Option<u32>,
    /// `plain` or `units` (compressed). `None` if the headers are lost.
    pub encoding: Option<&'static str>,
    /// Pages by fate.
    pub pages: Pages,
    /// Pages whose content is in the dump, by class.
    pub classes: Classes,
    /// Pages that are missing although they should be there; the first ones if there are very many.
    pub missing: Vec<MissingReport>,
    /// Number of missing pages that are not in `missing`.
    pub missing_unlisted: u64,
    /// Damaged blocks of the partition; the first ones if there are very many.
    pub damage: Vec<DamageReport>,
    /// Number of bad blocks that are not in `damage`.
    pub damage_unlisted: u64,
    /// Number of blocks at an unfinished dump's end that it probably did not write.
    pub foreign_blocks: u64,
    /// The first of them, counted from the partition's start.
    pub first_foreign: Option<u64>,
    /// Number of chunks found.
    pub chunks: u64,
    /// Expected number of chunks, if the headers have it.
    pub chunks_expected: Option<u64>,
    /// Whether notes (registers, texts, memory map) are lost.
    pub notes_damaged: bool,
    /// Bytes of the kernel's log in the dump.
    pub log_bytes: u64,
    /// Whether the dump has VMCOREINFO.
    pub vmcoreinfo: bool,
    /// Features that the kernel lacked; `None` if unknown.
    pub lacks: Option<Vec<&'static str>>,
    /// The metrics, if the headers have them; for several parts, the first one's.
    pub metrics: Option<MetricsReport>,
}

/// The part of a dump on one partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PartReport {
    /// The partition's identity.
    pub uuid: uuid::Uuid,
    /// Its stripe, from 0.
    pub stripe: u32,
    /// First block on the partition.
    pub first_block: u64,
    /// First block after it.
    pub end_block: u64,
    /// As in [`Report::status`].
    pub status: &'static str,
}

/// The facts about a CPU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CpuReport {
    /// Its number, from 0.
    pub cpu: u32,
    /// `crashing`, `stopped` or `silent`.
    pub condition: &'static str,
    /// Instruction pointer, hexadecimal; `None` for a silent CPU or an unknown architecture.
    pub ip: Option<String>,
    /// Stack pointer, hexadecimal; `None` for a silent CPU or an unknown architecture.
    pub sp: Option<String>,
}

/// A range of physical memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MemoryReport {
    /// First byte, hexadecimal.
    pub start: String,
    /// First byte after it, hexadecimal.
    pub end: String,
    /// `ram` or `arena`.
    pub kind: &'static str,
}

/// Consecutive missing pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MissingReport {
    /// Physical address of the first byte, hexadecimal.
    pub start: String,
    /// First byte after them, hexadecimal.
    pub end: String,
    /// How many pages.
    pub pages: u64,
    /// `unreadable`, `faulted`, `damaged`, `not written` or `absent`.
    pub why: &'static str,
}

/// Consecutive bad blocks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DamageReport {
    /// Their stripe, from 0.
    pub stripe: u32,
    /// The first.
    pub block: u64,
    /// How many.
    pub count: u64,
    /// `not written`, `damaged`, `tampered with or damaged` (in an encrypted dump: valid, but not authentic),
    /// `contradicts itself`, of another format version, `unreadable`, or `foreign`: see [`Dump::foreign`].
    pub what: String,
}

/// The name of an architecture.
pub fn arch_name(arch: Option<Arch>) -> &'static str {
    match arch {
        Some(Arch::X86_64) => "x86_64",
        Some(Arch::Aarch64) => "aarch64",
        Some(Arch::Riscv64) => "riscv64",
        None => "unknown",
    }
}

/// A number in the form of addresses.
pub fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// Seconds since 1970-01-01 as UTC; `None` if unknown (0) or out of range.
pub fn utc(seconds: u64) -> Option<jiff::Timestamp> {
    let seconds = i64::try_from(seconds).ok().filter(|seconds| *seconds != 0)?;
    jiff::Timestamp::from_second(seconds).ok()
}

/// The name of a CPU's condition.
pub fn condition_name(condition: CpuCondition) -> &'static str {
    match condition {
        CpuCondition::Crashing => "crashing",
        CpuCondition::Stopped => "stopped",
        CpuCondition::Silent => "silent",
    }
}

fn trigger_name(number: u32) -> &'static str {
    match Trigger::from_number(number) {
        Some(Trigger::Panic) => "panic",
        Some(Trigger::Fault) => "fault",
        Some(Trigger::Request) => "request",
        Some(Trigger::Watchdog) => "watchdog",
        Some(Trigger::Nmi) => "nmi",
        Some(Trigger::Oops) => "oops",
        None => "unknown",
    }
}

fn headers_text(ending: Ending) -> Option<&'static str> {
    match ending {
        Ending::Closed | Ending::Open | Ending::Saved => None,
        Ending::AlmostClosed => Some("the machine stopped before the front header was closed"),
        Ending::BackLost => Some("the back header is damaged"),
        Ending::FrontLost => Some("the front header is damaged"),
        Ending::BothLost => Some("the front header is damaged and there is no back header"),
    }
}

fn status_name(found: &Found) -> &'static str {
    match (found.ending, found.header.status()) {
        (Ending::AlmostClosed | Ending::Open | Ending::BothLost, _) => "unfinished",
        (_, Status::Complete) => "complete",
        (_, Status::Incomplete) => "incomplete",
        (_, Status::Saved) => "saved",
        (_, Status::InProgress) => "unfinished",
    }
}

/// The common status of all parts: saved if one is, since the first is marked only when everything is
/// durable; otherwise the worst.
fn status(dump: &Dump<'_>) -> &'static str {
    let is = |status: &&str| dump.parts().iter().any(|part| status_name(&part.found) == *status);
    ["saved", "unfinished", "incomplete"].into_iter().find(is).unwrap_or("complete")
}

/// The names of a platform's missing features.
fn lacks_text(bits: u32) -> Vec<&'static str> {
    let lacks = Lacks::from_bits_truncate(bits);
    let names = [
        (Lacks::CODE_CHECK, "no check of the dump's own code"),
        (Lacks::OTHER_CPUS, "other CPUs could not be stopped"),
        (Lacks::WALL_CLOCK, "no wall clock"),
        (Lacks::LOG, "no kernel log"),
        (Lacks::BUILD_ID, "no build id"),
        (Lacks::STACK, "no stack of its own"),
        (Lacks::GUARD, "no guard against bad memory"),
        (Lacks::CLASSES, "no page classes"),
    ];
    names.into_iter().filter(|(flag, _)| lacks.contains(*flag)).map(|(_, name)| name).collect()
}

/// Indexes of instruction and stack pointer among the general registers.
fn pointers(arch: Arch) -> (usize, usize) {
    match arch {
        Arch::X86_64 => (16, 19),
        Arch::Aarch64 => (32, 31),
        Arch::Riscv64 => (0, 2),
    }
}

impl Dump<'_> {
    /// A checksum of the dump's contents: of its [`Report`], of its chunks' headers, which include the
    /// checksums of their payload, and of its pages' `fates`.
    pub fn fingerprint(&self, fates: impl Iterator<Item = PageRun>) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        // A report consists of numbers and texts, which can always be serialised.
        sum.update(&serde_json::to_vec(&Report::new(self)).unwrap_or_default());
        for chunk in &self.index.chunks {
            sum.update(&chunk.crc.to_le_bytes());
        }
        for run in fates {
            sum.update(&run.pfn.to_le_bytes());
            sum.update(&run.count.to_le_bytes());
            sum.update(&[run.fate as u8]);
        }
        sum.finalize()
    }
}

impl Report {
    /// All facts about a dump.
    pub fn new(dump: &Dump<'_>) -> Report {
        let found = dump.found();
        let header = &found.header;
        let facts = dump.facts();
        let (chunks, chunks_expected) = dump.chunks();
        let message = if facts.message.is_empty() { header.message() } else { &facts.message };
        let system = if facts.system.is_empty() { header.system() } else { &facts.system };
        let build_id = if facts.build_id.is_empty() { header.build_id() } else { &facts.build_id };
        let pages = dump.pages();
        let has_header = found.ending != Ending::BothLost;
        Report {
            sequence: header.sequence.get(),
            nonce: format!("{:016x}", header.nonce.get()),
            stripe: header.stripe.get(),
            stripes: dump.stripes(),
            missing_stripes: dump.missing_stripes().to_vec(),
            parts: (dump.parts().iter())
                .map(|part| PartReport {
                    uuid: uuid::Uuid::from_bytes(part.uuid),
                    stripe: part.found.header.stripe.get(),
                    first_block: part.found.first,
                    end_block: part.found.end,
                    status: status_name(&part.found),
                })
                .collect(),
            first_block: found.first,
            end_block: found.end,
            status: status(dump),
            reason: dump.parts().iter().find_map(|part| part.found.header.incomplete().words()),
            whole: dump.is_whole(),
            damaged: dump.is_damaged(),
            headers: dump.parts().iter().find_map(|part| headers_text(part.found.ending)),
            encryption: match dump.encryption() {
                Encryption::None => "none",
                Encryption::Encrypted => "sealed",
                Encryption::Opened => "opened",
                Encryption::Refused => "refused",
            },
            authentic: dump.authentic(),
            trigger: if has_header { trigger_name(header.trigger.get()) } else { "unknown" },
            message: message.to_owned(),
            system: system.to_owned(),
            build_id: build_id.iter().fold(String::new(), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            }),
            arch: arch_name(dump.arch()),
            time: utc(header.wall_clock.get()).map(|time| time.to_string()),
            wall_clock: header.wall_clock.get(),
            uptime_seconds: header.uptime.get() as f64 / 1e9,
            elapsed_seconds: header.elapsed.get() as f64 / 1e9,
            cpu_count: header.cpus.get().max(facts.cpus.len() as u32),
            crashing_cpu: facts
                .crashing(header.crashing_cpu.get())
                .map_or(header.crashing_cpu.get(), |state| state.cpu.get()),
            cpus: cpus(dump),
            memory: facts
                .memory
                .iter()
                .map(|range| MemoryReport {
                    start: hex(range.pfn << 12),
                    end: format!("{:#x}", u128::from(range.end) << 12),
                    kind: match range.kind {
                        RangeKind::Ram => "ram",
                        RangeKind::Arena => "arena",
                    },
                })
                .collect(),
            level: has_header.then(|| header.level.get()),
            core_level: None,
            encoding: match Encoding::from_number(header.encoding.get()).filter(|_| has_header) {
                Some(Encoding::Units) => Some("units"),
                Some(Encoding::Plain) => Some("plain"),
                None => None,
            },
            pages,
            classes: Classes::of(dump.index()),
            missing: missing(dump),
            missing_unlisted: dump.missing_untold()
                + dump.missing().iter().skip(MAX_LISTED).map(|missing| missing.count).sum::<u64>(),
            damage: damage(dump),
            damage_unlisted: dump.damage_untold()
                + dump.damage().iter().skip(MAX_LISTED).map(|damage| damage.count).sum::<u64>(),
            foreign_blocks: dump.foreign().iter().map(|foreign| foreign.count).sum(),
            first_foreign: dump.foreign().first().map(|foreign| foreign.first),
            chunks,
            chunks_expected,
            notes_damaged: facts.damaged || facts.torn,
            log_bytes: facts.log.len() as u64,
            vmcoreinfo: !facts.vmcoreinfo.is_empty(),
            lacks: facts.lacks.map(lacks_text),
            metrics: MetricsReport::of(&header.metrics),
        }
    }
}

fn cpus(dump: &Dump<'_>) -> Vec<CpuReport> {
    let pointers = dump.arch().map(pointers);
    let cpus = dump.facts().cpus.iter().map(|state| {
        let condition = condition(state);
        let known = pointers.filter(|_| condition != CpuCondition::Silent);
        let register = |index: usize| state.general.get(index).map(|value| hex(value.get()));
        CpuReport {
            cpu: state.cpu.get(),
            condition: condition_name(condition),
            ip: known.and_then(|(ip, _)| register(ip)),
            sp: known.and_then(|(_, sp)| register(sp)),
        }
    });
    cpus.collect()
}

fn missing(dump: &Dump<'_>) -> Vec<MissingReport> {
    let listed = dump.missing().iter().take(MAX_LISTED).map(|missing| MissingReport {
        start: hex(missing.pfn << 12),
        end: format!("{:#x}", u128::from(missing.pfn + missing.count) << 12),
        pages: missing.count,
        why: match missing.fate {
            Some(Fate::Unreadable) => "unreadable",
            Some(Fate::Faulted) => "faulted",
            Some(Fate::NotWritten) => "not written",
            Some(_) => "damaged",
            None => "absent",
        },
    });
    listed.collect()
}

fn damage(dump: &Dump<'_>) -> Vec<DamageReport> {
    let listed = dump.damage().iter().take(MAX_LISTED).map(|damage| {
        let foreign = (dump.foreign().iter())
            .any(|foreign| foreign.stripe == damage.stripe && damage.block >= foreign.first);
        DamageReport {
            stripe: damage.stripe,
            block: damage.block,
            count: damage.count,
            what: match damage.condition {
                Condition::NotWritten | Condition::Good => "not written".to_owned(),
                Condition::Damaged if foreign => "foreign".to_owned(),
                Condition::Damaged => "damaged".to_owned(),
                Condition::Tampered => "tampered with or damaged".to_owned(),
                Condition::Garbled => "contradicts itself".to_owned(),
                Condition::OtherVersion(found) => {
                    format!(
                        "format version {found}; this savecore reads versions {OLDEST_VERSION} to {VERSION}"
                    )
                }
                Condition::Unreadable => "unreadable".to_owned(),
            },
        }
    });
    listed.collect()
}

/// The current time, UTC; `None` if the clock is out of range.
pub fn now() -> Option<jiff::Timestamp> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    utc(since.as_secs())
}
