# SPDX-License-Identifier: BSD-3-Clause
"""scenario - what each Python client library does through moxi.

The programs beside this file (python3-pylibmc, python3-pymemcache, python3-memcache) each derive a Client from Adapter
and call main(), with moxi's host and port on their command line. Every result is checked; each check is a TAP line, and
main() exits other than 0 when one failed. scenario.php and Scenario.pm do the same in their languages.
"""

import os
import sys
import time

KEYS = 1000
LARGE = 900 * 1024
TOO_LARGE = 3 * 1024 * 1024  # for a memcached with its default of 1 MB
DEADLINE = 10


class Adapter:
    """A client library as the scenario wants it: values are bytes, a miss is None, what was not done is False.

    A method that the library has no counterpart for, or does not let its result be seen, stays None.
    """

    gets = None  # key -> (value, token), or None
    cas = None  # key, token, value -> whether it was stored
    touch = None  # key, exptime -> whether the key was there
    set_silently = None  # key, value, with noreply
    get_and_touch = None  # key, exptime -> value


def difference(got, expected):
    """A short text on how two values differ; of dictionaries, how many of their items do, and one of them."""
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return "got %.200r, expected %.200r" % (got, expected)
    keys = [key for key in {**expected, **got} if key not in got or key not in expected or got[key] != expected[key]]
    key = keys[0]
    values = (got.get(key, "nothing"), expected.get(key, "nothing"))
    return "%d of %d differ: %s: got %.80r, expected %.80r" % (len(keys), len(expected), key, *values)


class Tap:
    def __init__(self):
        self.number = 0
        self.failed = 0

    def check(self, good, name):
        self.number += 1
        self.failed += not good
        print("%s %d - %s" % ("ok" if good else "not ok", self.number, name), flush=True)

    def same(self, got, expected, name):
        self.check(got == expected, name)
        if got != expected:
            print("# " + difference(got, expected))

    def end(self):
        print("1..%d" % self.number)
        sys.exit(1 if self.failed else 0)


def value_of(number):
    """Values of all lengths up to 300 that look like protocol."""
    return (b"%d\r\nEND\r\nVALUE %d 0 1\r\n" % (number, number)) + b"\0" * (number % 271)


def store_and_fetch(tap, client):
    values = {"many:%d" % n: value_of(n) for n in range(KEYS)}
    missing = ["missing:%d" % n for n in range(50)]
    stored = sum(client.set(key, value, 0) for key, value in values.items())
    tap.same(stored, KEYS, "sets of %d keys" % KEYS)
    tap.same(client.get_many(list(values)), values, "a multi-get of %d keys" % KEYS)
    mixed = [key for pair in zip(list(values), missing) for key in pair]
    tap.same(client.get_many(mixed), {key: values[key] for key in mixed if key in values}, "a multi-get with misses")
    tap.same(client.get_many(missing), {}, "a multi-get of misses only")
    alone = {key: client.get(key) for key in list(values)[:200]}
    tap.same(alone, {key: values[key] for key in alone}, "gets of single keys")
    tap.same(client.get("missing:0"), None, "a get that misses")


def conditional_stores(tap, client):
    tap.same(client.replace("store", b"no"), False, "replace without a value")
    tap.same(client.append("store", b"no"), False, "append without a value")
    tap.same(client.prepend("store", b"no"), False, "prepend without a value")
    tap.same(client.add("store", b"one"), True, "add")
    tap.same(client.add("store", b"two"), False, "add over a value")
    tap.same(client.replace("store", b"two"), True, "replace")
    tap.same(client.append("store", b"-three"), True, "append")
    tap.same(client.prepend("store", b"one-"), True, "prepend")
    tap.same(client.get("store"), b"one-two-three", "the value after all of them")


def counters(tap, client):
    client.set_number("counter", 10)
    tap.same(client.incr("counter", 5), 15, "incr")
    tap.same(client.decr("counter", 7), 8, "decr")
    tap.same(client.decr("counter", 20), 0, "decr stops at 0")
    client.set_number("counter", 4294967295)
    tap.same(client.incr("counter", 1), 4294967296, "incr beyond 32 bits")
    tap.same(client.incr("no-counter", 1), None, "incr of a miss")
    tap.same(client.decr("no-counter", 1), None, "decr of a miss")
    total = [client.incr("counter", 1) for _ in range(100)][-1]
    tap.same(total, 4294967396, "a hundred incrs")


def compare_and_swap(tap, client):
    if client.cas is None:
        return
    client.set("cas", b"one", 0)
    value, token = client.gets("cas")
    tap.same(value, b"one", "gets")
    tap.same(client.cas("cas", token, b"two"), True, "cas")
    tap.same(client.cas("cas", token, b"three"), False, "cas with a token that is used up")
    tap.same(client.get("cas"), b"two", "the value after cas")
    token = client.gets("cas")[1]
    client.set("cas", b"four", 0)
    tap.same(client.cas("cas", token, b"five"), False, "cas after a set between")
    tap.same(client.get("cas"), b"four", "the value of the set between")


def sizes(tap, client):
    tap.same(client.set("empty", b"", 0), True, "set of an empty value")
    tap.same(client.get("empty"), b"", "get of an empty value")
    large = {"large:%d" % n: os.urandom(LARGE) for n in range(5)}
    for key, value in large.items():
        tap.same(client.set(key, value, 0), True, "set of 900 KB (%s)" % key)
    for key, value in large.items():
        tap.check(client.get(key) == value, "get of 900 KB (%s)" % key)
    large["empty"] = b""
    tap.check(client.get_many(list(large)) == large, "a multi-get of large and empty values")
    key = "k" * 250
    tap.same(client.set(key, b"long", 0), True, "set with a key of 250 bytes")
    tap.same(client.get(key), b"long", "get with a key of 250 bytes")
    client.set("too-large", b"old", 0)
    tap.same(client.set("too-large", b"x" * TOO_LARGE, 0), False, "set of a value that is too large")
    tap.same(client.get("too-large"), None, "it does not leave the old value")
    tap.same(client.get("empty"), b"", "the connection is in step after it")


def deletes(tap, client):
    client.set("delete", b"x", 0)
    tap.same(client.delete("delete"), True, "delete")
    tap.same(client.get("delete"), None, "get after delete")
    tap.same(client.delete("delete"), False, "delete of a miss")
    for number in range(0, KEYS, 2):
        client.delete("many:%d" % number)
    left = client.get_many(["many:%d" % number for number in range(KEYS)])
    tap.same(left, {"many:%d" % n: value_of(n) for n in range(1, KEYS, 2)}, "every other key deleted")


def expiry(tap, client):
    tap.same(client.set("short", b"x", 2), True, "set with an expiry")
    tap.same(client.set("stays", b"x", 100), True, "set with a longer expiry")
    tap.same(client.set("past", b"x", int(time.time()) - 10), True, "set with an expiry that is past")
    tap.same(client.get("past"), None, "it is not there")
    if client.touch is not None:
        client.set("touched", b"x", 2)
        tap.same(client.touch("touched", 100), True, "touch")
        tap.same(client.touch("no-key", 100), False, "touch of a miss")
    if client.get_and_touch is not None:
        client.set("gat", b"y", 2)
        tap.same(client.get_and_touch("gat", 100), b"y", "get and touch")
        tap.same(client.get_and_touch("no-key", 100), None, "get and touch of a miss")
    until = time.time() + DEADLINE
    while client.get("short") is not None and time.time() < until:
        time.sleep(0.05)
    tap.same(client.get("short"), None, "it expires")
    tap.same(client.get("stays"), b"x", "the longer one does not")
    if client.touch is not None:
        tap.same(client.get("touched"), b"x", "the touched one does not")
    if client.get_and_touch is not None:
        tap.same(client.get("gat"), b"y", "the one that was got and touched does not")


def silent_sets(tap, client):
    if client.set_silently is None:
        return
    values = {"silent:%d" % n: value_of(n) for n in range(KEYS)}
    for key, value in values.items():
        client.set_silently(key, value)
    tap.same(client.get_many(list(values)), values, "sets with noreply of %d keys" % KEYS)


def flush(tap, client):
    values = {"flush:%d" % n: b"x" for n in range(30)}
    for key, value in values.items():
        client.set(key, value, 0)
    tap.same(client.get_many(list(values)), values, "30 keys before a flush")
    client.flush()
    tap.same(client.get_many(list(values)), {}, "none after a flush")


def main(make_client):
    """Runs the scenario with make_client(host, port)."""
    tap = Tap()
    client = make_client(sys.argv[1], int(sys.argv[2]))
    tap.check(client.version().startswith("1."), "version")
    for part in (
        store_and_fetch,
        conditional_stores,
        counters,
        compare_and_swap,
        sizes,
        deletes,
        expiry,
        silent_sets,
        flush,
    ):
        part(tap, client)
    tap.end()
