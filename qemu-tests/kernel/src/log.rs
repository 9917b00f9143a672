//! The kernel log: a ring of the last bytes, which goes into a dump. Every line is also printed on the serial
//! console.
//!
//! There is no lock: a writer reserves its bytes by an atomic addition, so a CPU that dies while writing does
//! not block the others.

use core::fmt::Write;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::arch::console;

/// Size of the ring in bytes.
const SIZE: usize = 64 << 10;

static RING: [AtomicU8; SIZE] = [const { AtomicU8::new(0) }; SIZE];
/// Number of bytes ever written.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);

/// Writes a line to the log and to the serial console.
macro_rules! log {
    ($($words:tt)*) => { $crate::log::line(format_args!($($words)*)) };
}
pub(crate) use log;

/// A line under construction, so that lines of several CPUs do not mix.
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    pub(crate) const fn new() -> Text<N> {
        Text { bytes: [0; N], used: 0 }
    }

    /// The text so far.
    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.used]).unwrap_or("")
    }
}

impl<const N: usize> Write for Text<N> {
    /// Appends as much as fits, cut at a character boundary.
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = text.floor_char_boundary(N - self.used);
        self.bytes[self.used..self.used + room].copy_from_slice(&text.as_bytes()[..room]);
        self.used += room;
        Ok(())
    }
}

/// See [`log!`].
pub(crate) fn line(words: core::fmt::Arguments<'_>) {
    let mut text = Text::<512>::new();
    // Cannot fail: Text accepts what fits.
    let _ = text.write_fmt(words);
    let _ = text.write_str("\n");
    append(text.as_str().as_bytes());
    console::write(text.as_str());
}

fn append(bytes: &[u8]) {
    let first = WRITTEN.fetch_add(bytes.len(), Ordering::Relaxed);
    for (offset, byte) in bytes.iter().enumerate() {
        RING[first.wrapping_add(offset) % SIZE].store(*byte, Ordering::Relaxed);
    }
}

/// Length of the log in bytes.
pub(crate) fn length() -> usize {
    WRITTEN.load(Ordering::Relaxed).min(SIZE)
}

/// Copies the part of the log that begins at byte `offset`; returns the number of bytes copied. For the dump:
/// cannot panic.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn read(offset: u64, piece: &mut [u8]) -> usize {
    let written = WRITTEN.load(Ordering::Relaxed);
    let length = written.min(SIZE);
    let offset = usize::try_from(offset).unwrap_or(length).min(length);
    let first = written.wrapping_sub(length).wrapping_add(offset);
    let count = piece.len().min(length.wrapping_sub(offset));
    for (index, slot) in piece.iter_mut().take(count).enumerate() {
        if let Some(byte) = RING.get(first.wrapping_add(index) % SIZE) {
            *slot = byte.load(Ordering::Relaxed);
        }
    }
    count
}
