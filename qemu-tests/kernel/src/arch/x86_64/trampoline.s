# The code of a CPU after its startup IPI: from real mode, at TRAMPOLINE (see smp.rs), into long mode with the
# kernel's page tables. The words at its end are filled in for each CPU.

.set TRAMPOLINE, 0x8000

.section .rodata.trampoline, "a", @progbits
    .balign 16
.global trampoline_start
trampoline_start:
.code16
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (TRAMPOLINE + (trampoline_gdt_pointer - trampoline_start))
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $(TRAMPOLINE + (trampoline_32 - trampoline_start))

.code32
trampoline_32:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl (TRAMPOLINE + (trampoline_cr3 - trampoline_start)), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80010000, %eax
    # Enable caches: they are off after INIT.
    andl $0x9fffffff, %eax
    movl %eax, %cr0
    ljmpl $24, $(TRAMPOLINE + (trampoline_64 - trampoline_start))

.code64
trampoline_64:
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq (TRAMPOLINE + (trampoline_stack - trampoline_start)), %rsp
    movq (TRAMPOLINE + (trampoline_cpu - trampoline_start)), %rdi
    movq (TRAMPOLINE + (trampoline_entry - trampoline_start)), %rax
    xorl %ebp, %ebp
    movabsq $enter_kernel, %rdx
    jmpq *%rdx

    .balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
trampoline_gdt_pointer:
    .word trampoline_gdt_pointer - trampoline_gdt - 1
    .long TRAMPOLINE + (trampoline_gdt - trampoline_start)

    .balign 8
.global trampoline_words
trampoline_words:
trampoline_cr3: .quad 0
trampoline_stack: .quad 0
trampoline_cpu: .quad 0
trampoline_entry: .quad 0
.global trampoline_end
trampoline_end:
