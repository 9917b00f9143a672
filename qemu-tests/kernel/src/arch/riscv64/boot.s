# Entry from the firmware (RISC-V SBI 1.0 and its boot protocol): supervisor mode, paging off, a0 is the
# number of this hart, a1 the address of the device tree. Builds a page table that maps physical memory twice
# (direct map, kernel) in pieces of a GiB, enables it and jumps to the upper half. The final tables are
# created later, in Rust.

.set KERNEL_BASE, 0xffffffff00000000
# In sstatus: the state of the floating-point unit; 0 is off.
.set STATUS_FLOATING, 3 << 13
.set STACK, 0x20000
.set STACK_SHIFT, 17
.set EMERGENCY_END, 0x5000

# Switches to the page table whose satp is in t0, and continues after this at the kernel's addresses: the next
# instruction is not mapped at its current address, and the trap for that leads to its address in the kernel.
.macro go_up
    li t2, KERNEL_BASE
    lla t1, 9f
    add t1, t1, t2
    csrw stvec, t1
    sfence.vma
    csrw satp, t0
    .balign 4
9:
.endm

.section .boot.text, "ax", @progbits
.global _start
_start:
    csrw sie, zero
    csrci sstatus, 2
    li t0, STATUS_FLOATING
    csrc sstatus, t0
    # The first hart here boots. Any other was started by it: OpenSBI up to 1.1 starts a hart before it has
    # stored the start address, and the hart arrives here.
    lla t0, boot_taken
    li t1, 1
    .option push
    .option arch, +a
    amoswap.w t0, t1, (t0)
    .option pop
    bnez t0, other_start
    # Entries: valid, readable, writable, executable, accessed, dirty (0xcf). The direct map: 254 GiB from
    # entry 256 on.
    lla t0, boot_root
    li t1, 0xcf
    li t2, 256 * 8
    add t2, t0, t2
    li t3, 254
    li t4, 1 << 28
1:  sd t1, (t2)
    add t1, t1, t4
    addi t2, t2, 8
    addi t3, t3, -1
    bnez t3, 1b
    # The kernel: the last two entries map the GiB from 0x80000000 on.
    li t1, (2 << 28) + 0xcf
    sd t1, (t2)
    add t1, t1, t4
    sd t1, 8(t2)

    # Sv39.
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    go_up
    # The first CPU's.
    lla t0, cpu_stacks
    li t1, STACK
    add sp, t0, t1
    li t1, EMERGENCY_END
    add t0, t0, t1
    csrw sscratch, t0
    lla t1, first_steps
    # `j` reaches only 1 MiB, and an unoptimised kernel is larger.
    lla t2, enter_kernel
    jr t2

# A hart started by another one, which has left the necessary values in memory.
.global other_start
other_start:
    csrw sie, zero
    csrci sstatus, 2
    li t0, STATUS_FLOATING
    csrc sstatus, t0
    lla t0, other_satp
    ld t0, (t0)
    go_up
    lla a0, other_number
    ld a0, (a0)
    lla t0, cpu_stacks
    li t1, STACK
    slli t2, a0, STACK_SHIFT
    add t0, t0, t2
    add sp, t0, t1
    li t1, EMERGENCY_END
    add t0, t0, t1
    csrw sscratch, t0
    lla t1, other_first_steps
    lla t2, enter_kernel
    jr t2

# The outermost frame of every CPU, for debuggers: calls t1 and has no caller.
.section .text.enter_kernel, "ax", @progbits
.global enter_kernel
.type enter_kernel, @function
enter_kernel:
    .cfi_startproc
    .cfi_undefined ra
    li s0, 0
    jalr t1
    unimp
    .cfi_endproc
.size enter_kernel, . - enter_kernel

.section .data.boot, "aw", @progbits
    .balign 8
# satp for CPUs that are started later, and our number for the one being started.
.global other_satp
other_satp: .quad 0
.global other_number
other_number: .quad 0
# Whether a hart is already booting.
boot_taken: .word 0

.section .bss.boot, "aw", @nobits
    .balign 4096
boot_root: .skip 4096
