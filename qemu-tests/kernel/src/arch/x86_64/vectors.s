# One stub for each of the 32 exceptions: brings the stack to the shape of `Frame` in interrupts.rs and calls
# `exception`, which does not return. NMI (2) has a stub of its own kind.

.section .dump_path.text, "ax", @progbits
.code64
    .balign 16
.global exception_stubs
exception_stubs:
.set vector, 0
.rept 32
    .balign 16
    # These push an error code themselves (Intel SDM vol. 3, table 6-1).
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp exception_common
    .set vector, vector + 1
.endr

exception_common:
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rax
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    andq $-16, %rsp
    callq exception
    ud2
