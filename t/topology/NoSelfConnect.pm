# SPDX-License-Identifier: BSD-3-Clause
package NoSelfConnect;

# NoSelfConnect - loaded into memcached's tests: a TCP connection to a port on which nobody listens yet must fail.
#
# The tests choose the port of their server, start it, and connect until that works. While nobody listens, the kernel may
# give such an attempt that very port for its own end; it then succeeds, the test talks to itself, and the server finds
# its port taken. One attempt in 28,000 does, and a run of all topologies makes some thousand.
use strict;
use warnings;
use IO::Socket::INET;

my $new = \&IO::Socket::INET::new;

no warnings 'redefine';
*IO::Socket::INET::new = sub {
    my $socket = $new->(@_) or return;
    my ($here, $there) = (getsockname($socket), getpeername($socket));

    return $socket unless defined $here && defined $there && $here eq $there;
    close($socket);
    $@ = 'IO::Socket::INET: connect: connected to itself';
    return;
};

1;
