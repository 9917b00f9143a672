//! What depends on the processor: one folder per architecture, and the same names in each.

mod x86_64;

pub(crate) use x86_64::*;
