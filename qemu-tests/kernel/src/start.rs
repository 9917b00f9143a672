//! The order in which the kernel starts.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::{self, BootInfo, boot, cpu, interrupts, paging, serial};
use crate::command_line::Options;
use crate::end::give_up;
use crate::log::log;
use crate::scenario::sabotage::Sabotaged;
use crate::{arm, dump, heap, memory, scenario, witness};

/// Set when the other CPUs may continue.
static READY: AtomicBool = AtomicBool::new(false);

/// Called by the architecture's entry, on the boot CPU's own stack, with the boot page tables. Arguments: the
/// address of the boot information, and the machine's number for this CPU, if the entry knows it.
#[unsafe(no_mangle)]
extern "C" fn kernel_start(handed_over: u64, boot_cpu: u64) -> ! {
    dump::lend(&Sabotaged);
    serial::init();
    // SAFETY: once, here, on the boot CPU.
    unsafe { interrupts::load(0) };
    // SAFETY: the numbers come from the entry, and no memory was written since.
    let boot =
        unsafe { boot::read(handed_over, boot_cpu) }.unwrap_or_else(|why| give_up(format_args!("{why}")));
    log!("testkernel: starts: {}", boot.command_line);
    let options = Options::parse(boot.command_line)
        .unwrap_or_else(|word| give_up(format_args!("bad word on the command line: {word}")));
    bring_up(&boot).unwrap_or_else(|why| give_up(format_args!("{why}")));
    log!("testkernel: up cpus={} ram={} MiB", cpu::count(), ram_mib());
    if options.cpu >= cpu::count() {
        give_up(format_args!(
            "bad word on the command line: cpu={}, there are {}",
            options.cpu,
            cpu::count()
        ));
    }
    let armed = arm::arm(&options);
    // After everything that needs contiguous memory: the witnesses scatter pages over all of RAM.
    witness::build(scenario::wait_and_crash);
    scenario::prepare(&options, armed);
    READY.store(true, Ordering::Release);
    witness::stand(0)
}

fn bring_up(boot: &BootInfo) -> Result<(), &'static str> {
    memory::init(boot.ram.clone(), &boot.taken)?;
    // SAFETY: once, on the boot CPU, after memory::init().
    unsafe { arch::bring_up(boot, other_cpu)? };
    heap::init()
}

/// The code of every other CPU: waits until the kernel is up, then waits where a crash will find it.
fn other_cpu(number: usize) -> ! {
    while !READY.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    paging::refresh();
    witness::stand(number)
}

fn ram_mib() -> u64 {
    memory::ram().iter().map(|range| range.end - range.start).sum::<u64>() >> 20
}
