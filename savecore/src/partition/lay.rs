//! Writes label and pattern, and lays the pattern again over saved dumps. Several threads generate the
//! pattern ahead of the writes.

use std::ops::Range;

use dumpcore::format::crypt::PublicKey;
use dumpcore::format::frame::Kind;
use dumpcore::format::freeing;
use dumpcore::format::header::{Header, Status};
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block, Uuid, pattern};
use zerocopy::IntoBytes;

use super::{Ending, Found, read_label};
use crate::Error;
use crate::ownership::Machine;
use crate::parallel::{Line, Pool};
use crate::processors;
use crate::source::{Progress, Source};

/// Pattern blocks per write: 4 MiB.
const BATCH: u64 = 1024;

/// Maximum number of threads: they generate the pattern faster than any medium can write it.
const MAX_THREADS: u64 = 4;

/// The parameters of [`format()`].
#[derive(Clone, Debug)]
pub struct Plan {
    /// The partition's identity.
    pub uuid: Uuid,
    /// A name for people; cut to 64 bytes.
    pub name: String,
    /// The current time, in seconds since 1970-01-01 UTC; 0 if unknown.
    pub created: u64,
    /// The public key for encrypting dumps; `None` for unencrypted dumps.
    pub recipient: Option<PublicKey>,
    /// The owner's id from [`Machine`]; `None` for no owner.
    pub machine: Option<Uuid>,
}

/// Turns the whole source into a dump partition. The old label is erased first and the new one is written
/// last, each synced, so that an interrupted format leaves no partition that looks ready.
///
/// # Errors
/// If the medium fails; the partition then has no label.
pub fn format(source: &mut dyn Source, plan: &Plan, progress: &mut dyn Progress) -> Result<(), Error> {
    let blocks = source.blocks();
    write(source, 0, &[[0; BLOCK_SIZE]])?;
    source.sync().map_err(Error::Sync)?;
    progress.begin("laying the pattern", blocks);
    let mut batches = (1..blocks).step_by(BATCH as usize).map(|at| at..blocks.min(at + BATCH));
    lay(source, &plan.uuid, blocks, &mut batches, progress)?;
    source.sync().map_err(Error::Sync)?;
    let mut block = [0; BLOCK_SIZE];
    let mut label = Label::new(plan.uuid, blocks, plan.created, &plan.name);
    if let Some(recipient) = &plan.recipient {
        label.set_recipient(recipient);
    }
    label.machine = plan.machine.unwrap_or_default();
    label.to_block(&mut block);
    write(source, 0, &[block])?;
    source.sync().map_err(Error::Sync)?;
    progress.advance(1);
    progress.end();
    Ok(())
}

/// Sets the owner in a label, and changes nothing else. The label is one block: it is read before and after,
/// to check the old label and the new one.
///
/// # Errors
/// If there is no valid label for a partition of this size, or the medium fails.
pub fn adopt(source: &mut dyn Source, machine: &Uuid) -> Result<(), Error> {
    let mut label = read_label(source)?;
    if label.machine() == Some(machine) {
        return Ok(());
    }
    label.machine = *machine;
    let mut block = [0; BLOCK_SIZE];
    label.to_block(&mut block);
    write(source, 0, &[block])?;
    source.sync().map_err(Error::Sync)?;
    if read_label(source)?.as_bytes() != block {
        return Err(Error::Unsteady { block: 0 });
    }
    Ok(())
}

/// Checks again that the label and the dump are still as they were found: a harvest, or a question to the
/// user, happened in between.
fn stands(source: &dyn Source, found: &Found) -> Result<(), Error> {
    let mut block = [[0; BLOCK_SIZE]];
    source.read(0, &mut block).map_err(|error| Error::Read { block: 0, error })?;
    let is_lost = matches!(found.ending, Ending::FrontLost | Ending::BothLost);
    let label = Label::parse(&block[0]).ok().map(|label| label.uuid);
    let is_ours = found.ending == Ending::BothLost || label == Some(found.header.uuid);
    let is_same = match source.read(found.first, &mut block) {
        Err(error) if !is_lost => return Err(Error::Read { block: found.first, error }),
        Err(_) => true,
        Ok(()) => {
            let front = Header::parse(&block[0], Kind::Front).ok().cloned();
            let front = front.or_else(|| freeing::half_free(&block[0], &found.header.uuid, found.first));
            front.map_or(is_lost, |front| {
                front.nonce == found.header.nonce || found.ending == Ending::BothLost
            })
        }
    };
    if is_ours && is_same { Ok(()) } else { Err(Error::Replaced { block: found.first }) }
}

/// Marks a dump's front header as saved, with the dump's end, so that the same machine can finish an
/// interrupted [`clear`]: another one does not trust the mark. Returns the marked dump.
///
/// # Errors
/// If the medium fails, or if label or front have changed: then nothing is written.
pub fn mark_saved(source: &mut dyn Source, found: &Found, machine: Option<&Machine>) -> Result<Found, Error> {
    stands(source, found)?;
    if found.ending == Ending::Saved && found.header.end_block.get() == found.end {
        return Ok(found.clone());
    }
    // A dump of one block, only the front header, needs no finishing; and the format could not express it.
    if found.blocks() < 2 {
        return Ok(found.clone());
    }
    let mut header = found.header.clone();
    header.status = (Status::Saved as u32).into();
    header.first_block = found.first.into();
    header.end_block = found.end.into();
    header.proof = machine.map_or([0; 32], |machine| machine.proof(&header));
    let mut block = [0; BLOCK_SIZE];
    header.to_block(Kind::Front, &mut block);
    write(source, found.first, &[block])?;
    source.sync().map_err(Error::Sync)?;
    Ok(Found { header, ending: Ending::Saved, ..*found })
}

/// Lays the pattern again over a dump: from its end to its front, the front header last. Adds an anonymous
/// mark if [`mark_saved`] was not called. A kernel may be armed on the partition: whenever it crashes, it
/// skips the rest of this dump.
///
/// # Errors
/// As [`mark_saved`]; if the medium fails, the front header is still there, and the next run continues.
pub fn clear(
    source: &mut dyn Source,
    uuid: &Uuid,
    found: &Found,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    mark_saved(source, found, None)?;
    progress.begin("writing the pattern again", found.blocks());
    let mut end = found.end;
    let mut batches = std::iter::from_fn(|| {
        let at = end.saturating_sub(BATCH).max(found.first + 1);
        let batch = at..end;
        end = at;
        (!batch.is_empty()).then_some(batch)
    });
    lay(source, uuid, found.blocks(), &mut batches, progress)?;
    source.sync().map_err(Error::Sync)?;
    clear_front(source, uuid, found.first)?;
    progress.advance(1);
    progress.end();
    Ok(())
}

/// Lays the pattern over a front header, in a way that a kernel crashing meanwhile always finds a place: see
/// [`freeing`].
fn clear_front(source: &mut dyn Source, uuid: &Uuid, first: u64) -> Result<(), Error> {
    let mut block = [[0; BLOCK_SIZE]];
    // An unreadable block need not be kept as a header.
    if source.read(first, &mut block).is_ok() && Kind::of(&block[0]) == Some(Kind::Front) {
        freeing::halve(&mut block[0], uuid, first);
        write(source, first, &block)?;
        source.sync().map_err(Error::Sync)?;
    }
    pattern::fill(&mut block[0], uuid, first);
    write(source, first, &block)?;
    source.sync().map_err(Error::Sync)
}

/// Lays the pattern over `batches`, of `blocks` blocks in total, in order.
fn lay(
    source: &mut dyn Source,
    uuid: &Uuid,
    blocks: u64,
    batches: &mut (dyn Iterator<Item = Range<u64>> + Send),
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let pool = Pool::default();
    let line = Line {
        state: &|| (),
        next: &mut |()| batches.next(),
        work: &|(), batch: Range<u64>| {
            let mut buffer = pool.take((batch.end - batch.start) as usize);
            for (block, number) in buffer.iter_mut().zip(batch.clone()) {
                pattern::fill(block, uuid, number);
            }
            (batch, buffer)
        },
    };
    let threads = (blocks / BATCH).min(MAX_THREADS).min(processors() as u64);
    line.run(threads as usize, &mut |(batch, buffer)| {
        let length = batch.end - batch.start;
        write(source, batch.start, buffer.get(..length as usize).unwrap_or_default())?;
        pool.give_back(buffer);
        progress.advance(length);
        Ok(())
    })
}

fn write(source: &mut dyn Source, first: u64, blocks: &[Block]) -> Result<(), Error> {
    source.write(first, blocks).map_err(|error| Error::Write { block: first, error })
}
