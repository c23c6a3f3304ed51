/* What runs inside the pods of tests, because no registry can be reached. In C for its size alone: it travels in a
 * ConfigMap, which holds a mebibyte, and a static Rust program is a little more than that.
 *
 *     quorate-box serve PORT            answers every GET with $BOX_TEXT, the pod's name and, under /file/PATH, a file
 *     quorate-box get HOST:PORT [PATH]  asks, after looking HOST up as a pod does (/etc/resolv.conf), and prints the answer
 *     quorate-box write PATH TEXT       replaces what a file holds
 *     quorate-box fill PATH             takes all the room there is, and waits for the end
 *     quorate-box idle                  waits for the end
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A cluster answers within milliseconds; a packet may be lost. */
enum { PATIENCE_MS = 2000, TRIES = 3, TEXT = 4096 };

static int fail(const char *what) {
    fprintf(stderr, "quorate-box: %s: %s\n", what, errno ? strerror(errno) : "failed");
    return 1;
}

static size_t read_file(const char *path, char *text) {
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, TEXT - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

static int serve(int port) {
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&own, sizeof own) || listen(listener, 64)) return fail("listening");
    printf("serving on %d\n", port);
    fflush(stdout);
    char name[TEXT], body[2 * TEXT], question[TEXT], path[TEXT];
    read_file("/etc/hostname", name);
    name[strcspn(name, "\n")] = 0;
    for (;;) {
        int stream = accept(listener, NULL, NULL);
        struct pollfd readable = {.fd = stream, .events = POLLIN};
        ssize_t n = poll(&readable, 1, PATIENCE_MS) > 0 ? read(stream, question, sizeof question - 1) : 0;
        question[n > 0 ? n : 0] = 0;
        if (sscanf(question, "GET %4000s", path) == 1) {
            printf("asked for %s\n", path);
            fflush(stdout);
            if (strncmp(path, "/file/", 6) == 0)
                read_file(path + 5, body);
            else
                snprintf(body, sizeof body, "%s from %s", getenv("BOX_TEXT") ? getenv("BOX_TEXT") : "", name);
            dprintf(stream, "HTTP/1.0 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
        }
        close(stream);
    }
}

/* One question for an A record (RFC 1035, 4.1); 1 = found. */
static int ask(const char *server, const char *name, struct in_addr *found) {
    unsigned char q[600] = {0, 1, 1, 0, 0, 1}, a[1500];
    size_t at = 12;
    for (const char *label = name; *label;) {
        size_t n = strcspn(label, ".");
        if (n == 0 || n > 63 || at + n > 500) return 0;
        q[at++] = (unsigned char)n;
        memcpy(q + at, label, n);
        at += n;
        label += n + (label[n] == '.');
    }
    q[at + 2] = q[at + 4] = 1;
    at += 5;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
    if (inet_pton(AF_INET, server, &to.sin_addr) != 1) return 0;
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    ssize_t n = -1;
    for (int i = 0; i < TRIES && n < 0; i++) {
        struct pollfd readable = {.fd = udp, .events = POLLIN};
        sendto(udp, q, at, 0, (struct sockaddr *)&to, sizeof to);
        if (poll(&readable, 1, PATIENCE_MS) > 0) n = recv(udp, a, sizeof a, 0);
    }
    close(udp);
    if (n < (ssize_t)at) return 0;
    for (int left = a[6] << 8 | a[7]; left > 0; left--) {
        while (at < (size_t)n && a[at] && a[at] < 0xc0) at += 1 + a[at];
        at += at < (size_t)n && a[at] ? 2 : 1;
        if (at + 10 > (size_t)n) return 0;
        size_t length = (size_t)(a[at + 8] << 8 | a[at + 9]);
        if (a[at] == 0 && a[at + 1] == 1 && length == 4 && at + 14 <= (size_t)n) {
            memcpy(found, a + at + 10, 4);
            return 1;
        }
        at += 10 + length;
    }
    return 0;
}

/* As a resolver does with Kubernetes' ndots:5: the search list first, then the name as it is. */
static int look_up(const char *host, struct in_addr *found) {
    char conf[TEXT], server[64] = "", search[1024] = "", name[1500];
    read_file("/etc/resolv.conf", conf);
    for (char *line = strtok(conf, "\n"); line; line = strtok(NULL, "\n")) {
        if (!*server) sscanf(line, "nameserver %63s", server);
        if (strncmp(line, "search ", 7) == 0) snprintf(search, sizeof search, "%s", line + 7);
    }
    for (char *suffix = strtok(search, " "); suffix; suffix = strtok(NULL, " ")) {
        snprintf(name, sizeof name, "%s.%s", host, suffix);
        if (ask(server, name, found)) return 1;
    }
    return ask(server, host, found);
}

static int get(char *to, const char *path) {
    char *colon = strrchr(to, ':'), text[2 * TEXT];
    if (!colon) return fail("expected HOST:PORT");
    *colon = 0;
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    if (inet_pton(AF_INET, to, &there.sin_addr) != 1 && !look_up(to, &there.sin_addr)) return fail("no such name");
    int stream = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0;
    socklen_t size = sizeof error;
    struct pollfd ready = {.fd = stream, .events = POLLOUT};
    if (connect(stream, (struct sockaddr *)&there, sizeof there) && errno != EINPROGRESS) return fail("connecting");
    if (poll(&ready, 1, PATIENCE_MS) <= 0) return errno = ETIMEDOUT, fail("connecting");
    getsockopt(stream, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) return errno = error, fail("connecting");
    dprintf(stream, "GET %s HTTP/1.0\r\n\r\n", path);
    size_t all = 0;
    ready.events = POLLIN;
    for (ssize_t n; all < sizeof text - 1 && poll(&ready, 1, PATIENCE_MS) > 0; all += (size_t)n)
        if ((n = read(stream, text + all, sizeof text - 1 - all)) <= 0) break;
    text[all] = 0;
    char *body = strstr(text, "\r\n\r\n");
    if (!body) return fail("no answer");
    puts(body + 4);
    return 0;
}

static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || close(fd)) return fail(path);
    return 0;
}

static int fill(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd < 0) return fail(path);
    off_t at = 0;
    /* Whatever does not fit any more is tried again by halves, down to a block. */
    for (off_t piece = 1L << 40; piece >= 4096;) {
        if (posix_fallocate(fd, at, piece) == 0) at += piece;
        else piece /= 2;
    }
    printf("took %lld bytes\n", (long long)at);
    fflush(stdout);
    return pause();
}

int main(int count, char **words) {
    if (count == 3 && strcmp(words[1], "serve") == 0) return serve(atoi(words[2]));
    if (count >= 3 && strcmp(words[1], "get") == 0) return get(words[2], count > 3 ? words[3] : "/");
    if (count >= 4 && strcmp(words[1], "write") == 0) return put(words[2], words[3]);
    if (count == 3 && strcmp(words[1], "fill") == 0) return fill(words[2]);
    if (count == 2 && strcmp(words[1], "idle") == 0) return pause();
    fprintf(stderr, "quorate-box: expected serve PORT, get HOST:PORT [PATH], write PATH TEXT, fill PATH or idle\n");
    return 2;
}
