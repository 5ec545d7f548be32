/* The load: devices that do nothing but ask for blocks and check what comes. load.py is the same in Python.
 *
 *   load name=value...      (defaults in `options` below)
 *
 * rate=0 is a closed loop: each device keeps `outstanding` requests on the way. Otherwise requests leave on a fixed
 * schedule, one device after the other, whatever came of those before, and latency counts from the scheduled time.
 * Every block must be the next one that was asked for, with the bytes of the image; anything else ends the run with
 * exit code 1. A request unanswered for 2 s, or overtaken by the answer to a later one, is lost; a closed loop asks it
 * again. flood=1 is the hostile device: it expects no order, only that no block is wrong.
 *
 * It prints "ready" when all devices may ask, "begin" and "end" around the time that is measured, goes on for 0.1 s so
 * that who reads CPU times at these words sees the load in full, and then prints its result as one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "mqtt.h"

enum { IN_MAX = PACKET_MAX, OUT_MAX = 1 << 16, WAITING_MAX = 4096, REQUEST_MAX = 256, CODES = 8, PARKED_MAX = 64 };
enum { IP_AND_TCP_HEADER = 20 + 32 }; /* TCP with its timestamp option, as Linux sends it */
static const double LOST_S = 2, READY_S = 30, AFTER_S = 0.1, TICK_S = 0.05;

static struct {
    double port, devices, outstanding, block, count, rate, seconds, warmup, first, stride, flood, mss;
    const char *image, *artifact, *check_in;
} set = {.devices = 200, .outstanding = 4, .block = 4096, .count = 1, .seconds = 4, .warmup = 1, .stride = 1};

static const struct {
    const char *name;
    double *number;
    const char **text;
} options[] = {
    {"port", &set.port, 0},       {"devices", &set.devices, 0}, {"outstanding", &set.outstanding, 0},
    {"block", &set.block, 0},     {"count", &set.count, 0},     {"rate", &set.rate, 0},
    {"seconds", &set.seconds, 0}, {"warmup", &set.warmup, 0},   {"first", &set.first, 0},
    {"stride", &set.stride, 0}, /* each device begins so many requests behind the one before */
    {"flood", &set.flood, 0},     {"mss", &set.mss, 0},         {"image", 0, &set.image},
    {"artifact", 0, &set.artifact}, /* the first bytes of the image's SHA-256, in hex */
    {"check_in", 0, &set.check_in}, /* a file with the check-in to send; without one no offer is waited for */
};

struct request {
    uint64_t offset;
    double due;
    unsigned blocks_came;
    bool has_hole;
};

struct device {
    int fd;
    bool is_ready, waits_to_write;
    char name[64];
    uint8_t *in, *out;
    size_t in_size, out_size;
    uint8_t get[REQUEST_MAX]; /* the topic of its requests and the artifact: what all of them begin with */
    size_t get_size, block_topic_size;
    uint64_t next;
    struct request *waiting; /* a ring: first..last */
    unsigned first, last, late_allowed;
    struct request parked[PARKED_MAX]; /* refused, to be asked again when `due` */
    unsigned parked_count;
};

static struct device *devices;
static uint8_t *image, artifact[32], *check_in;
static size_t image_size, artifact_size, check_in_size;
static uint64_t step, end_offset;
static unsigned ready_count;
static int poller;
static bool is_measuring;
static struct {
    uint64_t blocks, requests, sent, lost, late, refusals[CODES];
} seen;

/* --- time and samples ----------------------------------------------------------------------------------------- */

struct samples {
    uint32_t *us;
    size_t count, room;
};
static struct samples latencies, lags;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void add_sample(struct samples *to, double seconds) {
    if (to->count == to->room && !(to->us = realloc(to->us, (to->room = 2 * to->room + 4096) * sizeof *to->us)))
        fail("out of memory");
    to->us[to->count++] = (uint32_t)(seconds > 0 ? seconds * 1e6 : 0);
}

static int by_size(const void *a, const void *b) {
    uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
    return (one > other) - (one < other);
}

static double quantile_ms(const struct samples *of, double share) {
    return of->count ? of->us[(size_t)(share * (double)(of->count - 1))] / 1e3 : 0;
}

/* --- sending -------------------------------------------------------------------------------------------------- */

static void flush(struct device *d) {
    ssize_t sent = d->out_size ? write(d->fd, d->out, d->out_size) : 0;
    if (sent < 0 && errno != EAGAIN)
        fail("%s: the broker is gone: %m", d->name);
    if (sent > 0)
        memmove(d->out, d->out + sent, d->out_size -= (size_t)sent);
    if (d->waits_to_write != (d->out_size > 0)) {
        d->waits_to_write = d->out_size > 0;
        struct epoll_event event = {.events = EPOLLIN | (d->waits_to_write ? EPOLLOUT : 0), .data.ptr = d};
        epoll_ctl(poller, EPOLL_CTL_MOD, d->fd, &event);
    }
}

static void put(struct device *d, int kind, const uint8_t *body, size_t size) {
    if (d->out_size + size + LENGTH_MAX > OUT_MAX)
        fail("%s: the broker does not read", d->name);
    d->out_size = (size_t)(put_packet(d->out + d->out_size, kind, body, size) - d->out);
}

static void put_request(struct device *d, uint64_t offset) {
    uint8_t body[REQUEST_MAX + 32], *to = put_bytes(body, d->get, d->get_size);
    to = put_uint(put_uint(put_uint(to, offset), (uint64_t)set.block), (uint64_t)set.count);
    put(d, PUBLISH, body, (size_t)(to - body));
    seen.sent += is_measuring;
}

static void ask_at(struct device *d, uint64_t offset, double due) {
    if (d->last - d->first == WAITING_MAX)
        fail("%s: more than %d requests are unanswered", d->name, WAITING_MAX);
    d->waiting[d->last++ % WAITING_MAX] = (struct request){.offset = offset, .due = due};
    put_request(d, offset);
}

static void ask(struct device *d, double due) {
    uint64_t offset = d->next;
    d->next = (offset + step) % end_offset;
    if (!set.flood)
        ask_at(d, offset, due);
    else if (OUT_MAX - d->out_size > REQUEST_MAX) /* a flooder whose broker does not read floods less */
        put_request(d, offset);
}

/* --- what comes ----------------------------------------------------------------------------------------------- */

static struct request *oldest(struct device *d) { return d->waiting + d->first % WAITING_MAX; }

static void lose_oldest(struct device *d, double now) {
    struct request lost = *oldest(d);
    d->first++;
    seen.lost++;
    if (!set.rate)
        ask_at(d, lost.offset, now);
}

static void on_refusal(struct device *d, uint64_t offset, const uint8_t *at, const uint8_t *end, double now) {
    uint64_t code = take_uint(&at, end), retry_after_s = take_uint(&at, end);
    seen.refusals[code < CODES ? code : 0]++;
    if (set.flood)
        return;
    for (unsigned i = d->first; i != d->last; i++) {
        struct request refused = d->waiting[i % WAITING_MAX];
        if (refused.offset != offset)
            continue;
        for (; i != d->first; i--)
            d->waiting[i % WAITING_MAX] = d->waiting[(i - 1) % WAITING_MAX];
        d->first++;
        refused.due = now + (double)retry_after_s;
        if (!set.rate && d->parked_count < PARKED_MAX)
            d->parked[d->parked_count++] = refused;
        return;
    }
}

static void on_block(struct device *d, const uint8_t *at, const uint8_t *end, double now) {
    uint64_t block = (uint64_t)set.block;
    int fields = at < end ? *at++ : 0;
    if (fields != 0x93 && fields != 0x96)
        fail("%s: this is neither a block nor a refusal", d->name);
    size_t size = take_sized(&at, end, 0xc4);
    if ((size_t)(end - at) < size || size != artifact_size || memcmp(at, artifact, size))
        fail("%s: a block of another artifact", d->name);
    at += size;
    uint64_t offset = take_uint(&at, end);
    if (fields == 0x96) {
        on_refusal(d, offset, at, end, now);
        return;
    }
    size = take_sized(&at, end, 0xc4);
    if (size != block || (size_t)(end - at) != size || offset + size > image_size || memcmp(at, image + offset, size))
        fail("%s: wrong content at offset %llu", d->name, (unsigned long long)offset);
    seen.blocks += is_measuring;
    if (set.flood)
        return;
    unsigned i = d->first;
    for (; i != d->last; i++) {
        const struct request *one = d->waiting + i % WAITING_MAX;
        if (offset >= one->offset + one->blocks_came * block && offset < one->offset + step)
            break;
    }
    if (i == d->last) { /* an answer to a request that was given up may still come */
        if (!d->late_allowed)
            fail("%s: offset %llu came, next is %llu of %u", d->name, (unsigned long long)offset,
                 d->first == d->last ? 0ULL : (unsigned long long)oldest(d)->offset, d->last - d->first);
        d->late_allowed--;
        seen.late++;
        return;
    }
    for (unsigned overtaken = i - d->first; overtaken; overtaken--)
        lose_oldest(d, now);
    struct request *one = oldest(d);
    uint64_t index = (offset - one->offset) / block;
    one->has_hole |= index != one->blocks_came;
    one->blocks_came = (unsigned)index + 1;
    if (one->blocks_came < (unsigned)set.count)
        return;
    if (one->has_hole) {
        lose_oldest(d, now);
        return;
    }
    if (is_measuring) {
        seen.requests++;
        add_sample(&latencies, now - one->due);
    }
    d->first++;
    if (!set.rate)
        ask(d, now);
}

static void on_ready(struct device *d) {
    ready_count += !d->is_ready;
    d->is_ready = true;
}

/* CONNACK, SUBACK, check-in, offer: then it is ready. */
static void on_packet(struct device *d, const uint8_t *at, size_t body_at, size_t size, double now) {
    const uint8_t *body = at + body_at, *end = at + size;
    uint8_t out[1024], *to = out;
    char topic[96];
    if (*at == CONNACK) {
        if (body[1])
            fail("%s: the broker refused the connection with code %d", d->name, body[1]);
        to = put_big_endian(to, 1, 2);
        snprintf(topic, sizeof topic, "$ota/update/%s", d->name);
        to = put_text(to, topic);
        *to++ = 1;
        snprintf(topic, sizeof topic, "$ota/block/%s", d->name);
        to = put_text(to, topic);
        *to++ = 0;
        put(d, SUBSCRIBE, out, (size_t)(to - out));
    } else if (*at == SUBACK && !check_in_size) {
        on_ready(d);
    } else if (*at == SUBACK) {
        snprintf(topic, sizeof topic, "$ota/report/%s", d->name);
        to = put_big_endian(put_text(to, topic), 7, 2);
        to = put_bytes(to, check_in, check_in_size);
        put(d, PUBLISH_QOS1, out, (size_t)(to - out));
    } else if ((*at & 0xf0) == PUBLISH) {
        bool is_block = !memcmp(body + 2, "$ota/block/", 11);
        body += 2 + big_endian(body, 2);
        if (*at & 6) {
            put(d, PUBACK, body, 2);
            body += 2;
        }
        if (is_block)
            on_block(d, body, end, now);
        else if (memmem(body, (size_t)(end - body), "update_firmware", 15))
            on_ready(d);
    }
}

static void on_readable(struct device *d) {
    ssize_t got = read(d->fd, d->in + d->in_size, IN_MAX - d->in_size);
    if (got == 0 || (got < 0 && errno != EAGAIN))
        fail("%s: the broker closed the connection", d->name);
    d->in_size += got > 0 ? (size_t)got : 0;
    size_t at = 0, size, body;
    double now = now_s();
    for (; (size = whole_packet(d->in + at, d->in_size - at, &body)); at += size)
        on_packet(d, d->in + at, body, size, now);
    memmove(d->in, d->in + at, d->in_size -= at);
    flush(d);
}

/* --- the run -------------------------------------------------------------------------------------------------- */

/* What ran into a limit of time: requests nobody answered, refused ones that may be asked again. */
static void tick(double now) {
    for (struct device *d = devices; d < devices + (int)set.devices; d++) {
        while (d->first != d->last && oldest(d)->due + LOST_S < now) {
            d->late_allowed += (unsigned)set.count;
            lose_oldest(d, now);
        }
        for (unsigned i = 0; i < d->parked_count;)
            if (d->parked[i].due <= now) {
                ask_at(d, d->parked[i].offset, now);
                d->parked[i] = d->parked[--d->parked_count];
            } else {
                i++;
            }
        flush(d);
    }
}

static double scheduled; /* when the next request of an open loop is due; 0 while none is */

static void keep_schedule(int timer) {
    static unsigned turn;
    for (double now; scheduled <= (now = now_s()); scheduled += 1 / set.rate) {
        struct device *d = devices + turn++ % (unsigned)set.devices;
        if (is_measuring)
            add_sample(&lags, now - scheduled);
        ask(d, scheduled);
        flush(d);
    }
    struct itimerspec at = {.it_value.tv_sec = (time_t)scheduled};
    at.it_value.tv_nsec = (long)((scheduled - (double)at.it_value.tv_sec) * 1e9);
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void run_until(double end, bool until_ready, int timer) {
    static double next_tick;
    struct epoll_event events[64];
    for (double now; (now = now_s()) < end && !(until_ready && ready_count == (unsigned)set.devices);) {
        if (scheduled)
            keep_schedule(timer);
        double wait = (next_tick < end ? next_tick : end) - now;
        int count = epoll_wait(poller, events, 64, wait > 0 ? (int)(wait * 1e3) + 1 : 0);
        for (int i = 0; i < count; i++) {
            struct device *d = events[i].data.ptr;
            uint64_t expirations;
            if (!d) {
                if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                    fail("timer: %m");
            } else if (events[i].events & ~(unsigned)EPOLLOUT) {
                on_readable(d);
            } else {
                flush(d);
            }
        }
        if (now >= next_tick) {
            tick(now);
            next_tick = now + TICK_S;
        }
    }
}

/* As the kernel counted: payload of TCP, and headers of IPv4 and TCP for every segment, both directions. */
static uint64_t bytes_on_wire(void) {
    uint64_t total = 0;
    for (int i = 0; i < (int)set.devices; i++) {
        struct tcp_info info = {0};
        socklen_t size = sizeof info;
        if (getsockopt(devices[i].fd, IPPROTO_TCP, TCP_INFO, &info, &size))
            fail("TCP_INFO: %m");
        total += info.tcpi_bytes_acked + info.tcpi_bytes_received;
        total += (uint64_t)(info.tcpi_segs_out + info.tcpi_segs_in) * IP_AND_TCP_HEADER;
    }
    return total;
}

static uint8_t *whole_file(const char *path, size_t *size) {
    struct stat about;
    int file = open(path, O_RDONLY);
    uint8_t *content = file < 0 || fstat(file, &about) ? NULL : malloc((size_t)about.st_size);
    if (!content || read(file, content, (size_t)about.st_size) != about.st_size)
        fail("cannot read %s: %m", path);
    close(file);
    *size = (size_t)about.st_size;
    return content;
}

static void open_device(struct device *d, int number) {
    uint8_t body[128], *to = body;
    char topic[96];
    snprintf(d->name, sizeof d->name, "bench/d%06d", number);
    d->in = malloc(IN_MAX);
    d->out = malloc(OUT_MAX);
    d->waiting = malloc(WAITING_MAX * sizeof *d->waiting);
    if (!d->in || !d->out || !d->waiting)
        fail("out of memory");
    d->next = (uint64_t)number * (uint64_t)set.stride * step % end_offset;
    snprintf(topic, sizeof topic, "$ota/get/%s", d->name);
    to = put_text(d->get, topic);
    *to++ = 0x94;
    *to++ = 0xc4;
    *to++ = (uint8_t)artifact_size;
    d->get_size = (size_t)(put_bytes(to, artifact, artifact_size) - d->get);
    d->fd = connected((int)set.port, (int)set.mss);
    fcntl(d->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = d};
    epoll_ctl(poller, EPOLL_CTL_ADD, d->fd, &event);
    to = put_text(put_bytes(put_text(body, "MQTT"), "\x04\x02\x02\x58", 4), d->name);
    put(d, CONNECT, body, (size_t)(to - body));
    flush(d);
}

static void read_options(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        bool is_known = false;
        for (size_t o = 0; value && o < sizeof options / sizeof *options; o++)
            if (!strncmp(options[o].name, argv[i], (size_t)(value - argv[i])) && !options[o].name[value - argv[i]]) {
                is_known = true;
                if (options[o].number)
                    *options[o].number = atof(value + 1);
                else
                    *options[o].text = value + 1;
            }
        if (!is_known)
            fail("unknown option: %s", argv[i]);
    }
    if (!set.port || !set.image || !set.artifact)
        fail("port, image and artifact are needed");
    for (const char *hex = set.artifact; artifact_size < sizeof artifact && hex[0] && hex[1]; hex += 2)
        sscanf(hex, "%2hhx", artifact + artifact_size++);
    image = whole_file(set.image, &image_size);
    if (set.check_in)
        check_in = whole_file(set.check_in, &check_in_size);
    if (check_in_size > 800)
        fail("the check-in is too long");
    step = (uint64_t)(set.block * set.count);
    end_offset = image_size / step * step;
}

static void print_result(double took_s, uint64_t wire_bytes) {
    const char *comma = "";
    qsort(latencies.us, latencies.count, sizeof *latencies.us, by_size);
    qsort(lags.us, lags.count, sizeof *lags.us, by_size);
    printf("{\"generator\": \"C\", \"seconds\": %.6f, \"sent\": %llu, \"requests\": %llu, \"blocks\": %llu", took_s,
           (unsigned long long)seen.sent, (unsigned long long)seen.requests, (unsigned long long)seen.blocks);
    printf(", \"lost\": %llu, \"late\": %llu, \"refusals\": {", (unsigned long long)seen.lost, (unsigned long long)seen.late);
    for (int code = 0; code < CODES; code++)
        if (seen.refusals[code]) {
            printf("%s\"%d\": %llu", comma, code, (unsigned long long)seen.refusals[code]);
            comma = ", ";
        }
    printf("}, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f", quantile_ms(&latencies, 0.5),
           quantile_ms(&latencies, 0.99), quantile_ms(&latencies, 1));
    printf(", \"lag_p99_ms\": %.3f, \"wire_bytes\": %llu}\n", quantile_ms(&lags, 0.99), (unsigned long long)wire_bytes);
}

int main(int argc, char **argv) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_options(argc, argv);
    poller = epoll_create1(0);
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    if (!(devices = calloc((size_t)set.devices, sizeof *devices)))
        fail("out of memory");
    for (int i = 0; i < (int)set.devices; i++)
        open_device(devices + i, (int)set.first + i);
    run_until(now_s() + READY_S, true, timer);
    if (ready_count < (unsigned)set.devices)
        fail("%u of %d devices were not ready within %.0f s", (unsigned)set.devices - ready_count, (int)set.devices, READY_S);
    puts("ready");

    double began = now_s();
    if (set.rate) {
        scheduled = began;
        errno = set.flood ? 0 : nice(-10); /* where it may: a generator that waits for a CPU measures itself */
    }
    for (struct device *d = devices; !set.rate && d < devices + (int)set.devices; d++) {
        for (int i = 0; i < (int)set.outstanding; i++)
            ask(d, began);
        flush(d);
    }
    run_until(began + set.warmup, false, timer);
    puts("begin");
    began = now_s();
    uint64_t wire_before = bytes_on_wire();
    is_measuring = true;
    run_until(began + set.seconds, false, timer);
    is_measuring = false;
    double took_s = now_s() - began;
    uint64_t wire_bytes = bytes_on_wire() - wire_before;
    puts("end");
    run_until(now_s() + AFTER_S, false, timer);
    print_result(took_s, wire_bytes);
}
