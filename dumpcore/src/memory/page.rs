//! One page: examined, copied, summed.

use core::ptr::NonNull;

use static_assertions::const_assert;

use crate::format::checksum::Sum64;
use crate::format::chunk::RunKind;
use crate::format::{Block, PAGE_SIZE};
use crate::platform::{Guarded, Platform};

/// The result for one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// It has no payload.
    Absent(RunKind),
    /// It can be written from where it is (zero-copy).
    Still {
        /// The page's bus address.
        bus: u64,
        /// The checksum of its content.
        content: u64,
    },
    /// It may still change, so the CPU that writes has to copy it.
    Moving,
    /// It is packed in the unit.
    Packed,
}

/// Words in a page.
const WORDS: usize = PAGE_SIZE / size_of::<u64>();

/// Words read between two tests.
const GROUP: usize = 8;

/// Stripes of four words summed per iteration: an emulated CPU pays for each iteration.
const STRIPES: usize = 8;
const_assert!(STRIPES.is_multiple_of(2) && WORDS.is_multiple_of(4 * STRIPES));

/// Reads one word of a page.
///
/// # Safety
/// `page` is valid for reads of [`PAGE_SIZE`] bytes by aligned 8-byte reads, and `word` is below [`WORDS`].
#[inline(always)]
unsafe fn read(page: NonNull<u64>, word: usize) -> u64 {
    // SAFETY: the caller's promise. Volatile: a crashed machine may still change its memory, and each word
    // must be read once.
    unsafe { page.add(word).read_volatile() }
}

/// Reads four words of a page.
///
/// # Safety
/// As [`read`], for `first` and the three words after it.
#[inline(always)]
unsafe fn stripe(page: NonNull<u64>, first: usize) -> [u64; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            read(page, first),
            read(page, first.wrapping_add(1)),
            read(page, first.wrapping_add(2)),
            read(page, first.wrapping_add(3)),
        ]
    }
}

/// Whether a page holds only zeros. Most other pages show it in their first words.
///
/// # Safety
/// `page` is valid for reads of [`PAGE_SIZE`] bytes by aligned 8-byte reads.
pub unsafe fn is_zero(page: NonNull<u8>) -> bool {
    let page = page.cast::<u64>();
    for group in (0..WORDS).step_by(GROUP) {
        let mut any = 0;
        for word in 0..GROUP {
            // SAFETY: group + word is below WORDS; the rest is the caller's promise.
            any |= unsafe { read(page, group.wrapping_add(word)) };
        }
        if any != 0 {
            return false;
        }
    }
    true
}

/// Copies a page into a block, reading each word once.
///
/// # Safety
/// `page` is valid for reads of [`PAGE_SIZE`] bytes by aligned 8-byte reads.
pub unsafe fn copy(page: NonNull<u8>, to: &mut Block) {
    let page = page.cast::<u64>();
    for (turn, slot) in to.as_chunks_mut::<{ 8 * GROUP }>().0.iter_mut().enumerate() {
        for (part, bytes) in slot.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let at = turn.wrapping_mul(GROUP).wrapping_add(part);
            // SAFETY: a block has WORDS words, so at is below WORDS; the rest is the caller's promise.
            *bytes = unsafe { read(page, at) }.to_ne_bytes();
        }
    }
}

/// The checksum of the content of a page that a device will read in place.
///
/// # Safety
/// `page` is valid for reads of [`PAGE_SIZE`] bytes by aligned 8-byte reads.
pub unsafe fn sum(page: NonNull<u8>) -> u64 {
    let page = page.cast::<u64>();
    let mut sum = Sum64::new();
    for first in (0..WORDS).step_by(4 * STRIPES) {
        for part in 0..STRIPES / 2 {
            let at = first.wrapping_add(part.wrapping_mul(8));
            // SAFETY: at + 7 is below WORDS, a multiple of 4 * STRIPES; the rest is the caller's promise.
            let stripes = unsafe { [stripe(page, at), stripe(page, at.wrapping_add(4))] };
            sum.stripes(stripes.map(|words| words.map(u64::to_le)));
        }
    }
    sum.finish(PAGE_SIZE as u64)
}

/// Copies a page, under the platform's guard if it has one.
///
/// # Errors
/// Why the page has no payload: it is zero, or could not be read.
pub fn copied(platform: &dyn Platform, pfn: u64, block: &mut Block) -> Result<(), RunKind> {
    let Some(memory) = platform.page(pfn) else { return Err(RunKind::Unreadable) };
    match platform.guarded_copy(memory, block) {
        Guarded::Copied => (),
        Guarded::Faulted => return Err(RunKind::Faulted),
        // SAFETY: Platform::page promises a page that is valid for aligned 8-byte reads until its next call.
        Guarded::Unguarded => unsafe { copy(memory, block) },
    }
    if is_zero_block(block) { Err(RunKind::Zero) } else { Ok(()) }
}

/// Whether a copied page holds only zeros.
fn is_zero_block(block: &Block) -> bool {
    let start = NonNull::from(block).cast::<u8>();
    if start.as_ptr().cast::<u64>().is_aligned() {
        // SAFETY: a block is as long as a page, and it is aligned for words, as just checked (every block in
        // the arena is).
        unsafe { is_zero(start) }
    } else {
        block.iter().all(|byte| *byte == 0)
    }
}

/// Sums a page in place, if the platform guarantees that it does not change.
pub fn summed(platform: &dyn Platform, pfn: u64) -> Look {
    let Some(bus) = platform.still(pfn) else { return Look::Moving };
    let Some(memory) = platform.page(pfn) else { return Look::Absent(RunKind::Unreadable) };
    // SAFETY: Platform::page promises a page that is valid for aligned 8-byte reads until its next call.
    unsafe {
        if is_zero(memory) {
            Look::Absent(RunKind::Zero)
        } else {
            platform.clean_for_device(memory.as_ptr(), PAGE_SIZE);
            Look::Still { bus, content: sum(memory) }
        }
    }
}
