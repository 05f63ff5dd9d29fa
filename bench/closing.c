/* Load for an HTTP server that ends each answer by closing the connection, as upstream does.
 *
 *   closing PORT KIND CONNECTIONS SECONDS
 *       The requests of requests.lua (KIND is post, get or heads) on CONNECTIONS connections, each opened anew for
 *       each request. Prints p50 and p99 (microseconds, from the connect) and the rate (a second).
 *
 * wrk cannot be used for it: it counts each such answer as broken and opens two connections for the next request,
 * which would make upstream look slower than it is. Every answer must have status 200 and hold the document. What
 * still waits at the end is not waited for: with a queue of 5 for new connections, upstream leaves some for seconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define MAX_CONNECTIONS 1024
#define EVENTS 64
#define BODY \
    "{\"device\":\"kitchen-lamp\",\"reading\":21.5,\"unit\":\"celsius\",\"tag\":\"0000000001\"," \
    "\"text\":\"a line of text\"}"
#define TAG "\"0000000001\"" /* in both documents */

struct connection {
    int fd;
    struct buffer in;
    int64_t opened;
    bool asked;
};

struct load {
    struct connection connections[MAX_CONNECTIONS];
    struct sockaddr_in address;
    const char *kind;
    int total, poll;
    unsigned number;
    struct samples samples;
};

static int write_request(struct load *load, char *request, size_t room) {
    int port = ntohs(load->address.sin_port);
    char numbered[40] = "";
    if (!strcmp(load->kind, "get"))
        return snprintf(request, room, "GET /reading HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", port);
    if (!strcmp(load->kind, "heads"))
        snprintf(numbered, sizeof numbered, "X-Request-Number: %u\r\n", ++load->number);
    return snprintf(request, room,
                    "POST /echo HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                    "%sContent-Length: %zu\r\n\r\n%s",
                    port, numbered, strlen(BODY), BODY);
}

/* It may take a while until a short queue has room; the request goes when the connection stands. */
static void open_connection(struct load *load, struct connection *c) {
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("no socket: %s", strerror(errno));
    c->in.start = c->in.end = 0;
    c->asked = false;
    c->opened = now_ns();
    if (connect(c->fd, (struct sockaddr *)&load->address, sizeof load->address) && errno != EINPROGRESS)
        die("cannot connect: %s", strerror(errno));
    if (epoll_ctl(load->poll, EPOLL_CTL_ADD, c->fd, &event)) die("epoll: %s", strerror(errno));
}

static void ask(struct load *load, struct connection *c) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    char request[512];
    int length = write_request(load, request, sizeof request);
    if (send(c->fd, request, (size_t)length, MSG_NOSIGNAL) != length)
        die("cannot write to the server: %s", strerror(errno));
    if (epoll_ctl(load->poll, EPOLL_CTL_MOD, c->fd, &event)) die("epoll: %s", strerror(errno));
    c->asked = true;
}

static void check_answer(struct connection *c) {
    append(&c->in, "", 1);
    const char *status = strchr(c->in.bytes, ' ');
    if (!status || strncmp(status, " 200 ", 5) || !strstr(c->in.bytes, TAG))
        die("a wrong answer: %.200s", c->in.bytes);
}

static void take_answer(struct load *load, struct connection *c) {
    int64_t now = now_ns();
    check_answer(c);
    sample(&load->samples, now, c->opened);
    close(c->fd);
    open_connection(load, c);
}

static void receive(struct load *load, struct connection *c) {
    reserve(&c->in, 4096);
    ssize_t got = recv(c->fd, c->in.bytes + c->in.end, c->in.room - c->in.end, 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (got < 0) die("cannot read from the server: %s", strerror(errno));
    if (got == 0)
        take_answer(load, c);
    else
        c->in.end += (size_t)got;
}

static void take_events(struct load *load) {
    struct epoll_event events[EVENTS];
    int64_t left = load->samples.until - now_ns();
    int count = epoll_wait(load->poll, events, EVENTS, left > 0 ? (int)(left / 1000000) : 0);
    if (count < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->asked)
            receive(load, c);
        else
            ask(load, c);
    }
}

int main(int argc, char **argv) {
    static struct load load;
    signal(SIGPIPE, SIG_IGN);
    if (argc != 5) die("usage: closing PORT KIND CONNECTIONS SECONDS");
    load.address.sin_family = AF_INET;
    load.address.sin_port = htons((uint16_t)atoi(argv[1]));
    load.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    load.kind = argv[2];
    load.total = atoi(argv[3]);
    load.poll = epoll_create1(EPOLL_CLOEXEC);
    if (load.total < 1 || load.total > MAX_CONNECTIONS) die("from 1 to %d connections", MAX_CONNECTIONS);
    open_window(&load.samples, atof(argv[4]));
    for (int i = 0; i < load.total; i++) open_connection(&load, &load.connections[i]);
    while (now_ns() < load.samples.until) take_events(&load);
    print_samples(&load.samples);
    return 0;
}
