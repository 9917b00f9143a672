//! Text for sysfs; text that does not fit is cut off.

use dumpcore::text::Line;

/// Text in a buffer of fixed length.
pub(crate) struct Page<'p> {
    pub(crate) room: &'p mut [u8],
    /// Number of bytes in use.
    pub(crate) used: usize,
}

impl Page<'_> {
    /// Adds text.
    pub(crate) fn put(&mut self, text: &str) {
        for (slot, byte) in self.room.iter_mut().skip(self.used).zip(text.bytes()) {
            *slot = byte;
        }
        self.used = self.used.saturating_add(text.len()).min(self.room.len());
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, key: &str, value: &str) {
        for part in [key, "=", value, "\n"] {
            self.put(part);
        }
    }

    /// Adds a line with a number.
    pub(crate) fn number(&mut self, key: &str, value: u64) {
        let mut line = Line::new();
        line.decimal(value);
        self.line(key, line.as_str());
    }
}
