//! Cache maintenance. The devices of a PC look into the CPUs' caches, so there is nothing to do.

/// Makes what was written to these bytes visible to devices.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn clean(_: *const u8, _: usize) {}

/// Makes what a device wrote to these bytes visible to the CPUs.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn invalidate(_: *const u8, _: usize) {}
