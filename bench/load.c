/* Load for a Daebus service over a unix socket to Redis, and the physical limit beside it.
 *
 *   load calls SOCKET SERVICE ECHOES SLOW ACTION SECONDS
 *       ECHOES callers ask for "echo" and SLOW callers for ACTION, each with one request in flight.
 *       Prints p50 and p99 (microseconds) and the rate (a second) of the echoes alone.
 *   load echo SOCKET SERVICE
 *       the limit: answers "echo" and counts broadcasts, in C, with the same commands to Redis.
 *   load broadcast SOCKET SERVICE CHANNEL COUNT
 *       publishes COUNT messages of 100 bytes at once, then asks SERVICE ("count") until it has handled
 * them. Prints how many came, and the rate from the first publish to the last one handled.
 *
 * Requests and replies are what a real caller and service exchange: JSON with a payload of about 115 bytes.
 * Every reply is checked: its request id, its status, its payload. One connection is subscribed, the other
 * publishes with CLIENT REPLY OFF, and all that one read brings is answered in one write. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "load.h"

#define BROADCAST_BYTES 100
#define BROADCAST_CHANNEL "bench.broadcast"
#define NO_PROGRESS_SECONDS 3.0 /* after that, what is missing is lost */
#define ID_LENGTH 36
#define MAX_CALLERS 1024

/* ---- bytes ---- */

static void append_bulk(struct buffer *b, struct text t) {
    char head[32];
    append(b, head, (size_t)snprintf(head, sizeof head, "$%zu\r\n", t.length));
    append(b, t.at, t.length);
    append(b, "\r\n", 2);
}

static struct text text_of(const char *s) { return (struct text){s, strlen(s)}; }

static bool equals(struct text t, const char *s) {
    return t.length == strlen(s) && !memcmp(t.at, s, t.length);
}

/* ---- a connection to Redis ---- */

struct connection {
    int fd;
    struct buffer in, out;
};

static void open_connection(struct connection *c, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval timeout = {.tv_sec = REPLY_TIMEOUT_SECONDS};
    if (strlen(path) >= sizeof address.sun_path) die("the socket's path is too long: %s", path);
    strcpy(address.sun_path, path);
    *c = (struct connection){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address))
        die("cannot connect to Redis at %s: %s", path, strerror(errno));
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
}

static void flush(struct connection *c) {
    while (c->out.start < c->out.end) {
        ssize_t sent = send(c->fd, c->out.bytes + c->out.start, c->out.end - c->out.start, MSG_NOSIGNAL);
        if (sent < 0) die("cannot write to Redis: %s", strerror(errno));
        c->out.start += (size_t)sent;
    }
    c->out.start = c->out.end = 0;
}

static void fill(struct connection *c) {
    reserve(&c->in, 65536);
    ssize_t got = recv(c->fd, c->in.bytes + c->in.end, c->in.room - c->in.end, 0);
    if (got < 0 && errno == EINTR) return;
    if (got < 0 && errno == EAGAIN) die("no answer within %d s", REPLY_TIMEOUT_SECONDS);
    if (got < 0) die("cannot read from Redis: %s", strerror(errno));
    if (got == 0) die("Redis closed the connection");
    c->in.end += (size_t)got;
}

static void append_text(struct buffer *b, const char *s) { append(b, s, strlen(s)); }

static void append_publish(struct connection *c, struct text channel, struct text message) {
    append_text(&c->out, "*3\r\n$7\r\nPUBLISH\r\n");
    append_bulk(&c->out, channel);
    append_bulk(&c->out, message);
}

/* One line of the protocol at *at, without its end; NULL when it is not complete yet. */
static const char *take_line(const char **at, const char *end) {
    const char *line = *at;
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    if (!stop) return NULL;
    *at = stop + 1;
    return line;
}

static bool take_element(const char **at, const char *end, struct text *element) {
    const char *line = take_line(at, end);
    if (!line) return false;
    if (*line == ':') {
        *element = (struct text){line + 1, (size_t)(*at - line) - 3};
        return true;
    }
    if (*line != '$') die("unexpected protocol from Redis: %.60s", line);
    size_t length = strtoul(line + 1, NULL, 10);
    if ((size_t)(end - *at) < length + 2) return false;
    *element = (struct text){*at, length};
    *at += length + 2;
    return true;
}

/* The next three-part push (kind, channel, message) that has come in whole; it is valid until the next
 * fill(). */
static bool take_push(struct connection *c, struct text push[3]) {
    const char *at = c->in.bytes + c->in.start, *end = c->in.bytes + c->in.end;
    if (at == end) return false;
    const char *line = take_line(&at, end);
    if (!line) return false;
    if (*line == '-') die("Redis refused: %.*s", (int)(at - line - 2), line);
    if (strncmp(line, "*3", 2)) die("unexpected protocol from Redis: %.60s", line);
    for (int i = 0; i < 3; i++)
        if (!take_element(&at, end, &push[i])) return false;
    c->in.start = (size_t)(at - c->in.bytes);
    return true;
}

static bool take_message(struct connection *c, struct text *channel, struct text *message) {
    struct text push[3];
    while (take_push(c, push)) {
        if (!equals(push[0], "message")) continue;
        *channel = push[1];
        *message = push[2];
        return true;
    }
    return false;
}

static void subscribe(struct connection *c, const char *channel) {
    struct text push[3];
    append_text(&c->out, "*2\r\n$9\r\nSUBSCRIBE\r\n");
    append_bulk(&c->out, text_of(channel));
    flush(c);
    while (!take_push(c, push)) fill(c);
    if (!equals(push[0], "subscribe")) die("no confirmation of SUBSCRIBE %s", channel);
}

static void silence(struct connection *c) {
    append_text(&c->out, "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n");
    flush(c);
}

/* ---- the few pieces of JSON that matter here ---- */

/* Where the value of a key begins; the keys asked for do not occur inside the payloads used here. */
static const char *find_value(struct text json, const char *key) {
    char quoted[40];
    int length = snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *end = json.at + json.length;
    const char *at = memmem(json.at, json.length, quoted, (size_t)length);
    if (!at) return NULL;
    for (at += length; at < end && (*at == ' ' || *at == ':');) at++;
    return at < end ? at : NULL;
}

static struct text find_string(struct text json, const char *key) {
    const char *at = find_value(json, key);
    if (!at || *at != '"') return (struct text){"", 0};
    const char *stop = memchr(at + 1, '"', (size_t)(json.at + json.length - at - 1));
    return stop ? (struct text){at + 1, (size_t)(stop - at - 1)} : (struct text){"", 0};
}

static double find_number(struct text json, const char *key) {
    const char *at = find_value(json, key);
    if (!at) die("no \"%s\" in %.*s", key, (int)json.length, json.at);
    return strtod(at, NULL);
}

static struct text find_object(struct text json, const char *key) {
    const char *start = find_value(json, key), *end = json.at + json.length;
    int depth = 0;
    bool quoted = false;
    for (const char *at = start; at && at < end; at++) {
        if (*at == '"') quoted = !quoted; /* our own payloads hold no escapes */
        if (quoted) continue;
        if (*at == '{') depth++;
        if (*at == '}' && !--depth) return (struct text){start, (size_t)(at + 1 - start)};
    }
    return (struct text){"{}", 2};
}

static void check_reply(struct text reply) {
    const char *final = find_value(reply, "final");
    if (!equals(find_string(reply, "status"), "success"))
        die("not a success: %.*s", (int)reply.length, reply.at);
    if (!final || *final != 't') die("not a final reply: %.*s", (int)reply.length, reply.at);
}

/* ---- the limit: a service in C ---- */

struct counted {
    uint64_t count;
    double last;
};

static void answer(struct connection *publisher, struct text request, const struct counted *counted) {
    char count[80], reply[4096];
    struct text payload = find_object(request, "payload"), id = find_string(request, "request_id");
    if (equals(find_string(request, "action"), "count")) {
        snprintf(count, sizeof count, "{\"count\":%llu,\"last\":%.6f}", (unsigned long long)counted->count,
                 counted->last);
        payload = text_of(count);
    }
    int length =
        snprintf(reply, sizeof reply,
                 "{\"status\":\"success\",\"payload\":%.*s,\"request_id\":\"%.*s\",\"final\":true}",
                 (int)payload.length, payload.at, (int)id.length, id.at);
    if (length >= (int)sizeof reply) die("a request of more than 4 kB");
    append_publish(publisher, find_string(request, "reply_to"), (struct text){reply, (size_t)length});
}

__attribute__((noreturn)) static void serve(const char *path, const char *service) {
    struct connection reader, publisher;
    struct counted counted = {0, 0};
    struct text channel, message;
    open_connection(&publisher, path);
    silence(&publisher);
    open_connection(&reader, path);
    setsockopt(reader.fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){0}, sizeof(struct timeval));
    subscribe(&reader, BROADCAST_CHANNEL);
    subscribe(&reader, service);
    for (;;) {
        fill(&reader);
        while (take_message(&reader, &channel, &message)) {
            if (equals(channel, service)) {
                answer(&publisher, message, &counted);
            } else {
                counted.count++;
                counted.last = now_seconds();
            }
        }
        flush(&publisher);
    }
}

/* ---- callers ---- */

struct caller {
    const char *action;
    char id[ID_LENGTH + 1];
    int64_t sent;
    bool waiting;
};

struct load {
    const char *service;
    char reply_to[64];
    struct connection reader, publisher;
    struct caller callers[MAX_CALLERS];
    int echoes, total, waiting;
    uint32_t run, sequence;
    struct samples samples; /* of the echoes */
};

static void open_load(struct load *load, const char *path, const char *service) {
    if (getrandom(&load->run, sizeof load->run, 0) != sizeof load->run) die("no random numbers");
    load->service = service;
    snprintf(load->reply_to, sizeof load->reply_to, "caller:%08x-0000-4000-8000-%012x", load->run,
             (unsigned)getpid());
    open_connection(&load->reader, path);
    subscribe(&load->reader, load->reply_to);
    open_connection(&load->publisher, path);
    silence(&load->publisher);
}

static void ask(struct load *load, int index) {
    struct caller *caller = &load->callers[index];
    char request[512];
    uint32_t sequence = ++load->sequence;
    snprintf(caller->id, sizeof caller->id, "%08x-0000-4000-8000-%04x%08x", load->run, (unsigned)index,
             sequence);
    int length = snprintf(request, sizeof request,
                          "{\"action\":\"%s\",\"payload\":{\"device\":\"kitchen-lamp\",\"reading\":21.5,"
                          "\"unit\":\"celsius\",\"tag\":\"%010u\","
                          "\"text\":\"a line of text to pass "
                          "on\"},\"reply_to\":\"%s\",\"request_id\":\"%s\",\"service\":\"%s\"}",
                          caller->action, sequence, load->reply_to, caller->id, load->service);
    caller->waiting = true;
    caller->sent = now_ns();
    load->waiting++;
    append_publish(&load->publisher, text_of(load->service), (struct text){request, (size_t)length});
}

/* Which caller a reply is for; ids carry the caller's number, so no look-up costs time here. */
static struct caller *owner(struct load *load, struct text reply) {
    struct text id = find_string(reply, "request_id");
    char number[5] = "";
    if (id.length == ID_LENGTH) memcpy(number, id.at + ID_LENGTH - 12, 4);
    unsigned long index = strtoul(number, NULL, 16);
    if (index >= (unsigned long)load->total || !load->callers[index].waiting ||
        !equals(id, load->callers[index].id))
        die("a reply to no open request: %.*s", (int)reply.length, reply.at);
    return &load->callers[index];
}

static void check_echo(const struct caller *caller, struct text reply) {
    char tag[16];
    snprintf(tag, sizeof tag, "\"%010lu\"", strtoul(caller->id + ID_LENGTH - 8, NULL, 16));
    if (!memmem(reply.at, reply.length, tag, strlen(tag)))
        die("a payload that was not sent: %.*s", (int)reply.length, reply.at);
}

static void take_reply(struct load *load, struct text reply, int64_t now) {
    struct caller *caller = owner(load, reply);
    int index = (int)(caller - load->callers);
    check_reply(reply);
    caller->waiting = false;
    load->waiting--;
    if (index < load->echoes) {
        check_echo(caller, reply);
        sample(&load->samples, now, caller->sent);
    }
    if (now < load->samples.until) ask(load, index);
}

static int call(const char *path, const char *service, int echoes, int slow, const char *action,
                double seconds) {
    static struct load load;
    struct text channel, reply;
    if (echoes < 1 || slow < 0 || echoes + slow > MAX_CALLERS) die("from 1 to %d callers", MAX_CALLERS);
    open_load(&load, path, service);
    load.echoes = echoes;
    load.total = echoes + slow;
    open_window(&load.samples, seconds);
    for (int i = 0; i < load.total; i++) {
        load.callers[i].action = i < echoes ? "echo" : action;
        ask(&load, i);
    }
    flush(&load.publisher);
    while (load.waiting) {
        fill(&load.reader);
        int64_t now = now_ns();
        while (take_message(&load.reader, &channel, &reply)) take_reply(&load, reply, now);
        flush(&load.publisher);
    }
    print_samples(&load.samples);
    return 0;
}

/* ---- broadcasts ---- */

static void publish_burst(struct load *load, const char *channel, long count) {
    char message[BROADCAST_BYTES + 1];
    for (long i = 0; i < count; i++) {
        int head = snprintf(message, sizeof message, "{\"n\":\"%010ld\",\"text\":\"", i);
        memset(message + head, 'x', (size_t)(BROADCAST_BYTES - head - 2));
        memcpy(message + BROADCAST_BYTES - 2, "\"}", 2);
        append_publish(&load->publisher, text_of(channel), (struct text){message, BROADCAST_BYTES});
        if (load->publisher.out.end >= 65536) flush(&load->publisher);
    }
    flush(&load->publisher);
}

static struct counted ask_count(struct load *load) {
    struct text channel, reply;
    ask(load, 0);
    flush(&load->publisher);
    while (!take_message(&load->reader, &channel, &reply)) fill(&load->reader);
    owner(load, reply)->waiting = false;
    check_reply(reply);
    return (struct counted){(uint64_t)find_number(reply, "count"), find_number(reply, "last")};
}

static int broadcast(const char *path, const char *service, const char *channel, long count) {
    static struct load load;
    struct counted counted = {0, 0};
    if (count < 1) die("at least one message");
    open_load(&load, path, service);
    load.total = 1;
    load.callers[0].action = "count";
    double start = now_seconds(), moved = start;
    publish_burst(&load, channel, count);
    while (counted.count < (uint64_t)count && now_seconds() - moved < NO_PROGRESS_SECONDS) {
        struct counted before = counted;
        usleep(20000);
        counted = ask_count(&load);
        if (counted.count > before.count) moved = now_seconds();
    }
    if (!counted.count) die("none of %ld broadcasts was handled", count);
    printf("{\"rate\": %.1f, \"count\": %llu, \"lost\": %lld}\n",
           (double)counted.count / (counted.last - start), (unsigned long long)counted.count,
           (long long)count - (long long)counted.count);
    return 0;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc == 4 && !strcmp(argv[1], "echo")) serve(argv[2], argv[3]);
    if (argc == 8 && !strcmp(argv[1], "calls"))
        return call(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]), argv[6], atof(argv[7]));
    if (argc == 6 && !strcmp(argv[1], "broadcast"))
        return broadcast(argv[2], argv[3], argv[4], atol(argv[5]));
    die("usage: load calls SOCKET SERVICE ECHOES SLOW ACTION SECONDS | load echo SOCKET SERVICE | "
        "load broadcast SOCKET SERVICE CHANNEL COUNT");
}
