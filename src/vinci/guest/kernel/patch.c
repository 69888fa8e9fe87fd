// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The livepatch: which functions of nfsd are replaced, and why.
 *
 * `nfsd_setuser` is replaced whole. The others are wrapped: the original's body is entered behind its ftrace
 * call site. build.sh compares every one of them with the source that this was written against.
 */
#include <linux/ftrace.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/proc_fs.h>

#include "vinci.h"
#include "auth.h"
#include "export.h"
#include "state.h"

typeof(nfsd_vfs_write) *original_vfs_write;
static typeof(nfsd_dispatch) *original_dispatch;
static typeof(nfsd_permission) *original_permission;
static typeof(nfsd_access) *original_access;
static typeof(rqst_exp_find) *original_exp_find;
static typeof(nfsd_readv) *original_readv;
static typeof(nfsd_splice_read) *original_splice_read;
static typeof(nfsd4_vfs_fallocate) *original_fallocate;
static typeof(dentry_create) *original_dentry_create;
static nfsd4_operation *original_copy;

static const struct cred *decode_cred;

/* nfsd's table of errors is its own; these are the ones that can reach us. */
static __be32 status_of(int error)
{
	switch (error) {
	case 0: return nfs_ok;
	case -EPERM: return nfserr_perm;
	case -EACCES: return nfserr_acces;
	case -EROFS: return nfserr_rofs;
	case -ESTALE: case -EOPENSTALE: return nfserr_stale;
	case -ENOMEM: case -EAGAIN: return nfserr_jukebox;
	case -ENFILE: return nfserr_serverfault;
	default: return nfserr_io;
	}
}

/* The request's credentials: those of its grant, or none at all. */
static int vinci_setuser(struct svc_rqst *rqstp, struct svc_export *exp)
{
	const struct cred *cred;
	int error = 0;

	cred = subjects_get(subjects_address(rqstp), from_kuid(&init_user_ns, rqstp->rq_cred.cr_uid));
	if (IS_ERR(cred)) {
		error = PTR_ERR(cred);
		events_note(REASON_UNKNOWN, NULL);
		/* What goes on all the same acts as the kernel itself, which has no right on any share. */
		cred = get_cred(current_real_cred());
	}
	put_cred(override_creds(cred));
	put_cred(cred);
	return error;
}

/*
 * Called before a file handle becomes a path. nfsd would walk up the directories as whoever was served last;
 * this walks as a subject that may do that and nothing more.
 */
static struct svc_export *vinci_exp_find(struct svc_rqst *rqstp, int fsid_type, u32 *fsidv)
{
	if (decode_cred)
		put_cred(override_creds(decode_cred));
	return original_exp_find(rqstp, fsid_type, fsidv);
}

static bool refused(__be32 status)
{
	return status == nfserr_acces || status == nfserr_perm;
}

/* The status that the reply carries; every NFSv3 reply begins with it. */
static __be32 reply_status(struct svc_rqst *rqstp)
{
	if (!rqstp->rq_proc)
		return nfs_ok;
	if (rqstp->rq_prog == NFS_PROGRAM && rqstp->rq_vers == 4)
		return ((struct nfsd4_compoundres *)rqstp->rq_resp)->cstate.status;
	return *(__be32 *)rqstp->rq_resp;
}

static int vinci_dispatch(struct svc_rqst *rqstp, __be32 *statp)
{
	int result;

	result = original_dispatch(rqstp, statp);
	/* The reply is the server's own act, and the next request starts without this one's rights. */
	revert_creds(get_cred(current_real_cred()));
	if (*statp == rpc_success && (refused(reply_status(rqstp)) || events_were_denied()))
		events_denied(rqstp);
	events_end_of_request();
	return result;
}

/* nfsd asks for `write` where an appender needs no more than `append`. */
static __be32 vinci_permission(struct svc_rqst *rqstp, struct svc_export *exp, struct dentry *dentry, int acc)
{
	struct inode *inode = d_inode(dentry);
	__be32 status;
	int error;

	if (!inode)
		return nfserr_noent;
	append_refresh(rqstp, inode);
	if ((acc & NFSD_MAY_LOCK) && !clients_may_lock(inode)) {
		status = nfserr_acces;
		goto out;
	}
	if (!(acc & NFSD_MAY_WRITE) || (acc & (NFSD_MAY_SATTR | NFSD_MAY_EXEC)) || !append_only(inode)) {
		status = original_permission(rqstp, exp, dentry, acc);
		goto out;
	}
	status = original_permission(rqstp, exp, dentry, acc & ~(NFSD_MAY_WRITE | NFSD_MAY_TRUNC));
	if (status)
		goto out;
	if (__mnt_is_readonly(exp->ex_path.mnt) || (exp->ex_flags & NFSEXP_READONLY))
		return nfserr_rofs;
	if (IS_IMMUTABLE(inode))
		return nfserr_perm;
	if ((acc & NFSD_MAY_OWNER_OVERRIDE) && uid_eq(inode->i_uid, current_fsuid()))
		return nfs_ok;
	error = inode_permission(&init_user_ns, inode, MAY_WRITE | MAY_APPEND);
	status = status_of(error);
out:
	if (refused(status))
		events_note(REASON_DENIED, dentry);
	return status;
}

static __be32 vinci_access(struct svc_rqst *rqstp, struct svc_fh *fhp, u32 *access, u32 *supported)
{
	u32 asked = *access;
	__be32 status = original_access(rqstp, fhp, access, supported);

	if (!status && asked && !*access)
		events_count_as_denied();
	return status;
}

/* nfsd's own, with O_APPEND for those who may only append. */
static __be32 vinci_open_verified(struct svc_rqst *rqstp, struct svc_fh *fhp, int may_flags, struct file **filp)
{
	struct path path = { .mnt = fhp->fh_export->ex_path.mnt, .dentry = fhp->fh_dentry };
	struct inode *inode = d_inode(path.dentry);
	int flags = O_RDONLY | O_LARGEFILE, error;
	struct file *file;

	if (IS_APPEND(inode) && (may_flags & NFSD_MAY_WRITE))
		return nfserr_perm;
	if (!inode->i_fop)
		return nfserr_perm;
	error = (may_flags & NFSD_MAY_NOT_BREAK_LEASE) ? 0 :
		break_lease(inode, ((may_flags & NFSD_MAY_WRITE) ? O_WRONLY : O_RDONLY) | O_NONBLOCK);
	if (error)
		return status_of(error);
	if (may_flags & NFSD_MAY_WRITE) {
		flags = ((may_flags & NFSD_MAY_READ) ? O_RDWR : O_WRONLY) | O_LARGEFILE;
		if (append_only(inode))
			flags |= O_APPEND;
	}
	file = dentry_open(&path, flags, current_cred());
	if (IS_ERR(file)) {
		if (PTR_ERR(file) == -EACCES)
			events_note(REASON_DENIED, path.dentry);
		return status_of(PTR_ERR(file));
	}
	file->f_mode |= (may_flags & NFSD_MAY_64BIT_COOKIE) ? FMODE_64BITHASH : FMODE_32BITHASH;
	*filp = file;
	return nfs_ok;
}

/* NFSv4 creates and opens in one step: for append, unless the new file may be written. */
static struct file *vinci_dentry_create(const struct path *path, int flags, umode_t mode, const struct cred *cred)
{
	struct file *file;

	if (!(current->flags & PF_KTHREAD) || (flags & O_ACCMODE) == O_RDONLY)
		return original_dentry_create(path, flags, mode, cred);
	file = original_dentry_create(path, flags | O_APPEND, mode, cred);
	if (!IS_ERR(file) && !selinux_may(file_inode(file), MAY_WRITE | MAY_ACCESS)) {
		spin_lock(&file->f_lock);
		file->f_flags &= ~O_APPEND;
		file->f_iocb_flags = iocb_flags(file);
		spin_unlock(&file->f_lock);
	}
	return file;
}

/*
 * NFSv4 shares one open file among all who have it open, so its O_APPEND says how the first of them may write,
 * not this one.
 */
static __be32 vinci_vfs_write(struct svc_rqst *rqstp, struct svc_fh *fhp, struct nfsd_file *nf, loff_t offset,
			      struct kvec *vec, int vlen, unsigned long *cnt, int stable, __be32 *verf)
{
	struct file *file = nf->nf_file;
	struct nfsd_file own = { .nf_net = nf->nf_net };
	struct path path;
	__be32 status;

	if (!(file->f_flags & O_APPEND) && file->f_cred == current_cred())
		return original_vfs_write(rqstp, fhp, nf, offset, vec, vlen, cnt, stable, verf);
	if (append_only(file_inode(file)))
		return append_write(rqstp, fhp, offset, vec, vlen, cnt, verf);
	if (!(file->f_flags & O_APPEND))
		return original_vfs_write(rqstp, fhp, nf, offset, vec, vlen, cnt, stable, verf);
	path = file->f_path;
	own.nf_file = dentry_open(&path, O_WRONLY | O_LARGEFILE, current_cred());
	if (IS_ERR(own.nf_file))
		return status_of(PTR_ERR(own.nf_file));
	status = original_vfs_write(rqstp, fhp, &own, offset, vec, vlen, cnt, stable, verf);
	fput(own.nf_file);
	return status;
}

static __be32 vinci_readv(struct svc_rqst *rqstp, struct svc_fh *fhp, struct file *file, loff_t offset,
			  struct kvec *vec, int vlen, unsigned long *count, u32 *eof)
{
	__be32 status = original_readv(rqstp, fhp, file, offset, vec, vlen, count, eof);

	if (!status)
		append_seen(file_inode(file), subjects_address(rqstp), offset + *count);
	return status;
}

static __be32 vinci_splice_read(struct svc_rqst *rqstp, struct svc_fh *fhp, struct file *file, loff_t offset,
				unsigned long *count, u32 *eof)
{
	__be32 status = original_splice_read(rqstp, fhp, file, offset, count, eof);

	if (!status)
		append_seen(file_inode(file), subjects_address(rqstp), offset + *count);
	return status;
}

/* An open file with O_APPEND passes SELinux's check for `append`; punching a hole is no append. */
static __be32 vinci_fallocate(struct svc_rqst *rqstp, struct svc_fh *fhp, struct file *file, loff_t offset,
			      loff_t len, int flags)
{
	if (selinux_may(file_inode(file), MAY_WRITE)) {
		events_note(REASON_DENIED, fhp->fh_dentry);
		return nfserr_acces;
	}
	return original_fallocate(rqstp, fhp, file, offset, len, flags);
}

/*
 * COPY would run in a thread of its own, as the kernel. Here it runs at once, as the subject; a copy onto an
 * append-only file is left to the client, which falls back to reading and writing.
 */
static __be32 vinci_copy(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	struct dentry *target = cstate->current_fh.fh_dentry;

	if (nfsd4_ssc_is_inter(&u->copy) || !target || d_really_is_negative(target) || append_only(d_inode(target)))
		return nfserr_notsupp;
	nfsd4_copy_set_sync(&u->copy, true);
	return original_copy(rqstp, cstate, u);
}

static __be32 vinci_copy_notify(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	return nfserr_notsupp;
}

#define PATCH(name, replacement) { .old_name = name, .new_func = replacement }

static struct klp_func nfsd_functions[] = {
	PATCH("nfsd_setuser", vinci_setuser),
	PATCH("rqst_exp_find", vinci_exp_find),
	PATCH("nfsd_dispatch", vinci_dispatch),
	PATCH("nfsd_permission", vinci_permission),
	PATCH("nfsd_access", vinci_access),
	PATCH("nfsd_open_verified", vinci_open_verified),
	PATCH("nfsd_vfs_write", vinci_vfs_write),
	PATCH("nfsd_readv", vinci_readv),
	PATCH("nfsd_splice_read", vinci_splice_read),
	PATCH("nfsd4_vfs_fallocate", vinci_fallocate),
	PATCH("nfsd4_copy", vinci_copy),
	PATCH("nfsd4_copy_notify", vinci_copy_notify),
	PATCH("nfsd4_exchange_id", clients_exchange_id),
	PATCH("nfsd4_setclientid", clients_setclientid),
	PATCH("nfsd4_create_session", clients_create_session),
	PATCH("nfsd4_destroy_clientid", clients_destroy_clientid),
	PATCH("nfsd4_sequence", clients_sequence),
	PATCH("nfsd4_destroy_session", clients_destroy_session),
	PATCH("nfsd4_bind_conn_to_session", clients_bind_conn),
	PATCH("nfsd4_open", clients_open),
	{ }
};

static struct klp_func kernel_functions[] = {
	PATCH("dentry_create", vinci_dentry_create),
	{ }
};

/* The body of a patched function: what comes behind the call that ftrace diverts. */
static void *original(const struct klp_func *functions, const char *name)
{
	for (; functions->old_name; functions++)
		if (!strcmp(functions->old_name, name))
			return functions->old_func + MCOUNT_INSN_SIZE;
	return NULL;
}

static int before_nfsd(struct klp_object *object)
{
	original_exp_find = original(object->funcs, "rqst_exp_find");
	original_dispatch = original(object->funcs, "nfsd_dispatch");
	original_permission = original(object->funcs, "nfsd_permission");
	original_access = original(object->funcs, "nfsd_access");
	original_vfs_write = original(object->funcs, "nfsd_vfs_write");
	original_readv = original(object->funcs, "nfsd_readv");
	original_splice_read = original(object->funcs, "nfsd_splice_read");
	original_fallocate = original(object->funcs, "nfsd4_vfs_fallocate");
	original_copy = original(object->funcs, "nfsd4_copy");
	original_exchange_id = original(object->funcs, "nfsd4_exchange_id");
	original_setclientid = original(object->funcs, "nfsd4_setclientid");
	original_create_session = original(object->funcs, "nfsd4_create_session");
	original_destroy_clientid = original(object->funcs, "nfsd4_destroy_clientid");
	original_sequence = original(object->funcs, "nfsd4_sequence");
	original_destroy_session = original(object->funcs, "nfsd4_destroy_session");
	original_bind_conn = original(object->funcs, "nfsd4_bind_conn_to_session");
	original_open = original(object->funcs, "nfsd4_open");
	return 0;
}

static int before_kernel(struct klp_object *object)
{
	original_dentry_create = original(object->funcs, "dentry_create");
	return 0;
}

static struct klp_object objects[] = {
	{ .name = "nfsd", .funcs = nfsd_functions, .callbacks = { .pre_patch = before_nfsd } },
	{ .name = NULL, .funcs = kernel_functions, .callbacks = { .pre_patch = before_kernel } },
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init vinci_init(void)
{
	struct proc_dir_entry *dir;
	int error = -ENOMEM;

	BUILD_BUG_ON(IS_ENABLED(CONFIG_X86_KERNEL_IBT));
	decode_cred = subjects_own(VINCI_DECODE_CONTEXT, true);
	if (!decode_cred) {
		pr_err("vinci_nfsd: the policy in force is none of Vinci's: load it first\n");
		return -EINVAL;
	}
	dir = proc_mkdir("vinci", NULL);
	if (!dir)
		goto out_cred;
	error = append_init();
	if (error)
		goto out_dir;
	error = events_init(dir);
	if (error)
		goto out_append;
	error = subjects_init(dir);
	if (error)
		goto out_events;
	error = klp_enable_patch(&patch);
	if (!error)
		return 0;
	remove_proc_subtree("vinci", NULL);
	subjects_exit();
	dir = NULL;
out_events:
	events_exit();
out_append:
	append_exit();
out_dir:
	if (dir)
		remove_proc_subtree("vinci", NULL);
out_cred:
	put_cred(decode_cred);
	return error;
}

/* Reached only after the patch has been disabled in /sys/kernel/livepatch. */
static void __exit vinci_exit(void)
{
	remove_proc_subtree("vinci", NULL);
	subjects_exit();
	events_exit();
	append_exit();
	put_cred(decode_cred);
}

module_init(vinci_init);
module_exit(vinci_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("NFS server with a SELinux subject per client address and user");
MODULE_INFO(livepatch, "Y");
