//! Descriptor tables of each CPU: segments, task state with stacks, exceptions.

use core::cell::UnsafeCell;

use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use super::cpu::MAX_CPUS;
use super::frame::{DOUBLE_FAULT, MACHINE_CHECK, NMI, WAKE};
use super::{irq, stack};
use crate::memory::linker_symbol;

/// Distance between stubs in vectors.s, in bytes.
const STUB: u64 = 16;
/// Entries of the interrupt stack table, numbered from 0.
const NMI_STACK: u16 = 0;
const DOUBLE_FAULT_STACK: u16 = 1;
const MACHINE_CHECK_STACK: u16 = 2;

struct Tables {
    segments: GlobalDescriptorTable,
    task: TaskStateSegment,
    exceptions: InterruptDescriptorTable,
}

struct Slot(UnsafeCell<Tables>);
// SAFETY: only its own CPU writes each slot, once, before using it.
unsafe impl Sync for Slot {}

static TABLES: [Slot; MAX_CPUS] = [const {
    Slot(UnsafeCell::new(Tables {
        segments: GlobalDescriptorTable::new(),
        task: TaskStateSegment::new(),
        exceptions: InterruptDescriptorTable::new(),
    }))
}; MAX_CPUS];

/// Fills and loads this CPU's tables. The descriptors of the crate have their accessed bits preset.
///
/// # Safety
/// Once on each CPU, with its own number.
pub(crate) unsafe fn load(cpu: usize) {
    // SAFETY: this CPU's slot, used once.
    let tables: &'static mut Tables = unsafe { &mut *TABLES[cpu].0.get() };
    let [nmi, double_fault, machine_check] = stack::exception_tops(cpu);
    tables.task.interrupt_stack_table[usize::from(NMI_STACK)] = VirtAddr::new(nmi);
    tables.task.interrupt_stack_table[usize::from(DOUBLE_FAULT_STACK)] = VirtAddr::new(double_fault);
    tables.task.interrupt_stack_table[usize::from(MACHINE_CHECK_STACK)] = VirtAddr::new(machine_check);

    let Tables { segments, task, exceptions } = tables;
    let code = segments.append(Descriptor::kernel_code_segment());
    let data = segments.append(Descriptor::kernel_data_segment());
    let state = segments.append(Descriptor::tss_segment(task));
    segments.load();
    // SAFETY: the selectors are those of the table just loaded.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        FS::set_reg(SegmentSelector::NULL);
        GS::set_reg(SegmentSelector::NULL);
        load_tss(state);
    }

    // The gates use the currently loaded code segment.
    let stubs = linker_symbol!(exception_stubs);
    let stub = |vector: u64| VirtAddr::new(stubs + STUB * vector);

    // SAFETY: vectors.s has a stub for each; those with an error code handle it. The three stacks are only
    // for these exceptions on this CPU.
    unsafe {
        exceptions.divide_error.set_handler_addr(stub(0));
        exceptions.debug.set_handler_addr(stub(1));
        exceptions.non_maskable_interrupt.set_handler_addr(stub(NMI)).set_stack_index(NMI_STACK);
        exceptions.breakpoint.set_handler_addr(stub(3));
        exceptions.overflow.set_handler_addr(stub(4));
        exceptions.bound_range_exceeded.set_handler_addr(stub(5));
        exceptions.invalid_opcode.set_handler_addr(stub(6));
        exceptions.device_not_available.set_handler_addr(stub(7));
        exceptions.double_fault.set_handler_addr(stub(DOUBLE_FAULT)).set_stack_index(DOUBLE_FAULT_STACK);
        exceptions.invalid_tss.set_handler_addr(stub(10));
        exceptions.segment_not_present.set_handler_addr(stub(11));
        exceptions.stack_segment_fault.set_handler_addr(stub(12));
        exceptions.general_protection_fault.set_handler_addr(stub(13));
        exceptions.page_fault.set_handler_addr(stub(14));
        exceptions.x87_floating_point.set_handler_addr(stub(16));
        exceptions.alignment_check.set_handler_addr(stub(17));
        exceptions.machine_check.set_handler_addr(stub(MACHINE_CHECK)).set_stack_index(MACHINE_CHECK_STACK);
        exceptions.simd_floating_point.set_handler_addr(stub(19));
        exceptions.virtualization.set_handler_addr(stub(20));
        exceptions.cp_protection_exception.set_handler_addr(stub(21));
        exceptions[WAKE as u8].set_handler_addr(stub(WAKE));
        for vector in irq::FIRST..irq::FIRST + irq::VECTORS as u64 {
            exceptions[vector as u8].set_handler_addr(stub(vector));
        }
    }
    exceptions.load();
}
