# SPDX-License-Identifier: BSD-3-Clause
"""mock_binary - the test is the server, in the binary protocol: see moxi_mock, which runs what is here with all the rest."""

import struct
import tempfile
import time

from binarylib import (ADD, ADDQ, APPEND, DECR, DELETE, FLUSH, GAT, GATKQ, GET, GETKQ, GETQ, INCR, MARK, MARKED, NEVER, NOOP, PREPEND,
                       REPLACE, SET, SETQ, STAT, TOUCH, VERSION, answer, count, expire, packet, store)
from moxilib import META_PROBE, META_YES, SCALE, OneMock, await_true, bytewise, cuts, ms, proxy_stats


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


class BinaryMocks(OneMock):
    """The test is a server that is spoken to in the binary protocol."""

    settings = {**OneMock.settings, "downstream_protocol": "binary"}

    def one(self, settings=None, **kw):
        self.place = 0
        return super().one(settings, **kw)

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
        server.expect(arrive).send_pieces(bytewise(replies))
        client.expect(told).expect_nothing()

    def test_each(self):
        self.each(TO_BINARY)
        self.each(BINARY_TO_BINARY)

    def test_cut_anywhere(self):
        self.cut_anywhere(TO_BINARY)
        self.cut_anywhere(BINARY_TO_BINARY)

    def test_requests_cut_anywhere(self):
        mock, _, client = self.one()
        requests, told = b"".join(row[0] for row in BINARY_TO_BINARY), b"".join(row[3] for row in BINARY_TO_BINARY)
        server = None
        for pieces in cuts(requests) + [bytewise(requests)]:
            arrive, replies = self.all_at_once(BINARY_TO_BINARY)
            client.send_pieces(pieces)
            server = server or mock.accept()
            server.expect(arrive).send(replies)
            client.expect(told)
        client.expect_nothing()

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


class Auto(OneMock):
    """A server that is asked in the protocol of its client: clients of the binary protocol have connections of their own."""

    settings = {"connect_max_errors": 1000}

    def get(self, server, client, place=0):
        """A hit over a connection on which so many bytes were asked since the probe."""
        client.send(packet(GET, b"k"))
        self.served(server, client, place)

    def served(self, server, client, place=0):
        """That, asked for already."""
        opaque = after_probe(place)
        server.expect(packet(GET, b"k", opaque=opaque)).send(answer(GET, b"", HI, b"hi", opaque=opaque))
        client.expect(answer(GET, b"", HI, b"hi"))

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
            self.served(server, client)
            shown = proxy_stats(self.client(moxi), b"config").get("%d:default:server:0:version" % moxi.port)
            self.assertEqual(shown, {b"1.4.39": "1.4.39", b"": None}.get(said, "1.6.18   " + "x" * 54))
            server.shutdown().expect_closed()

    def test_an_error_is_an_answer(self):
        mock, _, client = self.one()
        client.send(packet(GET, b"k"))
        server = mock.accept_expect(PROBE)
        server.send(answer(VERSION, value=b"Unknown command", status=0x81, opaque=b"\r\n\r\n"))
        self.served(server, client)

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
        self.served(server, client)
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
        self.served(server, client)
        client.send(store(SET, b"k", b"x"))
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
