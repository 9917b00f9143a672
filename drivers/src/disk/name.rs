//! A disk's name on the console, such as `nvme 00:04.0`.

use dumpcore::integrity::Digest;

/// Maximum bytes of a name: a kind, and an address in hexadecimal.
const CAPACITY: usize = 28;

/// A short text, built piece by piece. Text beyond its capacity is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    bytes: [u8; CAPACITY],
    used: usize,
}

impl Name {
    /// Starts with the kind of disk.
    pub fn new(kind: &str) -> Name {
        Name { bytes: [0; CAPACITY], used: 0 }.text(kind.as_bytes())
    }

    /// Appends text, in ASCII.
    pub fn text(mut self, text: &[u8]) -> Name {
        for (place, byte) in self.bytes.iter_mut().skip(self.used).zip(text) {
            *place = *byte;
        }
        self.used = self.used.saturating_add(text.len()).min(CAPACITY);
        self
    }

    /// Appends a number below 100: two decimal digits.
    pub fn two_digits(self, number: u8) -> Name {
        self.text(&[b'0'.wrapping_add(number / 10), b'0'.wrapping_add(number % 10)])
    }

    /// Appends a number in hexadecimal, without leading zeros.
    pub fn hexadecimal(self, number: u64) -> Name {
        let digits = 64_u32.saturating_sub(number.leading_zeros()).div_ceil(4).max(1);
        (0..digits).rev().fold(self, |name, digit| {
            let value = number.wrapping_shr(digit.wrapping_mul(4)) & 0xf;
            name.text(&[b"0123456789abcdef".get(value as usize).copied().unwrap_or(b'?')])
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.used).unwrap_or_default()).unwrap_or_default()
    }

    /// Feeds it.
    pub fn integrity(&self, digest: &mut Digest) {
        digest.bytes(&self.bytes);
    }
}
