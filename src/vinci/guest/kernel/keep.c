// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The latest appends to a file, kept on the disk beside it.
 *
 * A client whose reply was lost when the server lost power sends its append again. The bytes are stored already, and
 * only who wrote them tells the repetition from another client's equal line: so that is written down. It is an
 * extended attribute of the file itself, set before the bytes are stored. ext4 commits these changes in their order.
 * What it tells is believed where the last of the appends that it knows ends with the file. Where the file ends
 * elsewhere, one was cut short, or somebody else has written: then nothing is believed, and a repetition is refused.
 * Bytes that the power cut has left unwritten within the file are found when they are compared.
 */
#include <linux/xattr.h>

#include "track.h"

#define ATTRIBUTE	XATTR_TRUSTED_PREFIX "vinci.appends"

static u64 end_of(const struct kept *append)
{
	return le64_to_cpu(append->start) + le32_to_cpu(append->stored);
}

static void recall_one(struct tracked *file, const struct kept *append)
{
	struct client *client = track_client(file, append->address);
	loff_t start = le64_to_cpu(append->start);

	if (!client)
		return;
	track_wrote(client, start, end_of(append));
	client->next = le64_to_cpu(append->offset) + le32_to_cpu(append->length);
	if (append->crc) {
		client->moved.offset = le64_to_cpu(append->offset);
		client->moved.length = le32_to_cpu(append->length);
		client->moved.crc = le32_to_cpu(append->crc);
		client->moved.start = start;
		client->moved.stored = le32_to_cpu(append->stored);
	}
}

void keep_recall(struct tracked *file, struct file *opened)
{
	struct inode *inode = file_inode(opened);
	u64 size = i_size_read(inode), last = 0;
	struct kept found[MAX_KEPT];
	ssize_t got;
	int i;

	if (file->recalled)
		return;
	file->recalled = true;
	file->size = size;
	got = __vfs_getxattr(opened->f_path.dentry, inode, ATTRIBUTE, found, sizeof(found));
	if (got < 0)
		return;
	got /= sizeof(*found);
	for (i = 0; i < got; i++)
		if (end_of(&found[i]) <= size)
			last = max(last, end_of(&found[i]));
	if (last != size)
		return;
	for (i = got; i--;)
		if (end_of(&found[i]) <= size) {
			keep_stored(file, &found[i]);
			recall_one(file, &found[i]);
		}
}

/* On the disk are these, or none. */
static int put(struct file *opened, const struct kept *all, unsigned int count)
{
	struct inode *inode = file_inode(opened);
	struct dentry *dentry = opened->f_path.dentry;
	int error = -ENODATA;

	file_start_write(opened);
	inode_lock(inode);
	if (count)
		error = __vfs_setxattr(&init_user_ns, dentry, inode, ATTRIBUTE, all, count * sizeof(*all), 0);
	/* Where there is no room, what was told before would be told of a file that has grown since. */
	if (error)
		error = __vfs_removexattr(&init_user_ns, dentry, ATTRIBUTE);
	inode_unlock(inode);
	file_end_write(opened);
	return error == -ENODATA ? 0 : error;
}

int keep_before(struct tracked *file, struct file *opened, const struct kept *append)
{
	unsigned int others = min_t(unsigned int, file->kept_count, MAX_KEPT - 1);
	struct kept all[MAX_KEPT];

	all[0] = *append;
	memcpy(all + 1, file->kept, others * sizeof(*all));
	return put(opened, all, others + 1);
}

void keep_undo(struct tracked *file, struct file *opened)
{
	put(opened, file->kept, file->kept_count);
}

void keep_stored(struct tracked *file, const struct kept *append)
{
	unsigned int others = min_t(unsigned int, file->kept_count, MAX_KEPT - 1);

	memmove(file->kept + 1, file->kept, others * sizeof(*append));
	file->kept[0] = *append;
	file->kept_count = others + 1;
}
