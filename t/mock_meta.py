# SPDX-License-Identifier: BSD-3-Clause
"""mock_meta - the test is the server, with the meta commands: see moxi_mock, which runs what is here with all the rest."""

from moxilib import META_NO, META_PROBE, META_YES, OneMock, bytewise, cuts, has_sanitizer, ms, proxy_stats

# A request, as it reaches the server when that is not the same, and a reply.
EXCHANGES = [
    (b"mg k v f Oab k\r\n", None, b"VA 5 f5 Oab kk\r\nhello\r\n"),
    (b"mg k t s\r\n", None, b"HD t-1 s5\r\n"),
    (b"mg k v\r\n", None, b"EN\r\n"),
    (b"mg k v Oab\r\n", None, b"EN Oab\r\n"),
    (b"mg sly v\r\n", None, b"VA 24\r\n\r\nEND\r\nVA 1\r\nMN\r\nx\r\n\r\n\r\n\r\n"),
    (b"mg YWJj b v k\r\n", None, b"VA 0 kYWJj b\r\n\r\n"),
    (b"mg YSBi b v k\r\n", b"mg YSBi b v\r\n", b"VA 0 kYSBi b\r\n\r\n"),
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
    (b"me CkVOCg== b\r\n", None, b"ME \nEN\n exp=-1 la=7 cas=2 fetch=yes cls=1 size=63\r\n"),
    (b"me CkVOCg== b\r\n", None, b"ME CkVOCg== exp=-1 la=7 cas=2 fetch=yes cls=1 size=63\r\n"),
    (b"  mg   k   v  k \n", b"mg k v k\r\n", b"VA 1 kk\r\nx\r\n"),
    (b"get k\r\n", None, b"VALUE k 0 2\r\nhi\r\nEND\r\n"),
    (b"set k 0 0 1\r\nx\r\n", None, b"STORED\r\n"),
]

# Quiet ones: what comes from the server, and what the client is told of it.
QUIET = [
    (b"mg YSBi b v k\r\n", b"mg YSBi b v\r\n", b"VA 0\r\n\r\n", b"VA 0 kYSBi b\r\n\r\n"),
    (b"mg YSBi b k Oab\r\n", b"mg YSBi b Oab\r\n", b"EN Oab\r\n", b"EN kYSBi b Oab\r\n"),
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


class MetaMocks(OneMock):
    """The test is a server that knows the meta commands, or does not."""

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
        for pieces in cuts(replies):
            client.send(requests)
            server.expect(arrive).send_pieces(pieces)
            client.expect(replies)
        for pieces in cuts(requests):
            client.send_pieces(pieces)
            server.expect(arrive).send(replies)
            client.expect(replies)
        client.send_pieces(bytewise(requests))
        server.expect(arrive).send_pieces(bytewise(replies))
        client.expect(replies).expect_nothing()

    def translated(self, table, protocol):
        """Each, whole; then all, cut anywhere."""
        mock, _, client = self.one({"downstream_protocol": protocol})
        server = None
        for request, arrives, reply, told in table:
            with self.subTest(request=request):
                client.send(request)
                server = server or mock.accept()
                server.expect(arrives).send(reply)
                client.expect(told)
        requests, arrive, replies, told = (b"".join(row[i] for row in table) for i in range(4))
        for pieces in cuts(replies):
            client.send(requests)
            server.expect(arrive).send_pieces(pieces)
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
        server.expect(b"get a\r\n").expect_nothing()  # it might hang up on who asks, and take the get with it
        server.send(b"END\r\n").expect(META_PROBE).expect_nothing()
        server.send(META_YES).expect(b"mg b v\r\nget c\r\nset d 0 0 1\r\nx\r\n")
        server.send(b"EN\r\nEND\r\nSTORED\r\n")
        client.expect(b"END\r\nEN\r\nEND\r\nSTORED\r\n")
        client.send(b"mg b v\r\n")
        server.expect(b"mg b v\r\n").send(b"EN\r\n")
        client.expect(b"EN\r\n")

    def test_who_hangs_up_takes_nothing_with_it(self):
        """nutcracker does, on commands that it does not know: nothing of others is on the connection then."""
        mock, moxi, a = self.one()
        b = self.client(moxi)
        a.send(b"set k 0 0 1\r\nx\r\n")
        server = mock.accept_expect(b"set k 0 0 1\r\nx\r\n")
        b.send(b"mg b v\r\n")
        server.expect_nothing()
        a.send(b"incr n 1\r\n")
        server.expect_nothing().send(b"STORED\r\n")
        a.expect(b"STORED\r\n")
        server.expect(META_PROBE).close()
        mock.accept_expect(META_PROBE).close()
        mock.accept_expect(b"get b\r\nincr n 1\r\n").send(b"END\r\n1\r\n")
        b.expect(b"EN\r\n")
        a.expect(b"1\r\n")

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
            for pieces in cuts(answer):
                client.send(b"mg k v\r\n")
                server = mock.accept_expect(META_PROBE).send_pieces(pieces)
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
        server = mock.accept_expect(META_PROBE).send(META_NO)
        server.expect(b"get k\r\n").send(b"VALUE k 0 1\r\nx\r\nEND\r\n")
        client.expect(b"VA 1\r\nx\r\n")
        client.send(b"mg k t\r\nmg k v Oab\r\n")
        server.expect(b"get k\r\n").send(b"END\r\n")
        client.expect(b"SERVER_ERROR proxy downstream has no meta commands, for mg without v\r\nEN Oab\r\n")

    def test_does_not_answer_the_question(self):
        mock, _, client = self.one({"downstream_timeout": ms(200)})
        client.send(b"mg k v\r\n")
        server = mock.accept_expect(META_PROBE)
        client.expect(b"EN\r\n")
        server.send(META_YES).sync()
        client.send(b"mg k v\r\n")
        server.expect(META_PROBE).send(META_YES).expect(b"mg k v\r\n").send(b"VA 1\r\nx\r\n")
        client.expect(b"VA 1\r\nx\r\n")

    def test_closes_at_the_question(self):
        mock, _, client = self.one()
        client.send(b"mg k v\r\n")
        mock.accept_expect(META_PROBE).close()
        mock.accept_expect(META_PROBE).send(META_YES).expect(b"mg k v\r\n").send(b"VA 1\r\nx\r\n")
        client.expect(b"VA 1\r\nx\r\n")

    def test_hangs_up_at_the_question(self):
        """Some servers do, at words that they do not know: that costs two connections, not the server."""
        mock, _, client = self.one()
        client.send(b"mg k v\r\n")
        for _ in range(2):
            mock.accept_expect(META_PROBE).close()
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
                mock.accept_expect(META_PROBE).send(b"VERSION 1.6.18\r\n" + answer).expect_closed()
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
        server = mock.accept_expect(META_PROBE).send(META_YES).expect(b"mg k\r\n").send(b"EN\r\n")
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
                    server = mock.accept_expect(META_PROBE).send(META_YES)
                server.expect(request).send(reply[:cut])
                server.close()
                client.expect(told or b"SERVER_ERROR proxy downstream closed %s\r\n" % mock.host)
                client.expect_nothing()

    def test_nonsense(self):
        """What is no reply to the request, or has another's opaque or key, ends the connection."""
        for request, replies in (
                (b"mg k v Oab k\r\n", [b"VA 1 Oac kk\r\nx\r\n", b"VA 1 Oab kl\r\nx\r\n", b"VA x\r\n", b"VA -1\r\n", b"VA\r\n",
                                       b"HDx\r\n", b"NF\r\n", b"NS\r\n", b"MN\r\n", b"STORED\r\n", b"EN Oac\r\n", b"\r\n",
                                       b"VA 1 fx\r\nx\r\n", b"VA 1 kk Oab\r\nxyz", b"END\r\n", b"x" * 9000,
                                       b"SERVER_ERROR " + b"x" * 20000 + b"\r\n"]),
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
                    server = mock.accept_expect(META_PROBE).send(META_YES).expect(b"mg k v\r\n").send(b"EN\r\n")
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
        mock, _, client = self.one({"downstream_timeout": ms(300)})
        client.send(b"mg k v\r\nms k 1 q\r\nx\r\n")
        server = mock.accept_expect(META_PROBE).send(META_YES).expect(b"mg k v\r\nms k 1\r\nx\r\n")
        client.expect(b"EN\r\nSERVER_ERROR proxy downstream timeout %s\r\n" % mock.host)
        client.send(b"mg other v\r\n")
        server.expect(b"mg other v\r\n").send(b"VA 4\r\nlate\r\nHD\r\nVA 5\r\nright\r\n")
        client.expect(b"VA 5\r\nright\r\n")
