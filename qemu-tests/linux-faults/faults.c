// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Faults for a Linux that is to crash: a write to /sys/module/faults/parameters/now causes one at once.
 *
 *   oops              a write through a null pointer
 *   hang              this task waits forever, uninterruptibly
 *   spin              this CPU loops with preemption off
 *   text ADDRESS      a byte of code at this address is inverted
 *   notifier          a panic notifier of the highest priority faults when it is first called
 *   hear              a panic notifier after all others and a log dumper print that they ran
 *   stuck             a panic notifier between the others never returns
 *   tight, roomy      the module gets no memory for arming; it gets some again
 *   slow              each read of a disk by the kernel itself takes three seconds, as when the module arms
 *   deaf CPU          this CPU never returns from its next NMI
 *   lock              panic when a driver next adds to a virtqueue, with the lock held
 *   memory            panic without a single free page
 *   reboot            panic in the next reboot, after devices were shut down
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/kmsg_dump.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/panic_notifier.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <asm/nmi.h>

static noinline void fault(void)
{
	*(volatile int *)8 = 0;
}

/* Code is mapped read-only; its page gets another mapping for a while. */
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

static int last_notifier(struct notifier_block *block, unsigned long event, void *text)
{
	pr_emerg("faults: a notifier has heard\n");
	return NOTIFY_DONE;
}

static struct notifier_block hearing = { .notifier_call = last_notifier, .priority = INT_MIN };

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
static void keep_log(struct kmsg_dumper *dumper, struct kmsg_dump_detail *detail)
#else
static void keep_log(struct kmsg_dumper *dumper, enum kmsg_dump_reason reason)
#endif
{
	pr_emerg("faults: who keeps logs has heard\n");
}

static struct kmsg_dumper keeping = { .dump = keep_log, .max_reason = KMSG_DUMP_PANIC };

/* Never set. */
static bool freed;

static int stuck_notifier(struct notifier_block *block, unsigned long event, void *text)
{
	pr_emerg("faults: stuck\n");
	while (!READ_ONCE(freed))
		cpu_relax();
	return NOTIFY_DONE;
}

static struct notifier_block sticking = { .notifier_call = stuck_notifier };

static int no_memory(struct kretprobe_instance *instance, struct pt_regs *registers)
{
	/* Never freed. */
	regs_set_return_value(registers, 0);
	return 0;
}

static struct kretprobe tight_probe = { .kp.symbol_name = "dd_memory", .handler = no_memory };

static int wait_a_while(struct kprobe *probe, struct pt_regs *registers)
{
	const struct file *file = (struct file *)regs_get_kernel_argument(registers, 0);

	if (S_ISBLK(file_inode(file)->i_mode))
		mdelay(3000);
	return 0;
}

/* The module's own code must not change. */
static struct kprobe slow_probe = { .symbol_name = "kernel_read", .pre_handler = wait_a_while };

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

/* A list in the pages themselves, so that they stay reachable. */
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

/* Without ftrace, a probe is a breakpoint that soon becomes a jump. A post handler prevents that. */
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
	} else if (!strcmp(what, "hear")) {
		return atomic_notifier_chain_register(&panic_notifier_list, &hearing) ?: kmsg_dump_register(&keeping);
	} else if (!strcmp(what, "stuck")) {
		return atomic_notifier_chain_register(&panic_notifier_list, &sticking);
	} else if (!strcmp(what, "tight")) {
		return register_kretprobe(&tight_probe);
	} else if (!strcmp(what, "roomy")) {
		unregister_kretprobe(&tight_probe);
	} else if (!strcmp(what, "slow")) {
		return register_kprobe(&slow_probe);
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
