# Code that is expected to fault, each piece between two symbols; see guard.rs for the handling.

.section .dump_path.text, "ax", @progbits

# guarded_copy: copies the page at a1 to a0. guarded_probe: reads a word of each 64 bytes of the page at a1.
# Both return 0, or 1 if a fault ended them. They use no stack and no callee-saved register, so that the fault
# handler can return directly to their caller.
    .balign 16
.global guarded_copy
.type guarded_copy, @function
guarded_copy:
    li t0, 64
.global guarded_begin
guarded_begin:
    # Each turn copies 64 bytes, and there are 64.
1:  ld a2, 0(a1)
    ld a3, 8(a1)
    ld a4, 16(a1)
    ld a5, 24(a1)
    ld a6, 32(a1)
    ld a7, 40(a1)
    ld t1, 48(a1)
    ld t2, 56(a1)
    sd a2, 0(a0)
    sd a3, 8(a0)
    sd a4, 16(a0)
    sd a5, 24(a0)
    sd a6, 32(a0)
    sd a7, 40(a0)
    sd t1, 48(a0)
    sd t2, 56(a0)
    addi a1, a1, 64
    addi a0, a0, 64
    addi t0, t0, -1
    bnez t0, 1b
    li a0, 0
    ret
.size guarded_copy, . - guarded_copy

.global guarded_probe
.type guarded_probe, @function
guarded_probe:
    li t0, 64
    # Each turn reads one of 64 words.
1:  ld a2, 0(a1)
    addi a1, a1, 64
    addi t0, t0, -1
    bnez t0, 1b
.global guarded_end
guarded_end:
    li a0, 0
    ret
.global guarded_fault
guarded_fault:
    li a0, 1
    ret
.size guarded_probe, . - guarded_probe

# guarded_seed: reads the entropy source (the CSR `seed`, which must be written to be read). Returns the value
# for a dead source if the CPU has none or the firmware does not share it.
    .balign 16
.global guarded_seed
.type guarded_seed, @function
guarded_seed:
.global seed_begin
seed_begin:
    csrrw a0, 0x015, zero
    ret
.global seed_fault
seed_fault:
    li a0, 3 << 30
    ret
.size guarded_seed, . - guarded_seed

# stumble: writes through a0, the bug of `scenario=oops`. The kernel continues after it.
    .balign 16
.global stumble
.type stumble, @function
stumble:
.global stumble_begin
stumble_begin:
    sd a0, 0(a0)
.global stumble_end
stumble_end:
    ret
.size stumble, . - stumble
