#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_front - replies that serve for more than one request: the near cache (front_cache_*), and squash.

What moxi asks a server that the test plays shows what it has answered itself. test_model.py has random sessions.

Run as /usr/bin/python3 t/test_front.py [Class[.test]].
"""

import re
import select
import struct
import time
import unittest

from moxilib import QUIET, TIMEOUT, Client, MoxiTest, await_true, free_port, has_sanitizer, ms, proxy_stats
from moxi_mock import LONG, value
from binarylib import DELETEQ, FLUSHQ, GAT, GET, GETK, GETQ, INCR, NOOP, SET, SETQ, TOUCH, answer, count, expire, packet, store

FLAGS0 = struct.pack(">I", 0)
KEPT = {"front_cache_lifespan": ms(60000), "front_cache_spec": "k|n", "front_cache_unspec": "kept-out", "get_join_max": 1,
        "client_buffer_max": 1 << 30, **LONG}

# What is a write: by a client, as the server sees it (None: the same), the server's answer, and what the client gets (None: that).
TEXT_WRITES = [
    (b"set k 0 0 1\r\nx\r\n", None, b"STORED\r\n", None),
    (b"set k 0 0 1 noreply\r\nx\r\n", b"set k 0 0 1\r\nx\r\n", b"STORED\r\n", b""),
    (b"add k 0 0 1\r\nx\r\n", None, b"NOT_STORED\r\n", None),
    (b"replace k 0 0 1\r\nx\r\n", None, b"SERVER_ERROR out of memory storing object\r\n", None),
    (b"append k 0 0 1\r\nx\r\n", None, b"STORED\r\n", None),
    (b"prepend k 0 0 1 noreply\r\nx\r\n", b"prepend k 0 0 1\r\nx\r\n", b"STORED\r\n", b""),
    (b"cas k 0 0 1 5\r\nx\r\n", None, b"EXISTS\r\n", None),
    (b"incr k 1\r\n", None, b"11\r\n", None),
    (b"decr k 1\r\n", None, b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n", None),
    (b"touch k 10\r\n", None, b"TOUCHED\r\n", None),
    (b"delete k\r\n", None, b"DELETED\r\n", None),
    (b"delete k noreply\r\n", b"delete k\r\n", b"NOT_FOUND\r\n", b""),
    (b"gat 10 k\r\n", None, value(b"k", b"x") + b"END\r\n", None),
    (b"gats 10 a k b\r\n", None, b"VALUE k 0 1 5\r\nx\r\nEND\r\n", None),
    (b"flush_all\r\n", None, b"OK\r\n", None),
    (b"flush_all noreply\r\n", b"flush_all\r\n", b"OK\r\n", b""),
]
META_WRITES = [
    (b"ms k 1\r\nx\r\n", None, b"HD\r\n", None),
    (b"ms k 1 MA\r\nx\r\n", None, b"NS\r\n", None),
    (b"ms k 1 q\r\nx\r\nmn\r\n", b"ms k 1\r\nx\r\n", b"HD\r\n", b"MN\r\n"),
    (b"md k\r\n", None, b"HD\r\n", None),
    (b"md k I T30\r\n", None, b"HD\r\n", None),
    (b"md k q\r\nmn\r\n", b"md k\r\n", b"HD\r\n", b"MN\r\n"),
    (b"ma k\r\n", None, b"HD\r\n", None),
    (b"mg k v T30\r\n", None, b"VA 1\r\nx\r\n", None),
    (b"mg k v N30\r\n", None, b"VA 1 W\r\nx\r\n", None),
    (b"mg k v R30\r\n", None, b"VA 1 W\r\nx\r\n", None),
]


def get(key=b"k", data=b"v", flags=0):
    return value(key, data, flags) + b"END\r\n"


class FrontTest(MoxiTest):
    def one(self, settings=None, threads=1, base=KEPT):
        """A mock, moxi before it, and a client of each worker: those come in turn."""
        mock = self.mock()
        moxi = self.moxi([mock], dict(base, **(settings or {})), threads=threads)
        return mock, moxi, self.client(moxi), self.client(moxi)

    def served(self, client, server, request, reply, as_sent=None, as_told=None):
        """A request that the server sees, and answers."""
        client.send(request)
        server.expect(as_sent or request).send(reply)
        client.expect(reply if as_told is None else as_told)

    def first(self, mock, client, request=b"get k\r\n", reply=get()):
        """The same, on a new connection."""
        client.send(request)
        server = mock.accept_expect(request)
        server.send(reply)
        client.expect(reply)
        return server

    @staticmethod
    def stats(moxi, sub, name):
        client = Client(moxi.port)
        stats = proxy_stats(client, sub)
        client.close()
        return int(stats["%d:default:%s" % (moxi.port, name)])

    def counter(self, moxi, name):
        return self.stats(moxi, b"frontcache", "frontcache:" + name)

    def proxied(self, moxi, name):
        return self.stats(moxi, b"stats", "pstd_stats:" + name)


class NearCache(FrontTest):
    def test_hits(self):
        mock, moxi, a, b = self.one()
        server = self.first(mock, a, b"get k\r\n", get(b"k", b"hello", 7))
        for client in (a, b):
            client.ask(b"get k\r\n", get(b"k", b"hello", 7))
        self.served(b, server, b"get other\r\n", get(b"other"))
        self.served(b, server, b"get other\r\n", get(b"other"))
        self.served(b, server, b"get kept-out\r\n", get(b"kept-out"))
        self.served(b, server, b"get kept-out\r\n", get(b"kept-out"))

    def test_all_workers(self):
        mock, moxi, a, b = self.one(threads=2)
        self.first(mock, a)
        b.ask(b"get k\r\n", get())
        self.assertFalse(mock.pending())

    def test_no_spec_nothing(self):
        for base in (dict(LONG, front_cache_lifespan=ms(60000)), dict(LONG, front_cache_spec="k")):
            mock, moxi, a, _ = self.one(base=base)
            server = self.first(mock, a)
            self.served(a, server, b"get k\r\n", get())

    def test_every_key(self):
        mock, moxi, a, b = self.one({"front_cache_spec": "@all"})
        self.first(mock, a, b"get \xff!\r\n", get(b"\xff!"))
        b.ask(b"get \xff!\r\n", get(b"\xff!"))

    def test_lifespan(self):
        """Not less than what was asked for, from when the server has answered, and not ten milliseconds more."""
        span = ms(300)
        mock, moxi, a, b = self.one({"front_cache_lifespan": span})
        a.send(b"get k\r\n")
        server = mock.accept_expect(b"get k\r\n")
        begin = time.monotonic()
        server.send(get())
        a.expect(get())
        end = time.monotonic() + (span + 10) / 1000
        while not server.readable():
            sent = time.monotonic()
            b.send(b"get k\r\n")
            if not server.readable(0.005):
                b.expect(get())
                self.assertLess(sent, end)
        self.assertGreaterEqual(time.monotonic(), begin + span / 1000)
        server.expect(b"get k\r\n").send(get(b"k", b"new"))
        b.expect(get(b"k", b"new"))
        a.ask(b"get k\r\n", get(b"k", b"new"))

    def test_protocols(self):
        """What one protocol's reply tells serves others, as far as they need no more."""
        mock, moxi, a, b = self.one({"downstream_protocol": "meta"})
        self.first(mock, a, b"mg k v f k O1\r\n", b"VA 1 f7 kk O1\r\nv\r\n")
        server = mock.conns[0]
        b.ask(b"get k\r\n", get(flags=7))
        b.ask(b"mg k v s f q O99\r\n", b"VA 1 s1 f7 O99\r\nv\r\n")
        b.ask(b"mg k\r\n", b"HD\r\n").ask(b"mg k s f\r\n", b"HD s1 f7\r\n")
        b.ask(b"mg aw== b v k\r\n", b"VA 1 kk\r\nv\r\n")
        for flags in (b"c", b"t", b"h", b"l", b"v u"):
            self.served(b, server, b"mg k %s\r\n" % flags, b"EN\r\n")
        self.served(b, server, b"me k\r\n", b"EN\r\n")
        # A client of the binary protocol is told the unique, which the first did not ask for; who asks then, knows.
        c = self.client(moxi)
        c.send(packet(GET, b"k"))
        asked = server.line()
        self.assertIn(b" c", asked)
        server.send(b"VA 1 f7 c55\r\nv\r\n")
        c.expect(answer(GET, b"", struct.pack(">I", 7), b"v", cas=55))
        c.ask(packet(GETK, b"k"), answer(GETK, b"k", struct.pack(">I", 7), b"v", cas=55))

    def test_binary(self):
        mock, moxi, a, b = self.one({"downstream_protocol": "ascii"})
        server = self.first(mock, a)
        b.send(packet(GET, b"k"))
        server.expect(b"gets k\r\n").send(b"VALUE k 0 1 55\r\nv\r\nEND\r\n")
        b.expect(answer(GET, b"", FLAGS0, b"v", cas=55))
        b.ask(packet(GETK, b"k", opaque=b"1234"), answer(GETK, b"k", FLAGS0, b"v", cas=55, opaque=b"1234"))
        b.ask(packet(GETQ, b"k") + packet(NOOP), answer(GETQ, b"", FLAGS0, b"v", cas=55) + answer(NOOP))
        a.ask(b"get k\r\n", get())
        self.served(a, server, b"gets k\r\n", b"VALUE k 0 1 55\r\nv\r\nEND\r\n")

    def test_stale_items_are_not_kept(self):
        """The server says that somebody should renew it, and who: that is for each to be told."""
        mock, moxi, a, b = self.one({"downstream_protocol": "meta"})
        server = self.first(mock, a, b"mg k v f\r\n", b"VA 1 f0 X W\r\nv\r\n")
        self.served(b, server, b"mg k v f\r\n", b"VA 1 f0 X Z\r\nv\r\n")

    def each_write(self, protocol, writes):
        mock, moxi, a, b = self.one({"downstream_protocol": protocol, "downstream_timeout": ms(60000)})
        server = self.first(mock, a) if protocol != "meta" else self.first(mock, a, b"mg k v f\r\n", b"VA 1 f0\r\nv\r\n")
        again, reply = (b"get k\r\n", get()) if protocol != "meta" else (b"mg k v f\r\n", b"VA 1 f0\r\nv\r\n")
        for request, as_sent, result, as_told in writes:
            with self.subTest(request=request):
                b.ask(again, reply)
                b.send(request)
                server.expect(as_sent or request)
                # While it is on its way, what is read is not kept.
                a.send(again)
                server.expect(again).send(result + reply)
                b.expect(result if as_told is None else as_told)
                a.expect(reply)
                a.turn()
                b.turn()
                self.served(a, server, again, reply)

    def test_writes_in_text(self):
        self.each_write("ascii", TEXT_WRITES)

    def test_meta_writes(self):
        self.each_write("meta", META_WRITES)

    def test_binary_writes(self):
        mock, moxi, a, b = self.one({"downstream_protocol": "ascii"})
        server = self.first(mock, a)
        for request, as_sent, result in [
                (store(SET, b"k", b"x"), b"set k 0 0 1\r\nx\r\n", b"STORED\r\n"), (store(SETQ, b"k", b"x"), b"set k 0 0 1\r\nx\r\n", b"STORED\r\n"),
                (packet(DELETEQ, b"k"), b"delete k\r\n", b"DELETED\r\n"), (packet(FLUSHQ), b"flush_all\r\n", b"OK\r\n"),
                (expire(TOUCH, b"k", 5), b"touch k 5\r\n", b"TOUCHED\r\n"),
                (expire(GAT, b"k", 5), b"gats 5 k\r\n", b"VALUE k 0 1 5\r\nx\r\nEND\r\n"),
                (count(INCR, b"k", exptime=0xffffffff), b"incr k 1\r\n", b"11\r\n")]:
            with self.subTest(request=request):
                a.ask(b"get k\r\n", get())
                b.send(request + packet(NOOP, opaque=b"mark"))
                server.expect(as_sent).send(result)
                b.read_until(b"\x81\x0a" + b"\0" * 10 + b"mark" + b"\0" * 8)
                self.served(a, server, b"get k\r\n", get())

    def test_too_large(self):
        """A set that moxi refuses takes the old value away, as memcached does."""
        mock, moxi, a, b = self.one({"item_size_max": 10})
        server = self.first(mock, a)
        b.send(b"set k 0 0 11\r\n%s\r\n" % (b"x" * 11))
        server.expect(b"delete k\r\n").send(b"DELETED\r\n")
        b.expect(b"SERVER_ERROR object too large for cache\r\n")
        self.served(a, server, b"get k\r\n", b"END\r\n")

    def test_answer_older_than_a_write(self):
        """Asked before a write, answered after it: by another connection, that of another worker."""
        mock, moxi, a, b = self.one(threads=2)
        a.send(b"get k\r\n")
        reads = mock.accept_expect(b"get k\r\n")
        b.send(b"set k 0 0 3\r\nnew\r\n")
        writes = mock.accept_expect(b"set k 0 0 3\r\nnew\r\n")
        writes.send(b"STORED\r\n")
        b.expect(b"STORED\r\n")
        reads.send(get(b"k", b"old"))
        a.expect(get(b"k", b"old"))
        self.served(a, reads, b"get k\r\n", get(b"k", b"new"))
        b.ask(b"get k\r\n", get(b"k", b"new"))

    def test_own_write_pipelined(self):
        """A get behind its client's set is not answered with what another client has read meanwhile."""
        mock, moxi, a, b = self.one(threads=2)
        server = self.first(mock, a)
        b.send(b"set k 0 0 3\r\nnew\r\nget k\r\n")
        writes = mock.accept_expect(b"set k 0 0 3\r\nnew\r\nget k\r\n")
        self.served(a, server, b"get k\r\n", get())
        writes.send(b"STORED\r\n" + get(b"k", b"new"))
        b.expect(b"STORED\r\n" + get(b"k", b"new"))
        self.served(a, server, b"get k\r\n", get(b"k", b"new"))

    def kept_when_it_is_known(self, moxi, client, server, writes):
        """Of a key whose write nobody waits for, nothing is kept until its server has answered."""
        self.served(client, server, b"get k\r\n", get())
        self.served(client, server, b"get k\r\n", get())
        writes.send(b"STORED\r\n")
        await_true(lambda: self.proxied(moxi, "tot_downstream_swallowed") == 1, "the reply is dropped")
        self.served(client, server, b"get k\r\n", get(b"k", b"new"))
        client.ask(b"get k\r\n", get(b"k", b"new"))

    def test_write_that_times_out(self):
        """Nobody knows when it is carried out: until the server says so, nothing is kept."""
        mock, moxi, a, b = self.one({"downstream_timeout": ms(200)}, threads=2)
        server = self.first(mock, a)
        b.send(b"set k 0 0 3\r\nnew\r\n")
        writes = mock.accept_expect(b"set k 0 0 3\r\nnew\r\n")
        b.expect(b"SERVER_ERROR proxy downstream timeout %s\r\n" % mock.host)
        self.kept_when_it_is_known(moxi, a, server, writes)

    def test_client_gone_with_its_write(self):
        mock, moxi, a, b = self.one(threads=2)
        server = self.first(mock, a)
        b.send(b"set k 0 0 3 noreply\r\nnew\r\n")
        writes = mock.accept_expect(b"set k 0 0 3\r\nnew\r\n")
        b.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == 2, "moxi sees it go")
        self.kept_when_it_is_known(moxi, a, server, writes)

    def test_multiget(self):
        mock, moxi, a, b = self.one()
        server = self.first(mock, a, b"get k1 x k2\r\n", value(b"k1", b"1") + value(b"x", b"2") + get(b"k2", b"3"))
        b.ask(b"get k2 k1 k2\r\n", value(b"k2", b"3") + value(b"k1", b"1") + get(b"k2", b"3"))
        self.served(b, server, b"get k1 k3 k2 x\r\n", value(b"x", b"2") + b"END\r\n", b"get k3 x\r\n",
                    value(b"k1", b"1") + value(b"k2", b"3") + value(b"x", b"2") + b"END\r\n")
        self.served(b, server, b"get k1 k3\r\n", get(b"k3", b"4"), b"get k3\r\n", value(b"k1", b"1") + get(b"k3", b"4"))
        a.ask(b"get k3\r\n", get(b"k3", b"4"))

    def test_several_servers(self):
        mocks = [self.mock() for _ in range(3)]
        moxi = self.moxi(mocks, dict(KEPT, distribution="modula"))
        client = self.client(moxi)
        keys = [b"k%d" % i for i in range(30)]
        client.send(b"get %s\r\n" % b" ".join(keys))
        for mock in mocks:
            server = mock.accept()
            asked = server.line().split()[1:]
            server.send(b"".join(value(k, b"of-" + k) for k in asked) + b"END\r\n")
        everything = b"".join(value(k, b"of-" + k) for k in keys) + b"END\r\n"
        client.expect(everything)
        client.ask(b"get %s\r\n" % b" ".join(keys), everything)
        self.assertEqual(self.counter(moxi, "tot_saved_requests"), 1)
        self.assertEqual(self.counter(moxi, "curr_items"), 30)

    def test_misses(self):
        mock, moxi, a, b = self.one({"front_cache_miss_lifespan": ms(60000), "downstream_protocol": "ascii"})
        server = self.first(mock, a, b"get k\r\n", b"END\r\n")
        b.ask(b"get k\r\n", b"END\r\n").ask(b"mg k v\r\n", b"EN\r\n").ask(b"mg k q\r\nmn\r\n", b"MN\r\n")
        b.ask(b"get k k\r\n", b"END\r\n")
        self.served(b, server, b"add k 0 0 1\r\nv\r\n", b"STORED\r\n")
        self.served(b, server, b"get k\r\n", get())
        a.ask(b"get k\r\n", get())
        self.served(b, server, b"get k k2\r\n", b"END\r\n", b"get k2\r\n", get())
        self.assertEqual(self.counter(moxi, "tot_get_hits"), 7)
        b.ask(b"get k2\r\n", b"END\r\n")

    def test_misses_are_not_kept_by_default(self):
        mock, moxi, a, _ = self.one()
        server = self.first(mock, a, b"get k\r\n", b"END\r\n")
        self.served(a, server, b"get k\r\n", b"END\r\n")

    def test_no_miss_for_a_failure(self):
        mock, moxi, a, b = self.one({"front_cache_miss_lifespan": ms(60000), "downstream_retry": 0})
        server = self.first(mock, a, b"get n\r\n", b"END\r\n")
        a.send(b"get k\r\n")
        server.expect(b"get k\r\n").close()
        a.expect(b"END\r\n")
        server = self.first(mock, b)
        self.served(b, server, b"get k1\r\n", b"SERVER_ERROR out of memory reading request\r\n")
        self.served(b, server, b"get k1\r\n", get(b"k1"))

    def test_stale(self):
        """Past its lifespan one asks the server, and the others have the old value meanwhile."""
        mock, moxi, a, b = self.one({"front_cache_lifespan": ms(50), "front_cache_stale": ms(60000)})
        server = self.first(mock, a)
        while not server.readable():
            a.send(b"get k\r\n")
            if not server.readable(0.01):
                a.expect(get())
        for _ in range(3):
            b.ask(b"get k\r\n", get())
            b.ask(b"get k k\r\n", value(b"k", b"v") + get())
        server.expect(b"get k\r\n")
        server.expect_nothing()
        server.send(get(b"k", b"new"))
        a.expect(get(b"k", b"new"))
        b.ask(b"get k\r\n", get(b"k", b"new"))
        self.assertGreaterEqual(self.counter(moxi, "tot_get_stale"), 9)
        # A key that has gone meanwhile is not given any more.
        while not server.readable():
            a.send(b"get k\r\n")
            if not server.readable(0.01):
                a.expect(get(b"k", b"new"))
        server.expect(b"get k\r\n").send(b"END\r\n")
        a.expect(b"END\r\n")
        self.served(b, server, b"get k\r\n", b"END\r\n")

    def test_max(self):
        """With as many as there may be, a key is kept that was asked for twice, in place of one that nobody asked for."""
        mock, moxi, a, b = self.one({"front_cache_max": 2})
        server = self.first(mock, a, b"get k1\r\n", get(b"k1"))
        self.served(a, server, b"get k2\r\n", get(b"k2"))
        self.served(a, server, b"get k3\r\n", get(b"k3"))
        self.assertEqual(self.counter(moxi, "tot_add_skips"), 1)
        self.served(a, server, b"get k3\r\n", get(b"k3"))
        self.assertEqual(self.counter(moxi, "curr_items"), 2)
        self.assertEqual(self.counter(moxi, "tot_evictions"), 1)
        a.ask(b"get k3\r\n", get(b"k3"))

    def test_bytes(self):
        """No value of more than a quarter; and as many of those that fit as there is memory for."""
        mock, moxi, a, _ = self.one({"front_cache_bytes": 4 << 20, "front_cache_max": 1000, "client_buffer_max": 64 << 20})
        server = self.first(mock, a, b"get k\r\n", get(b"k", b"x" * ((1 << 20) + 1)))
        self.served(a, server, b"get k\r\n", get(b"k", b"x" * (1 << 20)))
        a.ask(b"get k\r\n", get(b"k", b"x" * (1 << 20)))
        a.ask(b"get k k\r\n", value(b"k", b"x" * (1 << 20)) + get(b"k", b"x" * (1 << 20)))
        for i in range(100):
            self.served(a, server, b"get k%d\r\n" % i, get(b"k%d" % i, b"y" * 100000))
        self.assertLessEqual(self.counter(moxi, "curr_bytes"), 4 << 20)
        self.assertGreater(self.counter(moxi, "curr_items"), 10)
        self.assertGreater(self.counter(moxi, "evicted_for_bytes"), 10)
        a.ask(b"get k99\r\n", get(b"k99", b"y" * 100000))

    def test_large_value_in_pieces(self):
        mock, moxi, a, b = self.one()
        reply = get(b"k", bytes(range(256)) * 4000)
        a.send(b"get k\r\n")
        mock.accept_expect(b"get k\r\n").send_pieces([reply[:10], reply[10:500000], reply[500000:-3], reply[-3:-1], reply[-1:]])
        a.expect(reply)
        b.ask(b"get k\r\n", reply)

    def test_cut_anywhere(self):
        mock, moxi, a, b = self.one({"downstream_retry": 0, "connect_max_errors": 1000000})
        reply = get(b"k", b"0123456789")
        for cut in range(len(reply)):
            a.send(b"get k\r\n")
            server = mock.accept_expect(b"get k\r\n")
            server.send(reply[:cut])
            server.close()
            a.expect(reply if cut >= len(reply) - 5 else b"END\r\n")
            if cut >= len(reply) - 5:  # the value was whole
                b.ask(b"get k\r\n", reply)
                b.send(b"delete k\r\n")
                server = mock.accept_expect(b"delete k\r\n")
                server.send(b"DELETED\r\n")
                b.expect(b"DELETED\r\n")
                server.close()

    def test_flush_all_later(self):
        """What is kept ends about two seconds before it, and nothing is kept until about two after."""
        mock, moxi, a, b = self.one()
        server = self.first(mock, a)
        self.served(b, server, b"flush_all 4\r\n", b"OK\r\n")
        self.served(b, server, b"get k\r\n", get())
        a.ask(b"get k\r\n", get())
        while not server.readable():
            b.send(b"get k\r\n")
            if not server.readable(0.05):
                b.expect(get())
        server.expect(b"get k\r\n").send(get())
        b.expect(get())
        self.served(b, server, b"get k\r\n", get())

    def test_reset(self):
        mock, moxi, a, b = self.one()
        self.first(mock, a)
        a.ask(b"get k\r\n", get())
        self.assertEqual(self.counter(moxi, "tot_saved_requests"), 1)
        self.assertEqual(self.counter(moxi, "tot_saved_bytes"), 1)
        a.ask(b"stats proxy reset\r\n", b"RESET\r\n")
        self.assertEqual(self.counter(moxi, "tot_get_hits"), 0)
        self.assertEqual(self.counter(moxi, "curr_items"), 1)

    def test_slow_reader(self):
        """Values from the near cache are counted for what a client is owed, and are put off like others."""
        mock, moxi, a, b = self.one({"client_buffer_max": 65536, "front_cache_bytes": 16 << 20})
        reply = get(b"k", b"x" * 1000000)
        self.first(mock, a, b"get k\r\n", reply)
        slow = self.client(moxi, rcvbuf=8192)
        slow.send_some(b"get k\r\n" * 2000)
        a.turn()
        self.assertLess(moxi.memory(), 150 << 20)
        for _ in range(20):
            slow.expect(reply)

    def put_off(self, settings, request, begun, lost):
        """A client that does not read asks for x and k, and the connection is lost in the middle of k."""
        mock, moxi, a, b = self.one(dict({"client_buffer_max": 65536, "downstream_retry": 0, "stream_min": 0,
                                          "connect_max_errors": 1000000}, **settings))
        server = self.first(mock, a, request % b"x", begun % (1, b"v"))
        for _ in range(60):
            self.served(a, server, request % b"x", begun % (1, b"v"))
        slow = self.client(moxi, rcvbuf=8192)
        slow.send(request % b"x" + request % b"k")
        server.expect(request % b"x" + request % b"k")
        large = begun % (8000000, b"y" * 8000000)
        server.send(large + lost)
        await_true(lambda: self.proxied(moxi, "tot_put_off") == 1, "the value is put off")
        server.close()
        await_true(lambda: self.proxied(moxi, "num_downstream_conn") == 0, "moxi sees it close")
        slow.expect(large)
        return mock, moxi, a, b, slow

    def test_lost_while_it_was_put_off(self):
        """What had come of the value is no part of what comes when it is asked for again."""
        mock, moxi, a, b, slow = self.put_off({"front_cache_spec": "k"}, b"get %s\r\n", b"VALUE x 0 %d\r\n%s\r\nEND\r\n",
                                              get(b"k", b"z" * 1000000)[:500000])
        server = mock.accept_expect(b"get k\r\n")
        b.send(b"set k 0 0 1\r\nq\r\n")
        server.expect(b"set k 0 0 1\r\nq\r\n")
        server.send(get() + b"STORED\r\n")
        slow.expect(get())
        b.expect(b"STORED\r\n")

    def test_lost_while_it_was_put_off_and_stale(self):
        mock, moxi, a, b, slow = self.put_off({"front_cache_spec": "k", "downstream_protocol": "meta"}, b"mg %s v f\r\n",
                                              b"VA %d f0\r\n%s\r\n", b"VA 1000000 f0\r\n" + b"1" * 500000)
        server = mock.accept_expect(b"mg k v f\r\n")
        stale = b"VA 600000 f0 X W\r\n%s\r\n" % (b"2" * 600000)
        server.send(stale)
        slow.expect(stale)
        self.served(a, server, b"mg k v f\r\n", b"VA 1 f0\r\nv\r\n")

    def test_bounded_multiget(self):
        """A key many times, by clients that do not read."""
        mock, moxi, a, b = self.one({"client_buffer_max": 1 << 20, "front_cache_spec": "k"})
        server = self.first(mock, a, b"get k\r\n", get(b"k", b"y" * 16000))
        for _ in range(60):
            self.served(a, server, b"get x\r\n", get(b"x"))
        slow = [self.client(moxi, rcvbuf=8192) for _ in range(5)]
        for client in slow:
            client.send_some(b"get" + b" k" * 200000 + b"\r\n")
            client.sync()
        a.turn()
        if not has_sanitizer():
            self.assertLess(moxi.memory(), 150 << 20)
        for _ in range(300):
            slow[0].expect(value(b"k", b"y" * 16000))

    def test_gat_of_several_keys_that_times_out(self):
        """A part of it that nobody has answered is a write of its keys still."""
        mocks = [self.mock(), self.mock()]
        moxi = self.moxi(mocks, dict(KEPT, downstream_timeout=ms(200), distribution="modula"), threads=1)
        client = self.client(moxi)
        keys = [b"k%d" % i for i in range(8)]
        client.send(b"gat -1 %s\r\n" % b" ".join(keys))
        asked = [(mock.accept(), None) for mock in mocks]
        asked = [(server, server.line().split()[2:]) for server, _ in asked]
        client.expect(b"END\r\n")
        self.assertTrue(all(held for _, held in asked))
        for server, held in asked:
            key = held[0]
            client.send(b"get %s\r\n" % key)
            server.expect(b"get %s\r\n" % key)
            server.send(b"END\r\n" + get(key))
            client.expect(get(key))
            self.served(client, server, b"get %s\r\n" % key, get(key))
            client.ask(b"get %s\r\n" % key, get(key))

    def test_another_pool_with_the_server(self):
        """A write by it is one of the same key."""
        server = self.memcached()
        other = free_port()
        moxi = self.moxi(["127.0.0.1:%d;%d=127.0.0.1:%d,local" % (server.port, other, server.port)],
                         {**KEPT, "%d.front_cache_lifespan" % other: 0}, threads=2)
        a, b = self.client(moxi), self.client(other)
        for i in range(20):
            key = b"k%d" % i
            a.ask(b"set %s 0 0 3\r\nold\r\nget %s\r\n" % (key, key), b"STORED\r\n" + get(key, b"old"))
            a.ask(b"get %s\r\n" % key, get(key, b"old"))
            b.ask(b"set %s 0 0 3\r\nnew\r\n" % key, b"STORED\r\n")
            direct = self.client(server)
            direct.send(b"get %s\r\n" % key)
            stored = b"".join(line + b"\r\n" for line in direct.lines_to_end() + [b"END"])
            a.ask(b"get %s\r\n" % key, stored)
        b.ask(b"flush_all\r\n", b"OK\r\n")
        a.ask(b"get k1\r\n", b"END\r\n")

    def test_the_cache_inside(self):
        moxi = self.moxi(["local"], KEPT)
        client = self.client(moxi)
        client.ask(b"set k 3 0 1\r\nv\r\nget k\r\nget k k\r\n", b"STORED\r\n" + get(flags=3) + value(b"k", b"v", 3) + get(flags=3))
        client.ask(b"incr k 1\r\n", b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n")
        self.assertEqual(self.counter(moxi, "tot_get_hits"), 2)


class Squash(FrontTest):
    def one(self, settings=None, threads=1):
        return super().one(settings, threads, base=dict(LONG, squash=1, get_join_max=1, client_buffer_max=1 << 30))

    def together(self, settings=None, requests=(b"get k\r\n", b"get k\r\n")):
        mock, moxi, a, b = self.one(settings)
        a.send(requests[0])
        server = mock.accept_expect(requests[0])
        b.send(requests[1])
        b.sync()
        return mock, moxi, a, b, server

    def squashed(self, moxi):
        return self.proxied(moxi, "tot_squashed")

    def followed(self, moxi, n=1):
        await_true(lambda: self.squashed(moxi) == n, "%d follow" % n)

    def test_asked_once(self):
        for reply in (get(flags=5), b"END\r\n", b"SERVER_ERROR out of memory reading request\r\n", get(b"k", b"x" * 1000000)):
            mock, moxi, a, b, server = self.together()
            self.followed(moxi)
            server.send(reply)
            a.expect(reply)
            b.expect(reply)
            self.served(b, server, b"get k\r\n", reply)

    def test_thousand_clients(self):
        mock, moxi, a, b = self.one(threads=2)
        clients = [self.client(moxi) for _ in range(1000)]
        for client in clients:
            client.send(b"get k\r\n")
        servers = [mock.accept_expect(b"get k\r\n") for _ in range(2)]
        self.followed(moxi, 998)
        for server in servers:
            server.expect_nothing()
            server.send(get())
        for client in clients:
            client.expect(get())

    def test_same_client(self):
        mock, moxi, a, b = self.one()
        a.send(b"get k\r\nget k\r\nget j\r\nget k\r\n")
        server = mock.accept_expect(b"get k\r\nget j\r\n")
        server.send(get())
        a.expect(get() * 2)
        server.send(get(b"j"))
        a.expect(get(b"j") + get())

    def test_not_over_a_write(self):
        """What was asked before a write does not answer what is asked after it; of whichever client, in whichever worker."""
        mock, moxi, a, b = self.one(threads=2)
        c = self.client(moxi)  # of the worker of a
        a.send(b"get k\r\n")
        reads = mock.accept_expect(b"get k\r\n")
        b.send(b"set k 0 0 3\r\nnew\r\n")
        writes = mock.accept_expect(b"set k 0 0 3\r\nnew\r\n")
        c.send(b"get k\r\n")
        reads.expect(b"get k\r\n")
        writes.send(b"STORED\r\n")
        b.expect(b"STORED\r\n")
        d = self.client(moxi)
        e = self.client(moxi)
        e.send(b"get k\r\n")
        reads.expect(b"get k\r\n")
        reads.send(get() + get(b"k", b"new") + get(b"k", b"new"))
        a.expect(get())
        c.expect(get(b"k", b"new"))
        e.expect(get(b"k", b"new"))
        d.close()

    def test_own_write_behind_it(self):
        mock, moxi, a, b, server = self.together(requests=(b"get k\r\n", b"get k\r\nset k 0 0 1\r\nx\r\nget k\r\n"))
        server.expect(b"set k 0 0 1\r\nx\r\nget k\r\n")
        server.send(get() + b"STORED\r\n" + get(b"k", b"x"))
        a.expect(get())
        b.expect(get() + b"STORED\r\n" + get(b"k", b"x"))

    def test_leader_gone(self):
        mock, moxi, a, b, server = self.together()
        self.followed(moxi)
        a.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == 2, "moxi sees it go")
        c = self.client(moxi)
        c.send(b"get k\r\n")
        self.followed(moxi, 2)
        server.send(get())
        b.expect(get())
        c.expect(get())
        self.served(b, server, b"get k\r\n", get())

    def test_leader_gone_in_the_middle(self):
        mock, moxi, a, b, server = self.together()
        self.followed(moxi)
        reply = get(b"k", b"x" * 500000)
        server.send_pieces([reply[:200000]])
        a.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == 2, "moxi sees it go")
        server.send(reply[200000:])
        b.expect(reply)

    def test_leader_gone_that_nobody_followed(self):
        mock, moxi, a, b = self.one()
        a.send(b"get k\r\n")
        server = mock.accept_expect(b"get k\r\n")
        a.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == 2, "moxi sees it go")
        b.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(get() * 2)
        b.expect(get())

    def test_follower_gone(self):
        mock, moxi, a, b, server = self.together()
        self.followed(moxi)
        b.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == 2, "moxi sees it go")
        server.send(get())
        a.expect(get())
        self.served(a, server, b"get k\r\n", get())

    def test_all_gone(self):
        mock, moxi, a, b, server = self.together()
        self.followed(moxi)
        a.reset()
        b.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == 1, "moxi sees them go")
        server.send(get())
        c = self.client(moxi)
        self.served(c, server, b"get j\r\n", get(b"j"))

    def test_timeout(self):
        mock, moxi, a, b, server = self.together({"downstream_timeout": ms(300)})
        self.followed(moxi)
        a.expect(b"END\r\n")
        b.expect(b"END\r\n")
        b.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(get() + get(b"k", b"new"))
        b.expect(get(b"k", b"new"))

    def test_lost_connection(self):
        mock, moxi, a, b, server = self.together()
        self.followed(moxi)
        server.close()
        server = mock.accept_expect(b"get k\r\n")
        server.send(get())
        a.expect(get())
        b.expect(get())

    def test_lost_in_the_middle(self):
        mock, moxi, a, b, server = self.together()
        self.followed(moxi)
        server.send(get()[:15])
        server.close()
        a.expect(b"END\r\n")
        b.expect(b"END\r\n")

    def test_not_once_the_reply_has_begun(self):
        mock, moxi, a, b = self.one()
        a.send(b"get k\r\n")
        server = mock.accept_expect(b"get k\r\n")
        server.send_pieces([get()[:13]])
        b.send(b"get k\r\n")
        server.expect(b"get k\r\n")
        server.send(get()[13:] + get())
        a.expect(get())
        b.expect(get())

    def test_protocols(self):
        """Who needs more than the other asked for asks itself."""
        full = b"mg k v f s k\r\n"
        mock, moxi, a, b, server = self.together({"downstream_protocol": "meta"}, (full, b"mg k O7 f v\r\n"))
        c = self.client(moxi)
        c.send(b"get k\r\n")
        self.followed(moxi, 2)
        c.send(b"gets k\r\n")
        d = self.client(moxi)
        d.send(b"mg k v f t\r\n")
        server.expect(b"mg k f v c\r\nmg k v f t\r\n")
        server.send(b"VA 1 f3 s1 kk\r\nv\r\n")
        a.expect(b"VA 1 f3 s1 kk\r\nv\r\n")
        b.expect(b"VA 1 O7 f3\r\nv\r\n")
        c.expect(get(flags=3))

    def test_who_wants_no_value(self):
        mock, moxi, a, b, server = self.together({"downstream_protocol": "meta"}, (b"mg k v f\r\n", b"mg k f s\r\n"))
        server.expect(b"mg k f s\r\n").send(b"VA 1 f3\r\nv\r\n" + b"HD f3 s1\r\n")
        a.expect(b"VA 1 f3\r\nv\r\n")
        b.expect(b"HD f3 s1\r\n")

    def test_flags_that_moxi_does_not_know(self):
        """They may be an error, and that is for who has sent them."""
        mock, moxi, a, b, server = self.together({"downstream_protocol": "meta"}, (b"mg k v f L\r\n", b"mg k v f\r\n"))
        server.expect(b"mg k v f\r\n").send(b"CLIENT_ERROR invalid flag\r\nVA 1 f3\r\nv\r\n")
        a.expect(b"CLIENT_ERROR invalid flag\r\n")
        b.expect(b"VA 1 f3\r\nv\r\n")

    def test_after_a_write_of_a_hot_key(self):
        """Those who ask during the write ask for themselves; those who do after it, once."""
        mock, moxi, a, b = self.one()
        a.send(b"set k 0 0 1\r\nx\r\n")
        server = mock.accept_expect(b"set k 0 0 1\r\nx\r\n")
        during = [self.client(moxi) for _ in range(9)]
        for client in during:
            client.send(b"get k\r\n")
            server.expect(b"get k\r\n")
        server.send(b"STORED\r\n")
        a.expect(b"STORED\r\n")
        a.send(b"get k\r\n")
        server.expect(b"get k\r\n")
        b.send(b"get k\r\n")
        self.followed(moxi)
        server.send(get() * 9 + get(b"k", b"x"))
        for client in during:
            client.expect(get())
        a.expect(get(b"k", b"x"))
        b.expect(get(b"k", b"x"))

    def test_leader_gone_that_was_to_renew(self):
        mock, moxi, a, b, server = self.together({"downstream_protocol": "meta"}, (b"mg k v f\r\n", b"mg k v f\r\n"))
        c = self.client(moxi)
        c.send(b"mg k v f\r\n")
        self.followed(moxi, 2)
        a.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == 3, "moxi sees it go")
        server.send(b"VA 1 f3 X W\r\nv\r\n")
        told = [client.line() for client in (b, c)]
        self.assertEqual(sorted(told), [b"VA 1 f3 X W\r\n", b"VA 1 f3 Z X\r\n"])

    def test_not_behind_one_that_is_about_to_time_out(self):
        mock, moxi, a, b = self.one({"downstream_timeout": ms(1000)})
        a.send(b"get k\r\n")
        server = mock.accept_expect(b"get k\r\n")
        late = time.monotonic() + ms(600) / 1000
        while time.monotonic() < late:
            b.turn()
        b.send(b"get k\r\n")
        server.expect(b"get k\r\n")
        a.expect(b"END\r\n")
        server.send(get() + get(b"k", b"late"))
        b.expect(get(b"k", b"late"))

    def test_one_is_told_to_renew(self):
        mock, moxi, a, b, server = self.together({"downstream_protocol": "meta"}, (b"mg k v f\r\n", b"mg k v f\r\n"))
        self.followed(moxi)
        server.send(b"VA 1 f3 X W\r\nv\r\n")
        a.expect(b"VA 1 f3 X W\r\nv\r\n")
        b.expect(b"VA 1 f3 Z X\r\nv\r\n")

    def test_binary(self):
        mock, moxi, a, b = self.one({"downstream_protocol": "ascii"})
        a.send(packet(GET, b"k"))
        server = mock.accept_expect(b"gets k\r\n")
        b.send(packet(GETK, b"k", opaque=b"1234"))
        self.followed(moxi)
        c = self.client(moxi)
        c.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(b"VALUE k 0 1 55\r\nv\r\nEND\r\n" + get())
        a.expect(answer(GET, b"", FLAGS0, b"v", cas=55))
        b.expect(answer(GETK, b"k", FLAGS0, b"v", cas=55, opaque=b"1234"))
        c.expect(get())

    def test_connections(self):
        """Who has something on another connection than the leader's asks there."""
        mock, moxi, a, b = self.one({"downstream_conn_max": 2})
        a.send(b"get k\r\n")
        first = mock.accept_expect(b"get k\r\n")
        b.send(b"set j 0 0 1\r\nx\r\n")
        second = mock.accept_expect(b"set j 0 0 1\r\nx\r\n")
        b.send(b"get k\r\n")
        second.expect(b"get k\r\n")
        c = self.client(moxi)
        c.send(b"get k\r\nset k 0 0 1\r\nx\r\n")
        at = [server for server in (first, second) if server.readable(QUIET)]
        self.assertEqual(len(at), 1)
        at[0].expect(b"set k 0 0 1\r\nx\r\n")
        first.send(get() + (b"STORED\r\n" if at[0] is first else b""))
        second.send(b"STORED\r\n" + get() + (b"STORED\r\n" if at[0] is second else b""))
        a.expect(get())
        b.expect(b"STORED\r\n" + get())
        c.expect(get() + b"STORED\r\n")

    def test_with_the_near_cache(self):
        mock, moxi, a, b, server = self.together({"front_cache_lifespan": ms(60000), "front_cache_spec": "k"})
        self.followed(moxi)
        server.send(get())
        a.expect(get())
        b.expect(get())
        b.ask(b"get k\r\n", get())

    def test_follower_gone_with_the_near_cache(self):
        mock, moxi, a, b, server = self.together({"front_cache_lifespan": ms(60000), "front_cache_spec": "k"})
        self.followed(moxi)
        b.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == 2, "moxi sees it go")
        server.send(get())
        a.expect(get())
        a.ask(b"get k\r\n", get())


class SquashSeveral(FrontTest):
    """Gets of several keys, which one server is asked for in one line."""

    ask = b"get a b c\r\n"
    whole = value(b"a", b"1") + value(b"b", b"2") + value(b"c", b"3") + b"END\r\n"

    def one(self, settings=None, threads=1):
        return super().one(settings, threads, base=dict(LONG, squash=1, get_join_max=1, client_buffer_max=1 << 30))

    def together(self, settings=None):
        """a leads, b follows."""
        mock, moxi, a, b = self.one(settings)
        a.send(self.ask)
        server = mock.accept_expect(self.ask)
        b.send(self.ask)
        self.followed(moxi)
        return mock, moxi, a, b, server

    def followed(self, moxi, n=1):
        await_true(lambda: self.proxied(moxi, "tot_squashed") == n, "%d follow" % n)

    def gone(self, moxi, client):
        before = self.proxied(moxi, "num_upstream")
        client.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == before - 1, "moxi sees it go")

    def test_asked_once(self):
        large = value(b"b", b"x" * 1000000)
        for reply in (self.whole, value(b"a", b"1") + value(b"c", b"", 7) + b"END\r\n", value(b"b", b"2") + b"END\r\n", b"END\r\n",
                      b"SERVER_ERROR out of memory reading request\r\n", value(b"a", b"1") + large + value(b"c", b"3") + b"END\r\n"):
            for stream_min in (0, 1 << 16):
                mock, moxi, a, b, server = self.together({"stream_min": stream_min})
                server.send(reply)
                a.expect(reply)
                b.expect(reply)
                self.served(b, server, self.ask, self.whole)

    def test_counted(self):
        mock, moxi, a, b, server = self.together()
        server.send(value(b"a", b"1") + get(b"b"))
        b.expect(value(b"a", b"1") + get(b"b"))
        self.assertEqual(self.stats(moxi, b"all", "pstd_stats_cmd:regular_get:hits"), 4)
        self.assertEqual(self.stats(moxi, b"all", "pstd_stats_cmd:regular_get:misses"), 2)
        self.assertEqual(self.proxied(moxi, "tot_multiget_keys"), 6)

    def test_thousand_clients(self):
        mock, moxi, a, b = self.one()
        clients = [self.client(moxi) for _ in range(1000)]
        for client in clients:
            client.send(self.ask)
        server = mock.accept_expect(self.ask)
        self.followed(moxi, 999)
        server.expect_nothing()
        server.send(self.whole)
        for client in clients:
            client.expect(self.whole)

    def test_unequal_lists(self):
        mock, moxi, a, b, server = self.together()
        others = [b"get %s\r\n" % keys for keys in (b"a b", b"a b c d", b"a c b", b"b c", b"a b cc", b"a bc", b"a b b c", b"a", b"c")]
        others += [b"gets a b c\r\n"]
        for other in others:
            b.send(other)
            server.expect(other)
        server.send(self.whole + b"END\r\n" * len(others))
        a.expect(self.whole)
        b.expect(self.whole + b"END\r\n" * len(others))
        self.followed(moxi)

    def test_the_same_key_twice(self):
        self.ask = b"get a a b\r\n"
        mock, moxi, a, b, server = self.together()
        server.send(value(b"a", b"1") * 2 + get(b"b"))
        a.expect(value(b"a", b"1") * 2 + get(b"b"))
        b.expect(value(b"a", b"1") * 2 + get(b"b"))

    def test_not_over_a_write(self):
        """Of any of the keys: in the same worker, and in another."""
        for key in (b"a", b"b", b"c"):
            for threads in (1, 2):
                mock, moxi, a, b = self.one(threads=threads)
                c = self.client(moxi)
                a.send(self.ask)
                reads = mock.accept_expect(self.ask)
                write = b"set %s 0 0 3\r\nnew\r\n" % key
                b.send(write)
                writes = mock.accept_expect(write) if threads == 2 else reads.expect(write)
                c.send(self.ask)
                reads.expect(self.ask)
                fresh = get(key, b"new")
                reads.send(self.whole)
                writes.send(b"STORED\r\n")
                b.expect(b"STORED\r\n")
                reads.send(fresh)
                a.expect(self.whole)
                c.expect(fresh)

    def test_after_a_write(self):
        """One who has asked while it was being written is not followed; who asks later is."""
        mock, moxi, a, b = self.one()
        c = self.client(moxi)
        b.send(b"delete b\r\n")
        server = mock.accept_expect(b"delete b\r\n")
        for _ in range(2):
            a.send(self.ask)
            server.expect(self.ask)
        server.send(b"DELETED\r\n")
        b.expect(b"DELETED\r\n")
        b.send(self.ask)
        server.expect(self.ask)
        c.send(self.ask)
        self.followed(moxi)
        server.send(self.whole * 2 + b"END\r\n")
        a.expect(self.whole * 2)
        b.expect(b"END\r\n")
        c.expect(b"END\r\n")

    def test_flush_all_between(self):
        mock, moxi, a, b, server = self.together()
        c = self.client(moxi)
        c.send(b"flush_all\r\n" + self.ask)
        server.expect(b"flush_all\r\n" + self.ask).send(self.whole + b"OK\r\nEND\r\n")
        for client in (a, b):
            client.expect(self.whole)
        c.expect(b"OK\r\nEND\r\n")

    def test_many_spent(self):
        """Those that nobody may follow any more make room for one that may be."""
        mock, moxi, a, b = self.one()
        a.send((self.ask + b"delete c\r\n") * 12 + self.ask)
        server = mock.accept_expect((self.ask + b"delete c\r\n") * 12 + self.ask)
        server.send((b"END\r\n" + b"DELETED\r\n") * 12)
        a.expect((b"END\r\n" + b"DELETED\r\n") * 12)
        b.send(self.ask + self.ask)
        server.expect(self.ask)
        self.followed(moxi)
        server.send(b"END\r\n" + self.whole)
        b.expect(self.whole * 2)

    def test_not_once_the_reply_has_begun(self):
        mock, moxi, a, b = self.one()
        a.send(self.ask)
        server = mock.accept_expect(self.ask)
        server.send_pieces([self.whole[:15]])
        b.send(self.ask)
        server.expect(self.ask).send(self.whole[15:] + self.whole)
        a.expect(self.whole)
        b.expect(self.whole)

    def test_leader_gone(self):
        for at in (0, 15, 40):
            mock, moxi, a, b, server = self.together()
            server.send_pieces([self.whole[:at]] if at else [])
            self.gone(moxi, a)
            server.send(self.whole[at:])
            b.expect(self.whole)
            self.served(b, server, self.ask, self.whole)

    def test_follower_gone(self):
        for at in (0, 15, 40):
            mock, moxi, a, b, server = self.together()
            server.send_pieces([self.whole[:at]] if at else [])
            self.gone(moxi, b)
            server.send(self.whole[at:])
            a.expect(self.whole)
            self.served(a, server, self.ask, self.whole)

    def test_lost_and_timed_out(self):
        mock, moxi, a, b, server = self.together()
        server.close()
        server = mock.accept_expect(self.ask)
        server.send(self.whole[:35]).close()
        for client in (a, b):
            client.expect(value(b"a", b"1") + get(b"b", b"2"))
        mock, moxi, a, b, server = self.together({"downstream_timeout": ms(300)})
        for client in (a, b):
            client.expect(b"END\r\n")
        b.send(self.ask)
        server.expect(self.ask).send(self.whole + b"END\r\n")
        b.expect(b"END\r\n")

    def test_pipelined_behind_a_follower(self):
        """It is carried out behind what the follower is answered with, whichever connection that took."""
        mock, moxi, a, b = self.one({"downstream_conn_max": 4})
        a.send(self.ask)
        server = mock.accept_expect(self.ask)
        write = b"set c 0 0 1\r\nx\r\n"
        b.send(self.ask + write + self.ask)
        self.followed(moxi)
        server.expect(write + self.ask).send(self.whole + b"STORED\r\n" + get(b"c", b"x"))
        a.expect(self.whole)
        b.expect(self.whole + b"STORED\r\n" + get(b"c", b"x"))

    def test_joined(self):
        """A line that others have joined may be followed all the same."""
        mock, moxi, a, b = self.one({"get_join_max": 100})
        a.send(self.ask + b"get d\r\n")
        server = mock.accept_expect(b"get a b c d\r\n")
        b.send(self.ask + b"get d\r\n")
        self.followed(moxi, 2)
        server.send(value(b"a", b"1") + value(b"b", b"2") + get(b"d"))
        for client in (a, b):
            client.expect(value(b"a", b"1") + value(b"b", b"2") + b"END\r\n" + get(b"d"))

    def test_servers_of_other_protocols(self):
        mock, moxi, a, b = self.one({"downstream_protocol": "meta"})
        a.send(self.ask)
        server = mock.accept()
        self.assertEqual([server.line().split()[0] for _ in range(4)], [b"mg", b"mg", b"mg", b"mn"])
        b.send(self.ask)
        self.followed(moxi)
        server.send(b"VA 1 f0 O1\r\n2\r\nMN\r\n")
        for client in (a, b):
            client.expect(get(b"b", b"2"))

    def slow_and_quick(self, large):
        """A moxi that has learned that values are small; a client that does not read, and is owed `large`, asked for as x."""
        mock, moxi, a, b = self.one({"client_buffer_max": 65536, "stream_min": 0})
        server = self.first(mock, a, b"get x\r\n", get(b"x"))
        for _ in range(60):
            self.served(a, server, b"get x\r\n", get(b"x"))
        slow = self.client(moxi, rcvbuf=8192)
        slow.send(b"get x\r\n")
        server.expect(b"get x\r\n")
        return mock, moxi, a, b, slow, server

    def test_one_is_slow(self):
        """Leader or follower: it asks again for what it was owed too much to take."""
        large = get(b"x", b"y" * 8000000)
        values = value(b"a", b"z" * 1000) + value(b"b", b"w" * 1000) + b"END\r\n"
        for slow_leads in (True, False):
            mock, moxi, a, b, slow, server = self.slow_and_quick(large)
            for client in (slow, a) if slow_leads else (a, slow):
                client.send(self.ask)
                client.sync()
                b.turn()
            server.expect(self.ask)
            self.followed(moxi)
            server.send(large + values)
            a.expect(values)
            await_true(lambda: self.proxied(moxi, "tot_put_off") == 1, "it is put off")
            slow.expect(large)
            # As values are large, as moxi has learned, one by one.
            for key, reply in ((b"a", get(b"a", b"z" * 1000)), (b"b", get(b"b", b"w" * 1000)), (b"c", b"END\r\n")):
                server.expect(b"get %s\r\n" % key).send(reply)
            slow.expect(values)


class SquashSplit(FrontTest):
    """Gets of several keys of several servers. In tests' requests and replies a key's name says whose it is: A1, B1, A2, B2."""

    def two(self, settings=None, servers=2):
        """Mocks A and B, moxi, which knows them to have small values, and two clients; finds out which key is whose."""
        self.mocks = [self.mock() for _ in range(servers)]
        base = dict(LONG, squash=1, get_join_max=1, distribution="modula", client_buffer_max=1 << 30)
        moxi = self.moxi(self.mocks, dict(base, **(settings or {})))
        client = self.client(moxi)
        self.names, found = {}, [0] * servers
        for i in range(60):
            key = b"k%02d" % i
            client.send(b"get %s\r\n" % key)
            ready = await_true(lambda: [m for m in self.mocks if m.pending() or m.conns and m.conns[0].readable()], "sent")[0]
            self.served_by(ready.conns[0] if ready.conns else ready.accept(), b"get %s\r\n" % key, b"END\r\n")
            client.expect(b"END\r\n")
            at = self.mocks.index(ready)
            found[at] += 1
            self.names[b"%c%d" % (b"ABC"[at], found[at])] = key
        self.assertGreater(min(found), 3)
        return moxi, client, self.client(moxi), self.mocks[0].conns[0], self.mocks[1].conns[0]

    @staticmethod
    def served_by(server, request, reply):
        server.expect(request).send(reply)

    def real(self, text):
        """With the keys that the names stand for."""
        return re.sub(rb"\b[ABC]\d\b", lambda name: self.names[name[0]], text)

    def ask(self, client, names=b"A1 B1 A2 B2"):
        client.send(self.real(b"get %s\r\n" % names))

    def asked(self, server, names):
        server.expect(self.real(b"get %s\r\n" % names))

    def reply(self, names, data=b"v"):
        return b"".join(value(self.names[name], data) for name in names.split()) + b"END\r\n"

    def followed(self, moxi, n=1):
        await_true(lambda: self.proxied(moxi, "tot_squashed") == n, "%d follow" % n)

    def gone(self, moxi, client):
        before = self.proxied(moxi, "num_upstream")
        client.reset()
        await_true(lambda: self.proxied(moxi, "num_upstream") == before - 1, "moxi sees it go")

    def together(self, settings=None):
        """a leads, b follows."""
        moxi, a, b, one, two = self.two(settings)
        self.ask(a)
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        self.ask(b)
        self.followed(moxi)
        return moxi, a, b, one, two

    def again(self, client, one, two):
        """All is well: it is asked and answered once more."""
        self.ask(client)
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        one.send(self.reply(b"A1 A2"))
        two.send(self.reply(b"B1 B2"))
        client.expect(self.reply(b"A1 B1 A2 B2"))

    def test_asked_once(self):
        """Whatever the servers have, small or large, streamed or not, and in whichever order it comes."""
        for data in (b"", b"v", b"v" * 5000, b"v" * 1000000):
            for first in (0, 1):
                moxi, a, b, one, two = self.together({"stream_min": 1 << 16})
                replies = [(one, self.reply(b"A1 A2", data)), (two, self.reply(b"B2", data))]
                for server, reply in replies[first:] + replies[:first]:
                    server.send_pieces([reply[:7], reply[7:]])
                for client in (b, a):
                    client.expect(self.reply(b"A1 A2 B2", data))
                self.again(b, one, two)
                self.assertEqual(self.proxied(moxi, "tot_squashed"), 1)
                self.assertEqual(self.proxied(moxi, "tot_streamed"), 0)

    def test_counted(self):
        moxi, a, b, one, two = self.together()
        one.send(self.reply(b"A2"))
        two.send(self.reply(b"B1 B2"))
        for client in (a, b):
            client.expect(self.reply(b"B1 A2 B2"))
        stats = {name: self.stats(moxi, b"all", "pstd_stats_cmd:regular_get:" + name) for name in ("seen", "hits", "misses")}
        self.assertEqual(stats, {"seen": 62, "hits": 6, "misses": 62})

    def test_misses_and_errors(self):
        error, end = b"SERVER_ERROR out of memory reading request\r\n", b"END\r\n"
        for at_one, at_two, whole in ((end, end, end), (error, end, error), (end, error, error), (error, error, error)):
            for first in (0, 1):
                moxi, a, b, one, two = self.together()
                replies = [(one, at_one), (two, at_two)]
                for server, reply in replies[first:] + replies[:first]:
                    server.send(reply).sync()
                for client in (a, b):
                    client.expect(whole)
                self.again(b, one, two)

    def test_an_error_and_values(self):
        """Behind values there is no error; as for a get of these keys that nobody follows."""
        for first in (0, 1):
            moxi, a, b, one, two = self.together()
            replies = [(one, self.reply(b"A1 A2")), (two, b"SERVER_ERROR busy\r\n")]
            for server, reply in replies[first:] + replies[:first]:
                server.send(reply).sync()
            for client in (a, b):
                client.expect(self.reply(b"A1 A2"))

    def test_thousand_clients(self):
        moxi, a, b, one, two = self.two()
        clients = [self.client(moxi) for _ in range(1000)]
        for client in clients:
            self.ask(client)
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        self.followed(moxi, 999)
        one.expect_nothing()
        two.expect_nothing()
        one.send(self.reply(b"A1 A2"))
        two.send(self.reply(b"B1 B2"))
        for client in clients:
            client.expect(self.reply(b"A1 B1 A2 B2"))

    def test_unequal_lists(self):
        moxi, a, b, one, two = self.together()
        for names, at_one, at_two in ((b"A1 B1 A2", b"A1 A2", b"B1"), (b"A1 B1 A2 B2 A3", b"A1 A2 A3", b"B1 B2"),
                                      (b"A1 B2 A2 B1", b"A1 A2", b"B2 B1"), (b"A1 B1", b"A1", b"B1")):
            c = self.client(moxi)
            self.ask(c, names)
            self.asked(one, at_one)
            self.asked(two, at_two)
        self.followed(moxi)

    def test_not_over_a_write(self):
        for key in (b"A1", b"B1", b"A2", b"B2"):
            moxi, a, b, one, two = self.together()
            c = self.client(moxi)
            c.send(self.real(b"delete %s\r\n" % key))
            written = one if key.startswith(b"A") else two
            written.expect(self.real(b"delete %s\r\n" % key))
            d = self.client(moxi)
            self.ask(d)
            self.asked(one, b"A1 A2")
            self.asked(two, b"B1 B2")
            one.send(self.reply(b"A1 A2"))
            two.send(self.reply(b"B1 B2"))
            for client in (a, b):
                client.expect(self.reply(b"A1 B1 A2 B2"))
            written.send(b"DELETED\r\n")
            c.expect(b"DELETED\r\n")
            one.send(b"END\r\n")
            two.send(b"END\r\n")
            d.expect(b"END\r\n")

    def test_not_once_a_part_has_begun(self):
        for begun in (7, None):
            moxi, a, b, one, two = self.two()
            self.ask(a)
            self.asked(one, b"A1 A2")
            self.asked(two, b"B1 B2")
            one.send_pieces([self.reply(b"A1 A2")[:begun]])
            b.turn()
            self.ask(b)
            self.asked(two, b"B1 B2")
            self.assertEqual(self.proxied(moxi, "tot_squashed"), 0)

    def test_pipelined_behind_a_follower(self):
        """It is asked when that has been answered; and so whatever its client reads is not older than what it has read."""
        moxi, a, b, one, two = self.two({"downstream_conn_max": 4})
        self.ask(a)
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        self.ask(b)
        b.send(self.real(b"set A1 0 0 1\r\nx\r\nget A1\r\n"))
        self.followed(moxi)
        c = self.client(moxi)
        c.send(self.real(b"get A3\r\n"))
        other = self.mocks[0].expect_somewhere(self.real(b"get A3\r\n"))
        other.send(b"END\r\n")
        c.expect(b"END\r\n")
        one.expect_nothing()
        one.send(self.reply(b"A1 A2"))
        two.send(self.reply(b"B1 B2"))
        for client in (a, b):
            client.expect(self.reply(b"A1 B1 A2 B2"))
        writes = self.mocks[0].expect_somewhere(self.real(b"set A1 0 0 1\r\nx\r\nget A1\r\n"))
        writes.send(b"STORED\r\n" + self.reply(b"A1", b"x"))
        b.expect(b"STORED\r\n" + self.reply(b"A1", b"x"))

    def test_pipelined_behind_a_follower_not_at_its_turn(self):
        """It is asked as soon as that has been answered, whoever is answered before them."""
        moxi, a, b, one, two = self.two()
        self.ask(a)
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        b.send(self.real(b"get A3\r\nget A1 B1 A2 B2\r\nget B3\r\n"))
        self.followed(moxi)
        self.asked(one, b"A3")
        one.send(b"END\r\n")
        two.send(b"END\r\n")
        a.expect(b"END\r\n")
        self.asked(two, b"B3")
        one.send(b"END\r\n")
        two.send(b"END\r\n")
        b.expect(b"END\r\n" * 3)

    def test_pins_of_others_stay(self):
        """Who follows has no pin, and takes none away from what its client has asked before."""
        moxi, a, b, one, two = self.two({"downstream_conn_max": 4})
        self.ask(a)
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        b.send(self.real(b"get A3\r\n"))
        other = self.mocks[0].expect_somewhere(self.real(b"get A3\r\n"))
        self.ask(b)
        self.followed(moxi)
        one.send(self.reply(b"A1 A2"))
        two.send(self.reply(b"B1 B2"))
        a.expect(self.reply(b"A1 B1 A2 B2"))
        b.send(self.real(b"delete A3\r\n"))
        other.expect(self.real(b"delete A3\r\n")).send(self.reply(b"A3") + b"DELETED\r\n")
        b.expect(self.reply(b"A3") + self.reply(b"A1 B1 A2 B2") + b"DELETED\r\n")

    def test_same_client(self):
        moxi, a, b, one, two = self.two()
        a.send(self.real(b"get A1 B1\r\n") * 3 + self.real(b"get A2\r\n"))
        self.asked(one, b"A1")
        self.asked(two, b"B1")
        one.expect_nothing()
        one.send(self.reply(b"A1"))
        two.send(self.reply(b"B1"))
        a.expect(self.reply(b"A1 B1") * 2)
        self.asked(one, b"A1")
        self.asked(two, b"B1")
        one.send(self.reply(b"A1"))
        two.send(self.reply(b"B1"))
        self.asked(one, b"A2")
        one.send(self.reply(b"A2"))
        a.expect(self.reply(b"A1 B1") + self.reply(b"A2"))

    def test_leader_gone(self):
        """Those who followed ask for what they have not been told; one of them leads the others."""
        for whole in (False, True):
            moxi, a, b, one, two = self.together()
            c = self.client(moxi)
            self.ask(c)
            self.followed(moxi, 2)
            if whole:
                one.send_pieces([self.reply(b"A1 A2")])
            self.gone(moxi, a)
            if not whole:
                one.send(self.reply(b"A1 A2"))
            two.send(self.reply(b"B1 B2", b"old"))
            rest_one, rest_two = (b"A2", b"B1 B2") if whole else (b"A1 A2", b"B1 B2")
            self.asked(one, rest_one)
            self.asked(two, rest_two)
            self.followed(moxi, 3)
            one.send(self.reply(rest_one))
            two.send(self.reply(rest_two))
            for client in (b, c):
                client.expect(self.reply(b"A1 B1 A2 B2"))
            self.again(b, one, two)

    def test_leader_gone_with_an_error(self):
        """What was no miss, but an error, is asked again too; and then its client may ask for more at once, as always."""
        moxi, a, b, one, two = self.together()
        one.send_pieces([b"SERVER_ERROR busy\r\n"])
        self.gone(moxi, a)
        two.send(b"END\r\n")
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        self.ask(b, b"A3")
        self.asked(one, b"A3")
        one.send(self.reply(b"A1 A2") + self.reply(b"A3"))
        two.send(self.reply(b"B1 B2"))
        b.expect(self.reply(b"A1 B1 A2 B2") + self.reply(b"A3"))

    def test_leader_gone_but_the_end(self):
        """All values have been told already."""
        moxi, a, b, one, two = self.together()
        large = self.reply(b"B1 B2", b"x" * 100000)
        one.send(self.reply(b"A1 A2"))
        two.send_pieces([large[:-5]])
        b.expect(self.reply(b"A1 B1 A2 B2")[:20])
        self.gone(moxi, a)
        b.read_until(b"END\r\n")
        two.send(large[-5:])
        self.again(b, one, two)

    def test_follower_gone(self):
        for answered in (False, True):
            moxi, a, b, one, two = self.together()
            if answered:
                one.send_pieces([self.reply(b"A1 A2")])
            self.gone(moxi, b)
            if not answered:
                one.send(self.reply(b"A1 A2"))
            two.send(self.reply(b"B1 B2"))
            a.expect(self.reply(b"A1 B1 A2 B2"))
            self.again(a, one, two)

    def test_all_gone(self):
        moxi, a, b, one, two = self.together()
        c = self.client(moxi)
        self.gone(moxi, b)
        self.gone(moxi, a)
        one.send(self.reply(b"A1 A2"))
        two.send(self.reply(b"B1 B2"))
        self.again(c, one, two)

    def test_timeout(self):
        moxi, a, b, one, two = self.together({"downstream_timeout": ms(400)})
        two.send(self.reply(b"B1 B2"))
        for client in (a, b):
            client.expect(self.reply(b"B1 B2"))
        one.send(self.reply(b"A1 A2"))
        self.again(b, one, two)

    def test_lost_connection(self):
        moxi, a, b, one, two = self.together()
        one.close()
        one = self.mocks[0].accept()
        self.asked(one, b"A1 A2")
        one.send(self.reply(b"A1 A2")[:-8]).close()
        two.send(self.reply(b"B1 B2"))
        for client in (a, b):
            client.expect(self.reply(b"A1 B1 B2"))

    def test_refused(self):
        """A server that is not there has nothing."""
        moxi, a, b, one, two = self.two({"connect_max_errors": 1000000, "downstream_retry": 0})
        one.close()
        self.mocks[0].sock.close()
        self.ask(a)
        self.asked(two, b"B1 B2")
        await_true(lambda: self.proxied(moxi, "tot_downstream_connect_failed") == 1, "it cannot be connected")
        # A part has come back, so this one asks itself.
        self.ask(b)
        self.asked(two, b"B1 B2")
        two.send(self.reply(b"B1 B2") * 2)
        for client in (a, b):
            client.expect(self.reply(b"B1 B2"))

    def test_what_a_leader_has_from_the_near_cache(self):
        """Who asks when that has outlived its lifespan does not follow."""
        span = ms(300)
        moxi, a, b, one, two = self.two({"front_cache_spec": "@all", "front_cache_lifespan": span})
        self.ask(a, b"A1")
        self.asked(one, b"A1")
        one.send(self.reply(b"A1"))
        a.expect(self.reply(b"A1"))
        end = time.monotonic() + span / 1000
        self.ask(a, b"A1 B1")
        self.asked(two, b"B1")
        self.ask(b, b"A1 B1")
        self.followed(moxi)
        await_true(lambda: time.monotonic() > end, "the end of the lifespan")
        late = self.client(moxi)
        self.ask(late, b"A1 B1")
        self.asked(one, b"A1")
        self.asked(two, b"B1")
        one.send(self.reply(b"A1", b"new"))
        two.send(self.reply(b"B1") * 2)
        for client in (a, b):
            client.expect(self.reply(b"A1 B1"))
        late.expect(self.reply(b"A1", b"new")[:-5] + self.reply(b"B1"))

    def test_leader_not_at_its_turn(self):
        """Who follows does not wait for what the leader's client has asked before."""
        moxi, a, b, one, two = self.two(servers=3)
        three = self.mocks[2].conns[0]
        self.ask(a, b"C1")
        self.asked(three, b"C1")
        self.ask(a, b"A1 B1")
        self.asked(one, b"A1")
        self.asked(two, b"B1")
        self.ask(b, b"A1 B1")
        self.followed(moxi)
        one.send(self.reply(b"A1"))
        two.send(self.reply(b"B1"))
        b.expect(self.reply(b"A1 B1"))
        a.expect_nothing()
        three.send(self.reply(b"C1"))
        a.expect(self.reply(b"C1") + self.reply(b"A1 B1"))

    def one_that_does_not_read(self, leads):
        """
        Of three clients who get the same of both servers one, the first or the second to ask, does not read a large value
        that it has asked for before. The servers have answered. Returns moxi, the others, it, the value, and its reply.
        """
        moxi, a, b, one, two = self.two({"client_buffer_max": 1 << 20, "stream_min": 0})
        slow = self.client(moxi, rcvbuf=8192)
        slow.send(self.real(b"get A3\r\n"))
        self.asked(one, b"A3")
        first, second = (slow, a) if leads else (a, slow)
        self.ask(first)
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        self.ask(second)
        self.ask(b)
        self.followed(moxi, 2)
        large, data = self.reply(b"A3", b"y" * 9000000), b"z" * 30000
        one.send(large + self.reply(b"A1 A2", data))
        two.send(self.reply(b"B1 B2", data))
        return moxi, (a, b), slow, data, large + self.reply(b"A1 B1 A2 B2", data)

    def test_leader_that_does_not_read(self):
        """Whoever follows it has all, and moxi keeps no more than it may."""
        moxi, others, slow, data, reply = self.one_that_does_not_read(leads=True)
        for client in others:
            self.answer_until(client, self.reply(b"A1 B1 A2 B2", data), data)
        self.assertGreater(self.proxied(moxi, "tot_put_off"), 0)
        self.answer_until(slow, reply, data)

    def test_follower_that_does_not_read(self):
        moxi, others, slow, data, reply = self.one_that_does_not_read(leads=False)
        for client in others:
            client.expect(self.reply(b"A1 B1 A2 B2", data))
        await_true(lambda: self.proxied(moxi, "tot_put_off") == 1, "it is put off")
        self.answer_until(slow, reply, data)

    def answer_until(self, client, reply, data):
        """The servers answer each get with that value, until the client has the reply."""
        deadline = time.monotonic() + TIMEOUT
        while len(client.buffer) < len(reply) and time.monotonic() < deadline:
            conns = [mock.conns[0] for mock in self.mocks]
            select.select([conn.sock for conn in conns] + [client.sock], [], [], 1)
            if client.readable():
                client._receive()
            for conn in conns:
                if conn.readable():
                    keys = conn.line().split()[1:]
                    conn.send(b"".join(value(key, data) for key in keys) + b"END\r\n")
        client.expect(reply)

    def test_bit_by_bit(self):
        """One that is not asked for whole at once is not followed."""
        moxi, a, b, one, two = self.two({"client_buffer_max": 65536})
        self.ask(a, b"A3")
        self.answer_until(a, self.reply(b"A3", b"x" * 1000000), b"x" * 1000000)
        for client in (a, b):
            self.ask(client)
        self.asked(one, b"A1")
        self.asked(one, b"A1")
        one.send(self.reply(b"A1") * 2)
        for client in (a, b):
            self.answer_until(client, self.reply(b"A1 B1 A2 B2"), b"v")
        self.assertEqual(self.proxied(moxi, "tot_squashed"), 0)

    def test_few_at_once(self):
        """Who follows takes no place of those that may be asked at once."""
        moxi, a, b, one, two = self.two({"downstream_max": 1})
        self.ask(a)
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        self.ask(b)
        self.followed(moxi)
        c = self.client(moxi)
        c.send(self.real(b"get A3\r\n"))
        self.gone(moxi, a)
        one.send(self.reply(b"A1 A2"))
        two.send(self.reply(b"B1 B2"))
        self.asked(one, b"A3")
        one.send(self.reply(b"A3"))
        c.expect(self.reply(b"A3"))
        self.asked(one, b"A1 A2")
        self.asked(two, b"B1 B2")
        one.send(self.reply(b"A1 A2"))
        two.send(self.reply(b"B1 B2"))
        b.expect(self.reply(b"A1 B1 A2 B2"))

    def test_with_the_near_cache(self):
        """What is there already is in the reply of all, and what comes is kept."""
        moxi, a, b, one, two = self.two({"front_cache_lifespan": ms(60000), "front_cache_spec": "@all"})
        self.ask(a, b"A1")
        self.served_by(one, self.real(b"get A1\r\n"), self.reply(b"A1", b"near"))
        a.expect(self.reply(b"A1", b"near"))
        self.ask(a)
        self.asked(one, b"A2")
        self.asked(two, b"B1 B2")
        self.ask(b)
        self.followed(moxi)
        one.send(self.reply(b"A2"))
        two.send(self.reply(b"B1 B2"))
        whole = self.reply(b"A1", b"near")[:-5] + self.reply(b"B1 A2 B2")
        for client in (a, b):
            client.expect(whole)
        self.ask(b)
        b.expect(whole)

    def test_one_server_with_the_near_cache(self):
        mock, moxi, a, b = self.one({"squash": 1, "front_cache_spec": "@all"})
        a.send(b"get a b\r\n")
        server = mock.accept_expect(b"get a b\r\n")
        b.send(b"get a b\r\n")
        self.followed(moxi)
        server.send(value(b"a", b"1") + get(b"b"))
        for client in (a, b):
            client.expect(value(b"a", b"1") + get(b"b"))
        b.ask(b"get a b\r\n", value(b"a", b"1") + get(b"b"))


class OptimizeSet(FrontTest):
    def one(self, settings=None, threads=1):
        return super().one(settings, threads, base=dict(LONG, optimize_set="k", get_join_max=1))

    def test_answered_at_once(self):
        mock, moxi, a, b = self.one()
        for data in (b"", b"v", b"v" * 300, b"v" * 5000, b"v" * 1000000):
            a.ask(b"set k 7 60 %d\r\n%s\r\n" % (len(data), data), b"STORED\r\n")
            server = mock.conns[0] if mock.conns else mock.accept()
            server.expect(b"set k 7 60 %d\r\n%s\r\n" % (len(data), data))
            # What comes later goes behind it; of whoever.
            a.send(b"get k\r\n")
            b.send(b"delete k\r\n")
            server.read(len(b"get k\r\ndelete k\r\n"))
            server.send(b"STORED\r\n" + get(b"k", data, 7) + b"DELETED\r\n")
            a.expect(get(b"k", data, 7))
            b.expect(b"DELETED\r\n")
        self.assertEqual(self.proxied(moxi, "tot_optimized_sets"), 5)

    def test_others_wait(self):
        mock, moxi, a, b = self.one()
        a.send(b"set j 0 0 1\r\nv\r\n")
        server = mock.accept_expect(b"set j 0 0 1\r\nv\r\n")
        b.send(b"add k 0 0 1\r\nv\r\n")
        server.expect(b"add k 0 0 1\r\nv\r\n")
        a.expect_nothing()
        b.expect_nothing()
        server.send(b"STORED\r\n" * 2)
        a.expect(b"STORED\r\n")
        b.expect(b"STORED\r\n")

    def test_refused_and_lost(self):
        """Nobody is told, and what follows has its own replies."""
        mock, moxi, a, _ = self.one()
        a.ask(b"set k 0 0 1\r\nv\r\n", b"STORED\r\n")
        server = mock.accept_expect(b"set k 0 0 1\r\nv\r\n")
        a.send(b"get k\r\n")
        server.expect(b"get k\r\n").send(b"SERVER_ERROR out of memory storing object\r\n" + get(b"k", b"old"))
        a.expect(get(b"k", b"old"))
        a.ask(b"set k 0 0 1\r\nv\r\n", b"STORED\r\n")
        server.expect(b"set k 0 0 1\r\nv\r\n").close()
        a.send(b"get k\r\n")
        mock.accept_expect(b"get k\r\n").send(b"END\r\n")
        a.expect(b"END\r\n")

    def test_order(self):
        """With several connections, what its client asks later takes the same; with no slot left it waits like all."""
        mock, moxi, a, _ = self.one({"downstream_conn_max": 4})
        a.ask(b"set k 0 0 1\r\n1\r\nset k 0 0 1\r\n2\r\n", b"STORED\r\n" * 2)
        a.send(b"append k 0 0 1\r\n3\r\nget k\r\n")
        server = mock.accept_expect(b"set k 0 0 1\r\n1\r\nset k 0 0 1\r\n2\r\nappend k 0 0 1\r\n3\r\nget k\r\n")
        server.send(b"STORED\r\n" * 3 + get(b"k", b"23"))
        a.expect(b"STORED\r\n" + get(b"k", b"23"))

    def test_behind_what_waits(self):
        mock, moxi, a, b = self.one({"downstream_max": 1, "wait_queue_timeout": 0})
        b.send(b"get j\r\n")
        server = mock.accept_expect(b"get j\r\n")
        a.send(b"append k 0 0 1\r\n1\r\nset k 0 0 1\r\n2\r\n")
        a.sync()
        server.send(get(b"j"))
        server.expect(b"append k 0 0 1\r\n1\r\n").send(b"STORED\r\n")
        server.expect(b"set k 0 0 1\r\n2\r\n").send(b"STORED\r\n")
        a.expect(b"STORED\r\n" * 2)

    def test_near_cache(self):
        """Nothing is kept until the server has said that it has it."""
        mock, moxi, a, b = self.one({"front_cache_lifespan": ms(60000), "front_cache_spec": "k"}, threads=2)
        server = self.first(mock, b)
        b.ask(b"get k\r\n", get())
        a.ask(b"set k 0 0 1\r\nw\r\n", b"STORED\r\n")
        other = mock.accept_expect(b"set k 0 0 1\r\nw\r\n")
        self.served(b, server, b"get k\r\n", get())
        other.send(b"STORED\r\n")
        await_true(lambda: self.proxied(moxi, "tot_downstream_swallowed") == 1, "it is carried out")
        self.served(b, server, b"get k\r\n", get(b"k", b"w"))
        b.ask(b"get k\r\n", get(b"k", b"w"))

    def test_cache_inside(self):
        moxi = self.moxi(["local"], {"optimize_set": "@all"})
        self.client(moxi).ask(b"set k 0 0 1\r\nv\r\nget k\r\n", b"STORED\r\n" + get())


if __name__ == "__main__":
    unittest.main(verbosity=1)
