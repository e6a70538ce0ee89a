#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_peers - another proxy behind moxi, and before it: nutcracker, which many have.

It knows the older of the classic commands only, and hangs up on whoever sends another. Values of a get that it splits
it tells in an order of its own when keys are missing.

Run as /usr/bin/python3 t/test_peers.py [Class[.test]]. NUTCRACKER is the program (default nutcracker).
"""

import os
import random
import shutil
import tempfile
import threading
import unittest

from binarylib import GET, answer, packet
from moxilib import MoxiTest, Process, await_true, free_port, proxy_stats, server_name, value

NUTCRACKER = os.environ.get("NUTCRACKER") or shutil.which("nutcracker") or "/usr/sbin/nutcracker"
END, STORED = b"END\r\n", b"STORED\r\n"
POOL = """pool:
  listen: 127.0.0.1:%d
  hash: fnv1a_64
  distribution: ketama
  servers:
"""


class Nutcracker(Process):
    """nutcracker before servers, ready to serve when made."""

    def __init__(self, servers):
        self.directory = tempfile.mkdtemp(prefix="moxi-peers-")
        path = os.path.join(self.directory, "nutcracker.yml")
        for _ in range(20):
            self.port = free_port()
            with open(path, "w", encoding="ascii") as f:
                f.write(POOL % self.port)
                f.writelines("   - %s:1 s%d\n" % (server_name(s), i) for i, s in enumerate(servers))
            super().__init__([NUTCRACKER, "-c", path, "-a", "127.0.0.1", "-s", str(free_port())])
            if self.wait_ready(self.port):
                return
        raise AssertionError("nutcracker does not start: " + self.stderr())

    def stop(self):
        self.kill()
        self.errors.close()
        shutil.rmtree(self.directory)


class PeersTest(MoxiTest):
    def nutcracker(self, servers):
        peer = Nutcracker(servers)
        self._ends[2].append(peer.stop)
        return peer


class Behind(PeersTest):
    """clients --> moxi --> nutcracker --> memcacheds; of 60 keys two thirds are stored."""

    def setUp(self):
        super().setUp()
        self.peer = self.nutcracker([self.memcached() for _ in range(3)])
        self.proxy = self.moxi([self.peer])
        self.keys = [b"%d-key" % (i * 7919) for i in range(60)]
        self.data = {k: k * 3 for i, k in enumerate(self.keys) if i % 3}
        writer = self.client(self.proxy)
        for key, data in self.data.items():
            writer.ask(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(data), data), STORED)

    def stat(self, name):
        stats = proxy_stats(self.client(self.proxy), b"stats")
        return int(stats["%d:default:pstd_stats:%s" % (self.proxy.port, name)])

    def read_values(self, client):
        """Those of a get's reply, in any order."""
        found = {}
        while True:
            line = client.line()
            if line == END:
                return found
            word, key, flags, size = line.split()
            self.assertEqual((word, flags, found.get(key)), (b"VALUE", b"0", None))
            found[key] = client.read(int(size) + 2)[:-2]

    def stored(self, keys):
        return {k: self.data[k] for k in keys if k in self.data}

    def test_gets_of_several_keys(self):
        rng = random.Random(1)
        client = self.client(self.proxy)
        for _ in range(300):
            keys = rng.sample(self.keys, rng.randrange(2, 20))
            client.send(b"get " + b" ".join(keys) + b"\r\n")
            self.assertEqual(self.read_values(client), self.stored(keys))
        self.assertEqual(self.stat("err_downstream_bad_reply"), 0)

    def test_gets_that_share_a_line(self):
        """Of several clients, with sets on the same connection."""
        rng = random.Random(2)
        clients = [self.client(self.proxy) for _ in range(4)]
        for _ in range(50):
            asked = []
            for client in clients:
                batch = [[rng.choice(self.keys)] if rng.random() < 0.8 else rng.sample(self.keys, 3) for _ in range(10)]
                client.send(b"".join(b"get " + b" ".join(keys) + b"\r\n" for keys in batch) + b"set x 0 0 1\r\ny\r\n")
                asked.append(batch)
            for client, batch in zip(clients, asked):
                for keys in batch:
                    self.assertEqual(self.read_values(client), self.stored(keys))
                client.expect(STORED)
        self.assertGreater(self.stat("tot_get_joined"), 0)
        self.assertEqual(self.stat("err_downstream_bad_reply"), 0)

    def run_beside(self, other):
        """While other asks for what nutcracker does not know, nothing is lost to those who ask for what it does."""
        over = threading.Event()
        rounds, failed = [], []

        def run(client, i):
            try:
                while not over.is_set():
                    for key, data in self.data.items():
                        client.ask(b"set %d-%s 0 0 %d\r\n%s\r\nget %s\r\n" % (i, key, len(data), data, key),
                                   STORED + value(key, data) + END)
                    rounds.append(i)
            except AssertionError as e:
                failed.append(e)

        threads = [threading.Thread(target=run, args=(self.client(self.proxy), i)) for i in range(3)]
        for thread in threads:
            thread.start()
        try:
            await_true(lambda: failed or len(rounds) > 3, "they are served")
            other()
            n = len(rounds)
            await_true(lambda: failed or len(rounds) > n + 3, "they are served afterwards")
        finally:
            over.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failed, [])
        self.assertLess(self.stat("tot_downstream_conn"), 10)

    def test_client_of_meta_commands(self):
        key, data = next(iter(self.data.items()))

        def ask():
            for _ in range(30):
                self.client(self.proxy).ask(b"mg %s v\r\nmg nothing v q\r\nmn\r\n" % key,
                                            b"VA %d\r\n%s\r\nMN\r\n" % (len(data), data))

        self.run_beside(ask)

    def test_client_of_the_binary_protocol(self):
        key, data = next(iter(self.data.items()))

        def ask():
            client = self.client(self.proxy)
            for _ in range(30):
                client.send(packet(GET, key) + packet(GET, b"nothing"))
                cas = client.read(24)[16:24]
                client.expect(b"\0" * 4 + data + answer(GET, value=b"Not found", status=1))
                self.assertNotEqual(cas, b"\0" * 8)

        self.run_beside(ask)


class Before(PeersTest):
    """clients --> nutcracker --> moxis --> a memcached"""

    def test_what_it_knows(self):
        memcached = self.memcached()
        moxis = [self.moxi([memcached]) for _ in range(2)]
        client = self.client(self.nutcracker(moxis))
        large = os.urandom(500000)
        client.ask(b"set large 5 0 %d\r\n%s\r\n" % (len(large), large), STORED)
        client.ask(b"get large\r\n", value(b"large", large, 5) + END)
        for i in range(20):
            client.ask(b"add k%d 0 0 1\r\n1\r\n" % i, STORED)
            client.ask(b"add k%d 0 0 1\r\n1\r\n" % i, b"NOT_STORED\r\n")
            client.ask(b"append k%d 0 0 1\r\n%d\r\n" % (i, i % 10), STORED)
            client.ask(b"incr k%d 5\r\n" % i, b"%d\r\n" % (15 + i % 10))
        client.send(b"get " + b" ".join(b"k%d" % i for i in range(-5, 20)) + b"\r\n")
        found = sorted(line for line in client.lines_to_end() if line[:1] == b"V")
        self.assertEqual(found, sorted(b"VALUE k%d 0 2" % i for i in range(20)))
        client.ask(b"delete k0\r\n", b"DELETED\r\n").ask(b"delete k0\r\n", b"NOT_FOUND\r\n")
        client.ask(b"touch k1 100\r\n", b"TOUCHED\r\n")
        self.client(memcached).ask(b"get k0 k1\r\n", value(b"k1", b"16") + END)


if __name__ == "__main__":
    unittest.main()
