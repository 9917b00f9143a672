//! What the module takes at most.

/// The module takes no more bytes of words: a file of sysfs is written by the page, and ends with a zero.
pub const MAX_WORDS: usize = 4095;

/// The module takes no more targets.
pub const MAX_TARGETS: usize = 4;

/// The module takes no more CPUs' notes.
pub(super) const MAX_NOTES: usize = 256;
