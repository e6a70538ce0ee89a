#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_memcached - moxi as a memcached, with the cache inside: what is not the text protocol of test_text.

Run as /usr/bin/python3 t/test_memcached.py [Class[.test]].
"""

import base64
import collections
import os
import re
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from binarylib import DELETE, SET, packet, read_packet, store
from moxilib import MOXI, SCALE, Client, Crowd, Moxi, MoxiTest, Process, await_true, free_port, has_sanitizer, parse_stats


class Alone(Process):
    """moxi without -z, ready to serve when made. "{port}" in an argument becomes its port."""

    def __init__(self, *args, threads=2):
        for _ in range(20):
            self.port = free_port()
            super().__init__(MOXI + ["-p", str(self.port), "-l", "127.0.0.1", "-t", str(threads)] + list(args))
            if self.wait_ready(self.port):
                return
            if "in use" not in self.stderr():
                break
        raise AssertionError("moxi does not start: " + self.stderr())

    stop = Moxi.stop


class AloneTest(MoxiTest):
    def alone(self, *args, **kw):
        moxi = Alone(*args, **kw)
        self._ends[1].append(moxi.stop)
        return moxi

    def stats(self, client, what=b""):
        client.send(b"stats%s\r\n" % (b" " + what if what else b""))
        return parse_stats(client)

    def refused(self, *args):
        """What moxi says when it does not start with these arguments."""
        done = subprocess.run(MOXI + list(args), stdin=subprocess.DEVNULL, capture_output=True, timeout=20 * SCALE)
        self.assertNotEqual(done.returncode, 0)
        text = done.stderr.decode()
        self.assertEqual(len(text.splitlines()), 1, text)
        return text


class CommandLine(AloneTest):
    def test_unix_socket_alone(self):
        """-s without -p: no port at all, as memcached has it."""
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/sock"
            moxi = Process(MOXI + ["-s", path, "-a", "777", "-t", "1"])
            self._ends[1].append(lambda: Moxi.stop(moxi))
            self.assertTrue(moxi.wait_ready(path))
            client = self.client(path)
            client.ask(b"set k 0 0 1\r\nx\r\nget k\r\n", b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n")
            self.assertEqual(self.stats(client, b"settings")["tcpport"], "0")
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o777)
            # a socket of the process that listens on TCP would be in this table
            inodes = {os.readlink("/proc/%d/fd/%s" % (moxi.pid, fd)) for fd in os.listdir("/proc/%d/fd" % moxi.pid)}
            with open("/proc/net/tcp") as table:
                listening = {"socket:[%s]" % line.split()[9] for line in table if line.split()[3] == "0A"}
            self.assertFalse(inodes & listening)

    def test_refused(self):
        self.assertIn("-I 100", self.refused("-I", "100"))
        self.assertIn("-I", self.refused("-m", "4", "-I", "3m"))
        self.assertIn("-m 0", self.refused("-m", "0"))
        self.assertIn("slab_chunk_max", self.refused("-o", "slab_chunk_max=5"))
        self.assertIn("idle_timeout", self.refused("-o", "idle_timeout"))
        self.assertIn("idle_timeout=x", self.refused("-o", "maxconns_fast,idle_timeout=x"))
        self.assertIn("maxconns_fast=1", self.refused("-o", "maxconns_fast=1"))
        self.assertIn("-D", self.refused("-D", "ab"))
        self.assertIn("-m", self.refused("-z", "%d=127.0.0.1:1" % free_port(), "-m", "64"))

    def test_settings(self):
        moxi = self.alone("-m", "100", "-I", "2m", "-M", "-C", "-X", "-A", "-F", "-D", "|", "-c", "77", "-R", "9",
                          "-o", "idle_timeout=99,no_maxconns_fast,no_lru_crawler")
        s = self.stats(self.client(moxi), b"settings")
        expected = {
            "maxbytes": str(100 << 20), "item_size_max": str(2 << 20), "evictions": "off", "cas_enabled": "no",
            "dump_enabled": "no", "shutdown_command": "yes", "flush_enabled": "no", "stat_key_prefix": "|",
            "detail_enabled": "yes", "maxconns": "77", "reqs_per_event": "9", "idle_timeout": "99",
            "maxconns_fast": "no", "lru_crawler": "no", "tcpport": str(moxi.port), "num_threads": "2",
            "inter": "127.0.0.1", "domain_socket": "NULL"
        }
        self.assertEqual({name: s.get(name) for name in expected}, expected)

    def ports(self, args, directory, target):
        """What moxi with these arguments writes to the file of ports, as {"TCP INET": port}; target makes its address
        of that."""
        path = directory + "/ports"
        moxi = Process(MOXI + ["-t", "1"] + args, env={"MEMCACHED_PORT_FILENAME": path})
        self._ends[1].append(lambda: Moxi.stop(moxi))
        await_true(lambda: os.path.exists(path) or moxi.popen.poll() is not None, "the file of ports")
        with open(path) as file:
            ports = {kind: int(port) for kind, port in (line.split(": ") for line in file)}
        self.assertFalse(os.path.exists(path + ".lck"))
        os.unlink(path)
        self.assertTrue(moxi.wait_ready(target(ports)))
        return ports

    def test_ports(self):
        """What the kernel has chosen is told in a file; -U gives the TCP port as well, but where there is a -s."""
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/sock"
            port = free_port()
            tcp = lambda ports: ports["TCP INET"]
            local = ["-l", "127.0.0.1"]
            ports = self.ports(["-p", "-1"] + local, directory, tcp)
            self.assertEqual(list(ports), ["TCP INET"])
            self.assertEqual(self.stats(self.client(ports["TCP INET"]), b"settings")["tcpport"], "-1")
            self.assertIn("%d:default:info:port" % ports["TCP INET"],
                          self.stats(self.client(ports["TCP INET"]), b"proxy info"))
            self.assertEqual(list(self.ports(["-p", "-1", "-U", "-1"] + local, directory, tcp)),
                             ["TCP INET", "UDP INET"])
            self.assertEqual(list(self.ports(["-U", "-1"] + local, directory, tcp)), ["TCP INET", "UDP INET"])
            self.assertEqual(self.ports(["-U", str(port)] + local, directory, tcp),
                             {"TCP INET": port, "UDP INET": port})
            self.assertEqual(list(self.ports(["-z", "127.0.0.1:1", "-p", "-1"] + local, directory, tcp)), ["TCP INET"])
            port = free_port()
            self.assertEqual(self.ports(["-U", str(port), "-s", path] + local, directory, lambda ports: path),
                             {"UDP INET": port})
            self.assertEqual(self.ports(["-p", "0", "-s", path + "2"] + local, directory, lambda ports: path + "2"), {})
            self.assertIn("-p -1 is not", self.refused("-p", "-1", "-z", "%d=127.0.0.1:1" % port))
            missing = subprocess.run(MOXI + ["-p", "-1"] + local, stdin=subprocess.DEVNULL, capture_output=True,
                                     timeout=20 * SCALE,
                                     env=dict(os.environ, MEMCACHED_PORT_FILENAME=directory + "/none/ports"))
            self.assertEqual(missing.returncode, 71)
            self.assertIn("none/ports.lck", missing.stderr.decode())

    def test_no_port(self):
        """-p 0 is a memcached that nobody can connect to, if nothing else is given."""
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/ports"
            moxi = Process(MOXI + ["-p", "0", "-t", "1"], env={"MEMCACHED_PORT_FILENAME": path})
            self._ends[1].append(lambda: (moxi.kill(), moxi.errors.close()))
            await_true(lambda: os.path.exists(path), "the file of ports")
            self.assertEqual(os.path.getsize(path), 0)
            await_true(lambda: "nobody" in moxi.stderr(), "the warning")
        self.assertIn("LPORT of 0", self.refused("-p", "0", "-z", "127.0.0.1:1"))

    def test_flush_disabled(self):
        client = self.client(self.alone("-F"))
        client.ask(b"set k 0 0 1\r\nx\r\nflush_all\r\nflush_all 1 noreply\r\nget k\r\n",
                   b"STORED\r\nCLIENT_ERROR flush_all not allowed\r\nVALUE k 0 1\r\nx\r\nEND\r\n")

    def test_without_cas(self):
        client = self.client(self.alone("-C"))
        client.ask(b"set k 0 0 1\r\nx\r\ngets k\r\n", b"STORED\r\nVALUE k 0 1 0\r\nx\r\nEND\r\n")
        client.ask(b"cas k 0 0 1 5\r\ny\r\ncas k 0 0 1 0\r\ny\r\ncas none 0 0 1 5\r\ny\r\nget k\r\n",
                   b"EXISTS\r\nEXISTS\r\nNOT_FOUND\r\nVALUE k 0 1\r\nx\r\nEND\r\n")
        client.ask(b"ms k 1 MA C5\r\nz\r\nms k 1 C0\r\nz\r\nms k 1 c\r\nz\r\n", b"HD\r\nEX\r\nHD c0\r\n")
        client.ask(b"set n 0 0 1\r\n5\r\nma n C7 v\r\nma n C0 v\r\n", b"STORED\r\nEX\r\nVA 1\r\n6\r\n")
        client.ask(b"md k C5\r\nmd k C0\r\nmd k C5\r\n", b"EX\r\nHD\r\nNF\r\n")

    def test_shutdown(self):
        for command in (b"shutdown\r\n", b"shutdown graceful\r\n"):
            moxi = self.alone("-A")
            client = self.client(moxi)
            client.ask(b"shutdown now\r\n", b"CLIENT_ERROR invalid shutdown mode\r\n")
            client.send(b"get none\r\n" + command)
            client.expect(b"END\r\n")
            client.expect_closed()
            self.assertEqual(moxi.wait(), 0)


class Connections(AloneTest):
    def test_maxconns_fast(self):
        moxi = self.alone("-c", "3")
        clients = [self.client(moxi)]
        await_true(lambda: self.stats(clients[0])["curr_connections"] == "1", "others to be gone")
        clients += [self.client(moxi), self.client(moxi)]
        for client in clients:
            client.turn()
        beyond = self.client(moxi)
        beyond.expect(b"ERROR Too many open connections\r\n")
        beyond.expect_closed()
        s = self.stats(clients[0])
        self.assertEqual((s["rejected_connections"], s["curr_connections"], s["max_connections"]), ("1", "3", "3"))
        clients.pop().close()

        def room():
            client = Client(moxi.port)
            client.send(b"get none\r\n")
            line = client.line()
            client.close()
            return line == b"END\r\n"

        await_true(room, "room for a client")

    def test_idle_timeout(self):
        moxi = self.alone("-o", "idle_timeout=2")
        idle, busy = self.client(moxi), self.client(moxi)
        idle.turn()
        while not idle.readable(0.1):
            busy.turn()
        idle.expect_closed()
        busy.turn()
        self.assertEqual(self.stats(busy)["idle_kicks"], "1")

    def test_counters(self):
        client = self.client(self.alone(threads=1))
        client.ask(b"set k 0 0 5\r\nabcde\r\nget k none\r\n", b"STORED\r\nVALUE k 0 5\r\nabcde\r\nEND\r\n")
        s = self.stats(client)
        expected = {"cmd_get": "2", "cmd_set": "1", "get_hits": "1", "get_misses": "1", "curr_items": "1",
                    "total_items": "1", "curr_connections": "1", "threads": "1", "bytes_read": "39",
                    "bytes_written": "33"}
        self.assertEqual({name: s[name] for name in expected}, expected)
        client.ask(b"stats reset\r\n", b"RESET\r\n")
        s = self.stats(client)
        self.assertEqual((s["cmd_get"], s["get_hits"], s["curr_items"], s["total_connections"]), ("0", "0", "1", "0"))


class Memory(AloneTest):
    VALUE = b"v" * 4000

    def fill(self, client, n, prefix=b"f"):
        for i in range(0, n, 500):
            client.send(b"".join(b"set %s%d 0 0 4000 noreply\r\n%s\r\n" % (prefix, k, self.VALUE)
                                 for k in range(i, min(i + 500, n))))
        client.turn()

    def test_eviction(self):
        """Twice as much as fits: the cache is full of the later ones, and what is read all the time stays."""
        moxi = self.alone("-m", "8")
        client = self.client(moxi)
        client.ask(b"set hot 0 0 3\r\nhot\r\n", b"STORED\r\n")
        for part in range(16):
            self.fill(client, 250, b"p%d-" % part)
            client.ask(b"get hot\r\nget hot\r\n", b"VALUE hot 0 3\r\nhot\r\nEND\r\n" * 2)
        s = self.stats(client)
        self.assertGreater(int(s["evictions"]), 1500)
        self.assertGreater(int(s["curr_items"]), 8 * 256 * 0.8)
        self.assertLessEqual(int(s["bytes"]), 8 << 20)
        client.ask(b"get p15-249\r\n", b"VALUE p15-249 0 4000\r\n%s\r\nEND\r\n" % self.VALUE)

    def test_without_eviction(self):
        client = self.client(self.alone("-m", "4", "-M"))
        stored = 0
        for i in range(3000):
            client.send(b"set k%d 0 0 4000\r\n%s\r\n" % (i, self.VALUE))
            line = client.line()
            if line != b"STORED\r\n":
                break
            stored += 1
        self.assertEqual(line, b"SERVER_ERROR out of memory storing object\r\n")
        self.assertGreater(stored, 700)
        client.ask(b"get k0 k%d\r\n" % (stored - 1),
                   b"VALUE k0 0 4000\r\n%s\r\nVALUE k%d 0 4000\r\n%s\r\nEND\r\n" % (self.VALUE, stored - 1, self.VALUE))
        # a set that fails does not leave the old value behind
        client.ask(b"set k0 0 0 100000\r\n%s\r\nget k0\r\n" % (b"x" * 100000),
                   b"SERVER_ERROR out of memory storing object\r\nEND\r\n")
        s = self.stats(client)
        self.assertEqual(s["evictions"], "0")
        self.assertGreater(int(s["store_no_memory"]), 0)
        client.ask(b"flush_all\r\n", b"OK\r\n")
        client.ask(b"set k 0 0 4000\r\n%s\r\n" % self.VALUE, b"STORED\r\n")

    def test_item_size(self):
        client = self.client(self.alone("-I", "10k"))
        too_large = b"SERVER_ERROR object too large for cache\r\n"
        for size in (10240, 11000, 500000):
            client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
            client.ask(b"set k 0 0 %d\r\n%s\r\nget k\r\n" % (size, b"x" * size), too_large + b"END\r\n")
            client.ask(b"add k 0 0 %d\r\n%s\r\nget k\r\n" % (size, b"x" * size), too_large + b"END\r\n")
        client.ask(b"set k 0 0 9000\r\n%s\r\nappend k 0 0 9000\r\n%s\r\nget k\r\n" % (b"x" * 9000, b"y" * 9000),
                   b"STORED\r\nNOT_STORED\r\nVALUE k 0 9000\r\n%s\r\nEND\r\n" % (b"x" * 9000))
        s = self.stats(client)
        self.assertEqual((s["store_too_large"], s["delete_hits"], s["delete_misses"]), ("7", "0", "0"))

    def test_item_size_above_the_proxy_s(self):
        """-I above what item_size_max is by default."""
        client = self.client(self.alone("-m", "400", "-I", "150m"))
        n = 140 << 20
        client.ask(b"set k 0 0 %d\r\n%s\r\n" % (n, bytes(n)), b"STORED\r\n")
        client.ask(b"stats sizes\r\n", b"STAT %d 1\r\nEND\r\n" % ((n // 32 + 2) * 32))

    def test_memory_limit_at_run_time(self):
        client = self.client(self.alone("-m", "16"))
        self.fill(client, 3500)
        self.assertEqual(self.stats(client)["evictions"], "0")
        client.ask(b"cache_memlimit 7\r\n", b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n")
        client.ask(b"cache_memlimit x\r\ncache_memlimit\r\n", b"ERROR\r\n" * 2)
        client.ask(b"cache_memlimit 8\r\n", b"OK\r\n")
        self.assertEqual(self.stats(client, b"settings")["maxbytes"], str(8 << 20))

        def smaller():
            s = self.stats(client)
            return int(s["bytes"]) < 8 << 20 and int(self.stats(client, b"slabs")["total_malloced"]) <= 8 << 20

        await_true(smaller, "memory to be given back")
        client.ask(b"cache_memlimit 32 noreply\r\n", b"")
        self.fill(client, 5000, b"g")
        self.assertGreater(int(self.stats(client)["bytes"]), 5000 * 4000)

    def test_expired_memory_comes_back(self):
        """Nobody asks for what has expired, and it goes all the same."""
        client = self.client(self.alone())
        client.send(b"".join(b"set k%d 0 1 5 noreply\r\nabcde\r\n" % i for i in range(5000)))
        client.turn()
        await_true(lambda: self.stats(client)["curr_items"] == "0", "what has expired to be freed", pause=0.05)
        self.assertGreater(int(self.stats(client)["crawler_reclaimed"]), 4000)

    def test_crawler_is_off_and_on(self):
        client = self.client(self.alone("-o", "no_lru_crawler"))
        client.send(b"".join(b"set k%d 0 1 5 noreply\r\nabcde\r\n" % i for i in range(500)))
        client.turn()
        await_true(lambda: not self.values(client, b"get k1"), "expiry", pause=0.05)
        time.sleep(1.2)  # in which a crawler that is on would have had its turn
        self.assertGreater(int(self.stats(client)["curr_items"]), 400)
        client.ask(b"lru_crawler crawl all\r\n", b"OK\r\n")
        await_true(lambda: self.stats(client)["curr_items"] == "0", "a crawl")
        client.ask(b"lru_crawler enable\r\n", b"OK\r\n")
        self.assertEqual(self.stats(client, b"settings")["lru_crawler"], "yes")
        client.ask(b"lru_crawler disable\r\n", b"OK\r\n")
        self.assertEqual(self.stats(client, b"settings")["lru_crawler"], "no")
        client.ask(b"lru_crawler\r\nlru_crawler foo\r\nlru_crawler crawl\r\n", b"ERROR\r\n" * 3)
        client.ask(b"lru_crawler crawl 99\r\n", b"BADCLASS invalid class id\r\n")

    @staticmethod
    def values(client, command):
        client.send(command + b"\r\n")
        return client.lines_to_end()


class Dumps(AloneTest):
    def test_metadump(self):
        client = self.client(self.alone())
        now = int(time.time())
        client.ask(b"set plain 0 0 3\r\nabc\r\nset a%b\xff: 5 100 1\r\nx\r\nget plain\r\n",
                   b"STORED\r\nSTORED\r\nVALUE plain 0 3\r\nabc\r\nEND\r\n")
        client.send(b"lru_crawler metadump all\r\nget none\r\n")
        lines = client.read_until(b"END\r\nEND\r\n").split(b"END\r\n")[0].split(b"\n")[:-1]
        found = {}
        for line in lines:
            match = re.fullmatch(rb"key=(\S+) exp=(-?\d+) la=(\d+) cas=(\d+) fetch=(yes|no) cls=(\d+) size=(\d+)", line)
            self.assertIsNotNone(match, line)
            found[match[1]] = match
        self.assertEqual(set(found), {b"plain", b"a%25b%FF%3A"})
        self.assertEqual((found[b"plain"][2], found[b"plain"][5]), (b"-1", b"yes"))
        self.assertTrue(now + 99 <= int(found[b"a%25b%FF%3A"][2]) <= now + 110)
        self.assertEqual(found[b"a%25b%FF%3A"][5], b"no")
        self.assertTrue(now - 1 <= int(found[b"plain"][3]) <= now + 10)

    def test_metadump_of_many(self):
        """Each once, others are served meanwhile, and memory is not filled for a client that does not read."""
        moxi = self.alone("-m", "200")
        client, other = self.client(moxi), self.client(moxi, rcvbuf=4096)
        n = 100000
        for i in range(0, n, 1000):
            client.send(b"".join(b"set %0200d 0 0 1 noreply\r\nx\r\n" % k for k in range(i, i + 1000)))
        client.turn()
        before = moxi.memory()
        other.send(b"lru_crawler metadump all\r\n")
        for _ in range(50):
            client.turn()
        client.send(b"lru_crawler metadump all\r\n")
        keys = re.findall(rb"key=(\d+) ", client.read_until(b"\nEND\r\n"))
        self.assertEqual(len(keys), n)
        self.assertEqual(len(set(keys)), n)
        if not has_sanitizer():
            self.assertLess(moxi.memory() - before, 20 << 20)
        self.assertEqual(other.read_until(b"\nEND\r\n").count(b"key="), n)

    def test_many_at_once(self):
        """They are made one after the other, so they do not fill memory."""
        moxi = self.alone()
        client, other = self.client(moxi, rcvbuf=4096), self.client(moxi)
        n, dumps = 1000, 100
        other.send(b"".join(b"set %0200d 0 0 1 noreply\r\nx\r\n" % k for k in range(n)))
        (number,) = {name.split(":")[1] for name in self.stats(other, b"items")}
        before = moxi.memory()
        client.send(b"lru_crawler metadump all\r\n" + b"stats cachedump %s 0\r\nstats sizes\r\n" % number.encode() * dumps)
        self.assertTrue(client.readable(20 * SCALE))
        for _ in range(50):
            other.turn()
        if not has_sanitizer():
            self.assertLess(moxi.memory() - before, 8 << 20)
        self.assertEqual(client.read_until(b"END\r\n").count(b"key="), n)
        for _ in range(dumps):
            self.assertEqual(client.read_until(b"END\r\n").count(b"ITEM "), n)
            self.assertRegex(client.read_until(b"END\r\n"), rb"\ASTAT \d+ %d\r\nEND" % n)

    def test_mgdump(self):
        """Each line is a command that finds its key; a key that no line can hold is in base64, and one that was given so."""
        moxi = self.alone()
        client, binary = self.client(moxi), self.client(moxi)
        keys = [b"plain", b"a%b\xff:", b"in base64", b"from\r\nEN\r\nbinary", b"x" * 250, b"\x00" * 180]
        for key in (b"plain", b"a%b\xff:", b"x" * 250):
            client.ask(b"set %s 0 0 1\r\nx\r\n" % key, b"STORED\r\n")
        for key in (b"in base64", b"\x00" * 180, b"word"):
            client.ask(b"ms %s 1 b\r\nx\r\n" % base64.b64encode(key), b"HD\r\n")
        binary.send(store(SET, b"from\r\nEN\r\nbinary", b"x"))
        self.assertEqual(read_packet(binary), (0, b""))
        client.ask(b"set gone 0 -1 1\r\nx\r\n", b"STORED\r\n")
        for classes in (b"all", b"hash", b"1,2,3,4,5,6,7,8,9,10,11,12"):
            client.send(b"lru_crawler mgdump %s\r\nget none\r\n" % classes)
            lines = client.read_until(b"EN\r\nEND\r\n")[:-9].split(b"\r\n")[:-1]
            found = set()
            for line in lines:
                self.assertRegex(line, rb"\Amg \S+( b)?\Z")
                client.ask(line + b" v\r\n", b"VA 1\r\nx\r\n")
                key = line.split(b" ")[1]
                found.add(base64.b64decode(key) if line.endswith(b" b") else key)
            self.assertEqual(found, set(keys) | {b"word"})
            self.assertIn(b"mg %s b" % base64.b64encode(b"word"), lines)
            self.assertIn(b"mg plain", lines)

    def test_dump_behind_others(self):
        """As in memcached, it has to be asked for alone."""
        client = self.client(self.alone())
        client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
        client.ask(b"mg k v\r\nlru_crawler metadump all\r\nmn\r\n",
                   b"VA 1\r\nx\r\nERROR cannot pipeline other commands before metadump\r\nMN\r\n")
        client.ask(b"mg k v\r\nlru_crawler mgdump all\r\nmn\r\n",
                   b"VA 1\r\nx\r\nERROR cannot pipeline other commands before mgdump\r\nMN\r\n")
        client.ask(b"lru_crawler mgdump 0\r\nlru_crawler mgdump\r\nlru_crawler mgdump all all\r\n",
                   b"BADCLASS invalid class id\r\nERROR\r\nERROR\r\n")

    def test_client_goes_in_the_middle_of_a_dump(self):
        moxi = self.alone()
        client = self.client(moxi)
        client.send(b"".join(b"set %0200d 0 0 1 noreply\r\nx\r\n" % k for k in range(30000)))
        client.turn()
        for ask in (b"lru_crawler metadump all\r\n", b"lru_crawler mgdump all\r\n", b"stats sizes\r\n", b"stats cachedump 1 0\r\n"):
            for _ in range(3):
                gone = self.client(moxi, rcvbuf=4096)
                gone.send(ask)
                gone.reset()
        client.turn()

    def test_disabled(self):
        client = self.client(self.alone("-X"))
        client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
        client.ask(b"lru_crawler metadump all\r\n", b"ERROR metadump not allowed\r\n")
        client.ask(b"lru_crawler mgdump all\r\n", b"ERROR key dump not allowed\r\n")
        client.ask(b"stats cachedump 1 1\r\n", b"CLIENT_ERROR stats cachedump not allowed\r\n")

    def test_cachedump(self):
        client = self.client(self.alone())
        client.send(b"".join(b"set k%d 0 0 5 noreply\r\nabcde\r\n" % i for i in range(50)))
        client.turn()
        client.send(b"stats items\r\n")
        (number,) = {name.split(":")[1] for name in parse_stats(client)}
        client.send(b"stats cachedump %s 10\r\n" % number.encode())
        lines = client.lines_to_end()
        self.assertEqual(len(lines), 10)
        for line in lines:
            self.assertRegex(line, rb"\AITEM k\d+ \[5 b; 0 s\]\Z")
        client.send(b"stats cachedump %s 0\r\n" % number.encode())
        self.assertEqual(len(set(client.lines_to_end())), 50)
        client.ask(b"stats cachedump 39 0\r\nstats cachedump 0 1\r\nstats cachedump 63 1\r\n", b"END\r\n" * 3)
        client.ask(b"stats cachedump\r\nstats cachedump 1\r\n", b"CLIENT_ERROR bad command line\r\n" * 2)
        client.ask(b"stats cachedump 1 x\r\nstats cachedump -1 1\r\n",
                   b"CLIENT_ERROR bad command line format\r\n" * 2)
        client.ask(b"stats cachedump 64 1\r\nstats cachedump 9999 1\r\n", b"CLIENT_ERROR Illegal slab id\r\n" * 2)

    def test_sizes(self):
        client = self.client(self.alone())
        client.ask(b"set a 0 0 1\r\nx\r\nset b 0 0 1\r\nx\r\nset c 0 0 1000\r\n%s\r\n" % (b"x" * 1000),
                   b"STORED\r\n" * 3)
        sizes = self.stats(client, b"sizes")
        self.assertEqual(sorted(sizes.values()), ["1", "2"])
        for size in sizes:
            self.assertEqual(int(size) % 32, 0)
        self.assertGreater(max(map(int, sizes)), 1000)
        client.ask(b"stats sizes_enable\r\n", b"STAT sizes_status enabled\r\nEND\r\n")


class Stats(AloneTest):
    def test_detail(self):
        client = self.client(self.alone())
        client.ask(b"stats detail\r\nstats detail foo\r\n", b"CLIENT_ERROR usage: stats detail on|off|dump\r\n" * 2)
        client.ask(b"get a:1\r\nstats detail dump\r\nstats detail on\r\n", b"END\r\nEND\r\nOK\r\n")
        client.ask(b"set a:1 0 0 1\r\nx\r\nset b:2 0 0 1 noreply\r\nx\r\nget a:1 a:2 b:2 nodelimiter\r\ndelete b:9\r\n",
                   b"STORED\r\nVALUE a:1 0 1\r\nx\r\nVALUE b:2 0 1\r\nx\r\nEND\r\nNOT_FOUND\r\n")
        client.ask(b"stats detail dump\r\n",
                   b"PREFIX a get 2 hit 1 set 1 del 0\r\nPREFIX b get 1 hit 1 set 1 del 1\r\nEND\r\n")
        client.ask(b"stats detail off\r\nget a:1\r\nstats detail dump\r\nstats reset\r\nstats detail dump\r\n",
                   b"OK\r\nVALUE a:1 0 1\r\nx\r\nEND\r\nPREFIX a get 2 hit 1 set 1 del 0\r\n"
                   b"PREFIX b get 1 hit 1 set 1 del 1\r\nEND\r\nRESET\r\nEND\r\n")

    def test_delimiter(self):
        client = self.client(self.alone("-D", "/"))
        client.ask(b"get a/b:c\r\nstats detail dump\r\n", b"END\r\nPREFIX a get 1 hit 0 set 0 del 0\r\nEND\r\n")

    def test_items_and_slabs(self):
        client = self.client(self.alone())
        for size, n in ((10, 100), (5000, 7)):
            client.send(b"".join(b"set s%d-%d 0 0 %d noreply\r\n%s\r\n" % (size, i, size, b"x" * size)
                                 for i in range(n)))
        client.turn()
        items, slabs = self.stats(client, b"items"), self.stats(client, b"slabs")
        numbers = {name.split(":")[1]: int(value) for name, value in items.items() if name.endswith(":number")}
        self.assertEqual(sorted(numbers.values()), [7, 100])
        for number, n in numbers.items():
            self.assertEqual(slabs[number + ":used_chunks"], str(n))
            self.assertEqual(slabs[number + ":cmd_set"], str(n))
            chunk = int(slabs[number + ":chunk_size"])
            self.assertTrue(n * chunk * 0.5 < int(items["items:%s:mem_requested" % number]) <= n * chunk)
        self.assertEqual(slabs["active_slabs"], "2")
        client.ask(b"stats foo\r\n", b"ERROR\r\n")

    def test_conns(self):
        moxi = self.alone(threads=2)
        client, idle, sending = self.client(moxi), self.client(moxi), self.client(moxi)
        idle.turn()
        sending.send(b"set k 0 0 10\r\nabc").sync()

        def rows():
            found = {}
            for name, value in self.stats(client, b"conns").items():
                fd, _, what = name.partition(":")
                found.setdefault(fd, {})[what] = value
            return found

        def states():
            return sorted(row["state"] for row in rows().values())

        await_true(lambda: states() == ["conn_listening", "conn_nread", "conn_parse_cmd", "conn_read"], "its clients")
        here = "tcp:127.0.0.1:%d" % moxi.port
        for row in rows().values():
            if row["state"] == "conn_listening":
                self.assertEqual(row["addr"], here)
                continue
            self.assertEqual(row["listen_addr"], here)
            peer = {"conn_nread": sending, "conn_parse_cmd": client, "conn_read": idle}[row["state"]]
            self.assertEqual(row["addr"], "tcp:127.0.0.1:%d" % peer.sock.getsockname()[1])
            self.assertLess(int(row["secs_since_last_cmd"]), 20)
        await_true(lambda: all(int(r["secs_since_last_cmd"]) > 0 for r in rows().values() if r["state"] == "conn_read"),
                   "a second to pass", pause=0.05)
        sending.send(b"defghij\r\n")
        sending.expect(b"STORED\r\n")
        sending.close()
        await_true(lambda: states() == ["conn_listening", "conn_parse_cmd", "conn_read"], "a client to go")

    def test_conns_while_clients_come_and_go(self):
        moxi = self.alone(threads=2)
        client = self.client(moxi)
        for _ in range(100):
            others = [Client(moxi.port) for _ in range(5)]
            client.send(b"stats conns\r\n")
            for other in others:
                other.close()
            client.lines_to_end()

    def test_merged_with_a_server(self):
        """A pool with a server and the cache: counters are added up."""
        server = self.memcached()
        client = self.client(self.moxi([server, "local"]))
        before = self.stats(client)
        for i in range(100):
            client.ask(b"set k%d 0 0 1\r\nx\r\n" % i, b"STORED\r\n")
        after = self.stats(client)
        self.assertEqual(int(after["cmd_set"]) - int(before["cmd_set"]), 100)
        self.assertEqual(after["curr_items"], "100")
        self.assertTrue(0 < int(self.stats(self.client(server))["curr_items"]) < 100)


class Watch(AloneTest):
    HEAD = rb"ts=\d+\.\d{1,6} gid=\d+ "

    def watch(self, moxi, flags=b"", **kw):
        watcher = self.client(moxi, **kw)
        watcher.ask(b"watch" + (b" " + flags if flags else b"") + b"\r\n", b"OK\r\n")
        return watcher

    def expect_line(self, watcher, pattern):
        line = watcher.read_until(b"\n")
        self.assertRegex(line, b"^" + self.HEAD + pattern + b"\n$")

    def told(self, watcher, *lines):
        """The next lines of a watcher, their heads aside, are these."""
        for line in lines:
            self.expect_line(watcher, re.escape(line))

    def fd_of(self, client):
        """The descriptor that moxi has for a client, which is the only one that asks at the moment."""
        s = self.stats(client, b"conns")
        return [int(name.split(":")[0]) for name, state in s.items() if state == "conn_parse_cmd"][0]

    def test_lines(self):
        """As memcached 1.6.18 writes them."""
        moxi = self.alone(threads=1)
        client = self.client(moxi)
        fd = b"%d" % self.fd_of(client)
        watcher = self.watch(moxi, b"mutations fetchers")

        def get(key, status, size):
            return b"type=item_get key=%s status=%s clsid=%d cfd=%s size=%d" % (key, status, size > 0, fd, size)

        def store(key, status, command, ttl, size):
            return b"type=item_store key=%s status=%s cmd=%s ttl=%d clsid=1 cfd=%s size=%d" % (
                key, status, command, ttl, fd, size)

        client.ask(b"get k\r\nset k 5 100 3\r\nabc\r\nget k no\r\ngats 100 k\r\n",
                   b"END\r\nSTORED\r\nVALUE k 5 3\r\nabc\r\nEND\r\nVALUE k 5 3 1\r\nabc\r\nEND\r\n")
        self.told(watcher, get(b"k", b"not_found", 0), get(b"k", b"not_found", 0),
                  store(b"k", b"stored", b"set", 100, 3), get(b"k", b"found", 3), get(b"no", b"not_found", 0),
                  get(b"k", b"found", 3))
        client.ask(b"add k 0 0 1\r\nx\r\nreplace no 0 0 1\r\nx\r\ncas k 0 0 1 99\r\nx\r\ncas no 0 0 1 9\r\nx\r\n",
                   b"NOT_STORED\r\nNOT_STORED\r\nEXISTS\r\nNOT_FOUND\r\n")
        self.told(watcher, get(b"k", b"found", 3), store(b"k", b"not_stored", b"add", 0, 1),
                  get(b"no", b"not_found", 0), store(b"no", b"not_stored", b"replace", 0, 1),
                  get(b"k", b"found", 3), store(b"k", b"exists", b"cas", 0, 1),
                  get(b"no", b"not_found", 0), store(b"no", b"not_found", b"cas", 0, 1))
        # what is appended to has the expiry that it had, and tells the length of the whole
        client.ask(b"append k 0 0 2\r\nde\r\nprepend no 0 0 2\r\nxx\r\n", b"STORED\r\nNOT_STORED\r\n")
        self.told(watcher, get(b"k", b"found", 3))
        self.expect_line(watcher, rb"type=item_store key=k status=stored cmd=append ttl=\d\d\d? clsid=1 cfd=" + fd +
                         rb" size=5")
        self.told(watcher, get(b"no", b"not_found", 0), store(b"no", b"not_stored", b"prepend", 0, 2))
        client.ask(b"touch k 0\r\nincr k 1\r\ndecr no 1\r\ndelete k\r\ndelete k noreply\r\n",
                   b"TOUCHED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
                   b"NOT_FOUND\r\nDELETED\r\n")
        self.told(watcher, get(b"k", b"found", 5), get(b"k", b"found", 5), get(b"no", b"not_found", 0),
                  get(b"k", b"found", 5), get(b"k", b"not_found", 0))
        # a set that is too large drops what was there
        client.ask(b"set big 0 0 2000000\r\n%s\r\n" % (b"x" * 2000000), b"SERVER_ERROR object too large for cache\r\n")
        self.told(watcher,
                  b"type=item_store key=big status=too_large cmd=set ttl=0 clsid=0 cfd=%s size=0" % fd,
                  get(b"big", b"not_found", 0))
        key = bytes(range(33, 256)).replace(b"\x7f", b"")
        client.ask(b"get %s\r\nget %s\r\n" % (key, b"#" * 250), b"END\r\nEND\r\n")
        quoted = b"".join(b"%c" % c if chr(c).isascii() and chr(c).isalnum() or c in b"-._~" else b"%%%02X" % c
                          for c in key)
        self.told(watcher, get(quoted, b"not_found", 0), get(b"%23" * 250, b"not_found", 0))
        client.ask(b"set f 0 0 1\r\nx\r\nflush_all\r\nget f\r\n", b"STORED\r\nOK\r\nEND\r\n")
        self.told(watcher, get(b"f", b"not_found", 0), store(b"f", b"stored", b"set", 0, 1), get(b"f", b"flushed", 0))
        watcher.expect_nothing()

    def test_deletions(self):
        """As memcached 1.6.20 and later write them."""
        moxi = self.alone()
        client, binary, watcher = self.client(moxi), self.client(moxi), self.watch(moxi, b"deletions")
        client.ask(b"set k%20x 0 0 4\r\nabcd\r\ndelete k%20x\r\ndelete k%20x\r\nget k%20x\r\n",
                   b"STORED\r\nDELETED\r\nNOT_FOUND\r\nEND\r\n")
        self.told(watcher, b"type=deleted key=k%2520x cmd=delete clsid=1 size=4")
        client.ask(b"ms k 2\r\nab\r\nmd k I T30\r\nmd k x\r\nmd k C1\r\nmd k q\r\nmd k\r\n",
                   b"HD\r\nHD\r\nHD\r\nEX\r\nNF\r\n")
        self.told(watcher, b"type=deleted key=k cmd=md clsid=1 size=0")
        client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
        binary.send(packet(DELETE, b"k"))
        self.assertEqual(read_packet(binary), (0, b""))
        self.told(watcher, b"type=deleted key=k cmd=delete clsid=1 size=1")
        client.ask(b"set k 0 0 2000000\r\n%s\r\n" % (b"x" * 2000000), b"SERVER_ERROR object too large for cache\r\n")
        watcher.expect_nothing()

    def test_expired(self):
        """Nothing but a get finds what has expired: the crawler is off."""
        moxi = self.alone("-o", "no_lru_crawler")
        client, watcher = self.client(moxi), self.watch(moxi)
        client.ask(b"set k 0 1 1\r\nx\r\n", b"STORED\r\n")
        self.expect_line(watcher, rb"type=item_get key=k status=not_found .*")

        def looks():
            client.send(b"get k\r\n")
            client.lines_to_end()
            line = watcher.read_until(b"\n")
            return line if b"status=found" not in line else None

        line = await_true(looks, "expiry", pause=0.05)
        self.assertRegex(line, self.HEAD + rb"type=item_get key=k status=expired clsid=0 cfd=\d+ size=0\n$")

    def test_flags(self):
        moxi = self.alone()
        client = self.client(moxi)
        client.ask(b"watch foo\r\nwatch fetchers foo\r\nwatch rawcmds\r\nwatch FETCHERS\r\nwatch %s\r\n"
                   b"watch fetchers noreply\r\nversion\r\n" % (b"x" * 300),
                   b"ERROR\r\n" * 5 + b"VERSION 1.6.18 moxi 1.0.0\r\n")
        fetchers, mutations = self.watch(moxi, b" fetchers  fetchers "), self.watch(moxi, b"mutations")
        client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
        self.expect_line(fetchers, rb"type=item_get key=k .*")
        self.expect_line(mutations, rb"type=item_store key=k .*")
        fetchers.expect_nothing()
        mutations.expect_nothing()

    def test_further_input(self):
        """A client who watches can do nothing else; what it asked before is answered first."""
        moxi = self.alone(threads=1)
        client, watcher = self.client(moxi), self.client(moxi)
        watcher.send(b"get none\r\nwatch\r\nget ignored\r\nquit\r\n")
        watcher.expect(b"END\r\nOK\r\n")
        watcher.send(b"get ignored\r\nset k 0 0 5\r\n")
        client.ask(b"get k\r\n", b"END\r\n")
        self.expect_line(watcher, rb"type=item_get key=k .*")
        s = self.stats(client, b"conns")
        self.assertIn("conn_watch", s.values())
        watcher.expect_nothing()

    def test_removed(self):
        moxi = self.alone()
        client = self.client(moxi)
        watchers = [self.watch(moxi) for _ in range(20)]
        more = self.client(moxi)
        more.ask(b"watch\r\nversion\r\n",
                 b"WATCHER_TOO_MANY log watcher limit reached\r\nVERSION 1.6.18 moxi 1.0.0\r\n")
        self.assertEqual(self.stats(client)["log_watchers"], "20")
        client.ask(b"get k\r\n", b"END\r\n")
        for watcher in watchers:
            self.expect_line(watcher, rb"type=item_get key=k .*")
        for i, watcher in enumerate(watchers):
            if i % 3 == 0:
                watcher.reset()
            elif i % 3 == 1:
                watcher.shutdown().expect_closed()
            else:
                watcher.close()
        await_true(lambda: self.stats(client)["log_watchers"] == "0", "watchers to be gone")
        s = self.stats(client)
        self.assertEqual((s["log_worker_written"], s["log_watcher_sent"], s["log_watcher_skipped"]), ("1", "20", "0"))
        client.ask(b"get k\r\nstats reset\r\n", b"END\r\nRESET\r\n")
        s = self.stats(client)
        self.assertEqual((s["log_worker_written"], s["log_watcher_sent"]), ("0", "0"))

    def test_skipped(self):
        """A watcher who does not read costs its buffers and no more, and is told what it has missed, where it has."""
        moxi = self.alone("-o", "watcher_logbuf_size=8")
        client = self.client(moxi)
        slow, quick = self.watch(moxi, rcvbuf=4096), self.watch(moxi, b"mutations")
        key = b"k" * 200

        def skips():
            for _ in range(100):
                client.send(b"get %s\r\n" % key * 200)
                client.expect(b"END\r\n" * 200)
            return int(self.stats(client)["log_watcher_skipped"]) > 0

        await_true(skips, "lines to be skipped")
        client.ask(b"set k 0 0 1\r\nx\r\n", b"STORED\r\n")
        self.expect_line(quick, rb"type=item_store key=k .*")
        skipped = told = gid = 0

        def read_line():
            nonlocal skipped, told, gid
            line = slow.read_until(b"\n")
            if line.startswith(b"skipped="):
                skipped += int(line[8:])
                gid += int(line[8:])
                return
            told += 1
            at = int(re.match(rb"ts=\d+\.\d+ gid=(\d+) type=item_get key=[^ ]+ ", line).group(1))
            # the store is numbered too, and not told to this one
            self.assertIn(at - gid, (1, 2), "lines are missing that were not skipped")
            gid = at

        def all_told():
            while slow.readable(0.2):
                read_line()
            s = self.stats(client)
            return told == int(s["log_watcher_sent"]) - 1 and skipped == int(s["log_watcher_skipped"])

        await_true(all_told, "the rest")
        self.assertGreater(skipped, 0)
        client.ask(b"get after\r\n", b"END\r\n")
        self.expect_line(slow, rb"type=item_get key=after .*")

    def test_many_lines(self):
        """One who reads is told everything, in order."""
        moxi = self.alone()
        client, watcher = self.client(moxi), self.watch(moxi)
        for part in range(20):
            client.send(b"".join(b"get k%d\r\n" % i for i in range(1000)))
            client.expect(b"END\r\n" * 1000)
            for i in range(1000):
                line = watcher.read_until(b"\n")
                self.assertIn(b"gid=%d type=item_get key=k%d " % (part * 1000 + i + 1, i), line)

    def test_evictions(self):
        moxi = self.alone("-m", "8")
        client, watcher = self.client(moxi), self.watch(moxi, b"evictions")
        value = b"v" * 4000
        lines = []
        for i in range(40):
            client.send(b"".join(b"set k,%d 0 %d 4000 noreply\r\n%s\r\n" % (i * 100 + k, k % 2 * 1000, value)
                                 for k in range(100)))
            client.ask(b"get k,%d\r\n" % (i * 100), b"VALUE k,%d 0 4000\r\n%s\r\nEND\r\n" % (i * 100, value))
        while watcher.readable(0.3):
            lines.append(watcher.read_until(b"\n"))
        s = self.stats(client)
        self.assertEqual(len(lines), int(s["evictions"]))
        self.assertGreater(len(lines), 1000)
        for line in lines:
            match = re.match(self.HEAD + rb"type=eviction key=k%2C(\d+) fetch=(yes|no) ttl=(-?\d+) la=\d+ clsid=18 "
                             rb"size=4000\n$", line)
            self.assertTrue(match, line)
            if int(match.group(1)) % 2:
                self.assertLessEqual(abs(int(match.group(3)) - 990), 10)
            else:
                self.assertEqual(match.group(3), b"-1")
            if match.group(2) == b"yes":
                self.assertEqual(int(match.group(1)) % 100, 0)

    def test_connections(self):
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/sock"
            moxi = self.alone("-s", path, "-o", "idle_timeout=2", "-U", str(free_port()))
            watcher = self.watch(moxi, b"connevents")

            def arrives(client, where):
                line = watcher.read_until(b"\n")
                match = re.match(self.HEAD + rb"type=conn_new " + where + rb" cfd=(\d+)\n$", line)
                self.assertTrue(match, line)
                return match.group(1)

            def leaves(where, fd, reason):
                line = watcher.read_until(b"\n")
                self.assertRegex(line, self.HEAD + rb"type=conn_close " + where + rb" reason=" + reason + rb" cfd=" +
                                 fd + rb"\n$")

            def tcp(client):
                return b"rip=127\\.0\\.0\\.1 rport=%d transport=tcp" % client.sock.getsockname()[1]

            for reason, end in ((b"normal", lambda c: c.send(b"quit\r\n")), (b"normal", Client.close),
                                (b"error", Client.reset), (b"error", lambda c: c.send(b"GET / HTTP/1.1\r\n")),
                                (b"error", lambda c: c.send(b"x" * 9000)),
                                (b"idle_timeout", lambda c: c.turn())):
                client = self.client(moxi)
                where = tcp(client)
                fd = arrives(client, where)
                end(client)
                leaves(where, fd, reason)
            where = b"rip=unix rport=0 transport=local"
            client = self.client(path)
            fd = arrives(client, where)
            client.close()
            leaves(where, fd, b"normal")
            # watching is no idleness
            watcher.expect_nothing()

    def test_disabled(self):
        client = self.client(self.alone("-W"))
        client.ask(b"watch\r\nwatch foo\r\nwatch fetchers noreply\r\nversion\r\n",
                   b"CLIENT_ERROR watch commands not allowed\r\n" * 2 + b"VERSION 1.6.18 moxi 1.0.0\r\n")
        self.assertIn("-W is for the cache inside", self.refused("-z", "%d=127.0.0.1:1" % free_port(), "-W"))
        self.assertIn("watcher_logbuf_size=0", self.refused("-o", "watcher_logbuf_size=0"))
        self.assertIn("no_worker_logbuf_size", self.refused("-o", "no_worker_logbuf_size"))

    def test_settings(self):
        client = self.client(self.alone("-o", "watcher_logbuf_size=8,worker_logbuf_size=2"))
        s = self.stats(client, b"settings")
        self.assertEqual((s["watcher_logbuf_size"], s["worker_logbuf_size"]), ("8192", "2048"))
        s = self.stats(self.client(self.alone()), b"settings")
        self.assertEqual((s["watcher_logbuf_size"], s["worker_logbuf_size"]), ("262144", "65536"))

    def test_proxy(self):
        """A pool without the cache inside has nothing to be watched; of one that has, what is the cache's is told."""
        server = self.memcached()
        self.client(self.moxi([server])).ask(b"watch\r\n", b"ERROR\r\n")
        moxi = self.moxi([server, "local"])
        client, watcher = self.client(moxi), self.watch(moxi)
        client.send(b"get " + b" ".join(b"key%d" % i for i in range(100)) + b"\r\n")
        client.expect(b"END\r\n")
        before = int(self.stats(client)["log_worker_written"])
        self.assertTrue(0 < before < 100, before)
        for _ in range(before):
            self.expect_line(watcher, rb"type=item_get key=key\d+ .*")

    def test_term(self):
        """Who watches, reading or not, does not hold up the end."""
        moxi = self.alone(threads=2)
        client = self.client(moxi)
        watchers = [self.watch(moxi, b"fetchers connevents", rcvbuf=4096) for _ in range(4)]
        for _ in range(20):
            client.send(b"get %s\r\n" % (b"k" * 200) * 500)
            client.expect(b"END\r\n" * 500)
        begin = time.monotonic()
        moxi.signal(15)
        self.assertEqual(moxi.wait(), 0)
        self.assertLess(time.monotonic() - begin, 2 * SCALE)
        client.expect_closed()
        del watchers

    def test_traffic(self):
        """Clients on all workers, evictions, watchers that come and go, some of which read."""
        moxi = self.alone("-m", "8", "-o", "watcher_logbuf_size=16,worker_logbuf_size=1", threads=2)
        stop = threading.Event()

        def traffic(n):
            client = Client(moxi.port)
            for i in range(1000000):
                if stop.is_set():
                    break
                client.send(b"set k%d-%d 0 0 3000 noreply\r\n%s\r\nget k%d-%d none\r\nincr none 1\r\n" % (
                    n, i, b"v" * 3000, n, i // 2))
                while client.line() != b"NOT_FOUND\r\n":
                    pass
            client.close()

        crowd = Crowd(4, traffic)
        try:
            for i in range(60):
                watcher = self.watch(moxi, (b"fetchers", b"mutations evictions", b"evictions connevents")[i % 3])
                for _ in range(i % 4 * 20):
                    watcher.read_until(b"\n")
                if i % 2:
                    watcher.reset()
                elif i % 10:
                    watcher.close()
        finally:
            stop.set()
            failed = crowd.join()
        self.assertEqual(failed, [])


class Udp(AloneTest):
    """memcached's frame: request id, sequence number, number of datagrams, 0; 16 bits each."""

    def start(self, *args):
        for _ in range(20):
            port = free_port()
            try:
                moxi = self.alone("-U", str(port), *args)
            except AssertionError as e:
                if "in use" not in str(e):
                    raise
                continue
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            sock.settimeout(20 * SCALE)
            sock.connect(("127.0.0.1", port))
            self._ends[0].append(sock.close)
            return moxi, sock
        self.fail("no free port")

    def ask(self, sock, number, request):
        """The reply to a request, put together again."""
        sock.send(struct.pack(">HHHH", number, 0, 1, 0) + request)
        parts, total = {}, 1
        while len(parts) < total:
            datagram = sock.recv(65536)
            self.assertLessEqual(len(datagram), 1400)
            got, seq, total, zero = struct.unpack(">HHHH", datagram[:8])
            self.assertEqual((got, zero), (number, 0))
            parts[seq] = datagram[8:]
        self.assertEqual(sorted(parts), list(range(total)))
        return b"".join(parts[i] for i in range(total)), total

    def test_commands(self):
        moxi, sock = self.start()
        self.assertEqual(self.ask(sock, 1, b"set k 5 0 3\r\nabc\r\n"), (b"STORED\r\n", 1))
        self.assertEqual(self.ask(sock, 65535, b"get k\r\n")[0], b"VALUE k 5 3\r\nabc\r\nEND\r\n")
        self.assertEqual(self.ask(sock, 0, b"get none\r\n")[0], b"END\r\n")
        self.assertEqual(self.ask(sock, 2, b"set n 0 0 1 noreply\r\n5\r\nincr n 2\r\ndelete k\r\n")[0],
                         b"7\r\nDELETED\r\n")
        self.assertEqual(self.ask(sock, 3, b"bogus\r\n")[0], b"ERROR\r\n")
        self.client(moxi).ask(b"get n\r\n", b"VALUE n 0 1\r\n7\r\nEND\r\n")
        self.assertEqual(self.stats(self.client(moxi), b"settings")["udpport"], str(sock.getpeername()[1]))

    def test_large(self):
        moxi, sock = self.start()
        data = bytes(i * 7 % 251 for i in range(100000))
        client = self.client(moxi)
        client.ask(b"set big 0 0 100000\r\n" + data + b"\r\n", b"STORED\r\n")
        reply, total = self.ask(sock, 9, b"get big\r\n")
        self.assertEqual(reply, b"VALUE big 0 100000\r\n" + data + b"\r\nEND\r\n")
        self.assertEqual(total, -(-len(reply) // 1392))
        self.assertEqual(self.ask(sock, 10, b"set l 0 0 50000\r\n" + data[:50000] + b"\r\n")[0], b"STORED\r\n")
        client.ask(b"set huge 0 0 1000000\r\n" + b"x" * 1000000 + b"\r\n", b"STORED\r\n")
        self.assertEqual(self.ask(sock, 11, b"get" + b" huge" * 5 + b"\r\n")[0],
                         b"SERVER_ERROR reply too large for UDP\r\n")

    def test_bad_frames(self):
        moxi, sock = self.start()
        for datagram in (b"", b"x", b"1234567", struct.pack(">HHHH", 1, 0, 1, 0)):
            sock.send(datagram)
        sock.send(struct.pack(">HHHH", 7, 0, 2, 0) + b"get k\r\n")
        self.assertEqual(sock.recv(1500)[8:], b"SERVER_ERROR multi-packet request not supported\r\n")
        for unfinished in (b"get k", b"set k 0 0 5\r\nab", b"set k 0 0 1 noreply\r\nx\r\n", b"\0" * 1000):
            sock.send(struct.pack(">HHHH", 8, 0, 1, 0) + unfinished)
        while True:  # what is left of those that have an answer, and then this one
            sock.send(struct.pack(">HHHH", 9, 0, 1, 0) + b"version\r\n")
            datagram = sock.recv(1500)
            if datagram[:2] == b"\0\x09":
                break
        self.assertRegex(datagram[8:], rb"\AVERSION ")
        client = self.client(moxi)
        await_true(lambda: self.stats(client)["curr_connections"] == "1", "all exchanges to end")

    def test_replies_to_forged_requests(self):
        """What comes from a port like its own is no request: answers would be answered for ever."""
        moxi, sock = self.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.2", sock.getpeername()[1]))
            server.sendto(struct.pack(">HHHH", 3, 0, 1, 0) + b"ERROR\r\n", sock.getpeername())
            self.assertEqual(self.ask(sock, 4, b"bogus\r\n")[0], b"ERROR\r\n")
            server.setblocking(False)
            self.assertRaises(BlockingIOError, server.recv, 1500)

    def test_loopback_only(self):
        """Without -l, whatever TCP is on."""
        tcp, port = free_port(), free_port()
        moxi = Process(MOXI + ["-p", str(tcp), "-U", str(port), "-t", "1"])
        self._ends[1].append(lambda: Moxi.stop(moxi))
        self.assertTrue(moxi.wait_ready(tcp), moxi.stderr())
        with open("/proc/net/udp") as table:
            bound = [line.split()[1] for line in table if line.split()[1].endswith(":%04X" % port)]
        self.assertEqual(bound, ["0100007F:%04X" % port])


class Concurrent(AloneTest):
    """Many clients on two workers, on the same keys."""

    CLIENTS = 64
    ROUNDS = 40

    def run_clients(self, moxi, act):
        def run(number):
            client = Client(moxi.port)
            try:
                act(client, number)
            finally:
                client.close()

        self.assertEqual(Crowd(self.CLIENTS, run).join(), [])

    def test_incr(self):
        """Each result is given once, and they are all there."""
        moxi = self.alone()
        self.client(moxi).ask(b"set n 0 0 1\r\n0\r\n", b"STORED\r\n")
        seen = collections.Counter()
        lock = threading.Lock()

        def act(client, number):
            client.send(b"incr n 1\r\n" * self.ROUNDS)
            mine = [int(client.line()) for _ in range(self.ROUNDS)]
            self.assertEqual(mine, sorted(mine))
            with lock:
                seen.update(mine)

        self.run_clients(moxi, act)
        self.assertEqual(seen, collections.Counter(range(1, self.CLIENTS * self.ROUNDS + 1)))

    def test_cas(self):
        """Of those who have seen the same version one wins: in the end there are as many as there were winners."""
        moxi = self.alone()
        self.client(moxi).ask(b"set n 0 0 1\r\n0\r\n", b"STORED\r\n")
        won = []

        def act(client, number):
            for _ in range(self.ROUNDS):
                client.send(b"gets n\r\n")
                unique = client.line().split()[4]
                value = int(client.line())
                client.expect(b"END\r\n")
                new = b"%d" % (value + 1)
                client.send(b"cas n 0 0 %d %s\r\n%s\r\n" % (len(new), unique, new))
                line = client.line()
                self.assertIn(line, (b"STORED\r\n", b"EXISTS\r\n"))
                if line == b"STORED\r\n":
                    won.append(value)

        self.run_clients(moxi, act)
        self.assertEqual(sorted(won), list(range(len(won))))
        self.client(moxi).ask(b"get n\r\n", b"VALUE n 0 %d\r\n%d\r\nEND\r\n" % (len(str(len(won))), len(won)))

    def test_everything(self):
        """Whole values of known shapes, whatever happens at the same time."""
        moxi = self.alone("-m", "8")
        verbs = [
            b"set h 0 0 4\r\nabbc\r\n", b"set h 0 0 2\r\n10\r\n", b"incr h 7\r\n", b"decr h 3\r\n", b"delete h\r\n",
            b"append h 0 0 1\r\nc\r\n", b"prepend h 0 0 1\r\na\r\n", b"add h 0 0 1\r\nc\r\n", b"touch h 100\r\n",
            b"replace h 0 0 60000\r\n" + b"c" * 60000 + b"\r\n", b"gat 100 h\r\n", b"get h\r\n", b"gets h\r\n",
            b"flush_all\r\n"
        ]

        def act(client, number):
            for i in range(self.ROUNDS * 3):
                verb = verbs[(number * 7 + i * (number % 5 + 1)) % len(verbs)]
                client.send(verb)
                line = client.line()
                if not line.startswith(b"VALUE"):
                    continue
                size = int(line.split()[3])
                data = client.read(size + 2)[:-2]
                client.expect(b"END\r\n")
                # append and prepend may have met a number
                self.assertRegex(data.strip(b"ac"), rb"\A(\d+ *|b*)\Z")

        self.run_clients(moxi, act)


if __name__ == "__main__":
    unittest.main()
