//! Code common to QEMU's `virt` machines for aarch64 and riscv64: a device tree, PCI Express without setup by
//! firmware, and a random seed from the machine.

pub(crate) mod device_tree;
pub(crate) mod pci;
pub(crate) mod random;
