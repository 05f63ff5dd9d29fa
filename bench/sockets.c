/* Load for a WebSocket echo on loopback.
 *
 *   sockets PORT CLIENTS SECONDS
 *       CLIENTS connections, each with one text message of 116 bytes in flight: {"type":"echo","data":{...}}.
 *       Prints p50 and p99 (microseconds) and the rate (a second).
 *
 * The answer to a message is one unfragmented text frame that holds the message's own tag, which no other message
 * has: both the message as it was sent and Daebus' {"type":"response","data":...} do. Anything else ends the load
 * with an error. Pings are answered. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define MAX_CLIENTS 1024
#define MASK_BYTES 4
#define EVENTS 64

enum opcode { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

struct client {
    int fd;
    struct buffer in;
    char tag[16]; /* in its quotes */
    int64_t sent;
    bool waiting;
};

struct load {
    struct client clients[MAX_CLIENTS];
    int total, waiting, poll;
    uint32_t sequence;
    unsigned char mask[MASK_BYTES];
    struct samples samples;
};

/* ---- bytes on a connection ---- */

static void send_all(const struct client *client, const char *bytes, size_t length) {
    while (length) {
        ssize_t sent = send(client->fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0) die("cannot write to the server: %s", strerror(errno));
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void receive(struct client *client) {
    reserve(&client->in, 4096);
    ssize_t got = recv(client->fd, client->in.bytes + client->in.end, client->in.room - client->in.end, 0);
    if (got < 0 && errno == EINTR) return;
    if (got < 0 && errno == EAGAIN) die("no answer within %d s", REPLY_TIMEOUT_SECONDS);
    if (got < 0) die("cannot read from the server: %s", strerror(errno));
    if (got == 0) die("the server closed the connection");
    client->in.end += (size_t)got;
}

static void connect_client(struct client *client, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval timeout = {.tv_sec = REPLY_TIMEOUT_SECONDS};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address))
        die("cannot connect to port %d: %s", port, strerror(errno));
    setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

/* Nothing is offered but the protocol itself: no compression, no subprotocol. */
static void upgrade(struct client *client, int port) {
    char request[256];
    int length = snprintf(request, sizeof request,
                          "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                          port);
    const char *end;
    send_all(client, request, (size_t)length);
    do
        receive(client);
    while (!(end = memmem(client->in.bytes, client->in.end, "\r\n\r\n", 4)));
    if (strncmp(client->in.bytes, "HTTP/1.1 101 ", 13)) die("no upgrade: %.60s", client->in.bytes);
    client->in.start = (size_t)(end + 4 - client->in.bytes);
}

/* ---- frames ---- */

/* Everything that is sent here fits the short form: at most 125 bytes. */
static void send_frame(const struct load *load, const struct client *client, enum opcode opcode, struct text content) {
    char frame[2 + MASK_BYTES + 125];
    if (content.length > 125) die("a frame of more than 125 bytes");
    frame[0] = (char)(0x80 | opcode);
    frame[1] = (char)(0x80 | content.length);
    memcpy(frame + 2, load->mask, MASK_BYTES);
    for (size_t i = 0; i < content.length; i++)
        frame[2 + MASK_BYTES + i] = (char)(content.at[i] ^ load->mask[i % MASK_BYTES]);
    send_all(client, frame, 2 + MASK_BYTES + content.length);
}

/* The next frame that has come in whole; it is valid until the next receive(). */
static bool take_frame(struct client *client, int *head, struct text *content) {
    const unsigned char *at = (const unsigned char *)client->in.bytes + client->in.start;
    size_t there = client->in.end - client->in.start, before = 2;
    if (there < 2) return false;
    size_t length = at[1];
    if (length > 126) die("a masked frame or a huge one");
    if (length == 126) {
        before = 4;
        if (there < before) return false;
        length = (size_t)at[2] << 8 | at[3];
    }
    if (there < before + length) return false;
    *head = at[0];
    *content = (struct text){(const char *)at + before, length};
    client->in.start += before + length;
    return true;
}

/* ---- echoes ---- */

static void ask(struct load *load, struct client *client) {
    char message[126];
    snprintf(client->tag, sizeof client->tag, "\"%010u\"", ++load->sequence);
    int length = snprintf(message, sizeof message,
                          "{\"type\":\"echo\",\"data\":{\"device\":\"kitchen-lamp\",\"reading\":21.5,"
                          "\"unit\":\"celsius\",\"tag\":%s,\"text\":\"a line.\"}}",
                          client->tag);
    client->waiting = true;
    load->waiting++;
    client->sent = now_ns();
    send_frame(load, client, TEXT, (struct text){message, (size_t)length});
}

static void take_answer(struct load *load, struct client *client, struct text answer) {
    int64_t now = now_ns();
    if (!client->waiting || !memmem(answer.at, answer.length, client->tag, strlen(client->tag)))
        die("an answer that was not asked for: %.*s", (int)answer.length, answer.at);
    client->waiting = false;
    load->waiting--;
    sample(&load->samples, now, client->sent);
    if (now < load->samples.until) ask(load, client);
}

static void take_frames(struct load *load, struct client *client) {
    struct text content;
    int head;
    while (take_frame(client, &head, &content)) {
        if (head == (0x80 | PING))
            send_frame(load, client, PONG, content);
        else if (head == (0x80 | TEXT))
            take_answer(load, client, content);
        else
            die("a frame that begins with 0x%02x", (unsigned)head);
    }
}

static void open_clients(struct load *load, int port) {
    load->poll = epoll_create1(EPOLL_CLOEXEC);
    if (load->poll < 0) die("no epoll: %s", strerror(errno));
    for (int i = 0; i < load->total; i++) {
        struct client *client = &load->clients[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        connect_client(client, port);
        upgrade(client, port);
        if (epoll_ctl(load->poll, EPOLL_CTL_ADD, client->fd, &event)) die("epoll: %s", strerror(errno));
    }
}

static void take_events(struct load *load) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(load->poll, events, EVENTS, REPLY_TIMEOUT_SECONDS * 1000);
    if (count < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
    if (count == 0) die("no answer within %d s", REPLY_TIMEOUT_SECONDS);
    for (int i = 0; i < count; i++) {
        receive(events[i].data.ptr);
        take_frames(load, events[i].data.ptr);
    }
}

static void echo(struct load *load, int port, double seconds) {
    if (getrandom(load->mask, MASK_BYTES, 0) != MASK_BYTES) die("no random numbers");
    open_clients(load, port);
    open_window(&load->samples, seconds);
    for (int i = 0; i < load->total; i++) ask(load, &load->clients[i]);
    while (load->waiting) take_events(load);
    print_samples(&load->samples);
}

int main(int argc, char **argv) {
    static struct load load;
    signal(SIGPIPE, SIG_IGN);
    if (argc != 4) die("usage: sockets PORT CLIENTS SECONDS");
    load.total = atoi(argv[2]);
    if (load.total < 1 || load.total > MAX_CLIENTS) die("from 1 to %d clients", MAX_CLIENTS);
    echo(&load, atoi(argv[1]), atof(argv[3]));
    return 0;
}
