/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vinci_nfsd: the kernel's NFS server with a SELinux subject per (client address, user).
 *
 * subjects.c  who a request acts as: the table of grants
 * patch.c     where the server is bent: a livepatch of nfsd
 * clients.c   NFSv4's clients, and what they could do to each other
 * append.c    append-only files that stay correct with several clients
 * track.c     what each client may know of such a file
 * keep.c      what of that outlives a power cut
 * events.c    the ring of denied requests that fs-events reads, event_lines.c what it reads there
 */
#ifndef VINCI_H
#define VINCI_H

#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/types.h>

/* fs/nfsd's own headers, from the kernel's source (see build.sh) */
#include "nfsd.h"
#include "vfs.h"
#include "filecache.h"
#include "xdr4.h"

struct proc_dir_entry;

/* --- subjects.c --- */
int subjects_init(struct proc_dir_entry *dir);
void subjects_exit(void);
/* IPv4 address of the request's client, or 0 (which no grant can name). */
__be32 subjects_address(struct svc_rqst *rqstp);
/*
 * The credentials of (address, uid) with a reference held. -EACCES: no such grant. -EAGAIN: no table was given since
 * boot; nothing is served, but clients that were at work before wait instead of losing what they were writing.
 */
const struct cred *subjects_get(__be32 address, uid_t uid);
/* Credentials of one of the module's own types, made once; NULL until the policy knows it. */
const struct cred *subjects_own(const char *context, bool reads_directories);

/* --- events.c --- */
enum vinci_reason {
	REASON_DENIED,		/* SELinux or the file's mode said no */
	REASON_UNKNOWN,		/* no grant for (address, uid) */
	REASON_OVERWRITE,	/* append-only: would have changed stored bytes */
	REASON_RACE,		/* append-only: somebody else appended meanwhile */
	REASON_GAP,		/* append-only: starts behind the end of the file */
	REASON_FOREIGN,		/* a session or client ID that was made for another address */
	REASON_RESERVATION,	/* NFSv4's share reservations, which are not served */
};

int events_init(struct proc_dir_entry *dir);
void events_exit(void);
/* Remember, for the event that this request may end in, what was refused. */
void events_note(enum vinci_reason reason, struct dentry *dentry);
void events_end_of_request(void);
/* The reply's status will be none of a refusal's, and yet it is one. */
void events_count_as_denied(void);
bool events_were_denied(void);
/* The request has been answered with a refusal. */
void events_denied(struct svc_rqst *rqstp);

/* --- append.c --- */
int append_init(void);
void append_exit(void);
/* The present subject may append to @inode but not write it. Asks silently. */
bool append_only(struct inode *inode);
/* SELinux alone, without mode bits; add MAY_ACCESS to ask without an audit record. */
int selinux_may(struct inode *inode, int mask);
/* This client has been shown the bytes of @inode up to @end. */
void append_seen(struct inode *inode, __be32 address, loff_t end);
/* Before this client asks about @inode: let it see that the file has changed when it has missed something. */
void append_refresh(struct svc_rqst *rqstp, struct inode *inode);
__be32 append_write(struct svc_rqst *rqstp, struct svc_fh *fhp, loff_t offset,
		    struct kvec *vec, int vlen, unsigned long *count,
		    __be32 *verifier);

/* --- clients.c --- */
typedef typeof(nfsd4_exchange_id) nfsd4_operation;
extern nfsd4_operation *original_exchange_id, *original_setclientid, *original_create_session,
	*original_destroy_clientid, *original_sequence, *original_destroy_session, *original_bind_conn,
	*original_open;
nfsd4_operation clients_exchange_id, clients_setclientid, clients_create_session, clients_destroy_clientid,
	clients_sequence, clients_destroy_session, clients_bind_conn, clients_open;
bool clients_may_lock(struct inode *inode);

/* --- patch.c --- */
extern typeof(nfsd_vfs_write) *original_vfs_write;

#define VINCI_DECODE_CONTEXT	"vinci_u:vinci_system_r:vinci_decode_t:s0"
#define VINCI_COMPARE_CONTEXT	"vinci_u:vinci_system_r:vinci_compare_t:s0"

#endif
