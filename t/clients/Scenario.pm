# SPDX-License-Identifier: BSD-3-Clause
#
# Scenario - what each Perl client library does through moxi.
#
# libcache-memcached-perl and libcache-memcached-fast-perl, beside this file, each call run_scenario() with a client and
# what its library can do; the two libraries share the names of their methods. Every result is checked; each check is a
# TAP line (Test::More), and the exit status is other than 0 when one failed. It is what scenario.py does; there each
# step has its comment.
package Scenario;
use strict;
use warnings;
use Exporter 'import';
use List::Util qw(shuffle);
use Test::More;
use Time::HiRes qw(time sleep);

our @EXPORT_OK = qw(run_scenario TOO_LARGE);

use constant {
    KEYS      => 1000,
    LARGE     => 900 * 1024,
    TOO_LARGE => 3 * 1024 * 1024,    # for a memcached with its default of 1 MB
    DEADLINE  => 10,
};

sub value_of
{
    my ($number) = @_;

    return "$number\r\nEND\r\nVALUE $number 0 1\r\n" . "\0" x ($number % 271);
}

sub numbered
{
    my ($prefix, $count) = @_;

    return map { ("$prefix:$_" => value_of($_)) } 0 .. $count - 1;
}

sub random_bytes
{
    my ($length) = @_;

    return pack('L*', map { int(rand(2**32)) } 1 .. $length / 4);
}

sub store_and_fetch
{
    my ($client) = @_;
    my %values  = numbered('many', KEYS);
    my @missing = map { "missing:$_" } 1 .. 50;
    my $stored  = grep { $client->set($_, $values{$_}) } keys %values;

    is($stored, KEYS, 'sets of ' . KEYS . ' keys');
    is_deeply($client->get_multi(keys %values), \%values, 'a multi-get of ' . KEYS . ' keys');
    is_deeply($client->get_multi(shuffle(keys %values, @missing)), \%values, 'a multi-get with misses');
    is_deeply($client->get_multi(@missing), {}, 'a multi-get of misses only');
    my %alone = map { $_ => scalar $client->get($_) } map { "many:$_" } 0 .. 199;
    is_deeply(\%alone, { map { $_ => $values{$_} } keys %alone }, 'gets of single keys');
    is($client->get('missing:1'), undef, 'a get that misses');
}

sub conditional_stores
{
    my ($client) = @_;

    ok(!$client->replace('store', 'no'), 'replace without a value');
    ok(!$client->append('store', 'no'), 'append without a value');
    ok(!$client->prepend('store', 'no'), 'prepend without a value');
    ok($client->add('store', 'one'), 'add');
    ok(!$client->add('store', 'two'), 'add over a value');
    ok($client->replace('store', 'two'), 'replace');
    ok($client->append('store', '-three'), 'append');
    ok($client->prepend('store', 'one-'), 'prepend');
    is($client->get('store'), 'one-two-three', 'the value after all of them');
}

sub counters
{
    my ($client) = @_;
    my $total;

    $client->set('counter', 10);
    cmp_ok($client->incr('counter', 5), '==', 15, 'incr');
    cmp_ok($client->decr('counter', 7), '==', 8, 'decr');
    cmp_ok($client->decr('counter', 20), '==', 0, 'decr stops at 0');
    $client->set('counter', 4294967295);
    cmp_ok($client->incr('counter', 1), '==', 4294967296, 'incr beyond 32 bits');
    ok(!scalar $client->incr('no-counter', 1), 'incr of a miss');
    ok(!scalar $client->decr('no-counter', 1), 'decr of a miss');
    $total = $client->incr('counter', 1) for 1 .. 100;
    cmp_ok($total, '==', 4294967396, 'a hundred incrs');
}

sub compare_and_swap
{
    my ($client) = @_;

    $client->set('cas', 'one');
    my $got = $client->gets('cas');
    is($got->[1], 'one', 'gets');
    ok($client->cas('cas', $got->[0], 'two'), 'cas');
    ok(!$client->cas('cas', $got->[0], 'three'), 'cas with a token that is used up');
    is($client->get('cas'), 'two', 'the value after cas');
    $got = $client->gets('cas');
    ok($client->set('cas', 'four'), 'a set between');
    ok(!$client->cas('cas', $got->[0], 'five'), 'cas after it');
    is($client->get('cas'), 'four', 'the value of the set between');
    is_deeply([ sort keys %{ $client->gets_multi('cas', 'missing:1', 'store') } ], [ 'cas', 'store' ], 'multi-gets');
}

sub sizes
{
    my ($client) = @_;
    my %large = map { ("large:$_" => random_bytes(LARGE)) } 1 .. 5;
    my $key   = 'k' x 250;

    ok($client->set('empty', ''), 'set of an empty value');
    is($client->get('empty'), '', 'get of an empty value');
    for my $name (sort keys %large) {
        ok($client->set($name, $large{$name}), "set of 900 KB ($name)");
        ok($client->get($name) eq $large{$name}, "get of 900 KB ($name)");
    }
    my $got = $client->get_multi(keys %large, 'empty');
    is(join(' ', sort keys %$got), join(' ', sort keys %large, 'empty'), 'a multi-get of large and empty values');
    is(scalar(grep { $got->{$_} eq $large{$_} } keys %large), 5, 'their bytes');
    ok($client->set($key, 'long'), 'set with a key of 250 bytes');
    is($client->get($key), 'long', 'get with a key of 250 bytes');
    ok($client->set('too-large', 'old'), 'a value before one that is too large');
    ok(!$client->set('too-large', random_bytes(TOO_LARGE)), 'set of a value that is too large');
    is($client->get('too-large'), undef, 'it does not leave the old value');
    is($client->get('empty'), '', 'the connection is in step after it');
}

sub deletes
{
    my ($client) = @_;
    my %left = numbered('many', KEYS);
    my @all  = keys %left;

    ok($client->set('delete', 'x'), 'a value to delete');
    ok($client->delete('delete'), 'delete');
    is($client->get('delete'), undef, 'get after delete');
    ok(!$client->delete('delete'), 'delete of a miss');
    my $deleted = grep { $client->delete("many:$_") && delete $left{"many:$_"} } map { 2 * $_ } 0 .. KEYS / 2 - 1;
    is($deleted, KEYS / 2, 'deletes of every other key');
    is_deeply($client->get_multi(@all), \%left, 'the others are left');
}

sub expiry
{
    my ($client, $can) = @_;
    my $until = time + DEADLINE;

    ok($client->set('short', 'x', 2), 'set with an expiry');
    ok($client->set('stays', 'x', 100), 'set with a longer expiry');
    ok($client->set('past', 'x', int(time) - 10), 'set with an expiry that is past');
    is($client->get('past'), undef, 'it is not there');
    if ($can->{touch}) {
        ok($client->set("touched:$_", 'x', 2), "a value to touch ($_)") for 1 .. 2;
        ok($client->touch('touched:1', 100), 'touch');
        ok(!$client->touch('missing:1', 100), 'touch of a miss');
        is($client->gat(100, 'touched:2'), 'x', 'get and touch');
        is_deeply($client->gat_multi(100, 'touched:1', 'touched:2', 'missing:1'),
            { 'touched:1' => 'x', 'touched:2' => 'x' }, 'multi-get and touch');
    }
    while (defined $client->get('short') && time < $until) {
        sleep(0.05);
    }
    is($client->get('short'), undef, 'it expires');
    is($client->get('stays'), 'x', 'the longer one does not');
    is($client->get("touched:$_"), 'x', "the touched one does not ($_)") for $can->{touch} ? (1 .. 2) : ();
}

# Called in void context, the fast library asks for no reply.
sub silent_sets
{
    my ($client, $can) = @_;
    my %values = numbered('silent', KEYS);

    return unless $can->{silent};
    for my $key (keys %values) {
        $client->set($key, $values{$key});
    }
    is_deeply($client->get_multi(keys %values), \%values, 'sets with noreply');
    $client->delete($_) for keys %values;
    is_deeply($client->get_multi(keys %values), {}, 'deletes with noreply');
}

sub flush
{
    my ($client) = @_;
    my %values = numbered('flush', 30);

    ok($client->set($_, $values{$_}), "a value before a flush ($_)") for sort keys %values;
    is_deeply($client->get_multi(keys %values), \%values, '30 keys before a flush');
    ok($client->flush_all, 'flush_all');
    is_deeply($client->get_multi(keys %values), {}, 'none after a flush');
}

# Runs the scenario; $can says what the library has beyond the rest: cas, touch, silent.
sub run_scenario
{
    my ($client, $can) = @_;

    store_and_fetch($client);
    conditional_stores($client);
    counters($client);
    compare_and_swap($client) if $can->{cas};
    sizes($client);
    deletes($client);
    expiry($client, $can);
    silent_sets($client, $can);
    flush($client);
    done_testing();
}

1;
