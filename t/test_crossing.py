#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_crossing - the same generated commands to a memcached and through moxi, whatever clients and servers speak.

Clients speak text, meta or binary; servers are asked in ascii, meta or binary, or as auto has it, or are the cache inside.
Batches of commands are made from a seed and sent to both; the replies must be equal. What a crossing cannot do, by
doc/protocols, is left out of its commands (MAY). Uniques are each memcached's own: that there is one is compared, and each
side is given back those that it has told.

Environment: CROSSING_SECONDS (10; for all crossings together), CROSSING_SEED (1), CROSSING_BATCH (60 commands; 1 to see which
one it was, if it is one that makes the difference). Run as /usr/bin/python3 t/test_crossing.py.
"""

import base64
import os
import random
import re
import struct
import sys
import time
import unittest

from binarylib import (ADD, APPEND, APPENDQ, ADDQ, DECR, DECRQ, DELETE, DELETEQ, GAT, GATK, GATKQ, GATQ, GET, GETK, GETKQ, GETQ, INCR, INCRQ,
                       MARK, MARKED, NEVER, NOOP, PREPEND, PREPENDQ, REPLACE, REPLACEQ, SET, SETQ, TOUCH, count, expire, packet, packets,
                       store)
from moxilib import Memcached, Moxi, Client, TestCase, show
from test_meta import without_uniques

SECONDS = float(os.environ.get("CROSSING_SECONDS", "10"))
SEED = int(os.environ.get("CROSSING_SEED", "1"))
BATCH = int(os.environ.get("CROSSING_BATCH", "60"))

KEYS = [b"x%d" % i for i in range(10)] + [b"long" + b"k" * 246]
NUMBERS = [b"n%d" % i for i in range(4)]
VALUES = [b"", b"x", b"text with\r\nlines", b"7", b"\x00\x80\xff", b"END\r\n", b"MN\r\n"] + [b"v" * n for n in (100, 2000, 20000)]


def unpadded(data):
    """
    Numbers without the blanks that memcached puts behind one that has become shorter, unless somebody is reading it. What is left
    to live is about as it was given.
    """
    data = re.sub(rb"(?m)^((?:VA|HD)[^\r]* t)(\d+)", lambda m: m[1] + b"%d" % round(int(m[2]) / 1000), data)
    data = re.sub(rb"(?m)^(VALUE n\d \d+) \d+( C)?\r\n(\d+) *\r$", rb"\1 N\2\r\n\3\r", data)
    return re.sub(rb"(?m)^VA \d+([^\r]*)\r\n(\d+) *\r$", rb"VA N\1\r\n\2\r", data)


class Maker:
    """Makes commands. In a batch numbers are either counted or read, and nothing is appended to them: see unpadded."""

    def __init__(self, rng, may):
        self.rng = rng
        self.may = may
        self.counting = False

    def key(self):
        return self.rng.choice(KEYS if self.counting or self.rng.random() < 0.8 else NUMBERS)

    def value(self):
        return self.rng.choice(VALUES)

    def exptime(self):
        return self.rng.choice((0, 0, 0, 1000, 1000, 2592000, -1))

    def flags(self):
        return self.rng.choice((0, 0, 1, 65535, 2**32 - 1))

    def delta(self):
        """
        No counter reaches 2^63: memcached 1.6.18 takes that for no number when a '-' comes before the next NUL behind it, which may be
        in the address of another item.
        """
        return self.rng.choice((0, 1, 1, 7, 1000, 2**40))

    def chance(self, p):
        return self.rng.random() < p

    def batch(self):
        """Commands, each a function of the uniques that its side has told."""
        self.counting = not self.counting
        return [self.command() for _ in range(BATCH)]

    def unique(self):
        """A key, and its unique as far as it is known, or another, which no item has."""
        key, other = self.rng.choice(KEYS), self.rng.choice((None, None, None, 0, 2**62, 2**64 - 2))
        return key, lambda uniques: uniques.get(key, 2**62) if other is None else other


class TextMaker(Maker):
    """But for a get that is refused: memcached drops replies that wait before its error."""

    mark, marked = b"get the_mark\r\n", b"VALUE the_mark 7 4\r\nmark\r\nEND\r\n"

    def command(self):
        word = self.rng.choice(("get", "get", "gets", "gat", "gats", "set", "set", "add", "replace", "append", "prepend", "cas", "count", "count",
                                "touch", "delete", "odd"))
        return getattr(self, word if word in ("get", "gat", "cas", "count", "odd") else
                       {"gets": "get", "gats": "gat", "touch": "touch", "delete": "delete"}.get(word, "store"))(word.encode())

    def quiet(self):
        return b" noreply" if self.chance(0.2) else b""

    def get(self, word):
        line = b"%s %s\r\n" % (word, b" ".join(self.key() for _ in range(self.rng.choice((1, 1, 2, 5, 30)))))
        return lambda _: line

    def gat(self, word):
        line = b"%s %d %s\r\n" % (word, self.rng.choice((0, 1000)), b" ".join(self.key() for _ in range(self.rng.choice((1, 1, 3)))))
        return lambda _: line

    def store(self, word):
        value = self.value()
        key = self.rng.choice(KEYS) if word.endswith(b"pend") else self.key()
        line = b"%s %s %d %d %d%s\r\n%s\r\n" % (word, key, self.flags(), self.exptime(), len(value), self.quiet(), value)
        return lambda _: line

    def cas(self, _):
        (key, unique), value, quiet = self.unique(), self.value(), self.quiet()
        return lambda uniques: b"cas %s 0 0 %d %d%s\r\n%s\r\n" % (key, len(value), unique(uniques), quiet, value)

    def count(self, _):
        if not self.counting:
            return self.get(b"get")
        key = self.rng.choice(NUMBERS)
        line = self.rng.choice((b"incr %s %d%s\r\n", b"decr %s %d%s\r\n")) % (key, self.delta(), self.quiet())
        if self.chance(0.2):
            line = b"set %s 0 0 2\r\n10\r\n" % key
        return lambda _: line

    def touch(self, _):
        line = b"touch %s %d%s\r\n" % (self.key(), self.rng.choice((0, 1000, -1)), self.quiet())
        return lambda _: line

    def delete(self, _):
        line = b"delete %s%s\r\n" % (self.key(), self.quiet())
        return lambda _: line

    def odd(self, _):
        line = self.rng.choice((b"get\r\n", b"foo bar\r\n", b"set x1 0 0 x\r\n", b"incr x1 y\r\n", b"touch x1 y\r\n", b"delete x1 1 2\r\n", b"incr x1\r\n", b"gat x x1\r\n", b"cas x1 0 0 1\r\n", b"\r\n"))
        return lambda _: line

    @staticmethod
    def uniques(data):
        return {key: int(unique) for key, unique in re.findall(rb"(?m)^VALUE (\S+) \d+ \d+ (\d+)\r$", data)}

    @staticmethod
    def plain(data):
        return unpadded(without_uniques(data))


class MetaMaker(Maker):
    mark, marked = b"mg the_mark v\r\n", b"VA 4\r\nmark\r\n"

    def command(self):
        return getattr(self, self.rng.choice(("get", "get", "get", "set", "set", "set", "delete", "count", "count", "noop", "odd")))()

    def some(self, letters, p=0.3):
        """Flags that the crossing has, of these."""
        return [letter for letter in letters if letter in self.may and self.chance(p)]

    def named(self, key, flags):
        """
        The key as it is written, and flags for that. Some are written in base64, and others told: memcached forgets how a key was
        written when it appends to a value or makes one.
        """
        flags = list(flags) + ["O%d" % self.rng.randrange(1000)] * self.chance(0.2)
        if key[-1:] in (b"1", b"3", b"5"):
            return (base64.b64encode(key), flags + ["b"]) if self.chance(0.5) else (key, flags)
        return key, flags + ["k"] * self.chance(0.2)

    def line(self, word, key, flags, size=None):
        key, flags = self.named(key, flags)
        self.rng.shuffle(flags)
        return b" ".join([word, key] + ([] if size is None else [b"%d" % size]) + [flag.encode() for flag in flags])

    def get(self):
        flags = self.some("fcsthlu") + ["v"] * (self.chance(0.7) or "no v" not in self.may) + ["q"] * self.chance(0.2)
        if self.chance(0.2):
            flags = [flag for flag in flags if flag != "t"] + ["T1000"]
        if "N" in self.may and self.chance(0.1):
            flags = [flag for flag in flags if flag[0] not in "tT"] + ["N1000"]
        if "v" not in flags and "no v" not in self.may.get("T", ()) and "s" in flags and "l" not in self.may:
            flags.remove("s")
        key = self.key()
        if "R" in self.may and key not in NUMBERS and self.chance(0.1):
            flags = [flag for flag in flags if flag[0] not in "tT"] + ["R%d" % self.rng.choice((10, 2000))]
        # How large a number is, and whether it is a new item, is memcached's to decide: see unpadded.
        if key in NUMBERS:
            flags = [flag for flag in flags if flag not in ("s", "h", "l")]
        line = self.line(b"mg", key, flags) + b"\r\n"
        return lambda _: line

    def compare(self, p=0.3):
        """A key, and a flag C."""
        key, unique = self.unique()
        return (key, lambda uniques: b" C%d" % unique(uniques)) if "C" in self.may and self.chance(p) else (key, lambda _: b"")

    def set(self):
        mode, value = self.rng.choice(("", "", "", "MS", "ME", "MA", "MP", "MR")), self.value()
        key, compare = self.compare()
        if mode in ("MA", "MP") and "C append" not in self.may:
            compare = lambda _: b""
        flags = [flag for flag in (mode, "F%d" % self.flags(), "T%d" % self.exptime()) if flag and self.chance(0.6)]
        flags = flags if not mode or mode in flags else flags + [mode]
        flags += self.some("cI" if key not in NUMBERS else "c", 0.2) + ["q"] * self.chance(0.2)
        line = self.line(b"ms", key, flags, len(value))
        return lambda uniques: line + compare(uniques) + b"\r\n" + value + b"\r\n"

    def delete(self):
        key, compare = self.compare()
        compare = compare if "C delete" in self.may else lambda _: b""
        # A number that is counted stays stale on moxi, and not always on memcached.
        flags = ["I", "T1000"] * ("I" in self.may and key not in NUMBERS and self.chance(0.3)) + ["q"] * self.chance(0.2)
        line = self.line(b"md", key, flags)
        return lambda uniques: line + compare(uniques) + b"\r\n"

    def count(self):
        if not self.counting:
            return self.get()
        key = self.rng.choice(NUMBERS)
        flags = ["D%d" % self.delta(), self.rng.choice(("MI", "MD", "M+", "M-")), "v"] + self.some(("c count", "t"), 0.2)
        flags = ["c" if flag == "c count" else flag for flag in flags if self.chance(0.7) or flag[0] == "M"]
        if "N count" in self.may and self.chance(0.3):
            flags = [flag for flag in flags if flag != "t"] + ["N1000", "J%d" % self.delta()]
        line = self.line(b"ma", key, flags) + b"\r\n"
        return lambda _: line

    def noop(self):
        return lambda _: b"mn\r\n"

    def odd(self):
        line = self.rng.choice((b"mg\r\n", b"mg x1 v !\r\n", b"mg x1 v v\r\n", b"ms x1 S1\r\n", b"ms x1 1 MX\r\nx\r\n", b"ma x1 Dx\r\n", b"md x1 Cx\r\n",
                                b"ms x1 2\r\nabcd\r\n", b"mx x1\r\n", b"mg ! b v\r\n"))
        return lambda _: line

    @staticmethod
    def uniques(_):
        return {}  # what a reply is of is not said in it

    @staticmethod
    def plain(data):
        return unpadded(without_uniques(data))


class BinaryMaker(Maker):
    mark, marked = MARK, MARKED

    def command(self):
        return getattr(self, self.rng.choice(("get", "get", "get", "store", "store", "concat", "cas", "delete", "count", "expire", "noop", "odd")))()

    def opaque(self):
        return struct.pack(">I", self.rng.randrange(2**31))

    def get(self):
        data = packet(self.rng.choice((GET, GETQ, GETK, GETKQ)), self.key(), opaque=self.opaque())
        return lambda _: data

    def seconds(self):
        return self.rng.choice((0, 1000, 2592000, 2592001, 0xffffffff))

    def store(self):
        data = store(self.rng.choice((SET, SETQ, ADD, ADDQ, REPLACE, REPLACEQ)), self.key(), self.value(), self.flags(), self.seconds(),
                     opaque=self.opaque())
        return lambda _: data

    def concat(self):
        data = packet(self.rng.choice((APPEND, APPENDQ, PREPEND, PREPENDQ)), self.rng.choice(KEYS), value=self.value(), opaque=self.opaque())
        return lambda _: data

    def cas(self):
        (key, unique), value, opaque = self.unique(), self.value(), self.opaque()
        op = self.rng.choice((SET, SETQ, ADD, REPLACE) + ((APPEND, PREPENDQ, DELETE, DELETEQ) if "C" in self.may else ()))
        if op in (DELETE, DELETEQ):
            return lambda uniques: packet(op, key, cas=unique(uniques), opaque=opaque)
        if op in (APPEND, PREPENDQ):
            return lambda uniques: packet(op, key, value=value, cas=unique(uniques), opaque=opaque)
        return lambda uniques: store(op, key, value, cas=unique(uniques), opaque=opaque)

    def delete(self):
        data = packet(self.rng.choice((DELETE, DELETEQ)), self.key(), opaque=self.opaque())
        return lambda _: data

    def count(self):
        if not self.counting:
            return self.get()
        initial = self.rng.choice((NEVER, 0, 1000)) if "N" in self.may else NEVER
        data = count(self.rng.choice((INCR, INCRQ, DECR, DECRQ)), self.rng.choice(NUMBERS), self.delta(), self.delta(), initial,
                     opaque=self.opaque())
        return lambda _: data

    def expire(self):
        data = expire(self.rng.choice((TOUCH, GAT, GATQ, GATK, GATKQ)), self.key(), self.rng.choice((0, 1000)), opaque=self.opaque())
        return lambda _: data

    def noop(self):
        data = packet(NOOP, opaque=self.opaque())
        return lambda _: data

    def odd(self):
        data = self.rng.choice((packet(0x40), packet(0x20), packet(0xff, value=b"x" * 300)))
        return lambda _: data

    @staticmethod
    def uniques(data):
        """Of those replies that have their key."""
        found, at = {}, 0
        while at < len(data):
            _, op, keylen, extlen, _, status, body, _, unique = struct.unpack_from(">BBHBBHI4sQ", data, at)
            if op in (GETK, GETKQ, GATK, GATKQ) and status == 0:
                found[data[at + 24 + extlen:at + 24 + extlen + keylen]] = unique
            at += 24 + body
        return found

    def plain(self, data):
        found, rest = packets(data)
        found = [p[:6] + (re.sub(rb"\A(\d+) +\Z", rb"\1", p[6]),) + p[7:] for p in found]
        if "uniques" not in self.may:
            found = [p[:3] + (p[4] if p[0] != TOUCH else b"",) + p[5:] for p in found]
        return found, rest


ALL_META = dict.fromkeys(("f", "c", "s", "t", "h", "l", "u", "no v", "N", "R", "C", "C append", "C delete", "I", "c count", "N count"), ())
MAY = {
    (TextMaker, "ascii"): (), (TextMaker, "meta"): (), (TextMaker, "binary"): (),
    (MetaMaker, "ascii"): dict.fromkeys(("f", "s")),
    (MetaMaker, "binary"): dict.fromkeys(("f", "s", "c", "C", "C append", "C delete", "c count", "N count")),
    (MetaMaker, "meta"): ALL_META,
    (BinaryMaker, "ascii"): (), (BinaryMaker, "meta"): ("C", "N", "uniques"), (BinaryMaker, "binary"): ("C", "N", "uniques"),
}
for maker, best in ((TextMaker, "meta"), (MetaMaker, "meta"), (BinaryMaker, "meta")):
    MAY[maker, "auto"] = MAY[maker, "local"] = MAY[maker, best]


class Crossing(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.alone = Memcached()
        cls.addClassCleanup(cls.alone.stop)
        cls.servers = [Memcached() for _ in range(3)]
        for server in cls.servers:
            cls.addClassCleanup(server.stop)
        cls.proxies = {"local": Moxi(["local"])}
        for protocol in ("auto", "ascii", "meta", "binary"):
            cls.proxies[protocol] = Moxi(cls.servers, {"downstream_protocol": protocol})
        for proxy in cls.proxies.values():
            cls.addClassCleanup(proxy.stop)

    @staticmethod
    def prepare(target):
        client = Client(target.port)
        client.ask(b"flush_all\r\nset the_mark 7 0 4\r\nmark\r\n", b"OK\r\nSTORED\r\n")
        client.close()
        return Client(target.port)

    def cross(self, maker, protocol, seconds):
        """Until the time is over, a new beginning every 20 batches. The number of commands."""
        deadline, commands, beginning = time.monotonic() + seconds, 0, 0
        while commands == 0 or time.monotonic() < deadline:
            beginning += 1
            commands += self.session(maker, protocol, beginning)
        return commands

    def session(self, maker, protocol, beginning):
        made = maker(random.Random("%s %s %d %d" % (maker.__name__, protocol, SEED, beginning)), MAY[maker, protocol])
        sides = [(self.prepare(target), {}) for target in (self.alone, self.proxies[protocol])]
        try:
            return sum(self.compare(made, sides) for _ in range(20))
        finally:
            for client, _ in sides:
                client.close()

    def compare(self, made, sides):
        """One batch. The number of its commands."""
        batch, replies = made.batch(), []

        for client, uniques in sides:
            sent = b"".join(command(uniques) for command in batch)
            client.send(sent + made.mark)
            raw = client.read_until(made.marked)
            uniques.update(made.uniques(raw))
            replies.append((made.plain(raw), sent))
        if replies[0][0] != replies[1][0]:
            self.fail(self.tell(replies))
        return len(batch)

    @staticmethod
    def tell(replies):
        """Where two sides, each what was made of its replies and what it was sent, part."""
        (a, _), (b, sent) = replies
        if isinstance(a, tuple):
            a, b = a[0], b[0]
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        begin = max(at - 80, 0) if isinstance(a, bytes) else at
        end = at + 80 if isinstance(a, bytes) else at + 1
        return "sent: %s\nfrom %d on memcached: %s\nmoxi: %s" % (show(sent), begin, show(a[begin:end]), show(b[begin:end]))

    def test_all(self):
        total = 0
        for maker, protocol in MAY:
            with self.subTest(client=maker.__name__, servers=protocol, seed=SEED):
                total += self.cross(maker, protocol, SECONDS / len(MAY))
        print("%d commands in %d crossings" % (total, len(MAY)), file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
