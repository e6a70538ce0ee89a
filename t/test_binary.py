#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_binary - the binary protocol for clients, whatever the servers speak.

Sessions of packets are sent to a memcached and to moxi, before servers and as one, and the replies compared, packet by packet;
cas uniques only for whether there is one. At the end of each session a noop is the mark.

Run as /usr/bin/python3 t/test_binary.py [Class[.test]].
"""

import random
import struct
import tempfile
import time
import unittest

from moxilib import META_PROBE, META_YES, SCALE, BesideMemcached, MoxiTest, await_true, ms, proxy_stats, show

GET, SET, ADD, REPLACE, DELETE, INCR, DECR, QUIT, FLUSH, GETQ, NOOP, VERSION, GETK, GETKQ, APPEND, PREPEND, STAT = range(17)
SETQ, ADDQ, REPLACEQ, DELETEQ, INCRQ, DECRQ, QUITQ, FLUSHQ, APPENDQ, PREPENDQ, VERBOSITY, TOUCH, GAT, GATQ = range(17, 31)
GATK, GATKQ = 0x23, 0x24
SASL_LIST = 0x20


def packet(op, key=b"", extras=b"", value=b"", cas=0, opaque=b"abcd", magic=0x80, body=None, keylen=None):
    body = len(key) + len(extras) + len(value) if body is None else body
    keylen = len(key) if keylen is None else keylen
    return struct.pack(">BBHBBHI4sQ", magic, op, keylen, len(extras), 0, 0, body, opaque, cas) + extras + key + value


def store(op, key, value, flags=0, exptime=0, **kw):
    return packet(op, key, struct.pack(">II", flags, exptime), value, **kw)


def count(op, key, delta=1, initial=0, exptime=0, **kw):
    return packet(op, key, struct.pack(">QQI", delta, initial, exptime & 0xffffffff), **kw)


def expire(op, key, exptime, **kw):
    return packet(op, key, struct.pack(">I", exptime & 0xffffffff), **kw)


NEVER = 0xffffffff
MARK = packet(NOOP, opaque=b"mark")
MARKED = struct.pack(">BBHBBHI4sQ", 0x81, NOOP, 0, 0, 0, 0, 0, b"mark", 0)

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
    count(INCR, b"n", 1, cas=99999), count(INCR, b"a", 5, 17) + count(INCR, b"a", 5, 17) + packet(GET, b"a"),
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


def packets(data):
    """Replies, each as (opcode, opaque, status, whether there is a cas, extras, key, value); and what is left."""
    out = []
    while len(data) >= 24:
        magic, op, keylen, extlen, kind, status, body, opaque, cas = struct.unpack(">BBHBBHI4sQ", data[:24])
        if magic != 0x81 or len(data) < 24 + body:
            break
        rest = data[24:24 + body]
        out.append((op, opaque, status, cas != 0, rest[:extlen], rest[extlen:extlen + keylen], rest[extlen + keylen:], kind))
        data = data[24 + body:]
    return out, data


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


def answer(op, key=b"", extras=b"", value=b"", status=0, cas=0, opaque=b"abcd"):
    """A server's."""
    body = len(key) + len(extras) + len(value)
    return struct.pack(">BBHBBHI4sQ", 0x81, op, len(key), len(extras), 0, status, body, opaque, cas) + extras + key + value


def index(i):
    return struct.pack(">I", i)


HI = struct.pack(">I", 7)  # flags

# A request in each of the protocols; how it reaches a server that is spoken to in the binary protocol; its reply; what the client
# gets. The opaque abcd is for where it stands in the stream.
TO_BINARY = [
    (b"get k\r\n", packet(GET, b"k"), answer(GET, b"", HI, b"hi", cas=5), b"VALUE k 7 2\r\nhi\r\nEND\r\n"),
    (b"get k\r\n", packet(GET, b"k"), answer(GET, value=b"Not found", status=1), b"END\r\n"),
    (b"gets k\r\n", packet(GET, b"k"), answer(GET, b"", HI, b"", cas=2 ** 64 - 1), b"VALUE k 7 0 18446744073709551615\r\n\r\nEND\r\n"),
    (b"gat 9 k\r\n", expire(GAT, b"k", 9), answer(GAT, b"", HI, b"hi"), b"VALUE k 7 2\r\nhi\r\nEND\r\n"),
    (b"get a b c\r\n", b"".join(packet(GETKQ, k, opaque=index(i)) for i, k in enumerate((b"a", b"b", b"c"))) + packet(NOOP),
     answer(GETKQ, b"a", HI, b"hi", opaque=index(0)) + answer(GETKQ, b"c", HI, b"\x81\n", opaque=index(2)) + answer(NOOP),
     b"VALUE a 7 2\r\nhi\r\nVALUE c 7 2\r\n\x81\n\r\nEND\r\n"),
    (b"gats -1 a b\r\n", expire(GATKQ, b"a", 2592001, opaque=index(0)) + expire(GATKQ, b"b", 2592001, opaque=index(1)) + packet(NOOP),
     answer(NOOP), b"END\r\n"),
    (b"set k 7 60 2\r\nhi\r\n", store(SET, b"k", b"hi", 7, 60), answer(SET, cas=9), b"STORED\r\n"),
    (b"set k 0 -1 0\r\n\r\n", store(SET, b"k", b"", 0, 2592001), answer(SET, cas=9), b"STORED\r\n"),
    (b"add k 0 0 2\r\nhi\r\n", store(ADD, b"k", b"hi"), answer(ADD, value=b"Data exists for key.", status=2), b"NOT_STORED\r\n"),
    (b"replace k 0 0 2\r\nhi\r\n", store(REPLACE, b"k", b"hi"), answer(REPLACE, value=b"Not found", status=1), b"NOT_STORED\r\n"),
    (b"append k 5 5 2\r\nhi\r\n", packet(APPEND, b"k", value=b"hi"), answer(APPEND, status=5), b"NOT_STORED\r\n"),
    (b"prepend k 0 0 2\r\nhi\r\n", packet(PREPEND, b"k", value=b"hi"), answer(PREPEND, cas=1), b"STORED\r\n"),
    (b"cas k 0 0 2 77\r\nhi\r\n", store(REPLACE, b"k", b"hi", cas=77), answer(REPLACE, status=2), b"EXISTS\r\n"),
    (b"cas k 0 0 2 77\r\nhi\r\n", store(REPLACE, b"k", b"hi", cas=77), answer(REPLACE, status=1), b"NOT_FOUND\r\n"),
    (b"cas k 0 0 2 0\r\nhi\r\n", store(REPLACE, b"k", b"hi", cas=2 ** 64 - 1), answer(REPLACE, status=2), b"EXISTS\r\n"),
    (b"incr n 5\r\n", count(INCR, b"n", 5, exptime=NEVER), answer(INCR, value=struct.pack(">Q", 17)), b"17\r\n"),
    (b"decr n 5\r\n", count(DECR, b"n", 5, exptime=NEVER), answer(DECR, value=b"Not found", status=1), b"NOT_FOUND\r\n"),
    (b"incr n 5\r\n", count(INCR, b"n", 5, exptime=NEVER), answer(INCR, value=b"Non-numeric", status=6),
     b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    (b"touch k 60\r\n", expire(TOUCH, b"k", 60), answer(TOUCH, b"", HI), b"TOUCHED\r\n"),
    (b"touch k 60\r\n", expire(TOUCH, b"k", 60), answer(TOUCH, status=1), b"NOT_FOUND\r\n"),
    (b"delete k\r\n", packet(DELETE, b"k"), answer(DELETE), b"DELETED\r\n"),
    (b"delete k\r\n", packet(DELETE, b"k"), answer(DELETE, status=1), b"NOT_FOUND\r\n"),
    (b"flush_all\r\n", packet(FLUSH), answer(FLUSH), b"OK\r\n"),
    (b"flush_all 10\r\n", expire(FLUSH, b"", 10), answer(FLUSH, value=b"Auth failure.", status=0x20),
     b"CLIENT_ERROR flush_all not allowed\r\n"),
    (b"stats items\r\n", packet(STAT, b"items"), answer(STAT, b"a", b"", b"1 2") + answer(STAT, b"b") + answer(STAT),
     b"STAT a 1 2\r\nSTAT b \r\nEND\r\n"),
    (b"stats reset\r\n", packet(STAT, b"reset"), answer(STAT), b"RESET\r\n"),
    (b"stats detail on\r\n", packet(STAT, b"detail on"), answer(STAT), b"OK\r\n"),
    (b"stats foo\r\n", packet(STAT, b"foo"), answer(STAT, value=b"Not found", status=1), b"ERROR\r\n"),
    (b"set k 0 0 1\r\nx\r\n", store(SET, b"k", b"x"), answer(SET, value=b"Out of memory", status=0x82), b"SERVER_ERROR out of memory\r\n"),
    (b"set k 0 0 1\r\nx\r\n", store(SET, b"k", b"x"), answer(SET, value=b"Too large.", status=3),
     b"SERVER_ERROR object too large for cache\r\n"),
    (b"set k 0 0 1\r\nx\r\n", store(SET, b"k", b"x"), answer(SET, value=b"two\r\nlines", status=0x86), b"SERVER_ERROR two  lines\r\n"),
    (b"mg k v f c s k Oab\r\n", packet(GET, b"k"), answer(GET, b"", HI, b"hi", cas=5), b"VA 2 f7 c5 s2 kk Oab\r\nhi\r\n"),
    (b"mg k v q\r\nmn\r\n", packet(GET, b"k"), answer(GET, status=1), b"MN\r\n"),
    (b"mg k T60 f c\r\n", expire(TOUCH, b"k", 60), answer(TOUCH, b"", HI, cas=5), b"HD f7 c5\r\n"),
    (b"mg YSBi b v\r\n", packet(GET, b"a b"), answer(GET, b"", HI, b"hi"), b"VA 2\r\nhi\r\n"),
    (b"ms k 2 F7 T60 c\r\nhi\r\n", store(SET, b"k", b"hi", 7, 60), answer(SET, cas=9), b"HD c9\r\n"),
    (b"ms k 2 C5 MR\r\nhi\r\n", store(REPLACE, b"k", b"hi", cas=5), answer(REPLACE, status=1), b"NF\r\n"),
    (b"ms k 2 C5 ME\r\nhi\r\n", store(ADD, b"k", b"hi"), answer(ADD, status=2), b"NS\r\n"),
    (b"ms k 2 C5 MA\r\nhi\r\n", packet(APPEND, b"k", value=b"hi", cas=5), answer(APPEND, status=2), b"EX\r\n"),
    (b"md k C5\r\n", packet(DELETE, b"k", cas=5), answer(DELETE, status=2), b"EX\r\n"),
    (b"ma n v D2 N60 J5 c\r\n", count(INCR, b"n", 2, 5, 60), answer(INCR, value=struct.pack(">Q", 17), cas=3), b"VA 2 c3\r\n17\r\n"),
    (b"ma n MD N-1\r\n", count(DECR, b"n", 1, 0, 2592001), answer(DECR, value=struct.pack(">Q", 0)), b"HD\r\n"),
]

# The same from clients in the binary protocol: an opaque of their own, and quiet commands that are none for servers.
BINARY_TO_BINARY = [
    (packet(GET, b"k", opaque=b"mine"), packet(GET, b"k"), answer(GET, b"", HI, b"hi", cas=5),
     answer(GET, b"", HI, b"hi", cas=5, opaque=b"mine")),
    (packet(GETKQ, b"k", opaque=b"mine"), packet(GET, b"k"), answer(GET, b"", HI, b"hi", cas=5),
     answer(GETKQ, b"k", HI, b"hi", cas=5, opaque=b"mine")),
    (packet(GETQ, b"k") + packet(NOOP, opaque=b"mine"), packet(GET, b"k"), answer(GET, status=1), answer(NOOP, opaque=b"mine")),
    (store(SETQ, b"k", b"hi", 7, NEVER, cas=5) + packet(NOOP), store(SET, b"k", b"hi", 7, 0x7fffffff, cas=5), answer(SET, cas=6), answer(NOOP)),
    (store(ADDQ, b"k", b"hi", opaque=b"mine"), store(ADD, b"k", b"hi"), answer(ADD, value=b"Data exists for key.", status=2),
     answer(ADDQ, value=b"Data exists for key.", status=2, opaque=b"mine")),
    (packet(DELETE, b"\0\n"), packet(DELETE, b"\0\n"), answer(DELETE), answer(DELETE)),
    (count(INCR, b"n", 1, 5, 60), count(INCR, b"n", 1, 5, 60), answer(INCR, value=struct.pack(">Q", 5), cas=3),
     answer(INCR, value=struct.pack(">Q", 5), cas=3)),
    (expire(TOUCH, b"k", 60), expire(TOUCH, b"k", 60), answer(TOUCH, b"", HI, cas=3), answer(TOUCH, b"", HI, cas=3)),
    (packet(STAT), packet(STAT), answer(STAT, b"pid", b"", b"1") + answer(STAT), answer(STAT, b"pid", b"", b"1") + answer(STAT)),
]

# What cannot be the reply to a get of k, or to one of a and b.
NO_REPLIES = [
    b"END\r\n", answer(SET), answer(GET, b"", HI, b"hi", opaque=b"wxyz"), answer(GET, b"", b"", b"hi"), answer(GET, b"", b"12345", b"hi"),
    packet(GET, b"k"), struct.pack(">BBHBBHI4sQ", 0x81, GET, 9, 4, 0, 0, 5, b"abcd", 0) + b"12345",
    struct.pack(">BBHBBHI4sQ", 0x81, GET, 0, 4, 0, 0, 0xffffffff, b"abcd", 0) + HI,
    struct.pack(">BBHBBHI4sQ", 0x81, GET, 0, 0, 0, 1, 1 << 20, b"abcd", 0), answer(NOOP),
]
NO_BATCH_REPLIES = [
    answer(GETKQ, b"a", HI, b"x", opaque=index(2)), answer(GETKQ, b"b", HI, b"x", opaque=index(0)), answer(GET, b"", HI, b"x"),
    answer(GETKQ, b"a", HI, b"x", opaque=index(0)) * 2, answer(GETKQ, value=b"Out of memory", status=0x82, opaque=index(0)),
    answer(NOOP, opaque=b"wxyz"), answer(GETKQ, b"b", HI, b"x", opaque=index(1)) + answer(GETKQ, b"a", HI, b"x", opaque=index(0)),
]


class BinaryMocks(MoxiTest):
    """The test is a server that is spoken to in the binary protocol."""

    def one(self, settings=None):
        mock = self.mock()
        moxi = self.moxi([mock], dict({"client_buffer_max": 1 << 30, "downstream_protocol": "binary"}, **(settings or {})))
        self.place = 0
        return mock, moxi, self.client(moxi)

    def placed(self, data, place=None):
        """What is at that place of the stream, by default the next."""
        place = self.place if place is None else place
        return data.replace(b"abcd", struct.pack(">I", place))

    def serve(self, server, arrives, reply):
        server.expect(self.placed(arrives))
        server.send(self.placed(reply))
        self.place += len(arrives)

    def each(self, table):
        mock, _, client = self.one()
        server = None
        for request, arrives, reply, told in table:
            with self.subTest(request=request):
                client.send(request)
                server = server or mock.accept()
                self.serve(server, arrives, reply)
                client.expect(told)
        client.expect_nothing()

    def all_at_once(self, table):
        """As arrives and as reply, each at its place."""
        arrive, replies = b"", b""
        for _, arrives, reply, _ in table:
            at = self.place + len(arrive)
            arrive += self.placed(arrives, at)
            replies += self.placed(reply, at)
        self.place += len(arrive)
        return arrive, replies

    def cut_anywhere(self, table):
        mock, _, client = self.one()
        requests, told = b"".join(row[0] for row in table), b"".join(row[3] for row in table)
        server = None
        for cut in range(1, len(b"".join(row[2] for row in table))):
            arrive, replies = self.all_at_once(table)
            client.send(requests)
            server = server or mock.accept()
            server.expect(arrive).send_pieces([replies[:cut], replies[cut:]])
            client.expect(told)
        arrive, replies = self.all_at_once(table)
        client.send(requests)
        server.expect(arrive).send_pieces([replies[i:i + 1] for i in range(len(replies))])
        client.expect(told).expect_nothing()

    def test_each(self):
        self.each(TO_BINARY)
        self.each(BINARY_TO_BINARY)

    def test_cut_anywhere(self):
        self.cut_anywhere(TO_BINARY)
        self.cut_anywhere(BINARY_TO_BINARY)

    def test_closed_anywhere(self):
        """What has come counts, and what has not is an error, or a miss."""
        for request, arrives, reply, whole, ends in (
                (b"get k\r\n", packet(GET, b"k"), answer(GET, b"", HI, b"hi"), b"VALUE k 7 2\r\nhi\r\nEND\r\n", (b"END\r\n",)),
                (b"set k 0 0 1\r\nx\r\n", store(SET, b"k", b"x"), answer(SET, cas=1), b"STORED\r\n", (b"SERVER_ERROR proxy downstream closed ",)),
                (TO_BINARY[4][0], TO_BINARY[4][1], TO_BINARY[4][2], TO_BINARY[4][3],
                 (b"END\r\n", b"VALUE a 7 2\r\nhi\r\nEND\r\n", TO_BINARY[4][3]))):
            mock, _, client = self.one({"downstream_retry": 0, "connect_max_errors": 100000})
            for cut in range(len(reply)):
                client.send(request)
                server = mock.accept()
                server.expect(self.placed(arrives, 0))
                server.send(self.placed(reply, 0)[:cut])
                server.close()
                client.send(b"mn\r\n")
                told = client.read_until(b"MN\r\n")[:-4]
                self.assertTrue(any(told.startswith(end) for end in ends), told)
                client.buffer.clear()

    def test_no_reply_of_this_request(self):
        for request, arrives, table in ((b"get k\r\n", packet(GET, b"k"), NO_REPLIES),
                                        (b"get a b\r\n", packet(GETKQ, b"a", opaque=index(0)) + packet(GETKQ, b"b", opaque=index(1)) + packet(NOOP),
                                         NO_BATCH_REPLIES)):
            mock, _, client = self.one({"downstream_retry": 0, "connect_max_errors": 1000})
            for reply in table:
                with self.subTest(reply=reply):
                    client.send(request)
                    server = mock.accept()
                    server.expect(self.placed(arrives, 0)).send(self.placed(reply, 0)).expect_closed()
                    client.send(b"mn\r\n")
                    self.assertTrue(client.read_until(b"MN\r\n").endswith(b"END\r\nMN\r\n"))

    def test_large_values(self):
        mock, _, client = self.one()
        server = None
        for size in (4095, 65536, 262144, 3000000):
            data = (bytes(range(97)) * (size // 97 + 1))[:size]  # no abcd
            client.send(b"get k\r\n")
            server = server or mock.accept()
            self.serve(server, packet(GET, b"k"), answer(GET, b"", HI, data))
            client.expect(b"VALUE k 7 %d\r\n" % size + data + b"\r\nEND\r\n")
            client.send(b"set k 0 0 %d\r\n" % size + data + b"\r\n")
            self.serve(server, store(SET, b"k", data), answer(SET))
            client.expect(b"STORED\r\n")

    def test_what_it_has_no_words_for(self):
        mock, _, client = self.one()
        for request, named in ((b"mg k\r\n", b"mg without v"), (b"mg k v t\r\n", b"t"), (b"mg k v N30\r\n", b"N"), (b"me k\r\n", b"me"),
                               (b"ms k 2 I\r\nhi\r\n", b"I"), (b"ms k 2 MA s\r\nhi\r\n", b"s here"), (b"md k x\r\n", b"x"),
                               (b"ma n t\r\n", b"t"), (b"mg k T5 s\r\n", b"s here")):
            client.ask(request + b"mn\r\n", b"SERVER_ERROR proxy downstream has no meta commands, for %s\r\nMN\r\n" % named)
        for stats in (b"detail dump", b"detail", b"resetx", b"reset x", b"settingsx"):
            client.ask(b"stats %s\r\n" % stats, b"SERVER_ERROR proxy downstream has no such stats\r\n")


PROBE = packet(VERSION, opaque=b"\r\n\r\n")
KNOWS = answer(VERSION, value=b"1.4.39", opaque=b"\r\n\r\n")


def after_probe(n=0):
    """The opaque of what is n bytes behind the probe."""
    return struct.pack(">I", 0x0d0a0d0a + len(PROBE) + n)


class Auto(MoxiTest):
    """A server that is asked in the protocol of its client: clients of the binary protocol have connections of their own."""

    def one(self, settings=None):
        mock = self.mock()
        moxi = self.moxi([mock], dict({"connect_max_errors": 1000}, **(settings or {})))
        return mock, moxi, self.client(moxi)

    def get(self, server, client, place=0, value=b"hi"):
        """A hit over a connection on which so many bytes were asked since the probe."""
        client.send(packet(GET, b"k"))
        server.expect(packet(GET, b"k", opaque=after_probe(place))).send(answer(GET, b"", HI, value, opaque=after_probe(place)))
        client.expect(answer(GET, b"", HI, value))

    def get_in_text(self, server, client):
        client.send(packet(GET, b"k"))
        self.served_in_text(server, client)

    def served_in_text(self, server, client):
        server.expect(b"gets k\r\n").send(b"VALUE k 7 2 5\r\nhi\r\nEND\r\n")
        client.expect(answer(GET, b"", HI, b"hi", cas=5))

    def falls_back(self, mock, client):
        """The next connection is one in text; the request that waited goes there, and all that follow."""
        server = mock.accept()
        self.served_in_text(server, client)
        self.get_in_text(server, client)
        self.assertFalse(mock.pending())
        return server

    def test_binary(self):
        mock, _, client = self.one()
        client.send(packet(GET, b"k") + store(SETQ, b"k", b"x") + MARK)
        server = mock.accept_expect(PROBE)
        server.expect_nothing(0.05)
        server.send_pieces([KNOWS[:5], KNOWS[5:]])
        get = packet(GET, b"k", opaque=after_probe())
        server.expect(get + store(SET, b"k", b"x", opaque=after_probe(len(get))))
        server.send(answer(GET, b"", HI, b"hi", opaque=after_probe()) + answer(SET, opaque=after_probe(len(get))))
        client.expect(answer(GET, b"", HI, b"hi") + MARKED)
        self.get(server, client, len(get) + len(store(SET, b"k", b"x")))

    def test_version(self):
        """It is told in stats proxy, as a line of printable characters."""
        mock, moxi, client = self.one()
        for said in (b"1.4.39", b"1.6.18\r\n\0" + b"x" * 5000, b""):
            client.send(packet(GET, b"k"))
            server = mock.accept_expect(PROBE).send(answer(VERSION, value=said, opaque=b"\r\n\r\n"))
            server.expect(packet(GET, b"k", opaque=after_probe())).send(answer(GET, b"", HI, b"hi", opaque=after_probe()))
            client.expect(answer(GET, b"", HI, b"hi"))
            shown = proxy_stats(self.client(moxi), b"config").get("%d:default:server:0:version" % moxi.port)
            self.assertEqual(shown, {b"1.4.39": "1.4.39", b"": None}.get(said, "1.6.18   " + "x" * 54))
            server.shutdown().expect_closed()

    def test_an_error_is_an_answer(self):
        mock, _, client = self.one()
        client.send(packet(GET, b"k"))
        server = mock.accept_expect(PROBE)
        server.send(answer(VERSION, value=b"Unknown command", status=0x81, opaque=b"\r\n\r\n"))
        server.expect(packet(GET, b"k", opaque=after_probe())).send(answer(GET, b"", HI, b"hi", opaque=after_probe()))
        client.expect(answer(GET, b"", HI, b"hi"))

    def test_text(self):
        """Whatever it is that says or does something else, at whatever moment."""
        for said in (b"ERROR\r\n", b"ERROR\r\nERROR\r\n", b"", KNOWS[:-1], b"\x81", b"\x80" + KNOWS[1:], answer(VERSION), answer(NOOP)):
            for end in ("close", "reset"):
                with self.subTest(said=said, end=end):
                    mock, moxi, client = self.one()
                    client.send(packet(GET, b"k"))
                    server = mock.accept_expect(PROBE).send(said)
                    getattr(server, end)()
                    self.falls_back(mock, client)
                    stats = proxy_stats(self.client(moxi))
                    self.assertEqual(stats["%d:default:pstd_stats:err_downstream_bad_reply" % moxi.port], "0")

    def test_silence(self):
        mock, _, client = self.one({"connect_timeout": ms(200)})
        client.send(packet(GET, b"k"))
        server = mock.accept_expect(PROBE)
        self.falls_back(mock, client)
        server.expect_closed()

    def test_silence_is_forgotten(self):
        """What says nothing is asked again, when nothing is on the other connection and the interval has passed."""
        mock, _, client = self.one({"connect_timeout": ms(200), "connect_retry_interval": ms(300)})
        client.send(packet(GET, b"k"))
        mock.accept_expect(PROBE)
        server = mock.accept()
        time.sleep(0.4 * SCALE)  # longer than the interval
        client.send(packet(GET, b"j"))
        server.expect(b"gets k\r\ngets j\r\n").send(b"END\r\nEND\r\n")
        client.read(2 * (24 + 9))
        client.send(packet(GET, b"k"))
        mock.accept_expect(PROBE)

    def test_nobody_behind(self):
        """What accepts for a server and finds none is not taken for one that speaks text."""
        mock, _, client = self.one({"connect_max_errors": 2, "connect_retry_interval": ms(300)})
        for _ in range(20):
            client.send(packet(GET, b"k"))
            while await_true(lambda: client.readable() or mock.pending(), "an answer") and not client.readable():
                mock.accept().close()
            if client.read(24 + 9)[24:] == b"Not found" and not mock.pending(0.05):
                break
        time.sleep(0.4 * SCALE)  # it is left alone for less
        client.send(packet(GET, b"k"))
        mock.accept_expect(PROBE)

    def bounded(self, mock, client, request, say):
        """A server that goes wrong on each connection is left alone, in time."""
        client.send(request)
        for n in range(20):
            await_true(lambda: client.readable() or mock.pending(), "an answer")
            if client.readable():
                return n
            say(mock.accept())
        self.fail("it is connected again and again")

    def test_more_than_an_answer(self):
        mock, _, client = self.one({"connect_max_errors": 3})
        n = self.bounded(mock, client, store(SET, b"k", b"x"), lambda server: server.expect(PROBE).send(KNOWS + b"x"))
        self.assertEqual(n, 4)

    def test_hangs_up_on_the_password(self):
        mock = self.mock()
        client = self.client(self.moxi([mock], None, "-Z", self.secret("connect_max_errors=3\n")))

        def say(server):
            server.expect(PROBE).send(KNOWS).expect(packet(0x21, b"PLAIN", value=b"\0joe\0secret", opaque=after_probe())).close()

        self.assertEqual(self.bounded(mock, client, store(SET, b"k", b"x"), say), 4)

    def test_no_room_for_another_connection(self):
        """Where the other connection stands it is taken."""
        mock, moxi, client = self.one()
        other = self.client(moxi)
        other.send(b"get k\r\n")
        server = mock.accept_expect(b"get k\r\n").send(b"END\r\n")
        other.expect(b"END\r\n")
        mock.sock.close()
        self.get_in_text(server, client)
        self.get_in_text(server, client)

    def test_order_is_kept(self):
        """All that waits for the probe goes the other way, and what comes meanwhile goes behind it."""
        mock, moxi, client = self.one()
        client.send(store(SET, b"k", b"1") + packet(DELETE, b"k"))
        server = mock.accept_expect(PROBE)
        client.send(count(INCR, b"k", 5)).sync()
        server.send(b"ERROR\r\n")
        server = mock.accept_expect(META_PROBE)
        client.send(packet(APPEND, b"k", value=b"2")).sync()
        server.send(META_YES)
        for line in (rb"ms k 1 .*", rb"1", rb"md k.*", rb"ma k .*", rb"ms k 1 .*", rb"2"):
            server.expect_match(line + rb"\r\n")
        server.send(b"HD\r\nHD\r\nNF\r\nNS\r\n")
        client.expect(answer(SET) + answer(DELETE))
        self.assertEqual(client.read(24 + 9)[24:], b"Not found")
        self.assertEqual(client.read(24 + 11)[24:], b"Not stored.")

    def test_clients_of_text_do_not_wait(self):
        mock, moxi, client = self.one()
        client.send(packet(GET, b"k"))
        binary = mock.accept_expect(PROBE)
        other = self.client(moxi)
        other.send(b"get k\r\n")
        server = mock.accept_expect(b"get k\r\n").send(b"VALUE k 0 1\r\nx\r\nEND\r\n")
        other.expect(b"VALUE k 0 1\r\nx\r\nEND\r\n")
        binary.send(KNOWS).expect(packet(GET, b"k", opaque=after_probe())).send(answer(GET, status=1, opaque=after_probe()))
        self.assertEqual(client.read(8)[6:], b"\0\1")
        server.close()
        other.send(b"get k\r\n")
        mock.accept_expect(b"get k\r\n").send(b"END\r\n")
        other.expect(b"END\r\n")

    def test_server_is_replaced(self):
        """When the connection in text is lost it is asked again; when that in binary is, too."""
        mock, _, client = self.one()
        client.send(packet(GET, b"k"))
        mock.accept_expect(PROBE).close()
        server = self.falls_back(mock, client)
        client.send(packet(GET, b"k"))
        server.expect(b"gets k\r\n").close()  # a read, which is sent again: and in binary
        server = mock.accept_expect(PROBE).send(KNOWS)
        server.expect(packet(GET, b"k", opaque=after_probe())).send(answer(GET, b"", HI, b"hi", opaque=after_probe()))
        client.expect(answer(GET, b"", HI, b"hi"))
        self.get(server, client, 25)
        server.shutdown().expect_closed()
        client.send(packet(GET, b"k"))
        mock.accept_expect(PROBE).send(b"ERROR\r\n")
        self.falls_back(mock, client)

    def test_lost(self):
        """A read is asked again, behind another probe; a write has failed."""
        mock, _, client = self.one()
        client.send(packet(GET, b"k"))
        server = mock.accept_expect(PROBE).send(KNOWS).expect(packet(GET, b"k", opaque=after_probe()))
        server.close()
        server = mock.accept_expect(PROBE).send(KNOWS)
        server.expect(packet(GET, b"k", opaque=after_probe())).send(answer(GET, b"", HI, b"hi", opaque=after_probe()))
        client.expect(answer(GET, b"", HI, b"hi")).send(store(SET, b"k", b"x"))
        server.expect(store(SET, b"k", b"x", opaque=after_probe(25))).close()
        self.assertEqual(client.read(24 + 23)[24:], b"proxy downstream closed")
        client.send(packet(GET, b"k"))
        server = mock.accept_expect(PROBE).send(KNOWS).expect(packet(GET, b"k", opaque=after_probe()))

    def test_nobody_listens(self):
        mock = self.mock(listening=False)
        client = self.client(self.moxi([mock], {"connect_max_errors": 1000}))
        client.send(packet(GET, b"k") + store(SET, b"k", b"x"))
        self.assertEqual(client.read(24 + 9)[24:], b"Not found")
        self.assertEqual(client.read(24 + 25)[24:], b"proxy write to downstream")
        mock.listen()
        client.send(packet(GET, b"k"))
        mock.accept_expect(PROBE)

    def test_what_only_text_can_ask(self):
        mock, _, client = self.one()
        client.send(packet(STAT, b"detail dump"))
        mock.accept_expect(b"stats detail dump\r\n").send(b"PREFIX a get 1 hit 1 set 1 del 0\r\nEND\r\n")
        self.assertEqual(client.read(2), b"\x81\x10")

    def test_password(self):
        mock = self.mock()
        client = self.client(self.moxi([mock], None, "-Z", self.secret()))
        client.send(packet(GET, b"k"))
        server = mock.accept_expect(PROBE)
        server.expect_nothing(0.05)
        hello = packet(0x21, b"PLAIN", value=b"\0joe\0secret", opaque=after_probe())
        server.send(KNOWS).expect(hello).expect_nothing(0.05)
        server.send(answer(0x21, value=b"Authenticated", opaque=after_probe()))
        server.expect(packet(GET, b"k", opaque=after_probe(len(hello))))
        server.send(answer(GET, b"", HI, b"hi", opaque=after_probe(len(hello))))
        client.expect(answer(GET, b"", HI, b"hi"))

    def secret(self, more=""):
        file = tempfile.NamedTemporaryFile("w", prefix="moxi-")
        self.addCleanup(file.close)
        file.write("usr=joe\npwd=secret\n" + more)
        file.flush()
        return file.name

    def test_memcached(self):
        """One that speaks one protocol alone has clients of each as far as that can be."""
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
