//! The kernel's code and symbol table. Addresses are those of the file, before KASLR.

use std::io;

use object::LittleEndian as LE;
use object::elf::{PF_X, PT_LOAD, SHF_ALLOC, SHF_EXECINSTR, SHN_UNDEF, STT_FUNC, STT_NOTYPE, Sym64};
use object::pod;

use super::elf::{Elf, text_at};
use crate::text::cut;

/// Maximum bytes of a name.
pub(super) const MAX_NAME: usize = 2048;

/// The symbols of a kernel's functions.
#[derive(Default)]
pub(super) struct Symbols {
    /// Address, length (0: unknown) and offset of the name, sorted by address.
    functions: Vec<(u64, u64, u32)>,
    names: Vec<u8>,
    /// Ranges of code: begin and end, sorted.
    code: Vec<(u64, u64)>,
}

impl Symbols {
    /// Reads the symbol table, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is too large.
    pub(super) fn of(elf: &Elf) -> io::Result<Symbols> {
        let mut symbols = Symbols { code: code(elf), ..Symbols::default() };
        let Some(table) = elf.section(".symtab").or_else(|| elf.section(".dynsym")) else {
            return Ok(symbols);
        };
        if let Some(names) = elf.sections.get(table.link as usize).filter(|names| names.has_bytes()) {
            symbols.names = elf.bytes(names)?;
        }
        let bytes = elf.bytes(table)?;
        let count = bytes.len() / size_of::<Sym64<LE>>();
        let (entries, _) = pod::slice_from_bytes::<Sym64<LE>>(&bytes, count)
            .map_err(|()| io::Error::other("its symbol table makes no sense"))?;
        for entry in entries {
            let is_function = entry.st_type() == STT_FUNC;
            // Entry points in assembly have no type.
            let is_label = entry.st_type() == STT_NOTYPE && entry.st_shndx.get(LE) != SHN_UNDEF;
            let address = entry.st_value.get(LE);
            if (is_function || is_label) && symbols.is_code(address) {
                symbols.functions.push((address, entry.st_size.get(LE), entry.st_name.get(LE)));
            }
        }
        let names = &symbols.names;
        // Mapping symbols of Arm and RISC-V (`$x`, `$d`) and local labels do not name functions.
        symbols
            .functions
            .retain(|(_, _, name)| !matches!(text_at(names, *name), [] | [b'$', ..] | [b'.', b'L', ..]));
        // Of several at one address, the longest is the function.
        symbols.functions.sort_unstable_by_key(|(address, length, name)| (*address, *length, *name));
        symbols.functions.shrink_to_fit();
        Ok(symbols)
    }

    /// Addresses and names of all functions with a length.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, String)> {
        let known = self.functions.iter().filter(|(_, length, _)| *length > 0);
        known.filter_map(|(address, _, _)| Some((*address, self.at(*address)?.0)))
    }

    /// Whether there are no symbols.
    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Whether the kernel has code there.
    pub(super) fn is_code(&self, address: u64) -> bool {
        let behind = self.code.partition_point(|(begin, _)| *begin <= address);
        behind.checked_sub(1).and_then(|at| self.code.get(at)).is_some_and(|(_, end)| address < *end)
    }

    /// The function at an address, and the offset into it.
    pub(super) fn at(&self, address: u64) -> Option<(String, u64)> {
        if !self.is_code(address) {
            return None;
        }
        let behind = self.functions.partition_point(|(begin, _, _)| *begin <= address);
        let (begin, length, name) = self.functions.get(behind.checked_sub(1)?)?;
        let inside = address - begin;
        // The area after a function's end has no name. A function without a length continues to the next.
        if *length > 0 && inside >= *length {
            return None;
        }
        Some((readable(&String::from_utf8_lossy(text_at(&self.names, *name))), inside))
    }
}

/// A function's demangled name.
pub(super) fn readable(name: &str) -> String {
    let name = cut(name, MAX_NAME);
    cut(
        &rustc_demangle::try_demangle(&name).map_or_else(|_| name.clone(), |name| format!("{name:#}")),
        MAX_NAME,
    )
}

/// Ranges of code, sorted and without overlap: from the sections, or the segments if there are no sections.
fn code(elf: &Elf) -> Vec<(u64, u64)> {
    let flags = u64::from(SHF_ALLOC | SHF_EXECINSTR);
    let sections = elf.sections.iter().filter(|section| section.flags & flags == flags);
    let mut code: Vec<_> = sections.map(|section| (section.address, section.size)).collect();
    if code.is_empty() {
        let segments =
            elf.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.flags & PF_X != 0);
        code.extend(segments.map(|segment| (segment.address, segment.memory)));
    }
    code.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (begin, length) in code {
        let end = begin.saturating_add(length);
        match joined.last_mut() {
            Some(last) if begin <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((begin, end)),
        }
    }
    joined
}
