/* The floor: what one epoll, one list of sockets per group and one send() per event cost.

   No log, no limits, no checks, and an event is lost where a socket's buffer is full. Started with a
   port, it answers /pace/ as benchmarks/fanout/apps/pacing.py does; any other request is a stream. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SOCKETS = 1 << 16, GROUPS = 1 << 20, REQUEST = 2048, READY = 512 };

/* A member is of the connection that had the socket when it joined; the next one has another age. */
struct member { int socket; unsigned age; struct member *next; };

static struct member *groups[GROUPS]; /* 0 is the group of all, n + 1 the own group n. */
static unsigned ages[SOCKETS];
static char *requests[SOCKETS];
static int lengths[SOCKETS], listener, epoll;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void join(int socket, unsigned group) {
    if (group >= GROUPS) return;
    struct member *member = malloc(sizeof *member);
    *member = (struct member){socket, ages[socket], groups[group]};
    groups[group] = member;
}

static void publish(unsigned group, int size) {
    static char event[4096];
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    int length = sprintf(event, "id: 1111111111111111111111\nevent: order.updated\ndata: @%lld.",
                         time.tv_sec * 1000000000LL + time.tv_nsec);
    for (; length < size - 2; length++) event[length] = 'x';
    event[length++] = '\n';
    event[length++] = '\n';
    for (struct member **link = &groups[group], *member; (member = *link);) {
        if (ages[member->socket] == member->age) {
            send(member->socket, event, length, MSG_NOSIGNAL | MSG_DONTWAIT);
            link = &member->next;
        } else {
            *link = member->next;
            free(member);
        }
    }
}

static void serve(double until);

static double number(const char *request, const char *name) {
    const char *found = strstr(request, name);
    return found ? atof(found + strlen(name)) : 0;
}

static void pace(int socket, const char *request) {
    double rate = number(request, "rate="), seconds = number(request, "seconds=");
    unsigned own = number(request, "groups=");
    int size = number(request, "size="), count = 0, most = rate * seconds + 0.5;
    double began = now();
    if (size > 4000) size = 4000;
    for (; count < most && now() < began + seconds; count++) {
        serve(began + count / rate);
        publish(own ? 1 + random() % own : 0, size);
    }
    char body[64], answer[128];
    int length = sprintf(body, "{\"published\": %d}", count);
    length = sprintf(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
                     length, body);
    send(socket, answer, length, MSG_NOSIGNAL);
}

static void begin(int socket, const char *request) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                               "Cache-Control: no-store\r\n\r\nevent: hello\ndata:\n\n";
    const char *group = strstr(request, "group=own.");
    if (!group) join(socket, 0);
    for (; group; group = strstr(group + 1, "group=own.")) join(socket, 1 + atoi(group + 10));
    send(socket, head, sizeof head - 1, MSG_NOSIGNAL);
}

static void take(int socket) {
    char *request = requests[socket];
    int length = recv(socket, request + lengths[socket], REQUEST - 1 - lengths[socket], 0);
    if (length < 0 && errno == EAGAIN) return; /* Closed while a pace was kept, and used again. */
    if (length <= 0) {
        ages[socket]++;
        close(socket);
        return;
    }
    lengths[socket] += length;
    request[lengths[socket]] = 0;
    if (!strstr(request, "\r\n\r\n")) return;
    lengths[socket] = 0;
    if (strncmp(request, "GET /pace/", 10)) begin(socket, request);
    else pace(socket, request);
}

static void welcome(void) {
    for (int socket; (socket = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0;) {
        if (socket >= SOCKETS) { close(socket); continue; }
        if (!requests[socket]) requests[socket] = malloc(REQUEST);
        lengths[socket] = 0;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = socket};
        epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event);
    }
}

/* Serve the sockets until a time of the monotonic clock, for ever if it is 0. */
static void serve(double until) {
    struct epoll_event ready[READY];
    for (;;) {
        double left = until ? until - now() : 0;
        if (left < 0) left = 0;
        struct timespec wait = {left, (left - (long)left) * 1e9};
        int found = epoll_pwait2(epoll, ready, READY, until ? &wait : 0, 0);
        for (int n = 0; n < found; n++) {
            if (ready[n].data.fd == listener) welcome();
            else take(ready[n].data.fd);
        }
        if (until && now() >= until) return;
    }
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return 1;
    epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    serve(0);
}
