/* The floor of the race: what the kernel alone asks for the same bytes.
 *
 *     floor PORT UPSTREAM_PORT
 *
 * It reads what a client sends into a buffer and writes it to a connection of that client's own to the upstream, and back the same way.
 * What begins with "GET /cached/" or "GET /refused/" it answers itself, with bytes that were made beforehand and are as many as Propylon
 * sends. It looks at nothing, limits nothing and counts nothing: no gateway can be cheaper with these system calls.
 * In C, because a program of the system calls alone is shortest in it.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 128 << 10, ENDS = 1 << 16 };

/* One end of a pair: what it has sent is written to the other. */
struct end {
    int fd;
    struct end *other;
    char *buffer;       /* what `other` has not taken yet, or an answer of ours that this end has not */
    const char *answer; /* points into what was made beforehand, where we answer ourselves */
    size_t from, to;
};

static struct end *ends[ENDS];
static int epoll, upstream_port;

static struct { const char *begin; char *bytes; size_t size; } own[3];

static void check(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static void answer(int which, const char *begin, const char *status, size_t head, size_t body)
{
    char *bytes = malloc(head + body + 1);
    int at = sprintf(bytes, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nContent-Type: text/plain\r\nX-Fill: ", status, body);
    memset(bytes + at, 'x', head + body - at);
    memcpy(bytes + head - 4, "\r\n\r\n", 4);
    own[which].begin = begin, own[which].bytes = bytes, own[which].size = head + body;
}

static struct sockaddr_in local(int port)
{
    return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static struct end *watched(int fd)
{
    int one = 1;
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP, .data.fd = fd };
    check(fd < ENDS ? 0 : -1, "too many connections");
    struct end *end = calloc(1, sizeof *end);
    end->fd = fd;
    end->buffer = malloc(BUFFER);
    ends[fd] = end;
    check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "TCP_NODELAY");
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
    return end;
}

static void close_end(struct end *end)
{
    if (end) {
        ends[end->fd] = NULL;
        close(end->fd);
        free(end->buffer);
        free(end);
    }
}

/* The connection to the upstream, which each client has from its first request that is not ours to answer. */
static struct end *other(struct end *end)
{
    if (!end->other) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in address = local(upstream_port);
        check(fd, "socket");
        check(connect(fd, (struct sockaddr *)&address, sizeof address), "connect");
        end->other = watched(fd);
        end->other->other = end;
    }
    return end->other;
}

static int is_own(struct end *end, ssize_t size)
{
    for (int i = 0; i < 3; i++)
        if ((size_t)size > strlen(own[i].begin) && !memcmp(end->buffer, own[i].begin, strlen(own[i].begin))) {
            end->answer = own[i].bytes, end->from = 0, end->to = own[i].size;
            return 1;
        }
    return 0;
}

/* Writes what is there; whether all of it was taken. */
static int written(struct end *end)
{
    int to = end->answer ? end->fd : other(end)->fd;
    const char *bytes = end->answer ? end->answer : end->buffer;
    while (end->from < end->to) {
        ssize_t count = send(to, bytes + end->from, end->to - end->from, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0)
            return 0;
        end->from += count;
    }
    end->answer = NULL;
    return 1;
}

/* Whether the connection goes on. */
static int moved(struct end *end)
{
    while (written(end)) {
        ssize_t count = recv(end->fd, end->buffer, BUFFER, MSG_DONTWAIT);
        if (count == 0)
            return 0;
        if (count < 0)
            return 1;
        if (!is_own(end, count))
            end->from = 0, end->to = count;
        /* Less than there was room for: the rest will say that it is there. */
        if (count < BUFFER)
            return written(end), 1;
    }
    return 1;
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: floor PORT UPSTREAM_PORT\n");
        return 2;
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = local(atoi(arguments[1]));
    struct epoll_event event = { .events = EPOLLIN }, events[512];
    upstream_port = atoi(arguments[2]);
    answer(0, "GET /cached/100k", "200 OK", 300, 100 << 10);
    answer(1, "GET /cached/", "200 OK", 300, 1 << 10);
    answer(2, "GET /refused/", "429 Too Many Requests", 410, 274);
    event.data.fd = listener;
    check(epoll = epoll_create1(0), "epoll_create1");
    check(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "SO_REUSEADDR");
    check(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(listener, 4096), "listen");
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event), "epoll_ctl");
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                for (int client; (client = accept(listener, NULL, NULL)) >= 0;)
                    watched(client);
                continue;
            }
            struct end *end = ends[fd];
            /* The other way may wait for room here. */
            int waits = end && end->other && end->other->from < end->other->to;
            int goes_on = end && moved(end) && (!waits || moved(end->other));
            if (end && !goes_on) {
                close_end(end->other);
                close_end(end);
            }
        }
    }
}
