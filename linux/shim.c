// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * diskdump for stock kernels: the part that only C can do. All decisions are in Rust (module/src).
 */
#define pr_fmt(fmt) "diskdump: " fmt

#include <linux/blkdev.h>
#include <linux/cpu.h>
#include <linux/crash_core.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/ioport.h>
#include <linux/kdebug.h>
#include <linux/kernel.h>
#include <linux/kexec.h>
#include <linux/kmsg_dump.h>
#include <linux/kobject.h>
#include <linux/libata.h>
#include <linux/memory.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nmi.h>
#include <linux/notifier.h>
#include <linux/nvme_ioctl.h>
#include <linux/panic_notifier.h>
#include <linux/pci.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/smp.h>
#include <linux/sysfs.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/workqueue.h>

#include <asm/apic.h>
#include <asm/io.h>
#include <asm/nmi.h>
#include <asm/smp.h>
#include <asm/tsc.h>

#include <scsi/scsi_device.h>
#include <scsi/scsi_host.h>

#include "shim.h"

/* One arming or disarming at a time. */
static DEFINE_MUTEX(dd_mutex);

/* Targets. */

static struct pci_dev *dd_pci_above(struct device *dev)
{
	for (; dev; dev = dev->parent)
		if (dev_is_pci(dev))
			return to_pci_dev(dev);
	return NULL;
}

/* Why a disk that is not on a PCI function cannot be taken over, by its bus or by its maker. */
static const char *dd_off_pci(struct device *dev)
{
	static const struct {
		const char *on;
		const char *why;
	} places[] = {
		{ "virtio", "it is a virtio disk on MMIO, and the module takes over disks on PCI only" },
		{ "vmbus", "it is on Hyper-V's VMBus, and the module takes over disks on PCI only" },
		{ "xen", "it is on Xen's bus, and the module takes over disks on PCI only" },
		{ "mmc", "it is on an MMC bus, and the module takes over disks on PCI only" },
		{ "nvme-subsystem", "the kernel joins its several paths (NVMe multipath); boot with nvme_core.multipath=N" },
		{ "platform", "it is on the platform bus, and the module takes over disks on PCI only" },
	};
	size_t i;

	for (; dev; dev = dev->parent) {
		const char *on = dev->bus ? dev->bus->name : dev->class ? dev->class->name : NULL;

		for (i = 0; on && i < ARRAY_SIZE(places); i++)
			if (!strcmp(on, places[i].on))
				return places[i].why;
	}
	return "it is on no bus of the machine; device mapper, RAID, loop and network disks cannot be taken over";
}

static struct virtio_device *dd_virtio_above(struct device *dev)
{
	for (; dev; dev = dev->parent)
		if (dev->bus && !strcmp(dev->bus->name, "virtio"))
			return dev_to_virtio(dev);
	return NULL;
}

static struct scsi_device *dd_scsi_above(struct device *dev)
{
	/* By name, so that the module does not need the SCSI layer on a machine without one. */
	for (; dev; dev = dev->parent)
		if (dev->type && dev->type->name && !strcmp(dev->type->name, "scsi_device"))
			return to_scsi_device(dev);
	return NULL;
}

/* The namespace number of an NVMe disk; 0 if it does not say. */
static u32 dd_nvme_namespace(struct block_device *bdev)
{
	const struct block_device_operations *ops = bdev->bd_disk->fops;
	int id;

	if (!ops || !ops->ioctl)
		return 0;
	id = ops->ioctl(bdev, 0, NVME_IOCTL_ID, 0);
	return id > 0 ? id : 0;
}

/* The kernel's numbers in the name of a multipath NVMe disk, and the number of its paths. */
struct dd_paths {
	int subsystem;
	int disk;
	u32 count;
};

static bool dd_is_joined(struct device *dev)
{
	return dev->parent && !strncmp(dev_name(dev->parent), "nvme-subsys", 11);
}

static int dd_count_path(struct device *dev, void *data)
{
	struct dd_paths *paths = data;
	int subsystem, controller, disk, end = 0;

	if (sscanf(dev_name(dev), "nvme%dc%dn%d%n", &subsystem, &controller, &disk, &end) == 3 && !dev_name(dev)[end])
		paths->count += subsystem == paths->subsystem && disk == paths->disk;
	return 0;
}

static int dd_count_paths_of_controller(struct device *dev, void *data)
{
	return device_for_each_child(dev, data, dd_count_path);
}

/* The PCI device of a multipath disk, if it has only one path. */
static struct pci_dev *dd_pci_of_path(struct device *dev)
{
	struct dd_paths paths = {};
	struct pci_dev *pci = NULL, *found = NULL;
	u32 before;

	if (!dd_is_joined(dev) || sscanf(dev_name(dev), "nvme%dn%d", &paths.subsystem, &paths.disk) != 2)
		return NULL;
	for_each_pci_dev(pci) {
		if (strcmp(dev_driver_string(&pci->dev), "nvme"))
			continue;
		before = paths.count;
		device_for_each_child(&pci->dev, &paths, dd_count_paths_of_controller);
		if (paths.count > before && !found)
			found = pci_dev_get(pci);
	}
	/* It stays while the disk is open. */
	pci_dev_put(found);
	return paths.count == 1 ? found : NULL;
}

static long dd_describe(struct block_device *bdev, struct dd_target *target, const char **why)
{
	struct device *dev = disk_to_dev(bdev->bd_disk);
	const char *driver;
	struct virtio_device *virtio;
	struct scsi_device *scsi;

	/* Otherwise the polled driver would only find out at the crash. */
	if (bdev_read_only(bdev)) {
		*why = "it is read-only, and a dump has to be written";
		return -EROFS;
	}
	target->start = bdev->bd_start_sect;
	target->sectors = bdev_nr_sectors(bdev);
	target->pci = dd_pci_above(dev);
	if (!target->pci)
		target->pci = dd_pci_of_path(dev);
	if (!target->pci) {
		*why = dd_off_pci(dev);
		return -ENXIO;
	}
	target->address = (u32)pci_domain_nr(target->pci->bus) << 16 | pci_dev_id(target->pci);
	driver = dev_driver_string(&target->pci->dev);
	target->translated = 1;
	virtio = dd_virtio_above(dev);
	scsi = dd_scsi_above(dev);
	if (virtio) {
		/* Same as in the kernel: without this feature the device uses physical addresses. */
		target->translated = virtio_has_feature(virtio, VIRTIO_F_ACCESS_PLATFORM);
		if (virtio->id.device == VIRTIO_ID_BLOCK) {
			target->driver = DD_VIRTIO_BLK;
			return 0;
		}
		if (virtio->id.device == VIRTIO_ID_SCSI && scsi) {
			target->driver = DD_VIRTIO_SCSI;
			target->unit = scsi->id;
			target->lun = scsi->lun;
			return 0;
		}
	} else if (!strcmp(driver, "ahci") && scsi) {
		target->driver = DD_AHCI;
		target->unit = ata_shost_to_port(scsi->host)->port_no;
		return 0;
	} else if (!strcmp(driver, "nvme")) {
		target->driver = DD_NVME;
		target->unit = dd_nvme_namespace(bdev);
		if (target->unit)
			return 0;
		*why = "it does not say which NVMe namespace it is";
		return -ENXIO;
	}
	*why = "there is no polled driver for it; there is one for virtio-blk, virtio-scsi, AHCI and NVMe";
	return -ENXIO;
}

struct dd_closing {
	struct work_struct work;
	struct file *file;
};

static void dd_close_now(struct work_struct *work)
{
	/* Only allowed in kernel threads. */
	__fput_sync(container_of(work, struct dd_closing, work)->file);
}

/*
 * Closes a device synchronously. An ordinary close happens when the task returns to user space, or some time
 * later in the kernel; until then, a new arming would find the device claimed by us.
 */
static void dd_close(struct file *file)
{
	/* Under dd_mutex. Not on the stack: arming uses its own, which the kernel's debug code does not know. */
	static struct dd_closing closing;

	closing.file = file;
	INIT_WORK(&closing.work, dd_close_now);
	schedule_work(&closing.work);
	flush_work(&closing.work);
}

bool dd_is_at(const char *path, struct file *file)
{
	struct file *other = filp_open(path, O_RDONLY | O_LARGEFILE, 0);
	bool same;

	if (IS_ERR(other))
		return false;
	same = other->f_mapping == file->f_mapping;
	dd_close(other);
	return same;
}

long dd_open_target(const char *path, struct file *held, struct dd_target *target, const char **why)
{
	struct file *file;
	long result;

	memset(target, 0, sizeof(*target));
	/* O_EXCL claims the device, as a mount or swap does; while it is claimed, they fail. */
	file = held ? get_file(held) : filp_open(path, O_RDONLY | O_EXCL | O_LARGEFILE, 0);
	if (IS_ERR(file)) {
		result = PTR_ERR(file);
		*why = result == -EBUSY ? "it is in use (mounted, swap, or part of something)" : "it cannot be opened";
		return result;
	}
	if (!S_ISBLK(file_inode(file)->i_mode)) {
		*why = "it is no block device";
		dd_close(file);
		return -ENOTBLK;
	}
	result = dd_describe(I_BDEV(file->f_mapping->host), target, why);
	if (result) {
		dd_close(file);
		return result;
	}
	target->file = file;
	pci_dev_get(target->pci);
	return 0;
}

void dd_close_target(struct dd_target *target)
{
	if (target->pci)
		pci_dev_put(target->pci);
	if (target->file)
		dd_close(target->file);
	target->pci = NULL;
	target->file = NULL;
}

int dd_read_block(struct file *file, u64 block, void *to)
{
	loff_t at = block << 12;
	ssize_t got = kernel_read(file, to, 4096, &at);

	return got == 4096 ? 0 : got < 0 ? got : -EIO;
}

/* Memory. */

void *dd_memory(size_t bytes, u64 *physical)
{
	unsigned int order = get_order(bytes);
	/* Below 4 GiB, where every controller can reach it without a bounce buffer. */
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | GFP_DMA32, order);

	if (!page)
		page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN, order);
	if (!page)
		return NULL;
	*physical = page_to_phys(page);
	return page_address(page);
}

void dd_release_memory(void *memory, size_t bytes)
{
	free_pages((unsigned long)memory, get_order(bytes));
}

int dd_map_for_device(struct pci_dev *pci, void *memory, size_t bytes, u64 *bus)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(&pci->dev);
	phys_addr_t physical = virt_to_phys(memory);
	dma_addr_t at = dma_map_page(&pci->dev, virt_to_page(memory), 0, bytes, DMA_BIDIRECTIONAL);

	if (dma_mapping_error(&pci->dev, at))
		return -ENOMEM;
	*bus = at;
	if (at == physical)
		return 0;
	/* Translated by an IOMMU to the memory itself, not to a copy. */
	if (domain && iommu_iova_to_phys(domain, at) == physical)
		return 0;
	dd_unmap_for_device(pci, at, bytes);
	return -EOPNOTSUPP;
}

void dd_unmap_for_device(struct pci_dev *pci, u64 bus, size_t bytes)
{
	dma_unmap_page(&pci->dev, bus, bytes, DMA_BIDIRECTIONAL);
}

void *dd_take_stack(size_t bytes)
{
	/* With an unmapped page before and after it. */
	return vmalloc(bytes);
}

void dd_release_stack(void *stack)
{
	vfree(stack);
}

void *dd_map_registers(u64 physical, size_t length)
{
	return (void __force *)ioremap(physical, length);
}

void dd_unmap_registers(void *start)
{
	iounmap((void __iomem __force *)start);
}

static int dd_keep_range(struct resource *resource, void *arg)
{
	struct dd_range *range = arg;

	range->start = resource->start;
	range->end = resource->end + 1;
	/* Stop after the first one. */
	return 1;
}

/* One call per range, without a callback: a kernel with CFI does not know the functions in Rust. */
bool dd_next_range(bool crash_kernel, u64 from, struct dd_range *range)
{
	unsigned long desc = crash_kernel ? IORES_DESC_CRASH_KERNEL : IORES_DESC_NONE;

	return walk_iomem_res_desc(desc, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, from, -1, range, dd_keep_range) == 1;
}

void dd_random(void *bytes, size_t length)
{
	get_random_bytes(bytes, length);
}

u32 dd_pci_read(u32 address, u32 offset)
{
	struct pci_dev *pci = pci_get_domain_bus_and_slot(address >> 16, address >> 8 & 0xff, address & 0xff);
	u32 value = ~0;

	if (pci) {
		pci_read_config_dword(pci, offset, &value);
		pci_dev_put(pci);
	}
	return value;
}

void dd_say(const char *text, size_t length, int bad)
{
	if (bad)
		pr_warn("%.*s\n", (int)length, text);
	else
		pr_info("%.*s\n", (int)length, text);
}

/* The text in the kernel's VMCOREINFO note: after the header and name of the ELF note. */
size_t dd_vmcoreinfo(void *to, size_t room)
{
	struct elf_note {
		u32 name;
		u32 text;
		u32 type;
	} *note = phys_to_virt(paddr_vmcoreinfo_note());
	size_t length = min_t(size_t, note->text, room);

	if (note->name > 32 || note->text > PAGE_SIZE)
		return 0;
	memcpy(to, (u8 *)(note + 1) + ALIGN(note->name, 4), length);
	return length;
}

long dd_read_file(const char *path, void *to, size_t room)
{
	struct file *file = filp_open(path, O_RDONLY, 0);
	loff_t at = 0;
	ssize_t got;

	if (IS_ERR(file))
		return PTR_ERR(file);
	got = kernel_read(file, to, room, &at);
	filp_close(file, NULL);
	return got;
}

/* Counts all of them, even if there is not enough room. */
u32 dd_online_cpus(u32 *to, u32 room)
{
	u32 count = 0;
	int cpu;

	for_each_online_cpu(cpu)
		if (count++ < room)
			to[count - 1] = cpu;
	return count;
}

bool dd_all_cpus_online(void)
{
	return num_online_cpus() == num_present_cpus();
}

bool dd_has_machine_check(void)
{
	return boot_cpu_has(X86_FEATURE_MCE) && boot_cpu_has(X86_FEATURE_MCA);
}

u32 dd_apic_of(u32 cpu)
{
	return cpu_physical_id(cpu);
}

u32 dd_cpu(void)
{
	return raw_smp_processor_id();
}

u64 dd_direct_map(void)
{
	return PAGE_OFFSET;
}

u32 dd_tsc_khz(void)
{
	return boot_cpu_has(X86_FEATURE_TSC) ? tsc_khz : 0;
}

u64 dd_monotonic(void)
{
	return ktime_get_mono_fast_ns();
}

u64 dd_seconds(void)
{
	return ktime_get_real_seconds();
}

int dd_copy(void *to, const void *from, size_t length)
{
	return copy_from_kernel_nofault(to, from, length);
}

void dd_pat_watchdog(void)
{
	touch_nmi_watchdog();
}

/* Each CPU's own registers in memory. We access them directly, because some kernel functions wait for locks. */
void *dd_local_apic(void)
{
	return boot_cpu_has(X86_FEATURE_APIC) ? (void *)APIC_BASE : NULL;
}

void dd_code(u32 index, const void **start, size_t *length)
{
#ifdef DD_HAS_MODULE_MEMORY
	enum mod_mem_type type = index ? MOD_RODATA : MOD_TEXT;

	*start = THIS_MODULE->mem[type].base;
	*length = THIS_MODULE->mem[type].size;
#else
	struct module_layout *layout = &THIS_MODULE->core_layout;

	*start = layout->base + (index ? layout->text_size : 0);
	*length = index ? layout->ro_size - layout->text_size : layout->text_size;
#endif
}

static struct kmsg_dump_iter dd_log;

void dd_log_rewind(void)
{
	kmsg_dump_rewind(&dd_log);
}

bool dd_log_line(char *line, size_t room, size_t *length)
{
	return kmsg_dump_get_line(&dd_log, false, line, room, length);
}

bool dd_kdump_follows(void)
{
	return kexec_crash_loaded();
}

void dd_restart(void)
{
	emergency_restart();
}

/* Stopping the other CPUs. */

static struct smp_ops dd_original;
static bool dd_hooked;

static void dd_stop_other_cpus(int wait)
{
	/* An orderly reboot gets here too; a panic sets oops_in_progress, even in the middle of a reboot. */
	if (oops_in_progress || system_state < SYSTEM_HALT || system_state > SYSTEM_RESTART)
		dd_freeze();
	else if (dd_original.stop_other_cpus)
		dd_original.stop_other_cpus(wait);
}

/* With crash_kexec_post_notifiers: the kernel's function leaves what kdump needs, in case kdump follows. */
static void dd_crash_stop_other_cpus(void)
{
	if (dd_original.crash_stop_other_cpus) {
		dd_original.crash_stop_other_cpus();
		dd_crash_stopped();
	} else {
		dd_stop_other_cpus(0);
	}
}

/* Debuggers know this name of kexec's handler: it tells them where a stopped CPU's stack continues. */
static noinline int crash_nmi_callback(unsigned int type, struct pt_regs *regs)
{
	return dd_nmi(regs) ? NMI_HANDLED : NMI_DONE;
}

/* The registers of an oops that may lead to a panic: they would be the relevant ones. */
static struct pt_regs dd_oops_regs;
static struct task_struct *dd_oops_task;

static int dd_die(struct notifier_block *block, unsigned long value, void *data)
{
	struct die_args *args = data;

	if (value == DIE_OOPS && args->regs && !user_mode(args->regs)) {
		dd_oops_regs = *args->regs;
		WRITE_ONCE(dd_oops_task, current);
	}
	return NOTIFY_DONE;
}

static struct notifier_block dd_die_block = { .notifier_call = dd_die, .priority = INT_MAX };

static int dd_panicked(struct notifier_block *block, unsigned long value, void *data)
{
	const char *message = data ? data : "";
	u32 trigger = DD_TRIGGER_PANIC;
	struct pt_regs here = {};

	dd_capture(&here);
	if (strstr(message, "LOCKUP") || strstr(message, "lockup") || strstr(message, "hung_task"))
		trigger = DD_TRIGGER_WATCHDOG;
	else if (in_nmi())
		trigger = DD_TRIGGER_NMI;
	dd_panic(message, &here, READ_ONCE(dd_oops_task) == current ? &dd_oops_regs : NULL, trigger);
	return NOTIFY_DONE;
}

/* First of all: the other notifiers may be what crashes. */
static struct notifier_block dd_panic_block = { .notifier_call = dd_panicked, .priority = INT_MAX };

/*
 * Inserts the block at the head of the chain. By priority alone, earlier notifiers with the same priority
 * would run first: pvpanic tells the host, which may then end the machine. Later ones run after us.
 */
static void dd_register_first(struct notifier_block *block)
{
	unsigned long flags;

	spin_lock_irqsave(&panic_notifier_list.lock, flags);
	RCU_INIT_POINTER(block->next, rcu_dereference_protected(panic_notifier_list.head, true));
	rcu_assign_pointer(panic_notifier_list.head, block);
	spin_unlock_irqrestore(&panic_notifier_list.lock, flags);
}

/* The dumpers that save the end of the log (pstore) run after all notifiers, and this one runs last. */
#ifdef DD_HAS_KMSG_DUMP_DETAIL
static void dd_dumped(struct kmsg_dumper *dumper, struct kmsg_dump_detail *detail)
#else
static void dd_dumped(struct kmsg_dumper *dumper, enum kmsg_dump_reason reason)
#endif
{
	dd_heard();
}

static struct kmsg_dumper dd_last_dumper = { .dump = dd_dumped, .max_reason = KMSG_DUMP_PANIC };

int dd_stop_hooks(bool on)
{
	int result;

	if (on) {
		/* Registered again, so that it comes after those registered since the last arming. */
		kmsg_dump_unregister(&dd_last_dumper);
		result = kmsg_dump_register(&dd_last_dumper);
		if (result)
			return result;
	}
	if (on == dd_hooked)
		return 0;
	if (on) {
		result = register_nmi_handler(NMI_LOCAL, crash_nmi_callback, NMI_FLAG_FIRST, "diskdump");
		if (result) {
			kmsg_dump_unregister(&dd_last_dumper);
			return result;
		}
		/* Earlier oopses were not recorded. */
		WRITE_ONCE(dd_oops_task, NULL);
		register_die_notifier(&dd_die_block);
		dd_original = smp_ops;
		smp_ops.stop_other_cpus = dd_stop_other_cpus;
		smp_ops.crash_stop_other_cpus = dd_crash_stop_other_cpus;
		dd_register_first(&dd_panic_block);
	} else {
		atomic_notifier_chain_unregister(&panic_notifier_list, &dd_panic_block);
		smp_ops.crash_stop_other_cpus = dd_original.crash_stop_other_cpus;
		smp_ops.stop_other_cpus = dd_original.stop_other_cpus;
		unregister_die_notifier(&dd_die_block);
		unregister_nmi_handler(NMI_LOCAL, "diskdump");
		kmsg_dump_unregister(&dd_last_dumper);
	}
	dd_hooked = on;
	return 0;
}

const char *dd_cannot_arm(void)
{
	if (boot_cpu_has(X86_FEATURE_XENPV))
		return "a Xen guest without virtual hardware has no disks to take over";
	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		return "memory is encrypted (SEV, SME, TDX), which the polled drivers cannot do";
	return NULL;
}

/* CPU and memory hotplug: the dump is armed again for the changed machine. */

static void dd_rearm_work(struct work_struct *work);
static DECLARE_WORK(dd_work, dd_rearm_work);

static int dd_cpu_changed(unsigned int cpu)
{
	schedule_work(&dd_work);
	return 0;
}

static int dd_memory_changed(struct notifier_block *block, unsigned long action, void *data)
{
	if (action == MEM_ONLINE || action == MEM_OFFLINE)
		schedule_work(&dd_work);
	return NOTIFY_OK;
}

static struct notifier_block dd_memory_block = { .notifier_call = dd_memory_changed };
static int dd_cpu_state;

/* /sys/kernel/diskdump */

/* The texts to be read. They have a lock of their own: arming may wait for a disk, but reads must not. */
static DEFINE_MUTEX(dd_shown_mutex);
static char dd_shown[DD_SHOWN][PAGE_SIZE];
static size_t dd_shown_length[DD_SHOWN];

/* Under dd_mutex, after a change. */
static void dd_publish(void)
{
	u32 what;

	mutex_lock(&dd_shown_mutex);
	for (what = 0; what < DD_SHOWN; what++)
		dd_shown_length[what] = dd_show(what, dd_shown[what], PAGE_SIZE - 1);
	mutex_unlock(&dd_shown_mutex);
}

static void dd_rearm_work(struct work_struct *work)
{
	/* A CPU going offline is still there when we are notified; when it is gone, this lock is free. */
	cpus_read_lock();
	cpus_read_unlock();
	mutex_lock(&dd_mutex);
	dd_rearm();
	dd_publish();
	mutex_unlock(&dd_mutex);
}

#define DD_SHOWS(name, what)								\
static ssize_t name##_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)	\
{											\
	ssize_t length;									\
											\
	mutex_lock(&dd_shown_mutex);							\
	length = dd_shown_length[what];							\
	memcpy(buf, dd_shown[what], length);						\
	mutex_unlock(&dd_shown_mutex);							\
	return length;									\
}

DD_SHOWS(state, DD_STATE)
DD_SHOWS(status, DD_STATUS)
DD_SHOWS(reason, DD_REASON)
DD_SHOWS(last, DD_LAST)

#define DD_OBEYS(name, order)								\
static ssize_t name##_store(struct kobject *kobj, struct kobj_attribute *attr,		\
			    const char *buf, size_t count)				\
{											\
	long result;									\
											\
	mutex_lock(&dd_mutex);								\
	result = order;									\
	dd_publish();									\
	mutex_unlock(&dd_mutex);							\
	return result ? result : count;							\
}

DD_OBEYS(arm, dd_arm(buf, count))
DD_OBEYS(disarm, dd_disarm())
DD_OBEYS(last, dd_tell_last(buf, count))

static struct kobj_attribute dd_state = __ATTR_RO(state);
static struct kobj_attribute dd_status = __ATTR_RO(status);
static struct kobj_attribute dd_reason = __ATTR_RO(reason);
static struct kobj_attribute dd_last = __ATTR_RW(last);
static struct kobj_attribute dd_arming = __ATTR(arm, 0200, NULL, arm_store);
static struct kobj_attribute dd_disarming = __ATTR(disarm, 0200, NULL, disarm_store);

static struct attribute *dd_attributes[] = {
	&dd_state.attr, &dd_status.attr, &dd_reason.attr, &dd_last.attr, &dd_arming.attr, &dd_disarming.attr, NULL,
};

static const struct attribute_group dd_group = { .attrs = dd_attributes };
static struct kobject *dd_folder;

/* Remove the files now, even if the kernel delays the release (CONFIG_DEBUG_KOBJECT_RELEASE). */
static void dd_remove_folder(void)
{
	kobject_del(dd_folder);
	kobject_put(dd_folder);
}

static char *arm;
module_param(arm, charp, 0400);
MODULE_PARM_DESC(arm, "arms while loading: the words that are otherwise written to /sys/kernel/diskdump/arm");

static int __init dd_init(void)
{
	int result;

	dd_publish();
	dd_folder = kobject_create_and_add("diskdump", kernel_kobj);
	if (!dd_folder)
		return -ENOMEM;
	result = sysfs_create_group(dd_folder, &dd_group);
	if (result)
		goto no_group;
	result = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "diskdump:online", dd_cpu_changed, dd_cpu_changed);
	if (result < 0)
		goto no_group;
	dd_cpu_state = result;
	result = register_memory_notifier(&dd_memory_block);
	if (result)
		goto no_memory;
	if (arm) {
		mutex_lock(&dd_mutex);
		/* The reason for a refusal is in the log and in sysfs. */
		dd_arm(arm, strlen(arm));
		dd_publish();
		mutex_unlock(&dd_mutex);
	}
	return 0;

no_memory:
	cpuhp_remove_state_nocalls(dd_cpu_state);
no_group:
	dd_remove_folder();
	return result;
}

static void __exit dd_exit(void)
{
	unregister_memory_notifier(&dd_memory_block);
	cpuhp_remove_state_nocalls(dd_cpu_state);
	/* No more accesses through sysfs from here on. */
	dd_remove_folder();
	cancel_work_sync(&dd_work);
	dd_disarm();
}

module_init(dd_init);
module_exit(dd_exit);
MODULE_AUTHOR("The diskdump authors");
MODULE_DESCRIPTION("Crash dumps by polled drivers, without a reserved kernel");
MODULE_VERSION("0.1.0");
MODULE_LICENSE("Dual MIT/GPL");
