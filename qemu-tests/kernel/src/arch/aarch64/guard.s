// Code that is expected to fault, each piece between two symbols; see guard.rs for the handling.

.section .dump_path.text, "ax", %progbits

// guarded_copy: copies the page at x1 to x0. guarded_probe: reads a word of each 64 bytes of the page at x1.
// Both return 0, or 1 if a fault ended them. They use no stack and no callee-saved register, so that the
// fault handler can return directly to their caller.
    .balign 16
.global guarded_copy
.type guarded_copy, %function
guarded_copy:
    mov w2, #64
.global guarded_begin
guarded_begin:
    // Each turn copies 64 bytes, and there are 64.
1:  ldp x3, x4, [x1]
    ldp x5, x6, [x1, #16]
    ldp x7, x8, [x1, #32]
    ldp x9, x10, [x1, #48]
    add x1, x1, #64
    stp x3, x4, [x0]
    stp x5, x6, [x0, #16]
    stp x7, x8, [x0, #32]
    stp x9, x10, [x0, #48]
    add x0, x0, #64
    subs w2, w2, #1
    b.ne 1b
    mov w0, #0
    ret
.size guarded_copy, . - guarded_copy

.global guarded_probe
.type guarded_probe, %function
guarded_probe:
    mov w2, #64
    // Each turn reads one of 64 words.
1:  ldr x3, [x1], #64
    subs w2, w2, #1
    b.ne 1b
.global guarded_end
guarded_end:
    mov w0, #0
    ret
.global guarded_fault
guarded_fault:
    mov w0, #1
    ret
.size guarded_probe, . - guarded_probe

// stumble: writes through x0, the bug of `scenario=oops`. The kernel continues after it.
    .balign 16
.global stumble
.type stumble, %function
stumble:
.global stumble_begin
stumble_begin:
    str x0, [x0]
.global stumble_end
stumble_end:
    ret
.size stumble, . - stumble
