//! The trap frame, and the numbers of exceptions.

/// The frame that vectors.s leaves on the stack.
#[repr(C)]
pub(super) struct Frame {
    /// pc x1 … x31.
    pub(super) general: [u64; 32],
    /// sstatus.
    pub(super) status: u64,
    /// scause.
    pub(super) cause: u64,
    /// stval.
    pub(super) value: u64,
}

/// Exception: illegal instruction.
pub(super) const ILLEGAL: u64 = 2;
/// Exceptions: access fault on a mapped page, for a load or a store.
pub(super) const LOAD_ACCESS: u64 = 5;
pub(super) const STORE_ACCESS: u64 = 7;
/// Exceptions: page fault, for a load or a store.
pub(super) const LOAD_PAGE: u64 = 13;
pub(super) const STORE_PAGE: u64 = 15;
