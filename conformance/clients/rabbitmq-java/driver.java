// RabbitMQ's own Java client: blocking calls, callbacks on the client's threads.
//
// needs:    javac java /usr/share/java/amqp-client.jar /usr/share/java/slf4j-nop.jar
// apt:      default-jdk-headless librabbitmq-client-java libslf4j-java
// build:    javac -encoding UTF-8 -cp /usr/share/java/amqp-client.jar -d "$WORK" "$DIR"/*.java
// run:      java -XX:TieredStopAtLevel=1 -cp "$WORK:/usr/share/java/amqp-client.jar:/usr/share/java/slf4j-api.jar:/usr/share/java/slf4j-nop.jar" Driver

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.BlockedListener;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.LongString;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcServer;
import com.rabbitmq.client.ShutdownNotifier;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** A case: raises unless the broker behaves. */
interface Case {
    void run(World world) throws Exception;
}

/** Something done to a channel, which the broker may refuse. */
interface Act {
    void on(Channel channel) throws Exception;
}

/** Assertions and waiting, each with a deadline. */
final class Check {
    static final int DEADLINE_SECONDS = 20;

    static void equal(Object expected, Object actual) {
        if (!Objects.equals(expected, actual)) {
            throw new AssertionError("expected " + expected + ", got " + actual);
        }
    }

    static void that(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    /** The act must close this channel or connection with the code and one of the texts. */
    static void closed(ShutdownNotifier closing, Channel channel, Act act, int code, String... texts) throws Exception {
        CompletableFuture<Object> reason = new CompletableFuture<>();
        closing.addShutdownListener(signal -> reason.complete(signal.getReason()));
        try {
            act.on(channel);
        } catch (IOException | AlreadyClosedException sameReason) {
            // What it says is what the listener is told, and that is asserted on.
        }
        Object said = reason.get(DEADLINE_SECONDS, TimeUnit.SECONDS);
        int saidCode;
        String saidText;
        if (said instanceof AMQP.Channel.Close) {
            saidCode = ((AMQP.Channel.Close) said).getReplyCode();
            saidText = ((AMQP.Channel.Close) said).getReplyText();
            that(closing instanceof Channel, "only the channel was closed: " + saidText);
        } else {
            saidCode = ((AMQP.Connection.Close) said).getReplyCode();
            saidText = ((AMQP.Connection.Close) said).getReplyText();
            that(closing instanceof Connection, "the connection was closed too: " + saidText);
        }
        equal(code, saidCode);
        that(Arrays.asList(texts).contains(saidText), "expected " + String.join(" or ", texts) + ", got " + saidText);
    }
}

/** One case's view of the broker: connections, names of its own, and cleaning up. */
final class World {
    private final String url;
    private final List<Connection> connections = new ArrayList<>();
    private final List<String> queues = new ArrayList<>();
    private final List<String> exchanges = new ArrayList<>();

    World(String url) {
        this.url = url;
    }

    ConnectionFactory factory() throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(url);
        factory.setAutomaticRecoveryEnabled(false);
        factory.setRequestedHeartbeat(30);
        factory.setShutdownTimeout(5000);
        return factory;
    }

    Connection connect() throws Exception {
        return connect(factory());
    }

    Connection connect(ConnectionFactory factory) throws Exception {
        Connection connection = factory.newConnection();
        connections.add(connection);
        return connection;
    }

    /** A channel with confirms on a new connection. */
    Channel channel() throws Exception {
        return channel(connect());
    }

    Channel channel(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        channel.confirmSelect();
        return channel;
    }

    String name(String hint) {
        return hint + "-" + UUID.randomUUID().toString().substring(0, 12);
    }

    String queue(Channel channel) throws Exception {
        return queue(channel, false, null);
    }

    String queue(Channel channel, boolean durable, Map<String, Object> arguments) throws Exception {
        String name = name("queue");
        queues.add(name);
        channel.queueDeclare(name, durable, false, false, arguments);
        return name;
    }

    String boundQueue(Channel channel, String exchange, String key, Map<String, Object> arguments) throws Exception {
        String queue = queue(channel);
        channel.queueBind(queue, exchange, key, arguments);
        return queue;
    }

    String boundQueue(Channel channel, String exchange, String key) throws Exception {
        return boundQueue(channel, exchange, key, null);
    }

    String exchange(Channel channel, String kind) throws Exception {
        return exchange(channel, kind, false, null);
    }

    String exchange(Channel channel, String kind, boolean internal, Map<String, Object> arguments) throws Exception {
        String name = name(kind);
        exchanges.add(name);
        channel.exchangeDeclare(name, kind, false, false, internal, arguments);
        return name;
    }

    /** The act must be refused on a channel of its own, and leave the connection fit for work. */
    void refused(Connection connection, int code, String text, Act act) throws Exception {
        Channel channel = channel(connection);
        Check.closed(channel, channel, act, code, text);
        stillUsable(connection);
    }

    void stillUsable(Connection connection) throws Exception {
        Channel channel = channel(connection);
        String queue = channel.queueDeclare().getQueue();
        put(channel, queue, "still here");
        Check.equal(List.of("still here"), drain(channel, queue));
        channel.close();
    }

    static void put(Channel channel, String queue, String body) throws Exception {
        publish(channel, "", queue, null, body);
    }

    /** Publish confirmed: the broker has routed when this returns. */
    static void publish(Channel channel, String exchange, String key, AMQP.BasicProperties properties, String body)
            throws Exception {
        channel.basicPublish(exchange, key, properties, body.getBytes("UTF-8"));
        channel.waitForConfirmsOrDie(Check.DEADLINE_SECONDS * 1000);
    }

    static void fill(Channel channel, String queue, int count) throws Exception {
        for (String body : numbered(0, count)) {
            channel.basicPublish("", queue, null, body.getBytes("UTF-8"));
        }
        channel.waitForConfirmsOrDie(Check.DEADLINE_SECONDS * 1000);
    }

    static List<String> drain(Channel channel, String queue) throws Exception {
        List<String> bodies = new ArrayList<>();
        GetResponse next;
        while ((next = channel.basicGet(queue, true)) != null) {
            bodies.add(new String(next.getBody(), "UTF-8"));
        }
        return bodies;
    }

    static List<String> numbered(int from, int to) {
        return IntStream.range(from, to).mapToObj(Integer::toString).collect(Collectors.toList());
    }

    void end() throws Exception {
        Channel channel = channel();
        for (String queue : queues) {
            channel.queueDelete(queue);
        }
        for (String exchange : exchanges) {
            channel.exchangeDelete(exchange);
        }
        for (Connection connection : connections) {
            connection.abort(5000);
        }
    }
}

/** A consumer that keeps what it is given, in order. */
final class Inbox extends DefaultConsumer {
    final BlockingQueue<Delivery> arrived = new LinkedBlockingQueue<>();
    final List<Delivery> taken = new ArrayList<>();
    final CountDownLatch cancelled = new CountDownLatch(1);
    final String tag;

    Inbox(Channel channel, String queue, boolean noAck, boolean exclusive, Map<String, Object> arguments) throws Exception {
        super(channel);
        tag = channel.basicConsume(queue, noAck, "", false, exclusive, arguments, this);
    }

    Inbox(Channel channel, String queue) throws Exception {
        this(channel, queue, false, false, null);
    }

    @Override
    public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties properties, byte[] body) {
        arrived.add(new Delivery(envelope, properties, body));
    }

    @Override
    public void handleCancel(String tag) {
        cancelled.countDown();
    }

    Delivery take() throws Exception {
        Delivery delivery = arrived.poll(Check.DEADLINE_SECONDS, TimeUnit.SECONDS);
        Check.that(delivery != null, "no delivery, after " + taken.size());
        taken.add(delivery);
        return delivery;
    }

    List<String> take(int count) throws Exception {
        List<String> bodies = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            bodies.add(new String(take().getBody(), "UTF-8"));
        }
        return bodies;
    }

    long tag(int index) {
        return taken.get(index).getEnvelope().getDeliveryTag();
    }
}

/** The two verbs of a driver, and the cases. */
class Driver {
    static final Map<String, Case> CASES = new LinkedHashMap<>();
    static final Map<String, String> WITHOUT = Map.of(
        "channel.open/twice", "the client opens each channel once",
        "channel.flow/inactive", "the client no longer offers channel.flow",
        "heartbeat/silent-dropped", "the client beats on its own thread and cannot be kept from it",
        "connection.update-secret/accepted", "this release has no update-secret");

    static final Map<String, String> NEEDS = Map.of("connection.blocked/low-memory", "short-of-memory",
        "queue.rules/consumer-timeout", "short-consumer-timeout", "tls/server-certificate", "tls", "tls/external", "tls",
        "tls/expired", "tls", "tls/wrong-name", "tls", "tls/old-version", "tls", "tls/plain", "tls");

    static final String IN_VHOST = "' in vhost '/'";

    static void topology() {
        CASES.put("exchange.declare/kinds", world -> {
            Channel channel = world.channel();
            for (String kind : List.of("direct", "fanout", "topic", "headers")) {
                String name = world.exchange(channel, kind);
                channel.exchangeDeclare(name, kind);
                channel.exchangeDeclarePassive(name);
            }
        });
        CASES.put("exchange.declare/passive", world -> {
            Channel channel = world.channel();
            for (String kind : List.of("direct", "fanout", "topic", "headers", "match")) {
                channel.exchangeDeclarePassive("amq." + kind);
            }
        });
        CASES.put("exchange.declare/passive-missing", world -> {
            String name = world.name("missing");
            world.refused(world.connect(), 404, "NOT_FOUND - no exchange '" + name + IN_VHOST,
                channel -> channel.exchangeDeclarePassive(name));
        });
        CASES.put("exchange.declare/inequivalent", world -> {
            String name = world.exchange(world.channel(), "direct");
            String start = "PRECONDITION_FAILED - inequivalent arg '";
            String where = "' for exchange '" + name + IN_VHOST + ": received ";
            Connection connection = world.connect();
            world.refused(connection, 406, start + "type" + where + "'fanout' but current is 'direct'",
                channel -> channel.exchangeDeclare(name, "fanout"));
            world.refused(connection, 406, start + "durable" + where + "'true' but current is 'false'",
                channel -> channel.exchangeDeclare(name, "direct", true));
        });
        CASES.put("exchange.declare/reserved-name", world -> world.refused(world.connect(), 403,
            "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'",
            channel -> channel.exchangeDeclare("amq.conformance", "direct")));
        CASES.put("exchange.declare/internal", world -> {
            String name = world.exchange(world.channel(), "fanout", true, null);
            world.refused(world.connect(), 403, "ACCESS_REFUSED - cannot publish to internal exchange '" + name + IN_VHOST,
                channel -> channel.basicPublish(name, "", null, new byte[0]));
        });
        CASES.put("exchange.delete/if-unused", world -> {
            Channel setup = world.channel();
            String name = world.exchange(setup, "fanout");
            String queue = world.boundQueue(setup, name, "");
            world.refused(world.connect(), 406, "PRECONDITION_FAILED - exchange '" + name + IN_VHOST + " in use",
                channel -> channel.exchangeDelete(name, true));
            setup.queueUnbind(queue, name, "");
            setup.exchangeDelete(name, true);
        });
        CASES.put("exchange.delete/missing", world -> world.channel().exchangeDelete(world.name("missing")));
        CASES.put("exchange.bind/unbind", world -> {
            Channel channel = world.channel();
            String source = world.exchange(channel, "direct");
            String destination = world.exchange(channel, "fanout");
            String queue = world.boundQueue(channel, destination, "");
            channel.exchangeBind(destination, source, "key");
            World.publish(channel, source, "key", null, "bound");
            channel.exchangeUnbind(destination, source, "key");
            World.publish(channel, source, "key", null, "unbound");
            Check.equal(List.of("bound"), World.drain(channel, queue));
        });
        CASES.put("queue.declare/counts", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            World.fill(channel, queue, 3);
            channel.basicQos(1);
            new Inbox(channel, queue).take();
            AMQP.Queue.DeclareOk declared = channel.queueDeclarePassive(queue);
            Check.equal(List.of(2, 1), List.of(declared.getMessageCount(), declared.getConsumerCount()));
            Check.equal(2L, channel.messageCount(queue));
        });
        CASES.put("queue.declare/server-named", world -> {
            Channel channel = world.channel();
            String first = channel.queueDeclare().getQueue();
            Check.that(first.startsWith("amq.gen-"), first);
            Check.that(!first.equals(channel.queueDeclare().getQueue()), "the same name twice");
        });
        CASES.put("queue.declare/passive-missing", world -> {
            String name = world.name("missing");
            world.refused(world.connect(), 404, "NOT_FOUND - no queue '" + name + IN_VHOST,
                channel -> channel.queueDeclarePassive(name));
        });
        CASES.put("queue.declare/inequivalent", world -> {
            String name = world.queue(world.channel());
            world.refused(world.connect(), 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '" + name
                + IN_VHOST + ": received 'true' but current is 'false'",
                channel -> channel.queueDeclare(name, true, false, false, null));
        });
        CASES.put("queue.declare/exclusive", world -> {
            String name = world.name("exclusive");
            world.channel().queueDeclare(name, false, true, false, null);
            world.refused(world.connect(), 405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '" + name
                + IN_VHOST + ". It could be originally declared on another connection or the exclusive property value "
                + "does not match that of the original declaration.", channel -> channel.queueDeclarePassive(name));
        });
        CASES.put("queue.declare/auto-delete", world -> {
            Channel channel = world.channel();
            String name = world.name("auto-delete");
            channel.queueDeclare(name, false, false, true, null);
            Check.equal(null, channel.basicGet(name, true));
            channel.basicCancel(new Inbox(channel, name).tag);
            world.refused(world.connect(), 404, "NOT_FOUND - no queue '" + name + IN_VHOST,
                other -> other.queueDeclarePassive(name));
        });
        CASES.put("queue.unbind/missing", world -> {
            Channel channel = world.channel();
            channel.queueUnbind(world.queue(channel), "amq.direct", "never bound");
        });
        CASES.put("queue.purge/ready-only", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            World.fill(channel, queue, 5);
            long held = channel.basicGet(queue, false).getEnvelope().getDeliveryTag();
            Check.equal(4, channel.queuePurge(queue).getMessageCount());
            channel.basicNack(held, false, true);
            Check.equal(List.of("0"), World.drain(channel, queue));
        });
        CASES.put("queue.delete/count", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            World.fill(channel, queue, 3);
            Check.equal(3, channel.queueDelete(queue).getMessageCount());
        });
        CASES.put("queue.delete/missing",
            world -> Check.equal(0, world.channel().queueDelete(world.name("missing")).getMessageCount()));
        CASES.put("queue.delete/if-unused", world -> {
            Channel setup = world.channel();
            String queue = world.queue(setup);
            new Inbox(setup, queue);
            world.refused(world.connect(), 406, "PRECONDITION_FAILED - queue '" + queue + IN_VHOST + " in use",
                channel -> channel.queueDelete(queue, true, false));
        });
        CASES.put("queue.delete/if-empty", world -> {
            Channel setup = world.channel();
            String queue = world.queue(setup);
            World.fill(setup, queue, 1);
            world.refused(world.connect(), 406, "PRECONDITION_FAILED - queue '" + queue + IN_VHOST + " not empty",
                channel -> channel.queueDelete(queue, false, true));
        });
    }

    static void routing() {
        CASES.put("route/default", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            World.put(channel, queue, "by name");
            Check.equal(List.of("by name"), World.drain(channel, queue));
        });
        CASES.put("route/direct", world -> {
            Channel channel = world.channel();
            String exchange = world.exchange(channel, "direct");
            String red = world.boundQueue(channel, exchange, "red");
            String blue = world.boundQueue(channel, exchange, "blue");
            for (String key : List.of("red", "Red", "")) {
                World.publish(channel, exchange, key, null, key);
            }
            Check.equal(List.of("red"), World.drain(channel, red));
            Check.equal(List.of(), World.drain(channel, blue));
        });
        CASES.put("route/fanout", world -> {
            Channel channel = world.channel();
            String exchange = world.exchange(channel, "fanout");
            List<String> queues = List.of(world.boundQueue(channel, exchange, ""), world.boundQueue(channel, exchange, "x"));
            World.publish(channel, exchange, "any", null, "to all");
            for (String queue : queues) {
                Check.equal(List.of("to all"), World.drain(channel, queue));
            }
        });
        CASES.put("route/topic", world -> {
            Channel channel = world.channel();
            String exchange = world.exchange(channel, "topic");
            Map<String, List<String>> expected = Map.of("order.*", List.of("order.new"),
                "order.#", List.of("order", "order.new", "order.new.eu"), "#.eu", List.of("order.new.eu"),
                "*", List.of("order"));
            Map<String, String> queues = new LinkedHashMap<>();
            for (String pattern : expected.keySet()) {
                queues.put(pattern, world.boundQueue(channel, exchange, pattern));
            }
            for (String key : List.of("order", "order.new", "order.new.eu")) {
                World.publish(channel, exchange, key, null, key);
            }
            for (String pattern : expected.keySet()) {
                Check.equal(expected.get(pattern), World.drain(channel, queues.get(pattern)));
            }
        });
        CASES.put("route/headers-all", world -> headers(world, "all", List.of("both")));
        CASES.put("route/headers-any", world -> headers(world, "any", List.of("both", "one")));
        CASES.put("route/alternate-exchange", world -> {
            Channel channel = world.channel();
            String spare = world.exchange(channel, "fanout");
            String main = world.exchange(channel, "direct", false, Map.of("alternate-exchange", spare));
            String queue = world.boundQueue(channel, spare, "");
            World.publish(channel, main, "unknown", null, "left");
            Check.equal(List.of("left"), World.drain(channel, queue));
        });
        CASES.put("route/bad-exchange", world -> {
            String name = world.name("missing");
            world.refused(world.connect(), 404, "NOT_FOUND - no exchange '" + name + IN_VHOST,
                channel -> channel.basicPublish(name, "", null, new byte[0]));
        });
    }

    static void headers(World world, String match, List<String> expected) throws Exception {
        Channel channel = world.channel();
        String exchange = world.exchange(channel, "headers");
        String queue = world.boundQueue(channel, exchange, "", Map.of("x-match", match, "shape", "round", "size", 3));
        Map<String, Map<String, Object>> messages = new LinkedHashMap<>();
        messages.put("both", Map.of("shape", "round", "size", 3L));
        messages.put("one", Map.of("size", 3));
        messages.put("none", Map.of("shape", "square"));
        for (String body : messages.keySet()) {
            World.publish(channel, exchange, "", new AMQP.BasicProperties.Builder().headers(messages.get(body)).build(), body);
        }
        Check.equal(expected, World.drain(channel, queue));
    }

    static void publishing() {
        CASES.put("basic.publish/immediate", world -> {
            Channel channel = world.channel();
            Check.closed(channel.getConnection(), channel,
                open -> open.basicPublish("", "somewhere", false, true, null, new byte[0]), 540, "NOT_IMPLEMENTED - immediate=true");
        });
        CASES.put("basic.publish/user-id", world -> {
            String queue = world.queue(world.channel());
            world.refused(world.connect(), 406, "PRECONDITION_FAILED - user_id property set to 'root' but authenticated user was 'guest'",
                channel -> channel.basicPublish("", queue, new AMQP.BasicProperties.Builder().userId("root").build(), new byte[0]));
        });
        CASES.put("basic.return/unroutable", world -> {
            Channel channel = world.channel();
            CompletableFuture<List<Object>> returned = new CompletableFuture<>();
            channel.addReturnListener((code, text, exchange, key, properties, body) ->
                returned.complete(List.of(code, text, exchange, key, properties.getMessageId(), new String(body))));
            channel.basicPublish("amq.direct", "nowhere", true,
                new AMQP.BasicProperties.Builder().messageId("7").build(), "come back".getBytes());
            Check.equal(List.of(312, "NO_ROUTE", "amq.direct", "nowhere", "7", "come back"),
                returned.get(Check.DEADLINE_SECONDS, TimeUnit.SECONDS));
        });
        CASES.put("basic.return/before-ack", world -> {
            Channel channel = world.channel();
            BlockingQueue<String> events = new LinkedBlockingQueue<>();
            channel.addReturnListener((code, text, exchange, key, properties, body) -> events.add("return"));
            channel.addConfirmListener((tag, multiple) -> events.add("ack"), (tag, multiple) -> events.add("nack"));
            channel.basicPublish("", world.name("nowhere"), true, null, new byte[0]);
            Check.equal("return", events.poll(Check.DEADLINE_SECONDS, TimeUnit.SECONDS));
            Check.equal("ack", events.poll(Check.DEADLINE_SECONDS, TimeUnit.SECONDS));
        });
        CASES.put("confirm/single", world -> {
            Channel channel = world.channel();
            World.put(channel, world.queue(channel), "one");
        });
        CASES.put("confirm/batch", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            World.fill(channel, queue, 100);
            Check.equal(World.numbered(0, 100), World.drain(channel, queue));
        });
        CASES.put("confirm/ten-thousand", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            World.fill(channel, queue, 10_000);
            Check.equal(World.numbered(0, 10_000), new Inbox(channel, queue, true, false, null).take(10_000));
        });
        CASES.put("confirm/tx-channel", world -> {
            Channel channel = world.connect().createChannel();
            channel.txSelect();
            Check.closed(channel, channel, Channel::confirmSelect, 406,
                "PRECONDITION_FAILED - cannot switch from tx to confirm mode");
        });
    }

    static void consuming() {
        CASES.put("basic.qos/per-consumer", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicQos(3);
            List<Inbox> inboxes = List.of(new Inbox(channel, queue), new Inbox(channel, queue));
            World.fill(channel, queue, 10);
            for (Inbox inbox : inboxes) {
                inbox.take(3);
            }
            Check.equal(4L, channel.messageCount(queue));
            channel.basicAck(inboxes.get(0).tag(0), false);
            inboxes.get(0).take();
            Check.equal(3L, channel.messageCount(queue));
            Check.equal(0, inboxes.get(0).arrived.size() + inboxes.get(1).arrived.size());
        });
        CASES.put("basic.qos/per-channel", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicQos(3, true);
            List<Inbox> inboxes = List.of(new Inbox(channel, queue), new Inbox(channel, queue));
            World.fill(channel, queue, 10);
            Check.equal(7L, channel.messageCount(queue));
            Check.that(inboxes.get(0).arrived.size() + inboxes.get(1).arrived.size() <= 3, "more than three delivered");
        });
        CASES.put("basic.qos/under-load", world -> {
            Channel channel = world.connect().createChannel();
            String queue = world.queue(channel);
            channel.basicQos(10);
            AtomicInteger most = new AtomicInteger();
            Inbox inbox = new Inbox(channel, queue);
            World.fill(world.channel(), queue, 2000);
            for (int number = 0; number < 2000; number++) {
                most.accumulateAndGet(inbox.arrived.size(), Math::max);
                channel.basicAck(inbox.take().getEnvelope().getDeliveryTag(), false);
            }
            Check.that(most.get() <= 10, most + " held at once");
        });
        CASES.put("basic.qos/prefetch-size", world -> {
            Channel channel = world.channel();
            Check.closed(channel.getConnection(), channel, open -> open.basicQos(1000, 0, false), 540,
                "NOT_IMPLEMENTED - prefetch_size!=0 (1000)");
        });
        CASES.put("basic.consume/order", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            Inbox inbox = new Inbox(channel, queue);
            World.fill(channel, queue, 500);
            Check.equal(World.numbered(0, 500), inbox.take(500));
            Check.equal(500L, inbox.tag(499));
        });
        CASES.put("basic.consume/server-named-tag", world -> {
            Channel channel = world.channel();
            String tag = new Inbox(channel, world.queue(channel)).tag;
            Check.that(tag.startsWith("amq.ctag-"), tag);
        });
        CASES.put("basic.consume/missing-queue", world -> {
            String name = world.name("missing");
            world.refused(world.connect(), 404, "NOT_FOUND - no queue '" + name + IN_VHOST, channel -> new Inbox(channel, name));
        });
        CASES.put("basic.consume/exclusive", world -> {
            Channel holder = world.channel();
            String queue = world.queue(holder);
            new Inbox(holder, queue, false, true, null);
            world.refused(world.connect(), 403, "ACCESS_REFUSED - queue '" + queue + IN_VHOST + " in exclusive use",
                channel -> new Inbox(channel, queue));
        });
        CASES.put("basic.consume/tag-reused", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicConsume(queue, true, "taken", new DefaultConsumer(channel));
            Check.closed(channel.getConnection(), channel,
                open -> open.basicConsume(queue, true, "taken", new DefaultConsumer(open)), 530,
                "NOT_ALLOWED - attempt to reuse consumer tag 'taken'");
        });
        CASES.put("basic.consume/priority", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicQos(3);
            Inbox low = new Inbox(channel, queue);
            Inbox high = new Inbox(channel, queue, false, false, Map.of("x-priority", 10));
            World.fill(channel, queue, 5);
            Check.equal(List.of("0", "1", "2"), high.take(3));
            Check.equal(List.of("3", "4"), low.take(2));
        });
        CASES.put("basic.consume/competing", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            List<Inbox> inboxes = new ArrayList<>();
            for (int number = 0; number < 4; number++) {
                inboxes.add(new Inbox(world.channel(), queue, true, false, null));
            }
            World.fill(channel, queue, 400);
            List<Integer> seen = new ArrayList<>();
            for (Inbox inbox : inboxes) {
                inbox.take(100).forEach(body -> seen.add(Integer.parseInt(body)));
            }
            Check.equal(IntStream.range(0, 400).boxed().collect(Collectors.toList()),
                seen.stream().sorted().collect(Collectors.toList()));
        });
        CASES.put("basic.cancel/client", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicQos(2);
            Inbox inbox = new Inbox(channel, queue);
            World.fill(channel, queue, 5);
            inbox.take(2);
            channel.basicCancel(inbox.tag);
            channel.basicAck(inbox.tag(1), true);
            Check.equal(List.of("2", "3", "4"), World.drain(channel, queue));
            Check.equal(0, inbox.arrived.size());
        });
        CASES.put("basic.cancel/server", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            Inbox inbox = new Inbox(channel, queue);
            world.channel().queueDelete(queue);
            Check.that(inbox.cancelled.await(Check.DEADLINE_SECONDS, TimeUnit.SECONDS), "the consumer was not told");
        });
        CASES.put("basic.get/message-count", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            Check.equal(null, channel.basicGet(queue, false));
            World.fill(channel, queue, 2);
            Check.equal(1, channel.basicGet(queue, false).getMessageCount());
            Check.equal(0, channel.basicGet(queue, false).getMessageCount());
        });
    }

    /** Four of five numbered messages taken from a queue, for settling. */
    static long[] takeFour(Channel channel, String queue) throws Exception {
        World.fill(channel, queue, 5);
        long[] tags = new long[4];
        for (int number = 0; number < 4; number++) {
            tags[number] = channel.basicGet(queue, false).getEnvelope().getDeliveryTag();
        }
        return tags;
    }

    static void settling() {
        CASES.put("basic.ack/multiple", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicAck(takeFour(channel, queue)[2], true);
            channel.close();
            Check.equal(List.of("3", "4"), World.drain(world.channel(), queue));
        });
        CASES.put("basic.ack/multiple-zero", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicAck(0, true);
            takeFour(channel, queue);
            channel.basicAck(0, true);
            channel.close();
            Check.equal(List.of("4"), World.drain(world.channel(), queue));
        });
        CASES.put("basic.ack/unknown-tag", world -> world.refused(world.connect(), 406,
            "PRECONDITION_FAILED - unknown delivery tag 7", channel -> channel.basicAck(7, false)));
        CASES.put("basic.nack/requeue-order", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            long[] tags = takeFour(channel, queue);
            for (int index : new int[] {2, 0, 3, 1}) {
                channel.basicNack(tags[index], false, true);
            }
            GetResponse first = channel.basicGet(queue, true);
            Check.that(first.getEnvelope().isRedeliver(), "not marked redelivered");
            Check.equal("0", new String(first.getBody()));
            Check.equal(World.numbered(1, 5), World.drain(channel, queue));
        });
        CASES.put("basic.nack/drop", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicNack(takeFour(channel, queue)[3], true, false);
            Check.equal(List.of("4"), World.drain(channel, queue));
        });
        CASES.put("basic.reject/requeue", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            channel.basicReject(takeFour(channel, queue)[1], true);
            Check.equal(List.of("1", "4"), World.drain(channel, queue));
        });
        CASES.put("basic.recover/requeue", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel);
            takeFour(channel, queue);
            channel.basicRecover(true);
            Check.equal(World.numbered(0, 5), World.drain(channel, queue));
        });
        CASES.put("basic.recover/no-requeue", world -> {
            Channel channel = world.channel();
            Check.closed(channel.getConnection(), channel, open -> open.basicRecover(false), 540, "NOT_IMPLEMENTED - requeue=false");
        });
        CASES.put("tx/commit", world -> {
            Channel channel = world.connect().createChannel();
            String queue = world.queue(channel);
            channel.txSelect();
            channel.basicPublish("", queue, null, "one".getBytes());
            Check.equal(0L, channel.messageCount(queue));
            channel.txCommit();
            Check.equal(List.of("one"), World.drain(channel, queue));
        });
        CASES.put("tx/rollback", world -> {
            Channel channel = world.connect().createChannel();
            String queue = world.queue(channel);
            channel.txSelect();
            channel.basicPublish("", queue, null, "never".getBytes());
            channel.txRollback();
            channel.txCommit();
            Check.equal(0L, channel.messageCount(queue));
        });
        CASES.put("tx/acks", world -> {
            Connection connection = world.connect();
            String queue = world.queue(connection.createChannel());
            World.fill(world.channel(), queue, 3);
            Channel channel = connection.createChannel();
            channel.txSelect();
            Inbox inbox = new Inbox(channel, queue);
            inbox.take(3);
            channel.basicAck(inbox.tag(0), false);
            channel.txCommit();
            channel.basicAck(inbox.tag(1), false);
            channel.txRollback();
            channel.close();
            Check.equal(List.of("1", "2"), World.drain(world.channel(), queue));
        });
        CASES.put("tx/not-selected", world -> world.refused(world.connect(), 406,
            "PRECONDITION_FAILED - channel is not transactional", Channel::txCommit));
        CASES.put("tx/confirm-channel", world -> world.refused(world.connect(), 406,
            "PRECONDITION_FAILED - cannot switch from confirm to tx mode", Channel::txSelect));
    }

    static void connections() {
        CASES.put("connection.open/capabilities", world -> {
            Map<String, Object> properties = world.connect().getServerProperties();
            Map<?, ?> capabilities = (Map<?, ?>) properties.get("capabilities");
            for (String name : List.of("publisher_confirms", "exchange_exchange_bindings", "basic.nack",
                    "consumer_cancel_notify", "connection.blocked", "consumer_priorities",
                    "authentication_failure_close", "per_consumer_qos", "direct_reply_to")) {
                Check.equal(true, capabilities.get(name));
            }
            Check.equal("RabbitMQ", properties.get("product").toString());
        });
        CASES.put("connection.open/vhost-not-found", world -> {
            ConnectionFactory factory = world.factory();
            factory.setVirtualHost("nowhere");
            try {
                world.connect(factory);
                throw new AssertionError("opened a vhost that is not there");
            } catch (IOException refused) {
                AMQP.Connection.Close close =
                    (AMQP.Connection.Close) ((ShutdownSignalException) refused.getCause()).getReason();
                Check.equal(530, close.getReplyCode());
                Check.equal("NOT_ALLOWED - vhost nowhere not found", close.getReplyText());
            }
        });
        CASES.put("connection.open/bad-password", world -> {
            ConnectionFactory factory = world.factory();
            factory.setPassword("wrong");
            try {
                world.connect(factory);
                throw new AssertionError("a wrong password was let in");
            } catch (AuthenticationFailureException refused) {
                Check.equal("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
                    + "For details see the broker logfile.", refused.getMessage());
            }
        });
        CASES.put("connection.close/unacked-to-others", world -> {
            Channel holder = world.connect().createChannel();
            String queue = world.queue(holder);
            World.fill(world.channel(), queue, 3);
            Inbox held = new Inbox(holder, queue);
            held.take(3);
            holder.basicAck(held.tag(0), false);
            Inbox other = new Inbox(world.channel(), queue);
            holder.getConnection().close();
            Check.equal(List.of("1", "2"), other.take(2));
            Check.that(other.taken.get(0).getEnvelope().isRedeliver(), "not marked redelivered");
        });
        CASES.put("connection.close/exclusive-queue-gone", world -> {
            Connection owner = world.connect();
            String name = world.name("exclusive");
            owner.createChannel().queueDeclare(name, false, true, false, null);
            owner.close();
            world.refused(world.connect(), 404, "NOT_FOUND - no queue '" + name + IN_VHOST,
                channel -> channel.queueDeclarePassive(name));
        });
        CASES.put("connection.blocked/low-memory", Driver::blocked);
        CASES.put("heartbeat/negotiated", world -> {
            // The client takes the lower of both, and zero for the server's.
            for (int asked : new int[] {120, 1, 0}) {
                ConnectionFactory factory = world.factory();
                factory.setRequestedHeartbeat(asked);
                Connection connection = world.connect(factory);
                Check.equal(asked == 1 ? 1 : 60, connection.getHeartbeat());
                world.stillUsable(connection);
            }
        });
        CASES.put("heartbeat/idle-survives", world -> {
            ConnectionFactory factory = world.factory();
            factory.setRequestedHeartbeat(2);
            Connection connection = world.connect(factory);
            CountDownLatch closed = new CountDownLatch(1);
            connection.addShutdownListener(signal -> closed.countDown());
            Check.that(!closed.await(6, TimeUnit.SECONDS), "closed while idle: " + connection.getCloseReason());
            world.stillUsable(connection);
        });
        CASES.put("channel.open/many", world -> {
            Connection connection = world.connect();
            for (int number = 0; number < 100; number++) {
                Channel channel = world.channel(connection);
                String queue = channel.queueDeclare().getQueue();
                World.put(channel, queue, queue);
                Check.equal(List.of(queue), World.drain(channel, queue));
            }
        });
        CASES.put("channel.open/number-reused", world -> {
            Connection connection = world.connect();
            for (int number = 0; number < 50; number++) {
                Channel channel = connection.createChannel(7);
                channel.queueDeclare();
                channel.close();
            }
        });
        CASES.put("channel.close/unacked-requeued", world -> {
            Connection connection = world.connect();
            Channel channel = world.channel(connection);
            String queue = world.queue(channel);
            takeFour(channel, queue);
            channel.close();
            Check.equal(World.numbered(0, 5), World.drain(world.channel(connection), queue));
        });
    }

    static void blocked(World world) throws Exception {
        Channel channel = world.channel();
        String queue = world.queue(channel);
        CompletableFuture<String> blocked = new CompletableFuture<>();
        CountDownLatch unblocked = new CountDownLatch(1);
        channel.getConnection().addBlockedListener(new BlockedListener() {
            @Override
            public void handleBlocked(String reason) {
                blocked.complete(reason);
            }

            @Override
            public void handleUnblocked() {
                unblocked.countDown();
            }
        });
        World.fill(channel, queue, 100);
        shell(System.getenv("CONFORMANCE_PRESS"));
        // A spike of at most 256 MiB, on a thread of its own since its socket will not be read for a while.
        Thread spike = new Thread(() -> {
            try {
                for (int number = 0; number < 4096 && !blocked.isDone(); number++) {
                    channel.basicPublish("", queue, null, new byte[64 * 1024]);
                }
            } catch (IOException problem) {
                blocked.completeExceptionally(problem);
            }
        });
        spike.start();
        Check.equal("low on memory", blocked.get(60, TimeUnit.SECONDS));
        Check.equal(1L, unblocked.getCount());
        shell(System.getenv("CONFORMANCE_RELIEVE"));
        world.channel().queuePurge(queue);
        Check.that(unblocked.await(60, TimeUnit.SECONDS), "no connection.unblocked");
        spike.join(Check.DEADLINE_SECONDS * 1000L);
        channel.waitForConfirmsOrDie(Check.DEADLINE_SECONDS * 1000);
    }

    /** What the runner gave to put its broker under pressure; nothing when a spike is enough. */
    static void shell(String command) throws Exception {
        if (!command.isEmpty()) {
            Check.equal(0, new ProcessBuilder("sh", "-c", command).inheritIO().start().waitFor());
        }
    }

    static Delivery through(World world, Connection connection, AMQP.BasicProperties properties, byte[] body) throws Exception {
        Channel channel = world.channel(connection);
        String queue = world.queue(channel);
        channel.basicPublish("", queue, properties, body);
        return new Inbox(channel, queue).take();
    }

    static byte[] random(int size) {
        byte[] body = new byte[size];
        new Random(size).nextBytes(body);
        return body;
    }

    static void content() {
        CASES.put("body/empty", world -> Check.equal(0, through(world, world.connect(), null, new byte[0]).getBody().length));
        CASES.put("body/16MiB", world -> {
            byte[] body = random(16 * 1024 * 1024);
            Check.that(Arrays.equals(body, through(world, world.connect(), null, body).getBody()), "came back changed");
        });
        CASES.put("body/frame-edges", world -> {
            for (int frameMax : new int[] {4096, 131072}) {
                ConnectionFactory factory = world.factory();
                factory.setRequestedFrameMax(frameMax);
                Connection connection = world.connect(factory);
                int payload = frameMax - 8;
                for (int size : new int[] {payload - 1, payload, payload + 1, 2 * payload, 2 * payload + 1}) {
                    byte[] body = random(size);
                    Check.that(Arrays.equals(body, through(world, connection, null, body).getBody()),
                        size + " bytes in frames of " + frameMax);
                }
            }
        });
        CASES.put("properties/all", world -> {
            AMQP.BasicProperties sent = new AMQP.BasicProperties("application/json", "gzip", Map.of("one", 1), 2, 9,
                "correlation ü", "reply", "60000", "message", new Date(1_700_000_000_000L), "type", "guest", "app", "cluster");
            Check.equal(sent.toString(), through(world, world.connect(), sent, new byte[0]).getProperties().toString());
        });
        CASES.put("properties/none", world -> {
            AMQP.BasicProperties none = new AMQP.BasicProperties.Builder().build();
            Check.equal(none.toString(), through(world, world.connect(), none, new byte[0]).getProperties().toString());
        });
        CASES.put("headers/every-type", world -> {
            Map<String, Object> sent = new LinkedHashMap<>();
            sent.put("bool", true);
            sent.put("byte", (byte) -7);
            sent.put("short", (short) -3000);
            sent.put("int", -70_000);
            sent.put("long", Long.MIN_VALUE);
            sent.put("float", 0.5f);
            sent.put("double", -1.5e300);
            sent.put("decimal", new BigDecimal("3.14"));
            sent.put("text", "grün ✓");
            sent.put("bytes", new byte[] {0, -1});
            sent.put("timestamp", new Date(1_700_000_000_000L));
            sent.put("void", null);
            sent.put("array", List.of(1, "two", List.of(true)));
            sent.put("table", Map.of("nested", Map.of("deeper", Map.of())));
            AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder().headers(sent).build();
            Map<String, Object> received = through(world, world.connect(), properties, new byte[0]).getProperties().getHeaders();
            Check.equal(sent.keySet(), received.keySet());
            for (String key : sent.keySet()) {
                Check.equal(comparable(sent.get(key)), comparable(received.get(key)));
                if (sent.get(key) instanceof Number) {
                    Check.equal(sent.get(key).getClass(), received.get(key).getClass());
                }
            }
        });
        CASES.put("rpc/direct-reply-to", world -> {
            Channel server = world.channel();
            String requests = world.queue(server);
            RpcServer answering = new RpcServer(server, requests) {
                @Override
                public byte[] handleCall(byte[] request, AMQP.BasicProperties reply) {
                    return ("answer to " + new String(request)).getBytes();
                }
            };
            Thread loop = new Thread(() -> {
                try {
                    answering.mainloop();
                } catch (IOException | ShutdownSignalException end) {
                    // The connection is closed at the end of the case.
                }
            });
            loop.setDaemon(true);
            loop.start();
            // The client asks through amq.rabbitmq.reply-to unless told otherwise.
            RpcClient client = new RpcClient(world.channel(), "", requests, Check.DEADLINE_SECONDS * 1000);
            for (String question : List.of("one", "two")) {
                Check.equal("answer to " + question, client.stringCall(question));
            }
        });
        CASES.put("story/checkout", Driver::checkout);
        CASES.put("story/quorum-retry", QuorumRetry::run);
    }

    /** Strings as strings, tables and arrays as comparable ones. */
    static Object comparable(Object value) {
        if (value instanceof LongString) {
            return value.toString();
        }
        if (value instanceof byte[]) {
            return Arrays.toString((byte[]) value);
        }
        if (value instanceof List) {
            return ((List<?>) value).stream().map(Driver::comparable).collect(Collectors.toList());
        }
        return value;
    }

    /** One order fans out to mail, analytics and warehouse; a dead analytics slows nobody. */
    static void checkout(World world) throws Exception {
        Channel shop = world.channel();
        String exchange = world.exchange(shop, "topic");
        String mail = world.boundQueue(shop, exchange, "order.#");
        String analytics = world.boundQueue(shop, exchange, "order.#");
        String warehouse = world.boundQueue(shop, exchange, "order.#");
        // Analytics hangs with its first order, until its connection is cut.
        Channel hanging = world.connect().createChannel();
        CountDownLatch cut = new CountDownLatch(1);
        CountDownLatch hangs = new CountDownLatch(1);
        hanging.basicConsume(analytics, false, new DefaultConsumer(hanging) {
            @Override
            public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties properties, byte[] body) {
                hangs.countDown();
                try {
                    cut.await();
                } catch (InterruptedException end) {
                    Thread.currentThread().interrupt();
                }
            }
        });
        List<Inbox> services = List.of(new Inbox(world.channel(), mail, true, false, null),
            new Inbox(world.channel(), warehouse, true, false, null));
        for (String order : World.numbered(0, 1000)) {
            shop.basicPublish(exchange, "order.placed", null, order.getBytes());
        }
        shop.waitForConfirmsOrDie(Check.DEADLINE_SECONDS * 1000);
        for (Inbox service : services) {
            Check.equal(World.numbered(0, 1000), service.take(1000));
        }
        Check.that(hangs.await(Check.DEADLINE_SECONDS, TimeUnit.SECONDS), "analytics never got an order");
        cut.countDown();
        hanging.getConnection().abort();
        Check.equal(World.numbered(0, 1000), new Inbox(world.channel(), analytics, true, false, null).take(1000));
    }

    public static void main(String[] arguments) {
        topology();
        routing();
        publishing();
        consuming();
        settling();
        connections();
        content();
        Rules.addTo(CASES);
        Refusals.addTo(CASES);
        Tls.addTo(CASES);
        if (arguments[0].equals("cases")) {
            for (String name : CASES.keySet()) {
                System.out.println("case " + name + (NEEDS.containsKey(name) ? " needs " + NEEDS.get(name) : ""));
            }
            WITHOUT.forEach((pattern, reason) -> System.out.println("without " + pattern + " " + reason));
            return;
        }
        try {
            World world = new World(arguments[2]);
            CASES.get(arguments[1]).run(world);
            world.end();
            System.exit(0);
        } catch (Throwable problem) {
            problem.printStackTrace();
            System.err.println(problem.toString().replaceAll("\\s+", " "));
            System.exit(1);
        }
    }
}
