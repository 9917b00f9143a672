//! The exception frame, and the numbers of exceptions.

/// The frame that vectors.s leaves on the stack.
#[repr(C)]
pub(crate) struct Frame {
    /// r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi.
    pub(crate) general: [u64; 15],
    /// Number of the exception.
    pub(crate) vector: u64,
    /// Its error code, or 0.
    pub(crate) error: u64,
    /// Instruction pointer of the interrupted code.
    pub(crate) rip: u64,
    /// Code segment.
    pub(crate) cs: u64,
    /// Flags.
    pub(crate) rflags: u64,
    /// Stack pointer of the interrupted code.
    pub(crate) rsp: u64,
    /// Stack segment.
    pub(crate) ss: u64,
}

/// Vector of the non-maskable interrupt.
pub(crate) const NMI: u64 = 2;
/// Vector of the double fault.
pub(crate) const DOUBLE_FAULT: u64 = 8;
/// Vector of the general protection fault.
pub(crate) const GENERAL_PROTECTION: u64 = 13;
/// Vector of the page fault.
pub(crate) const PAGE_FAULT: u64 = 14;
/// Vector of the machine check.
pub(crate) const MACHINE_CHECK: u64 = 18;
/// Vector of the only interrupt that is not an exception: another CPU, or the timer, ends this CPU's rest.
pub(crate) const WAKE: u64 = 32;
