/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What each client may know of each append-only file (track.c). */
#ifndef VINCI_TRACK_H
#define VINCI_TRACK_H

#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/types.h>
#include <linux/wait.h>

#define MAX_EXTENTS	8	/* of one client in one file */
#define MAX_KEPT	6	/* the latest appends to one file, of all clients; with the label they fit into an inode of 512 bytes */

struct extent {
	loff_t start, end;
};

struct client {
	struct list_head list;	/* latest first */
	__be32 address;
	loff_t seen;		/* it may know every byte before this one, and none behind */
	bool outdated;		/* its cache has missed other clients' bytes */
	loff_t next;		/* where, in its own idea of the file, its last append ended */
	struct extent mine[MAX_EXTENTS];
	unsigned int newest;
	/* The last append that went to another place than asked for, to know its repetition. */
	struct { loff_t offset; unsigned long length; u32 crc; loff_t start; unsigned long stored; } moved;
};

/* One append as it lies on the disk beside its file (keep.c). */
struct kept {
	__be32 address;
	__le32 length, stored;	/* bytes that were sent, and those of them that were new */
	__le32 crc;		/* of what was sent, where it went to another place than asked for */
	__le64 offset, start;	/* the place that was asked for, and where the new bytes went */
} __packed;

struct tracked {
	struct hlist_node node;
	struct list_head lru;
	refcount_t users;
	dev_t device;
	u64 number;
	u32 version;
	loff_t first_size;	/* bytes that were there before we looked: anybody may know them */
	loff_t size;		/* after the last append */
	struct mutex lock;
	wait_queue_head_t grown;
	bool recalled;		/* what the disk tells of it has been read */
	struct kept kept[MAX_KEPT];	/* latest first */
	unsigned int kept_count;
	struct list_head clients;
	unsigned int client_count;
};

/* False while no file is tracked: the quick way out. */
bool track_any(void);
/* The file with a reference held, NULL when it is not tracked; with @make it is tracked from now on. */
struct tracked *track_get(struct inode *inode, bool make);
void track_put(struct tracked *file);
void track_forget_all(void);

/* Call these with the file's lock held. */
struct client *track_find_client(struct tracked *file, __be32 address);
/* As before, and made when there is none; NULL without memory. */
struct client *track_client(struct tracked *file, __be32 address);
/* Nothing that is known of it holds any more. */
void track_forget_clients(struct tracked *file);
/* This client has written [start, end). */
void track_wrote(struct client *client, loff_t start, loff_t end);
bool track_wrote_itself(const struct client *client, loff_t start, loff_t end);

/* --- keep.c; these too --- */
/* Once for each tracked file: what was known of its clients before this server started. */
void keep_recall(struct tracked *file, struct file *opened);
/* Before an append is stored: put it on the disk beside the file. When this fails it may not be stored. */
int keep_before(struct tracked *file, struct file *opened, const struct kept *append);
/* It has been stored. */
void keep_stored(struct tracked *file, const struct kept *append);
/* It has not. */
void keep_undo(struct tracked *file, struct file *opened);

#endif
