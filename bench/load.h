/* What the loads in C share: ending with words, the clock, bytes, and the latencies of a measurement. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WARM_UP_SECONDS 0.2 /* answered, but not counted */
#define REPLY_TIMEOUT_SECONDS 30

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline double now_seconds(void) { return (double)now_ns() / 1e9; }

/* ---- bytes ---- */

struct text {
    const char *at;
    size_t length;
};

struct buffer {
    char *bytes;
    size_t start, end, room;
};

static inline void reserve(struct buffer *b, size_t more) {
    if (b->start && b->start == b->end) b->start = b->end = 0;
    if (b->end + more <= b->room) return;
    memmove(b->bytes, b->bytes + b->start, b->end - b->start);
    b->end -= b->start;
    b->start = 0;
    if (b->end + more <= b->room) return;
    b->room = (b->end + more) * 2;
    b->bytes = realloc(b->bytes, b->room);
    if (!b->bytes) die("out of memory");
}

static inline void append(struct buffer *b, const char *bytes, size_t length) {
    reserve(b, length);
    memcpy(b->bytes + b->end, bytes, length);
    b->end += length;
}

/* ---- latencies ---- */

struct samples {
    int64_t *values; /* in ns, of what was answered in the window */
    size_t count, room;
    int64_t from, until;
    double seconds;
};

static inline void open_window(struct samples *s, double seconds) {
    s->seconds = seconds;
    s->from = now_ns() + (int64_t)(WARM_UP_SECONDS * 1e9);
    s->until = s->from + (int64_t)(seconds * 1e9);
}

static inline void sample(struct samples *s, int64_t now, int64_t sent) {
    if (now < s->from || now >= s->until) return;
    if (s->count == s->room) {
        s->room = s->room ? s->room * 2 : 1 << 16;
        s->values = realloc(s->values, s->room * sizeof *s->values);
        if (!s->values) die("out of memory");
    }
    s->values[s->count++] = now - sent;
}

static inline int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static inline double percentile_us(const struct samples *s, double share) {
    return (double)s->values[(size_t)((double)(s->count - 1) * share)] / 1000.0;
}

/* One line of JSON: p50 and p99 (microseconds) and the rate (a second). */
static inline void print_samples(struct samples *s) {
    if (!s->count) die("nothing was answered in %.1f s", s->seconds);
    qsort(s->values, s->count, sizeof *s->values, by_value);
    printf("{\"p50\": %.2f, \"p99\": %.2f, \"rate\": %.1f, \"count\": %zu}\n", percentile_us(s, 0.5),
           percentile_us(s, 0.99), (double)s->count / s->seconds, s->count);
}

#endif
