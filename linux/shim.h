/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What the part in Rust (module/src/kernel.rs) and the part in C lend each other. A change here is a change there.
 */
#ifndef DISKDUMP_SHIM_H
#define DISKDUMP_SHIM_H

#include <linux/types.h>

struct file;
struct pci_dev;
struct pt_regs;

/* A target: a block device that the kernel has open for us, and where it is on its bus. */
struct dd_target {
	/* Kept open, and with it claimed: nobody mounts or formats it. */
	struct file *file;
	struct pci_dev *pci;
	/* On its disk, in sectors of 512 bytes. */
	u64 start;
	u64 sectors;
	/* Which driver of ours takes it over: a name of drivers/src/table.rs. */
	const char *driver;
	/* Segment in the upper half; bus, device and function as in a requester id. */
	u32 address;
	/* virtio-scsi: target and logical unit; AHCI: port; NVMe: namespace. */
	u32 unit;
	u32 lun;
	/* Whether the device goes by addresses of the DMA interface, and not by physical ones. */
	u32 translated;
};

/* Addresses of memory, up to the end and not with it. */
struct dd_range {
	u64 start;
	u64 end;
};

/* In C, for Rust. Those of the first group may sleep; they are for a healthy kernel only. */
/* Whether a path leads to the device that is open in this file. */
bool dd_is_at(const char *path, struct file *file);
/* held: a file in which it is open and claimed already, and which is shared then; or NULL. */
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
/* The first range of RAM from an address on, or of what is reserved there for a crash kernel; false after the last. */
bool dd_next_range(bool crash_kernel, u64 from, struct dd_range *range);
void dd_random(void *bytes, size_t length);
u32 dd_pci_read(u32 address, u32 offset);
void dd_say(const char *text, size_t length, int bad);
size_t dd_vmcoreinfo(void *to, size_t room);
u32 dd_online_cpus(u32 *to, u32 room);
bool dd_all_cpus_online(void);
/* Machine checks have banks of registers. */
bool dd_has_machine_check(void);
/* The number of a CPU's APIC. */
u32 dd_apic_of(u32 cpu);
/* A small file of sysfs; its length, or a negative number of an error. */
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
/* oops: the registers of the last oops of the task that panics, NULL if it had none. */
void dd_panic(const char *message, const struct pt_regs *regs, const struct pt_regs *oops, u32 trigger);
/* All others have heard of the panic. Comes back if the kernel is to go on with it. */
void dd_heard(void);
void dd_freeze(void);
void dd_crash_stopped(void);
bool dd_nmi(const struct pt_regs *regs);

/* What dd_show shows. */
enum dd_show {
	DD_STATE = 0,
	DD_STATUS = 1,
	DD_REASON = 2,
	DD_LAST = 3,
	DD_SHOWN,
};

/* What dd_panic is told of why: the format's triggers. */
enum dd_trigger {
	DD_TRIGGER_PANIC = 1,
	DD_TRIGGER_WATCHDOG = 4,
	DD_TRIGGER_NMI = 5,
	DD_TRIGGER_OOPS = 6,
};

#endif
