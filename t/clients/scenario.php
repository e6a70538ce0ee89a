<?php
/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scenario - what each PHP client library does through moxi.
 *
 * php-memcached and php-memcache, beside this file, each derive a class from Adapter and call run_scenario(), with
 * moxi's host and port on their command line. Every result is checked; each check is a TAP line, and the exit status is
 * other than 0 when one failed. It is what scenario.py does; there each step has its comment.
 */

const KEYS = 1000;
const LARGE = 900 * 1024;
const TOO_LARGE = 3 * 1024 * 1024; /* for a memcached with its default of 1 MB */
const DEADLINE = 10;
const TIMEOUT = 30; /* seconds for an answer, where a library's own default is shorter */

/*
 * A client library as the scenario wants it: values are strings, a miss is null, what was not done is false. What a
 * library has no counterpart for is left out of features().
 */
abstract class Adapter
{
    abstract public function features(): array; /* of "touch", "silent", "many" */
    abstract public function version(): string;
    abstract public function set(string $key, string $value, int $exptime = 0): bool;
    abstract public function set_number(string $key, int $number): void;
    abstract public function add(string $key, string $value): bool;
    abstract public function replace(string $key, string $value): bool;
    abstract public function append(string $key, string $value): bool;
    abstract public function prepend(string $key, string $value): bool;
    abstract public function get(string $key): ?string;
    abstract public function get_many(array $keys): array;
    abstract public function gets(string $key): array; /* value, token */
    abstract public function cas(string $key, $token, string $value): bool;
    abstract public function incr(string $key, int $by): ?int;
    abstract public function decr(string $key, int $by): ?int;
    abstract public function delete(string $key): bool;
    abstract public function flush(): bool;

    public function touch(string $key, int $exptime): bool
    {
        return false;
    }

    public function set_silently(string $key, string $value): void
    {
    }

    public function set_many(array $values): bool
    {
        return false;
    }

    public function delete_many(array $keys): array /* key => whether it was there */
    {
        return [];
    }
}

function show($value): string
{
    return substr(json_encode($value, JSON_INVALID_UTF8_SUBSTITUTE), 0, 80);
}

/* A short text on how two values differ; of arrays, how many of their items do, and one of them. */
function difference($got, $expected): string
{
    if (!is_array($got) || !is_array($expected)) {
        return sprintf('got %s, expected %s', show($got), show($expected));
    }
    $keys = array_filter(array_keys($expected + $got), fn($key) => ($got[$key] ?? null) !== ($expected[$key] ?? null));
    $key = reset($keys);
    return sprintf('%d of %d differ: %s: got %s, expected %s', count($keys), count($expected), $key,
        show($got[$key] ?? null), show($expected[$key] ?? null));
}

class Tap
{
    private int $number = 0;
    private int $failed = 0;

    public function check(bool $good, string $name): void
    {
        $this->number++;
        $this->failed += $good ? 0 : 1;
        printf("%s %d - %s\n", $good ? 'ok' : 'not ok', $this->number, $name);
    }

    public function same($got, $expected, string $name): void
    {
        $this->check($got === $expected, $name);
        if ($got !== $expected) {
            echo '# ', difference($got, $expected), "\n";
        }
    }

    public function end(): int
    {
        echo "1..$this->number\n";
        return $this->failed ? 1 : 0;
    }
}

function value_of(int $number): string
{
    return "$number\r\nEND\r\nVALUE $number 0 1\r\n" . str_repeat("\0", $number % 271);
}

function numbered(string $prefix, int $count): array
{
    $values = [];
    for ($i = 0; $i < $count; $i++) {
        $values["$prefix:$i"] = value_of($i);
    }
    return $values;
}

function sorted(array $values): array
{
    ksort($values);
    return $values;
}

function store_and_fetch(Tap $tap, Adapter $client): void
{
    $values = numbered('many', KEYS);
    $stored = 0;
    foreach ($values as $key => $value) {
        $stored += (int)$client->set($key, $value);
    }
    $tap->same($stored, KEYS, 'sets of ' . KEYS . ' keys');
    $tap->same(sorted($client->get_many(array_keys($values))), sorted($values), 'a multi-get of ' . KEYS . ' keys');
    $mixed = array_merge(array_keys($values), array_keys(numbered('missing', 50)));
    shuffle($mixed);
    $tap->same(sorted($client->get_many($mixed)), sorted($values), 'a multi-get with misses');
    $tap->same($client->get_many(array_keys(numbered('missing', 50))), [], 'a multi-get of misses only');
    $alone = [];
    foreach (array_slice($values, 0, 200) as $key => $value) {
        $alone[$key] = $client->get($key);
    }
    $tap->same($alone, array_slice($values, 0, 200), 'gets of single keys');
    $tap->same($client->get('missing:0'), null, 'a get that misses');
}

function conditional_stores(Tap $tap, Adapter $client): void
{
    $tap->same($client->replace('store', 'no'), false, 'replace without a value');
    $tap->same($client->append('store', 'no'), false, 'append without a value');
    $tap->same($client->prepend('store', 'no'), false, 'prepend without a value');
    $tap->same($client->add('store', 'one'), true, 'add');
    $tap->same($client->add('store', 'two'), false, 'add over a value');
    $tap->same($client->replace('store', 'two'), true, 'replace');
    $tap->same($client->append('store', '-three'), true, 'append');
    $tap->same($client->prepend('store', 'one-'), true, 'prepend');
    $tap->same($client->get('store'), 'one-two-three', 'the value after all of them');
}

function counters(Tap $tap, Adapter $client): void
{
    $client->set_number('counter', 10);
    $tap->same($client->incr('counter', 5), 15, 'incr');
    $tap->same($client->decr('counter', 7), 8, 'decr');
    $tap->same($client->decr('counter', 20), 0, 'decr stops at 0');
    $client->set_number('counter', 4294967295);
    $tap->same($client->incr('counter', 1), 4294967296, 'incr beyond 32 bits');
    $tap->same($client->incr('no-counter', 1), null, 'incr of a miss');
    $tap->same($client->decr('no-counter', 1), null, 'decr of a miss');
    for ($i = 0; $i < 100; $i++) {
        $total = $client->incr('counter', 1);
    }
    $tap->same($total, 4294967396, 'a hundred incrs');
}

function compare_and_swap(Tap $tap, Adapter $client): void
{
    $client->set('cas', 'one');
    [$value, $token] = $client->gets('cas');
    $tap->same($value, 'one', 'gets');
    $tap->same($client->cas('cas', $token, 'two'), true, 'cas');
    $tap->same($client->cas('cas', $token, 'three'), false, 'cas with a token that is used up');
    $tap->same($client->get('cas'), 'two', 'the value after cas');
    [, $token] = $client->gets('cas');
    $client->set('cas', 'four');
    $tap->same($client->cas('cas', $token, 'five'), false, 'cas after a set between');
    $tap->same($client->get('cas'), 'four', 'the value of the set between');
}

function sizes(Tap $tap, Adapter $client): void
{
    $tap->same($client->set('empty', ''), true, 'set of an empty value');
    $tap->same($client->get('empty'), '', 'get of an empty value');
    $large = [];
    for ($i = 0; $i < 5; $i++) {
        $large["large:$i"] = random_bytes(LARGE);
        $tap->same($client->set("large:$i", $large["large:$i"]), true, "set of 900 KB ($i)");
    }
    foreach ($large as $key => $value) {
        $tap->check($client->get($key) === $value, "get of 900 KB ($key)");
    }
    $large['empty'] = '';
    $got = $client->get_many(array_keys($large));
    $tap->check(sorted($got) === sorted($large), 'a multi-get of large and empty values');
    $key = str_repeat('k', 250);
    $tap->same($client->set($key, 'long'), true, 'set with a key of 250 bytes');
    $tap->same($client->get($key), 'long', 'get with a key of 250 bytes');
    $client->set('too-large', 'old');
    $tap->same($client->set('too-large', random_bytes(TOO_LARGE)), false, 'set of a value that is too large');
    $tap->same($client->get('too-large'), null, 'it does not leave the old value');
    $tap->same($client->get('empty'), '', 'the connection is in step after it');
}

function deletes(Tap $tap, Adapter $client): void
{
    $client->set('delete', 'x');
    $tap->same($client->delete('delete'), true, 'delete');
    $tap->same($client->get('delete'), null, 'get after delete');
    $tap->same($client->delete('delete'), false, 'delete of a miss');
    $left = numbered('many', KEYS);
    for ($i = 0; $i < KEYS; $i += 2) {
        $client->delete("many:$i");
        unset($left["many:$i"]);
    }
    $tap->same(sorted($client->get_many(array_keys(numbered('many', KEYS)))), sorted($left), 'every other key deleted');
}

function expiry(Tap $tap, Adapter $client): void
{
    $touches = in_array('touch', $client->features());
    $tap->same($client->set('short', 'x', 2), true, 'set with an expiry');
    $tap->same($client->set('stays', 'x', 100), true, 'set with a longer expiry');
    $tap->same($client->set('past', 'x', time() - 10), true, 'set with an expiry that is past');
    $tap->same($client->get('past'), null, 'it is not there');
    if ($touches) {
        $client->set('touched', 'x', 2);
        $tap->same($client->touch('touched', 100), true, 'touch');
        $tap->same($client->touch('no-key', 100), false, 'touch of a miss');
    }
    $until = microtime(true) + DEADLINE;
    while ($client->get('short') !== null && microtime(true) < $until) {
        usleep(50000);
    }
    $tap->same($client->get('short'), null, 'it expires');
    $tap->same($client->get('stays'), 'x', 'the longer one does not');
    if ($touches) {
        $tap->same($client->get('touched'), 'x', 'the touched one does not');
    }
}

function in_bulk(Tap $tap, Adapter $client): void
{
    if (in_array('silent', $client->features())) {
        $values = numbered('silent', KEYS);
        foreach ($values as $key => $value) {
            $client->set_silently($key, $value);
        }
        $tap->same(sorted($client->get_many(array_keys($values))), sorted($values), 'sets with noreply');
    }
    if (in_array('many', $client->features())) {
        $values = numbered('bulk', KEYS);
        $tap->same($client->set_many($values), true, 'a multi-set');
        $tap->same(sorted($client->get_many(array_keys($values))), sorted($values), 'the values of a multi-set');
        $deleted = $client->delete_many(array_merge(array_keys($values), ['missing:0']));
        $tap->same(count(array_filter($deleted)), KEYS, 'a multi-delete with a miss');
        $tap->same($client->get_many(array_keys($values)), [], 'nothing after a multi-delete');
    }
}

function flush_all(Tap $tap, Adapter $client): void
{
    $values = numbered('flush', 30);
    foreach ($values as $key => $value) {
        $client->set($key, $value);
    }
    $tap->same(count($client->get_many(array_keys($values))), 30, '30 keys before a flush');
    $tap->same($client->flush(), true, 'flush');
    $tap->same($client->get_many(array_keys($values)), [], 'none after a flush');
}

/* Runs the scenario with make_client(host, port). */
function run_scenario(callable $make_client): void
{
    global $argv;
    /* php-memcache has a notice for each refusal of a server, and a dynamic property */
    error_reporting(E_ALL & ~E_NOTICE & ~E_DEPRECATED);
    $tap = new Tap();
    $client = $make_client($argv[1], (int)$argv[2]);
    $tap->check(str_starts_with($client->version(), '1.'), 'version');
    store_and_fetch($tap, $client);
    conditional_stores($tap, $client);
    counters($tap, $client);
    compare_and_swap($tap, $client);
    sizes($tap, $client);
    deletes($tap, $client);
    expiry($tap, $client);
    in_bulk($tap, $client);
    flush_all($tap, $client);
    exit($tap->end());
}
