//! LZ4 compression of one unit, without code that can panic.
//!
//! Written here because every encoder that we examined keeps a bounds check that the linker finds. Format:
//! LZ4 Block Format Description (github.com/lz4/lz4, doc/lz4_Block_format.md). Any decoder can read it.

/// Bits of the hash of a sequence.
const BITS: u32 = 12;
/// Number of sequences remembered.
const SLOTS: usize = 1 << BITS;
/// The last match begins at least this many bytes before the end of the block.
const MATCH_LIMIT: usize = 12;
/// This many last bytes are always literals.
const LAST_LITERALS: usize = 5;
/// Bytes of the shortest match.
const MIN_MATCH: usize = 4;

/// The position of each sequence's last occurrence. It is only a hint, so the table need not be protected
/// between units.
#[derive(Debug)]
pub struct Table([u16; SLOTS]);

impl Table {
    /// An empty table.
    pub const fn new() -> Table {
        Table([0; SLOTS])
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// The unused part of the output.
struct Out<'o> {
    rest: &'o mut [u8],
    written: usize,
}

impl Out<'_> {
    #[inline(always)]
    fn byte(&mut self, byte: u8) -> Option<()> {
        let (first, rest) = core::mem::take(&mut self.rest).split_first_mut()?;
        *first = byte;
        self.rest = rest;
        self.written = self.written.wrapping_add(1);
        Some(())
    }

    #[inline(always)]
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let (first, rest) = core::mem::take(&mut self.rest).split_at_mut_checked(bytes.len())?;
        super::bytes::copy(first, bytes);
        self.rest = rest;
        self.written = self.written.wrapping_add(bytes.len());
        Some(())
    }

    /// The part of a length that does not fit into a token's four bits.
    #[inline(always)]
    fn length(&mut self, length: usize) -> Option<()> {
        let Some(mut more) = length.checked_sub(15) else { return Some(()) };
        // Each turn subtracts 255.
        while more >= 255 {
            self.byte(255)?;
            more = more.wrapping_sub(255);
        }
        self.byte(more as u8)
    }
}

#[inline(always)]
fn word(input: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*input.get(at..)?.first_chunk()?))
}

/// Length of the common prefix of both.
#[inline(always)]
fn same(a: &[u8], b: &[u8]) -> usize {
    let (wide_a, _) = a.as_chunks::<8>();
    let (wide_b, _) = b.as_chunks::<8>();
    let mut count = 0_usize;
    for (x, y) in wide_a.iter().zip(wide_b) {
        let differs = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differs != 0 {
            return count.wrapping_add(differs.trailing_zeros() as usize / 8);
        }
        count = count.wrapping_add(8);
    }
    let (a, b) = (a.get(count..).unwrap_or_default(), b.get(count..).unwrap_or_default());
    count.wrapping_add(a.iter().zip(b).take_while(|(x, y)| x == y).count())
}

/// Compresses `input`, at most 65,535 bytes, and returns the number of bytes written to `output`; `None` if
/// it does not fit.
pub fn compress(input: &[u8], output: &mut [u8], table: &mut Table) -> Option<usize> {
    if input.len() > usize::from(u16::MAX) {
        return None;
    }
    table.0.fill(0);
    let mut out = Out { rest: output, written: 0 };
    let last_match = input.len().saturating_sub(MATCH_LIMIT);
    let matchable = input.get(..input.len().saturating_sub(LAST_LITERALS)).unwrap_or_default();
    let mut literals = 0_usize;
    let mut at = 1_usize;
    let mut misses = 0_usize;
    // Each turn advances by a byte or more.
    while at <= last_match {
        let sequence = word(input, at)?;
        let slot = table.0.get_mut((sequence.wrapping_mul(2_654_435_761) >> (32 - BITS)) as usize)?;
        let candidate = usize::from(core::mem::replace(slot, at as u16));
        if candidate >= at || word(input, candidate) != Some(sequence) {
            misses = misses.wrapping_add(1);
            // The longer there is no match, the larger the steps.
            at = at.wrapping_add(1).wrapping_add(misses >> 5);
            continue;
        }
        misses = 0;
        let text = input.get(literals..at)?;
        let from = candidate.wrapping_add(MIN_MATCH);
        let to = at.wrapping_add(MIN_MATCH);
        let more = same(matchable.get(from..)?, matchable.get(to..)?);
        out.byte((text.len().min(15) << 4 | more.min(15)) as u8)?;
        out.length(text.len())?;
        out.bytes(text)?;
        out.bytes(&(at.wrapping_sub(candidate) as u16).to_le_bytes())?;
        out.length(more)?;
        at = to.wrapping_add(more);
        literals = at;
    }
    let text = input.get(literals..)?;
    out.byte((text.len().min(15) << 4) as u8)?;
    out.length(text.len())?;
    out.bytes(text)?;
    Some(out.written)
}
