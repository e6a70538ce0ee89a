/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * udp - the text protocol over UDP, with memcached's frame header (protocol.txt, "UDP protocol").
 *
 * A request is one datagram, with one command or several; its reply is as many as it takes. A reply that gets lost
 * on its way is not sent again. In the main thread.
 */
#ifndef UDP_H
#define UDP_H

#include <event2/event.h>

#include "options.h"

/* Datagrams whose replies are awaited; those that come when there are so many are dropped. */
enum { UDP_EXCHANGES_MAX = 256 };

/* Opens the sockets that -U asks for. False with an error that says what is wrong. Once a process. */
bool udp_open(const struct options *options, char *error, size_t errlen) MUST_CHECK;

/* Starts receiving in base's loop. False when libevent refuses. */
bool udp_start(struct event_base *base) MUST_CHECK;

/* Calls fn with each socket. Any thread, between udp_start and the end of the workers. */
void udp_tell(void (*fn)(void *arg, int fd), void *arg);

/* Stops for good; replies that are awaited are not sent. */
void udp_close(void);

/* Frees what is left, when no worker is running any more. */
void udp_teardown(void);

#endif
