//! The only ACPI table that the kernel reads: the list of CPUs (MADT). PCI configuration space is accessed
//! through ports, so no MCFG is needed.
//!
//! Specification: ACPI 6.5, 5.2.5 (RSDP), 5.2.7 and 5.2.8 (RSDT, XSDT), 5.2.12 (MADT).

use super::cpu::MAX_CPUS;
use super::paging::{self, Access};

/// The result.
pub(crate) struct Acpi {
    /// Local APIC ids of the CPUs that may be started; the first `cpus` are valid.
    pub(crate) apic_ids: [u8; MAX_CPUS],
    /// How many CPUs there are.
    pub(crate) cpus: usize,
}

/// Size of a table's header in bytes.
const HEADER: usize = 36;

/// Reads the tables referenced by the RSDP at this physical address.
///
/// # Safety
/// On the boot CPU while booting, with the final page tables.
pub(crate) unsafe fn read(rsdp: u64) -> Result<Acpi, &'static str> {
    // SAFETY: firmware memory, which is never written; the caller is booting.
    let rsdp = unsafe { bytes(rsdp, 36)? };
    if !rsdp.starts_with(b"RSD PTR ") {
        return Err("no RSDP where the start info says");
    }
    // Revision 2 and later have an XSDT with 64-bit pointers.
    let (root, width) =
        if number(rsdp, 15, 1) >= 2 { (number(rsdp, 24, 8), 8) } else { (number(rsdp, 16, 4), 4) };
    // SAFETY: as above.
    let root = unsafe { table(root)? };
    let mut acpi = Acpi { apic_ids: [0; MAX_CPUS], cpus: 0 };
    for entry in root[HEADER..].chunks_exact(width) {
        // SAFETY: as above.
        let table = unsafe { table(number(entry, 0, width))? };
        if table.starts_with(b"APIC") {
            read_madt(table, &mut acpi);
        }
    }
    if acpi.cpus == 0 { Err("ACPI names no CPU") } else { Ok(acpi) }
}

fn read_madt(table: &[u8], acpi: &mut Acpi) {
    let mut rest = table.get(HEADER + 8..).unwrap_or_default();
    while let [kind, length, ..] = *rest
        && (2..=rest.len()).contains(&usize::from(length))
    {
        // 5.2.12.2, Processor Local APIC; flags bit 0: enabled.
        if kind == 0 && length >= 8 && number(rest, 4, 4) & 1 == 1 && acpi.cpus < MAX_CPUS {
            acpi.apic_ids[acpi.cpus] = rest[3];
            acpi.cpus += 1;
        }
        rest = &rest[usize::from(length)..];
    }
}

/// A little-endian number of `width` bytes; missing bytes count as zero.
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes.iter().skip(at).take(width).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// # Safety
/// See [`read`].
unsafe fn table(at: u64) -> Result<&'static [u8], &'static str> {
    // SAFETY: see read().
    let length = number(unsafe { bytes(at, HEADER)? }, 4, 4) as usize;
    if length < HEADER {
        return Err("an ACPI table is shorter than its header");
    }
    // SAFETY: see read().
    unsafe { bytes(at, length) }
}

/// # Safety
/// See [`read`].
unsafe fn bytes(at: u64, length: usize) -> Result<&'static [u8], &'static str> {
    // SAFETY: see read(). Tables are in memory that the firmware excludes from usable RAM.
    let start = unsafe { paging::map_physical(at, length as u64, Access::Write)? };
    // SAFETY: just mapped; ACPI tables are never written.
    Ok(unsafe { core::slice::from_raw_parts(start, length) })
}
