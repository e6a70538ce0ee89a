#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_keys - what moxi says of single keys: stats proxy keystats, and stats proxy hotkeys.

Run as /usr/bin/python3 t/test_keys.py [Class[.test]].
"""

import re
import time
import unittest

from binarylib import GET, GETQ, NOOP, SET, packet, read_packet, store
from moxilib import SCALE, MoxiTest, await_true, ms, proxy_stats, value

FIELDS = ("seen", "gets", "stores", "others", "hits", "misses", "read_bytes", "write_bytes")
ON = {"key_stats_lifespan": 3600000, "key_stats_spec": "u:"}
STORED = b"STORED\r\n"


def by_key(stats, word):
    """{key: {field: text}} of lines PORT:POOL:word:KEY:FIELD."""
    keys = {}
    for name, text in stats.items():
        found = re.fullmatch(r"\d+:\w+:%s:(.+):(\w+)" % word, name)
        if not found:
            raise AssertionError("not of %s: %s" % (word, name))
        keys.setdefault(found[1], {})[found[2]] = text
    return keys


class KeyStats(MoxiTest):

    def keystats(self, client):
        return {key: {field: int(n) for field, n in fields.items()}
                for key, fields in by_key(proxy_stats(client, b"keystats"), "keystats").items()}

    def counted(self, client, key, **expected):
        """What is said of the key: nothing but that."""
        told = self.keystats(client)[key]
        self.assertGreaterEqual(told.pop("age_ms"), 0)
        self.assertEqual(told, {**dict.fromkeys(FIELDS, 0), **expected}, key)

    def test_text(self):
        client = self.client(self.moxi([self.memcached()], ON))
        client.ask(b"set u:1 0 0 5\r\nhello\r\n" * 2, STORED * 2)
        client.ask(b"get u:1\r\n", value(b"u:1", b"hello") + b"END\r\n")
        client.send(b"gets u:1\r\n").lines_to_end()
        client.ask(b"get u:2\r\nget x\r\n", b"END\r\nEND\r\n")
        client.ask(b"add u:2 0 0 1 noreply\r\n7\r\nincr u:2 1\r\ntouch u:2 0\r\ndelete u:2\r\n",
                   b"8\r\nTOUCHED\r\nDELETED\r\n")
        head = len(b"VALUE u:1 0 5\r\n")
        told = self.keystats(client)
        self.assertEqual(list(told), ["u:1", "u:2"])
        self.assertEqual(told["u:1"]["write_bytes"] // (head + 7), 2)
        self.counted(client, "u:1", seen=4, gets=2, stores=2, hits=2, read_bytes=4 * 3 + 2 * 5,
                     write_bytes=told["u:1"]["write_bytes"])
        self.counted(client, "u:2", seen=5, gets=1, stores=1, others=3, misses=1, read_bytes=5 * 3 + 1)

    def test_multigets(self):
        """Hits and misses are of keys, whether a request is split or relayed, its keys wanted or not."""
        for servers in ([self.memcached()], [self.memcached() for _ in range(3)], ["local"]):
            client = self.client(self.moxi(servers, ON))
            for i in range(0, 40, 2):
                client.ask(b"set u:%d 0 0 3\r\nold\r\n" % i, STORED)
            client.ask(b"set x 0 0 3\r\nold\r\n", STORED)
            for _ in range(3):
                client.send(b"get x y " + b" ".join(b"u:%d" % i for i in range(40)) + b"\r\n")
                self.assertEqual(len(client.lines_to_end()), 42)
            client.ask(b"get u:0 u:0 u:1\r\n", value(b"u:0", b"old") * 2 + b"END\r\n")
            self.assertEqual(len(self.keystats(client)), 40)
            piece = len(value(b"u:2", b"old"))
            self.counted(client, "u:2", seen=4, gets=3, stores=1, hits=3, read_bytes=4 * 3 + 3, write_bytes=3 * piece)
            self.counted(client, "u:0", seen=6, gets=5, stores=1, hits=5, read_bytes=6 * 3 + 3, write_bytes=5 * piece)
            self.counted(client, "u:1", seen=4, gets=4, misses=4, read_bytes=12)
            self.counted(client, "u:39", seen=3, gets=3, misses=3, read_bytes=12)

    def test_meta(self):
        client = self.client(self.moxi([self.memcached()], ON))
        client.ask(b"ms u:1 2\r\nhi\r\nmg u:1 v\r\nmg u:1\r\nmg u:2 v\r\n", b"HD\r\nVA 2\r\nhi\r\nHD\r\nEN\r\n")
        client.ask(b"mg dToz b v\r\nma u:1\r\nmd u:1 q\r\nmn\r\n",
                   b"EN\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\nMN\r\n")
        client.send(b"me u:1\r\n").line()
        self.counted(client, "u:1", seen=6, gets=2, stores=1, others=3, hits=2, read_bytes=6 * 3 + 2,
                     write_bytes=len(b"VA 2\r\nhi\r\n"))
        self.counted(client, "u:2", seen=1, gets=1, misses=1, read_bytes=3)
        self.counted(client, "u:3", seen=1, gets=1, misses=1, read_bytes=3)

    def test_binary(self):
        for servers in ([self.memcached()], ["local"]):
            moxi = self.moxi(servers, ON)
            client = self.client(moxi)
            client.send(store(SET, b"u:a b", b"hello"))
            self.assertEqual(read_packet(client)[0], 0)
            for key, reply in ((b"u:a b", (0, b"hello")), (b"u:%", (1, b"Not found"))):
                client.send(packet(GET, key))
                self.assertEqual(read_packet(client), reply)
            client.send(packet(GETQ, b"u:a b") + packet(GETQ, b"u:%") + packet(NOOP))
            self.assertEqual(read_packet(client), (0, b"hello"))
            self.assertEqual(read_packet(client), (0, b""))
            text = self.client(moxi)
            told = self.keystats(text)
            self.assertEqual(list(told), ["u:%25", "u:a%20b"])
            self.counted(text, "u:a%20b", seen=3, gets=2, stores=1, hits=2, read_bytes=3 * 5 + 5,
                         write_bytes=told["u:a%20b"]["write_bytes"])
            self.counted(text, "u:%25", seen=2, gets=2, misses=2, read_bytes=6)

    def test_large_values(self):
        """Those that are passed on while they arrive are counted once, and whole."""
        data = b"x" * 600000
        for n in (1, 2):
            client = self.client(self.moxi([self.memcached("-I", "2m") for _ in range(n)], ON))
            client.ask(b"set u:1 0 0 %d\r\n%s\r\n" % (len(data), data), STORED)
            for line in (b"get u:1\r\n", b"get u:1 u:2 u:3 u:4 u:5 u:6\r\n"):
                client.ask(line, value(b"u:1", data) + b"END\r\n")
            self.counted(client, "u:1", seen=3, gets=2, stores=1, hits=2, read_bytes=9 + len(data),
                         write_bytes=2 * len(value(b"u:1", data)))
            self.counted(client, "u:2", seen=1, gets=1, misses=1, read_bytes=3)

    def test_no_server(self):
        """What a server cannot be asked for is a miss, as the client has it."""
        client = self.client(self.moxi([self.mock(listening=False)], ON))
        client.ask(b"get u:1 u:2\r\n", b"END\r\n")
        self.counted(client, "u:1", seen=1, gets=1, misses=1, read_bytes=3)

    def test_workers(self):
        moxi = self.moxi([self.memcached()], ON, threads=2)
        clients = [self.client(moxi) for _ in range(4)]
        clients[0].ask(b"set u:1 0 0 1\r\nx\r\n", STORED)
        for n, client in enumerate(clients):
            client.ask(b"get u:1\r\nget u:%d0\r\n" % n, value(b"u:1", b"x") + b"END\r\nEND\r\n")
        self.assertEqual(list(self.keystats(clients[2])), ["u:00", "u:1", "u:10", "u:20", "u:30"])
        self.counted(clients[1], "u:1", seen=5, gets=4, stores=1, hits=4, read_bytes=16,
                     write_bytes=4 * len(value(b"u:1", b"x")))

    def test_max(self):
        client = self.client(self.moxi(["local"], dict(ON, key_stats_max=3)))
        for i in range(7):
            client.ask(b"get u:%d\r\nget u:4\r\n" % i, b"END\r\nEND\r\n")
        told = self.keystats(client)
        self.assertEqual(list(told), ["u:4", "u:5", "u:6"])  # u:4 went when u:3 came, and came back
        self.assertEqual(told["u:4"]["seen"], 5)

    def test_lifespan(self):
        client = self.client(self.moxi(["local"], dict(ON, key_stats_lifespan=ms(500))))
        client.ask(b"get u:1\r\n", b"END\r\n")
        self.assertEqual(self.keystats(client)["u:1"]["seen"], 1)
        await_true(lambda: not self.keystats(client), "it goes")
        client.ask(b"get u:1\r\n", b"END\r\n")
        told = self.keystats(client)["u:1"]
        self.assertEqual(told["seen"], 1)
        self.assertLess(told["age_ms"], ms(500))

    def test_reset(self):
        client = self.client(self.moxi(["local"], ON, threads=2))
        client.ask(b"get u:1\r\n", b"END\r\n")
        client.ask(b"stats proxy reset\r\n", b"RESET\r\n")
        self.assertEqual(self.keystats(client), {})
        client.ask(b"get u:1\r\n", b"END\r\n")
        self.counted(client, "u:1", seen=1, gets=1, misses=1, read_bytes=3)

    def test_spec(self):
        keys = ["a", "a:1", "b:1", "b:x", "c"]
        for settings, there in (({}, []),
                                ({"key_stats_spec": "@all"}, []),
                                ({"key_stats_lifespan": 60000}, []),
                                ({"key_stats_lifespan": 60000, "key_stats_spec": "@all"}, keys),
                                ({"key_stats_lifespan": 60000, "key_stats_spec": "|a:||b"}, ["a:1", "b:1", "b:x"]),
                                ({"key_stats_lifespan": 60000, "key_stats_spec": "@all", "key_stats_unspec": "b:x|a"},
                                 ["b:1", "c"])):
            client = self.client(self.moxi(["local"], settings))
            client.ask(b"get %s\r\n" % " ".join(keys).encode(), b"END\r\n")
            self.assertEqual(list(self.keystats(client)), there, settings)
            client.send(b"stats proxy\r\n")
            self.assertFalse([line for line in client.lines_to_end() if b":keystats:" in line or b":hotkeys:" in line])


class HotKeys(MoxiTest):
    last = None  # what was told, when there was anything

    def hotkeys(self, client):
        """What is told, in order."""
        ranks = by_key(proxy_stats(client, b"hotkeys"), "hotkeys")
        self.assertEqual(list(ranks), [str(i + 1) for i in range(len(ranks))])
        for fields in ranks.values():
            for name in ("hot", "rate", "read_rate", "bytes"):
                fields[name] = int(fields[name])
            for name in ("share_pool", "share_server"):
                fields[name] = float(fields[name])
        return list(ranks.values())

    def load(self, clients, seconds, make):
        """Batches of make(i), a request and its reply, for so long. The batches of the last second, per second."""
        ends = []
        stop = time.monotonic() + seconds
        while time.monotonic() < stop:
            for client in clients:
                client.ask(*make(len(ends)))
                ends.append(time.monotonic())
        return sum(end > ends[-1] - 1 for end in ends)

    def test_found_among_noise(self):
        """A key of five is the same, in single gets and in multigets, in both workers; the others differ."""
        moxi = self.moxi([self.memcached(), self.memcached()], {"hot_key_rate": 200}, threads=2)
        clients = [self.client(moxi) for _ in range(2)]
        clients[0].ask(b"set hot 0 0 10\r\n0123456789\r\n", STORED)

        def batch(i):
            noise = [b"noise%d" % (160 * i + n) for n in range(160)]
            singles = b"".join(b"get %s\r\n" % b"\r\nget ".join(noise[4 * n:4 * n + 4] + [b"hot"]) for n in range(20))
            several = b"".join(b"get %s hot\r\n" % b" ".join(noise[80 + 4 * n:84 + 4 * n]) for n in range(20))
            hit = value(b"hot", b"0123456789") + b"END\r\n"
            return singles + several, (b"END\r\n" * 4 + hit) * 20 + hit * 20

        rate = 40 * self.load(clients, 3, batch)
        top = self.hotkeys(clients[0])
        self.assertLessEqual(len(top), 20)
        hot = top[0]
        self.assertEqual((hot["key"], hot["hot"]), ("hot", 1), top[:3])
        self.assertLess(abs(hot["rate"] - rate), 0.3 * rate, (rate, hot))
        self.assertEqual(hot["read_rate"], hot["rate"])
        self.assertEqual(hot["bytes"], hot["rate"] * len(value(b"hot", b"0123456789")))
        self.assertTrue(15 < hot["share_pool"] < 25, hot)
        self.assertTrue(25 < hot["share_server"] < 42, hot)  # the other server has half of the rest
        self.assertRegex(hot["server"], r"^127\.0\.0\.1:\d+$")
        self.assertTrue(all(other["rate"] < hot["rate"] / 4 and not other["hot"] for other in top[1:]), top)
        # And nothing comes any more.
        began = time.monotonic()
        await_true(lambda: not any(k["hot"] for k in self.hotkeys(clients[1])), "it cools")
        self.assertLess(time.monotonic() - began, 2.5 * SCALE)
        await_true(lambda: not self.hotkeys(clients[1]), "and is forgotten")

    def told_of(self, client, expected):
        """Whether that comes to be told, before all has been forgotten: {key: (rate, read_rate, bytes, hot)}."""
        def tell():
            told = self.hotkeys(client)
            self.last = told or self.last
            return {k["key"]: (k["rate"], k["read_rate"], k["bytes"], k["hot"]) for k in told}
        await_true(tell, "anything is told")
        return await_true(lambda: [told for told in [tell()] if told == expected or not told], "all is told")[0]

    def test_few(self):
        """Rates are exact when they are low, and those of reads are not those of writes. A key is escaped."""
        moxi = self.moxi([self.memcached()], {"hot_key_rate": 20})
        client, binary = self.client(moxi), self.client(moxi)

        def ask_and_look():
            client.ask(b"set a 0 0 3\r\nold\r\n" * 30, STORED * 30)
            client.ask(b"get b\r\n" * 29, b"END\r\n" * 29)
            binary.send(packet(GET, b"c %") * 10)
            return self.told_of(client, {"a": (30, 0, 90, 0), "b": (29, 29, 0, 1), "c%20%25": (10, 10, 0, 0)})

        # A second that does not begin in the middle of it is what is wanted.
        await_true(ask_and_look, "rates are told as they are")
        self.assertEqual([k["key"] for k in self.last], ["a", "b", "c%20%25"])
        for key in self.last:
            self.assertLess(abs(key["share_pool"] - 100 * key["rate"] / 69), 0.1, key)
            self.assertEqual(key["share_server"], key["share_pool"])

    def test_near_cache(self):
        """front_cache_spec=@hot: what is hot is not asked of the server any more, and when it has cooled it is."""
        server = self.echo(self.mock())
        client = self.client(self.moxi([server.mock], {"hot_key_rate": 100, "front_cache_spec": "@hot",
                                                       "front_cache_lifespan": 3600000, "front_cache_unspec": "no:"}))
        replies = {key: server.reply(key) + b"END\r\n" for key in (b"a", b"b", b"no:1")}

        def times_asked(key, n):
            """How often the server is asked when n clients want to know."""
            before = len(server.lines)
            for _ in range(n):
                client.ask(b"get %s\r\n" % key, replies[key])
            return sum(line.split().count(key) for line in server.lines[before:])

        self.assertEqual(times_asked(b"a", 20), 20)

        def is_kept():
            """Both are hot by then, though one must not be kept."""
            self.load([client], 0.3, lambda i: (b"get a\r\nget no:1\r\n" * 50, (replies[b"a"] + replies[b"no:1"]) * 50))
            return times_asked(b"a", 20) == 0 and [k["hot"] for k in self.hotkeys(client)[:2]] == [1, 1]

        await_true(is_kept, "it is kept")
        self.assertEqual(times_asked(b"no:1", 20), 20)
        self.assertEqual(times_asked(b"b", 20), 20)
        await_true(lambda: not self.hotkeys(client), "it cools")
        self.assertEqual(times_asked(b"a", 20), 20)

    def test_key_stats(self):
        """key_stats_spec=@hot counts keys from when they are hot."""
        settings = {"hot_key_rate": 50, "key_stats_spec": "@hot", "key_stats_lifespan": 3600000}
        client = self.client(self.moxi(["local"], settings))

        def told():
            client.ask(b"get a\r\n" * 30, b"END\r\n" * 30)
            return by_key(proxy_stats(client, b"keystats"), "keystats")

        await_true(told, "it is hot")
        client.ask(b"get b\r\n", b"END\r\n")
        self.assertEqual(list(told()), ["a"])

    def test_off(self):
        client = self.client(self.moxi(["local"], {"hot_key_rate": 0}))
        self.load([client], 1.5, lambda i: (b"get a\r\n" * 100, b"END\r\n" * 100))
        self.assertEqual(self.hotkeys(client), [])


if __name__ == "__main__":
    unittest.main()
