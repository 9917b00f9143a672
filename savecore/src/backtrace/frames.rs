//! Unwinding by call frame information (DWARF 5, section 6.4), from `.debug_frame` or `.eh_frame`.

use std::io;

use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EhFrame, EndianSlice, EvaluationResult, FrameDescriptionEntry,
    LittleEndian, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindOffset, UnwindSection,
    Value, Vendor,
};
use object::elf::EM_AARCH64;

use super::elf::Elf;
use super::memory::Memory;
use super::registers::Registers;

type Slice<'b> = EndianSlice<'b, LittleEndian>;

/// Maximum number of functions with frame information.
const MAX_FUNCTIONS: usize = 4 << 20;

/// Maximum number of operations per expression.
const MAX_OPERATIONS: u32 = 1000;

/// The result of unwinding a frame.
pub(super) enum Left {
    /// The caller.
    Caller(Box<Registers>),
    /// There is no caller.
    Outermost,
}

/// The sections with call frame information.
pub(super) struct Sections {
    debug_frame: Vec<u8>,
    eh_frame: Vec<u8>,
    bases: BaseAddresses,
    machine: u16,
}

impl Sections {
    /// # Errors
    /// If they cannot be read, or are too large.
    pub(super) fn of(elf: &Elf) -> io::Result<Sections> {
        let mut bases = BaseAddresses::default();
        for section in &elf.sections {
            bases = match section.name.as_slice() {
                b".eh_frame" => bases.set_eh_frame(section.address),
                b".text" => bases.set_text(section.address),
                b".got" => bases.set_got(section.address),
                _ => bases,
            };
        }
        let (debug_frame, eh_frame) = (elf.named(".debug_frame")?, elf.named(".eh_frame")?);
        Ok(Sections { debug_frame, eh_frame, bases, machine: elf.machine })
    }
}

/// One of the sections, and an index of its functions.
struct Table<S> {
    section: S,
    /// First address, end address, and offset of the entry; sorted.
    functions: Vec<(u64, u64, usize)>,
}

impl<'b, S: UnwindSection<Slice<'b>>> Table<S>
where
    S::Offset: UnwindOffset<usize>,
{
    /// Indexes all functions; stops at damaged information.
    fn new(section: S, bases: &BaseAddresses) -> Table<S> {
        let mut functions = Vec::new();
        let mut entries = section.entries(bases);
        while let Ok(Some(entry)) = entries.next() {
            let gimli::CieOrFde::Fde(partial) = entry else { continue };
            let Ok(entry) = partial.parse(S::cie_from_offset) else { continue };
            // Functions that the linker removed stay here at address 0.
            if entry.initial_address() == 0 || entry.len() == 0 {
                continue;
            }
            if functions.len() >= MAX_FUNCTIONS {
                break;
            }
            functions.push((entry.initial_address(), entry.end_address(), entry.offset()));
        }
        functions.sort_unstable();
        Table { section, functions }
    }

    fn find(&self, bases: &BaseAddresses, address: u64) -> Option<FrameDescriptionEntry<Slice<'b>>> {
        let behind = self.functions.partition_point(|(begin, _, _)| *begin <= address);
        let (_, end, offset) = self.functions.get(behind.checked_sub(1)?)?;
        if address >= *end {
            return None;
        }
        self.section.fde_from_offset(bases, (*offset).into(), S::cie_from_offset).ok()
    }
}

/// All frame information.
pub(super) struct Frames<'b> {
    debug_frame: Table<DebugFrame<Slice<'b>>>,
    eh_frame: Table<EhFrame<Slice<'b>>>,
    bases: &'b BaseAddresses,
}

impl<'b> Frames<'b> {
    pub(super) fn new(sections: &'b Sections) -> Frames<'b> {
        let mut debug_frame = DebugFrame::new(&sections.debug_frame, LittleEndian);
        let mut eh_frame = EhFrame::new(&sections.eh_frame, LittleEndian);
        debug_frame.set_address_size(8);
        eh_frame.set_address_size(8);
        if sections.machine == EM_AARCH64 {
            // A pseudo-register tells whether a return address is signed.
            debug_frame.set_vendor(Vendor::AArch64);
            eh_frame.set_vendor(Vendor::AArch64);
        }
        let bases = &sections.bases;
        Frames { debug_frame: Table::new(debug_frame, bases), eh_frame: Table::new(eh_frame, bases), bases }
    }

    /// Unwinds a frame. `at` is an address of the file within the frame's current instruction. `None` if
    /// there is no information for it, or a required value is unknown.
    pub(super) fn leave(&self, registers: &Registers, at: u64, memory: &Memory<'_>) -> Option<Left> {
        if let Some(entry) = self.debug_frame.find(self.bases, at) {
            return leave(&self.debug_frame.section, &entry, self.bases, registers, at, memory);
        }
        let entry = self.eh_frame.find(self.bases, at)?;
        leave(&self.eh_frame.section, &entry, self.bases, registers, at, memory)
    }
}

fn leave<'b, S: UnwindSection<Slice<'b>>>(
    section: &S,
    entry: &FrameDescriptionEntry<Slice<'b>>,
    bases: &BaseAddresses,
    registers: &Registers,
    at: u64,
    memory: &Memory<'_>,
) -> Option<Left> {
    let mut context = UnwindContext::new();
    let row = entry.unwind_info_for_address(section, bases, &mut context, at).ok()?;
    let encoding = entry.cie().encoding();
    let evaluate = |expression: &UnwindExpression<usize>, initial: Option<u64>| {
        let mut evaluation = expression.get(section).ok()?.evaluation(encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    let mut bytes = [0; 8];
                    let wanted = bytes.get_mut(..usize::from(size))?;
                    if !memory.read(address, wanted) {
                        return None;
                    }
                    evaluation.resume_with_memory(Value::Generic(u64::from_le_bytes(bytes))).ok()?
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(registers.get(register.0)?)).ok()?
                }
                _ => return None,
            };
        }
        evaluation.value_result()?.to_u64(u64::MAX).ok()
    };
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            registers.get(register.0)?.wrapping_add_signed(*offset)
        }
        CfaRule::Expression(expression) => evaluate(expression, None)?,
    };
    let value = |rule: &RegisterRule<usize>, own: Option<u64>| match rule {
        RegisterRule::SameValue => own,
        RegisterRule::Offset(offset) => memory.word(cfa.wrapping_add_signed(*offset)),
        RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(*offset)),
        RegisterRule::Register(Register(number)) => registers.get(*number),
        RegisterRule::Expression(expression) => memory.word(evaluate(expression, Some(cfa))?),
        RegisterRule::ValExpression(expression) => evaluate(expression, Some(cfa)),
        RegisterRule::Constant(value) => Some(*value),
        RegisterRule::Undefined | RegisterRule::Architectural => None,
    };
    let mut caller = Box::new(registers.clone());
    // Registers without a rule are unchanged by the callee, except for the stack pointer.
    caller.set(caller.sp_number(), Some(cfa));
    for (register, rule) in row.registers() {
        caller.set(register.0, value(rule, registers.get(register.0)));
    }
    let return_register = entry.cie().return_address_register();
    caller.pc = match row.register(return_register) {
        Some(RegisterRule::Undefined) => return Some(Left::Outermost),
        Some(rule) => value(&rule, registers.get(return_register.0))?,
        // A leaf function leaves it in its register, if it uses one at all.
        None => registers.link().filter(|_| Some(return_register.0) != registers.pc_number())?,
    };
    Some(Left::Caller(caller))
}
