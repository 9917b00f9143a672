//! Backtraces of each CPU: functions, files and lines, from the kernel's ELF file.
//!
//! 1. [`find_kernel`]: the ELF file of the crashed kernel, by its build id.
//! 2. Each CPU's frames, from its registers and the dumped stack, through its own page tables.
//! 3. Names: from DWARF with inlined functions, or else from the symbol table.
//!
//! Neither the dump nor the kernel's file is trusted: they can make a backtrace short or wrong, but do no
//! other harm.

mod elf;
mod find;
mod frames;
mod lines;
mod memory;
mod origin;
mod registers;
mod symbols;
#[cfg(test)]
mod tests;
mod unwind;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use dumpcore::format::header::Arch;
use dumpcore::format::note::{CpuCondition, CpuState};
use serde::Serialize;

use crate::Error;
use crate::dump::{Dump, Encryption, condition, condition_name, hex};
use crate::text::harmless;
use elf::Elf;
use memory::{Memory, Pages};
use registers::Registers;
use unwind::{Spot, Unwinder};

pub use find::find_kernel;
pub use unwind::{By, End};

/// Maximum number of CPUs with a backtrace.
const MAX_CPUS: usize = 4096;

/// Backtraces of all CPUs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Backtraces {
    /// The kernel's ELF file.
    pub kernel: String,
    /// The kernel's displacement from the addresses in that file (KASLR), hexadecimal.
    pub slide: String,
    /// The CPUs: the crashing one first, then in order of their numbers.
    pub cpus: Vec<CpuBacktrace>,
    /// Number of further CPUs without a backtrace here, because there are too many.
    pub more_cpus: u64,
    /// Whether the ELF file has no function names: it was stripped.
    pub stripped: bool,
}

/// The backtrace of one CPU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CpuBacktrace {
    /// Its number, from 0.
    pub cpu: u32,
    /// `crashing`, `stopped` or `silent`.
    pub condition: &'static str,
    /// Its frames, innermost first.
    pub frames: Vec<Frame>,
    /// Why they end.
    pub end: End,
}

/// A frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Frame {
    /// The address where it continues, hexadecimal.
    pub address: String,
    /// How it was found.
    pub by: By,
    /// The functions at that address: inlined ones, innermost first, and last the one with the frame. Empty
    /// if the address is not in the kernel's code, or no name is known.
    pub calls: Vec<Call>,
    /// Whether the address is in the kernel's code.
    pub in_code: bool,
}

impl Frame {
    /// Text in place of an unknown function name.
    pub fn nameless(&self) -> &'static str {
        if self.in_code { "(no symbol)" } else { "(not in the kernel's code)" }
    }
}

/// A function in a frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Call {
    /// Its name.
    pub function: String,
    /// Offset into it in bytes, if only the symbol table knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The file, as named by the compiler.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<u64>,
    /// Whether it was inlined into the next one.
    pub inlined: bool,
}

impl Backtraces {
    /// A one-line warning for the user: the file has no symbols.
    pub fn warning(&self) -> Option<String> {
        self.stripped.then(|| {
            format!(
                "{} has no symbols, so that no function has a name: give the kernel as it was before it was stripped, or install its debug package",
                harmless(&self.kernel)
            )
        })
    }

    /// The backtrace of the crashing CPU, if known.
    pub fn crashing(&self) -> Option<&CpuBacktrace> {
        self.cpus.first().filter(|cpu| cpu.condition == "crashing")
    }
}

impl CpuBacktrace {
    /// Its functions, innermost first, each with its frame.
    pub fn calls(&self) -> impl Iterator<Item = (&Frame, Option<&Call>)> {
        self.frames.iter().flat_map(|frame| {
            let unknown = frame.calls.is_empty().then_some((frame, None));
            frame.calls.iter().map(move |call| (frame, Some(call))).chain(unknown)
        })
    }
}

impl fmt::Display for Backtraces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Kernel: {}", harmless(&self.kernel))?;
        if self.slide != "0x0" {
            write!(formatter, ", moved by {}", self.slide)?;
        }
        writeln!(formatter)?;
        if let Some(warning) = self.warning() {
            writeln!(formatter, "\n{warning}")?;
        }
        for cpu in &self.cpus {
            writeln!(formatter, "\n{cpu}")?;
        }
        if self.more_cpus > 0 {
            writeln!(formatter, "\nand {} more CPUs", self.more_cpus)?;
        }
        Ok(())
    }
}

impl fmt::Display for CpuBacktrace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CPU {}, {}", self.cpu, self.condition)?;
        for (number, (frame, call)) in self.calls().enumerate() {
            write!(formatter, "\n{:<4} {:>18} ", format!("#{number}"), frame.address)?;
            if frame.by == By::Scan {
                formatter.write_str("? ")?;
            }
            match call {
                None => formatter.write_str(frame.nameless())?,
                Some(call) => write!(formatter, "{call}")?,
            }
            if let Some(remark) = frame.remark(call) {
                write!(formatter, " ({remark})")?;
            }
        }
        match self.end.text() {
            Some(text) => write!(formatter, "\n     {text}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&harmless(&self.function))?;
        if let Some(offset) = self.offset {
            write!(formatter, "+{offset:#x}")?;
        }
        if self.inlined {
            formatter.write_str(" (inlined)")?;
        }
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(formatter, " at {}:{line}", harmless(file)),
            (Some(file), None) => write!(formatter, " in {}", harmless(file)),
            (None, _) => Ok(()),
        }
    }
}

impl Frame {
    /// A remark about the frame for the reader, at this one of its calls: only at the innermost.
    pub fn remark(&self, call: Option<&Call>) -> Option<&'static str> {
        if !self.calls.first().zip(call).is_none_or(|(first, call)| std::ptr::eq(first, call)) {
            return None;
        }
        match self.by {
            By::BadCall => Some("called an address that has no code"),
            By::Interrupt => Some("was interrupted here"),
            By::Registers | By::FrameInformation | By::FramePointer | By::Scan => None,
        }
    }
}

impl End {
    /// In words; `None` if a backtrace is complete.
    pub fn text(self) -> Option<&'static str> {
        match self {
            End::Outermost => None,
            End::User => Some("was executing a user's program"),
            End::Lost => Some("the stack leads no further: it is overwritten, or not in the dump"),
            End::Loop => Some("the stack leads back to itself"),
            End::Limit => Some("and more"),
        }
    }
}

/// The build id of the crashed kernel, if the dump has one; otherwise empty.
pub fn build_id(dump: &Dump<'_>) -> Vec<u8> {
    let facts = dump.facts();
    let stated = [facts.build_id.as_slice(), dump.found().header.build_id()];
    if let Some(stated) = stated.into_iter().find(|build_id| !build_id.is_empty()) {
        return stated.to_vec();
    }
    let digits = vmcoreinfo(dump, "BUILD-ID").unwrap_or_default();
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect::<Option<_>>().filter(|_| rest.is_empty()).unwrap_or_default()
}

/// The value of a name in VMCOREINFO.
fn vmcoreinfo<'d>(dump: &'d Dump<'_>, name: &str) -> Option<&'d str> {
    let lines = dump.facts().vmcoreinfo.split(|byte| *byte == b'\n');
    let mut values = lines.filter_map(|line| {
        let (key, value) = std::str::from_utf8(line).ok()?.split_once('=')?;
        (key == name).then_some(value.trim())
    });
    values.next()
}

/// Backtraces of a dump, if its kernel is among the given files and folders, or in the usual places. `None`
/// if none was given and none is there, and for an encrypted dump that is not open.
///
/// # Errors
/// If the kernel cannot be used, or none of those given matches.
pub fn trace(dump: &Dump<'_>, given: &[PathBuf]) -> Result<Option<Backtraces>, Error> {
    if matches!(dump.encryption(), Encryption::Encrypted | Encryption::Refused) {
        return Ok(None);
    }
    if let Some(kernel) = find_kernel(&build_id(dump), given) {
        return backtraces(dump, &kernel).map(Some);
    }
    let why = match given {
        [] => return Ok(None),
        // For a single file, report why it cannot be used.
        [file] if !file.is_dir() => {
            backtraces(dump, file)?;
            "it has no build id"
        }
        _ => "the one that crashed is not there",
    };
    let names: Vec<String> = given.iter().map(|path| path.display().to_string()).collect();
    Err(Error::Kernel { kernel: names.join(", "), why: why.to_owned() })
}

/// Backtraces of all CPUs of a dump, from its kernel's ELF file.
///
/// # Errors
/// If the dump is encrypted and not open, its architecture is unknown, or the file cannot be read, is too
/// large, or belongs to another kernel.
pub fn backtraces(dump: &Dump<'_>, kernel: &Path) -> Result<Backtraces, Error> {
    if matches!(dump.encryption(), Encryption::Encrypted | Encryption::Refused) {
        return Err(Error::Encrypted);
    }
    let refuse = |why: String| Error::Kernel { kernel: kernel.display().to_string(), why };
    let unread = |error: io::Error| refuse(error.to_string());
    let Some(arch) = dump.arch() else {
        return Err(refuse("the dump does not say for which architecture it is".to_owned()));
    };
    let elf = Elf::open(kernel).map_err(unread)?;
    let crashed = build_id(dump);
    if u32::from(elf.machine) != arch as u32 {
        return Err(refuse("it is for another architecture than the dump".to_owned()));
    }
    if let Some(own) = elf.build_id().filter(|own| !crashed.is_empty() && *own != crashed) {
        let why =
            format!("its build id is {}, that of the kernel that crashed {}", digits(&own), digits(&crashed));
        return Err(refuse(why));
    }
    let slide = vmcoreinfo(dump, "KERNELOFFSET").and_then(|offset| u64::from_str_radix(offset, 16).ok());
    let slide = slide.unwrap_or(0);
    let mut symbols = symbols::Symbols::of(&elf).map_err(unread)?;
    let has_lines = |elf: &Elf| elf.section(".debug_info").is_some();
    // Symbols and lines may be in a separate file.
    let debug = match symbols.is_empty() && !has_lines(&elf) {
        true => find::linked(kernel, &elf),
        false => None,
    };
    if let Some(debug) = &debug {
        symbols = symbols::Symbols::of(debug).map_err(unread)?;
    }
    let named_by = debug.as_ref().unwrap_or(&elf);
    let sections = frames::Sections::of(&elf).map_err(unread)?;
    let frames = frames::Frames::new(&sections);
    let unwinder = Unwinder { elf: &elf, symbols: &symbols, frames: &frames, slide };
    let walked = walk(dump, arch, &unwinder);

    let addresses: Vec<u64> =
        walked.iter().flat_map(|(_, spots, _)| spots.iter().map(|spot| spot.at)).collect();
    let mut named = match lines::Sections::of(named_by).map_err(unread)? {
        Some(sections) => lines::Lines::new(named_by, &sections).at(&addresses),
        None => Default::default(),
    };
    for address in addresses {
        named.entry(address).or_default();
    }
    let cpus = walked.iter().map(|(state, spots, end)| CpuBacktrace {
        cpu: state.cpu.get(),
        condition: condition_name(condition(state)),
        frames: spots.iter().map(|spot| frame(spot, &symbols, named.get(&spot.at))).collect(),
        end: *end,
    });
    let cpus: Vec<CpuBacktrace> = cpus.collect();
    Ok(Backtraces {
        kernel: kernel.display().to_string(),
        slide: hex(slide),
        stripped: symbols.is_empty() && !has_lines(named_by),
        more_cpus: (dump.facts().cpus.len() - cpus.len()) as u64,
        cpus,
    })
}

/// Each CPU's frames, the crashing CPU first.
fn walk<'d>(dump: &'d Dump<'_>, arch: Arch, unwinder: &Unwinder<'_>) -> Vec<(&'d CpuState, Vec<Spot>, End)> {
    let facts = dump.facts();
    let crashing = facts.crashing(dump.found().header.crashing_cpu.get());
    let others = facts.cpus.iter().filter(|state| Some(state.cpu) != crashing.map(|state| state.cpu));
    let pages = Pages::of(dump);
    let all = crashing.into_iter().chain(others).take(MAX_CPUS);
    all.map(|state| {
        let (spots, end) = if condition(state) == CpuCondition::Silent {
            // Its registers are unknown.
            (Vec::new(), End::Lost)
        } else if is_user(arch, state, unwinder) {
            (Vec::new(), End::User)
        } else {
            let memory = Memory::of(&pages, arch, state, crashing.into_iter());
            unwinder.run(Registers::of(arch, state), &memory)
        };
        (state, spots, end)
    })
    .collect()
}

/// Whether a CPU was executing a user program.
fn is_user(arch: Arch, state: &CpuState, unwinder: &Unwinder<'_>) -> bool {
    let general = |index: usize| state.general.get(index).map_or(0, |register| register.get());
    let [_, sstatus, ..] = state.control;
    match arch {
        // The privilege level in cs.
        Arch::X86_64 => general(17) & 3 == 3,
        // PSTATE.M: EL0, 64 or 32 bits.
        Arch::Aarch64 => general(33) & 0xf == 0,
        // sstatus.SPP, which only tells the mode before the last trap.
        Arch::Riscv64 => {
            let pc = general(0);
            sstatus.get() & 1 << 8 == 0 && pc >> 63 == 0 && !unwinder.is_code(pc)
        }
    }
}

/// A frame with names.
fn frame(spot: &Spot, symbols: &symbols::Symbols, lines: Option<&Vec<lines::Call>>) -> Frame {
    let symbol = symbols.at(spot.at);
    let known = lines.map(Vec::as_slice).unwrap_or_default();
    let mut calls: Vec<Call> = Vec::new();
    for (index, call) in known.iter().enumerate() {
        let last = index + 1 == known.len();
        let (function, offset) = match (&call.function, &symbol) {
            // Some functions have no path in DWARF.
            (Some(function), Some((name, _))) if last && is_path_to(name, function) => (name.clone(), None),
            (Some(function), _) => (function.clone(), None),
            (None, Some((name, offset))) if last => (name.clone(), Some(*offset)),
            (None, _) => ("(unnamed)".to_owned(), None),
        };
        calls.push(Call { function, offset, file: call.file.clone(), line: call.line, inlined: !last });
    }
    if calls.is_empty()
        && let Some((function, offset)) = symbol
    {
        calls.push(Call { function, offset: Some(offset), file: None, line: None, inlined: false });
    }
    Frame { address: hex(spot.address), by: spot.by, calls, in_code: symbols.is_code(spot.at) }
}

/// Whether `name` is the function's name including its modules.
fn is_path_to(name: &str, function: &str) -> bool {
    name.strip_suffix(function).is_some_and(|path| path.ends_with("::"))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
