//! Memory itself, page by page in order of address.

use crate::format::chunk::RunKind;
use crate::memory::map::PfnRange;
use crate::memory::page;
use crate::platform::Platform;
use crate::stream::Ended;
use crate::stream::writer::Writer;
use crate::wait::Wait;

/// Streams all pages of `ram` but those of `arena`; with `may_be_still`, pages that nothing changes are not copied. `progress` is told, every now and then, how many pages were looked
/// at.
///
/// # Errors
/// Why the stream ended; the writer's last chunk may still be open.
pub(crate) fn write(
    writer: &mut Writer<'_, '_>,
    platform: &dyn Platform,
    (ram, arena): (&[PfnRange], PfnRange),
    may_be_still: bool,
    wait: &Wait<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Ended> {
    let may_be_still = may_be_still && writer.takes_still_pages();
    let mut looked_at = 0_u64;
    for range in ram {
        for pfn in range.start..range.end {
            one(writer, platform, pfn, (arena, may_be_still), wait)?;
            looked_at = looked_at.saturating_add(1);
            if looked_at.is_multiple_of(256) {
                // Memory full of zeros writes nothing for long: the watchdog has to hear of us all the same.
                wait.breathe();
                if wait.expired() {
                    return Err(Ended::Budget);
                }
                progress(looked_at);
            }
        }
    }
    writer.close_chunk(wait)
}

/// One page.
fn one(
    writer: &mut Writer<'_, '_>,
    platform: &dyn Platform,
    pfn: u64,
    (arena, may_be_still): (PfnRange, bool),
    wait: &Wait<'_>,
) -> Result<(), Ended> {
    if arena.contains(pfn) {
        return writer.absent(RunKind::Arena, pfn, wait);
    }
    let Some(memory) = platform.page(pfn) else {
        return writer.absent(RunKind::Unreadable, pfn, wait);
    };
    // SAFETY: Platform::page promises a page that is good for aligned 8-byte reads until its next call.
    if unsafe { page::is_zero(memory) } {
        return writer.absent(RunKind::Zero, pfn, wait);
    }
    if may_be_still && let Some(bus) = platform.still(pfn) {
        return writer.still_page(pfn, bus, wait, |position| {
            // SAFETY: as above.
            unsafe { page::sum(memory, position) }
        });
    }
    writer.page(pfn, wait, |block, position| {
        // SAFETY: as above.
        unsafe { page::copy(memory, block, position) }
    })
}
