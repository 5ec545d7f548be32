/* What both C programs need: MQTT 3.1.1 packets, msgpack integers, a TCP connection. */
#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { CONNECT = 0x10, CONNACK = 0x20, PUBLISH = 0x30, PUBLISH_QOS1 = 0x32, PUBACK = 0x40, SUBSCRIBE = 0x82, SUBACK = 0x90 };
enum { LENGTH_MAX = 5, PACKET_MAX = 1 << 18 };

__attribute__((noreturn, format(printf, 1, 2))) static inline void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* Each put_ writes at `to` and returns the place behind. */
static inline uint8_t *put_bytes(uint8_t *to, const void *bytes, size_t size) {
    memcpy(to, bytes, size);
    return to + size;
}

static inline uint8_t *put_text(uint8_t *to, const char *text) {
    size_t size = strlen(text);
    *to++ = (uint8_t)(size >> 8);
    *to++ = (uint8_t)size;
    return put_bytes(to, text, size);
}

static inline uint8_t *put_head(uint8_t *to, int kind, size_t length) {
    *to++ = (uint8_t)kind;
    do {
        *to++ = (uint8_t)(length % 128 | (length > 127 ? 128 : 0));
        length /= 128;
    } while (length);
    return to;
}

static inline uint8_t *put_packet(uint8_t *to, int kind, const uint8_t *body, size_t size) {
    return put_bytes(put_head(to, kind, size), body, size);
}

static inline uint8_t *put_big_endian(uint8_t *to, uint64_t value, int size) {
    for (int shift = 8 * (size - 1); shift >= 0; shift -= 8)
        *to++ = (uint8_t)(value >> shift);
    return to;
}

static inline uint8_t *put_uint(uint8_t *to, uint64_t value) {
    int power = value < 0x100 ? 0 : value < 0x10000 ? 1 : value < 0x100000000 ? 2 : 3;
    if (value < 0x80)
        return put_big_endian(to, value, 1);
    *to++ = (uint8_t)(0xcc + power);
    return put_big_endian(to, value, 1 << power);
}

static inline uint64_t big_endian(const uint8_t *at, int size) {
    uint64_t value = 0;
    while (size--)
        value = value << 8 | *at++;
    return value;
}

/* The integer or the length of the binary at `*at`; moves `*at` behind it. `base` is 0xcc for integers, 0xc4 for binary. */
static inline uint64_t take_sized(const uint8_t **at, const uint8_t *end, int base) {
    int power = *at < end ? **at - base : -1, size = 1 << (power & 3);
    if (power < 0 || power > 3 || end - *at < 1 + size)
        fail("this is not the msgpack that was expected");
    *at += 1 + size;
    return big_endian(*at - size, size);
}

static inline uint64_t take_uint(const uint8_t **at, const uint8_t *end) {
    return *at < end && **at < 0x80 ? *(*at)++ : take_sized(at, end, 0xcc);
}

/* The size of the packet at `at`, or 0 while it is not whole; `*body` is where its body begins. */
static inline size_t whole_packet(const uint8_t *at, size_t left, size_t *body) {
    size_t length = 0, head = 1;
    for (int shift = 0; head < left && head < LENGTH_MAX; shift += 7) {
        length |= (size_t)(at[head] & 127) << shift;
        if (at[head++] < 128) {
            if (head + length > PACKET_MAX)
                fail("the broker sent a packet of %zu bytes", head + length);
            *body = head;
            return left < head + length ? 0 : head + length;
        }
    }
    return 0;
}

/* `mss` bounds the segments of both directions, since loopback's are larger than any network's; 0 leaves them. */
static inline int connected(int port, int mss) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || (mss && setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof mss)))
        fail("no socket: %m");
    if (connect(fd, (struct sockaddr *)&to, sizeof to) || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes))
        fail("cannot connect to port %d: %m", port);
    return fd;
}
