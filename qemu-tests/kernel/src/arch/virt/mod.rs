//! What QEMU's `virt` machines of aarch64 and riscv64 have in common: a device tree, PCI Express without firmware that
//! would have set it up, and random numbers that the machine hands over.

pub(crate) mod device_tree;
pub(crate) mod pci;
pub(crate) mod random;
