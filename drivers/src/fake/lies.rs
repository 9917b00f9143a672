//! Lies: what a hostile device answers in place of what it knows. They lie between the driver and the fake, so that the fake
//! itself stays a device within its specification, and can be held to what it then does to its disk.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use super::memory::DmaMemory;

/// Bytes of memory that are told apart.
const LINE: u64 = 64;

/// What a lie is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// The answer to a read of a register or of configuration space.
    Answer,
    /// Something that the device writes to memory that it shares with the driver: a completion, a table, a page that tells
    /// what it is.
    Written,
    /// Shared memory, at a time when the device has nothing to write there.
    Memory,
}

/// What becomes of up to 64 bits of truth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// All other.
    To(u64),
    /// One bit is the other way, counted from 0; where there are fewer, it is taken modulo their count.
    Flip(u8),
    /// So much more, or less.
    Add(i8),
    /// This value for this many more reads of the same register; in memory, as [`To`](Change::To).
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
    /// What about.
    pub about: About,
    /// So many occasions for a lie about the same are let pass since the one before: reads, writes to memory, ticks.
    pub after: u16,
    /// Where: of what is written, the byte, modulo its length; of memory, which of the 64-byte lines in use, modulo their
    /// count, times 64, plus the byte in it.
    pub place: u16,
    /// Into what.
    pub change: Change,
}

/// The lies that a device still has to tell.
#[derive(Clone, Default, Debug)]
pub struct Liar {
    lies: [VecDeque<Lie>; 3],
    passed: [u32; 3],
    /// A register that is made up: which, its value, for how many reads.
    stuck: Option<(u64, u64, u16)>,
    /// Bus addresses that the driver shares with the device.
    shared: Range<u64>,
    /// Lines that the device has written; if `everywhere`, also those that it has only read.
    lines: BTreeSet<u64>,
    everywhere: bool,
}

impl Liar {
    /// Tells these lies, each kind in its order. Lies about memory are about those of `shared`'s bus addresses that the
    /// device has written to, so that none looks as if the driver had asked for something else; if `everywhere`, also about
    /// those that it only reads.
    pub fn new(lies: &[Lie], shared: Range<u64>, everywhere: bool) -> Liar {
        let mut liar = Liar { shared, everywhere, ..Liar::default() };
        for lie in lies {
            liar.lies[lie.about as usize].push_back(*lie);
        }
        liar
    }

    /// The lie that is due about this, if one is.
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

    /// What is answered to the read of `width` bytes at `register`, a number that tells registers apart.
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

    /// The device reads memory.
    pub(super) fn reads(&mut self, bus: u64, length: usize) {
        if self.everywhere {
            self.notes(bus, length);
        }
    }

    /// What the device writes in place of `bytes`; `None` for the truth.
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
