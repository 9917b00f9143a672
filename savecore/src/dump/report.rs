//! A dump's facts as one structure: for `--json`, for the note inside a core file, and for people.

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

/// Ranges of missing pages and damaged blocks that a report lists.
const MAX_LISTED: usize = 256;

/// What is known of a dump. Numbers that may exceed 2^53, which JSON readers lose, are hexadecimal texts.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Number among the dumps of the partition, from 1.
    pub sequence: u32,
    /// The dump's own number.
    pub nonce: String,
    /// Which of its stripes this is, from 0; of several parts, the first's.
    pub stripe: u32,
    /// How many partitions it is striped over.
    pub stripes: u32,
    /// Stripes, from 0, that were not given; the first of them if there are very many.
    pub missing_stripes: Vec<u32>,
    /// Where it lies.
    pub parts: Vec<PartReport>,
    /// First block on the partition; of several parts, the first's.
    pub first_block: u64,
    /// First block after it.
    pub end_block: u64,
    /// `complete`, `incomplete` (ended early, in order), `unfinished` (the machine stopped in the middle) or `saved`.
    pub status: &'static str,
    /// Why it is incomplete.
    pub reason: Option<&'static str>,
    /// Whether every page is known that was not left out on purpose, and nothing is damaged; see [`Dump::is_whole`].
    pub whole: bool,
    /// Whether something is damaged that the machine's stopping does not explain.
    pub damaged: bool,
    /// What became of the headers, if one is lost.
    pub headers: Option<&'static str>,
    /// `none`, `sealed` (encrypted, no identity was given), `opened` or `refused` (nothing in it can be opened with the
    /// identity that was given).
    pub encryption: &'static str,
    /// Whether the headers of an encrypted dump are as the dump wrote them; `None` if nobody can tell.
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
    /// When it crashed, UTC; `None` when the machine had no clock.
    pub time: Option<String>,
    /// The same in seconds since 1970-01-01; 0 when unknown.
    pub wall_clock: u64,
    /// Seconds on the machine's own clock at the crash.
    pub uptime_seconds: f64,
    /// Seconds that the dump took.
    pub elapsed_seconds: f64,
    /// CPUs that the machine had.
    pub cpu_count: u32,
    /// The CPU that crashed.
    pub crashing_cpu: u32,
    /// What is known of each CPU.
    pub cpus: Vec<CpuReport>,
    /// The memory map.
    pub memory: Vec<MemoryReport>,
    /// The dump level: bits 1 zero pages, 2 page cache, 4 page cache with private data too, 8 user memory, 16 free
    /// memory, 32 all but the kernel's. `None` if the headers are lost.
    pub level: Option<u32>,
    /// The level that was asked for when the core was saved, at which it may have fewer pages than the dump; `None` where none
    /// was, and outside of cores.
    pub core_level: Option<u32>,
    /// `plain` or `units` (compressed). `None` if the headers are lost.
    pub encoding: Option<&'static str>,
    /// Pages by fate.
    pub pages: Pages,
    /// Pages whose content the dump has, by class.
    pub classes: Classes,
    /// Pages that should be there and are not; the first of them if there are very many.
    pub missing: Vec<MissingReport>,
    /// Missing pages that `missing` does not list.
    pub missing_unlisted: u64,
    /// Damaged blocks of the partition; the first of them if there are very many.
    pub damage: Vec<DamageReport>,
    /// Bad blocks that `damage` does not list.
    pub damage_unlisted: u64,
    /// Blocks at an unfinished dump's end that it likely did not write.
    pub foreign_blocks: u64,
    /// The first of them, counted from the partition's start.
    pub first_foreign: Option<u64>,
    /// Chunks that were found.
    pub chunks: u64,
    /// Chunks that should be there, if the headers say.
    pub chunks_expected: Option<u64>,
    /// Whether notes (registers, texts, memory map) are lost.
    pub notes_damaged: bool,
    /// Bytes of the kernel's log in the dump.
    pub log_bytes: u64,
    /// Whether the dump has VMCOREINFO.
    pub vmcoreinfo: bool,
    /// What the kernel could not offer to the dump; `None` if the dump does not say.
    pub lacks: Option<Vec<&'static str>>,
    /// What the dump took and met, if the headers say; of several parts, the first's.
    pub metrics: Option<MetricsReport>,
}

/// What of a dump lies on one partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PartReport {
    /// The partition's identity.
    pub uuid: uuid::Uuid,
    /// Which stripe this is, from 0.
    pub stripe: u32,
    /// First block on the partition.
    pub first_block: u64,
    /// First block after it.
    pub end_block: u64,
    /// As in [`Report::status`].
    pub status: &'static str,
}

/// What is known of a CPU.
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
    /// The stripe that they are on, from 0.
    pub stripe: u32,
    /// The first.
    pub block: u64,
    /// How many.
    pub count: u64,
    /// `not written`, `damaged`, `tampered with or damaged` (in an encrypted dump: whole, but not what was written),
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

/// A number as addresses are written.
pub fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// Seconds since 1970-01-01 as UTC, if a date can say it and it is known (not 0).
pub fn utc(seconds: u64) -> Option<jiff::Timestamp> {
    let seconds = i64::try_from(seconds).ok().filter(|seconds| *seconds != 0)?;
    jiff::Timestamp::from_second(seconds).ok()
}

/// The name of what a CPU was doing.
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
        _ => "unknown",
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

/// The status that is true of all parts: saved if one is, since the first is only marked when all of it is safe; else
/// the worst.
fn status(dump: &Dump<'_>) -> &'static str {
    let is = |status: &&str| dump.parts().iter().any(|part| status_name(&part.found) == *status);
    ["saved", "unfinished", "incomplete"].into_iter().find(is).unwrap_or("complete")
}

/// The names of what a platform lacks.
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

/// Where instruction and stack pointer are among the general registers.
fn pointers(arch: Arch) -> (usize, usize) {
    match arch {
        Arch::X86_64 => (16, 19),
        Arch::Aarch64 => (32, 31),
        Arch::Riscv64 => (0, 2),
    }
}

impl Dump<'_> {
    /// A checksum of what is known of it: of its [`Report`], of its chunks' headers, which hold those of their payload, and of
    /// what becomes of its pages, as `fates` says.
    pub fn fingerprint(&self, fates: impl Iterator<Item = PageRun>) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        // A report is structures of numbers and texts, which can always be written.
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
    /// All that is known of a dump.
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

/// The time now, UTC; `None` if the clock says nothing that a date can be.
pub fn now() -> Option<jiff::Timestamp> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    utc(since.as_secs())
}
