//! What an exception leaves of the code that it interrupts, and the numbers of exceptions.

/// What vectors.s leaves on the stack.
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

/// Exception: there is no such instruction, or not here.
pub(super) const ILLEGAL: u64 = 2;
/// Exceptions: memory cannot be read, or written, though it is mapped.
pub(super) const LOAD_ACCESS: u64 = 5;
pub(super) const STORE_ACCESS: u64 = 7;
/// Exceptions: memory is not mapped for reading, or for writing.
pub(super) const LOAD_PAGE: u64 = 13;
pub(super) const STORE_PAGE: u64 = 15;
