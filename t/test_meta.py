#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_meta - the meta commands, through moxi and on moxi, and what crosses from one protocol in text to the other.

As in test_text, sessions are sent to a memcached and to moxi, and the replies compared; then the test is the server, byte
by byte, as in moxi_mock. What memcached 1.6.18 does not have yet is written out here (Newer).

Run as /usr/bin/python3 t/test_meta.py [Class[.test]].
"""

import base64
import re
import unittest

from moxilib import META_NO, META_PROBE, META_YES, MoxiTest, await_true, has_sanitizer, ms, proxy_stats
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


# A request, as it reaches the server when that is not the same, and a reply.
EXCHANGES = [
    (b"mg k v f Oab k\r\n", None, b"VA 5 f5 Oab kk\r\nhello\r\n"),
    (b"mg k t s\r\n", None, b"HD t-1 s5\r\n"),
    (b"mg k v\r\n", None, b"EN\r\n"),
    (b"mg k v Oab\r\n", None, b"EN Oab\r\n"),
    (b"mg sly v\r\n", None, b"VA 24\r\n\r\nEND\r\nVA 1\r\nMN\r\nx\r\n\r\n\r\n\r\n"),
    (b"mg YSBi b v k\r\n", None, b"VA 0 kYSBi b\r\n\r\n"),
    (b"ms k 2 T5 c\r\nhi\r\n", None, b"HD c18446744073709551615\r\n"),
    (b"ms k 2 C5\r\nhi\r\n", None, b"EX\r\n"),
    (b"ms k 2 C5\r\nhi\r\n", None, b"NF\r\n"),
    (b"ms k 0 ME Oab\r\n\r\n", None, b"NS Oab\r\n"),
    (b"md k\r\n", None, b"HD\r\n"),
    (b"md k I T30\r\n", None, b"NF\r\n"),
    (b"ma n v t\r\n", None, b"VA 2 t-1\r\n17\r\n"),
    (b"ma n N0 J5\r\n", None, b"HD\r\n"),
    (b"ma n MD D7\r\n", None, b"NF\r\n"),
    (b"ma n D7 Oab\r\n", None, b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    (b"me k\r\n", None, b"ME k exp=-1 la=7 cas=2 fetch=yes cls=1 size=63\r\n"),
    (b"me k\r\n", None, b"EN\r\n"),
    (b"  mg   k   v  k \n", b"mg k v k\r\n", b"VA 1 kk\r\nx\r\n"),
    (b"get k\r\n", None, b"VALUE k 0 2\r\nhi\r\nEND\r\n"),
    (b"set k 0 0 1\r\nx\r\n", None, b"STORED\r\n"),
]

# Quiet ones: what comes from the server, and what the client is told of it.
QUIET = [
    (b"mg k v q\r\n", b"mg k v\r\n", b"EN\r\n", b""),
    (b"mg k q v k\r\n", b"mg k v k\r\n", b"VA 1 kk\r\nx\r\n", b"VA 1 kk\r\nx\r\n"),
    (b"mg k s q\r\n", b"mg k s\r\n", b"HD s1\r\n", b"HD s1\r\n"),
    (b"ms k 1 q\r\nx\r\n", b"ms k 1\r\nx\r\n", b"HD\r\n", b""),
    (b"ms k 1 q\r\nx\r\n", b"ms k 1\r\nx\r\n", b"NS\r\n", b"NS\r\n"),
    (b"ms k 1 q\r\nx\r\n", b"ms k 1\r\nx\r\n", b"SERVER_ERROR object too large for cache\r\n",
     b"SERVER_ERROR object too large for cache\r\n"),
    (b"md k q\r\n", b"md k\r\n", b"HD\r\n", b""),
    (b"md k q\r\n", b"md k\r\n", b"NF\r\n", b"NF\r\n"),
    (b"ma k q\r\n", b"ma k\r\n", b"HD\r\n", b""),
    (b"ma k q v\r\n", b"ma k v\r\n", b"VA 1\r\n5\r\n", b""),
    (b"ma k q\r\n", b"ma k\r\n", b"EX\r\n", b"EX\r\n"),
]

# How a classic command is said to a server that is spoken to in meta commands; its reply; what the client gets.
TRANSLATED = [
    (b"get k\r\n", b"mg k f v\r\n", b"VA 2 f7\r\nhi\r\n", b"VALUE k 7 2\r\nhi\r\nEND\r\n"),
    (b"get k\r\n", b"mg k f v\r\n", b"EN\r\n", b"END\r\n"),
    (b"gets k\r\n", b"mg k f v c\r\n", b"VA 2 f7 c99\r\nhi\r\n", b"VALUE k 7 2 99\r\nhi\r\nEND\r\n"),
    (b"gat 5 k\r\n", b"mg k f v T5\r\n", b"VA 2 f7\r\nhi\r\n", b"VALUE k 7 2\r\nhi\r\nEND\r\n"),
    (b"get a b c\r\n", b"mg a f v q O0\r\nmg b f v q O1\r\nmg c f v q O2\r\nmn\r\n",
     b"VA 2 f7 O0\r\nhi\r\nVA 0 f0 O2\r\n\r\nMN\r\n", b"VALUE a 7 2\r\nhi\r\nVALUE c 0 0\r\n\r\nEND\r\n"),
    (b"gats -1 a b\r\n", b"mg a f v c T-1 q O0\r\nmg b f v c T-1 q O1\r\nmn\r\n", b"MN\r\n", b"END\r\n"),
    (b"set k 7 60 2\r\nhi\r\n", b"ms k 2 F7 T60\r\nhi\r\n", b"HD\r\n", b"STORED\r\n"),
    (b"add k 0 0 2\r\nhi\r\n", b"ms k 2 ME\r\nhi\r\n", b"NS\r\n", b"NOT_STORED\r\n"),
    (b"replace k 0 0 2\r\nhi\r\n", b"ms k 2 MR\r\nhi\r\n", b"HD\r\n", b"STORED\r\n"),
    (b"append k 0 0 2\r\nhi\r\n", b"ms k 2 MA\r\nhi\r\n", b"HD\r\n", b"STORED\r\n"),
    (b"prepend k 0 0 2\r\nhi\r\n", b"ms k 2 MP\r\nhi\r\n", b"NS\r\n", b"NOT_STORED\r\n"),
    (b"cas k 0 0 2 77\r\nhi\r\n", b"ms k 2 C77\r\nhi\r\n", b"EX\r\n", b"EXISTS\r\n"),
    (b"cas k 0 0 2 77\r\nhi\r\n", b"ms k 2 C77\r\nhi\r\n", b"NF\r\n", b"NOT_FOUND\r\n"),
    (b"incr n 5\r\n", b"ma n v D5\r\n", b"VA 2\r\n17\r\n", b"17\r\n"),
    (b"decr n 5\r\n", b"ma n v D5 MD\r\n", b"NF\r\n", b"NOT_FOUND\r\n"),
    (b"touch k 60\r\n", b"mg k T60\r\n", b"HD\r\n", b"TOUCHED\r\n"),
    (b"touch k 60\r\n", b"mg k T60\r\n", b"EN\r\n", b"NOT_FOUND\r\n"),
    (b"delete k\r\n", b"md k\r\n", b"HD\r\n", b"DELETED\r\n"),
    (b"delete k\r\n", b"md k\r\n", b"NF\r\n", b"NOT_FOUND\r\n"),
    (b"flush_all\r\n", b"flush_all\r\n", b"OK\r\n", b"OK\r\n"),
    (b"set k 0 0 1\r\nx\r\n", b"ms k 1\r\nx\r\n", b"SERVER_ERROR out of memory storing object\r\n",
     b"SERVER_ERROR out of memory storing object\r\n"),
]

# And back.
TO_CLASSIC = [
    (b"mg k v f Oab k\r\n", b"get k\r\n", b"VALUE k 7 2\r\nhi\r\nEND\r\n", b"VA 2 f7 Oab kk\r\nhi\r\n"),
    (b"mg k v k Oab\r\n", b"get k\r\n", b"END\r\n", b"EN kk Oab\r\n"),
    (b"mg k c v s\r\n", b"gets k\r\n", b"VALUE k 7 2 99\r\nhi\r\nEND\r\n", b"VA 2 c99 s2\r\nhi\r\n"),
    (b"mg k v T9\r\n", b"gat 9 k\r\n", b"VALUE k 7 2\r\nhi\r\nEND\r\n", b"VA 2\r\nhi\r\n"),
    (b"ms k 2 F7 T9\r\nhi\r\n", b"set k 7 9 2\r\nhi\r\n", b"STORED\r\n", b"HD\r\n"),
    (b"ms k 2 C77\r\nhi\r\n", b"cas k 0 0 2 77\r\nhi\r\n", b"NOT_FOUND\r\n", b"NF\r\n"),
    (b"ms k 2 MP k\r\nhi\r\n", b"prepend k 0 0 2\r\nhi\r\n", b"NOT_STORED\r\n", b"NS kk\r\n"),
    (b"md k Oab\r\n", b"delete k\r\n", b"DELETED\r\n", b"HD Oab\r\n"),
    (b"ma n v D5\r\n", b"incr n 5\r\n", b"17\r\n", b"VA 2\r\n17\r\n"),
    (b"ma n N0 J5 v\r\n", b"incr n 1\r\n", b"17\r\n", b"VA 2\r\n17\r\n"),
    (b"ma n N0 J5 v\r\n", b"incr n 1\r\n", b"NOT_FOUND\r\n",
     b"SERVER_ERROR proxy downstream has no meta commands, for N\r\n"),
    (b"ma n MD\r\n", b"decr n 1\r\n", b"NOT_FOUND\r\n", b"NF\r\n"),
]


class Mocks(MoxiTest):
    """The test is the server."""

    def one(self, settings=None):
        mock = self.mock()
        moxi = self.moxi([mock], dict({"client_buffer_max": 1 << 30}, **(settings or {})))
        return mock, moxi, self.client(moxi)

    def established(self, settings=None):
        """A server that has said that it knows the meta commands."""
        mock, moxi, client = self.one(settings)
        client.send(b"mg first\r\n")
        server = mock.accept()
        if not settings:
            server.expect(META_PROBE).send(META_YES)
        server.expect(b"mg first\r\n").send(b"EN\r\n")
        client.expect(b"EN\r\n")
        return mock, moxi, client, server

    def exchange(self, client, server, request, arrives, reply, told):
        client.send(request + b"mn\r\n")
        server.expect(arrives)
        server.send(reply)
        client.expect(told + b"MN\r\n")

    def test_each(self):
        _, _, client, server = self.established()
        for request, arrives, reply in EXCHANGES:
            with self.subTest(request=request):
                self.exchange(client, server, request, arrives or request, reply, reply)
        for request, arrives, reply, told in QUIET:
            with self.subTest(request=request):
                self.exchange(client, server, request, arrives, reply, told)

    def test_cut_anywhere(self):
        _, _, client, server = self.established()
        requests = b"".join(e[0] for e in EXCHANGES)
        arrive = b"".join(e[1] or e[0] for e in EXCHANGES)
        replies = b"".join(e[2] for e in EXCHANGES)
        for cut in range(1, len(replies)):
            client.send(requests)
            server.expect(arrive)
            server.send_pieces([replies[:cut], replies[cut:]])
            client.expect(replies)
        for cut in range(1, len(requests)):
            client.send_pieces([requests[:cut], requests[cut:]])
            server.expect(arrive).send(replies)
            client.expect(replies)
        client.send_pieces([requests[i:i + 1] for i in range(len(requests))])
        server.expect(arrive).send_pieces([replies[i:i + 1] for i in range(len(replies))])
        client.expect(replies).expect_nothing()

    def translated(self, table, protocol):
        """Each, whole; then all, cut anywhere."""
        _, _, client = (found := self.one({"downstream_protocol": protocol}))
        server = None
        for request, arrives, reply, told in table:
            with self.subTest(request=request):
                client.send(request)
                server = server or found[0].accept()
                server.expect(arrives).send(reply)
                client.expect(told)
        requests, arrive, replies, told = (b"".join(row[i] for row in table) for i in range(4))
        for cut in range(1, len(replies)):
            client.send(requests)
            server.expect(arrive)
            server.send_pieces([replies[:cut], replies[cut:]])
            client.expect(told)

    def test_classic_to_meta(self):
        self.translated(TRANSLATED, "meta")

    def test_meta_to_classic(self):
        self.translated(TO_CLASSIC, "ascii")

    def test_large_values_cross(self):
        for protocol, request, arrives, heads in (
                ("ascii", b"mg k v\r\n", b"get k\r\n", (b"VALUE k 0 %d\r\n", b"VA %d\r\n")),
                ("meta", b"get k\r\n", b"mg k f v\r\n", (b"VA %d f0\r\n", b"VALUE k 0 %d\r\n"))):
            mock, _, client = self.one({"downstream_protocol": protocol})
            server = None
            for size in (4095, 65536, 262144, 3000000):
                data = bytes(range(250)) * (size // 250 + 1)
                client.send(request)
                server = server or mock.accept()
                server.expect(arrives)
                ends = {"ascii": (b"END\r\n", b""), "meta": (b"", b"END\r\n")}[protocol]
                server.send(heads[0] % size + data[:size] + b"\r\n" + ends[0])
                client.expect(heads[1] % size + data[:size] + b"\r\n" + ends[1])

    def test_asked_once_and_late(self):
        """Whether a server knows meta commands is asked before the first of them, once a connection."""
        mock, _, client = self.one()
        client.send(b"get k\r\n")
        server = mock.accept_expect(b"get k\r\n")
        server.send(b"END\r\n")
        client.expect(b"END\r\n")
        client.send(b"get a\r\nmg b v\r\nget c\r\nset d 0 0 1\r\nx\r\n")
        server.expect(b"get a\r\n" + META_PROBE).expect_nothing()
        server.send(b"END\r\n" + META_YES).expect(b"mg b v\r\nget c\r\nset d 0 0 1\r\nx\r\n")
        server.send(b"EN\r\nEND\r\nSTORED\r\n")
        client.expect(b"END\r\nEN\r\nEND\r\nSTORED\r\n")
        client.send(b"mg b v\r\n")
        server.expect(b"mg b v\r\n").send(b"EN\r\n")
        client.expect(b"EN\r\n")

    def test_version(self):
        """It is told in stats proxy; whatever is told in its place makes no difference."""
        mock, moxi, client = self.one()
        stat = "%d:default:server:0:version" % moxi.port
        shown = None
        for said in (b"ERROR\r\n", b"VERSION 1.5.0 a b\r\n", b"SERVER_ERROR busy\r\n", b"VERSION \x7f\xc3\xa4\t\0.\r\n",
                     b"CLIENT_ERROR no\r\n", b"VERSION " + b"9" * 8000 + b"\r\n", b"VERSION 2\r\n", b"ERROR unknown\r\n"):
            with self.subTest(said=said[:40]):
                client.send(b"mg k v\r\n")
                server = mock.accept_expect(META_PROBE).send(said + b"MN\r\n").expect(b"mg k v\r\n").send(b"VA 1\r\nx\r\n")
                client.expect(b"VA 1\r\nx\r\n")
                if said.startswith(b"VERSION "):
                    shown = "".join(chr(c) if 32 <= c < 127 else "?" for c in said[8:-2][:63])
                self.assertEqual(proxy_stats(client, b"config").get(stat), shown)
                server.shutdown().expect_closed()

    def test_answer_cut_anywhere(self):
        for answer in (META_YES, b"ERROR\r\nMN\r\n"):
            mock, _, client = self.one()
            for cut in range(1, len(answer)):
                client.send(b"mg k v\r\n")
                server = mock.accept_expect(META_PROBE).send_pieces([answer[:cut], answer[cut:]])
                server.expect(b"mg k v\r\n").send(b"EN\r\n")
                client.expect(b"EN\r\n")
                server.shutdown().expect_closed()

    def test_closed_anywhere_in_the_answer(self):
        """Twice costs no more than the meta commands; classic ones go on."""
        for cut in range(len(META_YES)):
            mock, _, client = self.one()
            client.send(b"mg k v\r\nset k 0 0 1\r\nx\r\n")
            for _ in range(2):
                mock.accept_expect(META_PROBE).send(META_YES[:cut]).close()
            mock.accept_expect(b"get k\r\nset k 0 0 1\r\nx\r\n").send(b"END\r\nSTORED\r\n")
            client.expect(b"EN\r\nSTORED\r\n")

    def test_no_answer_to_the_question(self):
        for said in (b"VERSION\r\n", b"OK\r\n", b"MN\r\n", b"MN\r\nVERSION 1\r\n", b"STORED\r\n", b"\r\n", b"VERSION 1\n", b"x" * 9000):
            with self.subTest(said=said[:40]):
                mock, _, client = self.one()
                client.send(b"mg k v\r\n")
                for _ in range(2):
                    mock.accept_expect(META_PROBE).send(said + b"MN\r\n").expect_closed()
                mock.accept_expect(b"get k\r\n").send(b"END\r\n")
                client.expect(b"EN\r\n")

    def test_replaced_by_an_older_one(self):
        """It is asked again on the next connection."""
        mock, _, client, server = self.established()
        server.close()
        client.send(b"mg k v\r\n")
        server = mock.accept()
        server.expect(META_PROBE).send(META_NO)
        server.expect(b"get k\r\n").send(b"VALUE k 0 1\r\nx\r\nEND\r\n")
        client.expect(b"VA 1\r\nx\r\n")
        client.send(b"mg k t\r\nmg k v Oab\r\n")
        server.expect(b"get k\r\n").send(b"END\r\n")
        client.expect(b"SERVER_ERROR proxy downstream has no meta commands, for mg without v\r\nEN Oab\r\n")

    def test_does_not_answer_the_question(self):
        mock, _, client = self.one({"downstream_timeout": ms(200)})
        client.send(b"mg k v\r\n")
        server = mock.accept()
        server.expect(META_PROBE)
        client.expect(b"EN\r\n")
        server.send(META_YES).sync()
        client.send(b"mg k v\r\n")
        server.expect(META_PROBE).send(META_YES).expect(b"mg k v\r\n").send(b"VA 1\r\nx\r\n")
        client.expect(b"VA 1\r\nx\r\n")

    def test_closes_at_the_question(self):
        mock, _, client = self.one()
        client.send(b"mg k v\r\n")
        server = mock.accept()
        server.expect(META_PROBE).close()
        server = mock.accept()
        server.expect(META_PROBE).send(META_YES).expect(b"mg k v\r\n").send(b"VA 1\r\nx\r\n")
        client.expect(b"VA 1\r\nx\r\n")

    def test_hangs_up_at_the_question(self):
        """Some servers do, at words that they do not know: that costs two connections, not the server."""
        mock, _, client = self.one()
        client.send(b"mg k v\r\n")
        for _ in range(2):
            mock.accept().expect(META_PROBE).close()
        server = mock.accept_expect(b"get k\r\n")
        server.send(b"VALUE k 0 1\r\nx\r\nEND\r\n")
        client.expect(b"VA 1\r\nx\r\n")
        client.send(b"set k 0 0 1\r\nx\r\nmg k v\r\n")
        server.expect(b"set k 0 0 1\r\nx\r\nget k\r\n").send(b"STORED\r\nEND\r\n")
        client.expect(b"STORED\r\nEN\r\n")

    def test_flags_of_the_answer_to_the_question(self):
        """MN has none; a server that writes some is no memcached."""
        for answer in (b"MN kfoo\r\n", b"MN Oab\r\n", b"MN O0\r\n"):
            mock, _, client = self.one()
            client.send(b"mg k v\r\n")
            for _ in range(2):
                mock.accept().expect(META_PROBE).send(b"VERSION 1.6.18\r\n" + answer).expect_closed()
            mock.accept_expect(b"get k\r\n").send(b"END\r\n")
            client.expect(b"EN\r\n")

    def test_long_flags(self):
        """A server takes no lines without an end: what would be one is refused."""
        _, _, client, server = self.established()
        for line in (b"mg k v" + b"x" * 3000, b"mg k " + b" ".join(b"%c%s" % (c, b"1" * 100) for c in b"vtsflhuPLcI"),
                     b"mg k P" + b"p" * 1100):
            client.ask(line + b"\r\nmn\r\n", b"CLIENT_ERROR options flags are too long\r\nMN\r\n")
        client.send(b"mg k v P" + b"p" * 900 + b"\r\n")
        server.expect(b"mg k v P" + b"p" * 900 + b"\r\n").send(b"EN\r\n")
        client.expect(b"EN\r\n")

    def test_client_that_does_not_read(self):
        """Values that it does not take are dropped, and asked for again: as with get."""
        mock = self.mock()
        moxi = self.moxi([mock], {"client_buffer_max": 1 << 20})
        client = self.client(moxi, rcvbuf=4096)
        teacher = self.client(moxi)
        teacher.send(b"mg k\r\n")
        server = mock.accept()
        server.expect(META_PROBE).send(META_YES).expect(b"mg k\r\n").send(b"EN\r\n")
        teacher.expect(b"EN\r\n")
        for _ in range(200):
            teacher.send(b"mg k v\r\n")
            server.expect(b"mg k v\r\n").send(b"EN\r\n")
            teacher.expect(b"EN\r\n")
        n, data = 100, b"v" * 1000000
        client.send(b"mg k v\r\n" * n)
        asked = 0
        while server.readable(0.2):
            server.expect(b"mg k v\r\n")
            asked += 1
        self.assertGreater(asked, 10)
        for _ in range(asked):
            server.send(b"VA 1000000\r\n" + data + b"\r\n")
        server.sync()
        if not has_sanitizer():
            self.assertLess(moxi.memory(), 40 << 20)
        for _ in range(n):
            while not client.readable(0):
                if server.readable(0.01):
                    server.expect(b"mg k v\r\n").send(b"VA 1000000\r\n" + data + b"\r\n")
            client.expect(b"VA 1000000\r\n" + data + b"\r\n")

    def test_closed_anywhere(self):
        """A reply that is not whole is no reply: a get has missed, and nobody knows of anything else."""
        whole = b"VA 5 f5\r\nhello\r\n"
        for request, reply, told in ((b"mg k v f\r\n", whole, b"EN\r\n"), (b"ms k 1\r\nx\r\n", b"HD c5\r\n", None),
                                     (b"ma n v\r\n", b"VA 2\r\n17\r\n", None), (b"md k\r\n", b"HD\r\n", None)):
            mock, _, client, server = self.established()
            for cut in range(len(reply)):
                client.send(request)
                if cut > 0:
                    server = mock.accept()
                    server.expect(META_PROBE).send(META_YES)
                server.expect(request).send(reply[:cut])
                server.close()
                client.expect(told or b"SERVER_ERROR proxy downstream closed %s\r\n" % mock.host)
                client.expect_nothing()

    def test_nonsense(self):
        """What is no reply to the request, or has another's opaque or key, ends the connection."""
        for request, replies in (
                (b"mg k v Oab k\r\n", [b"VA 1 Oac kk\r\nx\r\n", b"VA 1 Oab kl\r\nx\r\n", b"VA x\r\n", b"VA -1\r\n", b"VA\r\n",
                                       b"HDx\r\n", b"NF\r\n", b"NS\r\n", b"MN\r\n", b"STORED\r\n", b"EN Oac\r\n", b"\r\n",
                                       b"VA 1 fx\r\nx\r\n", b"VA 1 kk Oab\r\nxyz", b"END\r\n", b"x" * 9000]),
                (b"ms k 1\r\nx\r\n", [b"EN\r\n", b"VA 1\r\nx\r\n", b"MN\r\n", b"STORED\r\n", b"HD cx\r\n", b"HD Oab\r\n"]),
                (b"md k\r\n", [b"EN\r\n", b"NS\r\n", b"VA 1\r\nx\r\n", b"DELETED\r\n"]),
                (b"ma n v\r\n", [b"VA 1\r\nx\r\n", b"VA 30\r\n" + b"1" * 30 + b"\r\n", b"VA 2\r\n1\r\n\r\n", b"EN\r\n"]),
                (b"me k\r\n", [b"HD\r\n", b"VA 1\r\nx\r\n"])):
            mock, _, client, server = self.established()
            for reply in replies:
                with self.subTest(request=request, reply=reply[:40]):
                    client.send(request)
                    server.expect(request).send(reply)
                    client.expect_match(rb"(EN|SERVER_ERROR proxy downstream closed).*\r\n")
                    server.expect_closed()
                    client.expect_nothing()
                    client.send(b"mg k v\r\n")
                    server = mock.accept()
                    server.expect(META_PROBE).send(META_YES).expect(b"mg k v\r\n").send(b"EN\r\n")
                    client.expect(b"EN\r\n")

    def test_batch_nonsense(self):
        for reply in (b"VA 1 f0\r\nx\r\nMN\r\n", b"VA 1 f0 O2\r\nx\r\nMN\r\n", b"EN\r\n", b"HD\r\n", b"VA 1 O0\r\nx\r\nMN\r\n",
                      b"VA 1 f0 Ox\r\nx\r\nMN\r\n", b"VA 1 f0 ka\r\nx\r\nMN\r\n",
                      b"SERVER_ERROR out of memory\r\nMN\r\n"):
            mock, _, client = self.one({"downstream_protocol": "meta", "downstream_retry": 0})
            with self.subTest(reply=reply):
                client.send(b"get a b\r\n")
                server = mock.accept_expect(b"mg a f v q O0\r\nmg b f v q O1\r\nmn\r\n")
                server.send(reply)
                client.expect(b"END\r\n")
                server.expect_closed()

    def test_timeout(self):
        """A late reply is swallowed: the next gets its own."""
        _, _, client, server = self.established()
        moxi_settings = {"downstream_timeout": ms(300)}
        mock, _, client = self.one(moxi_settings)
        client.send(b"mg k v\r\nms k 1 q\r\nx\r\n")
        server = mock.accept()
        server.expect(META_PROBE).send(META_YES).expect(b"mg k v\r\nms k 1\r\nx\r\n")
        client.expect(b"EN\r\nSERVER_ERROR proxy downstream timeout %s\r\n" % mock.host)
        client.send(b"mg other v\r\n")
        server.expect(b"mg other v\r\n").send(b"VA 4\r\nlate\r\nHD\r\nVA 5\r\nright\r\n")
        client.expect(b"VA 5\r\nright\r\n")


if __name__ == "__main__":
    unittest.main()
