//! The battery of `drivers/tests` without its tests: kinds of controllers, and a run on a device that lies.
//! Also the fuzzed parts of `savecore/tests`: partitions, tables, images, streams, kernel files and
//! configurations of any content.
#![allow(missing_docs, unreachable_pub, dead_code)]

/// In the battery, this turns a kind into tests; here it does nothing.
#[macro_export]
macro_rules! battery {
    ($kind:ty) => {};
}

#[path = "../../drivers/tests/battery/ahci.rs"]
pub mod ahci;
#[path = "../../drivers/tests/battery/ata.rs"]
pub mod ata;
#[path = "../../drivers/tests/battery/hostile.rs"]
pub mod hostile;
#[path = "../../drivers/tests/battery/kind.rs"]
pub mod kind;
#[path = "../../drivers/tests/battery/kinds.rs"]
pub mod kinds;
#[path = "../../drivers/tests/battery/nvme.rs"]
pub mod nvme;
#[path = "../../drivers/tests/battery/run.rs"]
mod run;
#[path = "../../drivers/tests/battery/virtio.rs"]
pub mod virtio;

#[path = "../../savecore/tests/it/common.rs"]
mod common;
#[path = "../../savecore/tests/it/fuzzed/mod.rs"]
mod fuzzed;

/// Bytes as a dump partition.
pub fn partition(bytes: &[u8]) {
    fuzzed::partition::no_harm(bytes);
}

/// Bytes as a disk with a partition table.
pub fn table(bytes: &[u8]) {
    fuzzed::table::no_harm(bytes);
}

/// Bytes as the file of the kernel that crashed.
pub fn kernel(bytes: &[u8]) {
    fuzzed::kernel::no_harm(bytes);
}

/// Bytes as an image, or as a raw copy of a dump.
pub fn image(bytes: &[u8]) {
    fuzzed::image::no_harm(bytes);
}

/// Bytes as standard input.
pub fn stream(bytes: &[u8]) {
    fuzzed::stream::no_harm(bytes);
}

/// Bytes as a configuration, and as the words that arm a kernel.
pub fn configuration(bytes: &[u8]) {
    fuzzed::configuration::no_harm(bytes);
}
