// The entry, at the physical address, with MMU and caches off: at EL1, or at EL2, which is left at once.
// Builds page tables that map the first GiB, where the devices are, and the GiB of RAM that contains the
// kernel: at its own address (TTBR0), in the direct map, and where the kernel is linked (TTBR1). Then enables
// the MMU and jumps to the upper half. The final tables are created later, in Rust.
//
// x0 is 0, or the address of the device tree (Linux, Documentation/arch/arm64/booting.rst). For an ELF file
// QEMU passes 0 and puts the tree at the beginning of RAM.

.set RAM, 0x40000000
.set STACK, {stack}
.set EXCEPTION_STACK, 0x4000

// Block entries: valid, accessed; RAM also attribute 1 and inner shareable. Devices are attribute 0 and never
// executable.
.set BLOCK_RAM, 0x705
.set BLOCK_DEVICE, 0x401
.set TABLE, 3

// In TCR_EL1: a half is disabled.
.set LOWER_OFF, 1 << 7
.set UPPER_OFF, 1 << 23
// As in layout.ld.
.set KERNEL_BASE, 0xffffffff80000000

.section .boot.text, "ax", %progbits
.global start
start:
    msr daifset, #15
    mov x20, x0
    bl leave_el2

    adrp x0, boot_l0
    adrp x1, boot_l1_low
    adrp x2, boot_l1_high
    orr x3, x1, #TABLE
    str x3, [x0]
    orr x3, x2, #TABLE
    str x3, [x0, #511 * 8]
    mov x3, #BLOCK_DEVICE
    movk x3, #0x60, lsl #48
    str x3, [x1]
    mov x3, #BLOCK_RAM
    movk x3, #RAM >> 16, lsl #16
    str x3, [x1, #8]
    str x3, [x2, #511 * 8]
    // They were written with the caches off, so older lines must be invalidated. The three are contiguous.
    dsb sy
    mrs x1, ctr_el0
    ubfx x1, x1, #16, #4
    mov x2, #4
    lsl x1, x2, x1
    add x2, x0, #3 * 4096
    // Each turn invalidates a line.
1:  dc ivac, x0
    add x0, x0, x1
    cmp x0, x2
    b.lo 1b
    dsb sy
    bl enable_mmu

    ldr x16, =start_high
    br x16

// The same for every other CPU: x0 is the address of its values in the kernel: stack, exception stack,
// number, function.
.global start_other
start_other:
    msr daifset, #15
    mov x20, x0
    bl leave_el2
    bl enable_mmu
    ldr x16, =start_other_high
    br x16

// Drops to EL1 if this is EL2; uses x0 and x1.
leave_el2:
    mrs x0, CurrentEL
    cmp x0, #2 << 2
    b.ne 1f
    // EL1 is 64-bit and uses the CPU's own counters, interrupt controller registers and identity.
    mov x0, #1 << 31
    msr hcr_el2, x0
    mov x0, #3
    msr cnthctl_el2, x0
    msr cntvoff_el2, xzr
    msr vttbr_el2, xzr
    mrs x0, midr_el1
    msr vpidr_el2, x0
    mrs x0, mpidr_el1
    msr vmpidr_el2, x0
    mov x0, #0x33ff
    msr cptr_el2, x0
    msr hstr_el2, xzr
    mrs x0, id_aa64pfr0_el1
    ubfx x0, x0, #24, #4
    cbz x0, 2f
    // ICC_SRE_EL2: system registers instead of memory, for EL1 too.
    mrs x0, S3_4_C12_C9_5
    mov x1, #9
    orr x0, x0, x1
    msr S3_4_C12_C9_5, x0
    isb
2:  mov x0, #0x3c5
    msr spsr_el2, x0
    msr elr_el2, x30
    mov x0, #0x0800
    movk x0, #0x30d0, lsl #16
    msr sctlr_el1, x0
    eret
1:  ret

// Uses x0 to x3.
enable_mmu:
    // Attributes: 0 device, nGnRnE; 1 memory, write-back.
    mov x0, #0xff00
    msr mair_el1, x0
    adrp x0, boot_l0
    msr ttbr0_el1, x0
    msr ttbr1_el1, x0
    // 48-bit addresses in both halves, pages of 4 KiB, cached table walks, and as many physical address bits
    // as the CPU has, up to 48.
    ldr x1, =0xb5103510
    mrs x2, id_aa64mmfr0_el1
    and x2, x2, #15
    cmp x2, #5
    mov x3, #5
    csel x2, x2, x3, lo
    orr x1, x1, x2, lsl #32
    msr tcr_el1, x1
    tlbi vmalle1
    dsb sy
    ic iallu
    dsb sy
    isb
    // MMU, caches, stack alignment checks; the other bits are required by the architecture.
    ldr x1, =0x30d0180d
    msr sctlr_el1, x1
    isb
    ret
.ltorg

.section .text.start_high, "ax", %progbits
start_high:
    // Exceptions have a stack of their own; the kernel runs on SP_EL0.
    msr spsel, #1
    ldr x0, =exception_stacks + EXCEPTION_STACK
    mov sp, x0
    msr spsel, #0
    ldr x0, =cpu_stacks + STACK
    mov sp, x0
    mov x0, x20
    cbnz x0, 1f
    mov x0, #RAM
1:  mrs x1, mpidr_el1
    ldr x16, =kernel_start
    b enter_kernel

start_other_high:
    ldp x1, x2, [x20]
    msr spsel, #1
    mov sp, x2
    msr spsel, #0
    mov sp, x1
    ldp x0, x16, [x20, #16]
    b enter_kernel
.ltorg

// Switches from the boot tables to those whose root is in x0, and disables the lower half. Both map the same
// addresses with entries of different sizes, which must not be cached together (Arm ARM, D8.14.1): so this
// runs in the lower half while the upper one is off.
.section .boot.text, "ax", %progbits
.global adopt_tables
.type adopt_tables, %function
adopt_tables:
    mrs x5, daif
    msr daifset, #15
    ldr x2, =KERNEL_BASE
    adr x1, 1f
    sub x1, x1, x2
    br x1
1:  mrs x3, tcr_el1
    orr x4, x3, #UPPER_OFF
    msr tcr_el1, x4
    isb
    tlbi vmalle1
    dsb nsh
    isb
    msr ttbr1_el1, x0
    msr tcr_el1, x3
    isb
    adr x1, 2f
    add x1, x1, x2
    br x1
2:  orr x3, x3, #LOWER_OFF
    msr tcr_el1, x3
    msr ttbr0_el1, xzr
    isb
    tlbi vmalle1
    dsb nsh
    isb
    msr daif, x5
    ret
.ltorg
.size adopt_tables, . - adopt_tables

// The outermost frame of every CPU, for debuggers: calls x16 and has no caller.
.section .text.enter_kernel, "ax", %progbits
.global enter_kernel
.type enter_kernel, %function
enter_kernel:
    .cfi_startproc
    .cfi_undefined x30
    mov x29, xzr
    mov x30, xzr
    blr x16
    brk #1
    .cfi_endproc
.size enter_kernel, . - enter_kernel

.section .bss.boot, "aw", %nobits
    .balign 4096
.global boot_l0
boot_l0: .skip 4096
boot_l1_low: .skip 4096
boot_l1_high: .skip 4096
