//! Measurements of a dump: part of its closed headers.

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::chunk::RunKind;
use super::class::PASSES;
use super::integer::{U32, U64};

/// Maximum number of failed targets that are listed.
pub const MAX_REFUSALS: usize = 4;

/// The phases of a dump, by number.
pub const PHASES: [&str; 6] = ["freeze", "code check", "takeover", "pattern check", "notes", "memory"];

/// One pass over memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PassMetrics {
    /// Pages that the pass covered, whatever happened to them.
    pub pages: U64,
    /// Bytes sent to the device, including chunk headers.
    pub bytes: U64,
    /// Duration in nanoseconds.
    pub time: U64,
}

/// A device that was tried before this one, and why its dump is missing or incomplete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Refused {
    /// Its place in the list of targets, from 0.
    pub target: U32,
    /// Whether a dump was begun on it (1) or not (0).
    pub begun: U32,
    /// The reason, as printed on the console: UTF-8, padded with zeros.
    pub why: [u8; 120],
}

/// The measurements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Metrics {
    /// Nanoseconds of each phase; see [`PHASES`].
    pub phases: [U64; PHASES.len()],
    /// The passes; see [`PASSES`].
    pub passes: [PassMetrics; PASSES.len()],
    /// Pages by [`RunKind`], whose numbers begin at 1.
    pub pages: [U64; RunKind::ALL.len()],
    /// Blocks of the pattern that were checked.
    pub checked: U64,
    /// Bytes of memory given to compression.
    pub packed_from: U64,
    /// Bytes that compression produced.
    pub packed_to: U64,
    /// Units of work: pages summed or packed together, or reads checked.
    pub units: U64,
    /// Units done by other CPUs.
    pub units_by_helpers: U64,
    /// Units done again because a CPU did not finish them in time.
    pub units_redone: U64,
    /// Units that did not shrink and are stored uncompressed.
    pub units_stored: U64,
    /// Number of other CPUs that helped.
    pub helpers: U32,
    /// Number of helpers that did not finish a unit they had taken.
    pub helpers_lost: U32,
    /// The most requests in flight together.
    pub depth: U32,
    /// Number of buffers for them.
    pub buffers: U32,
    /// The target's place in the list of targets, from 0.
    pub target: U32,
    /// Number of targets tried before this one; the first [`MAX_REFUSALS`] are in `refused`.
    pub refusals: U32,
    /// The targets tried before this one.
    pub refused: [Refused; MAX_REFUSALS],
    /// Nanoseconds from `crash()` until the device had accepted the dump's first block.
    pub first_write: U64,
}
const_assert_eq!(size_of::<Metrics>(), 8 * 6 + 24 * 4 + 8 * 11 + 8 * 7 + 4 * 6 + 128 * 4 + 8);
