//! Lines of text on the crash path: a fixed buffer, and no `core::fmt`, which can panic.

/// One line for the console; text that does not fit is cut off.
#[derive(Clone)]
pub struct Line {
    bytes: [u8; Line::CAPACITY],
    used: usize,
}

impl Line {
    /// Capacity of a line in bytes.
    pub const CAPACITY: usize = 200;

    /// An empty line.
    pub const fn new() -> Line {
        Line { bytes: [0; Line::CAPACITY], used: 0 }
    }

    /// Appends text.
    pub fn text(&mut self, text: &str) -> &mut Line {
        let mut room = Line::CAPACITY.saturating_sub(self.used).min(text.len());
        // Each turn goes back one byte, and a text begins at a character boundary.
        while !text.is_char_boundary(room) {
            room = room.saturating_sub(1);
        }
        for (slot, byte) in self.bytes.iter_mut().skip(self.used).zip(text.as_bytes().iter().take(room)) {
            *slot = *byte;
        }
        self.used = self.used.saturating_add(room).min(Line::CAPACITY);
        self
    }

    /// Appends a number in decimal.
    pub fn decimal(&mut self, mut number: u64) -> &mut Line {
        let mut digits = [b'0'; 20];
        let mut first = digits.len();
        for (place, slot) in digits.iter_mut().enumerate().rev() {
            *slot = b'0'.wrapping_add((number % 10) as u8);
            number /= 10;
            first = place;
            if number == 0 {
                break;
            }
        }
        self.text(core::str::from_utf8(digits.get(first..).unwrap_or_default()).unwrap_or_default())
    }

    /// Appends a number in hexadecimal, with `0x` and without leading zeros.
    pub fn hex(&mut self, number: u64) -> &mut Line {
        self.text("0x");
        self.digits(number, (64_u32.saturating_sub(number.leading_zeros())).div_ceil(4).max(1))
    }

    /// Appends a number in hexadecimal with `digits` digits.
    pub fn digits(&mut self, number: u64, digits: u32) -> &mut Line {
        for place in (0..digits).rev() {
            let digit = (number >> place.wrapping_mul(4)) & 0xf;
            let digit = b"0123456789abcdef".get(digit as usize).copied().unwrap_or(b'?');
            self.text(core::str::from_utf8(&[digit]).unwrap_or_default());
        }
        self
    }

    /// The line so far.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.used).unwrap_or_default()).unwrap_or_default()
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

/// Something that can be described without `core::fmt`.
pub trait Describe {
    /// Appends the description to a line.
    fn describe(&self, line: &mut Line);
}

/// `Display` for a type that implements `Describe`, for use on a host.
#[macro_export]
macro_rules! display_by_describe {
    ($($name:ty),+ $(,)?) => {$(
        impl core::fmt::Display for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut line = $crate::text::Line::new();
                $crate::text::Describe::describe(self, &mut line);
                formatter.write_str(line.as_str())
            }
        }
        impl core::error::Error for $name {}
    )+};
}

pub use display_by_describe;
