//! What an exception leaves of the code that it interrupts.

/// What vectors.s leaves on the stack.
#[repr(C)]
pub(crate) struct Frame {
    /// x0 to x30.
    pub(crate) general: [u64; 31],
    /// Stack pointer of the interrupted code.
    pub(crate) sp: u64,
    /// Where.
    pub(crate) pc: u64,
    /// Its flags and state.
    pub(crate) pstate: u64,
    /// Why (ESR_EL1), for a fault.
    pub(crate) syndrome: u64,
    /// At which address, for some faults (FAR_EL1).
    pub(crate) address: u64,
}
