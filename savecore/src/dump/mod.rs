//! A decoded dump: its pages and their fate, registers, texts, and damage.
//!
//! Opening a dump reads it once, from front to back, checks every checksum, and decrypts and decompresses
//! every chunk. Only the places of its memory are kept, so even a large dump takes little memory here: 16
//! bytes per run of pages, 24 per chunk, and at most as many as a machine with as much memory as this one can
//! have dumped.
//!
//! In an encrypted dump, only authentic data is trusted: a chunk with a wrong tag loses all its pages.
//!
//! One file: it is one type with what can be asked of it; the work is in the modules below.

mod bulk;
mod cache;
mod chunk;
mod classes;
mod damage;
mod index;
#[cfg(test)]
mod large;
mod metrics;
mod notes;
mod registers;
mod report;
mod stripes;
mod walk;
mod words;

use std::io;
use std::sync::{Mutex, PoisonError};

use dumpcore::format::chunk::{ChunkHeader, ChunkKind};
use dumpcore::format::header::{Arch, Status};
use dumpcore::format::note::RangeKind;
use dumpcore::format::{Block, Uuid};

use crate::Identity;
use crate::identity::is_authentic;
use crate::partition::{Ending, Found, Partition, chunk_at};
use crate::source::{Progress, Reader, Source};
use cache::Cache;
use chunk::{Decryption, State};
use damage::{Damages, Indices, Missings};
use index::Limits;
use walk::{Checked, Step, walk};

pub(crate) use bulk::{Bulk, Want};
pub use chunk::Condition;
pub use classes::Classes;
pub use damage::{DamagedBlocks, Foreign, Missing};
pub use index::{Fate, Index, PageRun};
pub use metrics::{MetricsReport, PassReport, PhaseReport, RefusalReport};
pub use notes::{Facts, Range, condition};
pub use registers::{Register, control_registers, general_registers};
pub use report::{
    CpuReport, DamageReport, MemoryReport, MissingReport, PartReport, Report, arch_name, condition_name, hex,
    now, utc,
};
pub use stripes::{DumpRef, Part, gather};

/// Pages by fate.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Pages {
    /// Pages of RAM that the machine had.
    pub total: u64,
    /// Pages whose bytes are in the dump.
    pub data: u64,
    /// Pages that held only zeros.
    pub zero: u64,
    /// Pages excluded as the dump's own arena.
    pub arena: u64,
    /// Pages excluded by the dump level: page cache without private data.
    pub cache: u64,
    /// Pages excluded by the dump level: page cache with private data.
    pub cache_private: u64,
    /// Pages excluded by the dump level: memory of user processes.
    pub user: u64,
    /// Pages excluded by the dump level: free memory.
    pub free: u64,
    /// Pages excluded by the dump level: not known to be the kernel's.
    pub not_kernel: u64,
    /// Pages excluded as device memory.
    pub device: u64,
    /// Pages whose bytes are in the dump, encrypted, and were not decrypted.
    pub sealed: u64,
    /// Pages that the kernel had no way to read.
    pub unreadable: u64,
    /// Pages that faulted when the kernel read them.
    pub faulted: u64,
    /// Pages whose bytes are damaged in the dump.
    pub damaged: u64,
    /// Pages that were not written because the machine stopped.
    pub not_written: u64,
    /// Pages that the dump does not mention: it ended before them, or their chunk or stripe is lost.
    pub absent: u64,
    /// Pages that may be in the dump, but this machine has too little memory for their index: see
    /// [`Index::dropped`].
    #[serde(skip_serializing_if = "is_zero")]
    pub untold: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Pages {
    /// Number of pages that are missing although they should be in the dump. Excludes those left out on
    /// purpose, and those present but encrypted.
    pub fn missing(&self) -> u64 {
        self.unreadable + self.faulted + self.damaged + self.not_written + self.absent + self.untold
    }

    /// Number of pages left out on purpose.
    pub fn left_out(&self) -> u64 {
        self.arena + self.cache + self.cache_private + self.user + self.free + self.not_kernel + self.device
    }

    fn of(&mut self, fate: Fate) -> &mut u64 {
        match fate {
            Fate::Data => &mut self.data,
            Fate::Zero => &mut self.zero,
            Fate::Arena => &mut self.arena,
            Fate::Unreadable => &mut self.unreadable,
            Fate::Damaged => &mut self.damaged,
            Fate::NotWritten => &mut self.not_written,
            Fate::Faulted => &mut self.faulted,
            Fate::Cache => &mut self.cache,
            Fate::CachePrivate => &mut self.cache_private,
            Fate::User => &mut self.user,
            Fate::Free => &mut self.free,
            Fate::NotKernel => &mut self.not_kernel,
            Fate::Device => &mut self.device,
            Fate::Encrypted => &mut self.sealed,
        }
    }
}

/// The content of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PageState {
    /// These bytes.
    Data(Box<Block>),
    /// Zeros.
    Zero,
    /// Unknown: the dump's own arena.
    Arena,
    /// Unknown: left out on purpose, by the dump level or as device memory; the fate tells which.
    LeftOut(Fate),
    /// Unknown: the kernel had no way to read it.
    Unreadable,
    /// Unknown: it faulted when the kernel read it.
    Faulted,
    /// Unknown: its bytes in the dump are damaged.
    Damaged,
    /// Unknown: the machine stopped before writing it.
    NotWritten,
    /// Unknown: it is encrypted, and there is no identity to decrypt it.
    Encrypted,
    /// Unknown: the dump does not mention it.
    Absent,
}

/// Whether a dump is encrypted, and was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encryption {
    /// It is not encrypted.
    None,
    /// It is encrypted, and no identity was given.
    Encrypted,
    /// It is encrypted, and at least one chunk could be opened.
    Opened,
    /// It is encrypted, and nothing in it could be opened: the wrong identity, or damaged all over.
    Refused,
}

/// A dump, read and checked.
pub struct Dump<'s> {
    parts: Vec<Part<'s>>,
    decryption: Decryption,
    cache: Mutex<Cache>,
    facts: Facts,
    index: Index,
    pages: Pages,
    missing: Vec<Missing>,
    missing_untold: u64,
    damage: Vec<DamagedBlocks>,
    damage_untold: u64,
    foreign: Vec<Foreign>,
    /// Whether there is damage that an interrupted dump does not explain.
    unexplained: bool,
    chunks: u64,
    encryption: Encryption,
    authentic: Option<bool>,
    stripes: u32,
    missing_stripes: Vec<u32>,
}

impl<'s> Dump<'s> {
    /// Reads and checks a dump of a partition, or its only stripe there.
    pub fn open(source: &'s dyn Source, partition: &Partition, found: &Found) -> Dump<'s> {
        Dump::open_with(source, partition.uuid(), found, None, &mut ())
    }

    /// As [`Dump::open`]; decrypts the dump if there is an identity, and reports progress.
    pub fn open_with(
        source: &'s dyn Source,
        uuid: Uuid,
        found: &Found,
        identity: Option<&Identity>,
        progress: &mut dyn Progress,
    ) -> Dump<'s> {
        Dump::open_parts(vec![Part { source, uuid, found: found.clone() }], identity, progress)
    }

    /// Reads and checks a dump that is striped over several partitions; [`gather`] finds its parts. The first
    /// part's header counts for all.
    ///
    /// # Panics
    /// Without any parts.
    pub fn open_parts(
        parts: Vec<Part<'s>>,
        identity: Option<&Identity>,
        progress: &mut dyn Progress,
    ) -> Dump<'s> {
        Dump::open_within(Limits::here(), parts, identity, progress)
    }

    /// As [`Dump::open_parts`], with these memory limits.
    fn open_within(
        limits: Limits,
        mut parts: Vec<Part<'s>>,
        identity: Option<&Identity>,
        progress: &mut dyn Progress,
    ) -> Dump<'s> {
        assert!(!parts.is_empty(), "a dump has a part");
        let nonce = parts[0].found.header.nonce;
        parts.retain(|part| part.found.header.nonce == nonce);
        let mut decryption = match parts.iter().any(|part| part.found.header.is_encrypted()) {
            true => decryption(&parts, identity),
            false => Decryption::NotNeeded,
        };
        let reading = Reading::of(&parts, &decryption, limits, progress).unwrap_or_else(|Encrypted| {
            // The headers are lost, or wrong. From now on, encrypted chunks are expected.
            decryption = self::decryption(&parts, identity);
            Reading::of(&parts, &decryption, limits, progress)
                .unwrap_or_else(|Encrypted| Reading::new(&parts, limits))
        });
        Dump::put_together(parts, decryption, reading)
    }

    fn put_together(parts: Vec<Part<'s>>, decryption: Decryption, reading: Reading) -> Dump<'s> {
        let (stripes, missing_stripes) = stripes::missing(&parts);
        let authentic = authentic(&parts, &decryption);
        let encryption = match &decryption {
            Decryption::NotNeeded => Encryption::None,
            Decryption::NoIdentity => Encryption::Encrypted,
            Decryption::Key(_) if reading.opened || authentic == Some(true) => Encryption::Opened,
            Decryption::Key(_) => Encryption::Refused,
        };
        let mut dump = Dump {
            decryption,
            cache: Mutex::default(),
            facts: reading.notes.finish(),
            index: reading.builder.finish(),
            pages: Pages::default(),
            missing: Vec::new(),
            missing_untold: 0,
            unexplained: false,
            damage: Vec::new(),
            damage_untold: 0,
            foreign: Vec::new(),
            chunks: reading.parts.iter().map(|(chunks, _)| chunks).sum(),
            encryption,
            authentic,
            stripes,
            missing_stripes,
            parts,
        };
        dump.count();
        dump.judge(&reading.parts, &reading.indices);
        for (_, mut damage) in reading.parts {
            damage.split();
            dump.damage.append(&mut damage.told);
            dump.damage_untold += damage.untold;
            dump.foreign.extend(damage.foreign);
        }
        dump
    }

    /// The dump's place and header; for a striped one, the first part's.
    pub fn found(&self) -> &Found {
        &self.parts[0].found
    }

    /// Identity of its partition; for a striped one, the first part's.
    pub fn uuid(&self) -> Uuid {
        self.parts[0].uuid
    }

    /// Its parts.
    pub fn parts(&self) -> &[Part<'s>] {
        &self.parts
    }

    /// Number of partitions that the dump is striped over.
    pub fn stripes(&self) -> u32 {
        self.stripes
    }

    /// Missing stripes, numbered from 0; the first ones if there are very many.
    pub fn missing_stripes(&self) -> &[u32] {
        &self.missing_stripes
    }

    /// Whether it is encrypted, and was opened.
    pub fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// Whether the headers of an encrypted dump are authentic; `None` if unknown: without an identity, and
    /// after savecore itself has changed them.
    pub fn authentic(&self) -> Option<bool> {
        self.authentic
    }

    /// The architecture of the crashed kernel; `None` if headers and notes are lost.
    pub fn arch(&self) -> Option<Arch> {
        let mut headers =
            self.parts.iter().map(|part| &part.found).filter(|found| found.ending != Ending::BothLost);
        let stated = headers.find_map(|found| Arch::from_number(found.header.arch.get()));
        stated.or(self.facts.arch)
    }

    /// The facts from its notes.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The index of its pages.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Pages by fate.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Pages of RAM that are missing although they should be known, in address order. If there are very many
    /// such ranges, the list is not complete: [`Dump::missing_untold`] has the number of the other pages.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Number of missing pages that are not in [`Dump::missing`].
    pub fn missing_untold(&self) -> u64 {
        self.missing_untold
    }

    /// Bad blocks.
    pub fn damage(&self) -> &[DamagedBlocks] {
        &self.damage
    }

    /// Blocks with headers of chunks that have pages, and the checksums of those headers; only for a dump of
    /// one part.
    pub(crate) fn chunk_headers(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.index.chunks.iter().map(|chunk| (chunk.block, chunk.crc))
    }

    /// Number of bad blocks that are not in [`Dump::damage`].
    pub fn damage_untold(&self) -> u64 {
        self.damage_untold
    }

    /// Blocks counted as the dump's because its end is unknown, but probably not part of it: they are neither
    /// pattern nor valid, and further after its last good block than its writer was ever ahead. At most one
    /// place per part.
    pub fn foreign(&self) -> &[Foreign] {
        &self.foreign
    }

    /// Whether there is damage that an interrupted dump does not explain: the dump may contain more than
    /// savecore can extract.
    pub fn is_damaged(&self) -> bool {
        self.unexplained
    }

    /// Whether every page of RAM is known, except those left out on purpose, and nothing is damaged. For an
    /// encrypted dump without an identity: whether it is complete, according to its checksums.
    pub fn is_whole(&self) -> bool {
        let closed = |part: &Part<'_>| {
            part.found.ending.is_finished() && part.found.header.status() != Status::Incomplete
        };
        self.parts.iter().all(closed)
            && self.missing_stripes.is_empty()
            && !self.unexplained
            && self.damage.is_empty()
            && self.pages.missing() == 0
    }

    /// Number of chunks found, and the expected number if the headers have it.
    pub fn chunks(&self) -> (u64, Option<u64>) {
        let mut stated = self.parts.iter().map(|part| stated_chunks(&part.found));
        (self.chunks, stated.try_fold(0_u64, |sum, chunks| Some(sum.saturating_add(chunks?))))
    }

    /// The content of a page.
    ///
    /// # Errors
    /// If it was readable when the dump was opened but no longer is.
    pub fn read_page(&self, pfn: u64) -> io::Result<PageState> {
        let Some(run) = self.index.find(pfn) else { return Ok(PageState::Absent) };
        Ok(match run.fate {
            Fate::Zero => PageState::Zero,
            Fate::Arena => PageState::Arena,
            Fate::Unreadable => PageState::Unreadable,
            Fate::Faulted => PageState::Faulted,
            Fate::Damaged => PageState::Damaged,
            Fate::NotWritten => PageState::NotWritten,
            Fate::Encrypted => PageState::Encrypted,
            Fate::Cache | Fate::CachePrivate | Fate::User | Fate::Free | Fate::NotKernel | Fate::Device => {
                PageState::LeftOut(run.fate)
            }
            Fate::Data => {
                let place = run.place + (pfn - run.pfn);
                let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                PageState::Data(cache.page(&self.parts, &self.decryption, &self.index, place)?)
            }
        })
    }

    /// Counts pages by fate and lists the missing ones.
    fn count(&mut self) {
        let mut pages = Pages::default();
        let mut named = 0;
        for run in self.index.runs() {
            *pages.of(run.fate) += run.count;
            named += run.count;
        }
        let mut missing = Missings::default();
        let mut runs = self.index.runs().peekable();
        for range in &self.facts.memory {
            let mut at = range.pfn;
            while at < range.end {
                while let Some(run) = runs.next_if(|run| run.end() <= at) {
                    missing.push_run(run, run.pfn);
                }
                let covered = runs.peek().filter(|run| run.pfn <= at).map(|run| run.end());
                let until = match covered {
                    Some(end) => end.min(range.end),
                    None => runs.peek().map_or(range.end, |run| run.pfn.min(range.end)),
                };
                if covered.is_none() {
                    named += until - at;
                    if range.kind == RangeKind::Arena {
                        pages.arena += until - at;
                    } else {
                        pages.absent += until - at;
                        missing.push(Missing { pfn: at, count: until - at, fate: None });
                    }
                }
                at = until;
            }
        }
        for run in runs {
            missing.push_run(run, run.pfn);
        }
        let stated = self.parts.iter().map(|part| part.found.header.total_pages.get()).max().unwrap_or(0);
        // Without the whole memory map, the header still has the total.
        pages.absent += stated.saturating_sub(named);
        // The dropped runs may be any of them.
        pages.untold = self.index.dropped.min(pages.absent);
        pages.absent -= pages.untold;
        pages.total = named.max(stated);
        self.pages = pages;
        missing.list.sort_by_key(|missing| missing.pfn);
        (self.missing, self.missing_untold) = (missing.list, missing.untold);
    }

    fn judge(&mut self, read: &[(u64, Damages)], indices: &Indices) {
        let all_stripes = self.missing_stripes.is_empty();
        let closed = self.parts.iter().all(|part| part.found.ending == Ending::Closed);
        let of_part = |(part, (chunks, damage)): (&Part<'_>, &(u64, Damages))| match part.found.ending {
            _ if damage.unexplained => true,
            // A block in flight at a power failure may be torn.
            Ending::Open | Ending::AlmostClosed => damage.foreign.is_some(),
            Ending::Closed => {
                !damage.told.is_empty()
                    || stated_chunks(&part.found).is_some_and(|stated| stated != *chunks)
                    // Notes may be on a missing stripe.
                    || (self.facts.damaged && all_stripes)
            }
            Ending::BackLost | Ending::FrontLost | Ending::BothLost => true,
            Ending::Saved => false,
        };
        let any_part = self.parts.iter().zip(read).any(of_part);
        let disordered = indices.wrong || (closed && all_stripes && !indices.complete());
        self.unexplained = any_part || disordered || self.authentic == Some(false);
        // For a saved dump, damage in the rest no longer matters.
        self.unexplained &= !self.is_saved();
    }

    /// Whether it was saved: the first part is marked only when everything is durable.
    fn is_saved(&self) -> bool {
        self.parts.iter().any(|part| part.found.ending == Ending::Saved)
    }
}

/// Number of chunks in a part's header, if it is closed.
fn stated_chunks(found: &Found) -> Option<u64> {
    let stated = found.header.chunks.get();
    (found.header.status() != Status::InProgress && stated > 0).then_some(stated)
}

/// Whether the headers of an encrypted dump are authentic.
fn authentic(parts: &[Part<'_>], decryption: &Decryption) -> Option<bool> {
    let Decryption::Key(key) = decryption else { return None };
    let of_part = |part: &Part<'_>| {
        let header = &part.found.header;
        let tells = part.found.ending != Ending::BothLost && header.status() != Status::Saved;
        let holds = |key| header.is_encrypted() && is_authentic(key, header);
        tells.then(|| key.as_ref().is_some_and(holds))
    };
    let told: Vec<bool> = parts.iter().filter_map(of_part).collect();
    (!told.is_empty()).then(|| told.iter().all(|authentic| *authentic))
}

/// The means to decrypt a dump. All its chunks have the same key: an attacker who can write to a partition
/// could make chunks for the label's public key, but not with the ephemeral key of an authentic header.
fn decryption(parts: &[Part<'_>], identity: Option<&Identity>) -> Decryption {
    let Some(identity) = identity else { return Decryption::NoIdentity };
    let usable = |part: &&Part<'_>| {
        identity.opens(&part.found) == Some(true)
            || (part.found.header.is_encrypted() && part.found.header.status() == Status::Saved)
    };
    let header = parts.iter().find(usable).map(|part| part.found.header.ephemeral);
    // Without a trustworthy header, each chunk still has what is needed to decrypt it.
    let ephemeral = header.or_else(|| parts.iter().find_map(|part| Some(first_chunk(part)?.ephemeral)));
    Decryption::Key(ephemeral.and_then(|ephemeral| identity.key(&ephemeral)))
}

/// The header of the first encrypted chunk of a part.
fn first_chunk(part: &Part<'_>) -> Option<Box<ChunkHeader>> {
    let mut reader = Reader::new(part.source);
    let nonce = part.found.header.nonce.get();
    let mut encrypted = part.found.range().filter_map(|at| {
        let chunk = chunk_at(reader.block(at).ok()?, nonce, at)?;
        chunk.is_encrypted().then(|| Box::new(chunk.clone()))
    });
    encrypted.next()
}

/// The dump was taken for unencrypted, but has an encrypted chunk.
struct Encrypted;

/// The result of reading a dump.
struct Reading {
    builder: index::Builder,
    notes: notes::Builder,
    indices: Indices,
    /// For each part, its number of chunks, and its bad blocks.
    parts: Vec<(u64, Damages)>,
    /// Whether any encrypted chunk could be opened.
    opened: bool,
}

impl Reading {
    fn new(parts: &[Part<'_>], limits: Limits) -> Reading {
        Reading {
            builder: index::Builder::new(limits),
            notes: notes::Builder::new(),
            indices: Indices::new(parts.iter().map(|part| part.found.blocks()).sum()),
            parts: parts.iter().map(|part| (0, Damages::new(&part.found))).collect(),
            opened: false,
        }
    }

    fn of(
        parts: &[Part<'_>],
        decryption: &Decryption,
        limits: Limits,
        progress: &mut dyn Progress,
    ) -> Result<Reading, Encrypted> {
        let mut reading = Reading::new(parts, limits);
        progress.begin("checking the dump", parts.iter().map(|part| part.found.blocks()).sum());
        for (number, part) in (0..).zip(parts) {
            let (mut chunks, mut damage) = (0, Damages::new(&part.found));
            walk(part, decryption, &mut |seen| {
                for step in seen.steps {
                    let chunk = match step {
                        Step::Gap { block, condition } => {
                            damage.push(block, condition);
                            continue;
                        }
                        Step::Chunk(chunk)
                            if chunk.encrypted && matches!(decryption, Decryption::NotNeeded) =>
                        {
                            return Err(Encrypted);
                        }
                        Step::Chunk(chunk) => chunk,
                    };
                    let tampered = chunk.state == State::Tampered;
                    chunks += u64::from(!tampered);
                    damage.push(chunk.block, if tampered { Condition::Tampered } else { Condition::Good });
                    for (block, condition) in (chunk.block + 1..).zip(&chunk.conditions) {
                        let good = *condition == Condition::Good;
                        damage.push(block, if good && tampered { Condition::Tampered } else { *condition });
                    }
                    reading.chunk(number, *chunk);
                }
                progress.advance(seen.blocks);
                Ok(())
            })?;
            if let Some(slot) = reading.parts.get_mut(number as usize) {
                *slot = (chunks, damage);
            }
        }
        progress.end();
        Ok(reading)
    }

    fn chunk(&mut self, part: u32, chunk: Checked) {
        self.opened |= chunk.encrypted && chunk.state == State::Readable;
        if chunk.state != State::Tampered {
            self.indices.insert(chunk.index);
        }
        match (chunk.kind, chunk.state) {
            (ChunkKind::Notes, State::Encrypted) => self.notes.encrypted(),
            (ChunkKind::Notes, State::Readable) => {
                for block in &chunk.notes {
                    self.notes.block(block.as_deref());
                }
                self.notes.chunk_end();
            }
            (ChunkKind::Notes, State::Torn | State::Tampered) => self.notes.lost(),
            (ChunkKind::Memory, _) => self.memory(part, &chunk),
        }
    }

    fn memory(&mut self, part: u32, chunk: &Checked) {
        let first = self.builder.chunk(part, chunk.block, chunk.crc, chunk.pages);
        let place = first.unwrap_or(0);
        for run in &chunk.others {
            self.builder.push(PageRun { place, ..*run });
        }
        if first.is_none() {
            return self.builder.drop_pages(chunk.pages);
        }
        for run in &chunk.data {
            self.builder.push(PageRun { place: place + run.place, ..*run });
        }
    }
}
