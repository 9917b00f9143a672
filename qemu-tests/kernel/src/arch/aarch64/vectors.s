// The vector table (Arm ARM, D1.10.2), entry and exit: builds a `Frame` (see frame.rs) on the stack and calls
// `exception`. When that returns, the interrupted code continues.
//
// The kernel runs on SP_EL0, so an exception uses SP_EL1, a stack that is valid even if the kernel's is not.
// Inside an exception, and inside a dump, SP_EL1 is already in use and continues.

.set FRAME, 288

.section .dump_path.text, "ax", %progbits
    .balign 0x800
.global exception_vectors
exception_vectors:
.set kind, 0
.rept 16
    .balign 0x80
    sub sp, sp, #FRAME
    stp x0, x1, [sp]
    mov x1, #kind
    b exception_common
    .set kind, kind + 1
.endr

    .balign 0x80
exception_common:
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x19, [sp, #144]
    stp x20, x21, [sp, #160]
    stp x22, x23, [sp, #176]
    stp x24, x25, [sp, #192]
    stp x26, x27, [sp, #208]
    stp x28, x29, [sp, #224]
    // The stack pointer of the interrupted code: SP_EL0 in the first four kinds.
    mrs x2, sp_el0
    add x3, sp, #FRAME
    cmp x1, #4
    csel x2, x2, x3, lo
    stp x30, x2, [sp, #240]
    mrs x2, elr_el1
    mrs x3, spsr_el1
    stp x2, x3, [sp, #256]
    mrs x2, esr_el1
    mrs x3, far_el1
    stp x2, x3, [sp, #272]
    mov x0, sp
    bl exception
    // No exception may happen between the next lines and eret: it would overwrite the two registers.
    msr daifset, #3
    ldp x2, x3, [sp, #256]
    msr elr_el1, x2
    msr spsr_el1, x3
    ldr x30, [sp, #240]
    ldp x28, x29, [sp, #224]
    ldp x26, x27, [sp, #208]
    ldp x24, x25, [sp, #192]
    ldp x22, x23, [sp, #176]
    ldp x20, x21, [sp, #160]
    ldp x18, x19, [sp, #144]
    ldp x16, x17, [sp, #128]
    ldp x14, x15, [sp, #112]
    ldp x12, x13, [sp, #96]
    ldp x10, x11, [sp, #80]
    ldp x8, x9, [sp, #64]
    ldp x6, x7, [sp, #48]
    ldp x4, x5, [sp, #32]
    ldp x2, x3, [sp, #16]
    ldp x0, x1, [sp]
    add sp, sp, #FRAME
    eret
