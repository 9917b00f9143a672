//! Memory ordering between the CPU and a device: for shared memory, and before the doorbell.
//!
//! `core::sync::atomic::fence` orders CPUs among each other. A device outside the CPUs' coherence domain
//! needs more on some machines, so this module uses the instructions themselves.

use core::sync::atomic::{Ordering, compiler_fence};

/// The device sees earlier writes to shared memory before later ones.
#[inline]
pub fn publish() {
    compiler_fence(Ordering::Release);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier only affects ordering.
    unsafe {
        core::arch::asm!("dmb oshst", options(nostack, preserves_flags))
    };
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a barrier only affects ordering.
    unsafe {
        core::arch::asm!("fence ow, ow", options(nostack, preserves_flags))
    };
    // x86 keeps stores in order.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    core::sync::atomic::fence(Ordering::SeqCst);
    compiler_fence(Ordering::SeqCst);
}

/// Later reads see everything that the device wrote before the value just read.
#[inline]
pub fn observe() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier only affects ordering.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags))
    };
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a barrier only affects ordering.
    unsafe {
        core::arch::asm!("fence ir, ir", options(nostack, preserves_flags))
    };
    // x86 keeps loads in order.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    core::sync::atomic::fence(Ordering::SeqCst);
    compiler_fence(Ordering::Acquire);
}

/// All earlier accesses (reads and writes, memory and registers) precede all later ones. Needed between a
/// write to shared memory and the read that tells whether the device wants a doorbell.
#[inline]
pub fn full() {
    core::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier only affects ordering.
    unsafe {
        core::arch::asm!("dmb osh", options(nostack, preserves_flags))
    };
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a barrier only affects ordering.
    unsafe {
        core::arch::asm!("fence iorw, iorw", options(nostack, preserves_flags))
    };
}
