//! This CPU's local APIC, and its model-specific registers.

use dump_linux::apic::LocalApic;

use crate::kernel;

/// Where the local APIC is, and how it is reached (IA32_APIC_BASE).
const APIC_BASE: u32 = 0x1b;

/// Of that: by model-specific registers (x2APIC), of which the first is at this number.
const IS_X2APIC: u64 = 1 << 10;
const X2APIC: u32 = 0x800;

/// The command register: its lower half, of which a write sends, with the bit that is set until that is done; and the upper half, and
/// where who it is for stands there. As a model-specific register it is one, and who it is for fills the upper half.
const COMMAND: u32 = 0x300;
const IS_SENDING: u32 = 1 << 12;
const COMMAND_TO: u32 = 0x310;
const TO: u32 = 24;

/// How often that bit is looked at, at most: some milliseconds long.
const LOOKS: u32 = 10_000;

/// That of the CPU that this runs on. None of it, if the kernel uses none.
pub(crate) struct OwnApic;

impl OwnApic {
    /// Whether the kernel uses one, and reaches it by model-specific registers.
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
            // SAFETY: the kernel has the page of registers mapped there for good, and they are words, 16 bytes apart.
            Some(Way::Memory(registers)) => unsafe {
                registers.wrapping_add(offset as usize).cast::<u32>().read_volatile()
            },
            Some(Way::Model) => model_register(X2APIC.wrapping_add(offset >> 4)) as u32,
            None => 0,
        }
    }

    fn write(&self, offset: u32, value: u32) {
        match OwnApic::way() {
            // SAFETY: as above; what is written sends NMIs, which are handled as long as anything is armed, or masks an entry.
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

/// A model-specific register. The callers name ones that this processor has.
pub(crate) fn model_register(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads (AMD64 volume 2, appendix A; Intel SDM 4).
    unsafe {
        core::arch::asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a register of the x2APIC, after all that was stored before: other than in memory, that is not in order by itself.
fn write_model_register(number: u32, value: u64) {
    // SAFETY: OwnApic's write() says what it does.
    unsafe {
        core::arch::asm!("mfence", "lfence", "wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}
