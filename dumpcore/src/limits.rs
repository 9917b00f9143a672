//! Maximum counts: a dump keeps its state in arrays of these sizes.

/// Maximum number of targets of a dump.
pub const MAX_TARGETS: usize = 4;

/// Maximum number of helpers.
pub const MAX_HELPERS: usize = 8;

/// Maximum number of buffers in a pool.
pub const MAX_BUFFERS: usize = 16;
