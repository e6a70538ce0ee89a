// SPDX-License-Identifier: BSD-3-Clause
//
// Spymemcached - what scenario.py does, with spymemcached, in text and in the binary protocol: HOST PORT.

import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.Future;
import net.spy.memcached.BinaryConnectionFactory;
import net.spy.memcached.CASResponse;
import net.spy.memcached.CASValue;
import net.spy.memcached.ConnectionFactory;
import net.spy.memcached.DefaultConnectionFactory;
import net.spy.memcached.MemcachedClient;

public class Spymemcached {
    static final int KEYS = 1000;
    static final int DEADLINE_MS = 10000;

    static int number = 0;
    static int failed = 0;

    final MemcachedClient client;
    final String kind;

    Spymemcached(MemcachedClient client, String kind) {
        this.client = client;
        this.kind = kind;
    }

    void same(Object got, Object expected, String name) {
        boolean good = Objects.equals(got, expected);

        number++;
        failed += good ? 0 : 1;
        System.out.printf("%s %d - %s: %s%n", good ? "ok" : "not ok", number, kind, name);
        if (!good)
            System.out.printf("# got %.200s, expected %.200s%n", got, expected);
    }

    static String valueOf(int n) {
        return n + "\r\nEND\r\nVALUE " + n + " 0 1\r\n" + "x".repeat(n % 271);
    }

    void storeAndFetch() throws Exception {
        Map<String, Object> values = new HashMap<>();
        List<Future<Boolean>> sets = new ArrayList<>();
        List<String> missing = new ArrayList<>();
        int stored = 0;

        for (int n = 0; n < KEYS; n++)
            values.put("many:" + n, valueOf(n));
        for (int n = 0; n < 50; n++)
            missing.add("missing:" + n);
        for (Map.Entry<String, Object> e : values.entrySet())
            sets.add(client.set(e.getKey(), 0, e.getValue()));
        for (Future<Boolean> set : sets)
            stored += set.get() ? 1 : 0;
        same(stored, KEYS, "sets, all at once");
        same(client.getBulk(values.keySet()), values, "a multi-get");
        same(client.getBulk(missing), Collections.emptyMap(), "a multi-get of misses");
        same(client.get("many:7"), valueOf(7), "a get");
        same(client.get("missing:7"), null, "a get that misses");
    }

    void conditionalStores() throws Exception {
        same(client.replace("store", 0, "no").get(), false, "replace without a value");
        same(client.append(0L, "store", "no").get(), false, "append without a value");
        same(client.prepend(0L, "store", "no").get(), false, "prepend without a value");
        same(client.add("store", 0, "one").get(), true, "add");
        same(client.add("store", 0, "two").get(), false, "add over a value");
        same(client.replace("store", 0, "two").get(), true, "replace");
        same(client.append(0L, "store", "-three").get(), true, "append");
        same(client.prepend(0L, "store", "one-").get(), true, "prepend");
        same(client.get("store"), "one-two-three", "the value after all of them");
    }

    void counters() throws Exception {
        client.set("counter", 0, "10").get();
        same(client.incr("counter", 5), 15L, "incr");
        same(client.decr("counter", 7), 8L, "decr");
        same(client.decr("counter", 20), 0L, "decr stops at 0");
        same(client.incr("no-counter", 1), -1L, "incr of a miss");
        if ("ascii".equals(System.getenv("DOWNSTREAM_PROTOCOL")))
            return;
        same(client.incr("made", 1, 42), 42L, "incr of a miss with a default");
        same(client.incr("made", 1, 42), 43L, "and again");
    }

    void compareAndSwap() throws Exception {
        client.set("cas", 0, "one").get();
        CASValue<Object> value = client.gets("cas");
        same(value.getValue(), "one", "gets");
        same(client.cas("cas", value.getCas(), "two"), CASResponse.OK, "cas");
        same(client.cas("cas", value.getCas(), "three"), CASResponse.EXISTS, "cas with a token that is used up");
        same(client.cas("no-cas", value.getCas(), "x"), CASResponse.NOT_FOUND, "cas of a miss");
        same(client.get("cas"), "two", "the value after cas");
    }

    void sizes() throws Exception {
        byte[] large = new byte[900 * 1024];

        new Random(1).nextBytes(large);
        same(client.set("large", 0, large).get(), true, "set of 900 KB");
        same(java.util.Arrays.equals((byte[]) client.get("large"), large), true, "get of 900 KB");
        same(client.set("empty", 0, "").get(), true, "set of an empty value");
        same(client.get("empty"), "", "get of an empty value");
        same(client.set("k".repeat(250), 0, "long").get(), true, "a key of 250 bytes");
        same(client.get("k".repeat(250)), "long", "and its value");
    }

    void deletesAndExpiry() throws Exception {
        long till = System.currentTimeMillis() + DEADLINE_MS;

        client.set("delete", 0, "x").get();
        same(client.delete("delete").get(), true, "delete");
        same(client.delete("delete").get(), false, "delete of a miss");
        client.set("short", 2, "x").get();
        client.set("touched", 2, "x").get();
        same(client.touch("touched", 100).get(), true, "touch");
        same(client.touch("no-key", 100).get(), false, "touch of a miss");
        while (client.get("short") != null && System.currentTimeMillis() < till)
            Thread.sleep(50);
        same(client.get("short"), null, "it expires");
        same(client.get("touched"), "x", "what was touched does not");
    }

    void wholeServer() throws Exception {
        Collection<String> versions = client.getVersions().values();

        same(versions.size() == 1 && versions.iterator().next().startsWith("1."), true, "version");
        same(client.getStats().values().iterator().next().containsKey("pid"), true, "stats");
        same(client.flush().get(), true, "flush");
        same(client.get("many:7"), null, "nothing after it");
    }

    void all() throws Exception {
        storeAndFetch();
        conditionalStores();
        counters();
        compareAndSwap();
        sizes();
        deletesAndExpiry();
        wholeServer();
    }

    static void run(ConnectionFactory factory, String kind, InetSocketAddress address) throws Exception {
        MemcachedClient client = new MemcachedClient(factory, List.of(address));

        try {
            new Spymemcached(client, kind).all();
        } finally {
            client.shutdown();
        }
    }

    public static void main(String[] args) throws Exception {
        InetSocketAddress address = new InetSocketAddress(args[0], Integer.parseInt(args[1]));

        run(new DefaultConnectionFactory(), "text", address);
        run(new BinaryConnectionFactory(), "binary", address);
        System.out.printf("1..%d%n", number);
        System.exit(failed == 0 ? 0 : 1);
    }
}
