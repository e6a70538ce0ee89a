#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Black-box test of bench/load: it measures what a server does, and no wrong reply passes it.

A small memcached in threads answers rightly, or spoils one reply in a way that the test chooses. The path of the
program comes from $BENCH_LOAD; without it, it is compiled with $CC (cc).
"""
import collections
import glob
import os
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from moxilib import TestCase

SOURCES = glob.glob(os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'bench', 'load*.c'))
LOAD = os.environ.get('BENCH_LOAD')
DEADLINE = 20


def setUpModule():
    global LOAD
    if not LOAD:
        tmp = tempfile.TemporaryDirectory(prefix='moxi-test-')
        unittest.addModuleCleanup(tmp.cleanup)
        LOAD = os.path.join(tmp.name, 'load')
        subprocess.run([os.environ.get('CC', 'cc'), '-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-D_GNU_SOURCE',
                        '-o', LOAD, *SOURCES, '-lm'], check=True)


class Server:
    """Answers get and set on a port of the kernel's choice.

    spoil(reply) is called for the get whose ordinal is `at` (from 1, over all connections) and returns what to send
    instead; None closes the connection. chunk: bytes a send, 0 for all at once. delay: {ordinal: seconds}.
    """

    def __init__(self, spoil=None, at=1, stored=b'STORED\r\n', chunk=0, delay=None):
        self.spoil, self.at, self.stored, self.chunk, self.delay = spoil, at, stored, chunk, delay or {}
        self.items, self.gets, self.sets, self.lock = {}, 0, 0, threading.Lock()
        self.asked = collections.Counter()   # keys of classic gets
        self.socks = []
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=256)
        self.target = '127.0.0.1:%d' % self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socks.append(sock)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        with sock, sock.makefile('rb') as lines:
            try:
                for line in lines:
                    reply = self.answer(line.split(), lines)
                    if reply is None:
                        sock.shutdown(socket.SHUT_RDWR)
                        return
                    step = self.chunk or len(reply) or 1
                    for i in range(0, len(reply), step):
                        sock.sendall(reply[i:i + step])
            except OSError:
                pass

    def answer(self, words, lines):
        if words[0] == b'set':
            value = lines.read(int(words[4]) + 2)
            with self.lock:
                self.items[words[1]] = (words[2], value[:-2])
                self.sets += 1
            return self.stored
        if words[0] == b'ms':
            value = lines.read(int(words[2]) + 2)
            with self.lock:
                self.items[words[1]] = (words[3][1:], value[:-2])
                self.sets += 1
            return b'HD\r\n'
        with self.lock:
            self.gets += 1
            self.asked.update(words[1:] if words[0] == b'get' else ())
            ordinal = self.gets
        time.sleep(self.delay.get(ordinal, 0))
        if words[0] == b'mg':
            flags, value = self.items[words[1]]
            reply = b'VA %d f%s\r\n%s\r\n' % (len(value), flags, value)
            return self.spoil(reply) if self.spoil and ordinal == self.at else reply
        reply = b''.join(b'VALUE %s %s %d\r\n%s\r\n' % (key, self.items[key][0], len(self.items[key][1]),
                                                         self.items[key][1])
                         for key in words[1:] if key in self.items) + b'END\r\n'
        return self.spoil(reply) if self.spoil and ordinal == self.at else reply

    def close(self):
        if self.listener.fileno() < 0:
            return
        # Wakes accept. Only then may the descriptor be closed: the next server's could have its number, and this
        # thread, on its way into accept, would take that one's clients.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(DEADLINE)
        self.listener.close()
        for sock in self.socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class LoadTest(TestCase):
    def serve(self, **how):
        server = Server(**how)
        self.addCleanup(server.close)
        return server

    def load(self, server, *args):
        return subprocess.run([LOAD, '--keys=50', '--warmup=0', *args, server.target], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE, text=True)

    def start(self, server, *args):
        """Starts the program and leaves it running, to be talked to."""
        load = subprocess.Popen([LOAD, '--keys=50', *args, server.target], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.end, load)
        return load

    def end(self, load):
        load.kill()
        load.wait(DEADLINE)
        for stream in (load.stdin, load.stdout, load.stderr):
            stream.close()

    def figures(self, server, *args):
        done = self.load(server, *args)
        self.assertEqual((done.returncode, done.stderr), (0, ''))
        return {k: float(v) for k, v in (pair.split('=') for pair in done.stdout.split())}

    def refused(self, message, *args, **how):
        done = self.load(self.serve(**how), '--fill', '--clients=2', '--requests=100', *args)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn(message, done.stderr)
        self.assertEqual(done.stderr.count('\n'), 1)


class WrongMeta(LoadTest):
    def test_parts(self):
        for part, change in (('head', lambda reply: b'VB' + reply[2:]), ('flags', lambda reply: reply.replace(b' f', b' fx', 1)),
                             ('value', lambda reply: reply[:-3] + b'~~~'), ('end', lambda reply: reply[:-2] + b'\n\n')):
            with self.subTest(part):
                self.refused(', byte', '--protocol=meta', spoil=change)

    def test_several_keys(self):
        done = self.load(self.serve(), '--protocol=meta', '--width=2')
        self.assertEqual((done.returncode, done.stderr.count('\n')), (2, 1))


class RightReplies(LoadTest):
    def test_counts_requests(self):
        server = self.serve()
        got = self.figures(server, '--fill', '--clients=5', '--requests=333', '--depth=4')
        self.assertEqual((got['requests'], server.sets, server.gets), (333, 50, 333))
        self.assertAlmostEqual(got['rps'], 333 / got['seconds'], delta=got['rps'] * 0.01)

    def test_shapes(self):
        for args in (['--width=7'], ['--width=50', '--depth=3'], ['--bytes=0'], ['--bytes=70000', '--depth=2'],
                     ['--op=set'], ['--op=set', '--depth=9', '--bytes=300000'], ['--idle=20', '--human'],
                     ['--protocol=meta'], ['--protocol=meta', '--depth=5', '--idle=3'], ['--protocol=meta', '--op=set', '--depth=3']):
            with self.subTest(args):
                got = self.figures(self.serve(), '--fill', '--clients=3', '--requests=60', *args)
                self.assertEqual(got['requests'], 60)

    def test_replies_in_pieces(self):
        for chunk in (1, 7):
            got = self.figures(self.serve(chunk=chunk), '--fill', '--clients=2', '--requests=40', '--width=2',
                               '--depth=2')
            self.assertEqual(got['requests'], 40)

    def test_values_belong_to_keys(self):
        """Another run, with another seed and more keys, checks what the first one stored."""
        server = self.serve()
        self.figures(server, '--fill', '--clients=1', '--requests=50')
        self.figures(server, '--clients=1', '--requests=200', '--keys=40', '--seed=99')
        self.assertEqual(server.sets, 50)
        values = [value for _, value in server.items.values()]
        self.assertEqual(len(set(values)), 50)

    def test_fill_only(self):
        server = self.serve()
        done = self.load(server, '--fill', '--clients=0')
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, '', ''))
        self.assertEqual((server.sets, server.gets, len(server.items)), (50, 0, 50))

    def test_latencies(self):
        server = self.serve(delay={20: 0.2})
        got = self.figures(server, '--fill', '--clients=1', '--requests=40')
        self.assertGreaterEqual(got['max_us'], 200e3)
        self.assertAlmostEqual(got['p99_us'], got['max_us'], delta=got['max_us'] * 0.01)
        self.assertLess(got['p50_us'], got['max_us'])

    def test_time_and_warm_up(self):
        server = self.serve()
        got = self.figures(server, '--fill', '--clients=1', '--seconds=0.2', '--warmup=0.2')
        self.assertGreaterEqual(got['seconds'], 0.2)
        self.assertLess(got['seconds'], DEADLINE)
        self.assertGreater(server.gets, got['requests'])

    def test_cpu(self):
        got = self.figures(self.serve(), '--fill', '--clients=1', '--requests=500', '--cpu=me=%d' % os.getpid())
        self.assertGreater(got['me_cpu_us'], 1)
        self.assertLess(got['me_cpu_us'], 1e6 / got['rps'] * (os.cpu_count() + 1))

    def test_cpu_of_threads_that_end(self):
        """A thread that ends while load measures has run no less for that."""
        burnt, ends = threading.Event(), threading.Event()

        def run():
            while time.thread_time() < 0.2:
                pass
            burnt.set()
            ends.wait(DEADLINE)
        thread = threading.Thread(target=run, daemon=True)

        def end(reply):
            ends.set()
            thread.join(DEADLINE)
            return reply
        thread.start()
        burnt.wait(DEADLINE)
        got = self.figures(self.serve(spoil=end, at=2), '--clients=1', '--requests=50', '--fill',
                           '--cpu=me=%d' % os.getpid())
        self.assertGreater(got['me_cpu_us'], 1)

    def talk(self, *args):
        server = self.serve()
        self.figures(server, '--fill', '--clients=1', '--requests=1')
        return server, self.start(server, *args)

    def test_step(self):
        server, load = self.talk('--step', '--clients=2', '--requests=30', '--warmup=0.05')
        self.assertEqual(load.stdout.readline(), 'ready\n')
        before = server.gets
        load.stdin.write('\n')
        load.stdin.flush()
        self.assertIn('requests=30 ', load.stdout.readline())
        self.assertEqual(server.gets - before, 30)
        self.assertIsNone(load.poll())
        load.stdin.close()
        self.assertEqual(load.wait(DEADLINE), 0)

    def test_hold(self):
        server, load = self.talk('--clients=0', '--idle=30')
        self.assertEqual(load.stdout.readline(), 'held=30\n')
        self.assertEqual(server.gets, 31)
        load.stdin.close()
        self.assertEqual(load.wait(DEADLINE), 0)
        self.assertEqual(server.gets, 61)

    def test_hold_sees_lost_clients(self):
        server, load = self.talk('--clients=0', '--idle=3')
        self.assertEqual(load.stdout.readline(), 'held=3\n')
        server.close()
        load.stdin.close()
        self.assertEqual(load.wait(DEADLINE), 1)


class ChoiceOfKeys(LoadTest):
    """How often each key is asked for, by one client: the choice is the seed's, and the same each time."""
    REQUESTS = 4000

    def asked(self, *args):
        server = self.serve()
        self.figures(server, '--fill', '--clients=1', '--depth=50', f'--requests={self.REQUESTS}', *args)
        return server.asked

    def assert_zipf(self, asked, weights):
        """The keys in the order of their counts are those of the law, each within 5 standard deviations."""
        counts = [n for _, n in asked.most_common()]
        self.assertEqual(len(counts), len(weights))
        for count, weight in zip(counts, weights):
            share = weight / sum(weights)
            deviation = (self.REQUESTS * share * (1 - share)) ** 0.5
            self.assertAlmostEqual(count, self.REQUESTS * share, delta=5 * deviation)

    def test_alike(self):
        self.assert_zipf(self.asked(), [1] * 50)
        self.assert_zipf(self.asked('--zipf=0'), [1] * 50)

    def test_zipf(self):
        for exponent, keys in ((1, 50), (0.5, 50), (2, 20), (1, 1)):
            with self.subTest(exponent=exponent, keys=keys):
                asked = self.asked(f'--zipf={exponent}', f'--keys={keys}')
                self.assert_zipf(asked, [(k + 1) ** -exponent for k in range(keys)])

    def test_seed_says_which_are_frequent(self):
        first, same, other = (self.asked('--zipf=1', f'--seed={seed}') for seed in (7, 7, 8))
        self.assertEqual(first, same)
        self.assertNotEqual([key for key, _ in first.most_common(5)], [key for key, _ in other.most_common(5)])

    def test_all_protocols(self):
        got = self.figures(self.serve(), '--fill', '--clients=3', '--requests=60', '--zipf=1', '--protocol=meta')
        self.assertEqual(got['requests'], 60)


class WrongReplies(LoadTest):
    def test_value(self):
        def flip(reply):
            i = reply.index(b'\r\n') + 2 + 57
            return reply[:i] + bytes([reply[i] ^ 1]) + reply[i + 1:]
        self.refused('value, byte 57 of 100', spoil=flip, at=70)

    def test_value_of_another_key(self):
        def shift(reply):
            i = reply.index(b'\r\n') + 2
            return reply[:i] + reply[i + 1:i + 100] + reply[i:i + 1] + reply[i + 100:]
        self.refused('value, byte 0 of 100', spoil=shift, at=3)

    def test_last_byte_of_a_large_value(self):
        def flip(reply):
            return reply[:-8] + bytes([reply[-8] ^ 1]) + reply[-7:]
        self.refused('value, byte 299999 of 300000', '--bytes=300000', spoil=flip)

    def test_flags(self):
        def change(reply):
            words = reply.split(b' ', 3)
            words[2] = b'%d' % (int(words[2]) + 1)
            return b' '.join(words)
        self.refused('head, byte', spoil=change, at=9)

    def test_length(self):
        self.refused('head, byte', spoil=lambda reply: reply.replace(b' 100\r\n', b' 101\r\n', 1))

    def test_key(self):
        self.refused('head, byte', spoil=lambda reply: reply.replace(b'b100-0', b'b100-1', 1))

    def test_miss(self):
        self.refused('got "END\\r\\n"', spoil=lambda reply: b'END\r\n')

    def test_key_left_out(self):
        self.refused('got "END\\r\\n"', '--width=2', spoil=lambda reply: reply[:(len(reply) - 5) // 2] + b'END\r\n')

    def test_order(self):
        def swap(reply):
            half = (len(reply) - 5) // 2
            return reply[half:2 * half] + reply[:half] + b'END\r\n'
        self.refused('head, byte', '--width=2', spoil=swap)

    def test_end_missing(self):
        self.refused('end, byte', '--depth=2', spoil=lambda reply: reply[:-5], at=1)

    def test_error_line(self):
        self.refused('got "SERVER_ERROR busy\\r\\n"', spoil=lambda reply: b'SERVER_ERROR busy\r\n', at=50)

    def test_more_than_asked(self):
        self.refused('more than was asked for: "END\\r\\n"', spoil=lambda reply: reply + b'END\r\n')

    def test_not_stored(self):
        self.refused('expected "STORED\\r\\n", got "NOT_STORED\\r\\n', stored=b'NOT_STORED\r\n')

    def test_closed(self):
        self.refused('connection closed', spoil=lambda reply: None, at=20)

    def test_stall(self):
        self.refused('no whole reply within 0.3 s', '--timeout=0.3', spoil=lambda reply: reply[:-1])

    def test_stall_while_filling(self):
        done = self.load(self.serve(stored=b''), '--fill', '--clients=0', '--timeout=0.3')
        self.assertEqual(done.returncode, 1)
        self.assertIn('client 0: no whole reply within 0.3 s: 0 of 16 keys answered', done.stderr)

    def test_idle_client_closed(self):
        server = self.serve(delay={1 + n: 0.002 for n in range(200)})
        load = self.start(server, '--fill', '--clients=1', '--idle=1', '--seconds=15')
        end = time.monotonic() + DEADLINE
        while server.gets < 5 and time.monotonic() < end:
            time.sleep(0.005)
        server.socks[1].shutdown(socket.SHUT_RDWR)
        self.assertEqual(load.wait(DEADLINE), 1)
        self.assertIn('idle client 1: connection closed', load.stderr.read())


class CommandLine(LoadTest):
    def test_refused(self):
        for args in (['--clients=x'], ['--clients=-1'], ['--op=del'], ['--keys=0'], ['--width=51'], ['--seconds=-1'],
                     ['--timeout=0'], ['--cpu=1'], ['--cpu=a=x'], ['--clients=0'], ['--op=set', '--width=2'],
                     ['--zipf=x'], ['--zipf=-1'], ['--zipf=1', '--width=2'], ['--frob'], ['another-target']):
            with self.subTest(args):
                done = self.load(self.serve(), *args)
                self.assertEqual((done.returncode, done.stdout), (2, ''))
                self.assertNotEqual(done.stderr, '')

    def test_bad_target(self):
        for target in ('127.0.0.1', ':1', 'unix:/nonexistent/socket'):
            with self.subTest(target):
                done = subprocess.run([LOAD, target], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                      timeout=DEADLINE)
                self.assertEqual((done.returncode, done.stdout), (1, ''))
                self.assertIn(target, done.stderr)


if __name__ == '__main__':
    unittest.main()
