// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Counts this Linux's pages by type (Documentation/admin-guide/mm/pagemap.rst), in the categories that
 * makedumpfile leaves out:
 *
 *   count             prints "user=PAGES cache=PAGES free=PAGES"
 *   count hold MIB    holds MIB MiB of memory, in huge pages where possible, until it is killed
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LRU = 5, SLAB = 7, BUDDY = 10, ANON = 12, SWAPBACKED = 14, COMPOUND_TAIL = 16, HUGE = 17, UNEVICTABLE = 18, OFFLINE = 23, PGTABLE = 26 };

#define HAS(bit) (flags >> (bit) & 1)

static int hold(size_t bytes)
{
	const size_t large = 2 << 20;
	char *memory = aligned_alloc(large, bytes);

	if (!memory || madvise(memory, bytes, MADV_HUGEPAGE))
		return 1;
	memset(memory, 0x5a, bytes);
	for (;;)
		pause();
}

int main(int count, char **words)
{
	unsigned long user = 0, cache = 0, free_pages = 0;
	uint64_t flags, head = 0;
	FILE *pages;

	if (count == 3)
		return hold(strtoul(words[2], NULL, 0) << 20);
	pages = fopen("/proc/kpageflags", "r");
	if (!pages)
		return 1;
	while (fread(&flags, sizeof(flags), 1, pages) == 1) {
		/* Older kernels tell of the first page alone what a large one is for. */
		if (HAS(COMPOUND_TAIL))
			flags = head;
		else
			head = flags;
		if (HAS(BUDDY))
			free_pages++;
		else if (HAS(SLAB) || HAS(OFFLINE) || HAS(PGTABLE))
			continue;
		else if (HAS(ANON) || HAS(HUGE))
			user++;
		else if (HAS(LRU) || HAS(UNEVICTABLE) || HAS(SWAPBACKED))
			cache++;
	}
	printf("user=%lu cache=%lu free=%lu\n", user, cache, free_pages);
	return 0;
}
