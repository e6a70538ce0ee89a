#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_soak - a mixed load on a cache that is full, for long: memory stays flat, and every value is its key's.

$SOAK_SECONDS (120) says for how long; an hour is SOAK_SECONDS=3600 and, with make test, SUITE_SECONDS above that. What is
resident is looked at every second from a quarter of the time on, and not before the cache is full.

Skipped where moxi is built with a sanitizer, whose memory says nothing.

Run as /usr/bin/python3 t/test_soak.py [Class[.test]].
"""

import os
import random
import sys
import threading
import time
import unittest

from moxilib import Client, MoxiTest, await_true, has_sanitizer, parse_stats

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
MEGABYTES = 32
KEYS = 60000
SIZES = [10, 30, 100, 100, 100, 300, 1000, 3000, 10000, 100000]
SLACK = 1.03  # of the first memory: an allocator's
PROGRAM = 8 << 20  # bytes of moxi without its cache, and of what four clients are owed


class Load(threading.Thread):
    """One client that stores, changes and deletes in batches, and asks for values after each of them."""

    def __init__(self, port, seed):
        super().__init__(daemon=True)
        self.client = Client(port)
        self.random = random.Random(seed)
        self.ended = threading.Event()
        self.batches = self.hits = 0
        self.failed = None
        self.start()

    def key(self):
        """Some are asked for much more often than others."""
        return int(KEYS * self.random.random() ** 3)

    @staticmethod
    def value(key, size):
        word = b"<%d>" % key
        return word * (size // len(word) + 1)

    def change(self):
        key, kind = self.key(), self.random.randrange(20)
        if kind == 0:
            return b"delete k%d noreply\r\n" % key
        if kind == 1:
            return b"incr n%d 7 noreply\r\n" % key
        if kind == 2:
            return b"set n%d 0 60 1 noreply\r\n9\r\n" % key
        if kind == 3:
            value = self.value(key, 1)
            return b"append k%d 0 0 %d noreply\r\n%s\r\n" % (key, len(value), value)
        if kind == 4:
            return b"touch k%d %d noreply\r\n" % (key, self.random.randrange(1, 60))
        value = self.value(key, SIZES[(key + kind // 19) % len(SIZES)])
        exptime = self.random.choice((0, 0, 0, 1, 5, 60))
        return b"set k%d %d %d %d noreply\r\n%s\r\n" % (key, key, exptime, len(value), value)

    def batch(self):
        changes = b"".join(self.change() for _ in range(40))
        keys = sorted({self.key() for _ in range(20)})
        self.client.send(changes + b"get %s\r\n" % b" ".join(b"k%d" % key for key in keys))
        while True:
            line = self.client.line()
            if line == b"END\r\n":
                return
            word, name, flags, size = line.split()
            key = int(name[1:])
            value = self.client.read(int(size) + 2)
            whole = b"<%d>" % key
            if (word, int(flags)) != (b"VALUE", key) or key not in keys or value[-2:] != b"\r\n":
                raise AssertionError("%r" % line)
            if value[:-2] != whole * (int(size) // len(whole)):
                raise AssertionError("%r has %r…" % (line, value[:100]))
            self.hits += 1

    def run(self):
        try:
            while not self.ended.is_set():
                self.batch()
                self.batches += 1
        except (AssertionError, ValueError) as e:
            self.failed = e

    def end(self):
        self.ended.set()
        self.join()
        self.client.close()


@unittest.skipIf(has_sanitizer(), "moxi's memory is a sanitizer's")
class Soak(MoxiTest):
    @staticmethod
    def stats(client):
        client.send(b"stats\r\n")
        return parse_stats(client)

    def watch(self, moxi, client, loads):
        """Resident bytes, second by second."""
        begin = time.monotonic()
        await_true(lambda: self.stats(client)["evictions"] != "0", "the cache to be full", timeout=SECONDS, pause=0.1)
        seen = []
        while time.monotonic() < begin + SECONDS and not any(load.failed for load in loads):
            time.sleep(1)
            if time.monotonic() > begin + SECONDS / 4:
                seen.append(moxi.memory())
        return seen

    def test_memory_is_flat(self):
        moxi = self.moxi(["local"], None, "-m", str(MEGABYTES), threads=2)
        client = self.client(moxi)
        loads = [Load(moxi.port, seed) for seed in range(4)]
        try:
            seen = self.watch(moxi, client, loads)
        finally:
            for load in loads:
                load.end()
        self.assertEqual([load.failed for load in loads if load.failed], [])
        stats = self.stats(client)
        print("%d s: %d batches, %d hits, %s evictions, %s expired unasked for, %.1f to %.1f MB resident" % (
            SECONDS, sum(load.batches for load in loads), sum(load.hits for load in loads), stats["evictions"],
            stats["reclaimed"], min(seen) / 1e6, max(seen) / 1e6), file=sys.stderr)
        await_true(lambda: self.stats(client)["curr_connections"] == "1", "the loads' connections to be gone")
        self.assertLess(max(seen), seen[0] * SLACK)
        self.assertLess(max(seen), MEGABYTES * 1.1 * (1 << 20) + PROGRAM)


if __name__ == "__main__":
    unittest.main()
