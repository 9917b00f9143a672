//! CRC-32 (IEEE 802.3, reflected, as in zlib), 16 bytes at a time.
//!
//! Written here because it must not panic: compiled for RISC-V, the crate crc32fast keeps a bounds check.

/// Bytes per step.
const WIDE: usize = 16;

/// Row n: the effect of a byte on the sum after `n` more bytes.
static TABLES: [[u32; 256]; WIDE] = tables();

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "runs in the compiler")]
const fn tables() -> [[u32; 256]; WIDE] {
    let mut tables = [[0; 256]; WIDE];
    let mut byte = 0;
    // Each turn takes a byte's value.
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        // Each turn takes a bit.
        while bit < 8 {
            sum = if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0xedb8_8320 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut row = 1;
    // Each turn fills a row.
    while row < WIDE {
        let mut byte = 0;
        // Each turn takes a byte's value.
        while byte < 256 {
            let before = tables[row - 1][byte];
            tables[row][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        row += 1;
    }
    tables
}

/// A running CRC-32.
#[derive(Clone, Debug)]
pub struct Crc32 {
    inverted: u32,
}

impl Crc32 {
    /// The state before any input.
    pub const fn new() -> Crc32 {
        Crc32 { inverted: u32::MAX }
    }

    /// Takes in bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<WIDE>();
        let mut sum = self.inverted;
        for chunk in chunks {
            // The sum so far goes into the first 4 bytes. Each byte then has its own table; the last byte has
            // the first one. Bytes that do not depend on the sum so far come first, so that the processor
            // need not wait for it.
            let mixed = (u128::from_le_bytes(*chunk) ^ u128::from(sum)).to_le_bytes();
            sum = mixed.iter().rev().zip(&TABLES).fold(0, |sum, (byte, row)| sum ^ look_up(row, *byte));
        }
        for byte in rest {
            sum = TABLES.first().map_or(0, |row| look_up(row, *byte ^ sum as u8)) ^ sum >> 8;
        }
        self.inverted = sum;
    }

    /// The sum of all input.
    pub const fn finish(&self) -> u32 {
        !self.inverted
    }
}

impl Default for Crc32 {
    fn default() -> Self {
        Self::new()
    }
}

/// The sum of bytes.
pub fn hash(bytes: &[u8]) -> u32 {
    let mut sum = Crc32::new();
    sum.update(bytes);
    sum.finish()
}

#[inline(always)]
fn look_up(row: &[u32; 256], byte: u8) -> u32 {
    // Always present: a byte is at most 255.
    row.get(usize::from(byte)).copied().unwrap_or_default()
}
