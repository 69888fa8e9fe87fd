// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The latest appends to a file, kept on the disk beside it.
 *
 * A client whose reply was lost when the server lost power sends its append again. The bytes are stored already, and
 * only who wrote them tells the repetition from another client's equal line: so that is written down. It is an
 * extended attribute of the file itself, set before the bytes are stored. ext4 commits changes in their order: where
 * the file's new size is on the disk, so is the attribute; where the size did not get there, the attribute tells of
 * bytes behind the file's end, and that part is not believed. This has to be looked at before anything else is
 * appended, or others' bytes would lie there.
 */
#include <linux/xattr.h>

#include "track.h"

#define ATTRIBUTE	XATTR_TRUSTED_PREFIX "vinci.appends"

static void recall_one(struct tracked *file, const struct kept *append)
{
	loff_t offset = le64_to_cpu(append->offset), start = le64_to_cpu(append->start);
	u32 length = le32_to_cpu(append->length);
	struct client *client = track_client(file, append->address);

	if (!client)
		return;
	track_wrote(client, start, start + le32_to_cpu(append->stored));
	client->next = offset + length;
	if (start != offset + length - le32_to_cpu(append->stored)) {
		client->moved.offset = offset;
		client->moved.length = length;
		client->moved.crc = le32_to_cpu(append->crc);
	}
}

void keep_recall(struct tracked *file, struct file *opened)
{
	struct inode *inode = file_inode(opened);
	loff_t size = i_size_read(inode);
	struct kept found[MAX_KEPT];
	ssize_t got;
	int i;

	if (file->recalled)
		return;
	file->recalled = true;
	got = __vfs_getxattr(opened->f_path.dentry, inode, ATTRIBUTE, found, sizeof(found));
	if (got < 0)
		return;
	for (i = got / sizeof(*found); i--;) {
		u64 start = le64_to_cpu(found[i].start), stored = le32_to_cpu(found[i].stored);

		if (start > size || stored > size - start)
			continue;
		keep_stored(file, &found[i]);
		recall_one(file, &found[i]);
	}
}

void keep_before(struct tracked *file, struct file *opened, const struct kept *append)
{
	unsigned int others = min_t(unsigned int, file->kept_count, MAX_KEPT - 1);
	struct inode *inode = file_inode(opened);
	struct kept all[MAX_KEPT];

	all[0] = *append;
	memcpy(all + 1, file->kept, others * sizeof(*all));
	file_start_write(opened);
	inode_lock(inode);
	/* Without it a repetition after a power cut is refused, and nothing worse. */
	__vfs_setxattr(&init_user_ns, opened->f_path.dentry, inode, ATTRIBUTE, all, (others + 1) * sizeof(*all), 0);
	inode_unlock(inode);
	file_end_write(opened);
}

void keep_stored(struct tracked *file, const struct kept *append)
{
	unsigned int others = min_t(unsigned int, file->kept_count, MAX_KEPT - 1);

	memmove(file->kept + 1, file->kept, others * sizeof(*append));
	file->kept[0] = *append;
	file->kept_count = others + 1;
}
