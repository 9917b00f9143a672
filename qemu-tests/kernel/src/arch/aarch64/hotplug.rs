//! Stub: this machine has no hotplug controller that a kernel without ACPI could use.

/// Never allows a removal.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn eject_if_asked(_: u32) -> bool {
    false
}
