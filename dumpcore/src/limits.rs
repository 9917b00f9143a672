//! How many of each there can be: what a dump holds is in arrays of these sizes.

/// Targets of a dump, at most.
pub const MAX_TARGETS: usize = 4;

/// CPUs that can help, at most.
pub const MAX_HELPERS: usize = 8;

/// Buffers in a pool, at most.
pub(crate) const MAX_BUFFERS: usize = 16;
