//! From a CPU's registers to its functions, frame by frame, through untrusted memory.
//!
//! Each frame is unwound by the compiler's information; if there is none, by the chain of frame pointers; if
//! that is broken, by scanning the stack for return addresses, and such frames are marked.

use std::collections::HashSet;

use dumpcore::format::header::Arch;

use super::elf::Elf;
use super::frames::{Frames, Left};
use super::memory::Memory;
use super::registers::Registers;
use super::symbols::Symbols;

/// Maximum number of frames per CPU.
pub(super) const MAX_FRAMES: usize = 128;

/// Maximum number of frames per CPU found by scanning.
const MAX_GUESSES: usize = 24;

/// Maximum number of words of the stack to scan for the next frame.
const MAX_SCAN: usize = 1024;

/// Words of the stack to read at a time.
const SCAN: usize = 64;

/// Maximum span of a frame pointer, in bytes.
const MAX_FRAME: u64 = 1 << 20;

/// How a frame was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The CPU's registers.
    Registers,
    /// The compiler's call frame information.
    FrameInformation,
    /// The chain of frame pointers.
    FramePointer,
    /// The previous function was called at an address without code; this is the return address of that call.
    BadCall,
    /// The previous function handled an interrupt or a fault; this is where that interrupted the CPU.
    Interrupt,
    /// Scanning: its address is on the stack; it may be a leftover.
    Scan,
}

/// Why the backtrace ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The last function has no caller, or was called by the kernel's entry code.
    Outermost,
    /// The CPU was executing a user program.
    User,
    /// The stack leads no further: it is overwritten, or not in the dump.
    Lost,
    /// The stack has a loop.
    Loop,
    /// The backtrace is longer than the limit.
    Limit,
}

/// A frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    /// The address where it continues.
    pub(super) address: u64,
    /// An address within its current instruction, as in the file.
    pub(super) at: u64,
    pub(super) by: By,
}

/// A kernel and its frame information.
pub(super) struct Unwinder<'k> {
    pub(super) elf: &'k Elf,
    pub(super) symbols: &'k Symbols,
    pub(super) frames: &'k Frames<'k>,
    /// The kernel's displacement: file address + slide = address in memory.
    pub(super) slide: u64,
}

impl By {
    /// Whether the frame's address is that of an instruction to be executed, and not a return address.
    fn is_exact(self) -> bool {
        matches!(self, By::Registers | By::Interrupt)
    }
}

impl Unwinder<'_> {
    /// All frames of a CPU, innermost first.
    pub(super) fn run(&self, registers: Registers, memory: &Memory<'_>) -> (Vec<Spot>, End) {
        let mut spots = Vec::new();
        let mut seen = HashSet::new();
        let mut guesses = 0;
        let (mut now, mut by) = (registers, By::Registers);
        loop {
            if spots.len() >= MAX_FRAMES {
                return (spots, End::Limit);
            }
            if !seen.insert((now.pc, now.sp())) {
                return (spots, End::Loop);
            }
            // A return address is after its call, which may be the last instruction of its function.
            let inside = now.pc.wrapping_sub(u64::from(!by.is_exact()));
            let at = inside.wrapping_sub(self.slide);
            spots.push(Spot { address: now.pc, at, by });
            let (next, how) = match self.next(&now, at, by, memory) {
                Ok(next) => next,
                Err(end) => return (spots, end),
            };
            if how == By::Scan {
                guesses += 1;
                if guesses > MAX_GUESSES {
                    return (spots, End::Lost);
                }
            }
            (now, by) = (next, how);
        }
    }

    fn next(&self, now: &Registers, at: u64, by: By, memory: &Memory<'_>) -> Result<(Registers, By), End> {
        match self.frames.leave(now, at, memory) {
            Some(Left::Outermost) => return Err(End::Outermost),
            Some(Left::Caller(mut caller)) => {
                caller.pc = self.plain(caller.arch, caller.pc);
                // Check this first: an error code of zero is not a return address of zero.
                if self.follows_call(caller.arch, caller.pc, memory) != Some(true)
                    && let Some(interrupted) = self.interrupted(&caller, memory)
                {
                    return interrupted.map(|registers| (registers, By::Interrupt));
                }
                // Threads start with a return address of zero, to mark the end.
                if caller.pc == 0 {
                    return Err(End::Outermost);
                }
                if self.is_code(caller.pc) {
                    return Ok((*caller, By::FrameInformation));
                }
            }
            None => {}
        }
        if self.is_entry(at) {
            return Err(End::Outermost);
        }
        if by.is_exact()
            && !self.is_code(now.pc)
            && let Some(caller) = self.bad_call(now, memory)
        {
            return Ok((caller, By::BadCall));
        }
        // At the start of a stack, the chain of frame pointers ends with a zero.
        if now.fp() == Some(0) && !by.is_exact() && by != By::Scan {
            return Err(End::Outermost);
        }
        match self.by_frame_pointer(now, memory) {
            Some(Left::Caller(caller)) => return Ok((*caller, By::FramePointer)),
            Some(Left::Outermost) => return Err(End::Outermost),
            None => {}
        }
        self.scan(now, memory).map(|caller| (caller, By::Scan)).ok_or(End::Lost)
    }

    /// The code interrupted by a function that the processor called itself, such as one of Rust's `extern
    /// "x86-interrupt"`. `caller` comes from the function's frame information, which covers all registers
    /// except these, and no error code. `None` if there is no interrupt frame (Intel SDM volume 3A, section
    /// 6.14.2: rip, cs, rflags, rsp, ss).
    fn interrupted(&self, caller: &Registers, memory: &Memory<'_>) -> Option<Result<Registers, End>> {
        if caller.arch != Arch::X86_64 {
            return None;
        }
        let sp = caller.sp()?;
        // In place of a return address; after an error code; and after one that the compiler has counted.
        let places = [sp.wrapping_sub(8), sp, sp.wrapping_sub(16)];
        let frames = places.iter().filter_map(|place| InterruptFrame::read(*place, memory));
        for frame in frames {
            if frame.is_user {
                return Some(Err(End::User));
            }
            if self.is_code(frame.rip) && frame.rsp % 8 == 0 && memory.word(frame.rsp).is_some() {
                let mut interrupted = caller.clone();
                interrupted.pc = frame.rip;
                interrupted.set(interrupted.sp_number(), Some(frame.rsp));
                return Some(Ok(interrupted));
            }
        }
        None
    }

    /// Whether an address is in the kernel's entry function: it has no caller, whatever is on the stack.
    fn is_entry(&self, at: u64) -> bool {
        let begin = |address: u64| self.symbols.at(address).map(|(_, offset)| address.wrapping_sub(offset));
        self.elf.entry != 0 && begin(at).is_some_and(|function| begin(self.elf.entry) == Some(function))
    }

    /// The caller of an address without code: it has no frame yet.
    fn bad_call(&self, now: &Registers, memory: &Memory<'_>) -> Option<Registers> {
        let mut caller = now.clone();
        caller.pc = match now.arch {
            Arch::X86_64 => {
                let sp = now.sp()?;
                caller.set(caller.sp_number(), Some(sp.wrapping_add(8)));
                memory.word(sp)?
            }
            Arch::Aarch64 | Arch::Riscv64 => self.plain(now.arch, now.link()?),
        };
        self.is_behind_call(caller.arch, caller.pc, memory).then_some(caller)
    }

    /// The caller by frame pointer: System V ABI for AMD64, section 3.2.2; Procedure Call Standard for the
    /// Arm 64-bit Architecture, section 6.4.6; RISC-V Calling Conventions, "Frame Pointer Convention".
    fn by_frame_pointer(&self, now: &Registers, memory: &Memory<'_>) -> Option<Left> {
        let fp = now.fp().filter(|fp| fp % 8 == 0)?;
        // The caller's data follows the frame; the innermost frame is at the low end of the used stack.
        let (previous, returns, end) = match now.arch {
            Arch::X86_64 | Arch::Aarch64 => (fp, fp.wrapping_add(8), fp.wrapping_add(16)),
            Arch::Riscv64 => (fp.wrapping_sub(16), fp.wrapping_sub(8), fp),
        };
        if now.sp().is_some_and(|sp| end < sp || end - sp > MAX_FRAME) {
            return None;
        }
        let (previous, returns) = (memory.word(previous)?, memory.word(returns)?);
        if (previous, returns) == (0, 0) {
            return Some(Left::Outermost);
        }
        let pc = self.plain(now.arch, returns);
        if !self.is_behind_call(now.arch, pc, memory) {
            return None;
        }
        let mut caller = Registers::only(now.arch, pc, end);
        caller.set(caller.fp_number(), Some(previous));
        Some(Left::Caller(Box::new(caller)))
    }

    /// The next address on the stack that follows a call.
    fn scan(&self, now: &Registers, memory: &Memory<'_>) -> Option<Registers> {
        let mut at = now.sp()?.checked_next_multiple_of(8)?;
        for _ in 0..MAX_SCAN / SCAN {
            let mut bytes = [0; SCAN * 8];
            // The memory after the end of a stack is often unmapped.
            if !memory.read(at, &mut bytes) {
                return None;
            }
            for word in bytes.as_chunks::<8>().0 {
                at = at.wrapping_add(8);
                let pc = self.plain(now.arch, u64::from_le_bytes(*word));
                if self.is_behind_call(now.arch, pc, memory) {
                    return Some(Registers::only(now.arch, pc, at));
                }
            }
        }
        None
    }

    pub(super) fn is_code(&self, address: u64) -> bool {
        self.symbols.is_code(address.wrapping_sub(self.slide))
    }

    /// Whether an address is in the kernel's code, and follows a call instruction if that can be checked.
    fn is_behind_call(&self, arch: Arch, address: u64, memory: &Memory<'_>) -> bool {
        // The call is in the kernel's code; the address after the last call of a section may not be.
        self.is_code(address.wrapping_sub(1)) && self.follows_call(arch, address, memory).unwrap_or(true)
    }

    /// Whether the instruction before an address is a call. `None` if neither the dump nor the kernel's file
    /// has it: a file with only debug information has no code.
    fn follows_call(&self, arch: Arch, address: u64, memory: &Memory<'_>) -> Option<bool> {
        let mut bytes = [0; 8];
        let from = address.wrapping_sub(8);
        let is_known =
            memory.read(from, &mut bytes) || self.elf.at_address(from.wrapping_sub(self.slide), &mut bytes);
        is_known.then(|| ends_with_call(arch, bytes))
    }

    /// A return address without the signature of pointer authentication in its upper bits (Arm Architecture
    /// Reference Manual, section D8.10). Kernel addresses have ones there.
    fn plain(&self, arch: Arch, address: u64) -> u64 {
        const SIGNED: u64 = 0xff7f << 48;
        match arch {
            Arch::Aarch64
                if !self.is_code(address) && address & 1 << 55 != 0 && self.is_code(address | SIGNED) =>
            {
                address | SIGNED
            }
            _ => address,
        }
    }
}

/// The frame that an x86_64 processor pushes before it calls a handler.
struct InterruptFrame {
    rip: u64,
    rsp: u64,
    /// A user program was interrupted.
    is_user: bool,
}

impl InterruptFrame {
    /// The valid bits of rflags, and the one that is always set (Intel SDM volume 1, section 3.4.3).
    const FLAGS: u64 = 0x3f_7fd7;
    const ALWAYS: u64 = 2;

    /// `None` if it cannot be one: selectors have 16 bits, both with the same privilege level, which is 0 or
    /// 3.
    fn read(at: u64, memory: &Memory<'_>) -> Option<InterruptFrame> {
        let mut bytes = [0; 40];
        if !memory.read(at, &mut bytes) {
            return None;
        }
        let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let [rip, cs, flags, rsp, ss] = std::array::from_fn(|_| words.next().unwrap_or_default());
        // User addresses are in the lower half. The caller checks kernel addresses.
        let is_user = match (cs & 3, ss & 3) {
            (0, 0) => false,
            (3, 3) if rip >> 47 == 0 => true,
            _ => return None,
        };
        let is_one = (8..=0xffff).contains(&cs)
            && ss <= 0xffff
            && flags & !Self::FLAGS == 0
            && flags & Self::ALWAYS != 0;
        is_one.then_some(InterruptFrame { rip, rsp, is_user })
    }
}

/// Whether these bytes of code end with a call: Intel SDM volume 2A, "CALL"; Arm Architecture Reference
/// Manual, sections C6.2.34 and C6.2.35; RISC-V Unprivileged ISA, JAL, JALR and C.JALR, with x1 as the link
/// register.
fn ends_with_call(arch: Arch, bytes: [u8; 8]) -> bool {
    let [.., b4, b5, b6, b7] = bytes;
    let word = u32::from_le_bytes([b4, b5, b6, b7]);
    match arch {
        Arch::X86_64 => {
            let near = bytes[3] == 0xe8;
            let indirect = |length: &usize| {
                bytes[8 - length] == 0xff && indirect_call(bytes[9 - length]) == Some(*length)
            };
            near || (2..=7).any(|length| indirect(&length))
        }
        // BL; BLR, BLRAA and similar.
        Arch::Aarch64 => word >> 26 == 0b10_0101 || word & 0xfeff_f000 == 0xd63f_0000,
        Arch::Riscv64 => {
            let half = u16::from_le_bytes([b6, b7]);
            let links = word >> 7 & 0x1f == 1 && matches!(word & 0x7f, 0x6f | 0x67);
            links || (half & 0xf07f == 0x9002 && half >> 7 & 0x1f != 0)
        }
    }
}

/// The length of an indirect call through a register or memory, from its opcode FF on, by its ModRM byte
/// (Intel SDM volume 2A, section 2.1.3); `None` if it is not a call.
fn indirect_call(modrm: u8) -> Option<usize> {
    if modrm >> 3 & 7 != 2 {
        return None;
    }
    let (mode, register) = (modrm >> 6, modrm & 7);
    let displacement = match (mode, register) {
        (0, 5) | (2, _) => 4,
        (1, _) => 1,
        _ => 0,
    };
    let has_sib = mode != 3 && register == 4;
    Some(2 + usize::from(has_sib) + displacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_other_code() {
        let is_call = |arch, code: &[u8]| {
            let mut bytes = [0x90; 8];
            bytes[8 - code.len()..].copy_from_slice(code);
            ends_with_call(arch, bytes)
        };
        // In the encoding of assemblers: call rel32; call *%rax; call *%r11; call *(%rax); call *0x8(%rax);
        // call *0x18(%rsp); call *(%rax,%rbx,8); call *0x12345678(%rip); call *0x100(%rax); call
        // *0x100(%rsp).
        for code in [
            &[0xe8, 0x11, 0x22, 0x33, 0x44][..],
            &[0xff, 0xd0],
            &[0x41, 0xff, 0xd3],
            &[0xff, 0x10],
            &[0xff, 0x50, 0x08],
            &[0xff, 0x54, 0x24, 0x18],
            &[0xff, 0x14, 0xd8],
            &[0xff, 0x15, 0x78, 0x56, 0x34, 0x12],
            &[0xff, 0x90, 0x00, 0x01, 0x00, 0x00],
            &[0xff, 0x94, 0x24, 0x00, 0x01, 0x00, 0x00],
        ] {
            assert!(is_call(Arch::X86_64, code), "{code:x?}");
        }
        // jmp rel32; jmp *%rax; push %rax; inc (%rax); ret.
        for code in [&[0xe9, 1, 2, 3, 4][..], &[0xff, 0xe0], &[0x50], &[0xff, 0x00], &[0xc3]] {
            assert!(!is_call(Arch::X86_64, code), "{code:x?}");
        }
        for (word, call) in [
            (0x9400_1234_u32, true),
            (0x97ff_ff00, true),
            (0xd63f_0100, true),
            (0xd73f_0a11, true),
            (0x1400_1234, false),
            (0xd65f_03c0, false),
            (0xd61f_0100, false),
        ] {
            assert_eq!(is_call(Arch::Aarch64, &word.to_le_bytes()), call, "{word:#x}");
        }
        // jal ra; jalr ra, 0(a5); j; jr a5 (jalr x0); ret.
        for (word, call) in [
            (0x0000_00ef_u32, true),
            (0x0007_80e7, true),
            (0x0000_006f, false),
            (0x0007_8067, false),
            (0x0000_8067, false),
        ] {
            assert_eq!(is_call(Arch::Riscv64, &word.to_le_bytes()), call, "{word:#x}");
        }
        // c.jalr a5; c.jr a5; c.ebreak.
        for (half, call) in [(0x9782_u16, true), (0x8782, false), (0x9002, false)] {
            assert_eq!(is_call(Arch::Riscv64, &half.to_le_bytes()), call, "{half:#x}");
        }
    }
}
