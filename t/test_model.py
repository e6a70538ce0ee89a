#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_model - whoever had a write acknowledged by moxi never reads what was before it, and nobody else does.

Clients of all protocols, on two workers, read and write a few keys, and leave now and then with a read on its way. The
memcacheds are behind a Delay, which holds back what goes to and fro for some random milliseconds, and may close
connections. For each key there is one writer at a time, and a list of its values, one a version: a read may have any from
the last that was acknowledged when it began to the last that was begun when it ended. A key that nobody can tell the state
of, after a failed write, is given up for a new one.

Run as /usr/bin/python3 t/test_model.py [Class[.test]]. MODEL_SECONDS (1.5): for each test. SEED.
"""

import os
import random
import socket
import struct
import threading
import time
import unittest

from binarylib import APPEND, DELETE, DELETEQ, FLUSH, GET, GETK, GETKQ, INCR, NEVER, NOOP, SET, SETQ, TOUCH, count, expire, packet, store
from moxilib import SCALE, Client, MoxiTest, ms, proxy_stats

SECONDS = float(os.environ.get("MODEL_SECONDS", 1.5)) * SCALE
SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 31)))
KEYS, READERS, WRITERS = 5, 6, 4


class Delay:
    """Stands before a memcached: what it passes on, both ways and in order, waits for up to `most` seconds now and then."""

    def __init__(self, port, most, losses):
        self.port_behind, self.most, self.losses = port, most, losses
        self.random = random.Random(SEED)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.mutex = threading.Lock()
        self.socks, self.threads = set(), []
        self.begin(self.accept)

    def begin(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self):
        while True:
            try:
                front = self.sock.accept()[0]
            except OSError:
                return
            back = socket.create_connection(("127.0.0.1", self.port_behind))
            for sock in (front, back):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.mutex:
                self.socks |= {front, back}
            self.begin(self.pass_on, front, back)

    def pass_on(self, front, back):
        """Both ways, to the end of either; then both are closed."""
        other = threading.Thread(target=self.pump, args=(back, front), daemon=True)
        other.start()
        self.pump(front, back)
        other.join()
        with self.mutex:
            self.socks -= {front, back}
            front.close()
            back.close()

    def pump(self, come, go):
        try:
            while data := come.recv(65536):
                if self.random.random() < 0.3:
                    time.sleep(self.random.random() * self.most)
                if self.random.random() < self.losses:
                    break
                go.sendall(data)
        except OSError:
            pass
        for sock in (come, go):
            self.shut(sock)

    @staticmethod
    def shut(sock):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def stop(self):
        self.shut(self.sock)
        with self.mutex:
            for sock in self.socks:
                self.shut(sock)
        for thread in self.threads:
            thread.join()
        self.sock.close()


class Unknown(Exception):
    """Nobody can tell whether a write was carried out."""


class Left(Exception):
    """A client has gone without waiting for what it has asked."""


class Key:
    def __init__(self, name):
        self.name = name
        self.lock = threading.Lock()
        self.versions = [None]
        self.acked = 0
        self.given_up = False

    def now(self):
        return self.versions[self.acked]


class Text:
    """What a client can say in text: each method returns what it reads, or raises Unknown."""

    def __init__(self, model, rng):
        self.client, self.random, self.model = model.new_client(), rng, model

    def line(self, request):
        line = self.client.send(request).line()
        if line.startswith((b"SERVER_ERROR", b"ERROR")):
            raise Unknown(line)
        return line

    def values(self, request):
        """The values of a classic retrieval, by key."""
        self.client.send(request)
        found = {}
        while (line := self.client.line()) != b"END\r\n":
            if not line.startswith(b"VALUE "):
                raise Unknown(line)
            words = line.split()
            found[words[1]] = self.client.read(int(words[3]) + 2)[:-2]
        return found

    def get(self, key):
        return self.values(b"get %s\r\n" % key).get(key)

    def gets(self, key):
        return self.values(b"gets %s\r\n" % key).get(key)

    def mg(self, key):
        line = self.line(b"mg %s %s\r\n" % (key, self.random.choice((b"v", b"v f s", b"k v f O1"))))
        return None if line.startswith(b"EN") else self.client.read(int(line.split()[1]) + 2)[:-2]

    def read_one(self, key):
        return self.random.choice((self.get, self.get, self.mg, self.gets))(key)

    def leave(self, keys):
        self.client.send(b"get %s\r\n" % b" ".join(keys)).reset()
        raise Left

    def read(self, keys):
        if len(keys) == 1:
            return {keys[0]: self.read_one(keys[0])}
        return self.values(b"get %s\r\n" % b" ".join(keys))

    def set_behind_a_read(self, key, value):
        """What is asked behind a read is not carried out before it; but for a read that is asked again on a new connection."""
        keys = self.model.some_keys(self.random)
        write = b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value)
        found = self.values(b"get %s\r\n%s" % (b" ".join(other.name for other in keys), write))
        if found.get(key) == value and not self.model.may_miss:
            raise AssertionError("%s: read %s, which was written behind it" % (key, value))
        if (line := self.client.line()) != b"STORED\r\n":
            raise Unknown(line)

    def set(self, key, value):
        form = self.random.randrange(5)
        if form == 4:
            self.set_behind_a_read(key, value)
        elif form == 0:
            self.line(b"ms %s %d\r\n%s\r\n" % (key, len(value), value))
        elif form == 1:
            # Its own get, behind it, is the acknowledgement.
            self.client.send(b"set %s 0 0 %d noreply\r\n%s\r\n" % (key, len(value), value))
            if self.get(key) != value:
                raise Unknown("noreply")
        elif form == 2:
            self.client.send(b"ms %s %d q\r\n%s\r\n" % (key, len(value), value))
            if self.line(b"mn\r\n") != b"MN\r\n":
                raise Unknown("quiet")
        else:
            self.line(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))

    def delete(self, key):
        self.line(self.random.choice((b"delete %s\r\n", b"md %s\r\n")) % key)

    def incr(self, key):
        if self.random.randrange(2):
            self.line(b"incr %s 1\r\n" % key)
        else:
            self.line(b"ma %s\r\n" % key)

    def append(self, key, digit):
        self.line(b"append %s 0 0 1\r\n%s\r\n" % (key, digit))

    def touch(self, key):
        if self.random.randrange(2):
            self.line(b"touch %s 1000\r\n" % key)
        else:
            self.values(b"gat 1000 %s\r\n" % key)

    def flush_all(self):
        self.line(b"flush_all\r\n")


class Binary:
    """The same in the binary protocol."""

    def __init__(self, model, rng):
        self.client, self.random = model.new_client(), rng

    def reply(self):
        header = self.client.read(24)
        _, op, key_len, extras, _, status, body = struct.unpack(">BBHBBHI", header[:12])
        rest = self.client.read(body)
        if status not in (0, 1):
            raise Unknown(rest)
        return op, status, rest[extras:extras + key_len], rest[extras + key_len:]

    def ask(self, request):
        self.client.send(request)
        return self.reply()

    def leave(self, keys):
        self.client.send(b"".join(packet(GETK, key) for key in keys)).reset()
        raise Left

    def read(self, keys):
        if len(keys) == 1:
            _, status, _, value = self.ask(packet(self.random.choice((GET, GETK)), keys[0]))
            return {keys[0]: None if status else value}
        self.client.send(b"".join(packet(GETKQ, key) for key in keys) + packet(NOOP))
        found = {}
        while (reply := self.reply())[0] != NOOP:
            found[reply[2]] = reply[3]
        return found

    def set(self, key, value):
        if self.random.randrange(2):
            self.ask(store(SET, key, value))
            return
        self.client.send(store(SETQ, key, value) + packet(NOOP))
        if self.reply()[0] != NOOP:
            raise Unknown("quiet")

    def delete(self, key):
        if self.random.randrange(2):
            self.ask(packet(DELETE, key))
            return
        self.client.send(packet(DELETEQ, key) + packet(NOOP))
        while self.reply()[0] != NOOP:
            pass

    def incr(self, key):
        self.ask(count(INCR, key, exptime=NEVER))

    def append(self, key, digit):
        self.ask(packet(APPEND, key, value=digit))

    def touch(self, key):
        self.ask(expire(TOUCH, key, 1000))

    def flush_all(self):
        self.ask(packet(FLUSH))


class Model:
    def __init__(self, test, moxi, may_miss):
        self.test, self.moxi, self.may_miss = test, moxi, may_miss
        self.names = 0
        self.mutex = threading.Lock()
        self.keys = [self.new_key() for _ in range(KEYS)]
        self.everything = threading.Lock()  # before the locks of keys
        self.end = time.monotonic() + SECONDS
        self.reads = self.writes = 0
        self.failed = None

    def new_client(self):
        return Client(self.moxi.port)

    def new_key(self):
        with self.mutex:
            self.names += 1
            return Key(b"k%d" % self.names)

    def runs(self):
        return time.monotonic() < self.end and not self.failed

    def some_keys(self, rng):
        """A few, often those that others ask for too, in the same order."""
        n = rng.choice((1, 1, 2, 4))
        order = range(n) if rng.randrange(2) else rng.sample(range(KEYS), n)
        return [self.keys[i] for i in order]

    def read(self, speaker, rng):
        keys = self.some_keys(rng)
        lows = [key.acked for key in keys]
        if rng.random() < 0.05:
            speaker.leave([key.name for key in keys])
        found = speaker.read([key.name for key in keys])
        for key, low in zip(keys, lows):
            value, allowed = found.get(key.name), key.versions[low:]
            if value not in allowed and not key.given_up and not (value is None and self.may_miss):
                raise AssertionError("%s: read %s, of %s (%s)" % (key.name, value, allowed, type(speaker).__name__))
        self.reads += 1

    def change(self, key, speaker, rng):
        """Begins the next version, has it written, and acknowledges it."""
        value, op = key.now(), rng.randrange(8)
        if op == 0:
            after, do = None, lambda: speaker.delete(key.name)
        elif op == 1 and value is not None and len(value) < 18:
            after, do = b"%d" % (int(value) + 1), lambda: speaker.incr(key.name)
        elif op == 2 and value is not None and len(value) < 16:
            digit = b"%d" % rng.randrange(10)
            after, do = value + digit, lambda: speaker.append(key.name, digit)
        elif op == 3:
            after, do = value, lambda: speaker.touch(key.name)
        else:
            after = b"%d" % (len(key.versions) * 100 + 1000)
            do = lambda: speaker.set(key.name, after)
        key.versions.append(after)
        do()
        key.acked = len(key.versions) - 1

    def write(self, speaker, rng):
        if rng.random() < 0.02:
            self.flush(speaker)
            return
        i = rng.randrange(KEYS)
        key = self.keys[i]
        with key.lock:
            if key.given_up:
                return
            try:
                self.change(key, speaker, rng)
            except Unknown:
                self.give_up(i)
                raise
        self.writes += 1

    def give_up(self, i):
        self.keys[i].given_up = True
        self.keys[i] = self.new_key()

    def flush(self, speaker):
        with self.everything:
            keys = list(self.keys)
            for key in keys:
                key.lock.acquire()
            try:
                for key in keys:
                    key.versions.append(None)
                speaker.flush_all()
                for key in keys:
                    key.acked = len(key.versions) - 1
            except Unknown:
                for i in range(KEYS):
                    self.give_up(i)
                raise
            finally:
                for key in keys:
                    key.lock.release()

    def client_loop(self, step, seed):
        rng = random.Random(seed)
        speaker = None
        try:
            while self.runs():
                speaker = speaker or rng.choice((Text, Text, Binary))(self, rng)
                try:
                    step(speaker, rng)
                except Left:
                    speaker = None
                except Unknown:
                    if not self.may_miss:
                        raise
                    # Its connection may still owe it something.
                    speaker.client.close()
                    speaker = None
                time.sleep(rng.random() * 0.003)
        except Exception as e:  # told by the test's own thread
            self.failed = self.failed or e
        finally:
            if speaker:
                speaker.client.close()

    def run(self, readers):
        steps = [self.read] * readers + [self.write] * WRITERS
        threads = [threading.Thread(target=self.client_loop, args=(step, (SEED + i) * 7919)) for i, step in enumerate(steps)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failed:
            raise AssertionError("SEED=%d: %s" % (SEED, self.failed)) from self.failed


class Promise(MoxiTest):
    near = {"front_cache_lifespan": ms(60000), "front_cache_spec": "k", "front_cache_miss_lifespan": ms(60000)}

    def check_promise(self, settings, servers=1, most=0.005, losses=0.0, hits="frontcache:tot_get_hits", readers=READERS):
        delays = [Delay(self.memcached().port, most, losses) for _ in range(servers)]
        for delay in delays:
            self._ends[0].append(delay.stop)
        moxi = self.moxi(delays, dict({"connect_max_errors": 1000000}, **settings), threads=2)
        model = Model(self, moxi, losses > 0 or "downstream_timeout" in settings)
        model.run(readers)
        self.assertGreater(model.reads, 20)
        self.assertGreater(model.writes, 10)
        client = self.client(moxi)
        stats = proxy_stats(client, b"all")
        self.assertGreater(int(stats["%d:default:%s" % (moxi.port, hits)]), 0)

    def test_near_cache(self):
        self.check_promise(self.near)

    def test_squash(self):
        self.check_promise({"squash": 1}, hits="pstd_stats:tot_squashed")

    def test_squash_of_several_servers(self):
        """Many ask for the same, and follow one who may leave."""
        settings = {"squash": 1, "downstream_conn_max": 2}
        self.check_promise(settings, servers=3, hits="pstd_stats:tot_squashed", readers=5 * READERS)

    def test_both(self):
        self.check_promise(dict(self.near, squash=1))

    def test_small_near_cache_that_renews(self):
        self.check_promise(dict(self.near, squash=1, front_cache_max=3, front_cache_lifespan=ms(5), front_cache_stale=ms(200)))

    def test_several_servers_and_connections(self):
        self.check_promise(dict(self.near, squash=1, downstream_conn_max=3), servers=3)

    def test_text_servers(self):
        self.check_promise(dict(self.near, squash=1, downstream_protocol="ascii"))

    def test_meta_servers(self):
        self.check_promise(dict(self.near, squash=1, downstream_protocol="meta"))

    def test_binary_servers(self):
        self.check_promise(dict(self.near, squash=1, downstream_protocol="binary"))

    def test_timeouts(self):
        self.check_promise(dict(self.near, squash=1, downstream_timeout=ms(25)), most=0.04 * SCALE)

    def test_lost_connections(self):
        self.check_promise(dict(self.near, squash=1, downstream_conn_max=2), servers=2, losses=0.02)

    def test_few_at_once(self):
        self.check_promise(dict(self.near, squash=1, downstream_max=2))


if __name__ == "__main__":
    print("SEED=%d" % SEED)
    unittest.main(verbosity=1)
