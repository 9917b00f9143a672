// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Harm for a Linux that is to crash: what is written to /sys/module/faults/parameters/now happens at once.
 *
 *   oops              a write through a null pointer
 *   hang              this task waits for ever, uninterruptibly
 *   spin              this CPU goes round with preemption off
 *   text ADDRESS      a byte of code at this address is turned over
 *   notifier          a panic notifier in front of all others faults, the first time that it is called
 *   deaf CPU          this CPU never leaves the next NMI that it gets
 *   lock              panic when a driver next adds to a virtqueue, with its lock held
 *   memory            panic with not one page free
 *   reboot            panic in the next reboot, when devices were shut down already
 */
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/panic_notifier.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <asm/nmi.h>

static noinline void fault(void)
{
	*(volatile int *)8 = 0;
}

/* Code is mapped for reading; its page gets another mapping for a while. */
static int spoil(unsigned long address)
{
	struct page *page = vmalloc_to_page((void *)(address & PAGE_MASK));
	u8 *alias = page ? vmap(&page, 1, VM_MAP, PAGE_KERNEL) : NULL;

	if (!alias)
		return -EFAULT;
	alias[offset_in_page(address)] ^= 1;
	vunmap(alias);
	return 0;
}

static bool faulted;

static int first_notifier(struct notifier_block *block, unsigned long event, void *text)
{
	if (!faulted) {
		faulted = true;
		fault();
	}
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = first_notifier, .priority = INT_MAX };

static unsigned int deaf = UINT_MAX;

static int never_leave(unsigned int kind, struct pt_regs *registers)
{
	while (raw_smp_processor_id() == READ_ONCE(deaf))
		cpu_relax();
	return NMI_DONE;
}

static int with_lock(struct kprobe *probe, struct pt_regs *registers)
{
	panic("faults: with a driver's lock held");
	return 0;
}

static struct kprobe probe = { .symbol_name = "virtqueue_add_sgs", .pre_handler = with_lock };

/* A list through the pages themselves, so that they stay reachable. */
static void take_all_memory(void)
{
	void **last = NULL;
	unsigned long taken = 0;
	int order;

	for (order = 9; order >= 0; order--) {
		void **block;

		while ((block = (void **)__get_free_pages(GFP_ATOMIC | __GFP_MEMALLOC | __GFP_NOWARN, order))) {
			*block = last;
			last = block;
			taken += 1UL << order;
		}
	}
	pr_emerg("faults: took %lu pages, the last at %p\n", taken, last);
}

static int in_reboot(struct kprobe *probe, struct pt_regs *registers)
{
	panic("faults: in a reboot");
	return 0;
}

/* Where there is no ftrace, a probe is a breakpoint, and a moment later a jump. One that has this stays what it was. */
static void never(struct kprobe *probe, struct pt_regs *registers, unsigned long flags)
{
}

static struct kprobe reboot_probe = {
	.symbol_name = "syscore_shutdown", .pre_handler = in_reboot, .post_handler = never,
};

static int now(const char *text, const struct kernel_param *parameter)
{
	char *words = strim((char *)text), *what = strsep(&words, " ");
	unsigned long number = 0;

	if (words && kstrtoul(words, 0, &number))
		return -EINVAL;
	if (!strcmp(what, "oops")) {
		fault();
	} else if (!strcmp(what, "hang")) {
		for (;;) {
			set_current_state(TASK_UNINTERRUPTIBLE);
			schedule();
		}
	} else if (!strcmp(what, "spin")) {
		preempt_disable();
		for (;;)
			cpu_relax();
	} else if (!strcmp(what, "text")) {
		return spoil(number);
	} else if (!strcmp(what, "notifier")) {
		return atomic_notifier_chain_register(&panic_notifier_list, &notifier);
	} else if (!strcmp(what, "deaf")) {
		WRITE_ONCE(deaf, number);
		return register_nmi_handler(NMI_LOCAL, never_leave, NMI_FLAG_FIRST, "faults");
	} else if (!strcmp(what, "lock")) {
		return register_kprobe(&probe);
	} else if (!strcmp(what, "reboot")) {
		return register_kprobe(&reboot_probe);
	} else if (!strcmp(what, "memory")) {
		take_all_memory();
		panic("faults: no memory");
	} else {
		return -EINVAL;
	}
	return 0;
}

static const struct kernel_param_ops operations = { .set = now };
module_param_cb(now, &operations, NULL, 0200);

static int __init begin(void)
{
	return 0;
}
module_init(begin);

MODULE_DESCRIPTION("Harm for tests");
MODULE_LICENSE("Dual MIT/GPL");
