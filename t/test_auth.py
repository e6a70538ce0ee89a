#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""test_auth - who clients are, and who moxi is to servers: memcached's authentication in text (-Y) and SASL PLAIN (-S).

Run as /usr/bin/python3 t/test_auth.py [Class[.test]].
"""

import os
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

from binarylib import (ADD, GET, GETQ, NOOP, QUIT, SASL_LIST, SET, STAT, VERSION, answer, packet, packets, read_packet,
                       store)
from moxilib import (META_PROBE, META_YES, MOXI, MoxiTest, await_true, cuts, free_port, ms, parse_stats, proxy_stats,
                     server_name)

SASL_AUTH, SASL_STEP = 0x21, 0x22
USERS = "joe:secret\nann:pa:ss word\n"
BARRED = b"CLIENT_ERROR unauthenticated\r\n"
FAILURE = b"CLIENT_ERROR authentication failure\r\n"


def text_auth(user, password, key=b"x"):
    value = user + b" " + password
    return b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value)


def sasl_auth(user, password, who=b"", mechanism=b"PLAIN", **kw):
    return packet(SASL_AUTH, mechanism, value=b"\0".join((who, user, password)), **kw)


class AuthTest(MoxiTest):
    def setUp(self):
        super().setUp()
        self.directory = tempfile.mkdtemp(prefix="moxi-auth-")
        os.chmod(self.directory, 0o755)  # memcached is not root
        self.addCleanup(shutil.rmtree, self.directory)

    def file(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        return path

    def with_environment(self, name, value):
        os.environ[name] = value
        self.addCleanup(os.environ.pop, name, None)

    def statuses(self, client, n):
        """Of the next n packets."""
        return [read_packet(client)[0] for _ in range(n)]


class TextClients(AuthTest):
    def serve(self, *args):
        self.users = self.file("users", USERS)
        return self.moxi(["local"], None, "-Y", self.users, *args)

    def test_nothing_before_it(self):
        moxi = self.serve("-A")
        client = self.client(moxi)
        for request in (b"get k\r\n", b"gets a b c\r\n", b"add k 0 0 2\r\nhi\r\n", b"append k 0 0 2 noreply\r\nhi\r\n", b"delete k noreply\r\n",
                        b"mg k v\r\n", b"ms k 2\r\nhi\r\n", b"mn\r\n", b"stats\r\n", b"stats proxy\r\n", b"flush_all\r\n", b"shutdown\r\n",
                        b"watch\r\n", b"verbosity 1\r\n", b"lru_crawler metadump all\r\n", b"foo\r\n", b"\r\n", b"get " + b"k" * 300 + b"\r\n"):
            client.ask(request, BARRED)
        client.send(b"version\r\n").expect_match(rb"VERSION .*\r\n")
        client.ask(b"set k 0 0 2\r\nhi\r\n", FAILURE)
        client.ask(b"set k 0 0 2 noreply\r\nhi\r\n", FAILURE)
        client.send(b"quit\r\n").expect_closed()

    def test_users(self):
        moxi = self.serve()
        for user, password in ((b"joe", b"secret"), (b"ann", b"pa:ss word")):
            client = self.client(moxi)
            client.ask(text_auth(user, password) + b"set k 0 0 2\r\nhi\r\nget k\r\n", b"STORED\r\n" * 2 + b"VALUE k 0 2\r\nhi\r\nEND\r\n")
            client.ask(b"get x\r\n", b"END\r\n")
        for user, password in ((b"joe", b"secre"), (b"joe", b"secrets"), (b"joe", b""), (b"", b""), (b"jo", b"esecret"), (b"ann", b"pa"),
                               (b"joe", b"pa:ss word"), (b"joe:secret", b""), (b"j" * 300, b"x" * 200)):
            client = self.client(moxi)
            client.ask(text_auth(user, password), FAILURE)
            client.ask(b"get k\r\n", BARRED)
            client.ask(text_auth(b"joe", b"secret"), b"STORED\r\n")

    def test_in_pieces(self):
        moxi = self.serve()
        session = b"get k\r\n" + text_auth(b"joe", b"secret") + b"get k\r\n"
        for pieces in cuts(session):
            self.client(moxi).send_pieces(pieces).expect(BARRED + b"STORED\r\nEND\r\n").close()

    def test_what_a_stranger_can_make_it_hold(self):
        moxi = self.serve()
        client = self.client(moxi)
        client.ask(b"set k 0 0 100000\r\n" + b"x" * 100000 + b"\r\n", FAILURE)
        client.ask(b"add k 0 0 100000\r\n" + b"x" * 100000 + b"\r\n", BARRED)
        client.send(b"get " + b"k " * 2000)
        client.expect(BARRED).expect_closed()

    def test_small_values_only(self):
        """item_size_max is for values; what is no value yet must not become the delete of a set that is too large."""
        users = self.file("users", USERS)
        server = self.memcached()
        moxi = self.moxi([server], {"item_size_max": 5}, "-Y", users)
        self.client(server).ask(b"set victim 0 0 1\r\nx\r\n", b"STORED\r\n")
        client = self.client(moxi)
        client.ask(b"set victim 0 0 50\r\n" + b"x" * 50 + b"\r\n", FAILURE)
        client.ask(text_auth(b"joe", b"secret") + b"get victim\r\n", b"STORED\r\nVALUE victim 0 1\r\nx\r\nEND\r\n")

    def test_log_is_not_flooded(self):
        moxi = self.serve()
        client = self.client(moxi)
        client.send(text_auth(b"joe", b"x") * 1000)
        client.expect(FAILURE * 1000)
        self.assertLess(moxi.stderr().count("authentication failed"), 20)

    def test_binary_is_not_spoken(self):
        moxi = self.serve()
        self.client(moxi).send(sasl_auth(b"joe", b"secret") + b"\r\n").expect(BARRED)

    def test_counted_and_logged(self):
        moxi = self.serve("-vvv")
        client = self.client(moxi)
        client.ask(text_auth(b"joe", b"guess-it"), FAILURE)
        client.ask(text_auth(b"joe", b"secret"), b"STORED\r\n")
        client.send(b"stats\r\n")
        stats = parse_stats(client)
        self.assertEqual((stats["auth_cmds"], stats["auth_errors"]), ("2", "1"))
        client.send(b"stats settings\r\n")
        stats = parse_stats(client)
        self.assertEqual((stats["auth_enabled_sasl"], stats["auth_enabled_ascii"], stats["binding_protocol"]), ("no", self.users, "ascii"))
        self.assertRegex(moxi.stderr(), r"client \d+, 127\.0\.0\.1 port %d: authentication failed" % client.sock.getsockname()[1])
        self.assertNotRegex(moxi.stderr(), "guess-it|secret")

    def test_read_again(self):
        moxi = self.serve("-v")
        client, late = self.client(moxi), self.client(moxi)
        client.ask(text_auth(b"joe", b"secret"), b"STORED\r\n")
        self.file("users", "joe:changed\n")
        moxi.signal(signal.SIGHUP)

        def changed():
            late.send(text_auth(b"joe", b"changed"))
            return late.line() == b"STORED\r\n"

        await_true(changed, "the file is read again")
        self.client(moxi).ask(text_auth(b"joe", b"secret"), FAILURE)
        client.ask(b"get k\r\n", b"END\r\n")
        self.file("users", "joe\n")
        moxi.signal(signal.SIGHUP)
        await_true(lambda: "they stay as they were" in moxi.stderr(), "a bad file is told")
        self.client(moxi).ask(text_auth(b"joe", b"changed"), b"STORED\r\n")
        self.assertNotIn("joe", moxi.stderr())


class BinaryClients(AuthTest):
    def serve(self, *args):
        self.with_environment("MEMCACHED_SASL_PWDB", self.file("db", "joe:secret:more\nann:word\n"))
        return self.moxi(["local"], None, "-S", *args)

    def test_nothing_before_it(self):
        moxi = self.serve()
        for request in (packet(GET, b"k"), packet(GETQ, b"k"), store(SET, b"k", b"x"), store(ADD, b"k", b"x"), packet(NOOP), packet(STAT),
                        packet(0x40), packet(GET, b"k" * 251), packet(SET, b"k")):
            client = self.client(moxi)
            client.send(request + packet(NOOP))
            found, rest = packets(client.read_all())
            self.assertEqual([p[2] for p in found], [0x20], request)
            self.assertEqual(rest, b"")
        client = self.client(moxi)
        client.send(packet(VERSION) + packet(SASL_LIST))
        self.assertEqual(self.statuses(client, 2), [0, 0])
        self.client(moxi).send(packet(QUIT)).expect(answer(QUIT)).expect_closed()

    def test_users(self):
        client = self.client(self.serve())
        client.ask(packet(SASL_LIST), answer(SASL_LIST, value=b"PLAIN"))
        for wrong in (sasl_auth(b"joe", b"wrong"), sasl_auth(b"joe", b"secret:more"), sasl_auth(b"joe", b"secret", mechanism=b"CRAM-MD5"),
                      sasl_auth(b"joe", b""), packet(SASL_AUTH, b"PLAIN", value=b"joe secret"), packet(SASL_AUTH, b"PLAIN"),
                      packet(SASL_AUTH, b"PLAIN", value=b"\0joe"), packet(SASL_STEP, b"PLAIN", value=b"\0joe\0secret"),
                      packet(SASL_AUTH, b"PLAIN", value=b"x" * 100000)):
            client.send(wrong)
            self.assertEqual(self.statuses(client, 1), [0x20])
        client.ask(sasl_auth(b"joe", b"secret"), answer(SASL_AUTH, value=b"Authenticated"))
        client.send(store(SET, b"k", b"x") + packet(GET, b"k"))
        self.assertEqual(self.statuses(client, 2), [0, 0])
        client.ask(sasl_auth(b"ann", b"word", who=b"somebody"), answer(SASL_AUTH, value=b"Authenticated"))

    def test_small_values_only(self):
        self.with_environment("MEMCACHED_SASL_PWDB", self.file("db", "joe:secret\n"))
        moxi = self.moxi(["local"], {"item_size_max": 5}, "-S", "-Y", self.file("users", USERS))
        watcher = self.client(moxi)
        watcher.ask(text_auth(b"joe", b"secret") + b"watch mutations\r\n", b"STORED\r\nOK\r\n")
        client = self.client(moxi)
        client.send(packet(SASL_STEP, b"PLAIN", value=b"x" * 100) + sasl_auth(b"joe", b"secret") + packet(NOOP))
        self.assertEqual(self.statuses(client, 3), [0x20, 0, 0])

    def test_who_fails_again_is_barred_again(self):
        client = self.client(self.serve())
        client.send(sasl_auth(b"joe", b"secret") + packet(NOOP) + sasl_auth(b"joe", b"x") + packet(NOOP))
        self.assertEqual(self.statuses(client, 4), [0, 0, 0x20, 0x20])
        client.expect_closed()

    def test_text_is_not_spoken(self):
        self.client(self.serve()).send(b"get k\r\n").expect_closed()

    def test_both(self):
        users = self.file("users", USERS)
        moxi = self.moxi(["local"], None, "-S", "-Y", users)
        client = self.client(moxi)
        client.send(sasl_auth(b"ann", b"pa:ss word") + store(SET, b"k", b"x"))
        self.assertEqual(self.statuses(client, 2), [0, 0])
        self.client(moxi).ask(b"get k\r\n" + text_auth(b"joe", b"secret") + b"get k\r\n", BARRED + b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n")

    def test_without_it(self):
        """As in a memcached without -S."""
        client = self.client(self.moxi(["local"]))
        client.send(packet(SASL_LIST) + sasl_auth(b"joe", b"secret") + packet(SASL_STEP, b"PLAIN", value=b"x") + packet(NOOP))
        self.assertEqual(self.statuses(client, 4), [0x81, 0x81, 0x81, 0])


@unittest.skipUnless(os.path.exists("/usr/bin/php"), "needs php-memcached")
class ClientLibrary(AuthTest):
    """libmemcached's SASL, as PHP has it."""

    SCRIPT = """$m = new Memcached(); $m->setOption(Memcached::OPT_BINARY_PROTOCOL, true); $m->setSaslAuthData('joe', $argv[2]);
        $m->addServer('127.0.0.1', (int)$argv[1]); echo $m->set('k', 'v') ? $m->get('k') : $m->getResultMessage();"""

    def test_each(self):
        moxi = self.moxi(["local"], None, "-S", "-Y", self.file("users", USERS))
        for password, said in (("secret", b"v"), ("wrong", b"AUTHENTICATION FAILURE")):
            done = subprocess.run(["/usr/bin/php", "-r", self.SCRIPT, str(moxi.port), password], stdout=subprocess.PIPE, timeout=60,
                                  check=True)
            self.assertEqual(done.stdout, said)


class Starting(AuthTest):
    def refused(self, *args, environment=None):
        done = subprocess.run(MOXI + ["-p", "-1", "-t", "1", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=20,
                              stderr=subprocess.STDOUT, check=False, env=dict(os.environ, **(environment or {})))
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stdout.count(b"\n"), 1, done.stdout)
        self.assertNotRegex(done.stdout, b"secret")
        return done.stdout.decode()

    def test_files(self):
        for text, wrong in (("joe\n", "line 1: expected user:password"), ("joe:secret\n\nsecret\n", "line 3: expected"), ("", "no users"),
                            (":secret\n", "line 1: expected"), ("joe:" + "secret" * 100 + "\n", "line 1: a user or a password of more"),
                            ("x" * 5000 + ":y", "line 1: a user or a password of more"), ("joe:secret\0more\n", "line 1: expected")):
            path = self.file("users", text)
            self.assertIn("moxi: users: %s: %s" % (path, wrong), self.refused("-Y", path))
        self.assertIn("No such file", self.refused("-Y", "/nonexistent"))
        self.assertIn("MEMCACHED_SASL_PWDB", self.refused("-S"))
        self.assertIn("/nonexistent", self.refused("-S", environment={"MEMCACHED_SASL_PWDB": "/nonexistent"}))

    def test_what_does_not_go_together(self):
        users = self.file("users", USERS)
        for args, wrong in ((("-Y", users, "-B", "binary"), "-B binary"), (("-S", "-B", "ascii"), "-B ascii"), (("-S", "-B", "auto"), "-B auto"),
                            (("-Y", users, "-B", "auto"), "-B auto"), (("-Y", users, "-U", "1"), "-U")):
            self.assertIn(wrong, self.refused(*args))

    def test_password_of_servers(self):
        self.assertIn("-Z: pwd", self.refused("-Z", "usr=joe,pwd=secret"))
        self.assertIn("without usr", self.refused("-Z", self.file("settings", "pwd=secret\n")))
        self.assertIn("-Z: pwd", self.refused("-Z", "0.usr=joe,0.pwd=secret"))
        self.assertIn("pool 0: pwd: a password without usr", self.refused("-Z", self.file("settings", "0.pwd=secret\n")))
        self.assertIn("line 3: 9 is not the LPORT", self.refused("-Z", self.file("settings", "usr=joe\n\n9.pwd=secret\n")))
        self.assertIn("MOXI_SASL_PLAIN", self.refused(environment={"MOXI_SASL_PLAIN_USR": "x" * 300}))
        self.assertIn("usr, pwd", self.refused(environment={"MOXI_SASL_PLAIN_USR": "a b"}))
        self.assertIn("pwd: expected", self.refused("-Z", self.file("settings", "usr=a\npwd=\nhash=md5\n")))


class Servers(AuthTest):
    """moxi is joe, and the password is in a file of settings, or in the environment."""

    def settings(self, password="secret", user="joe", **more):
        text = "usr=%s\npwd=%s\n" % (user, password) + "".join("%s=%s\n" % item for item in more.items())
        return self.file("settings", text)

    def before(self, server, *args, **kw):
        return self.moxi([server], None, "-Z", self.settings(**kw), "-v", *args)

    def check_use(self, moxi):
        client = self.client(moxi)
        client.ask(b"set k 0 0 1\r\nx\r\nget k none\r\ndelete k\r\n", b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\nDELETED\r\n")
        client.ask(b"ms k 1\r\nx\r\nmg k v\r\n", b"HD\r\nVA 1\r\nx\r\n")
        self.assertEqual(proxy_stats(client)["%d:default:pstd_stats:tot_downstream_auth" % moxi.port], "1")

    def test_memcached_in_text(self):
        server = self.memcached("-Y", self.file("users", USERS))
        for protocol in ("auto", "ascii", "meta"):
            self.check_use(self.before(server, downstream_protocol=protocol))

    def sasl_memcached(self):
        """Debian's, with a database of Cyrus SASL's."""
        database = os.path.join(self.directory, "sasldb")
        subprocess.run(["saslpasswd2", "-f", database, "-a", "memcached", "-u", "here", "-c", "-p", "joe"], input=b"secret", check=True)
        os.chmod(database, 0o644)
        self.file("memcached.conf", "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: plain\nsasldb_path: %s\n" % database)
        self.with_environment("SASL_CONF_PATH", self.directory)
        return self.memcached("-S")

    def test_memcached_with_sasl(self):
        server = self.sasl_memcached()
        self.check_use(self.before(server, user="joe@here", downstream_protocol="binary"))
        moxi = self.before(server, user="joe@here", password="wrong", downstream_protocol="binary")
        self.client(moxi).ask(b"set k 0 0 1\r\nx\r\n", b"SERVER_ERROR proxy write to downstream 127.0.0.1:%d\r\n" % server.port)

    def test_moxi_before_moxi(self):
        users = self.file("users", USERS)
        inner = self.moxi(["local"], None, "-S", "-Y", users)
        for protocol in ("auto", "ascii", "meta", "binary"):
            self.check_use(self.before(inner, downstream_protocol=protocol))

    def test_servers_that_do_not_ask(self):
        """In the binary protocol they say so; in text they take it for an item, which has expired."""
        server = self.memcached()
        moxi = self.before(server, downstream_protocol="binary")
        self.check_use(moxi)
        self.assertIn("does not ask who moxi is", moxi.stderr())
        self.check_use(self.before(server))
        self.client(server).ask(b"get auth\r\n", b"END\r\n")

    def test_environment(self):
        server = self.memcached("-Y", self.file("users", USERS))
        self.with_environment("MOXI_SASL_PLAIN_USR", "joe")
        self.with_environment("MOXI_SASL_PLAIN_PWD", "secret")
        self.check_use(self.moxi([server]))

    def two_pools(self, first, second, text):
        """Before two servers; "{port}" in the settings is the port of the second pool."""
        port = free_port()
        settings = self.file("settings", text.replace("{port}", str(port)))
        moxi = self.moxi(["%s;%d=%s" % (server_name(first), port, server_name(second))], None, "-Z", settings, "-vv")
        return moxi, port

    def check_two(self, moxi, port):
        """joe is the user of the first pool, and ann of the second."""
        for i, client in enumerate((self.client(moxi), self.client(port))):
            client.ask(b"set k 0 0 1\r\n%d\r\nget k\r\n" % i, b"STORED\r\nVALUE k 0 1\r\n%d\r\nEND\r\n" % i)
        client.send(b"stats proxy\r\n")
        stats = client.read_until(b"END\r\n")
        for pool, user in ((moxi.port, b"joe"), (port, b"ann")):
            self.assertIn(b"STAT %d:%d:behavior:usr %s\r\n" % (pool, pool, user), stats)
            self.assertIn(b"STAT %d:%d:behavior:pwd (not shown)\r\n" % (pool, pool), stats)
        for secret in ("secret", "another"):
            self.assertNotIn(secret.encode(), stats)
            self.assertNotIn(secret, moxi.stderr())

    def test_each_pool_its_own(self):
        joe, ann = self.memcached("-Y", self.file("joe", "joe:secret\n")), self.memcached("-Y", self.file("ann", "ann:another\n"))
        self.check_two(*self.two_pools(joe, ann, "{port}.pwd=another\nusr=joe\n{port}.usr=ann\npwd=secret\n"))
        self.with_environment("MOXI_SASL_PLAIN_USR", "joe")
        self.with_environment("MOXI_SASL_PLAIN_PWD", "secret")
        self.check_two(*self.two_pools(joe, ann, "{port}.usr=ann\n{port}.pwd=another\n"))

    def test_each_pool_its_own_by_sasl(self):
        joe = self.memcached("-Y", self.file("joe", "joe:secret\n"))
        ann = self.moxi(["local"], None, "-S", "-Y", self.file("ann", "ann:another\n"))
        self.check_two(*self.two_pools(
            joe, ann, "{port}.downstream_protocol=binary\n{port}.usr=ann\n{port}.pwd=another\nusr=joe\npwd=secret\n"))

    def test_the_other_pool_says_nothing(self):
        mocks = self.mock(), self.mock()
        moxi, port = self.two_pools(*mocks, "{port}.usr=ann\n{port}.pwd=another\n")
        self.client(moxi).send(b"get k\r\n")
        mocks[0].accept_expect(b"get k\r\n")
        self.client(port).send(b"get k\r\n")
        mocks[1].accept_expect(b"set auth 0 -1 11\r\nann another\r\n")

    def test_wrong_password_is_no_loop(self):
        server = self.memcached("-Y", self.file("users", USERS))
        moxi = self.before(server, password="wrong", connect_retry_interval=ms(200))
        client = self.client(moxi)
        error = b"SERVER_ERROR proxy write to downstream 127.0.0.1:%d\r\n" % server.port
        for _ in range(20):
            client.ask(b"get k\r\nset k 0 0 1\r\nx\r\n", b"END\r\n" + error)
        self.assertEqual(moxi.stderr().count("user joe is not accepted"), 1)
        self.assertNotIn("wrong", moxi.stderr())
        # It may be right later.
        self.file("users", "joe:wrong\n")
        server.signal(signal.SIGHUP)

        def accepted():
            client.send(b"set k 0 0 1\r\nx\r\n")
            return client.line() == b"STORED\r\n"

        await_true(accepted, "it is tried again", pause=0.02)

    def test_nothing_goes_before(self):
        mock = self.mock()
        client = self.client(self.before(mock))
        client.send(b"get k\r\nset k 0 0 1\r\nx\r\nmg k v\r\n")
        server = mock.accept_expect(b"set auth 0 -1 10\r\njoe secret\r\n")
        server.expect_nothing(0.05)
        server.send(b"STOR").expect_nothing(0.05)
        server.send(b"ED\r\n").expect(b"get k\r\nset k 0 0 1\r\nx\r\n")
        server.send(b"END\r\nSTORED\r\n").expect(META_PROBE)
        server.send(META_YES).expect(b"mg k v\r\n").send(b"EN\r\n")
        client.expect(b"END\r\nSTORED\r\nEN\r\n")

    def test_nothing_goes_before_in_binary(self):
        mock = self.mock()
        client = self.client(self.before(mock, downstream_protocol="binary"))
        client.send(b"get k\r\n")
        hello = sasl_auth(b"joe", b"secret", opaque=b"\0\0\0\0")
        place = struct.pack(">I", len(hello))
        server = mock.accept_expect(hello)
        server.expect_nothing(0.05)
        server.send(answer(SASL_AUTH, value=b"Authenticated", opaque=b"\0\0\0\0")).expect(packet(GET, b"k", opaque=place))
        server.send(answer(GET, status=1, opaque=place))
        client.expect(b"END\r\n")

    def test_again_on_each_connection(self):
        mock = self.mock()
        client = self.client(self.before(mock))
        for _ in range(3):
            client.send(b"set k 0 0 1\r\nx\r\n")
            server = mock.accept_expect(b"set auth 0 -1 10\r\njoe secret\r\n").send(b"STORED\r\n")
            server.expect(b"set k 0 0 1\r\nx\r\n").send(b"STORED\r\n")
            client.expect(b"STORED\r\n")
            server.close()

    def test_silence(self):
        mock = self.mock()
        moxi = self.before(mock, auth_timeout=ms(100), connect_max_errors=1)
        client = self.client(moxi)
        client.send(b"set k 0 0 1\r\nx\r\n")
        for _ in range(2):
            mock.accept_expect(b"set auth 0 -1 10\r\njoe secret\r\n").expect_closed()
        client.expect(b"SERVER_ERROR proxy write to downstream %s\r\n" % mock.host)
        self.assertFalse(mock.pending())
        self.assertIn("cannot authenticate: auth_timeout", moxi.stderr())

    def test_hangs_up(self):
        mock = self.mock()
        moxi = self.before(mock, connect_max_errors=2)
        client = self.client(moxi)
        client.send(b"set k 0 0 1\r\nx\r\n")
        for said in (b"", b"STOR", b"STORED\r"):
            mock.accept_expect(b"set auth 0 -1 10\r\njoe secret\r\n").send(said).close()
        client.expect(b"SERVER_ERROR proxy write to downstream %s\r\n" % mock.host)
        self.assertFalse(mock.pending())

    def test_answers_that_are_none(self):
        """None of them is a loop; and only what is about the password leaves the server alone at once."""
        for reply, protocol in ((b"ERROR\r\n", "auto"), (b"NOT_STORED\r\n", "auto"), (b"EXISTS\r\n", "ascii"), (b"STORED\r\nSTORED\r\n", "meta"),
                                (b"SERVER_ERROR busy\r\n", "auto"), (b"ERROR Too many open connections\r\n", "auto"), (b"\x81" * 24, "binary"),
                                (answer(SASL_AUTH, status=0x21, opaque=b"\0\0\0\0"), "binary"),
                                (answer(SASL_AUTH, status=0x82, opaque=b"\0\0\0\0"), "binary"),
                                (answer(SASL_AUTH, opaque=b"\0\0\0\0") + answer(NOOP), "binary")):
            with self.subTest(reply=reply):
                mock = self.mock()
                client = self.client(self.before(mock, downstream_protocol=protocol, connect_max_errors=2))
                client.send(b"set k 0 0 1\r\nx\r\n")
                for _ in range(3):
                    server = mock.accept()
                    server.read(1)
                    server.send(reply)
                    try:
                        server.read_all()
                    except AssertionError:
                        self.fail("not hung up on")
                client.expect(b"SERVER_ERROR proxy write to downstream %s\r\n" % mock.host)
                self.assertFalse(mock.pending())

    def test_full_server_that_does_not_ask(self):
        mock = self.mock()
        client = self.client(self.before(mock))
        client.send(b"get k\r\n")
        mock.accept_expect(b"set auth 0 -1 10\r\njoe secret\r\n").send(b"SERVER_ERROR out of memory storing object\r\n").expect(b"get k\r\n").send(
            b"END\r\n")
        client.expect(b"END\r\n")

    def test_password_of_any_characters(self):
        server = self.memcached("-Y", self.file("users", "joe:a,b;c#d=\n"))
        self.check_use(self.before(server, password="a,b;c#d="))

    def test_nobody_sees_it(self):
        server = self.memcached("-Y", self.file("users", USERS))
        moxi = self.before(server, "-vv")
        client = self.client(moxi)
        client.ask(b"get k\r\n", b"END\r\n")
        client.send(b"stats proxy\r\n")
        stats = client.read_until(b"END\r\n")
        self.assertIn(b"behavior:usr joe\r\n", stats)
        self.assertNotIn(b"secret", stats)
        self.assertNotIn("secret", moxi.stderr())
        with open("/proc/%d/cmdline" % moxi.pid, "rb") as f:
            self.assertNotIn(b"secret", f.read())


if __name__ == "__main__":
    unittest.main()
