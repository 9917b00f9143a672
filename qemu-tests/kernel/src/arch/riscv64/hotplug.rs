//! The machine has no controller that a kernel without ACPI could ask for a disk's removal.

/// Allows no removal.
pub(crate) fn eject_if_asked(_: u32) -> bool {
    false
}
