//! Notes: the small facts of a dump, as records in notes chunks.
//!
//! A record is `{u32 kind, u32 length}`, `length` bytes, and zeros up to the next multiple of 8. A record
//! never crosses a chunk boundary, so that each chunk can be read alone; longer data is split into several
//! records. Readers skip kinds that they do not know.

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::integer::{U32, U64};

/// The kinds of record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum NoteKind {
    /// A [`MemoryRange`].
    MemoryRange = 1,
    /// A [`CpuState`].
    Cpu = 2,
    /// A [`TextPart`]: the panic message.
    Message = 3,
    /// A [`TextPart`]: the tail of the kernel's log.
    Log = 4,
    /// UTF-8, the kernel's name and release.
    System = 5,
    /// The kernel's build id.
    BuildId = 6,
    /// u32: the bits of `platform::Lacks`, what the kernel could not provide.
    Lacks = 7,
    /// A [`TextPart`]: VMCOREINFO as Linux defines it (Documentation/admin-guide/kdump/vmcoreinfo.rst).
    Vmcoreinfo = 8,
    /// u32: an [`Arch`](super::header::Arch), for a dump that loses its headers.
    Machine = 9,
}

impl NoteKind {
    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<NoteKind> {
        [
            NoteKind::MemoryRange,
            NoteKind::Cpu,
            NoteKind::Message,
            NoteKind::Log,
            NoteKind::System,
            NoteKind::BuildId,
            NoteKind::Lacks,
            NoteKind::Vmcoreinfo,
            NoteKind::Machine,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == number)
    }
}

/// Precedes every record.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NoteHeader {
    /// A [`NoteKind`].
    pub kind: U32,
    /// Bytes after this header, without padding.
    pub length: U32,
}
const_assert_eq!(size_of::<NoteHeader>(), 8);

/// What a range of physical memory is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RangeKind {
    /// RAM: dumped.
    Ram = 1,
    /// RAM that holds the dump's own arena: left out.
    Arena = 2,
}

/// A range of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MemoryRange {
    /// First byte, a multiple of the page size.
    pub start: U64,
    /// First byte after the range, a multiple of the page size.
    pub end: U64,
    /// A [`RangeKind`].
    pub kind: U32,
    /// Zero.
    pub reserved: U32,
}
const_assert_eq!(size_of::<MemoryRange>(), 24);

/// The state of a CPU when the dump began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum CpuCondition {
    /// It called `crash()`.
    Crashing = 1,
    /// It was stopped, and its registers were recorded.
    Stopped = 2,
    /// It did not stop; its registers are unknown and stored as zeros.
    Silent = 3,
}

impl CpuCondition {
    /// The condition with this number.
    pub fn from_number(number: u32) -> Option<CpuCondition> {
        [CpuCondition::Crashing, CpuCondition::Stopped, CpuCondition::Silent]
            .into_iter()
            .find(|condition| *condition as u32 == number)
    }
}

/// General registers in a [`CpuState`], in the order of Linux's `elf_gregset_t`, padded with zeros.
///
/// x86_64, 27: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss
/// fs_base gs_base ds es fs gs. aarch64, 34: x0 … x30 sp pc pstate. riscv64, 32: pc x1 … x31.
pub const GENERAL_REGISTERS: usize = 34;

/// Control registers in a [`CpuState`], padded with zeros.
///
/// x86_64: cr0 cr2 cr3 cr4 efer. aarch64: ttbr0_el1 ttbr1_el1 tcr_el1 sctlr_el1 mair_el1 esr_el1 far_el1.
/// riscv64: satp sstatus scause stval.
pub const CONTROL_REGISTERS: usize = 8;

/// Registers of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CpuState {
    /// The CPU's number, from 0.
    pub cpu: U32,
    /// A [`CpuCondition`].
    pub condition: U32,
    /// See [`GENERAL_REGISTERS`].
    pub general: [U64; GENERAL_REGISTERS],
    /// See [`CONTROL_REGISTERS`].
    pub control: [U64; CONTROL_REGISTERS],
}
const_assert_eq!(size_of::<CpuState>(), 344);

/// Precedes a piece of a longer text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TextPart {
    /// Offset of the piece in the text, in bytes.
    pub offset: U64,
}
const_assert_eq!(size_of::<TextPart>(), 8);

/// The records of a notes chunk, one after another.
///
/// Damage ends the iteration: [`Notes::next`] returns `None` and [`Notes::rest`] is not empty.
///
/// ```
/// use dumpcore::format::note::{NoteKind, Notes};
///
/// /// The kernel's name and release, in the payload of a notes chunk.
/// fn system(payload: &[u8]) -> Option<&[u8]> {
///     Notes::new(payload).find(|(kind, _)| *kind == NoteKind::System as u32).map(|(_, name)| name)
/// }
/// # let mut payload = vec![NoteKind::System as u8, 0, 0, 0, 3, 0, 0, 0];
/// # payload.extend(*b"abc\0\0\0\0\0");
/// # assert_eq!(system(&payload), Some(b"abc".as_slice()));
/// ```
#[derive(Clone, Debug)]
pub struct Notes<'a> {
    rest: &'a [u8],
}

impl<'a> Notes<'a> {
    /// The records in the used bytes of a notes chunk's payload.
    pub fn new(payload: &'a [u8]) -> Notes<'a> {
        Notes { rest: payload }
    }

    /// The bytes not visited yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Notes<'a> {
    /// The kind's number and the record's bytes.
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, behind) = NoteHeader::ref_from_prefix(self.rest).ok()?;
        let length = usize::try_from(header.length.get()).ok()?;
        let bytes = behind.get(..length)?;
        let padded = length.checked_next_multiple_of(8)?;
        self.rest = behind.get(padded..)?;
        Some((header.kind.get(), bytes))
    }
}
