# PVH entry (Xen's x86/HVM direct boot ABI): 32-bit protected mode, paging off, ebx points to the start info.
# Builds page tables that map the first GiB three times (identity, direct map, kernel), switches to long mode
# and jumps to the upper half. The final tables are created later, in Rust.

.set KERNEL_BASE, 0xffffffff80000000

# PVH entry point note; see xen/include/public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY = 18).
.section .note.Xen, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad pvh_start - KERNEL_BASE

.section .boot.text, "ax", @progbits
.code32
.global pvh_start
pvh_start:
    cli
    cld
    movl $(cpu_stacks + {stack} - KERNEL_BASE), %esp
    movl %ebx, %ebp

    # Table entries: present, writable, accessed (0x23); pages also dirty and 2 MiB large (0xe3).
    movl $(boot_p3_low - KERNEL_BASE + 0x23), %eax
    movl %eax, (boot_p4 - KERNEL_BASE)
    movl %eax, (boot_p4 - KERNEL_BASE + 256 * 8)
    movl $(boot_p3_high - KERNEL_BASE + 0x23), %eax
    movl %eax, (boot_p4 - KERNEL_BASE + 511 * 8)
    movl $(boot_p2 - KERNEL_BASE + 0x23), %eax
    movl %eax, (boot_p3_low - KERNEL_BASE)
    movl %eax, (boot_p3_high - KERNEL_BASE + 510 * 8)
    movl $(boot_p2 - KERNEL_BASE), %edi
    movl $0xe3, %eax
    movl $512, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b

    # PAE; long mode and no-execute; paging and write protection.
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $(boot_p4 - KERNEL_BASE), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80010001, %eax
    movl %eax, %cr0
    lgdt (boot_gdt_pointer - KERNEL_BASE)
    ljmp $8, $(long_mode - KERNEL_BASE)

.code64
long_mode:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movabsq $(cpu_stacks + {stack}), %rsp
    # The arguments of kernel_start; the boot CPU needs no number here.
    movl %ebp, %edi
    xorl %esi, %esi
    xorl %ebp, %ebp
    movabsq $kernel_start, %rax
    movabsq $enter_kernel, %rdx
    jmpq *%rdx

# The outermost frame of every CPU, for debuggers: calls rax and has no caller.
.section .text.enter_kernel, "ax", @progbits
.global enter_kernel
.type enter_kernel, @function
enter_kernel:
    .cfi_startproc
    .cfi_undefined %rip
    callq *%rax
    ud2
    .cfi_endproc
.size enter_kernel, . - enter_kernel

# Segments with preset accessed bits, as everywhere, so that the CPU never writes to these tables.
.section .rodata.boot, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt - KERNEL_BASE
    .long 0

.section .bss.boot, "aw", @nobits
    .balign 4096
boot_p4: .skip 4096
boot_p3_low: .skip 4096
boot_p3_high: .skip 4096
boot_p2: .skip 4096
