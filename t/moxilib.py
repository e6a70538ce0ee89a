# SPDX-License-Identifier: BSD-3-Clause
"""moxilib - what the black-box tests share: processes, clients and servers that a test plays itself.

A test derives from MoxiTest, which ends everything that it started, in the right order, and checks that moxi left
with exit status 0 and without a report of a sanitizer:

    self.moxi(servers, {"downstream_timeout": 300}, "-v")   a Moxi in front of servers (ports, names, objects here)
    self.memcached()                                        a Memcached of Debian's
    self.client(moxi)                                       a Client: sends bytes, expects exact bytes
    self.mock()                                             a MockServer: the test accepts, expects, answers

Nothing here waits for time to pass: each wait is for a condition, up to a deadline. Conn.sync() is what lets a test
cut a stream into pieces that the other side really sees one by one: it asks the kernel (sock_diag) whether the peer
has read what was sent.

Environment: MOXI (./moxi, may be a command with arguments), MEMCACHED (/usr/bin/memcached), TIMEOUT_SCALE (1; all
deadlines and moxi's own time-outs are multiplied by it: for sanitizers and valgrind).
"""

import os
import random
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from stalls import SCALE, Stalls

TIMEOUT = 20 * SCALE  # for what must happen
QUIET = 0.1 * SCALE  # for what must not happen, where nothing else can prove it

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MOXI = shlex.split(os.environ.get("MOXI", os.path.join(TOP, "moxi")))
MEMCACHED = shlex.split(os.environ.get("MEMCACHED", "/usr/bin/memcached"))
REPORT = re.compile(r"(Address|Leak|Thread|Memory)Sanitizer|runtime error:|ERROR SUMMARY: [1-9]|Assertion")

# What moxi asks a server before the first meta command, and what one says that knows them, or does not.
META_PROBE, META_YES, META_NO = b"version\r\nmn\r\n", b"VERSION 1.6.18\r\nMN\r\n", b"VERSION 1.4.39\r\nERROR\r\n"


def ms(n):
    """A time of n milliseconds for a setting of moxi, scaled."""
    return int(n * SCALE)


def value(key, data, flags=0):
    """A value as a server tells it to a get; END comes behind the last."""
    return b"VALUE %s %d %d\r\n%s\r\n" % (key, flags, len(data), data)


def cuts(data):
    """The data in two pieces, in every way."""
    return [(data[:i], data[i:]) for i in range(1, len(data))]


def bytewise(data):
    """The data in pieces of one byte."""
    return [data[i:i + 1] for i in range(len(data))]


def await_true(condition, what, timeout=TIMEOUT, pause=0.002):
    """Asks again and again until condition() is true; returns what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError("never happened: " + what)
        time.sleep(pause)


def free_port(host="127.0.0.1"):
    """A port below the range that the kernel takes for outgoing connections; who loses a race for it tries again."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket(family) as s:
            try:
                s.bind((host, port))
                return port
            except OSError:
                pass


def has_sanitizer():
    """Whether moxi is instrumented (or runs in valgrind), so that its memory says nothing."""
    with open(MOXI[-1], "rb") as f:
        image = f.read()
    return len(MOXI) > 1 or b"__asan_init" in image or b"__tsan_init" in image


# ---------------------------------------------------------------------------------------------------------------------
# Connections


def unread_by_peer(sock):
    """Bytes that the peer of a TCP connection over loopback has not read yet; 0 too when it has closed."""
    family = sock.family
    peer, local = sock.getpeername(), sock.getsockname()
    raw = [socket.inet_pton(family, a[0]).ljust(16, b"\0") for a in (peer, local)]
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    request += struct.pack("!HH", peer[1], local[1]) + raw[0] + raw[1] + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:  # NETLINK_SOCK_DIAG
        diag.send(struct.pack("=IHHII", 16 + len(request), 20, 1, 1, 0) + request)  # SOCK_DIAG_BY_FAMILY
        answer = diag.recv(65536)
    if struct.unpack_from("=H", answer, 4)[0] == 2:  # NLMSG_ERROR: there is no such socket any more
        return 0
    return struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0]


class Closed(AssertionError):
    """The other side closed or reset the connection where bytes were expected."""


class Conn:
    """A connected socket with deadlines. All that is received goes through self.buffer."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = bytearray()
        self.eof = False
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)

    def send(self, data, timeout=TIMEOUT):
        """Sends it all; keeps reading meanwhile, so that two sides that both write cannot block each other."""
        view = memoryview(data)
        deadline = time.monotonic() + timeout
        while view:
            left = deadline - time.monotonic()
            readable, writable, _ = select.select([] if self.eof else [self.sock], [self.sock], [], max(left, 0))
            if not readable and not writable:
                raise AssertionError("could not send: %d bytes left" % len(view))
            if writable:
                try:
                    view = view[self.sock.send(view):]
                except BlockingIOError:
                    pass
                except (BrokenPipeError, ConnectionResetError):
                    raise Closed("closed while sending") from None
            if readable:
                self._receive()
        return self

    def send_some(self, data):
        """Sends what the kernel takes at once; returns how much that was."""
        sent = 0
        while sent < len(data):
            try:
                sent += self.sock.send(memoryview(data)[sent:])
            except BlockingIOError:
                break
        return sent

    def send_pieces(self, pieces):
        """Sends the pieces so that the peer reads each before the next is sent."""
        for piece in pieces:
            self.send(piece)
            self.sync()
        return self

    def sync(self):
        """Waits until the peer has read all that was sent."""
        await_true(lambda: unread_by_peer(self.sock) == 0, "the peer reads what was sent", pause=0.0002)
        return self

    def _receive(self):
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self.eof = not data
        self.buffer += data

    def _wait(self, deadline):
        if not self.eof and select.select([self.sock], [], [], max(deadline - time.monotonic(), 0))[0]:
            self._receive()
            return True
        return False

    def read(self, n, timeout=TIMEOUT):
        """Exactly n bytes."""
        deadline = time.monotonic() + timeout
        while len(self.buffer) < n:
            if self.eof:
                raise Closed("closed after %d of %d bytes: %r" % (len(self.buffer), n, bytes(self.buffer[-200:])))
            if not self._wait(deadline):
                raise AssertionError("timeout after %d of %d bytes: %r" % (len(self.buffer), n,
                                                                          bytes(self.buffer[-200:])))
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def read_until(self, end, timeout=TIMEOUT):
        """Everything up to and with end."""
        deadline = time.monotonic() + timeout
        start = 0
        while True:
            at = self.buffer.find(end, max(start - len(end), 0))
            if at >= 0:
                return self.read(at + len(end))
            start = len(self.buffer)
            if self.eof:
                raise Closed("closed before %r: %r" % (end, bytes(self.buffer[-200:])))
            if not self._wait(deadline):
                raise AssertionError("timeout before %r: %r" % (end, bytes(self.buffer[-200:])))

    def line(self, timeout=TIMEOUT):
        return self.read_until(b"\r\n", timeout)

    def lines_to_end(self, timeout=TIMEOUT):
        """The lines, without line ends, up to and without END."""
        lines = []
        while not lines or lines[-1] != b"END":
            lines.append(self.line(timeout)[:-2])
        return lines[:-1]

    def expect(self, data, timeout=TIMEOUT):
        """Exactly these bytes come next; the first that differs ends the wait."""
        deadline = time.monotonic() + timeout
        while len(self.buffer) < len(data) and self.buffer == data[:len(self.buffer)] and not self.eof:
            if not self._wait(deadline):
                break
        got = bytes(self.buffer[:len(data)])
        if got != data:
            kind = Closed if self.eof and data.startswith(got) else AssertionError
            raise kind("expected %s, got %s%s" % (show(data), show(bytes(self.buffer)), " and EOF" if self.eof else ""))
        del self.buffer[:len(data)]
        return self

    def expect_match(self, pattern, timeout=TIMEOUT):
        """The next line matches the whole pattern."""
        line = self.line(timeout)
        found = re.fullmatch(pattern, line)
        if not found:
            raise AssertionError("expected %r, got %r" % (pattern, line))
        return found

    def ask(self, request, reply, timeout=TIMEOUT):
        self.send(request)
        return self.expect(reply, timeout)

    def expect_closed(self, timeout=TIMEOUT):
        """The end of the connection comes next, nothing before it."""
        rest = self.read_all(timeout)
        if rest:
            raise AssertionError("expected the end of the connection, got %s" % show(rest))

    def read_all(self, timeout=TIMEOUT):
        """Everything up to the end of the connection."""
        deadline = time.monotonic() + timeout
        while not self.eof:
            if not self._wait(deadline):
                raise AssertionError("never closed; got %s" % show(bytes(self.buffer)))
        data = bytes(self.buffer)
        del self.buffer[:]
        return data

    def readable(self, wait=0):
        """Whether there are bytes, or the end, to read."""
        return bool(self.buffer) or self.eof or bool(select.select([self.sock], [], [], wait)[0])

    def expect_nothing(self, wait=0):
        if self.readable(wait):
            self._wait(time.monotonic() + 1)
            raise AssertionError("expected nothing, got %s%s" % (show(bytes(self.buffer)), " EOF" if self.eof else ""))
        return self

    def shutdown(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def show(data):
    return repr(data) if len(data) < 300 else "%r... (%d bytes) ...%r" % (data[:140], len(data), data[-140:])


class Client(Conn):
    """A client of moxi or memcached: address is a port of 127.0.0.1, (host, port), or the path of a unix socket."""

    def __init__(self, address, rcvbuf=None):
        if isinstance(address, int):
            address = ("127.0.0.1", address)
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX)
        else:
            sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        super().__init__(sock)

    def turn(self):
        """Goes once through moxi and back, without a server: what moxi had read before is handled now."""
        self.send(b"version\r\n")
        self.expect_match(rb"VERSION .+\r\n")
        return self


class MockServer:
    """A memcached that the test plays itself. It has a port from the start; nobody can connect when not listening."""

    def __init__(self, listening=True, rcvbuf=None):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.host = b"127.0.0.1:%d" % self.port
        self.conns = []
        if listening:
            self.listen()

    def listen(self):
        self.sock.listen(128)

    def pending(self, wait=0):
        """Whether a connection waits to be accepted."""
        return bool(select.select([self.sock], [], [], wait)[0])

    def accept(self, timeout=TIMEOUT):
        if not self.pending(timeout):
            raise AssertionError("nobody connected to the server")
        conn = Conn(self.sock.accept()[0])
        self.conns.append(conn)
        return conn

    def accept_expect(self, data):
        return self.accept().expect(data)

    def expect_somewhere(self, data, timeout=TIMEOUT):
        """These bytes come next, on whichever connection, old or new; returns that one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.pending():
                self.accept()
            for conn in self.conns:
                if conn.sock.fileno() >= 0 and not conn.eof and conn.readable():
                    conn._wait(deadline)
                    if conn.buffer:
                        return conn.expect(data, deadline - time.monotonic())
            live = [c.sock for c in self.conns if c.sock.fileno() >= 0 and not c.eof]
            select.select([self.sock] + live, [], [], max(deadline - time.monotonic(), 0))
        raise AssertionError("never came: %s" % show(data))

    def close(self):
        for conn in self.conns:
            conn.close()
        self.sock.close()


class EchoServer(threading.Thread):
    """A server in a thread that answers every get with VALUE key 0 n <value(key)>, but for keys that begin with "none", and
    everything else with STORED.

    It serves any number of connections one after the other or at once, and remembers the lines that it was sent.
    """

    def __init__(self, mock):
        super().__init__(daemon=True)
        self.mock = mock
        self.lines = []
        self.stop_r, self.stop_w = os.pipe()
        self.start()

    @staticmethod
    def value(key):
        return b"value-of-" + key

    @classmethod
    def reply(cls, key):
        return value(key, cls.value(key))

    def run(self):
        conns = {}
        while True:
            ready = select.select([self.stop_r, self.mock.sock] + list(conns), [], [])[0]
            if self.stop_r in ready:
                break
            for sock in ready:
                if sock is self.mock.sock:
                    conn = sock.accept()[0]
                    conns[conn] = b""
                elif not self.serve(conns, sock):
                    sock.close()
                    del conns[sock]
        for sock in conns:
            sock.close()

    def serve(self, conns, sock):
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            data = b""
        *lines, conns[sock] = (conns[sock] + data).split(b"\r\n")
        out = b""
        for line in lines:
            self.lines.append(line)
            words = line.split()
            if words and words[0] == b"get":
                out += b"".join(self.reply(k) for k in words[1:] if not k.startswith(b"none")) + b"END\r\n"
            elif words and words[0] == b"set":
                out += b"STORED\r\n"
        if out:
            sock.sendall(out)
        return bool(data)

    def stop(self):
        os.write(self.stop_w, b"x")
        self.join()
        os.close(self.stop_r)
        os.close(self.stop_w)


class Crowd:
    """Runs work(0), work(1) and so on up to count at once, each in a thread."""

    def __init__(self, count, work):
        self.work = work
        self.errors = []
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, number):
        try:
            self.work(number)
        except Exception as e:  # a thread has nobody else to tell
            self.errors.append("%d: %r" % (number, e))

    def join(self):
        """Waits for the end of all; returns what was raised, as text."""
        for thread in self.threads:
            thread.join()
        return self.errors


# ---------------------------------------------------------------------------------------------------------------------
# Processes


class Process:
    """A child with its stderr in a file, ended by its pid."""

    def __init__(self, argv, preexec=None, env=None):
        self.argv = argv
        self.errors = tempfile.TemporaryFile()
        environment = dict(os.environ, **(env or {}))
        self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors,
                                      preexec_fn=preexec, env=environment)
        self.pid = self.popen.pid
        self.signalled = False  # was told to end; a second time would end moxi without mercy

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")

    def wait_ready(self, address, timeout=TIMEOUT):
        """Waits until it accepts at address. False when it ended instead."""
        deadline = time.monotonic() + timeout
        while self.popen.poll() is None:
            try:
                probe = Client(address)
                probe.shutdown().read_all()  # it has closed its side, too: nothing of the probe is left
                probe.close()
                return True
            except OSError:
                if time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError("%s does not accept at %s: %s" % (self.argv, address, self.stderr())) from None
                time.sleep(0.005)
        return False

    def cpu_seconds(self):
        with open("/proc/%d/stat" % self.pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, field="VmRSS"):
        """Bytes; field VmRSS (now) or VmHWM (at most, ever)."""
        with open("/proc/%d/status" % self.pid) as f:
            for line in f:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
        raise AssertionError("no %s for %d" % (field, self.pid))

    def signal(self, number):
        self.signalled = self.signalled or number in (signal.SIGTERM, signal.SIGINT)
        self.popen.send_signal(number)

    def wait(self, timeout=TIMEOUT):
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s did not end" % self.argv) from None

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


class Memcached(Process):
    def __init__(self, *args):
        for _ in range(20):
            self.port = free_port()
            argv = MEMCACHED + ["-p", str(self.port), "-l", "127.0.0.1", "-U", "0", "-t", "1"] + list(args)
            super().__init__(argv + (["-u", "nobody"] if os.geteuid() == 0 else []))
            if self.wait_ready(self.port):
                return
        raise AssertionError("memcached does not start: " + self.stderr())

    def stop(self):
        self.kill()  # a polite end takes it a second
        self.errors.close()


def server_name(server):
    """How -z names a server: an object with a port, a port of 127.0.0.1, or text."""
    if isinstance(server, str):
        return server
    return "127.0.0.1:%d" % (server if isinstance(server, int) else server.port)


class Broken(AssertionError):
    """moxi crashed, or a sanitizer has something to say."""


class Moxi(Process):
    """moxi before one pool of servers, ready to serve when made. "{port}" in an argument becomes its port."""

    def __init__(self, servers, settings=None, *args, threads=1, preexec=None):
        names = ",".join(server_name(s) for s in servers)
        for _ in range(20):
            self.port = free_port()
            argv = MOXI + ["-z", "%d=%s" % (self.port, names), "-t", str(threads), "-l", "127.0.0.1"]
            if settings:
                argv += ["-Z", ",".join("%s=%s" % item for item in settings.items())]
            argv += [a.replace("{port}", str(self.port)) for a in args]
            super().__init__(argv, preexec)
            if self.wait_ready(self.port):
                return
            if "in use" not in self.stderr():
                break
        raise AssertionError("moxi does not start: %s: %s" % (argv, self.stderr()))

    def stop(self):
        """Ends it as a user would and checks how it went."""
        if not self.signalled:
            self.signal(signal.SIGTERM)
        try:
            status = self.wait(7 * SCALE + 3)
            text = self.stderr()
        finally:
            self.kill()
            self.errors.close()
        if status != 0 or REPORT.search(text):
            raise Broken("moxi ended with status %d: %s" % (status, text))


# ---------------------------------------------------------------------------------------------------------------------
# The base of all tests


class Attempt(unittest.TestResult):
    """What a run of a test says, kept until it is known whether that counts."""

    def __init__(self):
        super().__init__()
        self.said = []
        self.broken = False

    def _keep(self, kind, *args):
        self.said.append((kind, args))
        error = args[-1][1] if isinstance(args[-1], tuple) else None
        self.broken = self.broken or isinstance(error, Broken)
        getattr(super(), kind)(*args)

    def addSuccess(self, test):
        self._keep("addSuccess", test)

    def addError(self, test, err):
        self._keep("addError", test, err)

    def addFailure(self, test, err):
        self._keep("addFailure", test, err)

    def addSkip(self, test, reason):
        self._keep("addSkip", test, reason)

    def addExpectedFailure(self, test, err):
        self._keep("addExpectedFailure", test, err)

    def addUnexpectedSuccess(self, test):
        self._keep("addUnexpectedSuccess", test)

    def addSubTest(self, test, subtest, err):
        self._keep("addSubTest", test, subtest, err)

    def repeat_to(self, result):
        for kind, args in self.said:
            getattr(result, kind)(*args)


class TestCase(unittest.TestCase):
    """The base of all: a test that fails when the machine stood still in it has told nothing, unless moxi broke."""

    stalls = None

    def run(self, result=None):
        """It is run again, up to three times in all."""
        if result is None:
            return super().run()
        TestCase.stalls = TestCase.stalls or Stalls()
        result.startTest(self)
        for tries_left in (2, 1, 0):
            before, attempt = self.stalls.num, Attempt()
            super().run(attempt)
            if attempt.wasSuccessful() or attempt.broken or not tries_left or self.stalls.count() == before:
                break
            print("# run again: %s: the machine stood still (up to %.1f s so far)" % (self.id(), self.stalls.longest),
                  file=sys.stderr)
        attempt.repeat_to(result)
        result.stopTest(self)
        return result


class MoxiTest(TestCase):
    maxDiff = 2000

    def setUp(self):
        self._ends = ([], [], [])  # clients, then servers that tests play, before moxi, before memcached
        self.addCleanup(self._end)

    def _end(self):
        """Clients and mocks first, so that moxi has nothing left to finish; memcacheds last."""
        failed = None
        for things in self._ends:
            for end in reversed(things):
                try:
                    end()
                except AssertionError as e:
                    failed = e if isinstance(e, Broken) else failed or e
        if failed:
            raise failed

    def moxi(self, servers, settings=None, *args, **kw):
        moxi = Moxi(servers, settings, *args, **kw)
        self._ends[1].append(moxi.stop)
        return moxi

    def memcached(self, *args):
        server = Memcached(*args)
        self._ends[2].append(server.stop)
        return server

    def client(self, target, **kw):
        client = Client(getattr(target, "port", target), **kw)
        self._ends[0].append(client.close)
        return client

    def mock(self, **kw):
        mock = MockServer(**kw)
        self._ends[0].append(mock.close)
        return mock

    def echo(self, mock):
        server = EchoServer(mock)
        self._ends[0].append(server.stop)
        return server

    def drop(self, moxi):
        """For a test that has ended moxi itself."""
        self._ends[1].remove(moxi.stop)


class OneMock(MoxiTest):
    """One server, which the test is."""

    settings = {"client_buffer_max": 1 << 30}  # no request is held back for fear of large replies

    def one(self, settings=None, **kw):
        """The server, a moxi before it, and a client of that. Settings are besides those of the class."""
        mock = self.mock(**kw)
        moxi = self.moxi([mock], {**self.settings, **(settings or {})})
        return mock, moxi, self.client(moxi)


class BesideMemcached(MoxiTest):
    """A memcached on its own, and moxi before num_servers others and maybe the cache inside; for all tests of the class."""

    num_servers = 0
    local = []
    settings = {}

    @classmethod
    def setUpClass(cls):
        if not cls.num_servers and not cls.local:
            raise unittest.SkipTest("only a base")
        cls.alone = Memcached()
        cls.addClassCleanup(cls.alone.stop)
        cls.servers = []
        for _ in range(cls.num_servers):
            cls.servers.append(Memcached())
            cls.addClassCleanup(cls.servers[-1].stop)
        cls.proxy = Moxi(cls.servers + cls.local, cls.settings)
        cls.addClassCleanup(cls.proxy.stop)

    def prepare(self):
        """Both hold k = "old", its flags 3, and n = "10", and nothing else."""
        for target in (self.alone, self.proxy):
            client = Client(target.port)
            client.ask(b"flush_all\r\n", b"OK\r\n")
            client.ask(b"set k 3 0 3\r\nold\r\nset n 0 0 2\r\n10\r\n", b"STORED\r\n" * 2)
            client.close()

    @staticmethod
    def exchange(target, session, ask_mark, mark):
        """All that comes back up to the mark, which is asked for at the end, or to the end of the connection; and whether
        that came."""
        client = Client(target.port)
        try:
            client.send(session + ask_mark)
        except AssertionError:
            pass  # hung up while the session was being sent
        while not client.eof and not client.buffer.endswith(mark):
            if not client._wait(time.monotonic() + 2 * SCALE):
                break  # what came so far is compared
        data, eof = bytes(client.buffer), client.eof
        client.close()
        return data, eof


def proxy_stats(client, sub=b""):
    """stats proxy [sub] as a dict of text."""
    client.send(b"stats proxy%s\r\n" % (b" " + sub if sub else b""))
    return parse_stats(client)


def parse_stats(client):
    stats = {}
    for line in client.lines_to_end():
        if not line.startswith(b"STAT "):
            raise AssertionError("not a STAT line: %r" % line)
        key, _, value = line[5:].decode().partition(" ")
        stats[key] = value
    return stats
