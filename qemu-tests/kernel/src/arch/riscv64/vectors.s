# Entry of all exceptions and interrupts of a CPU: builds a `Frame` (see frame.rs) and calls `trap`. When that
# returns, the interrupted code continues.
#
# The frame is on the interrupted stack, wherever that is, because during a dump only the arena may change. If
# that is the CPU's own stack and its end is near, or if a store on it faults, the frame is on the CPU's
# emergency stack instead; sscratch always holds the end of that stack. The compiled kernel never uses gp, so
# that one register is available here; it is 0 in frames.

.set FRAME, 288
.set X1, 8
.set STATUS, 256
.set CAUSE, 264
.set VALUE, 272

.section .dump_path.text, "ax", @progbits
    .balign 4
.global trap_entry
.type trap_entry, @function
trap_entry:
    csrrw t0, sscratch, t0
    # Until the frame is complete, a fault leads to `no_stack`.
    lla gp, no_stack
    csrw stvec, gp
    # The emergency stack is followed by an unmapped page and then the stack. The lowest page of the stack
    # counts as used up, so that the handler has room.
    sub gp, sp, t0
    srli gp, gp, 12
    sltiu gp, gp, 2
    bnez gp, 1f
    csrr gp, sepc
    sd gp, -FRAME(sp)
    sd t1, X1+5*8-FRAME(sp)
    sd sp, X1+1*8-FRAME(sp)
    addi sp, sp, -FRAME
    j 2f
1:  csrr gp, sepc
    .balign 4
# The interrupted code's address is in gp. Cause and value are those of the second fault, which describe the
# stack.
no_stack:
    sd gp, -FRAME(t0)
    sd t1, X1+5*8-FRAME(t0)
    sd sp, X1+1*8-FRAME(t0)
    addi sp, t0, -FRAME
2:  csrrw t1, sscratch, t0
    sd t1, X1+4*8(sp)
    lla t1, trap_entry
    csrw stvec, t1
    sd x1, X1+0*8(sp)
    sd zero, X1+2*8(sp)
    sd x4, X1+3*8(sp)
    sd x7, X1+6*8(sp)
    sd x8, X1+7*8(sp)
    sd x9, X1+8*8(sp)
    sd x10, X1+9*8(sp)
    sd x11, X1+10*8(sp)
    sd x12, X1+11*8(sp)
    sd x13, X1+12*8(sp)
    sd x14, X1+13*8(sp)
    sd x15, X1+14*8(sp)
    sd x16, X1+15*8(sp)
    sd x17, X1+16*8(sp)
    sd x18, X1+17*8(sp)
    sd x19, X1+18*8(sp)
    sd x20, X1+19*8(sp)
    sd x21, X1+20*8(sp)
    sd x22, X1+21*8(sp)
    sd x23, X1+22*8(sp)
    sd x24, X1+23*8(sp)
    sd x25, X1+24*8(sp)
    sd x26, X1+25*8(sp)
    sd x27, X1+26*8(sp)
    sd x28, X1+27*8(sp)
    sd x29, X1+28*8(sp)
    sd x30, X1+29*8(sp)
    sd x31, X1+30*8(sp)
    csrr t0, sstatus
    sd t0, STATUS(sp)
    csrr t0, scause
    sd t0, CAUSE(sp)
    csrr t0, stval
    sd t0, VALUE(sp)

    # Callee-saved: the address of the frame.
    mv s1, sp
    mv a0, sp
    andi sp, sp, -16
    call trap
    mv sp, s1

    ld t0, (sp)
    csrw sepc, t0
    ld t0, STATUS(sp)
    csrw sstatus, t0
    ld x1, X1+0*8(sp)
    ld x4, X1+3*8(sp)
    ld x5, X1+4*8(sp)
    ld x6, X1+5*8(sp)
    ld x7, X1+6*8(sp)
    ld x8, X1+7*8(sp)
    ld x9, X1+8*8(sp)
    ld x10, X1+9*8(sp)
    ld x11, X1+10*8(sp)
    ld x12, X1+11*8(sp)
    ld x13, X1+12*8(sp)
    ld x14, X1+13*8(sp)
    ld x15, X1+14*8(sp)
    ld x16, X1+15*8(sp)
    ld x17, X1+16*8(sp)
    ld x18, X1+17*8(sp)
    ld x19, X1+18*8(sp)
    ld x20, X1+19*8(sp)
    ld x21, X1+20*8(sp)
    ld x22, X1+21*8(sp)
    ld x23, X1+22*8(sp)
    ld x24, X1+23*8(sp)
    ld x25, X1+24*8(sp)
    ld x26, X1+25*8(sp)
    ld x27, X1+26*8(sp)
    ld x28, X1+27*8(sp)
    ld x29, X1+28*8(sp)
    ld x30, X1+29*8(sp)
    ld x31, X1+30*8(sp)
    ld sp, X1+1*8(sp)
    sret
.size trap_entry, . - trap_entry
