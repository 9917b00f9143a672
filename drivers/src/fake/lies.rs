//! Lies: false answers of a hostile device. They are inserted between the driver and the fake, so the fake
//! itself stays within its specification, and the state of its disk can be checked.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use super::memory::DmaMemory;

/// Granularity of lies about memory, in bytes.
const LINE: u64 = 64;

/// The subject of a lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// The answer to a read of a register or of configuration space.
    Answer,
    /// A write of the device to memory shared with the driver: a completion, a table, a page of its
    /// properties.
    Written,
    /// Shared memory, at a time when the device has nothing to write there.
    Memory,
}

/// The change to up to 64 bits of truth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Replace all bits.
    To(u64),
    /// Flip one bit, counted from 0, modulo the number of bits.
    Flip(u8),
    /// Add this number.
    Add(i8),
    /// This value for this many more reads of the same register; in memory, like [`To`](Change::To).
    Stays(u64, u16),
}

impl Change {
    fn of(self, truth: u64, bits: u32) -> u64 {
        let lie = match self {
            Change::To(value) | Change::Stays(value, _) => value,
            Change::Flip(bit) => truth ^ 1_u64.checked_shl(u32::from(bit) % bits.max(1)).unwrap_or(0),
            Change::Add(more) => truth.wrapping_add_signed(more.into()),
        };
        if bits >= 64 { lie } else { lie & ((1 << bits) - 1) }
    }
}

/// One lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lie {
    /// Its subject.
    pub about: About,
    /// Number of occasions (reads, writes to memory, ticks) to skip since the previous lie on the same
    /// subject.
    pub after: u16,
    /// The place. In a write: the byte, modulo the length. In memory: the 64-byte line, modulo the number of
    /// lines in use, times 64, plus the byte in it.
    pub place: u16,
    /// The change.
    pub change: Change,
}

/// The lies that a device still has to tell.
#[derive(Clone, Default, Debug)]
pub struct Liar {
    lies: [VecDeque<Lie>; 3],
    passed: [u32; 3],
    /// A register with a false value: the register, the value, the number of reads.
    stuck: Option<(u64, u64, u16)>,
    /// Bus addresses that the driver shares with the device.
    shared: Range<u64>,
    /// Lines that the device has written; if `everywhere`, also those that it only read.
    lines: BTreeSet<u64>,
    everywhere: bool,
}

impl Liar {
    /// Tells these lies, those on each subject in their order. Lies about memory affect only the part of
    /// `shared` that the device has written to, so that no lie looks like a different request of the driver;
    /// if `everywhere`, also the part that the device only reads.
    pub fn new(lies: &[Lie], shared: Range<u64>, everywhere: bool) -> Liar {
        let mut liar = Liar { shared, everywhere, ..Liar::default() };
        for lie in lies {
            liar.lies[lie.about as usize].push_back(*lie);
        }
        liar
    }

    /// The lie that is due on this subject, if any.
    fn due(&mut self, about: About) -> Option<Lie> {
        let (lies, passed) = (&mut self.lies[about as usize], &mut self.passed[about as usize]);
        let next = lies.front()?;
        if *passed < u32::from(next.after) {
            *passed += 1;
            return None;
        }
        *passed = 0;
        lies.pop_front()
    }

    /// The answer to a read of `width` bytes at `register`, a number unique to the register.
    pub(super) fn answer(&mut self, register: u64, width: usize, truth: u64) -> u64 {
        let bits = 8 * width as u32;
        if let Some((stuck, value, more)) = self.stuck
            && stuck == register
        {
            self.stuck = more.checked_sub(1).map(|more| (stuck, value, more));
            return Change::To(value).of(truth, bits);
        }
        let Some(lie) = self.due(About::Answer) else { return truth };
        if let Change::Stays(value, more) = lie.change {
            self.stuck = Some((register, value, more));
        }
        lie.change.of(truth, bits)
    }

    fn notes(&mut self, bus: u64, length: usize) -> bool {
        let end = bus.saturating_add(length as u64);
        let inside = length > 0 && self.shared.contains(&bus) && end <= self.shared.end;
        if inside {
            self.lines.extend(bus / LINE..end.div_ceil(LINE));
        }
        inside
    }

    /// Records that the device reads memory.
    pub(super) fn reads(&mut self, bus: u64, length: usize) {
        if self.everywhere {
            self.notes(bus, length);
        }
    }

    /// The bytes that the device writes instead of `bytes`; `None` for the truth.
    pub(super) fn writes(&mut self, bus: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        if !self.notes(bus, bytes.len()) {
            return None;
        }
        let lie = self.due(About::Written)?;
        let mut bytes = bytes.to_vec();
        let at = usize::from(lie.place) % bytes.len();
        let part = &mut bytes[at..];
        let part_length = part.len().min(8);
        change(lie.change, &mut part[..part_length]);
        Some(bytes)
    }

    /// A moment passes.
    pub(super) fn tick(&mut self, memory: &DmaMemory) {
        if self.lines.is_empty() {
            return;
        }
        let Some(lie) = self.due(About::Memory) else { return };
        let place = u64::from(lie.place);
        let which = (place / LINE) as usize % self.lines.len();
        let Some(line) = self.lines.iter().nth(which) else { return };
        let start = (line * LINE).max(self.shared.start);
        let end = ((line + 1) * LINE).min(self.shared.end);
        let first = (start + place % LINE).min(end.saturating_sub(1));
        let mut bytes = vec![0; (end - first).min(8) as usize];
        if memory.read(first, &mut bytes).is_some() {
            change(lie.change, &mut bytes);
            let _ = memory.write(first, &bytes);
        }
    }
}

/// Changes up to 8 bytes, little-endian.
fn change(change: Change, bytes: &mut [u8]) {
    let mut truth = [0; 8];
    truth[..bytes.len()].copy_from_slice(bytes);
    let lie = change.of(u64::from_le_bytes(truth), 8 * bytes.len() as u32).to_le_bytes();
    bytes.copy_from_slice(&lie[..bytes.len()]);
}
