//! The facts of a dump, assembled from its notes chunks.

use std::collections::BTreeMap;

use dumpcore::format::header::Arch;
use dumpcore::format::note::{CpuCondition, CpuState, MemoryRange, NoteKind, Notes, RangeKind, TextPart};
use zerocopy::FromBytes;

use crate::text::size;

/// Maximum bytes of notes; honest dumps have about a hundredth of it.
const MAX_BYTES: usize = 64 << 20;

/// Overhead per record in bytes: it may be a single byte of a text.
const OVERHEAD: usize = 64;

/// Maximum bytes of the panic message, which goes into `info.json` and into the output.
const MAX_MESSAGE: usize = 64 << 10;

/// Maximum bytes of VMCOREINFO: Linux has one page for it.
const MAX_VMCOREINFO: usize = 1 << 20;

/// Maximum bytes of the kernel's name.
const MAX_SYSTEM: usize = 1 << 10;

/// Maximum bytes of a build id.
const MAX_BUILD_ID: usize = 64;

/// Maximum number of CPUs, and of memory ranges: each is a line in every output. Linux can be built for 8192
/// CPUs.
const MAX_LINES: usize = 8192;

/// A range of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First page frame number.
    pub pfn: u64,
    /// First page frame number after it.
    pub end: u64,
    /// Its kind.
    pub kind: RangeKind,
}

/// The facts from the notes.
#[derive(Debug, Default)]
pub struct Facts {
    /// RAM, sorted by address, without overlap.
    pub memory: Vec<Range>,
    /// Registers, one entry per CPU, sorted by CPU.
    pub cpus: Vec<CpuState>,
    /// The panic message.
    pub message: String,
    /// The end of the kernel's log.
    pub log: Vec<u8>,
    /// The kernel's name and release.
    pub system: String,
    /// The kernel's build id.
    pub build_id: Vec<u8>,
    /// VMCOREINFO, as written by the kernel.
    pub vmcoreinfo: Vec<u8>,
    /// The architecture, if known.
    pub arch: Option<Arch>,
    /// The bits of [`Lacks`](dumpcore::platform::Lacks), if known.
    pub lacks: Option<u32>,
    /// Whether notes are damaged or missing, so that other facts may be missing.
    pub damaged: bool,
    /// Whether pieces of a text are missing.
    pub torn: bool,
}

impl Facts {
    /// The registers of the crashing CPU: the one marked as such, or else number `stated`.
    pub fn crashing(&self, stated: u32) -> Option<&CpuState> {
        let crashed = |state: &&CpuState| state.condition.get() == CpuCondition::Crashing as u32;
        let mut crashing = self.cpus.iter().filter(crashed);
        let by_number = self.cpus.iter().find(|state| state.cpu.get() == stated);
        by_number.filter(crashed).or_else(|| crashing.next()).or(by_number)
    }
}

/// The condition of a CPU, from its note.
pub fn condition(state: &CpuState) -> CpuCondition {
    CpuCondition::from_number(state.condition.get()).unwrap_or(CpuCondition::Silent)
}

/// A text in pieces.
#[derive(Default)]
struct Pieces(BTreeMap<u64, Vec<u8>>);

impl Pieces {
    fn take(&mut self, record: &[u8]) -> bool {
        let Ok((part, bytes)) = TextPart::read_from_prefix(record) else { return false };
        self.0.entry(part.offset.get()).or_insert_with(|| bytes.to_vec());
        true
    }

    /// The text, and whether pieces are missing; a gap is marked as such, not filled with zeros.
    fn join(self) -> (Vec<u8>, bool) {
        let mut text = Vec::new();
        let (mut end, mut torn) = (0_u64, false);
        for (offset, bytes) in self.0 {
            if offset > end {
                torn = true;
                text.extend_from_slice(format!("[{} bytes are missing]", offset - end).as_bytes());
            }
            let known = end.saturating_sub(offset).min(bytes.len() as u64) as usize;
            text.extend_from_slice(&bytes[known..]);
            end = end.max(offset.saturating_add(bytes.len() as u64));
        }
        (text, torn)
    }
}

/// Collects notes, chunk by chunk.
#[derive(Default)]
pub(super) struct Builder {
    payload: Vec<u8>,
    whole: bool,
    kept: usize,
    chunks: u64,
    ranges: Vec<Range>,
    cpus: BTreeMap<u32, CpuState>,
    message: Pieces,
    log: Pieces,
    vmcoreinfo: Pieces,
    facts: Facts,
}

impl Builder {
    /// A builder without notes.
    pub(super) fn new() -> Builder {
        Builder { whole: true, ..Builder::default() }
    }

    /// Adds the next block of a chunk's payload; `None` if it is damaged.
    pub(super) fn block(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            // After a gap, the start of the next record is unknown.
            Some(bytes) if self.whole => self.payload.extend_from_slice(bytes),
            Some(_) => {}
            None => self.whole = false,
        }
    }

    /// Ends a chunk, and parses its records.
    pub(super) fn chunk_end(&mut self) {
        self.chunks += 1;
        let payload = std::mem::take(&mut self.payload);
        let mut notes = Notes::new(&payload);
        for (kind, record) in notes.by_ref() {
            self.kept = self.kept.saturating_add(record.len() + OVERHEAD);
            if self.kept > MAX_BYTES || !self.record(kind, record) {
                self.facts.damaged = true;
            }
        }
        if !notes.rest().is_empty() || !self.whole {
            self.facts.damaged = true;
        }
        self.whole = true;
    }

    /// Counts a chunk that is complete but cannot be decrypted.
    pub(super) fn encrypted(&mut self) {
        self.chunks += 1;
    }

    /// Counts a chunk that is unusable.
    pub(super) fn lost(&mut self) {
        self.chunks += 1;
        self.facts.damaged = true;
    }

    /// Adds a record; false if it is malformed for its kind.
    fn record(&mut self, kind: u32, record: &[u8]) -> bool {
        let Some(kind) = NoteKind::from_number(kind) else {
            // From a later version: unknown here, but not damage.
            return true;
        };
        match kind {
            NoteKind::MemoryRange => {
                let Ok(range) = MemoryRange::read_from_bytes(record) else { return false };
                let kind =
                    [RangeKind::Ram, RangeKind::Arena].into_iter().find(|k| *k as u32 == range.kind.get());
                let (Some(kind), true) = (kind, range.start.get() < range.end.get()) else { return false };
                let pfn = range.start.get().div_ceil(4096);
                let end = range.end.get() / 4096;
                if pfn < end && self.ranges.len() == MAX_LINES {
                    return false;
                }
                if pfn < end {
                    self.ranges.push(Range { pfn, end, kind });
                }
                true
            }
            NoteKind::Cpu => {
                let Ok(state) = CpuState::read_from_bytes(record) else { return false };
                let is_full = self.cpus.len() == MAX_LINES && !self.cpus.contains_key(&state.cpu.get());
                if !is_full {
                    self.cpus.entry(state.cpu.get()).or_insert(state);
                }
                !is_full
            }
            NoteKind::Message => self.message.take(record),
            NoteKind::Log => self.log.take(record),
            NoteKind::Vmcoreinfo => self.vmcoreinfo.take(record),
            NoteKind::System => {
                self.facts.system = cut(record, MAX_SYSTEM);
                true
            }
            NoteKind::BuildId => {
                self.facts.build_id = record.iter().take(MAX_BUILD_ID).copied().collect();
                true
            }
            NoteKind::Lacks => {
                let bits = record.try_into().map(u32::from_le_bytes);
                self.facts.lacks = bits.ok().or(self.facts.lacks);
                bits.is_ok()
            }
            NoteKind::Machine => {
                let number = record.try_into().map(u32::from_le_bytes);
                let arch = number.ok().and_then(Arch::from_number);
                self.facts.arch = arch.or(self.facts.arch);
                arch.is_some()
            }
        }
    }

    /// Assembles the facts.
    pub(super) fn finish(self) -> Facts {
        let mut facts = self.facts;
        facts.damaged |= self.chunks == 0;
        facts.memory = without_overlap(self.ranges);
        facts.cpus = self.cpus.into_values().collect();
        let (message, message_torn) = self.message.join();
        let (log, log_torn) = self.log.join();
        let (vmcoreinfo, vmcoreinfo_torn) = self.vmcoreinfo.join();
        facts.message = cut(&message, MAX_MESSAGE);
        facts.log = log;
        // Tools parse it; half of it would mislead them.
        let vmcoreinfo_torn = vmcoreinfo_torn || vmcoreinfo.len() > MAX_VMCOREINFO;
        facts.vmcoreinfo = if vmcoreinfo_torn { Vec::new() } else { vmcoreinfo };
        facts.torn = message_torn || log_torn || vmcoreinfo_torn;
        facts
    }
}

/// The start of a text, and the length of the rest.
fn cut(text: &[u8], max: usize) -> String {
    let mut kept = String::from_utf8_lossy(text.get(..max).unwrap_or(text)).into_owned();
    if text.len() > max {
        let more = size((text.len() - max) as u64);
        // The last character may be cut.
        kept.truncate(kept.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
        kept.push_str(&format!(" [and {more} more]"));
    }
    kept
}

/// Sorts ranges and cuts those covered by earlier ones; the arena is cut out of RAM.
fn without_overlap(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_by_key(|range| (range.pfn, range.end));
    let (arenas, rams): (Vec<_>, Vec<_>) =
        ranges.into_iter().partition(|range| range.kind == RangeKind::Arena);
    let arenas = merge(arenas);
    let mut result = arenas.clone();
    for ram in merge(rams) {
        let mut from = ram.pfn;
        for arena in &arenas[arenas.partition_point(|arena| arena.end <= ram.pfn)..] {
            if arena.pfn >= ram.end {
                break;
            }
            if arena.pfn > from {
                result.push(Range { pfn: from, end: arena.pfn, kind: RangeKind::Ram });
            }
            from = from.max(arena.end);
        }
        if from < ram.end {
            result.push(Range { pfn: from, end: ram.end, kind: RangeKind::Ram });
        }
    }
    result.sort_by_key(|range| range.pfn);
    result
}

/// Joins sorted ranges of one kind that touch or overlap.
fn merge(sorted: Vec<Range>) -> Vec<Range> {
    let mut merged: Vec<Range> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.pfn <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn memory_ranges_never_overlap_and_cover_what_was_named(
            named in prop::collection::vec((0_u64..100, 1_u64..30, prop::bool::ANY), 0..20)
        ) {
            let ranges: Vec<Range> = named
                .iter()
                .map(|(pfn, count, arena)| Range {
                    pfn: *pfn,
                    end: pfn + count,
                    kind: if *arena { RangeKind::Arena } else { RangeKind::Ram },
                })
                .collect();
            let result = without_overlap(ranges.clone());
            for pfn in 0..140 {
                let hits: Vec<&Range> = result.iter().filter(|r| (r.pfn..r.end).contains(&pfn)).collect();
                let named: Vec<&Range> = ranges.iter().filter(|r| (r.pfn..r.end).contains(&pfn)).collect();
                prop_assert_eq!(hits.len(), usize::from(!named.is_empty()));
                if let Some(hit) = hits.first() {
                    let arena = named.iter().any(|r| r.kind == RangeKind::Arena);
                    prop_assert_eq!(hit.kind == RangeKind::Arena, arena);
                }
            }
        }

        #[test]
        fn a_text_in_pieces_is_whole_again_or_says_what_is_missing(
            text in prop::collection::vec(any::<u8>(), 1..200), cut in 1_usize..50, lost in 0_usize..10
        ) {
            let mut pieces = Pieces::default();
            let parts: Vec<&[u8]> = text.chunks(cut).collect();
            for (number, part) in parts.iter().enumerate().rev() {
                let mut record = ((number * cut) as u64).to_le_bytes().to_vec();
                record.extend_from_slice(part);
                if number != lost {
                    prop_assert!(pieces.take(&record));
                }
            }
            let (joined, torn) = pieces.join();
            if lost >= parts.len() {
                prop_assert_eq!((joined, torn), (text, false));
            } else if lost + 1 < parts.len() {
                prop_assert!(torn);
            }
        }
    }
}
