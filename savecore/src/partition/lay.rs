//! Lays label and pattern, and lays the pattern again over dumps that were harvested.

use dumpcore::format::crypt::PublicKey;
use dumpcore::format::frame::Kind;
use dumpcore::format::header::Status;
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block, Uuid, pattern};

use super::{Ending, Found};
use crate::Error;
use crate::source::{BATCH, Progress, Source};

/// What [`format()`] lays.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The partition's identity.
    pub uuid: Uuid,
    /// A name for people; what is longer than 64 bytes is cut.
    pub name: String,
    /// Now, in seconds since 1970-01-01 UTC; 0 when unknown.
    pub created: u64,
    /// The public key to which dumps have to be encrypted; `None` if they have not to be.
    pub recipient: Option<PublicKey>,
}

/// Makes a dump partition of the whole source. An old label goes first and the new one comes last, each made safe,
/// so that an interrupted format leaves no partition that looks armed.
///
/// # Errors
/// If the medium fails; the partition then has no label.
pub fn format(source: &mut dyn Source, plan: &Plan, progress: &mut dyn Progress) -> Result<(), Error> {
    let blocks = source.blocks();
    write(source, 0, &[[0; BLOCK_SIZE]])?;
    source.sync().map_err(Error::Sync)?;
    progress.begin("laying the pattern", blocks);
    let mut batch: Vec<Block> = Vec::with_capacity(BATCH);
    let mut at = 1;
    while at < blocks {
        let end = blocks.min(at + BATCH as u64);
        fill(&mut batch, &plan.uuid, at, end);
        write(source, at, &batch)?;
        progress.advance(end - at);
        at = end;
    }
    source.sync().map_err(Error::Sync)?;
    let mut block = [0; BLOCK_SIZE];
    let mut label = Label::new(plan.uuid, blocks, plan.created, &plan.name);
    if let Some(recipient) = &plan.recipient {
        label.set_recipient(recipient);
    }
    label.to_block(&mut block);
    write(source, 0, &[block])?;
    source.sync().map_err(Error::Sync)?;
    progress.advance(1);
    progress.end();
    Ok(())
}

/// Notes in a dump's front header that it was harvested, and where it ends, so that an interrupted [`clear`] can be
/// finished.
///
/// # Errors
/// If the medium fails.
pub fn mark_saved(source: &mut dyn Source, found: &Found) -> Result<(), Error> {
    if found.ending == Ending::Saved && found.header.end_block.get() == found.end {
        return Ok(());
    }
    // Of a dump of one block, the front header alone, there is nothing to finish; and the format could not say it.
    if found.blocks() < 2 {
        return Ok(());
    }
    let mut header = found.header.clone();
    header.status = (Status::Saved as u32).into();
    header.first_block = found.first.into();
    header.end_block = found.end.into();
    let mut block = [0; BLOCK_SIZE];
    header.to_block(Kind::Front, &mut block);
    write(source, found.first, &[block])?;
    source.sync().map_err(Error::Sync)
}

/// Lays the pattern again over a harvested dump: from its end to its front, the front header last.
///
/// # Errors
/// If the medium fails; the front header is then still there, and the next run goes on.
pub fn clear(
    source: &mut dyn Source,
    uuid: &Uuid,
    found: &Found,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    mark_saved(source, found)?;
    progress.begin("laying the pattern again", found.blocks());
    let mut batch: Vec<Block> = Vec::with_capacity(BATCH);
    let behind_front = found.first + 1;
    let mut end = found.end;
    while end > behind_front {
        let at = end.saturating_sub(BATCH as u64).max(behind_front);
        fill(&mut batch, uuid, at, end);
        write(source, at, &batch)?;
        progress.advance(end - at);
        end = at;
    }
    source.sync().map_err(Error::Sync)?;
    fill(&mut batch, uuid, found.first, behind_front);
    write(source, found.first, &batch)?;
    source.sync().map_err(Error::Sync)?;
    progress.advance(1);
    progress.end();
    Ok(())
}

/// The pattern of blocks `at` to `end`.
fn fill(batch: &mut Vec<Block>, uuid: &Uuid, at: u64, end: u64) {
    batch.resize((end - at) as usize, [0; BLOCK_SIZE]);
    for (block, number) in batch.iter_mut().zip(at..end) {
        pattern::fill(block, uuid, number);
    }
}

fn write(source: &mut dyn Source, first: u64, blocks: &[Block]) -> Result<(), Error> {
    source.write(first, blocks).map_err(|error| Error::Write { block: first, error })
}
