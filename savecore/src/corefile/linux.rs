//! VMCOREINFO of a Linux kernel (Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst).
//!
//! It is text from a crashed kernel: any value may be missing or wrong.
//!
//! And the layout of a Linux's ELF core: that of the kernel's own `/proc/vmcore` (Linux, kernel/crash_core.c,
//! `crash_prepare_elf64_headers`), since its debuggers expect it. First the kernel's image, then RAM at the
//! addresses of the direct map, which covers all of it; other mappings follow, for gdb, which cannot walk
//! page tables.

use std::collections::HashMap;

use dumpcore::format::header::Arch;
use dumpcore::format::{PAGE_BYTES, PAGE_SIZE};

use super::layout::Segment;
use crate::dump::{Dump, PageState};

/// Base of x86_64's kernel text and data: the virtual address of the kernel's own physical address 0 (Linux,
/// arch/x86/include/asm/page_64_types.h, `__START_KERNEL_map`).
const X86_64_KERNEL: u64 = 0xffff_ffff_8000_0000;

/// Bytes of each text in a `struct new_utsname`, including its final zero.
pub(super) const UTS_LENGTH: usize = 65;

/// The contents of VMCOREINFO, lines of `KEY=VALUE`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vmcoreinfo<'d>(&'d [u8]);

impl<'d> Vmcoreinfo<'d> {
    /// A dump's VMCOREINFO; `None` if it has none that names a kernel.
    pub(super) fn of(dump: &'d Dump<'_>) -> Option<Vmcoreinfo<'d>> {
        let info = Vmcoreinfo(&dump.facts().vmcoreinfo);
        info.release().is_some().then_some(info)
    }

    /// The value of a key; the last one counts, as for other readers.
    fn value(&self, key: &str) -> Option<&'d str> {
        let mut lines = self.0.split(|byte| *byte == b'\n').rev();
        let value = lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok()
    }

    /// The kernel's release, as in `uname -r`.
    pub(super) fn release(&self) -> Option<&'d str> {
        self.value("OSRELEASE").filter(|release| !release.is_empty())
    }

    /// Virtual address of a symbol.
    pub(super) fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.value(&format!("SYMBOL({name})"))?, 16).ok()
    }

    /// A number, decimal or hexadecimal, as written by kernels; negative ones as two's complement.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let text = self.value(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok().or_else(|| text.parse().ok().map(i64::cast_unsigned)),
        }
    }

    /// Offset of a structure member.
    fn offset(&self, member: &str) -> Option<u64> {
        self.value(&format!("OFFSET({member})"))?.parse().ok()
    }

    /// x86_64: the kernel's physical address minus its link address.
    pub(super) fn phys_base(&self) -> Option<u64> {
        self.number("phys_base")
    }

    /// The physical address of an object in the kernel's own image.
    fn image_to_phys(&self, arch: Arch, virt: u64) -> Option<u64> {
        match arch {
            Arch::X86_64 => {
                Some(virt.checked_sub(X86_64_KERNEL)?.wrapping_add(self.phys_base().unwrap_or(0)))
            }
            Arch::Aarch64 => Some(virt.wrapping_sub(self.number("kimage_voffset")?)),
            Arch::Riscv64 => Some(virt.wrapping_sub(self.number("va_kernel_pa_offset")?)),
        }
    }
}

/// Maximum number of mappings outside the image and the direct map. Debuggers search them linearly for other
/// addresses.
const MAX_OTHERS: usize = 1 << 14;

/// The layout of a Linux core's segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Arrangement {
    /// The kernel's image.
    pub(super) image: Vec<Segment>,
    /// The virtual address of physical address 0 in the direct map.
    pub(super) direct_map: u64,
    /// Other mappings.
    pub(super) others: Vec<Segment>,
}

impl Arrangement {
    /// Arranges the mappings of the page tables; `None` if none of them can be the direct map.
    pub(super) fn of(info: &Vmcoreinfo<'_>, mapped: &[Segment]) -> Option<Arrangement> {
        let base = |segment: &Segment| segment.virt.wrapping_sub(segment.pfn * PAGE_BYTES);
        let text = info.symbol("_stext");
        let image = mapped.iter().find(|segment| {
            text.and_then(|text| text.checked_sub(segment.virt))
                .is_some_and(|at| at < segment.count * PAGE_BYTES)
        });
        let image = image.map(base);
        // Kernels are in the upper half. The direct map is the mapping with the most memory.
        let mut covered: HashMap<u64, u64> = HashMap::new();
        for segment in mapped.iter().filter(|segment| segment.virt >> 63 == 1) {
            *covered.entry(base(segment)).or_default() += segment.count;
        }
        covered.retain(|base, _| Some(*base) != image);
        let direct_map = covered.into_iter().max_by_key(|(base, pages)| (*pages, *base))?.0;
        let of = |wanted: Option<u64>| mapped.iter().filter(move |segment| Some(base(segment)) == wanted);
        let is_other = |segment: &&Segment| base(segment) != direct_map && Some(base(segment)) != image;
        Some(Arrangement {
            image: of(image).copied().collect(),
            direct_map,
            others: mapped.iter().filter(is_other).take(MAX_OTHERS).copied().collect(),
        })
    }
}

/// A kernel's names in the form of Linux's `struct new_utsname` (include/uapi/linux/utsname.h): system, node,
/// release, version, machine and domain, each padded with zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Utsname(pub(super) [[u8; UTS_LENGTH]; 6]);

impl Utsname {
    /// A dump's names: for a Linux, from its memory; otherwise composed from other facts. Release, version
    /// and machine are never empty, since tools take that for a damaged header.
    pub(super) fn of(dump: &Dump<'_>) -> Utsname {
        let info = Vmcoreinfo::of(dump);
        if let Some(name) = info.and_then(|info| Utsname::in_memory(dump, &info)) {
            return name;
        }
        let system = &dump.facts().system;
        let (name, rest) = system.split_once(char::is_whitespace).unwrap_or((system, ""));
        let release = info.and_then(|info| info.release()).unwrap_or(rest.trim());
        let or_unknown = |text| if str::is_empty(text) { "unknown" } else { text };
        let name = if info.is_some() { "Linux" } else { or_unknown(name) };
        let arch = crate::dump::arch_name(dump.arch());
        Utsname([name, "(none)", or_unknown(release), "unknown", arch, "(none)"].map(field))
    }

    /// The machine's host name; `None` if it only has the kernel's default.
    fn node(&self) -> Option<String> {
        let name = String::from_utf8_lossy(text(&self.0[1])).into_owned();
        (!["", "(none)", "localhost", "localhost.localdomain"].contains(&name.as_str())).then_some(name)
    }

    /// The names in a Linux's memory, if that is in the dump and agrees with VMCOREINFO.
    fn in_memory(dump: &Dump<'_>, info: &Vmcoreinfo<'_>) -> Option<Utsname> {
        let virt = info.symbol("init_uts_ns")?.checked_add(info.offset("uts_namespace.name")?)?;
        let phys = info.image_to_phys(dump.arch()?, virt)?;
        let mut bytes = [0; 6 * UTS_LENGTH];
        read(dump, phys, &mut bytes)?;
        let mut name = Utsname([[0; UTS_LENGTH]; 6]);
        name.0.as_flattened_mut().copy_from_slice(&bytes);
        let is_text = |field: &[u8; UTS_LENGTH]| field.last() == Some(&0) && field[0] != 0;
        let agrees = text(&name.0[2]) == info.release()?.as_bytes();
        (name.0.iter().all(is_text) && agrees).then_some(name)
    }
}

/// The host name of the crashed machine, if known: for a Linux whose dump has that page and is not encrypted.
pub(crate) fn node_name(dump: &Dump<'_>) -> Option<String> {
    Utsname::in_memory(dump, &Vmcoreinfo::of(dump)?)?.node()
}

/// A field of a [`Utsname`], cut at a character boundary.
fn field(text: &str) -> [u8; UTS_LENGTH] {
    let mut field = [0; UTS_LENGTH];
    let length = text.floor_char_boundary(UTS_LENGTH - 1);
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    field
}

/// The text before the first zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads physical memory that may be missing in the dump.
fn read(dump: &Dump<'_>, phys: u64, into: &mut [u8]) -> Option<()> {
    let (mut at, mut into) = (phys, into);
    while !into.is_empty() {
        let inside = (at % PAGE_BYTES) as usize;
        let (piece, rest) = into.split_at_mut(into.len().min(PAGE_SIZE - inside));
        match dump.read_page(at / PAGE_BYTES).ok()? {
            PageState::Data(page) => piece.copy_from_slice(&page[inside..inside + piece.len()]),
            PageState::Zero => piece.fill(0),
            _ => return None,
        }
        at = at.checked_add(piece.len() as u64)?;
        into = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INFO: &[u8] = b"OSRELEASE=6.1.0-x\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff8841b2a0\n\
        OFFSET(uts_namespace.name)=4\nNUMBER(phys_base)=-16777216\nNUMBER(kimage_voffset)=0xffff7fffc8000000\nNUMBER(a)=7";

    fn segment(virt: u64, pfn: u64, count: u64) -> Segment {
        Segment { virt, pfn, count, rank: pfn }
    }

    #[test]
    fn the_image_and_the_direct_map_are_told_from_all_else_that_is_mapped() {
        let info = Vmcoreinfo(b"OSRELEASE=6\nSYMBOL(_stext)=ffffffff86a01000\n");
        let direct = 0xffff_8a9d_0000_0000;
        let mapped = [
            segment(direct, 0, 700),
            segment(0xffff_d039_c000_0000, 0x1740, 4),
            segment(direct + 701 * PAGE_BYTES, 701, 200),
            segment(0xffff_ffff_86a0_0000, 0x6a00, 512),
            // Its initialisation code is freed; its data follows.
            segment(0xffff_ffff_86d0_0000, 0x6d00, 2000),
            segment(0x5e_a000, 0x46cb, 5000),
        ];
        let arrangement = Arrangement::of(&info, &mapped).unwrap();
        assert_eq!(arrangement.image, mapped[3..5]);
        assert_eq!(arrangement.direct_map, direct);
        assert_eq!(arrangement.others, [mapped[1], mapped[5]]);
        assert_eq!(Arrangement::of(&info, &mapped[3..]), None);
        assert_eq!(Arrangement::of(&info, &[]), None);
    }

    #[test]
    fn numbers_are_read_however_kernels_write_them() {
        let info = Vmcoreinfo(INFO);
        assert_eq!(info.release(), Some("6.1.0-x"));
        assert_eq!(info.symbol("init_uts_ns"), Some(0xffff_ffff_8841_b2a0));
        assert_eq!(info.offset("uts_namespace.name"), Some(4));
        assert_eq!(info.number("a"), Some(7));
        assert_eq!(info.phys_base(), Some((-16_777_216_i64).cast_unsigned()));
        assert_eq!(info.number("missing"), None);
        let phys = info.image_to_phys(Arch::X86_64, 0xffff_ffff_8841_b2a4);
        assert_eq!(phys, Some(0x0741_b2a4));
        let phys = info.image_to_phys(Arch::Aarch64, 0xffff_8000_0800_1000);
        assert_eq!(phys, Some(0x4000_1000));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..INFO.len(), virt: u64) {
            let odd = [&INFO[..cut], &bytes, &INFO[cut..]].concat();
            let info = Vmcoreinfo(&odd);
            let _ = (info.release(), info.symbol("init_uts_ns"), info.phys_base());
            let _ = [Arch::X86_64, Arch::Aarch64, Arch::Riscv64].map(|arch| info.image_to_phys(arch, virt));
        }

        #[test]
        fn a_field_is_cut_at_a_character(text in "\\PC{0,90}") {
            let field = field(&text);
            let kept = std::str::from_utf8(super::text(&field)).unwrap();
            prop_assert!(text.starts_with(kept) && field[UTS_LENGTH - 1] == 0);
        }
    }
}
