#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_memory - when memory runs out: every allocation of a session fails in turn, and nothing else does.

t/fail_alloc.c, built here with cc, makes the n-th allocation of the n-th moxi fail, counted from a session's begin. A
session has all commands. One request or one connection may fail; whatever is answered is right, or an error that says
that memory ran out; the next session finds everything in order. At the end moxi exits as it should, and has no more
memory allocated than one for which nothing failed.

Skipped where moxi is built with a sanitizer, which has an allocator of its own, or is not a program itself.

Run as /usr/bin/python3 t/test_memory.py [Class[.test]].
"""

import os
import re
import signal
import subprocess
import tempfile
import time
import unittest
import unittest.mock

from binarylib import (APPEND, DELETE, FLUSH, GAT, GET, GETK, GETKQ, INCR, NOOP, SET, SETQ, STAT, TOUCH, count, expire, packet,
                       store)
from moxilib import MOXI, TIMEOUT, Client, Closed, MoxiTest, await_true, has_sanitizer, value

HERE = os.path.dirname(os.path.abspath(__file__))
BIG = b"b" * 40000  # is referred to, not copied
HUGE = b"h" * 700000  # a large item, with a block of its own

# What fails says so: moxi for itself, or the first moxi of two for the second.
NO_MEMORY = rb"((VALUE|STAT|PREFIX|key=) ?.*\r\n)?SERVER_ERROR (proxy )?(out of memory|downstream closed|write to downstream)[^\r]*\r\n"

SESSION = [
    (b"set k 1 0 5\r\nhello\r\n", rb"STORED\r\n"),
    (b"get k\r\n", rb"(VALUE k 1 5\r\nhello\r\n)?END\r\n"),
    (b"gets k none\r\n", rb"(VALUE k 1 5 \d+\r\nhello\r\n)?END\r\n"),
    (b"set big 0 0 40000\r\n%s\r\n" % BIG, rb"STORED\r\n"),
    (b"get big k\r\n", rb"(VALUE big 0 40000\r\nb+\r\n)?(VALUE k 1 5\r\nhello\r\n)?END\r\n"),
    (b"set huge 0 0 700000\r\n%s\r\n" % HUGE, rb"STORED\r\n"),
    (b"get huge\r\n", rb"(VALUE huge 0 700000\r\nh+\r\n)?END\r\n"),
    (b"append k 0 0 1\r\n!\r\n", rb"(NOT_)?STORED\r\n"),
    (b"set n 0 0 1\r\n9\r\n", rb"STORED\r\n"),
    (b"incr n 1\r\n", rb"(10|NOT_FOUND)\r\n"),
    (b"decr n 1\r\n", rb"(9 ?|8|NOT_FOUND)\r\n"),
    (b"cas k 0 0 1 1\r\nx\r\n", rb"(EXISTS|NOT_FOUND)\r\n"),
    (b"touch k 100\r\n", rb"(TOUCHED|NOT_FOUND)\r\n"),
    (b"gat 0 k big\r\n", rb"(VALUE k 1 [56]\r\nhello!?\r\n)?(VALUE big 0 40000\r\nb+\r\n)?END\r\n"),
    (b"get " + b" ".join(b"key%d" % i for i in range(100)) + b"\r\n", rb"END\r\n"),
    (b"stats\r\n", rb"(STAT [^\r]*\r\n)*END\r\n"),
    (b"stats items\r\n", rb"(STAT [^\r]*\r\n)*END\r\n"),
    (b"stats proxy stats\r\n", rb"(STAT [^\r]*\r\n)*END\r\n"),
    (b"stats proxy keystats\r\n", rb"(STAT [^\r]*\r\n)*END\r\n"),
    (b"verbosity 0\r\n", rb"OK\r\n"),
    (b"ms bXk= 5 T100 c Oab b\r\nhello\r\n", rb"HD c\d+ Oab\r\n"),
    (b"mg my v t k Oab\r\n", rb"(VA 5 t\d+ kbXk= b Oab\r\nhello|EN kmy Oab)\r\n"),
    (b"mg big v\r\n", rb"(VA 40000\r\nb+|EN)\r\n"),
    (b"ma m3 N0 J7 v\r\n", rb"VA \d\r\n\d+\r\n"),
    (b"ma m3 D99999 v q\r\nmg m3 s\r\n", rb"(NF\r\n)?(HD s\d|EN)\r\n"),
    (b"md my I T30\r\n", rb"(HD|NF)\r\n"),
    (b"mg my q\r\nmn\r\n", rb"(HD [WXZ ]+\r\n)?MN\r\n"),
    (b"mg made N30 v\r\n", rb"(VA 0 [WZ]\r\n|EN)\r\n"),
    (b"me m3\r\n", rb"(ME m3 [^\r]*|EN)\r\n"),
    (b"delete k\r\n", rb"(DELETED|NOT_FOUND)\r\n"),
    (b"flush_all\r\n", rb"OK\r\n"),
]

# What only a pool with the cache inside takes.
LOCAL = [
    (b"ms m2 5 E7 MA N30\r\nhello\r\n", rb"HD\r\n"),
    (b"ma m4 N0 J9 E5 v\r\n", rb"VA \d\r\n\d+\r\n"),
    (b"ma m4 E6 v\r\n", rb"(VA \d\r\n\d+|NF)\r\n"),
    (b"md m2 x F5\r\n", rb"(HD|NF)\r\n"),
    (b"set a:b 0 0 1\r\nx\r\n", rb"STORED\r\n"),
    (b"stats detail on\r\n", rb"OK\r\n"),
    (b"get a:b c:d\r\n", rb"(VALUE a:b 0 1\r\nx\r\n)?END\r\n"),
    (b"stats detail dump\r\n", rb"(PREFIX [^\r]*\r\n)*END\r\n"),
    (b"stats reset\r\n", rb"RESET\r\n"),
    (b"stats sizes\r\n", rb"(STAT [^\r]*\r\n)*END\r\n"),
    (b"stats conns\r\n", rb"(STAT [^\r]*\r\n)*END\r\n"),
    (b"lru_crawler metadump all\r\n", rb"(key=[^\n]*\n)*END\r\n"),
    (b"watch fetchers\r\n", rb"OK\r\n"),
]

# With the near cache and squash: each value from the server, from a reply to another, and from what was kept.
NEAR = [
    (b"set k 1 0 5\r\nhello\r\n", rb"STORED\r\n"),
    (b"get k\r\nget k\r\n", rb"((VALUE k 1 5\r\nhello\r\n)?END\r\n){2}"),
    (b"get k none\r\n", rb"(VALUE k 1 5\r\nhello\r\n)?END\r\n"),
    (b"mg k v f s O7\r\n", rb"(VA 5 f1 s5 O7\r\nhello|EN O7)\r\n"),
    (b"mg k v f s O7\r\n", rb"(VA 5 f1 s5 O7\r\nhello|EN O7)\r\n"),
    (b"set big 0 0 40000\r\n%s\r\n" % BIG, rb"STORED\r\n"),
    (b"get big k big\r\n", rb"(VALUE big 0 40000\r\nb+\r\n)?(VALUE k 1 5\r\nhello\r\n)?(VALUE big 0 40000\r\nb+\r\n)?END\r\n"),
    (b"get big k big\r\n", rb"(VALUE big 0 40000\r\nb+\r\n)?(VALUE k 1 5\r\nhello\r\n)?(VALUE big 0 40000\r\nb+\r\n)?END\r\n"),
    (b"get big\r\n", rb"(VALUE big 0 40000\r\nb+\r\n)?END\r\n"),
    (b"set huge 0 0 700000\r\n%s\r\n" % HUGE, rb"STORED\r\n"),
    (b"get huge\r\n", rb"(VALUE huge 0 700000\r\nh+\r\n)?END\r\n"),
    (b"get huge\r\n", rb"(VALUE huge 0 700000\r\nh+\r\n)?END\r\n"),
    (b"append k 0 0 1\r\n!\r\n", rb"(NOT_)?STORED\r\n"),
    (b"get k\r\n", rb"(VALUE k 1 [56]\r\nhello!?\r\n)?END\r\n"),
    (b"set o 0 0 1\r\nx\r\n", rb"STORED\r\n"),
    (b"stats proxy frontcache\r\n", rb"(STAT [^\r]*\r\n)*END\r\n"),
    (b"flush_all\r\n", rb"OK\r\n"),
]

# Equal gets of several keys on their way at once: any of them may fail.
FAILS = b"|" + NO_MEMORY
ALL_VALUES = rb"(VALUE k 1 5\r\nhello\r\n)?(VALUE big 0 40000\r\nb+\r\n)?(VALUE huge 0 700000\r\nh+\r\n)?END\r\n"
SQUASHED = [
    (b"set k 1 0 5\r\nhello\r\n", rb"STORED\r\n"),
    (b"set big 0 0 40000\r\n%s\r\n" % BIG, rb"STORED\r\n"),
    (b"set huge 0 0 700000\r\n%s\r\n" % HUGE, rb"STORED\r\n"),
    (b"get k n1 n2 n3 n4 n5 big none huge\r\n" * 3, b"(%s){3}" % (ALL_VALUES + FAILS)),
    (b"get k k\r\n" * 3, b"(%s){3}" % (rb"(VALUE k 1 5\r\nhello\r\n)*END\r\n" + FAILS)),
]

KEYS = [b"n%d" % i for i in range(6)]


def answered(op, body=b"", missing=False):
    """A packet of the server's, as a pattern: with this body, or also one that says that there is no such item."""
    whole = b"\\x81" + re.escape(bytes([op])) + b".{4}\\x00\\x00.{16}" + body
    return b"(%s|\\x81.{5}\\x00\\x01.{16}[^\\x81]*)" % whole if missing else whole


# Out of memory, or a temporary failure.
FAILED = rb"(\x81.{5}\x00[\x82\x86].{16}[^\x81]*)"
STATS = rb"(\x81\x10.{22}[^\x81]+)*"

BINARY = [
    (store(SET, b"k", b"hello", 7), answered(SET)),
    (packet(GET, b"k"), answered(GET, rb"\x00\x00\x00\x07hello", True)),
    (packet(GETK, b"none"), answered(GETK, b"never", True)),
    (store(SETQ, b"big", BIG) + packet(GETKQ, b"big") + packet(GETKQ, b"none") + packet(NOOP),
     b"%s*(%s)?%s*%s" % (FAILED, answered(GETKQ, rb"\x00{4}bigb{40000}"), FAILED, answered(NOOP))),
    (store(SET, b"huge", HUGE), answered(SET)),
    (packet(GET, b"huge"), answered(GET, rb"\x00{4}h{700000}", True)),
    (packet(APPEND, b"k", value=b"!"), b"(%s|%s)" % (answered(APPEND), rb"\x81.{5}\x00\x05.{16}[^\x81]*")),
    (count(INCR, b"n", 1, 5), answered(INCR, rb".{8}")),
    (expire(TOUCH, b"k", 100), answered(TOUCH, rb"(\x00\x00\x00.)?", True)),
    (expire(GAT, b"big", 0), answered(GAT, rb"\x00{4}b{40000}", True)),
    (packet(STAT), STATS + answered(STAT)),
    (packet(DELETE, b"k"), answered(DELETE, b"", True)),
    (packet(FLUSH), answered(FLUSH)),
]


@unittest.skipIf(has_sanitizer() or len(MOXI) > 1, "moxi has an allocator of its own")
class EveryAllocation(MoxiTest):
    ROUNDS_MAX = 2000
    MEDIUM = b"m" * 9000  # is copied, and needs a chunk of its own

    settings = {"downstream_retry": 0, "connect_retry_interval": 1, "key_stats_lifespan": 3600000, "key_stats_spec": "big|n"}

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="moxi-test-")
        cls.addClassCleanup(scratch.cleanup)
        cls.log = scratch.name + "/log"
        cls.library = scratch.name + "/fail_alloc.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", cls.library, HERE + "/fail_alloc.c"],
                       check=True)

    def start(self, servers, fail_at):
        if os.path.exists(self.log):
            os.unlink(self.log)
        with unittest.mock.patch.dict(os.environ, LD_PRELOAD=self.library, FAIL_ALLOC_LOG=self.log,
                                      FAIL_ALLOC_AT=str(fail_at)):
            return self.moxi(servers, self.settings, "-vv")

    def talk(self, moxi, session, excused):
        """One session. excused: whether memory may have run out in it."""
        client = Client(moxi.port)
        try:
            for request, reply in session:
                client.send(request)
                self.expect(client, request, reply, excused)
        except Closed:
            if not excused:
                raise
        finally:
            client.close()

    def expect(self, client, request, reply, excused):
        no_memory = NO_MEMORY
        if request[:1] == b"\x80":  # a noop is always answered
            no_memory = reply if packet(NOOP) in request else STATS + FAILED
        if FAILS in reply:
            no_memory = reply
        always = reply.replace(FAILED + b"*", b"").replace(FAILS, b"")
        whole = re.compile(b"(%s|%s)" % (reply, no_memory) if excused else always, re.S)
        deadline = time.monotonic() + TIMEOUT
        while not whole.fullmatch(bytes(client.buffer)):
            if client.eof:
                raise Closed("%r: closed after %r" % (request[:60], bytes(client.buffer[-200:])))
            if not client._wait(deadline):
                self.fail("%r: %r" % (request[:60], bytes(client.buffer[-200:])))
        client.buffer.clear()

    def round(self, servers, session, fail_at):
        """Whether an allocation failed, and the blocks that moxi had not freed at exit."""
        moxi = self.start(servers, fail_at)
        moxi.signal(signal.SIGUSR2)
        self.talk(moxi, session, excused=True)
        self.assertIsNone(moxi.popen.poll(), moxi.stderr()[-500:])
        moxi.signal(signal.SIGUSR2)
        self.talk(moxi, session, excused=False)
        self.drop(moxi)
        moxi.stop()
        with open(self.log) as log:
            lines = log.read().splitlines()
        return lines[0] == "failed", int(lines[-1].split()[1])

    def each(self, servers, session):
        _, live = self.round(servers, session, 0)
        for fail_at in range(1, self.ROUNDS_MAX):
            with self.subTest(allocation=fail_at):
                failed, now = self.round(servers, session, fail_at)
                self.assertLessEqual(now, live)
            if not failed:
                break
        self.assertGreater(fail_at, 20)

    def test_alone(self):
        self.each(["local"], SESSION + LOCAL)

    def test_one_server(self):
        self.each([self.memcached()], SESSION)

    def test_binary(self):
        self.each(["local"], BINARY)
        self.each([self.memcached()], BINARY)
        self.each([self.memcached("-B", "ascii"), "local"], BINARY)

    def test_near_cache(self):
        self.settings = dict(self.settings, front_cache_lifespan=60000, front_cache_spec="@all", front_cache_miss_lifespan=60000,
                             squash=1, optimize_set="o")
        self.each([self.memcached(), self.memcached()], NEAR)

    def test_squash(self):
        self.settings = dict(self.settings, squash=1)
        self.each([self.memcached(), self.memcached()], SQUASHED)

    def two_at_once(self, servers, request, fail_at):
        """Whether an allocation failed, while a turn had this request of two clients; and what these got."""
        moxi = self.start(servers, fail_at)
        clients = [Client(moxi.port) for _ in range(2)]
        for key in (b"big", b"big", *KEYS):
            clients[0].send(b"get %s\r\n" % key).lines_to_end()
        moxi.signal(signal.SIGSTOP)
        for client in clients:
            client.send(request)
        moxi.signal(signal.SIGUSR2)
        moxi.signal(signal.SIGCONT)
        replies = []
        for client in clients:
            client.shutdown()
            replies.append(client.read_all())
            client.close()
        self.drop(moxi)
        moxi.stop()
        with open(self.log) as log:
            return log.read().startswith("failed"), replies

    def test_squash_with_the_near_cache(self):
        """Nobody follows one that has failed with half a value of the near cache in its reply."""
        self.settings = dict(self.settings, front_cache_lifespan=60000, front_cache_spec="big", squash=1)
        servers = [self.memcached(), self.memcached()]
        client = Client(self.moxi(servers).port)
        for key in KEYS:
            client.ask(b"set %s 0 0 1\r\nx\r\n" % key, b"STORED\r\n")
        client.ask(b"set big 0 0 40000\r\n%s\r\n" % BIG, b"STORED\r\n")
        client.close()
        # A value is told or missing; or the client is closed, or told why
        values = rb"(VALUE big 0 40000\r\nb+\r\n)?(VALUE \w\d 0 1\r\nx\r\n)*"
        whole = re.compile(b"(%sEND\\r\\n%s)?" % (values, FAILS))
        for fail_at in range(1, self.ROUNDS_MAX):
            failed, replies = self.two_at_once(servers, b"get big %s\r\n" % b" ".join(KEYS), fail_at)
            for reply in replies:
                self.assertIsNotNone(whole.fullmatch(reply), "allocation %d: %r" % (fail_at, reply[:60]))
            if not failed:
                break
        self.assertGreater(fail_at, 5)

    @staticmethod
    def arm(moxi):
        """Sends the signal, and waits until it has been taken."""
        moxi.signal(signal.SIGUSR2)
        with open("/proc/%d/status" % moxi.popen.pid) as status:
            await_true(lambda: status.seek(0) == 0 and re.search(r"ShdPnd:\t0+\n", status.read()), "it is armed")

    def keep_and_fail(self, servers, fail_at):
        """Whether an allocation failed, while a multiget brought values to be kept; they are there afterwards."""
        moxi = self.start(servers, fail_at)
        client = Client(moxi.port)
        client.turn()
        self.arm(moxi)
        client.send(b"get %s\r\n" % b" ".join(KEYS)).shutdown()
        client.read_all()
        client.close()
        moxi.signal(signal.SIGUSR2)
        client = Client(moxi.port)
        for key in KEYS:
            client.ask(b"get %s\r\n" % key, value(key, self.MEDIUM) + b"END\r\n")
        client.close()
        self.drop(moxi)
        moxi.stop()
        with open(self.log) as log:
            return log.read().startswith("failed")

    def test_no_miss_is_kept(self):
        """A value for which there is no memory is not missing."""
        self.settings = dict(self.settings, front_cache_lifespan=60000, front_cache_spec="n",
                             front_cache_miss_lifespan=60000, client_buffer_max=1 << 30)
        servers = [self.memcached(), self.memcached()]
        client = Client(self.moxi(servers).port)
        for key in KEYS:
            client.ask(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(self.MEDIUM), self.MEDIUM), b"STORED\r\n")
        client.close()
        for fail_at in range(1, self.ROUNDS_MAX):
            with self.subTest(allocation=fail_at):
                failed = self.keep_and_fail(servers, fail_at)
            if not failed:
                break
        self.assertGreater(fail_at, 5)

    def test_nothing_is_overtaken(self):
        """Nor when there was no memory for a note of the connection that a request took, and then is."""
        self.settings = dict(self.settings, downstream_conn_max=2)
        mock = self.mock()
        moxi = self.start([mock], 1)
        first, client = self.client(moxi), self.client(moxi)
        first.send(b"get k\r\n")
        server = mock.accept_expect(b"get k\r\n").send(b"END\r\n")
        first.expect(b"END\r\n")
        client.turn()
        self.arm(moxi)
        client.send(b"get k\r\n")
        server.expect(b"get k\r\n")
        client.send(b"set k 0 0 1\r\nx\r\n")
        server.expect(b"set k 0 0 1\r\nx\r\n").send(b"END\r\nSTORED\r\n")
        client.expect(b"END\r\nSTORED\r\n")

    def test_several_servers(self):
        # "stats items" goes the same way as "stats", with fewer lines to be added up
        session = [(request, reply) for request, reply in SESSION if request != b"stats\r\n"]
        self.each([self.memcached(), self.memcached(), "local"], session)


if __name__ == "__main__":
    unittest.main()
