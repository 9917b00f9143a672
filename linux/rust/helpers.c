// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The only C code: wrappers for inline functions and macros in the kernel's headers.
 */
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/kexec.h>
#include <linux/memory.h>
#include <linux/nmi.h>
#include <linux/panic_notifier.h>
#include <linux/pci.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/workqueue.h>

#include <asm/apic.h>
#include <asm/cpufeature.h>
#include <asm/ptrace.h>

#include "helpers.h"

bool dd_helper_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

void dd_helper_get_file(struct file *file)
{
	get_file(file);
}

struct iommu_domain *dd_helper_iommu_get_domain_for_dev(struct device *dev)
{
	return iommu_get_domain_for_dev(dev);
}

phys_addr_t dd_helper_iommu_iova_to_phys(struct iommu_domain *domain, dma_addr_t at)
{
	return iommu_iova_to_phys(domain, at);
}

int dd_helper_pci_domain_nr(struct pci_bus *bus)
{
	return pci_domain_nr(bus);
}

int dd_helper_register_memory_notifier(struct notifier_block *block)
{
	return register_memory_notifier(block);
}

void dd_helper_unregister_memory_notifier(struct notifier_block *block)
{
	unregister_memory_notifier(block);
}

void dd_helper_init_work(struct work_struct *work, void (*run)(struct work_struct *))
{
	INIT_WORK(work, run);
}

bool dd_helper_memory_is_encrypted(void)
{
	return cc_platform_has(CC_ATTR_MEM_ENCRYPT);
}

bool dd_helper_kexec_crash_loaded(void)
{
	return kexec_crash_loaded();
}

void dd_helper_touch_nmi_watchdog(void)
{
	touch_nmi_watchdog();
}

u32 dd_helper_raw_smp_processor_id(void)
{
	return raw_smp_processor_id();
}

bool dd_helper_in_nmi(void)
{
	return in_nmi();
}

bool dd_helper_user_mode(const struct pt_regs *regs)
{
	return user_mode((struct pt_regs *)regs);
}

bool dd_helper_boot_cpu_has(u32 feature)
{
	return boot_cpu_has(feature);
}

void *dd_helper_apic_base(void)
{
	return (void *)APIC_BASE;
}

/* By priority alone, earlier notifiers with the same priority would run first. */
void dd_helper_register_first_on_panic(struct notifier_block *block)
{
	unsigned long flags;

	spin_lock_irqsave(&panic_notifier_list.lock, flags);
	RCU_INIT_POINTER(block->next, rcu_dereference_protected(panic_notifier_list.head, true));
	rcu_assign_pointer(panic_notifier_list.head, block);
	spin_unlock_irqrestore(&panic_notifier_list.lock, flags);
}

bool dd_helper_all_cpus_online(void)
{
	return num_online_cpus() == num_present_cpus();
}

u32 dd_helper_cpu_physical_id(u32 cpu)
{
	return cpu_physical_id(cpu);
}

void *dd_helper_current(void)
{
	return current;
}
