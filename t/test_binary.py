#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_binary - the binary protocol for clients, whatever the servers speak.

Sessions of packets are sent to a memcached and to moxi, before servers and as one, and the replies compared, packet by packet;
cas uniques only for whether there is one. At the end of each session a noop is the mark. Where the test is the server:
mock_binary.

Run as /usr/bin/python3 t/test_binary.py [Class[.test]].
"""

import random
import struct
import unittest

from binarylib import (ADD, ADDQ, APPEND, APPENDQ, DECR, DECRQ, DELETE, DELETEQ, FLUSH, FLUSHQ, GAT, GATK, GATKQ, GATQ, GET, GETK, GETKQ,
                       GETQ, INCR, INCRQ, MARK, MARKED, NEVER, NOOP, PREPEND, PREPENDQ, QUIT, QUITQ, REPLACE, REPLACEQ, SASL_LIST, SET,
                       SETQ, STAT, TOUCH, VERSION, count, expire, packet, packets, store)
from moxilib import BesideMemcached, MoxiTest, show

# On an empty memcached that holds k = "old", its flags 3, and n = "10".
SESSIONS = [
    packet(GET, b"k"), packet(GET, b"none"), packet(GETK, b"k"), packet(GETK, b"none"), packet(GETQ, b"k") + packet(GETQ, b"x"),
    packet(GETKQ, b"k") + packet(GETKQ, b"x") + packet(GETK, b"n"), packet(GET, b"k", opaque=b"\0\1\xff\n"),
    b"".join(packet(GETKQ, b"key%d" % i, opaque=b"%04d" % i) for i in range(50)),
    store(SET, b"k", b"new", 7, 100) + packet(GET, b"k"), store(SETQ, b"k", b"new", 7) + packet(GET, b"k"),
    store(SET, b"k", b"") + packet(GETK, b"k"), store(SET, b"k", b"x" * 5000, 0xffffffff) + packet(GET, b"k"),
    store(SET, b"k", b"x" * 300000) + packet(GET, b"k") + packet(GETK, b"k"),
    store(ADD, b"k", b"x") + store(ADD, b"a", b"x") + packet(GET, b"a"), store(ADDQ, b"k", b"x") + store(ADDQ, b"a", b"x"),
    store(REPLACE, b"k", b"x") + store(REPLACE, b"a", b"x"), store(REPLACEQ, b"k", b"x") + store(REPLACEQ, b"a", b"x"),
    packet(APPEND, b"k", value=b"er") + packet(PREPEND, b"k", value=b"b") + packet(GET, b"k"),
    packet(APPEND, b"a", value=b"x") + packet(PREPEND, b"a", value=b"x"),
    packet(APPENDQ, b"k", value=b"er") + packet(PREPENDQ, b"k", value=b"b") + packet(APPENDQ, b"a", value=b"x") + packet(GET, b"k"),
    packet(DELETE, b"k") + packet(DELETE, b"k") + packet(GET, b"k"), packet(DELETEQ, b"k") + packet(DELETEQ, b"k"),
    count(INCR, b"n", 5) + count(DECR, b"n", 3) + count(DECR, b"n", 100) + packet(GET, b"n"),
    count(INCRQ, b"n", 5) + count(DECRQ, b"n", 3) + packet(GET, b"n") + count(INCRQ, b"a", exptime=NEVER),
    count(INCR, b"a", exptime=NEVER) + count(DECR, b"a", exptime=NEVER), count(INCR, b"k") + count(DECRQ, b"k"),
    count(INCR, b"n", 2 ** 64 - 1) + packet(GET, b"n"), expire(TOUCH, b"k", 100) + expire(TOUCH, b"none", 100),
    expire(GAT, b"k", 100) + expire(GATQ, b"k", 0) + expire(GATQ, b"none", 0) + expire(GAT, b"none", 5),
    expire(GATK, b"k", 100) + expire(GATKQ, b"k", 0) + expire(GATKQ, b"none", 0) + expire(GATK, b"none", 5),
    expire(TOUCH, b"k", -1) + packet(GET, b"k"), store(SET, b"k", b"x", 0, NEVER) + packet(GET, b"k"),
    packet(FLUSH) + packet(GET, b"k"), packet(FLUSHQ) + packet(GET, b"k"), expire(FLUSH, b"", 0) + packet(GET, b"k"),
    expire(FLUSH, b"", 1000) + packet(GET, b"k"), packet(NOOP) + packet(NOOP, opaque=b"zzzz"),
    packet(QUIT) + packet(GET, b"k"), packet(QUITQ) + packet(GET, b"k"), packet(GET, b"k") + packet(QUIT),
    store(SET, b"k" * 250, b"x") + packet(GETK, b"k" * 250),
    store(SET, b"k", b"x" * 2000000) + packet(GET, b"k"),
    packet(SASL_LIST), packet(0x40), packet(0xff), packet(STAT, b"nonsense"),
]

# Values that are too large. A server that is asked in meta commands takes the old one away, whatever the store.
TOO_LARGE = [
    store(ADD, b"k", b"x" * 2000000) + packet(GET, b"k"), packet(APPEND, b"k", value=b"x" * 2000000) + packet(GET, b"k"),
]

# Which depend on a unique being told, or compared, or a number being made.
WITH_UNIQUES = [
    store(SET, b"k", b"x", cas=1) + packet(GET, b"k"), store(SET, b"a", b"x", cas=1), store(ADD, b"k", b"x", cas=1),
    store(ADD, b"a", b"x", cas=1), store(REPLACE, b"k", b"x", cas=1), store(REPLACE, b"a", b"x", cas=1),
]
BEYOND_TEXT = [
    packet(APPEND, b"k", value=b"x", cas=1), packet(DELETE, b"k", cas=1) + packet(GET, b"k"), packet(DELETE, b"a", cas=1),
    count(INCR, b"n", 1, cas=99999), store(SET, b"n", b"") + count(INCR, b"n", 1, cas=99999) + count(INCR, b"k", 1, cas=99999),
    count(INCR, b"a", 5, 17) + count(INCR, b"a", 5, 17) + packet(GET, b"a"),
    count(DECR, b"a", 5, 17, 1000) + count(DECRQ, b"b", 5, 1) + packet(GET, b"b"), count(INCRQ, b"a", 1, 5) + packet(GETK, b"a"),
    store(SET, b"a b", b"x") + packet(GETK, b"a b") + packet(DELETE, b"a b") + packet(GETK, b"a b"),
    store(SET, b"\0\1\r\n", b"x") + packet(GETK, b"\0\1\r\n") + expire(GATK, b"\0\1\r\n", 5) + expire(TOUCH, b"\0\1\r\n", 5),
]

# What is not sound: answered, or not, and closed.
BROKEN = [
    packet(NOOP) + packet(GET, b"k", magic=0x81), packet(NOOP) + packet(GET, b"k", magic=0), packet(GET, b"k" * 251), packet(GET, b""),
    packet(GET, b"k", extras=b"1234"), packet(GET, b"k", value=b"x"), packet(SET, b"k", value=b"x"), packet(SET, b"", b"12345678"),
    packet(SET, b"k", b"1234", b"x"), packet(DELETE, b"k", value=b"x"), packet(INCR, b"k", b"12345678"), packet(NOOP, b"k"),
    packet(NOOP, value=b"x"), packet(VERSION, b"k"), packet(FLUSH, b"k"), packet(FLUSH, extras=b"12"), packet(QUIT, b"k"),
    packet(TOUCH, b"k"), packet(GAT, b"k", b"12345678"), packet(STAT, b"k", b"1234"), packet(APPEND, b"k", b"1234", b"x"),
    packet(GET, b"k", body=0), packet(SET, b"k", b"12345678", b"x", body=5),
]

# For whose key memcached waits before it refuses it.
LONG_KEYS = [(packet(GET, b"k", keylen=65535), 0x81), (packet(GET, b"k", keylen=65535, body=65535), 4)]


class Both(BesideMemcached):
    """Sessions, and whether they are answered alike."""

    sessions = SESSIONS + WITH_UNIQUES + BEYOND_TEXT

    @staticmethod
    def answers(target, session):
        data, eof = BesideMemcached.exchange(target, session, MARK, MARKED)
        return packets(data), eof

    @staticmethod
    def tell(found):
        """What of replies is compared. A number may have blanks behind it, in memcached by chance."""
        (replies, rest), closed = found
        return [p[:6] + (p[6].rstrip(b" "),) + p[7:] for p in replies], rest, closed

    def compare(self, session):
        self.prepare()
        with self.subTest(session=show(session)):
            got, expected = self.answers(self.proxy, session), self.answers(self.alone, session)
            self.assertEqual(self.tell(got), self.tell(expected))

    def test_sessions(self):
        for session in self.sessions:
            self.compare(session)

    def test_sessions_one_after_the_other(self):
        calm = [s for s in self.sessions if len(s) < 100000 and packet(QUIT) not in s and packet(QUITQ) not in s and
                expire(FLUSH, b"", 1000) not in s]
        for i in range(0, len(calm), 7):
            self.compare(b"".join(calm[i:i + 7]))

    def test_broken(self):
        """The reply, if there is one, and then the end."""
        for session in BROKEN:
            self.prepare()
            with self.subTest(session=show(session)):
                got, expected = self.answers(self.proxy, session), self.answers(self.alone, session)
                self.assertEqual(got[1], True)
                self.assertEqual([p[:3] for p in got[0][0]], [p[:3] for p in expected[0][0]])
        for session, status in LONG_KEYS:
            (found, _), closed = self.answers(self.proxy, session)
            self.assertEqual(([p[2] for p in found], closed), ([status], True))

    def test_cut_anywhere(self):
        session = (store(SET, b"k", b"value", 5) + packet(GETK, b"k") + packet(GETQ, b"none") + count(INCR, b"n", 5) +
                   packet(0x40, b"key") + packet(APPENDQ, b"k", value=b"x") + packet(DELETE, b"k") + packet(VERSION))
        self.prepare()
        whole = self.answers(self.proxy, session)
        for cut in range(1, len(session)):
            self.prepare()
            client = self.client(self.proxy)
            client.send_pieces([session[:cut], session[cut:] + MARK])
            data = client.read_until(MARKED)
            client.close()
            self.assertEqual(packets(data), whole[0])

    def test_cas(self):
        self.prepare()
        client = self.client(self.proxy)
        client.send(packet(GET, b"k"))
        unique = struct.unpack(">Q", client.read(24 + 4 + 3)[16:24])[0]
        self.assertNotEqual(unique, 0)
        client.send(store(SET, b"k", b"new", cas=unique + 1) + store(SET, b"k", b"new", cas=unique) + MARK)
        found, _ = packets(client.read_until(MARKED))
        self.assertEqual([p[2] for p in found], [2, 0, 0])

    def test_stat(self):
        client = self.client(self.proxy)
        for key in (b"", b"settings", b"proxy", b"proxy info", b"items"):
            client.send(packet(STAT, key) + MARK)
            found, rest = packets(client.read_until(MARKED))
            self.assertEqual(rest, b"")
            self.assertEqual(found[-2][4:7], (b"", b"", b""))
            if key != b"items":
                self.assertGreater(len(found), 5)
            for p in found[:-2]:
                self.assertEqual((p[0], p[2]), (STAT, 0))
                self.assertNotEqual(p[5], b"")
        client.send(packet(STAT, b"reset") + MARK)
        self.assertEqual([p[2] for p in packets(client.read_until(MARKED))[0]], [0, 0])

    def test_stat_of_what_is_no_line(self):
        """What could be taken for a command does not reach a server."""
        client = self.client(self.proxy)
        for key in (b"items\r\nflush_all", b"\n", b"a\0b", b"\x7f", b" items", b"items "):
            client.send(packet(STAT, key) + MARK)
            self.assertEqual([p[2] for p in packets(client.read_until(MARKED))[0]], [4, 0])

    def test_version(self):
        client = self.client(self.proxy)
        client.send(packet(VERSION) + MARK)
        found, _ = packets(client.read_until(MARKED))
        self.assertRegex(found[0][6], rb"\A\d+\.\d+\.\d+.*moxi")

    def test_random(self):
        """The same mixture of commands on both, of few keys."""
        rng = random.Random(7)
        keys = [b"r%d" % i for i in range(20)]
        for _ in range(20):
            session = b""
            for i in range(200):
                op, key = rng.choice((GET, GETQ, GETK, GETKQ, SET, SETQ, ADD, ADDQ, REPLACE, REPLACEQ, DELETE, DELETEQ, INCR, DECRQ,
                                      APPEND, PREPENDQ, TOUCH, GAT, GATKQ, NOOP)), rng.choice(keys)
                opaque = struct.pack(">I", i)
                if op in (SET, SETQ, ADD, ADDQ, REPLACE, REPLACEQ):
                    session += store(op, key, rng.choice((b"7", b"99", b"text", b"x" * rng.randrange(3000))), rng.randrange(9),
                                     opaque=opaque)
                elif op in (INCR, DECRQ):
                    session += count(op, key, rng.randrange(200), exptime=NEVER, opaque=opaque)
                elif op in (APPEND, PREPENDQ):
                    session += packet(op, key, value=b"1" * rng.randrange(3), opaque=opaque)
                elif op in (TOUCH, GAT, GATKQ):
                    session += expire(op, key, rng.choice((0, 100, 1000)), opaque=opaque)
                else:
                    session += packet(op, b"" if op == NOOP else key, opaque=opaque)
            self.compare(session)


class OneServer(Both):
    num_servers = 1


class ThreeServers(Both):
    num_servers = 3


class MetaServers(Both):
    num_servers = 3
    settings = {"downstream_protocol": "meta"}

    def test_longest_binary_key(self):
        """A line has 250 bytes for a key: 186 of it in base64."""
        fits, long = b"\0" * 186, b"\0" * 187
        session = store(SET, fits, b"v") + packet(GETK, fits) + store(SET, long, b"quit\r\n") + packet(GETQ, long)
        (found, _), _ = self.answers(self.proxy, session)
        self.assertEqual([(p[0], p[2]) for p in found[:4]], [(SET, 0), (GETK, 0), (SET, 0x83), (GETQ, 0x83)])
        self.assertEqual(found[1][5:7], (fits, b"v"))


class BinaryServers(Both):
    num_servers = 3
    settings = {"downstream_protocol": "binary"}
    sessions = Both.sessions + TOO_LARGE


class Local(Both):
    local = ["local"]
    sessions = Both.sessions + TOO_LARGE


class Mixed(Both):
    num_servers = 1
    local = ["local"]


class TextServers(Both):
    """Servers that know classic commands only: uniques of stores are 0, and so are flags that touch is told."""

    num_servers = 2
    settings = {"downstream_protocol": "ascii"}
    sessions = SESSIONS + WITH_UNIQUES

    @staticmethod
    def tell(found):
        replies, rest, closed = Both.tell(found)
        return [p[:3] + (p[4] if p[0] != TOUCH else b"",) + p[5:] for p in replies], rest, closed

    def test_what_cannot_be_said(self):
        for session in BEYOND_TEXT:
            self.prepare()
            (found, _), _ = self.answers(self.proxy, session)
            self.assertIn(0x83, [p[2] for p in found])


class ServersOfOneProtocol(MoxiTest):
    def test_memcached(self):
        """A server that speaks one protocol alone has clients of each as far as that can be."""
        for binding in ("ascii", "binary", "auto"):
            with self.subTest(binding=binding):
                server = self.memcached("-B", binding)
                client = self.client(self.moxi([server]))
                client.send(store(SETQ, b"k", b"v", 5) + packet(GETK, b"k") + MARK)
                reply = client.read(24 + 4 + 1 + 1)
                self.assertEqual(reply[24:], b"\0\0\0\5kv")
                self.assertTrue(any(reply[16:24]), "a unique")
                client.expect(MARKED)


class Binding(MoxiTest):
    """-B says what clients may speak."""

    def test_each(self):
        for binding, text, binary in (("auto", True, True), ("ascii", True, False), ("binary", False, True)):
            moxi = self.moxi(["local"], None, "-B", binding)
            client = self.client(moxi)
            if text:
                client.ask(b"get k\r\n", b"END\r\n")
            else:
                client.send(b"get k\r\n").expect_closed()
            client = self.client(moxi)
            if binary:
                client.ask(MARK, MARKED)
            else:
                client.send(MARK + b"\r\n").expect(b"ERROR\r\n")


if __name__ == "__main__":
    unittest.main()
