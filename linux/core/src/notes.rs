//! CPU registers, in the format in which Linux stores them.

use dumpcore::format::note::GENERAL_REGISTERS;
use dumpcore::text::Line;

/// Path of the file that has the address of a CPU's crash note
/// (Documentation/ABI/testing/sysfs-devices-system-cpu).
pub fn path(cpu: u32, line: &mut Line) {
    line.text("/sys/devices/system/cpu/cpu").decimal(cpu.into()).text("/crash_notes");
}

/// The content of that file: a physical address in hexadecimal digits. `None` if it is invalid or impossible
/// for a note.
pub fn address(text: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(text.trim_ascii()).ok()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let address = digits.then(|| u64::from_str_radix(text, 16).ok())??;
    (address != 0 && address.is_multiple_of(4)).then_some(address)
}

/// The first of the given addresses, in order of CPU numbers, at which this kernel does not have the crash
/// note of that CPU: it is from another boot, and other data is there now. 0 is a placeholder for a missing
/// CPU.
pub fn first_stale(named: impl Iterator<Item = u64>, kept: impl Fn(u32) -> Option<u64>) -> Option<u64> {
    let mut named = (0..).zip(named).filter(|(_, note)| *note != 0);
    named.find(|(cpu, note)| kept(*cpu) != Some(*note)).map(|(_, note)| note)
}

/// Number of words in `struct pt_regs` (arch/x86/include/asm/ptrace.h), which are the first ones of
/// `elf_gregset_t` in the same order: r15 to ss.
pub const PT_REGS: usize = 21;

/// Number of words in `elf_gregset_t` on x86_64.
pub const GREGSET: usize = 27;

/// Offset of the registers in `struct elf_prstatus` (include/linux/elfcore.h).
const PR_REG: usize = 112;

/// `CORE` with its terminating zero, padded to four bytes.
const NAME: &[u8] = b"CORE\0\0\0\0";

/// NT_PRSTATUS (include/uapi/linux/elf.h).
const NT_PRSTATUS: u32 = 1;

/// Number of bytes read of a CPU's crash note: header, name, and the structure up to its last register.
pub const NOTE_BYTES: usize = 12 + NAME.len() + PR_REG + GREGSET * 8;

/// The registers in the crash note that a kernel writes for a CPU it stops on the way to kdump
/// (`crash_save_cpu`); `None` if it wrote none, or something else.
pub fn of_crash_note(note: &[u8; NOTE_BYTES]) -> Option<[u64; GENERAL_REGISTERS]> {
    let word = |at: usize| note.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let (name, length, kind) = (word(0)?, word(4)?, word(8)?);
    let described = note.get(12..)?;
    let needed = PR_REG.checked_add(GREGSET.checked_mul(8)?)?;
    if name != 5 || kind != NT_PRSTATUS || (length as usize) < needed || !described.starts_with(NAME) {
        return None;
    }
    let words = described.get(NAME.len()..)?.get(PR_REG..)?.as_chunks::<8>().0;
    let mut registers = [0; GENERAL_REGISTERS];
    for (slot, word) in registers.iter_mut().zip(words).take(GREGSET) {
        *slot = u64::from_le_bytes(*word);
    }
    Some(registers)
}

/// Size of `struct elf_prstatus` in bytes.
const PRSTATUS: usize = 336;

/// Size of a whole crash note in bytes, including the empty note that ends the list.
pub const WHOLE_NOTE: usize = 12 + NAME.len() + PRSTATUS + 12;

/// Writes the note that `crash_save_cpu` would write for a CPU with these registers. drgn reads registers
/// from there.
pub fn to_crash_note(registers: &[u64; GENERAL_REGISTERS], note: &mut [u8; WHOLE_NOTE]) {
    note.fill(0);
    let mut put = |at: usize, bytes: &[u8]| {
        for (slot, byte) in note.iter_mut().skip(at).zip(bytes) {
            *slot = *byte;
        }
    };
    put(0, &(NAME.len() as u32).wrapping_sub(3).to_le_bytes());
    put(4, &(PRSTATUS as u32).to_le_bytes());
    put(8, &NT_PRSTATUS.to_le_bytes());
    put(12, NAME);
    let first = NAME.len().wrapping_add(12).wrapping_add(PR_REG);
    for (number, word) in registers.iter().take(GREGSET).enumerate() {
        put(first.wrapping_add(number.wrapping_mul(8)), &word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> [u8; NOTE_BYTES] {
        let mut note = [0; NOTE_BYTES];
        note[..4].copy_from_slice(&5_u32.to_le_bytes());
        note[4..8].copy_from_slice(&336_u32.to_le_bytes());
        note[8..12].copy_from_slice(&1_u32.to_le_bytes());
        note[12..20].copy_from_slice(NAME);
        for (number, word) in note[20 + PR_REG..].as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *word = (number as u64 + 100).to_le_bytes();
        }
        note
    }

    #[test]
    fn a_crash_note_gives_its_27_registers_in_their_order() {
        let registers = of_crash_note(&note()).unwrap();
        assert_eq!(
            registers[..GREGSET],
            core::array::from_fn::<u64, GREGSET, _>(|number| number as u64 + 100)
        );
        assert_eq!(registers[GREGSET..], [0; GENERAL_REGISTERS - GREGSET]);
    }

    #[test]
    fn a_crash_note_that_is_written_is_read_as_the_same_registers() {
        let registers =
            core::array::from_fn(|number| if number < GREGSET { u64::MAX - number as u64 } else { 0 });
        let mut whole = [0xff; WHOLE_NOTE];
        to_crash_note(&registers, &mut whole);
        assert_eq!(of_crash_note(whole.first_chunk().unwrap()), Some(registers));
        // The list ends after it (include/linux/elfcore.h, crash_core.h: two headers, the name, the
        // structure).
        assert_eq!((whole.len(), &whole[356..]), (368, &[0; 12][..]));
        assert_eq!(whole[..NOTE_BYTES - GREGSET * 8], note()[..NOTE_BYTES - GREGSET * 8]);
    }

    #[test]
    fn a_crash_notes_place_is_read_from_the_kernels_own_file() {
        let mut line = Line::new();
        path(17, &mut line);
        assert_eq!(line.as_str(), "/sys/devices/system/cpu/cpu17/crash_notes");
        assert_eq!(address(b"7fc12000\n"), Some(0x7fc1_2000));
        assert_eq!(address(b"1000000000\n"), Some(0x10_0000_0000));
        for text in [
            &b""[..],
            b"\n",
            b"0\n",
            b"7fc12002\n",
            b"-1\n",
            b"+4\n",
            b"none\n",
            b"\xff",
            b"11112222333344440\n",
        ] {
            assert_eq!(address(text), None, "{text:?}");
        }
    }

    #[test]
    fn notes_of_another_boot_are_told_from_those_of_this_one() {
        let kept = |cpu: u32| [Some(0x1000), None, Some(0x3000)].get(cpu as usize).copied().flatten();
        let stale = |named: &[u64]| first_stale(named.iter().copied(), kept);
        assert_eq!(stale(&[]), None);
        assert_eq!(stale(&[0x1000, 0, 0x3000]), None);
        assert_eq!(stale(&[0x1000]), None);
        assert_eq!(stale(&[0x1000, 0, 0x3004]), Some(0x3004));
        // A CPU without a note, and a CPU that does not exist.
        assert_eq!(stale(&[0x1000, 0x2000]), Some(0x2000));
        assert_eq!(stale(&[0, 0, 0, 0x4000]), Some(0x4000));
        // Addresses of another CPU's note are stale too.
        assert_eq!(stale(&[0x3000, 0, 0x1000]), Some(0x3000));
    }

    #[test]
    fn what_is_no_crash_note_gives_none() {
        assert_eq!(of_crash_note(&[0; NOTE_BYTES]), None);
        for at in [0, 4, 8, 12, 15] {
            let mut spoilt = note();
            spoilt[at] ^= 0x40;
            if at == 4 {
                spoilt[4..8].copy_from_slice(&100_u32.to_le_bytes());
            }
            assert_eq!(of_crash_note(&spoilt), None, "byte {at}");
        }
    }
}
