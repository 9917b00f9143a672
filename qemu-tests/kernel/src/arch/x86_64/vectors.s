# One stub for each of the 32 exceptions, one for the interrupt WAKE and 8 for device interrupts: builds a
# `Frame` (see frame.rs) on the stack and calls `exception`. When that returns, the interrupted code
# continues.

.section .dump_path.text, "ax", @progbits
.code64
    .balign 16
.global exception_stubs
exception_stubs:
.set vector, 0
.rept 41
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
    # Callee-saved: the address of the frame.
    movq %rsp, %rbx
    movq %rsp, %rdi
    andq $-16, %rsp
    callq exception
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    # Above rax, rcx, rdx, rsi, rdi: vector (40), error (48), rip (56), cs (64), flags (72), rsp (80),
    # ss (88).
    cmpq $2, 40(%rsp)
    je back_from_nmi

    # iretq would re-enable NMIs, and this fault may have happened inside an NMI handler, which must not be
    # interrupted by another. The interrupted code belongs to the kernel too, so an ordinary return is enough:
    # its address goes to the end of its stack.
    movq 80(%rsp), %rax
    movq 56(%rsp), %rcx
    subq $8, %rax
    movq %rcx, (%rax)
    movq %rax, 80(%rsp)
    popq %rax
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    leaq 32(%rsp), %rsp
    popfq
    movq (%rsp), %rsp
    ret

back_from_nmi:
    popq %rax
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    addq $16, %rsp
    iretq
