//! The kernel's image: its parts, and symbols of the linker script.

use dumpcore::PageClass;

/// How a range of physical memory is mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Program code.
    Execute,
    /// Constants.
    Read,
    /// Data.
    Write,
    /// Device registers: uncached.
    Device,
}

/// A part of the kernel's image.
pub(crate) struct ImagePart {
    /// First virtual address.
    pub(crate) start: u64,
    /// First virtual address after it.
    pub(crate) end: u64,
    /// How it is mapped.
    pub(crate) access: Access,
    /// Its class.
    pub(crate) class: PageClass,
}

/// Address of a symbol of image.ld.
macro_rules! linker_symbol {
    ($name:ident) => {{
        unsafe extern "C" {
            static $name: u8;
        }
        &raw const $name as u64
    }};
}
pub(crate) use linker_symbol;

/// The parts of the kernel's image.
pub(crate) fn kernel_image() -> [ImagePart; 3] {
    let text = linker_symbol!(__text_start);
    let rodata = linker_symbol!(__rodata_start);
    let data = linker_symbol!(__data_start);
    let end = linker_symbol!(__kernel_end);
    [
        ImagePart { start: text, end: rodata, access: Access::Execute, class: PageClass::KernelText },
        ImagePart { start: rodata, end: data, access: Access::Read, class: PageClass::KernelText },
        ImagePart { start: data, end, access: Access::Write, class: PageClass::KernelData },
    ]
}
