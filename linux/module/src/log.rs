//! The kernel's log, read without a lock: its ring buffer supports that (kernel/printk/printk_ringbuffer.c).

use core::cell::UnsafeCell;

use crate::kernel;

/// Maximum length of a line with its time stamp: somewhat more than the kernel's CONSOLE_LOG_MAX.
const LINE: usize = 2048;

/// Maximum number of lines in a log; lines after that are not read.
const LINES: usize = 1 << 20;

/// The dump's position in the log, with one line of it.
pub(crate) struct Cursor(UnsafeCell<Place>);

struct Place {
    /// Offset of the line's first byte in the log.
    at: u64,
    length: usize,
    /// There is no further line.
    over: bool,
    line: [u8; LINE],
}

impl Cursor {
    /// A position before the log.
    pub(crate) fn new() -> Cursor {
        Cursor(UnsafeCell::new(Place { at: 0, length: 0, over: true, line: [0; LINE] }))
    }

    /// Length of the log in bytes. Only on the crashing CPU, like [`read`](Cursor::read).
    pub(crate) fn length(&self) -> u64 {
        // SAFETY: only the crashing CPU uses it.
        let place = unsafe { &mut *self.0.get() };
        place.rewind();
        for _ in 0..LINES {
            if !place.next() {
                break;
            }
        }
        place.at
    }

    /// Copies the part that begins at `offset`; returns its length, 0 at the end.
    pub(crate) fn read(&self, offset: u64, piece: &mut [u8]) -> usize {
        // SAFETY: only the crashing CPU uses it.
        let place = unsafe { &mut *self.0.get() };
        if place.over || offset < place.at {
            place.rewind();
        }
        let mut copied = 0_usize;
        for _ in 0..LINES {
            let wanted = offset.saturating_add(copied as u64);
            let inside = usize::try_from(wanted.saturating_sub(place.at)).unwrap_or(usize::MAX);
            let rest = place.line.get(inside..place.length).unwrap_or_default();
            let Some(room) = piece.get_mut(copied..).filter(|room| !room.is_empty()) else { break };
            for (slot, byte) in room.iter_mut().zip(rest) {
                *slot = *byte;
            }
            copied = copied.saturating_add(rest.len().min(room.len()));
            if rest.len() > room.len() || !place.next() {
                break;
            }
        }
        copied
    }
}

impl Place {
    fn rewind(&mut self) {
        kernel::log_rewind();
        (self.at, self.length, self.over) = (0, 0, false);
    }

    /// Goes to the next line; returns false after the last one.
    fn next(&mut self) -> bool {
        self.at = self.at.saturating_add(self.length as u64);
        self.length = 0;
        match kernel::log_line(&mut self.line) {
            Some(length) => self.length = length,
            None => self.over = true,
        }
        !self.over
    }
}
