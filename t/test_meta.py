#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_meta - the meta commands, through moxi and on moxi, and what crosses from one protocol in text to the other.

As in test_text, sessions are sent to a memcached and to moxi, and the replies compared. What memcached 1.6.18 does not have
yet is written out here (Newer). Where the test is the server: mock_meta.

Run as /usr/bin/python3 t/test_meta.py [Class[.test]].
"""

import base64
import re
import unittest

from binarylib import GET, MARK, MARKED, SETQ, answer, packet, store
from moxilib import MoxiTest, await_true, proxy_stats
from test_text import BIG, Both, Conversation, without_cas
from test_text import SESSIONS as text_sessions

# Each on a connection of its own, on an empty memcached that holds k = "old", its flags 3, and n = "10".
SESSIONS = [
    # mg
    b"mg\r\n", b"mg k\r\n", b"mg none\r\n", b"mg k v\r\n", b"mg none v\r\n", b"mg k s\r\n", b"mg k f s t v\r\n",
    b"mg k v t s f\r\n", b"mg k c\r\n", b"mg k k v\r\n", b"mg none k Oabc v\r\n", b"mg k Oabc k v\r\n", b"mg k h\r\n",
    b"mg k h\r\nmg k h v\r\n", b"mg k u h\r\nmg k u h\r\nmg k h\r\nmg k u h\r\n", b"get k\r\nmg k h\r\n",
    b"mg k l\r\n",
    b"mg k t T100\r\n", b"mg k T100 t\r\n", b"mg k T100 v t\r\nmg k T0 t\r\n", b"mg k T-1\r\nmg k v\r\n",
    b"mg none T100\r\n",
    b"mg k q v\r\nmg none q v\r\nmn\r\n", b"mg none q k Ox\r\nmn\r\n", b"mg k v P1 Labc\r\n",
    b"mg k v v\r\n", b"mg k !\r\n", b"mg k \xff\r\n", b"mg k m o o o o o\r\n", b"mg k T\r\n", b"mg k Tx\r\n",
    b"mg k T1x\r\n", b"mg k T99999999999\r\n", b"mg k T-99999999999\r\n", b"mg k N\r\n", b"mg k Rx\r\n",
    b"mg k Cx\r\n", b"mg k Fx\r\n", b"mg k C12 F5 MX I J1 D2 v\r\n", b"mg k Jx\r\n", b"mg k Dx\r\n", b"mg k MXX\r\n",
    b"mg k O" + b"o" * 31 + b"\r\n", b"mg k O" + b"o" * 32 + b"\r\n", b"mg none O" + b"o" * 32 + b"\r\n",
    b"mg k v s t c f k h l u q P L Oa T9 R9 N9 F9\r\n", b"mg k v s t c f k h l u q P L Oa T9 R9 N9 F9 C9\r\n",
    b"mg " + b"k" * 250 + b" v\r\n", b"mg " + b"k" * 251 + b" v\r\n", b"  mg   k   v   k  \r\n", b"mg k v\n",
    b"MG k v\r\n", b"mgk v\r\n", b"mx k\r\n", b"m\r\n", b"mg\tk v\r\n",
    # what wins
    b"mg a N30 s v t\r\nmg a N30 s v t\r\nmg a v\r\n", b"mg a N0 v t k Oz\r\nget a\r\n", b"mg a N30 q v\r\n",
    b"set e 0 100 1\r\nx\r\nmg e R30 v\r\nmg e R130 v\r\nmg e R130 v\r\nmg e v\r\n",
    b"mg k R30 v\r\n", b"mg k T20 R30\r\n", b"mg k R30 T20\r\nmg k R30\r\n",
    b"mg a T50 N900\r\nmg a t\r\nmg b N900 T50 t\r\nmg b t\r\nmg k T50 N900\r\nmg k t\r\n",
    b"ma a T50 N900 v\r\nmg a t\r\nma b N900 T50 t\r\nmg b t\r\nma n T50 N900\r\nmg n t\r\n",
    b"md k I\r\nmg k v\r\nmg k v\r\nget k\r\nmd k I\r\nmg k\r\n", b"md k I T30\r\nmg k t v\r\n",
    b"ms k 20000\r\n" + b"x" * 20000 + b"\r\nmg k v\r\nmd k I\r\nmg k h u\r\n",
    # ms
    b"ms\r\n", b"ms k\r\n", b"ms k x\r\n", b"ms k -1\r\n", b"ms k S2\r\n", b"ms k 2\r\nhi\r\nget k\r\n",
    b"ms k 2 F5 T100\r\nhi\r\nmg k v f t\r\n", b"ms k 0\r\n\r\nmg k v s\r\n", b"ms k 2 q\r\nhi\r\nget k\r\n",
    b"ms k 2 k Oabc\r\nhi\r\n", b"ms k 2 c\r\nhi\r\n", b"ms k 2 Oabc c k\r\nhi\r\n", b"ms k 2 T-1\r\nhi\r\nmg k\r\n",
    b"ms k 2 ME\r\nhi\r\nms a 2 ME\r\nhi\r\nget k a\r\n", b"ms k 2 MA\r\nhi\r\nms a 2 MA\r\nhi\r\nget k a\r\n",
    b"ms k 2 MP\r\nhi\r\nms a 2 MP\r\nhi\r\nget k a\r\n", b"ms k 2 MR\r\nhi\r\nms a 2 MR\r\nhi\r\nget k a\r\n",
    b"ms k 2 MS\r\nhi\r\nget k\r\n", b"ms k 2 MX\r\nhi\r\nget k\r\n", b"ms k 2 MEE\r\nhi\r\nget k\r\n",
    b"ms k 2 C99999\r\nhi\r\nget k\r\n", b"ms a 2 C5\r\nhi\r\nget a\r\n", b"ms k 2 C99999 q\r\nhi\r\n",
    b"ms k 2 C0\r\nhi\r\nget k\r\n", b"ms k 2 C0 MA\r\nhi\r\nms k 2 C0 MP\r\nhi\r\nget k\r\n", b"ma n C0 v\r\n", b"md k C0\r\n",
    b"ms k 2 MR C5\r\nhi\r\n", b"ms a 2 MR C5\r\nhi\r\n", b"ms k 2 ME C5\r\nhi\r\n",
    b"ms k 2 MA C99999\r\nhi\r\nms k 2 MP C99999 c\r\nhi\r\nget k\r\n", b"ms k 2 c C99999\r\nhi\r\n",
    b"ms k 2 C0 MA\r\nhi\r\nms k 2 C0 MP\r\nhi\r\nget k\r\n", b"ms k 2 I C1 T50\r\nhi\r\n", b"ms k 2 v v\r\nhi\r\nget k\r\n", b"ms k 2 !\r\nhi\r\nget k\r\n",
    b"ms k 2 Tx\r\nhi\r\nget k\r\n", b"ms k 2 Fx\r\nhi\r\nget k\r\n", b"ms k 2 F4294967295\r\nhi\r\nmg k f\r\n",
    b"ms k 2 O" + b"o" * 32 + b"\r\nhi\r\nget k\r\n",
    b"ms k 2\r\nhixx\r\nget k\r\n", b"ms k 6\r\n\r\n\r\n\r\n\r\nmg k v\r\n",
    b"ms k 2 MA T9 F9\r\nhi\r\nmg k v f t\r\n", b"ms k 2 q ME\r\nhi\r\nmn\r\n",
    b"ms k 2000000\r\n" + b"x" * 2000000 + b"\r\nget k\r\n", b"ms k 2000000 q MA\r\n" + b"x" * 2000000 + b"\r\nget k\r\n",
    # md
    b"md\r\n", b"md k\r\nmd k\r\nget k\r\n", b"md k q\r\nmd k q\r\nmn\r\n", b"md k k Oabc\r\n", b"md none k Oabc\r\n",
    b"md k C99999\r\nget k\r\n", b"md k C0 Ox\r\n", b"md k v v\r\n", b"md k !\r\n", b"md k Cx\r\n",
    b"md k O" + b"o" * 32 + b"\r\n", b"md " + b"k" * 251 + b"\r\n", b"md k T30\r\nmg k\r\n", b"md k I q\r\nmg k\r\n",
    # ma
    b"ma\r\n", b"ma n\r\nget n\r\n", b"ma none\r\n", b"ma n v\r\n", b"ma n D5 v\r\n", b"ma n MD v\r\n", b"ma n M- D99 v\r\n",
    b"ma n MI D7 v\r\n", b"ma n M+ v\r\n", b"ma n MX v\r\n", b"ma n v t\r\n", b"ma n T100 v t\r\n", b"ma n t T100 v\r\n",
    b"ma a N0 v\r\nma a N0 v\r\n", b"ma a N90 J13 v t\r\nma a N0 J13 v\r\n", b"ma a J13 v\r\n", b"ma n q\r\nma none q\r\nmn\r\n",
    b"ma n v k Oabc\r\n", b"ma none v k Oabc\r\n", b"ma k v\r\n", b"ma n C99999 v\r\n", b"ma n C0 v\r\n", b"ma n c v\r\n",
    b"ma n Dx\r\n", b"ma n D-1\r\n", b"ma n Jx\r\n", b"ma n v v\r\n", b"ma n !\r\n", b"ma n D18446744073709551615 v\r\n",
    b"ma n D18446744073709551616\r\n", b"ma n O" + b"o" * 32 + b"\r\n", b"ma n MII\r\n",
    b"set n 0 0 2\r\n99\r\nma n v\r\nma n MD v\r\nmg n v\r\n",
    # keys in base64
    b"ms Zm9v 2 b\r\nhi\r\nget foo\r\nmg Zm9v b v\r\n", b"set foo 0 0 1\r\nx\r\nmg Zm9v b v k\r\nmg foo v k\r\n",
    b"ms YSBi 2 b\r\nhi\r\nmg YSBi b k v\r\nmd YSBi b k\r\nmg YSBi b k\r\n", b"ma AAEC b N0 v k\r\nma AAEC b N0 v k\r\n",
    b"mg a b\r\n", b"mg aaaaa b v\r\n", b"ms a 2 b\r\nhi\r\nget k\r\n", b"md a b\r\n", b"ma a b\r\n",
    b"mg YWI= b\r\n", b"mg YQ== b k\r\n", b"mg YWJj k b\r\n",
    # mn, me
    b"mn\r\n", b"mn\r\nmn\r\n", b"mn x y\r\n", b"me\r\n", b"me none\r\n", b"me k\r\n", b"get k\r\nme k\r\n",
    b"ms YSBi 2 b\r\nhi\r\nme YSBi b\r\n", b"me a b\r\n", b"me k x\r\n",
    # as Dalli 4 and 5 ask
    b"mg k v f\r\nmg none v f\r\nmg k v f c\r\n", b"mg k v f k q s\r\nmg none v f k q s\r\nmg n v f k q s\r\nmn\r\n",
    b"mg azE= v f b k q s\r\nmg aw== v f b k q s\r\nmn\r\n", b"mg k v f T100\r\nmg k T100\r\n",
    b"ms k 3 c F4 T100 MS\r\nabc\r\nmg k v f t\r\n", b"ms k 3 c F0 T0 ME\r\nabc\r\nms k 3 F0 T0 MS q\r\nabc\r\nms a 3 F0 MR q\r\nabc\r\nmn\r\n",
    b"ms k 1 MA\r\nx\r\nms k 1 MP q\r\ny\r\nms a 1 MA q\r\nx\r\nmn\r\nget k\r\n", b"ms k 3 c F4 C99999 T100 MS\r\nabc\r\n",
    b"md k\r\nmd k q\r\nmd n C99999 q\r\nmn\r\n", b"ma n v D5 MI\r\nma n v D7 MD\r\nma a v D5 J7 N100 MI\r\nma a v D5 J7 N100 MI\r\nma b v D1 MD\r\n",
    # mixtures
    b"mg k v\r\nget k n\r\nmg n v\r\nset k 0 0 1\r\nx\r\nmg k v\r\nmn\r\n", b"ms a 2 q\r\nhi\r\nget a\r\nmd a q\r\nget a\r\nmn\r\n",
    b"mg k v\r\nquit\r\nmg k v\r\n",
]

# Of these, what classic commands can say as well.
CLASSIC = [
    b"mg k v\r\n", b"mg none v\r\n", b"mg k f s v k Oab\r\n", b"mg none v k Oab q\r\nmn\r\n", b"mg k c v\r\n",
    b"mg k T100 v\r\ntouch k 0\r\n", b"mg k v q\r\n", b"ms k 2 F5 T100\r\nhi\r\nget k\r\n", b"ms k 2 q s\r\nhi\r\nmn\r\n",
    b"ms k 2 ME k Oab\r\nhi\r\nms a 2 ME\r\nhi\r\nget a\r\n", b"ms k 2 MA\r\nhi\r\nms k 2 MP\r\nhi\r\nget k\r\n",
    b"ms k 2 MR\r\nhi\r\nms a 2 MR\r\nhi\r\n", b"ms k 2 C99999\r\nhi\r\nms a 2 C5 Oab\r\nhi\r\nget k\r\n",
    b"md k k Oab\r\nmd k\r\n", b"md k q\r\nmn\r\n", b"ma n v D5\r\nma n MD k\r\nma none\r\nma k v\r\n", b"ma n q\r\nget n\r\n",
    b"ms Zm9v 2 b\r\nhi\r\nmg Zm9v b v\r\nget foo\r\n", b"ms k 2000000\r\n" + b"x" * 2000000 + b"\r\nget k\r\n",
    b"mg k !\r\nms k 2 MX\r\nhi\r\nmg " + b"k" * 251 + b"\r\nmn\r\n",
]

# And what the binary protocol can besides.
IN_BINARY = [
    b"mg k T100 f\r\nmg none T100 Oab\r\n", b"mg k T-1 v\r\nmg k v\r\n", b"ms k 2 c\r\nhi\r\n", b"ms k 2 Oab c k\r\nhi\r\n",
    b"ms k 2 C99999 c\r\nhi\r\n", b"ms k 2 C0\r\nhi\r\nget k\r\n", b"ms k 2 MR C5\r\nhi\r\nms a 2 MR C5\r\nhi\r\n",
    b"ms k 2 MA C99999\r\nhi\r\nms k 2 MP c\r\nhi\r\nget k\r\n", b"ms k 2 T-1\r\nhi\r\nmg k v\r\n", b"md k C99999\r\nget k\r\n",
    b"ma a N0 v\r\nma a N0 v\r\n", b"ma a N90 J13 v\r\nma a N0 J13 v\r\n", b"ma n C99999 v\r\n", b"ma n c v\r\nma n MD q\r\nmn\r\n",
    b"ma n D18446744073709551615 v\r\n", b"ms YSBi 2 b\r\nhi\r\nmg YSBi b k v\r\nmd YSBi b k\r\nmg YSBi b k v\r\n",
    b"ma AAEC b N0 v k\r\nma AAEC b N0 v k\r\n",
]

# What they cannot, and the flag that an error names.
BEYOND = [
    (b"mg k\r\n", b"mg without v"), (b"mg k v t\r\n", b"t"), (b"mg k v l\r\n", b"l"), (b"mg k v h\r\n", b"h"),
    (b"mg k v u\r\n", b"u"), (b"mg k v N30\r\n", b"N"), (b"mg k v R30\r\n", b"R"), (b"mg YSBi b v\r\n", b"a binary key"),
    (b"ms k 2 c\r\nhi\r\n", b"c here"), (b"ms k 2 MA s\r\nhi\r\n", b"s here"), (b"ms k 2 MA C5\r\nhi\r\n", b"C here"),
    (b"ms k 2 I C5\r\nhi\r\n", b"I"), (b"ms k 2 E5\r\nhi\r\n", b"E"), (b"md k I\r\n", b"I"), (b"md k x\r\n", b"x"),
    (b"md k C5\r\n", b"C here"), (b"ma none N0\r\n", b"N"), (b"ma n T5\r\n", b"T here"), (b"ma n t\r\n", b"t"),
    (b"ma n c\r\n", b"c here"), (b"ma n C5\r\n", b"C here"), (b"me k\r\n", b"me"),
]


def without_uniques(data):
    """Replies without what each server counts by itself, or what the time decides; what is left to live in tens."""
    data = re.sub(rb"(?m)^((?:VA|HD)[^\r]* t)(\d+)", lambda m: m[1] + b"%d" % (-(-int(m[2]) // 10) * 10), data)
    data = re.sub(rb"(?m)^((?:VA|HD|EX)[^\r]*) c\d+", rb"\1 cN", without_cas(data))
    data = re.sub(rb"(?m)^((?:VA|HD)[^\r]*) l\d+", rb"\1 lN", data)
    return re.sub(rb"(?m)^(ME [^\r]*) la=\d+ cas=\d+ ", rb"\1 la=N cas=N ", data)


class BothMeta(Both):
    @staticmethod
    def answers(target, session):
        data, eof = Both.answers(target, session)
        return without_uniques(data), eof


class Sessions(BothMeta):
    sessions = SESSIONS

    def test_sessions(self):
        for session in self.sessions:
            self.compare(session)

    def test_sessions_one_after_the_other(self):
        calm = [s for s in self.sessions if b"quit" not in s]
        for i in range(0, len(calm), 10):
            self.compare(b"".join(calm[i:i + 10]))


class OneServer(Sessions):
    num_servers = 1


class ThreeServers(Sessions):
    num_servers = 3

    def test_quiet_ones_in_order(self):
        """mn is the barrier behind quiet commands to several servers."""
        keys = [b"key%d" % i for i in range(200)]
        sets = b"".join(b"ms %s %d q\r\n%s\r\n" % (key, len(key), key) for key in keys[::2])
        gets = b"".join(b"mg %s v k q O%d\r\n" % (key, i) for i, key in enumerate(keys))
        deletes = b"".join(b"md %s q\r\n" % key for key in keys[::2])
        self.compare(sets + b"mn\r\n" + gets + b"mn\r\n" + deletes + b"mn\r\n" + gets + b"mn\r\n")

    def test_one_key_one_server(self):
        """However a key is written it is found at the same server."""
        self.prepare()
        client = self.client(self.proxy)
        for i in range(50):
            key = b"some-key-%d" % i
            encoded = base64.b64encode(key)
            client.ask(b"ms %s 2 b\r\nhi\r\n" % encoded, b"HD\r\n")
            client.ask(b"get %s\r\n" % key, b"VALUE %s 0 2\r\nhi\r\nEND\r\n" % key)
            client.ask(b"incr %s 1\r\nmg %s v\r\n" % (key, key),
                       b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\nVA 2\r\nhi\r\n")
            client.ask(b"delete %s\r\nmg %s b\r\n" % (key, encoded), b"DELETED\r\nEN\r\n")


class Local(Sessions):
    local = ["local"]


class Mixed(Sessions):
    """The cache inside is one server of two."""

    num_servers = 1
    local = ["local"]


class TextOverMeta(Conversation, Both):
    """Classic commands for servers that are spoken to in meta commands alone."""

    num_servers = 1
    settings = {"downstream_protocol": "meta"}
    # a value that is too large takes the old one away, whatever the mode of ms
    sessions = [s for s in text_sessions if not re.match(rb"(add|append|replace|cas) k 0 0 %d" % BIG, s)]

    def test_key_that_was_stored_in_base64(self):
        """memcached tells such a key in base64, whoever asks."""
        self.prepare()
        client = self.client(self.proxy)
        client.ask(b"ms Zm9v 2 b\r\nhi\r\nget foo k none\r\n",
                   b"HD\r\nVALUE foo 0 2\r\nhi\r\nVALUE k 3 3\r\nold\r\nEND\r\n")
        client.ask(b"get foo\r\n", b"VALUE foo 0 2\r\nhi\r\nEND\r\n")


class TextOverMetaThree(TextOverMeta):
    num_servers = 3


class MetaOverMeta(Sessions):
    num_servers = 3
    settings = {"downstream_protocol": "meta"}


class MetaOverText(Sessions):
    """Meta commands for servers that know the classic ones alone."""

    num_servers = 3
    settings = {"downstream_protocol": "ascii"}
    sessions = CLASSIC

    def test_what_cannot_be_said(self):
        self.prepare()
        client = self.client(self.proxy)
        for request, named in BEYOND:
            with self.subTest(request=request):
                client.ask(request + b"mn\r\n",
                           b"SERVER_ERROR proxy downstream has no meta commands, for %s\r\nMN\r\n" % named)
        client.ask(b"get k n\r\n", b"VALUE k 3 3\r\nold\r\nVALUE n 0 2\r\n10\r\nEND\r\n")


class TextOverBinary(Conversation, Both):
    """Classic commands for servers that are spoken to in the binary protocol."""

    num_servers = 1
    settings = {"downstream_protocol": "binary"}
    sessions = text_sessions


class TextOverBinaryThree(TextOverBinary):
    num_servers = 3


class MetaOverBinary(Sessions):
    num_servers = 3
    settings = {"downstream_protocol": "binary"}
    sessions = CLASSIC + IN_BINARY


class KeysWithLineEnds(MoxiTest):
    """
    memcached tells the key of an item that it has made of nothing as it is, whatever bytes it has. What looks like a reply
    in it is nobody's: all clients share a connection to the server.
    """

    evil = b"x\r\nVALUE secret 0 4\r\nEVIL\r\nEND\r\n"
    keys = [evil, b"a b", b"\r\n", b" ", b"\n" * 186, b"x\r\nMN\r\n"]

    def setUp(self):
        super().setUp()
        self.server = self.memcached()
        self.proxy = self.moxi([self.server])
        self.ours, self.theirs = self.client(self.proxy), self.client(self.proxy)
        self.theirs.ask(b"set secret 0 0 4\r\nGOOD\r\n", b"STORED\r\n")

    def ask_both(self, request, expected):
        """Ours goes first; theirs is behind it in the same write, or in one soon after."""
        for _ in range(3):
            self.ours.send(request)
            self.theirs.ask(b"get secret\r\n", b"VALUE secret 0 4\r\nGOOD\r\nEND\r\n")
            found = self.ours.read_until(b"MN\r\n")
            self.assertRegex(found, rb"(?s)\A" + expected + rb"MN\r\n\Z")

    def bad_replies(self):
        return proxy_stats(self.theirs)["%d:default:pstd_stats:err_downstream_bad_reply" % self.proxy.port]

    def test_debug(self):
        for key in self.keys[:-1]:
            encoded = base64.b64encode(key)
            self.ours.ask(b"mg %s b N1000\r\n" % encoded, b"HD W\r\n")
            self.ask_both(b"me %s b\r\nmn\r\n" % encoded, rb"ME %s exp=-\d+ [^\r]*\r\n" % re.escape(key))
            self.ours.ask(b"ms %s 1 b\r\nx\r\n" % encoded, b"HD\r\n")
            self.ask_both(b"me %s b\r\nmn\r\n" % encoded, rb"ME %s exp=-1 [^\r]*\r\n" % re.escape(encoded))
        self.assertEqual(self.bad_replies(), "0")

    def test_key(self):
        """And no reply is taken for a broken one, at which the connection would be closed, with all that is on it."""
        for key in self.keys:
            encoded = base64.b64encode(key)
            told = re.escape(b" k%s b" % encoded)
            self.ours.ask(b"mg %s b k\r\n" % encoded, b"EN k%s b\r\n" % encoded)
            self.ours.ask(b"mg %s b N1000 k\r\n" % encoded, b"HD k%s b W\r\n" % encoded)
            self.ask_both(b"mg %s b k s O7 v\r\nmg %s k b f\r\nmn\r\n" % (encoded, encoded),
                          rb"VA 0%s s0 O7 Z\r\n\r\nHD%s f0 Z\r\n" % (told, told))
            self.ours.ask(b"ms %s 300000 b k\r\n%s\r\n" % (encoded, b"v" * 300000), b"HD k%s b\r\n" % encoded)
            self.ask_both(b"mg %s b k v\r\nmn\r\n" % encoded, rb"VA 300000%s\r\nv{300000}\r\n" % told)
            self.ours.ask(b"md %s b k O1\r\n" % encoded, b"HD k%s b O1\r\n" % encoded)
            self.ours.ask(b"ma %s b N0 k v\r\n" % encoded, b"VA 1 k%s b\r\n0\r\n" % encoded)
            self.ours.ask(b"ms %s 5 b k s\r\nhello\r\n" % encoded, b"HD k%s b\r\n" % encoded)  # 1.6.18 does not tell s
            self.ours.ask(b"ms %s 1 b q\r\n1\r\nmn\r\n" % encoded, b"MN\r\n")
            self.ask_both(b"ma %s b k\r\nmg %s b k\r\nmn\r\n" % (encoded, encoded), rb"HD%s\r\nHD%s\r\n" % (told, told))
        self.assertEqual(self.bad_replies(), "0")

    def test_dumps(self):
        """What looks like the end of one may be a part of a key: the connection carries nothing else, and nothing is lost."""
        counted = b"x get 1 hit 1 set 1 del 1\r\nEND\r\nVALUE secret 0 4\r\nEVIL\r\nEND\r\n:"
        listed = b"x [1 b; 0 s]\r\nEND\r\nVALUE secret 0 4\r\nEVIL\r\nEND\r\n"
        self.ours.ask(b"stats detail on\r\n", b"OK\r\n")
        planted = self.client(self.proxy)
        planted.ask(packet(GET, counted) + store(SETQ, listed, b"v") + MARK,
                    answer(GET, value=b"Not found", status=1) + MARKED)

        def dump():
            """Those that are new are not told by memcached 1.6.18."""
            self.ours.send(b"stats cachedump 2 0\r\nmn\r\n")
            return self.ours.read_until(b"MN\r\n") != b"END\r\nMN\r\n"

        await_true(dump, "the item is told", pause=0.1)
        for ask in (b"stats detail dump", b"stats cachedump 2 0"):
            for i in range(5):
                self.ours.send(ask + b"\r\nset a 0 0 1\r\n%d\r\nmn\r\n" % i)
                self.theirs.ask(b"set b 0 0 1\r\n%d\r\nget secret\r\nget b\r\n" % i,
                                b"STORED\r\nVALUE secret 0 4\r\nGOOD\r\nEND\r\nVALUE b 0 1\r\n%d\r\nEND\r\n" % i)
                found = self.ours.read_until(b"MN\r\n")
                self.assertRegex(found, rb"\A(PREFIX|ITEM) x [^\r]*\r\nEND\r\nSTORED\r\nMN\r\n\Z")
        self.assertEqual(self.bad_replies(), "0")


class Newer(MoxiTest):
    """The cache inside has what memcached has since 1.6.18."""

    def setUp(self):
        super().setUp()
        self.c = self.client(self.moxi(["local"]))

    def test_uniques_that_are_given(self):
        c = self.c
        c.ask(b"ms k 1 E73 c\r\nx\r\n", b"HD c73\r\n")
        c.ask(b"mg k c v\r\n", b"VA 1 c73\r\nx\r\n")
        c.ask(b"gets k\r\n", b"VALUE k 0 1 73\r\nx\r\nEND\r\n")
        c.ask(b"ms k 1 C72\r\ny\r\n", b"EX\r\n")
        c.ask(b"ms k 1 C73 E74\r\ny\r\n", b"HD\r\n")
        c.ask(b"ms k 1 C73 I E75 c\r\nz\r\nmg k v c\r\n", b"HD c75\r\nVA 1 c75 X W\r\nz\r\n")
        c.ask(b"ma n N0 E9 c v\r\nma n E10 c v\r\n", b"VA 1 c9\r\n0\r\nVA 1 c10\r\n1\r\n")
        c.ask(b"mg new N30 E5 c\r\n", b"HD c5 W\r\n")
        c.ask(b"md new I E6\r\nmg new c\r\n", b"HD\r\nHD c6 X W\r\n")
        c.ask(b"flush_all\r\nmg k\r\nms k 1 E1\r\nx\r\nmg k c\r\n", b"OK\r\nEN\r\nHD\r\nHD c1\r\n")

    def test_append_to_nothing(self):
        self.c.send(b"ms a 2 MA N30 F7 s\r\nhi\r\nms a 1 MP N90 s\r\n-\r\nmg a v t f\r\n")
        self.c.expect(b"HD s2\r\nHD s3\r\n").expect_match(rb"VA 3 t(30|2\d) f7\r\n")
        self.c.expect(b"-hi\r\n")

    def test_delete_of_the_value_alone(self):
        c = self.c
        c.ask(b"ms k 2 F7 E5\r\nhi\r\nmd k x\r\nmg k v s f c\r\n", b"HD\r\nHD\r\nVA 0 s0 f0 c5\r\n\r\n")
        c.send(b"md k x I T30 F9\r\nmg k v t f\r\n")
        c.expect(b"HD\r\n").expect_match(rb"VA 0 t(30|2\d) f9 X W\r\n")

    def test_quiet_when_a_number_is_made(self):
        self.c.ask(b"ma a N0 J7 q\r\nmg a v\r\n", b"VA 1\r\n7\r\n")

    def test_flags_over_32_bits(self):
        """memcached 1.6.18 cuts them; moxi refuses what it would not keep, as with set."""
        self.c.ask(b"ms k 2 F4294967296\r\nhi\r\nmg k\r\n", b"CLIENT_ERROR bad command line format\r\nEN\r\n")

    def test_sizes(self):
        self.c.ask(b"ms k 2 s\r\nhi\r\nms k 3 s MA\r\n...\r\nms k 1 s ME\r\nx\r\n", b"HD s2\r\nHD s5\r\nNS s1\r\n")

    def test_invalidation_needs_no_memory(self):
        c = self.client(self.moxi(["local"], None, "-m", "2", "-M"))
        data = b"x" * 1000
        for i in range(5000):
            c.send(b"ms k%d 1000\r\n%s\r\n" % (i, data))
            if c.line() != b"HD\r\n":
                break
        for k in range(0, i - 1, 7):
            c.ask(b"md k%d I\r\nmg k%d s\r\nmg k%d s\r\n" % (k, k, k), b"HD\r\nHD s1000 X W\r\nHD s1000 Z X\r\n")

    def test_what_stays_stale(self):
        self.c.ask(b"ms n 1\r\n9\r\nmd n I\r\nma n v\r\nmg n\r\nma n v E7\r\nmg n c\r\n",
                   b"HD\r\nHD\r\nVA 2\r\n10\r\nHD X W\r\nVA 2\r\n11\r\nHD c7 Z X\r\n")

    def test_touch_is_a_fetch(self):
        self.c.ask(b"ms k 1\r\nx\r\ntouch k 100\r\nmg k h\r\n", b"HD\r\nTOUCHED\r\nHD h1\r\n")

    def test_stale_is_told_in_seconds(self):
        self.c.ask(b"ms k 1 T1\r\nx\r\n", b"HD\r\n")

        def gone():
            self.c.send(b"mg k\r\n")
            return self.c.line() == b"EN\r\n"

        await_true(gone, "expiry", pause=0.05)


if __name__ == "__main__":
    unittest.main()
