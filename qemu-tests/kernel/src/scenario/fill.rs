//! Fills memory before the crash (`fill=`), and makes a part of it unreadable (`bad.pages=`).

use core::ops::Range;

use crate::arch::paging;
use crate::command_line::{FillKind, Options, Scenario};
use crate::log::log;
use crate::memory::{self, FRAME};
use crate::witness::{self, mix};

/// Number of bad pages in `scenario=bad-memory`, unless the command line gives another one.
const BAD_PAGES: u64 = 3;

/// Text for memory of [`FillKind::Text`].
const WORDS: [&[u8; 8]; 16] = [
    b"virtio: ",
    b"queue is",
    b" ready, ",
    b"panic at",
    b" cpu idl",
    b"e thread",
    b" started",
    b"/usr/lib",
    b"/kernel/",
    b"driver: ",
    b"eth0: up",
    b" no such",
    b" memory ",
    b"address ",
    b"timed ou",
    b"t, again",
];

/// Word `index` of the page with this number, in memory that resembles a kernel's: objects of 64 bytes, of
/// which three in eight are zero and the others are pointers, text, small numbers, and noise. LZ4 shrinks it
/// to a third.
fn word(pfn: u64, index: u64) -> u64 {
    let object = mix(pfn * 64 + index / 8);
    let noise = mix(pfn * 512 + index);
    match object & 7 {
        0..=2 => 0,
        3 => paging::DIRECT_MAP | (pfn + (noise & 15)) << 12 | (object >> 8 & 0x3f) << 6,
        4 => u64::from_le_bytes(*WORDS[(noise & 15) as usize]),
        5 => noise & 0xff,
        6 if index % 8 < 2 => noise,
        6 => object >> 32 & 0xffff,
        _ if index % 8 < 6 => noise,
        _ => 0,
    }
}

/// # Safety
/// The frame belongs to the caller.
unsafe fn fill_page(physical: u64, kind: FillKind) {
    match kind {
        // SAFETY: the caller's promise.
        FillKind::Random => unsafe { witness::fill_page(physical) },
        // SAFETY: the caller's promise; a frame is in the direct map.
        FillKind::Zero => unsafe { paging::direct(physical).write_bytes(0, FRAME as usize) },
        FillKind::Text => {
            let words = paging::direct(physical).cast::<u64>();
            for index in 0..FRAME / 8 {
                // SAFETY: within the page, which belongs to the caller and is in the direct map.
                unsafe { words.add(index as usize).write(word(physical / FRAME, index)) };
            }
        }
    }
}

/// The filled memory, in contiguous pieces.
#[derive(Default)]
pub(crate) struct Filled(alloc::vec::Vec<Range<u64>>);

impl Filled {
    /// The address of each frame.
    pub(crate) fn frames(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|piece| piece.clone().step_by(FRAME as usize))
    }

    /// Each piece.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &'static [u8]> {
        self.0.iter().map(|piece| {
            let length = (piece.end - piece.start) as usize;
            // SAFETY: the frames were taken for this purpose for good, are in the direct map, and are not
            // written any more.
            unsafe { core::slice::from_raw_parts(paging::direct(piece.start), length) }
        })
    }

    /// Appends a frame.
    pub(crate) fn add(&mut self, frame: u64) {
        match self.0.last_mut() {
            Some(last) if last.end == frame => last.end += FRAME,
            _ => self.0.push(frame..frame + FRAME),
        }
    }
}

/// Fills memory as requested by `fill=`, and makes `bad.pages=` pages unreadable.
pub(crate) fn fill(options: &Options) -> Result<Filled, &'static str> {
    let mut filled = Filled::default();
    let wanted = options.fill_mib << 8;
    let taken = memory::take_many(wanted, options.fill_class, |frame| {
        // SAFETY: take_many passes frames that are ours.
        unsafe { fill_page(frame, options.fill_kind) };
        filled.add(frame);
    });
    if taken < wanted {
        return Err("fill= asks for more RAM than is free");
    }
    if wanted > 0 {
        log!("testkernel: filled {} MiB", options.fill_mib);
    }
    let bad =
        options.bad_pages.unwrap_or(if options.scenario == Scenario::BadMemory { BAD_PAGES } else { 0 });
    if bad > 0 {
        spoil(&filled, bad)?;
    }
    Ok(filled)
}

/// Removes `count` pages from the middle of the largest piece: from now on, reading them faults.
fn spoil(filled: &Filled, count: u64) -> Result<(), &'static str> {
    let bytes = count * FRAME;
    let largest = filled.0.iter().max_by_key(|piece| piece.end - piece.start);
    let piece =
        largest.filter(|piece| piece.end - piece.start >= bytes).ok_or("bad.pages= needs a larger fill=")?;
    let first = (piece.start + (piece.end - piece.start - bytes) / 2) & !(FRAME - 1);
    // SAFETY: only the boot CPU changes tables; the frames were filled and are not accessed again.
    unsafe { paging::hide(first, count)? };
    log!("testkernel: bad first={} count={count}", first / FRAME);
    Ok(())
}
