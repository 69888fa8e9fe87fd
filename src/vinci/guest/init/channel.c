// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's end of the control channel: joins the virtio-serial port to an `sshd -i`.
 *
 * A virtio-serial port is no socket: while the host's end is closed reads return 0 at once and poll() never blocks, and a
 * new connection of the host looks like more bytes of the old one. So this program
 *  - waits by edge-triggered epoll, which the port's driver wakes when the host connects, disconnects or sends;
 *  - keeps one sshd started and waiting, so that a connection is answered without the time that sshd takes to start;
 *  - ends the session when the host disconnects;
 *  - takes "SSH-2.0-" at the beginning of a chunk for the first bytes of a new connection, whatever the port says of its
 *    state: that travels on another queue and may be late, and a quick reconnection may not be seen at all;
 *  - hangs up on whatever an ended session left running, as a terminal does (nohup survives).
 *
 * usage: channel PORT COMMAND [ARGUMENT...]
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CGROUPS "/sys/fs/cgroup"
#define LOG "/run/vinci/sshd.log"
#define HELLO "SSH-2.0-"

/* The driver hands out one received buffer (a page) per read: a chunk never mixes two connections. */
struct buffer {
	size_t start, end;
	char bytes[65536];
};

static int port, epoll, sock = -1;
static struct buffer to_sshd, to_host;
static unsigned session;
static int got_bytes; /* the host has sent something in this session */
static int used;      /* bytes went either way: what sshd has said is spent */
static int greeted;   /* a hello came before the port's state said that the host is there */
static time_t started;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void cgroup_path(char *path, size_t size, const char *file)
{
	snprintf(path, size, CGROUPS "/ssh.%d.%u%s", getpid(), session, file);
}

/* Remove the groups of ended sessions; one that still holds a process (nohup) stays: rmdir refuses. */
static void remove_empty_groups(void)
{
	struct dirent *entry;
	DIR *groups = opendir(CGROUPS);

	while (groups && (entry = readdir(groups)))
		if (!strncmp(entry->d_name, "ssh.", 4))
			unlinkat(dirfd(groups), entry->d_name, AT_REMOVEDIR);
	if (groups)
		closedir(groups);
}

/* Hang up every process of the session. */
static void hang_up(void)
{
	char path[128];
	int pid;

	cgroup_path(path, sizeof path, "/cgroup.procs");
	FILE *procs = fopen(path, "re");
	while (procs && fscanf(procs, "%d", &pid) == 1) {
		kill(pid, SIGHUP);
		kill(pid, SIGCONT);
	}
	if (procs)
		fclose(procs);
}

static void become_sshd(int end, char *const command[])
{
	char path[128];
	int log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	snprintf(path, sizeof path, CGROUPS "/ssh.%d.%u/cgroup.procs", getppid(), session);
	int procs = open(path, O_WRONLY | O_CLOEXEC);
	if (procs >= 0 && write(procs, "0", 1) < 0)
		perror(path);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	dup2(end, 0);
	dup2(end, 1);
	if (log >= 0)
		dup2(log, 2);
	setsid();
	execv(command[0], command);
	_exit(127);
}

static void start_session(char *const command[])
{
	int ends[2];
	char path[128];
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = 1 };

	/* an sshd that cannot even start must not eat the processor */
	if (time(NULL) - started < 1 && !got_bytes)
		sleep(1);
	session++;
	started = time(NULL);
	got_bytes = used = 0;
	to_sshd.start = to_sshd.end = to_host.start = to_host.end = 0;
	remove_empty_groups();
	cgroup_path(path, sizeof path, "");
	mkdir(path, 0755);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		die("socketpair");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0)
		become_sshd(ends[1], command);
	close(ends[1]);
	sock = ends[0];
	fcntl(sock, F_SETFL, O_NONBLOCK);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, sock, &event))
		die("epoll_ctl");
}

static void restart_session(char *const command[])
{
	close(sock);
	hang_up();
	start_session(command);
}

static int host_is_connected(void)
{
	struct pollfd fd = { .fd = port, .events = POLLOUT };

	return poll(&fd, 1, 0) >= 0 && !(fd.revents & POLLHUP);
}

/* Read once into an empty buffer; 1 when there is something to write now, 0 when not, -1 at the end of the stream. */
static int fill(int from, struct buffer *buffer)
{
	if (buffer->start < buffer->end)
		return 1;
	ssize_t count = read(from, buffer->bytes, sizeof buffer->bytes);
	if (count < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	buffer->start = 0;
	buffer->end = count;
	return count > 0 ? 1 : -1;
}

/* Write what the buffer holds; 1 when all is written, 0 when the other side is full, -1 when it is gone. */
static int drain(int to, struct buffer *buffer)
{
	while (buffer->start < buffer->end) {
		ssize_t count = write(to, buffer->bytes + buffer->start, buffer->end - buffer->start);
		if (count < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		buffer->start += count;
	}
	return 1;
}

static int is_hello(const struct buffer *buffer)
{
	return buffer->start == 0 && buffer->end >= strlen(HELLO) && !memcmp(buffer->bytes, HELLO, strlen(HELLO));
}

/* Throw away what a connection that is gone has sent; 1 when a new one's hello is found, which stays in the buffer. */
static int discard_to_hello(void)
{
	while (fill(port, &to_sshd) > 0) {
		if (is_hello(&to_sshd))
			return 1;
		to_sshd.start = to_sshd.end;
	}
	return 0;
}

/* Carry bytes both ways until neither side has more for now. 0: go on; -1: sshd has ended. */
static int pump(char *const command[])
{
	int state, fresh;

	for (;;) {
		fresh = to_sshd.start == to_sshd.end;
		state = fill(port, &to_sshd);
		if (state <= 0)
			break;
		if (fresh && got_bytes && is_hello(&to_sshd)) {
			struct buffer hello = to_sshd;
			restart_session(command);
			to_sshd = hello;
		}
		got_bytes = used = 1;
		state = drain(sock, &to_sshd);
		if (state < 0)
			return -1;
		if (state == 0)
			break;
	}
	while ((state = fill(sock, &to_host)) > 0) {
		used = 1;
		if (drain(port, &to_host) <= 0)
			break;
	}
	return state < 0 ? -1 : 0;
}

int main(int count, char *const arguments[])
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = 0 };

	if (count < 3)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	port = open(arguments[1], O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (port < 0)
		die(arguments[1]);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, port, &event))
		die("epoll");
	start_session(arguments + 2);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) < 0 && errno != EINTR)
			die("epoll_wait");
		int connected = host_is_connected();
		if (connected) {
			greeted = 0;
		} else if (!greeted) {
			if (used)
				restart_session(arguments + 2);
			greeted = discard_to_hello();
		}
		if ((connected || greeted) && pump(arguments + 2) < 0)
			restart_session(arguments + 2);
	}
}
