// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Denied requests, as one JSON line each in /proc/vinci/events.
 *
 * SELinux's own record knows no client; the server's reply knows no rule. Both meet here: what SELinux (or the
 * file's mode, or append.c) refused is noted for the server's thread; when the request ends in a refusal, one event
 * is made of it. The ring is bounded: repeated events are counted, lost ones too. No client may hold more of its
 * places than there are free ones, so that a flood of one client's leaves room for the others'.
 */
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/proc_fs.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>

#include "events.h"
#include "vinci.h"

#define MAX_THREADS	64
#define RING		1024u	/* a power of two */

/* security/selinux/include/avc.h; build.sh compares it */
struct selinux_audit_data {
	u32 ssid;
	u32 tsid;
	u16 tclass;
	u32 requested;
	u32 audited;
	u32 denied;
	int result;
	struct selinux_state *state;
};

static struct note notes[MAX_THREADS];
static atomic_t notes_taken = ATOMIC_INIT(0);
static DEFINE_SPINLOCK(ring_lock);
static DECLARE_WAIT_QUEUE_HEAD(ring_filled);
static struct event *ring;
static u64 written, read_up_to;
static u64 lost;	/* those of clients that have no event in the ring */
static struct tracepoint *audited;

static bool is_nfsd(void)
{
	return (current->flags & PF_KTHREAD) && !strncmp(current->comm, "nfsd", 5);
}

/* A server thread takes a slot for the rest of its request, so no lock is needed in it. */
static struct note *my_note(bool take)
{
	int i;

	if (atomic_read(&notes_taken))
		for (i = 0; i < MAX_THREADS; i++)
			if (READ_ONCE(notes[i].task) == current)
				return &notes[i];
	for (i = 0; take && i < MAX_THREADS; i++)
		if (!cmpxchg(&notes[i].task, NULL, current)) {
			atomic_inc(&notes_taken);
			return &notes[i];
		}
	return NULL;
}

void events_end_of_request(void)
{
	struct note *note = my_note(false);

	if (!note)
		return;
	memset_after(note, 0, task);
	smp_store_release(&note->task, NULL);
	atomic_dec(&notes_taken);
}

/* Who wanted something of what, where SELinux itself did not refuse. */
static void note_contexts(struct note *note, struct inode *inode)
{
	char *text;
	void *context;
	u32 length, secid;

	security_cred_getsecid(current_cred(), &secid);
	if (!security_secid_to_secctx(secid, &text, &length)) {
		strscpy(note->source, text, min_t(size_t, sizeof(note->source), length + 1));
		security_release_secctx(text, length);
	}
	if (!security_inode_getsecctx(inode, &context, &length)) {
		strscpy(note->target, context, min_t(size_t, sizeof(note->target), length + 1));
		security_release_secctx(context, length);
	}
}

void events_note(enum vinci_reason reason, struct dentry *dentry)
{
	struct note *note = my_note(true);

	if (!note)
		return;
	note->reason = reason;
	if (!dentry)
		return;
	if (!note->by_selinux)
		note_contexts(note, d_inode(dentry));
	note->inode = d_inode(dentry)->i_ino;
	/* Found by its handle alone: the server has not met its name yet, and this dentry's is none. */
	if (IS_ROOT(dentry) && (dentry->d_flags & DCACHE_DISCONNECTED))
		return;
	spin_lock(&dentry->d_lock);
	strscpy(note->name, dentry->d_name.name, sizeof(note->name));
	spin_unlock(&dentry->d_lock);
}

void events_count_as_denied(void)
{
	struct note *note = my_note(true);

	if (note)
		note->counts_as_denied = true;
}

bool events_were_denied(void)
{
	struct note *note = my_note(false);

	return note && note->counts_as_denied;
}

static void on_audit(void *unused, struct selinux_audit_data *sad, char *scontext, char *tcontext, const char *tclass)
{
	struct note *note;

	if (!sad->denied || !is_nfsd())
		return;
	note = my_note(true);
	if (!note)
		return;
	note->by_selinux = true;
	note->class = sad->tclass;
	note->denied = sad->denied;
	strscpy(note->source, scontext ?: "", sizeof(note->source));
	strscpy(note->target, tcontext ?: "", sizeof(note->target));
}

static u32 operation_of(struct svc_rqst *rqstp)
{
	struct nfsd4_compoundargs *args = rqstp->rq_argp;
	struct nfsd4_compoundres *res = rqstp->rq_resp;

	if (rqstp->rq_vers != 4)
		return rqstp->rq_proc;
	return res->opcnt && res->opcnt <= args->opcnt ? args->ops[res->opcnt - 1].opnum : 0;
}

static bool same_event(const struct event *a, const struct event *b)
{
	return a->address == b->address && a->uid == b->uid && a->operation == b->operation &&
	       a->version == b->version && a->note.inode == b->note.inode && a->note.reason == b->note.reason &&
	       a->note.denied == b->note.denied && !strcmp(a->note.target, b->note.target);
}

/* The client's latest event that has not been read yet, and how many of them there are. Call with ring_lock held. */
static struct event *latest_of(__be32 address, u64 *count)
{
	struct event *latest = NULL;
	u64 i;

	*count = 0;
	for (i = read_up_to; i < written; i++)
		if (ring[i & (RING - 1)].address == address) {
			latest = &ring[i & (RING - 1)];
			++*count;
		}
	return latest;
}

static void put_into_ring(struct event *event)
{
	u64 held, free = RING - (written - read_up_to);
	struct event *latest = latest_of(event->address, &held);

	if (latest && same_event(latest, event)) {
		latest->repeats++;
	} else if (held < free) {
		event->serial = written;
		ring[written++ & (RING - 1)] = *event;
	} else if (latest) {
		latest->lost++;
	} else {
		lost++;
	}
}

void events_denied(struct svc_rqst *rqstp)
{
	struct note *note = my_note(false);
	struct event *event;

	event = kzalloc(sizeof(*event), GFP_KERNEL);
	if (!event)
		return;
	ktime_get_real_ts64(&event->time);
	event->address = subjects_address(rqstp);
	event->uid = from_kuid(&init_user_ns, rqstp->rq_cred.cr_uid);
	event->version = rqstp->rq_prog == NFS_PROGRAM ? rqstp->rq_vers : 0;
	event->operation = operation_of(rqstp);
	if (note)
		event->note = *note;
	spin_lock(&ring_lock);
	put_into_ring(event);
	spin_unlock(&ring_lock);
	kfree(event);
	wake_up_interruptible(&ring_filled);
}

static ssize_t events_read(struct file *file, char __user *to, size_t size, loff_t *ppos)
{
	struct event *event;
	struct line *line;
	ssize_t result;

	event = kmalloc(sizeof(*event), GFP_KERNEL);
	line = kzalloc(sizeof(*line), GFP_KERNEL);
	result = -ENOMEM;
	if (!event || !line)
		goto out;
	spin_lock(&ring_lock);
	while (written == read_up_to) {
		spin_unlock(&ring_lock);
		result = -EAGAIN;
		if (file->f_flags & O_NONBLOCK)
			goto out;
		result = wait_event_interruptible(ring_filled, READ_ONCE(written) != READ_ONCE(read_up_to));
		if (result)
			goto out;
		spin_lock(&ring_lock);
	}
	*event = ring[read_up_to++ & (RING - 1)];
	event->lost += lost;
	lost = 0;
	spin_unlock(&ring_lock);
	events_format(line, event);
	result = min(size, line->length);
	if (copy_to_user(to, line->text, result))
		result = -EFAULT;
out:
	kfree(event);
	kfree(line);
	return result;
}

static __poll_t events_poll(struct file *file, struct poll_table_struct *table)
{
	poll_wait(file, &ring_filled, table);
	return READ_ONCE(written) != READ_ONCE(read_up_to) ? EPOLLIN | EPOLLRDNORM : 0;
}

static const struct proc_ops events_ops = {
	.proc_read = events_read,
	.proc_poll = events_poll,
	.proc_lseek = no_llseek,
};

static void find_tracepoint(struct tracepoint *tp, void *unused)
{
	if (!strcmp(tp->name, "selinux_audited"))
		audited = tp;
}

int events_init(struct proc_dir_entry *dir)
{
	int error;

	ring = kvcalloc(RING, sizeof(*ring), GFP_KERNEL);
	if (!ring)
		return -ENOMEM;
	for_each_kernel_tracepoint(find_tracepoint, NULL);
	error = audited ? tracepoint_probe_register(audited, on_audit, NULL) : -ENOENT;
	if (!error && proc_create("events", 0400, dir, &events_ops))
		return 0;
	if (!error)
		tracepoint_probe_unregister(audited, on_audit, NULL);
	kvfree(ring);
	return error ?: -ENOMEM;
}

void events_exit(void)
{
	tracepoint_probe_unregister(audited, on_audit, NULL);
	tracepoint_synchronize_unregister();
	kvfree(ring);
}
