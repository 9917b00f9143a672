//! The exception frame.

/// The frame that vectors.s leaves on the stack.
#[repr(C)]
pub(crate) struct Frame {
    /// x0 to x30.
    pub(crate) general: [u64; 31],
    /// Stack pointer of the interrupted code.
    pub(crate) sp: u64,
    /// Program counter of the interrupted code.
    pub(crate) pc: u64,
    /// Processor state of the interrupted code.
    pub(crate) pstate: u64,
    /// The cause (ESR_EL1), for a fault.
    pub(crate) syndrome: u64,
    /// The faulting address (FAR_EL1), for some faults.
    pub(crate) address: u64,
}
