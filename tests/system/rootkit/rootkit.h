/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The tests' own rootkit. Each trick is what a real one does, alone, and can be taken back, so that one VM serves many tests.
 * It is loaded into guests that a test has made, and is in no image.
 */
#ifndef ROOTKIT_H
#define ROOTKIT_H

#include <linux/sched.h>
#include <linux/types.h>

/* A trick: `on` and `off` return 0 or -errno; `pid` is the process that it is about, or 0. */
struct trick {
	const char *name;
	int (*on)(pid_t pid);
	int (*off)(void);
	bool is_on;
};

extern struct trick function_tricks[], memory_tricks[], data_tricks[], module_tricks[], process_tricks[];

/* The file of ours in /proc by which the tests say what to do; its entry leads to those of others. */
extern struct proc_dir_entry *control;

/* Where a symbol of the kernel lies that is not exported, or NULL. */
void *symbol(const char *name);

/* Overwrite read-only kernel memory (text, .rodata, ro_after_init) through a writable alias of its pages. */
int overwrite(void *where, const void *bytes, size_t length);

/* The task with this PID, with a reference, or NULL. */
struct task_struct *task_of(pid_t pid);

#endif
