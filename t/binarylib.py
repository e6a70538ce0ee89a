# SPDX-License-Identifier: BSD-3-Clause
"""binarylib - packets of the binary protocol, of clients and of servers, for the tests that write or read them."""

import struct

GET, SET, ADD, REPLACE, DELETE, INCR, DECR, QUIT, FLUSH, GETQ, NOOP, VERSION, GETK, GETKQ, APPEND, PREPEND, STAT = range(17)
SETQ, ADDQ, REPLACEQ, DELETEQ, INCRQ, DECRQ, QUITQ, FLUSHQ, APPENDQ, PREPENDQ, VERBOSITY, TOUCH, GAT, GATQ = range(17, 31)
GATK, GATKQ = 0x23, 0x24
SASL_LIST = 0x20
NEVER = 0xffffffff


def packet(op, key=b"", extras=b"", value=b"", cas=0, opaque=b"abcd", magic=0x80, body=None, keylen=None):
    body = len(key) + len(extras) + len(value) if body is None else body
    keylen = len(key) if keylen is None else keylen
    return struct.pack(">BBHBBHI4sQ", magic, op, keylen, len(extras), 0, 0, body, opaque, cas) + extras + key + value


def store(op, key, value, flags=0, exptime=0, **kw):
    return packet(op, key, struct.pack(">II", flags, exptime), value, **kw)


def count(op, key, delta=1, initial=0, exptime=0, **kw):
    return packet(op, key, struct.pack(">QQI", delta, initial, exptime & 0xffffffff), **kw)


def expire(op, key, exptime, **kw):
    return packet(op, key, struct.pack(">I", exptime & 0xffffffff), **kw)


def packets(data):
    """Replies, each as (opcode, opaque, status, whether there is a cas, extras, key, value); and what is left."""
    out = []
    while len(data) >= 24:
        magic, op, keylen, extlen, kind, status, body, opaque, cas = struct.unpack(">BBHBBHI4sQ", data[:24])
        if magic != 0x81 or len(data) < 24 + body:
            break
        rest = data[24:24 + body]
        out.append((op, opaque, status, cas != 0, rest[:extlen], rest[extlen:extlen + keylen], rest[extlen + keylen:], kind))
        data = data[24 + body:]
    return out, data


def read_packet(client):
    """The status and the value of the next reply."""
    _, _, keylen, extlen, _, status, body = struct.unpack(">BBHBBHI12x", client.read(24))
    return status, client.read(body)[extlen + keylen:]


def answer(op, key=b"", extras=b"", value=b"", status=0, cas=0, opaque=b"abcd"):
    """A server's."""
    body = len(key) + len(extras) + len(value)
    return struct.pack(">BBHBBHI4sQ", 0x81, op, len(key), len(extras), 0, status, body, opaque, cas) + extras + key + value


# The end of a session, and what says that all before it has been answered.
MARK = packet(NOOP, opaque=b"mark")
MARKED = answer(NOOP, opaque=b"mark")
