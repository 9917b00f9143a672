//! Cache maintenance. DMA is coherent on a PC, so there is nothing to do.

/// Makes data written to these bytes visible to devices.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn clean(_: *const u8, _: usize) {}

/// Makes data that a device wrote to these bytes visible to the CPUs.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn invalidate(_: *const u8, _: usize) {}
