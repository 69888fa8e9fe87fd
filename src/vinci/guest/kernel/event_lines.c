// SPDX-License-Identifier: GPL-2.0-or-later
/* One event as a JSON line. */
#include <linux/kernel.h>

#include "events.h"

/* as in security/selinux/include/security.h, which includes too much */
struct security_class_mapping {
	const char *name;
	const char *perms[sizeof(u32) * 8 + 1];
};
#include "classmap.h"

static const char *const reasons[] = {
	[REASON_DENIED] = "denied",
	[REASON_UNKNOWN] = "no grant for this address and UID",
	[REASON_OVERWRITE] = "append-only: would change stored bytes",
	[REASON_RACE] = "append-only: the file has grown since the client looked",
	[REASON_GAP] = "append-only: starts behind the end of the file",
	[REASON_FOREIGN] = "a session or client ID of another client",
	[REASON_RESERVATION] = "share reservations are not served",
};

static const char *const v3_operations[] = {
	"NULL", "GETATTR", "SETATTR", "LOOKUP", "ACCESS", "READLINK", "READ", "WRITE", "CREATE", "MKDIR", "SYMLINK",
	"MKNOD", "REMOVE", "RMDIR", "RENAME", "LINK", "READDIR", "READDIRPLUS", "FSSTAT", "FSINFO", "PATHCONF", "COMMIT",
};

static const char *const v4_operations[] = {
	[3] = "ACCESS", "CLOSE", "COMMIT", "CREATE", "DELEGPURGE", "DELEGRETURN", "GETATTR", "GETFH", "LINK", "LOCK",
	"LOCKT", "LOCKU", "LOOKUP", "LOOKUPP", "NVERIFY", "OPEN", "OPENATTR", "OPEN_CONFIRM", "OPEN_DOWNGRADE", "PUTFH",
	"PUTPUBFH", "PUTROOTFH", "READ", "READDIR", "READLINK", "REMOVE", "RENAME", "RENEW", "RESTOREFH", "SAVEFH",
	"SECINFO", "SETATTR", "SETCLIENTID", "SETCLIENTID_CONFIRM", "VERIFY", "WRITE",
	[41] = "BIND_CONN_TO_SESSION", [43] = "CREATE_SESSION", "DESTROY_SESSION",
	[52] = "SECINFO_NO_NAME", "SEQUENCE", [57] = "DESTROY_CLIENTID", [59] = "ALLOCATE", [60] = "COPY", [62] = "DEALLOCATE", [68] = "READ_PLUS",
	[69] = "SEEK", [71] = "CLONE", [72] = "GETXATTR", [73] = "SETXATTR", [74] = "LISTXATTRS", [75] = "REMOVEXATTR",
};

static const char *operation_name(const struct event *event)
{
	const char *name = NULL;

	if (event->version == 4 && event->operation < ARRAY_SIZE(v4_operations))
		name = v4_operations[event->operation];
	else if (event->version == 3 && event->operation < ARRAY_SIZE(v3_operations))
		name = v3_operations[event->operation];
	return name ?: "OTHER";
}

static const char *class_name(u16 class)
{
	return class && class < ARRAY_SIZE(secclass_map) ? secclass_map[class - 1].name : "";
}

static __printf(2, 3) void add(struct line *line, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	line->length += vscnprintf(line->text + line->length, MAX_LINE - line->length, format, arguments);
	va_end(arguments);
}

/* Names come from clients: everything but plain ASCII is escaped. */
static void add_string(struct line *line, const char *key, const char *text)
{
	add(line, ",\"%s\":\"", key);
	for (; *text; text++)
		if (*text >= ' ' && *text < 127 && *text != '"' && *text != '\\')
			add(line, "%c", *text);
		else
			add(line, "\\u%04x", (unsigned char)*text);
	add(line, "\"");
}

static void add_permissions(struct line *line, u16 class, u32 denied)
{
	const char *separator = "";
	int bit;

	add(line, ",\"permissions\":\"");
	for (bit = 0; bit < 32 && class && class < ARRAY_SIZE(secclass_map); bit++)
		if (denied & (1u << bit)) {
			const char *name = secclass_map[class - 1].perms[bit];

			if (!name)
				break;
			add(line, "%s%s", separator, name);
			separator = " ";
		}
	add(line, "\"");
}

/* `x:y:prescriptions_share_t:...` -> `prescriptions` */
static void add_share(struct line *line, const char *context)
{
	char share[MAX_CONTEXT];
	const char *end = strstr(context, "_share_t:"), *start = end;

	if (!end)
		return;
	while (start > context && start[-1] != ':')
		start--;
	strscpy(share, start, min_t(size_t, sizeof(share), end - start + 1));
	add_string(line, "share", share);
}

void events_format(struct line *line, const struct event *event)
{
	const struct note *note = &event->note;

	add(line, "{\"serial\":%llu,\"time\":%lld.%06ld,\"address\":\"%pI4\",\"uid\":%d", event->serial,
	    (s64)event->time.tv_sec, event->time.tv_nsec / 1000, &event->address, (int)event->uid);
	if (event->version)
		add(line, ",\"version\":%u", event->version);
	add_string(line, "operation", operation_name(event));
	add_string(line, "reason", note->reason == REASON_DENIED && !note->by_selinux ? "file mode" :
		   reasons[note->reason]);
	if (note->source[0]) {
		add_string(line, "subject", note->source);
		add_string(line, "target", note->target);
		add_share(line, note->target);
	}
	if (note->by_selinux) {
		add_string(line, "class", class_name(note->class));
		add_permissions(line, note->class, note->denied);
	}
	if (note->inode) {
		add(line, ",\"inode\":%llu", note->inode);
		if (note->name[0])
			add_string(line, "name", note->name);
	}
	add(line, ",\"repeats\":%u,\"lost\":%llu}\n", event->repeats, event->lost);
}
