//! This CPU's local APIC and model-specific registers.

use dump_linux::apic::LocalApic;

use crate::kernel;

/// Base address and mode of the local APIC (IA32_APIC_BASE).
const APIC_BASE: u32 = 0x1b;

/// In that: access by model-specific registers (x2APIC), which begin at this number.
const IS_X2APIC: u64 = 1 << 10;
const X2APIC: u32 = 0x800;

/// The command register. A write to the lower half sends the command; the busy bit is set until that is done.
/// The upper half has the destination in these bits. In x2APIC mode it is one register, and the destination
/// fills its upper half.
const COMMAND: u32 = 0x300;
const IS_SENDING: u32 = 1 << 12;
const COMMAND_TO: u32 = 0x310;
const TO: u32 = 24;

/// Maximum number of polls of the busy bit: some milliseconds.
const LOOKS: u32 = 10_000;

/// The current CPU's local APIC. It does nothing if the kernel uses none.
pub(crate) struct OwnApic;

impl OwnApic {
    /// How the kernel accesses the local APIC, if it uses one.
    fn way() -> Option<Way> {
        let registers = kernel::local_apic()?;
        let is_x2apic = model_register(APIC_BASE) & IS_X2APIC != 0;
        Some(if is_x2apic { Way::Model } else { Way::Memory(registers.as_ptr()) })
    }
}

enum Way {
    Memory(*mut u8),
    Model,
}

impl LocalApic for OwnApic {
    fn read(&self, offset: u32) -> u32 {
        match OwnApic::way() {
            // SAFETY: the kernel maps the page of registers there for good; they are words, 16 bytes apart.
            Some(Way::Memory(registers)) => unsafe {
                registers.wrapping_add(offset as usize).cast::<u32>().read_volatile()
            },
            Some(Way::Model) => model_register(X2APIC.wrapping_add(offset >> 4)) as u32,
            None => 0,
        }
    }

    fn write(&self, offset: u32, value: u32) {
        match OwnApic::way() {
            // SAFETY: as above. The write sends NMIs, which are handled as long as anything is armed, or
            // masks an entry.
            Some(Way::Memory(registers)) => unsafe {
                registers.wrapping_add(offset as usize).cast::<u32>().write_volatile(value);
            },
            Some(Way::Model) => write_model_register(X2APIC.wrapping_add(offset >> 4), value.into()),
            None => {}
        }
    }

    fn send(&self, to: u32, command: u32) {
        if let Some(Way::Model) = OwnApic::way() {
            let value = u64::from(to) << 32 | u64::from(command);
            return write_model_register(X2APIC.wrapping_add(COMMAND >> 4), value);
        }
        for _ in 0..LOOKS {
            if self.read(COMMAND) & IS_SENDING == 0 {
                break;
            }
            core::hint::spin_loop();
        }
        self.write(COMMAND_TO, to << TO);
        self.write(COMMAND, command);
    }
}

/// This CPU's machine-check banks.
pub(crate) struct OwnBanks;

impl dump_linux::mce::ModelRegisters for OwnBanks {
    fn read(&self, number: u32) -> u64 {
        model_register(number)
    }
}

/// Reads a model-specific register. Callers only name registers that this processor has.
pub(crate) fn model_register(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads (AMD64 volume 2, appendix A; Intel SDM 4).
    unsafe {
        core::arch::asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an x2APIC register after all earlier stores: unlike a write to memory, it is not ordered by itself.
fn write_model_register(number: u32, value: u64) {
    // SAFETY: see OwnApic::write() for its effects.
    unsafe {
        core::arch::asm!("mfence", "lfence", "wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}
