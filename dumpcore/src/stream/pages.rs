//! Memory itself, in passes: pages that a debugger needs first are written first.

use crate::format::chunk::{Encoding, RunKind};
use crate::format::class::PASSES;
use crate::helpers::job::{LOOK_PAGES, PackBuffers, UNIT_PAGES, Way};
use crate::memory::class::{ClassRun, ClassedPfn, Level, PageClass};
use crate::memory::map::PfnRange;
use crate::memory::page::{Look, copied};
use crate::outcome::Ended;
use crate::platform::Platform;
use crate::stream::writer::Writer;
use crate::wait::Wait;

/// Which memory is written, and how.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'p> {
    pub(crate) ram: &'p [PfnRange],
    pub(crate) arena: PfnRange,
    pub(crate) level: Level,
    pub(crate) encoding: Encoding,
    /// Whether the platform may be asked which pages are still.
    pub(crate) may_be_still: bool,
}

/// Pages to be put into chunks.
struct Pages<'s, 'w, 'l, 'c, 'a, 'k> {
    writer: &'s mut Writer<'w, 'l, 'c, 'a>,
    platform: &'s dyn Platform,
    /// This CPU's packing buffers.
    pack_buffers: &'s mut PackBuffers<'k>,
    way: Way,
    /// Number of pages in the batch.
    count: usize,
}

/// Streams all pages of the plan. Reports the number of pages processed to `progress` from time to time.
///
/// # Errors
/// Why the stream ended; the writer's last chunk may still be open.
pub(crate) fn write(
    writer: &mut Writer<'_, '_, '_, '_>,
    plan: &Plan<'_>,
    pack_buffers: &mut PackBuffers<'_>,
    wait: &Wait<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Ended> {
    let way = match plan.encoding {
        Encoding::Units => Way::Pack,
        Encoding::Plain if plan.may_be_still && writer.takes_still_pages() => Way::Sum,
        Encoding::Plain => Way::Copy,
    };
    let mut pages = Pages { writer, platform: wait.platform(), pack_buffers, way, count: 0 };
    let mut looked_at = 0_u64;
    // Pass 0 is that of the notes.
    for pass in 1..PASSES.len() {
        let begin = wait.now();
        let result = one_pass(&mut pages, plan, pass, wait, &mut |more| {
            looked_at = looked_at.saturating_add(more);
            progress(looked_at);
        });
        pages.writer.pass_took(pass, wait.now().saturating_sub(begin));
        result?;
    }
    Ok(())
}

/// Streams the pages of one pass, in address order.
fn one_pass(
    pages: &mut Pages<'_, '_, '_, '_, '_, '_>,
    plan: &Plan<'_>,
    pass: usize,
    wait: &Wait<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Ended> {
    pages.writer.begin_pass(pass, wait)?;
    let mut turns = 0_u32;
    for range in plan.ram {
        let mut at = range.start;
        // Each turn advances by at least one page.
        while at < range.end {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(256) {
                // Many short runs that do not belong to this pass take time too.
                wait.breathe();
                if wait.expired() {
                    return Err(Ended::Budget);
                }
            }
            let next = next_stretch(pages.platform, plan, at, range.end);
            if next.pass == pass {
                match next.left_out {
                    Some(kind) => {
                        let count = next.end.saturating_sub(at);
                        pages.writer.absent(kind, ClassedPfn::new(at, next.class), count, wait)?;
                        progress(count);
                    }
                    None => (at..next.end)
                        .try_for_each(|pfn| pages.feed(ClassedPfn::new(pfn, next.class), wait, progress))?,
                }
            }
            at = next.end;
        }
    }
    pages.finish(wait)?;
    pages.writer.close_chunk(wait)
}

/// Consecutive pages that are handled the same way.
struct Stretch {
    /// First page frame number after them.
    end: u64,
    class: PageClass,
    /// Why they are left out, if they are.
    left_out: Option<RunKind>,
    pass: usize,
}

/// The pages from `at` on with the same class, up to the end of their RAM range or a boundary of the arena.
fn next_stretch(platform: &dyn Platform, plan: &Plan<'_>, at: u64, range_end: u64) -> Stretch {
    if plan.arena.contains(at) {
        return Stretch {
            end: plan.arena.end.min(range_end),
            class: PageClass::Unknown,
            left_out: Some(RunKind::Arena),
            pass: PASSES.len().saturating_sub(1),
        };
    }
    let border = if at < plan.arena.start { range_end.min(plan.arena.start) } else { range_end };
    let ClassRun { class, pages } = platform.class(at);
    let end = at.saturating_add(pages.max(1)).min(border);
    Stretch { end, class, left_out: plan.level.leaves_out(class), pass: class.pass() }
}

impl Pages<'_, '_, '_, '_, '_, '_> {
    /// Number of pages in a batch.
    fn batch_size(&self) -> usize {
        if self.way == Way::Pack { UNIT_PAGES } else { LOOK_PAGES }
    }

    /// Takes one page.
    fn feed(
        &mut self,
        page: ClassedPfn,
        wait: &Wait<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Ended> {
        if let Some(slot) = self.pack_buffers.batch.get_mut(self.count) {
            *slot = page;
            self.count = self.count.saturating_add(1);
        }
        if self.count < self.batch_size() {
            return Ok(());
        }
        progress(self.count as u64);
        self.send(wait)
    }

    /// Gives the batch to a helper, or processes it here.
    fn send(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        // Memory full of zeros causes no writes for a long time, but the watchdog must be patted all the
        // same.
        wait.breathe();
        if wait.expired() {
            return Err(Ended::Budget);
        }
        self.writer.scheduler().tick(wait)?;
        // Each turn takes in a finished unit, and none is posted meanwhile.
        while self.collect(wait)? {}
        let count = core::mem::take(&mut self.count);
        let Pages { writer, pack_buffers, way, .. } = self;
        let batch = pack_buffers.batch.get(..count).unwrap_or_default();
        let coordinator = &mut writer.scheduler().coordinator;
        if *way != Way::Copy && coordinator.post_pages(*way, batch) {
            return Ok(());
        }
        coordinator.own.set(*way, batch);
        self.work(wait)
    }

    /// Does the work of this CPU's own unit.
    fn work(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        let coordinator = &mut self.writer.scheduler().coordinator;
        coordinator.own.work(self.pack_buffers, self.platform);
        coordinator.tally.units = coordinator.tally.units.saturating_add(1);
        self.put(wait)
    }

    /// Takes in a finished unit, or redoes one whose helper is late.
    fn collect(&mut self, wait: &Wait<'_>) -> Result<bool, Ended> {
        let coordinator = &mut self.writer.scheduler().coordinator;
        if coordinator.collect_pages() {
            return self.put(wait).map(|()| true);
        }
        if coordinator.pages_outstanding() > 0 && coordinator.pages_to_redo(wait.now()) {
            return self.work(wait).map(|()| true);
        }
        Ok(false)
    }

    /// Puts the results of this CPU's own unit into chunks.
    fn put(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        let (packed, _, _) = self.writer.scheduler().coordinator.own.packed();
        if packed > 0 {
            if self.writer.ready_for_unit(wait)? {
                self.writer.put_own_unit();
                return Ok(());
            }
            // No chunk has room for a whole unit, so write it page by page.
            self.writer.scheduler().coordinator.own.unpack();
        }
        let mut place = 0;
        // Each turn takes one page, and a unit has a limited number.
        while let Some((page, look)) = self.writer.scheduler().coordinator.own.look(place) {
            match look {
                Look::Absent(kind) => self.writer.absent(kind, page, 1, wait)?,
                Look::Still { bus, content } => self.writer.still_page(page, bus, content, wait)?,
                Look::Moving | Look::Packed => {
                    let platform = self.platform;
                    self.writer.page(page, wait, |block| copied(platform, page.pfn(), block))?;
                }
            }
            place = place.saturating_add(1);
        }
        Ok(())
    }

    /// Sends the remaining pages and waits for the helpers.
    fn finish(&mut self, wait: &Wait<'_>) -> Result<(), Ended> {
        if self.count > 0 {
            self.send(wait)?;
        }
        // Each turn ends a unit, and none is posted meanwhile.
        while self.writer.scheduler().coordinator.pages_outstanding() > 0 {
            if self.collect(wait)? {
                continue;
            }
            if self.writer.scheduler().coordinator.withdraw_pages() {
                self.work(wait)?;
                continue;
            }
            // Helpers have all remaining units; they finish or are given up when their time is over.
            let coordinator = &mut self.writer.scheduler().coordinator;
            let now = coordinator.wait_for_pages(wait);
            if wait.expired() {
                return Err(Ended::Budget);
            }
            if coordinator.pages_to_redo(now) {
                self.work(wait)?;
            }
        }
        Ok(())
    }
}
