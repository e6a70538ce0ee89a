#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_limits - limits, bad clients, the process and its command line.

What a client may do to others (nothing), to moxi (cost it no more than its bounds), and how moxi starts, logs, listens
and ends.

Run as /usr/bin/python3 t/test_limits.py [Class[.test]].
"""

import os
import random
import resource
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
import unittest

from moxilib import (Client, Closed, Crowd, MOXI, MoxiTest, Process, SCALE, TIMEOUT, await_true, bytewise, free_port,
                     has_sanitizer, ms, parse_stats, proxy_stats, server_name, value)

STORED = b"STORED\r\n"
END = b"END\r\n"
VERSION = rb"VERSION .+\r\n"


def can_bind(address):
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
            s.bind((address, 0))
        return True
    except OSError:
        return False


class Connections(MoxiTest):
    """-c, and file descriptors."""

    def served(self, client, wait=TIMEOUT):
        """Whether moxi answers; the question is asked once."""
        if not getattr(client, "asked", False):
            client.asked = True
            client.send(b"version\r\n")
        return client.readable(wait)

    def test_limit(self):
        for threads in (1, 2):
            moxi = self.moxi([self.mock(listening=False)], None, "-c", "5", threads=threads)
            clients = []
            for _ in range(5):
                clients.append(self.client(moxi).turn())
            more = [self.client(moxi) for _ in range(3)]  # the kernel takes them, moxi does not
            for client in more:
                self.assertFalse(self.served(client, 0.1))
            for _ in range(3):
                clients[0].turn()
            stats = proxy_stats(clients[0])
            disabled = [int(v) for k, v in stats.items() if k.endswith("listen_disabled_num")]
            self.assertGreaterEqual(max(disabled), 1, stats)
            for client in more:
                clients.pop().close()
                self.assertTrue(self.served(client))
                client.expect_match(VERSION)
            for client in clients + more:
                client.turn()

    @staticmethod
    def files(moxi):
        names = []
        for fd in os.listdir("/proc/%d/fd" % moxi.pid):
            try:
                names.append(os.readlink("/proc/%d/fd/%s" % (moxi.pid, fd)))
            except FileNotFoundError:
                pass
        return names

    @staticmethod
    def limit_files(moxi, n):
        hard = resource.prlimit(moxi.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(moxi.pid, resource.RLIMIT_NOFILE, (n, hard))

    def test_limit_is_not_reached_by_those_who_left(self):
        """Connections that come and go do not add up."""
        moxi = self.moxi([self.mock(listening=False)], None, "-c", "5")
        for i in range(100):
            client = self.client(moxi).turn()
            if i % 3 == 0:
                client.send(b"get k")
            client.reset() if i % 2 else client.close()
            self._ends[0].remove(client.close)

    def test_out_of_files(self):
        """Beyond its descriptors moxi waits for one, neither spins nor fills its log, and goes on when it has one."""
        server = self.memcached()
        moxi = self.moxi([server])
        first = self.client(moxi)
        first.ask(b"set k 0 0 1\r\nx\r\n", STORED)
        limit = len(self.files(moxi)) + 20
        self.limit_files(moxi, limit)
        start = time.monotonic()
        clients = [self.client(moxi) for _ in range(40)]
        served = [c for c in clients if self.served(c, 0.02)]
        waiting = [c for c in clients if c not in served]
        self.assertTrue(10 <= len(served) <= 21, len(served))
        before = moxi.cpu_seconds()
        begin = time.monotonic()
        while time.monotonic() - begin < 1:
            time.sleep(0.05)
            first.ask(b"get k\r\n", value(b"k", b"x") + END)
        self.assertLess(moxi.cpu_seconds() - before, 0.25 * max(1, SCALE / 2))
        told = moxi.stderr().count("not accepting")
        self.assertTrue(1 <= told <= 1 + time.monotonic() - start, told)
        for client in served:
            client.close()
        for client in waiting[:len(served) - 2]:
            self.assertTrue(self.served(client))
            client.expect_match(VERSION)
        first.ask(b"get k\r\n", value(b"k", b"x") + END)

    def test_few_files_from_the_start(self):
        """With no descriptor left for a server its requests fail, and clients are told."""
        server = self.memcached()
        moxi = self.moxi([server], {"connect_retry_interval": ms(100)})
        client = self.client(moxi).turn()
        limit = len(self.files(moxi))
        self.limit_files(moxi, limit)
        client.ask(b"get k\r\n", END)
        client.ask(b"set k 0 0 1\r\nx\r\n", b"SERVER_ERROR proxy write to downstream 127.0.0.1:%d\r\n" % server.port)
        self.limit_files(moxi, limit + 10)

        def stored():
            client.send(b"set k 0 0 1\r\nx\r\n")
            return client.line() == STORED

        await_true(stored, "the server is reached again", pause=0.02)

    def test_many_idle_clients(self):
        server = self.memcached()
        moxi = self.moxi([server], None, "-c", "2000")
        client = self.client(moxi).turn()
        before = moxi.memory()
        clients = [self.client(moxi) for _ in range(700)]
        for c in clients:
            c.turn()
        if not has_sanitizer():
            self.assertLess(moxi.memory() - before, 700 * 1024)
        client.ask(b"set k 0 0 1\r\nx\r\n", STORED)


class SlowReaders(MoxiTest):
    """Clients that ask for 1.5 GB and do not read."""

    NUM = 30
    LIMIT = 200 << 20

    def warm_up(self, client):
        """Has moxi believe that values are small, so that it asks for many at once."""
        client.ask(b"set small 0 0 1\r\nx\r\n", STORED)
        for _ in range(200):
            client.ask(b"get small\r\n", value(b"small", b"x") + END)

    def put_off(self, client):
        """How many requests moxi has dropped the values of."""
        stats = proxy_stats(client, b"stats")
        return sum(int(v) for k, v in stats.items() if k.endswith(":tot_put_off"))

    def run_shape(self, keys, size, request, reply_of_one, repeat, warm=False):
        """NUM clients send repeat requests each and read nothing; then one after the other reads all."""
        servers = [self.memcached("-m", "512") for _ in range(2)]
        moxi = self.moxi(servers, {"downstream_timeout": ms(120000)})
        data = {}
        writer = self.client(moxi)
        rng = random.Random(size)
        block = rng.randbytes(size)
        for i in range(keys):
            key = b"key%d" % i
            data[key] = (b"%d:" % i + block)[:size]
            writer.ask(b"set %s 0 0 %d\r\n%s\r\n" % (key, size, data[key]), STORED)
        request, reply = request(data), reply_of_one(data)
        total = len(reply) * repeat * self.NUM
        self.assertGreater(total, 1.45e9)
        if warm:
            self.warm_up(writer)
        slow = [self.client(moxi) for _ in range(self.NUM)]
        unsent = [request * repeat for _ in slow]
        before = -1.0
        deadline = time.monotonic() + TIMEOUT
        # Until moxi does nothing any more for them: others are served all the while.
        while True:
            for i, client in enumerate(slow):
                unsent[i] = unsent[i][client.send_some(unsent[i]):]
            for _ in range(20):
                writer.ask(b"set probe 0 0 5\r\nprobe\r\nget probe\r\n", STORED + value(b"probe", b"probe") + END)
            now = moxi.cpu_seconds()
            if now - before < 0.02 * SCALE:
                break
            before = now
            self.assertLess(time.monotonic(), deadline, "moxi never came to rest")
            time.sleep(0.05)
        if not has_sanitizer():
            self.assertLess(moxi.memory("VmHWM"), self.LIMIT)
        for i, client in enumerate(slow):
            for _ in range(repeat):
                self.read_reply(client, reply)
                unsent[i] = unsent[i][client.send_some(unsent[i]):]
            client.turn()
        if not has_sanitizer():
            self.assertLess(moxi.memory("VmHWM"), self.LIMIT)
        writer.ask(b"get probe\r\n", value(b"probe", b"probe") + END)
        if warm:
            self.assertGreater(self.put_off(writer), 0)

    def read_reply(self, client, reply):
        """Like expect, but made for 1.5 GB."""
        at = 0
        client.sock.settimeout(TIMEOUT)
        while at < len(reply):
            data = client.sock.recv(min(1 << 20, len(reply) - at))
            self.assertTrue(data and data == reply[at:at + len(data)], "a wrong reply at byte %d" % at)
            at += len(data)
        client.sock.setblocking(False)

    def test_pipelined_gets_of_1_mb(self):
        self.run_shape(5, 1000000, lambda d: b"".join(b"get %s\r\n" % k for k in d),
                       lambda d: b"".join(value(k, v) + END for k, v in d.items()), 10)

    def test_pipelined_gets_of_100_kb(self):
        self.run_shape(10, 100000, lambda d: b"".join(b"get %s\r\n" % k for k in d),
                       lambda d: b"".join(value(k, v) + END for k, v in d.items()), 50)

    def test_multigets(self):
        """One request for 5 MB each, of both servers."""
        self.run_shape(50, 100000, lambda d: b"get " + b" ".join(d) + b"\r\n",
                       lambda d: b"".join(value(k, v) for k, v in d.items()) + END, 10)

    def test_one_multiget_of_50_mb(self):
        self.run_shape(50, 1000000, lambda d: b"get " + b" ".join(d) + b"\r\n",
                       lambda d: b"".join(value(k, v) for k, v in d.items()) + END, 1)

    def test_pipelined_gets_after_small_values(self):
        """What was asked for on a wrong guess of its size is asked for again."""
        self.run_shape(50, 1000000, lambda d: b"".join(b"get %s\r\n" % k for k in d),
                       lambda d: b"".join(value(k, v) + END for k, v in d.items()), 1, warm=True)

    def test_multiget_after_small_values(self):
        self.run_shape(50, 1000000, lambda d: b"get " + b" ".join(d) + b"\r\n",
                       lambda d: b"".join(value(k, v) for k, v in d.items()) + END, 1, warm=True)

    def test_multiget_of_one_server_after_small_values(self):
        """One that is relayed as it is turns into one that is asked for bit by bit."""
        moxi = self.moxi([self.memcached("-m", "256")])
        client = self.client(moxi)
        big = os.urandom(1000000)
        client.ask(b"set big 0 0 1000000\r\n" + big + b"\r\n", STORED)
        self.warm_up(client)
        reply = b"".join([value(b"small", b"x") + value(b"big", big)] * 40) + END
        slow = self.client(moxi, rcvbuf=4096)
        slow.send(b"get " + b" ".join([b"small big"] * 40 + [b"none"]) + b"\r\n")
        await_true(lambda: self.put_off(client) > 0, "values are put off")
        self.read_reply(slow, reply)
        slow.turn()

    def test_slow_reader_goes_while_put_off(self):
        moxi = self.moxi([self.memcached("-m", "256")])
        client = self.client(moxi)
        client.ask(b"set k 0 0 1000000\r\n" + b"x" * 1000000 + b"\r\n", STORED)
        self.warm_up(client)
        for request in (b"get k\r\n" * 50, b"get " + b"k " * 50 + b"\r\n"):
            slow = self.client(moxi, rcvbuf=4096)
            before = self.put_off(client)
            slow.send(request)
            await_true(lambda: self.put_off(client) > before, "values are put off")
            slow.reset()
            self._ends[0].remove(slow.close)
            self.warm_up(client)
        await_true(lambda: sum(int(v) for k, v in proxy_stats(client, b"stats").items()
                               if k.endswith(":num_requests")) == 0, "nothing is in flight")

    def test_small_values(self):
        """Many small replies of a multiget are no way around the bound."""
        self.run_shape(100, 2000, lambda d: b"get " + b" ".join(list(d) * 50) + b"\r\n",
                       lambda d: b"".join(value(k, v) for k, v in d.items()) * 50 + END, 5)

    def test_slow_reader_goes(self):
        """A client that leaves with megabytes unread takes its memory along."""
        moxi = self.moxi([self.memcached("-m", "256")])
        writer = self.client(moxi)
        writer.ask(b"set k 0 0 1000000\r\n" + b"x" * 1000000 + b"\r\n", STORED)
        for _ in range(5):
            clients = [self.client(moxi, rcvbuf=4096) for _ in range(20)]
            for client in clients:
                client.send_some(b"get k\r\n" * 100)
            for client in clients:
                self.assertTrue(client.readable(TIMEOUT))
                client.reset()
                self._ends[0].remove(client.close)
            writer.turn()
        if not has_sanitizer():
            self.assertLess(moxi.memory("VmHWM"), self.LIMIT)


class BadClients(MoxiTest):
    def setUp(self):
        super().setUp()
        self.servers = [self.memcached(), self.memcached()]
        self.proxy = self.moxi(self.servers, {"line_max": 100000})
        self.good = self.client(self.proxy)
        self.good.ask(b"set k 0 0 5\r\nhello\r\n", STORED)

    def still_good(self):
        self.good.ask(b"get k none\r\n", value(b"k", b"hello") + END)

    def test_a_byte_at_a_time(self):
        client = self.client(self.proxy)
        session = (b"set s 0 0 10\r\n0123456789\r\nget s k\r\nincr x 1\r\nset k 0 0 x\r\nbogus\r\ndelete s\r\n"
                   b"get s\nset s 0 0 2001\r\n" + b"v" * 2001 + b"\r\n")
        client.send_pieces(bytewise(session))
        client.expect(STORED + value(b"s", b"0123456789") + value(b"k", b"hello") + END +
                      b"NOT_FOUND\r\nCLIENT_ERROR bad command line format\r\nERROR\r\nDELETED\r\n" + END + STORED)

    def test_vanishes(self):
        """In the middle of a command, a value, a reply; politely or not."""
        self.good.ask(b"set big 0 0 1000000\r\n" + b"x" * 1000000 + b"\r\n", STORED)
        for part in (b"g", b"get k", b"get k\r", b"set v 0 0 1000\r\n", b"set v 0 0 1000\r\n" + b"x" * 500,
                     b"set v 0 0 1000\r\n" + b"x" * 1000, b"set v 0 0 1000\r\n" + b"x" * 1001, b"get k\r\n" * 100,
                     b"get big\r\n", b"get big\r\n" * 50, b"get big k big none\r\n" * 20,
                     b"set v 0 0 1000 noreply\r\nx",
                     b"stats\r\n", b"flush_all", b"set v 0 0 500000\r\n" + b"x" * 400000, b"set v 0 0 x\r\nget k",
                     b"gets " + b"k " * 4000, b"incr x 1\r\nquit\r\nget k\r\n"):
            for end in ("close", "reset"):
                for wait in (False, True):
                    client = self.client(self.proxy)
                    client.send(part)
                    if wait:
                        client.sync() if b"big" not in part else client.readable(TIMEOUT)
                    getattr(client, end)()
                    self._ends[0].remove(client.close)
            self.still_good()
        self.good.ask(b"get v\r\n", END)

    def test_megabytes_without_a_newline(self):
        for start in (b"", b"get ", b"set ", b"gets k ", b"\0", b"version "):
            client = self.client(self.proxy)
            with self.assertRaises(Closed, msg=start):
                client.send(start)
                for _ in range(64):
                    client.send(b"x" * 1000000)
            answer = client.read_all()
            self.assertRegex(answer, rb"\A(CLIENT_ERROR|SERVER_ERROR|ERROR)[^\r\n]*\r\n\Z", start)
            self.still_good()

    def test_hung_up_on_without_a_reset(self):
        """Who sends a few megabytes too many can still read what was wrong, and then the end."""
        for verb in (b"get ", b"set "):
            client = self.client(self.proxy)
            client.send(verb + b"x" * 5000000)
            self.assertRegex(client.read_all(), rb"\A(CLIENT_ERROR|SERVER_ERROR|ERROR)[^\r\n]*\r\n\Z")
            client.send(b"x" * 100000)
            self.still_good()

    def test_line_of_the_limit(self):
        """A line within line_max is served, one beyond it is not."""
        client = self.client(self.proxy)
        line = b"get " + b" ".join(b"key%05d" % i for i in range(10000)) + b" k\r\n"
        self.assertTrue(80000 < len(line) < 100000)
        client.ask(line, value(b"k", b"hello") + END)
        client.send(b"get " + b" ".join(b"key%05d" % i for i in range(12000)) + b" k\r\n")
        client.expect_match(rb"(CLIENT_ERROR|SERVER_ERROR|ERROR).*\r\n")
        self.still_good()

    def test_half_close(self):
        client = self.client(self.proxy)
        client.send(b"get k\r\nset h 0 0 1\r\nx\r\nget h k\r\nversion\r\n").shutdown()
        client.expect(value(b"k", b"hello") + END + STORED + value(b"h", b"x") + value(b"k", b"hello") + END)
        client.expect_match(VERSION)
        client.expect_closed()

    def test_half_close_with_large_replies(self):
        data = os.urandom(1000000)
        self.good.ask(b"set big 0 0 1000000\r\n" + data + b"\r\n", STORED)
        client = self.client(self.proxy)
        client.send(b"get big k\r\n" * 40).shutdown()
        self.assertTrue(client.read_all() == (value(b"big", data) + value(b"k", b"hello") + END) * 40)

    def test_half_close_in_a_command(self):
        for part in (b"get k\r\nget", b"get k\r\nset v 0 0 10\r\nxxx"):
            client = self.client(self.proxy)
            client.send(part).shutdown()
            client.expect(value(b"k", b"hello") + END)
            client.expect_closed()
        self.good.ask(b"get v\r\n", END)

    def test_half_close_before_the_reply(self):
        mock = self.mock()
        client = self.client(self.moxi([mock]))
        client.send(b"get a\r\nset b 0 0 1\r\nx\r\n").shutdown()
        server = mock.accept_expect(b"get a\r\nset b 0 0 1\r\nx\r\n")
        server.send_pieces([END, STORED])
        client.expect(END + STORED)
        client.expect_closed()

    def test_noise(self):
        """Random bytes never do harm; the seed is printed by a failure."""
        for seed in range(60):
            with self.subTest(seed=seed):
                rng = random.Random(seed)
                words = [b"get", b"set", b"k", b"0", b"1", b"\r\n", b"\n", b" ", b"-1", b"noreply", b"\0", b"stats",
                         b"incr", b"cas", b"99999", b"gat", b"\x80\x81", b"version", b"touch", b"proxy", b"delete"]
                client = self.client(self.proxy)
                noise = b"".join(rng.choice(words) if rng.random() < 0.9 else rng.randbytes(9) for _ in range(400))
                try:
                    client.send(noise.replace(b"delete", b"delet").replace(b"shutdown", b""))
                    client.shutdown()
                    client.read_all()
                except (Closed, OSError):
                    pass
        self.good.ask(b"set k 0 0 5\r\nhello\r\n", STORED)
        self.still_good()

    def test_pipelined_forever(self):
        """A client that never stops asking does not starve another."""
        stop = threading.Event()
        busy = self.client(self.proxy)

        def ask():
            try:
                while not stop.is_set():
                    busy.send(b"get k\r\n" * 1000)
                    busy.read(len(value(b"k", b"hello") + END) * 1000)
            except (AssertionError, OSError):
                pass

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            for _ in range(30):
                self.still_good()
        finally:
            stop.set()
            thread.join()


class NoSpinning(MoxiTest):
    """Whatever a client or a server leaves moxi waiting for, it waits without using the processor."""

    def test_odd_states(self):
        deaf, silent = self.mock(rcvbuf=4096), self.mock()
        memcached = self.memcached()
        patient = {"downstream_timeout": ms(60000)}
        of_deaf, of_silent = self.moxi([deaf], patient), self.moxi([silent], patient)
        plain = self.moxi([memcached], patient, "-c", "4")
        clients = [self.client(of_deaf) for _ in range(30)]
        for client in clients:  # a server that does not read
            client.send(b"set k 0 0 200000\r\n" + b"x" * 200000 + b"\r\n")
        half = self.client(of_silent).send(b"get k\r\nget j\r\n").shutdown()  # waits for a reply after its last word
        server = silent.accept_expect(b"get k j\r\n")
        server.send(b"VALUE k 0 100000\r\nxxx")
        gone = self.client(of_silent).send(b"get k\r\n")  # will not see its reply
        server.expect(b"get k\r\n")
        gone.reset()
        self._ends[0].remove(gone.close)
        reader = self.client(plain, rcvbuf=4096)  # does not read, but for one that left so
        reader.ask(b"set k 0 0 1000000\r\n" + b"x" * 1000000 + b"\r\n", STORED)
        reader.send(b"get k\r\n" * 100)
        left = self.client(plain, rcvbuf=4096).send(b"get k\r\n" * 100)
        self.assertTrue(reader.readable(TIMEOUT) and left.readable(TIMEOUT))
        left.reset()
        self._ends[0].remove(left.close)
        for part in (b"get k", b"set k 0 0 100\r\nabc", b"set k x 0 100\r\nabc"):
            self.client(plain).send(part)
        for _ in range(5):  # beyond -c
            self.client(plain)
        time.sleep(0.3)  # what they still do for the above
        begin = {p: p.cpu_seconds() for p in (of_deaf, of_silent, plain)}
        time.sleep(0.7)
        for process, before in begin.items():
            self.assertLess(process.cpu_seconds() - before, 0.1 * max(1, SCALE / 2), process.argv)
        for client in clients + [half]:
            client.close()


class Ends(MoxiTest):
    """SIGTERM and SIGINT."""

    def test_what_is_in_flight_is_answered(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            for threads in (1, 2):
                mock = self.mock()
                moxi = self.moxi([mock], {"downstream_timeout": ms(60000)}, threads=threads)
                client, idle = self.client(moxi), self.client(moxi)
                idle.turn()
                client.send(b"get k\r\nset k 0 0 1\r\nx\r\n")
                server = mock.accept_expect(b"get k\r\nset k 0 0 1\r\nx\r\n")
                server.send(value(b"k", b"y"))
                moxi.signal(number)
                idle.expect_closed()

                def refused():
                    try:
                        Client(moxi.port).close()
                    except OSError:
                        return True
                    return False

                await_true(refused, "it stops accepting")
                server.send(END + STORED)
                client.expect(value(b"k", b"y") + END + STORED)
                client.expect_closed()
                self.drop(moxi)
                moxi.stop()

    def test_large_reply_is_written(self):
        """A client that reads slowly but reads gets what it asked for."""
        moxi = self.moxi([self.memcached()], {"client_buffer_max": "4m"})
        client = self.client(moxi)
        data = os.urandom(1000000)
        client.ask(b"set k 0 0 1000000\r\n" + data + b"\r\n", STORED)
        client.send(b"get k\r\n" * 3).sync()
        client.read(1)
        moxi.signal(signal.SIGTERM)
        rest = client.read_all()
        self.assertTrue(rest == ((value(b"k", data) + END) * 3)[1:])
        self.drop(moxi)
        moxi.stop()

    def test_bounded(self):
        """A server that does not answer and a client that does not read cost 5 seconds, not more."""
        mock = self.mock()
        memcached = self.memcached()
        moxi = self.moxi([mock], {"downstream_timeout": ms(60000)})
        other = self.moxi([memcached])
        client = self.client(moxi)
        client.send(b"get k\r\n")
        mock.accept_expect(b"get k\r\n")
        deaf = self.client(other, rcvbuf=4096)
        deaf.ask(b"set k 0 0 1000000\r\n" + b"x" * 1000000 + b"\r\n", STORED)
        deaf.send(b"get k\r\n" * 30).sync()
        begin = time.monotonic()
        moxi.signal(signal.SIGTERM)
        other.signal(signal.SIGTERM)
        for process in (moxi, other):
            self.drop(process)
            process.stop()
        self.assertTrue(3 < time.monotonic() - begin < 10 * SCALE, time.monotonic() - begin)

    def test_at_once_when_idle(self):
        mock = self.mock()
        moxi = self.moxi([mock])
        client = self.client(moxi)
        client.send(b"get k\r\n")
        mock.accept_expect(b"get k\r\n").send(END)
        client.expect(END)
        client.send(b"set half 0 0 100\r\nabc").sync()
        begin = time.monotonic()
        self.drop(moxi)
        moxi.stop()
        self.assertLess(time.monotonic() - begin, 4 * SCALE)

    def test_broken_pipes(self):
        """SIGPIPE and SIGHUP do not end it."""
        moxi = self.moxi([self.memcached()])
        for number in (signal.SIGPIPE, signal.SIGHUP):
            moxi.signal(number)
            self.client(moxi).turn()


class Addresses(MoxiTest):
    def setUp(self):
        super().setUp()
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def raw(self, argv, ready):
        """moxi with exactly these arguments."""
        process = Process(MOXI + argv)
        process.stop = lambda: self.stop(process)
        self._ends[1].append(process.stop)
        if not process.wait_ready(ready):
            self.fail("%s: %s" % (argv, process.stderr()))
        return process

    @staticmethod
    def stop(process):
        process.signal(signal.SIGTERM)  # each of these is stopped once
        status = process.wait(7 * SCALE + 3)
        process.kill()
        if status:
            raise AssertionError("status %d: %s" % (status, process.stderr()))
        process.errors.close()

    def test_unix_socket(self):
        server = self.memcached()
        for mode in ("0777", "600", None):
            path = self.path("moxi.sock")
            argv = ["-z", "0=" + server_name(server), "-s", path, "-t", "1"] + (["-a", mode] if mode else [])
            process = self.raw(argv, path)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), int(mode or "0700", 8))
            client = self.client(path)
            client.ask(b"set k 0 0 1\r\nx\r\nget k\r\n", STORED + value(b"k", b"x") + END)
            data = os.urandom(900000)
            client.ask(b"set k 0 0 900000\r\n" + data + b"\r\nget k\r\n", STORED + value(b"k", data) + END)
            client.close()
            self._ends[1].remove(process.stop)
            process.stop()
            # the path is free again: the next round listens there

    def test_unix_socket_left_behind(self):
        """A socket that nobody listens on is no obstacle; one that is in use is."""
        path = self.path("stale.sock")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
        argv = ["-z", "0=127.0.0.1:1", "-s", path]
        self.raw(argv, path)
        second = subprocess.run(MOXI + argv, capture_output=True, timeout=TIMEOUT)
        self.assertNotEqual(second.returncode, 0)
        self.assertIn(path.encode(), second.stderr)
        self.client(path).turn()

    def test_unix_socket_beside_tcp(self):
        path = self.path("both.sock")
        moxi = self.moxi([self.memcached()], None, "-s", path)
        self.client(path).ask(b"set k 0 0 1\r\nx\r\n", STORED)
        self.client(moxi).ask(b"get k\r\n", value(b"k", b"x") + END)

    def test_server_on_a_unix_socket(self):
        path = self.path("memcached.sock")
        os.chmod(self.dir.name, 0o777)
        argv = ["/usr/bin/memcached", "-s", path, "-t", "1"] + (["-u", "nobody"] if os.geteuid() == 0 else [])
        memcached = Process(argv)
        self._ends[2].append(memcached.kill)
        self.assertTrue(memcached.wait_ready(path))
        for name in (path, "unix:" + path):
            client = self.client(self.moxi([name]))
            client.ask(b"set k 0 0 1\r\nx\r\nget k\r\n", STORED + value(b"k", b"x") + END)
        memcached.kill()
        client.ask(b"get k\r\n", END)
        client.ask(b"set k 0 0 1\r\nx\r\n", b"SERVER_ERROR proxy write to downstream %s\r\n" % path.encode())

    def test_several_listen(self):
        server = self.memcached()
        port, other = free_port(), free_port()
        self.raw(["-z", "%d=%s" % (port, server_name(server)), "-l", "127.0.0.2,127.0.0.3",
                  "-l", "127.0.0.4:%d" % other], ("127.0.0.4", other))
        for address in (("127.0.0.2", port), ("127.0.0.3", port), ("127.0.0.4", other)):
            self.client(address).turn()
        for address in (("127.0.0.1", port), ("127.0.0.4", port), ("127.0.0.2", other)):
            with self.assertRaises(ConnectionRefusedError):
                Client(address)

    @unittest.skipUnless(can_bind("::1"), "no IPv6 here")
    def test_ipv6(self):
        port, server_port = free_port("::1"), free_port("::1")
        argv = ["/usr/bin/memcached", "-l", "::1", "-p", str(server_port), "-U", "0", "-t", "1"]
        memcached = Process(argv + (["-u", "nobody"] if os.geteuid() == 0 else []))
        self._ends[2].append(memcached.kill)
        self.assertTrue(memcached.wait_ready(("::1", server_port)))
        for listen in ("::1", "[::1]:%d" % port):
            process = self.raw(["-z", "%d=[::1]:%d" % (port, server_port), "-l", listen], ("::1", port))
            client = self.client(("::1", port))
            client.ask(b"set k 0 0 1\r\nx\r\nget k\r\n", STORED + value(b"k", b"x") + END)
            client.close()
            self._ends[1].remove(process.stop)
            process.stop()
        memcached.kill()
        self.raw(["-z", "%d=[::1]:%d" % (port, server_port), "-l", "::1"], ("::1", port))
        self.client(("::1", port)).ask(b"incr k 1\r\n",
                                       b"SERVER_ERROR proxy write to downstream [::1]:%d\r\n" % server_port)

    def test_several_pools(self):
        servers = [self.memcached(), self.memcached()]
        ports = [free_port(), free_port()]
        pools = ";".join("%d=%s" % (p, server_name(s)) for p, s in zip(ports, servers))
        self.raw(["-z", pools, "-l", "127.0.0.1"], ports[1])
        for i, port in enumerate(ports):
            self.client(port).ask(b"set k 0 0 1\r\n%d\r\n" % i, STORED)
        for i, server in enumerate(servers):
            self.client(server).ask(b"get k\r\n", value(b"k", b"%d" % i) + END)
        stats = proxy_stats(self.client(ports[0]))
        for port in ports:
            self.assertTrue([k for k in stats if k.startswith("%d:" % port)], port)

    def test_versions_of_servers(self):
        """Known to whichever worker has asked."""
        servers = [self.memcached(), self.memcached()]
        moxi = self.moxi(servers + ["local"], None, threads=3)
        told = self.client(servers[0]).send(b"version\r\n").expect_match(rb"VERSION (.*)\r\n").group(1).decode()
        keys = [b"key%d" % i for i in range(100)]
        for request, end, shown in ((b"get " + b" ".join(keys) + b"\r\n", b"END\r\n", [None] * 3),
                                    (b"".join(b"mg %s\r\n" % k for k in keys) + b"mn\r\n", b"MN\r\n", [told, told, None])):
            self.client(moxi).send(request).read_until(end)
            stats = proxy_stats(self.client(moxi), b"config")
            self.assertEqual([stats.get("%d:default:server:%d:version" % (moxi.port, i)) for i in range(3)], shown)

    def test_files(self):
        """-z and -Z may be files, with white space and comments."""
        server = self.memcached()
        port = free_port()
        with open(self.path("pools"), "w") as f:
            f.write("# our pool\n%d =\n  %s:1 # the only one\n" % (port, server_name(server)))
        with open(self.path("settings"), "w") as f:
            f.write("# patience\ndownstream_timeout = 1111,\nconnect_timeout=222 # ms\n")
        self.raw(["-z", self.path("pools"), "-Z", self.path("settings"), "-l", "127.0.0.1"], port)
        client = self.client(port)
        client.ask(b"set k 0 0 1\r\nx\r\n", STORED)
        stats = proxy_stats(client, b"behaviors")
        self.assertEqual([v for k, v in stats.items() if k.endswith("behavior:downstream_timeout") and
                          k.startswith("%d:" % port)], ["1111"])

    def test_settings_of_a_pool(self):
        """They go before those of all pools, wherever they stand."""
        servers = [self.memcached(), self.memcached()]
        ports = [free_port(), free_port()]
        pools = ";".join("%d=%s" % (p, server_name(s)) for p, s in zip(ports, servers))
        self.raw(["-z", pools, "-l", "127.0.0.1", "-Z",
                  "%d.item_size_max=9,connect_timeout=333,item_size_max=4,%d.retry=0" % (ports[1], ports[0])], ports[1])
        self.client(ports[0]).ask(b"set k 0 0 5\r\n12345\r\n", b"SERVER_ERROR object too large for cache\r\n")
        client = self.client(ports[1]).ask(b"set k 0 0 5\r\n12345\r\n", STORED)
        stats = proxy_stats(client, b"behaviors")
        for port, item_size_max, retry in ((ports[0], "4", "0"), (ports[1], "9", "1")):
            behaviors = {key.rpartition(":")[2]: v for key, v in stats.items() if key.startswith("%d:" % port)}
            self.assertEqual((behaviors["item_size_max"], behaviors["downstream_retry"], behaviors["connect_timeout"]),
                             (item_size_max, retry, "333"))

    def test_settings_of_the_pool_of_a_port(self):
        port = free_port()
        self.raw(["-p", str(port), "-l", "127.0.0.1", "-Z", "%d.item_size_max=4" % port], port)
        self.client(port).ask(b"set k 0 0 5\r\n12345\r\n", b"SERVER_ERROR object too large for cache\r\n")

    def test_port_option(self):
        """-p stands for the LPORT that -z does not give."""
        port = free_port()
        self.raw(["-z", server_name(self.memcached()), "-p", str(port), "-l", "127.0.0.1"], port)
        self.client(port).ask(b"set k 0 0 1\r\nx\r\n", STORED)

    def test_log_file_is_reopened(self):
        log, moved = self.path("log"), self.path("log.1")
        moxi = self.moxi([self.memcached()], None, "-O", log, "-vv")
        self.client(moxi).turn()
        await_true(lambda: os.path.getsize(log), "it logs")
        os.rename(log, moved)
        moxi.signal(signal.SIGHUP)
        await_true(lambda: os.path.exists(log), "it opens the log again")
        before = os.path.getsize(moved)
        self.client(moxi).turn()
        await_true(lambda: os.path.getsize(log), "it logs to the new file")
        self.assertEqual(os.path.getsize(moved), before)
        self.assertEqual(moxi.stderr(), "")

    def test_verbosity(self):
        log = self.path("log")
        moxi = self.moxi([self.memcached()], None, "-O", log)
        client = self.client(moxi)
        client.turn()
        quiet = os.path.getsize(log)
        client.ask(b"verbosity 3\r\n", b"OK\r\n")
        client.ask(b"get k\r\n", END)
        await_true(lambda: os.path.getsize(log) > quiet, "it logs more")
        client.ask(b"verbosity 0\r\n", b"OK\r\n")
        client.turn()
        size = os.path.getsize(log)
        client.ask(b"get k\r\n", END)
        client.turn()
        self.assertEqual(os.path.getsize(log), size)

    def test_daemon(self):
        port = free_port()
        pidfile, log = self.path("pid"), self.path("log")
        started = subprocess.run(MOXI + ["-z", "%d=%s" % (port, server_name(self.memcached())), "-d", "-P", pidfile,
                                         "-O", log, "-l", "127.0.0.1"], capture_output=True, timeout=TIMEOUT)
        self.assertEqual((started.returncode, started.stdout, started.stderr), (0, b"", b""))

        def pid():
            try:
                with open(pidfile) as f:
                    return int(f.read())
            except (FileNotFoundError, ValueError):
                return 0

        number = await_true(pid, "a pid file")
        self.addCleanup(lambda: os.path.exists("/proc/%d" % number) and os.kill(number, signal.SIGKILL))
        self.assertEqual(os.getpgid(number), number)

        def connected():
            try:
                return self.client(port)
            except OSError:
                return None

        await_true(connected, "it serves").ask(b"set k 0 0 1\r\nx\r\n", STORED)
        os.kill(number, signal.SIGTERM)
        await_true(lambda: not os.path.exists("/proc/%d" % number) or self.zombie(number), "it ends")
        self.assertFalse(os.path.exists(pidfile))

    @staticmethod
    def zombie(pid):
        try:
            with open("/proc/%d/stat" % pid) as f:
                return f.read().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    @unittest.skipUnless(os.geteuid() == 0, "only root can become someone else")
    def test_user(self):
        moxi = self.moxi([self.memcached()], None, "-u", "nobody")
        self.client(moxi).ask(b"set k 0 0 1\r\nx\r\n", STORED)
        with open("/proc/%d/status" % moxi.pid) as f:
            uids = [line.split()[1:] for line in f if line.startswith("Uid:")][0]
        self.assertNotIn("0", uids)


class CommandLine(MoxiTest):
    """One clear line on stderr that names the thing, an exit status other than 0, nothing served."""

    def refuse(self, argv, *names):
        with self.subTest(argv=argv):
            result = subprocess.run(MOXI + argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT)
            text = result.stderr.decode()
            self.assertNotEqual(result.returncode, 0, text)
            self.assertGreater(result.returncode, 0, text)
            self.assertEqual(result.stdout, b"")
            self.assertEqual(text.count("\n"), 1, text)
            self.assertTrue(text.endswith("\n"))
            for name in names:
                self.assertIn(name, text)

    def test_refused(self):
        good = ["-z", "%d=127.0.0.1:1" % free_port(), "-l", "127.0.0.1"]
        port = good[1].split("=")[0]
        self.refuse(["-z"], "-z")
        self.refuse(["-z", ""], "-z")
        self.refuse(["-z", port + "="], port)
        self.refuse(["-z", port + "=host:99999"], "99999")
        self.refuse(["-z", port + "=host:0"], "host")
        self.refuse(["-z", port + "=host:x"], "host:x")
        self.refuse(["-z", port + "=host:1:0"], "host:1:0")
        self.refuse(["-z", port + "=host:1:-1"], "host")
        self.refuse(["-z", port + "=host:1:2:3"], "host")
        self.refuse(["-z", port + "=host:1,"], "-z")
        self.refuse(["-z", port + "=,host:1"], "-z")
        self.refuse(["-z", port + "=[::1:11211"], "[::1")
        self.refuse(["-z", "99999=host"], "99999")
        self.refuse(["-z", "x=host"], "x")
        self.refuse(["-z", "0=host"], "0")
        self.refuse(["-z", "%s=a;%s=b" % (port, port)], port)
        self.refuse(["-z", "host1,host2"])
        self.refuse(["-z", "/no/such/file"], "/no/such/file")
        self.refuse(["-z", "./no-such-file"], "no-such-file")
        self.refuse(["-z", "/"], "/")
        for text in ("nosuch=1", "downstream_timeout=x", "downstream_timeout=-1", "downstream_timeout=",
                     "downstream_timeout=99999999999999999999", "downstream_timeout", "=1", "distribution=random",
                     "hash=nosuch", "downstream_conn_max=0", "get_join_max=0", "front_cache_max=0",
                     "front_cache_lifespan=-1", "bucket=x", "pwd=x", "key_stats_max=0", "hot_key_rate=x",
                     "item_size_max=0", "line_max=1", "stream_min=-1", "time_stats=2", "pace_us=x"):
            self.refuse(good + ["-Z", text], "-Z", text.partition("=")[0])
        for text, name in (("%s.nosuch=1", "nosuch"), ("%s.downstream_timeout=x", "downstream_timeout=x"),
                           ("%s.retry", "%s.retry"), ("%s.=1", '"%s."'), ("retry=1,.retry=1", '".retry"'),
                           ("x.retry=1", '"x.retry"'), ("65536.retry=1", '"65536.retry"'),
                           ("%s.retry=1,%s.retry=1", "downstream_retry: given twice"), ("%s.pace_us=1", "pace_us"),
                           ("%s.usr=joe,%s.pwd=x", "pwd"), ("%s.retry=1,9.retry=1,retry=0", "9 is not the LPORT")):
            self.refuse(good + ["-Z", text.replace("%s", port)], "-Z: ", name.replace("%s", port))
        self.refuse(["-p", port, "-Z", "9.retry=1"], "-Z: 9 is not the LPORT")
        self.refuse(good + ["-Z", "/no/such/settings"], "/no/such/settings")
        for argument in ("-t 0", "-t x", "-t -1", "-t 100000", "-c 0", "-c x", "-b x", "-b 0", "-R 0", "-p 99999",
                         "-p x", "-a 999", "-a x", "-l 127.0.0.1:x", "-l 127.0.0.1:99999", "-l [::1",
                         "-u no-such-user-here", "-O /no/such/dir/log", "-P /no/such/dir/pid", "-s /no/such/dir/sock",
                         "-l 203.0.113.77", "--nosuch", "-J", "-t", "extra", "--threads=x"):
            words = argument.split()
            names = {"--threads=x": "-t", "-s": words[-1], "-O": words[-1], "-P": words[-1], "-l": words[-1]}
            self.refuse(good + words, names.get(words[0], words[0]))

    def test_errors_in_files_name_the_line(self):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("# pool\n%d=host1,\nhost2:nonsense\n" % free_port())
            f.flush()
            self.refuse(["-z", f.name], f.name, "3", "nonsense")
            os.chmod(f.name, 0)
            if os.geteuid():
                self.refuse(["-z", f.name], f.name)
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("connect_timeout=5\n\nnosuch=1\n")
            f.flush()
            self.refuse(["-z", "%d=host" % free_port(), "-Z", f.name], f.name, "3", "nosuch")

    def test_taken_port(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            port = s.getsockname()[1]
            self.refuse(["-z", "%d=host" % port, "-l", "127.0.0.1"], str(port))
        # of two pools one cannot be served: neither is
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            port = s.getsockname()[1]
            self.refuse(["-z", "%d=a;%d=b" % (free_port(), port), "-l", "127.0.0.1"], str(port))

    def test_help_and_version(self):
        for argv, words in ((["-h"], ["-z", "-Z", "downstream_timeout", "--threads"]), (["--help"], ["item_size_max"]),
                            (["-V"], ["moxi"]), (["--version"], ["moxi"]), (["-i"], ["Redistribution"]),
                            (["--license"], ["Redistribution"])):
            result = subprocess.run(MOXI + argv, capture_output=True, timeout=TIMEOUT)
            self.assertEqual((result.returncode, result.stderr), (0, b""), argv)
            for word in words:
                self.assertIn(word, result.stdout.decode())

    def test_help_names_every_setting(self):
        """What -h lists is what `stats proxy behaviors` shows."""
        text = subprocess.run(MOXI + ["-h"], capture_output=True, timeout=TIMEOUT).stdout.decode()
        moxi = self.moxi([self.mock(listening=False)])
        stats = proxy_stats(self.client(moxi), b"behaviors")
        names = {k.rpartition(":")[2] for k in stats if k.startswith("%d:" % moxi.port)}
        self.assertGreater(len(names), 20)
        for name in names:
            self.assertIn(name, text)

    def test_name_with_several_addresses(self):
        """localhost may be ::1 first; a server that is at 127.0.0.1 only is found all the same."""
        server = self.memcached()
        moxi = self.moxi(["localhost:%d" % server.port])
        self.client(moxi).ask(b"set k 0 0 1\r\nx\r\nget k\r\n", STORED + value(b"k", b"x") + END)

    def test_names_that_do_not_resolve(self):
        """A warning, and no reason not to start."""
        server = self.memcached()
        moxi = self.moxi(["no-such-host.invalid:11211"], {"connect_timeout": ms(2000)})
        client = self.client(moxi)
        client.ask(b"get k\r\n", END, timeout=30 * SCALE)
        client.send(b"set k 0 0 1\r\nx\r\n")
        self.assertEqual(client.line(30 * SCALE),
                         b"SERVER_ERROR proxy write to downstream no-such-host.invalid:11211\r\n")
        await_true(lambda: "no-such-host.invalid" in moxi.stderr(), "a warning")
        self.assertEqual(len([line for line in moxi.stderr().splitlines() if "Sanitizer" in line]), 0)
        both = self.moxi([server, "no-such-host.invalid:11211"], {"connect_timeout": ms(2000)})
        client = self.client(both)
        replies = []
        for i in range(20):
            client.send(b"set k%d 0 0 1\r\nx\r\n" % i)
            replies.append(client.line(30 * SCALE))
        self.assertIn(STORED, replies)
        self.assertIn(b"SERVER_ERROR proxy write to downstream no-such-host.invalid:11211\r\n", replies)


class Concurrent(MoxiTest):
    """Two workers, 64 clients, all at once: each sees its own, and what they share adds up."""

    CLIENTS = 64
    ROUNDS = 60

    def setUp(self):
        super().setUp()
        self.servers = [self.memcached() for _ in range(3)]
        self.proxy = self.moxi(self.servers, None, threads=2)

    def play(self, number, client, totals):
        """One client's part; whatever is wrong is raised."""
        rng = random.Random(number)
        own = {}
        for turn in range(self.ROUNDS):
            key = b"own-%d-%d" % (number, rng.randrange(8))
            data = b"%d/%d " % (number, turn) * rng.choice([1, 10, 500])
            quiet = rng.random() < 0.3
            client.send(b"set %s 0 0 %d%s\r\n%s\r\n" % (key, len(data), b" noreply" if quiet else b"", data))
            own[key] = data
            client.send(b"get " + b" ".join(own) + b"\r\n")
            client.expect((b"" if quiet else STORED) + b"".join(value(k, v) for k, v in own.items()) + END)
            n = rng.randrange(100)
            client.send(b"incr counter %d%s\r\nincr own-counter-%d 1\r\n" % (n, b" noreply" if quiet else b"", number))
            if not quiet:
                client.expect_match(rb"\d+\r\n")
            client.expect(b"%d\r\n" % (turn + 1))
            totals["incr"] += n
            client.send(b"gets shared\r\n")
            size, unique = client.expect_match(rb"VALUE shared 0 (\d+) (\d+)\r\n").groups()
            shared = int(client.read(int(size)))
            client.expect(b"\r\n" + END)
            data = b"%d" % (shared + 1)
            client.send(b"cas shared 0 0 %d %s\r\n%s\r\n" % (len(data), unique, data))
            totals["cas"] += client.expect_match(rb"(STORED|EXISTS)\r\n")[1] == b"STORED"
            if turn % 20 == number % 20:
                key, _ = own.popitem()
                client.ask(b"delete %s\r\nget %s\r\n" % (key, key), b"DELETED\r\n" + END)
                self.assertIn("basic:version", proxy_stats(client))

    def test_all_at_once(self):
        first = self.client(self.proxy)
        first.ask(b"set counter 0 0 1\r\n0\r\nset shared 0 0 1\r\n0\r\n", STORED * 2)
        for i in range(self.CLIENTS):
            first.ask(b"set own-counter-%d 0 0 1\r\n0\r\n" % i, STORED)
        clients = [self.client(self.proxy) for _ in range(self.CLIENTS)]
        totals = [{"incr": 0, "cas": 0} for _ in clients]
        crowd = Crowd(self.CLIENTS, lambda i: self.play(i, clients[i], totals[i]))
        self.assertEqual(crowd.join(), [])
        # a noreply incr of another worker has been sent before its client's next command was answered
        first.send(b"get counter\r\n")
        self.assertEqual(int(first.lines_to_end()[1]), sum(t["incr"] for t in totals))
        first.send(b"get shared\r\n")
        self.assertEqual(int(first.lines_to_end()[1]), sum(t["cas"] for t in totals))
        self.assertGreater(sum(t["cas"] for t in totals), self.ROUNDS)
        seen = proxy_stats(first)["%d:default:pstd_stats_cmd:regular_cas:seen" % self.proxy.port]
        self.assertEqual(int(seen), self.CLIENTS * self.ROUNDS)

    def test_comings_and_goings(self):
        """Clients connect, ask and leave at any moment, in both workers, while a server goes and others work."""
        stop = threading.Event()

        def come_and_go(seed):
            rng = random.Random(seed)
            while not stop.is_set():
                client = Client(self.proxy.port)
                key = b"%d" % rng.randrange(1000)
                client.send(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(key), key) * rng.randrange(5))
                client.send(b"get %s\r\n" % key * rng.randrange(5))
                if rng.random() < 0.5:
                    client.send(b"version\r\n").read_until(b"VERSION")
                client.reset() if rng.random() < 0.5 else client.close()

        crowd = Crowd(8, come_and_go)
        steady = self.client(self.proxy)
        try:
            for i in range(150):
                if i == 75:
                    self.servers[2].signal(signal.SIGKILL)
                    self.servers[2].wait()
                steady.send(b"set s%d 0 0 1\r\nx\r\nget s%d\r\nstats proxy\r\n" % (i, i))
                steady.expect_match(rb"(STORED|SERVER_ERROR proxy .*)\r\n")
                self.assertIn(steady.read_until(END), (END, value(b"s%d" % i, b"x") + END))
                self.assertIn("basic:version", parse_stats(steady))
        finally:
            stop.set()
            errors = crowd.join()
        self.assertEqual(errors, [])


if __name__ == "__main__":
    unittest.main()
