//! x86_64: the PC as QEMU builds it (machines `pc` and `q35`).

pub(crate) mod acpi;
pub(crate) mod apic;
pub(crate) mod boot;
pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod guard;
pub(crate) mod interrupts;
pub(crate) mod paging;
pub(crate) mod pci;
pub(crate) mod power;
pub(crate) mod random;
pub(crate) mod registers;
pub(crate) mod serial;
pub(crate) mod smp;
pub(crate) mod stack;
pub(crate) mod tables;
