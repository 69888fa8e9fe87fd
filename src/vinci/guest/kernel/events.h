/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An event, between the ring (events.c) and its line of text (event_lines.c). */
#ifndef VINCI_EVENTS_H
#define VINCI_EVENTS_H

#include "vinci.h"

#define MAX_CONTEXT	160
#define MAX_NAME	64
#define MAX_LINE	2048

struct note {
	struct task_struct *task;
	bool by_selinux, counts_as_denied;
	enum vinci_reason reason;
	char source[MAX_CONTEXT], target[MAX_CONTEXT];
	u16 class;
	u32 denied;
	u64 inode;
	char name[MAX_NAME];
};

struct event {
	u64 serial;
	struct timespec64 time;
	__be32 address;
	uid_t uid;
	u32 version, operation;
	u32 repeats;
	u64 lost;	/* later ones of this client's that found no room */
	struct note note;
};

struct line {
	size_t length;
	char text[MAX_LINE];
};

void events_format(struct line *line, const struct event *event);

#endif
