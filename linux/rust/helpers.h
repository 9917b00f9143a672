/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Wrappers for inline functions and macros in the kernel's headers, which Rust cannot call. */
#ifndef DISKDUMP_HELPERS_H
#define DISKDUMP_HELPERS_H

#include <linux/types.h>

struct block_device;
struct device;
struct file;
struct iommu_domain;
struct notifier_block;
struct pci_bus;
struct pt_regs;
struct work_struct;

bool dd_helper_bdev_read_only(struct block_device *bdev);
void dd_helper_get_file(struct file *file);
struct iommu_domain *dd_helper_iommu_get_domain_for_dev(struct device *dev);
phys_addr_t dd_helper_iommu_iova_to_phys(struct iommu_domain *domain, dma_addr_t at);
int dd_helper_pci_domain_nr(struct pci_bus *bus);
int dd_helper_register_memory_notifier(struct notifier_block *block);
void dd_helper_unregister_memory_notifier(struct notifier_block *block);
void dd_helper_init_work(struct work_struct *work, void (*run)(struct work_struct *));
bool dd_helper_memory_is_encrypted(void);
bool dd_helper_kexec_crash_loaded(void);
void dd_helper_touch_nmi_watchdog(void);
u32 dd_helper_raw_smp_processor_id(void);
bool dd_helper_in_nmi(void);
bool dd_helper_user_mode(const struct pt_regs *regs);
bool dd_helper_boot_cpu_has(u32 feature);
void *dd_helper_apic_base(void);
bool dd_helper_all_cpus_online(void);
u32 dd_helper_cpu_physical_id(u32 cpu);
void dd_helper_register_first_on_panic(struct notifier_block *block);
void *dd_helper_current(void);

#endif
