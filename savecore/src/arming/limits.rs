//! The module's limits.

/// Maximum bytes of parameters: a sysfs file is written as one page, which ends with a zero.
pub const MAX_WORDS: usize = 4095;

/// Maximum number of targets.
pub const MAX_TARGETS: usize = 4;

/// Maximum number of crash notes.
pub(super) const MAX_NOTES: usize = 256;
