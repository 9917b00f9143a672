/* SPDX-License-Identifier: MIT OR GPL-2.0 */
#include <linux/linkage.h>
#include <asm/nospec-branch.h>

/* void dd_call_on(void *top, void (*run)(void *), void *word): calls run(word) on the stack that ends at top. */
SYM_FUNC_START(dd_call_on)
	pushq	%rbp
	movq	%rsp, %rbp
	movq	%rdi, %rsp
	movq	%rdx, %rdi
	/* The target is a constant in the Rust part. */
	ANNOTATE_RETPOLINE_SAFE
	call	*%rsi
	movq	%rbp, %rsp
	popq	%rbp
	RET
SYM_FUNC_END(dd_call_on)

/*
 * void dd_capture(struct pt_regs *regs): stores the registers as the caller has them when this returns.
 * Caller-saved registers stay zero.
 */
SYM_FUNC_START(dd_capture)
	movq	%r15, 0(%rdi)
	movq	%r14, 8(%rdi)
	movq	%r13, 16(%rdi)
	movq	%r12, 24(%rdi)
	movq	%rbp, 32(%rdi)
	movq	%rbx, 40(%rdi)
	movq	$-1, 120(%rdi)
	movq	(%rsp), %rax
	movq	%rax, 128(%rdi)
	xorl	%eax, %eax
	movw	%cs, %ax
	movq	%rax, 136(%rdi)
	/* Interrupts are off in a panic; the other flags do not matter. */
	movq	$2, 144(%rdi)
	leaq	8(%rsp), %rax
	movq	%rax, 152(%rdi)
	xorl	%eax, %eax
	movw	%ss, %ax
	movq	%rax, 160(%rdi)
	RET
SYM_FUNC_END(dd_capture)
