# SPDX-License-Identifier: BSD-3-Clause
"""mock_quiet - the test is two servers, of whom a client asks quietly and loudly in turns: see moxi_mock, which runs this.

What a quiet command does not tell, moxi leaves out, and what it tells stands in the place that the command has among all
others, whichever server answers first. Every mixture of four commands is tried: quiet ones of which nothing is told, quiet
ones of which something is, and loud ones, each to either server.
"""

import itertools
import struct

from binarylib import (ADD, ADDQ, APPEND, APPENDQ, DECR, DECRQ, DELETE, DELETEQ, GAT, GATK, GATKQ, GATQ, GET, GETK, GETKQ, GETQ, INCR, INCRQ,
                       MARK, MARKED, NEVER, PREPEND, PREPENDQ, REPLACE, REPLACEQ, SET, SETQ, TOUCH, VERSION, answer, count, expire,
                       packet, store)
from moxilib import META_PROBE, META_YES, MoxiTest

STEPS = 4

# A request, as it reaches the server, the reply, and what the client is told. KEY is for a key of the server, mine for an opaque
# of the client's, and abcd for where a packet stands in the stream.
META_SILENT = [
    (b"mg KEY v q\r\n", b"mg KEY v\r\n", b"EN\r\n", b""),
    (b"ms KEY 1 q Omine\r\nx\r\n", b"ms KEY 1 Omine\r\nx\r\n", b"HD Omine\r\n", b""),
    (b"md KEY q\r\n", b"md KEY\r\n", b"HD\r\n", b""),
    (b"mg KEY q k Omine v\r\n", b"mg KEY k Omine v\r\n", b"EN\r\n", b""),
    (b"ma KEY v q\r\n", b"ma KEY v\r\n", b"VA 1\r\n5\r\n", b""),
]
META_TOLD = [
    (b"mg KEY v q Omine\r\n", b"mg KEY v Omine\r\n", b"VA 4 Omine\r\nMN\r\n\r\n", b"VA 4 Omine\r\nMN\r\n\r\n"),
    (b"ms KEY 1 q ME k\r\nx\r\n", b"ms KEY 1 ME k\r\nx\r\n", b"NS kKEY\r\n", b"NS kKEY\r\n"),
    (b"md KEY q Omine\r\n", b"md KEY Omine\r\n", b"NF Omine\r\n", b"NF Omine\r\n"),
    (b"mg KEY s q k\r\n", b"mg KEY s k\r\n", b"HD s9 kKEY\r\n", b"HD s9 kKEY\r\n"),
    (b"ma KEY q\r\n", b"ma KEY\r\n", b"CLIENT_ERROR non-numeric\r\n", b"CLIENT_ERROR non-numeric\r\n"),
]
META_LOUD = [
    (b"mg KEY v k\r\n", b"mg KEY v k\r\n", b"EN\r\n", b"EN\r\n"),
    (b"ms KEY 1 Omine\r\nx\r\n", b"ms KEY 1 Omine\r\nx\r\n", b"HD Omine\r\n", b"HD Omine\r\n"),
    (b"get KEY\r\n", b"get KEY\r\n", b"VALUE KEY 0 4\r\nmine\r\nEND\r\n", b"VALUE KEY 0 4\r\nmine\r\nEND\r\n"),
    (b"set KEY 0 0 1 noreply\r\nx\r\n", b"set KEY 0 0 1\r\nx\r\n", b"STORED\r\n", b""),
    (b"ma KEY v Omine\r\n", b"ma KEY v Omine\r\n", b"VA 1 Omine\r\n5\r\n", b"VA 1 Omine\r\n5\r\n"),
]

FLAGS = struct.pack(">I", 7)
FIVE = struct.pack(">Q", 5)
EXISTS, MISSING, TOO_LARGE = b"Data exists for key.", b"Not found", b"Too large."


def row(ours, theirs, reply, told):
    """Of a packet of the client's, and one of the server's; told, if anything is, with the client's opaque."""
    return ours(opaque=b"mine"), theirs(), reply, told(opaque=b"mine") if told else b""


def of(function, *args, **kw):
    return lambda **more: function(*args, **kw, **more)


def got(ours, theirs, told, **kw):
    """A retrieval that is answered so."""
    extras = () if theirs in (GET, GETK) else (struct.pack(">I", 60),)
    key = b"KEY" if ours in (GETK, GETKQ, GATK, GATKQ) else b""
    return row(of(packet, ours, b"KEY", *extras), of(packet, theirs, b"KEY", *extras), answer(theirs, **kw),
               told and of(answer, ours, key, **kw))


HIT = {"extras": FLAGS, "value": b"hi", "cas": 9}
MISS = {"value": MISSING, "status": 1}

BINARY_SILENT = [
    got(GETQ, GET, False, **MISS), got(GETKQ, GET, False, **MISS), got(GATQ, GAT, False, **MISS), got(GATKQ, GAT, False, **MISS),
    row(of(store, SETQ, b"KEY", b"x"), of(store, SET, b"KEY", b"x"), answer(SET, cas=9), None),
    row(of(store, ADDQ, b"KEY", b""), of(store, ADD, b"KEY", b""), answer(ADD, cas=9), None),
    row(of(store, REPLACEQ, b"KEY", b"x"), of(store, REPLACE, b"KEY", b"x"), answer(REPLACE, cas=9), None),
    row(of(packet, APPENDQ, b"KEY", value=b"x"), of(packet, APPEND, b"KEY", value=b"x"), answer(APPEND, cas=9), None),
    row(of(packet, PREPENDQ, b"KEY", value=b"x"), of(packet, PREPEND, b"KEY", value=b"x"), answer(PREPEND, cas=9), None),
    row(of(packet, DELETEQ, b"KEY"), of(packet, DELETE, b"KEY"), answer(DELETE), None),
    row(of(count, INCRQ, b"KEY"), of(count, INCR, b"KEY"), answer(INCR, value=FIVE, cas=9), None),
    row(of(count, DECRQ, b"KEY"), of(count, DECR, b"KEY"), answer(DECR, value=FIVE, cas=9), None),
]
BINARY_TOLD = [
    got(GETQ, GET, True, **HIT), got(GETKQ, GET, True, **HIT), got(GATQ, GAT, True, **HIT), got(GATKQ, GAT, True, **HIT),
    row(of(store, SETQ, b"KEY", b"x"), of(store, SET, b"KEY", b"x"), answer(SET, value=TOO_LARGE, status=3),
        of(answer, SETQ, value=TOO_LARGE, status=3)),
    row(of(store, ADDQ, b"KEY", b"x"), of(store, ADD, b"KEY", b"x"), answer(ADD, value=EXISTS, status=2),
        of(answer, ADDQ, value=EXISTS, status=2)),
    row(of(packet, DELETEQ, b"KEY"), of(packet, DELETE, b"KEY"), answer(DELETE, value=MISSING, status=1),
        of(answer, DELETEQ, value=MISSING, status=1)),
    row(of(count, INCRQ, b"KEY", exptime=NEVER), of(count, INCR, b"KEY", exptime=NEVER), answer(INCR, value=MISSING, status=1),
        of(answer, INCRQ, value=MISSING, status=1)),
]
BINARY_LOUD = [
    got(GET, GET, True, **HIT), got(GETK, GET, True, **HIT), got(GET, GET, True, **MISS), got(GATK, GAT, True, **HIT),
    row(of(store, SET, b"KEY", b"x"), of(store, SET, b"KEY", b"x"), answer(SET, cas=9), of(answer, SET, cas=9)),
    row(of(packet, DELETE, b"KEY"), of(packet, DELETE, b"KEY"), answer(DELETE), of(answer, DELETE)),
    row(of(count, INCR, b"KEY"), of(count, INCR, b"KEY"), answer(INCR, value=FIVE, cas=9), of(answer, INCR, value=FIVE, cas=9)),
    row(of(expire, TOUCH, b"KEY", 60), of(expire, TOUCH, b"KEY", 60), answer(TOUCH, extras=FLAGS, cas=9),
        of(answer, TOUCH, extras=FLAGS, cas=9)),
]


class Mixtures(MoxiTest):
    """The base: two servers, and what is sent and told."""

    KEYS = b"ky0", b"ky1"  # one of each server: with modula they do not depend on the servers' ports

    def start(self, **settings):
        """Both connected, after what moxi asks them first."""
        self.mocks = [self.mock(), self.mock()]
        moxi = self.moxi(self.mocks, dict({"distribution": "modula", "client_buffer_max": 1 << 30}, **settings))
        self.servers = [None, None]
        self.places = [0, 0]
        return self.client(moxi)

    def greet(self, client, request, hello, welcome, first, reply, told):
        """The first request to each server, which is sent `hello` before that, if anything, and answers `welcome`."""
        for i, key in enumerate(self.KEYS):
            client.send(request.replace(b"KEY", key))
            self.servers[i] = self.mocks[i].accept_expect(hello).send(welcome)
            self.places[i] += len(hello)
            self.servers[i].expect(self.placed(i, first.replace(b"KEY", key))).send(self.placed(i, reply))
            self.places[i] += len(first)
            client.expect(told)

    def placed(self, i, data):
        return data.replace(b"abcd", struct.pack(">I", self.places[i] & 0xffffffff))

    def play(self, client, steps, mark, marked, first):
        """Steps are (which server, row). The server `first` is the first to answer."""
        requests, told = b"", b""
        arrive, replies = [b"", b""], [b"", b""]
        for n, (i, step) in enumerate(steps):
            step = [part.replace(b"KEY", self.KEYS[i]).replace(b"mine", b"%04d" % n) for part in step]
            requests, told = requests + step[0], told + step[3]
            arrive[i] += self.placed(i, step[1])
            replies[i] += self.placed(i, step[2])
            self.places[i] += len(step[1])
        client.send(requests + mark)
        for i in (first, 1 - first):
            if arrive[i]:
                self.servers[i].expect(arrive[i]).send(replies[i])
        client.expect(told + marked)

    def every_mixture(self, client, kinds, mark, marked):
        """Each command of a kind comes in its turn."""
        turns = [itertools.cycle(rows) for rows in kinds]
        atoms = list(itertools.product((0, 1), range(len(kinds))))
        for number, mixture in enumerate(itertools.product(atoms, repeat=STEPS)):
            steps = [(i, next(turns[kind])) for i, kind in mixture]
            with self.subTest(steps=steps):
                self.play(client, steps, mark, marked, number % 2)
        client.expect_nothing()


class QuietMeta(Mixtures):
    def test_every_mixture(self):
        client = self.start()
        self.greet(client, b"mg KEY\r\n", META_PROBE, META_YES, b"mg KEY\r\n", b"EN\r\n", b"EN\r\n")
        self.every_mixture(client, (META_SILENT, META_TOLD, META_LOUD), b"mn\r\n", b"MN\r\n")


class QuietBinary(Mixtures):
    FIRST = packet(GET, b"KEY"), answer(GET, status=1), answer(GET, value=MISSING, status=1)

    def test_every_mixture(self):
        client = self.start(downstream_protocol="binary")
        self.greet(client, self.FIRST[0], b"", b"", *self.FIRST)
        self.every_mixture(client, (BINARY_SILENT, BINARY_TOLD, BINARY_LOUD), MARK, MARKED)

    def test_every_mixture_in_auto(self):
        client = self.start()
        self.places = [0x0d0a0d0a, 0x0d0a0d0a]
        probe = packet(VERSION, opaque=b"\r\n\r\n")
        self.greet(client, self.FIRST[0], probe, answer(VERSION, value=b"1.6.18", opaque=b"\r\n\r\n"), *self.FIRST)
        self.every_mixture(client, (BINARY_SILENT, BINARY_TOLD, BINARY_LOUD), MARK, MARKED)
