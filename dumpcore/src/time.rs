//! Time units of the dump.

/// Nanoseconds.
pub type Nanoseconds = u64;

/// One millisecond in nanoseconds.
pub const MILLISECOND: Nanoseconds = 1_000_000;
/// One second in nanoseconds.
pub const SECOND: Nanoseconds = 1_000_000_000;
