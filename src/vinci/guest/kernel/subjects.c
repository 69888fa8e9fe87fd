// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The table of grants: (client address, UID on the client) -> credentials.
 *
 * The table is only ever replaced as a whole. Rows are looked up under RCU; each row holds credentials made
 * when the table was written, so a request costs one look-up and no allocation.
 */
#include <linux/hash.h>
#include <linux/inet.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/security.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <net/ipv6.h>

#include "vinci.h"

#define MAX_TABLE_BYTES	(16u << 20)
#define MAX_ROWS	(1u << 17)
#define MAX_CONTEXT	1024
/* A group that exists on no disk: keeps the server's cached open files of two subjects with one UID apart. */
#define SUBJECT_GROUP	0x40000000u

struct row {
	struct hlist_node node;
	__be32 address;
	uid_t local_uid;
	const struct cred *cred;
};

struct table {
	struct rcu_head rcu;
	struct work_struct free_work;
	unsigned int count, skipped, bits;
	struct row *rows;
	struct hlist_head *heads;
};

static struct table __rcu *current_table;
static DEFINE_MUTEX(replace_lock);
static unsigned long generation;

static struct hlist_head *bucket(const struct table *table, __be32 address, uid_t uid)
{
	u64 key = ((u64)be32_to_cpu(address) << 32) | uid;

	return &table->heads[hash_64(key, table->bits)];
}

static struct row *find(const struct table *table, __be32 address, uid_t uid)
{
	struct row *row;

	hlist_for_each_entry_rcu(row, bucket(table, address, uid), node, lockdep_is_held(&replace_lock))
		if (row->address == address && row->local_uid == uid)
			return row;
	return NULL;
}

__be32 subjects_address(struct svc_rqst *rqstp)
{
	const struct sockaddr *peer = svc_addr(rqstp);

	if (peer->sa_family == AF_INET)
		return ((const struct sockaddr_in *)peer)->sin_addr.s_addr;
	if (peer->sa_family == AF_INET6) {
		const struct in6_addr *address = &((const struct sockaddr_in6 *)peer)->sin6_addr;

		if (ipv6_addr_v4mapped(address))
			return address->s6_addr32[3];
	}
	return 0;
}

const struct cred *subjects_get(__be32 address, uid_t uid)
{
	const struct cred *cred = ERR_PTR(-EACCES);
	const struct table *table;
	const struct row *row;

	rcu_read_lock();
	table = rcu_dereference(current_table);
	if (!table)
		cred = ERR_PTR(-EAGAIN);
	else if ((row = find(table, address, uid)))
		cred = get_cred(row->cred);
	rcu_read_unlock();
	return cred;
}

/* Credentials without any capability: UID 0 of a client is one more number here. */
static struct cred *bare_cred(uid_t uid, gid_t gid, u32 secid)
{
	struct cred *cred = prepare_kernel_cred(NULL);
	struct group_info *groups;
	int error;

	if (!cred)
		return NULL;
	groups = groups_alloc(1);
	if (!groups) {
		put_cred(cred);
		return NULL;
	}
	groups->gid[0] = KGIDT_INIT(SUBJECT_GROUP | secid);
	set_groups(cred, groups);
	put_group_info(groups);
	cred->uid = cred->euid = cred->suid = cred->fsuid = KUIDT_INIT(uid);
	cred->gid = cred->egid = cred->sgid = cred->fsgid = KGIDT_INIT(gid);
	cred->cap_effective = cred->cap_permitted = CAP_EMPTY_SET;
	cred->cap_inheritable = cred->cap_bset = cred->cap_ambient = CAP_EMPTY_SET;
	error = set_security_override(cred, secid);
	if (error) {
		put_cred(cred);
		return ERR_PTR(error);
	}
	return cred;
}

const struct cred *subjects_own(const char *context, bool reads_directories)
{
	struct cred *cred;
	u32 secid;

	if (security_secctx_to_secid(context, strlen(context), &secid))
		return NULL;
	cred = bare_cred(0, 0, secid);
	if (IS_ERR_OR_NULL(cred))
		return NULL;
	/* nfsd raises what is permitted while it walks up from a file handle: only that, and only directories. */
	if (reads_directories)
		cap_raise(cred->cap_permitted, CAP_DAC_READ_SEARCH);
	return cred;
}

static void free_table(struct work_struct *work)
{
	struct table *table = container_of(work, struct table, free_work);
	unsigned int i;

	for (i = 0; i < table->count; i++)
		put_cred(table->rows[i].cred);
	kvfree(table->rows);
	kvfree(table->heads);
	kfree(table);
}

static void free_table_rcu(struct rcu_head *head)
{
	struct table *table = container_of(head, struct table, rcu);

	/* kvfree may sleep */
	INIT_WORK(&table->free_work, free_table);
	schedule_work(&table->free_work);
}

static struct table *alloc_table(unsigned int rows)
{
	struct table *table = kzalloc(sizeof(*table), GFP_KERNEL);

	if (!table)
		return NULL;
	table->bits = max(4, order_base_2(rows + 1));
	table->rows = kvcalloc(rows + 1, sizeof(*table->rows), GFP_KERNEL);
	table->heads = kvcalloc(1u << table->bits, sizeof(*table->heads), GFP_KERNEL);
	if (!table->rows || !table->heads) {
		free_table(&table->free_work);
		return NULL;
	}
	return table;
}

static int number(char *text, unsigned int *value)
{
	return text && *text ? kstrtouint(text, 10, value) : -EINVAL;
}

/* One line: address, local UID, UID, GID, context; separated by one TAB each. Changes @line. */
static int add_row(struct table *table, char *line)
{
	char *address_text = strsep(&line, "\t"), *local_text = strsep(&line, "\t");
	char *uid_text = strsep(&line, "\t"), *gid_text = strsep(&line, "\t"), *context = line;
	unsigned int local_uid, uid, gid;
	struct row *row = &table->rows[table->count];
	struct cred *cred;
	const char *end;
	__be32 address;
	u32 secid;

	if (number(local_text, &local_uid) || number(uid_text, &uid) || number(gid_text, &gid))
		return -EINVAL;
	if (!in4_pton(address_text, -1, (u8 *)&address, -1, &end) || *end || !address)
		return -EINVAL;
	if (!context || !*context || strchr(context, '\t') || strlen(context) > MAX_CONTEXT)
		return -EINVAL;
	/* Nobody acts as root on the server, whatever the table says. */
	if (!uid || !gid || uid > INT_MAX || gid >= SUBJECT_GROUP || local_uid > INT_MAX)
		return -EINVAL;
	if (find(table, address, local_uid))
		return -EEXIST;
	if (security_secctx_to_secid(context, strlen(context), &secid)) {
		/* Not in this policy: the pair gets nothing; the others must not wait for it. */
		table->skipped++;
		return 0;
	}
	cred = bare_cred(uid, gid, secid);
	if (!cred)
		return -ENOMEM;
	if (IS_ERR(cred)) {
		table->skipped++;
		return 0;
	}
	row->address = address;
	row->local_uid = local_uid;
	row->cred = cred;
	table->count++;
	hlist_add_head_rcu(&row->node, bucket(table, address, local_uid));
	return 0;
}

static int replace_table(char *text)
{
	unsigned int lines = 0;
	struct table *table, *old;
	char *line, *scan;
	int error = 0;

	for (scan = text; (scan = strchr(scan, '\n')); scan++)
		lines++;
	if (lines > MAX_ROWS)
		return -E2BIG;
	table = alloc_table(lines);
	if (!table)
		return -ENOMEM;
	mutex_lock(&replace_lock);
	while (!error && (line = strsep(&text, "\n")))
		if (*line)
			error = add_row(table, line);
	if (error) {
		mutex_unlock(&replace_lock);
		free_table(&table->free_work);
		return error;
	}
	old = rcu_replace_pointer(current_table, table, lockdep_is_held(&replace_lock));
	generation++;
	mutex_unlock(&replace_lock);
	if (old)
		call_rcu(&old->rcu, free_table_rcu);
	/* A request that began before this returns may still act as before; none that begins later. */
	synchronize_rcu();
	return 0;
}

/* What one opener of the file has written so far. */
struct upload {
	struct mutex lock;
	size_t length, room;
	char *text;
};

static ssize_t grants_write(struct file *file, const char __user *from, size_t count, loff_t *ppos)
{
	struct upload *upload = ((struct seq_file *)file->private_data)->private;
	ssize_t result = count;
	char *bigger;

	mutex_lock(&upload->lock);
	if (upload->length + count >= MAX_TABLE_BYTES) {
		result = -EFBIG;
		goto out;
	}
	if (upload->length + count + 1 > upload->room) {
		size_t room = max(2 * upload->room, PAGE_ALIGN(upload->length + count + 1));

		bigger = kvmalloc(room, GFP_KERNEL);
		if (!bigger) {
			result = -ENOMEM;
			goto out;
		}
		if (upload->length)
			memcpy(bigger, upload->text, upload->length);
		kvfree(upload->text);
		upload->text = bigger;
		upload->room = room;
	}
	if (copy_from_user(upload->text + upload->length, from, count)) {
		result = -EFAULT;
		goto out;
	}
	upload->length += count;
	upload->text[upload->length] = '\0';
	/* A line with a single dot ends a table: one cut short never takes effect. */
	if (upload->length >= 2 && !strcmp(upload->text + upload->length - 2, ".\n") &&
	    (upload->length == 2 || upload->text[upload->length - 3] == '\n')) {
		int error;

		upload->text[upload->length - 2] = '\0';
		error = strlen(upload->text) == upload->length - 2 ? replace_table(upload->text) : -EINVAL;
		upload->length = 0;
		if (error)
			result = error;
	}
out:
	mutex_unlock(&upload->lock);
	return result;
}

static int grants_show(struct seq_file *seq, void *unused)
{
	const struct table *table;

	rcu_read_lock();
	table = rcu_dereference(current_table);
	seq_printf(seq, "generation %lu\nrows %u\nskipped %u\n", generation,
		   table ? table->count : 0, table ? table->skipped : 0);
	rcu_read_unlock();
	return 0;
}

static int grants_open(struct inode *inode, struct file *file)
{
	struct upload *upload = kzalloc(sizeof(*upload), GFP_KERNEL);
	int error;

	if (!upload)
		return -ENOMEM;
	mutex_init(&upload->lock);
	error = single_open(file, grants_show, upload);
	if (error)
		kfree(upload);
	return error;
}

static int grants_release(struct inode *inode, struct file *file)
{
	struct upload *upload = ((struct seq_file *)file->private_data)->private;

	kvfree(upload->text);
	kfree(upload);
	return single_release(inode, file);
}

static const struct proc_ops grants_ops = {
	.proc_open = grants_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_write = grants_write,
	.proc_release = grants_release,
};

int subjects_init(struct proc_dir_entry *dir)
{
	return proc_create("grants", 0600, dir, &grants_ops) ? 0 : -ENOMEM;
}

void subjects_exit(void)
{
	struct table *table = rcu_replace_pointer(current_table, NULL, true);

	if (table)
		call_rcu(&table->rcu, free_table_rcu);
	rcu_barrier();
	flush_scheduled_work();
}
