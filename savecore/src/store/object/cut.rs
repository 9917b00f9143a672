//! A file divided into parts while it is written.
//!
//! Everything except the file's head comes in ascending order, so one part is filled at a time. The head
//! comes last. The part with the boundary of the two is held until then, and so is the last part, whose
//! length is known only at the end.

use std::collections::BTreeMap;
use std::io;

/// Minimum part size in bytes: S3 rejects parts below 5 MiB, except the last.
const SMALLEST: u64 = 8 << 20;
/// Maximum number of parts of an upload; S3's limit is 10,000.
const MOST: u64 = 9_000;
/// Number of parts of one size, if sizes grow.
const ALIKE: u64 = 1_000;

/// The boundaries of parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cuts {
    /// Bytes of the first part.
    pub(super) first: u64,
    /// Whether the size doubles after every 1,000 parts; otherwise it is constant, as some stores require.
    pub(super) grows: bool,
}

impl Cuts {
    /// For a file of at most this many bytes; `None` if unknown.
    pub(super) fn new(at_most: Option<u64>) -> Cuts {
        let needed = at_most.unwrap_or(0).div_ceil(MOST).next_multiple_of(1 << 20);
        Cuts { first: needed.max(SMALLEST), grows: at_most.is_none() }
    }

    /// The part that contains the byte at `offset`; `None` beyond the last.
    fn part(&self, offset: u64) -> Option<u64> {
        if !self.grows {
            return Some(offset / self.first).filter(|part| *part < MOST);
        }
        (0..MOST / ALIKE).find_map(|step| {
            let begin = self.start(step * ALIKE);
            let part = step * ALIKE + offset.checked_sub(begin)? / (self.first << step);
            (part / ALIKE == step).then_some(part)
        })
    }

    /// The start of a part.
    fn start(&self, part: u64) -> u64 {
        if !self.grows {
            return part * self.first;
        }
        let step = part / ALIKE;
        self.first * (((1 << step) - 1) * ALIKE + ((part % ALIKE) << step))
    }

    pub(super) fn size(&self, part: u64) -> u64 {
        self.start(part + 1) - self.start(part)
    }
}

/// The contents of a part.
#[derive(Debug)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    /// This many zeros.
    Zeros(u64),
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Zeros(length) => *length,
        }
    }
}

/// Receives parts, each once, in any order.
pub(super) trait Parts {
    /// Receives a part of several.
    fn part(&mut self, index: u64, content: Content) -> io::Result<()>;
}

/// Divides a file into parts.
#[derive(Debug)]
pub(super) struct Cutter {
    cuts: Cuts,
    /// Bytes of the file's head.
    head: u64,
    /// The lowest offset allowed next, in the head or after it.
    next: u64,
    /// Whether the head is being written.
    in_head: bool,
    /// The length written or set.
    length: u64,
    /// Parts being filled: one each in head and rest, and the one with the boundary.
    open: BTreeMap<u64, Vec<u8>>,
    /// The lowest parts, of the head and of the rest, that were neither started nor passed on.
    low: u64,
    high: u64,
}

impl Cutter {
    pub(super) fn new(cuts: Cuts, head: u64) -> io::Result<Cutter> {
        let meeting = cuts.part(head).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(Cutter {
            cuts,
            head,
            next: head,
            in_head: false,
            length: head,
            open: BTreeMap::new(),
            low: 0,
            high: meeting,
        })
    }

    pub(super) fn write(&mut self, mut offset: u64, mut bytes: &[u8], out: &mut dyn Parts) -> io::Result<()> {
        while !bytes.is_empty() {
            if offset < self.head && !self.in_head {
                (self.in_head, self.next) = (true, 0);
            }
            if offset < self.next || (self.in_head && offset >= self.head) {
                let why = "a core was not written in the order that uploads need";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let part = self.cuts.part(offset).ok_or(io::ErrorKind::FileTooLarge)?;
            let border = if self.in_head { self.head } else { u64::MAX };
            let begin = self.cuts.start(part);
            let left = border.min(self.cuts.start(part + 1)) - offset;
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            // All parts before it are full.
            self.length = self.length.max(offset);
            let buffer = self.opened(part, out)?;
            let at = (offset - begin) as usize;
            if buffer.len() < at {
                buffer.resize(at, 0);
            }
            // In the part with the boundary of head and rest, the rest is already there.
            let over = buffer.len().min(at + now.len()) - at;
            buffer[at..at + over].copy_from_slice(&now[..over]);
            buffer.extend_from_slice(&now[over..]);
            offset += now.len() as u64;
            (self.next, self.length) = (offset, self.length.max(offset));
            bytes = later;
        }
        Ok(())
    }

    pub(super) fn set_len(&mut self, length: u64) -> io::Result<()> {
        if length < self.length {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a core cannot be truncated"));
        }
        self.cuts.part(length.saturating_sub(1)).ok_or(io::ErrorKind::FileTooLarge)?;
        self.length = length;
        Ok(())
    }

    /// The buffer of a part; earlier parts are passed on.
    fn opened(&mut self, part: u64, out: &mut dyn Parts) -> io::Result<&mut Vec<u8>> {
        if !self.open.contains_key(&part) {
            if self.in_head {
                while self.low < part {
                    self.hand_over(self.low, out)?;
                    self.low += 1;
                }
            } else {
                while self.high < part {
                    // The part that the head extends into is not complete before the head is.
                    if self.cuts.start(self.high) >= self.head {
                        self.hand_over(self.high, out)?;
                    }
                    self.high += 1;
                }
            }
            let room = usize::try_from(self.cuts.size(part)).map_err(io::Error::other)?;
            let mut buffer = Vec::new();
            buffer.try_reserve_exact(room).map_err(|_| io::ErrorKind::OutOfMemory)?;
            self.open.insert(part, buffer);
        }
        self.open.get_mut(&part).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Passes on a part that is complete.
    fn hand_over(&mut self, part: u64, out: &mut dyn Parts) -> io::Result<()> {
        let size = self.cuts.size(part).min(self.length - self.cuts.start(part));
        let content = match self.open.remove(&part) {
            Some(mut bytes) => {
                bytes.resize(size as usize, 0);
                Content::Bytes(bytes)
            }
            None => Content::Zeros(size),
        };
        out.part(part, content)
    }

    /// Passes on the rest. Returns the file's length, and its bytes if it is a single part.
    pub(super) fn finish(mut self, out: &mut dyn Parts) -> io::Result<(u64, Option<Content>)> {
        let parts = match self.length {
            0 => 0,
            length => self.cuts.part(length - 1).ok_or(io::ErrorKind::FileTooLarge)? + 1,
        };
        if parts <= 1 {
            let mut bytes = self.open.remove(&0).unwrap_or_default();
            bytes.resize(self.length as usize, 0);
            return Ok((self.length, Some(Content::Bytes(bytes))));
        }
        let meeting = self.cuts.part(self.head).ok_or(io::ErrorKind::FileTooLarge)?;
        let is_met = self.cuts.start(meeting) < self.head;
        for part in self.low..meeting.min(parts) {
            self.hand_over(part, out)?;
        }
        if is_met && meeting < parts {
            self.hand_over(meeting, out)?;
        }
        for part in self.high.max(meeting + u64::from(is_met))..parts {
            self.hand_over(part, out)?;
        }
        Ok((self.length, None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Parts for BTreeMap<u64, Content> {
        fn part(&mut self, index: u64, content: Content) -> io::Result<()> {
            assert!(self.insert(index, content).is_none(), "part {index} twice");
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn every_offset_is_in_one_part(first in 1..u64::MAX >> 24, grows: bool, offset in 0..u64::MAX >> 10) {
            let cuts = Cuts { first, grows };
            if let Some(part) = cuts.part(offset) {
                prop_assert!(part < MOST);
                prop_assert!((cuts.start(part)..cuts.start(part + 1)).contains(&offset));
                prop_assert_eq!(cuts.start(part + 1) - cuts.start(part), cuts.size(part));
            } else {
                prop_assert!(offset >= cuts.start(MOST));
            }
        }

        #[test]
        fn a_length_that_is_known_fits_in_parts_of_one_size(length in 1..50_u64 << 40) {
            let cuts = Cuts::new(Some(length));
            prop_assert!(!cuts.grows && cuts.part(length - 1).is_some());
            prop_assert!(cuts.first >= SMALLEST && cuts.first.is_multiple_of(1 << 20));
        }

        #[test]
        fn parts_in_order_are_the_file(
            first in 1..40_u64, grows: bool, head in 0..150_u64,
            pieces in prop::collection::vec((0..60_u64, prop::collection::vec(1..u8::MAX, 0..70)), 0..12),
            front in prop::collection::vec((0..20_u64, prop::collection::vec(1..u8::MAX, 0..40)), 0..6),
            more in 0..200_u64,
        ) {
            let mut expected: Vec<u8> = vec![0; head as usize];
            let mut parts = BTreeMap::new();
            let mut cutter = Cutter::new(Cuts { first, grows }, head).unwrap();
            let mut offset = head;
            for (gap, bytes) in &pieces {
                offset += gap;
                cutter.write(offset, bytes, &mut parts).unwrap();
                if !bytes.is_empty() {
                    expected.resize(offset as usize, 0);
                    expected.extend_from_slice(bytes);
                }
                offset += bytes.len() as u64;
            }
            offset = 0;
            for (gap, bytes) in &front {
                offset += gap;
                let bytes = &bytes[..bytes.len().min(head.saturating_sub(offset) as usize)];
                cutter.write(offset, bytes, &mut parts).unwrap();
                if !bytes.is_empty() {
                    expected[offset as usize..][..bytes.len()].copy_from_slice(bytes);
                }
                offset += bytes.len() as u64;
            }
            if more > 0 {
                expected.resize(expected.len() + more as usize, 0);
                cutter.set_len(expected.len() as u64).unwrap();
            }
            let cuts = cutter.cuts;
            prop_assert!(cutter.open.len() <= 3);
            let (length, whole) = cutter.finish(&mut parts).unwrap();
            prop_assert_eq!(length, expected.len() as u64);
            let last = parts.keys().last().copied();
            if let Some(whole) = whole {
                prop_assert!(parts.is_empty());
                parts.insert(0, whole);
            }
            let mut written = Vec::new();
            for (place, (index, content)) in parts.into_iter().enumerate() {
                prop_assert_eq!(place as u64, index);
                let is_full = content.len() == cuts.size(index);
                prop_assert!(is_full || last.is_none() || last == Some(index), "part {} is short", index);
                match content {
                    Content::Bytes(bytes) => written.extend(bytes),
                    Content::Zeros(length) => written.resize(written.len() + length as usize, 0),
                }
            }
            prop_assert_eq!(written, expected);
        }

        #[test]
        fn any_other_order_is_refused_and_harms_nothing(
            head in 0..50_u64, writes in prop::collection::vec((0..200_u64, 0..50_usize), 0..10), length in 0..300_u64
        ) {
            let mut parts = BTreeMap::new();
            let mut cutter = Cutter::new(Cuts { first: 16, grows: false }, head).unwrap();
            for (offset, length) in writes {
                let _ = cutter.write(offset, &vec![1; length], &mut parts);
            }
            let _ = cutter.set_len(length);
            let _ = cutter.finish(&mut parts);
        }
    }

    #[test]
    fn a_file_that_no_upload_can_hold_is_refused() {
        let mut parts = BTreeMap::new();
        for grows in [false, true] {
            let mut cutter = Cutter::new(Cuts { first: 1, grows }, 0).unwrap();
            assert!(cutter.write(u64::MAX - 9, &[1], &mut parts).is_err());
            assert!(cutter.set_len(u64::MAX).is_err());
        }
        assert!(parts.is_empty());
    }
}
