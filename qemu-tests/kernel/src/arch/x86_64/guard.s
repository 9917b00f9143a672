# Code that is expected to fault, each piece between two symbols; see guard.rs for the handling.

.section .dump_path.text, "ax", @progbits
.code64

# guarded_copy: copies the page at %rsi to %rdi. guarded_probe: reads a word of each 64 bytes of the page at
# %rsi. Both return 0, or 1 if a fault ended them. They use no stack and no callee-saved register, so that the
# fault handler can return directly to their caller.
    .balign 16
.global guarded_copy
.type guarded_copy, @function
guarded_copy:
    movl $64, %ecx
.global guarded_begin
guarded_begin:
    # Each turn copies 64 bytes, and there are 64.
1:  movq (%rsi), %rax
    movq 8(%rsi), %rdx
    movq 16(%rsi), %r8
    movq 24(%rsi), %r9
    movq %rax, (%rdi)
    movq %rdx, 8(%rdi)
    movq %r8, 16(%rdi)
    movq %r9, 24(%rdi)
    movq 32(%rsi), %rax
    movq 40(%rsi), %rdx
    movq 48(%rsi), %r8
    movq 56(%rsi), %r9
    movq %rax, 32(%rdi)
    movq %rdx, 40(%rdi)
    movq %r8, 48(%rdi)
    movq %r9, 56(%rdi)
    addq $64, %rsi
    addq $64, %rdi
    decl %ecx
    jnz 1b
    xorl %eax, %eax
    ret
.size guarded_copy, . - guarded_copy

.global guarded_probe
.type guarded_probe, @function
guarded_probe:
    movl $64, %ecx
    # Each turn reads one of 64 words.
1:  movq (%rsi), %rax
    addq $64, %rsi
    decl %ecx
    jnz 1b
.global guarded_end
guarded_end:
    xorl %eax, %eax
    ret
.global guarded_fault
guarded_fault:
    movl $1, %eax
    ret
.size guarded_probe, . - guarded_probe

# stumble: writes through %rdi, the bug of `scenario=oops`. The kernel continues after it.
    .balign 16
.global stumble
.type stumble, @function
stumble:
.global stumble_begin
stumble_begin:
    movq %rdi, (%rdi)
.global stumble_end
stumble_end:
    ret
.size stumble, . - stumble
