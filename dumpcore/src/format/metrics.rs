//! What a dump took and met, in numbers: part of its closed headers.

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::chunk::RunKind;
use super::class::PASSES;

/// Devices that were tried before this one and are told of, at most.
pub const MAX_REFUSALS: usize = 4;

/// What a phase of a dump was for, by its number.
pub const PHASES: [&str; 6] = ["freeze", "code check", "takeover", "pattern check", "notes", "memory"];

/// One pass over memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PassMetrics {
    /// Pages that it spoke of, whatever became of them.
    pub pages: U64,
    /// Bytes that it sent to the device, chunk headers included.
    pub bytes: U64,
    /// Nanoseconds that it took.
    pub time: U64,
}

/// A device that was tried before this one, and why it has no dump, or not a whole one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Refused {
    /// Its place in the list of targets, from 0.
    pub target: U32,
    /// Whether a dump was begun on it (1) or not (0).
    pub begun: U32,
    /// Why, as the console said it: UTF-8, padded with zeros.
    pub why: [u8; 120],
}

/// The numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Metrics {
    /// Nanoseconds of each phase, see [`PHASES`].
    pub phases: [U64; PHASES.len()],
    /// Each pass, see [`PASSES`].
    pub passes: [PassMetrics; PASSES.len()],
    /// Pages by [`RunKind`], whose numbers begin at 1.
    pub pages: [U64; RunKind::ALL.len()],
    /// Blocks of the pattern that were checked.
    pub checked: U64,
    /// Bytes of memory that went into compression.
    pub packed_from: U64,
    /// Bytes that came out.
    pub packed_to: U64,
    /// Units of work: pages summed or packed together, reads checked.
    pub units: U64,
    /// Units that other CPUs did.
    pub units_by_helpers: U64,
    /// Units that were done again because the CPU that had them did not finish in time.
    pub units_redone: U64,
    /// Units that did not shrink and are stored as they were.
    pub units_stored: U64,
    /// Other CPUs that came to help.
    pub helpers: U32,
    /// Those that did not finish what they had taken.
    pub helpers_lost: U32,
    /// Requests that were in flight together, at most.
    pub depth: U32,
    /// Buffers there were for them.
    pub buffers: U32,
    /// The target's place in the list of targets, from 0.
    pub target: U32,
    /// Targets tried before; the first [`MAX_REFUSALS`] are in `refused`.
    pub refusals: U32,
    /// Them.
    pub refused: [Refused; MAX_REFUSALS],
    /// Nanoseconds from `crash()` until the device had taken the dump's first block.
    pub first_write: U64,
}
const_assert_eq!(size_of::<Metrics>(), 8 * 6 + 24 * 4 + 8 * 11 + 8 * 7 + 4 * 6 + 128 * 4 + 8);
