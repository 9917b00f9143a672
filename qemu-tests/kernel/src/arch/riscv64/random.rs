//! Numbers that nobody can guess: those that the machine hands over, and what the CPU's entropy source adds, where the firmware
//! lets supervisor mode have it.
//!
//! Specification: RISC-V Scalar Cryptography 1.0.1, 4.1 (the register `seed`).

pub(crate) use crate::arch::virt::random::fill;
