// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Append-only files over NFS.
 *
 * NFS has no append: a client sends bytes for an offset, which it takes from its own idea of the file's end. With
 * two clients that idea may be old; with a cache, the bytes may begin with a page of what is stored already; after
 * a lost reply, the same bytes come again. Of each client we remember how far it may know the file: what it has read
 * and written itself. A write is judged under a lock of the file:
 *
 *  - at the end of the file: appended;
 *  - behind it: wait for the client's own earlier part, which may be on its way, else refused;
 *  - before it, from a point on that the client knows nothing of: its idea of the end was old. All of it is new:
 *    appended at the true end;
 *  - before it, and what it repeats of the known part is byte for byte what is stored: the rest is appended. When
 *    nothing is left, it is a repetition, which appends nothing;
 *  - else refused. Nothing of it is stored, and the client is told.
 *
 * Stored bytes are compared only where the client wrote them or may read them: a refusal must not tell an appender
 * what somebody else's line says. Bytes are on disk before the reply. A client whose idea of the file turns out to be
 * old is made to see it changed, so that it drops its cache.
 */
#include <linux/crc32.h>
#include <linux/iversion.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/slab.h>

#include "track.h"
#include "vinci.h"

#define MAX_WAITERS	3	/* server threads that wait for a client's earlier part */
#define GAP_WAIT	(2 * HZ)

static atomic_t waiters = ATOMIC_INIT(0);
static int (*inode_permission_lsm)(struct inode *inode, int mask);
static const struct cred *compare_cred;

int selinux_may(struct inode *inode, int mask)
{
	return inode_permission_lsm(inode, mask);
}

bool append_only(struct inode *inode)
{
	if (!S_ISREG(inode->i_mode))
		return false;
	if (!selinux_may(inode, MAY_WRITE | MAY_ACCESS))
		return false;
	return !selinux_may(inode, MAY_WRITE | MAY_APPEND | MAY_ACCESS);
}

void append_seen(struct inode *inode, __be32 address, loff_t end)
{
	struct tracked *file;
	struct client *client;

	if (!track_any())
		return;
	file = track_get(inode, false);
	if (!file)
		return;
	mutex_lock(&file->lock);
	client = track_client(file, address);
	if (client)
		client->seen = max(client->seen, end);
	else
		file->first_size = max(file->first_size, end);
	mutex_unlock(&file->lock);
	track_put(file);
}

/* What the reply to a write tells of the file, a client takes for its own doing: it would not see the change. */
static bool writes(struct svc_rqst *rqstp)
{
	struct nfsd4_compoundargs *args = rqstp->rq_argp;
	u32 i;

	if (rqstp->rq_vers != 4)
		return rqstp->rq_proc == NFS3PROC_WRITE || rqstp->rq_proc == NFS3PROC_COMMIT;
	for (i = 0; i < args->opcnt; i++)
		if (args->ops[i].opnum == OP_WRITE || args->ops[i].opnum == OP_COMMIT)
			return true;
	return false;
}

void append_refresh(struct svc_rqst *rqstp, struct inode *inode)
{
	struct tracked *file;
	struct client *client;

	if (!track_any() || !S_ISREG(inode->i_mode))
		return;
	file = track_get(inode, false);
	if (!file)
		return;
	/* We may hold the inode's own lock, which an append takes after this one. Next time will do. */
	if (!mutex_trylock(&file->lock))
		goto out;
	client = track_find_client(file, subjects_address(rqstp));
	if (client && client->outdated && !writes(rqstp)) {
		client->outdated = false;
		/* NFSv4 looks at the version, NFSv3 at the time. In memory only: it need not outlive the caches. */
		inode_maybe_inc_iversion(inode, true);
		inode->i_ctime = ns_to_timespec64(timespec64_to_ns(&inode->i_ctime) + 1);
	}
	mutex_unlock(&file->lock);
out:
	track_put(file);
}

/* True when @length bytes of @vec, from its byte @from on, are what is stored at @offset. */
static bool same_bytes(const struct path *path, loff_t offset, const struct kvec *vec, size_t from, size_t length)
{
	const struct cred *saved;
	struct file *file;
	bool same = true;
	void *stored;

	if (!compare_cred)
		return false;
	stored = (void *)__get_free_page(GFP_KERNEL);
	if (!stored)
		return false;
	saved = override_creds(compare_cred);
	file = dentry_open(path, O_RDONLY | O_LARGEFILE, compare_cred);
	if (IS_ERR(file)) {
		same = false;
		goto out;
	}
	for (; same && length; vec++) {
		size_t done = min(from, vec->iov_len), here = min(length, vec->iov_len - done), end = done + here;

		from -= done;
		while (same && done < end) {
			ssize_t got = kernel_read(file, stored, min_t(size_t, end - done, PAGE_SIZE), &offset);

			same = got > 0 && !memcmp(stored, vec->iov_base + done, got);
			done += max_t(ssize_t, got, 0);
		}
		length -= here;
	}
	fput(file);
out:
	revert_creds(saved);
	free_page((unsigned long)stored);
	return same;
}

static u32 checksum(const struct kvec *vec, int vlen, size_t length)
{
	u32 crc = 0;

	for (; vlen-- && length; vec++) {
		size_t here = min(length, vec->iov_len);

		crc = crc32(crc, vec->iov_base, here);
		length -= here;
	}
	return crc;
}

static char byte_at(const struct kvec *vec, size_t position)
{
	while (position >= vec->iov_len)
		position -= vec++->iov_len;
	return ((const char *)vec->iov_base)[position];
}

/* Wait, without the lock, until the file has grown to @offset. */
static __be32 wait_for_growth(struct tracked *file, struct inode *inode, loff_t offset)
{
	if (atomic_inc_return(&waiters) > MAX_WAITERS) {
		atomic_dec(&waiters);
		return nfserr_jukebox;
	}
	mutex_unlock(&file->lock);
	wait_event_timeout(file->grown, i_size_read(inode) >= offset, GAP_WAIT);
	mutex_lock(&file->lock);
	atomic_dec(&waiters);
	return nfs_ok;
}

/* What to do with bytes that were sent for [offset, offset + length). */
struct verdict {
	__be32 status;
	size_t skip;		/* leading bytes that are stored already */
	bool moved;		/* goes to the end instead of to its offset */
	enum vinci_reason reason;
};

static struct verdict judge(struct client *client, const struct path *path, loff_t offset, const struct kvec *vec,
			    int vlen, size_t length)
{
	struct inode *inode = d_inode(path->dentry);
	loff_t size = i_size_read(inode), end = offset + length;
	loff_t known = min3(size, end, client->seen);
	bool own = track_wrote_itself(client, offset, known);

	if (offset == size)
		return (struct verdict){ .status = nfs_ok };
	if (offset > size)
		return (struct verdict){ .status = nfserr_io, .reason = REASON_GAP };
	if (client->moved.offset == offset && client->moved.length == length &&
	    client->moved.crc == checksum(vec, vlen, length) &&
	    same_bytes(path, client->moved.start, vec, length - client->moved.stored, client->moved.stored))
		return (struct verdict){ .status = nfs_ok, .skip = length };
	if (offset >= client->seen || offset == client->next)
		return (struct verdict){ .status = nfs_ok, .moved = true };
	if (!own && selinux_may(inode, MAY_READ | MAY_ACCESS))
		return (struct verdict){ .status = nfserr_acces, .reason = REASON_OVERWRITE };
	if (!same_bytes(path, offset, vec, 0, known - offset))
		return (struct verdict){ .status = nfserr_acces, .reason = REASON_OVERWRITE };
	if (end <= known) {
		/* A repetition repeats the client's own bytes; others' equal ones are another append that came too late. */
		if (own)
			return (struct verdict){ .status = nfs_ok, .skip = length };
		return (struct verdict){ .status = nfserr_io, .reason = REASON_RACE };
	}
	if (known == size)
		return (struct verdict){ .status = nfs_ok, .skip = known - offset };
	/*
	 * Others have appended behind what the client knows. Its own new bytes begin there, unless it has heard of the
	 * file's new size alone: then its page holds zeros up to that.
	 */
	if (!byte_at(vec, known - offset))
		return (struct verdict){ .status = nfserr_io, .reason = REASON_RACE };
	return (struct verdict){ .status = nfs_ok, .skip = known - offset, .moved = true };
}

/* Append what is behind the first @skip bytes; @vec is changed. */
static __be32 store(struct svc_rqst *rqstp, struct svc_fh *fhp, struct file *opened, struct kvec *vec, int vlen,
		    size_t skip, unsigned long *count, __be32 *verifier)
{
	struct nfsd_file own = { .nf_file = opened, .nf_net = SVC_NET(rqstp) };

	while (skip && vlen) {
		size_t here = min(skip, vec->iov_len);

		vec->iov_base += here;
		vec->iov_len -= here;
		skip -= here;
		if (!vec->iov_len) {
			vec++;
			vlen--;
		}
	}
	return original_vfs_write(rqstp, fhp, &own, i_size_read(file_inode(opened)), vec, vlen, count,
				  NFS_FILE_SYNC, verifier);
}

/* @rest bytes are stored, so that @count of those that @append tells of are. */
static void note_stored(struct tracked *file, struct client *client, struct kept *append, unsigned long rest,
			unsigned long count)
{
	loff_t start = le64_to_cpu(append->start), offset = le64_to_cpu(append->offset);

	if (count < le32_to_cpu(append->length)) {
		/* Cut short by a full disk: the client sends what is left, and never this whole again. */
		append->length = cpu_to_le32(count);
		append->stored = cpu_to_le32(rest);
		append->crc = 0;
	}
	keep_stored(file, append);
	client->outdated |= client->seen < start;
	track_wrote(client, start, start + rest);
	client->next = offset + count;
	if (append->crc) {
		client->moved.offset = offset;
		client->moved.length = count;
		client->moved.crc = le32_to_cpu(append->crc);
		client->moved.start = start;
		client->moved.stored = rest;
	}
	file->size = start + rest;
	wake_up_all(&file->grown);
}

static __be32 append_locked(struct svc_rqst *rqstp, struct svc_fh *fhp, struct tracked *file, struct file *opened,
			    loff_t offset, struct kvec *vec, int vlen, unsigned long *count, __be32 *verifier)
{
	struct inode *inode = file_inode(opened);
	unsigned long length = *count, rest;
	struct client *client;
	struct verdict verdict;
	struct kept append;
	__be32 status = nfs_ok;
	loff_t start;
	u32 crc = 0;

	if (i_size_read(inode) < file->size) {
		/* Somebody who may write has cut it: what was known of it holds no more. */
		track_forget_clients(file);
		file->kept_count = 0;
		file->size = file->first_size = i_size_read(inode);
	}
	keep_recall(file, opened);
	if (offset > i_size_read(inode))
		status = wait_for_growth(file, inode, offset);
	client = track_client(file, subjects_address(rqstp));
	if (status || !client)
		return status ?: nfserr_jukebox;
	verdict = judge(client, &opened->f_path, offset, vec, vlen, length);
	if (verdict.status) {
		events_note(verdict.reason, opened->f_path.dentry);
		return verdict.status;
	}
	start = i_size_read(inode);
	rest = length - verdict.skip;
	if (verdict.moved)
		crc = checksum(vec, vlen, length);
	append = (struct kept){
		.address = client->address,
		.length = cpu_to_le32(length), .stored = cpu_to_le32(rest), .crc = cpu_to_le32(crc),
		.offset = cpu_to_le64(offset), .start = cpu_to_le64(start),
	};
	if (rest && keep_before(file, opened, &append))
		return nfserr_io;
	/* With nothing to append, this still fills in the verifier. */
	status = store(rqstp, fhp, opened, vec, vlen, verdict.skip, &rest, verifier);
	if (status || (rest && i_size_read(inode) != start + rest)) {
		/* Not stored, or not there: somebody who may write has written. */
		keep_undo(file, opened);
		*count = verdict.skip + rest;
		return status;
	}
	*count = verdict.skip + rest;
	if (rest)
		note_stored(file, client, &append, rest, *count);
	/* The reply tells it the size, which it takes for the end of what it has sent. */
	client->outdated |= offset + *count != i_size_read(inode);
	return nfs_ok;
}

__be32 append_write(struct svc_rqst *rqstp, struct svc_fh *fhp, loff_t offset, struct kvec *vec, int vlen,
		    unsigned long *count, __be32 *verifier)
{
	struct path path = { .mnt = fhp->fh_export->ex_path.mnt, .dentry = fhp->fh_dentry };
	struct tracked *file;
	struct file *opened;
	__be32 status;

	opened = dentry_open(&path, O_WRONLY | O_APPEND | O_LARGEFILE, current_cred());
	if (IS_ERR(opened))
		return PTR_ERR(opened) == -EACCES ? nfserr_acces : nfserr_io;
	file = track_get(d_inode(path.dentry), true);
	if (!file) {
		fput(opened);
		return nfserr_jukebox;
	}
	mutex_lock(&file->lock);
	status = append_locked(rqstp, fhp, file, opened, offset, vec, vlen, count, verifier);
	mutex_unlock(&file->lock);
	track_put(file);
	fput(opened);
	return status;
}

int append_init(void)
{
	struct kprobe probe = { .symbol_name = "security_inode_permission" };
	int error = register_kprobe(&probe);

	if (error)
		return error;
	/* Not exported to modules; the probe serves to find it. */
	inode_permission_lsm = (void *)probe.addr;
	unregister_kprobe(&probe);
	compare_cred = subjects_own(VINCI_COMPARE_CONTEXT, false);
	return compare_cred ? 0 : -EINVAL;
}

void append_exit(void)
{
	track_forget_all();
	put_cred(compare_cred);
}
