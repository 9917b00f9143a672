//! Checks every block of a partition and returns a verdict.

use dumpcore::format::{BLOCK_SIZE, Block, pattern};

use super::{Partition, Search, scan_with};
use crate::dump::{Dump, Report};
use crate::source::{Progress, Reader, Source, describe_block};
use crate::{Error, Identity};

/// The verdict on a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every block holds its pattern: a dump can be written.
    Ready,
    /// Complete dumps are waiting to be harvested; the rest holds its pattern.
    Waiting,
    /// Something is damaged, unfinished or foreign.
    Damaged,
}

/// A bad block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadBlock {
    /// Its number.
    pub block: u64,
    /// Its contents.
    pub holds: String,
}

/// The result of [`check`].
pub struct Check {
    /// The verdict.
    pub verdict: Verdict,
    /// Label and places of the dumps.
    pub partition: Partition,
    /// The dumps.
    pub dumps: Vec<Report>,
    /// Blocks outside dumps that do not hold their pattern.
    pub bad_blocks: u64,
    /// The first of them.
    pub first_bad: Option<BadBlock>,
}

/// Reads every block of a partition.
///
/// # Errors
/// If it has no label, or one for another size or of another version. Unreadable blocks are part of the
/// verdict.
pub fn check(source: &dyn Source, progress: &mut dyn Progress) -> Result<Check, Error> {
    check_with(source, None, progress)
}

/// As [`check`]; with an identity, encrypted dumps are decrypted and checked inside, too.
///
/// # Errors
/// As [`check`].
pub fn check_with(
    source: &dyn Source,
    identity: Option<&Identity>,
    progress: &mut dyn Progress,
) -> Result<Check, Error> {
    let partition = scan_with(source, Search::Whole, progress)?;
    let uuid = partition.uuid();
    let mut dumps = Vec::new();
    for found in &partition.dumps {
        dumps.push(Report::new(&Dump::open_with(source, uuid, found, identity, progress)));
    }
    let mut bad_blocks = 0;
    let mut first_bad = None;
    let mut reader = Reader::new(source);
    progress.begin("checking the pattern", partition.blocks);
    // Blocks before the listed dumps are not checked.
    let listed = partition.earlier.end.max(1);
    let mut at = listed;
    progress.advance(listed - 1);
    let mut ranges = partition.dumps.iter().map(|found| found.range()).peekable();
    while at < partition.blocks {
        if let Some(range) = ranges.next_if(|range| range.start <= at) {
            progress.advance(range.end - at);
            at = range.end;
            continue;
        }
        let holds = judge(reader.block(at), |block| pattern::matches(block, &uuid, at));
        if let Some(holds) = holds {
            bad_blocks += 1;
            first_bad.get_or_insert(BadBlock { block: at, holds });
        }
        progress.advance(1);
        at += 1;
    }
    progress.end();
    let mut next = listed;
    let gapless = partition.dumps.iter().all(|found| {
        let follows = found.first == next;
        next = found.end;
        follows
    });
    let whole =
        dumps.iter().all(|dump| !dump.damaged && dump.status != "saved" && dump.status != "unfinished");
    let verdict = match (bad_blocks, dumps.len()) {
        (0, 0) => Verdict::Ready,
        (0, _) if whole && gapless => Verdict::Waiting,
        _ => Verdict::Damaged,
    };
    Ok(Check { verdict, partition, dumps, bad_blocks, first_bad })
}

/// The contents of a bad block; `None` if the block is good.
pub(super) fn judge(read: std::io::Result<&Block>, good: impl Fn(&Block) -> bool) -> Option<String> {
    match read {
        Ok(block) if good(block) => None,
        Ok(block) => {
            debug_assert_eq!(block.len(), BLOCK_SIZE);
            Some(describe_block(block).to_owned())
        }
        Err(error) => Some(format!("nothing that can be read ({error})")),
    }
}
