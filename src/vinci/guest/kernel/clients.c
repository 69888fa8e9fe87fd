// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What NFSv4 clients can do to each other's state.
 *
 * A client is known by a name of its own choosing, and from then on by numbers that can be guessed. Here both belong
 * to the address that they were made for: another one's are answered as if they did not exist.
 *
 * A share reservation would shut out those who write a file, at the word of one who may do no more than read it. Linux
 * clients ask for none.
 */
#include <linux/slab.h>
#include <linux/sunrpc/addr.h>

#include "vinci.h"
#include "netns.h"
#include "state.h"

nfsd4_operation *original_exchange_id, *original_setclientid, *original_create_session, *original_destroy_clientid,
	*original_sequence, *original_destroy_session, *original_bind_conn, *original_open;

/* With its address appended, no VM can pass for another and make the server throw that one's open files away. */
static __be32 with_own_name(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u,
			    struct xdr_netobj *name, nfsd4_operation *original)
{
	struct xdr_netobj given = *name;
	__be32 address = subjects_address(rqstp), status;

	if (given.len + sizeof(address) > NFS4_OPAQUE_LIMIT)
		return nfserr_inval;
	name->data = kmalloc(given.len + sizeof(address), GFP_KERNEL);
	if (!name->data) {
		*name = given;
		return nfserr_jukebox;
	}
	memcpy(name->data, given.data, given.len);
	memcpy(name->data + given.len, &address, sizeof(address));
	name->len = given.len + sizeof(address);
	status = original(rqstp, cstate, u);
	kfree(name->data);
	*name = given;
	return status;
}

__be32 clients_exchange_id(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	return with_own_name(rqstp, cstate, u, &u->exchange_id.clname, original_exchange_id);
}

__be32 clients_setclientid(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	return with_own_name(rqstp, cstate, u, &u->setclientid.se_name, original_setclientid);
}

/* nfsd keeps to itself where its part of a network namespace is; its server's statistics lie in it. */
static struct nfsd_net *net_of(struct svc_rqst *rqstp)
{
	return container_of(rqstp->rq_server->sv_stats, struct nfsd_net, nfsd_svcstats);
}

/* Notes it when it is another's: whoever names it has guessed. */
static bool is_own(struct svc_rqst *rqstp, const struct nfs4_client *client)
{
	if (rpc_cmp_addr((const struct sockaddr *)&client->cl_addr, svc_addr(rqstp)))
		return true;
	events_note(REASON_FOREIGN, NULL);
	events_count_as_denied();
	return false;
}

/* Numbers are given once only, so what is found to be its own is no other's later on, and what is not there is not. */
static bool own_session(struct svc_rqst *rqstp, const struct nfs4_sessionid *id)
{
	const struct nfsd4_sessionid *parts = (const void *)id->data;
	struct nfsd_net *nn = net_of(rqstp);
	struct nfsd4_session *session;
	bool own = false;

	spin_lock(&nn->client_lock);
	list_for_each_entry(session, &nn->sessionid_hashtbl[parts->sequence % SESSION_HASH_SIZE], se_hash)
		if (!memcmp(session->se_sessionid.data, id->data, NFS4_MAX_SESSIONID_LEN)) {
			own = is_own(rqstp, session->se_client);
			break;
		}
	spin_unlock(&nn->client_lock);
	return own;
}

static struct nfs4_client *find_client(struct list_head *table, const clientid_t *id)
{
	struct nfs4_client *client;

	list_for_each_entry(client, &table[id->cl_id & CLIENT_HASH_MASK], cl_idhash)
		if (client->cl_clientid.cl_boot == id->cl_boot && client->cl_clientid.cl_id == id->cl_id)
			return client;
	return NULL;
}

static bool own_client(struct svc_rqst *rqstp, const clientid_t *id)
{
	struct nfsd_net *nn = net_of(rqstp);
	struct nfs4_client *client;
	bool own;

	spin_lock(&nn->client_lock);
	client = find_client(nn->conf_id_hashtbl, id) ?: find_client(nn->unconf_id_hashtbl, id);
	own = client && is_own(rqstp, client);
	spin_unlock(&nn->client_lock);
	return own;
}

__be32 clients_create_session(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	if (!own_client(rqstp, &u->create_session.clientid))
		return nfserr_stale_clientid;
	return original_create_session(rqstp, cstate, u);
}

__be32 clients_destroy_clientid(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	if (!own_client(rqstp, &u->destroy_clientid.clientid))
		return nfserr_stale_clientid;
	return original_destroy_clientid(rqstp, cstate, u);
}

__be32 clients_sequence(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	if (!own_session(rqstp, &u->sequence.sessionid))
		return nfserr_badsession;
	return original_sequence(rqstp, cstate, u);
}

__be32 clients_destroy_session(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	if (!own_session(rqstp, &u->destroy_session.sessionid))
		return nfserr_badsession;
	return original_destroy_session(rqstp, cstate, u);
}

__be32 clients_bind_conn(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	if (!own_session(rqstp, &u->bind_conn_to_session.sessionid))
		return nfserr_badsession;
	return original_bind_conn(rqstp, cstate, u);
}

__be32 clients_open(struct svc_rqst *rqstp, struct nfsd4_compound_state *cstate, union nfsd4_op_u *u)
{
	if (u->open.op_share_deny) {
		events_note(REASON_RESERVATION, NULL);
		return nfserr_acces;
	}
	return original_open(rqstp, cstate, u);
}

/*
 * A lock holds up those who write, and its refusal tells of theirs. So whoever locks has to be one of them: one who may
 * only read would act downwards, one who may only append would learn from above.
 */
bool clients_may_lock(struct inode *inode)
{
	return !selinux_may(inode, MAY_WRITE | MAY_ACCESS) || !selinux_may(inode, MAY_READ | MAY_APPEND);
}
