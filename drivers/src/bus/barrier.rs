//! Ordering between the CPU and a device: around memory both use, and ahead of the registers that announce it.
//!
//! `core::sync::atomic::fence` orders CPUs among one another. A device outside the CPUs' coherence domain needs more on
//! some machines, so the instructions are named here.

use core::sync::atomic::{Ordering, compiler_fence};

/// What was written to shared memory before is seen by the device before what is written after.
#[inline]
pub fn publish() {
    compiler_fence(Ordering::Release);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier changes nothing but order.
    unsafe {
        core::arch::asm!("dmb oshst", options(nostack, preserves_flags))
    };
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a barrier changes nothing but order.
    unsafe {
        core::arch::asm!("fence ow, ow", options(nostack, preserves_flags))
    };
    // x86 keeps stores in order.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    core::sync::atomic::fence(Ordering::SeqCst);
    compiler_fence(Ordering::SeqCst);
}

/// What the device wrote before the value just read is seen by reads after.
#[inline]
pub fn observe() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier changes nothing but order.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags))
    };
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a barrier changes nothing but order.
    unsafe {
        core::arch::asm!("fence ir, ir", options(nostack, preserves_flags))
    };
    // x86 keeps loads in order.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    core::sync::atomic::fence(Ordering::SeqCst);
    compiler_fence(Ordering::Acquire);
}

/// Everything before, reads and writes, memory and registers, comes before everything after. Needed between a write to
/// shared memory and a read that asks whether the device wants to be told.
#[inline]
pub fn full() {
    core::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier changes nothing but order.
    unsafe {
        core::arch::asm!("dmb osh", options(nostack, preserves_flags))
    };
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a barrier changes nothing but order.
    unsafe {
        core::arch::asm!("fence iorw, iorw", options(nostack, preserves_flags))
    };
}
