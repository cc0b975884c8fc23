import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConfirmListener;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.ShutdownSignalException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;

/** Queues with rules: what expires, what is too much, what nobody wants, and who comes first. */
final class Rules {
    static void addTo(Map<String, Case> cases) {
        cases.put("queue.rules/rejected-dead-letter", Rules::rejected);
        cases.put("queue.rules/message-ttl", world -> {
            Channel channel = world.channel();
            String dead = world.queue(channel);
            String queue = world.queue(channel, false, deadLettersTo(dead, Map.of("x-message-ttl", 100)));
            World.put(channel, queue, "too late");
            Delivery letter = new Inbox(channel, dead).take();
            Check.equal("too late", new String(letter.getBody()));
            Check.equal(List.of(queue + " expired 1"), story(letter.getProperties()));
            Check.equal(0L, channel.messageCount(queue));
        });
        cases.put("queue.rules/message-ttl-zero", world -> {
            Channel channel = world.channel();
            String dead = world.queue(channel);
            String queue = world.queue(channel, false, deadLettersTo(dead, Map.of("x-message-ttl", 0)));
            World.put(channel, queue, "nobody waits");
            Check.equal(List.of("nobody waits"), new Inbox(channel, dead).take(1));
            Inbox waiting = new Inbox(channel, queue);
            World.put(channel, queue, "somebody waits");
            Check.equal(List.of("somebody waits"), waiting.take(1));
        });
        cases.put("queue.rules/expiration", world -> {
            Channel channel = world.channel();
            String dead = world.queue(channel);
            String queue = world.queue(channel, false, deadLettersTo(dead, Map.of("x-message-ttl", 600_000)));
            World.publish(channel, "", queue, new AMQP.BasicProperties.Builder().expiration("50").build(), "short");
            AMQP.BasicProperties properties = new Inbox(channel, dead).take().getProperties();
            Check.equal(null, properties.getExpiration());
            Check.equal("50", String.valueOf(deaths(properties).get(0).get("original-expiration")));
        });
        cases.put("queue.rules/expires", Rules::expires);
        cases.put("queue.rules/max-length", world -> {
            Channel channel = world.channel();
            String dead = world.queue(channel);
            String queue = world.queue(channel, false, deadLettersTo(dead, Map.of("x-max-length", 3)));
            World.fill(channel, queue, 10);
            Inbox letters = new Inbox(channel, dead);
            Check.equal(World.numbered(0, 7), letters.take(7));
            Check.equal(List.of(queue + " maxlen 1"), story(letters.taken.get(0).getProperties()));
            Check.equal(World.numbered(7, 10), World.drain(channel, queue));
        });
        cases.put("queue.rules/max-length-bytes", world -> {
            Channel channel = world.channel();
            String dead = world.queue(channel);
            String queue = world.queue(channel, false, deadLettersTo(dead, Map.of("x-max-length-bytes", 100)));
            List<String> bodies = List.of("a".repeat(60), "b".repeat(30), "c".repeat(10), "d", "e".repeat(101));
            for (String body : bodies) {
                World.put(channel, queue, body);
            }
            Check.equal(bodies, new Inbox(channel, dead).take(5));
        });
        cases.put("queue.rules/max-length-ready", world -> {
            Channel channel = world.channel();
            String dead = world.queue(channel);
            String queue = world.queue(channel, false, deadLettersTo(dead, Map.of("x-max-length", 2)));
            World.fill(channel, queue, 2);
            channel.basicGet(queue, false);
            long held = channel.basicGet(queue, false).getEnvelope().getDeliveryTag();
            World.put(channel, queue, "2");
            World.put(channel, queue, "3");
            Check.equal(List.of(2L, 0L), List.of(channel.messageCount(queue), channel.messageCount(dead)));
            channel.basicNack(held, true, true);
            Check.equal(List.of("0", "1"), new Inbox(channel, dead).take(2));
            Check.equal(List.of("2", "3"), World.drain(channel, queue));
        });
        cases.put("queue.rules/reject-publish", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel, false, Map.of("x-max-length", 2, "x-overflow", "reject-publish"));
            List<Boolean> acked = new ArrayList<>();
            for (String body : World.numbered(0, 4)) {
                acked.add(acked(channel, "", queue, body));
            }
            Check.equal(List.of(true, true, false, false), acked);
            channel.basicGet(queue, true);
            Check.equal(true, acked(channel, "", queue, "4"));
            Check.equal(List.of("1", "4"), World.drain(channel, queue));
        });
        cases.put("queue.rules/reject-publish-dlx", world -> {
            Channel channel = world.channel();
            String dead = world.queue(channel);
            String queue = world.queue(channel, false,
                deadLettersTo(dead, Map.of("x-max-length", 1, "x-overflow", "reject-publish-dlx")));
            Check.equal(true, acked(channel, "", queue, "0"));
            Check.equal(false, acked(channel, "", queue, "1"));
            Delivery letter = new Inbox(channel, dead).take();
            Check.equal("1", new String(letter.getBody()));
            Check.equal(List.of(queue + " maxlen 1"), story(letter.getProperties()));
            Check.equal(List.of("0"), World.drain(channel, queue));
        });
        cases.put("queue.rules/reject-publish-fan-out", world -> {
            Channel channel = world.channel();
            String exchange = world.exchange(channel, "fanout");
            String full = world.queue(channel, false, Map.of("x-max-length", 1, "x-overflow", "reject-publish"));
            channel.queueBind(full, exchange, "");
            String other = world.boundQueue(channel, exchange, "");
            Check.equal(true, acked(channel, exchange, "", "0"));
            Check.equal(false, acked(channel, exchange, "", "1"));
            Check.equal(List.of("0"), World.drain(channel, full));
            Check.equal(List.of("0", "1"), new Inbox(channel, other).take(2));
        });
        cases.put("queue.rules/priorities", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel, true, Map.of("x-max-priority", 5));
            int[] priorities = {0, 3, 0, 9, 1, 5, 3};
            for (int number = 0; number < priorities.length; number++) {
                World.publish(channel, "", queue, new AMQP.BasicProperties.Builder().priority(priorities[number]).build(), "" + number);
            }
            Check.equal(List.of("3", "5", "1", "6", "4", "0", "2"), World.drain(channel, queue));
        });
        cases.put("queue.rules/single-active-consumer", Rules::singleActive);
        cases.put("queue.rules/delivery-limit", Rules::deliveryLimit);
        cases.put("queue.rules/consumer-timeout", Rules::consumerTimeout);
    }

    static Map<String, Object> deadLettersTo(String queue, Map<String, Object> more) {
        Map<String, Object> arguments = new HashMap<>(more);
        arguments.put("x-dead-letter-exchange", "");
        arguments.put("x-dead-letter-routing-key", queue);
        return arguments;
    }

    @SuppressWarnings("unchecked")
    static List<Map<String, Object>> deaths(AMQP.BasicProperties properties) {
        return (List<Map<String, Object>>) properties.getHeaders().get("x-death");
    }

    /** Queue, reason and count of each death, the newest first. */
    static List<String> story(AMQP.BasicProperties properties) {
        List<String> story = new ArrayList<>();
        for (Map<String, Object> death : deaths(properties)) {
            story.add(death.get("queue") + " " + death.get("reason") + " " + death.get("count"));
        }
        return story;
    }

    /** How often it was delivered before; nothing is said of it the first time. */
    static long deliveryCount(AMQP.BasicProperties properties) {
        Map<String, Object> headers = properties.getHeaders() == null ? Map.of() : properties.getHeaders();
        return (Long) headers.getOrDefault("x-delivery-count", 0L);
    }

    static boolean acked(Channel channel, String exchange, String key, String body) throws Exception {
        // waitForConfirms may return between the two halves of a nack.
        CompletableFuture<Boolean> told = new CompletableFuture<>();
        ConfirmListener listener =
            channel.addConfirmListener((tag, multiple) -> told.complete(true), (tag, multiple) -> told.complete(false));
        channel.basicPublish(exchange, key, null, body.getBytes());
        boolean acked = told.get(Check.DEADLINE_SECONDS, TimeUnit.SECONDS);
        channel.removeConfirmListener(listener);
        return acked;
    }

    private static void rejected(World world) throws Exception {
        Channel channel = world.channel();
        String dead = world.queue(channel);
        String queue = world.queue(channel, false, deadLettersTo(dead, Map.of()));
        World.publish(channel, "", queue,
            new AMQP.BasicProperties.Builder().headers(Map.of("mine", 1)).messageId("7").build(), "unwanted");
        channel.basicReject(channel.basicGet(queue, false).getEnvelope().getDeliveryTag(), false);
        Delivery letter = new Inbox(channel, dead).take();
        AMQP.BasicProperties properties = letter.getProperties();
        Check.equal("unwanted", new String(letter.getBody()));
        Check.equal(List.of("", dead), List.of(letter.getEnvelope().getExchange(), letter.getEnvelope().getRoutingKey()));
        Check.equal(List.of(1, "7"), List.of(properties.getHeaders().get("mine"), properties.getMessageId()));
        Check.equal(List.of(queue + " rejected 1"), story(properties));
        Map<String, Object> death = deaths(properties).get(0);
        Check.equal("[" + queue + "]", death.get("routing-keys").toString());
        Check.equal("", death.get("exchange").toString());
        Check.that(death.get("time") instanceof java.util.Date && death.get("count") instanceof Long, death.toString());
        Check.equal(queue, properties.getHeaders().get("x-first-death-queue").toString());
        Check.equal("rejected", properties.getHeaders().get("x-first-death-reason").toString());
    }

    private static void expires(World world) throws Exception {
        Channel channel = world.channel();
        String queue = world.queue(channel, false, Map.of("x-expires", 200));
        // Anything else that asks for it would be use.
        AtomicBoolean isGone = new AtomicBoolean();
        channel.addReturnListener((code, text, exchange, key, properties, body) -> isGone.set(true));
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(Check.DEADLINE_SECONDS);
        while (!isGone.get()) {
            Check.that(System.nanoTime() < deadline, "the queue is still there");
            channel.basicPublish("", queue, true, null, new byte[0]);
            channel.waitForConfirmsOrDie(Check.DEADLINE_SECONDS * 1000);
        }
    }

    private static void singleActive(World world) throws Exception {
        Channel channel = world.channel();
        String queue = world.queue(channel, false, Map.of("x-single-active-consumer", true));
        Channel active = world.channel();
        Inbox first = new Inbox(active, queue, true, false, null);
        Inbox second = new Inbox(world.channel(), queue, true, false, null);
        World.put(channel, queue, "a");
        World.put(channel, queue, "b");
        Check.equal(List.of("a", "b"), first.take(2));
        active.close();
        World.put(channel, queue, "c");
        Check.equal(List.of("c"), second.take(1));
        Check.equal(0, first.arrived.size());
    }

    private static void deliveryLimit(World world) throws Exception {
        Channel channel = world.channel();
        String dead = world.queue(channel);
        String queue = world.queue(channel, true,
            deadLettersTo(dead, Map.of("x-queue-type", "quorum", "x-delivery-limit", 2)));
        World.put(channel, queue, "poison");
        Inbox worker = new Inbox(channel, queue);
        for (long count = 0; count <= 2; count++) {
            Delivery poison = worker.take();
            Check.equal(count, deliveryCount(poison.getProperties()));
            channel.basicNack(poison.getEnvelope().getDeliveryTag(), false, true);
        }
        Delivery letter = new Inbox(channel, dead).take();
        Check.equal("poison", new String(letter.getBody()));
        Check.equal(List.of(queue + " delivery_limit 1"), story(letter.getProperties()));
    }

    private static void consumerTimeout(World world) throws Exception {
        Channel channel = world.channel();
        String queue = world.queue(channel, true, Map.of("x-consumer-timeout", 1000));
        World.put(channel, queue, "held too long");
        Channel holder = world.channel();
        Check.closed(holder, holder, open -> new Inbox(open, queue).take(), 406,
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms. This "
            + "timeout value can be configured, see consumers doc guide to learn more");
        world.stillUsable(holder.getConnection());
        GetResponse again = channel.basicGet(queue, true);
        Check.equal("held too long", new String(again.getBody()));
        Check.that(again.getEnvelope().isRedeliver(), "not marked redelivered");
    }
}
