//! The order in which the kernel comes up.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::{acpi, apic, boot, clock, cpu, interrupts, paging, serial, smp, tables};
use crate::command_line::Options;
use crate::log::log;
use crate::panic::give_up;
use crate::{arm, heap, memory, scenario, witness};

/// The other CPUs may go on.
static READY: AtomicBool = AtomicBool::new(false);

/// From boot.s, on the boot CPU's own stack, with the boot page tables.
#[unsafe(no_mangle)]
extern "C" fn kernel_start(start_info: u32) -> ! {
    serial::init();
    // SAFETY: once, here, on the boot CPU.
    unsafe { tables::load(0) };
    // SAFETY: the number comes from boot.s, and nothing was written since.
    let boot = unsafe { boot::read(start_info) }.unwrap_or_else(|why| give_up(format_args!("{why}")));
    log!("testkernel: starts: {}", boot.command_line);
    let options = Options::parse(boot.command_line)
        .unwrap_or_else(|word| give_up(format_args!("bad word on the command line: {word}")));
    bring_up(boot.ram, boot.rsdp).unwrap_or_else(|why| give_up(format_args!("{why}")));
    log!("testkernel: up cpus={} ram={} MiB", cpu::count(), ram_mib());
    if options.cpu >= cpu::count() {
        give_up(format_args!(
            "bad word on the command line: cpu={}, there are {}",
            options.cpu,
            cpu::count()
        ));
    }
    let armed = arm::arm(&options);
    // Behind all that needs much memory in a row: the witnesses scatter pages over all of it.
    witness::build();
    scenario::prepare(&options, armed);
    READY.store(true, Ordering::Release);
    witness::stand(0)
}

fn bring_up(ram: memory::RamMap, rsdp: u64) -> Result<(), &'static str> {
    memory::init(ram)?;
    // SAFETY: once and in this order, on the boot CPU, while no other runs.
    let acpi = unsafe {
        paging::init()?;
        apic::init()?;
        acpi::read(rsdp)?
    };
    apic::mask_legacy();
    apic::enable();
    apic::connect_nmi();
    interrupts::enable_machine_checks();
    heap::init()?;
    clock::init();
    cpu::init(&acpi.apic_ids[..acpi.cpus]);
    // SAFETY: the first MiB is visible at 0 until the next line; then all CPUs have left it.
    unsafe {
        smp::start_others(acpi.cpus, other_cpu);
        paging::forget_identity();
    }
    Ok(())
}

/// What every other CPU does: waits until the kernel is up, then stands where a crash will find it.
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
