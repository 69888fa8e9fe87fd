// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What each client may know of each append-only file: what it has read and what it has written itself.
 *
 * Bounded: the files and clients that were used least lately are forgotten, and what they knew counts as known to
 * everybody, which can only make a write be refused.
 */
#include <linux/hash.h>
#include <linux/slab.h>

#include "track.h"

#define MAX_FILES	4096
#define MAX_CLIENTS	64	/* of one file */
#define FILES_BITS	8

static DEFINE_SPINLOCK(files_lock);
static struct hlist_head files[1 << FILES_BITS];
static LIST_HEAD(files_lru);
static atomic_t file_count = ATOMIC_INIT(0);

bool track_any(void)
{
	return atomic_read(&file_count);
}

static struct hlist_head *bucket(const struct inode *inode)
{
	return &files[hash_64(inode->i_ino ^ inode->i_sb->s_dev, FILES_BITS)];
}

static struct tracked *find_file(const struct inode *inode)
{
	struct tracked *file;

	hlist_for_each_entry(file, bucket(inode), node)
		if (file->number == inode->i_ino && file->device == inode->i_sb->s_dev &&
		    file->version == inode->i_generation)
			return file;
	return NULL;
}

void track_forget_clients(struct tracked *file)
{
	struct client *client, *next;

	list_for_each_entry_safe(client, next, &file->clients, list)
		kfree(client);
	INIT_LIST_HEAD(&file->clients);
	file->client_count = 0;
}

void track_put(struct tracked *file)
{
	if (!refcount_dec_and_test(&file->users))
		return;
	track_forget_clients(file);
	kfree(file);
}

/* Call with files_lock held. */
static void forget_file(struct tracked *file)
{
	hlist_del(&file->node);
	list_del(&file->lru);
	atomic_dec(&file_count);
	track_put(file);
}

struct tracked *track_get(struct inode *inode, bool make)
{
	struct tracked *file, *new = NULL;

	if (make) {
		new = kzalloc(sizeof(*new), GFP_KERNEL);
		if (!new)
			return NULL;
		new->device = inode->i_sb->s_dev;
		new->number = inode->i_ino;
		new->version = inode->i_generation;
		new->first_size = i_size_read(inode);
		refcount_set(&new->users, 2);
		mutex_init(&new->lock);
		init_waitqueue_head(&new->grown);
		INIT_LIST_HEAD(&new->clients);
	}
	spin_lock(&files_lock);
	file = find_file(inode);
	if (file) {
		refcount_inc(&file->users);
		list_move(&file->lru, &files_lru);
	} else if (new) {
		if (atomic_read(&file_count) >= MAX_FILES)
			forget_file(list_last_entry(&files_lru, struct tracked, lru));
		hlist_add_head(&new->node, bucket(inode));
		list_add(&new->lru, &files_lru);
		atomic_inc(&file_count);
		file = new;
		new = NULL;
	}
	spin_unlock(&files_lock);
	kfree(new);
	return file;
}

struct client *track_find_client(struct tracked *file, __be32 address)
{
	struct client *client;

	list_for_each_entry(client, &file->clients, list)
		if (client->address == address)
			return client;
	return NULL;
}

struct client *track_client(struct tracked *file, __be32 address)
{
	struct client *client = track_find_client(file, address);

	if (!client && file->client_count >= MAX_CLIENTS) {
		client = list_last_entry(&file->clients, struct client, list);
		list_del(&client->list);
		/* What the forgotten one knew, anybody may know from now on. */
		file->first_size = max(file->first_size, client->seen);
		file->client_count--;
		kfree(client);
		client = NULL;
	}
	if (client) {
		list_move(&client->list, &file->clients);
		return client;
	}
	client = kzalloc(sizeof(*client), GFP_KERNEL);
	if (!client)
		return NULL;
	client->address = address;
	client->seen = file->first_size;
	client->next = -1;
	client->moved.offset = -1;
	list_add(&client->list, &file->clients);
	file->client_count++;
	return client;
}

void track_wrote(struct client *client, loff_t start, loff_t end)
{
	struct extent *newest = &client->mine[client->newest % MAX_EXTENTS];

	if (newest->end == start && newest->end > newest->start)
		newest->end = end;
	else
		client->mine[++client->newest % MAX_EXTENTS] = (struct extent){ start, end };
	client->seen = max(client->seen, end);
}

bool track_wrote_itself(const struct client *client, loff_t start, loff_t end)
{
	bool found = true;
	int i;

	while (start < end && found) {
		found = false;
		for (i = 0; i < MAX_EXTENTS; i++)
			if (client->mine[i].start <= start && start < client->mine[i].end) {
				start = client->mine[i].end;
				found = true;
			}
	}
	return start >= end;
}

void track_forget_all(void)
{
	struct tracked *file, *next;

	spin_lock(&files_lock);
	list_for_each_entry_safe(file, next, &files_lru, lru)
		forget_file(file);
	spin_unlock(&files_lock);
}
