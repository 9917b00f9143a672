/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The parts of the kernel that the Rust shim uses and the `kernel` crate does not wrap yet. bindgen generates
 * bindings.rs from this file (Kbuild), with the layouts of exactly this kernel.
 */
#include <linux/blkdev.h>
#include <linux/cpu.h>
#include <linux/crash_core.h>
#include <linux/dma-mapping.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/kdebug.h>
#include <linux/kexec.h>
#include <linux/kmsg_dump.h>
#include <linux/kobject.h>
#include <linux/libata.h>
#include <linux/memory.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/notifier.h>
#include <linux/nvme_ioctl.h>
#include <linux/panic_notifier.h>
#include <linux/pci.h>
#include <linux/printk.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/sysfs.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include <asm/apic.h>
#include <asm/cpufeature.h>
#include <asm/nmi.h>
#include <asm/page.h>
#include <asm/smp.h>
#include <asm/tsc.h>

#include <scsi/scsi_device.h>
#include <scsi/scsi_host.h>

#include "helpers.h"
#include "shim.h"

/* Macros whose value bindgen does not know. */
const gfp_t DD_CONST_GFP = GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN;
const gfp_t DD_CONST_GFP_DMA32 = GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | GFP_DMA32;
const int DD_CONST_OPEN = O_RDONLY | O_EXCL | O_LARGEFILE;
const int DD_CONST_LOOK = O_RDONLY | O_LARGEFILE;
const int DD_CONST_READ = O_RDONLY;
const unsigned int DD_CONST_NVME_IOCTL_ID = NVME_IOCTL_ID;
const unsigned long DD_CONST_PAGE_SIZE = PAGE_SIZE;
const unsigned long DD_CONST_CRASH_KERNEL = IORES_DESC_CRASH_KERNEL;
const unsigned long DD_CONST_SYSTEM_RAM = IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY;
const unsigned int DD_CONST_X86_FEATURE_APIC = X86_FEATURE_APIC;
const unsigned int DD_CONST_X86_FEATURE_MCA = X86_FEATURE_MCA;
const unsigned int DD_CONST_X86_FEATURE_MCE = X86_FEATURE_MCE;
const unsigned int DD_CONST_X86_FEATURE_TSC = X86_FEATURE_TSC;
const unsigned int DD_CONST_X86_FEATURE_XENPV = X86_FEATURE_XENPV;
const int DD_CONST_WORK_CPU_UNBOUND = WORK_CPU_UNBOUND;
const unsigned long DD_CONST_MEM_ONLINE = MEM_ONLINE;
const unsigned long DD_CONST_MEM_OFFLINE = MEM_OFFLINE;
const int DD_CONST_NOTIFY_OK = NOTIFY_OK;
