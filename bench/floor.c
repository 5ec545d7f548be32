/* The floor: the least that a block server can cost. No check, no accounting, one artifact.
 *
 *   floor PORT IMAGE
 *
 * It blocks in read and in write, which costs less than waiting for readiness with one connection. That cannot lock up:
 * the broker queues what is for us and goes on reading.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "mqtt.h"

enum { PARTS_MAX = 1024, HEAD_MAX = 256 };

static struct iovec parts[PARTS_MAX];
static uint8_t heads[PARTS_MAX / 2][HEAD_MAX];
static int count;
static int broker;

static void flush(void) {
    for (int first = 0; first < count;) {
        ssize_t sent = writev(broker, parts + first, count - first);
        if (sent <= 0)
            fail("the broker is gone: %m");
        for (; first < count && (size_t)sent >= parts[first].iov_len; first++)
            sent -= (ssize_t)parts[first].iov_len;
        if (first < count) {
            parts[first].iov_base = (uint8_t *)parts[first].iov_base + sent;
            parts[first].iov_len -= (size_t)sent;
        }
    }
    count = 0;
}

/* The blocks of one request, on the topic of the device that asked. */
static void answer(const uint8_t *body, size_t size, uint8_t *image) {
    static const char get[] = "$ota/get/", block[] = "$ota/block/";
    const uint8_t *end = body + size, *at = body + 2 + big_endian(body, 2) + 1;
    const uint8_t *name = body + 2 + strlen(get);
    size_t name_size = (size_t)(at - 1 - name), artifact_size = take_sized(&at, end, 0xc4);
    const uint8_t *artifact = at;
    at += artifact_size;
    uint64_t offset = take_uint(&at, end), block_size = take_uint(&at, end), blocks = take_uint(&at, end);
    for (; blocks--; offset += block_size) {
        size_t topic_size = strlen(block) + name_size;
        uint8_t rest[HEAD_MAX], *to = rest;
        to = put_bytes(put_big_endian(to, topic_size, 2), block, strlen(block));
        to = put_bytes(to, name, name_size);
        *to++ = 0x93;
        *to++ = 0xc4;
        *to++ = (uint8_t)artifact_size;
        to = put_bytes(to, artifact, artifact_size);
        *to++ = 0xce;
        to = put_big_endian(to, offset, 4);
        *to++ = 0xc5;
        to = put_big_endian(to, block_size, 2);
        uint8_t *head = heads[count / 2];
        uint8_t *head_end = put_head(head, PUBLISH, (size_t)(to - rest) + block_size);
        head_end = put_bytes(head_end, rest, (size_t)(to - rest));
        parts[count++] = (struct iovec){.iov_base = head, .iov_len = (size_t)(head_end - head)};
        parts[count++] = (struct iovec){.iov_base = image + offset, .iov_len = block_size};
        if (count == PARTS_MAX)
            flush();
    }
}

int main(int argc, char **argv) {
    static uint8_t in[2 * PACKET_MAX];
    struct stat about;
    int file = argc == 3 ? open(argv[2], O_RDONLY) : -1;
    if (file < 0 || fstat(file, &about))
        fail("usage: floor PORT IMAGE");
    uint8_t *image = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (image == MAP_FAILED)
        fail("cannot map %s: %m", argv[2]);
    broker = connected(atoi(argv[1]), 0);
    uint8_t body[64], out[160], *to = put_text(body, "MQTT");
    to = put_text(put_bytes(to, "\x04\x02\x00\x00", 4), "floor");
    to = put_packet(out, CONNECT, body, (size_t)(to - body));
    uint8_t *filter = put_text(put_bytes(body, "\x00\x01", 2), "$ota/get/+/+");
    *filter++ = 0;
    to = put_packet(to, SUBSCRIBE, body, (size_t)(filter - body));
    if (write(broker, out, (size_t)(to - out)) != to - out)
        fail("the broker takes nothing: %m");
    for (size_t have = 0;;) {
        ssize_t got = read(broker, in + have, sizeof in - have);
        if (got <= 0)
            return 0;
        have += (size_t)got;
        size_t at = 0, size, head;
        for (; (size = whole_packet(in + at, have - at, &head)); at += size) {
            if ((in[at] & 0xf0) == PUBLISH)
                answer(in + at + head, size - head, image);
            else if (in[at] == SUBACK && puts("ready"))
                fflush(stdout);
        }
        flush();
        memmove(in, in + at, have -= at);
    }
}
