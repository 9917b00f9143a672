//! Synthetic stacks, on all architectures.

use std::collections::BTreeMap;

use dumpcore::format::header::Arch;
use dumpcore::format::note::CpuState;
use dumpcore::format::{BLOCK_SIZE, Block};
use object::elf::{
    EM_AARCH64, EM_RISCV, EM_X86_64, SHF_ALLOC, SHF_EXECINSTR, SHT_PROGBITS, SHT_STRTAB, SHT_SYMTAB,
};
use proptest::prelude::*;
use tempfile::NamedTempFile;
use zerocopy::FromZeros;

use super::elf::Elf;
use super::frames::{Frames, Sections};
use super::memory::{Memory, Pages};
use super::registers::Registers;
use super::symbols::Symbols;
use super::unwind::{By, End, MAX_FRAMES, Spot, Unwinder};

/// Address of the code, and size of a function.
const CODE: u64 = 0xffff_ffff_8010_0000;
const FUNCTION: u64 = 64;
const FUNCTIONS: u64 = 40;
/// Offset in a function after its call.
const BEHIND: u64 = 32;
/// Address of the stack; the tests' CPUs use physical addresses.
const STACK: u64 = 0x20_0000;

const ARCHES: [Arch; 3] = [Arch::X86_64, Arch::Aarch64, Arch::Riscv64];

/// The code of all functions: a call in the middle of each.
fn code(arch: Arch) -> Vec<u8> {
    let call: &[u8] = match arch {
        Arch::X86_64 => &[0xe8, 1, 2, 3, 4],
        Arch::Aarch64 => &[1, 0, 0, 0x94],
        Arch::Riscv64 => &[0xef, 0, 0, 0],
    };
    let mut code = vec![0; (FUNCTION * FUNCTIONS) as usize];
    for function in code.chunks_exact_mut(FUNCTION as usize) {
        function[BEHIND as usize - call.len()..BEHIND as usize].copy_from_slice(call);
    }
    code
}

fn uleb(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        bytes.push(if number == 0 { byte } else { byte | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

/// DWARF numbers of stack pointer and return address.
fn numbers(arch: Arch) -> (u8, u8) {
    match arch {
        Arch::X86_64 => (7, 16),
        Arch::Aarch64 => (31, 30),
        Arch::Riscv64 => (2, 1),
    }
}

/// Call frame information: each function's frame has a number of words; the last one is the return address
/// (DWARF 5, section 6.4.1; version 3 of the entries).
fn debug_frame(arch: Arch, words: &[u64]) -> Vec<u8> {
    fn entry(bytes: &mut Vec<u8>, mut body: Vec<u8>) {
        body.resize(body.len().next_multiple_of(4), 0);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
    }
    let (sp, ra) = numbers(arch);
    let mut bytes = Vec::new();
    // Version, no augmentation, alignments of code and data, the return address's register; then
    // DW_CFA_def_cfa and DW_CFA_offset.
    let head = [&u32::MAX.to_le_bytes()[..], &[3, 0, 1, 0x78, ra], &[0x0c, sp, 8], &[0x80 | ra, 1]].concat();
    entry(&mut bytes, head);
    for (number, words) in (0..).zip(words) {
        let place = [CODE + number * FUNCTION, FUNCTION].map(u64::to_le_bytes).concat();
        // DW_CFA_def_cfa_offset.
        entry(&mut bytes, [&[0; 4][..], &place, &[0x0e], &uleb(words * 8)].concat());
    }
    bytes
}

/// Name, type, flags, address, linked section and size of entries of a section.
type Head = (&'static str, u32, u64, u64, u32, u64);

/// An ELF file with these sections.
fn elf_file(machine: u16, sections: &[(Head, Vec<u8>)]) -> Vec<u8> {
    let mut file = vec![0; 64];
    let mut headers = vec![0; 64];
    let mut names = vec![0];
    for ((name, kind, flags, address, link, entry), bytes) in sections {
        file.resize(file.len().next_multiple_of(8), 0);
        let mut header = Vec::new();
        header.extend((names.len() as u32).to_le_bytes());
        header.extend(kind.to_le_bytes());
        for word in [*flags, *address, file.len() as u64, bytes.len() as u64] {
            header.extend(word.to_le_bytes());
        }
        header.extend(link.to_le_bytes());
        header.extend([0; 4]);
        header.extend(8_u64.to_le_bytes());
        header.extend(entry.to_le_bytes());
        headers.extend(header);
        names.extend(name.bytes().chain([0]));
        file.extend(bytes);
    }
    let mut last = [0; 64];
    last[4..8].copy_from_slice(&SHT_STRTAB.to_le_bytes());
    last[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
    last[32..40].copy_from_slice(&(names.len() as u64).to_le_bytes());
    headers.extend(last);
    file.extend(names);
    file.resize(file.len().next_multiple_of(8), 0);
    let at = file.len() as u64;
    let count = sections.len() as u16 + 2;
    file.extend(headers);
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file[16..18].copy_from_slice(&2_u16.to_le_bytes());
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    file[40..48].copy_from_slice(&at.to_le_bytes());
    for (place, number) in [(52, 64), (58, 64), (60, count), (62, count - 1)] {
        file[place..place + 2].copy_from_slice(&number.to_le_bytes());
    }
    file
}

/// A kernel's file: code, symbols `f0`, `f1` and so on, and call frame information.
fn kernel(arch: Arch, frames: Vec<u8>) -> Vec<u8> {
    let mut symbols = vec![0; 24];
    let mut names = vec![0];
    for number in 0..FUNCTIONS {
        symbols.extend((names.len() as u32).to_le_bytes());
        symbols.extend([2, 0, 1, 0]);
        symbols.extend([CODE + number * FUNCTION, FUNCTION].map(u64::to_le_bytes).concat());
        names.extend(format!("f{number}\0").bytes());
    }
    let machine = match arch {
        Arch::X86_64 => EM_X86_64,
        Arch::Aarch64 => EM_AARCH64,
        Arch::Riscv64 => EM_RISCV,
    };
    let executable = u64::from(SHF_ALLOC | SHF_EXECINSTR);
    elf_file(
        machine,
        &[
            ((".text", SHT_PROGBITS, executable, CODE, 0, 0), code(arch)),
            ((".symtab", SHT_SYMTAB, 0, 0, 3, 24), symbols),
            ((".strtab", SHT_STRTAB, 0, 0, 0, 0), names),
            ((".debug_frame", SHT_PROGBITS, 0, 0, 0, 0), frames),
        ],
    )
}

/// A CPU at `pc`, with these values of stack pointer, frame pointer and return address.
fn cpu(arch: Arch, pc: u64, sp: u64, fp: u64, link: u64) -> CpuState {
    let mut state = CpuState::new_zeroed();
    let places: &[(usize, u64)] = match arch {
        Arch::X86_64 => &[(16, pc), (19, sp), (4, fp)],
        Arch::Aarch64 => &[(32, pc), (31, sp), (29, fp), (30, link)],
        Arch::Riscv64 => &[(0, pc), (2, sp), (8, fp), (1, link)],
    };
    for (place, value) in places {
        state.general[*place] = (*value).into();
    }
    state
}

/// The frames of a CPU whose stack has these words from [`STACK`] on.
fn unwind(arch: Arch, file: &[u8], state: &CpuState, stack: &[u64]) -> (Vec<Spot>, End) {
    let mut pages: BTreeMap<u64, Box<Block>> = BTreeMap::new();
    for (word, address) in stack.iter().zip((STACK..).step_by(8)) {
        let page = pages.entry(address / 4096).or_insert_with(|| Box::new([0; BLOCK_SIZE]));
        page[(address % 4096) as usize..][..8].copy_from_slice(&word.to_le_bytes());
    }
    let pages = Pages::new(move |pfn| pages.get(&pfn).cloned());
    let memory = Memory::physical(&pages);
    let stored = NamedTempFile::new().unwrap();
    std::fs::write(stored.path(), file).unwrap();
    let elf = Elf::open(stored.path()).unwrap();
    let symbols = Symbols::of(&elf).unwrap();
    let sections = Sections::of(&elf).unwrap();
    let frames = Frames::new(&sections);
    let unwinder = Unwinder { elf: &elf, symbols: &symbols, frames: &frames, slide: 0 };
    unwinder.run(Registers::of(arch, state), &memory)
}

fn returns(function: u64) -> u64 {
    CODE + function * FUNCTION + BEHIND
}

/// Return addresses of all frames except the first.
fn callers(spots: &[Spot]) -> Vec<u64> {
    spots.iter().skip(1).map(|spot| spot.address).collect()
}

fn arches() -> impl Strategy<Value = Arch> {
    prop::sample::select(ARCHES.to_vec())
}

/// Words that are not addresses of code.
fn junk(seed: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

proptest! {
    #[test]
    fn frames_are_left_as_the_compiler_wrote_down(
        arch in arches(), sizes in prop::collection::vec(1_u64..20, FUNCTIONS as usize),
        chain in prop::collection::vec(0..FUNCTIONS, 1..30),
    ) {
        let file = kernel(arch, debug_frame(arch, &sizes));
        let mut stack = Vec::new();
        for (index, function) in chain.iter().enumerate() {
            let words = sizes[*function as usize];
            stack.extend((1..words).map(|word| junk(word + index as u64)));
            stack.push(chain.get(index + 1).map_or(0, |caller| returns(*caller)));
        }
        let state = cpu(arch, returns(chain[0]), STACK, 0x1001, 0);
        let (spots, end) = unwind(arch, &file, &state, &stack);
        let expected: Vec<u64> = chain.iter().skip(1).map(|function| returns(*function)).collect();
        prop_assert_eq!(callers(&spots), expected);
        prop_assert_eq!(end, End::Outermost);
        prop_assert!(spots.iter().skip(1).all(|spot| spot.by == By::FrameInformation));
    }

    #[test]
    fn without_the_compilers_word_frame_pointers_are_followed_and_without_these_the_stack_is_searched(
        arch in arches(), chain in prop::collection::vec((0..FUNCTIONS, 2_u64..20), 1..20), pointers: bool,
    ) {
        let file = kernel(arch, Vec::new());
        // Each frame: the caller's frame pointer and the return address at its end.
        let ends: Vec<u64> = chain.iter().scan(STACK, |at, (_, words)| {
            *at += words * 8;
            Some(*at)
        }).collect();
        let pointer = |index: usize| ends.get(index).map_or(0, |end| if arch == Arch::Riscv64 { *end } else { end - 16 });
        let mut stack = Vec::new();
        for (index, (_, words)) in chain.iter().enumerate() {
            stack.extend((2..*words).map(|word| junk(word + index as u64)));
            stack.push(if pointers { pointer(index + 1) } else { junk(index as u64) });
            stack.push(chain.get(index + 1).map_or(0, |(caller, _)| returns(*caller)));
        }
        let fp = if pointers { pointer(0) } else { 0x1001 };
        let state = cpu(arch, returns(chain[0].0), STACK, fp, 0);
        let (spots, end) = unwind(arch, &file, &state, &stack);
        let expected: Vec<u64> = chain.iter().skip(1).map(|(function, _)| returns(*function)).collect();
        prop_assert_eq!(callers(&spots), expected);
        let (by, why) = if pointers { (By::FramePointer, End::Outermost) } else { (By::Scan, End::Lost) };
        prop_assert_eq!(end, why);
        prop_assert!(spots.iter().skip(1).all(|spot| spot.by == by), "{:?}", spots);
    }

    #[test]
    fn whatever_is_on_the_stack_and_in_the_kernels_file_a_backtrace_ends(
        arch in arches(), pc in 0..FUNCTION * FUNCTIONS, sp in 0_u64..512, fp in 0_u64..512,
        stack in prop::collection::vec(prop_oneof![
            (0..FUNCTION * FUNCTIONS).prop_map(|inside| CODE + inside),
            (0_u64..600).prop_map(|word| STACK + word * 8),
            any::<u64>(),
        ], 0..512),
        spoiled in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
    ) {
        let sizes = vec![3; FUNCTIONS as usize];
        let mut frames = debug_frame(arch, &sizes);
        for (place, byte) in spoiled {
            let place = place.index(frames.len());
            frames[place] = byte;
        }
        let state = cpu(arch, CODE + pc, STACK + sp * 8, STACK + fp * 8, CODE);
        let (spots, _) = unwind(arch, &kernel(arch, frames), &state, &stack);
        prop_assert!((1..=MAX_FRAMES).contains(&spots.len()));
    }
}

#[test]
fn the_caller_of_an_address_without_code_is_found() {
    for arch in ARCHES {
        let sizes = vec![2; FUNCTIONS as usize];
        let file = kernel(arch, debug_frame(arch, &sizes));
        // x86_64 pushes the return address; the others keep it in a register.
        let pushed = if arch == Arch::X86_64 { vec![returns(5)] } else { Vec::new() };
        let stack = [pushed, vec![1, returns(6), 2, 0]].concat();
        let (spots, end) = unwind(arch, &file, &cpu(arch, 0, STACK, 0, returns(5)), &stack);
        let found: Vec<_> = spots.iter().map(|spot| (spot.address, spot.by)).collect();
        let expected = [(0, By::Registers), (returns(5), By::BadCall), (returns(6), By::FrameInformation)];
        assert_eq!((found.as_slice(), end), (&expected[..], End::Outermost), "{arch:?}");
    }
}

/// Interrupt frames replace a return address, or follow an error code; the error code may be zero.
#[test]
fn after_a_handler_that_the_processor_called_the_backtrace_continues_where_the_kernel_was_interrupted() {
    const SELECTORS: [(u64, u64); 2] = [(8, 0), (0x28, 0x30)];
    let file = kernel(Arch::X86_64, debug_frame(Arch::X86_64, &vec![2; FUNCTIONS as usize]));
    let state = cpu(Arch::X86_64, returns(1), STACK, 0x1001, 0);
    // An address in the middle of a function, not after a call.
    let interrupted = CODE + 7 * FUNCTION + 3;
    for code in [None, Some(0), Some(2), Some(0x1_0018)] {
        for (cs, ss) in SELECTORS {
            let pushed = |rip, cs, rsp, ss| [code.unwrap_or(rip), rip, cs, 0x246, rsp, ss];
            let skip = usize::from(code.is_none());
            let stack = |rip, cs, ss| {
                let head = [junk(1), returns(2), junk(2)];
                let rsp = STACK + 8 * (head.len() + 6 - skip + 1) as u64;
                let tail = [junk(9), junk(3), returns(5), junk(4), 0];
                [&head[..], &pushed(rip, cs, rsp, ss)[skip..], &tail].concat()
            };
            let (spots, end) = unwind(Arch::X86_64, &file, &state, &stack(interrupted, cs, ss));
            let found: Vec<_> = spots.iter().skip(1).map(|spot| (spot.address, spot.at, spot.by)).collect();
            let expected = [
                (returns(2), returns(2) - 1, By::FrameInformation),
                (interrupted, interrupted, By::Interrupt),
                (returns(5), returns(5) - 1, By::FrameInformation),
            ];
            assert_eq!((found.as_slice(), end), (&expected[..], End::Outermost), "{code:?} {cs:#x}");

            // A user program has no kernel frames.
            let (spots, end) = unwind(Arch::X86_64, &file, &state, &stack(0x40_1000, cs | 3, ss | 3));
            assert_eq!((callers(&spots), end), (vec![returns(2)], End::User), "{code:?} {cs:#x}");
            // Other data is not mistaken for an interrupt frame.
            let (spots, _) = unwind(Arch::X86_64, &file, &state, &stack(interrupted, cs | 3, ss));
            assert!(spots.iter().all(|spot| spot.by != By::Interrupt), "{code:?} {cs:#x} {spots:?}");
        }
    }
}

#[test]
fn a_backtrace_ends_in_the_function_that_the_kernel_is_entered_by_whatever_is_on_the_stack() {
    for arch in ARCHES {
        for frames in [Vec::new(), debug_frame(arch, &vec![2; FUNCTIONS as usize])] {
            let mut file = kernel(arch, frames);
            // The entry is in function 4, whose caller's address was never written; there are leftovers above
            // it.
            file[24..32].copy_from_slice(&(CODE + 4 * FUNCTION).to_le_bytes());
            let stack = [junk(1), returns(4), junk(2), junk(3), returns(6), returns(7)];
            let (spots, end) = unwind(arch, &file, &cpu(arch, returns(1), STACK, 0x1001, 0), &stack);
            assert_eq!((callers(&spots), end), (vec![returns(4)], End::Outermost), "{arch:?}");
        }
    }
}

#[test]
fn a_signed_return_address_is_read_without_its_signature() {
    let file = kernel(Arch::Aarch64, debug_frame(Arch::Aarch64, &vec![2; FUNCTIONS as usize]));
    let signed = returns(6) & !(0x7f7f << 48) | 0x1234 << 48 | 1 << 55;
    let stack = [1, signed, 2, 0];
    let (spots, end) = unwind(Arch::Aarch64, &file, &cpu(Arch::Aarch64, returns(5), STACK, 0, 0), &stack);
    assert_eq!((callers(&spots), end), (vec![returns(6)], End::Outermost));
}

/// A stripped kernel, with only these sections besides its code.
fn stripped(more: &[(Head, Vec<u8>)]) -> Vec<u8> {
    let executable = u64::from(SHF_ALLOC | SHF_EXECINSTR);
    let text = ((".text", SHT_PROGBITS, executable, CODE, 0, 0), code(Arch::X86_64));
    elf_file(EM_X86_64, &[&[text], more].concat())
}

fn stored(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn a_stripped_kernel_is_told_of_and_its_code_is_not_called_something_else() {
    let symbols = Symbols::of(&Elf::open(stored(&stripped(&[])).path()).unwrap()).unwrap();
    assert!(symbols.is_empty());
    let spot = |at: u64| Spot { at, address: at, by: By::Registers };
    let frames = [spot(CODE + 5), spot(0x1000)].map(|spot| super::frame(&spot, &symbols, None));
    let told = frames.each_ref().map(super::Frame::nameless);
    assert_eq!(told, ["(no symbol)", "(not in the kernel's code)"]);
    let cpu =
        super::CpuBacktrace { cpu: 0, condition: "crashing", frames: frames.to_vec(), end: End::Outermost };
    let all = super::Backtraces {
        kernel: "vmlinuz".to_owned(),
        slide: "0x0".to_owned(),
        cpus: vec![cpu],
        more_cpus: 0,
        stripped: true,
    };
    let text = all.to_string();
    assert!(
        text.contains("\nvmlinuz has no symbols, so that no function has a name: give the kernel as it was"),
        "{text}"
    );
    let whole = Symbols::of(&Elf::open(stored(&kernel(Arch::X86_64, Vec::new())).path()).unwrap()).unwrap();
    assert!(!whole.is_empty());
}

#[test]
fn symbols_that_were_taken_out_are_found_by_their_link_if_they_are_of_the_same_build() {
    let note = |id: u8| {
        let bytes =
            [&4_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), &3_u32.to_le_bytes(), b"GNU\0", &[id; 4]]
                .concat();
        ((".note.gnu.build-id", object::elf::SHT_NOTE, 0, 0, 0, 0), bytes)
    };
    let link =
        |name: &str| ((".gnu_debuglink", SHT_PROGBITS, 0, 0, 0, 0), [name.as_bytes(), &[0; 4]].concat());
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    put("beside.debug", &stripped(&[note(1)]));
    put(".debug/hidden.debug", &stripped(&[note(1)]));
    put("other.debug", &stripped(&[note(2)]));
    for (name, is_found) in [
        ("beside.debug", true),
        ("hidden.debug", true),
        ("other.debug", false),
        ("absent.debug", false),
        ("../beside.debug", false),
        ("", false),
    ] {
        let path = put("vmlinux", &stripped(&[note(1), link(name)]));
        let elf = Elf::open(&path).unwrap();
        assert_eq!(super::find::linked(&path, &elf).is_some(), is_found, "{name}");
    }
}

#[test]
fn sections_that_are_compressed_in_the_old_way_are_read_like_others() {
    use std::io::Write;
    let lines = b"src/main.rs\0".repeat(1000);
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&lines).unwrap();
    let packed = packed.finish().unwrap();
    let section = |bytes: Vec<u8>| ((".zdebug_str", SHT_PROGBITS, 0, 0, 0, 0), bytes);
    let read = |bytes: Vec<u8>| {
        let file = stored(&stripped(&[section(bytes)]));
        let elf = Elf::open(file.path()).unwrap();
        assert!(elf.section(".debug_str").is_some_and(|section| elf.place(section).is_none()));
        elf.named(".debug_str")
    };
    let head = |size: u64| [b"ZLIB", &size.to_be_bytes()[..], &packed].concat();
    assert!(read(head(lines.len() as u64)).unwrap() == lines);
    // A forged size takes no memory.
    assert_eq!(read(head(100)).unwrap().len(), 100);
    assert!(read(head(u64::MAX)).unwrap_err().to_string().contains("larger than 512 MiB"));
    for bytes in [b"ZLIB".to_vec(), packed.clone(), vec![0]] {
        assert_eq!(read(bytes).unwrap_err().to_string(), "a compressed section has no header");
    }
    // The usual name takes precedence.
    let plain = ((".debug_str", SHT_PROGBITS, 0, 0, 0, 0), b"plain".to_vec());
    let file = stored(&stripped(&[section(head(9)), plain]));
    assert_eq!(Elf::open(file.path()).unwrap().named(".debug_str").unwrap(), b"plain");
}
