//! How much of the pattern is checked before blocks are overwritten, and the check itself.

use crate::device::{DeviceError, Direction};
use crate::format::{BLOCK_SIZE, Block, Uuid, pattern};
use crate::partition::io::{Done, Load, Pool};
use crate::partition::place::Unfit;
use crate::partition::window::Window;
use crate::wait::Wait;

/// How much of the pattern is checked, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verify {
    /// Every free block of the partition, before the first write. The default, and what the 2004 diskdump did. If
    /// that takes half the time budget, it goes on as [`Ahead`](Verify::Ahead), so that time is left to write.
    All,
    /// Every block, just ahead of the write that overwrites it. Starts writing at once.
    Ahead,
    /// Before the first write, every `every`-th free block, and always the first and the last. Quick, and a
    /// risk that its user takes.
    Sample {
        /// The stride, at least 1.
        every: u64,
    },
}

/// Who is told how far a check has come: blocks done, blocks in all.
pub type Progress<'p> = dyn FnMut(u64, u64) + 'p;

/// What looks at a block: its number, its bytes. An error ends the scan.
pub type Visit<'v> = dyn FnMut(u64, &Block) -> Result<(), Unfit> + 'v;

/// Reads every block from `from` up to, not including, `to`, many at once, and shows each to `visit`, not always in
/// order. After an error, reads may still be in flight.
///
/// # Errors
/// What `visit` says, a read that failed, or the end of the budget.
pub fn scan(
    window: &mut Window<'_>,
    pool: &mut Pool,
    (from, to): (u64, u64),
    wait: &Wait<'_>,
    progress: &mut Progress<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), Unfit> {
    let mut next = from;
    let mut checked = 0_u64;
    let all = to.saturating_sub(from);
    // Each turn starts a read or takes one in, and there are only so many blocks.
    while next < to || pool.in_flight() > 0 {
        if wait.expired() {
            return Err(Unfit::Budget);
        }
        let free = if next < to && pool.has_room() { pool.take() } else { None };
        // A wait that the end of the budget cut short says nothing of the device.
        let failed =
            |error| if wait.expired() { Unfit::Budget } else { Unfit::Device { block: next, error } };
        let done = if let Some((slot, buffer)) = free {
            let count = to.saturating_sub(next).min((buffer.len() / BLOCK_SIZE) as u64);
            let done = pool
                .start(window, Direction::Read, slot, buffer, (next, Load::Blocks(count)), wait)
                .map_err(failed)?;
            next = next.saturating_add(count);
            done
        } else {
            // Nothing in flight and no buffer free would turn for ever: the device has kept them all.
            Some(pool.next(window, wait).map_err(failed)?.ok_or(failed(DeviceError::NotReady))?)
        };
        if let Some(done) = done {
            checked = checked.saturating_add(done.count);
            show(pool, done, visit)?;
            wait.breathe();
            progress(checked, all);
        }
    }
    Ok(())
}

/// Shows the blocks of a finished read and gives its buffer back.
fn show(pool: &mut Pool, done: Done, visit: &mut Visit<'_>) -> Result<(), Unfit> {
    let mut result = done.result.map_err(|error| Unfit::Device { block: done.block, error });
    if result.is_ok() {
        let numbers = done.block..done.block.saturating_add(done.count);
        result =
            done.buffer.blocks().iter().zip(numbers).try_for_each(|(block, number)| visit(number, block));
    }
    pool.give_back(done.slot, done.buffer);
    result
}

/// Checks that every block from `from` up to, not including, `to` holds its pattern.
///
/// # Errors
/// A block that does not, a read that failed, or the end of the budget.
pub fn every_block(
    window: &mut Window<'_>,
    pool: &mut Pool,
    uuid: &Uuid,
    range: (u64, u64),
    wait: &Wait<'_>,
    progress: &mut Progress<'_>,
) -> Result<(), Unfit> {
    scan(window, pool, range, wait, progress, &mut |number, block| {
        if pattern::matches(block, uuid, number) { Ok(()) } else { Err(Unfit::Foreign { block: number }) }
    })
}

/// Checks every `every`-th block from `from` on, and the last before `to`.
///
/// # Errors
/// As [`every_block`].
pub fn sample(
    window: &mut Window<'_>,
    uuid: &Uuid,
    (from, to): (u64, u64),
    every: u64,
    wait: &Wait<'_>,
) -> Result<(), Unfit> {
    let last = to.saturating_sub(1);
    let mut at = from;
    while at < to {
        if wait.expired() {
            return Err(Unfit::Budget);
        }
        let block = window.read(at, wait).map_err(|error| Unfit::Device { block: at, error })?;
        if !pattern::matches(block, uuid, at) {
            return Err(Unfit::Foreign { block: at });
        }
        wait.breathe();
        // The step behind the last sample lands on the last block, and the one behind that ends the loop.
        let step = at.saturating_add(every.max(1));
        at = if at < last { step.min(last) } else { to };
    }
    Ok(())
}
