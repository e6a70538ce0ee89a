#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""moxi_mock - the test is the server: what moxi makes of every way in which a memcached can answer, or not.

Each test plays one or more servers byte by byte (MockServer in moxilib) behind a moxi with one worker, so that by
default there is exactly one connection to each server and its bytes, in order, are known. Where two outcomes are
right, the test says why.

Servers with the meta commands are in mock_meta, those of the binary protocol in mock_binary, and clients who ask them quietly
in mock_quiet; all are run from here.

Run as /usr/bin/python3 t/moxi_mock.py [Class[.test]].
"""

import itertools
import os
import random
import re
import socket
import tempfile
import threading
import time
import unittest

from binarylib import GET, packet
from mock_binary import Auto, BinaryMocks
from mock_meta import MetaMocks
from mock_quiet import QuietBinary, QuietMeta
from moxilib import (TIMEOUT, Conn, OneMock, SCALE, await_true, bytewise, cuts, free_port, has_sanitizer, ms, proxy_stats,
                     server_name, show, value)

# What other files have for this one to run: unittest finds it by these names.
__all__ = ["Auto", "BinaryMocks", "MetaMocks", "QuietBinary", "QuietMeta"]

LONG = {"downstream_timeout": ms(60000)}

# What a client asks, what the server is to see, what both are answered: one of each kind of command and reply.
EXCHANGES = [
    (b"get k\r\n", b"VALUE k 5 5\r\nhello\r\nEND\r\n"),
    (b"get nothing\r\n", b"END\r\n"),
    (b"get empty\r\n", b"VALUE empty 0 0\r\n\r\nEND\r\n"),
    (b"get sly\r\n", b"VALUE sly 4294967295 25\r\n\r\nEND\r\nVALUE sly 0 1\r\nx\r\n\r\nEND\r\n"),
    (b"gets k\r\n", b"VALUE k 0 2 18446744073709551615\r\nhi\r\nEND\r\n"),
    (b"get a b c\r\n", b"VALUE a 0 1\r\n1\r\nVALUE c 0 1\r\n3\r\nEND\r\n"),
    (b"gats 100 a b\r\n", b"VALUE a 0 1 7\r\n1\r\nVALUE b 0 1 8\r\n2\r\nEND\r\n"),
    (b"gat 100 k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n"),
    (b"set k 5 0 5\r\nhello\r\n", b"STORED\r\n"),
    (b"add k 5 0 0\r\n\r\n", b"NOT_STORED\r\n"),
    (b"replace k 5 60 2\r\n\r\n\r\n", b"NOT_STORED\r\n"),
    (b"append k 0 0 1\r\nx\r\n", b"STORED\r\n"),
    (b"prepend k 0 0 1\r\nx\r\n", b"SERVER_ERROR out of memory storing object\r\n"),
    (b"cas k 5 0 5 77\r\nhello\r\n", b"EXISTS\r\n"),
    (b"cas k 5 0 5 78\r\nhello\r\n", b"NOT_FOUND\r\n"),
    (b"incr n 1\r\n", b"18446744073709551615\r\n"),
    (b"decr n 5\r\n", b"0\r\n"),
    (b"incr n 2\r\n", b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    (b"decr n 7\r\n", b"NOT_FOUND\r\n"),
    (b"touch k 10\r\n", b"TOUCHED\r\n"),
    (b"touch j 10\r\n", b"NOT_FOUND\r\n"),
    (b"delete k\r\n", b"DELETED\r\n"),
    (b"delete j\r\n", b"NOT_FOUND\r\n"),
]


def closed(mock):
    return b"SERVER_ERROR proxy downstream closed %s\r\n" % mock.host


def unwritten(mock):
    return b"SERVER_ERROR proxy write to downstream %s\r\n" % mock.host


def timed_out(mock):
    return b"SERVER_ERROR proxy downstream timeout %s\r\n" % mock.host


OUT = b"SERVER_ERROR proxy out of downstreams\r\n"


class MockTest(OneMock):
    def moxi(self, servers, settings=None, *args, **kw):
        """Each get has a line of its own, unless the settings say otherwise."""
        return super().moxi(servers, dict({"get_join_max": 1}, **(settings or {})), *args, **kw)

    def established(self, settings=None):
        """As one(), with the connection to the server already there."""
        mock, moxi, client = self.one(settings)
        client.send(b"get first\r\n")
        server = mock.accept_expect(b"get first\r\n")
        server.send(b"END\r\n")
        client.expect(b"END\r\n")
        return mock, moxi, client, server

    def works_again(self, mock, client):
        """The next request goes to a new connection, and only it."""
        client.send(b"get again\r\n")
        server = mock.accept_expect(b"get again\r\n")
        server.send(value(b"again", b"yes") + b"END\r\n")
        client.expect(value(b"again", b"yes") + b"END\r\n")
        return server


class Pieces(MockTest):
    """Bytes come in any pieces, from both sides."""

    def test_reply_cut_anywhere(self):
        _, _, client, server = self.established()
        for request, reply in EXCHANGES:
            for pieces in cuts(reply):
                client.send(request)
                server.expect(request).send_pieces(pieces)
                client.expect(reply)

    def test_pipelined_replies_cut_anywhere(self):
        _, _, client, server = self.established()
        requests = b"".join(e[0] for e in EXCHANGES)
        replies = b"".join(e[1] for e in EXCHANGES)
        for pieces in cuts(replies):
            client.send(requests)
            server.expect(requests).send_pieces(pieces)
            client.expect(replies)

    def test_replies_byte_by_byte(self):
        _, _, client, server = self.established()
        client.send(b"".join(e[0] for e in EXCHANGES))
        server.expect(b"".join(e[0] for e in EXCHANGES))
        for _, reply in EXCHANGES:
            server.send_pieces(bytewise(reply))
            client.expect(reply)
        client.expect_nothing()

    def test_requests_cut_anywhere(self):
        _, _, client, server = self.established()
        requests = b"".join(e[0] for e in EXCHANGES)
        replies = b"".join(e[1] for e in EXCHANGES)
        for pieces in cuts(requests):
            client.send_pieces(pieces)
            server.expect(requests).send(replies)
            client.expect(replies)

    def test_requests_byte_by_byte(self):
        _, _, client, server = self.established()
        requests = b"".join(e[0] for e in EXCHANGES)
        client.send_pieces(bytewise(requests))
        server.expect(requests)
        server.send(b"".join(e[1] for e in EXCHANGES))
        client.expect(b"".join(e[1] for e in EXCHANGES))

    def test_request_leaves_whole(self):
        """An unfinished request costs the shared connection nothing: others pass it, and it comes in one piece."""
        _, moxi, client, server = self.established()
        other = self.client(moxi)
        request = b"set k 0 0 300000\r\n" + b"v" * 300000 + b"\r\n"
        for part in (request[:3], request[3:18], request[18:100000], request[100000:-1]):
            client.send(part).sync()
            other.turn()
            server.expect_nothing()
            other.send(b"get b\r\n")
            server.expect(b"get b\r\n").send(b"END\r\n")
            other.expect(b"END\r\n")
        client.send(request[-1:])
        server.expect(request).send(b"STORED\r\n")
        client.expect(b"STORED\r\n")

    def test_large_values_both_ways(self):
        _, _, client, server = self.established({"stream_min": 0, "item_size_max": 8 << 20})
        for size in (65535, 65536, 262143, 262144, 1000000, 5000000):
            data = bytes(range(251)) * (size // 251 + 1)
            request = b"set k 1 0 %d\r\n%s\r\n" % (size, data[:size])
            client.send(request)
            server.expect(request).send(b"STORED\r\n")
            client.ask(b"", b"STORED\r\n").send(b"get k\r\n")
            server.expect(b"get k\r\n").send(value(b"k", data[:size]) + b"END\r\n")
            client.expect(value(b"k", data[:size]) + b"END\r\n")


class ServerCloses(MockTest):
    """The server goes away with requests on its connection."""

    def cut_reply(self, request, reply, expectation):
        """Ends the connection, in both ways, after each number of bytes of the reply."""
        mock, _, client = self.one()
        for end in ("close", "reset"):
            for cut in range(1, len(reply)):
                client.send(request)
                server = mock.accept_expect(request)
                server.send(reply[:cut]).sync()
                getattr(server, end)()
                try:
                    client.expect(expectation(mock, cut)).expect_nothing()
                except AssertionError as e:
                    self.fail("%s after %r: %s" % (end, reply[:cut], e))

    def test_get_cut_anywhere(self):
        """Before the value is whole it is a miss; afterwards only END is missing, and that moxi knows how to say."""
        whole = value(b"k", b"hello")
        self.cut_reply(b"get k\r\n", whole + b"END\r\n",
                       lambda mock, cut: (whole if cut >= len(whole) else b"") + b"END\r\n")

    def test_multiget_cut_anywhere(self):
        values = [value(b"a", b"1"), value(b"c", b""), value(b"d", b"END\r\n")]

        def expectation(mock, cut):
            kept = b""
            for v in values:
                if cut < len(kept) + len(v):
                    break
                kept += v
            return kept + b"END\r\n"

        self.cut_reply(b"get a b c d\r\n", b"".join(values) + b"END\r\n", expectation)

    def test_set_cut_anywhere(self):
        self.cut_reply(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n", lambda mock, cut: closed(mock))

    def test_incr_cut_anywhere(self):
        self.cut_reply(b"incr k 1\r\n", b"12345\r\n", lambda mock, cut: closed(mock))

    def test_read_is_sent_once_more(self):
        mock, _, client, server = self.established()
        for request in (b"get k\r\n", b"gets k\r\n", b"get a b c\r\n"):
            for end in ("close", "reset"):
                with self.subTest(request=request, end=end):
                    client.send(request)
                    server.expect(request)
                    getattr(server, end)()
                    server = mock.accept_expect(request)
                    server.send(b"END\r\n")
                    client.expect(b"END\r\n")
                    client.expect_nothing()

    def test_read_is_not_sent_a_third_time(self):
        mock, _, client = self.one()
        for end in ("close", "reset"):
            client.send(b"get k\r\n")
            for _ in range(2):
                server = mock.accept_expect(b"get k\r\n")
                getattr(server, end)()
            client.expect(b"END\r\n")
            self.works_again(mock, client).close()

    def test_no_retry_when_told_so(self):
        mock, _, client = self.one({"downstream_retry": 0})
        client.send(b"get k\r\n")
        mock.accept_expect(b"get k\r\n").close()
        client.expect(b"END\r\n")
        self.works_again(mock, client)

    def test_write_is_sent_once(self):
        mock, _, client = self.one()
        for request in (b"set k 0 0 1\r\nx\r\n", b"add k 0 0 1\r\nx\r\n", b"append k 0 0 1\r\nx\r\n", b"incr k 1\r\n",
                        b"cas k 0 0 1 5\r\nx\r\n", b"delete k\r\n", b"touch k 1\r\n"):
            for end in ("close", "reset"):
                with self.subTest(request=request, end=end):
                    client.send(request)
                    server = mock.accept_expect(request)
                    getattr(server, end)()
                    client.expect(closed(mock))
                    self.works_again(mock, client).close()

    def test_what_was_answered_stays(self):
        """Of three requests in flight one was answered. The write fails, the read may be sent again or be a miss."""
        for end in ("close", "reset"):
            mock, moxi, a, server = self.established()
            b, c = self.client(moxi), self.client(moxi)
            for client, request in ((a, b"get a\r\n"), (b, b"set b 0 0 1\r\nx\r\n"), (c, b"get c\r\n")):
                client.send(request)
                server.expect(request)
            server.send(value(b"a", b"A") + b"END\r\n").sync()
            getattr(server, end)()
            echo = self.echo(mock)
            a.expect(value(b"a", b"A") + b"END\r\n")
            b.expect(closed(mock))
            self.assertIn(c.read_until(b"END\r\n"), (b"END\r\n", echo.reply(b"c") + b"END\r\n"))
            for client in (a, b, c):
                client.ask(b"get z\r\n", echo.reply(b"z") + b"END\r\n")
            self.assertFalse([line for line in echo.lines if line.startswith(b"set")])

    def test_pipelined_client(self):
        """One client with many requests in flight gets a reply for each, in order."""
        mock, _, client, server = self.established()
        client.send(b"get a\r\nset b 0 0 1\r\nx\r\nget c\r\nversion\r\nset d 0 0 1\r\nx\r\nget e\r\n")
        server.expect(b"get a\r\nset b 0 0 1\r\nx\r\nget c\r\nset d 0 0 1\r\nx\r\nget e\r\n")
        server.send(value(b"a", b"A") + b"EN").sync().close()
        echo = self.echo(mock)
        client.expect(value(b"a", b"A") + b"END\r\n" + closed(mock))
        self.assertIn(client.read_until(b"END\r\n"), (b"END\r\n", echo.reply(b"c") + b"END\r\n"))
        client.expect_match(rb"VERSION .*\r\n")
        client.expect(closed(mock))
        self.assertIn(client.read_until(b"END\r\n"), (b"END\r\n", echo.reply(b"e") + b"END\r\n"))

    def test_idle_close_is_not_noticed(self):
        mock, _, client, server = self.established()
        for request, reply in ((b"get k\r\n", b"END\r\n"), (b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")):
            server.shutdown().expect_closed()  # moxi has noticed
            self.assertFalse(mock.pending())
            client.send(request)
            server = mock.accept_expect(request)
            server.send(reply)
            client.expect(reply)

    def test_accepts_and_closes(self):
        """Whether the write had been sent by then depends; it is told in either case, and never sent again."""
        mock, _, client = self.one()
        for end in ("close", "reset"):
            client.send(b"set k 0 0 1\r\nx\r\n")
            getattr(mock.accept(), end)()
            self.assertIn(client.line(), (closed(mock), unwritten(mock)))
            self.works_again(mock, client).shutdown().expect_closed()


class Joined(MockTest):
    """Gets that wait together are asked for in one line, and each has its own part of the reply."""

    JOIN = {"get_join_max": 32}
    END = b"END\r\n"

    def started(self, **settings):
        return self.established(dict(self.JOIN, **settings))

    def test_every_mixture_of_hits_cut_anywhere(self):
        _, _, client, server = self.started()
        gets = [[b"a"], [b"bb", b"ccc"], [b"d"]]
        keys = sum(gets, [])
        for hits in range(16):
            values = {k: value(k, b"END\r\n" * i, i) if hits >> i & 1 else b"" for i, k in enumerate(keys)}
            reply = b"".join(values[k] for k in keys) + self.END
            for pieces in cuts(reply):
                client.send(b"".join(b"get " + b" ".join(get) + b"\r\n" for get in gets))
                server.expect(b"get a bb ccc d\r\n").send_pieces(pieces)
                client.expect(b"".join(b"".join(values[k] for k in get) + self.END for get in gets))

    def test_gets(self):
        _, _, client, server = self.started()
        client.send(b"gets a\r\ngets b\r\n")
        server.expect(b"gets a b\r\n").send(b"VALUE b 0 1 18446744073709551615\r\nx\r\nEND\r\n")
        client.expect(b"END\r\nVALUE b 0 1 18446744073709551615\r\nx\r\nEND\r\n")

    def test_what_is_not_joined(self):
        """Commands of another kind, and what has a key that is in the line."""
        _, _, client, server = self.started()
        for sent, seen in (
                (b"get a\r\ngets b\r\nget c\r\n", b"get a\r\ngets b\r\nget c\r\n"),
                (b"get a b\r\nget c a\r\nget d\r\n", b"get a b\r\nget c a d\r\n"),
                (b"get a\r\ntouch b 0\r\nget c\r\n", b"get a\r\ntouch b 0\r\nget c\r\n"),
                (b"gat 1 a\r\ngat 1 b\r\n", b"gat 1 a\r\ngat 1 b\r\n"),
                (b"get a\r\nget a\r\nget b\r\nget a\r\n", b"get a\r\nget a b\r\nget a\r\n"),
        ):
            client.send(sent)
            server.expect(seen)
            replies = b"".join(b"TOUCHED\r\n" if s.startswith(b"touch") else self.END for s in seen.splitlines())
            server.send(replies)
            client.expect(b"".join(b"TOUCHED\r\n" if s.startswith(b"touch") else self.END for s in sent.splitlines()))

    def test_a_key_twice_in_a_get(self):
        _, _, client, server = self.started()
        client.send(b"get a a b\r\nget c\r\n")
        server.expect(b"get a a b c\r\n").send(value(b"a", b"A") * 2 + value(b"c", b"C") + self.END)
        client.expect(value(b"a", b"A") * 2 + self.END + value(b"c", b"C") + self.END)

    def test_bound(self):
        _, _, client, server = self.established({"get_join_max": 2})
        client.send(b"get a\r\nget b\r\nget c\r\nget d\r\nget e\r\n")
        server.expect(b"get a b\r\nget c d\r\nget e\r\n").send(self.END + value(b"c", b"C") + self.END + self.END)
        client.expect(self.END * 2 + value(b"c", b"C") + self.END * 3)
        client.send(b"get a\r\nget b c\r\nget d\r\nget e f g\r\nget h\r\n")
        server.expect(b"get a\r\nget b c\r\nget d\r\nget e f g\r\nget h\r\n").send(self.END * 5)
        client.expect(self.END * 5)

    def test_many_long_keys(self):
        _, _, client, server = self.established({"get_join_max": 1024})
        keys = [b"%0250d" % i for i in range(3000)]
        client.send(b"".join(b"get %s\r\n" % k for k in keys))
        seen = []
        while len(seen) < len(keys):
            asked = server.line().split()[1:]
            seen += asked
            server.send(b"".join(value(k, k[-4:]) for k in asked if int(k) % 3) + self.END)
        self.assertEqual(seen, keys)
        client.expect(b"".join((value(k, k[-4:]) if int(k) % 3 else b"") + self.END for k in keys))

    def test_error(self):
        """Values that came before it count; all others are told, each for itself."""
        error = b"SERVER_ERROR out of memory writing get response\r\n"
        _, _, client, server = self.started()
        client.send(b"get a\r\nget b\r\nget c\r\nget d\r\n")
        server.expect(b"get a b c d\r\n").send(value(b"b", b"B") + error)
        client.expect(error + value(b"b", b"B") + self.END + error * 2)
        client.send(b"get e\r\n")
        server.expect(b"get e\r\n").send(self.END)
        client.expect(self.END)

    def test_a_key_that_was_not_asked_for(self):
        """The connection is closed; who has been told nothing, and was not the next to be, is asked for again."""
        mock, _, client, server = self.started()
        a, b = value(b"a", b"A"), value(b"b", b"B")
        for strange, told, again in ((value(b"x", b"X"), self.END, b"get b\r\n"), (a * 2, a + self.END * 2, b""),
                                     (b * 2, self.END + b + self.END, b"")):
            client.send(b"get a\r\nget b\r\n")
            server.expect(b"get a b\r\n").send(strange + self.END).expect_closed()
            client.expect(told)
            server = mock.accept_expect(again).send(self.END) if again else None
            client.send(b"get c\r\n")
            server = (server or mock.accept()).expect(b"get c\r\n").send(self.END)
            client.expect(self.END * (2 if again else 1))

    def test_any_order(self):
        """Other proxies hand on their servers' replies one after the other. What is missing is known at the end."""
        _, _, client, server = self.started()
        gets = [[b"a"], [b"bb", b"ccc"], [b"d"]]
        keys = sum(gets, [])
        for n in range(len(keys) + 1):
            for order in itertools.permutations(keys, n):
                values = {k: value(k, k * 3, 7) for k in order}
                reply = b"".join(values[k] for k in order) + self.END
                for cut in (0, len(reply) // 2, len(reply) - len(self.END)):
                    client.send(b"".join(b"get " + b" ".join(get) + b"\r\n" for get in gets))
                    server.expect(b"get a bb ccc d\r\n").send_pieces([reply[:cut], reply[cut:]])
                    client.expect(b"".join(b"".join(values[k] for k in order if k in get) + self.END for get in gets))

    def test_any_order_of_several_servers(self):
        mocks = [self.mock(), self.mock()]
        client = self.client(self.moxi(mocks, {"client_buffer_max": "64m"}))  # all are asked for at once
        keys = [b"key%d" % i for i in range(20)]
        client.send(b"get " + b" ".join(keys) + b"\r\n")
        for server in [mock.accept() for mock in mocks]:
            asked = server.line().split()[1:]
            server.send(b"".join(value(k, k) for k in reversed(asked)) + self.END)
        client.expect(b"".join(value(k, k) for k in keys) + self.END)

    @staticmethod
    def stat(moxi, client, name):
        return int(proxy_stats(client, b"stats")["%d:default:pstd_stats:%s" % (moxi.port, name)])

    def test_any_order_of_values_that_are_put_off(self):
        """What a client does not take is asked for again, and nothing else."""
        mock = self.mock()
        moxi = self.moxi([mock], {"client_buffer_max": "256k"})
        teacher = self.client(moxi)
        server = None
        for _ in range(200):  # values are small, or so it seems
            teacher.send(b"get k\r\n")
            server = (server or mock.accept()).expect(b"get k\r\n").send(self.END)
            teacher.expect(self.END)
        client = self.client(moxi, rcvbuf=4096)
        keys = [b"key%d" % i for i in range(20)]
        data = {k: k * 200000 for k in keys if not k.endswith(b"5")}
        client.send(b"get " + b" ".join(keys) + b"\r\n")
        lines = []

        def serve():
            while not lines or lines[-1] != [b"over"]:
                asked = server.line().split()[1:]
                order = asked[1::2] + asked[0::2][::-1]
                lines.append(asked)
                server.send(b"".join(value(k, data[k]) for k in order if k in data) + self.END)

        thread = threading.Thread(target=serve)
        thread.start()
        await_true(lambda: self.stat(moxi, teacher, "tot_put_off") > 0, "values are put off")
        reply = client.read_until(self.END)
        teacher.ask(b"get over\r\n", self.END)
        thread.join()
        self.assertEqual(lines[0], keys)
        self.assertGreater(len(lines), 2)
        for k in keys:
            self.assertEqual(reply.count(b"VALUE %s 0" % k), k in data, k)
        for k in data:
            self.assertIn(value(k, data[k]), reply)
        self.assertEqual(len(reply), sum(len(value(k, d)) for k, d in data.items()) + len(self.END))

    def test_any_order_of_large_values(self):
        """The second comes first, is held until it is its turn, and is lost in its middle."""
        mock, _, client, server = self.started()
        data = bytes(range(250)) * 1000
        a, b = value(b"a", data), value(b"b", data[::-1])
        client.send(b"get a\r\nget b\r\n")
        server.expect(b"get a b\r\n").send(b + a + self.END)
        client.expect(a + self.END + b + self.END)
        mock, _, client, server = self.started()
        client.send(b"get a\r\nget b\r\n")
        server.expect(b"get a b\r\n").send(b[:100000]).close()
        client.expect(self.END * 2)
        self.works_again(mock, client)

    def test_several_clients_and_a_lost_connection(self):
        mock, moxi, a, server = self.started()
        b, c = self.client(moxi), self.client(moxi)
        for client, key in ((a, b"a"), (b, b"b"), (c, b"c")):
            client.send(b"get %s\r\n" % key)
            server.expect(b"get %s\r\n" % key)
        server.close()
        server = mock.accept_expect(b"get a b c\r\n")
        server.send(value(b"a", b"A") + value(b"c", b"C") + self.END)
        a.expect(value(b"a", b"A") + self.END)
        b.expect(self.END)
        c.expect(value(b"c", b"C") + self.END)

    def test_lost_in_the_middle(self):
        """The first was answered, the second may be lost, the third is asked for again, alone."""
        mock, _, client, server = self.started()
        client.send(b"get a\r\nget b\r\nget c\r\n")
        server.expect(b"get a b c\r\n").send(value(b"a", b"A") + b"VALUE b 0 100\r\nxxx").sync().close()
        client.expect(value(b"a", b"A") + self.END + self.END)
        mock.accept_expect(b"get c\r\n").send(value(b"c", b"C") + self.END)
        client.expect(value(b"c", b"C") + self.END)

    def test_timeout(self):
        _, moxi, client, server = self.started(downstream_timeout=ms(200))
        client.send(b"get a\r\nget b\r\n")
        server.expect(b"get a b\r\n")
        client.expect(self.END * 2)
        server.send(value(b"a", b"late") + self.END)
        client.send(b"get c\r\nget d\r\n")
        server.expect(b"get c d\r\n").send(value(b"d", b"D") + self.END)
        client.expect(self.END + value(b"d", b"D") + self.END)
        stats = proxy_stats(client)
        for name in ("tot_downstream_swallowed", "tot_get_joined"):
            self.assertEqual(stats["%d:default:pstd_stats:%s" % (moxi.port, name)], "2")

    def test_large_values(self):
        for stream_min in (0, 100000):
            _, _, client, server = self.started(stream_min=stream_min)
            big = value(b"big", bytes(range(250)) * 2000)
            client.send(b"get a\r\nget big\r\nget b\r\n")
            server.expect(b"get a big b\r\n").send(value(b"a", b"A") + big + value(b"b", b"B") + self.END)
            client.expect(value(b"a", b"A") + self.END + big + self.END + value(b"b", b"B") + self.END)

    def test_large_values_are_not_joined(self):
        """Where values are large there is nothing to be saved, and much that waits for one of them."""
        _, _, client, server = self.started()
        for size, line in ((300000, b"get a\r\nget b\r\n"), (10, b"get a b\r\n")):
            for _ in range(60):
                client.send(b"get k\r\n")
                server.expect(b"get k\r\n").send(value(b"k", b"x" * size) + self.END)
                client.expect(value(b"k", b"x" * size) + self.END)
            client.send(b"get a\r\nget b\r\n")
            server.expect(line).send(self.END * line.count(b"\n"))
            client.expect(self.END * 2)

    def test_misses_are_no_large_values(self):
        _, _, client, server = self.established({"get_join_max": 200})
        for _ in range(60):
            client.send(b"get k\r\n")
            server.expect(b"get k\r\n").send(self.END)
            client.expect(self.END)
        keys = [b"k%d" % i for i in range(100)]
        client.send(b"".join(b"get %s\r\n" % b" ".join(keys[i:i + 10]) for i in range(0, 100, 10)))
        server.expect(b"get %s\r\n" % b" ".join(keys))

    def test_client_gone(self):
        _, moxi, a, server = self.started()
        b = self.client(moxi)
        a.send(b"get a\r\nget b\r\n")
        server.expect(b"get a b\r\n")
        b.send(b"get c\r\n")
        server.expect(b"get c\r\n")
        a.reset()
        self._ends[0].remove(a.close)
        self.client(moxi).turn()
        server.send(value(b"a", b"A") + value(b"b", b"B") + self.END + value(b"c", b"C") + self.END)
        b.expect(value(b"c", b"C") + self.END)


class SeveralServers(MockTest):
    """One of three servers fails in a multiget."""

    def setUp(self):
        super().setUp()
        self.mocks = [self.mock() for _ in range(3)]
        self.echos = [self.echo(m) for m in self.mocks]

    def start(self, settings=None):
        """Finds out which keys the third server has, then takes its echo away. Returns a client."""
        self.server_moxi = self.moxi(self.mocks, settings)
        client = self.client(self.server_moxi)
        self.keys = [b"key%d" % i for i in range(24)]
        for key in self.keys:
            client.ask(b"get %s\r\n" % key, self.echos[0].reply(key) + b"END\r\n")
        self.third = [k for k in self.keys if b"get " + k in self.echos[2].lines]
        self.assertTrue(2 <= len(self.third) <= 20, self.third)
        self._ends[0].remove(self.echos[2].stop)
        self.echos[2].stop()
        return client

    def reply_without(self, missing):
        reply = self.echos[0].reply
        return b"".join(reply(k) for k in self.keys if k not in missing) + b"END\r\n"

    def multiget(self, client, command=b"get"):
        client.send(command + b" " + b" ".join(self.keys) + b"\r\n")

    def test_misses_teach(self):
        """A large multiget of an empty cache soon asks for many keys at a time."""
        moxi = self.moxi(self.mocks)
        client = self.client(moxi)
        client.ask(b"get " + b" ".join(b"none%d" % i for i in range(1000)) + b"\r\n", b"END\r\n")
        self.assertLess(sum(len(echo.lines) for echo in self.echos), 60)

    def test_one_line_a_server(self):
        client = self.start()
        self.multiget(client)
        server = self.mocks[2].accept_expect(b"get " + b" ".join(self.third) + b"\r\n")
        server.send_pieces([self.echos[2].reply(k) for k in self.third] + [b"END\r\n"])
        client.expect(self.reply_without([]))
        for echo, n in ((self.echos[0], 0), (self.echos[1], 1)):
            own = [k for k in self.keys if b"get " + k in echo.lines[:-1]]
            self.assertEqual(echo.lines[-1], b"get " + b" ".join(own))

    def test_refused(self):
        client = self.start()
        self.mocks[2].close()
        for _ in range(3):
            self.multiget(client)
            client.expect(self.reply_without(self.third))

    def test_closes_unanswered(self):
        client = self.start()
        self.multiget(client)
        for _ in range(2):
            self.mocks[2].accept_expect(b"get " + b" ".join(self.third) + b"\r\n").close()
        client.expect(self.reply_without(self.third))

    def test_closes_in_the_middle(self):
        client = self.start()
        self.multiget(client)
        server = self.mocks[2].accept_expect(b"get " + b" ".join(self.third) + b"\r\n")
        first, second = self.third[:2]
        server.send(self.echos[2].reply(first) + self.echos[2].reply(second)[:-3]).sync().close()
        client.expect(self.reply_without(self.third[1:]))

    def test_does_not_answer(self):
        client = self.start({"downstream_timeout": ms(300)})
        self.multiget(client)
        self.mocks[2].accept_expect(b"get " + b" ".join(self.third) + b"\r\n")
        client.expect(self.reply_without(self.third))

    def test_answers_nonsense(self):
        client = self.start()
        request = b"get " + b" ".join(self.third) + b"\r\n"
        for nonsense in (b"WHAT\r\n", b"STORED\r\n", value(b"stranger", b"x") + b"END\r\n", b"SERVER_ERROR busy\r\n",
                         b"VALUE " + self.third[0] + b" 0 -1\r\n", b"\r\n", b"\0" * 50 + b"\n", b"ERROR\r\n"):
            with self.subTest(nonsense=nonsense):
                self.multiget(client)
                self.mocks[2].expect_somewhere(request).send(nonsense)
                client.expect(self.reply_without(self.third))

    def test_order_is_the_order_of_the_keys(self):
        """The server of the first key answers last; keys may repeat."""
        client = self.start()
        others = [k for k in self.keys if k not in self.third]
        self.keys = self.third + others[::-1] + self.third[:2] + others[:2]
        self.multiget(client)
        server = self.mocks[2].accept()
        asked = server.line().split()[1:]
        await_true(lambda: all(e.lines[-1].count(b" ") > 1 for e in self.echos[:2]), "the others were asked")
        self.client(self.server_moxi).turn()
        client.expect_nothing()
        server.send_pieces([self.echos[2].reply(k) for k in asked] + [b"END\r\n"])
        client.expect(self.reply_without([]))


class Shared(MockTest):
    """One connection carries all clients of a worker."""

    def test_two_clients(self):
        mock, moxi, a, server = self.established()
        b = self.client(moxi)
        a.send(b"get a1\r\n")
        server.expect(b"get a1\r\n")
        b.send(b"set b1 0 0 2\r\nbb\r\n")
        server.expect(b"set b1 0 0 2\r\nbb\r\n")
        a.send(b"incr a2 1\r\nget a3\r\n")
        server.expect(b"incr a2 1\r\nget a3\r\n")
        b.send(b"get b2\r\n")
        server.expect(b"get b2\r\n")
        server.send(b"END\r\n")
        a.expect(b"END\r\n")
        b.expect_nothing()
        server.send(b"STO").sync()
        server.send(b"RED\r\n5")
        b.expect(b"STORED\r\n")
        server.sync().send(b"\r\n")
        a.expect(b"5\r\n")
        server.send(value(b"a3", b"A3") + b"END\r\n" + value(b"b2", b"B2") + b"END\r\n")
        b.expect(value(b"b2", b"B2") + b"END\r\n")
        a.expect(value(b"a3", b"A3") + b"END\r\n")
        self.assertFalse(mock.pending())

    def test_many_clients(self):
        mock, moxi, _, server = self.established(LONG)
        clients = [self.client(moxi) for _ in range(50)]
        for turn in range(20):
            for i, client in enumerate(clients):
                client.send(b"get c%dt%d\r\n" % (i, turn))
        seen = []
        for n in range(50 * 20):
            seen.append(server.line()[4:-2])
            if n % 7 == 6:  # some replies early, some late
                server.send(b"".join(value(k, b"<" + k + b">") + b"END\r\n" for k in seen[n - 6:]))
        server.send(b"".join(value(k, b"<" + k + b">") + b"END\r\n" for k in seen[n - n % 7:]))
        for i, client in enumerate(clients):
            client.expect(b"".join(value(b"c%dt%d" % (i, t), b"<c%dt%d>" % (i, t)) + b"END\r\n" for t in range(20)))
            self.assertEqual([k for k in seen if k.startswith(b"c%dt" % i)], [b"c%dt%d" % (i, t) for t in range(20)])
        self.assertFalse(mock.pending())

    def test_client_gone_before_its_reply(self):
        for end in ("close", "reset"):
            mock, moxi, a, server = self.established()
            b = self.client(moxi)
            a.send(b"get a\r\nset c 0 0 1\r\nx\r\n")
            server.expect(b"get a\r\nset c 0 0 1\r\nx\r\n")
            b.send(b"get b\r\n")
            server.expect(b"get b\r\n")
            getattr(a, end)()
            self.client(moxi).turn()
            server.send(value(b"a", b"for a")).sync()
            server.send(b"END\r\nSTORED\r\n" + value(b"b", b"for b") + b"END\r\n")
            b.expect(value(b"b", b"for b") + b"END\r\n").turn()
            self._ends[0].remove(a.close)

    def test_quit_after_requests(self):
        _, _, client, server = self.established()
        client.send(b"get a\r\nset b 0 0 1\r\nx\r\nquit\r\nget never\r\n")
        server.expect(b"get a\r\nset b 0 0 1\r\nx\r\n")
        server.send(b"END\r\n").sync()
        server.send(b"STORED\r\n")
        client.expect(b"END\r\nSTORED\r\n")
        self.assertEqual(client.read_all(), b"")
        server.expect_nothing()

    def test_local_replies_keep_their_place(self):
        _, _, client, server = self.established()
        client.send(b"get a\r\nversion\r\nbogus\r\nget b\r\nset k 0 0 x\r\nget c\r\n")
        server.expect(b"get a\r\nget b\r\nget c\r\n")
        client.expect_nothing()
        server.send(b"END\r\n")
        client.expect(b"END\r\n").expect_match(rb"VERSION .*\r\n")
        client.expect(b"ERROR\r\n").expect_nothing()
        server.send(b"END\r\n")
        client.expect(b"END\r\nCLIENT_ERROR bad command line format\r\n").expect_nothing()
        server.send(b"END\r\n")
        client.expect(b"END\r\n")


class Local(MockTest):
    """What a server never sees."""

    def test_never_reach_the_server(self):
        mock, _, client, server = self.established()
        for request in (b"version", b"version foo", b"verbosity 1", b"verbosity", b"bogus", b"bogus 1 2 3", b"shutdown",
                        b"get", b"gets", b"set k 0 0", b"set k 0 0 -1", b"incr k", b"incr k x", b"touch k", b"delete",
                        b"delete k 1", b"get " + b"k" * 251, b"stats proxy", b"stats proxy info", b"", b"GETS k",
                        b"slabs reassign 1 2", b"lru tune 10 20 30", b"cache_memlimit 1", b"flush_all x", b"gat",
                        b"watch", b"me", b"mg", b"mg k !", b"ms k", b"mn", b"mx k", b"stat", b"getx k", b"ge", b"verbosity 0"):
            with self.subTest(request=request):
                client.send(request + b"\r\n")
                if request.startswith(b"stats"):
                    client.lines_to_end()
                else:
                    client.expect_match(rb"(ERROR|CLIENT_ERROR|VERSION|OK|SERVER_ERROR|MN).*\r\n")
        client.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(b"END\r\n")
        client.expect(b"END\r\n")
        self.assertFalse(mock.pending())

    def test_no_connection_before_the_first_request(self):
        mock, _, client = self.one()
        client.turn()
        self.assertFalse(mock.pending())

    def test_refused_data_is_not_run(self):
        """The data block of a refused command may look like commands."""
        _, _, client, server = self.established({"item_size_max": 1000})
        poison = b"set p 0 0 1\r\nx\r\ndelete p\r\n"
        for head in (b"set k x 0 %d\r\n", b"set k 0 x %d\r\n", b"set " + b"k" * 251 + b" 0 0 %d\r\n",
                     b"cas k 0 0 %d x\r\n", b"add k -1 0 %d\r\n"):
            with self.subTest(head=head):
                client.send(head % len(poison) + poison + b"\r\nget k\r\n")
                client.expect(b"CLIENT_ERROR bad command line format\r\n")
                server.expect(b"get k\r\n").send(b"END\r\n")
                client.expect(b"END\r\n")


class FlushAll(MockTest):
    def test_reaches_every_server(self):
        mocks = [self.mock() for _ in range(3)]
        client = self.client(self.moxi(mocks))
        servers = []
        for request in (b"flush_all\r\n", b"flush_all 10\r\n", b"flush_all 0\r\n"):
            client.send(request)
            servers = servers or [m.accept() for m in mocks]
            for server in servers:
                client.expect_nothing()
                server.expect(request).send(b"OK\r\n").sync()
            client.expect(b"OK\r\n")

    def test_noreply(self):
        mocks = [self.mock() for _ in range(3)]
        client = self.client(self.moxi(mocks))
        client.send(b"flush_all noreply\r\nflush_all 5 noreply\r\nversion\r\n")
        servers = [m.accept() for m in mocks]
        for request in (b"flush_all\r\n", b"flush_all 5\r\n"):
            for server in servers:
                client.expect_nothing()
                server.expect(request).send(b"OK\r\n")
        client.expect_match(rb"VERSION .*\r\n")
        client.turn()

    def test_nothing_overtakes_it(self):
        """The servers may be proxies before one and the same memcached: nothing is asked of any until all are flushed."""
        mocks = [self.mock() for _ in range(2)]
        moxi = self.moxi(mocks, LONG)
        client, other = self.client(moxi), self.client(moxi)
        for flush in (b"flush_all", b"flush_all 10"):
            with self.subTest(flush=flush):
                client.send(flush + b" noreply\r\nset k 0 0 1 noreply\r\nx\r\nmn\r\n")
                servers = [m.conns[0] if m.conns else m.accept() for m in mocks]
                for server in servers:
                    other.turn()
                    client.expect_nothing()
                    server.expect(flush + b"\r\n").expect_nothing().send(b"OK\r\n").sync()
                await_true(lambda: any(s.readable() for s in servers), "the set")
                asked = [s for s in servers if s.readable()]
                asked[0].expect(b"set k 0 0 1\r\nx\r\n").send(b"STORED\r\n")
                client.expect(b"MN\r\n")

    @staticmethod
    def asked_and_spared(mocks):
        """Of two servers the one that the first request goes to, and the other."""
        await_true(lambda: any(m.pending() for m in mocks), "the first request")
        return mocks if mocks[0].pending() else mocks[::-1]

    def set_and_flush(self, noreply=b"", then=b""):
        """A client sets and flushes: moxi, the client, the connection with the set on it, and the other server."""
        mocks = [self.mock() for _ in range(2)]
        moxi = self.moxi(mocks, LONG)
        client = self.client(moxi)
        client.send(b"set k 0 0 1" + noreply + b"\r\nx\r\nflush_all\r\n" + then)
        asked, spared = self.asked_and_spared(mocks)
        return moxi, client, asked.accept_expect(b"set k 0 0 1\r\nx\r\n"), spared

    def test_it_overtakes_nothing(self):
        """Nor is any flushed before what was asked of another has been carried out."""
        moxi, client, server, spared = self.set_and_flush(b" noreply", b"get k\r\n")
        self.client(moxi).turn()
        self.assertFalse(server.readable() or spared.pending())
        server.send(b"STORED\r\n").expect(b"flush_all\r\n").send(b"OK\r\n")
        spared.accept_expect(b"flush_all\r\n").send(b"OK\r\n")
        server.expect(b"get k\r\n").send(b"END\r\n")
        client.expect(b"OK\r\nEND\r\n")

    def test_client_goes_before_its_turn(self):
        """What it has asked is carried out all the same."""
        moxi, client, server, spared = self.set_and_flush()
        client.reset()
        spared.accept_expect(b"flush_all\r\n").send(b"OK\r\n")
        server.expect(b"flush_all\r\n").send(b"STORED\r\nOK\r\n")
        client = self.client(moxi)
        client.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(b"END\r\n")
        client.expect(b"END\r\n")

    def test_client_goes_before_its_turn_with_two_connections(self):
        """Behind what was asked before it: on the same connection to each server."""
        mocks = [self.mock() for _ in range(2)]
        moxi = self.moxi(mocks, dict(LONG, downstream_conn_max=2))
        other, client = self.client(moxi), self.client(moxi)
        other.send(b"get k\r\n")
        asked, spared = self.asked_and_spared(mocks)
        first = asked.accept_expect(b"get k\r\n")
        client.send(b"set k 0 0 1\r\nx\r\nflush_all\r\n")
        second = asked.accept_expect(b"set k 0 0 1\r\nx\r\n")
        client.reset()
        spared.accept_expect(b"flush_all\r\n").send(b"OK\r\n")
        second.expect(b"flush_all\r\n").send(b"STORED\r\nOK\r\n")
        first.expect_nothing().send(b"END\r\n")
        other.expect(b"END\r\n")

    def test_a_servers_refusal_is_relayed(self):
        mocks = [self.mock() for _ in range(3)]
        client = self.client(self.moxi(mocks))
        client.send(b"flush_all\r\n")
        servers = [m.accept_expect(b"flush_all\r\n") for m in mocks]
        for server, reply in zip(servers, (b"OK\r\n", b"CLIENT_ERROR flush_all not allowed\r\n", b"OK\r\n")):
            server.send(reply)
        client.expect(b"CLIENT_ERROR flush_all not allowed\r\n")
        client.turn()

    def test_one_server_is_away(self):
        mocks = [self.mock(), self.mock(listening=False), self.mock()]
        client = self.client(self.moxi(mocks))
        client.send(b"flush_all\r\n")
        for mock in (mocks[0], mocks[2]):
            mock.accept_expect(b"flush_all\r\n").send(b"OK\r\n")
        client.expect(unwritten(mocks[1]))

    def test_one_server_closes(self):
        mocks = [self.mock(), self.mock()]
        client = self.client(self.moxi(mocks))
        client.send(b"flush_all\r\n")
        mocks[0].accept_expect(b"flush_all\r\n").send(b"OK\r\n")
        mocks[1].accept_expect(b"flush_all\r\n").close()
        client.expect(closed(mocks[1]))


class Timeouts(MockTest):
    """downstream_timeout: the request is answered; its reply, when it comes, is nobody's."""

    def test_no_answer(self):
        mock, _, client = self.one({"downstream_timeout": ms(250)})
        for request, reply in ((b"get k\r\n", b"END\r\n"), (b"get a b\r\n", b"END\r\n"),
                               (b"set k 0 0 1\r\nx\r\n", timed_out(mock)), (b"incr k 1\r\n", timed_out(mock)),
                               (b"delete k\r\n", timed_out(mock))):
            with self.subTest(request=request):
                begin = time.monotonic()
                client.send(request)
                server = mock.accept_expect(request)
                client.expect(reply)
                self.assertGreater(time.monotonic() - begin, 0.2 * SCALE)
                server.expect_closed()  # no progress: moxi gives the connection up
        self.works_again(mock, client)

    def test_late_reply_is_swallowed(self):
        """The connection makes progress, so it stays; the reply that comes late is not the next request's."""
        mock, moxi, a, server = self.established({"downstream_timeout": ms(1000)})
        b, c = self.client(moxi), self.client(moxi)
        a.send(b"get a\r\n")
        server.expect(b"get a\r\n")
        b.send(b"set b 0 0 1\r\nx\r\n")
        server.expect(b"set b 0 0 1\r\nx\r\n")
        time.sleep(0.6 * SCALE)
        server.send(value(b"a", b"A") + b"END\r\n")  # progress
        a.expect(value(b"a", b"A") + b"END\r\n")
        c.send(b"get c\r\n")
        server.expect(b"get c\r\n")
        b.expect(timed_out(mock))
        b.send(b"get bb\r\n")
        server.expect(b"get bb\r\n")
        server.send(b"STORED\r\n" + value(b"c", b"C") + b"END\r\n" + value(b"bb", b"BB") + b"END\r\n")
        c.expect(value(b"c", b"C") + b"END\r\n")
        b.expect(value(b"bb", b"BB") + b"END\r\n")
        self.assertFalse(mock.pending())

    def test_late_in_the_middle_of_a_value(self):
        mock, moxi, a, server = self.established({"downstream_timeout": ms(1000)})
        b = self.client(moxi)
        a.send(b"get a\r\n")
        server.expect(b"get a\r\n")
        time.sleep(0.6 * SCALE)
        reply = value(b"a", b"END\r\n" * 10) + b"END\r\n"
        server.send(reply[:20])  # progress
        b.send(b"get b\r\n")
        server.expect(b"get b\r\n")
        a.expect(b"END\r\n")
        server.send(reply[20:] + value(b"b", b"B") + b"END\r\n")
        b.expect(value(b"b", b"B") + b"END\r\n")
        a.expect_nothing()
        self.assertFalse(mock.pending())

    def test_timeout_in_a_pipeline(self):
        """Replies after the one that timed out keep their places."""
        mock, _, client = self.one({"downstream_timeout": ms(300)})
        client.send(b"get a\r\nversion\r\nset b 0 0 1\r\nx\r\nget c\r\n")
        mock.accept_expect(b"get a\r\nset b 0 0 1\r\nx\r\nget c\r\n")
        client.expect(b"END\r\n").expect_match(rb"VERSION .*\r\n")
        self.assertIn(client.line(), (timed_out(mock), closed(mock)))
        client.expect(b"END\r\n")

    def test_connect_timeout(self):
        """A server whose queue of connections is full neither accepts nor refuses."""
        mock = self.mock(listening=False)
        mock.sock.listen(0)
        fillers = []
        for _ in range(8):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", mock.port))
            fillers.append(s)
            self.addCleanup(s.close)
        client = self.client(self.moxi([mock], {"connect_timeout": ms(200), "downstream_timeout": ms(30000)}))
        begin = time.monotonic()
        client.ask(b"get k\r\n", b"END\r\n", timeout=5 * SCALE)
        client.send(b"set k 0 0 1\r\nx\r\n")
        self.assertEqual(client.line(5 * SCALE), unwritten(mock))
        self.assertLess(time.monotonic() - begin, 5 * SCALE)


class FullBacklog(MockTest):
    """A server on a unix socket that takes no more connections at the moment: connect(2) says EAGAIN."""

    def setUp(self):
        super().setUp()
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.path = os.path.join(tmp.name, "socket")
        self.listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listener.close)
        self.listener.bind(self.path)
        self.listener.listen(0)
        while True:
            s = socket.socket(socket.AF_UNIX)
            self.addCleanup(s.close)
            s.setblocking(False)
            try:
                s.connect(self.path)
            except BlockingIOError:
                break

    def failures(self, client):
        return sum(int(v) for k, v in proxy_stats(client).items() if k.endswith(":tot_downstream_connect_failed"))

    def test_room_in_time(self):
        client = self.client(self.moxi([self.path], {"connect_timeout": ms(60000), "downstream_timeout": ms(60000)}))
        client.send(b"get k\r\n")
        client.expect_nothing(0.03)
        self.listener.accept()[0].close()  # who had filled it; the next one is moxi
        server = Conn(self.listener.accept()[0])
        server.expect(b"get k\r\n").send(value(b"k", b"x") + b"END\r\n")
        client.expect(value(b"k", b"x") + b"END\r\n")
        self.assertEqual(self.failures(client), 0)
        server.close()

    def test_no_room(self):
        client = self.client(self.moxi([self.path], {"connect_timeout": ms(100)}))
        for _ in range(2):
            client.ask(b"get k\r\n", b"END\r\n")
        self.assertEqual(self.failures(client), 2)


class Malformed(MockTest):
    """A reply that cannot be ends its connection, and nobody takes it for an answer."""

    LONG_ERROR = b"SERVER_ERROR " + b"x" * 20000 + b"\r\n"
    FOR_GET = [
        b"GARBAGE\r\n", b"\r\n", b"\n", b"\0\0\0\0\r\n", b"END\0\r\n", b"ENDING\r\n", b"STORED\r\n", b"DELETED\r\n",
        b"5\r\n", b"OK\r\n", b"TOUCHED\r\n", b"NOT_FOUND\r\n", b"VERSION 1.6.18\r\n", b"STAT pid 1\r\nEND\r\n",
        b"VALUE\r\n", b"VALUE \r\n", b"VALUE k\r\n", b"VALUE k 0\r\n", b"VALUE k 0 \r\n", b"VALUE k 0 -1\r\n",
        b"VALUE k 0 x\r\n", b"VALUE k 0 5x\r\n", b"VALUE k x 5\r\nhello\r\nEND\r\n",
        b"VALUE k 0 99999999999999999999\r\n", b"VALUE k 0 18446744073709551615\r\n",
        b"VALUE k 0 9223372036854775807\r\n", b"VALUE k 0 18446744073709551614\r\nxx\r\nEND\r\n",
        b"VALUE other 0 1\r\nx\r\nEND\r\n", b"VALUE kk 0 1\r\nx\r\nEND\r\n", b"VALUE " + b"k" * 300 + b" 0 1\r\n",
        b"VALUE k 0 1\r\nxyzEND\r\n", b"VALUE k 0 3\r\nx\r\nEND\r\n\r\n", b"VALUE k 0 1 2 3 4 5\r\nx\r\nEND\r\n",
        b"value k 0 1\r\nx\r\nEND\r\n", b"x" * 100000, b"VALUE " + b"x" * 100000, LONG_ERROR,
        b"VALUE k 0 1\r\nx\r\nGARBAGE\r\n", b"VALUE k 0 1\r\nx\r\nSTORED\r\n",
    ]
    FOR_SET = [
        b"GARBAGE\r\n", b"END\r\n", b"VALUE k 0 1\r\nx\r\nEND\r\n", b"DELETED\r\n", b"STORE\r\n", b"STOREDX\r\n",
        b"\r\n",
        b"5\r\n", b"OK\r\n", b"STORED" * 20000, b"TOUCHED\r\n", b"stored\r\n", b"STORED\0\r\n", LONG_ERROR,
    ]
    FOR_INCR = [b"STORED\r\n", b"-1\r\n", b"12x\r\n", b"x\r\n", b"END\r\n", b"\r\n", b"DELETED\r\n", b"1" * 50000]

    def fails(self, request, nonsense, expectation, mock, client, server=None):
        client.send(request)
        server = server or mock.accept()
        server.expect(request).send(nonsense)
        client.expect(expectation)
        server.expect_closed()
        client.expect_nothing()

    def table(self, request, replies, expectation):
        mock, _, client = self.one()
        for nonsense in replies:
            with self.subTest(nonsense=show(nonsense)):
                self.fails(request, nonsense, expectation(mock, nonsense), mock, client)
        self.works_again(mock, client)

    def test_get(self):
        """A whole value that was followed by nonsense is still a value."""
        whole = value(b"k", b"x")
        self.table(b"get k\r\n", self.FOR_GET,
                   lambda mock, reply: (whole if reply.startswith(whole) else b"") + b"END\r\n")

    def test_gets_needs_a_cas_unique(self):
        self.table(b"gets k\r\n", [b"VALUE k 0 1\r\nx\r\nEND\r\n", b"VALUE k 0 1 x\r\nx\r\nEND\r\n",
                                   b"VALUE k 0 1 -1\r\nx\r\nEND\r\n"], lambda mock, reply: b"END\r\n")

    def test_set(self):
        self.table(b"set k 0 0 1\r\nx\r\n", self.FOR_SET, lambda mock, reply: closed(mock))

    def test_incr(self):
        self.table(b"incr k 1\r\n", self.FOR_INCR, lambda mock, reply: closed(mock))

    def test_delete_touch(self):
        self.table(b"delete k\r\n", [b"STORED\r\n", b"END\r\n", b"1\r\n"], lambda mock, reply: closed(mock))
        self.table(b"touch k 1\r\n", [b"STORED\r\n", b"DELETED\r\n", b"1\r\n"], lambda mock, reply: closed(mock))

    def test_long_error_of_several_servers(self):
        """A line that is too long is no error to be kept until all have answered."""
        mocks = [self.mock() for _ in range(2)]
        client = self.client(self.moxi(mocks, dict(LONG, distribution="modula", client_buffer_max=1 << 30)))
        client.send(b"flush_all\r\n")
        for mock in mocks:
            mock.accept_expect(b"flush_all\r\n").send(self.LONG_ERROR)
        client.expect_match(rb"SERVER_ERROR proxy downstream closed .*\r\n")
        client.send(b"get " + b" ".join(b"k%d" % i for i in range(20)) + b"\r\n")
        for mock in mocks:
            server = mock.accept()
            server.line()
            server.send(self.LONG_ERROR)
        client.expect(b"END\r\n")

    def test_error_to_a_set(self):
        """The server took the data block for commands: how many replies follow is anyone's guess."""
        mock, _, client = self.one()
        client.send(b"set k 0 0 1\r\nx\r\n")
        server = mock.accept_expect(b"set k 0 0 1\r\nx\r\n")
        server.send(b"ERROR\r\nERROR\r\n")
        client.expect_match(rb"(ERROR|SERVER_ERROR .*)\r\n")
        server.expect_closed()
        client.expect_nothing()
        self.works_again(mock, client)

    def test_error_to_the_numbers_of_a_set(self):
        """Likewise; but 32 bits of an expiry count, and a server is sent no more, so that it finds none wrong."""
        mock, _, client = self.one()
        line = b"set k 0 %d 18\r\nset vip 0 0 4\r\nevi\r\n"
        client.send(line % ((1 << 31) + 5))
        server = mock.accept_expect(line % (5 - (1 << 31)))
        client.send(b"add vip 0 0 1\r\nz\r\n")
        server.expect(b"add vip 0 0 1\r\nz\r\n")
        server.send(b"CLIENT_ERROR bad command line format\r\nSTORED\r\nNOT_STORED\r\n")
        client.expect(b"CLIENT_ERROR bad command line format\r\n").expect(closed(mock))
        server.expect_closed()
        server = self.works_again(mock, client)
        for request, seen in ((b"touch k -3000000000\r\n", b"touch k 1294967296\r\n"),
                              (b"gat 4294967297 k\r\n", b"gat 1 k\r\n"),
                              (b"flush_all 4294967295\r\n", b"flush_all -1\r\n")):
            client.send(request)
            server.expect(seen).send(b"END\r\n" if request[:1] == b"g" else b"OK\r\n" if request[:1] == b"f"
                                          else b"NOT_FOUND\r\n")
            client.line()

    def test_errors_that_are_replies(self):
        """A server may refuse a request properly; that is relayed, and the connection goes on."""
        _, _, client, server = self.established()
        for request in (b"get k\r\n", b"set k 0 0 1\r\nx\r\n", b"incr k 1\r\n", b"delete k\r\n", b"touch k 1\r\n"):
            with self.subTest(request=request):
                client.send(request + b"version\r\n")
                server.expect(request).send(b"SERVER_ERROR out of memory\r\n")
                client.expect(b"SERVER_ERROR out of memory\r\n").expect_match(rb"VERSION .*\r\n")

    def test_others_on_the_connection(self):
        """Those who wait behind the nonsense fail, or are asked again where that is safe; none gets another's."""
        for nonsense in (b"GARBAGE\r\n", value(b"b", b"not a's") + b"END\r\n", b"STORED\r\n"):
            mock, moxi, a, server = self.established()
            b, c = self.client(moxi), self.client(moxi)
            for client, request in ((a, b"get a\r\n"), (b, b"get b\r\n"), (c, b"set c 0 0 1\r\nx\r\n")):
                client.send(request)
                server.expect(request)
            server.send(nonsense + b"END\r\nSTORED\r\n")
            echo = self.echo(mock)
            a.expect(b"END\r\n")
            self.assertIn(b.read_until(b"END\r\n"), (b"END\r\n", echo.reply(b"b") + b"END\r\n"))
            c.expect(closed(mock))
            for client in (a, b, c):
                client.ask(b"get z\r\n", echo.reply(b"z") + b"END\r\n")

    def test_reply_nobody_asked_for(self):
        mock, _, client, server = self.established()
        for unasked in (b"STORED\r\n", b"END\r\n", b"VALUE k 0 1\r\nx\r\nEND\r\n", b"ERROR\r\n", b"x", b"\r\n"):
            with self.subTest(unasked=unasked):
                server.send(unasked)
                server.expect_closed()
                server = self.works_again(mock, client)

    def test_noise(self):
        """Replies with bytes changed, missing or added: each request is answered once, in form, and in time."""
        rng = random.Random(11)
        mock, _, client = self.one({"downstream_timeout": ms(100)})
        keys = [b"key-a", b"key-b", b"key-c"]
        good = b"".join(value(k, k * 20) for k in keys) + b"END\r\n"
        known = {k: value(k, k * 20) for k in keys}
        for turn in range(150):
            noisy = bytearray(good)
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(noisy))
                noisy[at:at + rng.randrange(2)] = rng.choice([b"", b"\r\n", b"END\r\n", b"9", b" ", rng.randbytes(1)])
            client.send(b"get " + b" ".join(keys) + b"\r\n")
            mock.expect_somewhere(b"get " + b" ".join(keys) + b"\r\n").send(noisy)
            line, seen = client.line(), []
            while line != b"END\r\n" and not line.startswith((b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR")):
                found = re.fullmatch(rb"VALUE (key-[abc]) \d+ (\d+)\r\n", line)
                self.assertTrue(found, "turn %d: %r" % (turn, line))
                seen.append(found[1])
                self.assertTrue(client.read(int(found[2]) + 2).endswith(b"\r\n"))
                line = client.line()
            self.assertEqual(seen, [k for k in keys if k in seen], "turn %d" % turn)
            client.turn()
        for key in keys:
            client.send(b"get " + key + b"\r\n")
            mock.expect_somewhere(b"get " + key + b"\r\n").send(known[key] + b"END\r\n")
            client.expect(known[key] + b"END\r\n")

    def test_one_reply_too_many(self):
        mock, _, client, server = self.established()
        for reply in (b"END\r\nEND\r\n", b"END\r\nSTORED\r\n", value(b"k", b"x") + b"END\r\n" + value(b"k", b"y")):
            with self.subTest(reply=reply):
                client.send(b"get k\r\n")
                server.expect(b"get k\r\n").send(reply)
                client.expect(reply[:reply.index(b"END\r\n") + 5])
                server.expect_closed()
                server = self.works_again(mock, client)

    def test_refusal_of_the_connection(self):
        """memcached over its limit of connections says so unasked and closes: an error or a miss, but an answer."""
        mock, _, client = self.one()
        client.send(b"get k\r\n")
        while await_true(lambda: client.readable() or mock.pending(), "an answer") and not client.readable():
            mock.accept().send(b"ERROR Too many open connections\r\n").shutdown()
        client.expect_match(rb"(END|ERROR Too many open connections)\r\n")
        client.turn()


class Stalled(MockTest):
    """A server that takes nothing or gives nothing."""

    def test_client_that_does_not_read(self):
        """Whatever a client asks for without reading, few of its large values are on their way before others' requests."""
        mock = self.mock()
        moxi = self.moxi([mock], {"downstream_timeout": ms(60000)})
        slow = self.client(moxi, rcvbuf=4096)
        slow.send(b"get big\r\n" * 200)
        server = mock.accept()
        big = value(b"big", b"x" * 1000000) + b"END\r\n"
        asked = 0
        other = None
        while True:
            line = server.line()
            if line == b"get other\r\n":
                break
            self.assertEqual(line, b"get big\r\n")
            asked += 1
            server.send(big)
            if other is None:
                other = self.client(moxi).send(b"get other\r\n")
        self.assertLessEqual(asked, 5)
        server.send(b"END\r\n")
        other.expect(b"END\r\n")

    def test_stops_reading(self):
        """Over downstream_queue_bytes requests are refused at once; other servers' clients do not notice."""
        mock = self.mock(rcvbuf=4096)
        moxi = self.moxi([mock], dict(LONG, downstream_queue_bytes=1 << 20))
        request = b"set k 0 0 100000\r\n" + b"x" * 100000 + b"\r\n"
        clients = []
        for _ in range(200):
            client = self.client(moxi)
            client.send(request).sync()
            client.send(b"version\r\n")
            clients.append(client)
            refused = [c for c in clients if c.readable()]
            if refused:
                break
        self.assertTrue(refused, "20 MB were queued for a server that does not read")
        self.client(moxi).turn()
        refused = [c for c in clients if c.readable()]
        for client in refused:
            client.expect(OUT).expect_match(rb"VERSION .*\r\n")
        self.assertGreater(len(clients), 8)
        late = self.client(moxi)
        late.ask(b"set k 0 0 100000\r\n" + b"x" * 100000 + b"\r\n", OUT, timeout=2 * SCALE)
        server = mock.accept()  # it wakes up: all that was kept arrives, in order
        kept = [c for c in clients if c not in refused]
        for client in kept:
            server.expect(request).send(b"STORED\r\n")
            client.expect(b"STORED\r\n").expect_match(rb"VERSION .*\r\n")
        late.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(b"END\r\n")
        late.expect(b"END\r\n")

    def test_queue_max(self):
        mock, moxi, _, server = self.established(dict(LONG, downstream_queue_max=10))
        clients = []
        refused = []
        while len(clients) < 100 and not refused:
            clients.append(self.client(moxi))
            clients[-1].send(b"set k%d 0 0 1\r\nx\r\n" % len(clients)).sync()
            self.client(moxi).turn()
            refused = [c for c in clients if c.readable()]
        self.assertEqual([clients[-1]], refused)
        clients.pop().expect(OUT)
        self.assertEqual(len(clients), 10)
        for i, client in enumerate(clients):
            server.expect(b"set k%d 0 0 1\r\nx\r\n" % (i + 1)).send(b"STORED\r\n")
            client.expect(b"STORED\r\n")

    def test_does_not_answer_holds_up_nobody_else(self):
        silent, mock = self.mock(), self.mock()
        moxi = self.moxi([silent, mock], LONG)
        echo = self.echo(mock)
        clients = [self.client(moxi) for _ in range(20)]
        for i, client in enumerate(clients):
            client.send(b"get key%d\r\n" % i)
        silent.accept()
        answered = await_true(lambda: [i for i, c in enumerate(clients) if c.readable()], "some keys are on the other")
        await_true(lambda: len(echo.lines) == len([i for i, c in enumerate(clients) if c.readable()]), "all answered")
        for _ in range(50):
            for i in answered:
                if clients[i].buffer or clients[i].readable():
                    clients[i].expect(echo.reply(b"key%d" % i) + b"END\r\n")
                clients[i].ask(b"get key%d\r\n" % i, echo.reply(b"key%d" % i) + b"END\r\n")


    def test_a_set_that_has_begun(self):
        """A value that its client cannot take yet is not dropped, to be asked for again, while a set of it is arriving."""
        mock, moxi, other = self.one({"client_buffer_max": 65536})
        small, large, old = value(b"x", b"v") + b"END\r\n", value(b"x", b"y" * 8000000) + b"END\r\n", b"z" * 100000
        other.send(b"get x\r\n")
        server = mock.accept_expect(b"get x\r\n").send(small)
        other.expect(small)
        for _ in range(60):
            other.send(b"get x\r\n")
            server.expect(b"get x\r\n").send(small)
            other.expect(small)
        slow = self.client(moxi, rcvbuf=8192)
        slow.send(b"get x\r\nget k\r\nset k 0 0 5\r\nfre")
        server.expect(b"get x\r\nget k\r\n").send(large + value(b"k", old) + b"END\r\n").sync()
        other.turn()
        slow.send(b"sh\r\n")
        server.expect(b"set k 0 0 5\r\nfresh\r\n").send(b"STORED\r\n")
        slow.expect(large + value(b"k", old) + b"END\r\nSTORED\r\n")


class Held(MockTest):
    """While moxi is busy enough for pauses, the first replies of a batch are held for the last of them, but not for long."""

    AT_ONCE = 300

    def flood(self, port):
        """Another thread has one or two batches of so many gets in flight, always. Returns what ends it: it tells how many."""
        conn = self.client(port)
        request, reply = b"get none\r\n" * self.AT_ONCE, b"END\r\n" * self.AT_ONCE
        over = threading.Event()
        batches = []

        def run():
            conn.send(request)
            while not over.is_set():
                conn.send(request)
                conn.expect(reply)
                batches.append(reply)

        thread = threading.Thread(target=run)
        thread.start()

        def end():
            over.set()
            thread.join()
            conn.expect(reply)
            return len(batches)

        return end

    def test_let_go(self):
        """The last of a batch is only answered when the first has come."""
        mock, port = self.mock(), free_port()
        moxi = self.moxi(["%s;%d=%s" % (server_name(mock), port, server_name(self.memcached()))], None, "-R", "1000")
        client = self.client(moxi)
        end = self.flood(port)
        server = None
        for i in range(20):
            first, last = b"get a%d\r\n" % i, b"get b%d\r\n" % i
            client.send(first + last)
            server = server or mock.accept()
            server.expect(first + last)
            server.send(value(b"a%d" % i, b"x") + b"END\r\n")
            client.expect(value(b"a%d" % i, b"x") + b"END\r\n")
            server.send(b"END\r\n")
            client.expect(b"END\r\n")
        self.assertLess(end(), 1000)


class Refused(MockTest):
    """Commands that are refused count as well in what a client may be owed, while an earlier one is not answered."""

    def run_shape(self, first, command, refusal):
        mock = self.mock()
        moxi = self.moxi([mock], dict(LONG, client_buffer_max="1m"))
        client = self.client(moxi)
        client.send(first)
        server = mock.accept_expect(b"get a\r\n") if refusal else None
        before = moxi.memory()
        unsent = command * (8000000 // len(command))
        stats = "%d:default:pstd_stats:tot_upstream_paused" % moxi.port
        watcher = self.client(moxi)
        sent = client.send_some(unsent)
        await_true(lambda: proxy_stats(watcher)[stats] != "0", "the client is not listened to any more")
        for _ in range(20):
            sent += client.send_some(unsent[sent:])
            watcher.turn()
        if not has_sanitizer():
            self.assertLess(moxi.memory() - before, 16 << 20)
        if server is not None:
            server.send(b"END\r\n")
            client.expect(b"END\r\n")
            for _ in range(sent // len(command)):
                client.expect(refusal)

    def test_no_command(self):
        self.run_shape(b"get a\r\n", b"x\r\n", b"ERROR\r\n")

    def test_bad_data(self):
        self.run_shape(b"get a\r\n", b"set a 0 0 0\r\nxx", b"CLIENT_ERROR bad data chunk\r\n")

    def test_no_opcode(self):
        self.run_shape(packet(GET, b"a"), packet(0x50), None)


class Unreachable(MockTest):
    def test_refused(self):
        mock = self.mock(listening=False)
        client = self.client(self.moxi([mock], {"connect_max_errors": 1000}))
        for _ in range(3):
            client.ask(b"get k\r\n", b"END\r\n")
            client.ask(b"gets a b c\r\n", b"END\r\n")
            for request in (b"set k 0 0 1\r\nx\r\n", b"incr k 1\r\n", b"delete k\r\n", b"touch k 1\r\n"):
                client.ask(request, unwritten(mock))
            client.send(b"set k 0 0 1 noreply\r\nx\r\n").turn()
        mock.listen()  # it comes back
        self.works_again(mock, client)

    def test_refused_pipelined(self):
        mock = self.mock(listening=False)
        client = self.client(self.moxi([mock]))
        client.ask((b"get k\r\nset k 0 0 1\r\nx\r\n" + b"get a b\r\n") * 50,
                   (b"END\r\n" + unwritten(mock) + b"END\r\n") * 50)

    def given_up(self, interval):
        """A server that has refused more often than it may, and would take connections by now; a client."""
        mock = self.mock(listening=False)
        client = self.client(self.moxi([mock], {"connect_max_errors": 3, "connect_retry_interval": interval}))
        for _ in range(4):
            client.ask(b"set k 0 0 1\r\nx\r\n", unwritten(mock))
        mock.listen()
        return mock, client

    def test_backoff(self):
        """Over connect_max_errors failures the server is left alone for connect_retry_interval."""
        mock, client = self.given_up(3600000)
        for _ in range(20):
            client.send(b"set k 0 0 1\r\nx\r\n")
            self.assertIn(client.line(), (unwritten(mock), OUT))
            client.ask(b"get k\r\n", b"END\r\n")
        self.assertFalse(mock.pending())

    def test_end_of_backoff(self):
        interval = ms(500)
        since = time.monotonic()
        mock, client = self.given_up(interval)
        # A get that finds the server left alone is a miss at once; the first that does not is kept for the answer.
        while not mock.pending(0.02):
            client.send(b"get k\r\n")
            await_true(lambda: mock.pending() or client.readable(), "a miss or an attempt")
            if mock.pending():
                break
            client.expect(b"END\r\n")
        self.assertGreater(time.monotonic() - since, interval / 1000 * 0.8)
        server = mock.accept_expect(b"get k\r\n")
        server.send(value(b"k", b"x") + b"END\r\n")
        client.expect(value(b"k", b"x") + b"END\r\n")
        client.send(b"set k 0 0 1\r\nx\r\n")
        server.expect(b"set k 0 0 1\r\nx\r\n").send(b"STORED\r\n")
        client.expect(b"STORED\r\n")


class Admission(MockTest):
    """downstream_max and downstream_conn_max."""

    def test_one_at_a_time(self):
        mock, moxi, a, server = self.established(dict(LONG, downstream_max=1, wait_queue_timeout=ms(60000)))
        b, c = self.client(moxi), self.client(moxi)
        a.send(b"get a\r\n")
        server.expect(b"get a\r\n")
        b.send(b"get b\r\nget b2\r\n").sync()
        c.turn()
        server.expect_nothing()
        server.send(value(b"a", b"A") + b"END\r\n")
        a.expect(value(b"a", b"A") + b"END\r\n")
        for key in (b"b", b"b2"):
            server.expect(b"get " + key + b"\r\n").expect_nothing(0.01).send(value(key, b"B") + b"END\r\n")
            b.expect(value(key, b"B") + b"END\r\n")

    def test_many_one_at_a_time(self):
        mock, moxi, _, server = self.established(dict(LONG, downstream_max=1, wait_queue_timeout=ms(60000)))
        clients = [self.client(moxi) for _ in range(20)]
        for i, client in enumerate(clients):
            client.send(b"get k%d\r\n" % i)
        for _ in clients:
            key = server.line()[4:-2]
            server.expect_nothing().send(value(key, key) + b"END\r\n")
        for i, client in enumerate(clients):
            client.expect(value(b"k%d" % i, b"k%d" % i) + b"END\r\n")

    def test_wait_queue_timeout(self):
        mock, moxi, a, server = self.established(dict(LONG, downstream_max=1, wait_queue_timeout=ms(200)))
        b = self.client(moxi)
        a.send(b"get a\r\n")
        server.expect(b"get a\r\n")
        begin = time.monotonic()
        b.ask(b"set b 0 0 1\r\nx\r\n", b"SERVER_ERROR proxy wait queue timeout\r\n")
        self.assertGreater(time.monotonic() - begin, 0.15 * SCALE)
        server.expect_nothing()
        server.send(value(b"a", b"A") + b"END\r\n")
        a.expect(value(b"a", b"A") + b"END\r\n")
        b.send(b"get b\r\n")
        server.expect(b"get b\r\n").send(value(b"b", b"B") + b"END\r\n")
        b.expect(value(b"b", b"B") + b"END\r\n")

    def test_order_is_kept_when_the_client_goes(self):
        """What waited for a slot goes where its client's earlier requests went."""
        for write in (b"set k 0 0 1\r\n2\r\n", b"flush_all\r\n"):
            with self.subTest(write=write):
                self.order_is_kept(write)

    def order_is_kept(self, write):
        mock, moxi, _, first = self.established(dict(LONG, downstream_max=2, downstream_conn_max=2, wait_queue_timeout=ms(60000)))
        other, client = self.client(moxi), self.client(moxi)
        other.send(b"get busy\r\n")
        first.expect(b"get busy\r\n")
        client.send(b"set k 0 0 1\r\n1\r\n")
        second = mock.accept_expect(b"set k 0 0 1\r\n1\r\n")
        client.send(write).sync()
        self.client(moxi).turn()
        client.reset()
        self._ends[0].remove(client.close)
        second.expect(write)
        first.expect_nothing(0.05)

    def test_nothing_overtakes_a_multiget(self):
        """One that waited for a slot may be asked for bit by bit, and what comes after it is asked after that."""
        mock, moxi, a, server = self.established(dict(LONG, downstream_max=2, wait_queue_timeout=ms(60000),
                                                      client_buffer_max=65536))
        b, client = self.client(moxi), self.client(moxi)
        large = value(b"large", b"x" * 40000) + b"END\r\n"
        a.send(b"get large\r\n")
        server.expect(b"get large\r\n").send(large)
        a.expect(large)
        for busy in (a, b):
            busy.send(b"get busy\r\n")
            server.expect(b"get busy\r\n")
        client.send(b"get 1 2 3 4 5 6 7 8\r\nset 8 0 0 1\r\nx\r\n").sync()
        self.client(moxi).turn()
        server.send(b"END\r\n" * 2)
        for busy in (a, b):
            busy.expect(b"END\r\n")
        keys = []
        while len(keys) < 8:
            asked = server.line().split()
            self.assertEqual(asked[0], b"get")
            keys += asked[1:]
            server.send(b"END\r\n")
        server.expect(b"set 8 0 0 1\r\nx\r\n").send(b"STORED\r\n")
        client.expect(b"END\r\nSTORED\r\n")

    def test_waiting_client_goes(self):
        mock, moxi, a, server = self.established(dict(LONG, downstream_max=1, wait_queue_timeout=ms(60000)))
        b, c = self.client(moxi), self.client(moxi)
        a.send(b"get a\r\n")
        server.expect(b"get a\r\n")
        b.send(b"get b\r\n").sync()
        b.reset()
        self._ends[0].remove(b.close)
        c.turn()
        c.send(b"get c\r\n").sync()
        server.send(b"END\r\n")
        a.expect(b"END\r\n")
        server.expect(b"get c\r\n").send(b"END\r\n")
        c.expect(b"END\r\n")

    def test_two_connections(self):
        mock, moxi, a, first = self.established(dict(LONG, downstream_conn_max=2))
        b = self.client(moxi)
        a.send(b"get a1\r\n")
        first.expect(b"get a1\r\n")
        b.send(b"get b1\r\n")
        second = mock.accept_expect(b"get b1\r\n")
        a.send(b"set a2 0 0 1\r\nx\r\nget a2\r\n")  # in order after a1, so on its connection
        first.expect(b"set a2 0 0 1\r\nx\r\nget a2\r\n")
        b.send(b"get b2\r\n")
        second.expect(b"get b2\r\n")
        second.send(value(b"b1", b"B1") + b"END\r\n" + value(b"b2", b"B2") + b"END\r\n")
        b.expect(value(b"b1", b"B1") + b"END\r\n" + value(b"b2", b"B2") + b"END\r\n")
        first.send(b"END\r\nSTORED\r\n" + value(b"a2", b"x") + b"END\r\n")
        a.expect(b"END\r\nSTORED\r\n" + value(b"a2", b"x") + b"END\r\n")
        clients = [self.client(moxi) for _ in range(10)]
        for i, client in enumerate(clients):
            client.send(b"get k%d\r\n" % i).sync()
            self.client(moxi).turn()
        self.assertFalse(mock.pending())
        for server in (first, second):
            for _ in range(5):
                key = server.line()[4:-2]
                server.send(value(key, key) + b"END\r\n")
        for i, client in enumerate(clients):
            client.expect(value(b"k%d" % i, b"k%d" % i) + b"END\r\n")

    def test_slow_multiget_keeps_no_slot(self):
        """While it waits for its client to read, others are served; then it goes on."""
        mock = self.mock()
        moxi = self.moxi([mock], dict(LONG, downstream_max=1, wait_queue_timeout=ms(60000)))
        slow, other = self.client(moxi, rcvbuf=4096), self.client(moxi)
        keys = [b"big%d" % i for i in range(12)]
        data = b"x" * 1000000
        slow.send(b"get " + b" ".join(keys) + b"\r\n")
        server = mock.accept()
        asked = []

        def serve():
            """Answers what is asked; whether it was the other client's."""
            line = server.line()
            if line == b"get other\r\n":
                server.send(b"END\r\n")
                return True
            asked.extend(line.split()[1:])
            server.send(b"".join(value(k, data) for k in line.split()[1:]) + b"END\r\n")
            return False

        serve()
        other.send(b"get other\r\n")
        while not serve():
            pass
        other.expect(b"END\r\n")
        self.assertLess(len(asked), len(keys))
        self.serve_big(server, slow, [value(k, data) for k in keys])
        slow.expect(b"".join(value(k, data) for k in keys) + b"END\r\n")

    def test_asking_again_may_wait(self):
        """A get that asks again, its client having read, may wait for a slot as long as any other."""
        mock, moxi, other, server = self.established(
            dict(LONG, downstream_max=1, wait_queue_timeout=ms(3000), client_buffer_max=65536))
        for _ in range(60):  # moxi learns that values are small
            other.send(b"get w\r\n")
            server.expect(b"get w\r\n").send(b"END\r\n")
            other.expect(b"END\r\n")
        slow = self.client(moxi)
        keys = [b"k%d" % i for i in range(8)]
        values = [value(k, b"y" * 6000000) for k in keys]
        slow.send(b"get " + b" ".join(keys) + b"\r\n")
        server.expect(b"get " + b" ".join(keys) + b"\r\n").send(b"".join(values) + b"END\r\n").sync()
        time.sleep(3.1 * SCALE)  # longer than wait_queue_timeout
        other.send(b"get w\r\n")
        server.expect(b"get w\r\n")
        slow.expect(values[0])
        other.sync()
        server.send(b"END\r\n")
        other.expect(b"END\r\n")
        self.serve_big(server, slow, values)
        slow.expect(b"".join(values[1:]) + b"END\r\n")

    @staticmethod
    def serve_big(server, slow, values):
        """Answers whatever is asked for of these until the slow client, who reads now, has the end."""
        by_key = {v.split(b" ", 2)[1]: v for v in values}
        deadline = time.monotonic() + TIMEOUT
        while not slow.buffer.endswith(b"\nEND\r\n"):
            assert time.monotonic() < deadline, "%d bytes came, the last are %s" % (
                len(slow.buffer), bytes(slow.buffer[-80:]))
            if server.readable():
                server.send(b"".join(by_key[k] for k in server.line().split()[1:]) + b"END\r\n")
            if slow.readable(0.01):
                slow._receive()


class Noreply(MockTest):
    """noreply commands go out as if they wanted a reply, so that an error to one cannot shift the others."""

    COMMANDS = [
        (b"set k 0 0 1 noreply\r\nx\r\n", b"set k 0 0 1\r\nx\r\n", b"STORED\r\n"),
        (b"add k 0 0 1 noreply\r\nx\r\n", b"add k 0 0 1\r\nx\r\n", b"NOT_STORED\r\n"),
        (b"replace k 0 0 1 noreply\r\nx\r\n", b"replace k 0 0 1\r\nx\r\n", b"STORED\r\n"),
        (b"append k 0 0 0 noreply\r\n\r\n", b"append k 0 0 0\r\n\r\n", b"SERVER_ERROR out of memory\r\n"),
        (b"prepend k 0 0 1 noreply\r\nx\r\n", b"prepend k 0 0 1\r\nx\r\n", b"NOT_STORED\r\n"),
        (b"cas k 0 0 1 9 noreply\r\nx\r\n", b"cas k 0 0 1 9\r\nx\r\n", b"EXISTS\r\n"),
        (b"incr k 5 noreply\r\n", b"incr k 5\r\n", b"10\r\n"),
        (b"decr k 5 noreply\r\n", b"decr k 5\r\n", b"NOT_FOUND\r\n"),
        (b"touch k 5 noreply\r\n", b"touch k 5\r\n", b"TOUCHED\r\n"),
        (b"delete k noreply\r\n", b"delete k\r\n", b"DELETED\r\n"),
        (b"flush_all noreply\r\n", b"flush_all\r\n", b"OK\r\n"),
    ]

    def test_each(self):
        _, _, client, server = self.established()
        for request, relayed, reply in self.COMMANDS:
            with self.subTest(request=request):
                client.send(request)
                server.expect(relayed).send(reply)
                client.send(b"get k\r\n")
                server.expect(b"get k\r\n").send(value(b"k", b"v") + b"END\r\n")
                client.expect(value(b"k", b"v") + b"END\r\n")

    def test_pipelined_in_order(self):
        _, _, client, server = self.established()
        client.send(b"".join(c[0] for c in self.COMMANDS) + b"get k\r\n")
        server.expect(b"".join(c[1] for c in self.COMMANDS) + b"get k\r\n")
        server.send(b"".join(c[2] for c in self.COMMANDS) + value(b"k", b"v") + b"END\r\n")
        client.expect(value(b"k", b"v") + b"END\r\n").expect_nothing()

    def test_not_overtaken(self):
        """A command after a noreply waits its turn even when the noreply is slow."""
        _, moxi, client, server = self.established()
        client.send(b"set k 0 0 1 noreply\r\nx\r\nversion\r\nget k\r\n")
        server.expect(b"set k 0 0 1\r\nx\r\nget k\r\n")
        self.client(moxi).turn()
        client.expect_nothing()
        server.send(b"STORED\r\n").sync()
        client.expect_match(rb"VERSION .*\r\n")
        self.client(moxi).turn()
        client.expect_nothing()
        server.send(value(b"k", b"x") + b"END\r\n")
        client.expect(value(b"k", b"x") + b"END\r\n")

    def test_failures_are_silent(self):
        mock, _, client = self.one({"downstream_timeout": ms(250)})
        client.send(b"set k 0 0 1 noreply\r\nx\r\n")
        mock.accept_expect(b"set k 0 0 1\r\nx\r\n").close()
        client.send(b"incr k 1 noreply\r\n")
        server = mock.accept_expect(b"incr k 1\r\n")
        server.expect_closed()  # it timed out
        client.send(b"delete k noreply\r\n")
        server = mock.accept_expect(b"delete k\r\n")
        server.send(b"NONSENSE\r\n").expect_closed()
        mock.sock.close()
        client.send(b"set k 0 0 1 noreply\r\nx\r\nset k 0 0 x noreply\r\nversion\r\n")
        client.expect_match(rb"VERSION .*\r\n")
        client.expect_nothing()


class Streaming(MockTest):
    """Values over stream_min are passed on as they come, smaller ones whole or not at all."""

    SETTINGS = {"stream_min": 65536, "client_buffer_max": "4m"}
    DATA = bytes(range(256)) * 4096

    def test_first_part_before_the_last(self):
        _, moxi, client, server = self.established(self.SETTINGS)
        reply = value(b"k", self.DATA) + b"END\r\n"
        client.send(b"get k\r\nversion\r\n")
        server.expect(b"get k\r\n").send(reply[:300000])
        self.assertEqual(client.read(100000), reply[:100000])
        server.send(reply[300000:-10])
        client.expect(reply[100000:1000000])
        server.send(reply[-10:])
        client.expect(reply[1000000:]).expect_match(rb"VERSION .*\r\n")

    def test_server_dies_in_the_middle(self):
        for end in ("close", "reset"):
            with self.subTest(end=end):
                mock, moxi, client, server = self.established(self.SETTINGS)
                other = self.client(moxi)
                reply = value(b"k", self.DATA) + b"END\r\n"
                client.send(b"get k\r\n")
                server.expect(b"get k\r\n").send(reply[:300000])
                self.assertEqual(client.read(1000), reply[:1000])
                server.sync()
                getattr(server, end)()
                rest = client.read_all()
                self.assertEqual(rest, reply[1000:1000 + len(rest)])
                self.assertLessEqual(len(rest), 299000)
                self.works_again(mock, other)

    def test_server_stalls_in_the_middle(self):
        mock, moxi, client, server = self.established(dict(self.SETTINGS, downstream_timeout=ms(300)))
        reply = value(b"k", self.DATA) + b"END\r\n"
        client.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(reply[:300000])
        self.assertEqual(client.read(1000), reply[:1000])
        rest = client.read_all()
        self.assertEqual(rest, reply[1000:1000 + len(rest)])
        server.expect_closed()
        self.works_again(mock, self.client(moxi))

    def test_smaller_ones_are_whole_or_not_at_all(self):
        for size in (65535, 10000):
            mock, _, client, server = self.established(self.SETTINGS)
            reply = value(b"k", self.DATA[:size]) + b"END\r\n"
            client.send(b"get k\r\n")
            server.expect(b"get k\r\n").send(reply[:size]).sync()
            client.expect_nothing(0.02)
            server.close()
            client.expect(b"END\r\n")
            self.works_again(mock, client)

    def test_off(self):
        mock, _, client, server = self.established({"stream_min": 0})
        reply = value(b"k", self.DATA) + b"END\r\n"
        client.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(reply[:-20]).sync()
        client.expect_nothing(0.02)
        server.close()
        client.expect(b"END\r\n")
        self.works_again(mock, client)

    def two_servers(self, settings=SETTINGS):
        """A moxi before two mocks, a client; the mocks' connections, a key of each."""
        mocks = [self.mock(), self.mock()]
        moxi = self.moxi(mocks, settings)
        client = self.client(moxi)
        owner = {}
        for i in range(40):  # which key is whose
            client.send(b"get k%d\r\n" % i)
            ready = await_true(lambda: [m for m in mocks if m.pending() or m.conns and m.conns[0].readable()], "sent")
            server = ready[0].conns[0] if ready[0].conns else ready[0].accept()
            server.expect(b"get k%d\r\n" % i).send(b"END\r\n")
            client.expect(b"END\r\n")
            owner.setdefault(ready[0], b"k%d" % i)
            if len(owner) == 2:
                break
        return moxi, client, [m.conns[0] for m in mocks], [owner[m] for m in mocks]

    def test_not_before_its_turn(self):
        """What comes in while the client still waits for an earlier reply is kept for it."""
        _, client, (one, two), keys = self.two_servers()
        early, late = value(keys[0], b"first"), value(keys[1], self.DATA)
        for request, between in ((b"get %s\r\nget %s\r\n", b"END\r\n"), (b"get %s %s\r\n", b"")):
            client.send(request % tuple(keys))
            one.expect(b"get %s\r\n" % keys[0])
            two.expect(b"get %s\r\n" % keys[1]).send(late[:500000]).sync()
            client.expect_nothing(0.02)
            one.send(early + b"END\r\n")
            if between:
                client.expect(early + between + late[:400000])
            two.send(late[500000:] + b"END\r\n")
            client.expect(late[400000:] + b"END\r\n" if between else early + late + b"END\r\n")

    def test_multiget(self):
        """In a multiget as well, if all that goes before it is there; in the order of the keys."""
        _, client, (one, two), keys = self.two_servers()
        first, second = value(keys[0], self.DATA), value(keys[1], self.DATA[::-1])
        client.send(b"get %s %s none\r\nversion\r\n" % tuple(keys))
        for server, key in ((one, keys[0]), (two, keys[1])):
            self.assertIn(server.line().replace(b" none", b""), b"get %s\r\n" % key)
        two.send(second[:300000]).sync()
        client.expect_nothing(0.02)
        one.send(first[:400000])
        client.expect(first[:300000])
        two.send(second[300000:600000]).sync()
        one.send(first[400000:] + b"END\r\n")
        client.expect(first[300000:])
        two.send(second[600000:800000])
        client.expect(second[:700000])
        two.send(second[800000:] + b"END\r\n")
        client.expect(second[700000:] + b"END\r\n").expect_match(rb"VERSION .*\r\n")

    def test_multiget_off(self):
        _, client, (one, two), keys = self.two_servers({"stream_min": 0})
        reply = value(keys[0], self.DATA)
        client.send(b"get %s %s\r\n" % tuple(keys))
        one.expect(b"get %s\r\n" % keys[0]).send(reply[:-20]).sync()
        two.expect(b"get %s\r\n" % keys[1]).send(b"END\r\n").sync()
        client.expect_nothing(0.02)
        one.send(reply[-20:] + b"END\r\n")
        client.expect(reply + b"END\r\n")

    def test_multiget_and_an_error(self):
        """Behind a value that was passed on there is no room for another server's error; and it counts."""
        moxi, client, (one, two), keys = self.two_servers()
        reply = value(keys[0], self.DATA)
        client.send(b"get %s %s\r\n" % tuple(keys))
        two.expect(b"get %s\r\n" % keys[1]).send(b"SERVER_ERROR busy\r\n").sync()
        one.expect(b"get %s\r\n" % keys[0]).send(reply[:500000])
        client.expect(reply[:400000])
        one.send(reply[500000:] + b"END\r\n")
        client.expect(reply[400000:] + b"END\r\n")
        own = {name.rpartition(":pstd_stats")[2]: number for name, number in proxy_stats(client, b"stats").items()}
        self.assertEqual(own[":tot_streamed"], "1")
        self.assertEqual(own["_cmd:regular_get:hits"], "1")
        self.assertEqual(own["_cmd:regular_get:write_bytes"], str(len(reply)))

    def test_multiget_server_dies_in_the_middle(self):
        """The client is closed when a piece has been passed on, and gets what there is when not."""
        for passed_on, size, sent in ((True, len(self.DATA), 400000), (False, len(self.DATA), 10), (False, 60000, 50000)):
            _, client, (one, two), keys = self.two_servers()
            first, second = value(keys[0], self.DATA[:size]), value(keys[1], b"x" * 1000)
            client.send(b"get %s %s\r\n" % tuple(keys))
            two.expect(b"get %s\r\n" % keys[1]).send(second + b"END\r\n")
            one.expect(b"get %s\r\n" % keys[0]).send(first[:sent]).sync()
            if passed_on:
                client.expect(first[:1000])
                one.close()
                rest = client.read_all()
                self.assertEqual(rest, first[1000:1000 + len(rest)])
            else:
                one.close()
                client.expect(second + b"END\r\n")

    def test_multiget_stalls_in_the_middle(self):
        _, client, (one, two), keys = self.two_servers(dict(self.SETTINGS, downstream_timeout=ms(300)))
        first, second = value(keys[0], self.DATA), value(keys[1], b"x" * 1000)
        client.send(b"get %s %s\r\n" % tuple(keys))
        two.expect(b"get %s\r\n" % keys[1]).send(second + b"END\r\n")
        one.expect(b"get %s\r\n" % keys[0]).send(first[:300000])
        client.expect(first[:1000])
        rest = client.read_all()
        self.assertEqual(rest, first[1000:1000 + len(rest)])
        one.expect_closed()

    def test_slow_client_does_not_hold_up_the_connection(self):
        """The shared connection is read on though the client that a large value is for does not read."""
        mock, moxi, slow, server = self.established(dict(self.SETTINGS, **LONG))
        other = self.client(moxi)
        big = value(b"k", self.DATA * 8) + b"END\r\n"
        slow.send(b"get k\r\n")
        server.expect(b"get k\r\n")
        other.send(b"get o\r\n")
        server.expect(b"get o\r\n")
        server.send(big + value(b"o", b"O") + b"END\r\n")
        other.expect(value(b"o", b"O") + b"END\r\n")
        slow.expect(big)

    def test_client_goes_in_the_middle(self):
        for end in ("close", "reset"):
            mock, moxi, client, server = self.established(self.SETTINGS)
            other = self.client(moxi)
            reply = value(b"k", self.DATA) + b"END\r\n"
            client.send(b"get k\r\n")
            server.expect(b"get k\r\n").send(reply[:300000])
            self.assertEqual(client.read(1000), reply[:1000])
            other.send(b"get o\r\n")
            server.expect(b"get o\r\n")
            getattr(client, end)()
            self._ends[0].remove(client.close)
            server.send(reply[300000:] + value(b"o", b"O") + b"END\r\n")
            other.expect(value(b"o", b"O") + b"END\r\n")
            self.assertFalse(mock.pending())


class Counters(MockTest):
    def test_a_closed_downstream_is_counted(self):
        mock, moxi, client, server = self.established()
        stats = proxy_stats(client)
        conn = [v for k, v in stats.items() if re.fullmatch(r"\d+:\w+:pstd_stats:tot_downstream_conn", k)]
        self.assertEqual(conn, ["1"])
        server.shutdown().expect_closed()
        self.works_again(mock, client)
        stats = proxy_stats(client)
        conn = [v for k, v in stats.items() if re.fullmatch(r"\d+:\w+:pstd_stats:tot_downstream_conn", k)]
        self.assertEqual(conn, ["2"])


if __name__ == "__main__":
    unittest.main()
