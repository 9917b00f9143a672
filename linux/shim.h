/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The interface between the Rust part (module/src/kernel.rs) and the C part. Change both together.
 */
#ifndef DISKDUMP_SHIM_H
#define DISKDUMP_SHIM_H

#include <linux/types.h>

struct file;
struct pci_dev;
struct pt_regs;

/* The driver of ours that takes a disk over. */
enum dd_driver {
	DD_VIRTIO_BLK = 1,
	DD_VIRTIO_SCSI = 2,
	DD_AHCI = 3,
	DD_NVME = 4,
};

/* A target: a block device that the kernel has open for us, and where it is on its bus. */
struct dd_target {
	/* Kept open, which claims the device: it cannot be mounted or formatted. */
	struct file *file;
	struct pci_dev *pci;
	/* Position on its disk and size, in sectors of 512 bytes. */
	u64 start;
	u64 sectors;
	u32 driver;
	/* Segment in the upper half; bus, device and function as in a requester id. */
	u32 address;
	/* virtio-scsi: target and logical unit; AHCI: port; NVMe: namespace. */
	u32 unit;
	u32 lun;
	/* Whether the device uses addresses of the DMA interface instead of physical ones. */
	u32 translated;
	u32 reserved;
};

/* A range of memory addresses; the end is exclusive. */
struct dd_range {
	u64 start;
	u64 end;
};

/* In C, for Rust. The first group may sleep; it is for a healthy kernel only. */
/* Whether the device at this path is the one open in this file. */
bool dd_is_at(const char *path, struct file *file);
/* held: a file in which the device is already open and claimed, to be shared; or NULL. */
long dd_open_target(const char *path, struct file *held, struct dd_target *target, const char **why);
void dd_close_target(struct dd_target *target);
int dd_read_block(struct file *file, u64 block, void *to);
void *dd_memory(size_t bytes, u64 *physical);
void dd_release_memory(void *memory, size_t bytes);
int dd_map_for_device(struct pci_dev *pci, void *memory, size_t bytes, u64 *bus);
void dd_unmap_for_device(struct pci_dev *pci, u64 bus, size_t bytes);
void *dd_take_stack(size_t bytes);
void dd_release_stack(void *stack);
void *dd_map_registers(u64 physical, size_t length);
void dd_unmap_registers(void *start);
/* The first range at or after an address, of RAM or of crash kernel memory; false after the last one. */
bool dd_next_range(bool crash_kernel, u64 from, struct dd_range *range);
void dd_random(void *bytes, size_t length);
u32 dd_pci_read(u32 address, u32 offset);
void dd_say(const char *text, size_t length, int bad);
size_t dd_vmcoreinfo(void *to, size_t room);
u32 dd_online_cpus(u32 *to, u32 room);
bool dd_all_cpus_online(void);
/* Whether CPUs have machine-check banks. */
bool dd_has_machine_check(void);
/* The APIC id of a CPU. */
u32 dd_apic_of(u32 cpu);
/* Reads a small file in sysfs; returns its length or a negative error number. */
long dd_read_file(const char *path, void *to, size_t room);
int dd_stop_hooks(bool on);
const char *dd_cannot_arm(void);

/* These neither sleep nor take a lock. */
u32 dd_cpu(void);
u64 dd_direct_map(void);
u32 dd_tsc_khz(void);
u64 dd_monotonic(void);
u64 dd_seconds(void);
int dd_copy(void *to, const void *from, size_t length);
void dd_pat_watchdog(void);
void *dd_local_apic(void);
void dd_code(u32 index, const void **start, size_t *length);
void dd_log_rewind(void);
bool dd_log_line(char *line, size_t room, size_t *length);
bool dd_kdump_follows(void);
void dd_restart(void);
/* stack.S */
void dd_call_on(void *top, void (*run)(void *), void *word);
void dd_capture(struct pt_regs *regs);

/* In Rust, for C. */
long dd_arm(const char *words, size_t length);
long dd_disarm(void);
void dd_rearm(void);
size_t dd_show(u32 what, char *to, size_t room);
long dd_tell_last(const char *text, size_t length);
/* oops: the registers of the panicking task's last oops, NULL if it had none. */
void dd_panic(const char *message, const struct pt_regs *regs, const struct pt_regs *oops, u32 trigger);
/* All panic notifiers have run. Returns if the kernel is to continue its panic. */
void dd_heard(void);
void dd_freeze(void);
void dd_crash_stopped(void);
bool dd_nmi(const struct pt_regs *regs);

/* The texts of dd_show. */
enum dd_show {
	DD_STATE = 0,
	DD_STATUS = 1,
	DD_REASON = 2,
	DD_LAST = 3,
	DD_SHOWN,
};

/* The trigger for dd_panic, by the format's numbers. */
enum dd_trigger {
	DD_TRIGGER_PANIC = 1,
	DD_TRIGGER_WATCHDOG = 4,
	DD_TRIGGER_NMI = 5,
	DD_TRIGGER_OOPS = 6,
};

#endif
