//! A decoded dump: which page is where and what became of it, the registers, the texts, and what is damaged.
//!
//! Opening a dump reads it once, from front to back, and checks every checksum. Nothing of its memory is kept, only
//! where it stands; so even a large dump takes little memory here.

mod index;
mod notes;
mod report;
mod walk;

use std::io;

use dumpcore::format::chunk::RunKind;
use dumpcore::format::header::Status;
use dumpcore::format::note::RangeKind;
use dumpcore::format::{BLOCK_SIZE, Block, Uuid};

use crate::Error;
use crate::partition::{Ending, Found, Partition};
use crate::source::{Progress, Source};

pub use index::{Fate, Index, PageRun};
pub use notes::{Facts, Range, condition};
pub use report::{CpuReport, DamageReport, MemoryReport, MissingReport, Report, arch_name, hex, utc};
pub use walk::{Condition, Step, walk};

/// Runs of pages that are kept in memory, at most: 16 bytes each, so 512 MiB. A dump of 1 TiB in which a run
/// is 128 KiB long on average has 8 million.
const MAX_RUNS: usize = 32 << 20;

/// Places of damage, and ranges of missing pages, that are told one by one; more are only counted.
const MAX_TOLD: usize = 4096;

/// Consecutive blocks that are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedBlocks {
    /// The first, counted from the partition's start.
    pub block: u64,
    /// How many.
    pub count: u64,
    /// What they are.
    pub condition: Condition,
}

/// Blocks so far behind the last whole one of an unfinished dump that its writer cannot have left them torn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// The first, counted from the partition's start.
    pub first: u64,
    /// How many, from there to the dump's end; they need not be consecutive.
    pub count: u64,
}

/// Consecutive pages of RAM whose content is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    /// Page frame number of the first.
    pub pfn: u64,
    /// How many.
    pub count: u64,
    /// Their fate; `None` if the dump does not speak of them at all.
    pub fate: Option<Fate>,
}

/// Pages by fate.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Pages {
    /// Pages of RAM that the machine had.
    pub total: u64,
    /// Pages whose bytes are in the dump.
    pub data: u64,
    /// Pages that held only zeros.
    pub zero: u64,
    /// Pages left out as the dump's own arena.
    pub arena: u64,
    /// Pages that the kernel could not read.
    pub unreadable: u64,
    /// Pages whose bytes are damaged in the dump.
    pub damaged: u64,
    /// Pages that were to be written when the machine stopped.
    pub not_written: u64,
    /// Pages that the dump does not speak of: it ended before them, or the chunk that did is lost.
    pub absent: u64,
}

impl Pages {
    /// Pages that should be in the dump and are not.
    pub fn missing(&self) -> u64 {
        self.unreadable + self.damaged + self.not_written + self.absent
    }
}

/// What a page holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PageState {
    /// These bytes.
    Data(Box<Block>),
    /// Zeros.
    Zero,
    /// Unknown: the dump's own arena.
    Arena,
    /// Unknown: the kernel could not read it.
    Unreadable,
    /// Unknown: its bytes in the dump are damaged.
    Damaged,
    /// Unknown: the machine stopped before it was written.
    NotWritten,
    /// Unknown: the dump does not speak of it.
    Absent,
}

/// A dump, read and checked.
pub struct Dump<'s> {
    source: &'s dyn Source,
    uuid: Uuid,
    found: Found,
    facts: Facts,
    index: Index,
    pages: Pages,
    missing: Vec<Missing>,
    missing_untold: u64,
    damage: Vec<DamagedBlocks>,
    damage_untold: u64,
    foreign: Option<Foreign>,
    /// Whether there is damage that the machine's stopping in the middle does not explain.
    unexplained: bool,
    chunks: u64,
}

impl<'s> Dump<'s> {
    /// Reads and checks a dump of a partition.
    pub fn open(source: &'s dyn Source, partition: &Partition, found: &Found) -> Dump<'s> {
        Dump::open_with(source, partition.uuid(), found, &mut ())
    }

    /// As [`Dump::open`], and tells `progress` how far it got.
    pub fn open_with(
        source: &'s dyn Source,
        uuid: Uuid,
        found: &Found,
        progress: &mut dyn Progress,
    ) -> Dump<'s> {
        let mut builder = index::Builder::new(MAX_RUNS);
        let mut notes = notes::Builder::new();
        let mut damage = Damages::new(found);
        let mut chunks = 0;
        progress.begin("checking the dump", found.blocks());
        let done: Result<(), std::convert::Infallible> = walk(source, &uuid, found, &mut |step| {
            match step {
                Step::Chunk { block, header } => {
                    chunks += 1;
                    damage.push(block, Condition::Good);
                    for run in header.runs() {
                        let fate = match run.kind() {
                            RunKind::Data => continue,
                            RunKind::Zero => Fate::Zero,
                            RunKind::Arena => Fate::Arena,
                            RunKind::Unreadable => Fate::Unreadable,
                        };
                        let (pfn, count) = (run.pfn.get(), u64::from(run.count.get()));
                        builder.push(PageRun { pfn, count, fate, block });
                    }
                }
                Step::Page { pfn, block, condition, .. } => {
                    let fate = match condition {
                        Condition::Good => Fate::Data,
                        Condition::NotWritten => Fate::NotWritten,
                        Condition::Damaged | Condition::Unreadable => Fate::Damaged,
                    };
                    builder.push(PageRun { pfn, count: 1, fate, block });
                    damage.push(block, condition);
                }
                Step::Notes { block, used, condition, bytes } => {
                    notes.block(bytes.map(|bytes| &bytes[..used]));
                    damage.push(block, condition);
                }
                Step::NotesEnd => notes.chunk_end(),
                Step::Gap { block, condition } => damage.push(block, condition),
                Step::Done { blocks } => progress.advance(blocks),
            }
            Ok(())
        });
        let Ok(()) = done;
        progress.end();
        damage.split();
        let mut dump = Dump {
            source,
            uuid,
            found: found.clone(),
            facts: notes.finish(),
            index: builder.finish(),
            pages: Pages::default(),
            missing: Vec::new(),
            missing_untold: 0,
            unexplained: false,
            damage: damage.told,
            damage_untold: damage.untold,
            foreign: damage.foreign,
            chunks,
        };
        dump.count();
        dump.judge(damage.unreadable);
        dump
    }

    /// Where the dump lies, and its header.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Identity of the partition that it lies on.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The small facts.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Which page is where.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Pages by fate.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Pages of RAM whose content is not known, by address, without the arena. Not all of them in a dump with very
    /// many such ranges: [`Dump::missing_untold`] has the number of pages left out.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Missing pages that [`Dump::missing`] leaves out.
    pub fn missing_untold(&self) -> u64 {
        self.missing_untold
    }

    /// Blocks that are not what they should be.
    pub fn damage(&self) -> &[DamagedBlocks] {
        &self.damage
    }

    /// Damaged blocks that [`Dump::damage`] leaves out.
    pub fn damage_untold(&self) -> u64 {
        self.damage_untold
    }

    /// Blocks that count as the dump's, because nothing else says where it ends, and that are likely not: they are
    /// neither pattern nor whole, and lie further behind its last whole block than its writer ever was ahead.
    pub fn foreign(&self) -> Option<Foreign> {
        self.foreign
    }

    /// Whether something is damaged that a machine which stopped in the middle does not explain: there may be more to
    /// get out of this dump than savecore can.
    pub fn is_damaged(&self) -> bool {
        self.unexplained
    }

    /// Whether every page of RAM is known, the dump's own arena excepted, and nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.found.ending.is_finished()
            && !self.unexplained
            && self.damage.is_empty()
            && self.pages.missing() == 0
            && self.found.header.status() != Status::Incomplete
    }

    /// Chunks that were found, and how many there should be if the headers say.
    pub fn chunks(&self) -> (u64, Option<u64>) {
        let stated = self.found.header.chunks.get();
        (self.chunks, (self.found.header.status() != Status::InProgress && stated > 0).then_some(stated))
    }

    /// What a page holds.
    ///
    /// # Errors
    /// If its block could be read when the dump was opened and cannot be any more.
    pub fn read_page(&self, pfn: u64) -> io::Result<PageState> {
        let Some(run) = self.index.find(pfn) else { return Ok(PageState::Absent) };
        Ok(match run.fate {
            Fate::Zero => PageState::Zero,
            Fate::Arena => PageState::Arena,
            Fate::Unreadable => PageState::Unreadable,
            Fate::Damaged => PageState::Damaged,
            Fate::NotWritten => PageState::NotWritten,
            Fate::Data => {
                let mut block: Box<[Block; 1]> = Box::new([[0; BLOCK_SIZE]]);
                self.source.read(run.block + (pfn - run.pfn), &mut block[..])?;
                PageState::Data(Box::new(block[0]))
            }
        })
    }

    /// Reads the dump once more, in the order of its blocks, and gives each page that [`Index`] calls data to `visit`.
    ///
    /// # Errors
    /// [`Error::Unsteady`] if a block's checksum is not right any more, and the first error of `visit`.
    pub fn for_each_data_page(
        &self,
        progress: &mut dyn Progress,
        visit: &mut dyn FnMut(u64, &Block) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut pages = 0_u64;
        progress.begin("writing the core", self.found.blocks());
        walk(self.source, &self.uuid, &self.found, &mut |step| match step {
            Step::Page { pfn, block, condition, bytes } if self.index.block_of(pfn) == Some(block) => {
                let (Condition::Good, Some(bytes)) = (condition, bytes) else {
                    return Err(Error::Unsteady { block });
                };
                pages += 1;
                visit(pfn, bytes)
            }
            Step::Done { blocks } => {
                progress.advance(blocks);
                Ok(())
            }
            _ => Ok(()),
        })?;
        progress.end();
        // A chunk header that is gone now would take its pages with it silently.
        if pages != self.index.runs().filter(|run| run.fate == Fate::Data).map(|run| run.count).sum::<u64>() {
            return Err(Error::Unsteady { block: self.found.first });
        }
        Ok(())
    }

    /// Counts pages by fate and lists the missing ones.
    fn count(&mut self) {
        let mut pages = Pages::default();
        for run in self.index.runs() {
            *match run.fate {
                Fate::Data => &mut pages.data,
                Fate::Zero => &mut pages.zero,
                Fate::Arena => &mut pages.arena,
                Fate::Unreadable => &mut pages.unreadable,
                Fate::Damaged => &mut pages.damaged,
                Fate::NotWritten => &mut pages.not_written,
            } += run.count;
        }
        let mut missing = Missings::default();
        let mut runs = self.index.runs().peekable();
        let mut named_arena = 0;
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
                    if range.kind == RangeKind::Arena {
                        named_arena += until - at;
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
        pages.arena += named_arena;
        let named = pages.data
            + pages.zero
            + pages.arena
            + pages.unreadable
            + pages.damaged
            + pages.not_written
            + pages.absent;
        let stated = self.found.header.total_pages.get();
        // Without the whole memory map, the header still says how much there was.
        pages.absent += stated.saturating_sub(named);
        pages.total = named.max(stated);
        self.pages = pages;
        missing.list.sort_by_key(|missing| missing.pfn);
        (self.missing, self.missing_untold) = (missing.list, missing.untold);
    }

    fn judge(&mut self, unreadable: bool) {
        let ending = self.found.ending;
        let (found, stated) = self.chunks();
        let incomplete_index = self.index.dropped > 0;
        let lost = unreadable || incomplete_index;
        self.unexplained = lost
            || match ending {
                // A block that was being written when the power went may be torn.
                Ending::Open | Ending::AlmostClosed => self.foreign.is_some(),
                Ending::Closed => {
                    !self.damage.is_empty()
                        || stated.is_some_and(|stated| stated != found)
                        || self.facts.damaged
                }
                Ending::BackLost | Ending::FrontLost | Ending::BothLost => true,
                Ending::Saved => false,
            };
        // What is left of a harvested dump does not matter any more.
        self.unexplained &= ending != Ending::Saved;
    }
}

/// Gathers bad blocks.
struct Damages {
    told: Vec<DamagedBlocks>,
    untold: u64,
    /// The last block that proves that the dump's writer was there.
    proven: u64,
    /// How far behind `proven` a torn block may lie.
    window: u64,
    foreign: Option<Foreign>,
    unreadable: bool,
}

impl Damages {
    fn new(found: &Found) -> Damages {
        let window = match found.ending {
            Ending::Open => u64::from(found.header.window_blocks.get()),
            // A back header proves all in front of it; and where headers are lost, the window's size is not known.
            _ => u64::MAX,
        };
        Damages { told: Vec::new(), untold: 0, proven: found.first, window, foreign: None, unreadable: false }
    }

    fn push(&mut self, block: u64, condition: Condition) {
        match condition {
            Condition::Good => {
                self.proven = block;
                // What lies between proven blocks was in flight with them.
                self.foreign = None;
                return;
            }
            Condition::NotWritten => {}
            Condition::Damaged if block > self.proven.saturating_add(self.window) => {
                self.foreign.get_or_insert(Foreign { first: block, count: 0 }).count += 1;
            }
            Condition::Damaged => {}
            Condition::Unreadable => self.unreadable = true,
        }
        if let Some(last) = self.told.last_mut()
            && last.condition == condition
            && last.block + last.count == block
        {
            last.count += 1;
        } else if self.told.len() < MAX_TOLD {
            self.told.push(DamagedBlocks { block, count: 1, condition });
        } else {
            self.untold += 1;
        }
    }

    /// Parts blocks that may be torn from foreign ones right behind them, so that each is told as what it is.
    fn split(&mut self) {
        let Some(Foreign { first, .. }) = self.foreign else { return };
        let across = |damage: &DamagedBlocks| damage.block < first && first < damage.block + damage.count;
        if let Some(index) = self.told.iter().position(across) {
            let mut behind = self.told[index];
            behind.count -= first - behind.block;
            behind.block = first;
            self.told[index].count -= behind.count;
            self.told.insert(index + 1, behind);
        }
    }
}

/// Gathers missing pages.
#[derive(Default)]
struct Missings {
    list: Vec<Missing>,
    untold: u64,
}

impl Missings {
    fn push_run(&mut self, run: PageRun, pfn: u64) {
        if !run.fate.is_present() && run.fate != Fate::Arena {
            self.push(Missing { pfn, count: run.end() - pfn, fate: Some(run.fate) });
        }
    }

    fn push(&mut self, missing: Missing) {
        if let Some(last) = self.list.last_mut()
            && last.fate == missing.fate
            && last.pfn + last.count == missing.pfn
        {
            last.count += missing.count;
        } else if self.list.len() < MAX_TOLD {
            self.list.push(missing);
        } else {
            self.untold += missing.count;
        }
    }
}
